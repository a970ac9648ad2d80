"""telemetry: event streaming for Python training code, under a Task SDK.

    from telemetry import Task

    task = Task.init(project_name="examples", task_name="first")
    logger = task.get_logger()
    for step in range(100):
        logger.report_scalar("loss", "train", 1.0 / (step + 1), step)

The names below are looked up on first use (PEP 562): `import telemetry` starts no thread, imports no
aiohttp, and costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from telemetry.client import AsyncClient, Client
    from telemetry.errors import (
        BlobError,
        ConfigurationError,
        EventsDropped,
        FrameError,
        FrameTruncated,
        InvalidEvent,
        InvalidQuery,
        JournalError,
        QueueClosed,
        ServerError,
        ServerUnreachable,
        SinkError,
        SinkRejected,
        SinkUnavailable,
        TelemetryError,
    )
    from telemetry.events import (
        ConsoleLine,
        Media,
        ModelSaved,
        Plot,
        Reading,
        RecordChange,
        ResourceSample,
        Scalar,
        SingleValue,
        TaskHeader,
    )
    from telemetry.ledger import Ledger
    from telemetry.pipeline import Pipeline
    from telemetry.protocols import Collector, Emit, Sink
    from telemetry.record import TaskStatus
    from telemetry.sdk.handles.models import InputModel, Model, OutputModel
    from telemetry.sdk.launch.plugins import open_sink
    from telemetry.sdk.task.task import Logger, Task
    from telemetry.settings import Settings

    __version__: str

__all__ = [
    "AsyncClient",
    "BlobError",
    "Client",
    "Collector",
    "ConfigurationError",
    "ConsoleLine",
    "Emit",
    "EventsDropped",
    "FrameError",
    "FrameTruncated",
    "InputModel",
    "InvalidEvent",
    "InvalidQuery",
    "JournalError",
    "Ledger",
    "Logger",
    "Media",
    "Model",
    "ModelSaved",
    "OutputModel",
    "Pipeline",
    "Plot",
    "QueueClosed",
    "Reading",
    "RecordChange",
    "ResourceSample",
    "Scalar",
    "ServerError",
    "ServerUnreachable",
    "Settings",
    "SingleValue",
    "Sink",
    "SinkError",
    "SinkRejected",
    "SinkUnavailable",
    "Task",
    "TaskHeader",
    "TaskStatus",
    "TelemetryError",
    "__version__",
    "open_sink",
]

_HOMES = {
    "telemetry.client": ("AsyncClient", "Client"),
    "telemetry.errors": (
        "BlobError",
        "ConfigurationError",
        "EventsDropped",
        "FrameError",
        "FrameTruncated",
        "InvalidEvent",
        "InvalidQuery",
        "JournalError",
        "QueueClosed",
        "ServerError",
        "ServerUnreachable",
        "SinkError",
        "SinkRejected",
        "SinkUnavailable",
        "TelemetryError",
    ),
    "telemetry.events": (
        "ConsoleLine",
        "Media",
        "ModelSaved",
        "Plot",
        "Reading",
        "RecordChange",
        "ResourceSample",
        "Scalar",
        "SingleValue",
        "TaskHeader",
    ),
    "telemetry.ledger": ("Ledger",),
    "telemetry.pipeline": ("Pipeline",),
    "telemetry.protocols": ("Collector", "Emit", "Sink"),
    "telemetry.sdk.handles.models": ("InputModel", "Model", "OutputModel"),
    "telemetry.sdk.launch.plugins": ("open_sink",),
    "telemetry.record": ("TaskStatus",),
    "telemetry.sdk.task.task": ("Logger", "Task"),
    "telemetry.settings": ("Settings",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("telemetry-tasks")
    elif name in _HOME_OF:
        from importlib import import_module

        value = getattr(import_module(_HOME_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # found once: from now on it is a plain attribute
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
