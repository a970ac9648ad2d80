"""The calls that change and delete tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from telemetry.client.http import HttpApi
from telemetry.client.types import Change
from telemetry.record import TaskKey

__all__ = ["EditCalls"]


class EditCalls(HttpApi):
    """What can be changed of tasks. Each call raises ServerError with the HTTP status when the server refuses."""

    async def change(self, task_id: str, changes: Sequence[Change]) -> None:
        """Change fields of a task's record, all of them or, on an error, none; they are stored when it returns.

        Raises:
            ServerError: 404 no such task; 409 what a task runs with, where it is no draft any more, or a status that
                it cannot go to from where it stands; 400 a value that the field cannot have.
        """
        await self._post(f"/tasks/{task_id}/changes", {"changes": list(changes)})

    async def delete_task(self, task_id: str) -> None:
        """Delete a task with everything it has reported. What its program still sends is thrown away.

        Raises:
            ServerError: 404 no such task; 403 the token has not the scope admin.
        """
        await self._post(f"/tasks/{task_id}/delete", {})

    async def prune(
        self,
        *,
        project: str | None = None,
        older_than_s: float | None = None,
        keep_bytes: int | None = None,
        published: bool = False,
        kept: bool = False,
        dry_run: bool = False,
        only: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Delete the tasks that have been kept for long enough, oldest end first; return what went, and what there is.

        Args:
            project: it and all below it; None is each top-level project by itself.
            older_than_s: since its end.
            keep_bytes: of a project; beyond it the tasks that ended first go.
            published, kept: also those that are published, or tagged "keep".
            dry_run: delete nothing.
            only: of those, only these.
        Raises:
            ServerError: 403 the token has not the scope admin.
        """
        asked = {
            "project": project,
            "older_than_s": older_than_s,
            "keep_bytes": keep_bytes,
            TaskKey.PUBLISHED: published,
            "kept": kept,
            "dry_run": dry_run,
            "only": None if only is None else list(only),
        }
        answer: dict[str, Any] = await self._post("/prune", asked)
        return answer
