"""The server's API as Python calls: AsyncClient for asyncio code, Client for everything else.

Events travel through a sink, not through here. To add a call, write it once as an `async def` of a class of
calls (telemetry/client/reads.py, or a file of its own for a new subject), and name it once more in Client:
`blocking` keeps its arguments and the type of its answer.

    with Client("http://127.0.0.1:8008") as client:
        for task in client.tasks(status="in_progress")["tasks"]:
            print(task["name"], task["last_iteration"])
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from telemetry.client.blobs import BlobCalls
from telemetry.client.edits import EditCalls
from telemetry.client.http import API_PREFIX, DEFAULT_TIMEOUT_S
from telemetry.client.models import ModelCalls
from telemetry.client.reads import ReadCalls
from telemetry.client.types import (
    ConsoleAnswer,
    ModelInfo,
    PointsAnswer,
    PointsInfo,
    ProjectInfo,
    SeriesSummary,
    ServerInfo,
    TaskDetail,
    TaskInfo,
    TasksAnswer,
    ValueInfo,
)

__all__ = [
    "API_PREFIX",
    "AsyncClient",
    "Client",
    "ConsoleAnswer",
    "ModelInfo",
    "PointsAnswer",
    "PointsInfo",
    "ProjectInfo",
    "SeriesSummary",
    "ServerInfo",
    "TaskDetail",
    "TaskInfo",
    "TasksAnswer",
    "ValueInfo",
]

P = ParamSpec("P")
T = TypeVar("T")


class AsyncClient(ReadCalls, EditCalls, BlobCalls, ModelCalls):
    """The server's API for asyncio code. One client belongs to one event loop.

    Every call raises ServerUnreachable when nothing answers in `timeout_s` seconds, and ServerError
    with the HTTP status (404 for an unknown task) when the server refuses.
    """


def blocking(
    call: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    """Return a call of AsyncClient as one of Client that waits for the answer."""

    @functools.wraps(call)
    def wait(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(lambda client: call(client, *args, **kwargs))

    return wait


class Client:
    """The same calls for code without an event loop; safe from any thread, also in a notebook.

    The requests run on an event loop of the client's own, in a daemon thread that the first call
    starts and `close()` ends.
    """

    server = blocking(AsyncClient.server)
    tasks = blocking(AsyncClient.tasks)
    query_tasks = blocking(AsyncClient.query_tasks)
    choices = blocking(AsyncClient.choices)
    projects = blocking(AsyncClient.projects)
    task = blocking(AsyncClient.task)
    series = blocking(AsyncClient.series)
    points = blocking(AsyncClient.points)
    console = blocking(AsyncClient.console)
    models = blocking(AsyncClient.models)
    model = blocking(AsyncClient.model)
    find_models = blocking(AsyncClient.find_models)
    values = blocking(AsyncClient.values)
    plots = blocking(AsyncClient.plots)
    media = blocking(AsyncClient.media)
    change = blocking(AsyncClient.change)
    delete_task = blocking(AsyncClient.delete_task)
    prune = blocking(AsyncClient.prune)
    record = blocking(AsyncClient.record)
    records = blocking(AsyncClient.records)
    export_page = blocking(AsyncClient.export_page)
    blob_status = blocking(AsyncClient.blob_status)
    send_blob = blocking(AsyncClient.send_blob)
    download_blob = blocking(AsyncClient.download_blob)
    wanted_blobs = blocking(AsyncClient.wanted_blobs)

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        token_file: Path | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        trust_env: bool = True,
    ) -> None:
        self._client = AsyncClient(url, token=token, token_file=token_file, timeout_s=timeout_s, trust_env=trust_env)
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

    def _run(self, call: Callable[[AsyncClient], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run_coroutine_threadsafe(call(self._client), self._own_loop()).result()

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="telemetry-client", daemon=True)
                self._thread.start()
            return self._loop
