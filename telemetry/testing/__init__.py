"""Sinks, clocks and queues for tests: ours and yours. Public and documented.

sink = MemorySink()
with run_pipeline([sink]) as pipeline:
    pipeline.emit(Scalar("loss", "train", 0.5, 1, 0))
assert sink.scalars()[("loss", "train")] == [(1, 0.5)]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from telemetry.errors import SinkRejected, SinkUnavailable
from telemetry.events import Batch, Event, TaskHeader
from telemetry.ledger import DropReason
from telemetry.pipeline import Pipeline
from telemetry.protocols import Sink
from telemetry.settings import Settings
from telemetry.wire import Frame, decode

__all__ = ["FlakySink", "ListEmit", "ManualClock", "MemorySink", "make_header", "run_pipeline"]


class ManualClock:
    """A clock that moves when told to. Call it for nanoseconds; `.monotonic()` gives seconds."""

    def __init__(self, time_unix_ns: int = 1_700_000_000_000_000_000) -> None:
        self.time_unix_ns = time_unix_ns
        self._start = time_unix_ns

    def __call__(self) -> int:
        return self.time_unix_ns

    def monotonic(self) -> float:
        return (self.time_unix_ns - self._start) / 1e9

    def advance(self, seconds: float) -> None:
        self.time_unix_ns += round(seconds * 1e9)


class ListEmit:
    """An Emit that keeps events in lists: `events`, `rows` (flat scalars), `refused` (reason, message)."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.rows: list[Any] = []
        self.mark = 10**12
        self.refused: list[tuple[str, str]] = []

    @property
    def latest_iteration(self) -> int:
        return self.rows[-2] if self.rows else 0

    def __call__(self, event: Event) -> bool:
        self.events.append(event)
        return True

    def crossed(self) -> None:
        """Never reached: the mark is out of reach."""

    def refuse(self, reason: str, message: str) -> None:
        self.refused.append((str(DropReason(reason)), message))


class MemorySink:
    """Keeps every frame it is given."""

    spool = False

    def __init__(self, name: str = "memory") -> None:
        self.name = name
        self.frames: list[Frame] = []
        self.task: TaskHeader | None = None
        self.closed = False

    async def open(self, task: TaskHeader) -> None:
        self.task = task

    async def write(self, frames: Sequence[Frame]) -> None:
        self.frames.extend(frames)

    async def close(self) -> None:
        self.closed = True

    def batches(self) -> list[Batch]:
        return [decode(frame) for frame in self.frames]

    def events(self) -> list[Event]:
        """The events that travel one by one, in order."""
        return [event for batch in self.batches() for event in batch.events]

    def scalars(self, kind: str = "scalar") -> dict[tuple[str, str], list[tuple[int, float]]]:
        """(title, series) -> [(iteration, value)] in the order in which they were reported."""
        found: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
        for batch in self.batches():
            columns = batch.columns
            for index, iteration, value in zip(columns.series_index, columns.iterations, columns.values, strict=True):
                key = columns.series[index]
                if key.kind == kind:
                    found[key.title, key.series].append((iteration, value))
        return dict(found)


class FlakySink(MemorySink):
    """A MemorySink with a script: each write takes the next step of `script`; past its end all goes well.

    A step is "ok", "unavailable", "lost_answer" (kept, but the answer never comes: the sender must repeat) or
    "reject" (the first frame of the write is refused for good).
    """

    def __init__(self, script: Sequence[str] = (), *, name: str = "flaky", spool: bool = False) -> None:
        super().__init__(name)
        self.spool = spool
        self._script = list(script)
        self.writes = 0
        self.down = False

    async def write(self, frames: Sequence[Frame]) -> None:
        self.writes += 1
        step = self._script.pop(0) if self._script else "ok"
        if self.down or step == "unavailable":
            raise SinkUnavailable("the flaky sink is down")
        if step == "reject":
            self.frames.extend(frames[1:])
            raise SinkRejected("refused", reasons={frames[0].sequence: "the script says so"})
        self.frames.extend(frames)
        if step == "lost_answer":
            raise SinkUnavailable("the flaky sink's answer was lost")


def make_header(task_id: str = "0" * 32, *, project: str = "tests", name: str = "a task") -> TaskHeader:
    return TaskHeader(task_id, Pipeline.new_writer_id(), project, name, created_unix_ns=1)


@contextmanager
def run_pipeline(sinks: Sequence[Sink], *, state_dir: Path | None = None, **settings: Any) -> Iterator[Pipeline]:
    """Run a pipeline for a test; close it, and check that each sink's ledger adds up."""
    if state_dir is not None:
        settings["state_dir"] = state_dir
    pipeline = Pipeline(make_header(), sinks, settings=Settings(**settings))
    pipeline.start()
    try:
        yield pipeline
    finally:
        pipeline.close()
        for sink in sinks:
            ledger = pipeline.ledger(sink.name)
            if not ledger.balanced:
                raise AssertionError(f"the ledger of {sink.name} does not add up: {ledger}")
