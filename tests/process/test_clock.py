"""Clocks that no event can carry: a task still arrives whole, and ends on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest
from sdk_support import run_program
from server_support import Http, started

# Runs in a program of its own: the clock is the whole process's.
PROGRAM = """
import time
real = time.time_ns
offset = {moment} - real()
time.time_ns = lambda: real() + offset
time.time = lambda: time.time_ns() / 1e9

import telemetry
task = telemetry.Task.init("clocks", "odd", reuse_last_task_id=False)
for step in range(3):
    task.get_logger().report_scalar("loss", "train", 1.0 / (step + 1), step)
task.get_logger().report_single_value("best", 0.5)
task.close()
print(task.id, task.status)
"""

MOMENTS = {
    "of the year 2300": 10_413_792_000_000_000_000,
    "of the year 2700": 23_036_486_400_000_000_000,
    "a second before the last": 2**63 - 1_000_000_000,
    "zero": 0,
    "of the year 1960": -315_619_200_000_000_000,
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_a_task_of_any_clock_arrives_and_is_completed_on_both_sides(tmp_path: Path, moment: int) -> None:
    with started(tmp_path / "server") as server:
        # when a program runs by such a clock
        source = PROGRAM.format(moment=moment)
        result = run_program(source, tmp_path / "client", variables={"TELEMETRY_URL": server.url})
        assert result.returncode == 0, result.stderr
        task_id, status = result.stdout.split()[-2:]
        # then both sides say the same
        assert status == "completed", result
        http = Http(server.url)
        task = http.get(f"/tasks/{task_id}")
        assert (task["status"], task["points"]) == ("completed", 3), result.stderr
        assert [value["value"] for value in http.get(f"/tasks/{task_id}/values")["values"]] == [0.5]
