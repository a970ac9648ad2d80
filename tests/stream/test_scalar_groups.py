"""report_scalars and the bound emitter: each is so many report_scalar calls, in whatever state the queue is."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.collectors.scalars import ScalarReports

from telemetry.errors import EventsDropped
from telemetry.events import MAX_GROUP_SCALARS, ROW_SLOTS, write_out
from telemetry.ledger import Book
from telemetry.queue import EventQueue, WhenFull
from telemetry.testing import ListEmit, MemorySink, run_pipeline

ALL = 10**9
Points = dict[tuple[str, str], list[tuple[int, float]]]


def reported(*reports: tuple[Any, Any], **settings: Any) -> tuple[Points, dict[str, int]]:
    """Report these (values, iteration); return what arrived, and what the ledger counts as dropped."""
    sink = MemorySink()
    with run_pipeline([sink], **settings) as pipeline:
        scalars = ScalarReports(pipeline.emit)
        for values, iteration in reports:
            scalars.report_scalars(values, iteration)
    ledger = pipeline.ledger()
    found: Points = sink.scalars()
    assert ledger.delivered == sum(map(len, found.values()))
    return found, dict(ledger.dropped)


def rows_of(taken: list[Any]) -> list[tuple[Any, ...]]:
    write_out(taken)
    return [tuple(taken[start : start + ROW_SLOTS]) for start in range(0, len(taken), ROW_SLOTS)]


# ---- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"loss": 1.0}, [("loss", "loss")]),
        ({"loss/train": 1.0, "loss/test": 2.0, "lr": 3.0}, [("loss", "train"), ("loss", "test"), ("lr", "lr")]),
        ({"train/loss/box": 1.0}, [("train", "loss/box")]),
        ({"/loss": 1.0, "loss/": 2.0, "/": 3.0, "": 4.0}, [(name, name) for name in ("/loss", "loss/", "/", "")]),
        ({("a/b", "c"): 1.0}, [("a/b", "c")]),
        ({"loss": {"train": 1.0, "a/b": 2.0}, "a/b": {"c": 3.0}}, [("loss", "train"), ("loss", "a/b"), ("a/b", "c")]),
        ({"lr": 1.0, "loss": {"train": 2.0}}, [("lr", "lr"), ("loss", "train")]),
        ({"val": {"map": {"50": 1.0, "deep": {"er": 2.0}}}}, [("val", "map/50"), ("val", "map/deep/er")]),
        ({"a": {}, "b": {"c": 1.0}}, [("b", "c")]),
        ({}, []),
        ({"a": {"b": {}}}, []),
    ],
)  # fmt: skip
def test_names_of_charts_and_series(values: dict[Any, Any], names: list[tuple[str, str]]) -> None:
    found, dropped = reported((values, 7))
    assert found == {name: [(7, float(value))] for value, name in enumerate(names, 1)}
    assert dropped == {}


def test_long_names_are_shortened_and_stay_two() -> None:
    found, _ = reported(({"x" * 5000 + "1": 1.0, "x" * 5000 + "2": 2.0}, 1))
    assert sorted(point for points in found.values() for point in points) == [(1, 1.0), (1, 2.0)]
    assert all(len(title) <= 1000 for title, _ in found)


# ---- values ----------------------------------------------------------------------------------------------


class Tensor:
    """What torch's do: no number by itself, its sum is one of them, and detach comes first."""

    def __init__(self, value: float) -> None:
        self.value, self.detached = value, False

    def __radd__(self, other: Any) -> Tensor:
        return self

    def detach(self) -> Tensor:
        copy = Tensor(self.value)
        copy.detached = True
        return copy

    def __float__(self) -> float:
        assert self.detached
        return self.value


@pytest.mark.parametrize(
    "value",
    [2, True, np.float64(0.1), np.float32(0.1), np.int8(3), np.array(0.5), np.array([0.5]), Tensor(0.25), 2**60],
)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_every_kind_of_number_is_taken(value: Any, nested: bool, first: bool) -> None:
    values = {"a": value, "b": 0.5} if first else {"b": 0.5, "a": value}
    expected = float(value.detach() if isinstance(value, Tensor) else np.asarray(value, float).item())
    found, dropped = reported(({"t": values} if nested else {f"t/{key}": item for key, item in values.items()}, 3))
    assert found == {("t", "a"): [(3, expected)], ("t", "b"): [(3, 0.5)]}
    assert dropped == {}


def test_nan_and_infinities_are_kept() -> None:
    found, dropped = reported(({"a": math.nan, "b": math.inf, "c": -math.inf, "d": -0.0}, 0))
    assert [repr(found[name, name]) for name in "abcd"] == ["[(0, nan)]", "[(0, inf)]", "[(0, -inf)]", "[(0, -0.0)]"]
    assert dropped == {}


BAD_VALUES = [None, "0.5", 1j, np.complex64(1), np.ones(3), [1.0], object(), 2**2000]


@pytest.mark.parametrize("bad", BAD_VALUES, ids=lambda bad: type(bad).__name__)
@pytest.mark.parametrize("nested", [False, True])
def test_a_bad_value_costs_itself_alone_and_is_named(bad: Any, nested: bool, caplog: pytest.LogCaptureFixture) -> None:
    values = {"a": 1.0, "bad": bad, "c": 2.0}
    with caplog.at_level(logging.WARNING):
        found, dropped = reported(({"t": values} if nested else {f"t/{k}": v for k, v in values.items()}, 3))
    assert found == {("t", "a"): [(3, 1.0)], ("t", "c"): [(3, 2.0)]}
    assert dropped == {"invalid": 1}
    assert [record.message.startswith("t/bad: ") for record in caplog.records] == [True]


@pytest.mark.parametrize("bad", [None, 7, 1.5, b"loss", ("a", "b", "c"), (1, 2), ("a", None), frozenset()])
@pytest.mark.parametrize("beside", [0.5, np.float32(0.5), {"x": 0.5}], ids=["plain", "numpy", "nested"])
def test_a_name_that_is_no_text_costs_itself_alone(bad: Any, beside: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found, dropped = reported(({bad: 1.0, "good": beside}, 3), ({"t": {None: 1.0, "good": 0.5}}, 4))
    assert dropped == {"invalid": 2}
    assert sorted(point for points in found.values() for point in points) == [(3, 0.5), (4, 0.5)]
    assert "must be a str" in caplog.text


@pytest.mark.parametrize("bad", [None, 3, 0.5, "loss", [("loss", 1.0)], object()])
def test_what_is_no_dict_is_one_event_that_is_said(bad: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert reported((bad, 1), (bad, 2)) == ({}, {"invalid": 2})
    assert [record.message.startswith("report_scalars takes a dict") for record in caplog.records] == [True]


@pytest.mark.parametrize("iteration", [None, "3", 2.5, math.nan, 2**63])
@pytest.mark.parametrize("values", [{"a": 1.0, "b": 2.0}, {"t": {"a": 1.0, "b": 2.0}}], ids=["flat", "nested"])
def test_a_bad_iteration_costs_every_point_of_it(iteration: Any, values: dict[str, Any]) -> None:
    assert reported((values, iteration)) == ({}, {"invalid": 2})


@pytest.mark.parametrize("iteration", [3.0, np.int64(3), np.array(3)])
def test_whole_numbers_of_any_kind_are_iterations(iteration: Any) -> None:
    assert reported(({"a": 1.0, "b": {"c": 2.0}}, iteration)) == ({("a", "a"): [(3, 1.0)], ("b", "c"): [(3, 2.0)]}, {})


def test_a_dict_that_holds_itself_ends(caplog: pytest.LogCaptureFixture) -> None:
    endless: dict[str, Any] = {"loss": 0.5}
    endless["again"] = endless
    with caplog.at_level(logging.WARNING):
        found, dropped = reported((endless, 1))
    assert found["loss", "loss"] == [(1, 0.5)]
    assert dropped == {"invalid": 1}


def test_other_mappings_are_taken() -> None:
    values: defaultdict[str, float] = defaultdict(float, {"a/b": 1.0})
    assert reported((values, 1)) == ({("a", "b"): [(1, 1.0)]}, {})


def test_what_changes_after_the_call_is_not_seen() -> None:
    emit = ListEmit()
    value, step = np.array(1.0), np.array(1)
    plain, nested = {"a": 1.0}, {"t": {"a": 1.0}}
    scalars = ScalarReports(emit)
    for values in (plain, nested, {"a": value}):
        scalars.report_scalars(values, step)  # type: ignore[arg-type]
        scalars.report_scalars(values, 1)
    value += 1
    step += 1
    plain["a"] = plain["b"] = nested["t"]["a"] = 2.0
    assert {row[2:4] for row in rows_of(emit.rows)} == {(1.0, 1)}


def test_a_dict_has_one_time_for_all() -> None:
    emit = ListEmit()
    ScalarReports(emit).report_scalars({"a": 1.0, "b": 2.0, "c": 3.0}, 1)
    ScalarReports(emit).report_scalars({"a": {"b": 1.0}, "c": {"d": 2.0}}, 1)
    rows = rows_of(emit.rows)
    assert [len({row[4] for row in rows[:3]}), len({row[4] for row in rows[3:]})] == [1, 1]


def test_more_scalars_than_a_group_holds() -> None:
    values = {f"t/{k}": float(k) for k in range(3 * MAX_GROUP_SCALARS + 1)}
    found, dropped = reported((values, 1), ({"n": {str(k): float(k) for k in range(MAX_GROUP_SCALARS + 1)}}, 2))
    assert {series: points for (title, series), points in found.items() if title == "t"} == {
        str(k): [(1, float(k))] for k in range(3 * MAX_GROUP_SCALARS + 1)
    }
    assert len(found) == 4 * MAX_GROUP_SCALARS + 2
    assert dropped == {}


def test_strict_mode_raises_at_a_bad_value_and_keeps_the_good_ones() -> None:
    sink = MemorySink()
    with run_pipeline([sink], strict=True) as pipeline:
        with pytest.raises(EventsDropped, match="t/bad"):
            ScalarReports(pipeline.emit).report_scalars({"t/bad": None, "t/good": 1.0}, 1)
    assert (sink.scalars(), pipeline.ledger().dropped) == ({("t", "good"): [(1, 1.0)]}, {"invalid": 1})


# ---- with the other forms, and with what else moves points -------------------------------------------------


def test_the_three_forms_of_one_series_keep_their_order() -> None:
    sink = MemorySink()
    with run_pipeline([sink], frame_scalars=7) as pipeline:
        scalars = ScalarReports(pipeline.emit)
        emit = scalars.scalar("t", "a")
        for step in range(0, 300, 3):
            scalars.report_scalars({"t/a": 1.0, "t/b": 2.0}, step)
            emit(2.0, step + 1)
            scalars.report_scalar("t", "a", 3.0, step + 2)
    found = sink.scalars()
    assert found["t", "a"] == [(step, step % 3 + 1.0) for step in range(300)]
    assert found["t", "b"] == [(step, 2.0) for step in range(0, 300, 3)]


def test_an_iteration_offset_moves_them_as_well() -> None:
    sink = MemorySink()
    with run_pipeline([sink]) as pipeline:
        scalars = ScalarReports(pipeline.emit)
        scalars.report_scalars({"a": 1.0}, 1)
        pipeline.iteration_offset.set(1000)
        scalars.report_scalars({"a": 2.0, "b": {"c": 3.0}}, 2)
        scalars.report_scalars({"a": 2.0, "b": 3.0}, 3)
        scalars.scalar("a", "a")(4.0, 4)
        scalars.report_scalars({"a": 2.0, "b": 3.0}, 2**63 - 1)
    found = sink.scalars()
    assert found["a", "a"] == [(1, 1.0), (1002, 2.0), (1003, 2.0), (1004, 4.0)]
    assert (found["b", "c"], found["b", "b"]) == ([(1002, 3.0)], [(1003, 3.0)])
    assert pipeline.ledger().dropped == {"invalid": 2}


def test_the_latest_iteration_is_that_of_the_dict() -> None:
    book = Book()
    queue = EventQueue(book)
    ScalarReports(queue).report_scalars({"a": 1.0, "b": 2.0}, 41)
    assert queue.latest_iteration == 41
    queue.take(ALL, ALL)
    assert queue.latest_iteration == 41


@pytest.mark.parametrize("bad", [None, "high", np.ones(3)])
def test_the_emitter_refuses_what_report_scalar_does(bad: Any) -> None:
    emit = ListEmit()
    report = ScalarReports(emit).scalar("loss", "train")
    report(bad, 1)
    report(1.0, bad)
    report(np.float32(0.5), np.int64(2))  # type: ignore[arg-type]
    assert emit.rows[:4] == ["loss", "train", 0.5, 2]
    assert [(reason, message.startswith("loss/train: ")) for reason, message in emit.refused] == [("invalid", True)] * 2


def test_after_close_all_forms_are_counted_as_closed() -> None:
    with run_pipeline([MemorySink()]) as pipeline:
        scalars = ScalarReports(pipeline.emit)
        emit = scalars.scalar("a", "b")
    emit(1.0, 1)
    scalars.report_scalars({"a": 1.0, "b": 2.0, "c": 3.0}, 1)
    scalars.report_scalars({"t": {"a": 1.0, "b": 2.0}}, 1)
    assert pipeline.ledger().dropped == {"closed": 6}
    assert len(pipeline.emit) == 0


# ---- in the queue ----------------------------------------------------------------------------------------

reports = st.lists(st.integers(0, 9), max_size=60)


@given(
    reports,
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.sampled_from(list(WhenFull)),
    st.integers(1, 60),
)
def test_dicts_are_taken_and_dropped_whole_and_every_point_is_counted(
    sizes: list[int], takes: list[int], when_full: WhenFull, max_events: int
) -> None:
    # Given any queue
    book = Book()
    book.open("sink")
    queue = EventQueue(book, max_events=max_events, when_full=when_full, block_timeout_s=1e-6)
    scalars = ScalarReports(queue)
    taken: list[tuple[Any, ...]] = []
    # When dicts of these sizes, and scalars by themselves (0), are reported, with takes between
    for step, size in enumerate(sizes):
        if size:
            scalars.report_scalars({f"t/{k}": float(k) for k in range(size)}, step)
        else:
            scalars.report_scalar("t", "alone", 0.5, step)
        assert len(queue) <= max_events
        if step % 5 == 4:
            taken += rows_of(queue.take(takes[step % len(takes)], ALL)[0])
    while len(queue):
        taken += rows_of(queue.take(takes[0], ALL)[0])
    # Then what was taken is in order, and of each dict all of it or nothing
    by_step: dict[int, list[str]] = defaultdict(list)
    for _, series, _, step, _ in taken:
        by_step[step].append(series)
    assert list(by_step) == sorted(by_step)
    for step, series in by_step.items():
        assert series == ([str(k) for k in range(sizes[step])] or ["alone"])
    ledger = book.snapshot("sink")
    assert ledger.logged == sum(size or 1 for size in sizes) == len(taken) + ledger.dropped_total
    if when_full is WhenFull.DROP_OLDEST and sizes and (sizes[-1] or 1) <= max_events * 7 // 8:
        assert len(sizes) - 1 in by_step


def test_threads_that_report_dicts_of_one_size_do_not_mix_them() -> None:
    # Given four threads whose dicts have as many scalars, and one that takes meanwhile
    book = Book()
    book.open("sink")
    queue = EventQueue(book, block_timeout_s=60.0, max_events=20_000)
    scalars = ScalarReports(queue)
    count, threads = 5_000, 4

    def report(name: int) -> None:
        for step in range(count):
            scalars.report_scalars({f"{name}/a": float(name), f"{name}/b": float(step), f"{name}/c": 0.5}, step)

    reporters = [threading.Thread(target=report, args=(name,)) for name in range(threads)]
    for reporter in reporters:
        reporter.start()
    taken: list[tuple[Any, ...]] = []
    # When all is reported
    while any(reporter.is_alive() for reporter in reporters) or len(queue):
        taken += rows_of(queue.take(997, ALL)[0])
    # Then each thread's points are there once, in order, with its own names and values
    assert len(taken) == 3 * count * threads
    for name in range(threads):
        mine = [row[1:4] for row in taken if row[0] == str(name)]
        assert mine == [
            point
            for step in range(count)
            for point in (("a", float(name), step), ("b", float(step), step), ("c", 0.5, step))
        ]
    assert book.snapshot("sink").dropped == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forms_made_before_a_fork_report_into_the_child_s_queue() -> None:
    # What Pipeline does in a child, without its thread.
    book = Book()
    queue = EventQueue(book)
    scalars = ScalarReports(queue)
    emit = scalars.scalar("a", "b")
    scalars.report_scalars({"a": 1.0, "b": 2.0}, 1)
    book.reset_after_fork()
    queue.reset_after_fork(lambda: None)
    emit(1.0, 2)
    scalars.report_scalars({"a": 3.0, "b": 4.0}, 3)
    assert [row[:4] for row in rows_of(queue.take(ALL, ALL)[0])] == [
        ("a", "b", 1.0, 2),
        ("a", "a", 3.0, 3),
        ("b", "b", 4.0, 3),
    ]
