"""The server's API as Python calls: AsyncClient for asyncio code, Client for everything else.

Reads only: events travel through a sink. A path is built in one place for both clients, and aiohttp
is imported on the first request, so that importing this module costs nothing.

    with Client("http://127.0.0.1:8008") as client:
        for task in client.tasks(status="in_progress")["tasks"]:
            print(task["name"], task["last_iteration"])
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypedDict, TypeVar, cast
from urllib.parse import urlsplit

import orjson

from telemetry.credentials import Credentials, refuse_password_in_url
from telemetry.errors import ConfigurationError, ServerError, ServerUnreachable

if TYPE_CHECKING:
    import aiohttp

__all__ = [
    "AsyncClient",
    "Client",
    "ConsoleAnswer",
    "ModelInfo",
    "PointsAnswer",
    "PointsInfo",
    "ProjectInfo",
    "SeriesInfo",
    "ServerInfo",
    "TaskDetail",
    "TaskInfo",
    "TasksAnswer",
    "ValueInfo",
]

API_PREFIX = "/api/v1"

# Reads are answered in well under a second; a server that needs longer is in trouble.
DEFAULT_TIMEOUT_S = 30.0

# A float, or "NaN", "Infinity", "-Infinity": JSON has no other way to carry these.
Number = float | str

T = TypeVar("T")


class ServerInfo(TypedDict):
    """What answers: `api` and `schema` are integers that grow with each incompatible change."""

    version: str
    api: int
    schema: int


class LastScalar(TypedDict):
    """The newest point of a series, as the task table shows it."""

    title: str
    series: str
    value: Number | None
    iteration: int


class TaskInfo(TypedDict):
    """A row of the task table. Times are Unix milliseconds; None where there is none yet."""

    id: str
    name: str
    project: str
    type: str
    status: str
    status_reason: str | None
    progress: float | None
    tags: list[str]
    created_unix_ms: int | None
    started_unix_ms: int | None
    ended_unix_ms: int | None
    last_update_unix_ms: int | None
    last_iteration: int | None
    points: int
    writers: int
    host: str | None
    last_scalars: list[LastScalar]


class TaskDetail(TaskInfo):
    """A task with its whole record, section -> key -> value, and its counts."""

    record: dict[str, dict[str, Any]]
    counts: dict[str, int]


class TasksAnswer(TypedDict):
    """One page of the task table; `total` counts the tasks of all pages."""

    tasks: list[TaskInfo]
    total: int
    page: int
    page_size: int


class ProjectInfo(TypedDict):
    """A project and how many tasks it holds."""

    name: str
    tasks: int


class SeriesInfo(TypedDict):
    """A series and its summary. `min` and `max` are over finite values only."""

    id: int
    kind: str
    title: str
    series: str
    unit: str
    count: int
    last: Number | None
    last_iteration: int
    last_unix_ms: int
    min: float | None
    min_iteration: int | None
    max: float | None
    max_iteration: int | None
    first_iteration: int
    non_finite: int


class PointsInfo(TypedDict):
    """The points of one series: `x` and `y` of equal length, y None where the value is not finite."""

    id: int
    count: int
    exact: bool
    x: list[int]
    y: list[float | None]
    smooth: list[float | None] | None
    non_finite: list[tuple[int, str]]
    non_finite_count: int


class PointsAnswer(TypedDict):
    """Points of the asked series; `x` says whether they are over "iteration" or "time" (Unix ms)."""

    x: str
    series: list[PointsInfo]


class ConsoleLineInfo(TypedDict):
    """A console line; `id` grows with arrival and pages the answer."""

    id: int
    unix_ms: int
    stream: str
    level: int | None
    text: str


class ConsoleAnswer(TypedDict):
    """Console lines in order; `more` says that the range holds further ones."""

    lines: list[ConsoleLineInfo]
    more: bool


class ModelInfo(TypedDict):
    """A saved model file, by the path the program gave it."""

    name: str
    path: str
    framework: str
    iteration: int | None
    size_bytes: int | None
    unix_ms: int


class ValueInfo(TypedDict):
    """A single value of the task; the last one reported under a name."""

    name: str
    value: Number
    unix_ms: int


class _Request(NamedTuple):
    """A path below the API prefix with its query; None leaves a parameter out."""

    path: str
    query: Mapping[str, str | int | float | None]


def _base(url: str) -> str:
    refuse_password_in_url(url)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            f"{url!r} is not the address of a server; give one like http://127.0.0.1:8008 (TELEMETRY_URL)"
        )
    return url.rstrip("/")


def _tasks_request(
    search: str | None, project: str | None, status: str | None, sort: str, page: int, page_size: int
) -> _Request:
    query = {"search": search, "project": project, "status": status}
    return _Request("/tasks", {**query, "sort": sort, "page": page, "page_size": page_size})


def _points_request(
    task_id: str,
    series: Sequence[int],
    x: str,
    start: int | None,
    end: int | None,
    max_samples: int,
    half_life: float | None,
) -> _Request:
    query = {"series": ",".join(map(str, series)), "x": x, "from": start, "to": end}
    return _Request(f"/tasks/{task_id}/points", {**query, "max_samples": max_samples, "half_life": half_life})


class AsyncClient:
    """The server's read API for asyncio code. One client belongs to one event loop.

    Every call raises ServerUnreachable when nothing answers in `timeout_s` seconds, and ServerError
    with the HTTP status (404 for an unknown task) when the server refuses.
    """

    def __init__(
        self, url: str, *, token: str = "", token_file: Path | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        self.url = _base(url)
        self._credentials = Credentials(token, file=token_file)
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; the client can be used again and opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def server(self) -> ServerInfo:
        """Return the server's version: also the way to ask whether it is there."""
        return cast(ServerInfo, await self._get(_Request("/server", {})))

    async def tasks(
        self,
        *,
        search: str | None = None,
        project: str | None = None,
        status: str | None = None,
        sort: str = "-last_update",
        page: int = 0,
        page_size: int = 50,
    ) -> TasksAnswer:
        """Return one page of the tasks that match.

        Args:
            sort: name, project, status, progress, started, last_update, created or
                `last:<title>/<series>`; a leading "-" puts the greatest first.
        """
        request = _tasks_request(search, project, status, sort, page, page_size)
        return cast(TasksAnswer, await self._get(request))

    async def projects(self) -> list[ProjectInfo]:
        """Return every project with its number of tasks."""
        return cast(list[ProjectInfo], (await self._get(_Request("/projects", {})))["projects"])

    async def task(self, task_id: str) -> TaskDetail:
        """Return one task with its record."""
        return cast(TaskDetail, await self._get(_Request(f"/tasks/{task_id}", {})))

    async def series(self, task_id: str, *, kind: str | None = None) -> list[SeriesInfo]:
        """Return the task's series. `kind`: "scalar", "resource", or None for both."""
        answer = await self._get(_Request(f"/tasks/{task_id}/series", {"kind": kind}))
        return cast(list[SeriesInfo], answer["series"])

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
        request = _points_request(task_id, series, x, start, end, max_samples, half_life)
        return cast(PointsAnswer, await self._get(request))

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
        request = _Request(f"/tasks/{task_id}/console", {**query, "stream": stream, "search": search})
        return cast(ConsoleAnswer, await self._get(request))

    async def models(self, task_id: str) -> list[ModelInfo]:
        """Return the model files that the task saved."""
        answer = await self._get(_Request(f"/tasks/{task_id}/models", {}))
        return cast(list[ModelInfo], answer["models"])

    async def values(self, task_id: str) -> list[ValueInfo]:
        """Return the task's single values."""
        answer = await self._get(_Request(f"/tasks/{task_id}/values", {}))
        return cast(list[ValueInfo], answer["values"])

    async def export_page(self, task_id: str, part: str, after: str | None = None) -> dict[str, Any]:
        """Return a page of all that the server has of a task; docs/server.md lists the fields.

        Args:
            part: "points", "console" or "events" (one page: record, single values, models).
            after: where it goes on, from `next` of the page before; None for the first one.
        """
        import msgpack

        status, body = await self._fetch(_Request(f"/tasks/{task_id}/export/{part}", {"after": after}))
        if status != 200:
            self._read_answer(status, body)
        try:
            page: dict[str, Any] = msgpack.unpackb(body)
        except (ValueError, msgpack.UnpackException) as error:
            raise ServerUnreachable(f"{self.url} answers, but not as a telemetry server does") from error
        return page

    async def _get(self, request: _Request) -> Any:
        return self._read_answer(*await self._fetch(request))

    async def _fetch(self, request: _Request) -> tuple[int, bytes]:
        status, body = await self._exchange(request)
        # The token may have been rotated in its file.
        if status == 401 and await asyncio.to_thread(self._credentials.reread):
            status, body = await self._exchange(request)
        return status, body

    async def _exchange(self, request: _Request) -> tuple[int, bytes]:
        import aiohttp

        if self._session is None:
            self._credentials.warn_if_exposed(self.url)
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout_s))
        query = {name: str(value) for name, value in request.query.items() if value is not None}
        headers = self._credentials.headers()
        try:
            async with self._session.get(
                f"{self.url}{API_PREFIX}{request.path}", params=query, headers=headers
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServerUnreachable(
                f"no answer from {self.url} ({error!s:.200} {type(error).__name__}). "
                'Is it running? "telemetry server" starts one.'
            ) from error

    def _read_answer(self, status: int, body: bytes) -> Any:
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ServerUnreachable(
                f"{self.url} answers with status {status}, but not as a telemetry server does"
            ) from error
        if status != 200:
            said = answer.get("error", "no reason given") if isinstance(answer, dict) else "no reason given"
            raise ServerError(f"{self.url} answered {status}: {said}", status=status)
        return answer


class Client:
    """The same calls for code without an event loop; safe from any thread, also in a notebook.

    The requests run on an event loop of the client's own, in a daemon thread that the first call
    starts and `close()` ends.
    """

    def __init__(
        self, url: str, *, token: str = "", token_file: Path | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        self._client = AsyncClient(url, token=token, token_file=token_file, timeout_s=timeout_s)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The server's address, without a slash at the end."""
        return self._client.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread; the client can be used again."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._client.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def server(self) -> ServerInfo:
        """See AsyncClient.server."""
        return self._run(self._client.server())

    def tasks(
        self,
        *,
        search: str | None = None,
        project: str | None = None,
        status: str | None = None,
        sort: str = "-last_update",
        page: int = 0,
        page_size: int = 50,
    ) -> TasksAnswer:
        """See AsyncClient.tasks."""
        return self._run(
            self._client.tasks(search=search, project=project, status=status, sort=sort, page=page, page_size=page_size)
        )

    def projects(self) -> list[ProjectInfo]:
        """See AsyncClient.projects."""
        return self._run(self._client.projects())

    def task(self, task_id: str) -> TaskDetail:
        """See AsyncClient.task."""
        return self._run(self._client.task(task_id))

    def series(self, task_id: str, *, kind: str | None = None) -> list[SeriesInfo]:
        """See AsyncClient.series."""
        return self._run(self._client.series(task_id, kind=kind))

    def points(
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
        """See AsyncClient.points."""
        return self._run(
            self._client.points(
                task_id, series, x=x, start=start, end=end, max_samples=max_samples, half_life=half_life
            )
        )

    def console(
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
        """See AsyncClient.console."""
        return self._run(
            self._client.console(
                task_id, after=after, before=before, limit=limit, tail=tail, stream=stream, search=search
            )
        )

    def models(self, task_id: str) -> list[ModelInfo]:
        """See AsyncClient.models."""
        return self._run(self._client.models(task_id))

    def values(self, task_id: str) -> list[ValueInfo]:
        """See AsyncClient.values."""
        return self._run(self._client.values(task_id))

    def export_page(self, task_id: str, part: str, after: str | None = None) -> dict[str, Any]:
        """See AsyncClient.export_page."""
        return self._run(self._client.export_page(task_id, part, after))

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._own_loop()).result()

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="telemetry-client", daemon=True)
                self._thread.start()
            return self._loop
