"""TELEMETRY_MODE=disabled: the same calls, and nothing behind them."""

from __future__ import annotations

from typing import Any

from telemetry.events import Event
from telemetry.ledger import Ledger

__all__ = ["DisabledPipeline"]


class NullEmit:
    """An Emit that keeps nothing. Rows are let go in steps, as the hot path writes them itself."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.mark = 5_000

    def __call__(self, event: Event) -> bool:
        """Take no event."""
        return False

    def crossed(self) -> None:
        """Forget the rows."""
        self.rows.clear()

    def refuse(self, reason: str, message: str) -> None:
        """Count nothing."""


class DisabledPipeline:
    """Stands in for a pipeline: no thread, no file, no counts."""

    def __init__(self) -> None:
        self.emit = NullEmit()

    def start(self) -> None:
        """Start nothing."""

    def flush(self, timeout_s: float | None = None) -> bool:
        """Return True: nothing is waiting."""
        return True

    def stop_collectors(self) -> None:
        """Stop none: none were started."""

    def close(self, timeout_s: float | None = None) -> Ledger:
        """Return empty counts."""
        return self.ledger()

    def ledger(self) -> Ledger:
        """Return empty counts: what is disabled logs nothing."""
        return Ledger(logged=0, delivered=0, on_disk=0, in_memory=0)
