"""Task, section "Continuing Task Execution": what is added to the iterations that the program reports."""

from __future__ import annotations

from telemetry.errors import ConfigurationError, InvalidEvent
from telemetry.events import to_iteration
from telemetry.record import TaskKey
from telemetry.sdk.cores.base import TaskBase

__all__ = ["TaskIterations"]


class TaskIterations(TaskBase):
    """See Task."""

    def get_initial_iteration(self) -> int:
        """Return what is added to each iteration that is reported; 0 unless it was asked for."""
        if self._running is not None:
            return self._running.iteration_offset.current
        value = self._field(TaskKey.INITIAL_ITERATION)
        return value if type(value) is int else 0

    def set_initial_iteration(self, offset: int = 0) -> int:
        """Add `offset` to the iterations of what is reported from now on (scalars, plots, media, models); return it.

        Children that begin afterwards do so, too. Nothing that was reported before is moved.

        Raises:
            ConfigurationError: it is no whole number, or the task is not one that this process runs.
        """
        try:
            number = to_iteration(offset)
        except InvalidEvent as error:
            raise ConfigurationError(f"set_initial_iteration: {error}. Nothing was changed") from error
        if self._running is None:
            raise ConfigurationError(
                "set_initial_iteration: iterations are moved where they are reported, by the program that runs the "
                "task. Nothing was changed; Task.init(continue_last_task=...) goes on with it"
            )
        self._running.set_iteration_offset(number)
        return number
