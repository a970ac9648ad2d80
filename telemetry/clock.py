"""The time of day as events carry it."""

from __future__ import annotations

import logging
import time

from telemetry.events import INT64_MAX, INT64_MIN

__all__ = ["unix_ns"]

log = logging.getLogger(__name__)

_said = False


def unix_ns() -> int:
    """Return the Unix time in ns, within a signed 64-bit integer.

    A clock beyond 2262-04-11 stands still there: its events arrive, in the order they were reported, and are said once
    to have no times.
    """
    global _said
    now_unix_ns = time.time_ns()
    if INT64_MIN <= now_unix_ns <= INT64_MAX:
        return now_unix_ns
    if not _said:
        _said = True
        log.warning("this machine's clock is past 2262-04-11; events are kept, with that day as their time")
    return INT64_MAX if now_unix_ns > 0 else INT64_MIN
