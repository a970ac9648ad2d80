"""What real programs send, as frames made beforehand by the client's own code (columns, encoding, default settings).

A step's reports come 0.6 us apart, give or take 0.2, and steps come at their gap, give or take 0.2 ms: a clock's low
digits are noise, as they are in life, and cost a byte a point. Values are random floats, of 64 bits or, `narrow`, of
what a float32 can hold: most of what training reports.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

__all__ = ["BURST", "FULL", "RUNS", "WIDE", "Flush", "Shape", "flushes", "names_of", "quick", "task_id_of"]

START_NS = 1_700_000_000_000_000_000
_STEP_JITTER_NS = 200_000
_REPORT_NS, _REPORT_JITTER_NS = 600, 200
# A pass of the batcher takes some time as well, so its timer wanders against the program's steps.
_PASS_NS = 2_000_000
_QUANTITIES = ("weight norm", "gradient norm", "weight mean", "gradient mean")


@dataclass(frozen=True)
class Shape:
    """So many runs that each report `series` scalars a step, `gap_s` apart; 0: as fast as a loop goes.

    Attributes:
        frame_scalars: where a frame is cut; None for the client's default.
    """

    runs: int
    series: int
    steps: int
    gap_s: float
    frame_scalars: int | None = None

    @property
    def points(self) -> int:
        """Of all runs together."""
        return self.runs * self.series * self.steps


# Five minutes of one run with 1,000 series at 2 Hz.
WIDE = Shape(1, 1_000, 600, 0.5)
# Five minutes of 20 runs with 20 series at 5 Hz.
RUNS = Shape(20, 20, 1_500, 0.2)
# 1,000,000 points in 10,000 series at once.
BURST = Shape(1, 10_000, 100, 0.0)
# What all are held against: a loop that does nothing but log, in the fullest frames that are sent.
FULL = Shape(1, 10, 32 * 65_536 // 10, 0.0, 65_536)


def quick(shape: Shape) -> Shape:
    """Return a twentieth of it."""
    return replace(shape, steps=max(3, shape.steps // 20))


@dataclass(frozen=True, slots=True)
class Flush:
    """A frame, and when the client sends it: `due_s` seconds after the run's start."""

    due_s: float
    points: int
    data: bytes


def task_id_of(run: int) -> str:
    """Return the task id of a run; runs count from 0."""
    return f"{run + 1:032x}"


def names_of(series: int) -> list[tuple[str, str]]:
    """Return (title, series) of each: four quantities of each layer, a chart a layer."""
    return [(f"layer {k // 4:05d}", _QUANTITIES[k % 4]) for k in range(series)]


def flushes(shape: Shape, run: int, *, narrow: bool = False, start_ns: int = START_NS) -> Iterator[Flush]:
    """Yield the frames of one run in the order that it sends them: the first names the task, the last ends it.

    Args:
        start_ns: when the run began, Unix ns.
    """
    frames = _Frames(shape, run)
    generator = random.Random(run)
    drawn, names = generator.random, names_of(shape.series)
    flush_ns = frames.flush_interval_ns
    due_ns = int(drawn() * flush_ns)
    events: list[Any] = _beginning(run, start_ns)
    rows: list[Any] = []
    at_ns = 0
    for step in range(shape.steps):
        if shape.gap_s:
            at_ns = max(0, int(step * shape.gap_s * 1e9 + (2 * drawn() - 1) * _STEP_JITTER_NS))
            while at_ns >= due_ns:
                if rows:
                    yield frames.cut(rows, events, due_ns)
                    rows, events = [], []
                due_ns += flush_ns + int(drawn() * _PASS_NS)
        values: Sequence[float] = [drawn() for _ in names]
        for (title, series), value in zip(names, array("f", values) if narrow else values, strict=True):
            at_ns += _REPORT_NS - _REPORT_JITTER_NS + int(drawn() * 2 * _REPORT_JITTER_NS)
            rows += (title, series, value, step, start_ns + at_ns)
        while len(rows) > frames.row_slots:
            yield frames.cut(rows[: frames.row_slots], events, at_ns)
            del rows[: frames.row_slots]
            events = []
    yield frames.cut(rows, events + _ending(start_ns + at_ns), max(due_ns, at_ns))


class _Frames:
    """Makes one writer's frames of rows, as its batcher does."""

    def __init__(self, shape: Shape, run: int) -> None:
        from telemetry.batcher import RunSeries
        from telemetry.queue import ROW_SLOTS
        from telemetry.settings import Settings

        settings = Settings()
        self.flush_interval_ns = int(settings.flush_interval_s * 1e9)
        self.row_slots = (shape.frame_scalars or settings.frame_scalars) * ROW_SLOTS
        self._level = settings.compression_level
        self._task_id = task_id_of(run)
        self._writer_id = (run + 1).to_bytes(16, "big")
        self._sequence = 0
        self._series = RunSeries()

    def cut(self, rows: list[Any], events: Sequence[Any], due_ns: int) -> Flush:
        from telemetry.batcher import columns_of
        from telemetry.events import Batch
        from telemetry.wire import encode

        columns, errors = columns_of(rows, self._series)
        if errors:
            raise errors[0]
        batch = Batch(self._task_id, columns, events, len(columns) + len(events))
        frame = encode(batch, writer_id=self._writer_id, sequence=self._sequence, level=self._level)
        self._sequence += 1
        return Flush(due_ns / 1e9, len(columns), frame.data)


def _beginning(run: int, start_ns: int) -> list[Any]:
    fields = {
        "name": f"run {run}",
        "project": f"bench/{run % 20}",
        "type": "training",
        "status": "in_progress",
        "started_unix_ns": start_ns,
    }
    return _changes(start_ns, fields)


def _ending(at_ns: int) -> list[Any]:
    return _changes(at_ns, {"status": "completed", "ended_unix_ns": at_ns})


def _changes(at_ns: int, fields: dict[str, Any]) -> list[Any]:
    from telemetry.events import RecordChange

    return [RecordChange(at_ns, "task", key, value) for key, value in fields.items()]
