"""Back-off between tries: how long each wait is, and when there is no time left for another one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import random
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime

__all__ = [
    "BASE_DELAY_S",
    "MAX_DELAY_S",
    "MAX_RETRY_AFTER_S",
    "Pace",
    "Tries",
    "delay_s",
    "parse_retry_after",
    "said_by",
    "until",
]

BASE_DELAY_S = 0.5  # first retry within half a second: most outages are a restart
MAX_DELAY_S = 30.0  # a server that came back is noticed within half a minute
MAX_RETRY_AFTER_S = 3600.0  # a longer one is a mistake or a mischief: nobody else would ever try again


# Not the program's generator: that one has the same seed in all ranks of a job, which would then knock all at once, and
# the numbers that the program draws must not depend on a server's health. The system's, which a fork can't copy.
_random = random.SystemRandom()


def delay_s(attempt: int, *, retry_after_s: float | None = None, random_unit: float | None = None) -> float:
    """Return how long to wait before the next try, in seconds.

    Full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015): uniform in
    [0, min(cap, base * 2**attempt)]. A Retry-After from the far side is a floor that jitter only adds to.

    Args:
        attempt: failed tries so far, 0 after the first.
        random_unit: a number in [0, 1) to use instead of a random one.
    """
    unit = _random.random() if random_unit is None else random_unit
    jitter = unit * min(MAX_DELAY_S, BASE_DELAY_S * 2.0 ** min(attempt, 16))
    if retry_after_s is None:
        return jitter
    return retry_after_s + min(jitter, 1.0)


class Tries:
    """The waits between the tries of one thing; for one thread or task at a time.

        tries = until(timeout_s)
        while True:
            try:
                return await ask()
            except SinkUnavailable as error:
                if not await tries.pause(error.retry_after_s):
                    raise

    Where something else may end a wait early, the caller asks `next_wait_s` or `failed`, and waits for its own event.

    Attributes:
        failures: failed tries in a row; set to 0 after a success where one thing follows another.
        deadline_s: no wait goes beyond it, in the clock's seconds; None: there are always more.
    """

    def __init__(
        self,
        deadline_s: float | None = None,
        *,
        max_wait_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures = 0
        self.deadline_s = deadline_s
        self._max_wait_s = max_wait_s
        self._clock = clock

    def failed(self, retry_after_s: float | None = None) -> float:
        """Count a failed try; return how many seconds to wait, whatever the deadline."""
        wait_s = min(delay_s(self.failures, retry_after_s=retry_after_s), self._max_wait_s)
        self.failures += 1
        return wait_s

    def next_wait_s(self, retry_after_s: float | None = None) -> float | None:
        """Count a failed try; return the seconds until the next one, None if the deadline comes first."""
        wait_s = self.failed(retry_after_s)
        late = self.deadline_s is not None and self._clock() + wait_s > self.deadline_s
        return None if late else wait_s

    async def pause(self, retry_after_s: float | None = None) -> bool:
        """Count a failed try and wait for the next one; False at once if the deadline comes first."""
        wait_s = self.next_wait_s(retry_after_s)
        if wait_s is not None:
            await asyncio.sleep(wait_s)
        return wait_s is not None


def until(timeout_s: float, *, max_wait_s: float = math.inf) -> Tries:
    """Return the tries of something that may take so many seconds from now."""
    return Tries(time.monotonic() + timeout_s, max_wait_s=max_wait_s)


def parse_retry_after(header: str | None, *, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for, at most MAX_RETRY_AFTER_S; None if unusable.

    Both forms are understood, delta-seconds and an HTTP date.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_S)
    # Not at the head: it brings ten modules, which aiohttp has brought where a server sends such a header.
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - (now or datetime.now(UTC))).total_seconds()), MAX_RETRY_AFTER_S)


# What the system says of a connection that did not come about.
_NO_WAY = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT})


def said_by(error: BaseException) -> str:
    """Return what a network error says in one line, for a person.

    Of a connection that did not come about it is the system's word, "Connection refused": aiohttp repeats the address
    twice around it. It also puts whole answers into some errors, of which the beginning is enough.
    """
    cause = getattr(error, "os_error", error)
    number = getattr(cause, "errno", None)
    if number in _NO_WAY:
        return os.strerror(number)
    if isinstance(cause, socket.gaierror) and cause.strerror:
        return cause.strerror
    text = str(error)
    return type(error).__name__ if not text or text.startswith("<") else text[:500]


class Pace:
    """Writes that begin some time apart, unless one is urgent. For one task of an event loop.

    Args:
        monotonic: seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._began_s = -math.inf
        self._changed = asyncio.Event()

    def look_again(self) -> None:
        """Have who waits ask again whether it is urgent."""
        self._changed.set()

    async def keep(self, pace_s: float, is_urgent: Callable[[], bool]) -> None:
        """Return when the next write may begin: `pace_s` after the last one, or as soon as it is urgent."""
        while (wait_s := self._began_s + pace_s - self._monotonic()) > 0 and not is_urgent():
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_s)
        self._began_s = self._monotonic()
