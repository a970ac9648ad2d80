"""Tasks that a query has found: their records are read together, and each is still as young as if read alone."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from aiohttp import web
from server_support import START_NS, Http, frame_of, started

from telemetry.errors import ServerError
from telemetry.events import RecordChange
from telemetry.fold import RecordFold
from telemetry.sdk.reading import view
from telemetry.sdk.reading.view import FRESH_S, ServerView, Siblings
from telemetry.sdk.task.task import Task
from telemetry.server import app as server_app
from telemetry.server.store import export
from telemetry.testing import ManualClock
from telemetry.values import entry

WRITER = bytes(range(16))


class FakeClient:
    """A server with a record for each id, which says in "read" how often it was asked until then."""

    def __init__(self, task_ids: list[str]) -> None:
        self.task_ids = task_ids
        self.asked: list[list[str]] = []

    def records(self, task_ids: list[str]) -> dict[str, list[Any]]:
        self.asked.append(list(task_ids))
        return {task_id: self._record() for task_id in task_ids if task_id in self.task_ids}

    def record(self, task_id: str) -> list[Any]:
        self.asked.append([task_id])
        if task_id not in self.task_ids:
            raise ServerError("no such task", status=404)
        return self._record()

    def _record(self) -> list[Any]:
        return [("task", "read", 1, WRITER, len(self.asked))]


def views_of(client: FakeClient, task_ids: list[str]) -> tuple[list[ServerView], ManualClock]:
    clock = ManualClock()
    siblings = Siblings(task_ids, clock=clock.monotonic)

    def connect() -> Any:
        return client

    views = [ServerView(connect, task_id, siblings=siblings, clock=clock.monotonic) for task_id in task_ids]
    return views, clock


def read_of(fold: RecordFold) -> Any:
    return fold.section("task")["read"]


IDS = [f"{number:032x}" for number in range(700)]


@pytest.mark.parametrize(
    "order", [lambda one: one.task_id, lambda one: -int(one.task_id, 16), lambda one: int(one.task_id, 16) * 271 % 700]
)
def test_whoever_looks_at_all_of_them_asks_for_500_at_once(order: Callable[[ServerView], Any]) -> None:
    client = FakeClient(IDS)
    views, _ = views_of(client, IDS)
    for one in sorted(views, key=order):
        one.fold()
    assert sorted(map(len, client.asked)) == [200, 500]


def test_a_record_is_never_older_than_one_that_is_read_alone() -> None:
    # given someone who takes longer over each task than a record is good for
    client = FakeClient(IDS)
    views, clock = views_of(client, IDS)
    for one in views[:100]:
        # then each was read just now, and not with hundreds that nobody looks at in time
        assert read_of(one.fold()) == len(client.asked)
        clock.advance(FRESH_S + 0.1)
    assert len(client.asked) == 100
    assert sum(map(len, client.asked)) <= 500 + 2 * 99
    # when all are looked at soon, few requests are enough again
    before = len(client.asked)
    for one in views:
        one.fold()
    assert len(client.asked) - before <= 12


def test_who_polls_them_asks_a_few_times_a_round() -> None:
    client = FakeClient(IDS[:200])
    views, clock = views_of(client, IDS[:200])
    for _ in range(5):
        for one in views:
            assert read_of(one.fold()) == len(client.asked)
        clock.advance(10.0)
    assert len(client.asked) == 5


def test_reload_reads_that_task_alone_and_after_the_call() -> None:
    client = FakeClient(IDS[:3])
    (first, second, third), _ = views_of(client, IDS[:3])
    first.fold()
    second.reload()
    assert read_of(second.fold()) == 2
    assert read_of(third.fold()) == 1
    assert client.asked == [IDS[:3], [IDS[1]]]


def test_what_the_server_does_not_tell_with_the_others_is_asked_for_alone() -> None:
    client = FakeClient(IDS[:2])
    (_, second, gone), _ = views_of(client, IDS[:3])
    with pytest.raises(ServerError, match="no such task"):
        gone.fold()
    assert read_of(second.fold()) == 1


def test_threads_that_ask_at_the_same_time_share_the_answer() -> None:
    client = FakeClient(IDS[:100])
    views, _ = views_of(client, IDS[:100])
    threads = [threading.Thread(target=one.fold) for one in views]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(client.asked) == 1


# ---- against a server


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each route was asked for."""
    counts: Counter[str] = Counter()
    create_app = server_app.create_app

    async def count(request: web.Request, response: web.StreamResponse) -> None:
        resource = request.match_info.route.resource
        counts[f"{request.method} {'' if resource is None else resource.canonical}"] += 1

    def create_counting_app(*arguments: Any) -> web.Application:
        app = create_app(*arguments)
        app.on_response_prepare.append(count)
        return app

    monkeypatch.setattr(server_app, "create_app", create_counting_app)
    return counts


@pytest.fixture
def http(requests: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Http]:
    with started(tmp_path / "store") as server:
        monkeypatch.setenv("TELEMETRY_URL", server.url)
        monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
        yield Http(server.url)


def add(http: Http, number: int, lr: Any = 0.5, status: str = "completed", at: int = 0) -> str:
    fields = {"name": f"run {number}", "status": status, "project": "p"}
    moment = START_NS + at
    events: list[Any] = [RecordChange(moment, "task", key, value) for key, value in fields.items()]
    events.append(RecordChange(moment, "parameters", "Args/lr", entry(lr)))
    writer = (1000 * at + number).to_bytes(16, "big")
    http.send(frame_of({}, events, task_id=IDS[number], writer=writer))
    return IDS[number]


def test_name_status_and_a_parameter_of_200_found_tasks_take_two_requests(
    http: Http, requests: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "FRESH_S", 600.0)  # how long this takes is not what is tested
    for number in range(200):
        add(http, number, lr=number / 8)
    requests.clear()
    # when
    tasks = Task.get_tasks(project_name="p")
    found = {task.id: (task.name, task.get_status(), task.get_parameter("Args/lr", cast=True)) for task in tasks}
    # then
    assert found == {IDS[number]: (f"run {number}", "completed", number / 8) for number in range(200)}
    assert requests == {"POST /api/v1/tasks/query": 1, "POST /api/v1/tasks/records": 1}


def test_the_status_of_a_found_task_is_the_present_one(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "FRESH_S", 600.0)
    for number in range(3):
        add(http, number, status="in_progress")
    first, *others = Task.get_tasks(task_ids=IDS[:3])
    assert [task.get_status() for task in (first, *others)] == ["in_progress"] * 3
    # when one ends, and its status is waited for
    add(http, 0, status="completed", at=1)
    monkeypatch.setattr(view, "FRESH_S", 0.0)
    first.wait_for_status(check_interval_sec=0.0)
    # then
    assert first.get_status() == "completed"
    assert [task.get_status() for task in others] == ["in_progress"] * 2


def test_reading_one_task_reads_its_record_and_nothing_else(http: Http, requests: Counter[str]) -> None:
    task = Task.get_task(task_id=add(http, 1))
    assert task is not None
    requests.clear()
    task.reload()
    assert task.get_parameter("Args/lr", cast=True) == 0.5
    assert requests == {"GET /api/v1/tasks/{task_id}/record": 1}


def ask(http: Http, body: Any) -> Any:
    path, headers = "/api/v1/tasks/records", {"Content-Type": "application/json"}
    return http.request("POST", path, json.dumps(body).encode(), headers)


def test_an_answer_has_as_many_records_as_fit_and_one_at_least(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        add(http, number, lr=["x" * 1000])
    monkeypatch.setattr(export, "PAGE_RECORD_BYTES", 2500)
    wanted = [IDS[2], "f" * 32, IDS[0], IDS[2], IDS[1]]
    assert list(msgpack.unpackb(ask(http, {"ids": wanted}).body)["records"]) == [IDS[2], IDS[0]]
    monkeypatch.setattr(export, "PAGE_RECORD_BYTES", 1)
    assert list(msgpack.unpackb(ask(http, {"ids": wanted}).body)["records"]) == [IDS[2]]


@pytest.mark.parametrize("body", [{"ids": "a"}, {"ids": [1]}, {"ids": ["a"] * 501}, {"id": ["a"]}, []])
def test_what_is_no_list_of_ids_is_refused(body: Any, http: Http) -> None:
    assert ask(http, body).status == 400


def test_both_routes_tell_the_record_as_the_export_does(http: Http) -> None:
    task_id = add(http, 1, lr=float("inf"))
    exported = msgpack.unpackb(http.api(f"/tasks/{task_id}/export/events").body)["record"]
    assert msgpack.unpackb(http.api(f"/tasks/{task_id}/record").body) == {"record": exported}
    assert msgpack.unpackb(ask(http, {"ids": [task_id]}).body) == {"records": {task_id: exported}}
    assert http.api(f"/tasks/{'f' * 32}/record").status == 404
