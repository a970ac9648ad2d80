"""The ledger: logged = delivered + on disk + in memory + dropped, at any instant and from any thread."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.collectors.scalars import ScalarReports

from telemetry.events import ConsoleLine
from telemetry.ledger import Book, DropReason, Ledger
from telemetry.testing import FlakySink, MemorySink, run_pipeline


def test_moves_add_up_whatever_their_order() -> None:
    # Given a book with two sinks and a queue in which events wait
    book, waiting = Book(), [0]
    book.watch(lambda: waiting[0])
    first, second = book.open("first"), book.open("second")
    # When events come, leave the queue, and fare differently
    waiting[0] = 10
    with book.lock:
        waiting[0] -= 8
        book.take(8)
    book.refuse(DropReason.QUEUE_FULL, 3)
    book.spoil(DropReason.INVALID, 1)
    book.deliver(first, 5, from_disk=False)
    book.store(second, 7)
    book.deliver(second, 3, from_disk=True)
    book.drop(second, 1, DropReason.REJECTED, from_disk=True)
    # Then each sink's account tells its own story of the same events
    assert book.snapshot("first") == Ledger(13, 5, 0, 4, {"queue_full": 3, "invalid": 1})
    assert book.snapshot("second") == Ledger(13, 3, 3, 2, {"queue_full": 3, "invalid": 1, "rejected": 1})
    assert book.snapshot() == book.snapshot("second")
    assert book.snapshot("first").balanced
    # and what only memory holds is written off at the end, what a disk holds is not
    waiting[0] = 0
    book.write_off()
    assert book.snapshot("second").in_memory == 0
    assert book.snapshot("second").on_disk == 3


MOVES = ("take", "refuse", "spoil", "store", "deliver", "deliver_disk", "drop", "drop_disk", "write_off")


@given(st.lists(st.tuples(st.sampled_from(MOVES), st.integers(1, 5)), max_size=30))
def test_any_lawful_sequence_of_moves_balances(moves: list[tuple[str, int]]) -> None:
    book = Book()
    account = book.open("sink")
    for move, count in moves:
        source = account.on_disk if move.endswith("disk") else account.in_memory
        count = min(count, source)
        if move == "take":
            book.take(3)
        elif move == "refuse":
            book.refuse(DropReason.CLOSED)
        elif move == "spoil":
            book.spoil(DropReason.INVALID, count)
        elif move == "store":
            book.store(account, count)
        elif move == "write_off":
            book.write_off()
        elif move.startswith("deliver"):
            book.deliver(account, count, from_disk=move.endswith("disk"))
        else:
            book.drop(account, count, DropReason.REJECTED, from_disk=move.endswith("disk"))
        assert book.snapshot("sink").balanced
        assert min(account.delivered, account.on_disk, account.in_memory) >= 0


def test_a_book_without_sinks_counts_too() -> None:
    book = Book()
    book.watch(lambda: 2)
    book.take(3)
    book.refuse(DropReason.CLOSED)
    ledger = book.snapshot()
    assert ledger == Ledger(6, 0, 0, 5, {"closed": 1})
    assert ledger.balanced


@pytest.mark.parametrize(
    ("ledger", "text"),
    [
        (Ledger(2021, 2021, 0, 0), "2,021 events logged: 2,021 delivered"),
        (
            Ledger(10, 1, 2, 3, {"rejected": 3, "closed": 1}),
            "10 events logged: 1 delivered, 2 on disk, 3 in memory, 4 dropped (1 closed, 3 rejected)",
        ),
    ],
)
def test_the_line_at_the_end_says_all_four_counts(ledger: Ledger, text: str) -> None:
    assert str(ledger) == text
    assert ledger.as_dict()["logged"] == ledger.logged
    assert ledger.balanced


def test_every_drop_reason_is_a_word_for_the_record() -> None:
    assert all(reason.value.isidentifier() for reason in DropReason)


@pytest.mark.parametrize("when_full", ["block", "drop_newest", "drop_oldest"])
def test_it_adds_up_at_any_instant_seen_from_another_thread(when_full: str, state_dir: Any) -> None:
    # Given three threads that report as fast as they can, through a queue that is too small, to three sinks of
    # different fates
    sinks = [
        MemorySink("good"),
        FlakySink(["unavailable", "ok", "lost_answer", "ok"] * 50, name="flaky", spool=True),
        FlakySink(["ok", "reject"] * 100, name="picky"),
    ]
    unbalanced: list[Ledger] = []
    with run_pipeline(sinks, state_dir=state_dir, max_queue_events=2000, when_full=when_full) as pipeline:
        done = threading.Event()
        seen = 0

        def report(name: str) -> None:
            scalars = ScalarReports(pipeline.emit)
            for step in range(20_000):
                scalars.report_scalar(name, "s", 1.0, step)
                if step % 500 == 0:
                    pipeline.emit(ConsoleLine(step, "stdout", name))
                if step % 5000 == 0:
                    scalars.report_scalar(name, "s", "bad", step)  # type: ignore[arg-type]

        threads = [threading.Thread(target=report, args=(f"thread {index}",)) for index in range(3)]
        watcher_ready = threading.Event()

        def watch() -> None:
            nonlocal seen
            while not done.is_set():
                for sink in sinks:
                    ledger = pipeline.ledger(sink.name)
                    seen += 1
                    if not ledger.balanced or min(ledger.delivered, ledger.on_disk, ledger.in_memory) < 0:
                        unbalanced.append(ledger)
                watcher_ready.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        watcher_ready.wait()
        # When a fourth looks at the ledger all the time
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        final = pipeline.close(timeout_s=20.0)
        done.set()
        watcher.join()
    # Then it never saw one that does not add up, and in the end every call is in it
    assert not unbalanced
    assert seen > 100
    assert final.logged == 3 * (20_000 + 40 + 4)
    for sink in sinks:
        ledger = pipeline.ledger(sink.name)
        kept = {frame.sequence: frame.events for frame in sink.frames}
        assert ledger.in_memory == ledger.on_disk == 0
        assert sum(kept.values()) == ledger.delivered
