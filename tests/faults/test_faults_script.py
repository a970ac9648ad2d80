"""A long scripted session is killed between its calls: what is left is what the calls said that had returned."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from script_support import CALLS, run_script, state_of
from sdk_support import environment
from server_support import started

from telemetry.cli import main
from telemetry.client import Client


@pytest.mark.slow
def test_a_session_killed_after_a_call_is_the_session_of_the_calls_that_returned(tmp_path: Path) -> None:
    # given the same calls with an end of their own, and with a kill a little more than a second after the last of them
    moments = [0, 3, 6, 10, 12, 17, 19, 21, CALLS]
    clean = environment(tmp_path / "unused")

    def run(number: int, ending: str) -> Path:
        return run_script(tmp_path / ending / str(number), number, ending, clean)

    with ThreadPoolExecutor(4) as programs:
        ended = list(programs.map(lambda number: run(number, "close"), moments))
        killed = list(programs.map(lambda number: run(number, "kill"), moments))
    # when both are imported
    with started(tmp_path / "server") as server:
        assert main(["import", *map(str, [*ended, *killed]), "--url", server.url]) == 0
        with Client(server.url) as client:
            states = [
                (state_of(client, whole.name), state_of(client, cut.name))
                for whole, cut in zip(ended, killed, strict=True)
            ]
            statuses = {client.task(cut.name)["status"] for cut in killed}
    # then they tell the same
    for number, (whole, cut) in zip(moments, states, strict=True):
        assert cut == whole, f"killed after call {number}"
    assert statuses == {"in_progress"}
    # and the calls did something: no two of these states are equal
    assert len({repr(cut) for _, cut in states}) == len(moments)
    last = states[-1][1]
    assert last["task"]["name"] == "renamed" and last["artifacts"]["person"]["state"] == "stored"
    assert last["output_models"]["net"]["size_bytes"] == 7000
