"""Taking frames in: check, decode off the event loop, write in groups on one thread, then answer.

A request is answered only when its frames are committed. While one group is being committed the next
requests gather; the writer then takes all of them in one transaction. What is received, decoded or
waiting is bounded in bytes and requests; beyond that the answer is 503, and the sender keeps its frames.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import hdrs, web
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, SQLAlchemyError

from telemetry.errors import FrameError, TelemetryError
from telemetry.server.access import access_of
from telemetry.server.config import CONFIG, STORE, Limits
from telemetry.server.live import HUB
from telemetry.server.store import FrameContent, Store, StoreUnavailable, TaskChange, Written, prepare
from telemetry.wire import CONTENT_TYPE, SENT_HEADER, Frame, decode, parse_frame

__all__ = ["INGEST", "BodyTooLarge", "Ingest", "ServerBusy", "add_routes", "run_ingest", "unavailable"]

log = logging.getLogger("telemetry.server")

# One transaction takes at most this much: it bounds the log's growth and the wait of the requests in it.
_GROUP_BYTES = 64 * 1024 * 1024
_DECODE_THREADS = 2
# Offset of the unpacked payload length in a frame's header (docs/wire.md).
_UNPACKED_AT = slice(16, 20)

# A sender that dribbles holds its place in the bound of waiting bytes; 64 MiB in this is 0.5 MiB/s.
_BODY_TIMEOUT_S = 120.0
# Of one writer in a receipt.
_MAX_RANGES = 256
_BUSY_RETRY_S = 1
_DISK_RETRY_S = 10


class ServerBusy(TelemetryError):
    """Too much is waiting to be written; nothing of this request was kept."""


class BodyTooLarge(TelemetryError):
    """The frames of a body inflate to more than the server takes at once; nothing was kept."""


class _WriteFailed(TelemetryError):
    """The writer failed on a request for no reason of the sender's; nothing of it was kept."""


@dataclass(slots=True)
class _IncomingFrame:
    """A frame of a request: its answer so far, and what is to be written if anything is."""

    writer_id: bytes
    sequence: int
    content: FrameContent | None = None
    result: str = "stored"
    reason: str | None = None

    def answer(self) -> dict[str, Any]:
        answer = {
            "writer": self.writer_id.hex(),
            "sequence": self.sequence,
            "result": self.result,
        }
        return answer if self.reason is None else {**answer, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class _PendingWrite:
    """The frames of one request that wait for the writer."""

    items: Sequence[_IncomingFrame]
    done: asyncio.Future[None]
    weight_bytes: int


class Ingest:
    """The writer thread and its queue. Made and closed on the event loop.

    Args:
        publish: called on the event loop with what each committed group changed.
    """

    def __init__(self, store: Store, limits: Limits, publish: Callable[[Mapping[str, TaskChange]], None]) -> None:
        self._store = store
        self._limits = limits
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._decoders = ThreadPoolExecutor(_DECODE_THREADS, "telemetry-decode")
        self._jobs: deque[_PendingWrite] = deque()
        self._wakeup = threading.Condition()
        self._closing = False
        self._waiting_bytes = 0
        self._waiting_requests = 0
        self._unpacked_bytes = 0
        self._thread = threading.Thread(target=self._run, name="telemetry-writer", daemon=True)
        self._thread.start()

    @property
    def waiting_jobs(self) -> int:
        """Requests that are decoded and wait for the next group."""
        return len(self._jobs)

    @contextmanager
    def admitted(self, body_bytes: int) -> Iterator[None]:
        """Hold a place for a request while its body is received, decoded and written.

        Raises:
            ServerBusy: there is no place; ask again later.
        """
        if (
            self._closing
            or self._waiting_requests >= self._limits.max_waiting_requests
            # A single large body is always let in when nothing else waits.
            or (self._waiting_bytes and self._waiting_bytes + body_bytes > self._limits.max_waiting_bytes)
        ):
            raise ServerBusy("too many frames are waiting to be written; nothing was kept, send them again")
        self._waiting_bytes += body_bytes
        self._waiting_requests += 1
        try:
            yield
        finally:
            self._waiting_bytes -= body_bytes
            self._waiting_requests -= 1

    async def take(
        self,
        body: bytes,
        *,
        projects: tuple[str, ...] | None = None,
        sent_unix_ns: int | None = None,
        alive: bool = True,
    ) -> list[dict[str, Any]]:
        """Store the frames of a body and return the answer for each, in order.

        Args:
            projects: those that the sender may write to; None for all.
            sent_unix_ns: the sender's clock as it sent the body, Unix ns; None if it did not say.
            alive: the frames are a sign of life of the task's programs; a change from a page is none.
        Raises:
            FrameError: the body is not whole frames; nothing was kept.
            BodyTooLarge, ServerBusy, StoreUnavailable: nothing was kept.
        """
        frames, unpacked_bytes = await self._loop.run_in_executor(self._decoders, self._cut, body)
        with self._room_for(unpacked_bytes):
            return await self._store_frames(frames, projects, sent_unix_ns, alive)

    @contextmanager
    def _room_for(self, unpacked_bytes: int) -> Iterator[None]:
        # A body of kilobytes may inflate to megabytes, and stays in memory until it is written.
        if self._unpacked_bytes and self._unpacked_bytes + unpacked_bytes > self._limits.max_waiting_bytes:
            raise ServerBusy("too much is waiting to be written; nothing was kept, send it again")
        self._unpacked_bytes += unpacked_bytes
        try:
            yield
        finally:
            self._unpacked_bytes -= unpacked_bytes

    async def _store_frames(
        self, frames: Sequence[Frame], projects: tuple[str, ...] | None, sent_unix_ns: int | None, alive: bool
    ) -> list[dict[str, Any]]:
        items = await self._loop.run_in_executor(
            self._decoders, lambda: [self._decode(frame, projects) for frame in frames]
        )
        for item in items:
            if item.content is not None:
                item.content.sent_unix_ns, item.content.alive = sent_unix_ns, alive
        weight_bytes = sum(item.content.weight_bytes for item in items if item.content is not None)
        if weight_bytes:
            job = _PendingWrite([item for item in items if item.content], self._loop.create_future(), weight_bytes)
            with self._wakeup:
                self._jobs.append(job)
                self._wakeup.notify()
            await job.done
        return [item.answer() for item in items]

    async def receipt(self, answers: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the answer to a request: of each frame what became of it, and what the store holds of their writers.

        A sender that was told before that more is there then knows that the store has lost it.
        """
        writers = {bytes.fromhex(answer["writer"]) for answer in answers}
        held = await self._loop.run_in_executor(
            self._decoders, lambda: {writer.hex(): self._store.held_frames(writer) for writer in writers}
        )
        # A writer whose frames came in pieces, from many importers, has many ranges, and nobody who needs them.
        few = {writer: pairs for writer, pairs in held.items() if len(pairs) <= _MAX_RANGES}
        return {"frames": answers, "store": self._store.store_id, "writers": few}

    async def close(self) -> None:
        """Write what was taken and end the threads; nothing is taken any more."""
        with self._wakeup:
            self._closing = True
            self._wakeup.notify()
        await asyncio.to_thread(self._thread.join)
        self._decoders.shutdown()

    def _cut(self, body: bytes) -> tuple[list[Frame], int]:
        """Cut a body into frames; return them and what they will inflate to, in bytes. On a decoder thread."""
        view = memoryview(body)
        frames: list[Frame] = []
        offset = unpacked_bytes = 0
        while offset < len(view):
            try:
                frame = parse_frame(view, offset)
            except FrameError as error:
                raise FrameError(f"at byte {offset} of the body: {error}") from error
            frames.append(frame)
            offset += len(frame)
            unpacked_bytes += int.from_bytes(frame.data[_UNPACKED_AT], "little")
        if not frames:
            raise FrameError("the body is empty: it must hold at least one frame")
        if unpacked_bytes > self._limits.max_unpacked_bytes:
            raise BodyTooLarge(
                f"the frames of this body unpack to {unpacked_bytes} bytes, over the limit of "
                f"{self._limits.max_unpacked_bytes}; nothing was kept, send fewer at once"
            )
        return frames, unpacked_bytes

    def _decode(self, frame: Frame, projects: tuple[str, ...] | None) -> _IncomingFrame:
        # Known frames are not even decoded: a sender that lost our answer sends everything again.
        if self._store.has_frame(frame.writer_id, frame.sequence):
            return _IncomingFrame(frame.writer_id, frame.sequence, result="duplicate")
        try:
            content = prepare(frame, decode(frame))
            content.projects = projects
            return _IncomingFrame(frame.writer_id, frame.sequence, content)
        except FrameError as error:
            return _IncomingFrame(frame.writer_id, frame.sequence, result="rejected", reason=str(error))

    # -- the writer thread

    def _run(self) -> None:
        while group := self._next_group():
            self._commit(group)

    def _next_group(self) -> list[_PendingWrite]:
        with self._wakeup:
            while not self._jobs and not self._closing:
                self._wakeup.wait()
            group: list[_PendingWrite] = []
            weight_bytes = 0
            while self._jobs and (not group or weight_bytes + self._jobs[0].weight_bytes <= _GROUP_BYTES):
                group.append(self._jobs.popleft())
                weight_bytes += group[-1].weight_bytes
            return group

    def _commit(self, group: list[_PendingWrite]) -> None:
        items = [item for job in group for item in job.items]
        try:
            written = self._store.write([item.content for item in items if item.content is not None])
        except StoreUnavailable as error:
            log.error("%s; %d frames were not taken", error, len(items))
            self._answer(group, error)
        except Exception as error:  # noqa: BLE001 - the top of the writer thread: it must outlive any frame
            self._isolate(group, error)
        else:
            _note_results(items, written)
            self._answer(group, None, written.changes)

    def _isolate(self, group: list[_PendingWrite], error: Exception) -> None:
        """A group failed on something unforeseen: find the frame, so that the others are kept."""
        if len(group) > 1:
            for job in group:
                self._commit([job])
            return
        (job,) = group
        changes: dict[str, TaskChange] = {}
        failure: Exception | None = None
        for item in job.items:
            assert item.content is not None
            name = f"frame {item.sequence} of writer {item.writer_id.hex()}"
            try:
                written = self._store.write([item.content])
            except (DataError, IntegrityError, InterfaceError) as trouble:
                # Of what is in the frame, not of the store: it would be the same each time.
                log.error("%s cannot be stored", name, exc_info=trouble)
                item.result, item.reason = "rejected", f"the server cannot store it; its log says why at {name}"
            except (StoreUnavailable, SQLAlchemyError) as trouble:
                log.error("%s was not taken", name, exc_info=trouble)
                failure = trouble
                break
            except Exception as trouble:
                log.error("%s cannot be stored", name, exc_info=trouble)
                item.result, item.reason = "rejected", f"the server cannot store it: {trouble!r:.200}"
            else:
                _note_results([item], written)
                for task_id, change in written.changes.items():
                    changes[task_id] = changes[task_id].merged(change) if task_id in changes else change
        if failure is not None and not isinstance(failure, StoreUnavailable):
            failure = _WriteFailed(f"the store failed: {failure!r:.200}")
        self._answer(group, failure, changes)

    def _answer(
        self, group: list[_PendingWrite], error: Exception | None, changes: Mapping[str, TaskChange] | None = None
    ) -> None:
        self._loop.call_soon_threadsafe(self._finish, group, error, changes or {})

    def _finish(self, group: list[_PendingWrite], error: Exception | None, changes: Mapping[str, TaskChange]) -> None:
        for job in group:
            # Done already when its client went away.
            if job.done.done():
                continue
            if error is None:
                job.done.set_result(None)
            else:
                job.done.set_exception(error)
        if changes:
            self._publish(changes)


def _note_results(items: Sequence[_IncomingFrame], written: Written) -> None:
    for position, (item, stored) in enumerate(zip(items, written.stored, strict=True)):
        item.result, item.reason = "stored" if stored else "duplicate", None
        if position in written.ignored:
            item.reason = "its task was deleted; nothing of it is kept"
        if position in written.refused:
            item.result, item.reason = "rejected", written.refused[position]


INGEST = web.AppKey("ingest", Ingest)


def add_routes(app: web.Application) -> None:
    """Add `POST /api/v1/frames`."""
    app.router.add_post("/api/v1/frames", post_frames)


async def run_ingest(app: web.Application) -> AsyncIterator[None]:
    """Run the writer for the application's life (a cleanup context)."""
    app[INGEST] = Ingest(app[STORE], app[CONFIG].limits, app[HUB].publish)
    yield
    await app[INGEST].close()


def unavailable(error: ServerBusy | StoreUnavailable) -> web.HTTPServiceUnavailable:
    """Return the answer to who should ask again, and when."""
    retry_s = _BUSY_RETRY_S if isinstance(error, ServerBusy) else _DISK_RETRY_S
    return web.HTTPServiceUnavailable(text=str(error), headers={hdrs.RETRY_AFTER: str(retry_s)})


def _sent_time(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else None


async def post_frames(request: web.Request) -> web.Response:
    """`POST /api/v1/frames`: one or more frames; answered after they are committed."""
    ingest, limits = request.app[INGEST], request.app[CONFIG].limits
    if request.content_type != CONTENT_TYPE:
        raise web.HTTPUnsupportedMediaType(
            text=f"the content type is {request.content_type!r:.80}; it must be {CONTENT_TYPE}"
        )
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise web.HTTPUnsupportedMediaType(text="frames are compressed already; send them without an encoding")
    length = request.content_length
    if length is not None and length > limits.max_body_bytes:
        raise web.HTTPRequestEntityTooLarge(limits.max_body_bytes, length)
    try:
        # A body of unknown length is counted as the largest one.
        with ingest.admitted(limits.max_body_bytes if length is None else length):
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                body = await request.read()
            answers = await ingest.take(
                body,
                projects=access_of(request).projects,
                sent_unix_ns=_sent_time(request.headers.get(SENT_HEADER, "")),
            )
            receipt = await ingest.receipt(answers)
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(
            text=f"the body did not arrive within {_BODY_TIMEOUT_S:g} s; nothing was kept"
        ) from error
    except FrameError as error:
        raise web.HTTPBadRequest(text=f"{error}; nothing was kept") from error
    except BodyTooLarge as error:
        raise web.HTTPRequestEntityTooLarge(
            limits.max_unpacked_bytes, limits.max_unpacked_bytes + 1, text=str(error)
        ) from error
    except (ServerBusy, StoreUnavailable) as error:
        raise unavailable(error) from error
    return web.Response(body=orjson.dumps(receipt), content_type="application/json")
