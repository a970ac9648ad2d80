"""The contract of a sink, as checks that any sink can be run against: yours and ours.

    async def test_my_sink(tmp_path):
        await check_sink(lambda folder: MySink(folder / "my.db"), read_back, folder=tmp_path)

Needs no test framework: each check is an async function that raises ContractBroken, and `check_sink` runs them all.
`make_sink(folder)` returns a new, unopened sink that keeps its data in or under `folder`; `read_back(folder)` returns
every scalar that is stored there as (title, series, iteration, value). docs/sinks.md has the whole story.

The checks in ABILITY_CHECKS are about what a sink may be able to do besides; of a sink that cannot, they ask nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from telemetry.events import Batch, ConsoleLine, Scalar, ScalarColumns, SeriesKey, TaskHeader
from telemetry.journal import read_session
from telemetry.pipeline import Pipeline
from telemetry.protocols import (
    BlobClient,
    BlobSender,
    Cloneable,
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
from telemetry.sessions.sources import holds_task
from telemetry.settings import Settings
from telemetry.testing import make_header
from telemetry.wire import Frame, encode

__all__ = [
    "ABILITY_CHECKS",
    "CHECKS",
    "Check",
    "ContractBroken",
    "MakeSink",
    "Point",
    "ReadBack",
    "check_attributes",
    "check_blobs",
    "check_cloning",
    "check_closing",
    "check_delivery",
    "check_forwarding",
    "check_held",
    "check_loss",
    "check_many_frames",
    "check_pace",
    "check_pipeline",
    "check_places",
    "check_repetition",
    "check_session_folder",
    "check_sink",
    "check_syncing",
    "check_two_writers",
    "check_url",
]

Point: TypeAlias = tuple[str, str, int, float]
MakeSink: TypeAlias = Callable[[Path], Sink]
ReadBack: TypeAlias = Callable[[Path], Iterable[Point]]
Check: TypeAlias = Callable[[MakeSink, ReadBack, Path], Coroutine[Any, Any, None]]

# What a sink must bring through unchanged: any name, any iteration, any float64.
AWKWARD: tuple[Point, ...] = (
    ("loss", "train", 0, 0.1),
    ("loss", "train", 1, -0.0),
    ("loss", "träin ✓", 0, 5e-324),
    ("quotes \"'", "new\nline\t", 2**63 - 1, 1.7976931348623157e308),
    ("", "", -(2**63), math.inf),
    ("loss", "train", 1, -math.inf),
    ("loss", "nan", 7, math.nan),
)


class ContractBroken(AssertionError):
    """A sink does not do what `protocols.Sink` promises; the message says what was expected and what came."""


async def check_sink(make_sink: MakeSink, read_back: ReadBack, *, folder: Path) -> None:
    """Run every check, each in a folder of its own under `folder`.

    Raises:
        ContractBroken: the first check that failed, by name.
    """
    for check in CHECKS:
        own = folder / check.__name__
        own.mkdir(parents=True)
        try:
            await check(make_sink, read_back, own)
        except ContractBroken as error:
            raise ContractBroken(f"{check.__name__}: {error}") from error


async def check_attributes(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """A sink has a name, says whether it wants a spool, and has the three methods."""
    sink = make_sink(folder)
    if not isinstance(sink, Sink):
        raise ContractBroken(f"{type(sink).__name__} has not all of name, spool, open, write and close")
    if not (isinstance(sink.name, str) and sink.name):
        raise ContractBroken(f"name must be a text that is not empty, and is {sink.name!r}")
    if not isinstance(sink.spool, bool):
        raise ContractBroken(f"spool must be True or False, and is {sink.spool!r}")


async def check_delivery(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """What was written is there after close, exactly, whatever its names and values."""
    await _write(make_sink(folder), make_header(), [list(AWKWARD[:4]), list(AWKWARD[4:])])
    _compare(read_back(folder), AWKWARD)


async def check_repetition(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """Frames that come again, as after a lost answer, are there once: (writer id, sequence) names a frame."""
    task = make_header()
    frames = [_frame(task, sequence, [point]) for sequence, point in enumerate(AWKWARD)]
    sink = make_sink(folder)
    await sink.open(task)
    for again in (frames[:3], frames, frames[-1:]):
        await sink.write(again)
    await sink.close()
    # and by a process that sends what a dead one left
    later = make_sink(folder)
    await later.open(task)
    await later.write(frames)
    await later.close()
    _compare(read_back(folder), AWKWARD)


async def check_two_writers(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """Two writers of one task do not overwrite each other, though their sequence numbers are the same."""
    first, second = make_header(), make_header()
    await _write(make_sink(folder), first, [[("loss", "first", 1, 1.0)]])
    await _write(make_sink(folder), second, [[("loss", "second", 1, 2.0)]])
    _compare(read_back(folder), [("loss", "first", 1, 1.0), ("loss", "second", 1, 2.0)])


async def check_many_frames(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """A backlog comes as many frames in one write, in order; frames without scalars are among them."""
    points: list[Point] = [("loss", "train", step, step / 7) for step in range(300)]
    await _write(make_sink(folder), make_header(), [[point] for point in points[:200]] + [[]] + [points[200:]])
    _compare(read_back(folder), points)


async def check_closing(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """close may come without open, after a failed one, and with nothing written."""
    for opened in (False, True):
        sink = make_sink(folder)
        try:
            if opened:
                await sink.open(make_header())
            await sink.close()
        except Exception as error:
            how = "open" if opened else "no open"
            raise ContractBroken(f"close after {how} and no write raised {error!r}") from error


async def check_pipeline(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """In a real pipeline all of it is delivered, and the ledger adds up."""
    points: list[Point] = [("loss", "train", step, step / 3) for step in range(1000)]

    def run() -> None:
        settings = Settings(state_dir=folder / "state")
        pipeline = Pipeline(make_header(), [make_sink(folder)], settings=settings)
        pipeline.start()
        for title, series, step, value in points:
            pipeline.emit(Scalar(title, series, value, step, step))
            if step % 300 == 0:
                pipeline.flush()
        pipeline.emit(ConsoleLine(1, "stdout", "a line that a sink of scalars may leave out"))
        ledger = pipeline.close()
        if not ledger.balanced or ledger.delivered != len(points) + 1:
            raise ContractBroken(f"of {len(points) + 1} events: {ledger}")

    # Not on this loop: the sink runs on the pipeline's own.
    await asyncio.to_thread(run)
    _compare(read_back(folder), points)


# ---- what a sink may be able to do besides -----------------------------------------------------------


async def check_cloning(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """A clone of an open sink is another one with its name, and what both write is there."""
    sink = make_sink(folder)
    if not isinstance(sink, Cloneable):
        return
    points: list[Point] = [("loss", "parent", 1, 1.0), ("loss", "child", 1, 2.0)]
    await sink.open(task := make_header())
    clone = sink.clone()
    if not isinstance(clone, Sink) or clone is sink or (clone.name, clone.spool) != (sink.name, sink.spool):
        raise ContractBroken(f"the clone of {sink!r} must be another sink with its name and spool, and is {clone!r}")
    await _write(clone, make_header(), [points[1:]])
    await sink.write([_frame(task, 0, points[:1])])
    await sink.close()
    _compare(read_back(folder), points)


async def check_syncing(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """What was written before a sync can be read while the sink is open; one that is not open has nothing to sync."""
    sink = make_sink(folder)
    if not isinstance(sink, Syncable):
        return
    await sink.sync()
    await sink.open(task := make_header())
    await sink.write([_frame(task, 0, list(AWKWARD))])
    await sink.sync()
    _compare(read_back(folder), AWKWARD)
    await sink.close()
    await sink.sync()


async def check_url(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """The address is a text, there before the sink is open, and the same for each sink that is made alike."""
    sink = make_sink(folder)
    if not isinstance(sink, HasUrl):
        return
    if not (isinstance(sink.url, str) and sink.url):
        raise ContractBroken(f"url must be a text that is not empty, and is {sink.url!r}")
    again = make_sink(folder)
    if isinstance(again, HasUrl) and again.url != sink.url:
        raise ContractBroken(f"two sinks for one destination have the addresses {sink.url!r} and {again.url!r}")


async def check_session_folder(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """The session folder of an open sink is there, and is the task's."""
    sink = make_sink(folder)
    if not isinstance(sink, HasSessionFolder):
        return
    await sink.open(task := make_header())
    try:
        session = sink.session_folder
        if session is not None and not (session.is_dir() and read_session(session).get("task_id") == task.task_id):
            raise ContractBroken(f"{session} is no session folder of task {task.task_id}")
    finally:
        await sink.close()


async def check_places(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """Where a session will lie is known from the start; at the end it lies there, zipped if the sink says so."""
    sink = make_sink(folder)
    if not isinstance(sink, KeepsSessions):
        return
    task = make_header()
    early = sink.places(task.task_id)
    if not early or not all(isinstance(place, Path) for place in early):
        raise ContractBroken(f"places must be paths, one at least, and are {early!r}")
    await _write(sink, task, [list(AWKWARD)])
    found = [place for place in sink.places(task.task_id) if holds_task(place, task.task_id)]
    if not found:
        raise ContractBroken(f"none of {sink.places(task.task_id)} holds task {task.task_id} after close")
    if any(place.is_file() is not sink.zips for place in found):
        raise ContractBroken(f"zips is {sink.zips!r}, and {' and '.join(map(str, found))} hold the task")


async def check_blobs(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """The bytes of a task's blob are taken; whoever brings them again is told that nothing is missing."""
    sink = make_sink(folder)
    if not isinstance(sink, StoresBlobs):
        return
    task, data = make_header(), bytes(range(256))
    # The far side need not take bytes for a task of which it has not heard.
    await _write(sink, task, [[("loss", "train", 1, 1.0)]])
    clients = [sink.blob_client(), sink.blob_client()]
    if clients[0] is clients[1]:
        raise ContractBroken("blob_client must return a new client each time: one belongs to one event loop")
    try:
        sent = [await _send_blob(client, task.task_id, data) for client in clients]
    finally:
        for client in clients:
            if isinstance(client, BlobClient):
                await client.close()
    if sent != [len(data), 0]:
        raise ContractBroken(f"of a blob of {len(data)} bytes that came twice send_blob says that it sent {sent}")


async def check_held(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """What the far side is said to hold of a writer is what was written by it, if anything is said."""
    sink = make_sink(folder)
    if not isinstance(sink, TellsHeld):
        return
    task = make_header()
    await _write(make_sink(folder), make_header(), [[("loss", "other", n, 0.0)] for n in range(9)])
    await sink.open(task)
    for sequence in range(3):
        await sink.write([_frame(task, sequence, [("loss", "train", sequence, 0.5)])])
        ranges = sink.held
        held = {one for first, last in ranges or () for one in range(first, last + 1)}
        if ranges is not None and held != set(range(sequence + 1)):
            raise ContractBroken(f"of frames 0 to {sequence}, which were written, held says {ranges!r}")
    await sink.close()


async def check_pace(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """What a sink says of its pace, before and after writes, is a number of seconds."""
    sink = make_sink(folder)
    if not isinstance(sink, Paced):
        return
    for _ in range(2):
        pace_s = sink.pace_s
        if not isinstance(pace_s, float) or not 0 <= pace_s < float("inf"):
            raise ContractBroken(f"pace_s is {pace_s!r}, not a number of seconds from 0.0 on")
        await _write(sink, make_header(), [[point] for point in AWKWARD])


async def check_loss(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """No loss is told of where nothing was taken away."""
    sink = make_sink(folder)
    if not isinstance(sink, TellsLoss):
        return
    told: list[int] = []
    sink.on_lost = told.append
    await _write(sink, make_header(), [[point] for point in AWKWARD])
    if told:
        raise ContractBroken(f"on_lost was told of {told} events, and nothing was taken away")


async def check_forwarding(make_sink: MakeSink, read_back: ReadBack, folder: Path) -> None:
    """Frames of two tasks go in one request, also again, and none is refused."""
    sink = make_sink(folder)
    if not isinstance(sink, ForwardsFrames):
        return
    points: list[Point] = [("loss", "first", 1, 1.0), ("loss", "second", 1, 2.0)]
    frames = [_frame(make_header(f"{n:032x}"), 0, [point]) for n, point in enumerate(points, 1)]
    clone = sink.clone()
    await clone.connect()
    try:
        refused = await clone.send(frames) | await clone.send(frames)
    finally:
        await clone.close()
    if refused:
        raise ContractBroken(f"sound frames are refused: {refused}")
    _compare(read_back(folder), points)


ABILITY_CHECKS: Mapping[type, Check] = {
    Cloneable: check_cloning,
    Syncable: check_syncing,
    HasUrl: check_url,
    HasSessionFolder: check_session_folder,
    KeepsSessions: check_places,
    StoresBlobs: check_blobs,
    Paced: check_pace,
    TellsHeld: check_held,
    TellsLoss: check_loss,
    ForwardsFrames: check_forwarding,
}

CHECKS: tuple[Check, ...] = (
    check_attributes,
    check_delivery,
    check_repetition,
    check_two_writers,
    check_many_frames,
    check_closing,
    check_pipeline,
    *ABILITY_CHECKS.values(),
)


async def _write(sink: Sink, task: TaskHeader, groups: list[list[Point]]) -> None:
    """Open the sink, write each group as a frame, all in one write, and close it."""
    await sink.open(task)
    await sink.write([_frame(task, sequence, points) for sequence, points in enumerate(groups)])
    await sink.close()


async def _send_blob(client: BlobSender, task_id: str, data: bytes) -> int:
    return await client.send_blob(task_id, hashlib.sha256(data).hexdigest(), io.BytesIO(data), len(data))


def _frame(task: TaskHeader, sequence: int, points: list[Point]) -> Frame:
    columns = ScalarColumns()
    index: dict[SeriesKey, int] = {}
    for title, series, iteration, value in points:
        key = SeriesKey("scalar", title, series)
        columns.series_index.append(index.setdefault(key, len(index)))
        columns.iterations.append(iteration)
        columns.times_unix_ns.append(1_700_000_000_000_000_000 + sequence)
        columns.values.append(value)
    columns.series = list(index)
    batch = Batch(task.task_id, columns, (ConsoleLine(1, "stdout", "a line"),), len(points) + 1)
    return encode(batch, writer_id=task.writer_id, sequence=sequence)


def _compare(found: Iterable[Point], expected: Iterable[Point]) -> None:
    """Series may lie in any order; the points of one, in the order in which they were written."""
    ours, theirs = _by_series(expected), _by_series(found)
    for key in [*ours, *theirs]:
        wanted, got = ours.get(key, []), theirs.get(key, [])
        if wanted != got:
            raise ContractBroken(f"series {key}: {len(wanted)} points were written, read back {len(got)}: {got[:10]}")


def _by_series(points: Iterable[Point]) -> dict[tuple[str, str], list[tuple[int, float | None]]]:
    groups: dict[tuple[str, str], list[tuple[int, float | None]]] = {}
    for title, series, iteration, value in points:
        # None for NaN, which equals nothing.
        groups.setdefault((title, series), []).append((iteration, None if math.isnan(value) else value))
    return groups
