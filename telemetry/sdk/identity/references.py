"""Copies and pickles of what stands for a task: a reference to it, and no second task.

A trainer, a callback or a checkpoint that holds a task or its logger can be copied deeply, pickled and sent to a
worker. A deep copy has the same task. Where a pickle is loaded, class Task looks for the task by its id: it is this
process's own, or its parent's, which the process joins; or else somebody else's, which is read when it is asked for
something.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self

from telemetry.events import TaskHeader

__all__ = ["Referred", "TaskClass", "key_of", "references"]


class Referred:
    """Something that is the same when it is copied, and a reference when it is pickled."""

    def _reference(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return what finds it again, and with which arguments."""
        raise NotImplementedError

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._reference()


class TaskClass(Protocol):
    """Class Task, as far as what lies below it asks for it. A pickle names its methods, and so imports it."""

    def current_task(self) -> Any:
        """Return this process's task, or its parent's, which the process joins; None for none."""

    def _referred(self, task_id: str, project: str, name: str, task_type: str) -> Any:
        """Return the task of this id."""

    def _referred_core(self, task_id: str, project: str, name: str, task_type: str) -> Any:
        """Return the core of the task of this id."""

    def _referred_logger(self, task_id: str, project: str, name: str, task_type: str) -> Any:
        """Return the logger of the task of this id, or of the task that is this process's own."""


class _References:
    """Where class Task says that it is there, to what it stands on itself.

    Attributes:
        task_class: set once, when task.py is imported; before that there is no task and nothing that refers to one.
    """

    task_class: TaskClass


references = _References()


def key_of(header: TaskHeader) -> tuple[str, str, str, str]:
    """Return what finds a task again."""
    return header.task_id, header.project, header.name, header.type
