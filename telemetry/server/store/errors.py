"""What can go wrong inside the store, as the server's other modules see it.

TelemetryError
├── StoreUnavailable    the disk is full or failing: nothing of the transaction was kept; try again later
├── StoreFailed         the database failed in another way: nothing of the transaction was kept
│   └── Unstorable      it does not take what it was given, and never will
├── MoveStopped         the server was stopped while an older store was brought up to date; the next start goes on
├── BackupFailed        a backup could not be made; the store itself is as it was
├── BlobRefused         a task may not hold a blob: its project is full, or it was deleted
└── NotFound            no such task or series
"""

from __future__ import annotations

from telemetry.errors import TelemetryError

__all__ = [
    "BackupFailed",
    "BlobRefused",
    "MoveStopped",
    "NotFound",
    "StoreFailed",
    "StoreUnavailable",
    "Unstorable",
]


class StoreUnavailable(TelemetryError):
    """The database cannot be written now. The transaction was rolled back: none of its frames were kept."""


class StoreFailed(TelemetryError):
    """The database failed for a reason that is not its disk's. A transaction was rolled back."""


class Unstorable(StoreFailed):
    """The database does not take these values: it would be the same each time. The transaction was rolled back."""


class MoveStopped(TelemetryError):
    """Whoever opened an older store is to stop. What is moved is moved; the next one to open it goes on."""


class BackupFailed(TelemetryError):
    """A backup could not be made, and why; the store that it is of goes on."""


class BlobRefused(TelemetryError):
    """A task may not hold a blob. `gone`: nor anything else, for it was deleted."""

    def __init__(self, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone


class NotFound(TelemetryError):
    """A task or series that the store does not have."""
