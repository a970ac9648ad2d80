"""How fast do scalars become committed points in our server?"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import Benchmark, Column, Metrics, Scale, Target, Work, child_main, tight_loop
from ours import ledger_of, ledger_sums, open_task
from servers import folder_bytes, get_json, server, until_points

_COMMIT_TIMEOUT_S = 60.0


def measure(_case: str, scale: Scale) -> Metrics:
    """Return the rate from the first call until close() returned and the server's API has all points."""
    work = Work(scale.pick(100_000, 10_000))
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "server"
        with server(directory) as running:
            task = open_task(running.url)
            cpu_begin, server_begin = time.process_time(), running.cpu_s()
            begin = time.perf_counter()
            loop_s = tight_loop(task.get_logger().report_scalar, work)
            task.close()
            closed_s = time.perf_counter() - begin
            committed = until_points(running.url, task.id, work.scalars, timeout_s=_COMMIT_TIMEOUT_S)
            total_s = time.perf_counter() - begin
            client_cpu_s = time.process_time() - cpu_begin
            server_cpu_s = running.cpu_s() - server_begin
            ledger = ledger_of(task)
            wrong = _wrong_series(get_json(running.url, f"/tasks/{task.id}/series?kind=scalar"), work)
            running_bytes = folder_bytes(directory)
            running.stop()
        stored_bytes = folder_bytes(directory)
    return {
        "scalars": work.scalars,
        "rate": work.scalars / total_s,
        "loop_s": loop_s,
        "close_s": closed_s - loop_s,
        "after_close_s": total_s - closed_s,
        "client_cpu_us_per_scalar": client_cpu_s / work.scalars * 1e6,
        "server_cpu_us_per_scalar": server_cpu_s / work.scalars * 1e6,
        "lost": work.scalars - committed,
        "wrong_series": wrong,
        "bytes_per_point_running": running_bytes / work.scalars,
        "bytes_per_point": stored_bytes / work.scalars,
        "ledger": ledger,
        "ledger_sums": int(ledger_sums(ledger)),
    }


def _wrong_series(answer: Any, work: Work) -> int:
    """Return how many series differ from what was logged in count, extremes, their places or last value."""
    found = {(item["title"], item["series"]): item for item in answer["series"]}
    wrong = len(found.keys() - set(work.names))
    for k, name in enumerate(work.names):
        values = work.of_series(k)
        wanted = {
            "count": len(values),
            "last": values[-1],
            "last_iteration": len(values) - 1,
            "min": min(values),
            "min_iteration": values.index(min(values)),
            "max": max(values),
            "max_iteration": values.index(max(values)),
        }
        item = found.get(name, {})
        wrong += any(item.get(key) != value for key, value in wanted.items())
    return wrong


BENCHMARK = Benchmark(
    name="http_rate",
    question="How many scalars a second does our server have committed, and how many bytes is a point on its disk?",
    topology=(
        "1,000,000 scalars in 10 series from one thread over loopback HTTP to our server in a process of "
        "its own (SQLite), both free to use every core; from the first call until close() returned and "
        "the API counts all points; the server's folder is weighed after it has stopped"
    ),
    unfair=(
        "loopback has no latency and no loss; client and server compete for the same cores and the same "
        "disk; random values hardly compress; SQLite's own durability setting applies, and power loss is "
        "not tried"
    ),
    cases=("http",),
    measure=measure,
    columns=(
        Column("rate", "scalars/s", ",.0f"),
        Column("loop_s", "loop s", ".2f"),
        Column("close_s", "close s", ".2f"),
        Column("after_close_s", "then until counted s", ".3f"),
        Column("client_cpu_us_per_scalar", "client CPU us", ".2f"),
        Column("server_cpu_us_per_scalar", "server CPU us", ".2f"),
        Column("bytes_per_point_running", "bytes/point running", ".2f"),
        Column("bytes_per_point", "stopped", ".2f"),
        Column("lost", "lost", ".0f"),
        Column("wrong_series", "wrong series", ".0f"),
    ),
    targets=(
        Target("rate", ">=", 250_000, "at least 250,000 scalars/s until committed"),
        Target("bytes_per_point", "<=", 16, "at most 16 bytes a point on disk after sealing"),
        Target("lost", "==", 0, "nothing lost"),
        Target("wrong_series", "==", 0, "count, min, max and last of each series are right"),
        Target("ledger_sums", "==", 1, "the ledger adds up"),
    ),
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
