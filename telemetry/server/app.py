"""The server put together: the application, its life, and running it on an address."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self

import orjson
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from telemetry.errors import ConfigurationError
from telemetry.network.credentials import is_loopback
from telemetry.process.descriptors import hold_standard_descriptors
from telemetry.process.terminal import size_text
from telemetry.server import (
    api,
    blob_api,
    edit_api,
    export_api,
    ingest,
    live,
    models_api,
    pages,
    query_api,
    record_api,
    tasks_api,
    watch,
)
from telemetry.server.access import TOKENS
from telemetry.server.auth import guard, run_tokens
from telemetry.server.config import CONFIG, STORE, ServerConfig
from telemetry.server.request_log import request_log
from telemetry.server.shared.bus import BUS, LocalBus
from telemetry.server.sockets.connections import Connections, note_request
from telemetry.server.sockets.descriptors import raise_descriptor_limit
from telemetry.server.sockets.listening import Site
from telemetry.server.store import MoveStopped, Store
from telemetry.server.tokens import TokenRegistry
from telemetry.server.upkeep import address, backup_api, keeper, prune_api

__all__ = ["BackgroundServer", "create_app", "run_server", "serve"]

log = logging.getLogger("telemetry.server")

# Set when the server is to stop; looked at while the store is opened.
_STOP = web.AppKey("stop", asyncio.Event)

# Requests under way get this long to finish when the server stops, in seconds.
_SHUTDOWN_TIMEOUT_S = 10.0
# Free space that cannot be given back is worth a line of the log from here on.
_STUCK_BYTES = 64 * 1024 * 1024


def create_app(config: ServerConfig, stop: asyncio.Event | None = None) -> web.Application:
    """Build the application: ingest, read API, live stream and pages. The store is opened at its start.

    Args:
        stop: once it is set, a store of an older version is not moved any further (MoveStopped).
    """
    app = web.Application(middlewares=[note_request, json_errors, guard], client_max_size=config.limits.max_body_bytes)
    app[CONFIG] = config
    app[_STOP] = asyncio.Event() if stop is None else stop
    app[TOKENS] = TokenRegistry(config.directory, always=config.token is not None or not is_loopback(config.host))
    app[address.LOCAL_KEY] = address.new_key()
    app[BUS] = LocalBus()
    live.add_routes(app)
    ingest.add_routes(app)
    api.add_routes(app)
    tasks_api.add_routes(app)
    query_api.add_routes(app)
    record_api.add_routes(app)
    edit_api.add_routes(app)
    models_api.add_routes(app)
    export_api.add_routes(app)
    blob_api.add_routes(app)
    backup_api.add_routes(app)
    prune_api.add_routes(app)
    pages.add_routes(app)
    # Ended in reverse: the writer finishes before the store is closed under it.
    app.cleanup_ctx.append(_run_store)
    app.cleanup_ctx.append(api.run_readers)
    app.cleanup_ctx.append(export_api.run_exporter)
    app.cleanup_ctx.append(blob_api.run_blobs)
    app.cleanup_ctx.append(keeper.run_keeper)
    app.cleanup_ctx.append(ingest.run_ingest)
    app.cleanup_ctx.append(edit_api.run_edits)
    app.cleanup_ctx.append(live.run_feeds)
    app.cleanup_ctx.append(live.run_status_watch)
    app.cleanup_ctx.append(prune_api.run_retention)
    app.cleanup_ctx.append(watch.run_watch)
    app.cleanup_ctx.append(run_tokens)
    return app


async def serve(
    config: ServerConfig, *, on_ready: Callable[[str], None] | None = None, stop: asyncio.Event | None = None
) -> None:
    """Serve until `stop` is set; without it, for ever.

    Args:
        on_ready: called once with the address to open, when requests are answered.
    Raises:
        ConfigurationError: the address cannot be listened on, or the directory not be used.
    """
    stop = stop or asyncio.Event()
    runner = web.AppRunner(
        create_app(config, stop),
        access_log=None,
        logger=request_log,
        shutdown_timeout=_SHUTDOWN_TIMEOUT_S,
        keepalive_timeout=config.limits.connections.idle_timeout_s,
        # Bodies are taken as they are: an inflated one would escape the limits.
        auto_decompress=False,
    )
    try:
        await runner.setup()
    except MoveStopped as stopped:
        log.warning("%s", stopped)
        return
    try:
        site = Site(runner, config.host, config.port, Connections(config.limits.connections))
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {config.host}, port {config.port}: {error.strerror or error}"
            ) from error
        url = _url(config.host, site.port)
        address.announce(config.directory, address.LocalServer(url, runner.app[address.LOCAL_KEY]))
        if on_ready is not None:
            on_ready(url)
        try:
            await stop.wait()
        finally:
            # While the directory is ours still: the next server writes its own.
            address.withdraw(config.directory)
    finally:
        await runner.cleanup()


def run_server(config: ServerConfig, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM (a second one does not hurry it); blocks. On uvloop where there is one.

    For a process that is the server's: its limit of descriptors is raised as far as that is allowed.
    """
    raise_descriptor_limit()

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, stop.set)
            except NotImplementedError:
                # Windows: Ctrl-C cancels the runner's main task instead.
                break
        await serve(config, on_ready=on_ready, stop=stop)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main())


class BackgroundServer:
    """A server on a thread of this process, for tests and notebooks: `with BackgroundServer(config) as server`.

    Attributes:
        url: its address, known once the block is entered.

    Raises:
        ConfigurationError: on entering, as `serve` does.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.url = ""
        self._config = config
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="telemetry-server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None and self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        async def main() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            await serve(self._config, on_ready=self._started, stop=self._stop)

        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(main())
        except BaseException as error:
            self._error = error
            if self._ready.is_set():
                log.error("the server ended", exc_info=error)
            self._ready.set()

    def _started(self, url: str) -> None:
        self.url = url
        self._ready.set()


@web.middleware
async def json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer errors as {"error": ...}, and let nothing of the API be kept or guessed at by a browser."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        if error.status < 400 or not request.path.startswith("/api/"):
            raise
        response = _error(error.status, error.text or error.reason, request, error)
    except ConnectionResetError:
        # Whoever asked has gone away, and nobody reads the answer; a sender sends again.
        log.debug("%s %s: the connection was lost", request.method, request.path)
        response = _error(400, "the connection was lost", request)
    except Exception as error:
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        response = _error(500, "the server failed on this request; its log says why", request)
    if not response.prepared and request.path.startswith("/api/"):
        response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    return response


def _error(status: int, message: str, request: web.Request, error: web.HTTPException | None = None) -> web.Response:
    response = web.Response(status=status, body=orjson.dumps({"error": message}), content_type="application/json")
    for name in (hdrs.RETRY_AFTER, hdrs.WWW_AUTHENTICATE, hdrs.ALLOW, "Upload-Offset"):
        if error is not None and name in error.headers:
            response.headers[name] = error.headers[name]
    return response


async def _run_store(app: web.Application) -> AsyncIterator[None]:
    config = app[CONFIG]
    stop = app[_STOP]
    opened = asyncio.to_thread(
        Store,
        config.directory,
        max_bytes=config.limits.max_store_bytes,
        # Beside those of the API: the live stream, the watch for silent tasks, ingest, export and the keeper.
        readers=api.READ_THREADS + blob_api.BLOB_THREADS + 5,
        project_limits=config.project_limits,
        sealing=config.limits.sealing,
        min_free_share=config.limits.min_free_share,
        clock=config.clock,
        stopping=stop.is_set,
    )
    try:
        # On a thread: moving an older store takes minutes, in which Ctrl-C must be heard.
        app[STORE] = await opened
    except asyncio.CancelledError:
        stop.set()
        raise
    _say_how_it_begins(app[STORE], config)
    yield
    app[STORE].close()


def _say_how_it_begins(store: Store, config: ServerConfig) -> None:
    """Say in the log what an operator wants to know of the store that was opened."""
    if store.stuck_bytes >= _STUCK_BYTES:
        log.warning(
            "%s of the database in %s are free and stay in its file, which version 0.1 made: to give them back stop "
            "the server and run telemetry compact, once",
            size_text(store.stuck_bytes),
            config.directory,
        )
    if (restored := store.restored) is not None:
        log.warning(
            "%s was a backup, of %s, and is this server's data from now on: no backup any more. %d of its %d tasks had "
            "not ended then. Programs that still run send again what they have of the time since; of those that have "
            "ended, telemetry sync sends what lies on their machines",
            config.directory,
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(restored.unix_s)),
            restored.running_tasks,
            restored.tasks,
        )


def _url(host: str, port: int) -> str:
    # A wildcard is no address to open; this machine answers on it as on any other.
    name = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://[{name}]:{port}" if _is_ipv6(name) else f"http://{name}:{port}"


def _is_ipv6(name: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, name)
    except OSError:
        return False
    return True


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    hold_standard_descriptors()
    if sys.platform == "win32":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
