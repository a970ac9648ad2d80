"""How much slower is a training loop of 1 ms steps that logs 10 scalars a step?

Blocks take turns in one process: bare, deque, bare, ours, bare, deque, ... and each is held against the mean of
the bare blocks before and after it, so that a machine that drifts cancels out. A block that logs first logs
untimed for longer than the batcher's flush interval, so that the timed part starts with the batcher as
busy as it ends: no work is shifted out of the block. Before a bare block the pipeline is flushed, so that none
of it is shifted in.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

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
_ROUNDS = 8
_SETTLE_STEPS = 20
_WARM_STEPS = 1_000  # twice the flush interval at 1 ms a step


class Spent(NamedTuple):
    """What a block took: wall seconds, those inside the calls, and CPU seconds of the thread and the process."""

    wall_s: float
    calls_s: float
    thread_cpu_s: float
    process_cpu_s: float


Block = Callable[[int], Spent]


def measure(case: str, scale: Scale) -> Metrics:
    """Return slowdowns in %, each the median over the rounds of block against the bare blocks beside it."""
    rounds = scale.pick(_ROUNDS, 2)
    turns = _calibrate()
    work = Work(1_000)
    with tempfile.TemporaryDirectory() as folder, _sink(case, Path(folder)) as sink:
        task = open_task(sink)
        report = task.get_logger().report_scalar
        bare = _bare_block(turns)
        logging = {
            "deque": _logging_block(turns, DequeLogger().report_scalar, work),
            "ours": _logging_block(turns, report, work),
        }
        bare(_BLOCK_STEPS)
        bares = [bare(_BLOCK_STEPS)]
        slowdowns: dict[str, list[Spent]] = {name: [] for name in logging}
        calls_us: dict[str, list[float]] = {name: [] for name in logging}
        for _ in range(rounds):
            for name, block in logging.items():
                block(scale.pick(_WARM_STEPS, 300) if name == "ours" else _SETTLE_STEPS)
                spent = block(_BLOCK_STEPS)
                flush(task, timeout_s=30.0)
                bare(_SETTLE_STEPS)
                bares.append(bare(_BLOCK_STEPS))
                slowdowns[name].append(_percent_more(spent, bares[-2], bares[-1]))
                calls_us[name].append(spent.calls_s / _BLOCK_STEPS * 1e6)
        task.close()
        ledger = ledger_of(task)
    return {
        "rounds": rounds,
        "bare_us": median([spent.wall_s for spent in bares]) / _BLOCK_STEPS * 1e6,
        **_medians("noise", _noise(bares)),
        **_medians("deque", slowdowns["deque"]),
        **_medians("ours", slowdowns["ours"]),
        **{f"{name}_calls_us": median(values) for name, values in calls_us.items()},
        "dropped": sum(ledger["dropped"].values()),
        "ledger": ledger,
        "ledger_sums": int(ledger_sums(ledger)),
    }


def _percent_more(spent: Spent, before: Spent, after: Spent) -> Spent:
    """Return how much more, in %, a block took than the mean of the bare blocks beside it."""
    return Spent(*((own / ((a + b) / 2) - 1) * 100 for own, a, b in zip(spent, before, after, strict=True)))


def _noise(bares: list[Spent]) -> list[Spent]:
    """Return what the machine alone makes of this method: each bare block against its bare neighbours."""
    triples = zip(bares, bares[1:], bares[2:], strict=False)
    return [_percent_more(middle, before, after) for before, middle, after in triples]


def _medians(name: str, percents: list[Spent]) -> Metrics:
    return {
        f"{name}_percent": median([percent.wall_s for percent in percents]),
        f"{name}_thread_cpu_percent": median([percent.thread_cpu_s for percent in percents]),
        f"{name}_process_cpu_percent": median([percent.process_cpu_s for percent in percents]),
        f"{name}_percent_blocks": [percent.wall_s for percent in percents],
    }


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
    def run(steps: int) -> Spent:
        clock = time.perf_counter
        calls_s = 0.0
        process_cpu, thread_cpu, begin = time.process_time(), time.thread_time(), clock()
        for _step in range(steps):
            _compute(turns)
            before = clock()
            calls_s += clock() - before
        return Spent(clock() - begin, calls_s, time.thread_time() - thread_cpu, time.process_time() - process_cpu)

    return run


def _logging_block(turns: int, report: ReportScalar, work: Work) -> Block:
    iteration = 0

    def run(steps: int) -> Spent:
        nonlocal iteration
        clock = time.perf_counter
        names, values = work.names, work.values
        calls_s = 0.0
        process_cpu, thread_cpu, begin = time.process_time(), time.thread_time(), clock()
        for step in range(steps):
            _compute(turns)
            row = step % work.steps * SERIES
            before = clock()
            for k, (title, series) in enumerate(names):
                report(title, series, values[row + k], iteration)
            calls_s += clock() - before
            iteration += 1
        return Spent(clock() - begin, calls_s, time.thread_time() - thread_cpu, time.process_time() - process_cpu)

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
        "in turn, 8 rounds a process; each block against the mean of the bare ones beside it; zip = session zip, "
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
        Column("ours_thread_cpu_percent", "thread CPU %", "+.2f"),
        Column("ours_process_cpu_percent", "process CPU %", "+.2f"),
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
