"""Folders under a program that changes its working folder, as Hydra and Ray Tune do it: nothing moves with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sdk_support import run_program

from telemetry.journal import read_segments
from telemetry.settings import Settings, default_cache_dir, default_state_dir
from telemetry.wire import Frame, decode


def test_what_is_relative_means_the_same_after_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    (here / "config" / "telemetry").mkdir(parents=True)
    elsewhere.mkdir()
    (here / "token").write_text("first\n")
    (here / "telemetry.toml").write_text('flush_interval_s = 0.25\nurl = "zip:runs/one.zip?max_zip_bytes=9"\n')
    (here / "config" / "telemetry" / "config.toml").write_text("quiet = true\n")
    monkeypatch.chdir(here)
    monkeypatch.setenv("TELEMETRY_DIR", "state")
    monkeypatch.setenv("TELEMETRY_TOKEN_FILE", "token")
    monkeypatch.setenv("XDG_CONFIG_HOME", "config")

    first = Settings.load()
    monkeypatch.chdir(elsewhere)
    again = Settings.load()

    assert first == again
    assert (again.state_dir, again.token_file, again.token) == (here / "state", here / "token", "first")
    assert (again.flush_interval_s, again.quiet) == (0.25, True)
    assert again.url == f"zip:{here / 'runs' / 'one.zip'}?max_zip_bytes=9"


def test_default_folders_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"XDG_STATE_HOME": "state", "XDG_CACHE_HOME": "cache"}
    assert default_state_dir(environ) == tmp_path / "state" / "telemetry"
    assert default_cache_dir(environ) == tmp_path / "cache" / "telemetry"
    (tmp_path / "home").mkdir()
    assert default_state_dir({"HOME": "home"}) == tmp_path / "home" / ".local" / "state" / "telemetry"


def test_a_relative_state_folder_stays_where_it_was_while_the_server_is_down(tmp_path: Path) -> None:
    # Given a spool that needs a new segment again and again, and a program that leaves its working folder
    source = """
        import os, sys
        from telemetry import Task

        task = Task.init(project_name="p", task_name="moves")
        os.mkdir("run")
        os.chdir("run")
        for step in range(20_000):
            task.get_logger().report_scalar("loss", "train", value=step, iteration=step)
            if step % 1000 == 0:
                task.flush(5)
        task.close()
        print(task.ledger().as_dict(), os.environ["TELEMETRY_DIR"])
    """
    variables = {"TELEMETRY_DIR": "state", "TELEMETRY_URL": "http://127.0.0.1:9", "TELEMETRY_SEGMENT_BYTES": "20000"}
    done = run_program(source, tmp_path / "state", variables=variables)

    # Then all of it lies in the one folder, and the program's environment is again what it was
    assert done.returncode == 0, done.stderr
    assert "'dropped': {}" in done.stdout
    assert done.stdout.endswith(" state\n")
    (spool,) = (tmp_path / "state" / "spool").iterdir()
    frames = [item for item in read_segments(spool) if isinstance(item, Frame)]
    points = [
        iteration
        for batch in map(decode, frames)
        for index, iteration in zip(batch.columns.series_index, batch.columns.iterations, strict=True)
        if batch.columns.series[index].title == "loss"
    ]
    assert points == list(range(20_000))
    assert list((tmp_path / "run").iterdir()) == []


def test_a_child_in_another_working_folder_writes_to_the_same_state_folder(tmp_path: Path) -> None:
    source = """
        import os, subprocess, sys
        from telemetry import Task

        task = Task.init(project_name="p", task_name="parent")
        os.mkdir("run")
        child = "from telemetry import Task; Task.init().get_logger().report_single_value('child', 1.0)"
        subprocess.run([sys.executable, "-c", child], check=True, cwd="run")
        task.close()
    """
    done = run_program(source, tmp_path / "state", variables={"TELEMETRY_DIR": "state"})

    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run").iterdir()) == []
    (session,) = (tmp_path / "state" / "sessions").iterdir()
    writers = {item.writer_id for item in read_segments(session) if isinstance(item, Frame)}
    assert len(writers) == 2
