"""What does a point cost the server in the shapes that programs really send, against a few series in full frames?"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness import Benchmark, Column, Metrics, Scale, Target, child_main
from ours import ledger_of, ledger_sums, open_task
from servers import ServerProcess, folder_bytes, server, stored_points, until_idle
from traffic.frames import BURST, FULL, RUNS, WIDE, Shape, flushes, names_of, quick, task_id_of
from traffic.ingest import ingest
from traffic.writers import pace

_SHAPES = {"wide": WIDE, "runs": RUNS, "burst": BURST}
_NARROW = "_float32"
_SHAPE_CASES = tuple(f"{name}{narrow}" for name in _SHAPES for narrow in ("", _NARROW))
_LIVE_S = 60


def measure(case: str, scale: Scale) -> Metrics:
    """Return what a point of a shape costs, sent as fast as it is answered, or at the pace of life."""
    with tempfile.TemporaryDirectory() as folder:
        if case in _LIVE:
            return _live(_LIVE[case], scale, Path(folder) / "server")
        name, narrow = case.removesuffix(_NARROW), case.endswith(_NARROW)
        full = ingest(_sized(FULL, scale), Path(folder) / "full", narrow=narrow)
        metrics = ingest(_sized(_SHAPES[name], scale), Path(folder) / "server", narrow=narrow)
    return {
        **metrics,
        "full_cpu_us": full["cpu_us"],
        "full_bytes_per_point": full["bytes_per_point"],
        "times_full": metrics["cpu_us"] / full["cpu_us"],
        "lost": metrics["lost"] + full["lost"],
    }


def _sized(shape: Shape, scale: Scale) -> Shape:
    return quick(shape) if scale.quick else shape


def _live(load: Callable[[ServerProcess, Scale], Metrics], scale: Scale, directory: Path) -> Metrics:
    """Run a load that takes its time; return what it cost the server beside what it says itself."""
    with server(directory) as running:
        # What the server does once, for whoever comes first, is not a point's.
        until_idle(running)
        cpu_begin_s, begin_s = running.cpu_s(), time.perf_counter()
        metrics = load(running, scale)
        seconds = time.perf_counter() - begin_s
        until_idle(running)
        cpu_s = running.cpu_s() - cpu_begin_s
        peak_mb = running.peak_rss_mb()
        running.stop()
    return {
        "rate": metrics["points"] / seconds,
        "cpu_us": cpu_s / metrics["points"] * 1e6,
        "core_percent": cpu_s / seconds * 100,
        "bytes_per_point": folder_bytes(directory) / metrics["points"],
        "peak_mb": peak_mb,
        **metrics,
    }


def _live_wide(running: ServerProcess, scale: Scale) -> Metrics:
    """Run a real task that reports 1,000 series at 2 Hz."""
    return _real_task(running, WIDE.series, scale.pick(int(_LIVE_S / WIDE.gap_s), 8), WIDE.gap_s)


def _live_burst(running: ServerProcess, scale: Scale) -> Metrics:
    """Run a real task that reports 10,000 series as fast as it can."""
    return _real_task(running, BURST.series, scale.pick(BURST.steps, 5), BURST.gap_s)


def _real_task(running: ServerProcess, series: int, steps: int, gap_s: float) -> Metrics:
    task = open_task(running.url)
    report, names = task.get_logger().report_scalar, names_of(series)
    begin_s = time.monotonic()
    for step in range(steps):
        for title, name in names:
            report(title, name, step * 0.001, step)
        time.sleep(max(0.0, begin_s + (step + 1) * gap_s - time.monotonic()))
    closing_s = time.monotonic()
    task.close()
    closed_s = time.monotonic() - closing_s
    ledger = ledger_of(task)
    points = series * steps
    return {
        "points": points,
        "close_s": closed_s,
        "lost": points - stored_points(running.url, [task.id]),
        "ledger": ledger,
        "ledger_sums": int(ledger_sums(ledger)),
    }


def _live_runs(running: ServerProcess, scale: Scale) -> Metrics:
    """Let 20 writers send at their pace."""
    seconds = scale.pick(_LIVE_S, 4)
    shape = Shape(RUNS.runs, RUNS.series, int(seconds / RUNS.gap_s), RUNS.gap_s)
    streams = {run: list(flushes(shape, run)) for run in range(shape.runs)}
    # The last flush is due up to an interval after the last step.
    sent = asyncio.run(pace(running.url, streams, window_s=(0.0, seconds + 1.0)))
    points = sum(sent.points.values())
    stored = stored_points(running.url, [task_id_of(run) for run in range(shape.runs)])
    return {"points": points, "refused": sent.refused, "lost": shape.points - stored}


_LIVE = {"live_wide": _live_wide, "live_runs": _live_runs, "live_burst": _live_burst}

BENCHMARK = Benchmark(
    name="shapes",
    question="What does a point cost the server in the shapes that programs really send?",
    topology=(
        "frames made beforehand by the client's own code with its default settings, over loopback HTTP, a kept "
        "connection a run, a frame a request, the next as soon as one is answered, to our server in its own process; "
        "wide = 1,000 series at 2 Hz, runs = 20 runs of 20 series at 5 Hz, five minutes of each; burst = 1,000,000 "
        "points in 10,000 series; _float32 = values that a float32 holds, else all 53 bits are random; full = 10 "
        "series in frames of 65,536 points, in the same run; server CPU from the kernel, from the first frame until "
        "all tasks have ended and the server has used under 3 % of a core for 6 s; live_wide, live_burst = the first "
        "and the last of these from a real task; live_runs = the 20 writers at their pace, a minute"
    ),
    unfair=(
        "what is sent as fast as it is answered is committed in larger groups than what comes at its pace (live_ has "
        "that); the CPU of stopping the server is not in it, nor the sender's; one server that had nothing before; in "
        "a minute of the live cases the empty database is a larger part of the bytes; the values of live_wide and "
        "live_burst are steps, which pack well"
    ),
    cases=(*_SHAPE_CASES, *_LIVE),
    measure=measure,
    columns=(
        Column("points", "points", ",.0f"),
        Column("points_per_frame", "points/frame", ",.0f"),
        Column("rate", "points/s", ",.0f"),
        Column("cpu_us", "server CPU us/point", ".2f"),
        Column("acked_cpu_us", "of it until acked", ".2f"),
        Column("full_cpu_us", "full frames", ".3f"),
        Column("times_full", "times full", ".1f"),
        Column("core_percent", "% of a core", ".1f"),
        Column("bytes_per_point", "bytes/point on disk", ".1f"),
        Column("full_bytes_per_point", "full frames", ".1f"),
        Column("frame_bytes_per_point", "in frames", ".1f"),
        Column("peak_mb", "server peak MiB", ",.0f"),
        Column("close_s", "close s", ".2f"),
        Column("lost", "lost", ".0f"),
    ),
    targets=(
        Target(
            "cpu_us",
            "<=",
            5,
            "1,000 series at 2 Hz: at most 5 us of server CPU a point",
            ("wide", "wide_float32", "live_wide"),
        ),
        Target(
            "cpu_us",
            "<=",
            10,
            "20 runs of 20 series at 5 Hz: at most 10 us of server CPU a point",
            ("runs", "runs_float32", "live_runs"),
        ),
        Target(
            "cpu_us",
            "<=",
            3,
            "a burst of 10,000 series: at most 3 us of server CPU a point",
            ("burst", "burst_float32", "live_burst"),
        ),
        # Before there was a log: 0.31 to 0.36.
        Target("full_cpu_us", "<=", 0.4, "10 full series: not worse than before, at most 0.4 us a point", _SHAPE_CASES),
        Target("bytes_per_point", "<=", 12, "at most 12 bytes a point on disk after sealing", _SHAPE_CASES),
        Target("full_bytes_per_point", "<=", 10, "10 full series: at most 10 bytes a point on disk", _SHAPE_CASES),
        Target("lost", "==", 0, "nothing lost, all delivered"),
    ),
    timeout_s=900.0,
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
