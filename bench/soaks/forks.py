"""Do forks hang, and do workers lose anything? Thousands of forks under full-rate logging, and a Pool of 4.

    python bench/soaks/forks.py --forks 2000 --points 100000

Prints one line of JSON: how many of the forks hung (a watchdog of 10 s each), how many records of the parent's came
from a child, how long a child took from its fork to the end of its close (p50, p99), and of the pool's points how
many are missing or double, for each start method. The tests do 200 forks and 25,000 points
(tests/process/test_processes.py).
Unfair in it: the children do nothing but report, and the disk is the temporary folder's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from telemetry.journal import read_segments
from telemetry.sdk.reports.logger import Logger
from telemetry.sdk.task.task import Task
from telemetry.wire import Frame, decode

WATCHDOG_S = 10.0
THREADS = 3
CHILD_POINTS = 20
METHODS = ("fork", "spawn", "forkserver")


def report(name: str, count: int) -> None:
    """Report `count` points into the task of this process or of its parent."""
    logger = Logger.current_logger()
    assert logger is not None, "the child has not joined"
    for step in range(count):
        logger.report_scalar("points", name, float(step), step)


def fork_often(forks: int, seed: int) -> dict[str, Any]:
    """Fork at random moments while threads report at full rate; every second child reports and closes."""
    task = Task.init("bench", "forks", reuse_last_task_id=False, auto_resource_monitoring=False)
    random_ = random.Random(seed)
    done = threading.Event()

    def log(name: str) -> None:
        logger, step = task.get_logger(), 0
        while not done.is_set():
            logger.report_scalar("parent", name, 1.0, step)
            step += 1

    threads = [threading.Thread(target=log, args=(f"thread {number}",)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    hung, took_s = 0, []
    for number in range(forks):
        time.sleep(random_.random() * 0.005)
        begin = time.monotonic()
        child = os.fork()
        if not child:
            if number % 2:
                report(f"child {number}", CHILD_POINTS)
                task.close()
            os._exit(0)
        if _ends(child, begin + WATCHDOG_S):
            took_s.append(time.monotonic() - begin)
        else:
            hung += 1
    done.set()
    for thread in threads:
        thread.join()
    task.close(timeout=120)
    took_s.sort()
    reporting = forks // 2
    return {
        "forks": forks,
        "hung": hung,
        "child_p50_ms": round(took_s[len(took_s) // 2] * 1e3, 1),
        "child_p99_ms": round(took_s[len(took_s) * 99 // 100] * 1e3, 1),
        **_judge_forks(_points(task.id), reporting),
    }


def _ends(child: int, deadline_s: float) -> bool:
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > deadline_s:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return False
        time.sleep(0.001)
    return True


def _judge_forks(points: dict[bytes, Counter[str]], reporting: int) -> dict[str, int]:
    foreign = sum(
        count
        for series in points.values()
        for name, count in series.items()
        if name.startswith("thread") and any(other.startswith("child") for other in series)
    )
    writers_of_parent = sum(any(name.startswith("thread") for name in series) for series in points.values())
    whole = sum(
        count == CHILD_POINTS
        for series in points.values()
        for name, count in series.items()
        if name.startswith("child")
    )
    return {
        "foreign_records": foreign,
        "writers_of_the_parents_series": writers_of_parent,
        "children_missing": reporting - whole,
        "parent_points": sum(series[f"thread {number}"] for series in points.values() for number in range(THREADS)),
    }


def pool(method: str, points: int) -> dict[str, int]:
    """Let a Pool of 4 report; count what is missing and what is double."""
    task = Task.init(
        "bench",
        f"pool {method}",
        reuse_last_task_id=False,
        auto_resource_monitoring=False,
        auto_connect_streams=False,
    )
    with multiprocessing.get_context(method).Pool(4) as workers:
        workers.starmap(report, [(f"worker {number}", points) for number in range(4)], chunksize=1)
        workers.close()
        workers.join()
    task.close(timeout=120)
    counts = Counter[str]()
    for series in _points(task.id).values():
        counts.update(series)
    found = [counts[f"worker {number}"] for number in range(4)]
    return {
        f"pool_{method}_missing": sum(max(0, points - count) for count in found),
        f"pool_{method}_double": sum(max(0, count - points) for count in found),
    }


def _points(task_id: str) -> dict[bytes, Counter[str]]:
    """Return the number of points by writer and series name."""
    found: dict[bytes, Counter[str]] = {}
    for item in read_segments(Path(os.environ["TELEMETRY_DIR"]) / "sessions" / task_id):
        assert isinstance(item, Frame), str(item)
        columns = decode(item).columns
        names = [key.series for key in columns.series]
        found.setdefault(item.writer_id, Counter()).update(names[index] for index in columns.series_index)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--forks", type=int, default=2000)
    parser.add_argument("--points", type=int, default=100_000, help="of each worker of the pool")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads, from Python 3.12 on
    for name in [name for name in os.environ if name.startswith("TELEMETRY_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"TELEMETRY_DIR": folder, "TELEMETRY_QUIET": "1"}
        figures = fork_often(arguments.forks, arguments.seed)
        for method in METHODS:
            figures |= pool(method, arguments.points)
    print(json.dumps(figures | {"cpus": os.cpu_count(), "python": sys.version.split()[0]}))


if __name__ == "__main__":
    main()
