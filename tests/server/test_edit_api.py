"""Changes and deletions: the way of all frames, the rule of drafts, tombstones, and what others still send."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from server_support import (
    LOSS,
    OTHER_WRITER,
    START_NS,
    TASK,
    WRITER,
    Answer,
    Http,
    content_of,
    frame_of,
    rows_of,
    soon_after_the_start,
    started,
)
from sqlalchemy import func, select

from telemetry.client import Client
from telemetry.errors import ServerError
from telemetry.events import ConsoleLine, FrameEvent, ModelSaved, RecordChange, SingleValue
from telemetry.record import TaskKey
from telemetry.server.store import ConsoleQuery, NotFound, Store, TasksQuery, schema
from telemetry.server.store.database import DATABASE_NAME
from telemetry.server.tokens import Scope, TokenFile
from telemetry.values import entry

SECOND_NS = 1_000_000_000
TOO_DEEP = json.loads("[" * 70 + "]" * 70)


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Http]:
    with started(tmp_path / "store") as server:
        yield Http(server.url)


def post(http: Http, path: str, body: Any = None) -> Answer:
    data = json.dumps(body).encode() if body is not None else b""
    return http.request("POST", f"/api/v1{path}", data, {"Content-Type": "application/json"})


def change(http: Http, section: str, key: str, value: Any) -> Answer:
    return post(http, f"/tasks/{TASK}/changes", {"changes": [{"section": section, "key": key, "value": value}]})


def task(http: Http, **fields: Any) -> None:
    http.send(frame_of({}, [RecordChange(START_NS, "task", key, value) for key, value in fields.items()]))


def test_what_may_be_changed_in_any_status_is(http: Http) -> None:
    # given
    task(http, name="old", status="completed", tags=["a"])
    # when
    changes = [
        {"section": "task", "key": "name", "value": "new"},
        {"section": "task", "key": "tags", "value": ["b", "c"]},
        {"section": "task", "key": "comment", "value": "looked at"},
        {"section": "task", "key": "project", "value": "elsewhere"},
        {"section": "task", "key": "system_tags", "value": ["archived"]},
        {"section": "properties", "key": "owner", "value": entry("me")},
    ]
    answer = post(http, f"/tasks/{TASK}/changes", {"changes": changes})
    # then
    assert (answer.status, answer.json["changed"]) == (200, 6)
    told = http.get(f"/tasks/{TASK}")
    assert (told["name"], told["tags"], told["comment"], told["project"]) == (
        "new",
        ["b", "c"],
        "looked at",
        "elsewhere",
    )
    assert told["record"]["properties"] == {"owner": entry("me")}
    assert told["status"] == "completed"
    assert [item["name"] for item in http.get("/tasks", tags="b", archived=1)["tasks"]] == ["new"]


def test_a_field_is_removed_by_null(http: Http) -> None:
    task(http, name="one", comment="old")
    assert change(http, "task", "comment", None).status == 200
    assert http.get(f"/tasks/{TASK}")["comment"] is None


def test_parameters_can_be_changed_while_the_task_is_a_draft_and_not_after(http: Http) -> None:
    task(http, name="draft", status="created")
    assert change(http, "parameters", "Args/lr", entry(0.1)).status == 200
    assert change(http, "configuration", "net", {"text": "a: 1", "type": "yaml"}).status == 200
    assert http.get(f"/tasks/{TASK}")["record"]["parameters"]["Args/lr"]["value"] == 0.1
    # when it runs
    http.send(frame_of({}, [RecordChange(START_NS + 1, "task", "status", "in_progress")], writer=OTHER_WRITER))
    answer = change(http, "parameters", "Args/lr", entry(0.2))
    assert (answer.status, "clone it" in answer.json["error"]) == (409, True)
    assert http.get(f"/tasks/{TASK}")["record"]["parameters"]["Args/lr"]["value"] == 0.1


def test_a_change_wins_over_what_came_from_a_clock_that_is_ahead(http: Http) -> None:
    ahead = soon_after_the_start() + 3600 * SECOND_NS
    http.send(frame_of({}, [RecordChange(ahead, "task", "comment", "from the future")]))
    assert change(http, "task", "comment", "by hand").status == 200
    assert http.get(f"/tasks/{TASK}")["comment"] == "by hand"


def test_changes_after_each_other_are_all_kept(http: Http) -> None:
    task(http, name="one")
    for number in range(20):
        assert change(http, "properties", f"p{number}", entry(number)).status == 200
        assert change(http, "task", "comment", str(number)).status == 200
    told = http.get(f"/tasks/{TASK}")
    assert len(told["record"]["properties"]) == 20
    assert told["comment"] == "19"


def test_a_change_is_no_sign_of_life(tmp_path: Path) -> None:
    # given a task that was last heard of long ago
    now = [START_NS]
    with started(tmp_path / "store", clock=lambda: now[0]) as server:
        http = Http(server.url)
        task(http, name="one", status="in_progress")
        now[0] += 1000 * SECOND_NS
        assert http.get(f"/tasks/{TASK}")["status"] == "lost"
        # when somebody tags it
        assert change(http, "task", "tags", ["look at this"]).status == 200
        # then it is as dead as before
        assert http.get(f"/tasks/{TASK}")["status"] == "lost"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "changes must be a list"),
        ({"changes": []}, 400, "changes must be a list"),
        ({"changes": [{"section": "task"}]}, 400, "a change must be"),
        ({"changes": [{"section": "", "key": "k", "value": 1}]}, 400, "1 to 1000 characters"),
        ({"changes": [{"section": "heartbeats", "key": "k", "value": 1}]}, 400, "the programs tell"),
        ({"changes": [{"section": "task", "key": "tags", "value": "a"}]}, 400, "is not what task/tags can be"),
        ({"changes": [{"section": "task", "key": "name", "value": 7}]}, 400, "is not what task/name can be"),
        ({"changes": [{"section": "properties", "key": "p", "value": 7}]}, 400, "is not what properties/p can be"),
        ({"changes": [{"section": "notes", "key": "l", "value": TOO_DEEP}]}, 400, "nothing was changed"),
        ({"changes": [{"section": "task", "key": "status", "value": "done"}]}, 400, "is not what task/status can be"),
        ({"changes": [{"section": "task", "key": "status", "value": "published"}]}, 409, "cannot become published"),
        ({"changes": [{"section": "labels", "key": "cat", "value": 1}]}, 409, "only be changed while it is created"),
        ({"change": []}, 400, "it takes changes"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_says_why(http: Http, body: Any, status: int, said: str) -> None:
    task(http, name="one")
    before = http.get(f"/tasks/{TASK}")
    answer = post(http, f"/tasks/{TASK}/changes", body)
    assert answer.status == status
    assert said in answer.json["error"], answer
    assert http.get(f"/tasks/{TASK}") == before


def test_a_task_that_is_not_there_can_be_neither_changed_nor_deleted(http: Http) -> None:
    assert change(http, "task", "name", "one").status == 404
    assert post(http, f"/tasks/{TASK}/delete").status == 404
    assert http.get("/tasks", archived="all")["total"] == 0


def test_tokens_may_change_with_ingest_within_their_projects_and_delete_with_admin(tmp_path: Path) -> None:
    # given
    store = tmp_path / "store"
    with started(store) as server:
        task(Http(server.url), name="one", project="vision")
    files = TokenFile(store)
    tokens = {scope: files.create([scope], projects=["vision"])[1] for scope in (Scope.READ, Scope.INGEST)}
    tokens[Scope.ADMIN] = files.create([Scope.ADMIN])[1]
    elsewhere = TokenFile(store).create([Scope.INGEST], projects=["speech"])[1]
    with started(store) as server:

        def sender(token: str) -> Http:
            return Http(server.url, {"Authorization": f"Bearer {token}"})

        # then
        assert change(sender(tokens[Scope.READ]), "task", "name", "two").status == 403
        assert change(sender(elsewhere), "task", "name", "two").status == 404
        assert change(sender(tokens[Scope.INGEST]), "task", "name", "two").status == 200
        moved = change(sender(tokens[Scope.INGEST]), "task", "project", "speech")
        assert (moved.status, "does not reach" in moved.json["error"]) == (403, True)
        assert post(sender(tokens[Scope.INGEST]), f"/tasks/{TASK}/delete").status == 403
        assert post(sender(tokens[Scope.ADMIN]), f"/tasks/{TASK}/delete").status == 200


# -- deletion


def full_task(**names: Any) -> Any:
    events: list[FrameEvent] = [
        *(RecordChange(START_NS, "task", key, value) for key, value in {"name": "one", "tags": ["a"]}.items()),
        ConsoleLine(START_NS, "stdout", "hello"),
        ModelSaved(START_NS, "net", "net.pt", "torch"),
        SingleValue(START_NS, "accuracy", 1.0),
    ]
    return content_of({LOSS: rows_of([1.0, 2.0])}, events, **names)


def rows_left(folder: Path) -> dict[str, int]:
    """Return how many rows of tasks and of their series each table has."""
    with sqlite3.connect(folder / DATABASE_NAME) as connection:
        left = {}
        for table in schema.metadata.sorted_tables:
            column = next((name for name in ("task", "series", "chunk") if name in table.c), None)
            if column is not None and table.name != "metrics":
                left[table.name] = connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]
    connection.close()
    return {name: count for name, count in left.items() if count}


def test_a_deleted_task_is_gone_at_once_and_its_rows_in_slices(tmp_path: Path) -> None:
    # given a task with sealed chunks and more lines than a slice takes
    store = Store(tmp_path)
    lines = [ConsoleLine(START_NS, "stdout", "x")] * 12_000
    store.write([full_task(), content_of({LOSS: rows_of([0.5] * 9000)}, lines, sequence=1)])
    # when
    store.delete_task(TASK)
    # then
    assert store.tasks(TasksQuery(archived=None))["total"] == 0
    with pytest.raises(NotFound):
        store.task(TASK)
    # and what it left goes, with writes of others in between
    slices = 0
    while store.remove_deleted():
        slices += 1
        other = content_of({}, [], task_id="f" * 32, writer=OTHER_WRITER, sequence=slices)
        assert store.write([other]).stored == [True]
    store.close()
    assert slices > 3
    assert rows_left(tmp_path) == {"task_writers": 1, "task_bytes": 1}


def test_the_file_of_a_running_server_shrinks_after_a_deletion(http: Http, tmp_path: Path) -> None:
    # Given a server with a task of some megabytes, all of it in the database's file
    lines = [ConsoleLine(START_NS, "stdout", os.urandom(500).hex()) for _ in range(8000)]
    assert http.post(frame_of({}, lines)).results == ["stored"]
    (file,) = tmp_path.rglob(DATABASE_NAME)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    assert file.stat().st_size > 8_000_000
    # When
    assert post(http, f"/tasks/{TASK}/delete").status == 200
    # Then
    while file.stat().st_size > 1_000_000:
        assert http.post(frame_of({}, [], task_id="f" * 32, writer=OTHER_WRITER)).status == 200


def test_what_writers_of_a_deleted_task_still_send_counts_as_stored_and_is_thrown_away(http: Http) -> None:
    # given
    task(http, name="one")
    assert post(http, f"/tasks/{TASK}/delete").json == {"deleted": TASK}
    # when a running program, and another one, go on
    answer = http.post(
        frame_of({LOSS: rows_of([1.0])}, sequence=1), frame_of({LOSS: rows_of([1.0])}, writer=OTHER_WRITER)
    )
    # then
    assert answer.results == ["stored", "stored"]
    assert "deleted" in answer.json["frames"][0]["reason"]
    assert http.api(f"/tasks/{TASK}").status == 404
    assert http.get("/tasks", archived="all")["total"] == 0
    # and they are known when they come again
    assert http.post(frame_of({LOSS: rows_of([1.0])}, sequence=1)).results == ["duplicate"]
    assert change(http, "task", "name", "again").status == 404


def test_a_server_that_was_stopped_in_the_middle_goes_on_and_gives_the_row_to_nobody(tmp_path: Path) -> None:
    # given a deletion of which only the tombstone was written
    store = Store(tmp_path)
    store.write([full_task()])
    store.delete_task(TASK)
    store.close()
    # when the store is opened and a new task comes
    store = Store(tmp_path)
    store.write([full_task(task_id="f" * 32, writer=OTHER_WRITER)])
    assert store.write([full_task(sequence=1)]).ignored == {0}
    while store.remove_deleted():
        pass
    # then only the new one is there, whole
    (new,) = store.tasks(TasksQuery())["tasks"]
    assert (new["id"], new["points"], new["tags"]) == ("f" * 32, 2, ["a"])
    assert [line["text"] for line in store.console("f" * 32, ConsoleQuery())["lines"]] == ["hello"]
    assert store.values("f" * 32)["values"][0]["value"] == 1.0
    store.close()


def test_whoever_keeps_something_beside_the_database_is_told_while_the_rows_are_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    told: list[str] = []

    def forget(connection: Any, row: int) -> Any:
        columns = schema.records.c
        told.append(f"{connection.execute(select(func.count()).where(columns.task == row)).scalar()} fields")
        return lambda: told.append("committed")

    store.on_deleted.append(forget)
    store.write([full_task()])
    store.delete_task(TASK)
    assert told == ["2 fields", "committed"]
    store.close()


def test_the_blobs_of_a_deleted_task_go_unless_another_task_has_them(http: Http, tmp_path: Path) -> None:
    # given two tasks, one blob of their own each and one of both
    def artifact(data: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(data).hexdigest()
        return {"uri": f"blob:{sha256}", "sha256": sha256, "size_bytes": len(data), "type": "custom"}

    mine, yours, ours = (artifact(data) for data in (b"mine", b"yours", b"ours"))
    other = "f" * 32
    for task_id, writer, own in ((TASK, WRITER, mine), (other, OTHER_WRITER, yours)):
        records = [RecordChange(START_NS, "artifacts", "own", own), RecordChange(START_NS, "artifacts", "both", ours)]
        http.send(frame_of({}, records, task_id=task_id, writer=writer))
    with Client(http.url) as client:
        for task_id, data in ((TASK, b"mine"), (TASK, b"ours"), (other, b"yours"), (other, b"ours")):
            client.send_blob(task_id, hashlib.sha256(data).hexdigest(), io.BytesIO(data), len(data))
    files = tmp_path / "store" / "blobs"
    assert {mine["sha256"], yours["sha256"], ours["sha256"]} <= {path.name for path in files.rglob("*")}
    # when
    assert post(http, f"/tasks/{TASK}/delete").status == 200
    # then
    left = {path.name for path in files.rglob("*")}
    assert mine["sha256"] not in left and {yours["sha256"], ours["sha256"]} <= left


def test_what_a_task_was_before_it_was_begun_anew_is_removed_with_its_blobs(http: Http, tmp_path: Path) -> None:
    # given a task with an artifact
    data, kept = b"of the first run", b"of both runs"
    entries = {
        name: {"uri": f"blob:{hashlib.sha256(item).hexdigest()}", "size_bytes": len(item), "type": "custom"}
        for name, item in (("first", data), ("both", kept))
    }
    records = [RecordChange(START_NS, "artifacts", name, entry) for name, entry in entries.items()]
    http.send(frame_of({LOSS: rows_of([1.0] * 5000)}, records))
    with Client(http.url) as client:
        for item in (data, kept):
            client.send_blob(TASK, hashlib.sha256(item).hexdigest(), io.BytesIO(item), len(item))
    # when a later run begins it anew
    moment = START_NS + 3600 * SECOND_NS
    later = [
        RecordChange(moment, "task", TaskKey.RESET, moment),
        RecordChange(moment, "artifacts", "both", entries["both"]),
    ]
    http.send(frame_of({}, later, sequence=1))
    # then the first run's bytes are gone, and the later one sends its own
    left = {path.name for path in (tmp_path / "store" / "blobs").rglob("*")}
    assert hashlib.sha256(data).hexdigest() not in left
    with Client(http.url) as client:
        client.send_blob(TASK, hashlib.sha256(kept).hexdigest(), io.BytesIO(kept), len(kept))
        artifacts = client.task(TASK)["record"]["artifacts"]
    assert {name: item["state"] for name, item in artifacts.items()} == {"both": "stored"}


def test_the_client_changes_and_deletes(http: Http) -> None:
    task(http, name="one", status="completed")
    with Client(http.url) as client:
        client.change(TASK, [{"section": "task", "key": "name", "value": "two"}])
        assert client.task(TASK)["name"] == "two"
        with pytest.raises(ServerError, match="clone it") as raised:
            client.change(TASK, [{"section": "parameters", "key": "Args/lr", "value": dict(entry(1))}])
        assert raised.value.status == 409
        client.delete_task(TASK)
        with pytest.raises(ServerError, match="no task"):
            client.delete_task(TASK)
