"""What can go wrong inside the store, as the server's other modules see it.

TelemetryError
├── StoreUnavailable    the disk is full or failing: nothing of the transaction was kept; try again later
└── NotFound            no such task or series
"""

from __future__ import annotations

from telemetry.errors import TelemetryError

__all__ = ["NotFound", "StoreUnavailable"]


class StoreUnavailable(TelemetryError):
    """The database cannot be written now. The transaction was rolled back: none of its frames were kept."""


class NotFound(TelemetryError):
    """A task or series that the store does not have."""
