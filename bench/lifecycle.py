"""What do import, Task.init and close cost?"""

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

from harness import Benchmark, Column, Metrics, Scale, Target, child_main, median
from ours import ledger_of, ledger_sums, open_task
from servers import black_hole, closed_port, server

_INTERPRETERS = 15

_FACTS = """
import telemetry
from telemetry import Task
import json, sys, threading
print(json.dumps({
    "modules": len(sys.modules),
    "modules_of_ours": sum(name.partition(".")[0] == "telemetry" for name in sys.modules),
    "threads": threading.active_count(),
    "heavy": sorted(
        {"aiohttp", "asyncio", "numpy", "sqlalchemy", "jinja2", "plotly", "uvloop", "psutil"} & set(sys.modules)
    ),
}))
"""


def measure(case: str, scale: Scale) -> Metrics:
    """Return the metrics of "import", or init and close times with the server in the state `case`."""
    if case == "import":
        return _import(scale.pick(_INTERPRETERS, 5))
    begin = time.perf_counter()
    from telemetry import Task  # noqa: F401  (before, as programs do; what a task needs to run is imported by init)

    import_s = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder, _far_side(case, Path(folder)) as sink:
        begin = time.perf_counter()
        task = open_task(sink)
        init_s = time.perf_counter() - begin
        begin = time.perf_counter()
        task.get_logger().report_scalar("train", "loss", 0.5, 0)
        first_call_s = time.perf_counter() - begin
        begin = time.perf_counter()
        task.close()
        close_s = time.perf_counter() - begin
        ledger = ledger_of(task)
    return {
        "in_process_import_ms": import_s * 1e3,
        "init_ms": init_s * 1e3,
        "import_and_init_ms": (import_s + init_s) * 1e3,
        "first_call_us": first_call_s * 1e6,
        "close_ms": close_s * 1e3,
        "ledger": ledger,
        "ledger_sums": int(ledger_sums(ledger)),
    }


def _import(interpreters: int) -> Metrics:
    """Start interpreters in turn: bare, and with each import; the first round only fills the caches."""
    codes = {
        "bare": "pass",
        "package": "import telemetry",
        "asyncio": "import asyncio",
        "task": "from telemetry import Task",
    }
    seconds: dict[str, list[float]] = {name: [] for name in codes}
    for turn in range(interpreters + 1):
        for name, code in codes.items():
            took, _ = _start(code)
            if turn:
                seconds[name].append(took)
    _, printed = _start(_FACTS)
    facts = json.loads(printed)
    return {
        "interpreters": interpreters,
        "bare_ms": median(seconds["bare"]) * 1e3,
        "import_ms": _more_ms(seconds["package"], seconds["bare"]),
        "import_asyncio_ms": (asyncio_ms := _more_ms(seconds["asyncio"], seconds["bare"])),
        "import_task_ms": (task_ms := _more_ms(seconds["task"], seconds["bare"])),
        "import_task_ratio": task_ms / asyncio_ms,
        "whole_task_ratio": median(seconds["task"]) / median(seconds["asyncio"]),
        "aiohttp_imported": int("aiohttp" in facts["heavy"]),
        **facts,
    }


def _more_ms(seconds: list[float], bare: list[float]) -> float:
    return median([own - other for own, other in zip(seconds, bare, strict=True)]) * 1e3


def _start(code: str) -> tuple[float, str]:
    # With its bytecode kept, as it is on any machine but one that builds images.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    return time.perf_counter() - begin, done.stdout


@contextlib.contextmanager
def _far_side(case: str, folder: Path) -> Iterator[str]:
    if case == "zip":
        yield f"zip:{folder / 'session.zip'}"
    elif case == "up":
        with server(folder / "server") as running:
            yield running.url
    else:
        with {"down": closed_port, "black_hole": black_hole}[case]() as url:
            yield url


BENCHMARK = Benchmark(
    name="lifecycle",
    question="What do `import telemetry`, Task.init and close() cost, with the server up, down or silent?",
    topology=(
        "import: 15 fresh interpreters each: bare, `import telemetry`, `import asyncio`, `from telemetry import "
        "Task`, in turn, median of the differences to bare; the ratio is that of Task to that of asyncio; the "
        "others: one task with one scalar and one sink, Task imported before, what a task runs on by init: zip; "
        "up = our server; down = a closed port; black_hole = a listening socket that nobody accepts"
    ),
    unfair=(
        "files are in the disk cache and byte-compiled (the first start after an install is slower); an editable "
        "install's finder has imported in the bare interpreter part of what asyncio and Task need; close() with "
        "a server that never answers waits for its time-out (10 s by default), by design"
    ),
    cases=("import", "zip", "up", "down", "black_hole"),
    measure=measure,
    columns=(
        Column("bare_ms", "bare ms", ".1f"),
        Column("import_ms", "import telemetry ms", ".1f"),
        Column("import_task_ms", "import Task ms", ".1f"),
        Column("import_task_ratio", "of asyncio's", ".2f"),
        Column("whole_task_ratio", "whole runs", ".2f"),
        Column("modules", "modules", ".0f"),
        Column("modules_of_ours", "ours", ".0f"),
        Column("threads", "threads", ".0f"),
        Column("aiohttp_imported", "aiohttp", ".0f"),
        Column("init_ms", "init ms", ".1f"),
        Column("first_call_us", "1st call us", ".1f"),
        Column("close_ms", "close ms", ",.0f"),
    ),
    targets=(
        Target("import_ms", "<=", 100, "import telemetry at most 100 ms over a bare interpreter", ("import",)),
        Target("import_task_ms", "<=", 100, "from telemetry import Task the same", ("import",)),
        Target("import_task_ratio", "<=", 2.0, "it takes at most twice what `import asyncio` takes", ("import",)),
        Target("threads", "==", 1, "the import starts no thread", ("import",)),
        Target("aiohttp_imported", "==", 0, "the import does not import aiohttp", ("import",)),
        Target("init_ms", "<=", 100, "Task.init at most 100 ms", ("zip", "up", "down", "black_hole")),
        Target("ledger_sums", "==", 1, "the ledger adds up", ("zip", "up", "down", "black_hole")),
    ),
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
