"""Whatever a sender puts into a task, and whatever a reader asks for: each route answers, and none of it with 5xx."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from aiohttp import web
from hostile import MODEL_ID, SHA256, hostile_events, hostile_points, hostile_records
from server_support import START_NS, TASK, Answer, Http, config_of, frame_of, started

from telemetry.errors import ConfigurationError, TelemetryError
from telemetry.events import MAX_TAG_CHARS, MAX_TAGS, RecordChange
from telemetry.sdk.handles.models import Model
from telemetry.sdk.launch.options import choose_tags
from telemetry.sdk.task.task import Task
from telemetry.server.app import create_app
from telemetry.wire import Frame

HOSTILE_WORDS = (
    "",
    "0",
    "-1",
    "1",
    "nan",
    "inf",
    "1e308",
    "-1e308",
    "5e-324",
    "9223372036854775807",
    "-9223372036854775808",
    "9" * 400,
    "\x00",
    "%",
    "é\u202e",
    "x" * 1999,
    "[" * 900,
    "(((((a*)*)*)*)*)*$",
    "param:Args/lr",
    "property:owner",
    "last:a/b",
    "value:",
    "hyperparams.Args.lr",
    "last_metrics." + "0" * 32 + "." + "0" * 32 + ".value",
    "time",
    "all",
    "__$or",
)

# Each query parameter of the API; one that a route does not know it passes over.
PARAMETERS = (
    *("series", "x", "from", "to", "max_samples", "half_life", "attempts", "after", "before", "limit", "tail"),
    *("stream", "search", "rank", "title", "iteration", "last", "figures", "kind", "project", "subprojects"),
    *("status", "type", "tags", "archived", "columns", "sort", "page", "page_size", "name", "task", "uri", "path"),
)
QUESTIONS = 60

# What a page or the SDK asks for, by route.
PLAUSIBLE = {
    "/api/v1/tasks": [
        f"archived=all&page_size=200&sort={sort}&columns=param:Args/lr&columns=property:owner&columns=value:a"
        for sort in ("-last_update", "name", "progress", "param:Args/lr", "-property:owner", "value:a", "status")
    ],
    "/api/v1/models": ["", "archived=1", "tags=a", "name=m", f"task={'0' * 32}", "archived=1&tags=a&limit=5"],
}
FIELDS = [
    *("hyperparams", "hyperparams.Args.lr", "last_metrics", "script", "script.branch", "script.diff", "models"),
    *("execution", "configuration", "runtime", "properties", "tags", "system_tags", "user", "comment", "container"),
]


def routes(app: web.Application) -> list[tuple[str, str]]:
    """Return (method, path) of every route that the application has, so that a new one cannot be forgotten."""
    found = []
    for route in app.router.routes():
        resource = route.resource
        assert resource is not None
        if route.method != "HEAD":
            found.append((route.method, resource.canonical))
    return found


def task_id(number: int) -> str:
    return f"{number:032x}"


def hostile_frames() -> Iterator[Frame]:
    choose = random.Random(7)
    for number, records in enumerate(hostile_records()):
        yield frame_of(task_id=task_id(number), events=records, sequence=2 * number)
        yield frame_of(hostile_points(choose), hostile_events(choose), task_id=task_id(number), sequence=2 * number + 1)


class Checked:
    """Asks, and keeps the answers that no question may have."""

    def __init__(self, http: Http) -> None:
        self.http = http
        self.failures: list[str] = []

    def ask(self, method: str, path: str, query: str = "", body: bytes | None = None) -> Answer:
        headers = {} if body is None else {"Content-Type": "application/json"}
        answer = self.http.request(method, f"{path}?{query}" if query else path, body, headers)
        if answer.status >= 500 and answer.status != 503:
            self.failures.append(f"{answer.status} {method} {path}?{query[:200]} {(body or b'')[:200]!r}")
        return answer


def filled(path: str, task: str) -> str:
    names = {"task_id": task, "model_id": MODEL_ID, "sha256": SHA256, "name": "js/common/dom.js"}
    for name, value in names.items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path, f"{path}: say what to ask this route for"
    return path


@pytest.fixture(scope="module")
def hostile_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Http, int]]:
    directory = tmp_path_factory.mktemp("hostile")
    with started(directory) as server:
        http = Http(server.url)
        frames = list(hostile_frames())
        for start in range(0, len(frames), 100):
            answer = http.post(*frames[start : start + 100])
            assert answer.status == 200, answer
            assert {item["result"] for item in answer.json["frames"]} <= {"stored", "rejected"}, answer
        yield http, len(frames) // 2


@pytest.fixture(scope="module")
def all_routes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    return routes(create_app(config_of(tmp_path_factory.mktemp("routes"))))


def gets(all_routes: list[tuple[str, str]]) -> list[str]:
    # A live stream does not end; it has a test of its own.
    return [path for method, path in all_routes if method == "GET" and path != "/api/v1/live"]


def test_no_value_of_a_task_makes_a_route_fail(
    hostile_server: tuple[Http, int], all_routes: list[tuple[str, str]]
) -> None:
    http, tasks = hostile_server
    checked = Checked(http)
    for path in gets(all_routes):
        if "{task_id}" in path:
            for number in range(tasks):
                query = "series=" + ",".join(str(6 * number + one) for one in range(1, 7))
                for x in ("iteration", "time") if path.endswith(("/points", "/bands")) else ("iteration",):
                    checked.ask("GET", filled(path, task_id(number)), f"{query}&x={x}&half_life=3")
            continue
        for query in PLAUSIBLE.get(path, [""]):
            checked.ask("GET", filled(path, ""), query)
    for fields, sort in product((FIELDS, []), ("name", "-last_update", "hyperparams.Args.lr")):
        body = {"fields": fields, "filter": {"order_by": [sort]}, "page_size": 500}
        answer = checked.ask("POST", "/api/v1/tasks/query", body=json.dumps(body).encode())
        assert answer.status < 500 or checked.failures
    assert checked.failures == []


def test_no_question_makes_a_route_fail(hostile_server: tuple[Http, int], all_routes: list[tuple[str, str]]) -> None:
    http, _ = hostile_server
    checked = Checked(http)
    choose = random.Random(11)
    for path in gets(all_routes):
        # Of some 700 a choice for each route, the same each time.
        for name, word in choose.sample(list(product(PARAMETERS, HOSTILE_WORDS)), QUESTIONS):
            # Where the series are asked for, the rest is only looked at with some.
            extra = "&series=1,2" if path.endswith(("/points", "/bands")) and name != "series" else ""
            checked.ask("GET", filled(path, task_id(3)), urlencode({name: word}) + extra)
        for word in HOSTILE_WORDS:
            if "{" in path:
                start = path[: path.index("{")]
                checked.ask("GET", start + quote(word or "x", safe=""))
    assert checked.failures == []


HOSTILE_JSON: tuple[object, ...] = (
    None,
    True,
    -1,
    2**63,
    2**64 - 1,
    1e308,
    "",
    "\x00",
    "x" * 5000,
    "(" * 50,
    "(a*)*" * 20 + "$",
    [],
    [None],
    [[]],
    [{}],
    [2**64 - 1],
    ["__$all", "a", "__$not"],
    {},
    {"": None},
    {"a": {"b": []}},
    {"__$or": {}},
)
FILTER_KEYS = (
    *("tags", "type", "status", "order_by", "system_tags", "search_text", "created", "started", "last_update"),
    *("_all_", "_any_", "_or_", "id", "project", "parent", "name", "user", "active_duration", "last_iteration"),
    *("hyperparams.Args.lr", "last_metrics." + "0" * 32 + "." + "0" * 32 + ".value", "comment", "script.branch"),
)


def test_no_body_makes_a_route_fail(hostile_server: tuple[Http, int], all_routes: list[tuple[str, str]]) -> None:
    http, _ = hostile_server
    checked = Checked(http)
    keys = ("ids", "projects", "name", "exact_name", "tags", "allow_archived", "filter", "fields", "brief", "page")
    bodies = [json.dumps(value).encode() for value in HOSTILE_JSON]
    bodies += [b"", b"{", b"\xff", b"[" * 5000, b'{"a":' * 5000, b'{"name": "\\ud800"}', b'{"changes": ' + b"[" * 5000]
    bodies += [json.dumps({key: value}).encode() for key, value in product((*keys, "page_size"), HOSTILE_JSON)]
    bodies += [json.dumps({"filter": {key: value}}).encode() for key, value in product(FILTER_KEYS, HOSTILE_JSON)]
    changes = [
        {"section": section, "key": key, "value": value}
        for (section, key), value in product(
            [("parameters", "Args/lr"), ("task", "tags"), ("task", "name"), ("output_models", MODEL_ID), ("x", "y")],
            HOSTILE_JSON,
        )
    ]
    bodies += [json.dumps({"changes": [change]}).encode() for change in changes]
    bodies += [json.dumps({"changes": value}).encode() for value in HOSTILE_JSON]
    posts = [(method, path) for method, path in all_routes if method not in ("GET", "*")]
    assert posts
    for method, path in posts:
        for body in bodies:
            # The deletion takes no body: once is enough.
            task = task_id(3) if not path.endswith("/delete") else "f" * 32
            checked.ask(method, filled(path, task), body=body)
    assert checked.failures == []


def test_no_value_of_a_task_makes_the_sdk_raise_what_is_not_its_own(
    hostile_server: tuple[Http, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    http, tasks = hostile_server
    monkeypatch.setenv("TELEMETRY_URL", http.url)
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path))
    foreign: list[str] = []
    # Every fourth: each read of each is a question to the server.
    for number in range(0, tasks, 4):
        task = Task.get_task(task_id(number))
        assert task is not None
        for name, read in READS.items():
            try:
                read(task)
            except TelemetryError:
                pass  # which says what is wrong, and is what callers are told to expect
            except Exception as error:  # noqa: BLE001 - any other is what this test looks for
                foreign.append(f"{name} of task {number}: {error!r:.200}")
    assert foreign == []


READS: dict[str, Callable[[Task], object]] = {
    "get_parameters": lambda task: (task.get_parameters(), task.get_parameters(cast=True)),
    "get_parameters_as_dict": lambda task: task.get_parameters_as_dict(cast=True),
    "get_parameter": lambda task: task.get_parameter("Args/lr", cast=True),
    "get_user_properties": lambda task: (task.get_user_properties(), task.get_user_properties(value_only=True)),
    "configuration objects": lambda task: (task.get_configuration_objects(), task.get_configuration_object("General")),
    "configuration as dict": lambda task: task.get_configuration_object_as_dict("General"),
    "labels": lambda task: task.get_labels_enumeration(),
    "tags": lambda task: (task.get_tags(), task.get_system_tags()),
    "fields": lambda task: (task.name, task.project, task.task_type, task.comment, task.parent, task.status),
    "status message": lambda task: (task.get_status(), task.get_status_message(), task.get_progress()),
    "iterations": lambda task: (task.get_initial_iteration(), task.get_last_iteration()),
    "script": lambda task: (task.get_script(), task.get_base_docker()),
    "scalars": lambda task: (task.get_reported_scalars(), task.get_last_scalar_metrics()),
    "single values": lambda task: task.get_reported_single_values(),
    "plots": lambda task: task.get_reported_plots(),
    "console": lambda task: task.get_reported_console_output(),
    "artifacts": lambda task: [
        (item.url, item.hash, item.size, item.state, item.error, item.timestamp, item.preview, repr(item))
        for item in task.artifacts.values()
    ],
    "models": lambda task: [_all_of(model) for models in task.models.values() for model in models],
    "model copies": lambda task: [model.get_local_copy() for models in task.models.values() for model in models],
    "model ids": lambda task: (task.input_models_id, task.output_models_id),
}


def _all_of(model: Model) -> object:
    return (
        *(model.name, model.framework, model.comment, model.tags, model.labels, model.config_text, model.config_dict),
        *(model.url, model.task, model.iteration, model.size, model.hash, model.published, repr(model)),
        model.get_all_metadata(),
    )


def test_a_hundred_thousand_tags_are_kept_and_a_table_shows_as_many_as_a_task_may_have(tmp_path: Path) -> None:
    with started(tmp_path) as server:
        http = Http(server.url)
        # given a task with far too many tags, one of them far too long
        tags = ["x" * 10_000, *(f"tag {number}" for number in range(100_000))]
        http.send(frame_of(events=[RecordChange(START_NS, "task", "tags", tags)]))
        # then the table stays small and says that there are more; the record has them all
        answer = http.api("/tasks")
        (task,) = answer.json["tasks"]
        assert (task["tags"], task["more_tags"]) == (tags[1 : 1 + MAX_TAGS], True)
        assert len(answer.body) < 10_000
        assert http.get("/tasks", tags=f"tag {MAX_TAGS - 1}")["total"] == 1
        assert http.get(f"/tasks/{TASK}")["record"]["task"]["tags"] == tags


@pytest.mark.parametrize("tags", [["x" * (MAX_TAG_CHARS + 1)], [f"tag {number}" for number in range(MAX_TAGS + 1)]])
def test_too_many_tags_are_an_error_where_they_are_given(tags: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"tag.* at most"):
        choose_tags(tags)
