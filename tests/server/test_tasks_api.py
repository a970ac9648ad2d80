"""The table of tasks over HTTP: filters, chosen columns, sorting by a parameter, and what there is to choose from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from server_support import LOSS, START_NS, Http, batch_of, frame_of, rows_of, started

from telemetry.client import Client
from telemetry.events import RecordChange, SeriesKey, SingleValue
from telemetry.values import entry
from telemetry.wire import encode

ODD = SeriesKey("scalar", "a,b", "c/d")


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
    **fields: Any,
) -> str:
    task_id = f"{number:032x}"
    events: list[Any] = [RecordChange(START_NS, "task", key, value) for key, value in fields.items()]
    events += [RecordChange(START_NS, "parameters", key, entry(value)) for key, value in (parameters or {}).items()]
    events += [SingleValue(START_NS, name, value) for name, value in (values or {}).items()]
    http.send(frame_of(points or {}, events, task_id=task_id, writer=number.to_bytes(16, "big")))
    return task_id


def table(http: Http, *parameters: tuple[str, Any]) -> Any:
    answer = http.request("GET", f"/api/v1/tasks?{urlencode(parameters)}")
    assert answer.status == 200, answer
    return answer.json


def names(http: Http, *parameters: tuple[str, Any]) -> list[str]:
    return [task["name"] for task in table(http, *parameters, ("sort", "name"))["tasks"]]


def test_tags_are_an_expression(http: Http) -> None:
    add_task(http, 1, name="one", tags=["a", "b"])
    add_task(http, 2, name="two", tags=["b", "c"])
    add_task(http, 3, name="three")
    assert names(http, ("tags", "a"), ("tags", "c")) == ["one", "two"]
    assert names(http, ("tags", "b"), ("tags", "-a")) == ["two"]
    assert names(http, ("tags", "__$and"), ("tags", "a"), ("tags", "b")) == ["one"]
    answer = http.request("GET", "/api/v1/tasks?tags=__%24notc")
    assert (answer.status, "comma" in answer.json["error"]) == (400, True)


def test_several_statuses_and_types_and_what_is_below_a_project(http: Http) -> None:
    add_task(http, 1, name="one", status="completed", type="training", project="vision")
    add_task(http, 2, name="two", status="failed", type="testing", project="vision/cars")
    add_task(http, 3, name="three", status="created", type="training", project="visions")
    assert names(http, ("status", "completed"), ("status", "failed")) == ["one", "two"]
    assert names(http, ("status", "completed,created")) == ["one", "three"]
    assert names(http, ("type", "testing")) == ["two"]
    assert names(http, ("project", "vision")) == ["one"]
    assert names(http, ("project", "vision"), ("subprojects", 1)) == ["one", "two"]


def test_archived_tasks_are_put_away_until_they_are_asked_for(http: Http) -> None:
    add_task(http, 1, name="kept")
    add_task(http, 2, name="put away", system_tags=["archived", "development"])
    assert names(http) == ["kept"]
    assert names(http, ("archived", 1)) == ["put away"]
    assert names(http, ("archived", "all")) == ["kept", "put away"]
    (task,) = table(http, ("archived", 1))["tasks"]
    assert task["system_tags"] == ["archived", "development"]


def test_a_tag_that_was_taken_away_finds_nothing_any_more(http: Http) -> None:
    task_id = add_task(http, 1, name="one", tags=["a"])
    http.send(frame_of({}, [RecordChange(START_NS + 1, "task", "tags", ["b"])], task_id=task_id, sequence=1))
    assert names(http, ("tags", "a")) == []
    assert names(http, ("tags", "b")) == ["one"]


def test_chosen_columns_are_told_with_each_task(http: Http) -> None:
    add_task(
        http, 1, {LOSS: rows_of([3.0, 1.0, 2.0]), ODD: rows_of([math.nan])}, {"Args/lr": 0.1, "General/a,b": [1, 2]},
        {"accuracy": 0.9}, name="one",
    )  # fmt: skip
    add_task(http, 2, name="two")
    columns = [
        "param:Args/lr", "param:General/a,b", "last:loss/train", "min:loss/train", "max:loss/train",
        "last:a,b/c/d", "value:accuracy",
    ]  # fmt: skip
    one, two = table(http, ("columns", ",".join(columns)), ("sort", "name"))["tasks"]
    assert one["columns"] == dict(zip(columns, [0.1, [1, 2], 2.0, 1.0, 3.0, "NaN", 0.9], strict=True))
    assert two["columns"] == dict.fromkeys(columns)


def test_of_several_ranks_the_lowest_stands_in_a_column(http: Http) -> None:
    for rank in (1, 0):
        batch = batch_of({LOSS: rows_of([float(rank) + 5])}, [], task_id=f"{1:032x}")
        batch.rank = rank
        http.send(encode(batch, writer_id=bytes([rank]) * 16, sequence=0))
    (task,) = table(http, ("columns", "last:loss/train"))["tasks"]
    assert task["columns"] == {"last:loss/train": 5.0}


def test_sorting_by_a_parameter_takes_numbers_as_numbers(http: Http) -> None:
    for number, rate in enumerate([0.1, 10, 9, None, "auto"]):
        add_task(http, number, parameters={"Args/lr": rate}, name=str(rate))
    add_task(http, 9, name="none")
    upwards = [task["name"] for task in table(http, ("sort", "param:Args/lr"))["tasks"]]
    assert (upwards[:4], set(upwards[4:])) == (["0.1", "9", "10", "auto"], {"None", "none"})
    downwards = [task["name"] for task in table(http, ("sort", "-param:Args/lr"))["tasks"]]
    assert (downwards[:4], set(downwards[4:])) == (["auto", "10", "9", "0.1"], {"None", "none"})


def test_sorting_by_the_best_value_of_a_metric(http: Http) -> None:
    add_task(http, 1, {LOSS: rows_of([1.0, 5.0])}, name="one")
    add_task(http, 2, {LOSS: rows_of([2.0, 3.0])}, name="two")
    assert [task["name"] for task in table(http, ("sort", "min:loss/train"))["tasks"]] == ["one", "two"]
    assert [task["name"] for task in table(http, ("sort", "max:loss/train"))["tasks"]] == ["two", "one"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("columns=lr", "is not a column"),
        ("sort=param:lr", "is not a column"),
        ("sort=colour", "must be one of"),
        ("archived=yes", "must be one of 0, 1, all"),
        ("sort=last_metrics.x.y.value", "MD5"),
    ],
)
def test_what_cannot_be_read_is_a_400(http: Http, query: str, said: str) -> None:
    answer = http.request("GET", f"/api/v1/tasks?{query}")
    assert (answer.status, said in answer.json["error"]) == (400, True), answer


def test_what_there_is_to_choose_from(http: Http) -> None:
    add_task(
        http, 1, {LOSS: rows_of([1.0])}, {"Args/lr": 1}, {"accuracy": 1.0}, tags=["a"], type="training", project="p/q"
    )
    add_task(http, 2, parameters={"Args/momentum": 1}, tags=["b"], type="testing", project="other")
    assert http.get("/choices", project="p", subprojects=1) == {
        "tags": ["a"], "types": ["training"], "parameters": ["Args/lr"], "properties": [], "metrics": ["loss/train"],
        "values": ["accuracy"],
    }  # fmt: skip
    everything = http.get("/choices")
    assert (everything["tags"], everything["parameters"]) == (["a", "b"], ["Args/lr", "Args/momentum"])


def test_the_client_asks_for_all_of_it(http: Http) -> None:
    add_task(http, 1, {LOSS: rows_of([1.0])}, name="one", tags=["a", "b"], status="failed", system_tags=["archived"])
    add_task(http, 2, name="two", tags=["a", "b", "c"], status="completed")
    with Client(http.url) as client:
        found = client.tasks(
            tags=["__$and", "a", "-c"], status=["failed", "completed"], archived=None, columns=["last:loss/train"]
        )
        assert [(task["name"], task["columns"]) for task in found["tasks"]] == [("one", {"last:loss/train": 1.0})]
        assert [task["name"] for task in client.tasks(status="completed")["tasks"]] == ["two"]
        assert client.choices()["tags"] == ["a", "b", "c"]
