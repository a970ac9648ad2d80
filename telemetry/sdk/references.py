"""Copies and pickles of what stands for a task: a reference to it, and no second task.

A trainer, a callback or a checkpoint that holds a task or its logger can be copied deeply, pickled and sent to a
worker. A deep copy has the same task. Where a pickle is loaded, the task is looked for by its id: it is this process's
own, or its parent's, which the process joins; or else somebody else's, which is read when it is asked for something.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from telemetry.events import TaskHeader
from telemetry.sdk.current import current
from telemetry.sdk.modes import load_settings

if TYPE_CHECKING:
    from telemetry.sdk.core import TaskCore
    from telemetry.sdk.logger import Logger
    from telemetry.sdk.task import Task

__all__ = ["Referred", "core_of", "key_of", "logger_of", "task_of"]


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


def task_of(task_id: str, project: str, name: str, task_type: str) -> Task:
    """Return the task of this id: this process's own, or its parent's, or one to be read."""
    from telemetry.sdk.other import referred_other
    from telemetry.sdk.task import Task  # both stand on this module

    for task in (current.task, Task.current_task()):
        if task is not None and task.id == task_id:
            return task
    header = TaskHeader(task_id, writer_id=bytes(16), project=project, name=name, type=task_type)
    return Task(referred_other(header, load_settings()))


def core_of(task_id: str, project: str, name: str, task_type: str) -> TaskCore:
    """Return the core of the task of this id."""
    return task_of(task_id, project, name, task_type)._core


def logger_of(task_id: str, project: str, name: str, task_type: str) -> Logger:
    """Return the logger of the task of this id; of one that is not this process's, that of the task that is.

    What was trained in one run goes on reporting in the next one, which loads it from a checkpoint.
    """
    from telemetry.sdk.task import Task  # it stands on this module

    task = task_of(task_id, project, name, task_type)
    own = Task.current_task()
    return (task if own is None or own.id == task_id else own).get_logger()


def key_of(header: TaskHeader) -> tuple[str, str, str, str]:
    """Return what finds a task again."""
    return header.task_id, header.project, header.name, header.type
