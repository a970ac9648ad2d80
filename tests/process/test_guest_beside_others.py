"""A guest beside others: green threads, other threads' imports, a working folder that is gone, no thread to be had."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from pathlib import Path

import pytest
from sdk_support import only_session, read_story, run_program
from telemetry.collectors.post_import import PostImport
from telemetry.sinks.http import HttpSink

from telemetry.errors import ConfigurationError
from telemetry.sdk.launch.plugins import scheme_of
from telemetry.settings import Settings

GREEN = """
{patch}
import telemetry
try:
    telemetry.Task.init("tests", "green", auto_resource_monitoring=False)
except telemetry.ConfigurationError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("package", "patch", "advice"),
    [
        ("gevent", "from gevent.monkey import patch_all; patch_all()", "patch_all(thread=False, queue=False)"),
        ("eventlet", "import eventlet; eventlet.monkey_patch()", "eventlet.monkey_patch(thread=False)"),
    ],
)
def test_green_threads_are_refused_at_once_with_what_to_do(
    package: str, patch: str, advice: str, tmp_path: Path
) -> None:
    if importlib.util.find_spec(package) is None:  # importing it here would change how this process forks
        pytest.skip(f"{package} is not installed")
    done = run_program(GREEN.format(patch=patch), tmp_path / "state")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{package} has replaced") and advice in done.stdout


PARTLY_GREEN = """
{patch}
from telemetry import Task
task = Task.init("tests", "green", auto_resource_monitoring=False)
def work(k):
    for i in range(50):
        task.get_logger().report_scalar("loss", f"s{{k}}", 1.0, i)
        sleep(0)
wait([spawn(work, k) for k in range(4)])
task.upload_artifact("note", {{"a": 1}})
assert task.flush()
"""


@pytest.mark.parametrize(
    ("package", "patch"),
    [
        (
            "gevent",
            "from gevent.monkey import patch_all; patch_all(thread=False, queue=False)\n"
            "from gevent import joinall as wait, sleep, spawn",
        ),
        (
            "eventlet",
            "import eventlet; eventlet.monkey_patch(thread=False)\n"
            "from eventlet import sleep, spawn\nwait = lambda green: [one.wait() for one in green]",
        ),
    ],
)
def test_what_the_refusal_advises_works(package: str, patch: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(package) is None:  # importing it here would change how this process forks
        pytest.skip(f"{package} is not installed")
    done = run_program(PARTLY_GREEN.format(patch=patch), tmp_path / "state")
    assert done.returncode == 0, done.stderr
    story = read_story(only_session(tmp_path / "state"))
    assert {series: len(points) for (_, series), points in story.scalars.items()} == {f"s{k}": 50 for k in range(4)}


def test_a_thread_in_the_middle_of_the_finders_skips_none_when_ours_comes_or_goes() -> None:
    watcher = PostImport({})
    before = list(sys.meta_path)
    watcher.install()
    try:
        # As importlib._bootstrap._find_spec walks the list, in a thread that is in the middle of it.
        walking = iter(sys.meta_path)
        walked = [next(walking), next(walking)]
        watcher.remove()
        walked += walking
        assert walked == [watcher, *before]
        walking = iter(sys.meta_path)
        walked = [next(walking)]
        watcher.install()
        assert walked + list(walking) == before
    finally:
        watcher.remove()
    assert sys.meta_path == before


def test_no_import_of_another_thread_fails_while_tasks_begin_and_end(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"telemetry_test_module_{number}.py").write_text("")
    failed: list[BaseException] = []
    done = threading.Event()

    def imports() -> None:
        try:
            for number in range(200):
                importlib.import_module(f"telemetry_test_module_{number}")
        except ImportError as error:
            failed.append(error)
        finally:
            done.set()

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    sys.path.insert(0, str(tmp_path))
    thread = threading.Thread(target=imports)
    try:
        thread.start()
        while not done.is_set():
            watcher = PostImport({})
            watcher.install()
            watcher.remove()
        thread.join()
    finally:
        sys.path.remove(str(tmp_path))
        sys.setswitchinterval(interval_s)
    assert not failed


WITHOUT_FOLDER = """
import os, shutil, tempfile
folder = tempfile.mkdtemp()
os.chdir(folder)
{begin_first}
shutil.rmtree(folder)
{begin_then}
task.get_logger().report_scalar("loss", "train", 0.5, 1)
task.upload_artifact("data", {{"a": 1}})
task.upload_artifact("text", "results/of.txt")
task.report_model("model.pt")
try:
    from telemetry import InputModel
    InputModel.import_model(weights_url="model.pt")
    task.upload_artifact("gone", __import__("pathlib").Path("gone.bin"))
except ValueError as error:
    print(error)
assert task.flush()
"""


@pytest.mark.parametrize("first", [True, False])
def test_a_working_folder_that_is_deleted_costs_nothing(first: bool, tmp_path: Path) -> None:
    begin = 'from telemetry import Task\ntask = Task.init("tests", "no folder", auto_resource_monitoring=False)'
    parts = {"begin_first": begin if first else "", "begin_then": "" if first else begin}
    done = run_program(WITHOUT_FOLDER.format(**parts), tmp_path / "state")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "could not be found out" not in done.stderr
    story = read_story(only_session(tmp_path / "state"))
    assert story.task["status"] == "completed" and story.scalars == {("loss", "train"): [(1, 0.5)]}


def test_the_scheme_of_an_address_may_be_in_capitals() -> None:
    assert Settings.load(environ={"TELEMETRY_URL": "HTTP://host:8008/"}).url == "http://host:8008"
    assert HttpSink(" HTTPS://host/ ").url == "https://host"


@pytest.mark.parametrize("url", ["host:8008", "127.0.0.1:8008", "[::1]:8008"])
def test_an_address_without_a_scheme_suggests_the_one_with(url: str) -> None:
    for take in (HttpSink, scheme_of):
        with pytest.raises(ConfigurationError, match="did you mean http://") as refusal:
            take(url)
        assert f"http://{url}" in str(refusal.value)


WITHOUT_THREADS = """
import threading
start, given = threading.Thread.start, {given}
def refuse(self):
    # What CPython raises under RLIMIT_NPROC.
    raise RuntimeError("can't start new thread")
threading.Thread.start = refuse
from telemetry import Task
task = Task.init("tests", "no threads")
task.connect({{"lr": 0.1}})
task.set_parameter("Args/depth", 3)
if given:
    threading.Thread.start = start
    assert task.flush()
task.get_logger().report_scalar("loss", "train", 0.5, 1)
task.upload_artifact("data", {{"a": 1}})
task.close()
print("after close")
"""


@pytest.mark.parametrize("given", [False, True])
def test_a_program_that_gets_no_thread_runs_on_and_its_events_are_kept(given: bool, tmp_path: Path) -> None:
    done = run_program(WITHOUT_THREADS.format(given=given), tmp_path / "state")
    assert (done.returncode, done.stdout) == (0, "after close\n"), done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("no thread to be had") == 1
    story = read_story(only_session(tmp_path / "state"))
    assert story.task["status"] == "completed" and story.scalars == {("loss", "train"): [(1, 0.5)]}
    assert ("artifact 'data'" in done.stderr) is not given
