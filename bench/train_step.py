"""How much slower is a training loop of 1 ms steps that logs 10 scalars a step?

Blocks of three kinds take turns in one process, in an order that turns round each time: bare steps, steps
that append to a deque, steps that log. A block that logs first logs untimed for longer than the batcher's
flush interval, so that the timed part starts with the batcher as busy as it ends: no work is shifted out of
the block. Before a bare block the pipeline is flushed, so that none of it is shifted in.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import (
    SERIES,
    Benchmark,
    Column,
    DequeLogger,
    Metrics,
    ReportScalar,
    Scale,
    Target,
    Work,
    child_main,
    median,
)
from ours import flush, ledger_of, ledger_sums, open_task
from servers import server

_STEP_S = 0.001
_BLOCK_STEPS = 400
_WARM_STEPS = 1_200  # longer than the flush interval at 1 ms a step

Block = Callable[[int], tuple[float, float]]


def measure(case: str, scale: Scale) -> Metrics:
    """Return slowdowns in %, each the median over the rounds of block against the bare block of its round."""
    rounds = scale.pick(9, 2)
    turns = _calibrate()
    work = Work(1_000)
    with tempfile.TemporaryDirectory() as folder, _sink(case, Path(folder)) as sink:
        task = open_task(sink)
        logger = task.get_logger()
        blocks: dict[str, Block] = {
            "bare": _bare_block(turns),
            "deque": _logging_block(turns, DequeLogger().report_scalar, work),
            "ours": _logging_block(turns, logger.report_scalar, work),
        }
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in blocks}
        order = list(blocks)
        for turn in range(rounds):
            for name in order if turn % 2 == 0 else reversed(order):
                blocks[name](scale.pick(_WARM_STEPS, 300) if name == "ours" else 20)
                results[name].append(blocks[name](_BLOCK_STEPS))
                if name == "ours":
                    flush(task, timeout_s=30.0)
        task.close()
        ledger = ledger_of(task)
    bare_s = [seconds for seconds, _ in results["bare"]]
    metrics: Metrics = {
        "rounds": rounds,
        "bare_us": median(bare_s) / _BLOCK_STEPS * 1e6,
        "ledger": ledger,
        "ledger_sums": int(ledger_sums(ledger)),
        "dropped": sum(ledger["dropped"].values()),
        # Odd against even bare blocks: what the machine's noise alone makes of this method.
        "noise_percent": _noise_percent(bare_s),
    }
    for name in ("deque", "ours"):
        slowdowns = [(s / bare - 1) * 100 for (s, _), bare in zip(results[name], bare_s, strict=True)]
        metrics[f"{name}_percent"] = median(slowdowns)
        metrics[f"{name}_percent_blocks"] = slowdowns
        metrics[f"{name}_calls_us"] = median([calls for _, calls in results[name]]) / _BLOCK_STEPS * 1e6
    return metrics


def _noise_percent(bare_s: list[float]) -> float:
    if len(bare_s) < 2:
        return 0.0
    return (median(bare_s[1::2]) / median(bare_s[0::2]) - 1) * 100


def _compute(turns: int) -> float:
    """Do the work of one training step in pure Python: it holds the GIL throughout."""
    total = 0.0
    for k in range(turns):
        total += k * 0.5 - total * 1e-3
    return total


def _calibrate() -> int:
    """Return how many turns of `_compute` take one millisecond here."""
    turns = 1_000
    while True:
        begin = time.perf_counter()
        _compute(turns)
        seconds = time.perf_counter() - begin
        if seconds > 0.05:
            return max(1, int(turns * _STEP_S / seconds))
        turns *= 2


def _bare_block(turns: int) -> Block:
    def run(steps: int) -> tuple[float, float]:
        clock = time.perf_counter
        calls_s = 0.0
        begin = clock()
        for _step in range(steps):
            _compute(turns)
            before = clock()
            calls_s += clock() - before
        return clock() - begin, calls_s

    return run


def _logging_block(turns: int, report: ReportScalar, work: Work) -> Block:
    iteration = 0

    def run(steps: int) -> tuple[float, float]:
        nonlocal iteration
        clock = time.perf_counter
        names, values = work.names, work.values
        calls_s = 0.0
        begin = clock()
        for step in range(steps):
            _compute(turns)
            row = step % work.steps * SERIES
            before = clock()
            for k, (title, series) in enumerate(names):
                report(title, series, values[row + k], iteration)
            calls_s += clock() - before
            iteration += 1
        return clock() - begin, calls_s

    return run


@contextlib.contextmanager
def _sink(case: str, folder: Path) -> Iterator[str]:
    if case == "zip":
        yield f"zip:{folder / 'session.zip'}"
    else:
        with server(folder / "server") as running:
            yield running.url


BENCHMARK = Benchmark(
    name="train_step",
    question="How much slower does logging 10 scalars a step make a training loop of 1 ms steps?",
    topology=(
        "one thread of pure Python, calibrated to 1 ms a step; blocks of 400 steps, bare / deque / ours "
        "in turn, 9 rounds a process; each block against the bare block of its round; zip = session zip, "
        "http = our server in another process"
    ),
    unfair=(
        "10 scalars per millisecond is far denser than training usually logs, and pure Python never lets "
        "the GIL go, as numpy and torch do; in http the server has the other core to itself (on one core "
        "it would take its share)"
    ),
    cases=("zip", "http"),
    measure=measure,
    columns=(
        Column("bare_us", "bare us/step", ",.0f"),
        Column("noise_percent", "noise %", "+.2f"),
        Column("deque_percent", "deque %", "+.2f"),
        Column("ours_percent", "ours %", "+.2f"),
        Column("deque_calls_us", "deque calls us/step", ".1f"),
        Column("ours_calls_us", "our calls us/step", ".1f"),
        Column("dropped", "dropped", ".0f"),
    ),
    targets=(
        Target("ours_percent", "<=", 3, "at most 3 % slower with 10 scalars per 1 ms step"),
        Target("dropped", "==", 0, "nothing dropped"),
        Target("ledger_sums", "==", 1, "the ledger adds up"),
    ),
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
