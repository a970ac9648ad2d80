"""What does a SIGKILL at a random moment cost? Programs log 10,000 points a second and are killed, hundreds of times.

    python bench/soaks/kills.py --kills 500 [--commit]

Prints one line of JSON. Each session that was begun must open and hold every point that was reported more than a
second before the kill, without a gap, and after two imports the server must have each point once. The tests do 25
(tests/faults/).
Unfair in it: a SIGKILL is not a power cut; what the page cache holds survives it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from telemetry.client import Client
from telemetry.export import read_series

# The parts are the tests' own: what is measured here is what is checked there.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
from fault_support import Killed, ServerProcess, run_until_killed, steps_of

LONGEST_S = 3.0
FLUSH_EVERY = 500


def measure(kills: int, *, seed: int, parallel: int, rate: float, commit: bool, folder: Path) -> dict[str, Any]:
    """Return the figures of `kills` runs in `folder`."""
    random_ = random.Random(seed)
    moments = [random_.uniform(0.0, LONGEST_S) for _ in range(kills)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TELEMETRY_")}

    def run(number: int) -> Killed:
        return run_until_killed(
            folder / str(number), moments[number], clean, rate=rate, flush_every=FLUSH_EVERY if commit else 0
        )

    begin = time.monotonic()
    with ThreadPoolExecutor(parallel) as programs:
        runs = list(programs.map(run, range(kills)))
    killed_s = time.monotonic() - begin
    figures = {
        "kills": kills,
        "rate": rate,
        "parallel": parallel,
        "seed": seed,
        "durability": "commit" if commit else "second",
    }
    figures |= _judge(runs)
    figures |= _import_twice(runs, folder)
    return figures | {"kills_s": round(killed_s, 1), "cpus": os.cpu_count(), "python": sys.version.split()[0]}


def _judge(runs: list[Killed]) -> dict[str, Any]:
    opened = kept = gaps = old = old_missing = flushed_missing = 0
    lost_s: list[float] = []
    for killed in runs:
        sessions = list((killed.state_dir / "sessions").glob("*/session.json"))
        opened += len(sessions)
        steps = steps_of(sessions[0].parent) if sessions else []
        kept += len(steps)
        gaps += steps != list(range(len(steps)))
        old += killed.old
        old_missing += max(0, killed.old - len(steps))
        flushed_missing += max(0, killed.flushed - len(steps))
        lost_s.append(killed.oldest_lost_s(len(steps)))
    lost_s.sort()
    return {
        "sessions_opened": opened,
        # Killed in the first milliseconds, before session.json stood; no point of theirs was a second old.
        "sessions_not_begun": len(runs) - opened,
        "points_reported": sum(killed.reported for killed in runs),
        "points_kept": kept,
        "sessions_with_gaps_or_repeats": gaps,
        "points_older_than_1s": old,
        "of_these_missing": old_missing,
        "points_flushed": sum(killed.flushed for killed in runs),
        "flushed_missing": flushed_missing,
        "oldest_lost_s_p50": round(lost_s[len(lost_s) // 2], 3),
        "oldest_lost_s_p99": round(lost_s[int(len(lost_s) * 0.99)], 3),
        "oldest_lost_s_max": round(lost_s[-1], 3),
    }


def _import_twice(runs: list[Killed], folder: Path) -> dict[str, Any]:
    """Send all sessions to a server twice; return how many points it then has too many, or not at all."""
    stored = wrong = 0
    begun = [killed for killed in runs if (killed.state_dir / "sessions").is_dir()]
    with ServerProcess(folder / "server") as server:
        begin = time.monotonic()
        codes = [
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "telemetry.cli",
                    "import",
                    *(str(killed.state_dir) for killed in begun),
                    "--url",
                    server.url,
                ],
                capture_output=True,
                check=False,
            ).returncode
            for _ in range(2)
        ]
        imports_s = time.monotonic() - begin
        with Client(server.url) as client:
            for killed in begun:
                (session,) = (killed.state_dir / "sessions").iterdir()
                expected = steps_of(session)
                found = [
                    step
                    for series in (read_series(client, session.name) if expected else ())
                    if series.kind == "scalar"
                    for step in series.iterations.tolist()
                ]
                stored += len(found)
                wrong += found != expected
    return {
        "import_exit_codes": codes,
        "imports_s": round(imports_s, 1),
        "points_stored": stored,
        "tasks_that_differ": wrong,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--parallel", type=int, default=4, help="programs at a time (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=10_000.0, help="points a second (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commit", action="store_true", help='durability "commit", and a flush every 500 points')
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="telemetry-kills-") as folder:
        figures = measure(
            arguments.kills,
            seed=arguments.seed,
            parallel=arguments.parallel,
            rate=arguments.rate,
            commit=arguments.commit,
            folder=Path(folder),
        )
    print(json.dumps(figures))
    bad = ("of_these_missing", "flushed_missing", "tasks_that_differ", "sessions_with_gaps_or_repeats")
    return int(any(figures[name] for name in bad))


if __name__ == "__main__":
    sys.exit(main())
