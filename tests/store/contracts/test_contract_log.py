"""The contract of transactions, and of the log and the ranges of frames: see telemetry/server/store/seams.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from seam_support import KEEPERS, Kept

from telemetry.server.store.ranges import Ranges
from telemetry.server.store.sealing import Sealed
from telemetry.server.store.seams import LogFrame, NewFrame

FIRST, SECOND = 7, 8


@pytest.fixture(params=KEEPERS)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    for kept in KEEPERS[request.param](tmp_path):
        kept.add_task("first", FIRST)
        kept.add_task("second", SECOND)
        yield kept


def append(kept: Kept, *frames: tuple[int, bytes]) -> Sequence[int]:
    with kept.database.transaction() as transaction:
        return list(kept.log.append(transaction, [NewFrame(task, 1, data) for task, data in frames]))


def read(kept: Kept, task: int, after: int = 0) -> list[LogFrame]:
    with kept.database.snapshot() as snapshot:
        return list(kept.log.read(snapshot, task, after))


def note(kept: Kept, writer: bytes, taken: Ranges) -> None:
    with kept.database.transaction() as transaction:
        kept.ranges.note(transaction, {writer: (kept.ranges.held(transaction, writer), taken)})


class TestTransactions:
    def test_a_snapshot_has_all_that_was_committed_before_it_and_nothing_after(self, kept: Kept) -> None:
        (before,) = append(kept, (FIRST, b"before"))
        with kept.database.snapshot() as snapshot:
            list(kept.log.read(snapshot, FIRST, 0))
            append(kept, (FIRST, b"meanwhile"))
            assert list(kept.log.read(snapshot, FIRST, 0)) == [LogFrame(before, b"before")]
        assert [frame.data for frame in read(kept, FIRST)] == [b"before", b"meanwhile"]

    def test_nothing_is_kept_of_a_block_that_fails(self, kept: Kept) -> None:
        with pytest.raises(ZeroDivisionError), kept.database.transaction() as transaction:
            kept.log.append(transaction, [NewFrame(FIRST, 1, b"lost")])
            raise ZeroDivisionError
        assert read(kept, FIRST) == []

    def test_what_is_committed_is_there_after_a_start(self, kept: Kept) -> None:
        positions = append(kept, (FIRST, b"one"), (SECOND, b"two"))
        identity = kept.database.store_id
        again = kept.reopen()
        assert again.database.store_id == identity
        assert read(again, FIRST) + read(again, SECOND) == [
            LogFrame(positions[0], b"one"),
            LogFrame(positions[1], b"two"),
        ]


class TestFrameRanges:
    def test_what_was_noted_is_held_also_after_a_start(self, kept: Kept) -> None:
        taken = Ranges([(0, 4), (7, 7)])
        note(kept, b"first", taken)
        note(kept, b"second", Ranges([(5, 5)]))
        for state in (kept, kept.reopen()):
            with state.database.snapshot() as snapshot:
                assert state.ranges.held(snapshot, b"first") == taken
                assert state.ranges.held(snapshot, b"second") == Ranges([(5, 5)])
                assert state.ranges.held(snapshot, b"third") == Ranges()

    def test_ranges_that_grow_together_are_one(self, kept: Kept) -> None:
        for taken in (Ranges([(0, 1), (3, 4), (9, 9)]), Ranges([(0, 4), (8, 9)]), Ranges([(0, 9)])):
            note(kept, b"first", taken)
            with kept.database.snapshot() as snapshot:
                assert kept.ranges.held(snapshot, b"first") == taken

    def test_a_transaction_sees_what_it_noted_and_nobody_does_if_it_fails(self, kept: Kept) -> None:
        with pytest.raises(ZeroDivisionError), kept.database.transaction() as transaction:
            kept.ranges.note(transaction, {b"first": (Ranges(), Ranges([(0, 0)]))})
            assert 0 in kept.ranges.held(transaction, b"first")
            raise ZeroDivisionError
        with kept.database.snapshot() as snapshot:
            assert kept.ranges.held(snapshot, b"first") == Ranges()


class TestLog:
    def test_frames_are_read_by_task_in_the_order_of_their_commits(self, kept: Kept) -> None:
        append(kept, (FIRST, b"1"), (SECOND, b"2"), (FIRST, b"3"))
        append(kept, (FIRST, b"4"))
        assert [frame.data for frame in read(kept, FIRST)] == [b"1", b"3", b"4"]
        assert [frame.data for frame in read(kept, SECOND)] == [b"2"]

    def test_to_append_nothing_is_nothing(self, kept: Kept) -> None:
        assert append(kept) == []

    def test_a_log_is_read_from_any_position_on_however_long_it_is(self, kept: Kept) -> None:
        positions = append(kept, *((FIRST, b"%d" % number) for number in range(1203)))
        assert [frame.position for frame in read(kept, FIRST)] == positions
        assert read(kept, FIRST, positions[600])[0] == LogFrame(positions[601], b"601")
        assert read(kept, FIRST, positions[-1]) == []

    def test_positions_only_rise_over_failures_trims_and_starts(self, kept: Kept) -> None:
        (last,) = append(kept, (FIRST, b"1"))
        with pytest.raises(ZeroDivisionError), kept.database.transaction() as transaction:
            kept.log.append(transaction, [NewFrame(FIRST, 1, b"lost")])
            raise ZeroDivisionError
        positions = append(kept, (SECOND, b"2"), (FIRST, b"3"))
        assert last < positions[0] < positions[1]
        # when all of it is sealed
        for task in (FIRST, SECOND):
            with kept.database.transaction() as transaction:
                kept.points.put(transaction, task, Sealed([], []), positions[1])
                kept.log.trim(transaction, task, positions[1])
        again = kept.reopen()
        (after,) = append(again, (FIRST, b"4"))
        assert after > positions[1]

    def test_what_is_claimed_is_given_to_nobody_else(self, kept: Kept) -> None:
        with kept.database.transaction() as transaction:
            (before,) = kept.log.append(transaction, [NewFrame(FIRST, 1, b"1")])
            claimed = kept.log.claim(transaction, 3)
            (after,) = kept.log.append(transaction, [NewFrame(FIRST, 1, b"2")])
        assert before < claimed
        assert claimed + 2 < after
        assert [frame.position for frame in read(kept, FIRST)] == [before, after]

    def test_a_trim_removes_a_tasks_frames_up_to_a_position_and_may_come_twice(self, kept: Kept) -> None:
        positions = append(kept, (FIRST, b"1"), (SECOND, b"2"), (FIRST, b"3"))
        for _ in range(2):
            with kept.database.transaction() as transaction:
                kept.log.trim(transaction, FIRST, positions[1])
        assert read(kept, FIRST) == [LogFrame(positions[2], b"3")]
        assert read(kept, SECOND) == [LogFrame(positions[1], b"2")]

    def test_it_knows_which_tasks_it_has_frames_of(self, kept: Kept) -> None:
        positions = append(kept, (SECOND, b"2"), (FIRST, b"1"), (FIRST, b"3"))

        def tasks() -> list[tuple[str, int]]:
            with kept.database.snapshot() as snapshot:
                return sorted(kept.log.tasks(snapshot))

        assert tasks() == [("first", FIRST), ("second", SECOND)]
        with kept.database.transaction() as transaction:
            kept.log.trim(transaction, FIRST, positions[-1])
        assert tasks() == [("second", SECOND)]

    def test_a_task_is_dropped_slice_by_slice_and_no_other_with_it(self, kept: Kept) -> None:
        append(kept, *((FIRST, b"") for _ in range(2500)), (SECOND, b"stays"))
        slices = 0
        more = True
        while more:
            with kept.database.transaction() as transaction:
                more = kept.log.drop(transaction, FIRST)
            slices += 1
        assert read(kept, FIRST) == []
        assert [frame.data for frame in read(kept, SECOND)] == [b"stays"]
        assert slices > 1
