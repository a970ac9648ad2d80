"""The read API: parameters in, the store's answer out as JSON. docs/server.md lists it.

Every read runs on a small pool of threads with a snapshot of its own, so it neither blocks the event
loop nor waits for the writer.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson
from aiohttp import web

from telemetry.errors import InvalidQuery
from telemetry.server.access import access_of
from telemetry.server.config import STORE
from telemetry.server.params import choice, flag, integer, integers, number, task_id_of, text
from telemetry.server.store import (
    Band,
    ConsoleQuery,
    NotFound,
    PointsQuery,
    ReportsQuery,
    SampledSeries,
    Store,
    json_number,
)

__all__ = ["API_VERSION", "READ_THREADS", "add_routes", "json_response", "read", "run_readers"]

API_VERSION = 1
# As many as the store has connections to read with.
READ_THREADS = 4

_MAX_SERIES = 100
_DEFAULT_SAMPLES = 2000
_MIN_SAMPLES, _MAX_SAMPLES = 2, 20_000
_MAX_LINES = 10_000
_NS_PER_MS = 1_000_000
_X_WORDS = {True: "time", False: "iteration"}
_INT64_MAX = 2**63 - 1

_READERS = web.AppKey("readers", ThreadPoolExecutor)


def add_routes(app: web.Application) -> None:
    """Add all GET routes below /api/v1, and /healthz."""
    router = app.router
    router.add_get("/healthz", healthz)
    router.add_get("/api/v1/server", server)
    router.add_get("/api/v1/projects", projects)
    router.add_get("/api/v1/tasks/{task_id}", task)
    router.add_get("/api/v1/tasks/{task_id}/series", series)
    router.add_get("/api/v1/tasks/{task_id}/points", points)
    router.add_get("/api/v1/tasks/{task_id}/bands", bands)
    router.add_get("/api/v1/tasks/{task_id}/console", console)
    router.add_get("/api/v1/tasks/{task_id}/models", models)
    router.add_get("/api/v1/tasks/{task_id}/values", values)
    router.add_get("/api/v1/tasks/{task_id}/plots", plots)
    router.add_get("/api/v1/tasks/{task_id}/media", media)


async def run_readers(app: web.Application) -> AsyncIterator[None]:
    """Run the threads that read for the application's life (a cleanup context)."""
    app[_READERS] = ThreadPoolExecutor(READ_THREADS, "telemetry-read")
    yield
    app[_READERS].shutdown()


async def healthz(request: web.Request) -> web.Response:
    """`GET /healthz`: the server runs."""
    return web.Response(text="ok")


async def server(request: web.Request) -> web.Response:
    """`GET /server`: versions."""
    answer = {"version": _version(), "api": API_VERSION, "schema": request.app[STORE].schema_version}
    return json_response(orjson.dumps(answer))


async def projects(request: web.Request) -> web.Response:
    """`GET /projects`."""
    within = access_of(request).projects
    return await read(request, lambda store: store.projects(within))


async def task(request: web.Request) -> web.Response:
    """`GET /tasks/{id}`: the summary, the whole record, the counts."""
    task_id = _task_id(request)
    return await read(request, lambda store: store.task(task_id))


async def series(request: web.Request) -> web.Response:
    """`GET /tasks/{id}/series?kind=scalar|resource`."""
    task_id = _task_id(request)
    kind = choice(request, "kind", ("scalar", "resource"))
    return await read(request, lambda store: store.series(task_id, kind))


async def points(request: web.Request) -> web.Response:
    """`GET /tasks/{id}/points?series=1,2&x=iteration|time&from=&to=&max_samples=2000&half_life=&attempts=last|all`."""
    task_id = _task_id(request)
    wanted = integers(request, "series", most=_MAX_SERIES)
    query = _points_query(request)

    def answer(store: Store) -> dict[str, Any]:
        found = store.points(task_id, wanted, query)
        return {
            "x": _X_WORDS[query.by_time],
            "series": [_points_json(identifier, part, query.by_time) for identifier, part in found],
        }

    return await read(request, answer)


async def bands(request: web.Request) -> web.Response:
    """`GET /tasks/{id}/bands?series=1,2&x=&from=&to=&max_samples=2000&attempts=`: each over all of its ranks."""
    task_id = _task_id(request)
    wanted = integers(request, "series", most=_MAX_SERIES)
    query = _points_query(request)

    def answer(store: Store) -> dict[str, Any]:
        found = store.bands(task_id, wanted, query)
        return {
            "x": _X_WORDS[query.by_time],
            "series": [_band_json(identifier, part, query.by_time) for identifier, part in found],
        }

    return await read(request, answer)


def _points_query(request: web.Request) -> PointsQuery:
    x = choice(request, "x", ("iteration", "time")) or "iteration"
    low, high = number(request, "from"), number(request, "to")
    if low is not None and high is not None and low > high:
        raise web.HTTPBadRequest(text=f"from ({low:g}) is greater than to ({high:g})")
    samples = integer(request, "max_samples", _DEFAULT_SAMPLES, low=_MIN_SAMPLES, high=_MAX_SAMPLES)
    half_life = number(request, "half_life", above=0.0)
    by_time = x == "time"
    return PointsQuery(
        by_time=by_time,
        low=None if low is None else math.ceil(low) * (_NS_PER_MS if by_time else 1),
        # A time is shown in whole ms, rounded down: all of its last ms belongs to the range.
        high=None if high is None else ((math.floor(high) + 1) * _NS_PER_MS - 1 if by_time else math.floor(high)),
        max_samples=samples or _DEFAULT_SAMPLES,
        half_life=None if half_life is None else half_life * (_NS_PER_MS if by_time else 1),
        all_attempts=choice(request, "attempts", ("last", "all")) == "all",
    )


async def console(request: web.Request) -> web.Response:
    """`GET /tasks/{id}/console?after=ID&before=ID&limit=1000&tail=1&stream=&search=&rank=`."""
    task_id = _task_id(request)
    query = ConsoleQuery(
        after=integer(request, "after", None),
        before=integer(request, "before", None),
        limit=integer(request, "limit", 1000, low=1, high=_MAX_LINES) or 1000,
        from_end=flag(request, "tail"),
        stream=text(request, "stream"),
        search=text(request, "search") or "",
        rank=integer(request, "rank", None, low=0, high=2**31 - 1),
    )
    return await read(request, lambda store: store.console(task_id, query))


async def models(request: web.Request) -> web.Response:
    """`GET /tasks/{id}/models`."""
    task_id = _task_id(request)
    return await read(request, lambda store: store.models(task_id))


async def values(request: web.Request) -> web.Response:
    """`GET /tasks/{id}/values`."""
    task_id = _task_id(request)
    return await read(request, lambda store: store.values(task_id))


async def plots(request: web.Request) -> web.Response:
    """`GET /tasks/{id}/plots?title=&series=&iteration=&last=N&figures=1`."""
    task_id, query = _task_id(request), _reports_query(request)
    figures = choice(request, "figures", ("0", "1")) != "0"
    return await read(request, lambda store: store.plots(task_id, query, figures=figures))


async def media(request: web.Request) -> web.Response:
    """`GET /tasks/{id}/media?title=&series=&iteration=&last=N`."""
    task_id, query = _task_id(request), _reports_query(request)
    return await read(request, lambda store: store.media(task_id, query))


def _reports_query(request: web.Request) -> ReportsQuery:
    return ReportsQuery(
        title=_exact(request, "title"),
        series=_exact(request, "series"),
        iteration=integer(request, "iteration", None, low=-_INT64_MAX - 1),
        last=integer(request, "last", None, low=1, high=_MAX_LINES),
    )


def _exact(request: web.Request, name: str) -> str | None:
    """Return a name as it is: the empty one is a name, too."""
    return "" if request.query.get(name) == "" else text(request, name)


def _task_id(request: web.Request) -> str:
    return task_id_of(request.match_info["task_id"])


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


async def read(
    request: web.Request,
    ask: Callable[[Store], Any],
    *,
    encode: Callable[[Any], bytes] = _json,
    content_type: str = "application/json",
) -> web.Response:
    """Answer with what `ask` gets from the store, on a thread of those that read.

    Raises:
        HTTPNotFound, HTTPBadRequest: the store has no such task, or the question is none.
    """
    store = request.app[STORE]

    def answer() -> bytes:
        return encode(ask(store))

    begin = time.perf_counter()
    try:
        body = await asyncio.get_running_loop().run_in_executor(request.app[_READERS], answer)
    except NotFound as error:
        raise web.HTTPNotFound(text=str(error)) from error
    except InvalidQuery as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    response = web.Response(body=body, content_type=content_type)
    response.headers["Server-Timing"] = f"read;dur={(time.perf_counter() - begin) * 1e3:.2f}"
    return response


def json_response(body: bytes) -> web.Response:
    """Return JSON that is encoded already."""
    return web.Response(body=body, content_type="application/json")


def _points_json(identifier: int, part: SampledSeries, by_time: bool) -> dict[str, Any]:
    # orjson writes NaN and infinities as null.
    answer: dict[str, Any] = {
        "id": identifier,
        "count": part.count,
        "exact": part.exact,
        "x": part.x // _NS_PER_MS if by_time else part.x,
        "y": part.values,
        "smooth": part.smooth,
        "non_finite": [[x // _NS_PER_MS if by_time else x, json_number(value)] for x, value in part.non_finite],
        "non_finite_count": part.non_finite_count,
    }
    if part.smooth is not None:
        answer["smooth_exact"] = part.smooth_exact
    return answer


def _band_json(identifier: int, band: Band, by_time: bool) -> dict[str, Any]:
    return {
        "id": identifier,
        "ranks": band.ranks,
        "count": band.count,
        "exact": band.exact,
        "x": band.x // _NS_PER_MS if by_time else band.x,
        "mean": band.mean,
        "low": band.low,
        "high": band.high,
    }


def _version() -> str:
    try:
        return version("telemetry-tasks")
    except PackageNotFoundError:
        return "unknown"
