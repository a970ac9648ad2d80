"""Charts of a job that started again: what a later attempt reports anew is hidden, and only that, and never lost."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from server_support import LOSS, MS, START_NS, TASK, Row, content_of
from store_support import PLACES, store_with_points

from telemetry.events import RecordChange
from telemetry.server.store import FrameContent, PointsQuery, Store
from telemetry.server.store import bands as bands_module
from telemetry.server.store import points as points_module
from telemetry.server.store import sql_points as sql_points_module

ALL = PointsQuery(False, None, None, 20_000)
HOUR_NS = 3600 * 1000 * MS


@pytest.fixture(params=PLACES)
def store(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    yield from store_with_points(request.param, tmp_path / "store", monkeypatch)


def frames_of(
    attempt: int,
    steps: Sequence[int],
    *,
    rank: int | None = None,
    size: int = 1000,
    entry: dict[str, object] | None = None,
) -> list[FrameContent]:
    """Return an attempt's frames: an hour later than the one before, with the value 1000 * attempt + rank."""
    start_ns = START_NS + attempt * HOUR_NS
    writer = b"attempt %3d %4d" % (attempt, rank or 0) + b"."
    entry = {"started_unix_ns": start_ns, **({"attempt": attempt} if attempt > 1 else {}), **(entry or {})}
    events = [RecordChange(start_ns, "writers", writer.hex(), entry)]
    if attempt > 1 and not rank:
        events.append(RecordChange(start_ns, "task", "attempt", attempt))
    rows: list[Row] = [(step, start_ns + (1 + n) * MS, 1000.0 * attempt + (rank or 0)) for n, step in enumerate(steps)]
    found = []
    for sequence, first in enumerate(range(0, max(1, len(rows)), size)):
        points = {LOSS: rows[first : first + size]}
        found.append(content_of(points, [] if sequence else events, writer=writer, sequence=sequence, rank=rank))
    return found


def shown(store: Store, query: PointsQuery = ALL, series: int = 1) -> list[tuple[int, float]]:
    ((_, answer),) = store.points(TASK, [series], query)
    assert answer.exact and answer.count == len(answer.x)
    return list(zip(answer.x.tolist(), answer.values.tolist(), strict=True))


def steps_of(attempt: int, first: int, last: int) -> list[tuple[int, float]]:
    return [(step, 1000.0 * attempt) for step in range(first, last)]


def test_a_restart_hides_what_comes_after_its_first_step_and_keeps_it(store: Store) -> None:
    # given an attempt that came to step 90, and one that goes on from a checkpoint at 60
    store.write([*frames_of(1, range(90)), *frames_of(2, range(60, 120))])
    # then the chart goes from one to the other, by iteration as by time
    assert shown(store) == steps_of(1, 0, 60) + steps_of(2, 60, 120)
    assert len(shown(store, replace(ALL, by_time=True))) == 120
    assert shown(store, replace(ALL, low=55, high=65)) == steps_of(1, 55, 60) + steps_of(2, 60, 66)
    # and all of it is there
    assert len(shown(store, replace(ALL, all_attempts=True))) == 150
    assert len(store.export_points(TASK, None)["runs"][0][5]) == 150 * 8


def test_an_attempt_that_has_reported_nothing_yet_hides_nothing(store: Store) -> None:
    store.write(frames_of(1, range(90)))
    store.write(frames_of(2, []))
    assert shown(store) == steps_of(1, 0, 90)


def test_a_task_without_attempts_may_report_a_step_as_often_as_it_likes(store: Store) -> None:
    store.write([*frames_of(1, range(50)), *frames_of(1, range(20), rank=1)])
    store.write(frames_of(1, range(10)))
    assert len(shown(store)) == 50


def test_a_rank_that_is_not_there_any_more_ends_where_the_others_start_anew(store: Store) -> None:
    # given two ranks, of which the second attempt has one
    for rank in (0, 1):
        store.write(frames_of(1, range(90), rank=rank))
    store.write(frames_of(2, range(60, 120), rank=0))
    # then the lost rank has nothing to say about the steps that were done again
    assert shown(store, series=1) == steps_of(1, 0, 60) + steps_of(2, 60, 120)
    assert [step for step, _ in shown(store, series=2)] == list(range(60))
    ((_, band),) = store.bands(TASK, [1], ALL)
    assert band.exact and band.x.tolist() == list(range(120))
    assert band.low[60:].tolist() == band.high[60:].tolist() == [2000.0] * 60


def test_workers_that_restart_within_an_attempt_count_too(store: Store) -> None:
    store.write(frames_of(1, range(90)))
    store.write([content_of(events=[RecordChange(START_NS, "task", "attempt", 1)], sequence=1000)])
    restarted = frames_of(2, range(60, 70), entry={"attempt": 1, "restarts": 1})
    store.write(restarted)
    assert shown(store) == steps_of(1, 0, 60) + steps_of(2, 60, 70)


@pytest.mark.parametrize(
    "entry", ["text", {"attempt": "2"}, {"attempt": 2, "started_unix_ns": 2**63}, {"attempt": [2]}]
)
def test_a_writers_entry_may_hold_anything(store: Store, entry: object) -> None:
    store.write([*frames_of(1, range(90)), *frames_of(2, range(60, 120))])
    store.write([content_of(events=[RecordChange(START_NS, "writers", "f" * 32, entry)], sequence=1000)])
    assert shown(store) == steps_of(1, 0, 60) + steps_of(2, 60, 120)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("raw_points", [10**6, 3000])
def test_whatever_the_order_of_arrival_the_same_points_are_hidden(
    seed: int, raw_points: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points_module, "RAW_POINTS", raw_points)
    monkeypatch.setattr(bands_module, "BAND_POINTS", raw_points)
    monkeypatch.setattr(sql_points_module, "_IN_LIST", 2)
    # given attempts that restart at random steps, and frames of random sizes in random order
    random_ = random.Random(seed)
    last, frames, runs = 0, [], []
    for attempt in range(1, 5):
        first = random_.randrange(last + 1)
        last = first + random_.randrange(9000)
        runs.append(range(first, last))
        frames += frames_of(attempt, range(first, last), size=random_.choice([500, 3000, 20_000]))
    random_.shuffle(frames)
    for frame in frames:
        store.write([frame])
    # then of each attempt the steps before the later ones are shown
    expected: dict[int, float] = {}
    for number, run in enumerate(runs):
        ends = [later.start for later in runs[number + 1 :] if len(later)]
        expected.update(dict.fromkeys(range(run.start, min([run.stop, *ends])), 1000.0 * (number + 1)))
    ((_, answer),) = store.points(TASK, [1], replace(ALL, max_samples=100_000))
    assert answer.count == len(expected)
    pairs = set(zip(answer.x.tolist(), answer.values.tolist(), strict=True))
    assert pairs <= set(expected.items())
    assert not answer.exact or len(pairs) == len(expected)
    ((_, band),) = store.bands(TASK, [1], replace(ALL, max_samples=100))
    assert band.count == len(expected)
