"""The contract of a sink, as checks that any sink can be run against: yours and ours.

    async def test_my_sink(tmp_path):
        await check_sink(lambda folder: MySink(folder / "my.db"), read_back, folder=tmp_path)

Needs no test framework: each check is an async function that raises ContractBroken, and `check_sink` runs them all.
`make_sink(folder)` returns a new, unopened sink that keeps its data in or under `folder`; `read_back(folder)` returns
every scalar that is stored there as (title, series, iteration, value). docs/sinks.md has the whole story.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from telemetry.events import Batch, ConsoleLine, Scalar, ScalarColumns, SeriesKey, TaskHeader
from telemetry.pipeline import Pipeline
from telemetry.protocols import Sink
from telemetry.settings import Settings
from telemetry.testing import make_header
from telemetry.wire import Frame, encode

__all__ = [
    "CHECKS",
    "ContractBroken",
    "MakeSink",
    "Point",
    "ReadBack",
    "check_attributes",
    "check_closing",
    "check_delivery",
    "check_many_frames",
    "check_pipeline",
    "check_repetition",
    "check_sink",
    "check_two_writers",
]

Point: TypeAlias = tuple[str, str, int, float]
MakeSink: TypeAlias = Callable[[Path], Sink]
ReadBack: TypeAlias = Callable[[Path], Iterable[Point]]

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


CHECKS: tuple[Callable[[MakeSink, ReadBack, Path], Awaitable[None]], ...] = (
    check_attributes,
    check_delivery,
    check_repetition,
    check_two_writers,
    check_many_frames,
    check_closing,
    check_pipeline,
)


async def _write(sink: Sink, task: TaskHeader, groups: list[list[Point]]) -> None:
    """Open the sink, write each group as a frame, all in one write, and close it."""
    await sink.open(task)
    await sink.write([_frame(task, sequence, points) for sequence, points in enumerate(groups)])
    await sink.close()


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
