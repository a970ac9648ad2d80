"""A task's progress, 0 to 100 %: exact for the program, thinned for the stream."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from telemetry.errors import InvalidEvent
from telemetry.events import to_float

__all__ = ["MIN_INTERVAL_S", "MIN_STEP_PERCENT", "Progress", "checked_progress"]

# A progress bar is a few hundred pixels wide: a smaller step cannot be seen ...
MIN_STEP_PERCENT = 0.1
# ... unless the job is so slow that a second passes between two calls.
MIN_INTERVAL_S = 1.0


def checked_progress(progress: Any) -> float:
    """Return a progress in percent as a float.

    Raises:
        InvalidEvent: not a number from 0 to 100.
    """
    value = to_float(progress)
    if not 0.0 <= value <= 100.0:
        raise InvalidEvent(f"progress is in percent, 0 to 100; {value!r} is not, and changes nothing")
    return value


class Progress:
    """Holds the progress and passes on the values worth a record change. Safe from any thread.

    A loop may call `set` at every step: a value goes into the stream when it differs by at least
    0.1 % from the last one that did, or is at least a second younger; `settle` sends what is left.
    There is no lock, which a fork could leave held: two threads that set the progress at the same
    instant have no order to keep.

    Args:
        change: writes one value into the task's record.
        clock: seconds, monotonic.
    """

    def __init__(self, change: Callable[[float], object], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._change = change
        self._clock = clock
        self._value: float | None = None
        self._sent: float | None = None
        self._sent_at_s = -math.inf

    @property
    def value(self) -> float | None:
        """The value last set, exactly; None before the first."""
        return self._value

    def set(self, progress: Any) -> None:
        """Set the progress in percent: a number from 0 to 100.

        Raises:
            InvalidEvent: not a number in that range; the progress stays as it was.
        """
        self._value = value = checked_progress(progress)
        sent, now_s = self._sent, self._clock()
        # The two ends are always sent: "not begun" and "done" are what people look for.
        if (
            sent is None
            or value in (0.0, 100.0)
            or abs(value - sent) >= MIN_STEP_PERCENT
            or now_s - self._sent_at_s >= MIN_INTERVAL_S
        ):
            self._send(value, now_s)

    def settle(self) -> None:
        """Send the value last set if the stream does not have it yet."""
        if self._value is not None:
            self._send(self._value, self._clock())

    def _send(self, value: float, now_s: float) -> None:
        if value != self._sent:
            self._sent, self._sent_at_s = value, now_s
            self._change(value)
