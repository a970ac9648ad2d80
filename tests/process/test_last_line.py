"""The last line names what is there: each path in it opens, and together they hold all that was delivered."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sdk_support import environment, run_program
from server_support import config_of

from telemetry.server.app import BackgroundServer
from telemetry.sessions.sources import open_session
from telemetry.wire import Frame, decode

OFFLINE = {"TELEMETRY_MODE": "offline"}


def named(stderr: str) -> list[Path]:
    """Return the paths that the last line says to import."""
    found = re.search(r"See it with: telemetry import (.*)$", stderr.strip().splitlines()[-1])
    assert found is not None, stderr
    return [Path(word) for word in shlex.split(found.group(1))]


def steps_in(paths: list[Path]) -> list[int]:
    frames = [item for path in paths for item in open_session(path).read() if isinstance(item, Frame)]
    return sorted(
        iteration
        for batch in map(decode, frames)
        for index, iteration in zip(batch.columns.series_index, batch.columns.iterations, strict=True)
        if batch.columns.series[index].title == "loss"
    )


FIRST_HALF = """
    import os, signal, sys
    from telemetry import Task

    if len(sys.argv) == 1:
        task = Task.init(project_name="p", task_name="halves")
        task.get_logger().report_scalar("loss", "train", value=1.0, iteration=0)
        task.flush()
        END
    task = Task.init(project_name="p", task_name="halves", continue_last_task=True)
    task.get_logger().report_scalar("loss", "train", value=1.0, iteration=1)
    task.close()
"""


def test_after_an_exec_the_zip_and_the_folder_are_named(tmp_path: Path) -> None:
    source = FIRST_HALF.replace("END", "os.execv(sys.executable, [sys.executable, __file__, 'again'])")
    done = run_program(source, tmp_path / "state", variables=OFFLINE)
    assert done.returncode == 0, done.stderr
    assert steps_in(named(done.stderr)) == [0, 1]


def test_after_a_kill_the_zip_and_the_folder_are_named(tmp_path: Path) -> None:
    source = FIRST_HALF.replace("END", "os.kill(os.getpid(), signal.SIGKILL)")
    assert run_program(source, tmp_path / "state", variables=OFFLINE).returncode == -9
    done = run_program(source, tmp_path / "state", "again", variables=OFFLINE)
    assert done.returncode == 0, done.stderr
    assert steps_in(named(done.stderr)) == [0, 1]


def test_importing_one_half_says_that_there_is_another(tmp_path: Path) -> None:
    source = FIRST_HALF.replace("END", "os.kill(os.getpid(), signal.SIGKILL)")
    run_program(source, tmp_path / "state", variables=OFFLINE)
    halves = named(run_program(source, tmp_path / "state", "again", variables=OFFLINE).stderr)
    assert len(halves) == 2
    with BackgroundServer(config_of(tmp_path / "data")) as server:
        for one, other in (halves, halves[::-1]):
            done = _import(server.url, tmp_path, one)
            assert done.returncode == 0, done.stderr
            assert f"there is more of the same task: telemetry import {other}" in done.stderr
        assert "there is more" not in _import(server.url, tmp_path, *halves).stderr


def _import(url: str, tmp_path: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "telemetry", "import", "--url", url, *map(str, paths)],
        env=environment(tmp_path / "state"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_where_the_zip_cannot_be_written_the_folder_is_named(tmp_path: Path) -> None:
    # Given a limit for files that the zip of several segments is over
    source = """
        import resource
        from telemetry import Task

        task = Task.init(project_name="p", task_name="full")
        for step in range(20):
            task.get_logger().report_scalar("loss", "train", value=1.0, iteration=step)
            task.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
        task.close()
    """
    done = run_program(source, tmp_path / "state", variables={**OFFLINE, "TELEMETRY_SEGMENT_BYTES": "1000"})
    assert done.returncode == 0, done.stderr
    (folder,) = named(done.stderr)
    assert folder.is_dir()
    assert steps_in([folder]) == list(range(20))


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_what_is_nowhere_is_not_said_to_be_seen_anywhere(mode: str, tmp_path: Path) -> None:
    # Given a state folder that cannot be made again
    source = """
        import os, shutil
        from telemetry import Task

        task = Task.init(project_name="p", task_name="gone")
        task.get_logger().report_scalar("loss", "train", value=1.0, iteration=0)
        task.flush()
        shutil.rmtree(os.environ["TELEMETRY_DIR"])
        open(os.environ["TELEMETRY_DIR"], "w").close()
        task.close()
    """
    done = run_program(source, tmp_path / "state", variables={"TELEMETRY_MODE": mode})
    assert done.returncode == 0, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert " 0 delivered" in last
    assert "journal_lost" in last
    assert "See it with" not in last
    assert "safe" not in done.stderr


def test_an_upload_whose_bytes_were_deleted_is_not_said_to_be_on_disk(tmp_path: Path) -> None:
    source = """
        import os, shutil
        from telemetry import Task

        task = Task.init(project_name="p", task_name="blobs")
        upload = task.upload_artifact("data", {"a": 1}, wait_on_upload=False)
        while not task.flush() or not list(STATE.glob("spool/*/blobs/*")):
            pass
        shutil.rmtree(next(STATE.glob("spool/*/blobs")))
        task.close()
    """.replace("STATE", "__import__('pathlib').Path(os.environ['TELEMETRY_DIR'])")
    variables = {"TELEMETRY_URL": "http://127.0.0.1:9", "TELEMETRY_CLOSE_TIMEOUT": "2"}
    done = run_program(source, tmp_path / "state", variables=variables)
    assert done.returncode == 0, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "still to be sent" not in last
    assert "artifact 'data' failed: " in last
