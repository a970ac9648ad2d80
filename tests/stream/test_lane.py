"""A lane: order, retry, backlog and account of one sink; each test drives it as the pipeline would."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from telemetry import lane as lane_module
from telemetry import retry
from telemetry.disk import DaemonExecutor
from telemetry.errors import SinkRejected, SinkUnavailable
from telemetry.events import Batch, ConsoleLine, ScalarColumns
from telemetry.journal import Journal, read_segments
from telemetry.lane import Lane
from telemetry.ledger import Book, Ledger
from telemetry.protocols import Sink
from telemetry.testing import FlakySink, ManualClock, MemorySink, make_header
from telemetry.wire import Frame, encode

HEADER = make_header("b" * 32)


def frame(sequence: int, size: int = 0) -> Frame:
    batch = Batch(HEADER.task_id, ScalarColumns(), [ConsoleLine(sequence, "stdout", "x" * size)], 1)
    return encode(batch, writer_id=HEADER.writer_id, sequence=sequence, level=0)


class Driven:
    """A lane with its book and clock, running."""

    def __init__(self, sink: Sink, journal: Journal | None, memory_bytes: int) -> None:
        self.clock = ManualClock()
        self.book = Book()
        self.journal = journal
        self.lane = Lane(sink, self.book, journal=journal, memory_bytes=memory_bytes, monotonic=self.clock.monotonic)
        self.running = asyncio.create_task(self.lane.run(HEADER))

    async def offer(self, *sequences: int, size: int = 0) -> None:
        for sequence in sequences:
            self.book.take(1)
            await self.lane.offer(frame(sequence, size))

    async def until(self, fact: Callable[[Ledger], bool]) -> None:
        """Return when the ledger says so: nothing tells of it, but it comes."""
        while not fact(self.ledger):  # noqa: ASYNC110
            await asyncio.sleep(0)

    @property
    def ledger(self) -> Ledger:
        ledger = self.book.snapshot()
        assert ledger.balanced
        return ledger

    async def finish(self) -> Ledger:
        await self.lane.drain(self.clock.monotonic() + 30)
        assert self.running.done()
        return self.ledger


@asynccontextmanager
async def driven(sink: Sink, folder: Path | None = None, *, memory_bytes: int = 2**20) -> AsyncIterator[Driven]:
    executor = DaemonExecutor()
    journal = None
    if folder is not None:
        journal = Journal(folder, executor, segment_bytes=2000)
        await journal.open(HEADER)
    one = Driven(sink, journal, memory_bytes)
    try:
        yield one
    finally:
        one.running.cancel()
        await asyncio.gather(one.running, return_exceptions=True)
        if journal is not None:
            await journal.close()
        executor.shutdown()


def sequences(sink: MemorySink) -> list[int]:
    return [item.sequence for item in sink.frames]


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off waits are checked in test_retry.py; here a retry comes at once, unless the sink asks for more."""
    monkeypatch.setattr(retry, "delay_s", lambda attempt, retry_after_s=None: retry_after_s or 0.0)


@pytest.mark.parametrize("spool", [False, True])
def test_a_sink_that_was_away_gets_everything_in_order_and_once(spool: bool, tmp_path: Path) -> None:
    async def given_a_sink_that_fails_three_times() -> None:
        sink = FlakySink(["unavailable", "ok", "unavailable", "unavailable"], spool=spool)
        async with driven(sink, tmp_path / "s" if spool else None) as lane:
            await lane.offer(0)
            await lane.lane.settled()
            await lane.offer(*range(1, 10))
            ledger = await lane.finish()
        assert sequences(sink) == list(range(10))
        assert (ledger.delivered, ledger.on_disk, ledger.in_memory, ledger.dropped) == (10, 0, 0, {})

    asyncio.run(given_a_sink_that_fails_three_times())


def test_a_lost_answer_repeats_the_same_sequence_numbers() -> None:
    async def given_a_sink_that_keeps_what_it_does_not_acknowledge() -> None:
        sink = FlakySink(["lost_answer"])
        async with driven(sink) as lane:
            await lane.offer(0, 1, 2)
            ledger = await lane.finish()
        # The far side can tell duplicates by their numbers; the ledger counts each once
        assert sequences(sink) == [0, 1, 2, 0, 1, 2]
        assert sink.frames[:3] == sink.frames[3:]
        assert ledger.delivered == 3

    asyncio.run(given_a_sink_that_keeps_what_it_does_not_acknowledge())


def test_a_refused_frame_is_quarantined_and_the_others_go_on(tmp_path: Path) -> None:
    async def given_a_sink_that_refuses_one() -> None:
        sink = FlakySink(["reject"], spool=True)
        async with driven(sink, tmp_path / "s") as lane:
            await lane.offer(0, 1, 2)
            ledger = await lane.finish()
        assert sequences(sink) == [1, 2]
        assert (ledger.delivered, ledger.dropped) == (2, {"rejected": 1})
        kept = {path.suffix: path for path in (tmp_path / "s" / "quarantine").iterdir()}
        assert kept[".frame"].read_bytes() == frame(0).data
        assert "the script says so" in kept[".txt"].read_text()

    asyncio.run(given_a_sink_that_refuses_one())


def test_a_long_outage_costs_disk_and_not_memory(tmp_path: Path) -> None:
    async def given_a_sink_that_is_down_and_little_memory() -> None:
        sink = FlakySink(spool=True)
        sink.down = True
        async with driven(sink, tmp_path / "s", memory_bytes=3000) as lane:
            # When far more comes than memory may hold
            await lane.offer(*range(100), size=500)
            assert lane.lane.held_bytes <= 3000
            assert lane.lane.behind
            assert (lane.ledger.on_disk, lane.ledger.in_memory) == (100, 0)
            # and the sink comes back while more is coming
            sink.down = False
            await lane.offer(*range(100, 110), size=500)
            ledger = await lane.finish()
            # Then all of it arrives in order, and the disk is free again
            assert sequences(sink) == list(range(110))
            assert (ledger.delivered, ledger.on_disk, ledger.dropped) == (110, 0, {})
            assert [item.sequence for item in read_segments(tmp_path / "s") if isinstance(item, Frame)][:1] != [0]

    asyncio.run(given_a_sink_that_is_down_and_little_memory())


class Full:
    """A lane's journal on a disk that is full for a while, and that may answer only after `answers` is set."""

    def __init__(self, lane: Lane) -> None:
        assert lane.journal is not None
        self.inner = lane.journal
        self.full = False
        self.wrote = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()
        lane.journal = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def append(self, frames: Sequence[Frame]) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        await self.inner.append(frames)
        self.wrote.set()
        await self.answers.wait()


def in_segments(folder: Path) -> list[int]:
    return [item.sequence for item in read_segments(folder) if isinstance(item, Frame)]


def test_frames_that_missed_the_journal_cost_none_that_are_in_it(tmp_path: Path, caplog: Any) -> None:
    async def given_a_sink_that_is_down_and_then_a_full_disk() -> None:
        sink = FlakySink(spool=True)
        sink.down = True
        async with driven(sink, tmp_path / "s", memory_bytes=5000) as lane:
            disk = Full(lane.lane)
            await lane.offer(*range(10), size=500)
            assert lane.lane.behind
            disk.full = True
            await lane.offer(*range(10, 12), size=10)
            assert (lane.ledger.on_disk, lane.ledger.in_memory) == (10, 2)
            disk.full = False
            await lane.offer(*range(12, 20), size=500)
            # Then what missed the journal is in it as well, before what came later
            assert (lane.ledger.on_disk, lane.ledger.in_memory) == (20, 0)
            assert in_segments(tmp_path / "s") == list(range(20))
            # When the sink is back
            sink.down = False
            ledger = await lane.finish()
            # Then every frame arrives once, wherever it waited
            assert sequences(sink) == list(range(20))
            assert (ledger.delivered, ledger.on_disk, ledger.in_memory) == (20, 0, 0)

    caplog.set_level(logging.INFO)
    asyncio.run(given_a_sink_that_is_down_and_then_a_full_disk())
    said = [record.message for record in caplog.records if "journal" in record.message]
    assert len(said) == 2
    assert "No space left" in said[0]
    assert "can be written again" in said[1]


def test_copies_of_what_is_in_the_journal_make_room_when_the_disk_is_full(tmp_path: Path) -> None:
    """They used to fill a lane's memory, so that a disk that filled up during an outage cost events at once."""

    async def given_memory_full_of_copies_and_a_full_disk() -> None:
        sink = FlakySink(spool=True)
        async with driven(sink, tmp_path / "s", memory_bytes=10_000) as lane:
            disk = Full(lane.lane)
            sink.down = True
            await lane.offer(*range(30), size=500)
            assert lane.lane.held_bytes > 9000
            disk.full = True
            # When about as much comes as memory holds
            await lane.offer(*range(30, 45), size=500)
            assert (lane.ledger.on_disk, lane.ledger.in_memory, lane.ledger.dropped) == (30, 15, {})
            sink.down = False
            ledger = await lane.finish()
        # Then all of it arrives, in order
        assert sequences(sink) == list(range(45))
        assert (ledger.delivered, ledger.on_disk, ledger.dropped) == (45, 0, {})

    asyncio.run(given_memory_full_of_copies_and_a_full_disk())


def test_what_missed_the_journal_goes_to_it_later_although_nothing_more_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_module, "JOURNAL_RETRY_S", 0.01)

    async def given_frames_in_memory_alone() -> None:
        sink = Stuck(spool=True)
        async with driven(sink, tmp_path / "s") as lane:
            disk = Full(lane.lane)
            disk.full = True
            await lane.offer(0, 1, 2)
            await sink.entered.wait()
            assert (lane.ledger.on_disk, lane.ledger.in_memory) == (0, 3)
            # When the disk has room again
            disk.full = False
            await lane.until(lambda ledger: ledger.on_disk == 3)
            assert in_segments(tmp_path / "s") == [0, 1, 2]
            # Then also what the sink had begun to take is counted once
            sink.go_on.set()
            ledger = await lane.finish()
        assert sequences(sink) == [0, 1, 2]
        assert (ledger.delivered, ledger.on_disk, ledger.in_memory) == (3, 0, 0)

    asyncio.run(given_frames_in_memory_alone())


def test_a_frame_that_is_delivered_while_it_is_saved_is_owed_to_nobody(tmp_path: Path) -> None:
    async def given_a_slow_disk_that_has_room_again() -> None:
        sink = Stuck(spool=True)
        async with driven(sink, tmp_path / "s") as lane:
            disk = Full(lane.lane)
            disk.full = True
            await lane.offer(0)
            await sink.entered.wait()
            disk.full = False
            disk.answers.clear()
            # When the sink takes the frame before the disk has answered
            saving = asyncio.create_task(lane.lane.save_rest())
            await disk.wrote.wait()
            sink.go_on.set()
            await lane.lane.settled()
            disk.answers.set()
            await saving
            assert (lane.ledger.delivered, lane.ledger.on_disk, lane.ledger.in_memory) == (1, 0, 0)
            await lane.finish()
            # Then nothing is left in the folder
            await disk.inner.close(remove_if_delivered=True)
            assert not (tmp_path / "s").exists()

    asyncio.run(given_a_slow_disk_that_has_room_again())


def test_a_frame_that_is_just_being_appended_is_not_read_back_before_it_is_counted(tmp_path: Path) -> None:
    """With an fsync after each append, one that was written and not synced was read back, and kept twice."""

    async def given_a_backlog_and_a_slow_fsync() -> None:
        sink = FlakySink(spool=True)
        sink.down = True
        async with driven(sink, tmp_path / "s", memory_bytes=1000) as lane:
            disk = Full(lane.lane)
            await lane.offer(*range(4), size=500)
            disk.wrote.clear()
            disk.answers.clear()
            offering = asyncio.create_task(lane.offer(4, size=500))
            await disk.wrote.wait()
            # When the sink comes back meanwhile and the backlog is read
            sink.down = False
            await lane.until(lambda ledger: ledger.delivered == 4)
            disk.answers.set()
            await offering
            ledger = await lane.finish()
        assert sequences(sink) == list(range(5))
        assert (ledger.delivered, ledger.on_disk, ledger.in_memory) == (5, 0, 0)

    asyncio.run(given_a_backlog_and_a_slow_fsync())


class Stuck(MemorySink):
    """Takes a frame and never says so, until `go_on` is set."""

    def __init__(self, *, spool: bool = False) -> None:
        super().__init__("stuck")
        self.spool = spool
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()

    async def write(self, frames: Sequence[Frame]) -> None:
        self.entered.set()
        await self.go_on.wait()
        await super().write(frames)


def test_a_stalled_sink_without_a_journal_holds_nobody_back_for_long() -> None:
    async def given_a_sink_that_does_not_answer() -> None:
        sink = Stuck()
        async with driven(sink, memory_bytes=1000) as lane:
            await lane.offer(0, size=500)
            await sink.entered.wait()
            # When its memory is full and it has taken nothing for STALL_S
            lane.clock.advance(lane_module.STALL_S + 0.1)
            await lane.offer(*range(1, 6), size=500)
            # Then the rest is dropped at once, and counted
            assert lane.ledger.dropped == {"sink_stalled": 5}
            # and once it answers, it is given time again
            sink.go_on.set()
            await lane.lane.settled()
            await lane.offer(6, size=500)
            ledger = await lane.finish()
        assert sequences(sink) == [0, 6]
        assert (ledger.delivered, ledger.dropped) == (2, {"sink_stalled": 5})

    asyncio.run(given_a_sink_that_does_not_answer())


def test_a_sink_that_had_nothing_to_do_is_not_taken_for_a_stalled_one() -> None:
    """After a quiet hour the first burst used to be dropped, because the sink "took nothing" for so long."""

    async def given_a_healthy_sink_after_a_quiet_hour() -> None:
        sink = Stuck()
        async with driven(sink, memory_bytes=1000) as lane:
            lane.clock.advance(3600)
            # When more comes at once than memory holds, while the sink is at its first frame
            await lane.offer(0, size=800)
            await sink.entered.wait()
            burst = asyncio.create_task(lane.offer(1, 2, 3, size=800))
            await asyncio.sleep(0)
            assert lane.ledger.dropped == {}
            sink.go_on.set()
            await asyncio.wait_for(burst, 10)
            ledger = await lane.finish()
        # Then the batcher waited a moment and all of it is there
        assert sequences(sink) == [0, 1, 2, 3]
        assert ledger.dropped == {}

    asyncio.run(given_a_healthy_sink_after_a_quiet_hour())


def test_a_sink_that_breaks_its_contract_is_tried_again_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(MemorySink):
        def __init__(self) -> None:
            super().__init__("buggy")
            self.mistakes = 3

        async def write(self, frames: Sequence[Frame]) -> None:
            if self.mistakes:
                self.mistakes -= 1
                raise ValueError("a mistake of its author's")
            await super().write(frames)

    async def given_a_sink_with_a_mistake() -> None:
        sink = Buggy()
        async with driven(sink) as lane:
            await lane.offer(0, 1)
            await lane.lane.settled()
            await lane.offer(2)
            ledger = await lane.finish()
        assert sequences(sink) == [0, 1, 2]
        assert ledger.delivered == 3

    asyncio.run(given_a_sink_with_a_mistake())
    traces = [record for record in caplog.records if record.exc_info]
    assert len(traces) == 1
    assert "buggy raised what a sink must not raise" in traces[0].message


def test_a_sink_that_never_stops_failing_ends_the_closing_and_not_the_program() -> None:
    class Broken(MemorySink):
        async def write(self, frames: Sequence[Frame]) -> None:
            raise AttributeError("always")

    async def given_a_sink_that_always_fails() -> None:
        async with driven(Broken()) as lane:
            await lane.offer(0)
            ledger = await asyncio.wait_for(lane.finish(), 10)
            assert ledger.in_memory == 1  # the pipeline writes it off as not_delivered

    asyncio.run(given_a_sink_that_always_fails())


def test_a_sink_that_cannot_open_is_opened_later() -> None:
    class LateOpener(MemorySink):
        tries = 0

        async def open(self, task: Any) -> None:
            self.tries += 1
            if self.tries < 4:
                raise SinkUnavailable("not yet")
            await super().open(task)

    async def given_a_sink_that_opens_at_the_fourth_try() -> None:
        sink = LateOpener()
        async with driven(sink) as lane:
            await lane.offer(0)
            ledger = await lane.finish()
        assert (sink.tries, sequences(sink), ledger.delivered) == (4, [0], 1)

    asyncio.run(given_a_sink_that_opens_at_the_fourth_try())


def test_a_back_off_ends_when_closing_begins(tmp_path: Path) -> None:
    class Busy(FlakySink):
        async def write(self, frames: Sequence[Frame]) -> None:
            if self.down:
                raise SinkUnavailable("come back in an hour", retry_after_s=3600.0)
            await super().write(frames)

    async def given_a_sink_that_asked_for_an_hour() -> None:
        sink = Busy(spool=True)
        sink.down = True
        async with driven(sink, tmp_path / "s") as lane:
            await lane.offer(0)
            await lane.lane.settled()
            assert lane.lane.last_error is not None
            # When closing begins, and the sink would take it now
            sink.down = False
            ledger = await asyncio.wait_for(lane.finish(), 10)
            # Then it gets it, without the hour
            assert ledger.delivered == 1

    asyncio.run(given_a_sink_that_asked_for_an_hour())


def test_a_sink_that_refuses_at_open_is_not_lost_sight_of() -> None:
    class Refuser(MemorySink):
        async def open(self, task: Any) -> None:
            raise SinkRejected("no such project", reasons={})

    async def given_a_sink_that_refuses_the_task() -> None:
        async with driven(Refuser()) as lane:
            await lane.offer(0)
            ledger = await asyncio.wait_for(lane.finish(), 10)
            assert ledger.in_memory == 1

    asyncio.run(given_a_sink_that_refuses_the_task())


def test_a_journal_that_vanished_is_said_and_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def given_a_backlog_that_somebody_removes() -> None:
        sink = FlakySink(spool=True)
        sink.down = True
        async with driven(sink, tmp_path / "s", memory_bytes=1000) as lane:
            await lane.offer(*range(10), size=500)
            for path in (tmp_path / "s" / "segments").iterdir():
                path.unlink()
            sink.down = False
            await asyncio.wait_for(lane.finish(), 10)
            assert sequences(sink) == [0]

    asyncio.run(given_a_backlog_that_somebody_removes())
    assert "can no longer be read" in caplog.text


def test_settled_means_with_the_sink_or_on_disk_while_it_is_down(tmp_path: Path) -> None:
    async def given_a_sink_of_each_kind() -> None:
        sink = FlakySink(spool=True)
        sink.down = True
        async with driven(sink, tmp_path / "s") as lane:
            await lane.offer(0)
            await asyncio.wait_for(lane.lane.settled(), 10)
            assert lane.ledger.on_disk == 1
        away = Stuck()
        async with driven(away) as lane:
            await lane.offer(0)
            settling = asyncio.create_task(lane.lane.settled())
            await away.entered.wait()
            assert not settling.done()
            away.go_on.set()
            await asyncio.wait_for(settling, 10)
            assert lane.ledger.delivered == 1

    asyncio.run(given_a_sink_of_each_kind())


class _PacedSink(MemorySink):
    """A sink whose far side has many others to listen to."""

    pace_s = 1000.0

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[int] = []

    async def write(self, frames: Sequence[Frame]) -> None:
        self.writes.append(len(frames))
        await super().write(frames)


def test_a_sink_that_asks_for_a_pace_is_written_to_at_once_and_then_seldom() -> None:
    async def given_frames_that_come_one_by_one() -> None:
        sink = _PacedSink()
        async with driven(sink) as lane:
            # the first goes out as ever
            await lane.offer(0)
            await lane.until(lambda ledger: ledger.delivered == 1)
            # the next ones gather, until somebody waits for them
            await lane.offer(*range(1, 5))
            await asyncio.sleep(0)
            assert lane.ledger.delivered == 1
            await lane.lane.settled()
            assert (lane.ledger.delivered, sink.writes) == (5, [1, 4])
            # until there are many
            await lane.offer(*range(5, 9), size=lane_module.PACED_BYTES // 4)
            await lane.until(lambda ledger: ledger.delivered == 9)
            # or until the end
            await lane.offer(9)
            ledger = await lane.finish()
        assert ledger.delivered == 10
        assert sequences(sink) == list(range(10))

    asyncio.run(given_frames_that_come_one_by_one())


def test_a_pace_that_is_over_ends_the_wait() -> None:
    async def given_a_short_pace() -> None:
        sink = _PacedSink()
        sink.pace_s = 0.01
        async with driven(sink) as lane:
            for number in range(3):
                lane.clock.advance(0.02)
                await lane.offer(number)

                def is_delivered(ledger: Ledger, count: int = number + 1) -> bool:
                    return ledger.delivered == count

                await lane.until(is_delivered)
        assert sink.writes == [1, 1, 1]

    asyncio.run(given_a_short_pace())
