"""README.md: its links lead somewhere, its commands are the check's own, its session runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.client import Client
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_check_calls_the_test_command_word_for_word() -> None:
    # given
    (command,) = [block.strip() for block in blocks("sh") if "pytest" in block]
    # then
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_each_link_leads_to_a_file(link: str) -> None:
    assert (ROOT / link).is_file()


def test_the_first_session_runs_and_says_what_the_readme_says(tmp_path: Path) -> None:
    # given the session of the README, word for word, and a server
    session = blocks("python")[0]
    with BackgroundServer(ServerConfig(tmp_path / "server", port=0)) as server:
        # when
        done = subprocess.run(
            [sys.executable, "-c", session],
            env={"TELEMETRY_URL": server.url, "TELEMETRY_DIR": str(tmp_path / "state"), "PATH": ""},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        with Client(server.url) as client:
            (task,) = client.tasks()["tasks"]
            (series,) = client.series(task["id"], kind="scalar")
    # then
    assert (task["project"], task["name"], task["status"]) == ("examples", "first", "completed")
    assert (series["title"], series["series"], series["count"], series["last"]) == ("loss", "train", 1000, 0.001)
    assert f"{server.url}/tasks/{task['id']}" in done.stderr
    first, last = re.findall(r"telemetry: completed\. ([\d,]+) events logged: ([\d,]+) delivered\.", done.stderr)[0]
    assert first == last


def test_the_session_for_those_who_know_the_task_page_runs(tmp_path: Path) -> None:
    # given the second session, word for word, a server, and the weights that it names
    session = blocks("python")[1]
    (tmp_path / "net.pt").write_bytes(b"weights")
    with BackgroundServer(ServerConfig(tmp_path / "server", port=0)) as server:
        # when
        done = subprocess.run(
            [sys.executable, "-c", session],
            env={
                "TELEMETRY_URL": server.url,
                "TELEMETRY_DIR": str(tmp_path / "state"),
                "PATH": "",
                "HOME": str(tmp_path),
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        with Client(server.url) as client:
            found = {task["name"]: client.task(task["id"]) for task in client.tasks()["tasks"]}
    # then
    printed = done.stdout.split()
    assert "{'settings" not in done.stdout and "'cat': 0.7" in done.stdout
    assert Path(printed[-1]).read_bytes() == b"weights"
    assert {name: task["status"] for name, task in found.items()} == {"baseline": "completed", "again": "created"}
    assert found["again"]["record"]["parameters"]["General/lr"]["value"] == 0.05
