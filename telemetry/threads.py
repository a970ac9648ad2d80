"""Threads where there may be none to be had: under RLIMIT_NPROC, a cgroup's pids.max, or a full address space."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

__all__ = ["start_daemon"]

log = logging.getLogger(__name__)

_said: list[bool] = []


def start_daemon(run: Callable[[], object], name: str) -> threading.Thread | None:
    """Start a daemon thread; None, with one warning in the process's life, where the system gives none.

    Nothing of ours may raise into the program for that: whoever calls does without, or tries again later.
    """
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        # Python 3.12 starts none once the program has come to its end; then there is nothing to say, and little to do.
        if not _said and "shutdown" not in str(error):
            _said.append(True)
            log.warning(
                "no thread to be had (%s): events are kept in memory, up to its bound, until there is one or the task "
                "ends. Is there a limit on processes (ulimit -u, pids.max)?",
                error,
            )
        return None
    return thread
