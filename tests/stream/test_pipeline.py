"""The pipeline as a whole: sinks of every fate, closing in time, and a ledger that tells the truth."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from telemetry.collectors.scalars import ScalarReports

from telemetry.errors import QueueClosed
from telemetry.events import ConsoleLine, Scalar
from telemetry.journal import read_segments, read_session
from telemetry.pipeline import Pipeline
from telemetry.protocols import Emit
from telemetry.settings import Settings
from telemetry.testing import FlakySink, MemorySink, make_header, run_pipeline
from telemetry.wire import Frame


def scalar(step: int, name: str = "train") -> Scalar:
    return Scalar("loss", name, float(step), step, step)


def spooled(state_dir: Path) -> list[int]:
    """Sequence numbers of the frames that lie in the one spool folder."""
    [folder] = (state_dir / "spool").iterdir()
    return [item.sequence for item in read_segments(folder) if isinstance(item, Frame)]


class Silent(MemorySink):
    """Takes a write and never answers."""

    def __init__(self, *, spool: bool = False, stubborn: bool = False) -> None:
        super().__init__("silent")
        self.spool = spool
        self.stubborn = stubborn
        self.asked = threading.Event()

    async def write(self, frames: Sequence[Frame]) -> None:
        self.asked.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not self.stubborn:
                    raise

    async def close(self) -> None:
        await asyncio.Event().wait()


# ---- delivering ----------------------------------------------------------------------------------------


def test_every_event_of_many_threads_arrives_once_and_in_its_threads_order() -> None:
    sink = MemorySink()
    count = 5000
    with run_pipeline([sink]) as pipeline:
        scalars = ScalarReports(pipeline.emit)

        def report(name: str) -> None:
            for step in range(count):
                scalars.report_scalar("loss", name, step * 0.5, step)

        threads = [threading.Thread(target=report, args=(str(index),)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expected = [(step, step * 0.5) for step in range(count)]
    assert sink.scalars() == {("loss", str(index)): expected for index in range(4)}
    assert pipeline.ledger().delivered == 4 * count


def test_a_stalled_sink_keeps_nothing_from_the_other() -> None:
    # Given two sinks of which one never answers
    good, silent = MemorySink("good"), Silent()
    with run_pipeline([good, silent], close_timeout_s=0.2) as pipeline:
        for step in range(1000):
            pipeline.emit(scalar(step))
        # When everything is pushed through; the silent one is not done, so flush says so
        assert not pipeline.flush(0.5)
        assert silent.asked.is_set()
        # Then the other has it all
        assert len(good.scalars()["loss", "train"]) == 1000
        for step in range(1000, 1010):
            pipeline.emit(scalar(step))
    assert [step for step, _ in good.scalars()["loss", "train"]] == list(range(1010))
    assert pipeline.ledger("good").delivered == 1010
    assert pipeline.ledger("silent").dropped == {"not_delivered": 1010}


def test_flush_returns_when_all_is_with_the_sink() -> None:
    sink = MemorySink()
    # Given a timer that would take an hour
    with run_pipeline([sink], flush_interval_s=3600) as pipeline:
        for step in range(3):
            pipeline.emit(scalar(step))
            assert pipeline.flush()
            assert len(sink.scalars()["loss", "train"]) == step + 1
    assert pipeline.flush()  # after close there is nothing to wait for


def test_a_flush_that_runs_out_of_time_loses_nothing() -> None:
    """Its cancellation used to take the frames with it that were between the queue and a lane."""

    class Slow(Silent):
        def __init__(self) -> None:
            super().__init__()
            self.go_on: asyncio.Event | None = None
            self.loop: asyncio.AbstractEventLoop | None = None

        async def write(self, frames: Sequence[Frame]) -> None:
            self.loop, self.go_on = asyncio.get_running_loop(), self.go_on or asyncio.Event()
            self.asked.set()
            await self.go_on.wait()
            await MemorySink.write(self, frames)

        async def close(self) -> None:
            return

    # Given a sink that takes its time, and so little memory that the batcher has to wait for it
    sink = Slow()
    with run_pipeline([sink], frame_scalars=10, lane_memory_bytes=1, flush_interval_s=3600) as pipeline:
        assert pipeline.flush()  # the batcher is at rest from here on: it is the flush that moves the events
        for step in range(100):
            pipeline.emit(scalar(step))
        # When flushes give up again and again
        for _ in range(3):
            assert not pipeline.flush(0.05)
        assert sink.asked.wait(10)
        assert sink.loop is not None and sink.go_on is not None
        sink.loop.call_soon_threadsafe(sink.go_on.set)
        assert pipeline.flush(10)
    # Then everything came through
    assert [step for step, _ in sink.scalars()["loss", "train"]] == list(range(100))
    assert pipeline.ledger().dropped == {}


def test_flush_of_a_pipeline_that_never_started_or_is_over_returns() -> None:
    pipeline = Pipeline(make_header(), [MemorySink()], settings=Settings(close_timeout_s=0.1))
    assert pipeline.flush()
    pipeline.emit(scalar(1))
    assert not pipeline.flush()
    assert pipeline.close().dropped == {"closed": 1}


# ---- sinks that fail -----------------------------------------------------------------------------------


def test_a_spool_sink_that_is_down_leaves_everything_on_disk(state_dir: Path) -> None:
    sink = FlakySink(spool=True)
    sink.down = True
    with run_pipeline([sink], state_dir=state_dir) as pipeline:
        for step in range(100):
            pipeline.emit(scalar(step))
        # flush is done when it is safe, not when the server is back
        assert pipeline.flush()
        ledger = pipeline.ledger()
        assert (ledger.on_disk, ledger.delivered) == (100, 0)
        folder = pipeline.spool_folder
    final = pipeline.ledger()
    assert (final.logged, final.on_disk, final.dropped) == (100, 100, {})
    assert spooled(state_dir) == [0]
    assert read_session(folder)["task_id"] == pipeline.task.task_id


def test_a_spool_that_was_delivered_leaves_no_trace(state_dir: Path) -> None:
    with run_pipeline([FlakySink(["unavailable"], spool=True)], state_dir=state_dir) as pipeline:
        pipeline.emit(scalar(1))
        pipeline.flush()
    assert list((state_dir / "spool").iterdir()) == []


def test_a_state_folder_that_cannot_be_made_costs_the_journal_and_not_the_run(
    state_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state_dir.write_text("a file where the folder should be")
    sink = FlakySink(spool=True)
    with run_pipeline([sink], state_dir=state_dir) as pipeline:
        pipeline.emit(scalar(1))
    assert sink.scalars() == {("loss", "train"): [(1, 1.0)]}
    assert caplog.text.count("events wait in memory") == 1
    assert pipeline.spool_folder is None


def test_two_spool_sinks_of_one_name_have_a_journal_and_an_account_each(state_dir: Path) -> None:
    """They used to write into one segment file, and what one had delivered was removed for both."""
    # Given two servers, of which one is down
    up, down = FlakySink(name="http", spool=True), FlakySink(name="http", spool=True)
    down.down = True
    with run_pipeline([up, down], state_dir=state_dir) as pipeline:
        for step in range(10):
            pipeline.emit(scalar(step))
            pipeline.flush()
    # Then what the other one has not is still there
    assert (up.name, down.name) == ("http", "http-2")
    assert pipeline.ledger("http").delivered == 10
    assert pipeline.ledger("http-2").on_disk == 10
    assert spooled(state_dir) == list(range(10))


def test_a_buggy_sink_is_retried_and_never_hangs(caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(MemorySink):
        mistakes = 2

        async def write(self, frames: Sequence[Frame]) -> None:
            if self.mistakes:
                self.mistakes -= 1
                raise ValueError("a mistake of its author's")
            await super().write(frames)

    sink = Buggy()
    with run_pipeline([sink]) as pipeline:
        pipeline.emit(scalar(1))
        assert pipeline.flush(30)
    assert sink.scalars() == {("loss", "train"): [(1, 1.0)]}
    assert caplog.text.count("a mistake of its author's\n") >= 1
    assert sum(record.exc_info is not None for record in caplog.records) == 1


def test_a_sink_that_fails_to_close_is_said_and_the_others_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    class Clumsy(MemorySink):
        async def close(self) -> None:
            raise RuntimeError("cannot close")

    clumsy, good = Clumsy("clumsy"), MemorySink("good")
    with run_pipeline([clumsy, good]) as pipeline:
        pipeline.emit(scalar(1))
    assert good.closed
    assert "clumsy did not close cleanly: cannot close" in caplog.text


# ---- closing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stubborn", [False, True], ids=["cancellable", "stubborn"])
@pytest.mark.parametrize("spool", [False, True], ids=["no spool", "spool"])
def test_close_keeps_its_time_out_whatever_the_sink_does(spool: bool, stubborn: bool, state_dir: Path) -> None:
    # Given a sink that never answers
    sink = Silent(spool=spool, stubborn=stubborn)
    pipeline = Pipeline(make_header(), [sink], settings=Settings(state_dir=state_dir))
    pipeline.start()
    for step in range(100):
        pipeline.emit(scalar(step))
    assert sink.asked.wait(10)
    # When the pipeline is closed with half a second to spend
    begun = time.monotonic()
    ledger = pipeline.close(timeout_s=0.5)
    took = time.monotonic() - begun
    # Then it takes no longer than it may, and the ledger says where everything is
    assert took < 0.5 + 0.5 + 0.5  # the last for a busy machine
    assert (ledger.logged, ledger.delivered) == (100, 0)
    assert ledger.balanced
    if spool:
        assert ledger.on_disk == 100
        assert spooled(state_dir) == [0]
    else:
        assert ledger.dropped == {"not_delivered": 100}


def test_close_with_no_time_at_all_still_ends_the_pipeline() -> None:
    """Closed before its thread had begun, it used to run for ever."""
    for _ in range(20):
        pipeline = Pipeline(make_header(), [MemorySink()], settings=Settings())
        pipeline.start()
        thread = pipeline._thread
        pipeline.emit(scalar(1))
        pipeline.close(timeout_s=0)
        assert thread is not None
        thread.join(10)
        assert not thread.is_alive()
        ledger = pipeline.ledger()
        assert ledger.logged == 1
        assert ledger.in_memory == 0


def test_close_may_come_from_a_signal_handler_that_interrupted_a_report() -> None:
    """The handler's thread holds the queue's lock then, and the pipeline needs it to finish."""
    sink = MemorySink()
    pipeline = Pipeline(make_header(), [sink], settings=Settings())
    pipeline.start()
    pipeline.emit(scalar(1))
    with pipeline._book.lock, pipeline._book.lock:
        pipeline.emit(ConsoleLine(1, "stdout", "reported under the lock"))
        ledger = pipeline.close(timeout_s=30.0)
    assert (ledger.delivered, ledger.dropped) == (2, {})
    assert sink.closed


def test_close_is_safe_from_many_threads_at_once_and_again() -> None:
    sink = MemorySink()
    pipeline = Pipeline(make_header(), [sink], settings=Settings())
    pipeline.start()
    for step in range(1000):
        pipeline.emit(scalar(step))
    ledgers: list[Any] = []
    threads = [threading.Thread(target=lambda: ledgers.append(pipeline.close())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [ledger.delivered for ledger in [*ledgers, pipeline.close()]] == [1000] * 6


def test_what_is_emitted_after_close_is_counted_and_nothing_raises() -> None:
    with run_pipeline([MemorySink()]) as pipeline:
        pipeline.emit(scalar(1))
    scalars = ScalarReports(pipeline.emit)
    assert not pipeline.emit(scalar(2))
    assert not pipeline.emit(ConsoleLine(1, "stdout", "late"))
    for step in range(10):
        scalars.report_scalar("loss", "train", 1.0, step)
    ledger = pipeline.ledger()
    assert (ledger.logged, ledger.delivered, ledger.dropped) == (13, 1, {"closed": 12})


def test_closing_while_threads_report_counts_every_call() -> None:
    sink = MemorySink()
    pipeline = Pipeline(make_header(), [sink], settings=Settings())
    pipeline.start()
    calls = [0] * 3
    stop = threading.Event()
    running = threading.Barrier(4)

    def report(index: int) -> None:
        scalars = ScalarReports(pipeline.emit)
        running.wait()
        while not stop.is_set():
            scalars.report_scalar("loss", str(index), 1.0, calls[index])
            pipeline.emit(ConsoleLine(1, "stdout", "x"))
            calls[index] += 1

    threads = [threading.Thread(target=report, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    running.wait()
    pipeline.close()
    stop.set()
    for thread in threads:
        thread.join()
    ledger = pipeline.ledger()
    assert ledger.logged == 2 * sum(calls)
    assert ledger.in_memory == 0
    assert ledger.delivered + ledger.dropped_total == ledger.logged


def test_a_pipeline_without_sinks_counts_and_closes() -> None:
    pipeline = Pipeline(make_header(), [], settings=Settings())
    pipeline.start()
    pipeline.emit(scalar(1))
    pipeline.flush()
    ledger = pipeline.close()
    assert ledger.logged == 1
    assert ledger.balanced


def test_close_before_start_leaves_no_thread() -> None:
    pipeline = Pipeline(make_header(), [MemorySink()], settings=Settings())
    pipeline.emit(scalar(1))
    pipeline.emit(ConsoleLine(1, "stdout", "x"))
    assert pipeline.close().dropped == {"closed": 2}
    pipeline.start()
    assert pipeline._thread is None


# ---- collectors ----------------------------------------------------------------------------------------


class Recorder:
    """A collector that notes what is asked of it, and fails where it is told to."""

    def __init__(self, name: str, log: list[str], *, fails: Sequence[str] = ()) -> None:
        self.name = name
        self.log = log
        self.fails = fails

    def start(self, emit: Emit) -> None:
        self._do("start")
        emit(ConsoleLine(1, "stdout", f"{self.name} started"))
        self.emit = emit

    def stop(self) -> None:
        self._do("stop")
        self.emit(ConsoleLine(1, "stdout", f"{self.name} stopped"))

    def _do(self, what: str) -> None:
        self.log.append(f"{self.name} {what}")
        if what in self.fails:
            raise OSError("not today")


def test_a_collector_that_fails_is_named_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    collectors = [
        Recorder("one", log),
        Recorder("cannot start", log, fails=["start"]),
        Recorder("cannot stop", log, fails=["stop"]),
        Recorder("two", log),
    ]
    sink = MemorySink()
    pipeline = Pipeline(make_header(), [sink], collectors=collectors, settings=Settings())
    pipeline.start()
    pipeline.close()
    # The last started is stopped first, and what stop reports still arrives
    assert log == [
        *["one start", "cannot start start", "cannot stop start", "two start"],
        *["two stop", "cannot stop stop", "one stop"],
    ]
    texts = [event.text for event in sink.events() if isinstance(event, ConsoleLine)]
    assert texts == ["one started", "cannot stop started", "two started", "two stopped", "one stopped"]
    assert "'cannot start' could not start" in caplog.text
    assert "'cannot stop' did not stop cleanly" in caplog.text


def test_starting_twice_starts_collectors_once() -> None:
    log: list[str] = []
    pipeline = Pipeline(make_header(), [], collectors=[Recorder("one", log)], settings=Settings())
    pipeline.start()
    pipeline.start()
    pipeline.close()
    assert log == ["one start", "one stop"]


# ---- from asyncio --------------------------------------------------------------------------------------


def test_a_pipeline_is_an_async_context_and_put_is_backpressure() -> None:
    async def given_an_asyncio_program() -> None:
        sink = MemorySink()
        async with Pipeline(make_header(), [sink], settings=Settings(max_queue_events=10)) as pipeline:
            for step in range(500):
                await pipeline.put(scalar(step))
                assert len(pipeline.emit) <= 10
            await pipeline.put(ConsoleLine(1, "stdout", "done"))
        assert pipeline.ledger().delivered == 501
        assert [step for step, _ in sink.scalars()["loss", "train"]] == list(range(500))
        with pytest.raises(QueueClosed):
            await pipeline.put(scalar(1))

    asyncio.run(given_an_asyncio_program())


def test_an_exception_in_the_context_still_closes() -> None:
    sink = MemorySink()

    async def given_a_program_that_fails() -> None:
        async with Pipeline(make_header(), [sink], settings=Settings()) as pipeline:
            await pipeline.put(scalar(1))
            raise LookupError("the program's own")

    with pytest.raises(LookupError):
        asyncio.run(given_a_program_that_fails())
    assert sink.closed
    assert len(sink.frames) == 1


# ---- the thread ----------------------------------------------------------------------------------------


def test_one_daemon_thread_that_ends_with_close() -> None:
    before = set(threading.enumerate())
    pipeline = Pipeline(make_header(), [MemorySink()], settings=Settings())
    assert set(threading.enumerate()) == before
    pipeline.start()
    [thread] = set(threading.enumerate()) - before
    assert (thread.name, thread.daemon) == ("telemetry-pipeline", True)
    pipeline.close()
    thread.join(10)
    assert set(threading.enumerate()) == before


def test_a_pipeline_that_cannot_even_begin_counts_what_it_loses(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_loop() -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("telemetry.pipeline.loop_factory", lambda: no_loop)
    with caplog.at_level(logging.ERROR):
        with run_pipeline([MemorySink()]) as pipeline:
            pipeline._thread.join(10)  # type: ignore[union-attr]
            assert not pipeline.emit(scalar(1))
            assert pipeline.flush()
    assert pipeline.ledger().dropped == {"closed": 1}
    assert "the telemetry pipeline has failed" in caplog.text
