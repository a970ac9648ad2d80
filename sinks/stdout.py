"""Events on the terminal: readable lines, or JSON lines for another program.

It writes to the process's original stdout (`sys.__stdout__`), past whatever stands in for `sys.stdout`, and what it
prints is never collected as console output again. Formatting and writing run on a thread of the sink's own, so
a reader that has stopped reading holds up neither the event loop nor the other sinks.
"""

from __future__ import annotations

import asyncio
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, TypeAlias

import orjson

from telemetry.disk import DaemonExecutor
from telemetry.errors import ConfigurationError, FrameError, SinkRejected, SinkUnavailable
from telemetry.events import (
    Batch,
    ConsoleLine,
    FrameEvent,
    Media,
    ModelSaved,
    Plot,
    RecordChange,
    SingleValue,
    TaskHeader,
)
from telemetry.process.terminal import unkept
from telemetry.wire import Frame, decode

__all__ = ["StdoutSink", "open_sink"]

Mode: TypeAlias = Literal["lines", "json"]

# (Unix time in ns, event as a flat mapping): what both forms are made from.
_FlatEvent: TypeAlias = tuple[int, dict[str, Any]]

_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}

# A name or a line must not move the cursor or ring the bell.
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != ord("\t")}


class StdoutSink:
    """Prints each event of each frame, in the order of their times within a frame.

    Args:
        mode: "lines" to read, "json" for one JSON object a line; there NaN and the infinities are the strings
            "NaN", "Infinity" and "-Infinity", and bytes are hexadecimal.
        stream: where to; the original stdout if not given.
    """

    spool = False

    def __init__(self, mode: Mode = "lines", stream: TextIO | None = None, *, name: str = "stdout") -> None:
        self.name = name
        self._mode: Mode = mode
        self._given = stream
        self._stream: TextIO | None = None
        self._executor: DaemonExecutor | None = None
        # Last frame printed in full, by writer: one that comes again is not printed again.
        self._printed: dict[bytes, int] = {}

    def clone(self) -> StdoutSink:
        """Another one of the same kind, for a forked child."""
        return StdoutSink(self._mode, self._given, name=self.name)

    async def open(self, task: TaskHeader) -> None:
        """Find the stream.

        Raises:
            SinkUnavailable: the process has no stdout, or it is closed.
        """
        stream = self._given if self._given is not None else sys.__stdout__
        if stream is None or stream.closed:
            raise SinkUnavailable("this process has no stdout to print events to; they go to the other sinks only")
        self._stream = stream
        if self._executor is None:
            self._executor = DaemonExecutor("telemetry-stdout")

    async def write(self, frames: Sequence[Frame]) -> None:
        """Print the frames.

        Raises:
            SinkUnavailable: nobody reads any more (a closed pipe), or the disk behind it is full. Frames
                that were printed before are not printed again when they come again.
            SinkRejected: frames that cannot be decoded; the others are printed.
        """
        if self._stream is None or self._executor is None:
            raise SinkUnavailable("the stdout sink is not open")
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, self._print, list(frames), self._stream)

    async def close(self) -> None:
        """Let the thread end; a write that hangs is left to it. The stream stays open: it is the program's."""
        self._stream = None
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    def _print(self, frames: list[Frame], stream: TextIO) -> None:
        """On the sink's thread."""
        rejected: dict[int, str] = {}
        for number, frame in enumerate(frames):
            if frame.sequence <= self._printed.get(frame.writer_id, -1):
                continue
            try:
                text = render(decode(frame), self._mode)
            except FrameError as error:
                rejected[frame.sequence] = str(error)
                continue
            try:
                unkept(stream.write, _encodable(text, stream.encoding))
                stream.flush()
            except (OSError, ValueError) as error:
                # BrokenPipeError: the reader has gone. ValueError: the stream was closed.
                raise SinkUnavailable(
                    f"cannot print to stdout: {error}. {len(frames) - number} frames were not printed; "
                    "other sinks are not affected"
                ) from error
            self._printed[frame.writer_id] = frame.sequence
        if rejected:
            raise SinkRejected(f"{len(rejected)} frames could not be decoded and were not printed", reasons=rejected)


def open_sink(url: str, settings: object) -> StdoutSink:
    """Entry point for `stdout:` (lines) and `stdout:json`.

    Raises:
        ConfigurationError: another word after the colon.
    """
    mode = url.partition(":")[2].removeprefix("//")
    if mode in ("", "lines"):
        return StdoutSink("lines")
    if mode == "json":
        return StdoutSink("json")
    raise ConfigurationError(f'{url!r}: use "stdout:" for readable lines or "stdout:json" for JSON lines')


def render(batch: Batch, mode: Mode = "lines") -> str:
    """A batch as text, one line an event."""
    items = sorted([*_points(batch), *map(_item, batch.events)], key=_time)
    line: Callable[[int, dict[str, Any]], str]
    line = _JsonLine(batch.task_id) if mode == "json" else _readable_line
    return "".join([f"{line(time_unix_ns, fields)}\n" for time_unix_ns, fields in items])


def _time(item: _FlatEvent) -> int:
    return item[0]


def _points(batch: Batch) -> Iterator[_FlatEvent]:
    columns = batch.columns
    rows = zip(columns.series_index, columns.iterations, columns.times_unix_ns, columns.values, strict=True)
    for index, iteration, time_unix_ns, value in rows:
        key = columns.series[index]
        fields: dict[str, Any] = {"type": key.kind, "title": key.title, "series": key.series}
        if key.kind == "scalar":
            fields["iteration"] = iteration
        fields["value"] = value
        if key.unit:
            fields["unit"] = key.unit
        yield time_unix_ns, fields


def _item(event: FrameEvent) -> _FlatEvent:
    fields: dict[str, Any] = {"type": _TYPE_NAMES[type(event)]}
    for name in event.__slots__:
        if name != "time_unix_ns":
            fields[name] = getattr(event, name)
    return event.time_unix_ns, fields


_TYPE_NAMES: dict[type, str] = {
    ConsoleLine: "console",
    ModelSaved: "model",
    SingleValue: "value",
    RecordChange: "record",
    Plot: "plot",
    Media: "media",
}


class _JsonLine:
    """One event as a JSON object: type, task, time, and the event's own fields."""

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id

    def __call__(self, time_unix_ns: int, fields: dict[str, Any]) -> str:
        document = {"type": fields["type"], "task": self._task_id, "time_unix_ns": time_unix_ns}
        for name, value in fields.items():
            document[name] = value
        return _json(document)


def _json(value: Any) -> str:
    return orjson.dumps(_json_value(value)).decode()


def _json_value(value: Any) -> Any:
    """What JSON can say: NaN and infinities by name, bytes in hexadecimal."""
    if isinstance(value, float):
        return value if math.isfinite(value) else _non_finite(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): _json_value(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(part) for part in value]
    return value


def _non_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _readable_line(time_unix_ns: int, fields: dict[str, Any]) -> str:
    """`2026-11-23T12:00:00.123Z  train/loss  iter 10  0.123`: UTC, two blanks between the parts."""
    parts = [_iso(time_unix_ns), *_PARTS[fields["type"]](fields)]
    return "  ".join(parts).translate(_ESCAPES)


def _scalar_parts(fields: dict[str, Any]) -> list[str]:
    return [f"{fields['title']}/{fields['series']}", f"iter {fields['iteration']}", _number(fields["value"])]


def _resource_parts(fields: dict[str, Any]) -> list[str]:
    unit = fields.get("unit", "1")
    value = f"{fields['value']:.6g}"
    return [f"{fields['title']}/{fields['series']}", value if unit == "1" else f"{value} {unit}"]


def _console_parts(fields: dict[str, Any]) -> list[str]:
    level = fields["level"]
    origin = fields["stream"] if level is None else f"{fields['stream']} {_LEVELS.get(level, level)}"
    return [origin, _COLOUR.sub("", fields["text"])]


def _model_parts(fields: dict[str, Any]) -> list[str]:
    parts = ["model saved", fields["name"], fields["path"], fields["framework"]]
    if fields["iteration"] is not None:
        parts.append(f"iter {fields['iteration']}")
    if fields["size_bytes"] is not None:
        parts.append(f"{fields['size_bytes']:,} bytes")
    return parts


def _value_parts(fields: dict[str, Any]) -> list[str]:
    return [fields["name"], _number(fields["value"])]


def _record_parts(fields: dict[str, Any]) -> list[str]:
    return [f"{fields['section']}.{fields['key']}", _json(fields["value"])]


def _plot_parts(fields: dict[str, Any]) -> list[str]:
    size = f"{len(fields['figure']):,} bytes" if fields["figure"] else f"blob {fields['blob']}"
    return [f"plot {fields['title']}/{fields['series']}", f"iter {fields['iteration']}", size]


def _media_parts(fields: dict[str, Any]) -> list[str]:
    return [f"media {fields['title']}/{fields['series']}", f"iter {fields['iteration']}", fields["uri"]]


_PARTS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "scalar": _scalar_parts,
    "resource": _resource_parts,
    "console": _console_parts,
    "model": _model_parts,
    "value": _value_parts,
    "record": _record_parts,
    "plot": _plot_parts,
    "media": _media_parts,
}


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else _non_finite(value)


def _iso(time_unix_ns: int) -> str:
    try:
        moment = datetime.fromtimestamp(time_unix_ns // 10**9, UTC)
    except (OverflowError, OSError, ValueError):
        # Outside the years 1 to 9999: a clock gone wrong is still a time.
        return f"{time_unix_ns} ns"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_unix_ns // 10**6 % 1000:03d}Z"


def _encodable(text: str, encoding: str | None) -> str:
    """`text` with what the stream's encoding has no sign for as backslash escapes."""
    if text.isascii():
        return text
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
