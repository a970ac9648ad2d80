"""TELEMETRY_MODE=disabled: the same calls, and nothing behind them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from telemetry.events import Event
from telemetry.iterations import IterationOffset
from telemetry.ledger import Ledger
from telemetry.protocols import Sink, TaskEmit

__all__ = ["DisabledPipeline", "TaskPipeline"]


class TaskPipeline(Protocol):
    """What a running task asks of its pipeline; see Pipeline for what each means."""

    iteration_offset: IterationOffset
    on_server_lost: Callable[[int], None]

    @property
    def emit(self) -> TaskEmit: ...

    @property
    def spool_folder(self) -> Path | None: ...

    def start(self) -> None: ...

    def flush(self, timeout_s: float | None = None) -> bool: ...

    def session_folders(self, timeout_s: float) -> list[tuple[Sink, Path]]: ...

    def ledger(self) -> Ledger: ...

    def stop_collectors(self) -> None: ...

    def close(self, timeout_s: float | None = None) -> Ledger: ...


class NullEmit:
    """An Emit that keeps nothing. Rows are let go in steps, as the hot path writes them itself."""

    latest_iteration = 0

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

    spool_folder: Path | None = None

    def __init__(self) -> None:
        self.emit = NullEmit()
        self.iteration_offset = IterationOffset()
        self.on_server_lost: Callable[[int], None] = lambda events: None

    def start(self) -> None:
        """Start nothing."""

    def flush(self, timeout_s: float | None = None) -> bool:
        """Return True: nothing is waiting."""
        return True

    def session_folders(self, timeout_s: float) -> list[tuple[Sink, Path]]:
        """Return none: nothing is kept."""
        return []

    def stop_collectors(self) -> None:
        """Stop none: none were started."""

    def close(self, timeout_s: float | None = None) -> Ledger:
        """Return empty counts."""
        return self.ledger()

    def ledger(self) -> Ledger:
        """Return empty counts: what is disabled logs nothing."""
        return Ledger(logged=0, delivered=0, on_disk=0, in_memory=0)
