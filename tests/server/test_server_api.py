"""The read API over HTTP: every answer as docs/server.md gives it, every bad question a clear 4xx."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from server_support import LOSS, MS, START_NS, TASK, Http, batch_of, frame_of, rows_of, started

from telemetry.events import ConsoleLine, Media, ModelSaved, Plot, RecordChange, SeriesKey, SingleValue
from telemetry.server.store import reports
from telemetry.server.store.schema import SCHEMA_VERSION
from telemetry.wire import encode

START_MS = START_NS // MS
CPU = SeriesKey("resource", "cpu", "host", "%")


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Http]:
    with started(tmp_path / "store") as server:
        yield Http(server.url)


def record(**fields: Any) -> list[RecordChange]:
    return [RecordChange(START_NS, "task", key, value) for key, value in fields.items()]


def add_task(http: Http, number: int, points: dict[SeriesKey, Any] | None = None, **fields: Any) -> str:
    task_id = f"{number:032x}"
    http.send(frame_of(points or {}, record(**fields), task_id=task_id, writer=number.to_bytes(16, "big")))
    return task_id


def names(answer: Any) -> list[str]:
    return [task["name"] for task in answer["tasks"]]


def test_an_empty_server_answers(http: Http) -> None:
    assert http.get("/tasks") == {"tasks": [], "total": 0, "page": 0, "page_size": 50}
    assert http.get("/projects") == {"projects": []}
    server = http.get("/server")
    assert (server["api"], server["schema"]) == (1, SCHEMA_VERSION)
    assert http.request("GET", "/healthz").body == b"ok"


def test_a_task_is_told_in_full(http: Http) -> None:
    # given
    http.send(
        frame_of(
            {LOSS: rows_of([3.0, 2.0, math.nan]), CPU: [(START_MS, START_NS, 50.0)]},
            [
                *record(
                    name="mnist",
                    project="vision",
                    type="training",
                    status="in_progress",
                    progress=40.0,
                    tags=["a"],
                    host="node1",
                    started_unix_ns=START_NS + 5 * MS,
                ),
                RecordChange(START_NS, "parameters", "lr", 0.1),
                RecordChange(START_NS, "parameters", "blob", b"\x00\x01"),
                RecordChange(START_NS, "parameters", "bad", math.inf),
                ConsoleLine(START_NS + 7 * MS, "stdout", "hello"),
            ],
        )
    )
    # when
    task = http.get(f"/tasks/{TASK}")
    # then
    summary = {
        "id": TASK,
        "name": "mnist",
        "project": "vision",
        "type": "training",
        "status": "in_progress",
        "status_reason": None,
        "progress": 40.0,
        "tags": ["a"],
        "more_tags": False,
        "system_tags": [],
        "comment": None,
        "parent": None,
        "published": False,
        "created_unix_ms": START_MS,
        "started_unix_ms": START_MS + 5,
        "ended_unix_ms": None,
        "last_update_unix_ms": START_MS + 7,
        "last_change_unix_ms": START_MS,
        "status_changed_unix_ms": START_MS,
        "last_seen_unix_ms": START_MS + 7,
        "last_iteration": 2,
        "points": 3,
        "writers": 1,
        "host": "node1",
        "last_scalars": [{"title": "loss", "series": "train", "value": "NaN", "iteration": 2}],
    }
    assert {key: task[key] for key in summary} == summary
    assert task["record"]["parameters"] == {"lr": 0.1, "blob": {"base64": "AAE="}, "bad": "Infinity"}
    assert task["counts"] == {
        "points": 3,
        "resource_points": 1,
        "console_lines": 1,
        "models": 0,
        "plots": 0,
        "media": 0,
        "frames": 1,
    }
    assert http.get("/tasks")["tasks"] == [summary]


def test_series_are_told_with_their_statistics(http: Http) -> None:
    http.send(frame_of({LOSS: rows_of([3.0, 1.0, 2.0]), CPU: [(START_MS, START_NS, 50.0)]}))
    (loss,) = http.get(f"/tasks/{TASK}/series", kind="scalar")["series"]
    assert loss.pop("id") > 0
    assert loss == {
        "kind": "scalar", "title": "loss", "series": "train", "rank": None, "unit": "", "count": 3, "last": 2.0,
        "last_iteration": 2, "last_unix_ms": START_MS + 2, "min": 1.0, "min_iteration": 1, "max": 3.0,
        "max_iteration": 0, "first_iteration": 0, "highest_iteration": 2, "non_finite": 0,
    }  # fmt: skip
    (cpu,) = http.get(f"/tasks/{TASK}/series", kind="resource")["series"]
    assert (cpu["title"], cpu["unit"], cpu["last_iteration"]) == ("cpu", "%", START_MS)
    assert len(http.get(f"/tasks/{TASK}/series")["series"]) == 2


def test_points_come_exact_or_as_an_outline(http: Http) -> None:
    # given
    values = [0.0] * 5000
    values[1234] = 7.0
    http.send(frame_of({LOSS: rows_of(values)}))
    # then a short range is exact
    (part,) = http.get(f"/tasks/{TASK}/points", series=1, from_=10, to=12)["series"]
    assert part == {
        "id": 1, "count": 3, "exact": True, "x": [10, 11, 12], "y": [0.0] * 3, "smooth": None,
        "non_finite": [], "non_finite_count": 0,
    }  # fmt: skip
    # and the whole is an outline that holds the spike, the same bytes each time
    answers = [http.api(f"/tasks/{TASK}/points", series=1, max_samples=100, half_life=3) for _ in range(2)]
    assert answers[0].body == answers[1].body
    (part,) = answers[0].json["series"]
    assert (part["exact"], part["count"], part["smooth_exact"]) == (False, 5000, True)
    assert len(part["x"]) == len(part["y"]) == len(part["smooth"]) <= 100
    assert part["y"][part["x"].index(1234)] == 7.0


def test_points_that_are_not_finite_are_null_and_named(http: Http) -> None:
    http.send(frame_of({LOSS: rows_of([1.0, math.nan, -math.inf])}))
    (part,) = http.get(f"/tasks/{TASK}/points", series=1)["series"]
    assert part["y"] == [1.0, None, None]
    assert part["non_finite"] == [[1, "NaN"], [2, "-Infinity"]]
    assert part["non_finite_count"] == 2


def test_points_over_time_are_in_milliseconds(http: Http) -> None:
    http.send(frame_of({LOSS: [(n, START_NS + n * MS + 999_999, float(n)) for n in range(10)]}))
    answer = http.get(f"/tasks/{TASK}/points", series=1, x="time", from_=START_MS + 3, to=START_MS + 5)
    assert answer["x"] == "time"
    assert answer["series"][0]["x"] == [START_MS + 3, START_MS + 4, START_MS + 5]
    # and a zoomed axis may end between two
    answer = http.get(f"/tasks/{TASK}/points", series=1, from_=2.5, to=4.5)
    assert answer["series"][0]["x"] == [3, 4]


def test_several_series_come_in_the_order_asked_for(http: Http) -> None:
    http.send(frame_of({SeriesKey("scalar", "t", str(n)): rows_of([float(n)]) for n in range(3)}))
    answer = http.get(f"/tasks/{TASK}/points", series="3,1,2,1")
    assert [(part["id"], part["y"]) for part in answer["series"]] == [(3, [2.0]), (1, [0.0]), (2, [1.0])]


def test_the_console_is_paged_from_both_ends_and_searched(http: Http) -> None:
    # given
    lines = [ConsoleLine(START_NS + n * MS, "stderr" if n % 2 else "stdout", f"line {n} 100%_done") for n in range(10)]
    http.send(frame_of({}, [*lines, ConsoleLine(START_NS, "log", "Warnung: Ärger", 30)]))

    def ask(**query: Any) -> tuple[list[str], bool]:
        answer = http.get(f"/tasks/{TASK}/console", **query)
        return [line["text"].split()[1] for line in answer["lines"]], answer["more"]

    first = http.get(f"/tasks/{TASK}/console", limit=1)["lines"][0]
    assert first == {
        "id": 1,
        "unix_ms": START_MS,
        "stream": "stdout",
        "level": None,
        "rank": None,
        "text": "line 0 100%_done",
    }
    assert ask(limit=3) == (["0", "1", "2"], True)
    assert ask(limit=3, after=3) == (["3", "4", "5"], True)
    assert ask(limit=2, tail=1) == (["9", "Ärger"], True)
    assert ask(limit=2, tail=1, before=9) == (["6", "7"], True)
    assert ask(stream="stderr") == (["1", "3", "5", "7", "9"], False)
    assert ask(search="LINE 7") == (["7"], False)
    # and % and _ are letters like others
    assert ask(search="%_D", limit=100)[0] == [str(n) for n in range(10)]
    assert ask(search="%x") == ([], False)
    assert http.get(f"/tasks/{TASK}/console", stream="log")["lines"][0]["level"] == 30


def test_a_search_of_the_console_looks_past_colours_which_are_kept(http: Http) -> None:
    # given lines whose colours change in the middle of words, among many that the search passes over
    alert, loss = "\x1b[31mRed al\x1b[1mert\x1b[0m", "\x1b[32mloss\x1b[0m 31m"
    lines = [alert, *(f"\x1b[2mstep {n}\x1b[0m" for n in range(50)), loss, alert]
    http.send(frame_of({}, [ConsoleLine(START_NS + n * MS, "stdout", text) for n, text in enumerate(lines)]))

    def ask(**query: Any) -> tuple[list[str], bool]:
        answer = http.get(f"/tasks/{TASK}/console", **query)
        return [line["text"] for line in answer["lines"]], answer["more"]

    assert ask(search="red alert") == ([alert, alert], False)
    assert ask(search="red alert", limit=1) == ([alert], True)
    assert ask(search="red alert", limit=1, tail=1) == ([alert], True)
    # what tells a terminal of a colour is no text
    assert ask(search="31m") == ([loss], False)
    assert ask(search="[0") == ([], False)


def test_console_lines_name_the_rank_of_their_writer(http: Http) -> None:
    # given two ranks, of which one has a child of its own
    for number, rank in enumerate((0, 1, 1)):
        batch = replace(batch_of({}, [ConsoleLine(START_NS, "stdout", f"writer {number}")]), rank=rank)
        http.send(encode(batch, writer_id=b"writer %9d" % number, sequence=0))
    # then each line has its writer's rank, and those of one rank can be asked for
    lines = http.get(f"/tasks/{TASK}/console")["lines"]
    assert [(line["text"], line["rank"]) for line in lines] == [("writer 0", 0), ("writer 1", 1), ("writer 2", 1)]
    found = http.get(f"/tasks/{TASK}/console", rank=1)["lines"]
    assert [line["text"] for line in found] == ["writer 1", "writer 2"]
    assert http.get(f"/tasks/{TASK}/console", rank=7)["lines"] == []


def test_models_and_values_are_listed(http: Http) -> None:
    http.send(
        frame_of(
            {},
            [
                ModelSaved(START_NS + MS, "b", "/tmp/b.pt", "torch", 5, 100),
                ModelSaved(START_NS, "a", "a.pkl", "sklearn"),
                SingleValue(START_NS, "f1", 0.5),
                SingleValue(START_NS + 1, "f1", math.inf),
            ],
        )
    )
    assert http.get(f"/tasks/{TASK}/models")["models"] == [
        {"name": "a", "path": "a.pkl", "framework": "sklearn", "iteration": None, "size_bytes": None,
         "unix_ms": START_MS},
        {"name": "b", "path": "/tmp/b.pt", "framework": "torch", "iteration": 5, "size_bytes": 100,
         "unix_ms": START_MS + 1},
    ]  # fmt: skip
    assert http.get(f"/tasks/{TASK}/values")["values"] == [{"name": "f1", "value": "Infinity", "unix_ms": START_MS}]


def test_plots_are_listed_by_name_and_iteration_with_their_figures(http: Http) -> None:
    # given plots of two series, one of them in a blob, and an older version of one
    figure = '{"data":[{"y":[1,null]}],"layout":{}}'
    http.send(
        frame_of(
            {},
            [
                *(Plot(START_NS + step * MS, "curves", "roc", step, figure) for step in range(3)),
                Plot(START_NS - 1, "curves", "roc", 2, '{"data":[]}'),
                Plot(START_NS, "curves", "", -5, "", "ab" * 32),
                Plot(START_NS, "odd", "x", 0, "no json"),
            ],
        )
    )
    path = f"/tasks/{TASK}/plots"
    # then
    first = http.get(path)["plots"][0]
    assert first == {
        "title": "curves", "series": "", "iteration": -5, "unix_ms": START_MS, "figure": None, "blob": "ab" * 32,
        "omitted": False,
    }  # fmt: skip
    names = [(plot["series"], plot["iteration"]) for plot in http.get(path, title="curves")["plots"]]
    assert names == [("", -5), ("roc", 0), ("roc", 1), ("roc", 2)]
    (newest,) = http.get(path, title="curves", series="roc", last=1)["plots"]
    assert (newest["iteration"], newest["figure"]) == (2, {"data": [{"y": [1, None]}], "layout": {}})
    assert [plot["iteration"] for plot in http.get(path, series="", iteration=-5)["plots"]] == [-5]
    assert http.get(path, last=1, title="odd")["plots"][0]["figure"] is None
    assert {plot["figure"] for plot in http.get(path, figures=0)["plots"]} == {None}
    assert http.get(f"/tasks/{TASK}")["counts"]["plots"] == 5


def test_an_answer_holds_only_so_many_figures(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "ANSWER_BYTES", 100)
    figure = json.dumps({"data": ["x" * 60]})
    http.send(frame_of({}, [Plot(START_NS, "t", "s", step, figure) for step in range(4)]))
    plots = http.get(f"/tasks/{TASK}/plots")["plots"]
    assert [plot["omitted"] for plot in plots] == [False, False, True, True]
    assert [plot["figure"] is None for plot in plots] == [False, False, True, True]
    (asked,) = http.get(f"/tasks/{TASK}/plots", title="t", series="s", iteration=3)["plots"]
    assert asked["figure"] == json.loads(figure)


def test_media_are_listed_with_their_state(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    http.send(
        frame_of(
            {},
            [
                Media(START_NS, "images", "a", 2, "http://host/2.png", "2.png", "image/png"),
                Media(START_NS, "images", "a", 1, f"blob:{'ab' * 32}", "1.png", "image/png", 10),
            ],
        )
    )
    path = f"/tasks/{TASK}/media"
    place = {"title": "images", "series": "a", "unix_ms": START_MS, "content_type": "image/png"}
    pending = {"iteration": 1, "uri": f"blob:{'ab' * 32}", "filename": "1.png", "size_bytes": 10, "state": "pending"}
    linked = {"iteration": 2, "uri": "http://host/2.png", "filename": "2.png", "size_bytes": None, "state": "stored"}
    assert http.get(path) == {"media": [place | pending, place | linked], "more": False}
    assert http.get(path, last=1)["media"] == [place | linked]
    monkeypatch.setattr(reports, "MAX_MEDIA", 1)
    assert http.get(path) == {"media": [place | pending], "more": True}


def test_tasks_are_searched_filtered_and_counted(http: Http) -> None:
    # given
    add_task(http, 1, name="ResNet 100%", project="vision", status="completed", tags=["nightly"])
    add_task(http, 2, name="BERT_base", project="text", status="failed")
    add_task(http, 3, name="Straße", project="text", status="completed")
    # then
    for search, found in {
        "resnet": ["ResNet 100%"], "VISION": ["ResNet 100%"], "nightly": ["ResNet 100%"], "0%": ["ResNet 100%"],
        "t_b": ["BERT_base"], "%": ["ResNet 100%"], "_": ["BERT_base"], "STRASSE": ["Straße"],
        "0002": ["BERT_base"], "nothing": [], "100%\nvision": ["ResNet 100%"],
    }.items():  # fmt: skip
        assert names(http.get("/tasks", search=search)) == found, search
    assert names(http.get("/tasks", project="text", sort="name")) == ["BERT_base", "Straße"]
    assert names(http.get("/tasks", project="text", status="failed")) == ["BERT_base"]
    assert http.get("/projects")["projects"] == [{"name": "text", "tasks": 2}, {"name": "vision", "tasks": 1}]


def test_tasks_are_sorted_and_paged(http: Http) -> None:
    # given
    for number, name in enumerate(["c", "a", "b"]):
        add_task(http, number, name=name, progress=float(number), started_unix_ns=START_NS - number * MS)
    # then
    assert names(http.get("/tasks", sort="name")) == ["a", "b", "c"]
    assert names(http.get("/tasks", sort="-progress")) == ["b", "a", "c"]
    assert names(http.get("/tasks", sort="started")) == ["b", "a", "c"]
    for key in ("project", "status", "created", "-created", "last_update", "-last_update", "-name"):
        assert sorted(names(http.get("/tasks", sort=key))) == ["a", "b", "c"]
    page = http.get("/tasks", sort="name", page=1, page_size=2)
    assert (names(page), page["total"], page["page"], page["page_size"]) == (["c"], 3, 1, 2)
    assert names(http.get("/tasks", page=9)) == []


def test_tasks_are_sorted_by_a_metric_and_those_without_it_come_last(http: Http) -> None:
    # given four tasks with a metric, one of them NaN, and two without
    for number, value in enumerate([0.5, 0.9, math.nan, -0.1]):
        add_task(http, number, {SeriesKey("scalar", "a/b", "c"): rows_of([9.0, value])}, name=f"{value}")
    add_task(http, 8, name="x")
    add_task(http, 9, {LOSS: rows_of([1.0])}, name="y")
    # then
    assert names(http.get("/tasks", sort="-last:a/b/c")) == ["0.9", "0.5", "-0.1", "nan", "x", "y"]
    assert names(http.get("/tasks", sort="last:a/b/c")) == ["-0.1", "0.5", "0.9", "nan", "x", "y"]
    # and pages reach over the end of those that have it
    paged = [names(http.get("/tasks", sort="last:a/b/c", page=n, page_size=3)) for n in range(3)]
    assert paged == [["-0.1", "0.5", "0.9"], ["nan", "x", "y"], []]
    assert names(http.get("/tasks", sort="last:a/b/c", search="x")) == ["x"]
    assert len(names(http.get("/tasks", sort="last:no/such"))) == 6


def test_the_last_scalars_are_the_six_that_were_updated_last(http: Http) -> None:
    # given eight series, each later than the one before
    points = {
        SeriesKey("scalar", "t", f"s{n}"): [(0, START_NS + n * MS, float(n)), (1, START_NS - MS, 99.0)]
        for n in range(8)
    }
    http.send(frame_of(points))
    # when the first is updated again
    http.send(frame_of({SeriesKey("scalar", "t", "s0"): [(5, START_NS + 100 * MS, 55.0)]}, sequence=1))
    # then
    last = http.get(f"/tasks/{TASK}")["last_scalars"]
    assert [(item["series"], item["value"]) for item in last] == [
        ("s0", 55.0), ("s3", 3.0), ("s4", 4.0), ("s5", 5.0), ("s6", 6.0), ("s7", 7.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/tasks/{TASK}", 404),
        (f"/tasks/{TASK}/series", 404),
        (f"/tasks/{TASK}/points?series=1", 404),
        (f"/tasks/{TASK}/console", 404),
        (f"/tasks/{TASK}/models", 404),
        (f"/tasks/{TASK}/plots", 404),
        (f"/tasks/{TASK}/media", 404),
        (f"/tasks/{TASK}/plots?last=0", 400),
        (f"/tasks/{TASK}/plots?iteration=1.5", 400),
        (f"/tasks/{TASK}/plots?figures=2", 400),
        (f"/tasks/{TASK}/values", 404),
        ("/tasks/xyz", 400),
        ("/tasks/%00/series", 400),
        (f"/tasks/{TASK.upper()}", 400),
        ("/tasks?sort=color", 400),
        ("/tasks?sort=last:x", 400),
        ("/tasks?page=-1", 400),
        ("/tasks?page=1_0", 400),
        ("/tasks?page=99999999999999999999999999", 400),
        ("/tasks?page_size=0", 400),
        ("/tasks?page_size=501", 400),
        (f"/tasks?search={'x' * 2001}", 400),
        ("/nothing", 404),
        ("/live?task=xyz", 400),
    ],
)
def test_a_bad_question_gets_a_clear_answer(http: Http, path: str, status: int) -> None:
    answer = http.request("GET", f"/api/v1{path}")
    assert answer.status == status
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json["error"]


@pytest.mark.parametrize(
    "query",
    [
        "", "series=", "series=x", "series=1;2", "series=1&max_samples=1", "series=1&max_samples=20001",
        "series=1&x=color", "series=1&from=5&to=4", "series=1&from=nan", "series=1&to=inf", "series=1&half_life=0",
        "series=1&half_life=-1", "series=" + ",".join(map(str, range(101))), "series=1&from=x",
        "series=99999999999999999999",
    ],
)  # fmt: skip
def test_a_bad_question_for_points_gets_a_clear_answer(http: Http, query: str) -> None:
    http.send(frame_of({LOSS: rows_of([1.0])}))
    answer = http.request("GET", f"/api/v1/tasks/{TASK}/points?{query}")
    assert answer.status == 400
    assert answer.json["error"]


@pytest.mark.parametrize(
    "query", ["from=1e300", "to=-1e300", "from=-1e300&to=1e300", "half_life=1e308", "half_life=1e-300"]
)
def test_extreme_ranges_are_answered(http: Http, query: str) -> None:
    http.send(frame_of({LOSS: rows_of([1.0, 2.0])}))
    for x in ("iteration", "time"):
        answer = http.request("GET", f"/api/v1/tasks/{TASK}/points?series=1&x={x}&{query}")
        assert answer.status == 200


def test_a_series_that_the_task_does_not_have_is_not_found(http: Http) -> None:
    http.send(frame_of({LOSS: rows_of([1.0])}))
    answer = http.api(f"/tasks/{TASK}/points", series="1,7")
    assert (answer.status, answer.json) == (404, {"error": f"task {TASK} has no series 7"})


def test_a_wrong_method_is_answered_405(http: Http) -> None:
    answer = http.request("DELETE", f"/api/v1/tasks/{TASK}")
    assert answer.status == 405
    assert "GET" in answer.headers["allow"]


def test_hostile_text_is_carried_and_never_run(http: Http) -> None:
    # given names that would break SQL, LIKE, JSON or HTML if they were pasted into it
    hostile = "'; DROP TABLE tasks; -- \" \\ % _ <script>alert(1)</script> \x00 \u2028"
    add_task(http, 1, {SeriesKey("scalar", hostile, hostile): rows_of([1.0])}, name=hostile, project=hostile)
    # then
    assert names(http.get("/tasks", search=hostile)) == [hostile]
    assert names(http.get("/tasks", project=hostile)) == [hostile]
    assert names(http.get("/tasks", sort=f"last:{hostile}/{hostile}")) == [hostile]
    (series,) = http.get(f"/tasks/{1:032x}/series")["series"]
    assert (series["title"], series["series"]) == (hostile, hostile)


def test_answers_may_not_be_kept_sniffed_or_embedded(http: Http) -> None:
    for answer in (http.api("/tasks"), http.api("/tasks/xyz")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers


def test_a_bug_in_a_handler_is_answered_500_and_nothing_is_told(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.server.store.reads.read_projects", lambda connection: 1 / 0)
    answer = http.api("/projects")
    assert answer.status == 500
    assert answer.json == {"error": "the server failed on this request; its log says why"}
    assert http.api("/tasks").status == 200
