"""Threads where there may be none to be had: under RLIMIT_NPROC, a cgroup's pids.max, or a full address space."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["start_daemon", "taking_signals"]

log = logging.getLogger(__name__)

# What a thread raises itself, by a bad instruction or address, and must not outlive.
_OF_THREADS = {
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP")
    if hasattr(signal, name)
}

_said: list[bool] = []


def start_daemon(run: Callable[[], object], name: str) -> threading.Thread | None:
    """Start a daemon thread; None, with one warning in the process's life, where the system gives none.

    Nothing of ours may raise into the program for that: whoever calls does without, or tries again later. The thread
    takes no signals: they are the program's threads' to take, as without us.
    """
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        with _signals_blocked():
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


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block what can be blocked for a moment: a thread begins with the mask of the one that starts it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield  # Windows
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _OF_THREADS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def taking_signals() -> Iterator[None]:
    """Take signals on this thread of ours: a program that it starts begins with its mask, and is to be killable."""
    if not hasattr(signal, "pthread_sigmask"):
        yield  # Windows
        return
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
