"""What stands behind a Task: a run of this process, or a task that runs, ran or waits elsewhere.

Task is a skin over one of two cores:

    RunningTask   (running.py)   this process's own task: events go into the pipeline, nothing waits for a network
    StoredTask    (stored.py)    any other task: changes are sent to the server at once, and an error is raised
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from telemetry.events import TaskHeader
    from telemetry.ledger import Ledger
    from telemetry.protocols import TaskEmit
    from telemetry.sdk.bytes.depot import Depot
    from telemetry.sdk.cores.running import RunningTask
    from telemetry.sdk.models.book import ModelBook
    from telemetry.sdk.parameters.connected import Connected
    from telemetry.sdk.reading.view import View
    from telemetry.sdk.record.record import Record
    from telemetry.sdk.record.status import Outcome
    from telemetry.sdk.reports.logger import Logger
    from telemetry.settings import Settings

__all__ = ["TaskCore"]


class TaskCore(Protocol):
    """What the parts of Task stand on.

    Attributes:
        header: the task's id, and its name, project and type as this process knows them.
        settings: as they were when the task was begun or found.
        record: writes changes of the record.
        view: reads the record and the reports.
        emit: takes events that are no change of the record.
        logger: what the program reports with.
        connected: the program's objects whose values the record follows.
        depot: puts the bytes of artifacts and models where they belong.
        book: the models of the task that this process has made or opened.
        is_running: True while this process runs the task: False once it has ended, and for any other task.
    """

    header: TaskHeader
    settings: Settings
    record: Record
    view: View
    emit: TaskEmit
    logger: Logger
    connected: Connected
    depot: Depot
    book: ModelBook

    @property
    def begun_here(self) -> RunningTask | None:
        """Return the core itself, if this process began the task (it may have ended since)."""

    @property
    def is_running(self) -> bool: ...

    @property
    def keeps_models(self) -> bool:
        """Return whether saved models are uploaded, where nothing else is said."""

    def moved(self, iteration: int) -> int:
        """Return an iteration with the task's offset added, as those of scalars are moved on."""

    @property
    def status(self) -> str:
        """Return where the task stands, as far as this process knows."""

    def flush(self, timeout_s: float) -> bool:
        """Bring what was reported to the sinks or to disk; False if the time ran out."""

    def end(self, outcome: Outcome, timeout_s: float | None = None) -> None:
        """End the task; only the first call does anything."""

    def ledger(self) -> Ledger:
        """Return what became of this process's events of the task."""
