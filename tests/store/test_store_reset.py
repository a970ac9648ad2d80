"""A task that is begun anew under its id: nothing older than the reset counts, in whatever order things arrive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_support import LOSS, MS, OTHER_WRITER, START_NS, TASK, WRITER, content_of, rows_of
from store_support import PLACES, store_with_points
from test_store_fold import FRAMES, everything

from telemetry.events import ConsoleLine, FrameEvent, ModelSaved, RecordChange, SeriesKey, SingleValue
from telemetry.record import TaskKey
from telemetry.server.store import ConsoleQuery, FrameContent, ReportsQuery, Store, TaskChange

LATER_NS = START_NS + 1_000_000 * MS
ACCURACY = SeriesKey("scalar", "accuracy", "train")


@pytest.fixture(params=PLACES)
def store(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    yield from store_with_points(request.param, tmp_path / "store", monkeypatch)


def reset_at(moment: int) -> RecordChange:
    return RecordChange(moment, "task", TaskKey.RESET, moment)


def is_new(moment: int, since: int) -> bool:
    return not 0 < moment < since


def write(store: Store, *contents: FrameContent) -> dict[str, TaskChange]:
    return store.write(contents).changes


@settings(max_examples=40, deadline=None)
@given(FRAMES, st.integers(0, 4), st.randoms(use_true_random=False), st.booleans())
def test_what_is_older_than_a_reset_does_not_count_in_whatever_order_it_arrives(
    frames: Any, after: int, random: Any, together: bool
) -> None:
    # given frames of two writers, and one that begins the task anew at some moment between their events
    since = START_NS + after
    parts = [*frames, ([reset_at(since)], LOSS, [], b"the writer anew.")]
    contents = [
        content_of({key: rows}, events, writer=writer, sequence=number)
        for number, (events, key, rows, writer) in enumerate(parts)
    ]
    # and what of them is not older
    expected = [
        content_of(
            {key: [row for row in rows if is_new(row[1], since)]},
            [event for event in events if is_new(event.time_unix_ns, since)],
            writer=writer,
            sequence=number,
        )
        for number, (events, key, rows, writer) in enumerate(parts)
    ]
    expected = [content for content in expected if content.first_unix_ns is not None]
    shuffled = [*contents, *random.sample(contents, len(contents) // 2)]
    random.shuffle(shuffled)
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        plain, mixed = Store(Path(one) / "s"), Store(Path(two) / "s")
        # when
        plain.write(expected)
        if together:
            mixed.write(shuffled)
        else:
            for content in shuffled:
                mixed.write([content])
        while mixed.remove_deleted():
            pass
        # then
        left, right = everything(plain), everything(mixed)
        plain.close()
        mixed.close()
    for side in (left, right):
        # Of two points of one instant the later to arrive is the last; and the reset itself is an event.
        for item in (*side["series"], *side["task"]["last_scalars"]):
            item.pop("last", None)
            item.pop("value", None)
        side["task"]["counts"].pop("frames", None)
        # A writer all of whose values others have overwritten before the reset came is not counted.
        side["task"].pop("writers", None)
    assert left == right


def a_run(start_ns: int, text: str, values: Sequence[float], *events: FrameEvent, writer: bytes) -> FrameContent:
    rows = [(step, start_ns + step * MS, value) for step, value in enumerate(values)]
    return content_of(
        {LOSS: rows},
        [
            *events,
            RecordChange(start_ns, "task", "name", text),
            RecordChange(start_ns, "parameters", f"Args/{text}", {"value": 1}),
            ConsoleLine(start_ns, "stdout", text),
            ModelSaved(start_ns, text, "/p", "torch"),
            SingleValue(start_ns, text, 1.0),
        ],
        writer=writer,
    )


def test_a_new_run_replaces_the_old_one_in_everything_that_can_be_read(store: Store) -> None:
    # given a run of many points
    old = a_run(START_NS, "old", [0.5] * 20_000, writer=WRITER)
    write(store, old, content_of({ACCURACY: rows_of([1])}, sequence=1))
    # when another begins under its id
    changes = write(store, a_run(LATER_NS, "new", [0.25], reset_at(LATER_NS), writer=OTHER_WRITER))
    # then pages are told
    assert changes[TASK].reset
    # and nothing is there but the new run's, of which the table shows one writer and one point
    task = store.task(TASK)
    assert task["name"] == "new"
    assert set(task["record"]["parameters"]) == {"Args/new"}
    assert (task["counts"]["points"], task["counts"]["console_lines"], task["counts"]["models"]) == (1, 1, 1)
    assert task["writers"] == 1
    assert [(item["title"], item["count"]) for item in store.series(TASK)["series"]] == [("loss", 1)]
    assert [line["text"] for line in store.console(TASK, ConsoleQuery())["lines"]] == ["new"]
    assert [value["name"] for value in store.values(TASK)["values"]] == ["new"]
    assert store.plots(TASK, ReportsQuery())["plots"] == []
    # and late frames of the old run are taken and change nothing
    before = everything(store)
    late = content_of({ACCURACY: rows_of([9.0])}, [ConsoleLine(START_NS, "stdout", "late")], sequence=2)
    assert store.write([late]).stored == [True]
    before["task"]["counts"].pop("frames")
    after = everything(store)
    after["task"]["counts"].pop("frames")
    assert after == before


def test_what_a_reset_left_behind_is_removed_also_by_a_server_that_starts_again(tmp_path: Path) -> None:
    # given
    store = Store(tmp_path / "store")
    write(store, a_run(START_NS, "old", [0.5] * 20_000, writer=WRITER))
    write(store, a_run(LATER_NS, "new", [0.25], reset_at(LATER_NS), writer=OTHER_WRITER))
    store.close()
    # when
    store = Store(tmp_path / "store")
    while store.remove_deleted():
        pass
    # then a third run is told apart, too, and an older reset changes nothing
    assert store.task(TASK)["counts"]["points"] == 1
    write(store, content_of({}, [reset_at(START_NS + MS)], sequence=9))
    assert store.task(TASK)["counts"]["points"] == 1
    write(store, a_run(LATER_NS + MS, "third", [1, 2], reset_at(LATER_NS + MS), writer=b"third writer  03"))
    assert store.task(TASK)["counts"]["points"] == 2
    store.close()


def test_a_deleted_task_that_is_begun_anew_is_there_again(store: Store) -> None:
    # given
    write(store, a_run(START_NS, "old", [0.5] * 10, writer=WRITER))
    store.delete_task(TASK)
    late = content_of({LOSS: rows_of([1.0])}, sequence=1)
    assert store.write([late]).ignored == {0}
    # when
    write(store, a_run(LATER_NS, "new", [0.25], reset_at(LATER_NS), writer=OTHER_WRITER))
    while store.remove_deleted():
        pass
    # then
    assert store.task(TASK)["name"] == "new"
    assert store.task(TASK)["counts"]["points"] == 1
    # and it can be deleted again
    store.delete_task(TASK)
    assert store.project_of(TASK) is None


def test_a_reset_that_lies_after_its_own_change_is_none(store: Store) -> None:
    write(store, a_run(START_NS, "old", [0.5], writer=WRITER))
    write(store, content_of({}, [RecordChange(START_NS, "task", TaskKey.RESET, LATER_NS)], writer=OTHER_WRITER))
    assert store.task(TASK)["counts"]["points"] == 1
