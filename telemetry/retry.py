"""Back-off between tries: pure functions, so that the waiting itself stays in one interruptible place."""

from __future__ import annotations

import errno
import os
import random
import socket
from datetime import UTC, datetime

__all__ = ["BASE_DELAY_S", "MAX_DELAY_S", "MAX_RETRY_AFTER_S", "delay_s", "parse_retry_after", "said_by"]

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
