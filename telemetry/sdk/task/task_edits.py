"""Task: what it is called, where it is kept, how it stands. All may be changed at any time, of a finished task too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from telemetry.clock import unix_ns
from telemetry.errors import ConfigurationError, ServerError
from telemetry.events import clean_text
from telemetry.process.interrupts import is_interrupt
from telemetry.record import ARCHIVED, Section, TaskKey, TaskStatus, may_become
from telemetry.sdk.cores.base import TaskBase
from telemetry.sdk.identity.modes import load_settings
from telemetry.sdk.launch import options
from telemetry.shapes import text, texts
from telemetry.values import excerpt

__all__ = ["TaskEdits"]


class TaskEdits(TaskBase):
    """See Task."""

    # ---- names ---------------------------------------------------------------------------------------

    def set_name(self, name: str) -> None:
        """Rename the task; its id stays.

        Raises:
            ConfigurationError: it is empty, too long or no str; nothing was changed.
        """
        self._rename("name", options.choose_name(_given("name", name)))

    def set_project(self, project_id: str | None = None, project_name: str | None = None) -> None:
        """Move the task to a project, which is made if it is not there. A project's id is its name."""
        self._rename("project", options.choose_project(_given("project_name", project_name or project_id)))

    def move_to_project(
        self,
        new_project_id: str | None = None,
        new_project_name: str | None = None,
        system_tags: Iterable[str] | None = None,
    ) -> bool:
        """Move the task to a project, which is made if it is not there; return True.

        Args:
            system_tags: to give the task at the same time.
        """
        self.set_project(new_project_id, new_project_name)
        if system_tags is not None:
            self.set_system_tags(system_tags)
        return True

    def get_project_name(self) -> str:
        """Return the task's project as it is now."""
        return text(self._field(TaskKey.PROJECT)) or self.project

    @classmethod
    def get_project_id(cls, project_name: str) -> str:
        """Return a project's id, which is its name."""
        return project_name

    def set_task_type(self, task_type: str) -> None:
        """Set the task's type, one of TaskTypes."""
        self._rename("type", options.choose_type(_given("task_type", task_type)))

    def _rename(self, field: str, value: str) -> None:
        self._record.change(Section.TASK, field, value)
        if self._running is not None and not self._running.is_running:
            return  # it was dropped: the task has ended, and keeps the name it has
        header = self._core.header
        names = {"name": header.name, "project": header.project, "type": header.type, field: value}
        self._core.header = replace(header, name=names["name"], project=names["project"], type=names["type"])

    # ---- comment, tags, parent -----------------------------------------------------------------------

    @property
    def comment(self) -> str:
        """The task's free text."""
        return text(self._field(TaskKey.COMMENT))

    @comment.setter
    def comment(self, comment: str) -> None:
        self.set_comment(comment)

    def set_comment(self, comment: str) -> None:
        """Set the task's free text; the last one counts."""
        self._record.change(Section.TASK, TaskKey.COMMENT, clean_text(str(comment)))

    def add_tags(self, tags: str | Iterable[str]) -> None:
        """Add a tag or several; one that the task has already stays where it is. What is no str is counted as
        dropped (reason "invalid")."""
        self._set_tags("add_tags", TaskKey.TAGS, lambda: [*self.get_tags(), *options.choose_tags(_listed(tags))])

    def set_tags(self, tags: str | Iterable[str]) -> None:
        """Give the task these tags and no others."""
        self._set_tags("set_tags", TaskKey.TAGS, lambda: _listed(tags))

    def remove_tags(self, tags: str | Iterable[str]) -> None:
        """Take tags from the task; one that it does not have changes nothing."""

        def left() -> list[str]:
            gone = set(_listed(tags))
            return [tag for tag in self.get_tags() if tag not in gone]

        self._set_tags("remove_tags", TaskKey.TAGS, left)

    def get_tags(self) -> list[str]:
        """Return the tags in the order they were given."""
        return texts(self._field(TaskKey.TAGS))

    def set_system_tags(self, tags: str | Iterable[str]) -> None:
        """Give the task these system tags and no others; "archived" is one."""
        self._set_tags("set_system_tags", TaskKey.SYSTEM_TAGS, lambda: _listed(tags))

    def get_system_tags(self) -> list[str]:
        """Return the system tags."""
        return texts(self._field(TaskKey.SYSTEM_TAGS))

    def _set_tags(self, call: str, field: str, tags: Callable[[], Iterable[str]]) -> None:
        try:
            chosen = options.choose_tags(tags())
        except (ConfigurationError, TypeError) as error:
            if is_interrupt(error):
                raise
            self._refuse(f"{call}: {error}")
            return
        self._record.change(Section.TASK, field, chosen)

    @property
    def parent(self) -> str | None:
        """The id of the task that this one was cloned from, or was given as parent."""
        return text(self._field(TaskKey.PARENT)) or None

    def set_parent(self, parent: TaskBase | str | None) -> None:
        """Name a task as parent; None names none."""
        self._record.change(Section.TASK, TaskKey.PARENT, parent.id if isinstance(parent, TaskBase) else parent)

    # ---- archive, publish, delete ---------------------------------------------------------------------

    def set_archived(self, archive: bool) -> None:
        """Put the task away, or bring it back. An archived task keeps everything and is left out of lists."""
        others = [tag for tag in self.get_system_tags() if tag != ARCHIVED]
        self.set_system_tags([*others, ARCHIVED] if archive else others)

    def get_archived(self) -> bool:
        """Return True if the task is put away."""
        return ARCHIVED in self.get_system_tags()

    def publish(self, ignore_errors: bool = True) -> None:
        """Say that the task is final: it has ended, and is not to be changed or overwritten.

        Args:
            ignore_errors: taken and without effect: an error is raised.
        Raises:
            ConfigurationError: it has not ended; nothing was changed.
        """
        status = self.get_status()
        if not may_become(status, TaskStatus.PUBLISHED):
            raise ConfigurationError(f"task {self.id} is {status}; only one that has ended well can be published")
        self._record.change_all(Section.TASK, {TaskKey.STATUS: TaskStatus.PUBLISHED.value, TaskKey.PUBLISHED: True})

    def delete(
        self,
        delete_artifacts_and_models: bool = True,
        skip_models_used_by_other_tasks: bool = True,
        raise_on_error: bool = False,
        callback: Any = None,
    ) -> bool:
        """Delete the task from the server, with all that it reported; return True if it is gone.

        Bytes that other tasks refer to stay. What is not on the server (a shared folder, a bucket) is not touched.

        Args:
            delete_artifacts_and_models, skip_models_used_by_other_tasks, callback: taken for compatibility: what no
                other task refers to goes with the task.
            raise_on_error: raise instead of returning False.
        Raises:
            ConfigurationError: there is no server. ServerError: with raise_on_error, what it answered.
        """
        from telemetry.sdk.reading.servers import server_client

        if self._core.is_running:
            raise ConfigurationError(f"task {self.id} is running in this process; close() it before it is deleted")
        settings = load_settings()
        if settings.mode == "disabled":
            return True
        client = server_client(settings, "Task.delete")
        try:
            client.delete_task(self.id)
        except ServerError:
            if raise_on_error:
                raise
            return False
        self._view.reload()
        return True

    # ---- how it stands --------------------------------------------------------------------------------

    def get_status(self) -> str:
        """Return where the task stands now, as TaskStatus has it; pages show a silent one as stalled or lost."""
        return str(self._core.status)

    def get_status_message(self) -> str:
        """Return the reason that was given with the status, and its message below it."""
        fields = self._section(Section.TASK)
        return "\n".join(
            part for key in (TaskKey.STATUS_REASON, TaskKey.STATUS_MESSAGE) if (part := text(fields.get(key)))
        )

    def mark_started(self, force: bool = False) -> None:
        """Say that the task runs: of a draft or an ended task that something else than Task.init runs.

        Args:
            force: also where the task is published.
        """
        if self._core.is_running:
            return
        if not may_become(self.get_status(), TaskStatus.IN_PROGRESS) and not force:
            raise ConfigurationError(f"task {self.id} is published; force=True starts it all the same")
        ends = dict.fromkeys((TaskKey.STATUS_REASON, TaskKey.STATUS_MESSAGE, TaskKey.ENDED))
        running = {TaskKey.STATUS: TaskStatus.IN_PROGRESS.value, TaskKey.STARTED: unix_ns()}
        self._record.change_all(Section.TASK, {**ends, **running})

    started = mark_started

    def wait_for_status(
        self,
        status: Iterable[str] = (TaskStatus.COMPLETED, TaskStatus.STOPPED, "closed", TaskStatus.PUBLISHED),
        raise_on_status: Iterable[str] | None = (TaskStatus.FAILED,),
        check_interval_sec: float = 60.0,
    ) -> None:
        """Wait until the task stands at one of these. While telemetry is disabled no status ever comes: it returns.

        Raises:
            RuntimeError: it has come to one of `raise_on_status`.
        """
        if self._core.settings.mode == "disabled":
            return
        wanted, bad = {str(word) for word in status}, {str(word) for word in raise_on_status or ()}
        while (status := self.get_status()) not in wanted:
            if status in bad:
                raise RuntimeError(f"task {self.id} is {status}, and was waited for to be {', '.join(sorted(wanted))}")
            time.sleep(check_interval_sec)
            self._view.reload()

    # ---- its page -------------------------------------------------------------------------------------

    def get_output_log_web_page(self) -> str:
        """Return the link to the task's page; "" where there is no server."""
        running = self._running
        return running.page if running is not None else self.get_task_output_log_web_page(self.id)

    @classmethod
    def get_task_output_log_web_page(
        cls, task_id: str, project_id: str | None = None, app_server_host: str | None = None
    ) -> str:
        """Return the link to a task's page; "" where there is no server.

        Args:
            project_id: taken for compatibility.
            app_server_host: the server's address instead of TELEMETRY_URL.
        """
        url = app_server_host or load_settings().url or ""
        return f"{url.rstrip('/')}/tasks/{task_id}" if url.startswith(("http://", "https://")) else ""


def _given(argument: str, value: str | None) -> str:
    if value is None:
        raise ConfigurationError(f"{argument} is missing. Nothing was changed")
    return value


def _listed(tags: str | Iterable[str]) -> list[str]:
    """Return tags as a list.

    Raises:
        ConfigurationError: neither a str nor an iterable.
    """
    if not isinstance(tags, Iterable):
        raise ConfigurationError(f"tags must be a str or a list of str, not {type(tags).__name__}: {excerpt(tags)}")
    return [tags] if isinstance(tags, str) else list(tags)
