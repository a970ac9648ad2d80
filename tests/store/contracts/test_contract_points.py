"""The contract of whoever keeps sealed points: see telemetry/server/store/seams.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import count
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from seam_support import KEEPERS, Kept

from telemetry.server.store import sealing as sealing_module
from telemetry.server.store.blocks import PARTITION_SERIES
from telemetry.server.store.chunks import CELL_POINTS, CHUNK_MIN_POINTS, Points, cells_of, concat_points
from telemetry.server.store.sealing import FAN_IN, arrange

FIRST, SECOND = 7, 8
# One that is long enough for chunks, two in a partition, one in the next.
LONG, SHORT, OTHER, FAR = 1, 2, 3, PARTITION_SERIES + 4
START_NS = 1_700_000_000_000_000_000

_numbers = count(1)


@pytest.fixture(params=KEEPERS)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    for kept in KEEPERS[request.param](tmp_path):
        kept.add_task("first", FIRST)
        kept.add_task("second", SECOND)
        yield kept


def points_of(size: int, first: int = 0) -> Points:
    """Return points that no other call returns, the hard ones among them."""
    iterations = np.arange(first, first + size, dtype=np.int64)
    values = np.random.default_rng(next(_numbers)).random(size)
    values[::7] = [np.nan, np.inf, -0.0][size % 3]
    return Points(iterations, START_NS + iterations * 1_000_000_000, values)


def put(kept: Kept, task: int, position: int, runs: dict[int, Points]) -> None:
    """Seal runs of some series, which came in one frame."""
    ids = sorted(runs)
    series = np.repeat(np.arange(len(ids), dtype=np.uint32), [len(runs[one]) for one in ids])
    parts = arrange(ids, series, concat_points([runs[one] for one in ids]), position, position)
    with kept.database.transaction() as transaction:
        kept.points.put(transaction, task, parts, position)


def merge(kept: Kept, task: int, *, ended: bool = False, written: Counter[int] | None = None) -> int:
    """Merge what is due, and what is due then; return how many merges these were, and count points by level."""
    number = 0
    while True:
        with kept.database.snapshot() as snapshot:
            merges = kept.points.merges(snapshot, task, ended=ended)
        for one in merges:
            with kept.database.snapshot() as snapshot:
                parts = kept.points.read_merge(snapshot, one)
            assert parts is not None
            if written is not None:
                written[one.level] += sum(chunk.row["count"] for chunk in parts.chunks)
                written[one.level] += sum(placed.block.points for placed in parts.blocks)
            with kept.database.transaction() as transaction:
                assert kept.points.merge(transaction, one, parts)
            number += 1
        if not merges:
            return number


def read(kept: Kept, task: int, series: Collection[int]) -> dict[int, Points]:
    """Read all points of some series in the order they came; those without any are left out."""
    with kept.database.snapshot() as snapshot:
        parts: dict[int, list[tuple[int, int, Points]]] = {}
        for identifier, chunks in kept.points.chunks(snapshot, task, series).items():
            packed = kept.points.read(snapshot, chunks)
            parts[identifier] = [
                (chunk.position, chunk.id, points) for chunk, points in zip(chunks, packed, strict=True)
            ]
        for run in kept.points.runs(snapshot, task, series):
            parts.setdefault(run.series, []).append((run.position, 0, run.points))
    return {
        identifier: concat_points([points for _, _, points in sorted(some, key=lambda part: part[:2])])
        for identifier, some in parts.items()
    }


def assert_same(found: Points, wanted: Sequence[Points]) -> None:
    every = concat_points(list(wanted))
    for name in ("iterations", "times_unix_ns", "values"):
        assert getattr(found, name).tobytes() == getattr(every, name).tobytes(), name


class TestSealedPoints:
    def test_what_is_put_is_read_to_the_bit_also_after_a_start(self, kept: Kept) -> None:
        runs = {LONG: points_of(3 * CHUNK_MIN_POINTS + 1), SHORT: points_of(3), FAR: points_of(1000)}
        put(kept, FIRST, 20, runs)
        for state in (kept, kept.reopen()):
            found = read(state, FIRST, [LONG, SHORT, OTHER, FAR])
            assert found.keys() == runs.keys()
            for series, points in runs.items():
                assert_same(found[series], [points])
            assert read(state, SECOND, [LONG, SHORT, OTHER, FAR]) == {}

    def test_it_says_up_to_where_a_task_is_sealed(self, kept: Kept) -> None:
        put(kept, FIRST, 20, {SHORT: points_of(3)})
        put(kept, FIRST, 31, {SHORT: points_of(3)})
        with kept.database.snapshot() as snapshot:
            assert [kept.points.sealed_upto(snapshot, task) for task in (FIRST, SECOND)] == [31, 0]

    def test_nothing_is_put_by_a_transaction_that_fails(self, kept: Kept) -> None:
        lost = points_of(CHUNK_MIN_POINTS)
        parts = arrange([LONG], np.zeros(len(lost), np.uint32), lost, 20, 20)
        with pytest.raises(ZeroDivisionError), kept.database.transaction() as transaction:
            kept.points.put(transaction, FIRST, parts, 20)
            raise ZeroDivisionError
        assert read(kept, FIRST, [LONG]) == {}
        kept_points = points_of(CHUNK_MIN_POINTS)
        put(kept, FIRST, 20, {LONG: kept_points})
        assert_same(read(kept, FIRST, [LONG])[LONG], [kept_points])

    def test_the_parts_of_a_series_are_in_the_order_they_came(self, kept: Kept) -> None:
        sizes = [3, CHUNK_MIN_POINTS, 200, 2 * CHUNK_MIN_POINTS + 5, 1, 1]
        came = [points_of(size, first=1000 * number) for number, size in enumerate(sizes)]
        for position, points in enumerate(came, 20):
            put(kept, FIRST, position, {SHORT: points, OTHER: points_of(2)})
        assert_same(read(kept, FIRST, [SHORT])[SHORT], came)
        # when they are merged, a chunk between two runs keeps them apart
        assert merge(kept, FIRST, ended=True) == 1
        assert_same(read(kept, FIRST, [SHORT])[SHORT], came)

    def test_so_many_blocks_become_one_of_the_next_level_and_long_runs_chunks(self, kept: Kept) -> None:
        came = [points_of(CHUNK_MIN_POINTS // FAN_IN, first=600 * number) for number in range(FAN_IN)]
        few = [points_of(2) for _ in came]
        for position, (long, short) in enumerate(zip(came, few, strict=True), 20):
            assert merge(kept, FIRST) == 0
            put(kept, FIRST, position, {SHORT: long, OTHER: short, FAR: points_of(1)})
        assert merge(kept, FIRST) == 2
        assert_same(read(kept, FIRST, [SHORT])[SHORT], came)
        assert_same(read(kept, FIRST, [OTHER])[OTHER], few)
        with kept.database.snapshot() as snapshot:
            assert sum(chunk.size for chunk in kept.points.chunks(snapshot, FIRST, [SHORT, OTHER])[SHORT]) == 4096
            assert [len(run.points) for run in kept.points.runs(snapshot, FIRST, [OTHER])] == [2 * FAN_IN]

    def test_levels_are_gone_through_one_after_the_other(self, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sealing_module, "FAN_IN", 2)
        came = [points_of(2) for _ in range(8)]
        merges = []
        for position, points in enumerate(came, 20):
            put(kept, FIRST, position, {SHORT: points})
            merges.append(merge(kept, FIRST))
        assert merges == [0, 1, 0, 2, 0, 1, 0, 3]
        assert_same(read(kept, FIRST, [SHORT])[SHORT], came)

    @pytest.mark.parametrize(("brought", "levels"), [(64, 0), (16, 1), (8, 1), (7, 2), (1, 2)])
    def test_a_point_is_written_once_by_its_seal_and_once_for_each_level(
        self, brought: int, levels: int, kept: Kept, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # as docs/architecture.md has it, with chunks of 64: ceil(log8(64 / brought)) levels
        monkeypatch.setattr(sealing_module, "CHUNK_MIN_POINTS", 64)
        seals = FAN_IN**levels
        written: Counter[int] = Counter()
        for position in range(20, 20 + seals):
            put(kept, FIRST, position, {SHORT: points_of(brought), OTHER: points_of(brought)})
            merge(kept, FIRST, written=written)
        assert written == dict.fromkeys(range(1, levels + 1), 2 * brought * seals)
        with kept.database.snapshot() as snapshot:
            chunks = kept.points.chunks(snapshot, FIRST, [SHORT, OTHER])
            assert [sum(chunk.size for chunk in chunks[one]) for one in (SHORT, OTHER)] == [brought * seals] * 2

    def test_what_was_dropped_meanwhile_is_not_merged(self, kept: Kept) -> None:
        for position in range(20, 20 + FAN_IN):
            put(kept, FIRST, position, {SHORT: points_of(2)})
        with kept.database.snapshot() as snapshot:
            [due] = kept.points.merges(snapshot, FIRST, ended=False)
            parts = kept.points.read_merge(snapshot, due)
        assert parts is not None
        with kept.database.transaction() as transaction:
            assert not kept.points.drop(transaction, FIRST)
        with kept.database.snapshot() as snapshot:
            assert kept.points.read_merge(snapshot, due) is None
        with kept.database.transaction() as transaction:
            assert not kept.points.merge(transaction, due, parts)
        assert read(kept, FIRST, [SHORT]) == {}

    def test_a_snapshot_reads_what_was_merged_after_it_was_opened(self, kept: Kept) -> None:
        came = [points_of(CHUNK_MIN_POINTS // FAN_IN) for _ in range(FAN_IN)]
        for position, points in enumerate(came, 20):
            put(kept, FIRST, position, {SHORT: points})
        with kept.database.snapshot() as snapshot:
            assert kept.points.sealed_upto(snapshot, FIRST) == 20 + FAN_IN - 1
            assert merge(kept, FIRST) == 1
            assert kept.points.chunks(snapshot, FIRST, [SHORT]) == {}
            runs = sorted(kept.points.runs(snapshot, FIRST, [SHORT]), key=attrgetter("position"))
        assert_same(concat_points([run.points for run in runs]), came)

    def test_chunks_are_found_by_what_they_span(self, kept: Kept) -> None:
        put(kept, FIRST, 20, {LONG: points_of(CHUNK_MIN_POINTS), OTHER: points_of(CHUNK_MIN_POINTS)})
        put(kept, FIRST, 21, {LONG: points_of(CHUNK_MIN_POINTS, first=10_000)})
        with kept.database.snapshot() as snapshot:

            def positions(**span: int) -> list[int]:
                by_time = "low" in span and span["low"] >= START_NS
                found = kept.points.chunks(snapshot, FIRST, [LONG], by_time=by_time, **span)
                return [chunk.position for chunk in found.get(LONG, [])]

            assert positions() == [20, 21]
            assert positions(low=CHUNK_MIN_POINTS - 1) == [20, 21]
            assert positions(low=CHUNK_MIN_POINTS) == [21]
            assert positions(high=9_999) == [20]
            assert positions(high=10_000) == [20, 21]
            assert positions(low=CHUNK_MIN_POINTS, high=9_999) == []
            assert positions(low=START_NS + CHUNK_MIN_POINTS * 1_000_000_000) == [21]
            [first, _] = kept.points.chunks(snapshot, FIRST, [LONG])[LONG]
        assert (first.size, first.lowest_iteration, first.highest_iteration) == (4096, 0, 4095)
        assert (first.lowest_time, first.highest_time) == (START_NS, START_NS + 4095 * 1_000_000_000)

    def test_an_overview_has_the_cells_of_the_chunks_in_the_order_that_is_asked_for(self, kept: Kept) -> None:
        came = [points_of(CHUNK_MIN_POINTS), points_of(CHUNK_MIN_POINTS + CELL_POINTS)]
        for position, points in enumerate(came, 20):
            put(kept, FIRST, position, {LONG: points})
        with kept.database.snapshot() as snapshot:
            chunks = kept.points.chunks(snapshot, FIRST, [LONG])[LONG]
            cells = kept.points.overviews(snapshot, chunks[::-1])
            assert cells.tobytes() == cells_of(came[1]).tobytes() + cells_of(came[0]).tobytes()
            assert len(kept.points.overviews(snapshot, [])) == 0
        assert [chunk.non_finite for chunk in chunks] == [int((~np.isfinite(one.values)).sum()) for one in came]

    def test_a_task_is_dropped_slice_by_slice_and_no_other_with_it(self, kept: Kept) -> None:
        series = {number: points_of(CHUNK_MIN_POINTS) for number in range(1, 120)}
        put(kept, FIRST, 20, {**series, 600: points_of(2)})
        stays = {LONG: points_of(CHUNK_MIN_POINTS), SHORT: points_of(5)}
        put(kept, SECOND, 21, stays)
        slices, more = 0, True
        while more:
            with kept.database.transaction() as transaction:
                more = kept.points.drop(transaction, FIRST)
            slices += 1
        assert slices > 1
        assert read(kept, FIRST, [*series, 600]) == {}
        for identifier, points in read(kept, SECOND, [LONG, SHORT]).items():
            assert_same(points, [stays[identifier]])
