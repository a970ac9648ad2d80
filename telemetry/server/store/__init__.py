"""The store's own few files; everyone else imports from here and never speaks SQL."""

from telemetry.server.store.backup import BackupMade, back_up_stopped, check_backup
from telemetry.server.store.bands import Band
from telemetry.server.store.blob_files import Part, WrongOffset
from telemetry.server.store.blob_refs import BlobRef
from telemetry.server.store.blob_store import BlobStore
from telemetry.server.store.columns import Column, is_column, parse_column
from telemetry.server.store.content import FrameContent, prepare
from telemetry.server.store.errors import (
    BackupFailed,
    BlobRefused,
    MoveStopped,
    NotFound,
    StoreFailed,
    StoreUnavailable,
    Unstorable,
)
from telemetry.server.store.gate import ProjectLimit, ProjectLimits
from telemetry.server.store.plain import json_number
from telemetry.server.store.point_store import SealingLimits, SeriesChange
from telemetry.server.store.points import PointsQuery, SampledSeries
from telemetry.server.store.queries import TaskQuery
from telemetry.server.store.reads import ConsoleQuery
from telemetry.server.store.reports import ReportsQuery
from telemetry.server.store.retention import Retention, RetentionPlan, RetentionTask
from telemetry.server.store.store import Store, Written
from telemetry.server.store.table import TASK_SORTS, TasksQuery
from telemetry.server.store.task_filter import check_words
from telemetry.server.store.writer import TaskChange

__all__ = [
    "TASK_SORTS",
    "BackupFailed",
    "BackupMade",
    "Band",
    "BlobRef",
    "BlobRefused",
    "BlobStore",
    "Column",
    "ConsoleQuery",
    "FrameContent",
    "MoveStopped",
    "NotFound",
    "Part",
    "PointsQuery",
    "ProjectLimit",
    "ProjectLimits",
    "ReportsQuery",
    "Retention",
    "RetentionPlan",
    "RetentionTask",
    "SampledSeries",
    "SealingLimits",
    "SeriesChange",
    "Store",
    "StoreFailed",
    "StoreUnavailable",
    "TaskChange",
    "TaskQuery",
    "TasksQuery",
    "Unstorable",
    "Written",
    "WrongOffset",
    "back_up_stopped",
    "check_backup",
    "check_words",
    "is_column",
    "json_number",
    "parse_column",
    "prepare",
]
