"""Models over HTTP: found across tasks, linked by the file, told only to whom their task may be told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_support import START_NS, Http, frame_of, started

from telemetry.events import RecordChange
from telemetry.server.tokens import Scope, TokenFile


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Http]:
    with started(tmp_path / "store") as server:
        yield Http(server.url)


def model_id(number: int) -> str:
    return f"{number:032x}"


def add(http: Http, number: int, section: str, entries: dict[str, Any], sequence: int = 0, **fields: Any) -> str:
    moment = START_NS + sequence
    events: list[Any] = [RecordChange(moment, "task", key, value) for key, value in fields.items()]
    events += [RecordChange(moment, section, key, value) for key, value in entries.items()]
    writer = number.to_bytes(16, "big")
    http.send(frame_of({}, events, task_id=model_id(number), writer=writer, sequence=sequence))
    return model_id(number)


def entry(name: str, time: int = 0, **fields: Any) -> dict[str, Any]:
    return {"name": name, "uri": "", "tags": [], "time_unix_ns": START_NS + time, **fields}


def names(http: Http, **query: Any) -> list[str]:
    return [model["name"] for model in http.get("/models", **query)["models"]]


def test_models_are_found_by_what_they_are(http: Http) -> None:
    add(http, 1, "output_models", {model_id(11): entry("ResNet-18", 1, tags=["a", "b"])}, project="vision", name="t1")
    add(http, 2, "output_models", {model_id(12): entry("resnet-50", 2, tags=["a"])}, project="speech")
    add(http, 3, "output_models", {model_id(13): entry("bert", 3, uri="s3://x/y")}, system_tags=["archived"])
    assert names(http) == ["resnet-50", "ResNet-18"]
    assert names(http, archived=1) == ["bert", "resnet-50", "ResNet-18"]
    assert names(http, name="RESNET-1") == ["ResNet-18"]
    assert names(http, project="speech") == ["resnet-50"]
    assert names(http, tags="b") == ["ResNet-18"]
    assert names(http, uri="s3://x/y", archived=1) == ["bert"]
    assert names(http, limit=1) == ["resnet-50"]
    one = http.get(f"/models/{model_id(11)}")
    assert (one["id"], one["task"], one["task_name"], one["project"]) == (model_id(11), model_id(1), "t1", "vision")
    assert http.api(f"/models/{model_id(99)}").status == 404
    assert http.api("/models", limit=0).status == 400


def test_a_model_that_changes_or_goes_is_found_as_it_is(http: Http) -> None:
    add(http, 1, "output_models", {model_id(11): entry("before")})
    add(http, 1, "output_models", {model_id(11): entry("after")}, sequence=1)
    assert names(http, name="before") == []
    assert names(http, name="after") == ["after"]
    add(http, 1, "output_models", {model_id(11): None}, sequence=2)
    assert names(http) == []
    assert http.api(f"/models/{model_id(11)}").status == 404


def test_what_is_older_than_a_reset_of_its_task_does_not_count(http: Http) -> None:
    add(http, 1, "output_models", {model_id(11): entry("old")})
    add(http, 1, "output_models", {model_id(12): entry("new")}, sequence=5, reset_unix_ns=START_NS + 3)
    assert names(http) == ["new"]


def test_an_input_model_is_the_output_model_of_the_same_file(http: Http) -> None:
    file = {"path": "/shared/net.pt", "host": "node1", "size_bytes": 100}
    maker = add(http, 1, "output_models", {model_id(11): entry("net", 1, **file)})
    entries = {
        model_id(21): entry("same", 2, **file),
        model_id(22): entry("other size", 2, **{**file, "size_bytes": 101}),
        model_id(23): entry("other host", 2, **{**file, "host": "node2"}),
        model_id(24): entry("loaded before", 0, **file),
    }
    user = add(http, 2, "input_models", entries)
    record = http.get(f"/tasks/{user}")["record"]["input_models"]
    assert (record[model_id(21)]["task"], record[model_id(21)]["model"]) == (maker, model_id(11))
    assert not [key for key in (22, 23, 24) if "task" in record[model_id(key)]]
    found = {model["name"]: model for model in http.get("/models", task=user)["models"]}
    assert (found["same"]["id"], found["same"]["task"], found["same"]["kind"]) == (model_id(11), maker, "input")
    assert found["same"]["key"] == model_id(21)
    assert found["other size"]["task"] == ""


def test_a_token_sees_models_of_its_projects_alone(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "store")
    admin, limited = (
        {"Authorization": f"Bearer {tokens.create([scope], projects=projects)[1]}"}
        for scope, projects in ((Scope.ADMIN, None), (Scope.READ, ["speech"]))
    )
    file = {"path": "/shared/net.pt", "host": "node1", "size_bytes": 100}
    with started(tmp_path / "store") as server:
        http = Http(server.url, admin)
        add(http, 1, "output_models", {model_id(11): entry("secret", 1, **file)}, project="vision")
        user = add(http, 2, "input_models", {model_id(21): entry("used", 2, **file)}, project="speech")
        add(http, 3, "output_models", {model_id(13): entry("own", 3)}, project="speech")
        seen = Http(server.url, limited)
        assert names(seen) == ["own"]
        assert seen.api(f"/models/{model_id(11)}").status == 404
        assert [model["task"] for model in seen.get("/models", task=user)["models"]] == [""]


def test_strange_entries_do_no_harm(http: Http) -> None:
    strange = {
        "a": "a text",
        "b": {"name": 5, "uri": None, "tags": "x", "time_unix_ns": "late", "size_bytes": -1, "path": [1], "host": 2},
        "c": {},
        "d": {"path": "x", "host": "y", "size_bytes": 2**64 - 1, "time_unix_ns": 2**64 - 1},
    }
    user = add(http, 1, "input_models", strange)
    add(http, 1, "output_models", strange, sequence=1)
    assert http.get(f"/tasks/{user}")["record"]["input_models"] == strange
    assert len(http.get("/models", task=user, tags="y")["models"]) == 0
    assert len(http.get("/models")["models"]) == 3
