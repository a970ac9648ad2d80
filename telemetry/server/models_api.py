"""`GET /models` and `GET /models/{id}`: models of all tasks."""

from __future__ import annotations

from aiohttp import web

from telemetry.server.access import access_of
from telemetry.server.api import read
from telemetry.server.params import flag, integer, task_id_of, text, words
from telemetry.server.store.model_index import ModelsQuery

__all__ = ["add_routes"]

MAX_MODELS = 1000
_MAX_TAGS = 20


def add_routes(app: web.Application) -> None:
    """Add the routes."""
    app.router.add_get("/api/v1/models", models)
    app.router.add_get("/api/v1/models/{model_id}", model)


async def models(request: web.Request) -> web.Response:
    """`GET /models?project=&name=&tags=&task=&uri=&archived=1&limit=500`; each of several `tags` must be there."""
    task = text(request, "task")
    query = ModelsQuery(
        project=text(request, "project"),
        name=text(request, "name"),
        tags=words(request, "tags", most=_MAX_TAGS),
        task=None if task is None else task_id_of(task),
        uri=text(request, "uri"),
        archived=flag(request, "archived"),
        limit=integer(request, "limit", 500, low=1, high=MAX_MODELS) or 500,
        within=access_of(request).projects,
    )
    return await read(request, lambda store: store.find_models(query))


async def model(request: web.Request) -> web.Response:
    """`GET /models/{id}`: the entry of the task that made it, or of one that uses it."""
    model_id, within = request.match_info["model_id"], access_of(request).projects
    return await read(request, lambda store: store.model(model_id, within))
