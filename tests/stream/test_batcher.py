"""The batcher: bad input costs itself, never its neighbours, and everything taken is accounted for."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import batcher as batcher_module
from telemetry.batcher import RunSeries, columns_of
from telemetry.events import (
    INT64_MAX,
    INT64_MIN,
    MAX_NAME_CHARS,
    ConsoleLine,
    ModelSaved,
    Reading,
    RecordChange,
    ResourceSample,
    Scalar,
    SingleValue,
)
from telemetry.ledger import Ledger
from telemetry.payload import payload_parts
from telemetry.pipeline import Pipeline
from telemetry.testing import MemorySink, run_pipeline
from telemetry.wire import HEADER_BYTES

GOOD = ("loss", "train", 0.5, 1, 10)


def run(report: Callable[[Pipeline], object], **settings: Any) -> tuple[MemorySink, Ledger]:
    sink = MemorySink()
    with run_pipeline([sink], **settings) as pipeline:
        report(pipeline)
    return sink, pipeline.ledger()


def put_rows(*rows: tuple[Any, ...]) -> Callable[[Pipeline], None]:
    """Rows as a collector on the hot path may write them, unchecked."""

    def report(pipeline: Pipeline) -> None:
        for row in rows:
            pipeline.emit.rows += row

    return report


@pytest.mark.parametrize(
    "bad",
    [
        ("loss", "train", 0.5, 1.5, 10),
        ("loss", "train", 0.5, None, 10),
        ("loss", "train", 0.5, "1", 10),
        ("loss", "train", 0.5, 2**63, 10),
        ("loss", "train", 0.5, 1, None),
        ("loss", "train", 0.5, 1, -(2**63) - 1),
        ("loss", "train", 0.5, 1, float(2**63)),
        ("loss", "train", None, 1, 10),
        ("loss", "train", 2**2000, 1, 10),
        (None, "train", 0.5, 1, 10),
        ("loss", 7, 0.5, 1, 10),
        (["unhashable"], "train", 0.5, 1, 10),
        ("loss", {"un": "hashable"}, 0.5, 1, 10),
        (b"loss", "train", 0.5, 1, 10),
    ],
)
def test_a_bad_row_is_counted_and_its_neighbours_are_kept(bad: Any, caplog: pytest.LogCaptureFixture) -> None:
    # Given good rows around three that are bad in the same way
    with caplog.at_level(logging.WARNING):
        sink, ledger = run(put_rows(GOOD, bad, GOOD, bad, bad, GOOD))
    # Then the good ones arrive, the others are counted, and it is said once
    assert sink.scalars() == {("loss", "train"): [(1, 0.5)] * 3}
    assert (ledger.logged, ledger.delivered, ledger.dropped) == (6, 3, {"invalid": 3})
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_whole_numbers_of_any_kind_are_iterations() -> None:
    iterations = [True, 2.0, np.int64(3), np.uint8(4), np.float32(5), INT64_MIN, INT64_MAX]
    sink, ledger = run(put_rows(*[("a", "b", 1.0, iteration, 10) for iteration in iterations]))
    expected = [1, 2, 3, 4, 5, INT64_MIN, INT64_MAX]
    assert [iteration for iteration, _ in sink.scalars()["a", "b"]] == expected
    assert (ledger.delivered, ledger.dropped) == (7, {})


def test_two_names_that_shorten_to_one_series_are_one() -> None:
    sink, _ = run(put_rows(("a\ud800", "b", 1.0, 1, 1), ("a\\ud800", "b", 2.0, 2, 2)))
    assert sink.scalars() == {("a\\ud800", "b"): [(1, 1.0), (2, 2.0)]}
    assert [len(batch.columns.series) for batch in sink.batches()] == [1]


names = st.sampled_from(["a", "b", "", "x" * 1500, None, 3, ("t",)]) | st.text(max_size=3)
iterations = st.integers(-(2**65), 2**65) | st.floats() | st.none()


@given(st.lists(st.tuples(names, names, st.floats(allow_nan=False), iterations, st.integers(0, 2**62)), max_size=12))
def test_fast_and_slow_way_agree(rows: list[tuple[Any, ...]]) -> None:
    # Given rows of which some are bad; columns_of takes the fast way only when all are good
    columns, errors = columns_of([slot for row in rows for slot in row], RunSeries())
    assert len(columns) + len(errors) == len(rows)
    # When each goes by itself
    alone = [columns_of(list(row), RunSeries()) for row in rows]
    expected = [
        (one.series[0], one.iterations[0], one.times_unix_ns[0], one.values[0]) for one, bad in alone if not bad
    ]
    # Then the outcome is the same
    found = zip(columns.series_index, columns.iterations, columns.times_unix_ns, columns.values, strict=True)
    assert [(columns.series[index], *rest) for index, *rest in found] == expected


@pytest.mark.parametrize(
    "bad",
    [
        RecordChange(1, "parameters", "model", object()),
        RecordChange(1, "parameters", "steps", {1, 2}),
        RecordChange(1, "parameters", "huge", 2**64),
        RecordChange(1, "parameters", None, "x"),  # type: ignore[arg-type]
        ConsoleLine("noon", "stdout", "x"),  # type: ignore[arg-type]
        SingleValue(1, "accuracy", None),  # type: ignore[arg-type]
        ModelSaved(1, "best", 5, "numpy"),  # type: ignore[arg-type]
        ResourceSample(1, (Reading("CPU", "host", None, "%"),)),  # type: ignore[arg-type]
        ResourceSample(1, (Reading("CPU", "host", 1.0, None),)),  # type: ignore[arg-type]
        ResourceSample(1, (Reading("CPU", "fine", 1.0, "%"), Reading(None, "host", 1.0, "%"))),  # type: ignore[arg-type]
        ResourceSample(None, (Reading("CPU", "host", 1.0, "%"),)),  # type: ignore[arg-type]
    ],
    # Without its address an object has the same name in each of pytest's processes.
    ids=lambda bad: re.sub(" at 0x[0-9a-f]+", "", repr(bad)),
)
def test_a_bad_event_costs_itself_alone(bad: Any) -> None:
    line = ConsoleLine(1, "stdout", "good")

    def report(pipeline: Pipeline) -> None:
        for event in (line, bad, Scalar("loss", "train", 1.0, 1, 1), line):
            pipeline.emit(event)

    sink, ledger = run(report)
    assert sink.events() == [line, line]
    assert sink.scalars() == {("loss", "train"): [(1, 1.0)]}
    assert sink.scalars("resource") == {}
    assert (ledger.logged, ledger.delivered, ledger.dropped) == (4, 3, {"invalid": 1})


def test_an_event_over_the_frame_limit_is_counted_as_too_large() -> None:
    small = RecordChange(1, "parameters", "small", "x")

    def report(pipeline: Pipeline) -> None:
        pipeline.emit(small)
        pipeline.emit(RecordChange(1, "parameters", "large", "x" * (65 * 2**20)))
        pipeline.emit(small)

    sink, ledger = run(report)
    assert sink.events() == [small, small]
    assert (ledger.delivered, ledger.dropped) == (2, {"too_large": 1})


def test_many_series_with_long_names_go_out_in_as_many_frames_as_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given 20,000 series in one take, whose names alone are over the limit of a frame (made small to be quick)
    def small_limit(*args: Any, **kwargs: Any) -> Any:
        frame = encode(*args, **kwargs)
        if len(args[0].columns.series) > 6000:
            raise batcher_module.FrameError("too large")
        return frame

    encode = batcher_module.encode
    monkeypatch.setattr(batcher_module, "encode", small_limit)
    rows = [(f"title {index}", "series", float(index), index, index) for index in range(20_000)]
    # When they are batched together
    sink, ledger = run(put_rows(*rows))
    # Then all are there
    assert len(sink.scalars()) == 20_000
    assert all(points == [(int(title[6:]), float(title[6:]))] for (title, _), points in sink.scalars().items())
    assert (ledger.delivered, ledger.dropped) == (20_000, {})
    assert len(sink.frames) >= 4


def test_resource_samples_travel_with_the_scalars_of_the_same_moment() -> None:
    sample = ResourceSample(5_000_000, (Reading("CPU", "host", 12.5, "%"), Reading("RAM", "host", 1e9, "By")))

    def report(pipeline: Pipeline) -> None:
        pipeline.emit(sample)
        pipeline.emit(Scalar("loss", "train", 1.0, 1, 1))
        pipeline.emit(sample)

    sink, ledger = run(report)
    assert sink.scalars() == {("loss", "train"): [(1, 1.0)]}
    assert sink.scalars("resource") == {("CPU", "host"): [(5, 12.5)] * 2, ("RAM", "host"): [(5, 1e9)] * 2}
    assert [key.unit for batch in sink.batches() for key in batch.columns.series if key.title == "CPU"] == ["%"]
    # A sample counts once, whatever it holds.
    assert (ledger.logged, ledger.delivered) == (3, 3)


def test_an_empty_resource_sample_is_delivered_as_nothing() -> None:
    sink, ledger = run(lambda pipeline: pipeline.emit(ResourceSample(1, ())))
    assert sink.scalars("resource") == {}
    assert (ledger.logged, ledger.delivered) == (1, 1)


def test_a_defect_of_ours_costs_one_batch_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given an encoder that fails in a way nobody thought of, once
    def fail_once(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(batcher_module, "encode", encode)
        raise ZeroDivisionError("a defect")

    encode = batcher_module.encode
    monkeypatch.setattr(batcher_module, "encode", fail_once)
    sink = MemorySink()
    with run_pipeline([sink]) as pipeline:
        # When a batch meets it, and another follows
        pipeline.emit(ConsoleLine(1, "stdout", "lost"))
        assert pipeline.flush()
        pipeline.emit(ConsoleLine(1, "stdout", "kept"))
        # Then the second arrives, and the first is counted, with the traceback in the log
    assert [event.text for event in sink.events() if isinstance(event, ConsoleLine)] == ["kept"]
    assert pipeline.ledger().dropped == {"invalid": 1}
    assert "ZeroDivisionError" in caplog.text


def test_sequence_numbers_grow_by_one() -> None:
    def report(pipeline: Pipeline) -> None:
        for step in range(10):
            pipeline.emit(Scalar("loss", "train", 1.0, step, 1))
            pipeline.flush()

    sink, _ = run(report)
    assert [frame.sequence for frame in sink.frames] == list(range(10))
    assert len({frame.writer_id for frame in sink.frames}) == 1


def test_frames_hold_at_most_frame_scalars() -> None:
    rows = [("a", "b", 1.0, step, 1) for step in range(1000)]
    sink, ledger = run(put_rows(*rows), frame_scalars=300)
    assert [frame.events for frame in sink.frames] == [300, 300, 300, 100]
    assert ledger.delivered == 1000


def test_a_name_that_is_too_long_is_shortened_and_kept() -> None:
    # given names that the store would refuse, and the rest of their frame with them
    def report(pipeline: Pipeline) -> None:
        pipeline.emit(RecordChange(1, "task", "k" * 2000, 1))
        pipeline.emit(SingleValue(1, "v" * 2000, 2.0))
        pipeline.emit(ModelSaved(1, "m" * 2000, "path", "torch"))

    # when
    sink, _ = run(report)

    # then
    change, value, model = sink.events()
    assert isinstance(change, RecordChange)
    assert isinstance(value, SingleValue)
    assert isinstance(model, ModelSaved)
    for name, letter in ((change.key, "k"), (value.name, "v"), (model.name, "m")):
        assert len(name) <= MAX_NAME_CHARS
        assert name.startswith(letter * 900)


# ---- the table of series ---------------------------------------------------------------------------------


def table_bytes(sink: MemorySink) -> list[bytes]:
    """Return the bytes of each frame's table of series, as they stand in its payload."""
    found = []
    for frame in sink.frames:
        payload = zlib.decompress(frame.data[HEADER_BYTES:]) if frame.data[9] else frame.data[HEADER_BYTES:]
        start, end = payload_parts(payload)["series"]
        found.append(payload[start:end])
    return found


def test_frames_with_the_same_series_name_them_in_the_same_bytes() -> None:
    # Given series that come in another order each time, of which one comes late, and readings among them
    sink = MemorySink()
    readings = [Reading("CPU", "host", 1.0, "%"), Reading("GPU", "0", 2.0, "%")]
    with run_pipeline([sink], flush_interval_s=3600.0) as pipeline:
        for turn, names in enumerate(["abc", "cab", "bca", "bcad", "dacb", "db", "bd", "abc"]):
            for name in names:
                pipeline.emit.rows += ("t", name, 1.0, turn, 10)
            for reading in readings[:: 1 if turn % 2 else -1]:
                pipeline.emit(ResourceSample(1, (reading,)))
            pipeline.flush()
    # Then the bytes depend on which they are alone
    tables = [table for table, batch in zip(table_bytes(sink), sink.batches(), strict=True) if len(batch.columns)]
    assert len(tables) == 8
    assert tables[0] == tables[1] == tables[2] == tables[7]
    assert tables[3] == tables[4]
    assert tables[5] == tables[6]
    assert len(set(tables)) == 3
    # and each point is with its own series
    assert sink.scalars()["t", "d"] == [(turn, 1.0) for turn in (3, 4, 5, 6)]
    assert {key: {value for _, value in points} for key, points in sink.scalars("resource").items()} == {
        ("CPU", "host"): {1.0},
        ("GPU", "0"): {2.0},
    }


names_of_a_step = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5)


@given(names_of_a_step, st.integers(0, 30), st.lists(names_of_a_step, max_size=3))
def test_series_that_repeat_and_those_that_do_not_are_told_apart(
    step: list[str], steps: int, others: list[list[str]]
) -> None:
    run_series = RunSeries()
    for names in ([*step * steps, *others_of] for others_of in [[], *others, step[:1]]):
        rows = [slot for at, name in enumerate(names) for slot in ("t", name, float(at), at, at)]
        columns, errors = columns_of(rows, run_series)
        assert errors == []
        assert [columns.series[index].series for index in columns.series_index] == names
        assert sorted({key.series for key in columns.series}) == sorted(set(names))


def test_names_without_end_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher_module, "MAX_KNOWN_SERIES", 50)
    names = [f"{k}" for k in range(500)] * 2
    sink, ledger = run(put_rows(*[("t", name, 1.0, 1, 10) for name in names]), frame_scalars=20)
    assert sink.scalars() == {("t", name): [(1, 1.0)] * 2 for name in names}
    assert ledger.dropped == {}
