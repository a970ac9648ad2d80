"""A lane: the way from the batcher to one sink. It owns retrying, the backlog, and that sink's account.

A sink with a journal (`spool = True`): each frame is appended to the journal first and is safe from then
on. What fits waits in memory as well; what does not is read back from the journal when its turn comes. So a
sink that is down costs disk, not memory and not the job's time.

A sink without one: frames wait in memory up to the bound, then the batcher is held back, and behind it
the queue, whose policy decides. A sink that took nothing for STALL_S no longer holds anybody back: what
it cannot take is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from telemetry.errors import SinkRejected, SinkUnavailable
from telemetry.events import TaskHeader
from telemetry.journal import Journal
from telemetry.ledger import Book, DropReason
from telemetry.protocols import Sink
from telemetry.retry import delay_s
from telemetry.wire import Frame

__all__ = ["Lane"]

log = logging.getLogger(__name__)

# Frames of one write: enough that a backlog goes out in few requests, small enough to be retried whole.
WRITE_BYTES = 4 * 1024 * 1024
WRITE_FRAMES = 256

STALL_S = 2.0  # a sink without a journal may hold the batcher back this long

# A sink on this machine (a full disk, a stalled pipe) costs nothing to ask, and memory while it is not asked.
LOCAL_MAX_DELAY_S = 2.0

# While closing, a sink that fails is tried again this often at most; one that already failed before gets one try.
CLOSING_TRIES = 5


class Lane:
    """Delivers frames to `sink`, in order. All methods run on the pipeline's loop.

    Args:
        journal: where frames lie until delivered, or None.
        memory_bytes: encoded frames kept in memory at most.
        monotonic: a clock in seconds.
    """

    def __init__(
        self,
        sink: Sink,
        book: Book,
        *,
        journal: Journal | None,
        memory_bytes: int,
        monotonic: Callable[[], float],
    ) -> None:
        self.sink = sink
        self.journal = journal
        self._book = book
        self._account = book.open(sink.name)
        self._memory_bytes = memory_bytes
        self._monotonic = monotonic
        self._window: deque[tuple[Frame, bool]] = deque()  # (frame, is it in the journal)
        self._window_bytes = 0
        self._journaled = -1  # the greatest sequence number in the journal
        self._passed = -1  # every frame up to here was delivered, rejected or is in the window
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closing = asyncio.Event()
        self._done = asyncio.Event()
        self._progress = asyncio.Event()
        self._failures = 0
        self._said: set[type[Exception]] = set()
        self._took_at = monotonic()
        self._journal_error: OSError | None = None
        self.last_error: SinkUnavailable | None = None

    @property
    def behind(self) -> bool:
        """True while frames lie in the journal that are not in memory."""
        return self._journaled > self._passed

    # ---- the batcher's side ----------------------------------------------------------------------

    async def offer(self, frame: Frame) -> None:
        """Take a frame: after this returns it is counted in memory, on disk or as dropped."""
        in_journal = False
        if self.journal is not None:
            try:
                await self.journal.append([frame])
            except OSError as error:
                self._note_journal(error)
            else:
                self._note_journal(None)
                in_journal = True
                self._journaled = frame.sequence
                self._book.store(self._account, frame.events)
        fits = self._window_bytes + len(frame) <= self._memory_bytes or not self._window
        if in_journal and (self.behind_before(frame) or not fits):
            self._changed.set()
            return
        if not fits and not await self._wait_for_room(frame):
            self._book.drop(self._account, frame.events, DropReason.SINK_STALLED, from_disk=False)
            return
        if not self._window:
            # The sink had nothing to take until now: its time starts with this frame.
            self._took_at = self._monotonic()
        self._window.append((frame, in_journal))
        self._window_bytes += len(frame)
        if in_journal or not self.behind:
            # A frame that missed the journal may overtake older ones that lie there; they must still be read.
            self._passed = frame.sequence
        self._changed.set()

    def behind_before(self, frame: Frame) -> bool:
        """True if an older frame than this one is only in the journal: then this one must queue behind it."""
        return self._passed < frame.sequence - 1 and self.journal is not None

    async def _wait_for_room(self, frame: Frame) -> bool:
        while self._window and self._window_bytes + len(frame) > self._memory_bytes:
            left = STALL_S - (self._monotonic() - self._took_at)
            if left <= 0 or self._closing.is_set():
                return False
            self._room.clear()
            try:
                await asyncio.wait_for(self._room.wait(), left)
            except TimeoutError:
                return False
        return True

    # ---- delivering ------------------------------------------------------------------------------

    async def run(self, task: TaskHeader) -> None:
        """Open the sink and deliver until `drain`; ends when everything is out, or cannot go out any more."""
        try:
            if await self._attempt_until_done(lambda: self.sink.open(task)):
                while not (self._closing.is_set() and self._idle):
                    if not await self._deliver_next():
                        break
        finally:
            self._done.set()
            self._room.set()
            self._progress.set()

    @property
    def _idle(self) -> bool:
        return not self._window and not self.behind

    async def _deliver_next(self) -> bool:
        """Deliver one write's worth of frames; False when closing and the sink will not take them."""
        if not self._window and self.behind and not await self._attempt_until_done(self._refill):
            return False
        if not self._window:
            self._changed.clear()
            if self._closing.is_set() or self.behind:
                return True
            await self._changed.wait()
            return True
        batch = self._next_write()
        frames = [frame for frame, _ in batch]
        rejected: dict[int, str] = {}

        async def write() -> None:
            try:
                await self.sink.write(frames)
            except SinkRejected as refusal:
                rejected.update(refusal.reasons)

        if not await self._attempt_until_done(write):
            return False
        await self._settle(batch, rejected)
        return True

    def _next_write(self) -> list[tuple[Frame, bool]]:
        batch: list[tuple[Frame, bool]] = []
        size = 0
        for item in self._window:
            size += len(item[0])
            if batch and (size > WRITE_BYTES or len(batch) >= WRITE_FRAMES):
                break
            batch.append(item)
        return batch

    async def _refill(self) -> None:
        journal = self.journal
        if journal is None:
            return
        # The cursor runs ahead of what is delivered by the window, which is empty here.
        lost = self._journaled  # before reading: what is appended meanwhile is not lost
        try:
            frames = await journal.read_after(self._passed, WRITE_BYTES)
        except OSError as error:
            raise SinkUnavailable(f"the journal in {journal.folder} cannot be read: {error}") from error
        if not frames:
            # Damaged or removed from outside: what is not readable is not ours to wait for.
            log.warning("frames up to %d in %s can no longer be read", lost, journal.folder)
            self._passed = lost
            return
        for frame in frames:
            self._window.append((frame, True))
            self._window_bytes += len(frame)
        self._passed = frames[-1].sequence

    async def _settle(self, batch: list[tuple[Frame, bool]], rejected: dict[int, str]) -> None:
        """The sink has these frames: move them in the ledger, and let memory and journal forget them."""
        for frame, in_journal in batch:
            self._window.popleft()
            self._window_bytes -= len(frame)
            reason = rejected.get(frame.sequence)
            if reason is None:
                self._book.deliver(self._account, frame.events, from_disk=in_journal)
                continue
            self._book.drop(self._account, frame.events, DropReason.REJECTED, from_disk=in_journal)
            await self._quarantine(frame, reason)
        self._took_at = self._monotonic()
        self._room.set()
        self._changed.set()
        self._progress.set()
        journaled = [frame.sequence for frame, in_journal in batch if in_journal]
        if self.journal is not None and journaled:
            await self.journal.forget(journaled[-1])

    async def _quarantine(self, frame: Frame, reason: str) -> None:
        refused = f"{self.sink.name} refused frame {frame.sequence} ({reason})"
        if self.journal is None:
            log.error("%s; it had no journal to keep it in", refused)
            return
        try:
            path = await self.journal.quarantine(frame, reason)
        except OSError as error:
            log.error("%s, and it could not be kept: %s", refused, error)
        else:
            log.error("%s; it is kept in %s", refused, path)

    async def _attempt_until_done(self, action: Callable[[], Awaitable[None]]) -> bool:
        """Call the sink until it succeeds. False when closing and it keeps failing.

        The waits in between end at once when closing begins.
        """
        closing_tries = 0
        while True:
            try:
                await action()
            except Exception as error:  # noqa: BLE001  a sink is somebody else's code; its lane must outlive its mistakes
                unavailable = self._as_unavailable(error)
                self._failures += 1
                self._note_failure(unavailable)
                if self._closing.is_set():
                    closing_tries += 1
                    if closing_tries >= (1 if self._failures > CLOSING_TRIES else CLOSING_TRIES):
                        return False
                await self._back_off(unavailable)
            else:
                if self.last_error is not None:
                    log.info("%s takes frames again after %d tries", self.sink.name, self._failures)
                self._failures = 0
                self.last_error = None
                return True

    def _as_unavailable(self, error: Exception) -> SinkUnavailable:
        """What a sink raises against its contract counts as a failure that may pass; its traceback is logged once."""
        if isinstance(error, SinkUnavailable):
            return error
        kind = type(error)
        if kind not in self._said:
            self._said.add(kind)
            log.error("%s raised what a sink must not raise; it is tried again", self.sink.name, exc_info=error)
        return SinkUnavailable(f"{kind.__name__}: {error}")

    async def _back_off(self, error: SinkUnavailable) -> None:
        wait_s = delay_s(self._failures - 1, retry_after_s=error.retry_after_s)
        if not self.sink.spool:
            wait_s = min(wait_s, LOCAL_MAX_DELAY_S)
        if self._closing.is_set():
            await asyncio.sleep(min(wait_s, 0.2))
            return
        try:
            await asyncio.wait_for(self._closing.wait(), wait_s)
        except TimeoutError:
            return  # the wait is over: try again

    def _note_failure(self, error: SinkUnavailable) -> None:
        self.last_error = error
        self._progress.set()
        if self._failures == 1:
            kept = "events are kept on disk" if self.journal is not None else "events are kept in memory"
            log.warning("%s: %s; %s and sent once it is back", self.sink.name, error, kept)

    def _note_journal(self, error: OSError | None) -> None:
        """Say once when the disk stops taking frames, and once when it does again."""
        if self.journal is not None and (error is None) != (self._journal_error is None):
            if error is not None:
                log.warning(
                    "the journal in %s cannot be written: %s; events wait in memory", self.journal.folder, error
                )
            else:
                log.info("the journal in %s can be written again", self.journal.folder)
        self._journal_error = error

    # ---- ending ----------------------------------------------------------------------------------

    async def drain(self, deadline: float) -> None:
        """Deliver what is left, until the sink fails or `deadline` (monotonic seconds) comes."""
        self._closing.set()
        self._changed.set()
        try:
            await asyncio.wait_for(self._done.wait(), max(0.0, deadline - self._monotonic()))
        except TimeoutError:
            return  # the journal keeps its part, and the book writes the rest off

    async def save_rest(self) -> None:
        """At the very end: what only memory holds goes to the journal, if the disk takes it by now."""
        if self.journal is None:
            return
        for position, (frame, in_journal) in enumerate(self._window):
            if in_journal:
                continue
            try:
                await self.journal.append([frame])
            except OSError as error:
                self._note_journal(error)
                return
            self._window[position] = (frame, True)
            self._book.store(self._account, frame.events)

    async def sync(self) -> None:
        """Bring to stable storage what lies on this machine: the journal, or the sink's own files.

        Raises:
            OSError: the disk refuses.
        """
        if self.journal is not None:
            await self.journal.sync()
        sync = getattr(self.sink, "sync", None)
        if sync is not None:
            await sync()

    async def settled(self) -> None:
        """Return when the sink has everything offered so far, or it lies in the journal while the sink is down."""
        while not (self._idle or self._done.is_set() or (self.last_error is not None and self.journal is not None)):
            self._progress.clear()
            await self._progress.wait()
