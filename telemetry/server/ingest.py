"""Taking frames in: check, decode off the event loop, write in groups on one thread, then answer.

A request is answered only when its frames are committed. While one group is being committed the next
requests gather; the writer then takes all of them in one transaction. What is received, decoded or
waiting is bounded in bytes and requests; beyond that the answer is 503, and the sender keeps its frames.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import orjson
from aiohttp import hdrs, web

from telemetry.errors import FrameError, TelemetryError
from telemetry.payload import SeriesTables
from telemetry.server.access import access_of
from telemetry.server.config import CONFIG, STORE, Limits
from telemetry.server.live import HUB
from telemetry.server.shared.bus import BUS
from telemetry.server.store import (
    FrameContent,
    Store,
    StoreFailed,
    StoreUnavailable,
    TaskChange,
    Unstorable,
    Written,
    prepare,
)
from telemetry.wire import CONTENT_TYPE, SENT_HEADER, Frame, decode, parse_frame

__all__ = ["INGEST", "BodyTooLarge", "Crowd", "Ingest", "ServerBusy", "add_routes", "run_ingest", "unavailable"]

log = logging.getLogger("telemetry.server")

# One transaction takes at most this much: it bounds the log's growth and the wait of the requests in it.
_GROUP_BYTES = 64 * 1024 * 1024
_DECODE_THREADS = 2
# A small body: cutting it takes less than the way to another thread and back, decoding it about a millisecond.
_SMALL_BODY_BYTES = 64 * 1024
_SMALL_UNPACKED_BYTES = 256 * 1024
# Where so many senders have connections on which frames came of late, they make a crowd: commits begin so far apart,
# for what a transaction costs by itself is then shared by many, and a quarter of a second for each answer is nothing to
# who sends in the background.
_CROWD_SENDERS = 8
_CROWD_WINDOW_S = 6.0
_GATHER_S = 0.25
# How often each of a crowd is asked to send, if nobody looks at its task: all together at most so many requests a
# second, each now and then.
_PACE_S = 2.0
_MAX_PACE_S = 5.0
_PACE_SPREAD = 0.25
_CROWD_REQUESTS_PER_S = 500
_GATHER_JOBS = 32
_LOOK_INTERVAL_S = 0.05
# How often who has gone is noticed.
_COUNT_INTERVAL_S = 0.25
# Of series tables: some 80,000 series, or 4,000 tables of 20.
_MAX_TABLE_BYTES = 32 * 1024 * 1024
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

    frame: Frame
    content: FrameContent | None = None
    result: str = "stored"
    reason: str | None = None

    def answer(self) -> dict[str, Any]:
        answer = {
            "writer": self.frame.writer_id.hex(),
            "sequence": self.frame.sequence,
            "result": self.result,
        }
        return answer if self.reason is None else {**answer, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class _Origin:
    """Whose frames they are; see `Ingest.take`."""

    projects: tuple[str, ...] | None
    sent_unix_ns: int | None
    alive: bool


@dataclass(slots=True)
class _Job:
    """The frames of one request, on their way through the writer's thread.

    Attributes:
        done: set on the event loop when `items` have their answers.
        held: which frames of their writers are committed then, as ranges.
    """

    items: list[_IncomingFrame]
    origin: _Origin
    done: asyncio.Future[None]
    is_decoded: bool = False
    held: dict[bytes, list[tuple[int, int]]] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def contents(self) -> list[FrameContent]:
        """What is to be written."""
        return [item.content for item in self.items if item.content is not None]


class Crowd:
    """How many senders keep a connection and send frames on it. Lives on the event loop; who reads it may be anywhere.

    Few that send fast are none, nor are many that come one after the other and hang up: an importer, a page's changes.

    Attributes:
        senders: how many there are.
    """

    def __init__(self) -> None:
        self.senders = 0
        self._heard: dict[asyncio.BaseTransport, float] = {}
        self._counted_s = 0.0

    @property
    def is_there(self) -> bool:
        """Whether there are so many that a fraction of a second brings frames of others."""
        return self.senders >= _CROWD_SENDERS

    @property
    def pace_s(self) -> float:
        """How far apart the requests of one sender should be; 0.0 where there is no crowd."""
        if not self.is_there:
            return 0.0
        return min(_MAX_PACE_S, max(_PACE_S, self.senders / _CROWD_REQUESTS_PER_S))

    def note(self, sender: asyncio.BaseTransport, now_s: float) -> None:
        """Hear who sends now, by the monotonic clock."""
        self._heard[sender] = now_s
        if now_s - self._counted_s >= _COUNT_INTERVAL_S:
            self._heard = {
                transport: heard_s
                for transport, heard_s in self._heard.items()
                if now_s - heard_s < _CROWD_WINDOW_S and not transport.is_closing()
            }
            self._counted_s, self.senders = now_s, len(self._heard)


class Ingest:
    """The writer thread and its queue. Made and closed on the event loop.

    A small body is decoded by the writer, with all others that wait: a thread more to go through would cost more
    than the decoding. A large one is decoded by threads of its own, so that it holds up neither the loop nor the
    commits of the others.

    Args:
        publish: called on the event loop with what each committed group changed.
        is_watched: says, on the event loop, whether somebody looks at a task.
    """

    def __init__(
        self,
        store: Store,
        limits: Limits,
        publish: Callable[[Mapping[str, TaskChange]], None],
        is_watched: Callable[[str], bool] = lambda task_id: False,
    ) -> None:
        self._store = store
        self._limits = limits
        self._publish = publish
        self._is_watched = is_watched
        self._loop = asyncio.get_running_loop()
        self._decoders = ThreadPoolExecutor(_DECODE_THREADS, "telemetry-decode")
        self._tables = SeriesTables(_MAX_TABLE_BYTES)
        # None ends the writer.
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # Taken from the queue, and too much for the group before it; the writer's.
        self._held_over: _Job | None = None
        # When the last group was begun; the writer's.
        self._begun_s = 0.0
        self._crowd = Crowd()
        self._ending = threading.Event()
        self._closing = False
        self._waiting_bytes = 0
        self._waiting_requests = 0
        self._unpacked_bytes = 0
        self._thread = threading.Thread(target=self._run, name="telemetry-writer", daemon=True)
        self._thread.start()

    @property
    def waiting_jobs(self) -> int:
        """Requests that wait for the next group."""
        return self._jobs.qsize()

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
        job = await self._store_body(body, _Origin(projects, sent_unix_ns, alive))
        return [item.answer() for item in job.items]

    async def receipt(
        self,
        body: bytes,
        *,
        projects: tuple[str, ...] | None = None,
        sent_unix_ns: int | None = None,
        sender: asyncio.BaseTransport | None = None,
    ) -> dict[str, Any]:
        """Store the frames of a body as `take` does; return the answers, and what the store holds of their writers.

        A sender that was told before that more is there then knows that the store has lost it.

        Args:
            sender: the connection that the body came on.
        """
        if sender is not None:
            self._crowd.note(sender, time.monotonic())
        job = await self._store_body(body, _Origin(projects, sent_unix_ns, alive=True))
        # A writer whose frames came in pieces, from many importers, has many ranges, and nobody who needs them.
        few = {writer.hex(): pairs for writer, pairs in job.held.items() if len(pairs) <= _MAX_RANGES}
        receipt: dict[str, Any] = {
            "frames": [item.answer() for item in job.items],
            "store": self._store.store_id,
            "writers": few,
        }
        pace_s = self._crowd.pace_s
        if pace_s and not any(self._is_watched(content.task_id) for content in job.contents):
            # Not all at once: those that one transaction has answered would come back together.
            receipt["pace_s"] = round(pace_s * random.uniform(1 - _PACE_SPREAD, 1 + _PACE_SPREAD), 3)
        return receipt

    async def _store_body(self, body: bytes, origin: _Origin) -> _Job:
        is_small = len(body) <= _SMALL_BODY_BYTES
        if is_small:
            frames, unpacked_bytes = self._cut(body)
        else:
            frames, unpacked_bytes = await self._loop.run_in_executor(self._decoders, self._cut, body)
        # A body of kilobytes may inflate to megabytes, and stays in memory until it is written.
        if self._closing or (
            self._unpacked_bytes and self._unpacked_bytes + unpacked_bytes > self._limits.max_waiting_bytes
        ):
            raise ServerBusy("too much is waiting to be written; nothing was kept, send it again")
        self._unpacked_bytes += unpacked_bytes
        try:
            job = _Job([_IncomingFrame(frame) for frame in frames], origin, self._loop.create_future())
            if not is_small or unpacked_bytes > _SMALL_UNPACKED_BYTES:
                await self._loop.run_in_executor(self._decoders, self._decode, job)
            self._jobs.put(job)
            await job.done
            return job
        finally:
            self._unpacked_bytes -= unpacked_bytes

    async def close(self) -> None:
        """Write what was taken and end the threads; nothing is taken any more."""
        self._closing = True
        self._ending.set()
        # Behind what is being decoded.
        await asyncio.to_thread(self._decoders.shutdown)
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _cut(self, body: bytes) -> tuple[list[Frame], int]:
        """Cut a body into frames; return them and what they will inflate to, in bytes."""
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

    # -- a decoder's thread, or the writer's

    def _decode(self, job: _Job) -> None:
        for item in job.items:
            frame = item.frame
            # Known frames are not even decoded: a sender that lost our answer sends everything again.
            if self._store.has_frame(frame.writer_id, frame.sequence):
                item.result = "duplicate"
                continue
            try:
                item.content = content = prepare(frame, decode(frame, self._tables))
            except FrameError as error:
                item.result, item.reason = "rejected", str(error)
            else:
                content.projects = job.origin.projects
                content.sent_unix_ns, content.alive = job.origin.sent_unix_ns, job.origin.alive
        job.is_decoded = True

    # -- the writer's thread

    def _run(self) -> None:
        while (first := self._held_over or self._jobs.get()) is not None:
            self._let_gather()
            group = self._group_from(first)
            if group:
                self._commit(group)

    def _let_gather(self) -> None:
        """Where many send, let more of them come to this commit; else, and at the end, go on at once."""
        while self._crowd.is_there and (wait_s := self._begun_s + _GATHER_S - time.monotonic()) > 0:
            # Enough are here to share a transaction, or most of all that there are.
            enough = min(_GATHER_JOBS, self._crowd.senders // 2)
            if self._jobs.qsize() >= enough or self._ending.wait(min(wait_s, _LOOK_INTERVAL_S)):
                break
        self._begun_s = time.monotonic()

    def _group_from(self, first: _Job) -> list[_Job]:
        """Return the jobs of one transaction: those that wait now, in order, as far as it takes them; all decoded."""
        # Those that come while these are decoded are left to the next: a group has an end.
        waiting = self._jobs.qsize()
        self._held_over = None
        group: list[_Job] = []
        weight_bytes = 0
        job: _Job | None = first
        while job is not None:
            if self._decoded(job):
                added_bytes = sum(content.weight_bytes for content in job.contents)
                if group and weight_bytes + added_bytes > _GROUP_BYTES:
                    self._held_over = job
                    return group
                group.append(job)
                weight_bytes += added_bytes
            if not waiting:
                return group
            waiting -= 1
            job = self._jobs.get()
        # Nothing follows the end.
        self._jobs.put(None)
        return group

    def _decoded(self, job: _Job) -> bool:
        """Decode a job, if nobody has; False if there is nothing to write, and it is answered."""
        try:
            if not job.is_decoded:
                self._decode(job)
        except Exception as error:  # noqa: BLE001 - the writer's thread must outlive any frame
            job.error = error
        if job.error is None and any(item.content is not None for item in job.items):
            return True
        self._answer([job])
        return False

    def _commit(self, group: list[_Job]) -> None:
        items = [item for job in group for item in job.items if item.content is not None]
        try:
            written = self._store.write([item.content for item in items if item.content is not None])
        except StoreUnavailable as error:
            log.error("%s; %d frames were not taken", error, len(items))
            for job in group:
                job.error = error
            self._answer(group)
        except Exception as error:  # noqa: BLE001 - the top of the writer thread: it must outlive any frame
            self._isolate(group, error)
        else:
            _note_results(items, written)
            self._answer(group, written.changes)

    def _isolate(self, group: list[_Job], error: Exception) -> None:
        """A group failed on something unforeseen: find the frame, so that the others are kept."""
        if len(group) > 1:
            for job in group:
                self._commit([job])
            return
        (job,) = group
        changes: dict[str, TaskChange] = {}
        failure: Exception | None = None
        for item in job.items:
            if item.content is None:
                continue
            name = f"frame {item.frame.sequence} of writer {item.frame.writer_id.hex()}"
            try:
                written = self._store.write([item.content])
            except Unstorable as trouble:
                # Of what is in the frame, not of the store: it would be the same each time.
                log.error("%s cannot be stored", name, exc_info=trouble)
                item.result, item.reason = "rejected", f"the server cannot store it; its log says why at {name}"
            except (StoreUnavailable, StoreFailed) as trouble:
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
        job.error = failure
        self._answer(group, changes)

    def _answer(self, group: list[_Job], changes: Mapping[str, TaskChange] | None = None) -> None:
        for job in group:
            try:
                for writer in {item.frame.writer_id for item in job.items}:
                    job.held[writer] = self._store.held_frames(writer)
            except Exception as error:  # noqa: BLE001 - the others of the group must have their answers
                job.error = job.error or error
        self._loop.call_soon_threadsafe(self._finish, group, changes or {})

    def _finish(self, group: list[_Job], changes: Mapping[str, TaskChange]) -> None:
        for job in group:
            # Done already when its client went away.
            if job.done.done():
                continue
            if job.error is None:
                job.done.set_result(None)
            else:
                job.done.set_exception(job.error)
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
    app[INGEST] = Ingest(app[STORE], app[CONFIG].limits, app[BUS].publish, app[HUB].is_watched)
    yield
    await app[INGEST].close()


def unavailable(error: ServerBusy | StoreUnavailable) -> web.HTTPServiceUnavailable:
    """Return the answer to who should ask again, and when."""
    retry_s = _BUSY_RETRY_S if isinstance(error, ServerBusy) else _DISK_RETRY_S
    return web.HTTPServiceUnavailable(text=str(error), headers={hdrs.RETRY_AFTER: str(retry_s)})


def _sent_time(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else None


async def _read_body(request: web.Request) -> bytes:
    if request.content.is_eof():
        # It has come with its header, as small ones do: no timer is needed.
        return await request.read()
    async with asyncio.timeout(_BODY_TIMEOUT_S):
        return await request.read()


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
            body = await _read_body(request)
            receipt = await ingest.receipt(
                body,
                projects=access_of(request).projects,
                sent_unix_ns=_sent_time(request.headers.get(SENT_HEADER, "")),
                sender=request.transport,
            )
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
