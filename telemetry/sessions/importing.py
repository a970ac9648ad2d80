"""Importing: session folders and session zips are sent to a server, many at once.

What is sent are the same frames that would have travelled at once, so sending twice, in any order or in pieces
changes nothing, and an interrupted run is simply started again. The sources are only read: they are left as
they were. A task's status is among its events, so it arrives as it was: failed stays failed, and a killed run
keeps the last status it reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from telemetry.errors import FrameError, JournalError, SinkUnavailable
from telemetry.journal import SegmentDamage
from telemetry.protocols import ForwardsFrames, TellsHeld
from telemetry.retry import until
from telemetry.sessions.importing_blobs import BlobImport
from telemetry.sessions.importing_report import ImportOutcome, ImportReport
from telemetry.sessions.readdress import NewAddress, reset_of
from telemetry.sessions.sources import SessionSource, is_foreign_zip, is_unwritten_zip, open_session
from telemetry.wire import Frame

__all__ = ["ImportOutcome", "ImportReport", "import_sources"]

# One request: large enough to carry some dozens of short runs, small enough to be sent again whole.
BODY_BYTES = 4 * 1024 * 1024
BODY_FRAMES = 1024
# Requests under way: while the server commits one it decodes the next, and more would only wait there.
WORKERS = 4
# Called with the bytes of all sources that are done, and the task they belong to.
OnSourceProgress = Callable[[int, str], None]


@dataclass(slots=True)
class _FrameBlock:
    """What one visit to the reading thread brought; `ended` is the end of the source."""

    frames: list[Frame] = field(default_factory=list)
    ended: bool = False


class _SourceReader:
    """Reads one source block by block. Every call blocks: they belong on a thread, one at a time."""

    def __init__(self, outcome: ImportOutcome, new_address: NewAddress | None) -> None:
        self._outcome = outcome
        self._new_address = new_address
        self._reset_unix_ns = 0
        self._items: Iterator[Frame | SegmentDamage] | None = None

    def next_block(self, max_bytes: int, max_frames: int) -> _FrameBlock:
        """Return the next frames. What cannot be read ends the source and is noted in its outcome."""
        block = _FrameBlock()
        try:
            if self._items is None and not self._open():
                block.ended = True
            else:
                self._fill(block, max_bytes, max_frames)
        except (JournalError, OSError) as error:
            self._outcome.error, block.ended = str(error), True
        except Exception as error:  # noqa: BLE001  somebody else's file: whatever it does, the others go on
            self._outcome.error, block.ended = f"cannot be read: {error!r:.200}", True
        return block

    def _open(self) -> bool:
        source = self._outcome.source
        if is_unwritten_zip(source.path) or (not source.named and is_foreign_zip(source.path)):
            self._outcome.skipped = True
            return False
        session = self._outcome.session = open_session(source.path)
        self._outcome.task_id = (self._new_address and self._new_address.task_id) or session.header.task_id
        self._outcome.label = f"{session.header.project}/{session.header.name}"
        self._items = session.read()
        if self._new_address is not None:
            self._reset_unix_ns = reset_of(session.read())
        return True

    def _fill(self, block: _FrameBlock, max_bytes: int, max_frames: int) -> None:
        assert self._items is not None
        size = 0
        for item in self._items:
            if isinstance(item, SegmentDamage):
                (self._outcome.cut if item.damage.cut else self._outcome.damage).append(item)
                continue
            frame = item if self._new_address is None else self._moved(item, self._new_address)
            if frame is None:
                continue
            block.frames.append(frame)
            size += len(frame)
            if size >= max_bytes or len(block.frames) >= max_frames:
                return
        block.ended = True

    def _moved(self, frame: Frame, new_address: NewAddress) -> Frame | None:
        try:
            return new_address.frame(frame, self._reset_unix_ns)
        except FrameError as error:
            self._outcome.refused.append(f"frame {frame.sequence} of writer {frame.writer_id.hex()}: {error}")
            return None


class _Import:
    """One import: workers that each read a source after the other and fill requests with their frames."""

    def __init__(
        self,
        sources: Sequence[SessionSource],
        make_sink: Callable[[], ForwardsFrames],
        timeout_s: float,
        on_progress: OnSourceProgress,
        new_address: NewAddress | None,
    ) -> None:
        self._new_address = new_address
        self.report = ImportReport([ImportOutcome(source) for source in sources])
        self._unread = iter(self.report.outcomes)
        self._make_sink = make_sink
        self._timeout_s = timeout_s
        self._on_progress = on_progress
        self._done_bytes = 0
        self._threads = ThreadPoolExecutor(WORKERS, "telemetry-import")

    async def run(self) -> ImportReport:
        count = max(1, min(WORKERS, len(self.report.outcomes)))
        try:
            await asyncio.gather(*(self._work() for _ in range(count)))
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self.report.stopped_by is None and self._new_address is None:
            await self._look_for_gone()
        if self.report.stopped_by is None:
            await self._carry_blobs()
        return self.report

    async def _look_for_gone(self) -> None:
        """Note which frames that a spool gave to the server before are not there any more."""
        outcomes = [outcome for outcome in self.report.outcomes if outcome._last and not outcome.error]
        if not outcomes:
            return
        sink = self._make_sink()
        await sink.connect()
        try:
            for outcome in outcomes:
                for writer, last in outcome._last.items():
                    # It has it already, and says with its answer what else it has.
                    await self._until_taken([last], sink)
                    held = sink.held if isinstance(sink, TellsHeld) else None
                    if held is None:
                        continue
                    there = sum(max(0, min(end, last.sequence) - first + 1) for first, end in held)
                    gone = last.sequence + 1 - there - outcome._refusals[writer]
                    if gone > 0:
                        outcome.gone[writer] = gone
        except SinkUnavailable as error:
            self.report.stopped_by = error
        finally:
            await sink.close()

    async def _carry_blobs(self) -> None:
        outcomes = [outcome for outcome in self.report.outcomes if outcome.session is not None]
        if not outcomes:
            return
        client = self._make_sink().blob_client()
        blobs = BlobImport(client, timeout_s=self._timeout_s, on_bytes=self._note_blob_bytes)
        try:
            await blobs.run(outcomes)
        except SinkUnavailable as error:
            self.report.stopped_by = error
        finally:
            await client.close()

    def _note_blob_bytes(self, outcome: ImportOutcome, done_bytes: int) -> None:
        self._done_bytes += done_bytes
        self._on_progress(self._done_bytes, outcome.label)

    async def _work(self) -> None:
        # A sink each: one connection that is kept alive, one request at a time.
        sink = self._make_sink()
        await sink.connect()
        body: list[tuple[ImportOutcome, Frame]] = []
        read: list[ImportOutcome] = []
        try:
            for outcome in self._unread:
                await self._read(outcome, body, sink, read)
                read.append(outcome)
                if self.report.stopped_by is not None:
                    break
            await self._send(body, sink, read)
        finally:
            await sink.close()
        for outcome in self._unread:
            outcome.error = "not sent"

    async def _read(
        self,
        outcome: ImportOutcome,
        body: list[tuple[ImportOutcome, Frame]],
        sink: ForwardsFrames,
        read: list[ImportOutcome],
    ) -> None:
        """Read a source to its end; `body` is sent whenever it is full, with ends of other sources in it."""
        reader = _SourceReader(outcome, self._new_address)
        loop = asyncio.get_running_loop()
        ended = False
        while not ended and self.report.stopped_by is None:
            room = BODY_BYTES - sum(len(frame) for _, frame in body)
            block = await loop.run_in_executor(
                self._threads, reader.next_block, max(1, room), max(1, BODY_FRAMES - len(body))
            )
            body += [(outcome, frame) for frame in block.frames]
            ended = block.ended
            size = sum(len(frame) for _, frame in body)
            if size >= BODY_BYTES or len(body) >= BODY_FRAMES:
                await self._send(body, sink, read)
        if not ended and not outcome.error:
            outcome.error = "not sent to its end"

    async def _send(
        self, body: list[tuple[ImportOutcome, Frame]], sink: ForwardsFrames, read: list[ImportOutcome]
    ) -> None:
        """Send `body` and empty it; the sources in `read` are then done, and it is emptied too."""
        if body and self.report.stopped_by is None:
            try:
                refused = await self._until_taken([frame for _, frame in body], sink)
            except SinkUnavailable as error:
                self.report.stopped_by = self.report.stopped_by or error
            else:
                for outcome, frame in body:
                    self._note_sent(outcome, frame, refused.get((frame.writer_id, frame.sequence)))
        if self.report.stopped_by is not None:
            for outcome, _ in body:
                outcome.error = outcome.error or "not sent to its end"
        body.clear()
        for outcome in read:
            self._done_bytes += outcome.frame_bytes - outcome._counted_bytes
            self._on_progress(self._done_bytes, outcome.label)
        read.clear()

    async def _until_taken(self, frames: list[Frame], sink: ForwardsFrames) -> dict[tuple[bytes, int], str]:
        tries = until(self._timeout_s)
        while True:
            try:
                return await sink.send(frames)
            except SinkUnavailable as error:
                # Where another connection has given up, this one's turn ends too.
                if self.report.stopped_by is not None or not await tries.pause(error.retry_after_s):
                    raise

    def _note_sent(self, outcome: ImportOutcome, frame: Frame, refusal: str | None) -> None:
        if outcome.session is not None and outcome.session.is_spool:
            last = outcome._last.get(frame.writer_id)
            if last is None or last.sequence < frame.sequence:
                outcome._last[frame.writer_id] = frame
            outcome._refusals[frame.writer_id] += refusal is not None
        if refusal is None:
            outcome.frames += 1
            outcome.events += frame.events
        else:
            outcome.refused.append(f"frame {frame.sequence} of writer {frame.writer_id.hex()}: {refusal}")
        # Never over its size: a deflated member holds more than its zip.
        counted = min(len(frame), outcome.frame_bytes - outcome._counted_bytes)
        outcome._counted_bytes += counted
        self._done_bytes += counted
        self._on_progress(self._done_bytes, outcome.label)


async def import_sources(
    sources: Sequence[SessionSource],
    make_sink: Callable[[], ForwardsFrames],
    *,
    timeout_s: float,
    on_progress: OnSourceProgress = lambda done_bytes, label: None,
    new_address: NewAddress | None = None,
) -> ImportReport:
    """Send every frame of the sources, several sources at once; return what became of each.

    A source that cannot be read is noted and the others go on. Only a server that is gone ends it early.

    Args:
        make_sink: gives a sink for each of the connections.
        timeout_s: how long one request may be refused before giving up.
        new_address: which task they are sent as, and by how much their iterations move on; None leaves both.
    """
    return await _Import(sources, make_sink, timeout_s, on_progress, new_address).run()
