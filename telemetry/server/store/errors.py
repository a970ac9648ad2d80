"""What can go wrong inside the store, as the server's other modules see it.

TelemetryError
├── StoreUnavailable    the disk is full or failing: nothing of the transaction was kept; try again later
├── BlobRefused         a task may not hold a blob: its project is full, or it was deleted
└── NotFound            no such task or series
"""

from __future__ import annotations

from telemetry.errors import TelemetryError

__all__ = ["BlobRefused", "NotFound", "StoreUnavailable"]


class StoreUnavailable(TelemetryError):
    """The database cannot be written now. The transaction was rolled back: none of its frames were kept."""


class BlobRefused(TelemetryError):
    """A task may not hold a blob. `gone`: nor anything else, for it was deleted."""

    def __init__(self, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone


class NotFound(TelemetryError):
    """A task or series that the store does not have."""
