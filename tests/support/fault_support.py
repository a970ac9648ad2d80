"""What the fault tests share: points to log and to find again, servers that can be killed, exports to compare."""

from __future__ import annotations

import hashlib
import signal
import struct
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from telemetry.client import Client
from telemetry.export import read_series
from telemetry.journal import SegmentDamage, read_segments
from telemetry.pipeline import Pipeline
from telemetry.wire import Frame, decode

START_NS = 1_700_000_000_000_000_000
TITLES = ("loss", "accuracy", "lr")

# Fibonacci hashing (Knuth): neighbours get values far apart.
_GOLDEN = 0x9E3779B97F4A7C15

# A fact that takes longer than this will not come; a busy machine is slow, but not by so much.
PATIENCE_S = 60.0


def log_points(pipeline: Pipeline, first: int, count: int) -> None:
    """Report points `first` to `first + count`, as the hot path does; values and times follow from the number."""
    emit = pipeline.emit
    rows = emit.rows
    for number in range(first, first + count):
        rows += (TITLES[number % 3], "train", value_of(number), number, START_NS + number)
        if len(rows) > emit.mark:
            emit.crossed()


def value_of(number: int) -> float:
    """Return a value that looks like noise, so that it packs badly; NaN and infinities are among them."""
    return {7: float("nan"), 8: float("inf"), 9: float("-inf")}.get(number % 1000, number * _GOLDEN % 2**53 * 1e-9)


def expected_digests(count: int) -> dict[str, tuple[int, str]]:
    """Return title -> (points, checksum) of points 0 to `count`, as they were logged."""
    found = {}
    for index, title in enumerate(TITLES):
        numbers = range(index, count, 3)
        columns = (
            array("q", numbers),
            array("q", [START_NS + number for number in numbers]),
            array("d", [value_of(number) for number in numbers]),
        )
        found[title] = len(numbers), _digest(*(column.tobytes() for column in columns))
    return found


def stored_digests(url: str, task_id: str) -> dict[str, tuple[int, str]]:
    """Return title -> (points, checksum) of what the server has, read through the export."""
    with Client(url) as client:
        return {
            series.title: (
                len(series),
                _digest(series.iterations.tobytes(), series.times_unix_ns.tobytes(), series.values.tobytes()),
            )
            for series in read_series(client, task_id)
            if series.kind == "scalar"
        }


def _digest(*columns: bytes) -> str:
    return hashlib.sha256(b"".join(columns)).hexdigest()


def until(fact: Callable[[], bool], what: str) -> None:
    """Return when a fact holds that nothing announces: it lies in another process, or on a disk."""
    deadline = time.monotonic() + PATIENCE_S
    while not fact():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE_S:g} s for {what}")
        time.sleep(0.005)


def delivered_all(pipeline: Pipeline) -> None:
    """Return when the sink has everything that was reported."""
    until(lambda: pipeline.ledger().delivered == pipeline.ledger().logged, f"delivery: {pipeline.ledger()}")


@dataclass
class ServerProcess:
    """A server in a process of its own, which `kill` ends without a warning and `start` brings back on its data."""

    directory: Path
    url: str = ""
    starts: int = 0
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def start(self) -> None:
        command = [sys.executable, "-m", "telemetry.cli", "server", "--port", "0", "--directory", str(self.directory)]
        self._process = subprocess.Popen(
            [*command, "--until-eof"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        # "telemetry server: URL  data in ...": one line, when it answers.
        self.url = self._process.stdout.readline().split()[2]
        self.starts += 1

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._end()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._end()

    def _end(self) -> None:
        assert self._process is not None
        process, self._process = self._process, None
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


# A program that logs 10,000 points a second to its session folder until it is killed. What it has reported, and when,
# stands in a mapped file: int64[n], the time after report n returned, and behind it how many a flush() has confirmed.
# Mapped memory outlives a SIGKILL.
LOGGING_PROGRAM = """
import mmap, struct, sys, time
from telemetry import Task
path, rate, most, flush_every = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
with open(path, "r+b") as file:
    times = mmap.mmap(file.fileno(), 8 * most + 8)
task = Task.init("faults", "killed", auto_resource_monitoring=False, auto_connect_streams=False)
report = task.get_logger().report_scalar
print(task.id, flush=True)
begin = time.perf_counter()
pack = struct.Struct("<q").pack_into
for number in range(most):
    report("loss", "train", number * 0.5, number)
    pack(times, 8 * number, time.time_ns())
    if flush_every and (number + 1) % flush_every == 0 and task.flush():
        pack(times, 8 * most, number + 1)
    ahead_s = number / rate - (time.perf_counter() - begin)
    if ahead_s > 0.002:
        time.sleep(ahead_s)
"""


@dataclass(frozen=True, slots=True)
class Killed:
    """A logging program that was killed.

    Attributes:
        times: when the report of each point had returned, in Unix ns.
        flushed: points that a flush had confirmed.
    """

    state_dir: Path
    task_id: str
    times: list[int]
    flushed: int
    killed_at_ns: int

    @property
    def reported(self) -> int:
        return len(self.times)

    @property
    def old(self) -> int:
        """Points that were reported more than `AGE_S` before the kill."""
        return sum(moment <= self.killed_at_ns - AGE_S * 1e9 for moment in self.times)

    def oldest_lost_s(self, kept: int) -> float:
        """Return how long before the kill the first point was reported that is not among the `kept` ones."""
        return (self.killed_at_ns - self.times[kept]) / 1e9 if kept < len(self.times) else 0.0


def steps_of(session: Path) -> list[int]:
    """Return the iterations in a session folder in the order of its frames; a cut end is as good as none."""
    found: list[int] = []
    damage: list[SegmentDamage] = []
    for item in read_segments(session):
        if isinstance(item, Frame):
            found += decode(item).columns.iterations
        else:
            damage.append(item)
    assert len(damage) <= 1, damage
    return found


# The promise: what is older than this survives a kill.
AGE_S = 1.0


def run_until_killed(
    folder: Path, after_s: float, environment: dict[str, str], *, rate: float = 10_000.0, flush_every: int = 0
) -> Killed:
    """Start the logging program and SIGKILL it `after_s` seconds after it began to log.

    Args:
        flush_every: points between two calls of flush(), with durability "commit"; 0 for none.
    """
    folder.mkdir(parents=True)
    most = int(rate * (after_s + 30))
    ring = folder / "times"
    with ring.open("wb") as file:
        file.truncate(8 * most + 8)
    settings = {"TELEMETRY_DIR": str(folder / "state"), "TELEMETRY_QUIET": "1"}
    if flush_every:
        settings["TELEMETRY_DURABILITY"] = "commit"
    process = subprocess.Popen(
        [sys.executable, "-c", LOGGING_PROGRAM, str(ring), str(rate), str(most), str(flush_every)],
        env={**environment, **settings},
        cwd=folder,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout:
        task_id = process.stdout.readline().decode().strip()
        # The kill comes at a moment of the program's own, so this is one of the few waits for time itself.
        time.sleep(after_s)
        killed_at_ns = time.time_ns()
        process.send_signal(signal.SIGKILL)
        process.wait()
    *moments, flushed = struct.unpack(f"<{most + 1}q", ring.read_bytes())
    ring.unlink()
    return Killed(folder / "state", task_id, [moment for moment in moments if moment], flushed, killed_at_ns)
