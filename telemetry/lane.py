"""A lane: the way from the batcher to one sink. It owns retrying, the backlog, and that sink's account.

A sink with a journal (`spool = True`): each frame is appended to the journal first and is safe from then
on. What fits waits in memory as well; what does not is read back from the journal when its turn comes. So a
sink that is down costs disk, not memory and not the job's time. What the disk refuses waits in memory alone, the
copies of what lies in the journal making room for it, and is appended as soon as the disk takes it: the journal
stays in the order of sequence numbers, for nothing newer goes in before it.

A sink without one: frames wait in memory up to the bound, then the batcher is held back, and behind it
the queue, whose policy decides. A sink that took nothing for STALL_S no longer holds anybody back: what
it cannot take is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import chain

from telemetry.errors import SinkRejected, SinkUnavailable
from telemetry.events import TaskHeader
from telemetry.journal import Journal
from telemetry.ledger import Book, DropReason
from telemetry.protocols import Paced, Sink, Syncable, TellsHeld, TellsLoss
from telemetry.retry import Pace, Tries
from telemetry.sessions.delivered import Delivered
from telemetry.wire import Frame

__all__ = ["Lane"]

log = logging.getLogger(__name__)

# Frames of one write: enough that a backlog goes out in few requests, small enough to be retried whole.
WRITE_BYTES = 4 * 1024 * 1024
WRITE_FRAMES = 256

# More than this does not wait for the sink's pace.
PACED_BYTES = 512 * 1024

STALL_S = 2.0  # a sink without a journal may hold the batcher back this long

# A sink on this machine (a full disk, a stalled pipe) costs nothing to ask, and memory while it is not asked.
LOCAL_MAX_DELAY_S = 2.0

# While closing, a sink that fails is tried again this often at most; one that already failed before gets one try.
CLOSING_TRIES = 5

# A frame that was sent again so often, and is lost again each time, is not lost: several servers answer in turn.
MAX_RESENDS = 3

# What missed the journal is offered to it again this often, also while nothing is reported.
JOURNAL_RETRY_S = 2.0


@dataclass(slots=True, eq=False)
class _Held:
    """A frame in memory.

    Attributes:
        in_journal: it can be read back.
        settled: the sink has it, or has refused it for good.
    """

    frame: Frame
    in_journal: bool
    settled: bool = False


class Lane:
    """Delivers frames to `sink`, in order. All methods run on the pipeline's loop.

    Args:
        journal: where frames lie until delivered, or None.
        memory_bytes: encoded frames kept in memory at most. What is just being written does not count against
            frames that the journal could not take.
        monotonic: a clock in seconds.
        journal_error: why the journal could not be opened, if it could not: it is tried again.
        on_server_lost: told that the far side has lost frames, with the events that cannot be sent again.
    """

    def __init__(
        self,
        sink: Sink,
        book: Book,
        *,
        journal: Journal | None,
        memory_bytes: int,
        monotonic: Callable[[], float],
        journal_error: BaseException | None = None,
        on_server_lost: Callable[[int], None] = lambda events: None,
    ) -> None:
        self.sink = sink
        self.journal = journal
        self._book = book
        self._account = book.open(sink.name)
        self._memory_bytes = memory_bytes
        self._monotonic = monotonic
        # In order: being written, copies of frames of the journal, [the journal alone], in memory alone.
        self._flight: list[_Held] = []
        self._copies: deque[_Held] = deque()
        self._loose: deque[_Held] = deque()
        self._copies_bytes = 0  # what is being written is in these two as well
        self._loose_bytes = 0
        self._journaled = -1  # the greatest sequence number in the journal
        self._passed = -1  # every frame of the journal up to here was delivered, rejected or is in memory
        self._on_server_lost = on_server_lost
        self._delivered = Delivered()
        self._again: dict[int, int] = {}  # events by sequence number of frames of the journal that the far side lost
        self._resent: Counter[int] = Counter()  # how often each was sent again
        self._settling: list[_Held] = []  # the book knows some of these as settled, and the journal not yet
        if journal is not None:
            journal.copies = self._frames_of_journal
            journal.on_lost = self._note_journal_lost
        if isinstance(sink, TellsLoss):
            sink.on_lost = self._note_sink_lost
        # Asked once: after each write it would cost more than the answer.
        self._far_side = sink if isinstance(sink, TellsHeld) else None
        self._paced = sink if isinstance(sink, Paced) else None
        self._pace = Pace(monotonic)
        self._waiting = 0  # how many wait until everything is settled
        self._journal_lock = asyncio.Lock()
        self._rescue: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closing = asyncio.Event()
        self._done = asyncio.Event()
        self.opened = asyncio.Event()  # the sink is open
        self._progress = asyncio.Event()
        # For ever: what cannot be sent is kept. Only closing ends it.
        self._tries = Tries(max_wait_s=math.inf if sink.spool else LOCAL_MAX_DELAY_S)
        self._said: set[type[Exception]] = set()
        self._took_at = monotonic()
        self._journal_error: BaseException | None = None
        self._note_journal(journal_error)
        self.last_error: SinkUnavailable | None = None

    @property
    def behind(self) -> bool:
        """True while frames lie in the journal that are not in memory."""
        return self._journaled > self._passed

    @property
    def held_bytes(self) -> int:
        """Bytes of the frames in memory."""
        return self._copies_bytes + self._loose_bytes

    # ---- the batcher's side ----------------------------------------------------------------------

    async def offer(self, frame: Frame) -> None:
        """Take a frame: after this returns it is counted in memory, on disk or as dropped."""
        if self.journal is not None and await self._append(frame):
            return
        if not self._has_room(frame) and not await self._wait_for_room(frame):
            self._book.drop(self._account, frame.events, DropReason.SINK_STALLED, from_disk=False)
            return
        self._note_begin()
        self._loose.append(_Held(frame, in_journal=False))
        self._loose_bytes += len(frame)
        self._note_more()
        if self.journal is not None and (self._rescue is None or self._rescue.done()):
            self._rescue = asyncio.get_running_loop().create_task(self._rescue_loose())

    async def _append(self, frame: Frame) -> bool:
        """Append a frame to the journal; False if the disk refuses it, or one before it."""
        assert self.journal is not None
        async with self._journal_lock:
            try:
                await self._append_loose()
                await self.journal.append([frame])
            except OSError as error:
                self._note_journal(error)
                return False
            self._note_journal(None)
            self._book.store(self._account, frame.events)
            up_to_date = not self.behind
            self._journaled = frame.sequence
            fits = self.held_bytes + len(frame) <= self._memory_bytes or not self.held_bytes
            if up_to_date and fits:
                self._note_begin()
                self._copies.append(_Held(frame, in_journal=True))
                self._copies_bytes += len(frame)
                self._passed = frame.sequence
        self._note_more()
        return True

    async def _append_loose(self) -> None:
        """Append what only memory holds, oldest first.

        Raises:
            OSError: the disk refuses one; those before it are in.
        """
        assert self.journal is not None
        while held := next((held for held in chain(self._flight, self._loose) if not held.in_journal), None):
            await self.journal.append([held.frame])
            held.in_journal = True
            up_to_date = not self.behind
            self._journaled = held.frame.sequence
            if held.settled:
                # It was delivered while it was written: the journal owes it to nobody.
                await self._forget_delivered()
                continue
            self._book.store(self._account, held.frame.events)
            self._loose_bytes -= len(held.frame)
            if self._loose and self._loose[0] is held:
                self._loose.popleft()
                if not up_to_date:
                    continue  # others wait in the journal before it: it will be read back with them
                self._copies.append(held)
            self._copies_bytes += len(held.frame)
            self._passed = held.frame.sequence

    async def _rescue_loose(self) -> None:
        """Offer to the journal again what it refused, until it has taken it, or the sink has."""
        while self._loose_bytes and not self._closing.is_set():
            try:
                await asyncio.wait_for(self._closing.wait(), JOURNAL_RETRY_S)
            except TimeoutError:
                await self.save_rest()

    def _has_room(self, frame: Frame) -> bool:
        """Tell if memory can hold a frame that nothing else holds; copies of frames of the journal make room for it."""
        while self._copies and self.held_bytes + len(frame) > self._memory_bytes:
            copy = self._copies.pop().frame
            self._copies_bytes -= len(copy)
            self._passed = copy.sequence - 1
        return self._loose_bytes + len(frame) <= self._memory_bytes or not self._loose_bytes

    async def _wait_for_room(self, frame: Frame) -> bool:
        while not self._has_room(frame):
            left = STALL_S - (self._monotonic() - self._took_at)
            if left <= 0 or self._closing.is_set():
                return False
            self._room.clear()
            try:
                await asyncio.wait_for(self._room.wait(), left)
            except TimeoutError:
                return False
        return True

    def _note_more(self) -> None:
        self._changed.set()
        self._pace.look_again()

    def _note_begin(self) -> None:
        if not self.held_bytes:
            # The sink had nothing to take until now: its time starts with this frame.
            self._took_at = self._monotonic()

    # ---- delivering ------------------------------------------------------------------------------

    async def run(self, task: TaskHeader) -> None:
        """Open the sink and deliver until `drain`; ends when everything is out, or cannot go out any more."""
        try:
            if await self._attempt_until_done(lambda: self.sink.open(task)):
                self.opened.set()
                while not (self._closing.is_set() and self._idle):
                    if not await self._deliver_next():
                        break
        finally:
            self._done.set()
            self._room.set()
            self._progress.set()

    def _is_urgent(self) -> bool:
        """Whether what is here goes out before the pace says so: somebody waits for it, or it is much."""
        return self._closing.is_set() or self._waiting > 0 or self.behind or self.held_bytes > PACED_BYTES

    @property
    def _idle(self) -> bool:
        return not self.held_bytes and not self.behind and not self._again

    async def _deliver_next(self) -> bool:
        """Deliver one write's worth of frames; False when closing and the sink will not take them."""
        if self._again:
            return await self._attempt_until_done(self._send_again)
        if self._paced is not None and self.held_bytes:
            await self._pace.keep(self._paced.pace_s, self._is_urgent)
        if not self._copies and self.behind and not await self._attempt_until_done(self._refill):
            return False
        self._take_off()
        if not self._flight:
            self._changed.clear()
            if self._closing.is_set() or self.behind:
                return True
            await self._changed.wait()
            return True
        rejected: dict[int, str] = {}

        async def write() -> None:
            if self._tries.failures and len(self._flight) == 1:
                # With others beside it the sink can tell a frame that is refused alone from a far side that is away.
                self._take_off()
            try:
                await self.sink.write([held.frame for held in self._flight])
            except SinkRejected as refusal:
                rejected.update(refusal.reasons)

        if not await self._attempt_until_done(write):
            return False
        await self._settle(rejected)
        return True

    def _take_off(self) -> None:
        """Move the frames of the next write to `_flight`: the oldest that there are, in order."""
        source = self._copies
        if not source and not self.behind:
            source = self._loose
        size = 0
        while source:
            size += len(source[0].frame)
            if self._flight and (size > WRITE_BYTES or len(self._flight) >= WRITE_FRAMES):
                break
            self._flight.append(source.popleft())

    async def _refill(self) -> None:
        journal = self.journal
        if journal is None:
            return
        # The cursor runs ahead of what is delivered by the copies, of which there are none here.
        passed, lost = self._passed, self._journaled  # before reading: what is appended meanwhile is not lost
        try:
            found = await journal.read_after(self._passed, WRITE_BYTES)
        except OSError as error:
            raise SinkUnavailable(f"the journal in {journal.folder} cannot be read: {error}") from error
        for frame in found:
            # What is just being appended may be read already, and is not accounted for yet. A frame is there twice
            # if it was written and could not be synced.
            if self._passed < frame.sequence <= self._journaled:
                self._copies.append(_Held(frame, in_journal=True))
                self._copies_bytes += len(frame)
                self._passed = frame.sequence
        # Damaged or removed from outside: what is not readable is not ours to wait for.
        missing = journal.expected(passed, self._passed if self._copies else lost)
        for held in self._copies:
            missing.pop(held.frame.sequence, None)
        if missing:
            log.warning("frames %d to %d in %s can no longer be read", min(missing), max(missing), journal.folder)
            self._note_journal_lost(missing)
            journal.disown(missing)
        if not self._copies:
            self._passed = lost

    async def _settle(self, rejected: dict[int, str]) -> None:
        """The sink has what was in flight: move it in the ledger, and let memory and journal forget it."""
        flight, self._flight = self._flight, []
        self._settling = flight
        for held in flight:
            frame, in_journal = held.frame, held.in_journal
            held.settled = True
            if in_journal:
                self._copies_bytes -= len(frame)
            else:
                self._loose_bytes -= len(frame)
                self._passed = max(self._passed, frame.sequence)  # nothing older lies in the journal
            reason = rejected.get(frame.sequence)
            if reason is None:
                self._book.deliver(self._account, frame.events, from_disk=in_journal)
                self._delivered.note(frame.sequence, frame.events)
                continue
            self._book.drop(self._account, frame.events, DropReason.REJECTED, from_disk=in_journal)
            await self._quarantine(frame, reason)
        # Before anybody is told that it is settled, and before the journal forgets.
        self._compare()
        self._took_at = self._monotonic()
        self._room.set()
        self._changed.set()
        self._progress.set()
        if any(held.in_journal for held in flight):
            await self._forget_delivered()
        self._settling = []

    async def _forget_delivered(self) -> None:
        """Let the journal forget the frames that come before all that is still owed."""
        owed = next((held.frame.sequence for held in chain(self._flight, self._copies) if held.in_journal), None)
        if self.journal is not None:
            through = self._passed if owed is None else owed - 1
            await self.journal.forget(min([through, *(sequence - 1 for sequence in self._again)]))

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
                wait_s = self._tries.failed(unavailable.retry_after_s)
                self._note_failure(unavailable)
                if self._closing.is_set():
                    closing_tries += 1
                    if closing_tries >= (1 if self._tries.failures > CLOSING_TRIES else CLOSING_TRIES):
                        return False
                await self._back_off(wait_s)
            else:
                if self.last_error is not None:
                    log.info("%s takes frames again after %d tries", self.sink.name, self._tries.failures)
                self._tries.failures = 0
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

    async def _back_off(self, wait_s: float) -> None:
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
        if self._tries.failures == 1:
            kept = "events are kept on disk" if self.journal is not None else "events are kept in memory"
            log.warning("%s: %s; %s and sent once it is back", self.sink.name, error, kept)

    def _note_journal(self, error: BaseException | None) -> None:
        """Say once when the disk stops taking frames, and once when it does again."""
        if self.journal is not None and (error is None) != (self._journal_error is None):
            if error is not None:
                log.warning(
                    "the journal in %s cannot be written: %s; events wait in memory", self.journal.folder, error
                )
            else:
                log.info("the journal in %s can be written again", self.journal.folder)
        self._journal_error = error

    # ---- what is taken away ----------------------------------------------------------------------

    def _frames_of_journal(self) -> list[Frame]:
        """Return the frames of the journal that memory holds as well."""
        return [held.frame for held in chain(self._flight, self._copies) if held.in_journal]

    def _note_journal_lost(self, lost: Mapping[int, int]) -> None:
        """The journal cannot give these frames back (events by sequence number): they are on disk no more."""
        settled = {held.frame.sequence for held in self._settling if held.settled}
        owed = {one: count for one, count in lost.items() if one not in settled and one not in self._delivered}
        for sequence in owed:
            self._again.pop(sequence, None)
        events = sum(owed.values())
        self._book.drop(self._account, events, DropReason.JOURNAL_LOST, from_disk=True)

    def _compare(self) -> None:
        """Compare what was delivered with what the far side says it holds by now, and send again what it has lost."""
        held = None if self._far_side is None else self._far_side.held
        if held is None:
            return
        missing = self._delivered.missing(held)
        if any(self._resent[sequence] >= MAX_RESENDS for sequence in missing):
            # What each of them has is not known any more, and none of it is counted as lost.
            self._far_side = None
            log.error(
                "%s takes frames and has lost them again, %d times by now: several servers answer at its address in "
                "turn, each with a part of the events. Nothing is sent again any more",
                self.sink.name,
                MAX_RESENDS,
            )
            return
        gone = self._delivered.take_missing_old(held)
        if not missing and not gone:
            return
        self._delivered.take_back(missing)
        at_hand: Mapping[int, int] = {}
        if self.journal is not None and missing:
            at_hand = self.journal.expected(min(missing) - 1, max(missing))
        again = {sequence: events for sequence, events in missing.items() if sequence in at_hand}
        gone += sum(missing.values()) - sum(again.values())
        if again and self.journal is not None:
            self.journal.owe_again(min(again))
            self._book.owe_again(self._account, sum(again.values()))
            self._again |= again
            self._resent.update(again.keys())
        self._book.lose(self._account, gone, DropReason.SERVER_LOST)
        log.warning(
            "%s has lost data that it had taken: it has another store, or an older copy; "
            "%s events are sent again, %s are lost",
            self.sink.name,
            f"{sum(again.values()):,}",
            f"{gone:,}",
        )
        self._on_server_lost(gone)

    async def _send_again(self) -> None:
        """Send the oldest of the frames that the far side has lost."""
        journal = self.journal
        assert journal is not None
        first = min(self._again)
        try:
            found = await journal.read_after(first - 1, WRITE_BYTES)
        except OSError as error:
            raise SinkUnavailable(f"the journal in {journal.folder} cannot be read: {error}") from error
        frames = list({frame.sequence: frame for frame in found if frame.sequence in self._again}.values())
        through = found[-1].sequence if found else max(self._again)
        if len(frames) > WRITE_FRAMES:
            frames = frames[:WRITE_FRAMES]
            through = frames[-1].sequence
        rejected: Mapping[int, str] = {}
        if frames:
            try:
                await self.sink.write(frames)
            except SinkRejected as refusal:
                rejected = refusal.reasons
        for frame in frames:
            events = self._again.pop(frame.sequence)
            if frame.sequence in rejected:
                self._book.drop(self._account, events, DropReason.REJECTED, from_disk=True)
                await self._quarantine(frame, rejected[frame.sequence])
            else:
                self._book.deliver(self._account, events, from_disk=True)
                self._delivered.note(frame.sequence, events)
        unreadable = {sequence: events for sequence, events in self._again.items() if sequence <= through}
        self._note_journal_lost(unreadable)
        if frames:
            self._compare()
        self._progress.set()
        await self._forget_delivered()

    def _note_sink_lost(self, events: int) -> None:
        """A sink on this machine had so many events, and its folder was taken away."""
        self._book.lose(self._account, events, DropReason.JOURNAL_LOST)

    # ---- ending ----------------------------------------------------------------------------------

    async def drain(self, deadline_s: float) -> None:
        """Deliver what is left, until the sink fails or `deadline_s` (monotonic seconds) comes."""
        self._closing.set()
        self._pace.look_again()
        self._changed.set()
        try:
            await asyncio.wait_for(self._done.wait(), max(0.0, deadline_s - self._monotonic()))
        except TimeoutError:
            return  # the journal keeps its part, and the book writes the rest off

    async def save_rest(self) -> None:
        """What only memory holds goes to the journal, as far as the disk takes it by now."""
        if self.journal is None or not self._loose_bytes:
            return
        async with self._journal_lock:
            try:
                await self._append_loose()
            except OSError as error:
                self._note_journal(error)
            else:
                self._note_journal(None)

    async def sync(self) -> bool:
        """Bring to stable storage what lies on this machine: the journal, or the sink's own files.

        Returns:
            False if some of it is in memory alone, because the journal could not take it.
        Raises:
            OSError: the disk refuses.
        """
        if self.journal is not None:
            await self.save_rest()
            await self.journal.sync()
        if isinstance(self.sink, Syncable):
            await self.sink.sync()
        return self.journal is None or not self._loose_bytes

    async def settled(self) -> None:
        """Return when the sink has everything offered so far, or it lies in the journal while the sink is down."""
        self._waiting += 1
        self._pace.look_again()
        try:
            while not (self._idle or self._done.is_set() or (self.last_error is not None and self.journal is not None)):
                self._progress.clear()
                await self._progress.wait()
        finally:
            self._waiting -= 1
