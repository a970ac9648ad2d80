"""What the server's API answers, as types: the shapes that telemetry.client returns and docs/server.md lists."""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

__all__ = [
    "BlobStatus",
    "Change",
    "ChoicesAnswer",
    "ConsoleAnswer",
    "ConsoleLineInfo",
    "LastScalar",
    "MediaAnswer",
    "MediaInfo",
    "ModelInfo",
    "Number",
    "PlotInfo",
    "PointsAnswer",
    "PointsInfo",
    "ProjectInfo",
    "QueriedTask",
    "QueryAnswer",
    "RecordRow",
    "SeriesSummary",
    "ServerInfo",
    "TaskDetail",
    "TaskInfo",
    "TaskRow",
    "TasksAnswer",
    "ValueInfo",
    "WantedBlob",
]

# A float, or "NaN", "Infinity", "-Infinity": JSON has no other way to carry these.
Number = float | str

# Section, key, time (Unix ns), writer (16 bytes) and value of one entry of a record.
RecordRow = tuple[str, str, int, bytes, Any]


class ServerInfo(TypedDict):
    """What answers: `api` and `schema` are integers that grow with each incompatible change."""

    version: str
    api: int
    schema: int


class LastScalar(TypedDict):
    """The newest point of a series, as the task table shows it."""

    title: str
    series: str
    value: Number | None
    iteration: int


class TaskInfo(TypedDict):
    """A row of the task table. Times are Unix milliseconds; None where there is none yet."""

    id: str
    name: str
    project: str
    type: str
    status: str
    status_reason: str | None
    progress: float | None
    tags: list[str]
    more_tags: bool
    system_tags: list[str]
    comment: str | None
    parent: str | None
    published: bool
    created_unix_ms: int | None
    started_unix_ms: int | None
    ended_unix_ms: int | None
    last_update_unix_ms: int | None
    last_change_unix_ms: int | None
    status_changed_unix_ms: int | None
    last_seen_unix_ms: int | None
    last_iteration: int | None
    points: int
    writers: int
    host: str | None
    last_scalars: list[LastScalar]


class TaskRow(TaskInfo, total=False):
    """A row of the table; `columns` only where some were asked for, by the names that they were asked for."""

    columns: dict[str, Any]


class TaskDetail(TaskInfo):
    """A task with its whole record, section -> key -> value, and its counts."""

    record: dict[str, dict[str, Any]]
    counts: dict[str, int]


class TasksAnswer(TypedDict):
    """One page of the task table; `total` counts the tasks of all pages."""

    tasks: list[TaskRow]
    total: int
    page: int
    page_size: int


class QueriedTask(TaskInfo, total=False):
    """A task that a query found; `fields` only where some were asked for, by the names that they were asked for."""

    fields: dict[str, Any]


class QueryAnswer(TypedDict):
    """One page of the tasks that a query found; `total` counts those of all pages."""

    tasks: list[QueriedTask]
    total: int
    page: int
    page_size: int


class ChoicesAnswer(TypedDict):
    """What the table of tasks can be filtered by, and the columns that it can show."""

    tags: list[str]
    types: list[str]
    parameters: list[str]
    properties: list[str]
    metrics: list[str]
    values: list[str]


class Change(TypedDict):
    """A change of one field of a task's record; a value of None removes it."""

    section: str
    key: str
    value: Any


class ProjectInfo(TypedDict):
    """A project and how many tasks it holds."""

    name: str
    tasks: int


class SeriesSummary(TypedDict):
    """A series and its summary. `min` and `max` are over finite values only; `last` is the latest by time.

    `rank`: which of several processes reports it; None where there is one.
    """

    id: int
    kind: str
    title: str
    series: str
    rank: int | None
    unit: str
    count: int
    last: Number | None
    last_iteration: int
    last_unix_ms: int
    min: float | None
    min_iteration: int | None
    max: float | None
    max_iteration: int | None
    first_iteration: int
    highest_iteration: int
    non_finite: int


class PointsInfo(TypedDict):
    """The points of one series: `x` and `y` of equal length, y None where the value is not finite."""

    id: int
    count: int
    exact: bool
    x: list[int]
    y: list[float | None]
    smooth: list[float | None] | None
    non_finite: list[tuple[int, str]]
    non_finite_count: int


class PointsAnswer(TypedDict):
    """Points of the asked series; `x` says whether they are over "iteration" or "time" (Unix ms)."""

    x: str
    series: list[PointsInfo]


class ConsoleLineInfo(TypedDict):
    """A console line; `id` grows with arrival and pages the answer."""

    id: int
    unix_ms: int
    stream: str
    level: int | None
    text: str


class ConsoleAnswer(TypedDict):
    """Console lines in order; `more` says that the range holds further ones."""

    lines: list[ConsoleLineInfo]
    more: bool


class ModelInfo(TypedDict):
    """A saved model file, by the path the program gave it."""

    name: str
    path: str
    framework: str
    iteration: int | None
    size_bytes: int | None
    unix_ms: int


class ValueInfo(TypedDict):
    """A single value of the task; the last one reported under a name."""

    name: str
    value: Number
    unix_ms: int


class PlotInfo(TypedDict):
    """A figure under its title, series and iteration.

    `figure` is plotly's {"data", "layout"}; None where it lies in a blob, or was left out of this answer ("omitted").
    """

    title: str
    series: str
    iteration: int
    unix_ms: int
    figure: dict[str, Any] | None
    blob: str
    omitted: bool


class MediaInfo(TypedDict):
    """An image, sound, text or film. `state`: "stored" if its bytes can be had, "pending" while they cannot."""

    title: str
    series: str
    iteration: int
    unix_ms: int
    uri: str
    filename: str
    content_type: str
    size_bytes: int | None
    state: str


class MediaAnswer(TypedDict):
    """Media by title, series and iteration; `more` says that further ones match."""

    media: list[MediaInfo]
    more: bool


class BlobStatus(NamedTuple):
    """How much of a blob the server has: `offset` of `size_bytes`; `complete` once its sha256 was found right."""

    offset: int
    size_bytes: int
    complete: bool


class WantedBlob(NamedTuple):
    """A blob that a task's record names and the server does not have; `label` is what the record calls it."""

    sha256: str
    size_bytes: int
    label: str
