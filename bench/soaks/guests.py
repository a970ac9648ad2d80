"""Do we ever change how a program ends? The programs of tests/process/test_guest.py, many times, with and without us.

    python bench/soaks/guests.py --times 200 [--only pool] [--parallel 4]

Prints one line of JSON for each program: how often it was not with us what it was without us, how often it hung, and
the seconds that it took (median, and the longest) with us and without us. Exits with 1 if anything differed.
Unfair in it: programs beside each other disturb each other, which is meant; the seconds are those of a busy machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# The programs are the tests' own: what is measured here is what is checked there.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
from guest_programs import PROGRAMS, Program
from guest_support import Seen, run_guest


def run_once(program: Program, *, with_us: bool) -> Seen | None:
    """Return what was seen; None if the program hung for a minute."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return run_guest(program, Path(folder), with_us=with_us, state_dir=Path(folder) / "state")
        except subprocess.TimeoutExpired:
            return None


def measure(program: Program, times: int, executor: ThreadPoolExecutor) -> dict[str, Any]:
    without = [run_once(program, with_us=False) for _ in range(3)]
    with_us = list(executor.map(lambda _: run_once(program, with_us=True), range(times)))
    right = {(seen.status, seen.stdout, seen.stderr) for seen in without if seen is not None}
    ended = [seen for seen in with_us if seen is not None]
    took = {
        name: [round(statistics.median(found), 2), round(max(found), 2)] if found else None
        for name, found in (
            ("without_us_s", [seen.took_s for seen in without if seen is not None]),
            ("with_us_s", [seen.took_s for seen in ended]),
        )
    }
    different = [seen for seen in ended if (seen.status, seen.stdout, seen.stderr) not in right]
    figures = {"program": program.name, "times": times, "hung": times - len(ended), "different": len(different), **took}
    return figures | ({"example": different[0].stderr[-500:]} if different else {})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--only", default="", help="programs with this in their name")
    parser.add_argument("--parallel", type=int, default=4)
    arguments = parser.parse_args()
    failed = 0
    with ThreadPoolExecutor(arguments.parallel) as executor:
        for program in PROGRAMS:
            missing = [name for name in program.needs if importlib.util.find_spec(name) is None]
            if arguments.only not in program.name or missing:
                continue
            figures = measure(program, arguments.times, executor)
            failed += figures["hung"] + figures["different"]
            print(json.dumps(figures), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
