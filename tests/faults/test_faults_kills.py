"""Kills at random moments: of the program that logs, of the importer, of the server."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_support import Killed, ServerProcess, run_until_killed, steps_of
from reimport_support import begin_import, export_digests, kill_while_importing, make_sessions
from sdk_support import environment, only_session
from server_support import started

from telemetry.cli import main
from telemetry.client import Client
from telemetry.export import read_series


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


@pytest.mark.slow
def test_imports_in_any_order_with_kills_of_both_sides_give_the_same_bytes(tmp_path: Path) -> None:
    random_ = random.Random(5)
    sessions = make_sessions(tmp_path / "sessions", 8)
    # given what one import without any trouble gives
    with started(tmp_path / "reference") as server:
        assert main(["import", *map(str, sessions), "--url", server.url]) == 0
        expected = export_digests(server.url, tmp_path / "expected")
    assert (tmp_path / "expected" / "export.jsonl").read_bytes().count(b'"type":"point"') == 8 * 2 * 3000
    kills = [["importer", "server"], ["server", "importer"], ["importer"]]
    with ServerProcess(tmp_path / "server") as other:
        for turn, victims in enumerate(kills):
            for victim in victims:
                # when the importer or the server is killed in the middle, and it is simply started again
                kill_while_importing(random_.sample(sessions, len(sessions)), other, victim, tmp_path)
            done = begin_import(random_.sample(sessions, len(sessions)), other.url, tmp_path)
            assert done.wait() == 0
            # then the server has the same as if nothing had happened
            assert export_digests(other.url, tmp_path / f"turn-{turn}") == expected
        assert other.starts == 3
