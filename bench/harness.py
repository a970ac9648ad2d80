"""What every benchmark shares: how it describes itself, its work, its loops and its one line of JSON.

A benchmark is a file with a `BENCHMARK` and a `main()`. Started by itself it measures one case once:

    python bench/zip_rate.py --case zip [--quick]

and prints one line of JSON, a flat map of metrics. `bench/run.py` starts each case in a process of its own,
repeats, and keeps the medians. Only the standard library is imported here: the interpreter that measures
an import must not have imported it before.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "Benchmark",
    "Column",
    "DequeLogger",
    "EmptyLogger",
    "Scale",
    "Target",
    "Work",
    "child_main",
    "latencies",
    "median",
    "peak_rss_mb",
    "percentiles_ns",
    "reset_peak_rss",
    "rss_mb",
    "tight_loop",
    "timed_loop",
]

Metrics = dict[str, Any]
ReportScalar = Callable[[str, str, float, int], object]

SERIES = 10
# The same numbers in each process, so that what is stored can be compared with what was logged.
_SEED = 20_250_101


@dataclass(frozen=True)
class Column:
    """A column of the table: a metric, its heading with the unit, and a format such as ",.0f"."""

    metric: str
    heading: str
    format: str = ",.3g"


@dataclass(frozen=True)
class Target:
    """What the project wants of a metric's median.

    Attributes:
        cases: the cases that it holds for; empty for all.
        says: the promise in words.
    """

    metric: str
    comparison: str  # "<=" or ">=" or "=="
    bound: float
    says: str
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scale:
    """How much work: `quick` tries the machinery out; its figures mean little."""

    quick: bool

    def pick(self, full: int, quick: int) -> int:
        """Return `full`, or `quick` in a quick run."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark says about itself; the table and the docs are written from it.

    Attributes:
        cases: what is varied; each is measured in a process of its own.
        measure: (case, scale) -> metrics of one measurement.
        topology: processes, sinks, data; one sentence.
        unfair: what the figures do not say, or say too kindly.
        timeout_s: a measurement that takes longer is ended and reported as failed.
    """

    name: str
    question: str
    topology: str
    unfair: str
    cases: tuple[str, ...]
    measure: Callable[[str, Scale], Metrics]
    columns: tuple[Column, ...]
    targets: tuple[Target, ...] = ()
    timeout_s: float = 180.0


@dataclass
class Work:
    """Scalars to log: `steps` steps of 10 series. values: float[steps * 10], uniform in [0, 1), row by row.

    Random digits are the worst case for every store: no peer's compression finds a pattern.
    """

    steps: int
    names: list[tuple[str, str]] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        half = SERIES // 2
        self.names = [("train" if k < half else "validation", f"series {k % half}") for k in range(SERIES)]
        generator = random.Random(_SEED)
        self.values = [generator.random() for _ in range(self.steps * SERIES)]
        # A full collection would walk this list, for some 10 ms a million, and that would be our doing.
        gc.freeze()

    @property
    def scalars(self) -> int:
        """How many scalars there are to log."""
        return self.steps * SERIES

    def of_series(self, k: int) -> list[float]:
        """Return the values of series k in the order of its iterations 0, 1, 2, ..."""
        return self.values[k::SERIES]


class EmptyLogger:
    """The floor under every method call: takes the arguments and does nothing."""

    def report_scalar(self, title: str, series: str, value: float, iteration: int) -> None:
        """Do nothing."""


class DequeLogger:
    """The least that keeps a scalar with its time: one tuple appended to an unbounded deque."""

    def __init__(self) -> None:
        self.rows: deque[tuple[str, str, float, int, int]] = deque()

    def report_scalar(
        self,
        title: str,
        series: str,
        value: float,
        iteration: int,
        _now: Callable[[], int] = time.time_ns,
    ) -> None:
        """Keep the scalar; nobody takes it out again."""
        self.rows.append((title, series, value, iteration, _now()))


def tight_loop(report: ReportScalar, work: Work) -> float:
    """Log all of `work` with no clock inside the loop; return the seconds it took."""
    names, values = work.names, iter(work.values)
    begin = time.perf_counter()
    for iteration in range(work.steps):
        for title, series in names:
            report(title, series, next(values), iteration)
    return time.perf_counter() - begin


def inline_deque_loop(work: Work) -> float:
    """Append to a deque with no call of ours in between; return the seconds it took."""
    names, values = work.names, iter(work.values)
    rows: deque[tuple[str, str, float, int, int]] = deque()
    append, now = rows.append, time.time_ns
    begin = time.perf_counter()
    for iteration in range(work.steps):
        for title, series in names:
            append((title, series, next(values), iteration, now()))
    return time.perf_counter() - begin


def timed_loop(report: ReportScalar, work: Work, nanoseconds: array[int]) -> None:
    """Log all of `work` with a clock around each call.

    Args:
        nanoseconds: int64[work.scalars], filled; made beforehand so that nothing grows in the loop.
    """
    clock = time.perf_counter_ns
    names, values = work.names, work.values
    k = 0
    for iteration in range(work.steps):
        for title, series in names:
            value = values[k]
            begin = clock()
            report(title, series, value, iteration)
            nanoseconds[k] = clock() - begin
            k += 1


def timed_emitter_loop(emitters: Sequence[Callable[[float, int], object]], work: Work, nanoseconds: array[int]) -> None:
    """As `timed_loop`, by one bound emitter for each series."""
    clock = time.perf_counter_ns
    values = work.values
    k = 0
    for iteration in range(work.steps):
        for emit in emitters:
            value = values[k]
            begin = clock()
            emit(value, iteration)
            nanoseconds[k] = clock() - begin
            k += 1


def timed_dict_loop(
    report: Callable[[dict[str, Any], int], object],
    paths: Sequence[tuple[str, ...]],
    work: Work,
    nanoseconds: array[int],
) -> None:
    """As `timed_loop`, one call a step with a dict of all series; `paths` are their keys in it, (key,) or (key, key).

    Args:
        nanoseconds: int64[work.steps], filled.
    """
    clock = time.perf_counter_ns
    for iteration in range(work.steps):
        step: dict[str, Any] = {}
        for path, value in zip(paths, work.values[iteration * SERIES : (iteration + 1) * SERIES], strict=True):
            (step if len(path) == 1 else step.setdefault(path[0], {}))[path[-1]] = value
        begin = clock()
        report(step, iteration)
        nanoseconds[iteration] = clock() - begin


def timed_inline_deque_loop(work: Work, nanoseconds: array[int]) -> None:
    """As `timed_loop`, around an inline append of the stamped tuple to a deque."""
    clock, now = time.perf_counter_ns, time.time_ns
    names, values = work.names, work.values
    rows: deque[tuple[str, str, float, int, int]] = deque()
    append = rows.append
    k = 0
    for iteration in range(work.steps):
        for title, series in names:
            value = values[k]
            begin = clock()
            append((title, series, value, iteration, now()))
            nanoseconds[k] = clock() - begin
            k += 1


def timed_nothing_loop(work: Work, nanoseconds: array[int]) -> None:
    """As `timed_loop`, around nothing: what the two clock calls themselves cost."""
    clock = time.perf_counter_ns
    names, values = work.names, work.values
    k = 0
    for _iteration in range(work.steps):
        for _title, _series in names:
            _value = values[k]
            begin = clock()
            nanoseconds[k] = clock() - begin
            k += 1


def latencies(count: int) -> array[int]:
    """Return int64[count] of zeros, its pages already touched."""
    return array("q", bytes(8 * count))


def percentiles_ns(nanoseconds: array[int]) -> Metrics:
    """Return p50, p99, p99.9 and max of one run, in ns."""
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1
    return {
        "p50_ns": ordered[last // 2],
        "p99_ns": ordered[int(last * 0.99)],
        "p999_ns": ordered[int(last * 0.999)],
        "max_ns": ordered[last],
    }


def median(values: Sequence[float]) -> float:
    """Return the median; the mean of the middle two when their number is even."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def rss_mb() -> float:
    """Return this process's resident memory now, in MiB (2**20 bytes)."""
    return _status_mb("VmRSS:")


def reset_peak_rss() -> bool:
    """Let `peak_rss_mb` start again from now; False where the system cannot (it is then since the start)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_rss_mb() -> float:
    """Return the greatest resident memory since `reset_peak_rss`, in MiB; the kernel keeps it, no sampling."""
    return _status_mb("VmHWM:")


def _status_mb(key: str) -> float:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource  # absent on Windows, and needed only where there is no /proc

        usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return usage / (2**20 if sys.platform == "darwin" else 2**10)
    for line in status.splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise LookupError(f"no {key} in /proc/self/status")


def child_main(benchmark: Benchmark) -> int:
    """Measure one case once and print its metrics as one line of JSON on stdout.

    Everything else that prints to stdout (the SDK's start and end lines) goes to stderr.
    """
    parser = argparse.ArgumentParser(
        description=f"{benchmark.question}\n\n{benchmark.topology}\nUnfair: {benchmark.unfair}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--case", choices=benchmark.cases, default=benchmark.cases[0])
    parser.add_argument("--quick", action="store_true", help="less work: tries the benchmark, measures little")
    arguments = parser.parse_args()
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout.flush()
    os.dup2(2, 1)
    metrics = benchmark.measure(arguments.case, Scale(arguments.quick))
    sys.stdout.flush()
    result.write(json.dumps(metrics) + "\n")
    result.close()
    return 0
