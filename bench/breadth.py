"""What do very many series, or very many tasks, cost to write and to read?"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from harness import Benchmark, Column, Metrics, Scale, Target, child_main, median
from servers import Reader, folder_bytes, server, stored_points, until_idle
from traffic.frames import Shape, flushes, names_of, task_id_of
from traffic.writers import post_all

# case: runs, series, points of each
_CASES = {
    "100000_series": (1, 100_000, 10),
    "100000_series_of_100": (1, 100_000, 100),
    "10000_tasks": (10_000, 10, 10),
}
_CONNECTIONS = 8
_TIMES = 7
_CHARTS = 100


def measure(case: str, scale: Scale) -> Metrics:
    """Write what the case says, start the server afresh on it, and ask what pages ask."""
    runs, series, steps = _CASES[case]
    shape = Shape(scale.pick(runs, max(1, runs // 50)), scale.pick(series, max(10, series // 50)), steps, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "server"
        metrics = _write(shape, directory)
        begin = time.perf_counter()
        with server(directory) as running, Reader(running.url) as reader:
            reader.get("/api/v1/tasks?page_size=1")
            metrics["start_s"] = time.perf_counter() - begin
            metrics |= _read(reader, shape)
            metrics["read_peak_mb"] = running.peak_rss_mb()
    return metrics


def _write(shape: Shape, directory: Path) -> Metrics:
    # Short runs come one after the other, a few at a time.
    streams = [
        [flush for run in range(first, shape.runs, _CONNECTIONS) for flush in flushes(shape, run)]
        for first in range(min(_CONNECTIONS, shape.runs))
    ]
    with server(directory) as running:
        cpu_begin_s, begin = running.cpu_s(), time.perf_counter()
        asyncio.run(post_all(running.url, streams))
        seconds = time.perf_counter() - begin
        until_idle(running)
        cpu_s = running.cpu_s() - cpu_begin_s
        # All of a few tasks, and some of many: each is a request.
        asked = range(0, shape.runs, max(1, shape.runs // 1_000))
        stored = stored_points(running.url, [task_id_of(run) for run in asked])
        peak_mb = running.peak_rss_mb()
        running.stop()
    return {
        "points": shape.points,
        "rate": shape.points / seconds,
        "cpu_us": cpu_s / shape.points * 1e6,
        "cpu_ms_per_task": cpu_s / shape.runs * 1e3,
        "bytes_per_point": folder_bytes(directory) / shape.points,
        "peak_mb": peak_mb,
        "lost": len(asked) * shape.series * shape.steps - stored,
    }


def _read(reader: Reader, shape: Shape) -> Metrics:
    """Ask what the table of tasks and the page of a task ask; each first, and again."""
    task = f"/api/v1/tasks/{task_id_of(shape.runs // 2)}"
    title, series = names_of(shape.series)[shape.series // 2]
    key = quote(f"last:{title}/{series}")
    _, listed = reader.get(f"{task}/series?kind=scalar")
    ids = [item["id"] for item in json.loads(listed)["series"]]
    questions = {
        "table": "/api/v1/tasks?page_size=50",
        "sorted": f"/api/v1/tasks?page_size=50&sort=-{key}&columns={key}",
        "choices": "/api/v1/choices",
        "series": f"{task}/series?kind=scalar",
        "chart": f"{task}/points?series={ids[len(ids) // 2]}&max_samples=2000",
        "charts": f"{task}/points?series={','.join(map(str, ids[-_CHARTS:]))}&max_samples=400",
    }
    metrics: Metrics = {"series_listed": len(ids)}
    for name, path in questions.items():
        took_ms = []
        for _ in range(_TIMES):
            milliseconds, body = reader.get(path)
            took_ms.append(milliseconds)
        metrics |= {f"{name}_first_ms": took_ms[0], f"{name}_ms": median(took_ms), f"{name}_bytes": len(body)}
    return {**metrics, "listed_wrong": int(len(ids) != shape.series)}


BENCHMARK = Benchmark(
    name="breadth",
    question="What do 100,000 series in one task, or 10,000 tasks of 100 points, cost to write and to read?",
    topology=(
        "frames made beforehand by the client's own code, as fast as they are answered: one run of 100,000 series with "
        f"10 or 100 points each, or 10,000 runs of 10 series with 10 points, a frame each, over {_CONNECTIONS} kept "
        "connections; then our server started afresh on it and one reader on a kept connection; sorted = the table by "
        "the last value of a metric, with its column; series = the list of all series of a task; charts = "
        f"{_CHARTS} series in one request"
    ),
    unfair=(
        "times are the client's, transport included; the files are in the system's cache; nothing is written while it "
        "is read; of 10,000 tasks 1,000 are counted"
    ),
    cases=tuple(_CASES),
    measure=measure,
    columns=(
        Column("points", "points", ",.0f"),
        Column("rate", "points/s", ",.0f"),
        Column("cpu_us", "server CPU us/point", ".1f"),
        Column("bytes_per_point", "bytes/point on disk", ".1f"),
        Column("peak_mb", "server peak MiB", ",.0f"),
        Column("start_s", "start s", ".2f"),
        Column("table_first_ms", "table, first ms", ".0f"),
        Column("table_ms", "again", ".0f"),
        Column("sorted_ms", "sorted ms", ".0f"),
        Column("choices_ms", "choices ms", ".0f"),
        Column("series_ms", "series ms", ".0f"),
        Column("chart_first_ms", "chart, first ms", ".1f"),
        Column("charts_ms", "100 charts ms", ".0f"),
        Column("read_peak_mb", "peak when read MiB", ",.0f"),
        Column("lost", "lost", ".0f"),
    ),
    targets=(
        Target("table_first_ms", "<=", 1_000, "the table's first answer at most 1 s"),
        Target("sorted_ms", "<=", 1_000, "sorted by a metric at most 1 s"),
        Target("peak_mb", "<=", 1024, "at most 1 GiB of memory"),
        Target("listed_wrong", "==", 0, "all series are listed"),
        Target("lost", "==", 0, "nothing lost"),
    ),
    timeout_s=1_200.0,
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
