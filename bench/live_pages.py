"""Does a sender notice how many people look at its task, when the task has thousands of series?"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

from crowds import crowd
from harness import Benchmark, Column, Metrics, Scale, Target, child_main, median
from servers import ServerProcess, post_frames, server

_TASK_ID = "0123456789abcdef" * 2
_WRITER_ID = bytes(range(16))
_TIME_NS = 1_700_000_000_000_000_000
# case: series, viewers, do they read
_CASES = {
    "10_on_3000": (3_000, 10, "viewers"),
    "100_on_20000": (20_000, 100, "viewers"),
    "100_mute_on_20000": (20_000, 100, "mute"),
}
_BLOCKS = 3


def measure(case: str, scale: Scale) -> Metrics:
    """Post steps without viewers, with them, without, and so on; compare each block with its neighbours."""
    series, viewers, kind = _CASES[case]
    viewers = scale.pick(viewers, 5)
    steps = scale.pick(8 if series > 10_000 else 40, 3)
    bodies = iter(_bodies(series, 3 + steps * (2 * _BLOCKS + 1)))
    metrics: Metrics = {"series": series, "viewers": viewers}
    bare: list[float] = []
    watched: list[float] = []
    bare_cpu: list[float] = []
    watched_cpu: list[float] = []
    events = bytes_ = 0
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "server") as running:
        # The first steps make the series, which costs more.
        _post(running, bodies, 3)
        memory_mb = running.rss_mb()

        def block(seconds: list[float], cpu: list[float]) -> None:
            cpu_begin = running.cpu_s()
            seconds.append(median(_post(running, bodies, steps)))
            cpu.append((running.cpu_s() - cpu_begin) / steps)

        block(bare, bare_cpu)
        for _ in range(_BLOCKS):
            with crowd(kind, running.url, viewers, f"/api/v1/live?task={_TASK_ID}") as watching:
                begin = time.perf_counter()
                block(watched, watched_cpu)
                seconds = time.perf_counter() - begin
                metrics["growth_mb"] = max(running.rss_mb() - memory_mb, metrics.get("growth_mb", 0.0))
                counted = watching.end()
            events, bytes_ = events + counted["events"], bytes_ + counted["bytes"]
            metrics["received_mb_per_s"] = counted["bytes"] / seconds / 1e6
            block(bare, bare_cpu)
    return {
        **metrics,
        "bare_ms": median(bare) * 1e3,
        "watched_ms": median(watched) * 1e3,
        "ratio": _ratio(watched, bare),
        "cpu_ratio": _ratio(watched_cpu, bare_cpu),
        "noise": max(bare) / min(bare),
        "mb_per_viewer": bytes_ / viewers / 1e6,
    }


def _ratio(watched: list[float], bare: list[float]) -> float:
    """Return the median of each block with viewers against the mean of the blocks before and after it."""
    return median([with_ / ((bare[k] + bare[k + 1]) / 2) for k, with_ in enumerate(watched)])


def _post(running: ServerProcess, bodies: Iterator[bytes], count: int) -> list[float]:
    """Post so many steps, one request after the other; return the seconds of each."""
    seconds = []
    for _ in range(count):
        body = next(bodies)
        begin = time.perf_counter()
        answer = post_frames(running.url, body)
        seconds.append(time.perf_counter() - begin)
        if answer["frames"][0]["result"] != "stored":
            raise RuntimeError(f"the server did not store {answer['frames'][0]}")
    return seconds


def _bodies(series: int, steps: int) -> list[bytes]:
    """Return a frame for each step: one point in each series."""
    from telemetry.events import Batch, ScalarColumns, SeriesKey
    from telemetry.wire import encode

    keys = [SeriesKey("scalar", "grad_norm", f"layer{k}") for k in range(series)]
    generator = random.Random(1)
    bodies = []
    for step in range(steps):
        columns = ScalarColumns(
            keys,
            array("I", range(series)),
            array("q", [step]) * series,
            array("q", [_TIME_NS + step * 1_000_000]) * series,
            array("d", [generator.random() for _ in range(series)]),
        )
        bodies.append(encode(Batch(_TASK_ID, columns, [], series), writer_id=_WRITER_ID, sequence=step).data)
    return bodies


BENCHMARK = Benchmark(
    name="live_pages",
    question="Does a sender notice how many pages are open on its task, when the task has thousands of series?",
    topology=(
        "our server in its process, a step of one point in each series a request, one request after the other; as many "
        "viewers of the task's live stream as the case says, all in one other process, which read and throw away, or "
        "(mute) never read; blocks without viewers and with them in turn, each block with its two neighbours compared"
    ),
    unfair=(
        "one sender that sends as fast as it is answered; the viewers share the machine's cores with the server, and "
        "do not parse what they read as a browser would, nor ask for the points of the charts in it"
    ),
    cases=tuple(_CASES),
    measure=measure,
    columns=(
        Column("series", "series", ",.0f"),
        Column("viewers", "viewers", ".0f"),
        Column("bare_ms", "ms a step, none looks", ".0f"),
        Column("watched_ms", "all look", ".0f"),
        Column("ratio", "ratio", ".2f"),
        Column("cpu_ratio", "of server CPU", ".2f"),
        Column("noise", "noise of the bare blocks", ".2f"),
        Column("received_mb_per_s", "MB/s to all viewers", ".1f"),
        Column("growth_mb", "server grew MiB", ".0f"),
    ),
    targets=(Target("ratio", "<=", 1.2, "viewers make a step at most 1.2 times as slow"),),
    timeout_s=900.0,
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
