"""What the tests of the pages share: a real server, and a writer that sends it frames."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterable, Sequence
from typing import Any

from telemetry.events import Batch, ConsoleLine, FrameEvent, RecordChange, ScalarColumns, SeriesKey
from telemetry.wire import encode

NASTY = "<script>alert(1)</script>"


class Writer:
    """One task's writer, speaking to the server as the HTTP sink does: `flush` returns after the commit."""

    def __init__(self, url: str, task_id: str = "1" * 32, *, rank: int | None = None) -> None:
        self.url = url
        self.task_id = task_id
        self._rank = rank
        self._writer_id = bytes.fromhex(task_id) if rank is None else b"rank %11d" % rank
        self._sequence = 0
        self._columns = ScalarColumns()
        self._index: dict[SeriesKey, int] = {}
        self._events: list[FrameEvent] = []
        self._now_ns = time.time_ns()
        self._fixed_ns = 0

    def at(self, time_unix_ns: int) -> Writer:
        """From here on events are of this moment."""
        self._now_ns = time_unix_ns
        self._fixed_ns = time_unix_ns
        return self

    def _moment_ns(self) -> int:
        return self._fixed_ns or time.time_ns()

    def task(self, **fields: Any) -> Writer:
        """Set fields of the task's own record; a name, a project and a status unless they are given."""
        known = {"name": "run", "project": "tests", "status": "in_progress", "started_unix_ns": time.time_ns()}
        first = not self._sequence and not self._events
        self.record("task", {**known, **fields} if first else fields)
        return self

    def record(self, section: str, fields: dict[str, Any]) -> Writer:
        self._events += [RecordChange(self._moment_ns(), section, key, value) for key, value in fields.items()]
        return self

    def event(self, event: FrameEvent) -> Writer:
        self._events.append(event)
        return self

    def lines(self, texts: Iterable[str], stream: str = "stdout", level: int | None = None) -> Writer:
        self._events += [ConsoleLine(time.time_ns(), stream, text, level) for text in texts]
        return self

    def scalars(self, title: str, series: str, values: Sequence[float], first: int = 0) -> Writer:
        """Report values at the iterations from `first` on, a millisecond apart."""
        start_ns = self._now_ns + first * 1_000_000
        for offset, value in enumerate(values):
            self._point(SeriesKey("scalar", title, series), first + offset, start_ns + offset * 1_000_000, value)
        return self

    def resources(self, title: str, series: str, unit: str, values: Sequence[float]) -> Writer:
        for second, value in enumerate(values):
            at_ns = self._now_ns + second * 1_000_000_000
            self._point(SeriesKey("resource", title, series, unit), at_ns // 1_000_000, at_ns, value)
        return self

    def flush(self) -> None:
        """Send what was reported; the server has committed it when this returns."""
        count = len(self._columns) + len(self._events)
        batch = Batch(self.task_id, self._columns, self._events, count, self._rank)
        frame = encode(batch, writer_id=self._writer_id, sequence=self._sequence)
        request = urllib.request.Request(
            f"{self.url}/api/v1/frames", bytes(frame.data), {"Content-Type": "application/vnd.telemetry.frames"}
        )
        with urllib.request.urlopen(request) as response:
            assert b'"stored"' in response.read()
        self._sequence += 1
        self._columns, self._index, self._events = ScalarColumns(), {}, []

    def _point(self, key: SeriesKey, iteration: int, time_unix_ns: int, value: float) -> None:
        columns = self._columns
        if key not in self._index:
            self._index[key] = len(columns.series)
            columns.series.append(key)
        columns.series_index.append(self._index[key])
        columns.iterations.append(iteration)
        columns.times_unix_ns.append(time_unix_ns)
        columns.values.append(value)
