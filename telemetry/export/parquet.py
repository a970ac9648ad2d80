"""An export as Parquet: a folder of seven files, each with a column `task`.

    points.parquet    task, kind, title, series, unit, rank int64 or null, iteration int64, time_unix_ns int64,
                      value float64
    console.parquet   task, time_unix_ns, writer, stream, level, text
    record.parquet    task, section, key, time_unix_ns, writer, value (as JSON)
    values.parquet    task, name, time_unix_ns, value float64
    models.parquet    task, time_unix_ns, name, path, framework, iteration, size_bytes
    media.parquet     task, title, series, iteration, time_unix_ns, writer, uri, filename, content_type, size_bytes
    plots.parquet     task, title, series, iteration, time_unix_ns, writer, figure (plotly's JSON, as text), blob

pyarrow is imported when the first folder is made.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from telemetry.errors import ConfigurationError
from telemetry.export.types import Console, Events, ExportedPlot, Series, json_value

__all__ = ["ParquetFolder"]

# One row group: large enough to pack and scan well, and 64 MB in memory while it fills.
ROW_GROUP = 1 << 20

# Figures that wait to be written, in characters.
PLOT_GROUP_CHARS = 64 * 1024 * 1024

_NAMES = ("task", "kind", "title", "series", "unit")


class ParquetFolder:
    """Writes the seven files, aside first: a folder never holds half an export.

    Args:
        out: the folder; made if it is not there.
    Raises:
        ConfigurationError: pyarrow is missing, or the folder cannot be written.
    """

    def __init__(self, out: Path) -> None:
        try:
            self._arrow = import_module("pyarrow")
            self._parquet = import_module("pyarrow.parquet")
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "Parquet needs pyarrow, which is not installed: pip install 'telemetry-tasks[export]'"
            ) from error
        if out.suffix == ".parquet" or out.is_file():
            raise ConfigurationError(f"{out}: Parquet is seven files; give --out a folder")
        self._out = out
        self._files: dict[str, Any] = {}
        self._rows: dict[str, list[list[Any]]] = {}
        self._runs: list[tuple[tuple[str, ...], Series, slice]] = []
        self._waiting = 0
        self._waiting_chars = 0
        self._schemas = _schemas(self._arrow)
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name, schema in self._schemas.items():
                self._files[name] = self._open(name, schema)
                self._rows[name] = []
        except OSError as error:
            self.discard()
            raise ConfigurationError(f"{out} cannot be written: {error.strerror or error}") from error

    def add_events(self, task_id: str, events: Events) -> None:
        self._add(
            "record",
            [
                [task_id, section, key, time, writer.hex(), orjson.dumps(json_value(value)).decode()]
                for section, key, time, writer, value in events.record
            ],
        )
        self._add("values", [[task_id, name, time, value] for name, time, value in events.values])
        self._add("models", [[task_id, *model] for model in events.models])

        self._add(
            "media",
            [
                [task_id, title, series, iteration, time, writer.hex(), *rest]
                for title, series, iteration, time, writer, *rest in events.media
            ],
        )

    def add_plot(self, task_id: str, plot: ExportedPlot) -> None:
        place = [plot.title, plot.series, plot.iteration, plot.time_unix_ns, plot.writer.hex()]
        self._add("plots", [[task_id, *place, plot.figure, plot.blob]])
        self._waiting_chars += len(plot.figure)
        if self._waiting_chars > PLOT_GROUP_CHARS:
            self._waiting_chars = 0
            self._write_rows("plots")

    def add_series(self, task_id: str, series: Series) -> None:
        names = (task_id, series.kind, series.title, series.series, series.unit)
        for start in range(0, len(series), ROW_GROUP):
            rows = slice(start, min(len(series), start + ROW_GROUP))
            self._runs.append((names, series, rows))
            self._waiting += rows.stop - start
            if self._waiting >= ROW_GROUP:
                self._write_points()

    def add_console(self, task_id: str, console: Console) -> None:
        self._add(
            "console",
            [
                [task_id, time, writer.hex(), stream, level, text]
                for time, writer, _, stream, level, text in console.lines
            ],
        )

    def commit(self) -> list[Path]:
        if self._runs:
            self._write_points()
        for name in self._rows:
            self._write_rows(name)
        for file in self._files.values():
            file.close()
        paths = []
        for name in self._files:
            path = self._out / f"{name}.parquet"
            self._part(name).replace(path)
            paths.append(path)
        return paths

    def discard(self) -> None:
        for name, file in self._files.items():
            file.close()
            self._part(name).unlink(missing_ok=True)

    # ---- inside ----------------------------------------------------------------------------------

    def _part(self, name: str) -> Path:
        return self._out / f".{name}.parquet.part"

    def _open(self, name: str, schema: Any) -> Any:
        # Sorted integers are next to nothing as differences; values go as byte planes, as in our own chunks.
        encodings = {"iteration": "DELTA_BINARY_PACKED", "time_unix_ns": "DELTA_BINARY_PACKED"}
        encodings["value"] = "BYTE_STREAM_SPLIT"
        points = {"use_dictionary": list(_NAMES), "column_encoding": encodings} if name == "points" else {}
        return self._parquet.ParquetWriter(self._part(name), schema, compression="zstd", compression_level=1, **points)

    def _add(self, name: str, rows: list[list[Any]]) -> None:
        self._rows[name] += rows
        if len(self._rows[name]) >= ROW_GROUP:
            self._write_rows(name)

    def _write_rows(self, name: str) -> None:
        rows, self._rows[name] = self._rows[name], []
        if not rows:
            return
        schema = self._schemas[name]
        columns = [
            self._arrow.array(column, item.type) for column, item in zip(zip(*rows, strict=True), schema, strict=True)
        ]
        self._files[name].write_table(self._arrow.Table.from_arrays(columns, schema=schema))

    def _write_points(self) -> None:
        arrow, runs = self._arrow, self._runs
        counts = [rows.stop - rows.start for _, _, rows in runs]
        columns = [_coded(arrow, [names[index] for names, _, _ in runs], counts) for index in range(len(_NAMES))]
        ranks = np.repeat([-1 if series.rank is None else series.rank for _, series, _ in runs], counts)
        columns.append(arrow.array(ranks.astype(np.int64), mask=ranks < 0))
        columns += [
            arrow.array(np.concatenate([getattr(series, name)[rows] for _, series, rows in runs]))
            for name in ("iterations", "times_unix_ns", "values")
        ]
        table = arrow.Table.from_arrays(columns, schema=self._schemas["points"])
        self._files["points"].write_table(table, row_group_size=2 * ROW_GROUP)
        self._runs, self._waiting = [], 0


def _coded(arrow: Any, names: list[str], counts: list[int]) -> Any:
    """Return a column of repeated names as a dictionary and its indices: no string per point."""
    numbers: dict[str, int] = {}
    codes: npt.NDArray[np.int32] = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int32)
    return arrow.DictionaryArray.from_arrays(arrow.array(np.repeat(codes, counts)), arrow.array(list(numbers)))


def _schemas(arrow: Any) -> dict[str, Any]:
    text, number, real = arrow.string(), arrow.int64(), arrow.float64()
    coded = arrow.dictionary(arrow.int32(), text)
    clock = ("time_unix_ns", number)
    place = [("task", text), ("title", text), ("series", text), ("iteration", number), clock, ("writer", text)]
    return {
        "points": arrow.schema(
            [*((name, coded) for name in _NAMES), ("rank", number), ("iteration", number), clock, ("value", real)]
        ),
        "console": arrow.schema(
            [("task", text), clock, ("writer", text), ("stream", text), ("level", number), ("text", text)]
        ),
        "record": arrow.schema(
            [("task", text), ("section", text), ("key", text), clock, ("writer", text), ("value", text)]
        ),
        "values": arrow.schema([("task", text), ("name", text), clock, ("value", real)]),
        "media": arrow.schema(
            [
                *place,
                ("uri", text),
                ("filename", text),
                ("content_type", text),
                ("size_bytes", number),
            ]
        ),
        "plots": arrow.schema([*place, ("figure", text), ("blob", text)]),
        "models": arrow.schema(
            [
                ("task", text),
                clock,
                ("name", text),
                ("path", text),
                ("framework", text),
                ("iteration", number),
                ("size_bytes", number),
            ]
        ),
    }
