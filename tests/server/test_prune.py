"""`telemetry prune` and [retention]: what goes, what never does, and who is told."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_support import LOSS, Http, config_of, frame_of, started

from telemetry.cli import main
from telemetry.client import Client
from telemetry.commands.prune import size_bytes
from telemetry.errors import ConfigurationError, ServerError
from telemetry.events import ConsoleLine, RecordChange
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig, read_retention
from telemetry.server.store import Retention
from telemetry.server.tokens import Scope, TokenFile

DAY_NS = 24 * 3600 * 1_000_000_000
NOW_NS = 1_800_000_000 * 1_000_000_000


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("TELEMETRY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


class Clock:
    """The server's clock, moved by hand."""

    def __init__(self) -> None:
        self.unix_ns = NOW_NS

    def __call__(self) -> int:
        return self.unix_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(state_dir: Path, clock: Clock) -> Iterator[str]:
    with BackgroundServer(config_of(state_dir / "server", clock=clock)) as server:
        yield server.url


def add(
    url: str,
    name: str,
    *,
    project: str = "p",
    days_ago: float = 0,
    status: str = "completed",
    kib: int = 1,
    **more: Any,
) -> str:
    """Send a task that ended so long ago, of about this size; return its id."""
    task_id = name.encode().hex().ljust(32, "0")[:32]
    ended = NOW_NS - int(days_ago * DAY_NS)
    fields = {"name": name, "project": project, "status": status, **more}
    if status in ("completed", "failed", "stopped"):
        fields["ended_unix_ns"] = ended
    records = [RecordChange(ended, "task", key, value) for key, value in fields.items()]
    text = [ConsoleLine(ended, "stdout", os.urandom(512).hex()) for _ in range(kib)]
    writer = name.encode().ljust(16, b".")[:16]
    frame = frame_of({LOSS: [(0, ended, 1.0)]}, [*records, *text], task_id=task_id, writer=writer)
    assert Http(url).post(frame).results == ["stored"]
    return task_id


def names_at(url: str) -> set[str]:
    with Client(url) as client:
        return {task["name"] for task in client.tasks(page_size=500)["tasks"]}


def test_by_age_those_that_ended_long_ago_go_and_what_runs_never_does(
    url: str, clock: Clock, capsys: pytest.CaptureFixture[str], state_dir: Path
) -> None:
    add(url, "old", days_ago=100)
    add(url, "failed long ago", days_ago=91, status="failed")
    add(url, "young", days_ago=89)
    add(url, "published", days_ago=100, published=True)
    add(url, "kept", days_ago=100, tags=["keep"])
    add(url, "draft", days_ago=100, status="created")
    add(url, "runs", status="in_progress")
    # When it is only looked at
    assert main(["prune", "--older-than", "90d", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert len(names_at(url)) == 7
    assert "1 created, 1 in_progress, 1 published, 1 tagged keep" in said
    assert said.index("old") < said.index("failed long ago")
    # When it is done
    assert main(["prune", "--older-than", "90d", "--yes"]) == 0
    assert names_at(url) == {"young", "published", "kept", "draft", "runs"}
    assert "removed: 2 tasks" in capsys.readouterr().out
    # Then a person finds what it was
    notes = state_dir / "server" / "pruned.jsonl"
    assert stat.S_IMODE(notes.stat().st_mode) == 0o600
    found = [json.loads(line) for line in notes.read_text().splitlines()]
    assert [(item["name"], item["project"], item["reason"]) for item in found] == [
        ("old", "p", "age"),
        ("failed long ago", "p", "age"),
    ]
    # And what is asked for by name goes too, but for drafts and what runs; until that has been silent for a day
    assert main(["prune", "--older-than", "90d", "--yes", "--published", "--kept"]) == 0
    assert names_at(url) == {"young", "draft", "runs"}
    clock.unix_ns += 100 * DAY_NS
    assert main(["prune", "--older-than", "90d", "--yes"]) == 0
    assert names_at(url) == {"draft"}


def test_by_size_the_oldest_of_each_project_go_until_it_fits(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        add(url, f"a{number}", project="a", days_ago=10 - number, kib=100)
        add(url, f"b{number}", project="b/below", days_ago=10 - number, kib=20)
    add(url, "a runs", project="a", status="in_progress", kib=100)
    # Some 5 x 60 kB in a, of which what runs counts and stays
    assert main(["prune", "--keep-bytes", "200kB", "--yes"]) == 0
    left = names_at(url)
    assert left == {"a2", "a3", "a runs", "b0", "b1", "b2", "b3"}, capsys.readouterr().out
    # And of one project alone, where it is some 4 x 12 kB
    assert main(["prune", "--keep-bytes", "30kB", "--project", "b", "--yes"]) == 0
    assert names_at(url) == {"a2", "a3", "a runs", "b2", "b3"}


def test_it_asks_before_it_removes(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(url, "old", days_ago=100)
    for answer, code, left in (("", 1, {"old"}), ("n\n", 1, {"old"}), ("y\n", 0, set())):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        assert main(["prune", "--older-than", "90d"]) == code
        assert names_at(url) == left
    assert "remove 1 task for good?" in capsys.readouterr().out
    assert main(["prune", "--older-than", "90d"]) == 0
    assert "nothing is to go" in capsys.readouterr().out


def test_what_was_not_shown_is_not_removed(url: str) -> None:
    first, second = add(url, "old", days_ago=100), add(url, "older", days_ago=200)
    with Client(url) as client:
        plan = client.prune(older_than_s=90 * 86_400, only=[first])
        assert [task["id"] for task in plan["tasks"]] == [first]
        assert names_at(url) == {"older"}
        with pytest.raises(ServerError, match="say what is to be removed"):
            client.prune(only=[second])
        with pytest.raises(ServerError, match="a number from 0 on"):
            client.prune(older_than_s=-1)


def test_a_stopped_server_is_pruned_where_it_lies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    with started(data) as server:
        add(server.url, "old", days_ago=2000)
        add(server.url, "large", days_ago=2000, kib=3000)
    before = (data / "telemetry.sqlite3").stat().st_size
    assert main(["prune", "--older-than", "90d", "--yes", "--directory", str(data)]) == 0
    assert (data / "telemetry.sqlite3").stat().st_size < before / 2
    with started(data) as server:
        assert names_at(server.url) == set()
    assert main(["prune", "--dry-run", "--directory", str(tmp_path / "nothing")]) == 78
    assert "there is no server's data" in capsys.readouterr().err


def test_over_the_network_it_takes_an_admin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    tokens = {scope: TokenFile(data).create([scope])[1] for scope in Scope}
    with started(data) as server:
        for scope, code in ((Scope.READ, 1), (Scope.INGEST, 1), (Scope.ADMIN, 0)):
            (tmp_path / "token").write_text(tokens[scope])
            (tmp_path / "token").chmod(0o600)
            line = ["prune", "--dry-run", "--url", server.url, "--token-file", str(tmp_path / "token")]
            assert main(line) == code, capsys.readouterr().err


def test_the_server_does_it_by_itself_as_its_file_says(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    with BackgroundServer(config_of(data, clock=clock)) as server:
        add(server.url, "old", project="a", days_ago=100)
        add(server.url, "young", project="a", days_ago=10)
        add(server.url, "scratch", project="b/scratch", days_ago=10)
    (data / "server.toml").write_text(
        '[retention]\nolder_than_days = 90\n[retention.project."b/scratch"]\nolder_than_days = 7.5\n'
    )
    config = ServerConfig(data, port=0, clock=clock, retention=read_retention(data / "server.toml"))
    with BackgroundServer(config) as server:
        while len(names_at(server.url)) > 1:
            continue
        assert names_at(server.url) == {"young"}
    said = [record.getMessage() for record in caplog.records if "were removed" in record.getMessage()]
    assert len(said) == 2 and "pruned.jsonl names them" in said[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[retention]\nolder_than_days = 0\n", "a number above 0"),
        ("[retention]\nolder_than = 9\n", "may hold older_than_days"),
        ("[retention]\nkept = 1\n", "true or false"),
        ("[retention]\nproject = 1\n", "write"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "server.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        read_retention(tmp_path / "server.toml")


def test_without_a_word_of_it_nothing_is_ever_removed(tmp_path: Path) -> None:
    assert read_retention(tmp_path / "server.toml") == ()
    (tmp_path / "server.toml").write_text('[retention]\n[retention.project."a/"]\nkeep_bytes = 10\n')
    assert read_retention(tmp_path / "server.toml") == (("a", Retention(keep_bytes=10)),)


def test_sizes_are_read_as_people_write_them() -> None:
    assert [size_bytes(text) for text in ("20GB", "1.5 GiB", "512", "7kb")] == [20 * 10**9, 3 * 2**29, 512, 7000]
