"""From the runs' metrics to medians, verdicts, a table and a JSON document; and what machine it was."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness import Benchmark, Column, Metrics, Target, median

__all__ = ["document", "machine", "print_benchmark", "print_shortfalls", "summary", "verdicts"]

# case -> the metrics of each repetition that succeeded; and the reasons of those that did not
Runs = dict[str, list[Metrics]]
Failures = dict[str, list[str]]

_PACKAGES = ("telemetry-tasks", "aiohttp", "msgpack", "orjson", "uvloop", "psutil", "numpy", "sqlalchemy")


def summary(runs: Sequence[Metrics]) -> dict[str, Any]:
    """Return for each numeric metric its median, min, max and all values; other metrics as last seen."""
    result: dict[str, Any] = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        values = [run[name] for run in runs if run.get(name) is not None]
        if values and all(isinstance(value, (int, float)) for value in values):
            result[name] = {"median": median(values), "min": min(values), "max": max(values), "values": values}
        elif values:
            result[name] = {"last": values[-1]}
    return result


def verdicts(benchmark: Benchmark, runs: Runs) -> list[dict[str, Any]]:
    """Return each target with the median it is held against, case by case.

    Where the promise is exact ("=="), every repetition must keep it, not only the median.
    """
    result = []
    for target in benchmark.targets:
        for case, metrics in runs.items():
            if target.cases and case not in target.cases:
                continue
            values = [run[target.metric] for run in metrics if run.get(target.metric) is not None]
            if values:
                result.append(_verdict(target, case, values))
    return result


def _verdict(target: Target, case: str, values: list[float]) -> dict[str, Any]:
    value = median(values)
    if target.comparison == "==":
        met = all(each == target.bound for each in values)
    elif target.comparison == "<=":
        met = value <= target.bound
    else:
        met = value >= target.bound
    return {
        "case": case,
        "metric": target.metric,
        "median": value,
        "min": min(values),
        "max": max(values),
        "comparison": target.comparison,
        "bound": target.bound,
        "met": met,
        "says": target.says,
    }


def print_benchmark(benchmark: Benchmark, runs: Runs, failures: Failures, *, quick: bool) -> None:
    """Print the question, the topology, the table (median, and the range beneath it) and the verdicts."""
    print(f"\n## {benchmark.name}: {benchmark.question}\n")
    print(f"Topology: {benchmark.topology}.")
    print(f"Unfair: {benchmark.unfair}.\n")
    rows = [_row(benchmark.columns, case, metrics) for case, metrics in runs.items() if metrics]
    if rows:
        columns = [
            column for column in benchmark.columns if any(_values(column.metric, metrics) for metrics in runs.values())
        ]
        keep = [
            0,
            *(1 + k for k, column in enumerate(benchmark.columns) if column in columns),
            len(benchmark.columns) + 1,
        ]
        headings = ["case", *(column.heading for column in benchmark.columns), "reps"]
        _print_table([[line[k] for k in keep] for line in [headings, *rows]])
    for case, reasons in failures.items():
        for reason in dict.fromkeys(reasons):
            print(f"\n{case}: FAILED {reasons.count(reason)} times: {reason}")
    lines = _verdict_lines(verdicts(benchmark, runs), quick=quick)
    if lines:
        print("\n" + "\n".join(lines))
    sys.stdout.flush()


def print_shortfalls(found: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Print the targets that were missed, of all benchmarks, at the end where they are seen."""
    missed = [(name, verdict) for name, verdict in found if not verdict["met"]]
    print(f"\n## {len(found) - len(missed)} of {len(found)} targets met\n")
    for name, verdict in missed:
        print(f"- FALLS SHORT: {name} {verdict['says']}: {_measured(verdict)}, wanted {_wanted(verdict)}")


def _verdict_lines(found: Sequence[dict[str, Any]], *, quick: bool) -> list[str]:
    """Return a line for each target, with the median and range of each case."""
    by_promise: dict[str, list[dict[str, Any]]] = {}
    for verdict in found:
        by_promise.setdefault(verdict["says"], []).append(verdict)
    lines = []
    for says, group in by_promise.items():
        missed = [verdict["case"] for verdict in group if not verdict["met"]]
        word = "quick" if quick else f"FALLS SHORT ({', '.join(missed)})" if missed else "met"
        figures = "; ".join(_measured(verdict) for verdict in group)
        lines.append(f"- {word}: {says} ({_wanted(group[0])}): {figures}")
    return lines


def _measured(verdict: dict[str, Any]) -> str:
    low, high = f"{verdict['min']:,.4g}", f"{verdict['max']:,.4g}"
    spread = "" if low == high else f" [{low}..{high}]"
    return f"{verdict['case']} {verdict['median']:,.4g}{spread}"


def _wanted(verdict: dict[str, Any]) -> str:
    return f"{verdict['comparison']} {verdict['bound']:,g}"


def _values(metric: str, metrics: Sequence[Metrics]) -> list[float]:
    return [run[metric] for run in metrics if run.get(metric) is not None]


def _row(columns: Iterable[Column], case: str, metrics: Sequence[Metrics]) -> list[str]:
    cells = [case]
    for column in columns:
        values = _values(column.metric, metrics)
        if not values:
            cells.append("–")
            continue
        middle, low, high = (format(f(values), column.format) for f in (median, min, max))
        cells.append(middle if low == high else f"{middle} [{low}..{high}]")
    return [*cells, str(len(metrics))]


def _print_table(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    for number, line in enumerate(lines):
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print("| " + " | ".join(cells) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, memory, system, Python, package versions, commit."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "switch_interval_s": sys.getswitchinterval(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "versions": versions,
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        # No /proc (macOS): the platform's own word, which may be short.
        return platform.processor()
    return platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _commit() -> str:
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def document(
    benchmarks: Sequence[Benchmark], runs: dict[str, Runs], failures: dict[str, Failures], facts: dict[str, Any]
) -> dict[str, Any]:
    """Return all of it as one JSON document: facts of the machine, and each value of each repetition."""
    return {
        "format": 1,
        **facts,
        "benchmarks": {
            benchmark.name: {
                "question": benchmark.question,
                "topology": benchmark.topology,
                "unfair": benchmark.unfair,
                "cases": {case: summary(metrics) for case, metrics in runs[benchmark.name].items()},
                "failures": failures[benchmark.name],
                "targets": verdicts(benchmark, runs[benchmark.name]),
            }
            for benchmark in benchmarks
        },
    }
