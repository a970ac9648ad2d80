"""The process's task, and the lock that lets only one Task.init start it."""

from __future__ import annotations

import threading

from telemetry.process import lifecycle
from telemetry.sdk.cores.base import TaskBase

__all__ = ["current"]


class _Current:
    """Attributes:
    task: made by Task.init, or by joining the parent's; stays when it has ended, until the next one.
    """

    def __init__(self) -> None:
        self.task: TaskBase | None = None
        self.lock = threading.Lock()
        # How many tasks of one job's name were begun here.
        self.turns: dict[str, int] = {}
        lifecycle.watch_forks(self)

    def reset_after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self.lock = threading.Lock()


current = _Current()
