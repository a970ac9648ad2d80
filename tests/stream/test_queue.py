"""EventQueue: nothing lost, nothing doubled, never past its bound, and never in the way of a signal handler."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from telemetry.errors import EventsDropped, QueueClosed
from telemetry.events import ConsoleLine, RecordChange, Scalar
from telemetry.ledger import Book
from telemetry.queue import ROW_BYTES, ROW_SLOTS, EventQueue, WhenFull

ALL = 10**9
BAD_SCALAR = Scalar("t", "s", "x", 1, 1)  # type: ignore[arg-type]


def make(**options: Any) -> tuple[EventQueue, Book]:
    book = Book()
    book.open("sink")
    return EventQueue(book, **options), book


def scalar(step: int, name: str = "s") -> Scalar:
    return Scalar("t", name, float(step), step, step)


def line(text: str = "x") -> ConsoleLine:
    return ConsoleLine(1, "stdout", text)


def steps(rows: list[Any]) -> list[int]:
    return rows[3::ROW_SLOTS]


# ---- order, bounds and policies, against a model -------------------------------------------------------


class QueueMachine(RuleBasedStateMachine):
    """Any sequence of calls, beside a model in plain lists."""

    @initialize(policy=st.sampled_from(list(WhenFull)), max_events=st.integers(1, 40))
    def begin(self, policy: WhenFull, max_events: int) -> None:
        self.queue, self.book = make(max_events=max_events, max_bytes=ALL, when_full=policy, block_timeout_s=1e-6)
        self.policy, self.max_events = policy, max_events
        self.rows: list[int] = []
        self.lines: list[str] = []
        self.reported = self.taken = self.step = 0
        self.dropped: dict[str, int] = {}
        self.sealed = False

    def drop(self, reason: str, count: int = 1) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    @rule(count=st.integers(1, 20))
    def report_scalars(self, count: int) -> None:
        for _ in range(count):
            self.step += 1
            self.reported += 1
            accepted = self.queue(scalar(self.step))
            if self.sealed:
                self.drop("closed")
                assert not accepted
            elif len(self.rows) < self.max_events:
                self.rows.append(self.step)
                assert accepted
            elif self.policy is WhenFull.DROP_OLDEST:
                self.rows.append(self.step)
                cut = max(self.max_events // 8, 1)
                del self.rows[:cut]
                self.drop("queue_full", cut)
            else:
                self.drop("queue_full")
                assert not accepted

    @rule(text=st.sampled_from("abc"))
    def report_line(self, text: str) -> None:
        self.reported += 1
        accepted = self.queue(line(text))
        if not self.sealed and len(self.lines) < self.max_events:
            self.lines.append(text)
            assert accepted
        else:
            self.drop("closed" if self.sealed else "queue_full")
            assert not accepted

    @rule(bad=st.sampled_from([None, "event", ConsoleLine(1, "stdout", None), BAD_SCALAR]))  # type: ignore[arg-type]
    def report_nonsense(self, bad: Any) -> None:
        self.reported += 1
        self.drop("invalid")
        assert not self.queue(bad)

    @precondition(lambda self: not self.sealed)
    @rule(max_rows=st.integers(1, 30))
    def take(self, max_rows: int) -> None:
        rows, objects = self.queue.take(max_rows, ALL)
        assert steps(rows) == self.rows[:max_rows]
        assert [event.text for event in objects if isinstance(event, ConsoleLine)] == self.lines
        self.taken += len(self.rows[:max_rows]) + len(self.lines)
        del self.rows[:max_rows]
        self.lines.clear()

    @precondition(lambda self: not self.sealed)
    @rule()
    def seal(self) -> None:
        self.queue.seal()
        if self.rows or self.lines:
            self.drop("closed", len(self.rows) + len(self.lines))
        self.rows.clear()
        self.lines.clear()
        self.sealed = True

    @invariant()
    def adds_up(self) -> None:
        if not hasattr(self, "queue"):
            return
        ledger = self.book.snapshot("sink")
        assert ledger.balanced
        assert (ledger.logged, dict(ledger.dropped)) == (self.reported, self.dropped)
        assert len(self.queue) == len(self.rows) + len(self.lines) <= 2 * self.max_events
        assert ledger.in_memory == self.taken + len(self.queue)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("when_full", list(WhenFull))
def test_many_threads_and_one_taker_lose_and_double_nothing(when_full: WhenFull) -> None:
    # Given six threads that write rows the way the hot path does, and one that takes
    queue, book = make(max_events=50_000, when_full=when_full)
    count, threads = 20_000, 6
    writing = threading.Event()

    def write(name: str) -> None:
        writing.wait()
        rows = queue.rows
        for step in range(count):
            rows += ("t", name, float(step), step, step)
            if len(rows) > queue.mark:
                queue.crossed()

    writers = [threading.Thread(target=write, args=(str(index),)) for index in range(threads)]
    for writer in writers:
        writer.start()
    taken: list[Any] = []
    writing.set()
    # When it takes in pieces of odd sizes until all have ended
    while any(writer.is_alive() for writer in writers) or len(queue):
        taken += queue.take(997, ALL)[0]
    # Then each thread's steps are there in order, once, but for those that the ledger counts as dropped
    dropped = sum(book.snapshot("sink").dropped.values())
    assert len(taken) // ROW_SLOTS + dropped == count * threads == book.snapshot("sink").logged
    for index in range(threads):
        mine = [taken[at + 3] for at in range(0, len(taken), ROW_SLOTS) if taken[at + 1] == str(index)]
        assert all(before < after for before, after in pairwise(mine))
    if not dropped:
        assert sum(steps(taken)) == threads * count * (count - 1) // 2


# ---- bounds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when_full", list(WhenFull))
def test_scalars_stay_within_both_bounds(when_full: WhenFull) -> None:
    for options in ({"max_events": 100}, {"max_bytes": 100 * ROW_BYTES}):
        queue, book = make(when_full=when_full, block_timeout_s=1e-6, **options)
        for step in range(1000):
            queue(scalar(step))
            assert len(queue) <= 100
        assert book.snapshot("sink").logged == 1000
        kept = steps(queue.take(ALL, ALL)[0])
        newest = kept[-1] == 999
        assert newest is (when_full is WhenFull.DROP_OLDEST)


def test_console_lines_stay_within_the_bound_in_bytes_and_record_changes_always_pass() -> None:
    queue, book = make(max_bytes=10_000)
    assert [queue(line("x" * 1800)) for _ in range(6)] == [True] * 5 + [False]
    assert queue(RecordChange(1, "task", "status", "failed"))
    assert not queue(line("x" * 20_000))
    assert book.snapshot("sink").dropped == {"queue_full": 1, "too_large": 1}
    assert len(queue.take(ALL, ALL)[1]) == 6


def test_taking_objects_is_bounded_in_bytes_but_takes_at_least_one() -> None:
    queue, _ = make()
    texts = ["a" * 1000, "b" * 10, "c" * 5000, "d"]
    for text in texts:
        queue(line(text))
    pieces = []
    while len(queue):
        pieces.append([event.text[0] for event in queue.take(ALL, 1500)[1] if isinstance(event, ConsoleLine)])
    assert pieces == [["a", "b"], ["c"], ["d"]]


# ---- blocking ------------------------------------------------------------------------------------------


def test_block_waits_for_room_and_loses_nothing() -> None:
    # Given a full queue, and a thread that reports one more
    queue, book = make(max_events=10, block_timeout_s=60.0)
    for step in range(10):
        queue(scalar(step))
    woken = threading.Event()
    queue.attach(woken.set, batcher_thread=0)
    woken.clear()
    accepted: list[bool] = []
    reporter = threading.Thread(target=lambda: accepted.append(queue(scalar(10))))
    reporter.start()
    # When the batcher, woken by it, takes what is there
    assert woken.wait(10)
    assert steps(queue.take(10, ALL)[0]) == list(range(10))
    reporter.join(10)
    # Then the report is accepted
    assert accepted == [True]
    assert steps(queue.take(10, ALL)[0]) == [10]
    assert book.snapshot("sink").dropped == {}


def test_block_waits_once_per_stall() -> None:
    # Given a queue whose batcher has stalled
    queue, book = make(max_events=10, block_timeout_s=0.2)
    for step in range(10):
        queue(scalar(step))
    # When a hundred more are reported
    begun = time.perf_counter()
    for step in range(100):
        assert not queue(scalar(step))
    waited = time.perf_counter() - begun
    # Then only the first waited: a hundred waits would be 20 s
    assert 0.2 <= waited < 10.0
    assert book.snapshot("sink").dropped == {"queue_full": 100}
    # and after the batcher took something, the next stall waits again
    queue.take(5, ALL)
    for step in range(5):
        assert queue(scalar(step))
    begun = time.perf_counter()
    assert not queue(scalar(0))
    assert time.perf_counter() - begun >= 0.2


def test_the_batcher_itself_never_waits() -> None:
    queue, _ = make(max_events=10, block_timeout_s=60.0)
    queue.attach(lambda: None, batcher_thread=threading.get_ident())
    accepted = [queue(scalar(step)) for step in range(11)]
    assert accepted == [True] * 10 + [False]


def test_a_seal_ends_the_wait() -> None:
    queue, book = make(max_events=10, block_timeout_s=60.0)
    for step in range(10):
        queue(scalar(step))
    woken = threading.Event()
    queue.attach(woken.set, batcher_thread=0)
    woken.clear()
    reporter = threading.Thread(target=lambda: queue(scalar(10)))
    reporter.start()
    assert woken.wait(10)
    queue.seal()
    reporter.join(10)
    assert not reporter.is_alive()
    ledger = book.snapshot("sink")
    assert (ledger.logged, sum(ledger.dropped.values())) == (11, 11)


# ---- asyncio -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [scalar(1), ConsoleLine(1, "stdout", "x" * 700)], ids=["scalar", "console"])
def test_awaiting_put_is_the_backpressure(event: Any) -> None:
    """A console line that did not fit any more used to be dropped by put instead of awaited."""

    async def given_a_small_queue() -> None:
        queue, book = make(max_events=10, max_bytes=10_000)
        count = 500
        taken = 0

        async def produce() -> None:
            for _ in range(count):
                await queue.put(event)

        producers = [asyncio.create_task(produce()) for _ in range(2)]
        # When two tasks put far more than fits, and a third takes whenever nothing moves any more
        while not all(task.done() for task in producers) or len(queue):
            await asyncio.sleep(0)
            assert len(queue) <= 20
            rows, objects = queue.take(3, 1500)
            taken += len(rows) // ROW_SLOTS + len(objects)
        await asyncio.gather(*producers)
        # Then nothing was dropped
        assert taken == 2 * count
        assert book.snapshot("sink").dropped == {}

    asyncio.run(given_a_small_queue())


def test_put_waits_and_is_woken_by_a_taker_in_another_thread() -> None:
    async def given_a_full_queue() -> None:
        queue, _ = make(max_events=2)
        for step in range(2):
            await queue.put(scalar(step))
        putting = asyncio.create_task(queue.put(scalar(2)))
        await asyncio.sleep(0)
        assert not putting.done()
        taker = threading.Thread(target=lambda: queue.take(1, ALL))
        taker.start()
        await asyncio.wait_for(putting, 10)
        taker.join()
        assert steps(queue.take(10, ALL)[0]) == [1, 2]

    asyncio.run(given_a_full_queue())


def test_a_cancelled_put_is_forgotten() -> None:
    async def given_a_full_queue() -> None:
        queue, book = make(max_events=1)
        await queue.put(scalar(0))
        putting = asyncio.create_task(queue.put(scalar(1)))
        await asyncio.sleep(0)
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
        queue.take(1, ALL)
        await asyncio.sleep(0)
        assert len(queue) == 0
        assert book.snapshot("sink").logged == 1

    asyncio.run(given_a_full_queue())


def test_put_after_the_end_raises_and_counts_nothing() -> None:
    async def given_a_full_queue() -> None:
        queue, book = make(max_events=1)
        await queue.put(scalar(0))
        putting = asyncio.create_task(queue.put(scalar(1)))
        await asyncio.sleep(0)
        queue.seal()
        for pending in (putting, queue.put(scalar(2)), queue.put(line())):
            with pytest.raises(QueueClosed):
                await pending
        assert book.snapshot("sink").logged == 1

    asyncio.run(given_a_full_queue())


def test_put_of_what_can_never_fit_is_counted_and_does_not_wait() -> None:
    async def given_a_small_queue() -> None:
        queue, book = make(max_bytes=1000)
        await asyncio.wait_for(queue.put(line("x" * 2000)), 10)
        await asyncio.wait_for(queue.put(None), 10)  # type: ignore[arg-type]
        assert book.snapshot("sink").dropped == {"too_large": 1, "invalid": 1}

    asyncio.run(given_a_small_queue())


# ---- ending --------------------------------------------------------------------------------------------


def test_after_the_seal_everything_is_counted_and_nothing_kept() -> None:
    # Given a queue in which both kinds wait
    queue, book = make()
    queue(scalar(1))
    queue(line())
    # When it is sealed, and reports go on by each way
    queue.seal()
    assert not queue(scalar(2))
    assert not queue(line())
    for step in range(100):
        queue.rows += ("t", "s", 1.0, step, step)
        if len(queue.rows) > queue.mark:
            queue.crossed()
    # Then nothing waits for a batcher that will never come
    assert len(queue) == 0
    assert book.snapshot("sink").dropped == {"closed": 104}
    assert book.snapshot("sink").in_memory == 0


# ---- signals and strictness ----------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")
def test_a_signal_handler_may_report_while_its_thread_holds_the_lock() -> None:
    queue, book = make()
    handled: list[bool] = []

    def report(number: int, frame: object) -> None:
        handled.extend([queue(line("from the handler")), queue(scalar(1))])

    previous = signal.signal(signal.SIGUSR1, report)
    try:
        with book.lock:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert handled == [True, True]
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert len(queue) == 2


REPORTS: list[tuple[str, Callable[[EventQueue], object]]] = [
    ("closed", lambda queue: (queue.seal(), queue(line()))),
    ("invalid", lambda queue: queue(object())),  # type: ignore[arg-type]
    ("invalid", lambda queue: queue(BAD_SCALAR)),
    ("queue_full", lambda queue: [queue(scalar(step)) for step in range(20)]),
    ("too_large", lambda queue: queue(line("x" * 200_000))),
]


@pytest.mark.parametrize(("reason", "report"), REPORTS)
def test_strict_mode_raises_at_the_first_loss_which_is_counted_all_the_same(
    reason: str, report: Callable[[EventQueue], object]
) -> None:
    queue, book = make(strict=True, max_events=10, max_bytes=100_000, when_full=WhenFull.DROP_NEWEST)
    with pytest.raises(EventsDropped):
        report(queue)
    assert book.snapshot("sink").dropped == {reason: 1}


@pytest.mark.parametrize(("reason", "report"), REPORTS)
def test_otherwise_a_loss_is_said_once_and_never_raised(
    reason: str, report: Callable[[EventQueue], object], caplog: pytest.LogCaptureFixture
) -> None:
    queue, book = make(max_events=10, max_bytes=100_000, when_full=WhenFull.DROP_NEWEST)
    with caplog.at_level(logging.WARNING):
        report(queue)
        report(queue)
    assert set(book.snapshot("sink").dropped) == {reason}
    assert len(caplog.records) == 1


def test_a_record_value_that_holds_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = [endless, endless]
    queue, book = make()
    assert not queue(RecordChange(1, "parameters", "all", endless))
    assert book.snapshot("sink").dropped == {"invalid": 1}


# ---- waking --------------------------------------------------------------------------------------------


def test_the_batcher_is_woken_once_on_the_way_to_the_bound() -> None:
    # Given a batcher that does not come
    queue, _ = make(max_events=100_000)
    wakes: list[int] = []
    queue.attach(lambda: wakes.append(len(queue)), batcher_thread=0)
    # When 50,000 points are reported
    for step in range(50_000):
        queue.rows += ("t", "s", 1.0, step, step)
        if len(queue.rows) > queue.mark:
            queue.crossed()
    # Then it was called once, early; the timer does the rest
    assert len(wakes) == 1
    assert wakes[0] < 10_000
    # and again after it came
    queue.take(ALL, ALL)
    for step in range(10_000):
        queue.rows += ("t", "s", 1.0, step, step)
        if len(queue.rows) > queue.mark:
            queue.crossed()
    assert len(wakes) == 2


def test_attaching_to_a_queue_with_events_wakes_at_once() -> None:
    queue, _ = make()
    queue(line())
    woken = threading.Event()
    queue.attach(woken.set, batcher_thread=0)
    assert woken.is_set()


@pytest.mark.parametrize("event", [line(), scalar(1)], ids=["console", "scalar"])
def test_after_a_fork_the_queue_is_empty_and_the_first_event_starts_a_batcher_once(event: Any) -> None:
    # Given a parent's queue with events in it
    queue, book = make()
    rows = queue.rows
    queue(scalar(1))
    queue(line())
    # When the child starts afresh
    book.reset_after_fork()
    book.open("sink")
    starts: list[None] = []
    queue.reset_after_fork(lambda: starts.append(None))
    # Then the parent's events are gone, the loggers' list is the same, and nothing has started yet
    assert (len(queue), starts, queue.rows is rows) == (0, [], True)
    for _ in range(5):
        queue(event)
    assert len(starts) == 1
    assert len(queue) == 5
    assert book.snapshot("sink").logged == 5


# ---- far behind ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("takes", [[1], [50_000], [7, 8_192, 100_000]], ids=str)
def test_a_long_list_comes_out_in_order_and_its_bound_holds(takes: list[int]) -> None:
    """More than BACKLOG_EVENTS are cut up at once; what comes meanwhile is younger than all of them."""
    queue, book = make(max_events=150_000, when_full=WhenFull.DROP_NEWEST)
    taken: list[int] = []
    for step in range(160_000):
        queue.rows += ("t", "s", 1.0, step, step)
        if len(queue.rows) > queue.mark:
            queue.crossed()
    assert len(queue) == 150_000
    taken += steps(queue.take(takes[0], ALL)[0])
    # There is as much room as was taken
    room = len(taken)
    for step in range(160_000, 160_000 + room + 5):
        queue(scalar(step))
    assert len(queue) == 150_000
    for turn in range(1, 40):
        taken += steps(queue.take(takes[turn % len(takes)], ALL)[0])
    taken += steps(queue.take(ALL, ALL)[0])
    queue.close()
    while rows := queue.take(ALL, ALL)[0]:
        taken += steps(rows)
    assert taken == [*range(150_000), *range(160_000, 160_000 + room)]
    assert len(queue) == 0
    ledger = book.snapshot("sink")
    assert (ledger.logged, dict(ledger.dropped)) == (160_000 + room + 5, {"queue_full": 10_005})


def test_a_long_list_that_drops_its_oldest_keeps_the_newest() -> None:
    queue, book = make(max_events=100_000, when_full=WhenFull.DROP_OLDEST)
    taken: list[int] = []
    for step in range(500_000):
        queue(scalar(step))
        if step % 90_000 == 89_999:
            taken += steps(queue.take(10, ALL)[0])
        assert len(queue) <= 100_000
    while len(queue):
        taken += steps(queue.take(ALL, ALL)[0])
    assert taken == sorted(set(taken))
    assert taken[-1] == 499_999
    ledger = book.snapshot("sink")
    assert (ledger.logged, len(taken) + ledger.dropped_total) == (500_000, 500_000)


def test_a_seal_counts_what_is_set_back() -> None:
    queue, book = make(max_events=100_000)
    for step in range(100_000):
        queue(scalar(step))
    queue.take(10, ALL)
    queue(line())
    queue.seal()
    assert (len(queue), dict(book.snapshot("sink").dropped)) == (0, {"closed": 99_991})
    assert queue.take(ALL, ALL) == ([], [])
