"""Our own sinks keep the contract that docs/sinks.md asks of yours, and the checks catch those that do not."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from telemetry.sinks.local_zip import LocalZipSink

from telemetry.errors import SinkUnavailable
from telemetry.journal import read_segments
from telemetry.protocols import Sink
from telemetry.testing import FlakySink, MemorySink
from telemetry.testing_contract import ContractBroken, Point, check_sink
from telemetry.wire import Frame, decode


def points_of(frames: Sequence[Frame]) -> Iterator[Point]:
    """The points of frames of which some may have come twice."""
    unique = {(frame.writer_id, frame.sequence): frame for frame in frames}
    for frame in unique.values():
        columns = decode(frame).columns
        for index, iteration, value in zip(columns.series_index, columns.iterations, columns.values, strict=True):
            yield columns.series[index].title, columns.series[index].series, iteration, value


class Shared(MemorySink):
    """A MemorySink whose far side outlives it, by folder."""

    stores: ClassVar[dict[Path, list[Frame]]] = {}

    def __init__(self, folder: Path) -> None:
        super().__init__("shared")
        self.frames = self.stores.setdefault(folder, [])

    @classmethod
    def read_back(cls, folder: Path) -> Iterator[Point]:
        return points_of(cls.stores.get(folder, []))


def read_sessions(folder: Path) -> Iterator[Point]:
    frames: list[Frame] = []
    for session in folder.glob("*/session.json"):
        frames += [item for item in read_segments(session.parent) if isinstance(item, Frame)]
    return points_of(frames)


def test_memory_sink_keeps_the_contract(tmp_path: Path) -> None:
    asyncio.run(check_sink(Shared, Shared.read_back, folder=tmp_path))


def test_session_folders_keep_the_contract(tmp_path: Path) -> None:
    asyncio.run(check_sink(lambda folder: LocalZipSink(folder, None), read_sessions, folder=tmp_path))


def test_the_http_sink_with_its_server_keeps_the_contract(tmp_path: Path) -> None:
    """What counts as there is what the server has acknowledged; its own tests say what it then does with it."""
    pytest.importorskip("sqlalchemy")
    from telemetry.sinks.http import HttpSink

    from telemetry.server.app import BackgroundServer
    from telemetry.server.config import ServerConfig

    with BackgroundServer(ServerConfig(tmp_path / "server", port=0)) as server:
        sent: dict[Path, list[Frame]] = {}

        class Noting(HttpSink):
            """Notes which frames the server has acknowledged."""

            def __init__(self, folder: Path) -> None:
                super().__init__(server.url)
                self.folder = folder

            async def write(self, frames: Sequence[Frame]) -> None:
                await super().write(frames)
                sent.setdefault(self.folder, []).extend(frames)

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
