"""Blobs over HTTP: `HEAD|PATCH|GET /tasks/{id}/blobs/{sha256}`, and what a task still wants.

A sender asks how much has arrived (HEAD), and appends from there (PATCH, a part at a time); the last byte has the
sha256 checked. What a browser gets is a download, or one of a few harmless types in a sandbox: a stranger's bytes must
never run as a page of ours.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote

import orjson
from aiohttp import hdrs, web

from telemetry.server.access import access_of
from telemetry.server.config import CONFIG, STORE
from telemetry.server.ingest import INGEST, ServerBusy
from telemetry.server.params import flag, integer, task_id_of
from telemetry.server.shared.bus import BUS
from telemetry.server.store import (
    BlobRef,
    BlobRefused,
    NotFound,
    Part,
    StoreUnavailable,
    TaskChange,
    WrongOffset,
)
from telemetry.storage.blobs import is_sha256

__all__ = ["BLOB_THREADS", "MAX_PART_BYTES", "add_routes", "run_blobs"]

log = logging.getLogger("telemetry.server")

MAX_PART_BYTES = 8 * 1024 * 1024
# Writing parts and checking sums: two, so that a large sum does not hold up everybody.
BLOB_THREADS = 2
_SWEEP_S = 24 * 3600.0
_BODY_TIMEOUT_S = 120.0
_BUSY_RETRY_S = 1
_DISK_RETRY_S = 10

# What a browser may show in the page: nothing that can hold a script. Everything of text is plain text there.
_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp"})
# As an <audio> or <video> of a page plays them.
_PLAYED = frozenset(
    {"audio/mpeg", "audio/wav", "audio/x-wav", "audio/ogg", "audio/flac", "audio/mp4", "audio/webm"}
    | {"video/mp4", "video/webm", "video/ogg"}
)
_TEXTS = frozenset({"application/json", "application/yaml", "application/x-yaml", "application/toml"})
_SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"
_UNSAFE_IN_NAMES = re.compile(r"[^\w .()+=,@-]|[\x00-\x1f]", re.ASCII)

T = TypeVar("T")

_THREADS = web.AppKey("blob_threads", ThreadPoolExecutor)


class _Locks:
    """A lock for each part that is being written, for as long as anybody wants it."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        """Hold the lock of one part."""
        lock, users = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            _, users = self._locks[name]
            if users == 1:
                del self._locks[name]
            else:
                self._locks[name] = (lock, users - 1)


_PART_LOCKS = web.AppKey("part_locks", _Locks)


def add_routes(app: web.Application) -> None:
    """Add the routes of blobs below /api/v1/tasks."""
    path = "/api/v1/tasks/{task_id}/blobs"
    app.router.add_get(path, wanted)
    app.router.add_head(f"{path}/{{sha256}}", head)
    app.router.add_patch(f"{path}/{{sha256}}", patch)
    app.router.add_get(f"{path}/{{sha256}}", get, allow_head=False)


async def run_blobs(app: web.Application) -> AsyncIterator[None]:
    """Run the threads of blobs, and clear away what nobody needs, now and daily (a cleanup context)."""
    app[_THREADS] = ThreadPoolExecutor(BLOB_THREADS, "telemetry-blobs")
    app[_PART_LOCKS] = _Locks()
    store = app[STORE]

    def tidy() -> None:
        parts, files = store.blobs.files.remove_stale_parts(), store.blobs.sweep()
        if parts or files:
            log.info("cleared away %d unfinished and %d unneeded blobs", parts, files)

    async def tidy_daily() -> None:
        while True:
            try:
                await asyncio.get_running_loop().run_in_executor(app[_THREADS], tidy)
            except Exception as error:
                log.error("blobs could not be tidied up; it is tried again tomorrow", exc_info=error)
            await asyncio.sleep(_SWEEP_S)

    tidying = asyncio.create_task(tidy_daily())
    yield
    tidying.cancel()
    app[_THREADS].shutdown()


async def wanted(request: web.Request) -> web.Response:
    """`GET /tasks/{id}/blobs`: what the task's record names and the server has not."""
    task_id = task_id_of(request.match_info["task_id"])
    refs = await _run(request, lambda: request.app[STORE].blobs.wanted(task_id))
    items = [{"sha256": ref.sha256, "size_bytes": ref.size_bytes, "label": ref.label} for ref in refs]
    return web.Response(body=orjson.dumps({"wanted": items}), content_type="application/json")


async def head(request: web.Request) -> web.Response:
    """`HEAD /tasks/{id}/blobs/{sha256}`: how much has arrived; 404 for nothing."""
    task_id, sha256 = _names(request)
    blobs = request.app[STORE].blobs

    def look() -> tuple[int, int, bool]:
        if blobs.holds(task_id, sha256):
            size = blobs.files.size(sha256) or 0
            return size, size, True
        return (*blobs.files.arrived(task_id, sha256), False)

    offset, size, complete = await _run(request, look)
    if not complete and not size:
        raise web.HTTPNotFound(text="nothing of it has arrived")
    return web.Response(headers=_progress(offset, size, complete))


async def patch(request: web.Request) -> web.Response:
    """`PATCH /tasks/{id}/blobs/{sha256}?offset=N&size=TOTAL`: append a part; the last one has the sum checked."""
    task_id, sha256 = _names(request)
    limits = request.app[CONFIG].limits
    offset = integer(request, "offset", 0) or 0
    size = integer(request, "size", None)
    if size is None or offset > size:
        raise web.HTTPBadRequest(text="size is missing, or less than offset: give the blob's whole size")
    if limits.max_blob_bytes is not None and size > limits.max_blob_bytes:
        raise _too_large(f"a blob of {size:,} bytes is over this server's limit of {limits.max_blob_bytes:,}")
    length = request.content_length
    if length is None or length > MAX_PART_BYTES:
        raise _too_large(f"a part has {length} bytes; give its length, and at most {MAX_PART_BYTES} at once")
    if offset + length > size:
        raise web.HTTPBadRequest(text=f"the part ends at {offset + length}, behind the blob's end at {size}")
    part = Part(task_id, sha256, size)
    try:
        with request.app[INGEST].admitted(length):
            async with request.app[_PART_LOCKS].held(part.name):
                return await _take_part(request, part, offset)
    except ServerBusy as error:
        raise web.HTTPServiceUnavailable(text=str(error), headers={hdrs.RETRY_AFTER: str(_BUSY_RETRY_S)}) from error


async def _take_part(request: web.Request, part: Part, offset: int) -> web.Response:
    blobs, projects = request.app[STORE].blobs, access_of(request).projects

    def is_there() -> bool:
        if not blobs.may_send(part.task_id, part.sha256, part.size_bytes):
            return True
        if blobs.share(part.task_id, part.sha256, part.size_bytes, projects):
            blobs.files.forget(part)
            return True
        if not blobs.files.room_for(part.size_bytes - offset):
            raise StoreUnavailable("the server's disk has no room for this blob; its operator can make some")
        return False

    there = await _run(request, is_there)
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            data = await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"the part did not arrive within {_BODY_TIMEOUT_S:g} s") from error
    if there:
        return web.Response(status=204, headers=_progress(part.size_bytes, part.size_bytes, True))
    end = await _run(request, lambda: blobs.files.append(part, offset, data))
    if end < part.size_bytes:
        return web.Response(status=204, headers=_progress(end, part.size_bytes, False))
    path = await _run(request, lambda: blobs.files.check(part))
    if path is None:
        raise web.HTTPUnprocessableEntity(
            text=f"the {part.size_bytes} bytes that arrived have another sha256 than {part.sha256}; send them anew"
        )
    await _run(request, lambda: blobs.take(part.task_id, part.sha256, part.size_bytes, path))
    # An open page shows it as stored.
    request.app[BUS].publish({part.task_id: TaskChange()})
    return web.Response(status=204, headers=_progress(end, part.size_bytes, True))


async def get(request: web.Request) -> web.StreamResponse:
    """`GET /tasks/{id}/blobs/{sha256}?inline=1`: the bytes, as a download; Range is understood."""
    task_id, sha256 = _names(request)
    found = await _run(request, lambda: request.app[STORE].blobs.find(task_id, sha256))
    if found is None:
        raise web.HTTPNotFound(text=f"task {task_id} has no blob {sha256}")
    path, ref = found
    shown = _type_to_show(ref.content_type) if flag(request, "inline") else None
    headers = {
        hdrs.CONTENT_TYPE: shown or "application/octet-stream",
        hdrs.CONTENT_DISPOSITION: f"{'inline' if shown else 'attachment'}; {_filename(ref)}",
        # Whatever it turns out to be, it gets no origin, no script and no frame of ours.
        "Content-Security-Policy": _SANDBOX,
        "X-Content-Type-Options": "nosniff",
        # These bytes never change; but who may see them can.
        hdrs.CACHE_CONTROL: "private, max-age=600",
    }
    return web.FileResponse(path, headers=headers)


def _type_to_show(content_type: str) -> str | None:
    """Return the type to tell a browser that is to show a blob; None if it must not be shown."""
    word = content_type.partition(";")[0].strip().lower()
    if word in _IMAGES or word in _PLAYED:
        return word
    return "text/plain; charset=utf-8" if word.startswith("text/") or word in _TEXTS else None


def _filename(ref: BlobRef) -> str:
    name = PurePosixPath(ref.filename.replace("\\", "/")).name or ref.sha256
    plain = _UNSAFE_IN_NAMES.sub("_", name)
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _names(request: web.Request) -> tuple[str, str]:
    sha256 = request.match_info["sha256"]
    if not is_sha256(sha256):
        raise web.HTTPBadRequest(text=f"{sha256!r:.80} is not a sha256 (64 lower-case hexadecimal digits)")
    return task_id_of(request.match_info["task_id"]), sha256


def _progress(offset: int, size: int, complete: bool) -> dict[str, str]:
    return {"Upload-Offset": str(offset), "Upload-Length": str(size), "Upload-Complete": str(int(complete))}


def _too_large(text: str) -> web.HTTPRequestEntityTooLarge:
    return web.HTTPRequestEntityTooLarge(0, 0, text=text)


async def _run(request: web.Request, call: Callable[[], T]) -> T:
    """Do something with blobs on their threads; what the store says becomes an answer."""
    try:
        return await asyncio.get_running_loop().run_in_executor(request.app[_THREADS], call)
    except NotFound as error:
        raise web.HTTPNotFound(text=str(error)) from error
    except BlobRefused as error:
        raise (web.HTTPGone(text=str(error)) if error.gone else _too_large(str(error))) from error
    except WrongOffset as error:
        raise _conflict(error) from error
    except StoreUnavailable as error:
        log.warning("%s", error)
        headers = {hdrs.RETRY_AFTER: str(_DISK_RETRY_S)}
        raise web.HTTPInsufficientStorage(text=str(error), headers=headers) from error


def _conflict(error: WrongOffset) -> web.HTTPConflict:
    headers: dict[str, Any] = {"Upload-Offset": str(error.offset)}
    return web.HTTPConflict(text=f"{error}: go on from there", headers=headers)
