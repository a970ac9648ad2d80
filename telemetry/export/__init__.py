"""`telemetry export`: everything the server has of some tasks, as JSON lines or Parquet.

The same data give the same bytes, in whatever order they came to the server and however often: tasks by id; the
record by section and key; single values by name; models by time; media and
plots by title, series and iteration; series by kind, title, name and rank, points by
(iteration, time, bits of the value); console lines by time, then in the order in which their writer wrote them.

Values are float64 and keep every bit in Parquet. JSON has no NaN: there it is the string "NaN" ("Infinity",
"-Infinity"), with its bits beside it where they are not the usual ones.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import orjson

from telemetry.client import Client
from telemetry.errors import ConfigurationError, ServerError, ServerUnreachable
from telemetry.export.parquet import ParquetFolder
from telemetry.export.types import Console, Events, ExportedPlot, Series, json_value
from telemetry.process.terminal import ProgressLine
from telemetry.settings import Settings

__all__ = ["ExportReport", "JsonLinesFile", "export_tasks", "find_tasks", "read_series", "run"]

# One write to the file.
_ROWS_AT_ONCE = 65_536
# float("nan") on every machine that Python runs on; any other NaN is written with its bits.
_USUAL_NAN = 0x7FF8_0000_0000_0000

_TASKS_PAGE = 500


class Writer(Protocol):
    """Where an export goes. `add_*` in the order of the methods; then `commit`, or `discard` if anything failed."""

    def add_events(self, task_id: str, events: Events) -> None: ...

    def add_plot(self, task_id: str, plot: ExportedPlot) -> None: ...

    def add_series(self, task_id: str, series: Series) -> None: ...

    def add_console(self, task_id: str, console: Console) -> None: ...

    def commit(self) -> list[Path]:
        """Give the files their names and return them."""

    def discard(self) -> None: ...


@dataclass(slots=True)
class ExportReport:
    """What an export wrote; `failed`: task id -> why it is not in it."""

    tasks: int = 0
    points: int = 0
    lines: int = 0
    files: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def run(
    task_ids: Sequence[str], *, project: str | None, every: bool, form: str, out: Path, url: str, settings: Settings
) -> int:
    """Export to `out`; return the exit code: 0 all of it, 1 some tasks failed and are named.

    Raises:
        ServerUnreachable: no answer, or the server went away meanwhile; nothing was written.
        ConfigurationError: `out` does not fit the format, or pyarrow is missing.
    """
    with Client(
        url,
        token=settings.token or "",
        token_file=settings.token_file,
        timeout_s=settings.request_timeout_s,
        trust_env=settings.trust_env,
    ) as client:
        chosen = sorted(set(task_ids)) if task_ids else find_tasks(client, None if every else project)
        if not chosen:
            print("no task to export" + ("" if every else f" in project {project}"), file=sys.stderr)
            return 1
        writer: Writer = ParquetFolder(out) if form == "parquet" else JsonLinesFile(out)
        line = ProgressLine(len(chosen) * 1000, sys.stderr)
        try:
            report = export_tasks(client, chosen, writer, on_progress=lambda part, text: line.show(int(part), text))
        finally:
            line.close()
    print(f"{report.tasks:,} tasks, {report.points:,} points, {report.lines:,} console lines")
    for path in report.files:
        print(path)
    for task_id, reason in report.failed.items():
        print(f"not exported: {task_id}: {reason}", file=sys.stderr)
    return 1 if report.failed else 0


def find_tasks(client: Client, project: str | None) -> list[str]:
    """Return the ids of a project's tasks, or of all tasks, in order."""
    found: set[str] = set()
    page = 0
    while True:
        answer = client.tasks(project=project, sort="created", page=page, page_size=_TASKS_PAGE)
        found.update(task["id"] for task in answer["tasks"])
        page += 1
        if len(answer["tasks"]) < _TASKS_PAGE:
            return sorted(found)


def export_tasks(
    client: Client,
    task_ids: Sequence[str],
    writer: Writer,
    *,
    on_progress: Callable[[float, str], None] = lambda thousandths, text: None,
) -> ExportReport:
    """Write these tasks, in this order. A task that the server does not have is named in the report.

    Args:
        on_progress: called with thousandths of a task that are done, and a text.
    Raises:
        ServerUnreachable: the server went away; nothing was written.
    """
    report = ExportReport()
    try:
        for number, task_id in enumerate(task_ids):
            try:
                task = client.task(task_id)
                events = Events.of_page(client.export_page(task_id, "events"))
            except ServerUnreachable:
                raise
            except ServerError as error:
                report.failed[task_id] = str(error)
                continue
            total = max(1, task["counts"]["points"] + task["counts"].get("resource_points", 0))
            writer.add_events(task_id, events)
            for plot in _read_plots(client, task_id):
                writer.add_plot(task_id, plot)
            done = 0
            for series in read_series(client, task_id):
                writer.add_series(task_id, series)
                done += len(series)
                on_progress(1000 * (number + min(1.0, done / total)), f"{task['project']}/{task['name']}")
            console = _read_console(client, task_id)
            writer.add_console(task_id, console)
            report.tasks += 1
            report.points += done
            report.lines += len(console)
        report.files = writer.commit()
    except BaseException:
        writer.discard()
        raise
    return report


def read_series(client: Client, task_id: str) -> Iterator[Series]:
    """Yield the series of a task by kind, title, name and rank, each whole and sorted; one at a time in memory."""
    key: tuple[str, str, str, str, int | None] | None = None
    parts: list[list[bytes]] = []
    for page in _pages(client, task_id, "points", lambda following: f"{following[0]},{following[1]}"):
        for kind, title, name, unit, rank, *columns in page["runs"]:
            if key is not None and key != (kind, title, name, unit, rank):
                yield _sorted_series(key, parts)
                parts = []
            key = (kind, title, name, unit, rank)
            parts.append(columns)
    if key is not None:
        yield _sorted_series(key, parts)


def _read_plots(client: Client, task_id: str) -> Iterator[ExportedPlot]:
    for page in _pages(client, task_id, "plots", str):
        for plot in page["plots"]:
            yield ExportedPlot(*plot)


def _read_console(client: Client, task_id: str) -> Console:
    lines: list[list[Any]] = []
    for page in _pages(client, task_id, "console", str):
        lines += page["lines"]
    # By time, writer and sequence number; equal ones stay as they are, which is their order within the frame.
    lines.sort(key=lambda line: line[:3])
    return Console(lines)


def _pages(client: Client, task_id: str, part: str, cursor: Callable[[Any], str]) -> Iterator[dict[str, Any]]:
    """Yield the pages; the next one is already asked for while this one is worked on."""
    with ThreadPoolExecutor(1, "telemetry-export") as ahead:
        waiting = ahead.submit(client.export_page, task_id, part, None)
        while True:
            page = waiting.result()
            if page["next"] is None:
                yield page
                return
            waiting = ahead.submit(client.export_page, task_id, part, cursor(page["next"]))
            yield page


def _sorted_series(key: tuple[str, str, str, str, int | None], parts: list[list[bytes]]) -> Series:
    iterations, times_unix_ns, values = (
        np.frombuffer(b"".join([part[column] for part in parts]), kind)
        for column, kind in enumerate(("<i8", "<i8", "<f8"))
    )
    series = Series(*key, iterations, times_unix_ns, values)
    # A run that reported in order, which is nearly every one, is not sorted again: 0.3 us a point.
    if len(series) > 1 and not bool((iterations[1:] > iterations[:-1]).all()):
        order = np.lexsort((values.view("<u8"), times_unix_ns, iterations))
        series = Series(*key, iterations[order], times_unix_ns[order], values[order])
    return series


class JsonLinesFile:
    """One file of JSON lines, each with "task" and "type": record, value, model, media, plot, series, point or console.

    Args:
        out: the file; a folder gets `export.jsonl`.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / "export.jsonl" if out.is_dir() else out
        self._part = self.path.with_name(f".{self.path.name}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("wb")
        except OSError as error:
            raise ConfigurationError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def add_events(self, task_id: str, events: Events) -> None:
        head = {"task": task_id}
        for section, key, time, writer, value in events.record:
            item = {"type": "record", "section": section, "key": key, "time_unix_ns": time, "writer": writer.hex()}
            self._line({**head, **item, "value": json_value(value)})
        for name, time, value in events.values:
            self._line({**head, "type": "value", "name": name, "time_unix_ns": time, "value": json_value(value)})
        for time, name, path, framework, iteration, size_bytes in events.models:
            item = {"type": "model", "time_unix_ns": time, "name": name, "path": path, "framework": framework}
            self._line({**head, **item, "iteration": iteration, "size_bytes": size_bytes})

        for title, name, iteration, time, writer, uri, filename, content_type, size_bytes in events.media:
            item = {"type": "media", "title": title, "series": name, "iteration": iteration, "time_unix_ns": time}
            item |= {"writer": writer.hex(), "uri": uri, "filename": filename, "content_type": content_type}
            self._line({**head, **item, "size_bytes": size_bytes})

    def add_plot(self, task_id: str, plot: ExportedPlot) -> None:
        names = {"title": plot.title, "series": plot.series, "iteration": plot.iteration}
        head = {"task": task_id, "type": "plot", **names, "time_unix_ns": plot.time_unix_ns}
        # As text: what was reported, to the character.
        self._line({**head, "writer": plot.writer.hex(), "figure": plot.figure, "blob": plot.blob})

    def add_series(self, task_id: str, series: Series) -> None:
        names = {"kind": series.kind, "title": series.title, "series": series.series, "rank": series.rank}
        self._line({"task": task_id, "type": "series", **names, "unit": series.unit, "points": len(series)})
        head = orjson.dumps({"task": task_id, "type": "point", **names})[:-1]
        for start in range(0, len(series), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            columns = zip(
                _numbers(series.iterations[rows]),
                _numbers(series.times_unix_ns[rows]),
                _values(series.values[rows]),
                strict=True,
            )
            self._file.write(
                b"".join(
                    [
                        b'%b,"iteration":%b,"time_unix_ns":%b,"value":%b}\n' % (head, iteration, time, value)
                        for iteration, time, value in columns
                    ]
                )
            )

    def add_console(self, task_id: str, console: Console) -> None:
        for time, writer, _, stream, level, text in console.lines:
            item = {"task": task_id, "type": "console", "time_unix_ns": time, "writer": writer.hex()}
            self._line({**item, "stream": stream, "level": level, "text": text})

    def commit(self) -> list[Path]:
        self._file.close()
        self._part.replace(self.path)
        return [self.path]

    def discard(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    def _line(self, item: dict[str, Any]) -> None:
        self._file.write(orjson.dumps(item) + b"\n")


def _numbers(column: npt.NDArray[Any]) -> list[bytes]:
    # The whole column at once, then cut: a tenth of the time of one call for each number.
    return orjson.dumps(np.ascontiguousarray(column), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _values(column: npt.NDArray[np.float64]) -> list[bytes]:
    texts = _numbers(column)
    for row in np.flatnonzero(~np.isfinite(column)).tolist():
        value = float(column[row])
        texts[row] = orjson.dumps(json_value(value))
        bits = int(column[row : row + 1].view("<u8")[0])
        if math.isnan(value) and bits != _USUAL_NAN:
            texts[row] += b',"bits":"%016x"' % bits
    return texts
