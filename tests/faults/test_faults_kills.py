"""Kills at random moments: of the program that logs, of the importer, of the server."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_support import Killed, ServerProcess, export_bytes, run_until_killed, steps_of, until
from proxy import Fault, FaultyProxy, at_random
from sdk_support import environment, only_session
from server_support import started
from telemetry.sinks.local_zip import LocalZipSink

from telemetry.cli import main
from telemetry.client import Client
from telemetry.events import ConsoleLine, ModelSaved, RecordChange, SingleValue
from telemetry.export import read_series
from telemetry.pipeline import Pipeline
from telemetry.settings import Settings
from telemetry.testing import make_header


@pytest.mark.slow
def test_a_program_killed_at_any_moment_has_kept_all_that_is_older_than_a_second(tmp_path: Path) -> None:
    # given programs that log 10,000 points a second, killed at random moments
    random_ = random.Random(4)
    moments = [random_.uniform(0.0, 2.5) for _ in range(25)]
    clean = environment(tmp_path / "unused")

    def run(number: int) -> Killed:
        return run_until_killed(tmp_path / str(number), moments[number], clean)

    with ThreadPoolExecutor(4) as programs:
        runs = list(programs.map(run, range(len(moments))))
    sessions = [only_session(killed.state_dir) for killed in runs]
    with started(tmp_path / "server") as server:
        # when each is imported, twice
        for _ in range(2):
            assert main(["import", *map(str, sessions), "--url", server.url]) == 0
        with Client(server.url) as client:
            for killed, session in zip(runs, sessions, strict=True):
                steps = [
                    step
                    for series in read_series(client, session.name)
                    if series.kind == "scalar"
                    for step in series.iterations.tolist()
                ]
                # then the points are there from the first on, none twice, and none of the old ones is missing
                assert steps == list(range(len(steps)))
                assert killed.old <= len(steps) <= killed.reported + 1
                # and the run does not pass for one that ended well
                assert client.task(session.name)["status"] in ("in_progress", "stalled", "lost")
    assert sum(killed.old for killed in runs) > 50_000


def test_with_durability_commit_all_that_was_flushed_is_there(tmp_path: Path) -> None:
    # given programs that flush every 500 points
    clean = environment(tmp_path / "unused")
    with ThreadPoolExecutor(4) as programs:
        runs = list(
            programs.map(
                lambda moment: run_until_killed(tmp_path / str(moment), moment, clean, flush_every=500),
                [0.3, 0.7, 1.1, 1.5],
            )
        )
    # then
    for killed in runs:
        steps = steps_of(only_session(killed.state_dir))
        assert steps == list(range(len(steps)))
        assert len(steps) >= killed.flushed > 0


def make_sessions(folder: Path, count: int) -> list[Path]:
    """Return folders with the sessions of a task each: of two writers that speak at the same times.

    Half of them hold a session folder, half a folder and a zip.
    """
    found = []
    for number in range(count):
        task_id = f"{number:032x}"
        parent = folder / str(number)
        for writer in range(2):
            zips = writer == 1 and number % 2 == 1
            sink = LocalZipSink(parent, parent / "session.zip" if zips else None)
            header = make_header(task_id, name=f"run {number}")
            pipeline = Pipeline(header, [sink], settings=Settings(state_dir=folder / "state", frame_scalars=100))
            pipeline.start()
            emit = pipeline.emit
            for step in range(3000):
                emit.rows += ("loss", "train", step * 0.1 + writer, step, 1_700_000_000_000_000_000 + step)
                if len(emit.rows) > emit.mark:
                    emit.crossed()
                if step % 500 == 0:
                    emit(ConsoleLine(step, "stdout", f"step {step}"))
                    emit(RecordChange(step, "parameters", "rate", [writer, step]))
                    emit(SingleValue(step, "best", float(writer)))
                    emit(ModelSaved(step, "model", f"/models/{writer}", "torch", step, 10))
            emit(RecordChange(10**18, "task", "status", "failed" if number % 3 else "completed"))
            pipeline.close()
        found.append(parent)
    return found


@pytest.mark.slow
def test_imports_in_any_order_with_kills_of_both_sides_give_the_same_bytes(tmp_path: Path) -> None:
    random_ = random.Random(5)
    sessions = make_sessions(tmp_path / "sessions", 8)
    # given what one import without any trouble gives
    with started(tmp_path / "reference") as server:
        assert main(["import", *map(str, sessions), "--url", server.url]) == 0
        expected = export_bytes(server.url, tmp_path / "expected")
    assert expected.count(b'"type":"point"') == 8 * 2 * 3000
    kills = [["importer", "server"], ["server", "importer"], ["importer"]]
    with ServerProcess(tmp_path / "server") as other:
        for turn, victims in enumerate(kills):
            for victim in victims:
                # when the importer or the server is killed in the middle, and it is simply started again
                kill_while_importing(random_.sample(sessions, len(sessions)), other, victim, tmp_path)
            done = begin_import(random_.sample(sessions, len(sessions)), other.url, tmp_path)
            assert done.wait() == 0
            # then the server has the same as if nothing had happened
            assert export_bytes(other.url, tmp_path / f"turn-{turn}") == expected
        assert other.starts == 3


def kill_while_importing(sessions: list[Path], server: ServerProcess, victim: str, folder: Path) -> None:
    """Begin an import on a slow network, and kill one side when its first request is under way."""
    slow = at_random(0, share=1.0, faults=[Fault.DELAY])
    with FaultyProxy(server.url, slow, delay_s=0.05) as proxy:
        importer = begin_import(sessions, proxy.url, folder)
        until(lambda: proxy.seen.total() >= 1, "the first request")
        assert importer.poll() is None
        if victim == "server":
            server.kill()
        importer.kill()
        importer.wait()
    if victim == "server":
        server.start()


def begin_import(sessions: list[Path], url: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "telemetry.cli", "import", *map(str, sessions), "--url", url],
        env={**os.environ, "TELEMETRY_DIR": str(folder / "importer")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
