"""One peer, once: runs in the peer's own environment, from a copy of this folder outside any repository.

    python child.py log CASE --folder F --scalars N --budget S      log, close, print one line of JSON
    python child.py count CASE --folder F                           print how many scalars the store gives back

Standard library only (the environments have the peer and nothing of ours). The loop asks the clock once in
100 scalars, to keep to its budget.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import resource
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

_SERIES = 10
_STEPS_BETWEEN_CLOCKS = 10


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("log", "count"))
    parser.add_argument("case")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--scalars", type=int, default=100_000)
    parser.add_argument("--budget", type=float, default=5.0)
    arguments = parser.parse_args()
    # The peers print; only our line may be on stdout.
    result = os.fdopen(os.dup(1), "w")
    sys.stdout.flush()
    os.dup2(2, 1)
    _loopback_up()
    adapter = _adapter(arguments.case, arguments.folder)
    if arguments.what == "count":
        answer: Any = {"count": adapter.count()}
    else:
        answer = _log(adapter, arguments.folder, arguments.scalars, arguments.budget)
    sys.stdout.flush()
    result.write(json.dumps(answer) + "\n")
    result.close()
    return 0


def _adapter(case: str, folder: Path) -> Any:
    stem = case.split("_")[0]
    names = {"floor": "floors", "telemetry": "ours"}
    module = importlib.import_module(f"adapters.{names.get(stem, stem)}")
    return module.Adapter(case, folder)


def _log(adapter: Any, folder: Path, scalars: int, budget_s: float) -> dict[str, Any]:
    names = [("train" if k < 5 else "validation", f"series {k % 5}") for k in range(_SERIES)]
    generator = random.Random(20_250_101)
    values = [generator.random() for _ in range(scalars)]
    begin = time.perf_counter()
    adapter.load()
    import_s = time.perf_counter() - begin
    begin = time.perf_counter()
    log = adapter.open()
    init_s = time.perf_counter() - begin
    bytes_before = _bytes(folder)
    cpu_before = _cpu_s()
    begin = time.perf_counter()
    logged = _loop(log, names, values, budget_s)
    loop_s = time.perf_counter() - begin
    adapter.close()
    total_s = time.perf_counter() - begin
    return {
        "scalars": logged,
        "import_s": import_s,
        "init_s": init_s,
        "mean_us": loop_s / logged * 1e6,
        "rate": logged / total_s,
        "close_s": total_s - loop_s,
        "cpu_us": (_cpu_s() - cpu_before) / logged * 1e6,
        "bytes_per_scalar": (_bytes(folder) - bytes_before) / logged,
    }


def _loop(log: Any, names: list[tuple[str, str]], values: list[float], budget_s: float) -> int:
    """Log one call a scalar until the values or the seconds are used up; return how many were logged."""
    deadline = time.perf_counter() + budget_s
    given = iter(values)
    steps = len(values) // len(names)
    for begin in range(0, steps, _STEPS_BETWEEN_CLOCKS):
        end = min(steps, begin + _STEPS_BETWEEN_CLOCKS)
        for step in range(begin, end):
            for title, series in names:
                log(title, series, next(given), step)
        if time.perf_counter() > deadline:
            return end * len(names)
    return steps * len(names)


def _cpu_s() -> float:
    """Return the CPU seconds of this process, all threads, and of the children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            # A peer's background thread removes its temporary files while we look.
            continue
    return total


def _loopback_up() -> None:
    """Switch the loopback device on: in a new network namespace it is down. Elsewhere this does nothing."""
    if os.environ.get("BENCH_NEW_NETWORK") != "1":
        return
    import fcntl

    set_flags, up_and_running = 0x8914, 0x1 | 0x40  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh14x", b"lo", up_and_running))


if __name__ == "__main__":
    sys.exit(main())
