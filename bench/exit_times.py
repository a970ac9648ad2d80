"""How long does a program take to end, and is everything still there?"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness import Benchmark, Column, Metrics, Scale, Target, child_main
from servers import black_hole, closed_port, server

_TIMEOUT_S = 5.0
_LINE_BYTES = 1_000_000

# Ends by itself: close() is called by the exit. Says when that began and how long close took.
_PROGRAM = """
import json, os, sys, time
from telemetry import Task
task = Task.init("bench", "exit", reuse_last_task_id=False, auto_connect_streams=False, auto_resource_monitoring=False)
log = task.get_logger()
for step in range(1000):
    log.report_scalar("loss", "train", 1 / (step + 1), step)
lines = int(sys.argv[1])
for number in range(lines):
    log.report_text(os.urandom({half}).hex(), print_console=False)
    if number % 16 == 15:
        task.flush(60)
begin = time.monotonic()
task.close({timeout})
ended = time.monotonic()
print(json.dumps({{"close_s": ended - begin, "ended": ended, **task.ledger().as_dict()}}), flush=True)
"""


def measure(case: str, scale: Scale) -> Metrics:
    """Return how long close and the interpreter's end took, and what a reader finds afterwards."""
    lines = scale.pick(1000, 50) if case == "gigabyte" else 0
    with tempfile.TemporaryDirectory() as folder, _far_side(case, Path(folder)) as url:
        state = Path(folder) / "state"
        program = _PROGRAM.format(half=_LINE_BYTES // 2, timeout=_TIMEOUT_S)
        done = subprocess.run(
            [sys.executable, "-c", program, str(lines)],
            env={
                **os.environ,
                "TELEMETRY_URL": url,
                "TELEMETRY_DIR": str(state),
                "TELEMETRY_QUIET": "1",
                "TELEMETRY_COMPRESSION": "0",
            },
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        ended = time.monotonic()
        said = json.loads(done.stdout.splitlines()[-1])
        on_disk, spool_bytes = _read_back(state / "spool")
    return {
        "close_s": said["close_s"],
        "exit_s": ended - said["ended"],
        "logged": said["logged"],
        "delivered": said["delivered"],
        "read_back": on_disk,
        "lost": said["logged"] - said["delivered"] - on_disk,
        "waiting_mb": spool_bytes / 1e6,
    }


def _read_back(spool: Path) -> tuple[int, int]:
    """Return (events, bytes) of the sound frames that wait."""
    from telemetry.journal import read_segments
    from telemetry.wire import Frame

    events = size = 0
    for session in spool.glob("*/session.json"):
        for item in read_segments(session.parent):
            if isinstance(item, Frame):
                events += item.events
                size += len(item)
    return events, size


@contextlib.contextmanager
def _far_side(case: str, folder: Path) -> Iterator[str]:
    if case == "up":
        with server(folder / "server") as running:
            yield running.url
    else:
        with {"down": closed_port}.get(case, black_hole)() as url:
            yield url


BENCHMARK = Benchmark(
    name="exit_times",
    question="How long does a program take to end, and is everything still there?",
    topology=(
        "a program logs 1,000 scalars (gigabyte: and 1,000 lines of 1 MB, frames not deflated) and calls close(5); "
        "up = our server; down = a closed port; black_hole and gigabyte = a listening socket that nobody accepts; "
        "exit = from the return of close() to the end of the process, as its parent sees it; what waits is read back"
    ),
    unfair="one task, one sink; the temporary folder may be memory on some machines",
    cases=("up", "down", "black_hole", "gigabyte"),
    measure=measure,
    columns=(
        Column("close_s", "close s", ".2f"),
        Column("exit_s", "exit s", ".2f"),
        Column("waiting_mb", "waiting MB", ",.1f"),
        Column("logged", "logged", ",.0f"),
        Column("delivered", "delivered", ",.0f"),
        Column("read_back", "read back", ",.0f"),
        Column("lost", "lost", ",.0f"),
    ),
    targets=(
        Target("close_s", "<=", _TIMEOUT_S + 0.5, "close() at most its time-out and 0.5 s"),
        Target("exit_s", "<=", 2.0, "the interpreter ends at most 2 s later"),
        Target("lost", "==", 0, "nothing lost"),
    ),
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
