"""Retention on a running server: `POST /api/v1/prune`, and what `server.toml` asks for, now and every hour.

What was removed is said in the log, and by task in `pruned.jsonl` of the server's directory: there is no other trace.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from telemetry.process.terminal import size_text
from telemetry.record import TaskKey
from telemetry.server.api import json_response
from telemetry.server.config import CONFIG, STORE
from telemetry.server.edit_api import EDITS
from telemetry.server.ingest import unavailable
from telemetry.server.params import json_object
from telemetry.server.shared.bus import BUS
from telemetry.server.store import (
    NotFound,
    Retention,
    RetentionPlan,
    RetentionTask,
    Store,
    StoreFailed,
    StoreUnavailable,
    TaskChange,
)

__all__ = ["PRUNED_FILE", "add_routes", "plan_of", "prune_tasks", "run_retention"]

log = logging.getLogger("telemetry.server")

PRUNED_FILE = "pruned.jsonl"
_EVERY_S = 3600.0
_FIELDS = ("project", "older_than_s", "keep_bytes", TaskKey.PUBLISHED, "kept", "dry_run", "only")


def add_routes(app: web.Application) -> None:
    """Add the route of retention."""
    app.router.add_post("/api/v1/prune", prune)


async def run_retention(app: web.Application) -> AsyncIterator[None]:
    """Apply the retention of the configuration for the application's life (a cleanup context)."""
    rules = app[CONFIG].retention

    async def apply_hourly() -> None:
        while True:
            for project, retention in rules:
                try:
                    plan = await asyncio.to_thread(app[STORE].plan_retention, project, retention)
                    await _remove(app, plan.remove, f"of {project or 'each project'} in server.toml")
                except (StoreUnavailable, StoreFailed, OSError) as error:
                    log.error("what is kept for long enough could not be removed; it is tried again: %s", error)
            await asyncio.sleep(_EVERY_S)

    applying = asyncio.create_task(apply_hourly()) if rules else None
    yield
    if applying is not None:
        applying.cancel()
        await asyncio.gather(applying, return_exceptions=True)


async def prune(request: web.Request) -> web.Response:
    """`POST /prune`: what was kept for long enough goes, unless `dry_run`; of those in `only`, if given."""
    asked = await json_object(request, _FIELDS)
    retention, project, only = _retention_of(asked)
    if not retention and not asked.get("dry_run"):
        raise web.HTTPBadRequest(text="say what is to be removed: older_than_s, keep_bytes or both")
    plan = await asyncio.to_thread(request.app[STORE].plan_retention, project, retention)
    if only is not None:
        plan.remove = [task for task in plan.remove if task.id in only]
    if not asked.get("dry_run"):
        try:
            plan.remove = await _remove(request.app, plan.remove, "asked for")
        except StoreUnavailable as error:
            raise unavailable(error) from error
    return json_response(orjson.dumps(plan_of(plan)))


async def _remove(app: web.Application, tasks: Sequence[RetentionTask], whose: str) -> list[RetentionTask]:
    if not tasks:
        return []
    removed = await asyncio.to_thread(prune_tasks, app[STORE], app[CONFIG].directory, tasks, whose)
    app[EDITS].deleted.set()
    app[BUS].publish({task.id: TaskChange() for task in removed})
    return removed


def prune_tasks(store: Store, directory: Path, tasks: Iterable[RetentionTask], whose: str) -> list[RetentionTask]:
    """Delete tasks and note it; return those that were there. On a thread.

    Raises:
        StoreUnavailable, OSError: the disk is full or failing; those that were deleted before are noted.
    """
    removed: list[RetentionTask] = []
    path = directory / PRUNED_FILE
    with open(path, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as notes:
        for task in tasks:
            try:
                store.delete_task(task.id)
            except NotFound:
                continue
            removed.append(task)
            notes.write(json.dumps({"removed_unix_ms": store.now_unix_ns() // 1_000_000, **_entry(task)}) + "\n")
            notes.flush()
    if removed:
        size = size_text(sum(task.size_bytes for task in removed))
        log.warning("retention %s: %d tasks, %s, were removed; %s names them", whose, len(removed), size, path)
    return removed


def plan_of(plan: RetentionPlan) -> dict[str, Any]:
    """Return a plan as the API tells it: what goes, and each project with what stays in it, and why."""
    going = {task.id for task in plan.remove}
    projects: dict[str, dict[str, Any]] = {}
    for task in plan.tasks:
        entry = projects.setdefault(
            task.project, {"tasks": 0, "size_bytes": 0, "removed_tasks": 0, "removed_bytes": 0, "spared": {}}
        )
        entry["tasks"] += 1
        entry["size_bytes"] += task.size_bytes
        if task.id in going:
            entry["removed_tasks"] += 1
            entry["removed_bytes"] += task.size_bytes
        elif task.stays:
            entry["spared"][task.stays] = entry["spared"].get(task.stays, 0) + 1
    return {
        "tasks": [_entry(task) for task in plan.remove],
        "projects": [{"project": name, **entry} for name, entry in sorted(projects.items())],
    }


def _entry(task: RetentionTask) -> dict[str, Any]:
    entry = asdict(task)
    del entry["stays"]
    return {**entry, "ended_unix_ms": entry.pop("ended_unix_ns") // 1_000_000}


def _retention_of(asked: dict[str, Any]) -> tuple[Retention, str | None, set[str] | None]:
    project, only = asked.get("project"), asked.get("only")
    numbers = {name: asked.get(name) for name in ("older_than_s", "keep_bytes")}
    for name, value in numbers.items():
        if value is not None and (type(value) not in (int, float) or not 0 <= value < 2**63):
            raise web.HTTPBadRequest(text=f"{name} is {value!r:.60}; it must be a number from 0 on")
    if project is not None and (not isinstance(project, str) or not project.strip("/")):
        raise web.HTTPBadRequest(text="project must be the name of one")
    if only is not None and not (isinstance(only, list) and all(isinstance(item, str) for item in only)):
        raise web.HTTPBadRequest(text="only must be a list of task ids")
    retention = Retention(
        numbers["older_than_s"],
        None if numbers["keep_bytes"] is None else int(numbers["keep_bytes"]),
        published=asked.get(TaskKey.PUBLISHED) is True,
        kept=asked.get("kept") is True,
    )
    return retention, project and project.strip("/"), None if only is None else set(only)
