"""How long does a query take among 10,000 tasks with 20 parameters and 50 metrics each, and the table of them?"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import Benchmark, Column, Metrics, Scale, Target, child_main, median
from servers import ServerProcess, folder_bytes, post_frames, server

_PARAMETERS = 20
_METRICS = 50
_POINTS = 2
_TAGS = ("baseline", "candidate", "nightly", "broken", "large", "small")
_NETS = ("resnet", "vgg", "vit", "unet")
_TIME_NS = 1_700_000_000_000_000_000
_BODY_BYTES = 256 * 1024
_KEY = "metric 7/validation"
_COLUMNS = ["param:Args/parameter 3", "param:Args/parameter 4", "last:metric 7/validation", "min:metric 8/validation"]


def measure(_case: str, scale: Scale) -> Metrics:
    """Make the tasks, start the server afresh, and time each question again and again."""
    tasks, times = scale.pick(10_000, 300), scale.pick(100, 5)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "server"
        with server(directory) as loading:
            load_s = _load(loading, tasks)
            loading.stop()
        stored = folder_bytes(directory)
        with server(directory) as running:
            metrics = _ask(running, times)
    return {"tasks": tasks, "load_tasks_per_s": tasks / load_s, "stored_mb": stored / 1e6, **metrics}


def _ask(running: ServerProcess, times: int) -> Metrics:
    os.environ["TELEMETRY_URL"] = running.url
    from telemetry import Client, Task

    title, series = (hashlib.md5(name.encode()).hexdigest() for name in _KEY.split("/"))
    metric = f"last_metrics.{title}.{series}"

    def get_tasks(**task_filter: Any) -> int:
        return len(Task.get_tasks(tags=["__$and", "nightly", "-broken"], task_filter=task_filter))

    with Client(running.url) as client:
        client.server()
        questions: dict[str, Callable[[], int]] = {
            # The first of all: what a page waits for after the server's start.
            "table": lambda: client.tasks(columns=_COLUMNS)["total"],
            "get_tasks": lambda: get_tasks(search_text="resnet", order_by=[f"-{metric}.max_value"]),
            "pattern": lambda: get_tasks(search_text="resnet.*9$", order_by=[f"-{metric}.max_value"]),
            "page_of_all": lambda: client.query_tasks(task_filter={"order_by": [f"-{metric}.min_value"]})["total"],
            "by_parameter": lambda: client.query_tasks(
                task_filter={"hyperparams.Args.parameter 3": [1, 2], "order_by": ["hyperparams.Args.parameter 4"]},
                page_size=50,
            )["total"],
            "table_filtered": lambda: client.tasks(
                search="resnet", tags=["nightly", "-broken"], sort=f"-last:{_KEY}", columns=_COLUMNS
            )["total"],
            "table_by_parameter": lambda: client.tasks(sort="param:Args/parameter 4", columns=_COLUMNS)["total"],
            "choices": lambda: len(client.choices()["metrics"]),
        }
        metrics: Metrics = {}
        for name, question in questions.items():
            seconds = []
            found = 0
            for _ in range(times):
                begin = time.perf_counter()
                found = question()
                seconds.append(time.perf_counter() - begin)
            metrics[f"{name}_first_ms"] = seconds[0] * 1e3
            metrics[f"{name}_ms"] = median(seconds) * 1e3
            metrics[f"{name}_p99_ms"] = sorted(seconds)[min(len(seconds) - 1, int(0.99 * len(seconds)))] * 1e3
            metrics[f"{name}_found"] = found
        return metrics


def _load(running: ServerProcess, tasks: int) -> float:
    """Send the tasks, a frame each; return the seconds that it took."""
    generator = random.Random(1)
    body, begin = bytearray(), time.perf_counter()
    for number in range(tasks):
        body += _frame(generator, number)
        if len(body) > _BODY_BYTES or number == tasks - 1:
            answer = post_frames(running.url, bytes(body))
            body.clear()
            refused = [item for item in answer["frames"] if item["result"] != "stored"]
            if refused:
                raise RuntimeError(f"the server did not store {refused[0]}")
    return time.perf_counter() - begin


def _frame(generator: random.Random, number: int) -> bytes:
    from telemetry.events import Batch, RecordChange, ScalarColumns, SeriesKey
    from telemetry.values import entry
    from telemetry.wire import encode

    at = _TIME_NS + number * 1_000_000_000
    fields = {
        "name": f"{generator.choice(_NETS)} {number}",
        "project": f"project {number % 20}",
        "type": "training",
        "status": generator.choice(("completed", "failed")),
        "comment": f"run {number} of the sweep",
        "tags": generator.sample(_TAGS, 2),
    }
    events = [RecordChange(at, "task", key, value) for key, value in fields.items()]
    events += [
        RecordChange(
            at, "parameters", f"Args/parameter {n}", entry(generator.randrange(10) if n < 10 else generator.random())
        )
        for n in range(_PARAMETERS)
    ]
    rows = _METRICS * _POINTS
    columns = ScalarColumns(
        [SeriesKey("scalar", f"metric {n // 2}", "train" if n % 2 else "validation") for n in range(_METRICS)],
        array("I", [row % _METRICS for row in range(rows)]),
        array("q", [row // _METRICS for row in range(rows)]),
        array("q", [at + row for row in range(rows)]),
        array("d", [generator.random() for _ in range(rows)]),
    )
    batch = Batch(f"{number:032x}", columns, events, rows + len(events))
    return encode(batch, writer_id=number.to_bytes(16, "big"), sequence=0).data


BENCHMARK = Benchmark(
    name="queries",
    question="How long do a query and the table of tasks take among 10,000 tasks, 20 parameters and 50 metrics each?",
    topology=(
        "10,000 tasks of 50 series with 2 points and 20 parameters, our server started afresh on them, one client on "
        "loopback; get_tasks: two tags, a search and an order by a metric's maximum, through Task.get_tasks, all pages"
    ),
    unfair=(
        "times are the client's, with transport over loopback, decoding and making the Task objects; the files are in "
        "the system's cache; one client at a time, nothing is written meanwhile; drawing in the browser is not in it"
    ),
    cases=("ten_thousand",),
    measure=measure,
    columns=(
        Column("tasks", "tasks", ",.0f"),
        Column("load_tasks_per_s", "load tasks/s", ",.0f"),
        Column("stored_mb", "stored MB", ",.0f"),
        Column("get_tasks_found", "found", ",.0f"),
        Column("get_tasks_ms", "get_tasks ms", ".0f"),
        Column("get_tasks_p99_ms", "p99", ".0f"),
        Column("pattern_ms", "with a pattern ms", ".0f"),
        Column("page_of_all_ms", "500 of all ms", ".0f"),
        Column("by_parameter_ms", "by parameter ms", ".0f"),
        Column("table_first_ms", "table, first ms", ".0f"),
        Column("table_ms", "again ms", ".0f"),
        Column("table_filtered_ms", "filtered ms", ".0f"),
        Column("table_filtered_p99_ms", "p99", ".0f"),
        Column("table_by_parameter_ms", "by parameter ms", ".0f"),
        Column("choices_ms", "choices ms", ".0f"),
    ),
    targets=(
        Target("get_tasks_ms", "<=", 300, "get_tasks with tags, a search and an order by a metric at most 0.3 s"),
        Target("table_first_ms", "<=", 1000, "the table's first answer at most 1 s"),
    ),
    timeout_s=600.0,
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
