"""The calls that find models across tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from telemetry.client.http import HttpApi

__all__ = ["ModelCalls"]


class ModelCalls(HttpApi):
    """Models of all tasks. Each call raises ServerError with the HTTP status when the server refuses."""

    async def model(self, model_id: str) -> dict[str, Any]:
        """Return a model's entry, with `id`, `task` (who made it), `task_name`, `project`; 404 if there is none."""
        return cast(dict[str, Any], await self._get(f"/models/{model_id}"))

    async def find_models(
        self,
        *,
        project: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        task: str | None = None,
        uri: str | None = None,
        archived: bool = False,
        limit: int = 500,
    ) -> list[dict[str, Any]]:
        """Return the entries of models that match, the youngest first.

        Args:
            name: part of the name, whatever its case.
            tags: each must be among the model's.
            task: of this task alone, both what it made and what it used; `kind` says which.
            archived: those of archived tasks, too.
        """
        query = {"project": project, "name": name, "tags": list(tags), "task": task, "uri": uri}
        answer = await self._get("/models", {**query, "archived": 1 if archived else None, "limit": limit})
        return cast(list[dict[str, Any]], answer["models"])
