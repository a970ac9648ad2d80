"""Queries of tasks over HTTP: every field of task_filter, every order, and what cannot be asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_support import MS, START_NS, Answer, Http, content_of, frame_of, rows_of, started

from telemetry.client import Client
from telemetry.errors import ServerError
from telemetry.events import RecordChange, SeriesKey, SingleValue
from telemetry.server.store import Store, TaskQuery
from telemetry.server.store.tag_query import parse_tags
from telemetry.server.tokens import Scope, TokenFile
from telemetry.values import entry

SECOND = 1_000_000_000
# START_NS is 2023-11-14T22:13:20 UTC.
ACCURACY = SeriesKey("scalar", "testing", "epoch_accuracy")


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Http]:
    with started(tmp_path / "store") as server:
        yield Http(server.url)


def add_task(
    http: Http,
    number: int,
    points: Mapping[SeriesKey, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    values: Mapping[str, float] | None = None,
    at: int = 0,
    **fields: Any,
) -> str:
    task_id = f"{number:032x}"
    moment = START_NS + at * SECOND
    events: list[Any] = [RecordChange(moment, "task", key, value) for key, value in fields.items()]
    events += [RecordChange(moment, "parameters", key, entry(value)) for key, value in (parameters or {}).items()]
    events += [SingleValue(moment, name, value) for name, value in (values or {}).items()]
    http.send(frame_of(points or {}, events, task_id=task_id, writer=number.to_bytes(16, "big")))
    return task_id


def ask(http: Http, **body: Any) -> Answer:
    return http.request("POST", "/api/v1/tasks/query", json.dumps(body).encode(), {"Content-Type": "application/json"})


def names(http: Http, **body: Any) -> list[str]:
    answer = ask(http, **body)
    assert answer.status == 200, answer
    return [task["name"] for task in answer.json["tasks"]]


def filtered(http: Http, **task_filter: Any) -> list[str]:
    return names(http, filter={"order_by": ["name"], **task_filter})


def md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8")).hexdigest()


def metric(title: str, series: str, value: str) -> str:
    return f"last_metrics.{md5(title)}.{md5(series)}.{value}"


# -- what is beside the filter


def test_without_anything_the_last_updated_task_comes_first(http: Http) -> None:
    for number in (1, 3, 2):
        add_task(http, number, at=number, name=str(number))
    answer = ask(http).json
    assert [task["name"] for task in answer["tasks"]] == ["3", "2", "1"]
    assert (answer["total"], answer["page"], answer["page_size"]) == (3, 0, 500)


def test_the_name_is_a_pattern_found_anywhere_and_case_matters(http: Http) -> None:
    for number, name in enumerate(["resnet 50", "ResNet 101", "my resnet", "vgg"]):
        add_task(http, number, at=-number, name=name)
    assert names(http, name="resnet") == ["resnet 50", "my resnet"]
    assert names(http, name="^resnet") == ["resnet 50"]
    assert names(http, name="[rR]es[nN]et .*1$") == ["ResNet 101"]
    assert names(http, exact_name="resnet 50") == ["resnet 50"]
    assert names(http, exact_name="resnet") == []


def test_projects_are_exact_and_ids_are_ids(http: Http) -> None:
    one = add_task(http, 1, name="one", project="vision")
    add_task(http, 2, at=-1, name="two", project="vision/cars")
    add_task(http, 3, at=-2, name="three", project="speech")
    assert names(http, projects=["vision"]) == ["one"]
    assert names(http, projects=["vision", "speech"]) == ["one", "three"]
    assert names(http, projects=["vis"]) == []
    assert names(http, ids=[one]) == ["one"]
    assert names(http, ids=[]) == []


def test_tags_and_archived_ones(http: Http) -> None:
    add_task(http, 1, name="one", tags=["a", "b"])
    add_task(http, 2, at=-1, name="two", tags=["b", "c", "d"])
    add_task(http, 3, at=-2, name="three", system_tags=["archived"])
    assert names(http, tags=["a", "c"]) == ["one", "two"]
    assert names(http, tags=["a", "b", "__$and", "c", "d"]) == ["one", "two"]
    assert names(http, tags=["__$and", "__$or", "a", "b", "__$and", "c", "d"]) == ["two"]
    assert names(http, tags=["c", None]) == ["two", "three"]
    assert names(http, allow_archived=False) == ["one", "two"]
    assert names(http, tags=["-a"], allow_archived=False) == ["two"]


# -- the filter's fields


def test_status_is_a_list_with_operators(http: Http) -> None:
    for number, status in enumerate(["created", "completed", "failed", "stopped"]):
        add_task(http, number, name=status, status=status)
    add_task(http, 9, name="published", status="completed", published=True)
    assert filtered(http, status=["completed", "failed"]) == ["completed", "failed", "published"]
    assert filtered(http, status=["-completed"]) == ["created", "failed", "stopped"]
    assert filtered(http, status=["published"]) == ["published"]
    assert filtered(http, status="failed") == ["failed"]


def test_a_task_that_is_silent_for_a_minute_is_still_in_progress(tmp_path: Path) -> None:
    now = [START_NS]
    with started(tmp_path / "store", clock=lambda: now[0]) as server:
        http = Http(server.url)
        add_task(http, 1, name="one", status="in_progress")
        now[0] += 65 * SECOND
        assert filtered(http, status=["in_progress"]) == ["one"]
        assert filtered(http, status=["stalled"]) == ["one"]
        now[0] += 65 * SECOND
        assert filtered(http, status=["in_progress"]) == []
        assert filtered(http, status=["lost"]) == ["one"]


def test_the_filter_of_the_page(http: Http) -> None:
    add_task(http, 1, at=1, name="later match", status="completed", type="training")
    add_task(http, 2, at=0, name="sooner", comment="a match", status="completed", type="training", published=True)
    add_task(http, 3, name="match", status="failed", type="training")
    add_task(http, 4, name="match", status="completed", type="testing")
    add_task(http, 5, name="match", status="completed", type="training", system_tags=["archived"])
    add_task(http, 6, name="other", status="completed", type="training")
    task_filter = {
        "system_tags": ["-archived"],
        "status": ["completed", "published"],
        "type": ["training"],
        "search_text": "match",
        "order_by": ["last_update"],
    }
    assert names(http, filter=task_filter) == ["sooner", "later match"]


def test_types_parents_ids_projects_and_models(http: Http) -> None:
    one = add_task(http, 1, name="one", type="training", project="vision")
    add_task(http, 2, name="two", type="testing", project="vision/cars", parent=one)
    add_task(http, 3, name="three", type="training", project="vision/cars/red", parent="x")
    http.send(
        frame_of({}, [RecordChange(START_NS, "input_models", "m" * 32, {"name": "net"})], task_id=one, sequence=7)
    )
    assert filtered(http, type=["-testing"]) == ["one", "three"]
    assert filtered(http, parent=[one]) == ["two"]
    assert filtered(http, parent=[None]) == ["one"]
    assert filtered(http, id=[one]) == ["one"]
    assert filtered(http, project=["vision"]) == ["one"]
    assert filtered(http, project="vision/*") == ["three", "two"]
    assert filtered(http, project=["vision", "vision/*"]) == ["one", "three", "two"]
    assert filtered(http, **{"models.input.model": ["m" * 32]}) == ["one"]
    assert filtered(http, **{"models.input.model": [None]}) == ["three", "two"]


def test_parameters_by_their_text_or_number(http: Http) -> None:
    add_task(http, 1, parameters={"Args/lr": 0.1, "Args/net": "resnet", "Args/deep": True}, name="one")
    add_task(http, 2, parameters={"Args/lr": -1, "Args/net": "vgg", "Args/a.b": 1}, name="two")
    add_task(http, 3, name="three")
    assert filtered(http, **{"hyperparams.Args.lr": ["0.1"]}) == ["one"]
    assert filtered(http, **{"hyperparams.Args.lr": [0.1, -1]}) == ["one", "two"]
    assert filtered(http, **{"hyperparams.Args.lr": -1}) == ["two"]
    assert filtered(http, **{"hyperparams.Args.net": ["-vgg"]}) == ["one", "three"]
    assert filtered(http, **{"hyperparams.Args.deep": [True]}) == ["one"]
    assert filtered(http, **{"hyperparams.Args.a.b": ["1"]}) == ["two"]
    assert filtered(http, **{"hyperparams.Args.net": [None]}) == ["three"]


def test_ranges_of_numbers(http: Http) -> None:
    add_task(http, 1, {ACCURACY: rows_of([0.5, 0.9, 0.7])}, name="one", started_unix_ns=START_NS)
    add_task(
        http, 2, {ACCURACY: rows_of([0.6])}, {}, {"score": 3.0}, name="two", started_unix_ns=START_NS - 90 * SECOND
    )
    add_task(http, 3, name="three")
    assert filtered(http, last_iteration=[1, None]) == ["one"]
    assert filtered(http, last_iteration=[None, 1]) == ["two"]
    assert filtered(http, last_iteration=2) == ["one"]
    assert filtered(http, active_duration=">60") == ["two"]
    assert filtered(http, active_duration=[0, 60]) == ["one"]
    assert filtered(http, **{metric("testing", "epoch_accuracy", "max_value"): [0.8, 1]}) == ["one"]
    assert filtered(http, **{metric("testing", "epoch_accuracy", "value"): [">=0.65"]}) == ["one"]
    assert filtered(http, **{metric("testing", "epoch_accuracy", "min_value"): [">0.1", "<=0.6"]}) == ["one", "two"]
    assert filtered(http, **{metric("Summary", "score", "value"): [">2"]}) == ["two"]


def test_dates_with_comparisons_and_ranges(http: Http) -> None:
    for number in range(3):
        day = number * 86400
        add_task(http, number, at=day, name=str(number), status="created", started_unix_ns=START_NS + day * SECOND)
    for field in ("created", "started", "last_update", "last_change", "status_changed"):
        assert filtered(http, **{field: ">=2023-11-15"}) == ["1", "2"], field
        assert filtered(http, **{field: [">=2023-11-15", "<2023-11-16T00:00:00"]}) == ["1"], field
        assert filtered(http, **{field: ["2023-11-14", "2023-11-15"]}) == ["0"], field
        assert filtered(http, **{field: [None, "2023-11-15T23:13:20+01:00"]}) == ["0", "1"], field


def test_patterns_of_names_and_comments_and_of_any_or_all(http: Http) -> None:
    add_task(http, 1, name="alpha", comment="first", tags=["x1", "y"])
    add_task(http, 2, name="beta", comment="alpha's sister")
    add_task(http, 3, name="alpha two", comment="alpha again")
    assert filtered(http, name="^alpha") == ["alpha", "alpha two"]
    assert filtered(http, comment="sister|again") == ["alpha two", "beta"]
    assert filtered(http, _any_={"fields": ["name", "comment"], "pattern": "alpha"}) == ["alpha", "alpha two", "beta"]
    assert filtered(http, _all_={"fields": ["name", "comment"], "pattern": "alpha"}) == ["alpha two"]
    assert filtered(http, _any_={"fields": ["tags"], "pattern": "^x\\d"}) == ["alpha"]
    assert filtered(http, _any_={"fields": ["created", "started"], "datetime": [">2023-01-01"]}) == [
        "alpha", "alpha two", "beta"
    ]  # fmt: skip
    assert filtered(http, _all_={"fields": ["created", "started"], "datetime": [">2023-01-01"]}) == []


def test_search_text_is_a_text_or_a_pattern_without_regard_to_case(http: Http) -> None:
    add_task(http, 1, name="C++ speed", comment="100% of it")
    add_task(http, 2, name="python", tags=["Speed"], project="Tools")
    assert filtered(http, search_text="speed") == ["C++ speed", "python"]
    assert filtered(http, search_text="C++") == ["C++ speed"]
    assert filtered(http, search_text="100%") == ["C++ speed"]
    assert filtered(http, search_text="^python|of IT$") == ["C++ speed", "python"]
    # each of name, comment, tags, … begins and ends by itself
    assert filtered(http, search_text="^speed$") == ["python"]
    assert filtered(http, search_text="c.. speed$") == ["C++ speed"]
    assert filtered(http, search_text="tools") == ["python"]
    assert filtered(http, search_text=f"{2:032x}") == ["python"]


# -- order and pages


def test_order_by_metrics_is_numeric_and_those_without_come_last(http: Http) -> None:
    add_task(http, 1, {ACCURACY: rows_of([9.0, 2.0])}, name="one")
    add_task(http, 2, {ACCURACY: rows_of([10.0, 3.0])}, name="two")
    add_task(http, 3, name="three")
    by = metric("testing", "epoch_accuracy", "max_value")
    assert names(http, filter={"order_by": [f"-{by}"]}) == ["two", "one", "three"]
    assert names(http, filter={"order_by": [by]}) == ["one", "two", "three"]
    lowest, last = metric("testing", "epoch_accuracy", "min_value"), metric("testing", "epoch_accuracy", "value")
    assert names(http, filter={"order_by": lowest}) == ["one", "two", "three"]
    assert names(http, filter={"order_by": f"-{last}"}) == ["two", "one", "three"]
    assert names(http, filter={"order_by": ["-last:testing/epoch_accuracy"]}) == ["two", "one", "three"]


def test_order_by_single_values_parameters_and_several_fields(http: Http) -> None:
    add_task(http, 1, {}, {"Args/lr": 10}, {"score": 1.0}, name="b", project="p")
    add_task(http, 2, {}, {"Args/lr": 9}, {"score": 2.0}, name="a", project="q")
    add_task(http, 3, {}, {}, {}, name="c", project="p")
    assert names(http, filter={"order_by": [f"-{metric('Summary', 'score', 'value')}"]}) == ["a", "b", "c"]
    assert names(http, filter={"order_by": "hyperparams.Args.lr"}) == ["a", "b", "c"]
    assert names(http, filter={"order_by": ["-project", "-name"]}) == ["a", "c", "b"]


def test_equal_ones_are_in_the_order_of_their_ids_on_all_pages(http: Http) -> None:
    for number in (4, 2, 5, 1, 3):
        add_task(http, number, name=str(number), project="same")
    found = [names(http, filter={"order_by": ["project"], "page": page, "page_size": 2})[:] for page in range(4)]
    assert found == [["1", "2"], ["3", "4"], ["5"], []]
    answer = ask(http, filter={"name": ".", "order_by": ["name"]}, page=1, page_size=2).json
    assert ([task["name"] for task in answer["tasks"]], answer["total"]) == (["3", "4"], 5)


# -- fields


def test_asked_fields_are_told_by_the_names_they_were_asked_for(http: Http) -> None:
    add_task(http, 1, {ACCURACY: rows_of([0.5, 0.25])}, {"Args/lr": (1, 2), "General/x": "y"}, name="one", comment="c")
    fields = [
        "name", "comment", "last_update", "hyperparams.Args.lr", "hyperparams.Args", "hyperparams", "last_metrics",
        metric("testing", "epoch_accuracy", "max_value"), "script.branch", "param:General/x",
    ]  # fmt: skip
    (task,) = ask(http, fields=fields).json["tasks"]
    accuracy = {
        "metric": "testing", "variant": "epoch_accuracy", "value": 0.25, "min_value": 0.25, "min_value_iteration": 1,
        "max_value": 0.5, "max_value_iteration": 0, "iteration": 1, "count": 2,
    }  # fmt: skip
    assert task["fields"] == {
        "name": "one",
        "comment": "c",
        "last_update": (START_NS + MS) // MS,
        "hyperparams.Args.lr": entry((1, 2)),
        "hyperparams.Args": {"Args/lr": entry((1, 2))},
        "hyperparams": {"Args/lr": entry((1, 2)), "General/x": entry("y")},
        "last_metrics": {md5("testing"): {md5("epoch_accuracy"): accuracy}},
        metric("testing", "epoch_accuracy", "max_value"): 0.5,
        "script.branch": None,
        "param:General/x": "y",
    }
    (task,) = ask(http, filter={"only_fields": ["status"]}).json["tasks"]
    assert task["fields"] == {"status": ""}


def test_a_brief_answer_has_no_scalars_and_larger_pages(http: Http) -> None:
    add_task(http, 1, {ACCURACY: rows_of([0.5])}, name="one")
    (whole,), (brief,) = ask(http).json["tasks"], ask(http, brief=True, page_size=5000).json["tasks"]
    assert len(whole["last_scalars"]) == 1
    assert brief == {**whole, "last_scalars": []}


# -- what cannot be asked


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"filter": {"stauts": ["failed"]}}, "no field 'stauts' (did you mean 'status'?)"),
        ({"filter": {"user": ["me"]}}, "tasks have no users"),
        ({"filter": {"execution.queue": ["q"]}}, "no task queue"),
        ({"filter": {"status": ["__$notfailed"]}}, "in status. Is a comma missing"),
        ({"filter": {"tags": ["__$not"]}}, "Value is expected after"),
        ({"tags": ["a"], "filter": {"tags": ["a"]}}, "given twice"),
        ({"tags": {"a": 1}}, "must be a list of texts"),
        ({"filter": {"created": "yesterday"}}, "created is 'yesterday'"),
        ({"filter": {"created": ">=yesterday"}}, "is not a date"),
        ({"filter": {"last_iteration": ">=many"}}, "is not a number"),
        ({"filter": {"last_iteration": [1, 2, 3]}}, "must be [least, greatest]"),
        ({"filter": {"last_iteration": [None, None]}}, "must be [least, greatest]"),
        ({"filter": {"order_by": ["colour"]}}, "tasks can be ordered by"),
        ({"filter": {"order_by": ["last_metrics.loss.train.value"]}}, "MD5 of the title"),
        ({"filter": {"order_by": [f"last_metrics.{'a' * 32}.{'b' * 32}.mean_value"]}}, "must be one of value"),
        ({"filter": {"order_by": 7}}, "order_by must be a text"),
        ({"filter": {"name": "("}}, "is not a regular expression"),
        ({"filter": {"name": "(a+)+b"}}, "can take for ever"),
        ({"name": "(a|b)*c\\1"}, "can take for ever"),
        ({"filter": {"_any_": "x"}}, "_any_ must be"),
        ({"filter": {"_any_": {"fields": ["colour"], "pattern": "x"}}}, "cannot look into 'colour'"),
        ({"filter": {"page_size": 0}}, "page_size is 0"),
        ({"page_size": 501}, "from 1 to 500"),
        ({"filter": {"search_hidden": "no"}}, "true or false"),
        ({"filter": ["status"]}, "filter must be an object"),
        ({"ids": "abc"}, "ids must be a list"),
        ({"allow_archived": 1}, "true or false"),
        ({"fields": ["last_metrics.x.y.value"]}, "MD5"),
        ({"brief": "yes"}, "true or false"),
        ({"nothing": 1}, "it takes ids"),
    ],
)
def test_what_cannot_be_asked_is_a_400_that_names_it(http: Http, body: dict[str, Any], said: str) -> None:
    answer = ask(http, **body)
    assert (answer.status, said in answer.json["error"]) == (400, True), answer


def test_a_field_of_null_is_as_if_it_were_not_there(http: Http) -> None:
    add_task(http, 1, name="one")
    assert filtered(http, status=None, tags=None, name=None, page=None) == ["one"]


def test_a_token_of_a_project_sees_only_that(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with started(store) as server:
        one = add_task(Http(server.url), 1, name="one", project="vision/cars")
        two = add_task(Http(server.url), 2, name="two", project="speech")
    token = TokenFile(store).create([Scope.READ], projects=["vision"])[1]
    ingest = TokenFile(store).create([Scope.INGEST])[1]
    with started(store) as server:
        reader = Http(server.url, {"Authorization": f"Bearer {token}"})
        assert names(reader, ids=[one, two]) == ["one"]
        assert names(reader, filter={"project": ["speech"]}) == []
        assert ask(Http(server.url, {"Authorization": f"Bearer {ingest}"})).status == 403


def test_the_client_asks_the_same(http: Http) -> None:
    one = add_task(http, 1, parameters={"Args/lr": 1}, name="one", tags=["a"])
    with Client(http.url) as client:
        found = client.query_tasks(tags=["a"], task_filter={"status": ["-failed"]}, fields=["hyperparams.Args.lr"])
        assert [task["id"] for task in found["tasks"]] == [one]
        assert found["tasks"][0]["fields"] == {"hyperparams.Args.lr": entry(1)}
        with pytest.raises(ServerError, match="did you mean 'status'"):
            client.query_tasks(task_filter={"stauts": ["x"]})


# -- the SQL of tag expressions is their Python

TAG = st.sampled_from("abcd")
WORDS = st.one_of(
    TAG,
    TAG.map(lambda tag: f"-{tag}"),
    st.none(),
    st.sampled_from(["__$or", "__$and"]),
)


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, dict[str, frozenset[str]]]]:
    """A store with a task for each set of four tags."""
    store = Store(tmp_path_factory.mktemp("tagged"))
    sets = {}
    for number in range(16):
        tags = [tag for bit, tag in enumerate("abcd") if number >> bit & 1]
        sets[f"{number:032x}"] = frozenset(tags)
        record = RecordChange(START_NS, "task", "tags", tags)
        store.write([content_of({}, [record], task_id=f"{number:032x}", writer=number.to_bytes(16, "big"))])
    yield store, sets
    store.close()


@settings(max_examples=200, deadline=None)
@given(query=st.lists(WORDS, max_size=8))
def test_the_store_finds_just_the_tasks_that_the_expression_matches(
    tagged: tuple[Store, dict[str, frozenset[str]]], query: list[str | None]
) -> None:
    store, sets = tagged
    expression = parse_tags(query)
    found = {task["id"] for task in store.query(TaskQuery(tags=expression))["tasks"]}
    assert found == {task_id for task_id, tags in sets.items() if expression.matches(tags)}


def test_no_query_takes_time_that_grows_with_a_hostile_pattern(http: Http) -> None:
    add_task(http, 1, name="a" * 900)
    answer = ask(http, name="a*a*a*a*a*b")
    assert (answer.status, "too costly for a text of 900 characters" in answer.json["error"]) == (400, True)


def tagged_words(count: int) -> list[str]:
    return [f"word{number}" for number in range(count)]


def a_parameter(number: int) -> str:
    return f"hyperparams.Args.name{number}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"tags": tagged_words(300_000)}, "tags has 300000 entries; at most 5000"),
        ({"tags": ["__$and", "a", "__$or", "b"] * 1000}, "tags has 2000 operators; at most 100"),
        ({"filter": {"project": tagged_words(5001)}}, "project has 5001 entries; at most 5000"),
        (
            {"filter": {"project": [f"{word}/*" for word in tagged_words(2000)]}},
            'project has 2000 entries that end with "/*"',
        ),
        (
            {"filter": {a_parameter(number): "x" for number in range(20_000)}},
            "the filter has 20000 fields; at most 100",
        ),
        ({"filter": {a_parameter(number): tagged_words(5000) for number in range(7)}}, "35000 entries in all"),
        ({"filter": {"last_update": [">=2024-01-01"] * 10_000}}, "last_update has 10000 entries; at most 100"),
        ({"filter": {"order_by": ["name"] * 3000}}, "order_by has 3000 entries; at most 100"),
        ({"filter": {"only_fields": ["name"] * 5000}}, "only_fields has 5000 entries; at most 100"),
        ({"filter": {"_any_": {"fields": ["name"] * 3000, "pattern": "a"}}}, "_any_.fields has 3000 entries"),
    ],
)
def test_what_is_too_large_for_a_statement_is_a_400(http: Http, body: dict[str, Any], said: str) -> None:
    add_task(http, 1, name="one")
    answer = ask(http, **body)
    assert (answer.status, said in answer.json["error"]) == (400, True), answer


@pytest.mark.parametrize(
    "body",
    [
        {"tags": ["-" + word for word in tagged_words(5000)]},
        {"tags": ["__$and", "a", "__$or", "b"] * 50},
        {"filter": {"project": [f"{word}/*" for word in tagged_words(100)]}},
        {"filter": {a_parameter(number): "x" for number in range(100)}},
        {"filter": {metric("loss", str(number), "value"): [0, 1] for number in range(100)}},
        {"filter": {"last_update": [">=2024-01-01"] * 100}},
        {"filter": {"order_by": [metric("loss", "train", "value")] * 100}},
        {
            "ids": tagged_words(5000),
            "projects": tagged_words(5000),
            "tags": tagged_words(5000),
            "filter": {"status": tagged_words(5000), "type": tagged_words(5000)},
        },
    ],
)
def test_the_largest_of_each_kind_is_answered(http: Http, body: dict[str, Any]) -> None:
    add_task(http, 1, {SeriesKey("scalar", "loss", str(number)): rows_of([0.5]) for number in range(100)}, name="one")
    assert ask(http, **body).status == 200


def test_a_search_does_not_end_at_a_nul(http: Http) -> None:
    add_task(http, 1, name="one")
    assert filtered(http, search_text="\0two") == []
