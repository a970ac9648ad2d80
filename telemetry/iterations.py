"""Iteration offsets: what a program reports as step 5 becomes step 1505 of the task that it continues.

Applied where events are encoded, off the program's threads, so that reporting costs the same with an offset as without.
An offset holds for what was reported from the moment on at which it was set.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from telemetry.clock import unix_ns
from telemetry.errors import InvalidEvent
from telemetry.events import INT64_MAX, INT64_MIN, Media, ModelSaved, Plot, ScalarColumns

__all__ = ["IterationOffset"]

_Event = TypeVar("_Event")


class IterationOffset:
    """The offsets of one task in this process, by the moment from which each holds. Safe from any thread."""

    def __init__(self, *, clock: Callable[[], int] = unix_ns) -> None:
        self._clock = clock
        # (Unix ns, offset), ascending; replaced whole.
        self._steps: tuple[tuple[int, int], ...] = ()

    def __bool__(self) -> bool:
        return bool(self._steps)

    @property
    def current(self) -> int:
        """What is added to an iteration that is reported now."""
        return self._steps[-1][1] if self._steps else 0

    def set(self, offset: int) -> None:
        """Add this to the iterations of what is reported from now on."""
        if offset != self.current:
            self._steps = (*self._steps, (self._clock(), offset))

    def at(self, time_unix_ns: int) -> int:
        """Return what is added to the iteration of something that was reported then."""
        return next((offset for since_unix_ns, offset in reversed(self._steps) if time_unix_ns >= since_unix_ns), 0)

    def moved(self, event: _Event) -> _Event:
        """Return an event with its iteration moved on.

        Raises:
            InvalidEvent: it is out of the signed 64-bit integers then.
        """
        if not isinstance(event, (Plot, Media, ModelSaved)) or event.iteration is None:
            return event
        changed: Any = replace(event, iteration=_whole(event.iteration + self.at(event.time_unix_ns)))
        return changed  # type: ignore[no-any-return]

    def moved_columns(self, columns: ScalarColumns) -> tuple[ScalarColumns, list[InvalidEvent]]:
        """Return scalars with their iterations moved on, and an error for each that is left out."""
        since_unix_ns, offset = self._steps[-1]
        if columns.times_unix_ns and min(columns.times_unix_ns) >= since_unix_ns:
            # One offset for all of them, as nearly always: a fifteenth of what it costs row by row.
            try:
                return replace(columns, iterations=array("q", map(offset.__add__, columns.iterations))), []
            except OverflowError:
                pass  # some are out of range: found one by one
        kept: list[int] = []
        iterations = array("q")
        errors: list[InvalidEvent] = []
        for row, (iteration, time_unix_ns) in enumerate(zip(columns.iterations, columns.times_unix_ns, strict=True)):
            try:
                iterations.append(_whole(iteration + self.at(time_unix_ns)))
                kept.append(row)
            except InvalidEvent as error:
                errors.append(error)
        if not errors:
            return replace(columns, iterations=iterations), []
        return ScalarColumns(
            columns.series,
            array("I", [columns.series_index[row] for row in kept]),
            iterations,
            array("q", [columns.times_unix_ns[row] for row in kept]),
            array("d", [columns.values[row] for row in kept]),
        ), errors


def _whole(iteration: int) -> int:
    if not INT64_MIN <= iteration <= INT64_MAX:
        raise InvalidEvent(f"iteration {iteration}, moved on by its offset, is no signed 64-bit integer")
    return iteration
