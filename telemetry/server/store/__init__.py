"""The store's own few files; everyone else imports from here and never speaks SQL."""

from telemetry.server.store.bands import Band
from telemetry.server.store.content import FrameContent, prepare
from telemetry.server.store.errors import NotFound, StoreUnavailable
from telemetry.server.store.gate import ProjectLimit, ProjectLimits
from telemetry.server.store.points import PointsQuery, SeriesPoints
from telemetry.server.store.reads import METRIC_SORT, TASK_SORTS, ConsoleQuery, TasksQuery, json_number
from telemetry.server.store.store import Store, Written
from telemetry.server.store.writer import SeriesChange, TaskChange

__all__ = [
    "METRIC_SORT",
    "TASK_SORTS",
    "Band",
    "ConsoleQuery",
    "FrameContent",
    "NotFound",
    "PointsQuery",
    "ProjectLimit",
    "ProjectLimits",
    "SeriesChange",
    "SeriesPoints",
    "Store",
    "StoreUnavailable",
    "TaskChange",
    "TasksQuery",
    "Written",
    "json_number",
    "prepare",
]
