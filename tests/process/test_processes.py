"""Children of a task's process: each joins by itself as a writer of its own, and only the first ends the task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from sdk_support import environment, only_session, run_program

from telemetry.events import RecordChange
from telemetry.journal import SegmentDamage, read_segments
from telemetry.sdk.identity.membership import shareable_urls
from telemetry.wire import Frame, decode

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

START = """
import json, multiprocessing, os, subprocess, sys, threading, time, warnings
from telemetry import Logger, Task
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads, from Python 3.12 on

def report(name, count=100):
    logger = Logger.current_logger()
    for step in range(count):
        logger.report_scalar("points", name, float(step), step)
    return os.getpid()

def init(**arguments):
    return Task.init("tests", "family", auto_resource_monitoring=False, **arguments)
"""


class Family:
    """What a session folder tells: points by writer, and the record folded by time."""

    def __init__(self, folder: Path) -> None:
        self.points: dict[str, dict[str, list[int]]] = {}
        found: dict[tuple[str, str], tuple[int, bytes, Any]] = {}
        for item in read_segments(folder):
            assert not isinstance(item, SegmentDamage), str(item)
            assert isinstance(item, Frame)
            batch = decode(item)
            series = self.points.setdefault(item.writer_id.hex(), {})
            for index, iteration in zip(batch.columns.series_index, batch.columns.iterations, strict=True):
                series.setdefault(batch.columns.series[index].series, []).append(iteration)
            for event in batch.events:
                if isinstance(event, RecordChange):
                    key = (event.section, event.key)
                    change = (event.time_unix_ns, item.writer_id, event.value)
                    found[key] = max(found.get(key, change), change, key=lambda one: one[:2])
        self.task = {key: value for (section, key), (_, _, value) in found.items() if section == "task"}
        self.writers = {key: value for (section, key), (_, _, value) in found.items() if section == "writers"}

    def steps(self, name: str) -> list[int]:
        """Return the steps of a series that exactly one writer has reported."""
        (steps,) = [series[name] for series in self.points.values() if name in series]
        return steps


def family_of(source: str, state_dir: Path, **variables: str) -> tuple[Family, str]:
    done = run_program(START + textwrap.dedent(source), state_dir, variables=variables)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return Family(only_session(state_dir)), done.stdout


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_of_four_loses_nothing(method: str, state_dir: Path) -> None:
    source = f"""
    if __name__ == "__main__":
        task = init()
        with multiprocessing.get_context({method!r}).Pool(4) as pool:
            pool.starmap(report, [(f"worker {{n}}", 25_000) for n in range(4)], chunksize=1)
            pool.close()
            pool.join()
        report("parent")
    """
    family, _ = family_of(source, state_dir)
    for number in range(4):
        assert family.steps(f"worker {number}") == list(range(25_000))
    assert family.steps("parent") == list(range(100))
    assert family.task["status"] == "completed"
    # Whoever wrote is in the record, and says when it ended; a worker without work wrote nothing.
    assert set(family.writers) == set(family.points)
    assert all("ended_unix_ns" in entry for entry in family.writers.values())
    assert sum("parent_pid" in entry for entry in family.writers.values()) == len(family.writers) - 1


@pytest.mark.parametrize("end", ["return", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_child_that_ends_without_a_word_loses_nothing_older_than_a_second(end: str, state_dir: Path) -> None:
    source = f"""
    def work():
        report("child")
        assert Task.current_task().flush()
        {end}

    if __name__ == "__main__":
        task = init()
        child = multiprocessing.get_context("spawn").Process(target=work)
        child.start()
        child.join()
    """
    family, _ = family_of(source, state_dir)
    assert family.steps("child") == list(range(100))
    assert family.task["status"] == "completed"


CHILD = 'from telemetry import Logger; Logger.current_logger().report_scalar("points", "child", 1.0, 7)'

SAME = "from telemetry import Task; Task.init('tests', 'family').close()"


def test_a_subprocess_joins_from_its_first_report_on(state_dir: Path) -> None:
    source = f"""
    task = init()
    subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
    subprocess.run([sys.executable, "-c", "from telemetry import Task; print(Task.init().id)"], check=True)
    subprocess.run([sys.executable, "-c", {SAME!r}], check=True)
    print(task.id)
    """
    family, printed = family_of(source, state_dir)
    assert family.steps("child") == [7]
    assert len(family.writers) == 4
    first, last = printed.split()
    assert first == last
    # The children's own end is theirs alone.
    assert family.task["status"] == "completed"
    assert sorted(entry.get("status", "") for entry in family.writers.values()) == ["", *["completed"] * 3]


def test_a_subprocess_that_names_another_task_has_one_of_its_own_and_so_have_its_children(state_dir: Path) -> None:
    grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"
    other = f"from telemetry import Task; t = Task.init('tests', 'other', auto_resource_monitoring=False); {grandchild}"
    source = f"""
    task = init()
    subprocess.run([sys.executable, "-c", {other!r}], check=True)
    assert os.environ["TELEMETRY_TASK"]
    task.close()
    assert "TELEMETRY_TASK" not in os.environ
    assert subprocess.run([sys.executable, "-c", {CHILD!r}], capture_output=True).returncode == 1
    """
    done = run_program(START + textwrap.dedent(source), state_dir)
    assert done.returncode == 0, done.stderr
    families = [Family(folder) for folder in (state_dir / "sessions").iterdir()]
    by_name = {family.task["name"]: family for family in families}
    assert sorted(by_name) == ["family", "other"]
    assert by_name["other"].steps("child") == [7]
    assert len(by_name["family"].writers) == 1


def test_a_forked_child_may_leave_for_a_task_of_its_own(state_dir: Path) -> None:
    source = """
    task = init()
    child = os.fork()
    if not child:
        assert Task.init("tests", "family") is task
        own = Task.init("tests", "own", auto_resource_monitoring=False, auto_connect_streams=False)
        assert own.id != task.id and Task.current_task() is own
        report("own")
        own.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    """
    done = run_program(START + textwrap.dedent(source), state_dir)
    assert done.returncode == 0, done.stderr
    families = [Family(folder) for folder in (state_dir / "sessions").iterdir()]
    own = next(family for family in families if family.task["name"] == "own")
    assert own.steps("own") == list(range(100))
    assert {family.task["status"] for family in families} == {"completed"}


def test_a_program_that_replaces_itself_goes_on_in_its_task_and_ends_it(state_dir: Path) -> None:
    source = """
    task = init()
    report("before" if len(sys.argv) == 1 else "after")
    task.flush()
    if len(sys.argv) == 1:
        os.execv(sys.executable, [sys.executable, __file__, "again"])
    """
    family, _ = family_of(source, state_dir)
    assert family.steps("before") == family.steps("after") == list(range(100))
    assert family.task["status"] == "completed"
    assert len(family.writers) == 2


def test_a_fork_server_that_is_older_than_the_task_hands_down_the_right_one(state_dir: Path) -> None:
    source = """
    if __name__ == "__main__":
        context = multiprocessing.get_context("forkserver")
        for name in ("first", "second"):
            task = Task.init("tests", name, auto_resource_monitoring=False, auto_connect_streams=False)
            child = context.Process(target=report, args=(name,))
            child.start()
            child.join()
            task.close()
        child = context.Process(target=report, args=("nobody",))
        child.start()
        child.join()
        assert child.exitcode == 1
    """
    done = run_program(START + textwrap.dedent(source), state_dir)
    assert done.returncode == 0, done.stderr
    for folder in (state_dir / "sessions").iterdir():
        family = Family(folder)
        assert family.steps(family.task["name"]) == list(range(100))


def test_an_offline_zip_holds_what_the_children_said(state_dir: Path) -> None:
    source = """
    if __name__ == "__main__":
        task = init()
        child = multiprocessing.get_context("spawn").Process(target=report, args=("child",))
        child.start()
        child.join()
    """
    done = run_program(START + textwrap.dedent(source), state_dir, variables={"TELEMETRY_MODE": "offline"})
    assert done.returncode == 0, done.stderr
    (found,) = (state_dir / "sessions").iterdir()
    assert found.suffix == ".zip"
    subprocess.run(["python3", "-m", "zipfile", "-e", str(found), str(state_dir / "unpacked")], check=True)
    assert Family(state_dir / "unpacked").steps("child") == list(range(100))


@pytest.mark.timeout(120)
def test_200_forks_at_random_moments_of_full_rate_logging(state_dir: Path) -> None:
    """No child hangs (a watchdog of 10 s each), and none sends a record of its parent's."""
    source = """
    import random
    task = init(auto_connect_streams=True)
    random.seed(7)
    done = threading.Event()

    def log(name):
        logger, step = task.get_logger(), 0
        while not done.is_set():
            logger.report_scalar("parent", name, 1.0, step)
            if step % 100 == 0:
                logger.report_text(f"{name} {step}", print_console=False)
            step += 1
            if step % 2000 == 0:
                time.sleep(0.001)

    threads = [threading.Thread(target=log, args=(f"thread {n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for number in range(200):
        threading.Event().wait(random.random() * 0.01)
        child = os.fork()
        if not child:
            if number % 2:
                report(f"child {number}", 20)
                Task.current_task().close()
            os._exit(0)
        pause, deadline = threading.Event(), time.monotonic() + 10
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(child, 9)
                done.set()
                sys.exit(f"child {number} hung")
            pause.wait(0.002)
        assert ended[1] == 0, ended
    done.set()
    for thread in threads:
        thread.join()
    """
    family, _ = family_of(source, state_dir)
    for number in range(1, 200, 2):
        assert family.steps(f"child {number}") == list(range(20))
    (parent,) = [series for series in family.points.values() if "thread 0" in series]
    assert not any(name.startswith("child") for name in parent)
    others = [series for series in family.points.values() if series is not parent]
    assert not any(name.startswith("thread") for series in others for name in series)
    assert family.task["status"] == "completed"


def test_a_password_in_a_sinks_address_is_not_handed_down(state_dir: Path) -> None:
    assert shareable_urls(["http://host:8008", "zip:/runs"]) == ("http://host:8008", "zip:/runs")
    assert shareable_urls(["http://me:secret@host:8008"]) == ()
    assert shareable_urls(["http://host:8008?token=x"]) == ()
    env = environment(state_dir, TELEMETRY_TOKEN="s3cr3t-token")
    source = (
        "import base64, json, os\n"
        "from telemetry import Task\n"
        "Task.init('tests', 'secrets', sinks=['zip:'], auto_resource_monitoring=False)\n"
        "print(json.dumps(json.loads(base64.urlsafe_b64decode(os.environ['TELEMETRY_TASK']))))\n"
    )
    done = subprocess.run([sys.executable, "-c", source], env=env, capture_output=True, text=True, check=True)
    assert "s3cr3t" not in done.stdout
    assert "secrets" in json.loads(done.stdout.splitlines()[0])
