"""Imports on first use that no fork can cut in two.

What is heavy is imported on our own threads, so that nobody waits for it. A fork in the middle of such an import
would leave the child with half a module, and with its import lock held by a thread that is not there: the child's
first use of it fails or hangs, for ever. So a fork waits until an import of ours has ended.
"""

from __future__ import annotations

import importlib
import os
import threading
from types import ModuleType

__all__ = ["import_module"]

# The slowest import of ours takes a few tenths of a second; a fork must not hang on one that hangs.
FORK_WAIT_S = 5.0

_lock = threading.RLock()  # re-entrant: a signal handler may fork while its thread imports
_held: list[bool] = []


def import_module(name: str) -> ModuleType:
    """Return the module; a fork by any thread comes before or after its import, never within."""
    with _lock:
        return importlib.import_module(name)


def _before_fork() -> None:
    _held.append(_lock.acquire(timeout=FORK_WAIT_S))


def _after_fork() -> None:
    if _held.pop():
        _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    # New, for a thread that is not here may hold the old one.
    _lock = threading.RLock()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
