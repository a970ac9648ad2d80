"""What becomes of the program when the far side is dead: memory, wall time, close, and the ledger."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import (
    Benchmark,
    Column,
    Metrics,
    ReportScalar,
    Scale,
    Target,
    Work,
    child_main,
    peak_rss_mb,
    reset_peak_rss,
    rss_mb,
)
from ours import disabled_task, flush, ledger_of, ledger_sums, open_task
from servers import black_hole, closed_port, mute_server, server

_CLOSE_TIMEOUT_S = 5.0
# Returning needs a little longer than the time-out allows for: a thread has to be joined.
_CLOSE_GRACE_S = 0.5


def measure(case: str, scale: Scale) -> Metrics:
    """Return memory growth, the loop's time against the same loop disabled, close() and the ledger."""
    work = Work(scale.pick(100_000, 10_000))
    disabled_s, wanted = _disabled_loop(work)
    with tempfile.TemporaryDirectory() as folder, _far_side(case, Path(folder)) as (url, strike):
        task = open_task(url)
        after_init = rss_mb()
        report = task.get_logger().report_scalar
        # What the pipeline imports and opens on its first frame is paid before the second mark.
        report("warm-up", "first", 0.0, 0)
        flush(task, timeout_s=2.0)
        after_first = rss_mb()
        reset = reset_peak_rss()
        begin = time.perf_counter()
        result = _loop(report, work, strike)
        loop_s = time.perf_counter() - begin
        at_loop_end = ledger_of(task)
        begin = time.perf_counter()
        task.close(timeout=_CLOSE_TIMEOUT_S)
        close_s = time.perf_counter() - begin
        peak = peak_rss_mb()
        ledger = ledger_of(task)
    return {
        "scalars": work.scalars,
        "growth_mb": peak - after_init,
        "growth_after_first_frame_mb": peak - after_first,
        "peak_since_loop": int(reset),
        "loop_s": loop_s,
        "disabled_s": disabled_s,
        "loop_us_more_per_scalar": (loop_s - disabled_s) / work.scalars * 1e6,
        "same_result": int(result == wanted),
        "close_s": close_s,
        "close_timeout_s": _CLOSE_TIMEOUT_S,
        "close_over_s": max(0.0, close_s - _CLOSE_TIMEOUT_S),
        "logged": ledger["logged"],
        "delivered": ledger["delivered"],
        "on_disk": ledger["on_disk"],
        "in_memory": ledger["in_memory"],
        "dropped": sum(ledger["dropped"].values()),
        # One more than the work: the warm-up scalar. The task's own record events are logged too.
        "unaccounted": int(ledger["logged"] < work.scalars + 1),
        "ledger_sums": int(ledger_sums(ledger) and ledger_sums(at_loop_end)),
        "ledger": ledger,
    }


def _loop(report: ReportScalar, work: Work, strike: Callable[[], None]) -> float:
    """Log all of `work` and sum it; `strike` happens in the middle."""
    total = 0.0
    values = iter(work.values)
    half = work.steps // 2
    for iteration in range(work.steps):
        if iteration == half:
            strike()
        for title, series in work.names:
            value = next(values)
            report(title, series, value, iteration)
            total += value
    return total


def _disabled_loop(work: Work) -> tuple[float, float]:
    task = disabled_task()
    begin = time.perf_counter()
    result = _loop(task.get_logger().report_scalar, work, _nothing)
    seconds = time.perf_counter() - begin
    task.close()
    return seconds, result


def _nothing() -> None:
    return


@contextlib.contextmanager
def _far_side(case: str, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    if case == "killed":
        with server(folder / "server") as running:
            yield running.url, running.kill
        return
    with {"mute": mute_server, "black_hole": black_hole, "refused": closed_port}[case]() as url:
        yield url, _nothing


BENCHMARK = Benchmark(
    name="stalled_sink",
    question="What do a sink that never answers and a server killed in mid-run cost the program?",
    topology=(
        "1,000,000 scalars in 10 series, one thread, no pause, one http sink: mute = a server that reads "
        "and never answers; black_hole = a listening socket that nobody accepts; refused = a closed port; "
        f"killed = our server, SIGKILL half-way; close(timeout={_CLOSE_TIMEOUT_S:g})"
    ),
    unfair=(
        "memory is the kernel's peak of the resident set from Task.init on, which has the allocator's "
        "slack and the imports of the first frame in it (the second figure has not); the disabled loop "
        "runs first, in the same process"
    ),
    cases=("mute", "black_hole", "refused", "killed"),
    measure=measure,
    columns=(
        Column("growth_mb", "RSS growth MiB", ".1f"),
        Column("growth_after_first_frame_mb", "after 1st frame", ".1f"),
        Column("loop_s", "loop s", ".2f"),
        Column("disabled_s", "disabled s", ".2f"),
        Column("close_s", "close s", ".2f"),
        Column("logged", "logged", ",.0f"),
        Column("delivered", "delivered", ",.0f"),
        Column("on_disk", "on disk", ",.0f"),
        Column("in_memory", "in memory", ",.0f"),
        Column("dropped", "dropped", ",.0f"),
        Column("ledger_sums", "adds up", ".0f"),
    ),
    targets=(
        Target("growth_mb", "<=", 64, "memory growth at most 64 MB"),
        Target("same_result", "==", 1, "the loop's result is as without us"),
        Target("close_over_s", "<=", _CLOSE_GRACE_S, "close() within its time-out (0.5 s of grace)"),
        Target("unaccounted", "==", 0, "every scalar is in the ledger"),
        Target("ledger_sums", "==", 1, "logged = delivered + on disk + in memory + dropped"),
    ),
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
