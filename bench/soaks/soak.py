"""Does everything still arrive once, with a bad network, a server that dies and programs that are killed, for minutes?

    python bench/soaks/soak.py --minutes 10

Programs log 10,000 points a second through a proxy that spoils one request in five, and are killed at random moments;
now and then the server is. What the dead programs left is sent with `telemetry sync`. Then the server must have each
program's points from the first on, each once, and none may be missing that is older than a second. Before that, a
million points go through the same proxy, and their checksums are compared. Prints one line of JSON; exit code 1 if
anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from telemetry.sinks.http import HttpSink

from telemetry import lane, retry
from telemetry.client import Client
from telemetry.errors import ServerError
from telemetry.export import read_series
from telemetry.pipeline import Pipeline
from telemetry.settings import Settings
from telemetry.testing import make_header

# The parts are the tests' own: what is measured here is what is checked there.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
from fault_support import (
    Killed,
    ServerProcess,
    delivered_all,
    expected_digests,
    log_points,
    run_until_killed,
    stored_digests,
)
from proxy import FaultyProxy, at_random

SHARE = 0.2
LONGEST_RUN_S = 8.0
SERVER_LIVES_S = (5.0, 20.0)
CHECKSUM_TASK = "5" * 32


def checksum_phase(proxy: FaultyProxy, server: ServerProcess, points: int, folder: Path) -> dict[str, Any]:
    """Send `points` through the proxy, a request for every 2 frames of 500, and compare checksums."""
    kept = lane.WRITE_FRAMES, retry.BASE_DELAY_S
    # A request for every few frames and short waits: more faults in the same time.
    lane.WRITE_FRAMES, retry.BASE_DELAY_S = 2, 0.02
    settings = Settings(state_dir=folder / "checksum", frame_scalars=500)
    pipeline = Pipeline(make_header(CHECKSUM_TASK), [HttpSink(proxy.url, timeout_s=5.0)], settings=settings)
    begin = time.monotonic()
    try:
        pipeline.start()
        for first in range(0, points, 50_000):
            log_points(pipeline, first, min(50_000, points - first))
            pipeline.flush(timeout_s=60.0)
        delivered_all(pipeline)
        seconds = time.monotonic() - begin
        ledger = pipeline.close()
    finally:
        lane.WRITE_FRAMES, retry.BASE_DELAY_S = kept
    return {
        "checksum_points": points,
        "checksum_requests": proxy.seen.total(),
        "checksum_faults": proxy.faults,
        "checksum_dropped": ledger.dropped_total,
        "checksums_equal": stored_digests(server.url, CHECKSUM_TASK) == expected_digests(points),
        "checksum_s": round(seconds, 1),
    }


def kill_phase(
    proxy: FaultyProxy, server: ServerProcess, *, minutes: float, seed: int, folder: Path
) -> tuple[list[Killed], int]:
    """Run programs two at a time until the minutes are over; return them, and how often the server was killed."""
    ended = threading.Event()
    timer = threading.Timer(60 * minutes, ended.set)
    timer.start()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TELEMETRY_")}
    environment = {**clean, "TELEMETRY_URL": proxy.url, "TELEMETRY_REQUEST_TIMEOUT": "3"}

    def run_programs(lane_number: int) -> list[Killed]:
        random_ = random.Random(seed * 1000 + lane_number)
        found: list[Killed] = []
        while not ended.is_set():
            name = f"{lane_number}-{len(found)}"
            found.append(run_until_killed(folder / name, random_.uniform(0.0, LONGEST_RUN_S), environment))
        return found

    random_ = random.Random(seed)
    kills = 0
    with ThreadPoolExecutor(2) as programs:
        waiting = [programs.submit(run_programs, number) for number in range(2)]
        while not ended.wait(random_.uniform(*SERVER_LIVES_S)):
            server.kill()
            server.start()
            kills += 1
        return [killed for runs in waiting for killed in runs.result()], kills


def judge(runs: list[Killed], server: ServerProcess, folder: Path) -> dict[str, Any]:
    """Send what is left, twice, and compare each task with what its program had reported."""
    roots = [str(killed.state_dir) for killed in runs if killed.state_dir.is_dir()]
    command = [sys.executable, "-m", "telemetry.cli", "sync", *roots, "--url", server.url]
    codes = [
        subprocess.run(
            command, capture_output=True, check=False, env={**os.environ, "TELEMETRY_DIR": str(folder)}
        ).returncode
        for _ in range(2)
    ]
    stored = repeats_or_gaps = old_missing = 0
    with Client(server.url) as client:
        for killed in runs:
            steps = _steps(client, killed.task_id)
            stored += len(steps)
            repeats_or_gaps += steps != list(range(len(steps)))
            old_missing += max(0, killed.old - len(steps))
    return {
        "programs_killed": len(runs),
        "points_reported": sum(killed.reported for killed in runs),
        "points_stored": stored,
        "points_older_than_1s": sum(killed.old for killed in runs),
        "of_these_missing": old_missing,
        "tasks_with_gaps_or_repeats": repeats_or_gaps,
        "sync_exit_codes": codes,
        "quarantined": sum(1 for root in roots for _ in Path(root).rglob("quarantine/*.frame")),
    }


def _steps(client: Client, task_id: str) -> list[int]:
    try:
        return [
            step
            for series in read_series(client, task_id)
            if series.kind == "scalar"
            for step in series.iterations.tolist()
        ]
    except ServerError as error:
        if error.status != 404:
            raise
        return []  # killed before its first frame


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the part with kills (default: %(default)g)")
    parser.add_argument("--points", type=int, default=1_000_000, help="of the part with checksums")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="telemetry-soak-") as name, ServerProcess(Path(name) / "server") as server:
        folder = Path(name)
        plan = at_random(arguments.seed, share=SHARE)
        with FaultyProxy(lambda: server.url, plan, seed=arguments.seed) as proxy:
            figures = checksum_phase(proxy, server, arguments.points, folder)
            runs, server_kills = kill_phase(
                proxy, server, minutes=arguments.minutes, seed=arguments.seed, folder=folder
            )
            figures |= judge(runs, server, folder)
            seen = {str(fault): count for fault, count in sorted(proxy.seen.items())}
    figures |= {"minutes": arguments.minutes, "seed": arguments.seed, "server_kills": server_kills, "requests": seen}
    print(json.dumps(figures | {"cpus": os.cpu_count(), "python": sys.version.split()[0]}))
    bad = ("of_these_missing", "tasks_with_gaps_or_repeats", "checksum_dropped", "quarantined")
    return int(any(figures[key] for key in bad) or not figures["checksums_equal"])


if __name__ == "__main__":
    sys.exit(main())
