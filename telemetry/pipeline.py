"""Pipeline: queue, batcher, lanes and sinks, wired together on one daemon thread.

    training code -> collectors -> EventQueue -> Batcher -> Frame -> Lane (journal, retry) -> Sink

Usable by itself: from asyncio with `async with Pipeline(...) as p: await p.put(event)`, where awaiting is the
backpressure; from any thread with `p.emit(event)`. The Task SDK is a skin over it.
"""

from __future__ import annotations

import asyncio

# Imported here and now: it refuses to be imported once the interpreter shuts down, and in a program that ends right
# after start() the pipeline's thread would import it (through uvloop) just then.
import concurrent.futures.thread  # noqa: F401
import logging
import sys
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from telemetry.batcher import Batcher
from telemetry.disk import DaemonExecutor
from telemetry.errors import JournalError
from telemetry.events import Event, TaskHeader
from telemetry.iterations import IterationOffset
from telemetry.journal import Journal
from telemetry.lane import Lane
from telemetry.ledger import Book, Ledger
from telemetry.process import lazy, lifecycle
from telemetry.process.descriptors import hold_standard_descriptors
from telemetry.process.interrupts import is_interrupt
from telemetry.process.threads import start_daemon
from telemetry.protocols import Cloneable, Collector, Forkable, HasSessionFolder, HasUrl, Sink
from telemetry.queue import EventQueue, WhenFull
from telemetry.settings import Settings

__all__ = ["Pipeline", "loop_factory"]

log = logging.getLogger(__name__)

# After the deadline: closing sockets and files that are already idle.
CLOSE_GRACE_S = 0.25

# A sink whose write is cancelled: it has nothing to wait for.
CANCEL_GRACE_S = 0.1


class Pipeline:
    """Carries one writer's events of one task to its sinks.

    Args:
        task: whose events; the writer id in it must be fresh (`new_writer_id`).
        sinks: each has its own lane: a slow one delays no other.
        collectors: started by `start` and stopped by `close`.
        settings: read once; None means `Settings.load()`.
        joined: another process began the task; this one is a further writer of it.
        on_child: called in a forked child with its header: True when it begins to report, False before it
            closes. It may emit.

    Attributes:
        iteration_offset: what is added to iterations before they are sent.
        on_server_lost: called on the pipeline's thread when a server turns out to have lost frames, with the events
            that nobody can send again.
    """

    def __init__(
        self,
        task: TaskHeader,
        sinks: Sequence[Sink],
        *,
        collectors: Sequence[Collector] = (),
        settings: Settings | None = None,
        joined: bool = False,
        on_child: Callable[[TaskHeader, bool], None] | None = None,
    ) -> None:
        self.task = task
        self.settings = Settings.load() if settings is None else settings
        self.sinks: list[Sink] = _with_unique_names(sinks)
        self._collectors = list(collectors)
        self._started_collectors: list[Collector] = []
        self._book = Book()
        self.emit = EventQueue(
            self._book,
            max_events=self.settings.max_queue_events,
            max_bytes=self.settings.max_queue_bytes,
            when_full=WhenFull(self.settings.when_full),
            block_timeout_s=self.settings.block_timeout_s,
            strict=self.settings.strict,
        )
        for sink in self.sinks:
            self._book.open(sink.name)
        self._state_lock = threading.RLock()
        self._reset_thread_state()
        self._close_called = False
        self.iteration_offset = IterationOffset()
        self._joined = joined
        self._on_child = on_child
        self._speaks_as_child = False
        self.on_server_lost: Callable[[int], None] = lambda events: None

    def _reset_thread_state(self) -> None:
        self._thread: threading.Thread | None = None
        self._is_refused = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._batcher: Batcher | None = None
        self._lanes: list[Lane] = []
        self._stop: asyncio.Event | None = None
        self._flushes: set[asyncio.Future[None]] = set()
        self._deadline_s = 0.0
        self._ready = threading.Event()
        self._finished = threading.Event()

    @staticmethod
    def new_writer_id() -> bytes:
        """Return 16 random bytes: a writer is one process's life."""
        return uuid.uuid4().bytes

    # ---- starting --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the pipeline's thread and the collectors. Returns at once: no network and no disk is waited for.

        Once: a second call, or one after close, does nothing.
        """
        if not self._start_thread():
            return
        lifecycle.watch_forks(self)
        for collector in self._collectors:
            try:
                collector.start(self.emit)
            except Exception:  # a third party's code: named, and skipped
                log.exception("the collector %r could not start and is left out", collector.name)
            else:
                self._started_collectors.append(collector)

    def _start_thread(self) -> bool:
        with self._state_lock:
            if self._thread is not None or self._close_called:
                return False
            self._thread = start_daemon(self._run, "telemetry-pipeline")
            self._is_refused = self._thread is None
        if self._is_refused:
            # Perhaps there is one by then. Not under the lock, which a wake-up takes after the queue's.
            self.emit.wake_by(self._start_thread)
        return True

    def _run(self) -> None:
        # On the caller's thread, for want of another: uvloop ends the process where it gets none for itself.
        factory = None if self._is_refused else loop_factory()
        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(self._main())
        except Exception as error:  # top of the thread: say it, count what is lost, never take the program down
            log.error(
                "the telemetry pipeline has failed (%s: %s); events from now on are only counted",
                type(error).__name__,
                error,
            )
            log.debug("how it failed", exc_info=error)
            self.emit.seal()
        finally:
            self._finish()

    def _finish(self) -> None:
        self._book.write_off()
        self._ready.set()
        self._finished.set()
        self._book.tell()

    async def _main(self) -> None:
        settings = self.settings
        disk = DaemonExecutor()
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if self._close_called:
            self._stop.set()  # close() with no time to wait came before there was anything to tell
        self._lanes = await self._make_lanes(disk)
        batcher = self._batcher = Batcher(
            self.emit,
            self._book,
            self._lanes,
            task_id=self.task.task_id,
            writer_id=self.task.writer_id,
            rank=self.task.rank,
            heartbeat_interval_s=settings.heartbeat_interval_s,
            frame_scalars=settings.frame_scalars,
            flush_interval_s=settings.flush_interval_s,
            compression_level=settings.compression_level,
            offset=self.iteration_offset,
        )
        loop = self._loop

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(batcher.wake)
            except RuntimeError:
                return  # the loop has ended: the queue is sealed and counts for itself

        self.emit.attach(wake, batcher_thread=threading.get_ident())
        batching = loop.create_task(batcher.run())
        lanes = [loop.create_task(lane.run(self.task)) for lane in self._lanes]
        self._ready.set()
        self._book.tell()
        stopping = loop.create_task(self._stop.wait())
        await asyncio.wait([stopping, batching], return_when=asyncio.FIRST_COMPLETED)
        await self._shut_down(batcher, batching, lanes)
        disk.shutdown(wait=False)
        # Before the loop is taken apart, which a sink that refuses to be cancelled can hold up for ever.
        self._finish()

    async def _make_lanes(self, disk: DaemonExecutor) -> list[Lane]:
        lanes: list[Lane] = []
        spools = 0
        for sink in self.sinks:
            # A journal forgets what its own sink has, so two sinks cannot share one.
            folder = self._spool_name() if not spools else f"{self._spool_name()}-{spools + 1}"
            spools += sink.spool
            lanes.append(await self._make_lane(sink, disk, folder))
        return lanes

    def _spool_name(self) -> str:
        # Processes of one task begin and end as they like: one must not remove the folder that another just opens.
        alone = self.task.rank is None and not self._joined
        return self.task.task_id if alone else f"{self.task.task_id}-{self.task.writer_id.hex()[:12]}"

    async def _make_lane(self, sink: Sink, disk: DaemonExecutor, spool_folder: str) -> Lane:
        journal: Journal | None = None
        refusal: BaseException | None = None
        if sink.spool:
            journal = Journal(
                self.settings.state_dir / "spool" / spool_folder,
                disk,
                segment_bytes=self.settings.segment_bytes,
                fsync_interval_s=self.settings.fsync_interval_s,
                commit=self.settings.durability == "commit",
                max_bytes=self.settings.max_journal_bytes,
                server=sink.url if isinstance(sink, HasUrl) else "",
                keep_bytes=self.settings.segment_bytes,
            )
            try:
                await journal.open(self.task)
            except JournalError as error:
                refusal = error.__cause__ or error
        return Lane(
            sink,
            self._book,
            journal=journal,
            memory_bytes=self.settings.lane_memory_bytes,
            monotonic=time.monotonic,
            journal_error=refusal,
            # Looked up when it comes: who listens comes after the start.
            on_server_lost=lambda events: self.on_server_lost(events),
        )

    # ---- using -----------------------------------------------------------------------------------

    async def put(self, event: Event) -> None:
        """Offer an event from asyncio code; awaiting is the backpressure.

        Raises:
            QueueClosed: after close.
        """
        await self.emit.put(event)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything reported before this call is with the sinks, or safe on disk while one is down.

        Args:
            timeout_s: None means `settings.close_timeout_s`.
        Returns:
            False if the time ran out, or if neither sink nor disk takes what is there; nothing is lost by that.
        """
        limit = self.settings.close_timeout_s if timeout_s is None else timeout_s
        deadline_s = time.monotonic() + limit
        if self._is_refused and self._start_thread() and self._is_refused:
            return not len(self.emit)
        if self._thread is None and not len(self.emit):
            return True
        self._ready.wait(limit)
        if self._finished.is_set() or self._loop is None or threading.current_thread() is self._thread:
            return self._finished.is_set()
        work = self._flush()
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except BaseException as error:
            _let_go(work, self._loop)
            if is_interrupt(error) or not isinstance(error, RuntimeError):
                raise
            return True  # the loop has ended in this moment: close has flushed
        try:
            return future.result(max(0.0, deadline_s - time.monotonic()))
        except TimeoutError as error:
            if is_interrupt(error):
                raise
            future.cancel()
            return False
        except CancelledError:
            return self._finished.wait(max(0.0, deadline_s - time.monotonic()))

    async def _flush(self) -> bool:
        if self._batcher is not None:
            # Shielded: a flush that runs out of time must not drop what it holds between queue and lane. The
            # batcher ending first is as good, for its last act is to flush.
            moving = asyncio.ensure_future(self._batcher.flush())
            self._flushes.add(moving)
            moving.add_done_callback(self._flushes.discard)
            await asyncio.shield(moving)
        for lane in self._lanes:
            await lane.settled()
            try:
                if not await lane.sync():
                    return False
            except OSError as error:
                log.warning("what waits for %s could not be synced: %s", lane.sink.name, error)
                return False
        return True

    def ledger(self, sink_name: str | None = None) -> Ledger:
        """Return the counts of one sink, or of the one that is furthest behind; exact at any instant."""
        return self._book.snapshot(sink_name)

    @property
    def spool_folder(self) -> Any:
        """The session folder in which events wait for a network sink, or None if there is none, or none yet."""
        for lane in self._lanes:
            if lane.journal is not None and lane.journal.opened:
                return lane.journal.folder
        return None

    def session_folders(self, timeout_s: float) -> list[tuple[Sink, Path]]:
        """Return the session folder of each sink that has one by now: of a network sink it is its spool.

        For threads of the task's that keep bytes beside the events. In a forked child the pipeline starts with this.

        Args:
            timeout_s: to wait for sinks that are being opened; a folder that is not there by then is left out.
        """
        if self._joined and not self._close_called:
            self._start_in_child()
        if self._is_refused and self._start_thread() and self._is_refused:
            return []
        deadline_s = time.monotonic() + timeout_s
        self._ready.wait(timeout_s)
        if self._loop is None or self._finished.is_set():
            return []
        work = self._session_folders(deadline_s)
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s + CLOSE_GRACE_S)
        except (RuntimeError, TimeoutError, CancelledError) as error:
            if is_interrupt(error):
                raise
            work.close()
            return []  # the loop has ended in this moment

    async def _session_folders(self, deadline_s: float) -> list[tuple[Sink, Path]]:
        folders: list[tuple[Sink, Path]] = []
        for lane in self._lanes:
            if lane.journal is not None:
                folder = lane.journal.folder if lane.journal.opened else None
            elif isinstance(lane.sink, HasSessionFolder):
                await _within_time(lane.opened.wait(), deadline_s)
                folder = lane.sink.session_folder if lane.opened.is_set() else None
            else:
                continue
            if folder is not None:
                folders.append((lane.sink, folder))
        return folders

    @property
    def closed(self) -> bool:
        return self._close_called

    # ---- ending ----------------------------------------------------------------------------------

    def stop_collectors(self) -> None:
        """Stop the collectors: from here on only the caller reports. `close` does it too; twice does nothing."""
        with self._state_lock:
            collectors, self._started_collectors = self._started_collectors, []
        for collector in reversed(collectors):
            try:
                collector.stop()
            except Exception:  # a third party's code: the others must still be stopped
                log.exception("the collector %r did not stop cleanly", collector.name)

    def close(self, timeout_s: float | None = None) -> Ledger:
        """Stop the collectors, deliver what is there, close the sinks. Safe from any thread, and more than once.

        Args:
            timeout_s: seconds to wait for slow sinks; None means `settings.close_timeout_s`. What is not
                delivered by then stays in the journal, or is counted as dropped if there is none.
        Returns:
            The final ledger.
        """
        limit = self.settings.close_timeout_s if timeout_s is None else timeout_s
        with self._state_lock:
            first = not self._close_called
            self._close_called = True
        if first:
            lifecycle.forget_forks(self)
            self.stop_collectors()
            self._tell_child(False)
        deadline_s = self._deadline_s = time.monotonic() + limit
        if self._thread is None:
            if first and self._is_refused:
                self._run()
            self.emit.seal()
            return self.ledger()
        self._wait(self._ready, limit)
        if self._loop is not None and self._stop is not None and not self._finished.is_set():
            try:
                self._loop.call_soon_threadsafe(self._stop.set)
            except RuntimeError as error:
                if is_interrupt(error):
                    raise
                log.debug("the pipeline's loop had already ended")
        if threading.current_thread() is not self._thread:
            self._wait(self._finished, max(0.0, deadline_s - time.monotonic()) + 2 * CLOSE_GRACE_S)
        return self.ledger()

    def _wait(self, fact: threading.Event, timeout_s: float) -> None:
        """Wait for a fact of the pipeline's thread without keeping the book from it.

        A signal handler that closes may have interrupted its own thread while that held the book's lock; the
        pipeline needs the lock to finish, and a condition gives it away, however often it is held.
        """
        with self._book.changed:
            self._book.changed.wait_for(fact.is_set, timeout_s)

    async def _shut_down(self, batcher: Batcher, batching: asyncio.Task[None], lanes: list[asyncio.Task[None]]) -> None:
        """In order: the queue empties into the lanes, the lanes into the sinks, then sinks and journals close."""
        batcher.stop()
        await _within(batching, self._deadline_s, "the batcher")
        self.emit.seal()
        await asyncio.gather(*(lane.drain(self._deadline_s) for lane in self._lanes))
        for task in lanes:
            task.cancel()
        if lanes:
            await asyncio.wait(lanes, timeout=CANCEL_GRACE_S)
        limit = max(self._deadline_s, time.monotonic() + CLOSE_GRACE_S)
        await asyncio.gather(*(_within(lane.save_rest(), limit, "the journal") for lane in self._lanes))
        closing = [_within(lane.sink.close(), limit, lane.sink.name) for lane in self._lanes]
        # Beside the sinks, not after them: one that does not close must not cost the journal its last sync.
        closing += [
            _within(lane.journal.close(remove_if_delivered=True), limit, "the journal")
            for lane in self._lanes
            if lane.journal is not None
        ]
        await asyncio.gather(*closing)

    async def __aenter__(self) -> Pipeline:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    # ---- forks -----------------------------------------------------------------------------------

    def reset_after_fork(self) -> None:
        """In a forked child: a new writer of the same task, which starts with the child's first event."""
        clones = [sink.clone() for sink in self.sinks if isinstance(sink, Cloneable)]
        if len(clones) < len(self.sinks):
            log.debug("sinks without clone() get nothing from forked processes")
        self.sinks = clones
        self.task = replace(self.task, writer_id=self.new_writer_id())
        self._joined = True
        self._speaks_as_child = False
        # Only the forking thread lives on in the child: a collector with a thread of its own has ended here.
        alive: list[Collector] = []
        for collector in self._started_collectors:
            if isinstance(collector, Forkable):
                collector.reset_after_fork()
                alive.append(collector)
        self._started_collectors = alive
        self._state_lock = threading.RLock()
        self._reset_thread_state()
        self._book.reset_after_fork()
        for sink in self.sinks:
            self._book.open(sink.name)
        self.emit.reset_after_fork(self._start_in_child)

    def _start_in_child(self) -> None:
        if self._start_thread():
            lifecycle.at_worker_exit(self.close)
            self._tell_child(True)

    def _tell_child(self, begins: bool) -> None:
        if self._on_child is not None and begins is not self._speaks_as_child:
            self._speaks_as_child = begins
            self._on_child(self.task, begins)


def _with_unique_names(sinks: Sequence[Sink]) -> list[Sink]:
    """Two servers are two sinks named "http"; the ledger and the log must tell them apart."""
    taken: set[str] = set()
    for sink in sinks:
        base, number = sink.name, 2
        while sink.name in taken:
            sink.name = f"{base}-{number}"
            number += 1
        taken.add(sink.name)
    return list(sinks)


def _let_go(work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
    """Close what was meant for the loop, which may have it already: in the loop's thread, where nobody else runs it."""
    try:
        loop.call_soon_threadsafe(work.close)
    except RuntimeError:
        work.close()  # the loop has ended


async def _within_time(work: Coroutine[Any, Any, Any], deadline_s: float) -> None:
    """Await `work` until `deadline_s` (monotonic seconds), and leave it at that."""
    try:
        await asyncio.wait_for(work, max(0.0, deadline_s - time.monotonic()))
    except TimeoutError:
        return


async def _within(work: asyncio.Task[None] | Coroutine[Any, Any, None], deadline_s: float, what: str) -> None:
    """Await `work` until `deadline_s` (monotonic seconds); a failure or time-out is said, and shutdown goes on."""
    try:
        await asyncio.wait_for(work, max(0.0, deadline_s - time.monotonic()))
    except TimeoutError:
        log.warning("%s did not finish in time", what)
    except Exception as error:  # noqa: BLE001  shutdown must reach the other sinks; it is said, not hidden
        log.error("%s did not close cleanly: %s", what, error)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed (not on Windows)."""
    hold_standard_descriptors()
    if sys.platform == "win32":
        return None
    try:
        uvloop = lazy.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
