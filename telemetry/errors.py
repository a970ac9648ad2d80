"""Every error that this package raises on purpose.

    TelemetryError
    ├── ConfigurationError      a setting, argument or URL that cannot be used (also a ValueError)
    ├── InvalidEvent            an event that cannot be kept as it is (also a ValueError)
    ├── InvalidQuery            a filter or tag expression that cannot be read (also a ValueError)
    ├── QueueClosed             the pipeline was closed before the event came
    ├── EventsDropped           strict mode only: the first drop, with its reason
    ├── FrameError              bytes that are not a whole, sound frame (also a ValueError)
    │   └── FrameTruncated      a frame that stops early: more bytes may still come
    ├── BlobError               bytes of an artifact or model that cannot be kept, read or carried
    ├── JournalError            a journal or session folder that cannot be written or read
    ├── SinkError
    │   ├── SinkUnavailable     try again later; the frames are kept
    │   └── SinkRejected        the far side refuses these frames for good; they are quarantined
    └── ServerError             the server answered a request of ours with an error
        └── ServerUnreachable   no answer at all, or one that is no telemetry server's

A message says what failed, what became of the data, and what to type.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
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
]


class TelemetryError(Exception):
    """The root: catch this to catch everything of ours."""


class ConfigurationError(TelemetryError, ValueError):
    """A setting, argument or URL that cannot be used; nothing was started."""


class InvalidEvent(TelemetryError, ValueError):
    """An event that cannot be kept as it is: a wrong type, or a number outside its range."""


class InvalidQuery(TelemetryError, ValueError):
    """A filter or tag expression that cannot be read; nothing was asked."""


class QueueClosed(TelemetryError):
    """The pipeline was closed before this event came; the event is not kept."""


class EventsDropped(TelemetryError):
    """Raised in strict mode by the first drop; without strict mode it is only counted."""


class FrameError(TelemetryError, ValueError):
    """Bytes that are not a whole, sound frame. None of the frame's events were used."""


class FrameTruncated(FrameError):
    """The bytes stop before the frame does; `missing_bytes` more would complete it."""

    def __init__(self, message: str, *, missing_bytes: int) -> None:
        super().__init__(message)
        self.missing_bytes = missing_bytes


class BlobError(TelemetryError):
    """Bytes of an artifact, model or medium that cannot be kept, read or carried; the source is as it was."""


class JournalError(TelemetryError):
    """A journal or session folder that cannot be written or read."""


class SinkError(TelemetryError):
    """A sink could not take frames."""


class SinkUnavailable(SinkError):
    """The sink cannot take frames now; the engine keeps them and tries again.

    Args:
        retry_after_s: seconds that the far side asked us to wait (HTTP Retry-After), if it did.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SinkRejected(SinkError):
    """The sink refuses these frames for good; the engine quarantines them and goes on.

    Args:
        reasons: the far side's reason by sequence number. Frames of the same write that are not
            named here were delivered.
    """

    def __init__(self, message: str, *, reasons: Mapping[int, str]) -> None:
        super().__init__(message)
        self.reasons = dict(reasons)


class ServerError(TelemetryError):
    """The server answered a request with an error status.

    Args:
        retry_after_s: seconds that it asked to wait (Retry-After), if it did.
        reason: what the server said, without address and status.
    """

    def __init__(self, message: str, *, status: int, retry_after_s: float | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.reason = reason


class ServerUnreachable(ServerError):
    """No answer: the connection failed or timed out, or what answers is not a telemetry server (status 0)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=0)
