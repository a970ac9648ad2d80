"""TaskBase: what every part of Task stands on.

Task is made of mixins, one file for each section of the Task page; each is a thin skin that finds what it needs here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from telemetry.errors import ConfigurationError
from telemetry.ledger import DropReason
from telemetry.record import Section
from telemetry.sdk.identity.references import Referred, key_of, references

if TYPE_CHECKING:
    from telemetry.sdk.cores.core import TaskCore
    from telemetry.sdk.cores.running import RunningTask
    from telemetry.sdk.reading.view import View
    from telemetry.sdk.record.record import Record

__all__ = ["ConnectsItself", "TaskBase"]


class TaskBase(Referred):
    """A task with its core. Use Task.

    Attributes of use to the parts: `_core`, `_record`, `_view`, `_section(name)`, `_refuse(message)`.
    """

    def __init__(self, core: TaskCore) -> None:
        self._core = core
        self._logger = core.logger

    def _reference(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return references.task_class._referred, key_of(self._core.header)

    @property
    def _record(self) -> Record:
        return self._core.record

    @property
    def _view(self) -> View:
        return self._core.view

    @property
    def _running(self) -> RunningTask | None:
        """The core, if this process began the task (it may have ended since)."""
        return self._core.begun_here

    @property
    def _keeps_models(self) -> bool:
        """Whether saved models are uploaded, where nothing else is said."""
        return self._core.keeps_models

    def _section(self, name: str) -> dict[str, Any]:
        """Return a section of the record as it stands; see fold.py."""
        return self._view.fold().section(name)

    def _field(self, key: str, default: Any = None) -> Any:
        """Return one of the task's own fields."""
        return self._section(Section.TASK).get(key, default)

    def _refuse(self, message: str) -> None:
        """Count an invalid call and go on, in a running program; anywhere else raise.

        Raises:
            ConfigurationError: the task is not this process's, so nobody's training is at stake.
        """
        if self._running is None:
            raise ConfigurationError(f"{message}. Nothing was changed")
        self._core.emit.refuse(DropReason.INVALID, message)

    # ---- what it is ------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The task's id: 32 hexadecimal digits."""
        return self._core.header.task_id

    @property
    def task_id(self) -> str:
        """The task's id: the same as `id`."""
        return self._core.header.task_id

    @property
    def name(self) -> str:
        """The task's name."""
        return self._core.header.name

    @property
    def project(self) -> str:
        """The task's project, "a/b" for b inside a."""
        return self._core.header.project

    @property
    def task_type(self) -> str:
        """The task's type, such as "training"."""
        return self._core.header.type

    @property
    def ended(self) -> bool:
        """True once the task was closed or marked; what is reported after that is counted as dropped."""
        return not self._core.is_running

    def reload(self) -> None:
        """Read anew what other processes, and people on the pages, have changed since."""
        self._view.reload()


class ConnectsItself:
    """What Task.connect hands the task to, where it follows the values of any other object: a model."""

    def connect(self, task: TaskBase, name: str | None = None, ignore_remote_overrides: bool = False) -> None:
        """Become a part of the task."""
        raise NotImplementedError
