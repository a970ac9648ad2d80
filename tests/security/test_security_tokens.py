"""Tokens: what each scope and project opens, on every route there is, and what happens when they end."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgpack
import pytest
from sdk_support import environment
from server_support import LOSS, OTHER_WRITER, START_NS, TASK, Http, config_of, frame_of, rows_of, started

from telemetry.cli import main
from telemetry.errors import ConfigurationError
from telemetry.events import RecordChange
from telemetry.server.app import BackgroundServer, create_app
from telemetry.server.auth import SCOPES
from telemetry.server.config import ServerConfig
from telemetry.server.tokens import TOKEN_PATTERN, Scope, Token, TokenFile, TokenRegistry

OTHER_TASK = "f" * 32
OPEN = {("GET", "/healthz")}


def made(directory: Path, *scopes: Scope, projects: list[str] | None = None, lifetime_s: float | None = None) -> str:
    return TokenFile(directory).create(scopes, projects=projects, lifetime_s=lifetime_s)[1]


def bearer(url: str, text: str) -> Http:
    return Http(url, {"Authorization": f"Bearer {text}"})


def in_project(project: str) -> RecordChange:
    return RecordChange(START_NS, "task", "project", project)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def admin(store: Path) -> Iterator[Http]:
    """A server on which "vision/cars" and "speech" have a task each, as its admin sees it."""
    text = made(store, Scope.ADMIN)
    with started(store) as server:
        http = bearer(server.url, text)
        http.send(frame_of({LOSS: rows_of([1.0])}, [in_project("vision/cars")]))
        other = frame_of({LOSS: rows_of([2.0])}, [in_project("speech")], task_id=OTHER_TASK, writer=OTHER_WRITER)
        http.send(other)
        yield http


# ---- the file


def test_a_token_is_kept_as_a_hash_and_nowhere_else(store: Path) -> None:
    token, text = TokenFile(store).create([Scope.READ], name="for the wall")
    match = TOKEN_PATTERN.fullmatch(text)
    assert match is not None and match[1] == token.id
    kept = (store / "tokens.json").read_text()
    assert match[2] not in kept and match[2] not in repr(token) and token.sha256 not in repr(token)
    assert json.loads(kept)["tokens"][0]["sha256"] == hashlib.sha256(match[2].encode()).hexdigest()


def test_a_thousand_tokens_are_a_thousand(store: Path) -> None:
    texts = {made(store, Scope.READ) for _ in range(100)}
    assert len(texts) == 100 and len({item.id for item in TokenFile(store).tokens()}) == 100


@pytest.mark.parametrize(
    ("scopes", "projects", "name"),
    [([], None, ""), ([Scope.ADMIN], ["p"], ""), ([Scope.READ], ["/"], ""), ([Scope.READ], None, "two\nlines")],
)
def test_what_cannot_be_meant_is_refused(
    store: Path, scopes: list[Scope], projects: list[str] | None, name: str
) -> None:
    with pytest.raises(ConfigurationError):
        TokenFile(store).create(scopes, projects=projects, name=name)
    assert not TokenFile(store).exists()


@pytest.mark.parametrize(
    "text", ["", "{}", "[" * 100_000, '{"format": 2, "tokens": []}', '{"format": 1, "tokens": [{"id": 1}]}']
)
def test_a_damaged_file_opens_nothing(store: Path, text: str) -> None:
    token = made(store, Scope.ADMIN)
    registry = TokenRegistry(store, always=False)
    assert registry.find(token) is not None
    (store / "tokens.json").write_text(text)
    registry.refresh()
    assert registry.find(token) is None and registry.required
    with pytest.raises(ConfigurationError, match=r"tokens\.json"):
        TokenFile(store).tokens()


def test_no_projects_are_not_all_projects(store: Path) -> None:
    made(store, Scope.READ, projects=["p"])
    path = store / "tokens.json"
    path.write_text(path.read_text().replace('"p"', ""))
    with pytest.raises(ConfigurationError):
        TokenFile(store).tokens()


def test_a_token_ends_at_its_second(store: Path) -> None:
    now = [1000.0]
    file = TokenFile(store, clock=lambda: now[0])
    token, text = file.create([Scope.READ], lifetime_s=60)
    registry = TokenRegistry(store, always=False, clock=lambda: now[0])
    now[0] = 1059.9
    assert registry.find(text) == token and registry.is_valid(token.id)
    now[0] = 1060.0
    assert registry.find(text) is None and not registry.is_valid(token.id)
    assert file.tokens()[0].state(now[0]) == "expired"


@pytest.mark.parametrize("change", [slice(0, -1), slice(1, None)])
def test_a_part_of_a_token_is_none(store: Path, change: slice) -> None:
    text = made(store, Scope.READ)
    registry = TokenRegistry(store, always=False)
    assert registry.find(text[change]) is None and registry.find(text + "x") is None
    assert registry.find(text[:-1] + ("a" if text[-1] != "a" else "b")) is None


# ---- routes


def routes_of(store: Path) -> set[tuple[str, str]]:
    app = create_app(config_of(store))
    found = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    # A HEAD needs what its GET does, but where the table says otherwise.
    return {(method, path) for method, path in found if method != "HEAD" or (method, path) in SCOPES} - OPEN


def test_every_route_has_its_scope_in_the_one_table(store: Path) -> None:
    # A route that is added later opens to admins alone until somebody says here whom it is for.
    assert routes_of(store) == set(SCOPES)


@pytest.mark.parametrize("scope", list(Scope))
def test_a_scope_opens_its_routes_and_no_other(admin: Http, store: Path, scope: Scope) -> None:
    http = bearer(admin.url, made(store, scope))
    for (method, route), needed in SCOPES.items():
        if route == "/api/v1/live":
            continue  # does not end; below
        if route == "/api/v1/backup" and scope is Scope.ADMIN:
            continue  # no token opens it: tests/server/test_backup.py
        path = route.format(task_id=TASK, name="favicon.svg", sha256="a" * 64, model_id="0" * 32)
        may = needed is None or scope in (needed, Scope.ADMIN)
        answer = http.request(method, path)
        assert (answer.status not in (401, 403)) == may, (scope, route, answer)
        # A page's address is not a way around: HEAD asks for what GET does.
        if method == "GET":
            head = SCOPES.get(("HEAD", route), needed)
            may = head is None or scope in (head, Scope.ADMIN)
            assert (http.request("HEAD", path).status not in (401, 403)) == may


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST"])
def test_what_changes_something_needs_more_than_reading(admin: Http, store: Path, method: str) -> None:
    http = bearer(admin.url, made(store, Scope.READ))
    for path in ("/api/v1/tasks", f"/api/v1/tasks/{TASK}", "/api/v1/nothing"):
        assert http.request(method, path).status == 403


def test_a_sender_sends_and_sees_nothing(admin: Http, store: Path) -> None:
    http = bearer(admin.url, made(store, Scope.INGEST))
    http.send(frame_of({LOSS: rows_of([1.0])}, sequence=1))
    answer = http.api("/tasks")
    assert answer.status == 403 and "needs read" in answer.json["error"]


def test_a_browser_is_asked_again_and_let_in_with_a_reader(admin: Http, store: Path) -> None:
    def login(text: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(f"me:{text}".encode()).decode()}

    without = Http(admin.url).request("GET", "/")
    assert without.status == 401 and "Basic" in without.headers["www-authenticate"]
    assert Http(admin.url).request("GET", "/", headers=login(made(store, Scope.INGEST))).status == 401
    page = Http(admin.url).request("GET", "/", headers=login(made(store, Scope.READ)))
    assert page.status == 200 and "set-cookie" not in page.headers


@pytest.mark.parametrize("name", ["token", "access_token", "api_key"])
def test_a_token_in_an_address_opens_nothing(admin: Http, store: Path, name: str) -> None:
    text = made(store, Scope.ADMIN)
    assert Http(admin.url).request("GET", f"/api/v1/tasks?{name}={text}").status == 401


def test_the_servers_own_token_still_opens_everything(store: Path) -> None:
    made(store, Scope.READ)
    with started(store, token="from the environment") as server:
        assert bearer(server.url, "from the environment").api("/tasks").status == 200
        assert bearer(server.url, "wrong").api("/tasks").status == 401


# ---- projects


def test_a_reader_of_a_project_sees_it_and_what_is_below_it(admin: Http, store: Path) -> None:
    http = bearer(admin.url, made(store, Scope.READ, projects=["vision"]))
    assert [task["id"] for task in http.get("/tasks")["tasks"]] == [TASK]
    assert http.get("/tasks", project="speech")["total"] == 0
    assert http.get("/projects") == {"projects": [{"name": "vision/cars", "tasks": 1}]}
    (series,) = http.get(f"/tasks/{TASK}/series")["series"]
    assert http.get(f"/tasks/{TASK}/points", series=series["id"])["series"][0]["y"] == [1.0]
    # and of the other task neither its data nor that it exists
    for part in ("", "/series", "/points?series=1", "/console", "/models", "/values", "/record", "/export/events"):
        hidden = http.request("GET", f"/api/v1/tasks/{OTHER_TASK}{part}")
        missing = http.request("GET", f"/api/v1/tasks/{'0' * 32}{part}")
        assert (hidden.status, missing.status) == (404, 404), part
        assert hidden.body.replace(b"f" * 32, b"") == missing.body.replace(b"0" * 32, b"")
    assert http.request("GET", f"/api/v1/live?task={OTHER_TASK}").status == 404
    body = json.dumps({"ids": [OTHER_TASK, TASK, "0" * 32]}).encode()
    answer = http.request("POST", "/api/v1/tasks/records", body, {"Content-Type": "application/json"})
    assert list(msgpack.unpackb(answer.body)["records"]) == [TASK]


@pytest.mark.parametrize("project", ["visionary", "visio", "Vision", "vision\\cars"])
def test_a_project_of_a_similar_name_is_another(admin: Http, store: Path, project: str) -> None:
    http = bearer(admin.url, made(store, Scope.READ, projects=[project]))
    assert http.get("/tasks")["total"] == 0 and http.get("/projects")["projects"] == []


def test_the_other_projects_commits_are_not_in_the_stream(admin: Http, store: Path) -> None:
    text = made(store, Scope.READ, projects=["vision"])
    with _stream(admin.url, text) as lines:
        admin.send(frame_of({LOSS: rows_of([2.0])}, task_id=OTHER_TASK, writer=OTHER_WRITER, sequence=1))
        admin.send(frame_of({LOSS: rows_of([2.0])}, sequence=1))
        told: list[str] = []
        while TASK not in told:
            line = next(lines)
            told += json.loads(line.removeprefix("data: "))["ids"] if line.startswith("data: {") else []
    assert OTHER_TASK not in told


def test_a_sender_writes_to_its_projects_alone(admin: Http, store: Path) -> None:
    http = bearer(admin.url, made(store, Scope.INGEST, projects=["vision"]))

    def result(project: str | None, *, task_id: str, sequence: int = 0, writer: bytes = b"w" * 16) -> str:
        events = [in_project(project)] if project is not None else []
        frame = frame_of({LOSS: rows_of([5.0])}, events, task_id=task_id, sequence=sequence, writer=writer)
        answer = http.post(frame)
        assert answer.status == 200
        (item,) = answer.json["frames"]
        assert item["result"] != "rejected" or "does not reach the project" in item["reason"]
        return str(item["result"])

    new = "a" * 32
    assert result("vision/new", task_id=new) == "stored"
    assert result(None, task_id=new, sequence=1) == "stored"
    # neither another's task, nor its own carried away, nor one that begins elsewhere
    assert result(None, task_id=OTHER_TASK, sequence=2) == "rejected"
    assert result("vision", task_id=OTHER_TASK, sequence=3) == "rejected"
    assert result("speech", task_id=new, sequence=4) == "rejected"
    assert result("", task_id=new, sequence=5) == "rejected"
    assert result("speech", task_id="b" * 32, sequence=6) == "rejected"
    assert admin.get(f"/tasks/{OTHER_TASK}")["points"] == 1
    assert admin.get(f"/tasks/{new}")["project"] == "vision/new"
    assert admin.api("/tasks/" + "b" * 32).status == 404
    # a refused frame was not stored: sent by one who may, it is
    allowed = frame_of({LOSS: rows_of([5.0])}, [in_project("speech")], task_id="b" * 32, sequence=6, writer=b"w" * 16)
    admin.send(allowed)


def test_a_frame_that_comes_before_its_project_is_known_is_kept_and_its_task_held(admin: Http, store: Path) -> None:
    vision = bearer(admin.url, made(store, Scope.INGEST, projects=["vision"]))
    speech = bearer(admin.url, made(store, Scope.INGEST, projects=["speech"]))
    new = "c" * 32
    # given a forked child's frame, which is here before the parent's first
    vision.send(frame_of({LOSS: rows_of([1.0])}, task_id=new, writer=b"child child chil"))
    assert admin.get(f"/tasks/{new}")["project"] == "vision"
    # when somebody of another project wants the task, they do not get it
    for events in ([], [in_project("speech")]):
        answer = speech.post(frame_of({LOSS: rows_of([1.0])}, events, task_id=new, writer=b"other other othe"))
        assert answer.results == ["rejected"]
    # then the parent's word counts, although it is from 1970
    parent = RecordChange(1, "task", "project", "vision/late")
    vision.send(frame_of({}, [parent], task_id=new, writer=b"parent parent pa"))
    assert admin.get(f"/tasks/{new}")["project"] == "vision/late"


def test_one_group_is_judged_frame_by_frame(admin: Http, store: Path) -> None:
    http = bearer(admin.url, made(store, Scope.INGEST, projects=["vision"]))
    answer = http.post(
        frame_of({LOSS: rows_of([1.0])}, [in_project("vision")], task_id="d" * 32, sequence=0, writer=b"g" * 16),
        frame_of({LOSS: rows_of([1.0])}, task_id=OTHER_TASK, sequence=1, writer=b"g" * 16),
        frame_of({LOSS: rows_of([1.0])}, task_id="d" * 32, sequence=2, writer=b"g" * 16),
        frame_of({LOSS: rows_of([1.0])}, task_id="d" * 32, sequence=0, writer=b"g" * 16),
    )
    assert answer.results == ["stored", "rejected", "stored", "duplicate"]


# ---- while it runs


class _stream:  # noqa: N801 - reads as a function
    """A live stream's lines for a `with` block."""

    def __init__(self, url: str, text: str, query: str = "") -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 80), timeout=30)
        self._connection.request("GET", f"/api/v1/live{query}", headers={"Authorization": f"Bearer {text}"})
        self._response = self._connection.getresponse()
        assert self._response.status == 200

    def __enter__(self) -> Iterator[str]:
        return iter(lambda: self._response.readline().decode().rstrip("\n") or " ", "never")

    def __exit__(self, *_: object) -> None:
        self._response.close()
        self._connection.close()

    def read_to_its_end(self) -> None:
        self._response.read()


def until_status(http: Http, status: int, *, within_s: float = 2.0) -> None:
    """Ask until the answer is `status`: the server looks for changes once a second."""
    deadline_s = time.monotonic() + within_s
    while http.api("/tasks").status != status:
        assert time.monotonic() < deadline_s, f"not {status} within {within_s} s"


def test_the_command_makes_lists_and_revokes_while_the_server_runs(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with started(store) as server:
        # given a server that everybody on this machine may ask
        assert Http(server.url).api("/tasks").status == 200
        # when a token is made
        assert main(["token", "create", "--scope", "read", "--name", "wall", "--directory", str(store)]) == 0
        captured = capsys.readouterr()
        text = captured.out.strip()
        token_id = text.split("_")[1]
        assert TOKEN_PATTERN.fullmatch(text) and text not in captured.err
        # then it opens at once, and soon nothing else does
        until_status(Http(server.url), 401)
        http = bearer(server.url, text)
        assert http.api("/tasks").status == 200
        assert main(["token", "list", "--directory", str(store)]) == 0
        listed = capsys.readouterr().out
        assert token_id in listed and "valid" in listed and "wall" in listed and text.split("_")[2] not in listed
        # when it is revoked, the door stays closed and its streams end
        stream = _stream(server.url, text)
        assert main(["token", "revoke", token_id, "--directory", str(store)]) == 0
        until_status(http, 401)
        with stream:
            stream.read_to_its_end()
        assert Http(server.url).api("/tasks").status == 401
        assert main(["token", "list", "--directory", str(store)]) == 0
        assert "revoked" in capsys.readouterr().out


def test_a_token_made_now_opens_now(store: Path) -> None:
    made(store, Scope.READ)
    with started(store) as server:
        for _ in range(5):
            assert bearer(server.url, made(store, Scope.READ)).api("/tasks").status == 200


def test_a_whole_token_is_not_taken_on_the_command_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = made(store, Scope.READ)
    assert main(["token", "revoke", text, "--directory", str(store)]) == 78
    assert text not in capsys.readouterr().err
    assert main(["token", "revoke", "0" * 12, "--directory", str(store)]) == 78


@pytest.mark.parametrize("text", ["90", "d", "-1d", "0d", "1y", "99999999w", "1.5h"])
def test_a_lifetime_that_is_none_is_a_wrong_command_line(store: Path, text: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["token", "create", "--scope", "read", f"--expires={text}", "--directory", str(store)])
    assert caught.value.code == 2


def test_two_commands_at_once_lose_no_token(store: Path) -> None:
    command = [sys.executable, "-m", "telemetry", "token", "create", "--scope", "read", "--directory", str(store)]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(6)]
    assert [process.wait() for process in running] == [0] * 6
    assert len(TokenFile(store).tokens()) == 6


# ---- where a server may listen


def test_listening_for_others_without_a_token_ends_with_78_and_says_what_to_type(state_dir: Path) -> None:
    command = [sys.executable, "-m", "telemetry", "server", "--host", "0.0.0.0", "--port", "0"]
    ended = subprocess.run(command, env=environment(state_dir), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 78
    assert f"telemetry token create --scope admin --directory {state_dir / 'server'}" in ended.stderr
    assert not (state_dir / "server").exists()


def test_with_a_valid_token_it_may_listen_and_asks_for_it(store: Path) -> None:
    token = TokenFile(store).create([Scope.READ])
    with BackgroundServer(ServerConfig(store, host="0.0.0.0", port=0)) as server:
        assert Http(server.url).api("/tasks").status == 401
        assert bearer(server.url, token[1]).api("/tasks").status == 200
        # also when its file is gone: it was started for others
        (store / "tokens.json").unlink()
        until_status(bearer(server.url, token[1]), 401)
        assert Http(server.url).api("/tasks").status == 401


def test_a_token_that_has_ended_is_no_reason_to_listen(store: Path) -> None:
    file = TokenFile(store)
    token: Token = file.create([Scope.ADMIN])[0]
    file.revoke(token.id)
    TokenFile(store, clock=lambda: 0.0).create([Scope.ADMIN], lifetime_s=60)
    with pytest.raises(ConfigurationError, match="token create"):
        ServerConfig(store, host="0.0.0.0")
