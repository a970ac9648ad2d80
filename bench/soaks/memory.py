"""Does the memory of a program and of its server stay flat over a long run?

    python bench/soaks/memory.py --minutes 30

One program reports 20 scalars 50 times a second, a console line each second, a parameter each 10 s and an artifact
each minute, with everything that is on by default; one page's worth of reads is asked of the server each 10 s. The
resident memory of both is taken each 10 s. Prints one line of JSON: MiB at the beginning (the median of the minutes
after the first fifth), at the end (of the last fifth), and the growth between them an hour. Not part of run.py.
Unfair in it: resident memory counts what the allocator keeps for later; a machine that swaps would show less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from servers import ServerProcess, get_json, server

STEPS_PER_S = 50
SERIES = 20
SAMPLE_S = 10.0


def run(minutes: float, target: ServerProcess, url: str) -> dict[str, Any]:
    import psutil

    from telemetry import Task

    task = Task.init("bench", "memory", sinks=[url], reuse_last_task_id=False, output_uri=True)
    report, own = task.get_logger().report_scalar, psutil.Process()
    names = [f"layer{number}" for number in range(SERIES)]
    program, far, step, began_s = [], [], 0, time.monotonic()
    sampled_s = began_s
    while (now_s := time.monotonic()) - began_s < minutes * 60:
        for name in names:
            report("norm", name, step * 0.001, step)
        if step % STEPS_PER_S == 0:
            print(f"step {step} of a run that prints a line a second")
        if step % (10 * STEPS_PER_S) == 0:
            task.set_parameter("General/step", step)
        if step % (60 * STEPS_PER_S) == 0:
            task.upload_artifact(f"state {step % 5}", {"step": step, "values": list(range(1000))})
        if now_s - sampled_s >= SAMPLE_S:
            sampled_s = now_s
            get_json(url, "/tasks?limit=50")
            get_json(url, f"/tasks/{task.id}/series")
            program.append(own.memory_info().rss / 2**20)
            far.append(target.rss_mb())
        step += 1
        time.sleep(max(0.0, began_s + step / STEPS_PER_S - time.monotonic()))
    task.close()
    ledger = task.ledger()
    return {
        "minutes": minutes,
        "points": step * SERIES,
        "program": _flatness(program, minutes),
        "server": _flatness(far, minutes),
        "delivered": ledger.delivered == ledger.logged,
    }


def _flatness(megabytes: list[float], minutes: float) -> dict[str, float]:
    fifth = max(1, len(megabytes) // 5)
    early, late = statistics.median(megabytes[fifth : 2 * fifth]), statistics.median(megabytes[-fifth:])
    # Between the middles of the second fifth and the last one lie seven tenths of the time.
    growth = (late - early) / (minutes * 0.7) * 60
    return {"early_mib": round(early, 1), "late_mib": round(late, 1), "growth_mib_per_h": round(growth, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TELEMETRY_DIR"] = str(Path(folder) / "state")
        with server(Path(folder) / "server") as target:
            # The program's own lines go to the standard error: the standard output is for the figures.
            figures, sys.stdout = sys.stdout, sys.stderr
            try:
                found = run(arguments.minutes, target, target.url)
            finally:
                sys.stdout = figures
    print(json.dumps(found))
    return 0 if found["delivered"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
