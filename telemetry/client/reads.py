"""The calls that read tasks, series, points and console lines; one method a route of docs/server.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson

from telemetry.client.http import HttpApi, Query
from telemetry.client.types import (
    ChoicesAnswer,
    ConsoleAnswer,
    MediaAnswer,
    ModelInfo,
    PlotInfo,
    PointsAnswer,
    ProjectInfo,
    QueryAnswer,
    RecordRow,
    SeriesSummary,
    ServerInfo,
    TaskDetail,
    TasksAnswer,
    ValueInfo,
)
from telemetry.errors import ServerUnreachable

__all__ = ["ReadCalls"]


class ReadCalls(HttpApi):
    """What can be read of tasks. Each call raises ServerError with the HTTP status when the server refuses."""

    async def server(self) -> ServerInfo:
        """Return the server's version: also the way to ask whether it is there."""
        return cast(ServerInfo, await self._get("/server"))

    async def tasks(
        self,
        *,
        search: str | None = None,
        project: str | None = None,
        subprojects: bool = False,
        status: str | Sequence[str] | None = None,
        type: str | Sequence[str] | None = None,
        tags: Sequence[str] = (),
        archived: bool | None = False,
        columns: Sequence[str] = (),
        sort: str = "-last_update",
        page: int = 0,
        page_size: int = 50,
    ) -> TasksAnswer:
        """Return one page of the tasks that match.

        Args:
            project: its exact name; with `subprojects` also what is below it.
            status, type: one of these.
            tags: a tag expression, see telemetry/server/store/tag_query.py.
            archived: True: only archived tasks, False: only the others, None: all.
            columns: what to tell of each task besides, such as "param:Args/lr", "last:loss/train", "value:accuracy".
            sort: name, project, type, status, progress, started, created, completed, last_update, last_change,
                status_changed, last_iteration, active_duration, comment, parent, id or a column; a leading "-" puts
                the greatest first.
        """
        query: Query = {
            "search": search,
            "project": project,
            "subprojects": 1 if subprojects else None,
            "status": status,
            "type": type,
            "tags": tags,
            "archived": "all" if archived is None else int(archived),
            "columns": columns,
            "sort": sort,
            "page": page,
            "page_size": page_size,
        }
        return cast(TasksAnswer, await self._get("/tasks", query))

    async def query_tasks(
        self,
        *,
        ids: Sequence[str] | None = None,
        projects: Sequence[str] | None = None,
        name: str | None = None,
        exact_name: str | None = None,
        tags: Sequence[str | None] | None = None,
        allow_archived: bool = True,
        task_filter: Mapping[str, Any] | None = None,
        fields: Sequence[str] = (),
        brief: bool = False,
        page: int | None = None,
        page_size: int | None = None,
    ) -> QueryAnswer:
        """Return one page of the tasks that match everything that is given; docs/sdk/queries.md has the filters.

        Args:
            projects: exact names.
            name: a regular expression, found anywhere in the name; case matters.
            tags: a tag expression, see telemetry/server/store/tag_query.py.
            fields: what to tell of each task besides: "hyperparams.Args.lr", "last_metrics", "script.branch", …
            brief: leave `last_scalars` empty, which are most of the work.
            page_size: at most 500, which is the default; 5000 with `brief`.

        Raises:
            ServerError: 400 a filter that cannot be; the message says which.
        """
        body = {
            "ids": None if ids is None else list(ids),
            "projects": None if projects is None else list(projects),
            "name": name,
            "exact_name": exact_name,
            "tags": None if tags is None else list(tags),
            "allow_archived": allow_archived,
            "filter": dict(task_filter or {}),
            "fields": list(fields),
            "brief": brief,
            "page": page,
            "page_size": page_size,
        }
        return cast(QueryAnswer, await self._post("/tasks/query", body))

    async def choices(self, *, project: str | None = None, subprojects: bool = False) -> ChoicesAnswer:
        """Return the tags, types and columns that `tasks` can be asked for."""
        query: Query = {"project": project, "subprojects": 1 if subprojects else None}
        return cast(ChoicesAnswer, await self._get("/choices", query))

    async def projects(self) -> list[ProjectInfo]:
        """Return every project with its number of tasks."""
        return cast(list[ProjectInfo], (await self._get("/projects"))["projects"])

    async def task(self, task_id: str) -> TaskDetail:
        """Return one task with its record."""
        return cast(TaskDetail, await self._get(f"/tasks/{task_id}"))

    async def series(self, task_id: str, *, kind: str | None = None) -> list[SeriesSummary]:
        """Return the task's series. `kind`: "scalar", "resource", or None for both."""
        return cast(list[SeriesSummary], (await self._get(f"/tasks/{task_id}/series", {"kind": kind}))["series"])

    async def points(
        self,
        task_id: str,
        series: Sequence[int],
        *,
        x: str = "iteration",
        start: int | None = None,
        end: int | None = None,
        max_samples: int = 2000,
        half_life: float | None = None,
    ) -> PointsAnswer:
        """Return the points of `series` (ids from `series()`) between `start` and `end`, both included.

        A range of more than `max_samples` points is answered by the minimum and maximum of each
        bucket (`exact` is then False): a spike is never lost.

        Args:
            x: "iteration", or "time" in Unix milliseconds.
            half_life: of the smoothing, in units of x; None asks for none.
        """
        query = {"series": ",".join(map(str, series)), "x": x, "from": start, "to": end}
        answer = await self._get(
            f"/tasks/{task_id}/points", {**query, "max_samples": max_samples, "half_life": half_life}
        )
        return cast(PointsAnswer, answer)

    async def console(
        self,
        task_id: str,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int = 1000,
        tail: bool = False,
        stream: str | None = None,
        search: str | None = None,
    ) -> ConsoleAnswer:
        """Return console lines with ids in (after, before); with `tail` the last `limit` of them."""
        query = {"after": after, "before": before, "limit": limit, "tail": 1 if tail else None}
        answer = await self._get(f"/tasks/{task_id}/console", {**query, "stream": stream, "search": search})
        return cast(ConsoleAnswer, answer)

    async def models(self, task_id: str) -> list[ModelInfo]:
        """Return the model files that the task saved."""
        return cast(list[ModelInfo], (await self._get(f"/tasks/{task_id}/models"))["models"])

    async def values(self, task_id: str) -> list[ValueInfo]:
        """Return the task's single values."""
        return cast(list[ValueInfo], (await self._get(f"/tasks/{task_id}/values"))["values"])

    async def plots(
        self,
        task_id: str,
        *,
        title: str | None = None,
        series: str | None = None,
        iteration: int | None = None,
        last: int | None = None,
        figures: bool = True,
    ) -> list[PlotInfo]:
        """Return the task's plots by title, series and iteration.

        Args:
            last: of each title and series only so many, those of the highest iterations.
            figures: with their figures; those that one answer can't hold say "omitted", and are asked for by their
                title, series and iteration.
        """
        query = _reports_query(title, series, iteration, last)
        if not figures:
            query["figures"] = 0
        return cast(list[PlotInfo], (await self._get(f"/tasks/{task_id}/plots", query))["plots"])

    async def media(
        self,
        task_id: str,
        *,
        title: str | None = None,
        series: str | None = None,
        iteration: int | None = None,
        last: int | None = None,
    ) -> MediaAnswer:
        """Return the task's images, sounds and other media by title, series and iteration."""
        query = _reports_query(title, series, iteration, last)
        return cast(MediaAnswer, await self._get(f"/tasks/{task_id}/media", query))

    async def export_page(self, task_id: str, part: str, after: str | None = None) -> dict[str, Any]:
        """Return a page of all that the server has of a task; docs/server.md lists the fields.

        Args:
            part: "points", "console", "plots" or "events" (one page: record, single values, models, media).
            after: where it goes on, from `next` of the page before; None for the first one.
        """
        return await self._packed("GET", f"/tasks/{task_id}/export/{part}", query={"after": after})

    async def record(self, task_id: str) -> list[RecordRow]:
        """Return the fold of one task's record, with every bit; `task` has it as people and pages read it."""
        return cast(list[RecordRow], (await self._packed("GET", f"/tasks/{task_id}/record"))["record"])

    async def records(self, task_ids: Sequence[str]) -> dict[str, list[RecordRow]]:
        """Return the records of several tasks by id, at most 500: the first ones of those asked for that fit an answer.

        Those that are not there, or not this token's to read, are left out.
        """
        body = orjson.dumps({"ids": list(task_ids)})
        headers = {"Content-Type": "application/json"}
        answer = await self._packed("POST", "/tasks/records", body=body, headers=headers)
        return cast(dict[str, list[RecordRow]], answer["records"])

    async def _packed(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Return the MessagePack that answers; ServerError where the status is not 200."""
        import msgpack

        answer = await self._send(method, path, **request)
        if answer.status != 200:
            raise self._refusal(answer)
        try:
            value: dict[str, Any] = msgpack.unpackb(answer.body)
        except (ValueError, msgpack.UnpackException) as error:
            raise ServerUnreachable(f"{self.url} answers, but not as a telemetry server does") from error
        return value


def _reports_query(title: str | None, series: str | None, iteration: int | None, last: int | None) -> dict[str, Any]:
    return {"title": title, "series": series, "iteration": iteration, "last": last}
