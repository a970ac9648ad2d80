"""Our own sinks keep the contract that docs/sinks.md asks of yours, and the checks catch those that do not."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import pytest
from contract_support import frames_of_folders, points_of, read_sessions
from telemetry.sinks.http import HttpSink
from telemetry.sinks.local_zip import LocalZipSink
from telemetry.sinks.stdout import StdoutSink

from telemetry import protocols
from telemetry.client import AsyncClient
from telemetry.errors import SinkUnavailable
from telemetry.protocols import (
    BlobClient,
    Cloneable,
    Collector,
    Forkable,
    ForwardsFrames,
    HasSessionFolder,
    HasUrl,
    KeepsSessions,
    Paced,
    Sink,
    StoresBlobs,
    Syncable,
    TellsHeld,
    TellsLoss,
)
from telemetry.sessions.sources import open_session
from telemetry.testing import FlakySink, MemorySink
from telemetry.testing.contract import (
    ABILITY_CHECKS,
    ContractBroken,
    Point,
    check_attributes,
    check_cloning,
    check_closing,
    check_delivery,
    check_many_frames,
    check_sink,
    check_two_writers,
)
from telemetry.wire import Frame


class Shared(MemorySink):
    """A MemorySink whose far side outlives it, by folder."""

    stores: ClassVar[dict[Path, list[Frame]]] = {}

    def __init__(self, folder: Path) -> None:
        super().__init__("shared")
        self.folder = folder
        self.frames = self.stores.setdefault(folder, [])

    @classmethod
    def read_back(cls, folder: Path) -> Iterator[Point]:
        return points_of(cls.stores.get(folder, []))


def test_memory_sink_keeps_the_contract(tmp_path: Path) -> None:
    asyncio.run(check_sink(Shared, Shared.read_back, folder=tmp_path))


def test_session_folders_keep_the_contract(tmp_path: Path) -> None:
    asyncio.run(check_sink(lambda folder: LocalZipSink(folder, None), read_sessions, folder=tmp_path))


def read_zips(folder: Path) -> Iterator[Point]:
    """Of the folder while it is written, and of the zips that it becomes."""
    items = [item for path in sorted(folder.glob("*.zip")) for item in open_session(path).read()]
    return points_of([*frames_of_folders(folder), *(item for item in items if isinstance(item, Frame))])


def test_session_zips_keep_the_contract(tmp_path: Path) -> None:
    asyncio.run(check_sink(lambda folder: LocalZipSink(folder, folder / "run.zip"), read_zips, folder=tmp_path))


def test_standard_output_delivers_and_is_cloned(tmp_path: Path) -> None:
    """It is no store: what a dead process has printed is printed again by the next."""

    printed: dict[Path, StringIO] = {}

    def make(folder: Path) -> StdoutSink:
        return StdoutSink("json", printed.setdefault(folder, StringIO()))

    def read_back(folder: Path) -> Iterator[Point]:
        for item in map(json.loads, printed[folder].getvalue().splitlines()):
            if item["type"] == "scalar":
                yield item["title"], item["series"], item["iteration"], float(item["value"])

    for check in (check_attributes, check_delivery, check_two_writers, check_many_frames, check_closing, check_cloning):
        asyncio.run(check(make, read_back, tmp_path / check.__name__))


def test_the_http_sink_with_its_server_keeps_the_contract(tmp_path: Path) -> None:
    """What counts as there is what the server has acknowledged; its own tests say what it then does with it."""
    pytest.importorskip("sqlalchemy")
    from telemetry.server.app import BackgroundServer
    from telemetry.server.config import ServerConfig

    with BackgroundServer(ServerConfig(tmp_path / "server", port=0)) as server:
        sent: dict[Path, list[Frame]] = {}

        class Noting(HttpSink):
            """Notes which frames the server has acknowledged."""

            def __init__(self, folder: Path) -> None:
                super().__init__(server.url)
                self.folder = folder

            def clone(self) -> Noting:
                return Noting(self.folder)

            async def send(self, frames: Sequence[Frame]) -> dict[tuple[bytes, int], str]:
                refused = await super().send(frames)
                taken = [frame for frame in frames if (frame.writer_id, frame.sequence) not in refused]
                sent.setdefault(self.folder, []).extend(taken)
                return refused

        asyncio.run(check_sink(Noting, lambda folder: points_of(sent.get(folder, [])), folder=tmp_path / "checks"))


class Forgetful(Shared):
    async def write(self, frames: Sequence[Frame]) -> None:
        await super().write(frames[:-1])


class Doubling(Shared):
    @classmethod
    def read_back(cls, folder: Path) -> Iterator[Point]:
        for frame in cls.stores.get(folder, []):
            yield from points_of([frame])


class Overwriting(Shared):
    async def open(self, task: Any) -> None:
        self.frames.clear()


class Rounding(Shared):
    @classmethod
    def read_back(cls, folder: Path) -> Iterator[Point]:
        for title, series, iteration, value in super().read_back(folder):
            yield title, series, iteration, round(value, 9) if math.isfinite(value) else value


class Nameless(Shared):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.name = ""


class BadCloser(Shared):
    async def open(self, task: Any) -> None:
        self.opened = True

    async def close(self) -> None:
        del self.opened


class Failing(Shared):
    async def write(self, frames: Sequence[Frame]) -> None:
        if len(frames) == 1 and frames[0].sequence == 2:
            raise SinkUnavailable("always at the third frame")
        await super().write(frames)


class Renamed(Shared):
    def clone(self) -> Sink:
        return MemorySink("another")


class SharesItself(Shared):
    def clone(self) -> Sink:
        return self


class Unsynced(Shared):
    """Keeps what is written to itself until it is closed."""

    async def write(self, frames: Sequence[Frame]) -> None:
        self.kept = [*getattr(self, "kept", []), *frames]

    async def sync(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        self.frames.extend(getattr(self, "kept", []))


class Addressless(Shared):
    url = ""


class Homeless(Shared):
    @property
    def session_folder(self) -> Path:
        return self.folder / "not there"


class Misplacing(Shared):
    zips = False

    def places(self, task_id: str) -> list[Path]:
        return [self.folder / task_id]


class Placeless(Misplacing):
    def places(self, task_id: str) -> list[Path]:
        return []


class Unzipped(LocalZipSink):
    """Says that it keeps a folder, and zips it."""

    zips = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder / "run.zip")

    read_back = staticmethod(read_zips)


class _Sender:
    async def send_blob(self, task_id: str, sha256: str, file: Any, size_bytes: int, on_progress: Any = None) -> int:
        return size_bytes


class SendsAgain(Shared):
    def blob_client(self) -> _Sender:
        return _Sender()


class Overstating(Shared):
    held: ClassVar[list[tuple[int, int]]] = [(0, 2)]


class Alarming(Shared):
    on_lost: Callable[[int], None]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.on_lost = lambda events: None

    async def write(self, frames: Sequence[Frame]) -> None:
        await super().write(frames)
        self.on_lost(1)


class Unforwarding(Shared):
    url, store_id = "shared:", None

    def blob_client(self) -> Any:
        return AsyncClient("http://127.0.0.1:9")

    def clone(self) -> Unforwarding:
        return Unforwarding(self.folder)

    async def connect(self) -> None:
        """Nothing to connect."""

    async def send(self, frames: Sequence[Frame]) -> dict[tuple[bytes, int], str]:
        return {(frames[0].writer_id, frames[0].sequence): "not mine"}


@pytest.mark.parametrize(
    ("sink", "broken"),
    [
        (Renamed, "check_cloning"),
        (SharesItself, "check_cloning"),
        (Unsynced, "check_syncing"),
        (Addressless, "check_url"),
        (Homeless, "check_session_folder"),
        (Misplacing, "check_places"),
        (Placeless, "check_places"),
        (Unzipped, "check_places"),
        (SendsAgain, "check_blobs"),
        (Overstating, "check_held"),
        (Alarming, "check_loss"),
        (Unforwarding, "check_forwarding"),
    ],
)
def test_an_ability_that_is_not_what_it_says_is_told(sink: Any, broken: str, tmp_path: Path) -> None:
    (check,) = [check for check in ABILITY_CHECKS.values() if check.__name__ == broken]
    with pytest.raises(ContractBroken):
        asyncio.run(check(sink, sink.read_back, tmp_path))


def test_what_each_of_our_sinks_can_do() -> None:
    sinks = {"http": HttpSink("http://127.0.0.1:9"), "zip": LocalZipSink(Path("x"), None), "stdout": StdoutSink()}
    able = {name: {ability for ability in ABILITY_CHECKS if isinstance(sink, ability)} for name, sink in sinks.items()}
    assert able == {
        "http": {Cloneable, HasUrl, StoresBlobs, Paced, TellsHeld, ForwardsFrames},
        "zip": {Cloneable, Syncable, HasSessionFolder, KeepsSessions, TellsLoss},
        "stdout": {Cloneable},
    }


def test_each_ability_of_a_sink_has_its_check() -> None:
    seams = [getattr(protocols, name) for name in protocols.__all__]
    askable = {seam for seam in seams if getattr(seam, "_is_runtime_protocol", False)}
    assert set(ABILITY_CHECKS) == askable - {Sink, Collector, Forkable, BlobClient}


@pytest.mark.parametrize(
    ("sink", "broken"),
    [
        (Forgetful, "check_delivery"),
        (Rounding, "check_delivery"),
        (Doubling, "check_repetition"),
        (Overwriting, "check_two_writers"),
        (Nameless, "check_attributes"),
        (BadCloser, "check_closing"),
    ],
)
def test_a_sink_that_breaks_the_contract_is_told_which_part(sink: type[Shared], broken: str, tmp_path: Path) -> None:
    with pytest.raises(ContractBroken, match=f"^{broken}: "):
        asyncio.run(check_sink(sink, sink.read_back, folder=tmp_path))


def test_what_is_no_sink_at_all_is_said(tmp_path: Path) -> None:
    make: Callable[[Path], Sink] = lambda folder: object()  # type: ignore[assignment,return-value]  # noqa: E731
    with pytest.raises(ContractBroken, match="has not all of name, spool, open, write and close"):
        asyncio.run(check_sink(make, Shared.read_back, folder=tmp_path))


def test_flaky_sink_is_a_sink() -> None:
    assert isinstance(FlakySink(), Sink)
