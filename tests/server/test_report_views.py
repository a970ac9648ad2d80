"""Reports read from a server and from a session: the same, and what was reported."""

from __future__ import annotations

import math
import struct
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from server_support import Http, frame_of, started
from telemetry.sinks.local_zip import LocalZipSink

from telemetry.client import Client
from telemetry.events import INT64_MAX, INT64_MIN, FrameEvent, Media, Plot, RecordChange, Scalar, SeriesKey, SingleValue
from telemetry.sdk.reading import report_views
from telemetry.sdk.reading.report_views import ServerReports, SessionReports
from telemetry.sdk.reading.series import SeriesPoints, by_title, sample_indices
from telemetry.sdk.reading.view import ServerView, SessionView
from telemetry.testing import make_header, run_pipeline


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(tmp_path_factory.mktemp("server")) as server:
        yield server.url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Client]:
    with Client(url) as opened:
        yield opened


NAMES = st.sampled_from(["a", "b/c", "prüf ✓"])
# Any order, any repetition; NaN, infinities and the ends of the range among them.
POINTS = st.lists(
    st.tuples(
        NAMES,
        NAMES,
        st.floats(),
        st.integers(-3, 3) | st.sampled_from([INT64_MIN, INT64_MAX]),
        st.integers(1, 4).map(lambda ms: ms * 1_000_000),
    ),
    max_size=40,
)


def bits(value: float) -> str:
    # One NaN is as good as another.
    return "nan" if math.isnan(value) else struct.pack(">d", value).hex()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(points=POINTS)
# The highest iteration is not the latest, and beyond what a float64 holds.
@example(points=[("a", "a", 1.0, INT64_MAX, 1_000_000), ("a", "a", 2.0, INT64_MAX - 1, 2_000_000)])
def test_scalars_come_back_from_a_server_and_from_a_session(
    url: str, client: Client, points: list[tuple[str, str, float, int, int]]
) -> None:
    # given the same points in a session and on a server
    with TemporaryDirectory() as folder:
        sink = LocalZipSink(Path(folder), None)
        with run_pipeline([sink]) as pipeline:
            for title, series, value, iteration, time in points:
                pipeline.emit(Scalar(title, series, value, iteration, time))
        place, task = sink.session_folder, uuid.uuid4().hex
        assert place is not None
        session = SessionReports(SessionView(lambda: [place], make_header().task_id))
        rows: dict[SeriesKey, list[tuple[int, int, float]]] = {}
        for title, series, value, iteration, time in points:
            rows.setdefault(SeriesKey("scalar", title, series), []).append((iteration, time, value))
        # in frames that come in another order
        frames = [
            frame_of({key: some}, task_id=task, writer=uuid.uuid4().bytes)
            for key, found in rows.items()
            for some in (found[::2], found[1::2])
            if some
        ]
        frames.append(frame_of({}, [RecordChange(1, "task", "name", "x")], task_id=task, writer=uuid.uuid4().bytes))
        Http(url).send(*frames[::-1])
        server = ServerReports(ServerView(lambda: client, task))
        for axis in ("iter", "timestamp"):
            local, remote = by_title(session.curves(axis, None)), by_title(server.curves(axis, None))
            # then both say the same
            assert repr(local) == repr(remote)
            # and what they say is what was reported
            said = sorted(
                (title, series, x, bits(y))
                for title, group in local.items()
                for series, column in group.items()
                for x, y in zip(column["x"], column["y"], strict=True)
            )
            assert said == sorted(
                (title, series, iteration if axis == "iter" else time // 1_000_000, bits(value))
                for title, series, value, iteration, time in points
            )
        assert session.last_iteration() == server.last_iteration() == max((point[3] for point in points), default=0)
        summaries = [{(t, s): repr(found) for t, s, _, found in reports.summary()} for reports in (session, server)]
        if len({(title, series, iteration, time) for title, series, _, iteration, time in points}) == len(points):
            assert summaries[0] == summaries[1]


@settings(deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=300), st.integers(1, 60))
def test_a_sample_keeps_the_ends_and_the_extremes(values: list[float], most: int) -> None:
    chosen = sample_indices(values, most)
    assert len(chosen) <= most
    assert chosen == sorted(set(chosen))
    assert len(values) - 1 in chosen
    finite = [value for value in values if math.isfinite(value)]
    if most >= 4 and finite:
        kept = [values[row] for row in chosen]
        assert min(finite) in kept
        assert max(finite) in kept


def test_a_big_series_is_thinned_by_the_server(url: str, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_views, "BIG_SERIES", 1000)
    task = uuid.uuid4().hex
    rows = [(step, (step + 1) * 1_000_000, 1e9 if step == 3210 else float(step % 7)) for step in range(5000)]
    points = {SeriesKey("scalar", "big", "one"): rows, SeriesKey("scalar", "a", "x"): rows[:3]}
    points[SeriesKey("scalar", "c", "x")] = rows[:2]
    Http(url).send(frame_of(points, task_id=task, writer=uuid.uuid4().bytes))
    reports = ServerReports(ServerView(lambda: client, task))

    found = by_title(reports.curves("iter", 100))

    assert found["a"]["x"] == {"name": "x", "x": [0, 1, 2], "y": [0.0, 1.0, 2.0]}
    assert found["c"]["x"]["x"] == [0, 1]
    assert len(found["big"]["one"]["x"]) <= 100
    assert dict(zip(found["big"]["one"]["x"], found["big"]["one"]["y"], strict=True))[3210] == 1e9
    assert 3211 in by_title(reports.curves("timestamp", 100))["big"]["one"]["x"]


def test_ranks_are_told_apart() -> None:
    curves = [SeriesPoints("loss", "train", rank).curve("iter", None) for rank in (2, 0, 1)]
    assert list(by_title(curves)["loss"]) == ["train", "train [rank 1]", "train [rank 2]"]


def test_what_a_reset_left_behind_does_not_count(url: str, client: Client, tmp_path: Path) -> None:
    # given a task that was begun anew at a moment
    sink, task = LocalZipSink(tmp_path, None), uuid.uuid4().hex
    events: list[FrameEvent] = [
        SingleValue(10_000_000, "old", 1.0),
        SingleValue(30_000_000, "new", 2.0),
        Plot(10_000_000, "old", "p", 0, "{}"),
        Plot(30_000_000, "new", "p", 0, "{}"),
        Media(10_000_000, "old", "m", 0, "http://h/1.png", "1.png", "image/png"),
        Media(30_000_000, "new", "m", 0, "http://h/2.png", "2.png", "image/png"),
        RecordChange(30_000_000, "task", "reset_unix_ns", 20_000_000),
    ]
    rows = [(1, 10_000_000, 5.0), (2, 30_000_000, 6.0)]
    with run_pipeline([sink]) as pipeline:
        for step, time, value in rows:
            pipeline.emit(Scalar("loss", "train", value, step, time))
        for event in events:
            pipeline.emit(event)
    Http(url).send(
        frame_of({SeriesKey("scalar", "loss", "train"): rows}, events, task_id=task, writer=uuid.uuid4().bytes)
    )
    place = sink.session_folder
    assert place is not None
    # then what is older is not read, here and there
    session = SessionReports(SessionView(lambda: [place], make_header().task_id))
    for reports in (session, ServerReports(ServerView(partial(lambda: client), task))):
        assert by_title(reports.curves("iter", 100)) == {"loss": {"train": {"name": "train", "x": [2], "y": [6.0]}}}
        assert reports.summary() == [("loss", "train", None, {"last": 6.0, "min": 6.0, "max": 6.0})]
        assert reports.single_values() == {"new": 2.0}
        assert [plot.title for plot in reports.plots(None)] == ["new"]
        assert [media.title for media in reports.media(None)] == ["new"]
        assert reports.last_iteration() == 2
