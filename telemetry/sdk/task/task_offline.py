"""Task, section "Offline Mode": work without a server, and bring the session to one later."""

from __future__ import annotations

import os
from pathlib import Path

from telemetry.errors import ConfigurationError
from telemetry.sdk.cores.base import TaskBase
from telemetry.sdk.cores.current import current
from telemetry.sdk.identity import modes

__all__ = ["TaskOffline"]


class TaskOffline(TaskBase):
    """See Task."""

    @classmethod
    def set_offline(cls, offline_mode: bool = False) -> None:
        """Say whether tasks that begin from now on in this process are offline; before Task.init.

        Offline, a task makes no connection and is written into one session, a zip at the end.

        Raises:
            ConfigurationError: the current task goes where the other mode would not send it; close it first.
        """
        task = current.task
        if task is not None and not task.ended and bool(offline_mode) is not modes.is_offline():
            to = "offline to online" if not offline_mode else "online to offline"
            raise ConfigurationError(
                f"switching from {to} mode, but the current task {task.id} has not been closed. Nothing was "
                "changed. Close it first: Task.current_task().close()"
            )
        modes.set_offline(bool(offline_mode))

    @classmethod
    def is_offline(cls) -> bool:
        """Return True if a task that begins now is offline."""
        return modes.is_offline()

    def get_offline_mode_folder(self) -> Path | None:
        """Return the session folder of a task that is offline, also after its end; None for any other.

        At the end the folder becomes the zip of the same name beside it; Task.import_offline_session takes either name.
        """
        if self._running is None or self._running.settings.mode != "offline":
            return None
        places = self._running.session_places()
        return places[0] if places else None

    @classmethod
    def import_offline_session(
        cls,
        session_folder_zip: str | os.PathLike[str] | None,
        previous_task_id: str | None = None,
        iteration_offset: int = 0,
    ) -> str:
        """Send a session folder or zip to the server at TELEMETRY_URL; return the task's id, "" while disabled.

        It becomes the task that the run was: same id, times and final status. Importing again changes nothing, and
        the source is left as it is. Returns when everything is on the server.

        Args:
            session_folder_zip: a session folder, also one that still grows, or a session zip.
            previous_task_id: send it as the continuation of this task, which is on the server: its reports, parameters,
                artifacts and final status go there, and no other task is made. Name, project, type, tags and start
                stay as they are.
            iteration_offset: added to every reported iteration.
        Raises:
            ConfigurationError: nothing is there (it is a ValueError, too), or there is no server to send it to.
            JournalError: it is no session, or cannot be read to its end.
            SinkUnavailable: the server does not answer; what it took until then is there.
        """
        from telemetry.sdk.task.offline import import_offline_session

        return import_offline_session(session_folder_zip, previous_task_id, iteration_offset)
