"""What does one `Logger.report_scalar` cost the training thread, and what do the cheaper forms of it?

The floors are measured in the same process, before the task is opened and again after it is closed, and
the mean of the two counts: a machine that slows down half-way slows both.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness import (
    SERIES,
    Benchmark,
    Column,
    DequeLogger,
    EmptyLogger,
    Metrics,
    Scale,
    Target,
    Work,
    child_main,
    inline_deque_loop,
    latencies,
    median,
    percentiles_ns,
    tight_loop,
    timed_dict_loop,
    timed_emitter_loop,
    timed_inline_deque_loop,
    timed_loop,
    timed_nothing_loop,
)
from ours import flush, ledger_of, open_task
from servers import mute_server, server

if TYPE_CHECKING:
    from telemetry import Logger

_FLOOR_STEPS = 50_000  # 500,000 calls of each floor before and as many after: together as many as ours


def measure(case: str, scale: Scale) -> Metrics:
    """Return the percentiles of 1,000,000 single calls, the mean of as many without a clock, and the floors."""
    work = Work(scale.pick(100_000, 10_000))
    floor_work = Work(scale.pick(_FLOOR_STEPS, 5_000))
    _floors(Work(2_000))  # the interpreter specialises the loops and the clock speeds up: not counted
    before = _floors(floor_work)
    with tempfile.TemporaryDirectory() as folder, _sink(case, Path(folder)) as sink:
        task = open_task(sink)
        report = task.get_logger().report_scalar
        tight_s = tight_loop(report, work)
        flush(task, timeout_s=60.0 if case != "stalled" else 2.0)
        nanoseconds = latencies(work.scalars)
        timed_loop(report, work, nanoseconds)
        others = _other_forms(task.get_logger(), work)
        task.close()
        ledger = ledger_of(task)
    after = _floors(floor_work)
    floors = {
        name: max(before[name], after[name]) if name.endswith("max_ms") else (before[name] + after[name]) / 2
        for name in before
    }
    ours = percentiles_ns(nanoseconds)
    deque_ns = floors["deque_p50_ns"]
    return {
        **ours,
        "p999_us": ours["p999_ns"] / 1e3,
        "max_ms": ours["max_ns"] / 1e6,
        "over_1ms": sum(took > 1_000_000 for took in nanoseconds),
        "over_10ms": sum(took > 10_000_000 for took in nanoseconds),
        "tight_ns": tight_s / work.scalars * 1e9,
        **floors,
        **_ratios(ours["p50_ns"], floors),
        **others,
        "ratio_emitter": others["emitter_p50_ns"] / deque_ns,
        "ratio_dict": others["dict_p50_ns"] / deque_ns,
        "ratio_nested": others["nested_p50_ns"] / deque_ns,
        "ratio_tight": tight_s / work.scalars * 1e9 / floors["deque_tight_ns"],
        "calls": work.scalars,
        "dropped": sum(ledger["dropped"].values()),
        "ledger": ledger,
    }


def _other_forms(logger: Logger, work: Work) -> Metrics:
    """Return for each other form the median of its calls, in ns for each scalar."""
    emitters = [logger.scalar(title, series) for title, series in work.names]
    flat = [(f"{title}/{series}",) for title, series in work.names]
    nanoseconds = latencies(work.scalars)
    timed_emitter_loop(emitters, work, nanoseconds)
    found = {"emitter_p50_ns": percentiles_ns(nanoseconds)["p50_ns"]}
    for name, paths in (("dict", flat), ("nested", work.names)):
        nanoseconds = latencies(work.steps)
        timed_dict_loop(logger.report_scalars, paths, work, nanoseconds)
        found[f"{name}_p50_ns"] = percentiles_ns(nanoseconds)["p50_ns"] / SERIES
    return found


def _ratios(ours_ns: float, floors: Metrics) -> Metrics:
    nothing, deque, inline = floors["nothing_p50_ns"], floors["deque_p50_ns"], floors["inline_p50_ns"]
    return {
        "ratio_deque_gross": ours_ns / deque,
        "ratio_deque_net": (ours_ns - nothing) / (deque - nothing),
        "ratio_inline_gross": ours_ns / inline,
        "ratio_inline_net": (ours_ns - nothing) / (inline - nothing),
        "ratio_empty_net": (ours_ns - nothing) / (floors["empty_p50_ns"] - nothing),
    }


@contextlib.contextmanager
def _sink(case: str, folder: Path) -> Iterator[str]:
    if case == "zip":
        yield f"zip:{folder / 'session.zip'}"
    elif case == "http":
        with server(folder / "server") as running:
            yield running.url
    else:
        with mute_server() as url:
            yield url


def _floors(work: Work) -> Metrics:
    """Return p50, max and tight mean of: nothing, an empty method, a deque in a method, a deque inline.

    What the longest of them takes is the machine's doing and the memory's: they wait for nobody.
    """
    empty = EmptyLogger().report_scalar
    return {
        **_timed("nothing", timed_nothing_loop, work),
        **_timed("empty", lambda work, out: timed_loop(empty, work, out), work),
        **_timed("deque", lambda work, out: timed_loop(DequeLogger().report_scalar, work, out), work),
        **_timed("inline", timed_inline_deque_loop, work),
        "empty_tight_ns": _tight(lambda: tight_loop(empty, work), work),
        "deque_tight_ns": _tight(lambda: tight_loop(DequeLogger().report_scalar, work), work),
        "inline_tight_ns": _tight(lambda: inline_deque_loop(work), work),
    }


def _timed(name: str, loop: Callable[[Work, array[int]], None], work: Work) -> Metrics:
    nanoseconds = latencies(work.scalars)
    loop(work, nanoseconds)
    found = percentiles_ns(nanoseconds)
    return {
        f"{name}_p50_ns": found["p50_ns"],
        f"{name}_p999_us": found["p999_ns"] / 1e3,
        f"{name}_max_ms": found["max_ns"] / 1e6,
    }


def _tight(loop: Callable[[], float], work: Work) -> float:
    return median([loop() for _ in range(3)]) / work.scalars * 1e9


_RATIO_SAYS = "report_scalar median at most 1.5 times the deque append"

BENCHMARK = Benchmark(
    name="hot_path",
    question="What does one report_scalar cost the caller, and how long can it take?",
    topology=(
        "one caller thread, 10 series, no pause between calls, the batcher on its daemon thread and the "
        "sink at work: zip = a session zip; http = our server in another process; stalled = a server that "
        "reads and never answers"
    ),
    unfair=(
        "a loop without computation is the worst case for the batcher, which wants the GIL all the time; "
        "the deque of the floors is never emptied, so its own p99 pays for growing memory; the dict of "
        "report_scalars is made outside the clocks, and its ten scalars share them; both clock "
        "calls are inside each gross figure (net subtracts the median of the clocks around nothing)"
    ),
    cases=("zip", "http", "stalled"),
    measure=measure,
    columns=(
        Column("nothing_p50_ns", "clocks ns", ".0f"),
        Column("empty_p50_ns", "empty ns", ".0f"),
        Column("inline_p50_ns", "inline deque ns", ".0f"),
        Column("deque_p50_ns", "deque ns", ".0f"),
        Column("p50_ns", "p50 ns", ".0f"),
        Column("p99_ns", "p99 ns", ",.0f"),
        Column("p999_us", "p99.9 us", ".1f"),
        Column("max_ms", "max ms", ".2f"),
        Column("over_1ms", "calls >1 ms", ".0f"),
        Column("over_10ms", ">10 ms", ".0f"),
        Column("empty_max_ms", "empty max", ".2f"),
        Column("deque_max_ms", "deque max", ".2f"),
        Column("ratio_deque_gross", "/deque", ".2f"),
        Column("ratio_deque_net", "net", ".2f"),
        Column("ratio_inline_gross", "/inline", ".2f"),
        Column("ratio_inline_net", "net", ".2f"),
        Column("emitter_p50_ns", "emitter ns", ".0f"),
        Column("ratio_emitter", "/deque", ".2f"),
        Column("dict_p50_ns", "dict ns/scalar", ".0f"),
        Column("ratio_dict", "/deque", ".2f"),
        Column("ratio_nested", "nested /deque", ".2f"),
        Column("empty_tight_ns", "tight: empty", ".0f"),
        Column("deque_tight_ns", "deque", ".0f"),
        Column("tight_ns", "ours ns", ".0f"),
        Column("ratio_tight", "ratio", ".2f"),
    ),
    targets=(
        Target("ratio_deque_gross", "<=", 1.5, f"{_RATIO_SAYS} in a method, clocks included"),
        Target("ratio_deque_net", "<=", 1.5, f"{_RATIO_SAYS} in a method, clocks subtracted"),
        Target("ratio_inline_gross", "<=", 1.5, f"{_RATIO_SAYS} inline, clocks included"),
        Target("ratio_emitter", "<=", 1.0, "the bound emitter at most one deque append, clocks included"),
        Target("ratio_dict", "<=", 0.4, "report_scalars at most 0.4 deque appends for each scalar, clocks included"),
        Target("ratio_tight", "<=", 2.5, "a loop of nothing but calls at most 2.5 times the deque loop"),
        Target("p999_us", "<=", 100, "p99.9 at most 100 us"),
        Target("max_ms", "<=", 20, "maximum at most 20 ms"),
        Target("dropped", "==", 0, "nothing dropped"),
    ),
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
