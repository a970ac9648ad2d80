"""What travels: the event types, the columns that scalars travel in, and Batch.

Times are Unix time in integer nanoseconds (`time_unix_ns`). Text is any `str`; a lone surrogate is
written as a backslash escape, because UTF-8 cannot carry it.

A task's record (name, status, progress, tags, ...) is the fold of its `RecordChange` events: for each
(section, key) the change with the greatest (time_unix_ns, writer id) wins, so the order in which
frames arrive does not matter.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import repeat
from typing import Any, ClassVar, TypeAlias

from telemetry.errors import InvalidEvent
from telemetry.process.interrupts import is_interrupt
from telemetry.record import Section

__all__ = [
    "INT64_MAX",
    "INT64_MIN",
    "MAX_FIGURE_BYTES",
    "MAX_GROUP_SCALARS",
    "MAX_NAME_CHARS",
    "MAX_TAGS",
    "MAX_TAG_CHARS",
    "MAX_URI_CHARS",
    "MAX_VALUE_DEPTH",
    "ROW_SLOTS",
    "Batch",
    "Blanks",
    "ConsoleLine",
    "Event",
    "Group",
    "Media",
    "ModelSaved",
    "Plot",
    "Reading",
    "RecordChange",
    "ResourceSample",
    "Scalar",
    "ScalarColumns",
    "SeriesKey",
    "SingleValue",
    "TaskHeader",
    "blank_group",
    "clean_name",
    "clean_text",
    "group_end",
    "group_start",
    "names_of",
    "to_float",
    "to_iteration",
    "write_out",
]

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1

# Names are keys of the store's index and legends of its charts; beyond this nobody can read them.
MAX_NAME_CHARS = 1000

# Tags of a task or model, and the length of one: every row of a table shows them, and each is in an index.
MAX_TAGS = 100
MAX_TAG_CHARS = 200

# A plot's figure within a frame, as UTF-8; a larger one is a blob beside the frames.
MAX_FIGURE_BYTES = 4 * 1024 * 1024

# Of media: longer ones are no address but data.
MAX_URI_CHARS = 32_768

# Lists and maps of a record value inside each other; Python's own limit lies at about 1000.
MAX_VALUE_DEPTH = 64


@dataclass(frozen=True, slots=True)
class TaskHeader:
    """Who a stream of frames belongs to: what a sink is told at open.

    Attributes:
        task_id: 32 lower-case hexadecimal digits.
        writer_id: 16 bytes; one process's life. A forked child is a new writer.
        project: may contain "/" for sub-projects.
        rank: which of several processes of one job this is, from 0; None where there is only one.
    """

    task_id: str
    writer_id: bytes
    project: str
    name: str
    type: str = "training"
    created_unix_ns: int = 0
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Scalar:
    """One number of one series. `value`: float64, NaN and infinities kept; `iteration`: int64."""

    title: str
    series: str
    value: float
    iteration: int
    time_unix_ns: int


@dataclass(frozen=True, slots=True)
class ConsoleLine:
    """A line of output, without its line end.

    Attributes:
        stream: "stdout", "stderr", "log" (the logging module) or "report" (Logger.report_text).
        level: a logging level (10 debug ... 50 critical), or None for raw output.
    """

    time_unix_ns: int
    stream: str
    text: str
    level: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """One resource figure. `unit`: a UCUM symbol such as "%", "By", "By/s" or "1"."""

    title: str
    series: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class ResourceSample:
    """The resource figures of one instant; they travel in the scalar columns, kind "resource"."""

    time_unix_ns: int
    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class ModelSaved:
    """A model file was written. `path` is as the program gave it; the file is not read or moved."""

    time_unix_ns: int
    name: str
    path: str
    framework: str
    iteration: int | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SingleValue:
    """A number of the whole task, not of an iteration: the last one reported under a name counts."""

    time_unix_ns: int
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class RecordChange:
    """One field of the task's record takes a new value; None removes it.

    Attributes:
        section: "task" for the task's own fields, "writers" for its processes, ...
        value: None, bool, int, float, str, bytes, or lists and string-keyed dicts of these.
    """

    time_unix_ns: int
    section: str
    key: str
    value: Any


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure under a title and series, at an iteration; the latest one of the same three counts.

    Attributes:
        figure: plotly's JSON, `{"data": [...], "layout": {...}}`, at most MAX_FIGURE_BYTES; "" where `blob` is set.
        blob: the sha256 of the same JSON, which lies beside the frames.
    """

    time_unix_ns: int
    title: str
    series: str
    iteration: int
    figure: str
    blob: str = ""


@dataclass(frozen=True, slots=True)
class Media:
    """An image, sound, text or film under a title and series, at an iteration; the latest of the same three counts.

    Attributes:
        uri: "blob:<sha256>" for bytes that lie beside the frames, or a URL.
        content_type: a MIME type such as "image/png"; "" if not known.
        size_bytes: None if not known.
    """

    time_unix_ns: int
    title: str
    series: str
    iteration: int
    uri: str
    filename: str
    content_type: str
    size_bytes: int | None = None


# What the queue takes one by one. Scalars of the hot path do not pass as objects: see queue.py.
Event: TypeAlias = Scalar | ConsoleLine | ResourceSample | ModelSaved | SingleValue | RecordChange | Plot | Media


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """A series' identity inside a task. `kind`: "scalar" (x is the iteration) or "resource" (x is time)."""

    kind: str
    title: str
    series: str
    unit: str = ""


@dataclass(slots=True)
class ScalarColumns:
    """Points in columns, in the order they were reported; row i belongs to `series[series_index[i]]`.

    Attributes:
        series: the series named in these rows.
        series_index: uint32[n].
        iterations: int64[n]; for kind "resource" the Unix time in milliseconds.
        times_unix_ns: int64[n].
        values: float64[n], every bit kept.
    """

    series: list[SeriesKey] = field(default_factory=list)
    series_index: array[int] = field(default_factory=lambda: array("I"))
    iterations: array[int] = field(default_factory=lambda: array("q"))
    times_unix_ns: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.values)


# Events that travel one by one in a frame; Scalar and ResourceSample travel in the columns.
FrameEvent: TypeAlias = ConsoleLine | ModelSaved | SingleValue | RecordChange | Plot | Media


@dataclass(slots=True)
class Batch:
    """What one frame carries: events of one task by one writer.

    `events_logged` is what the ledger counts for it: scalars, single events, and each resource sample once.
    `rank` is the writer's rank: its series are its own. None where there is only one.
    """

    task_id: str
    columns: ScalarColumns = field(default_factory=ScalarColumns)
    events: Sequence[FrameEvent] = ()
    events_logged: int = 0
    rank: int | None = None


def clean_text(text: str) -> str:
    """Return `text` as UTF-8 can carry it: lone surrogates become backslash escapes."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def clean_name(name: Any) -> str:
    """Return a usable series, title or record name.

    A name over MAX_NAME_CHARS keeps its beginning and gets a digest, so that two long names stay two.

    Raises:
        InvalidEvent: `name` is not a string.
    """
    if not isinstance(name, str):
        raise InvalidEvent(f"a title or series must be a str, not {_shown(name)}")
    text: str = clean_text(name)
    if len(text) > MAX_NAME_CHARS:
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return f"{text[: MAX_NAME_CHARS - 14]}…#{digest}"
    return text


def _shown(value: Any) -> str:
    """Return a value's type, and the value itself where printing it is cheap and cannot fail."""
    name = type(value).__name__
    return f"{name} ({value!r:.80})" if isinstance(value, (bool, int, float, complex, str, bytes)) else name


def to_float(value: Any) -> float:
    """Return a scalar as a float64: Python numbers, numpy scalars, arrays and tensors of one element.

    The value is copied out at once: a tensor is neither kept alive nor seen to change later.

    Raises:
        InvalidEvent: not a real number (a string, None, an array of more than one element, a complex
            number), or an int beyond float64.
    """
    if isinstance(value, (str, bytes, bytearray, complex)) or value is None:
        raise InvalidEvent(f"a scalar must be a number, not {_shown(value)}")
    try:
        # numpy's complex64 is no complex to Python, and its float() drops the imaginary part with a warning.
        if getattr(getattr(value, "dtype", None), "kind", None) in ("c", "U", "S"):
            raise TypeError("its dtype is not real")
        detach = getattr(value, "detach", None)
        # float() of a tensor that requires grad warns; detach is free and silent.
        element = _element(detach() if detach is not None else value)
        if isinstance(element, (str, bytes)):
            raise TypeError("it holds text")
        return float(element)
    except Exception as error:  # somebody else's __float__ runs here, in a report call, which never raises
        if is_interrupt(error):
            raise
        raise InvalidEvent(f"a scalar must be one real number, not {_shown(value)}: {error}") from error


def _element(value: Any) -> Any:
    """Return what an array or tensor of one element holds, as numpy 2.4 takes none with dimensions for a number."""
    dimensions = getattr(value, "ndim", 0)
    if type(dimensions) is not int:
        return value
    if dimensions:
        if math.prod(value.shape) != 1:
            raise TypeError(f"its shape is {tuple(value.shape)}")
        if hasattr(value, "reshape"):
            value = value.reshape(())
        elif hasattr(value, "item"):
            value = value.item()
        elif hasattr(value, "numpy"):
            value = value.numpy().reshape(())
    return value.item() if getattr(getattr(value, "dtype", None), "kind", None) == "O" else value


def to_iteration(iteration: Any) -> int:
    """Return an iteration as an int64; a float, array or tensor is taken if it holds one whole number.

    Raises:
        InvalidEvent: not a whole number, or outside int64.
    """
    number = _index_of(iteration)
    if number is None:
        value = to_float(iteration)
        if not value.is_integer():
            raise InvalidEvent(f"an iteration must be a whole number, not {_shown(iteration)}")
        number = int(value)
    if not INT64_MIN <= number <= INT64_MAX:
        raise InvalidEvent(f"an iteration must fit a signed 64-bit integer, and {number} does not")
    return number


def _index_of(iteration: Any) -> int | None:
    """Return an iteration that is an int of some kind; None for anything else."""
    if isinstance(iteration, float):
        return None  # at once, for an exception at each step would be dear
    try:
        return int(_element(iteration).__index__())
    except Exception as error:  # somebody else's __index__; to_float says what is wrong with it
        if is_interrupt(error):
            raise
        return None


def task_fields(header: TaskHeader, extra: Mapping[str, Any]) -> list[RecordChange]:
    """Return the record changes that make a task known to whoever folds the stream."""
    values = {"name": header.name, "project": header.project, "type": header.type, **extra}
    return [RecordChange(header.created_unix_ns, Section.TASK, key, value) for key, value in values.items()]


# ---- scalars on their way to the batcher ---------------------------------------------------------------
#
# They lie in one flat list, five slots each:
#
#     rows = [title, series, value, iteration, time_unix_ns,  title, series, ...]
#
# A dict of scalars (`Logger.report_scalars`) is a group. It takes the slots of as many scalars as it holds, so that a
# length still counts events, and is left as it is until the batcher writes its scalars out into them. Until then the
# first slot of each of its rows names the `Group`, and the last row has all the rest:
#
#     [group, None, None, None, None,  ...,  group, title or None, {name: value}, iteration, time_unix_ns]

ROW_SLOTS = 5

# A group is taken, or dropped, as a whole: a larger dict is no group.
MAX_GROUP_SCALARS = 1_024


class Group:
    """What marks the rows of a dict of so many scalars.

    Attributes:
        exist: there has been a group in this process, so that rows must be searched for them.
    """

    __slots__ = ("scalars",)

    exist: ClassVar[bool] = False

    def __init__(self, scalars: int) -> None:
        self.scalars = scalars
        Group.exist = True


def blank_group(scalars: int) -> list[Any]:
    """Return the rows of a group, of which the last four slots are to be filled in; the title may stay None."""
    return [Group(scalars), None, None, None, None] * scalars


class Blanks(dict[int, list[list[Any]]]):
    """Number of scalars -> blank groups of so many, made before: to fill one in and copy it is cheaper than a new one.

    Who pops one has it alone, whatever other threads do, and puts it back once it is copied.
    """

    def __missing__(self, scalars: int) -> list[list[Any]]:
        if scalars > MAX_GROUP_SCALARS:
            raise LookupError(f"{scalars} scalars are no group")
        return self.setdefault(scalars, [])


def group_end(rows: list[Any], length: int) -> int:
    """Return the first length from `length` on at which no group is cut in two."""
    while _cuts_a_group(rows, length):
        length += ROW_SLOTS
    return length


def group_start(rows: list[Any], length: int) -> int:
    """Return the last length up to `length` at which no group is cut in two."""
    while _cuts_a_group(rows, length):
        length -= ROW_SLOTS
    return length


def _cuts_a_group(rows: list[Any], length: int) -> bool:
    # Only the last row of a group has an iteration.
    before = length - ROW_SLOTS
    return 0 <= before < len(rows) - ROW_SLOTS and rows[before].__class__ is Group and rows[length - 2] is None


def write_out(rows: list[Any]) -> None:
    """Turn the groups in `rows`, which holds them whole, into scalars, in place."""
    if not Group.exist:
        return
    start, end = 0, len(rows)
    while start < end:
        group = rows[start]
        if group.__class__ is not Group:
            start += ROW_SLOTS
            continue
        after = start + group.scalars * ROW_SLOTS
        title, numbers, iteration, time_unix_ns = rows[after - 4 : after]
        titles, series = _names(title, tuple(numbers))
        rows[start:after:ROW_SLOTS] = titles
        rows[start + 1 : after : ROW_SLOTS] = series
        rows[start + 2 : after : ROW_SLOTS] = numbers.values()
        rows[start + 3 : after : ROW_SLOTS] = repeat(iteration, group.scalars)
        rows[start + 4 : after : ROW_SLOTS] = repeat(time_unix_ns, group.scalars)
        start = after


# A program has a few dicts that it reports; one that makes up names at each step fills no more than this.
@lru_cache(maxsize=64)
def _names(title: str | None, names: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the titles and the series of these names. What is no name stays as it is, for who refuses it to say so."""
    if title is not None:
        return (title,) * len(names), names
    pairs = [names_of(name) for name in names]
    return tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)


def names_of(name: Any) -> tuple[Any, Any]:
    """Return the title and the series that a key of such a dict means; what is neither, twice, to be refused."""
    if isinstance(name, str):
        title, slash, series = name.partition("/")
        return (title, series) if slash and title and series else (name, name)
    return name if isinstance(name, tuple) and len(name) == 2 else (name, name)
