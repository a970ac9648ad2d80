"""The examples, run as their first lines say: without a server into a session folder, and with one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sdk_support import environment, only_session, read_story

from telemetry.client import Client
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig

EXAMPLES = Path(__file__).parents[2] / "examples"


def needs(module: str) -> pytest.MarkDecorator:
    """Skip, and say so, where a framework is not installed."""
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


# (file, arguments, series that must be there, frameworks of its models)
RUNS = [
    pytest.param("plain_loop.py", [], [("loss", "train"), ("parameters", "slope")], []),
    pytest.param("asyncio_program.py", [], [("job time (ms)", "worker 0")], []),
    pytest.param("sklearn_digits.py", ["3"], [("accuracy", "test")], ["joblib"], marks=needs("sklearn")),
    pytest.param(
        "pytorch_training.py",
        ["2"],
        [("accuracy", "test")],
        ["pytorch"],
        marks=[needs("torch"), needs("sklearn")],
    ),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with BackgroundServer(ServerConfig(tmp_path_factory.mktemp("server"), port=0)) as server:
        yield server.url


def run_example(file: str, arguments: list[str], tmp_path: Path, **variables: str) -> str:
    """Run an example in an empty folder; return what it printed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / file), *arguments],
        env=environment(tmp_path / "state", **variables),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {str(run.values[0]) for run in RUNS}


@pytest.mark.parametrize(("file", "arguments", "series", "frameworks"), RUNS)
def test_an_example_without_a_server_leaves_a_session_folder(
    file: str, arguments: list[str], series: list[tuple[str, str]], frameworks: list[str], tmp_path: Path
) -> None:
    run_example(file, arguments, tmp_path)

    story = read_story(only_session(tmp_path / "state"))
    assert story.task["status"] == "completed"
    assert story.task["project"] == "examples"
    assert set(series) <= set(story.scalars)
    assert [model.framework for model in story.models] == frameworks


@pytest.mark.parametrize(("file", "arguments", "series", "frameworks"), RUNS)
def test_an_example_with_a_server_is_a_task_there(
    file: str,
    arguments: list[str],
    series: list[tuple[str, str]],
    frameworks: list[str],
    tmp_path: Path,
    url: str,
) -> None:
    said = run_example(file, arguments, tmp_path, TELEMETRY_URL=url)

    with Client(url) as client:
        (task,) = [task for task in client.tasks(project="examples")["tasks"] if task["id"] in said]
        found = {(item["title"], item["series"]) for item in client.series(task["id"], kind="scalar")}
        models = client.models(task["id"])
    assert task["status"] == "completed"
    assert set(series) <= found
    assert [model["framework"] for model in models] == frameworks
