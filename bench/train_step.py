"""How much CPU time does a training loop of 1 ms steps that logs 10 scalars a step take, more than one that does not?

Two answers, each with what it cannot see:

- **by account**: the CPU time of the main thread inside the calls, and that of every other thread, by the kernel's
  clock of each thread, less that of a block that calls nothing. It resolves a hundredth of a percent, for what is
  subtracted is small. It does not see what our work does to the program's own (caches, the GIL).
- **by difference**: CPU time of the whole process in short blocks, bare and logging in turn, each against the mean of
  the bare blocks beside it. It sees all, and wavers as the machine does: its standard error stands beside it, and
  what the method makes of a deque, and of nothing at all.

A block that logs ends with a flush, inside the measurement: what it has caused is counted, as often as the
batcher's timer would flush, and nothing is shifted into the bare block after it. Wall time is reported too; where
others use the machine it says little.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import threading
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
_BLOCK_STEPS = 500  # the flush interval at 1 ms a step
_ROUNDS = 8
_SETTLE_STEPS = 20


class Spent(NamedTuple):
    """What a block took: wall seconds, CPU seconds of the process, and of those inside the calls and other threads."""

    wall_s: float
    process_cpu_s: float
    calls_s: float
    pipeline_cpu_s: float
    others_cpu_s: float


Block = Callable[[int], Spent]
Step = Callable[[int, int], object]


def measure(case: str, scale: Scale) -> Metrics:
    """Return in % of a bare block's CPU time what a logging block takes more, by account and by difference."""
    rounds = scale.pick(_ROUNDS, 2)
    steps = scale.pick(_BLOCK_STEPS, 100)
    turns = _calibrate()
    work = Work(1_000)
    with tempfile.TemporaryDirectory() as folder, _sink(case, Path(folder)) as sink:
        task = open_task(sink)
        logger = task.get_logger()
        bare = _block(turns, lambda row, iteration: None, lambda: None)
        logging = {
            "nothing": bare,
            "deque": _block(turns, _calls(DequeLogger().report_scalar, work), lambda: None),
            "ours": _block(turns, _calls(logger.report_scalar, work), lambda: flush(task, timeout_s=30.0)),
            "emitter": _block(turns, _emitters(logger.scalar, work), lambda: flush(task, timeout_s=30.0)),
            "dict": _block(turns, _dicts(logger.report_scalars, work), lambda: flush(task, timeout_s=30.0)),
        }
        for block in logging.values():
            block(_SETTLE_STEPS)
        bares = [bare(steps)]
        spent: dict[str, list[Spent]] = {name: [] for name in logging}
        more: dict[str, list[Spent]] = {name: [] for name in logging}
        for _ in range(rounds):
            for name, block in logging.items():
                spent[name].append(block(steps))
                bares.append(bare(steps))
                more[name].append(_percent_more(spent[name][-1], bares[-2], bares[-1]))
        task.close()
        ledger = ledger_of(task)
    bare_cpu_s = median([block.process_cpu_s for block in bares])
    result: Metrics = {"rounds": rounds, "bare_us": median([block.wall_s for block in bares]) / steps * 1e6}
    for name in logging:
        result |= _by_account(name, spent[name], spent["nothing"], bare_cpu_s) | _by_difference(name, more[name])
    return {
        **result,
        "dropped": sum(ledger["dropped"].values()),
        "ledger": ledger,
        "ledger_sums": int(ledger_sums(ledger)),
    }


def _by_account(name: str, blocks: list[Spent], nothing: list[Spent], bare_cpu_s: float) -> Metrics:
    calls, pipeline, others = (
        (median([block[field] for block in blocks]) - median([block[field] for block in nothing])) / bare_cpu_s * 100
        for field in map(Spent._fields.index, ("calls_s", "pipeline_cpu_s", "others_cpu_s"))
    )
    return {
        f"{name}_calls_percent": calls,
        f"{name}_pipeline_percent": pipeline,
        f"{name}_others_percent": others,
        f"{name}_account_percent": calls + pipeline + others,
    }


def _by_difference(name: str, percents: list[Spent]) -> Metrics:
    cpu = [percent.process_cpu_s for percent in percents]
    return {
        f"{name}_cpu_percent": median(cpu),
        # Of a median: 1.25 times that of a mean, if they scatter as a normal distribution does.
        f"{name}_cpu_error": 1.25 * statistics.stdev(cpu) / len(cpu) ** 0.5,
        f"{name}_wall_percent": median([percent.wall_s for percent in percents]),
        f"{name}_cpu_percent_blocks": cpu,
    }


def _percent_more(spent: Spent, before: Spent, after: Spent) -> Spent:
    """Return how much more, in %, a block took than the mean of the bare blocks beside it; of its calls nothing."""
    wall, cpu = ((own / ((a + b) / 2) - 1) * 100 for own, a, b in zip(spent[:2], before[:2], after[:2], strict=True))
    return Spent(wall, cpu, 0.0, 0.0, 0.0)


def _compute(turns: int) -> float:
    """Do the work of one training step in pure Python: it holds the GIL throughout."""
    total = 0.0
    for k in range(turns):
        total += k * 0.5 - total * 1e-3
    return total


def _calibrate() -> int:
    """Return how many turns of `_compute` take one millisecond of CPU time here."""
    turns = 1_000
    while True:
        begin = time.thread_time()
        _compute(turns)
        seconds = time.thread_time() - begin
        if seconds > 0.05:
            return max(1, int(turns * _STEP_S / seconds))
        turns *= 2


def _block(turns: int, log: Step, settle: Callable[[], object]) -> Block:
    """Return a block of steps that compute and then log; `settle` ends it, within what is measured."""
    iteration = 0

    def run(steps: int) -> Spent:
        nonlocal iteration
        clock = time.thread_time
        calls_s = 0.0
        threads = _thread_cpu_s()
        process_cpu, thread_cpu, begin = time.process_time(), clock(), time.perf_counter()
        for _ in range(steps):
            _compute(turns)
            before = clock()
            log(iteration % 1_000 * SERIES, iteration)
            calls_s += clock() - before
            iteration += 1
        settle()
        wall_s, own_s = time.perf_counter() - begin, clock() - thread_cpu
        process_s = time.process_time() - process_cpu
        pipeline_s = sum(
            spent_s - threads.get(name, 0.0) for name, spent_s in _thread_cpu_s().items() if "pipeline" in name
        )
        return Spent(wall_s, process_s, calls_s, pipeline_s, max(0.0, process_s - own_s - pipeline_s))

    return run


def _thread_cpu_s() -> dict[str, float]:
    """Return the CPU seconds of each of Python's other threads so far, where the system has a clock for each."""
    own = threading.current_thread()
    if not hasattr(time, "pthread_getcpuclockid"):
        return {}
    return {
        f"{thread.name} {thread.ident}": time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread is not own and thread.ident is not None
    }


def _calls(report: ReportScalar, work: Work) -> Step:
    names, values = work.names, work.values

    def log(row: int, iteration: int) -> None:
        for k, (title, series) in enumerate(names):
            report(title, series, values[row + k], iteration)

    return log


def _emitters(scalar: Callable[[str, str], Callable[[float, int], None]], work: Work) -> Step:
    emitters, values = [scalar(title, series) for title, series in work.names], work.values

    def log(row: int, iteration: int) -> None:
        for k, emit in enumerate(emitters):
            emit(values[row + k], iteration)

    return log


def _dicts(report: Callable[[dict[str, float], int], None], work: Work) -> Step:
    names, values = [f"{title}/{series}" for title, series in work.names], work.values

    def log(row: int, iteration: int) -> None:
        report(dict(zip(names, values[row : row + SERIES], strict=True)), iteration)

    return log


@contextlib.contextmanager
def _sink(case: str, folder: Path) -> Iterator[str]:
    if case == "zip":
        yield f"zip:{folder / 'session.zip'}"
    else:
        with server(folder / "server") as running:
            yield running.url


_ACCOUNT_SAYS = "10 scalars in a 1 ms step cost at most 2 % CPU of the whole process, by account"

BENCHMARK = Benchmark(
    name="train_step",
    question="How much CPU time does logging 10 scalars a step add to a training loop of 1 ms steps?",
    topology=(
        "one thread of pure Python, calibrated to 1 ms of CPU a step; blocks of 500 steps, bare / with nothing / "
        "bare / with a deque / bare / with report_scalar / bare / with emitters / bare / with report_scalars, and "
        "again, 8 rounds a process; account = CPU time inside the calls and of the other threads; difference = "
        "CPU time of the process against the mean of the bare blocks beside it; zip = session zip, http = our server "
        "in another process"
    ),
    unfair=(
        "10 scalars per millisecond is far denser than training usually logs, and pure Python never lets "
        "the GIL go, as numpy and torch do; in http the server's CPU time is not the process's; by account our "
        "effect on the program's caches is not seen, by difference the machine's own unrest is"
    ),
    cases=("zip", "http"),
    measure=measure,
    columns=(
        Column("bare_us", "bare us/step", ",.0f"),
        Column("ours_calls_percent", "calls %", ".2f"),
        Column("ours_pipeline_percent", "pipeline thread %", ".2f"),
        Column("ours_others_percent", "other threads %", ".2f"),
        Column("ours_account_percent", "account %", ".2f"),
        Column("emitter_account_percent", "emitters %", ".2f"),
        Column("dict_account_percent", "dict %", ".2f"),
        Column("deque_calls_percent", "deque %", ".2f"),
        Column("nothing_cpu_percent", "difference: nothing %", "+.2f"),
        Column("deque_cpu_percent", "deque %", "+.2f"),
        Column("ours_cpu_percent", "ours %", "+.2f"),
        Column("ours_cpu_error", "+- %", ".2f"),
        Column("ours_wall_percent", "wall %", "+.2f"),
        Column("dropped", "dropped", ".0f"),
    ),
    targets=(
        Target("ours_account_percent", "<=", 2, _ACCOUNT_SAYS),
        Target("ours_cpu_error", "<=", 1, "the difference resolves 1 %"),
        Target("dropped", "==", 0, "nothing dropped"),
        Target("ledger_sums", "==", 1, "the ledger adds up"),
    ),
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
