"""What the store knows does not depend on the order in which frames arrive, nor on how often."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_support import LOSS, OTHER_WRITER, START_NS, TASK, WRITER, content_of, rows_of
from store_support import PLACES, store_with_points

from telemetry.errors import FrameError
from telemetry.events import ConsoleLine, FrameEvent, Media, ModelSaved, Plot, RecordChange, SeriesKey, SingleValue
from telemetry.server.store import ConsoleQuery, FrameContent, PointsQuery, ReportsQuery, Store, TasksQuery
from telemetry.server.store.writer import Transaction


@pytest.fixture(params=PLACES)
def store(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    yield from store_with_points(request.param, tmp_path / "store", monkeypatch)


def everything(store: Store) -> dict[str, Any]:
    """Return all that can be read about the task, without the ids that arrival gives."""
    series = store.series(TASK)["series"]
    points = {}
    for item in series:
        ((_, answer),) = store.points(TASK, [item.pop("id")], PointsQuery(False, None, None, 20_000))
        points[item["title"], item["series"]] = sorted(
            zip(answer.x.tolist(), answer.values.view("u8").tolist(), strict=True)
        )
    console = store.console(TASK, ConsoleQuery())["lines"]
    return {
        "task": store.task(TASK),
        "series": series,
        "points": points,
        "console": sorted((line["unix_ms"], line["text"]) for line in console),
        "models": sorted(model["name"] for model in store.models(TASK)["models"]),
        "values": store.values(TASK),
        "plots": store.plots(TASK, ReportsQuery()),
        "media": store.media(TASK, ReportsQuery()),
        "exported plots": store.export_plots(TASK, 0)["plots"],
        "exported media": store.export_events(TASK)["media"],
    }


TIMES = st.integers(START_NS, START_NS + 3)
NAMES = st.sampled_from(["a", "b"])
EVENTS: st.SearchStrategy[FrameEvent] = st.one_of(
    st.builds(
        RecordChange,
        TIMES,
        st.sampled_from(["task", "parameters"]),
        st.sampled_from(["name", "progress", "lr"]),
        st.one_of(st.none(), st.integers(-5, 5), st.text(max_size=3), st.just([1, {"a": b"\0"}])),
    ),
    st.builds(SingleValue, TIMES, st.sampled_from(["f1", "auc"]), st.floats()),
    st.builds(ConsoleLine, TIMES, st.just("stdout"), st.text(max_size=4)),
    st.builds(ModelSaved, TIMES, st.text(max_size=3), st.just("/p"), st.just("torch")),
    st.builds(Plot, TIMES, NAMES, NAMES, st.integers(-1, 1), st.sampled_from(['{"data":[]}', "[]", "no json"])),
    st.builds(Media, TIMES, NAMES, NAMES, st.integers(-1, 1), st.text(max_size=3), NAMES, st.just("image/png")),
)
ROWS = st.lists(st.tuples(st.integers(-3, 3), TIMES, st.floats()), max_size=4)
KEYS = [LOSS, SeriesKey("scalar", "accuracy", "train"), SeriesKey("resource", "cpu", "host", "%")]
FRAMES = st.lists(
    st.tuples(st.lists(EVENTS, max_size=4), st.sampled_from(KEYS), ROWS, st.sampled_from([WRITER, OTHER_WRITER])),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(FRAMES, st.randoms(use_true_random=False))
def test_any_order_and_repetition_of_frames_gives_the_same_task(frames: Any, random: Any) -> None:
    # given frames of two writers about one task
    contents = [
        content_of({key: rows}, events, writer=writer, sequence=number)
        for number, (events, key, rows, writer) in enumerate(frames)
    ]
    shuffled = [*contents, *random.sample(contents, len(contents) // 2)]
    random.shuffle(shuffled)
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        straight, mixed = Store(Path(one) / "s"), Store(Path(two) / "s")
        # when they arrive in order, in one transaction; and mixed up, some twice, one by one
        straight.write(contents)
        for content in shuffled:
            mixed.write([content])
        # then
        left, right = everything(straight), everything(mixed)
        straight.close()
        mixed.close()
    # (where two points share time and iteration, the later to arrive is the last)
    for side in (left, right):
        for item in (*side["series"], *side["task"]["last_scalars"]):
            item.pop("last", None)
            item.pop("value", None)
    assert left == right


def write(store: Store, contents: Sequence[FrameContent]) -> list[bool]:
    return store.write(contents).stored


def test_a_frame_that_is_known_changes_nothing(store: Store) -> None:
    # given
    content = content_of({LOSS: rows_of([1.0, 2.0])}, [ConsoleLine(START_NS, "stdout", "hello")])
    assert write(store, [content, content]) == [True, False]
    before = everything(store)
    # when it comes again
    assert write(store, [content]) == [False]
    # then
    assert store.has_frame(WRITER, 0)
    assert not store.has_frame(WRITER, 1)
    assert not store.has_frame(OTHER_WRITER, 0)
    assert everything(store) == before


def test_known_frames_are_known_after_a_restart(tmp_path: Path) -> None:
    # given
    store = Store(tmp_path)
    for sequence in (0, 1, 2, 7, 5):
        write(store, [content_of({LOSS: rows_of([1.0])}, sequence=sequence)])
    store.close()
    # when
    again = Store(tmp_path)
    # then
    assert [n for n in range(9) if again.has_frame(WRITER, n)] == [0, 1, 2, 5, 7]
    assert write(again, [content_of({LOSS: rows_of([1.0])}, sequence=n) for n in (2, 3, 4, 6)]) == [
        False,
        True,
        True,
        True,
    ]
    assert again.task(TASK)["counts"]["points"] == 8
    (series,) = again.series(TASK)["series"]
    assert series["count"] == 8
    again.close()


def test_the_record_is_the_fold_and_the_table_follows_it(store: Store) -> None:
    # given a name that changes twice, in frames that arrive in the wrong order, and a field that is removed
    def change(at: int, key: str, value: Any) -> RecordChange:
        return RecordChange(START_NS + at, "task", key, value)

    write(store, [content_of({}, [change(9, "name", "last"), change(9, "host", None)], sequence=2)])
    write(store, [content_of({}, [change(0, "name", "first"), change(1, "host", "node1")], sequence=0)])
    write(store, [content_of({}, [change(5, "tags", ["a", 3, "b"]), change(5, "progress", 250)], sequence=1)])
    # then
    task = store.task(TASK)
    assert (task["name"], task["host"], task["tags"], task["progress"]) == ("last", None, ["a", "b"], 100.0)
    assert task["record"]["task"] == {"name": "last", "tags": ["a", 3, "b"], "progress": 250}
    assert store.tasks(TasksQuery(search="LAS"))["total"] == 1
    assert store.tasks(TasksQuery(search="first"))["total"] == 0


def test_a_later_change_in_the_same_frame_wins_at_the_same_time(store: Store) -> None:
    changes = [RecordChange(START_NS, "task", "name", name) for name in ("one", "two")]
    write(store, [content_of({}, changes)])
    assert store.task(TASK)["name"] == "two"


def test_a_failed_transaction_leaves_nothing_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    write(store, [content_of({LOSS: rows_of([1.0])}, sequence=0)])
    before = everything(store)
    # when the second of two frames breaks the transaction
    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "finish", lambda transaction: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(store, [content_of({LOSS: rows_of([2.0])}, sequence=1)])
    # then
    assert everything(store) == before
    assert not store.has_frame(WRITER, 1)
    # and the frame can be written when it comes again
    assert write(store, [content_of({LOSS: rows_of([2.0], first=1)}, sequence=1)]) == [True]
    assert store.series(TASK)["series"][0]["count"] == 2


def test_series_statistics_follow_time_not_arrival(store: Store) -> None:
    # given the later points first
    write(store, [content_of({LOSS: rows_of([5.0, 4.0, 3.0], first=10)}, sequence=1)])
    write(store, [content_of({LOSS: rows_of([9.0, 1.0, math.nan])}, sequence=0)])
    # then
    (series,) = store.series(TASK)["series"]
    assert (series["last"], series["last_iteration"]) == (3.0, 12)
    assert (series["min"], series["min_iteration"]) == (1.0, 1)
    assert (series["max"], series["max_iteration"]) == (9.0, 0)
    assert (series["first_iteration"], series["count"], series["non_finite"]) == (0, 6, 1)
    task = store.task(TASK)
    assert (task["last_iteration"], task["points"]) == (12, 6)


@pytest.mark.parametrize(("value", "shown"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")])
def test_a_last_value_that_is_not_finite_is_given_in_words(store: Store, value: float, shown: str) -> None:
    write(store, [content_of({LOSS: rows_of([1.0, value])}, [SingleValue(START_NS, "auc", value)])])
    assert store.series(TASK)["series"][0]["last"] == shown
    assert store.values(TASK)["values"][0]["value"] == shown
    assert store.task(TASK)["last_scalars"][0]["value"] == shown


def test_a_series_that_comes_with_two_units_is_one_series(store: Store) -> None:
    two = {SeriesKey("scalar", "a", "b", "s"): rows_of([1.0]), SeriesKey("scalar", "a", "b", "ms"): rows_of([2.0])}
    write(store, [content_of(two)])
    (series,) = store.series(TASK)["series"]
    assert (series["count"], series["unit"]) == (2, "s")


def test_a_thousand_series_at_once_keep_their_own_points(store: Store) -> None:
    keys = [SeriesKey("scalar", f"layer {n % 50}", f"weight {n}") for n in range(1000)]
    for sequence in range(3):
        points = {key: rows_of([float(n)], first=sequence) for n, key in enumerate(keys)}
        write(store, [content_of(points, sequence=sequence)])
    found = store.series(TASK)["series"]
    assert len(found) == 1000
    assert all(item["count"] == 3 and item["last"] == int(item["series"].split()[1]) for item in found)


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        ([RecordChange(0, "s" * 1001, "k", 1)], "section of 1001"),
        ([RecordChange(0, "s", "k" * 1001, 1)], "key of 1001"),
        ([ModelSaved(0, "m", "p" * 40_000, "f")], "path"),
        ([SingleValue(0, "n" * 1001, 1.0)], "value name"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_reason(events: list[FrameEvent], complaint: str) -> None:
    with pytest.raises(FrameError, match=complaint):
        content_of({}, events)


@pytest.mark.parametrize("key", [SeriesKey("scalar", "t" * 1001, "b"), SeriesKey("scalar", "a", "s" * 1001)])
def test_a_series_with_a_name_too_long_is_refused(key: SeriesKey) -> None:
    with pytest.raises(FrameError):
        content_of({key: rows_of([1.0])})


def test_a_sequence_number_beyond_64_bits_signed_is_refused() -> None:
    with pytest.raises(FrameError, match="sequence number"):
        content_of({}, sequence=2**63)
