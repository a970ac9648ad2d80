"""How many runs of 20 series at 5 Hz does a server carry that has one core, and what becomes of those beyond?"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import Benchmark, Column, Metrics, Scale, Target, child_main, median
from servers import ServerProcess, folder_bytes, server, stored_points, until_idle
from traffic.frames import FULL, Shape, quick, task_id_of
from traffic.ingest import ingest
from traffic.writers import Fleet, Sent, fleet

_RUNS = (50, 100, 200, 400, 700, 1_000, 1_400, 2_000, 2_800, 4_000)
_QUICK_RUNS = (2, 5)
_PROMISED = 1_000
_SHAPE = Shape(0, 20, 0, 0.2)
_PROCESSES = 2
_WARM_S = 5
# A server keeps up that answers 99 % of the frames within this: behind one that does not, frames gather, and the
# twenty seconds are long enough for those of a server that is 6 % too slow to be later than this.
_LATE_MS = 1_000
_CLIENTS = 8
_CROWD, _CROWD_SPEED = 1_500, 4
_CLOSE_TIMEOUT_S = 120.0


def measure(case: str, scale: Scale) -> Metrics:
    """Return at which number of runs the server falls behind, or what happens at one number."""
    core = _own_core()
    with tempfile.TemporaryDirectory() as folder, fleet(_SHAPE, _PROCESSES) as writers:
        if case == "raised":
            return _raised(writers, scale, Path(folder), core)
        if case == "held":
            runs, seconds = scale.pick(_PROMISED, 5), scale.pick(300, 5)
            metrics = _level(writers, runs, seconds, Path(folder), core)
            return {"carried": runs if _keeps_up(metrics) else 0, **metrics}
        return _backs_off(writers, scale, Path(folder), core)


def _own_core() -> int | None:
    """Take one core from this process, and so from all it starts, and return it; None where there is none to spare."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, set(cores[:-1]))
    return cores[-1]


def _raised(writers: Fleet, scale: Scale, folder: Path, core: int | None) -> Metrics:
    full = ingest(quick(FULL) if scale.quick else FULL, folder / "full")
    result: Metrics = {"full_cpu_us": full["cpu_us"], "carried": 0}
    for runs in _QUICK_RUNS if scale.quick else _RUNS:
        metrics = _level(writers, runs, scale.pick(20, 2), folder / str(runs), core)
        print(f"{runs} runs: {metrics}", file=sys.stderr)
        # What it costs when it cannot keep up says little; how late it is then says how badly.
        result |= {f"{name}_{runs}": value for name, value in metrics.items()}
        if not _keeps_up(metrics):
            result["falls_behind_at"] = runs
            break
        result |= {"carried": runs, **metrics, "times_full": metrics["cpu_us"] / full["cpu_us"]}
    return result


def _keeps_up(metrics: Metrics) -> bool:
    return bool(metrics["late_p99_ms"] <= _LATE_MS)


def _level(writers: Fleet, runs: int, seconds: int, folder: Path, core: int | None) -> Metrics:
    """Measure a fresh server with so many runs, for so long after they have warmed it up."""
    warm_s = min(_WARM_S, seconds)
    writers.make(runs, warm_s + seconds + 1)
    with server(folder, core=core) as running:
        writers.begin(running.url, runs, (warm_s, warm_s + seconds))
        time.sleep(warm_s)
        cpu_begin_s, begin_s = running.cpu_s(), time.perf_counter()
        time.sleep(seconds)
        core_share = (running.cpu_s() - cpu_begin_s) / (time.perf_counter() - begin_s)
        peak_mb, rss_mb = running.peak_rss_mb(), running.rss_mb()
        sent = writers.end()
        metrics = _counts(running, sent, runs)
        until_idle(running)
        running.stop()
    rate = sent.answered_points / seconds
    return {
        "rate": rate,
        "core_percent": core_share * 100,
        "cpu_us": core_share / rate * 1e6 if rate else None,
        "peak_mb": peak_mb,
        "rss_mb": rss_mb,
        "bytes_per_point": folder_bytes(folder) / max(1, sum(sent.points.values())),
        **metrics,
    }


def _counts(running: ServerProcess, sent: Sent, runs: int) -> Metrics:
    late_ms = sorted(sent.late_ms)
    stored = stored_points(running.url, [task_id_of(run) for run in range(runs) if sent.points.get(run)])
    return {
        "late_p50_ms": median(late_ms),
        "late_p99_ms": late_ms[int((len(late_ms) - 1) * 0.99)],
        "late_max_ms": late_ms[-1],
        "answered_share": sent.answered_points / sent.due_points,
        "requests": sent.requests,
        "refused": sent.refused,
        "cut": sent.cut,
        "lost": sum(sent.points.values()) - stored,
    }


def _backs_off(writers: Fleet, scale: Scale, folder: Path, core: int | None) -> Metrics:
    """Overrun the server with a crowd, and look at what becomes of eight real clients that report meanwhile."""
    from traffic.clients import CountingSink, clients, report

    crowd, seconds = scale.pick(_CROWD, 20), scale.pick(20, 3)
    writers.make(crowd, seconds * _CROWD_SPEED + 1)
    with server(folder / "server", core=core) as running:
        writers.begin(running.url, crowd, (0, seconds), _CROWD_SPEED)
        # Who comes first has a place already, and waits in it.
        head_start_s = seconds / 5
        time.sleep(head_start_s)
        with clients(running.url, _CLIENTS, folder / "state") as real:
            points = report(real, _SHAPE.series, _SHAPE.gap_s, seconds - head_start_s)
            waiting = [_waiting(pipeline.ledger()) for pipeline in real]
            sent = writers.end()
            begin_s = time.perf_counter()
            ledgers = [pipeline.close(_CLOSE_TIMEOUT_S) for pipeline in real]
            caught_up_s = time.perf_counter() - begin_s
            sinks = [sink for pipeline in real for sink in pipeline.sinks if isinstance(sink, CountingSink)]
            stored = stored_points(running.url, [pipeline.task.task_id for pipeline in real])
        metrics = _counts(running, sent, crowd)
        peak_mb = running.peak_rss_mb()
    return {
        **metrics,
        "rate": sent.answered_points / seconds,
        "peak_mb": peak_mb,
        "crowd_lost": metrics["lost"],
        "crowd_refused": metrics["refused"],
        "refused": sum(sink.refused for sink in sinks),
        "hurried": sum(sink.hurried for sink in sinks),
        "waiting_events": sum(waiting),
        "caught_up_s": caught_up_s,
        "dropped": sum(ledger.dropped_total for ledger in ledgers),
        "lost": metrics["lost"] + points * len(real) - stored,
    }


def _waiting(ledger: Any) -> int:
    return int(ledger.on_disk + ledger.in_memory)


BENCHMARK = Benchmark(
    name="runs_a_core",
    question="How many runs of 20 series at 5 Hz does a server carry that has one core?",
    topology=(
        "writers of 20 series at 5 Hz, each on a kept connection of its own, which post a frame each flush interval "
        "(0.5 s, phases spread) and what waited meanwhile with the next, as the client does; frames made beforehand; "
        f"two processes of writers on the other cores, our server pinned to one; {_WARM_S} s to warm up, then 20 s; "
        f"a fresh server for each of {', '.join(f'{runs:,}' for runs in _RUNS)} runs until one falls behind: 1 % of "
        "the frames later than 1 s; late = from when a frame was due until it was answered, so its commit is within; "
        f"full = 10 series in frames of 65,536 points, in the same run; held = {_PROMISED:,} runs for five minutes; "
        f"backs_off = {_CROWD:,} writers {_CROWD_SPEED} times as fast as that for 20 s, and {_CLIENTS} real clients "
        "(pipeline, journal, http sink) with 20 series at 5 Hz among them, which must all be delivered afterwards"
    ),
    unfair=(
        "loopback; nobody reads meanwhile; the writers' own lateness is counted against the server; what else runs on "
        "the server's core is too; seconds of a level do not last until everything is sealed, which held does; the "
        "number is that of a step of the ladder"
    ),
    cases=("raised", "held", "backs_off"),
    measure=measure,
    columns=(
        Column("carried", "runs carried", ",.0f"),
        Column("falls_behind_at", "falls behind at", ",.0f"),
        Column("rate", "points/s", ",.0f"),
        Column("core_percent", "% of the core", ".0f"),
        Column("cpu_us", "server CPU us/point", ".2f"),
        Column("times_full", "times full", ".1f"),
        Column("late_p50_ms", "late p50 ms", ",.0f"),
        Column("late_p99_ms", "p99", ",.0f"),
        Column("peak_mb", "server peak MiB", ",.0f"),
        Column("bytes_per_point", "bytes/point on disk", ".1f"),
        Column("refused", "503s", ",.0f"),
        Column("hurried", "too early", ".0f"),
        Column("waiting_events", "waited at the client", ",.0f"),
        Column("caught_up_s", "caught up in s", ".1f"),
        Column("lost", "lost", ".0f"),
    ),
    targets=(
        Target("carried", ">=", _PROMISED, "one core carries 1,000 runs of 20 series at 5 Hz", ("raised", "held")),
        Target("late_p99_ms", "<=", _LATE_MS, "1,000 runs: commit to answer at most 1 s (p99)", ("held",)),
        Target("peak_mb", "<=", 1024, "at most 1 GiB of memory", ("raised", "held")),
        Target("refused", ">=", 1, "an overrun server asks real clients to wait", ("backs_off",)),
        Target("hurried", "==", 0, "and they wait as long as it says", ("backs_off",)),
        Target("dropped", "==", 0, "and drop nothing", ("backs_off",)),
        Target("lost", "==", 0, "nothing lost"),
    ),
    timeout_s=1_800.0,
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
