"""Real clients, pipelines with the http sink, that also count what the server answers them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from telemetry.collectors.scalars import ScalarReports
from telemetry.sinks.http import HttpSink

from telemetry.errors import SinkUnavailable
from telemetry.events import TaskHeader
from telemetry.pipeline import Pipeline
from telemetry.settings import Settings
from telemetry.wire import Frame
from traffic.frames import names_of

__all__ = ["CountingSink", "clients", "report"]

# Above those of the simulated runs.
_FIRST_TASK = 1 << 32


class CountingSink(HttpSink):
    """The http sink, which counts how often it was asked to wait, and whether it did.

    Attributes:
        refused: writes that the server answered with 503 and a Retry-After.
        hurried: writes that came before the time that the server had asked for.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.refused = self.hurried = 0
        self._not_before_s = 0.0

    async def write(self, frames: Sequence[Frame]) -> None:
        """Send the frames, and count."""
        self.hurried += time.monotonic() < self._not_before_s
        try:
            await super().write(frames)
        except SinkUnavailable as error:
            if error.retry_after_s is not None:
                self.refused += 1
                self._not_before_s = time.monotonic() + error.retry_after_s
            raise


@contextmanager
def clients(url: str, count: int, folder: Path) -> Iterator[list[Pipeline]]:
    """Run so many clients, each with a task and a state folder of its own."""
    running: list[Pipeline] = []
    try:
        for number in range(count):
            writer_id = Pipeline.new_writer_id()
            header = TaskHeader(f"{_FIRST_TASK + number:032x}", writer_id, "bench", f"client {number}")
            pipeline = Pipeline(header, [CountingSink(url)], settings=Settings(state_dir=folder / str(number)))
            running.append(pipeline)
            pipeline.start()
        yield running
    finally:
        for pipeline in running:
            pipeline.close(0.0)


def report(pipelines: Sequence[Pipeline], series: int, gap_s: float, seconds: float) -> int:
    """Let each report `series` scalars every `gap_s` for so long; return how many points each has reported."""
    names = names_of(series)
    reports = [ScalarReports(pipeline.emit).report_scalar for pipeline in pipelines]
    begin_s, step = time.monotonic(), 0
    while time.monotonic() - begin_s < seconds:
        for report_scalar in reports:
            for title, name in names:
                report_scalar(title, name, step * 0.001, step)
        step += 1
        time.sleep(max(0.0, begin_s + step * gap_s - time.monotonic()))
    return step * series
