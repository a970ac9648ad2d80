"""Readings of the host, of this process with its descendants, and of its container.

Imported by the resource collector on its own thread: psutil is not loaded before. A figure that cannot be had is
absent, never 0; why is said once, at debug level. Rates need two readings, so the first has none.

Not thread-safe: each reader belongs to one thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
from telemetry.collectors.cgroups import ControlGroups

from telemetry.events import Reading

__all__ = ["MachineReader", "ProcessTree", "Rates", "SlowReader"]

_log = logging.getLogger(__name__)

# What psutil raises where a platform, a container or a permission denies a figure. A Warning arrives as an
# error in programs that turn warnings into errors.
_DENIALS = (psutil.Error, OSError, AttributeError, NotImplementedError, ValueError, RuntimeError, Warning)

# Finding the descendants reads all of /proc: 20 us a process of the machine. At most 1 % of the time goes there.
_WALK_SHARE = 0.01

_LOOPBACK = ("lo", "lo0")


class Rates:
    """Turns counters that only grow into rates."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}

    def rate(self, name: str, value: float, now_s: float) -> float | None:
        """Growth of a counter since the last call, by unit of `now_s`; None at first and after a reset."""
        last = self._last.get(name)
        self._last[name] = (value, now_s)
        if last is None or value < last[0] or now_s <= last[1]:
            return None
        return (value - last[0]) / (now_s - last[1])


class _Absences:
    """Says once for each figure why it is absent."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def note(self, what: str, error: BaseException) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.debug("no reading of %s: %r", what, error)

    def collect(self, parts: Sequence[tuple[str, Callable[[], Iterator[Reading]]]]) -> list[Reading]:
        """All readings of all parts; a part that fails keeps what it had until then."""
        readings: list[Reading] = []
        for what, part in parts:
            try:
                readings.extend(part())
            except _DENIALS as error:
                self.note(what, error)
        return readings


class ProcessTree:
    """This process and its descendants.

    CPU time of children that have ended is taken from the parents that waited for them, so a worker that lives for a
    tenth of a second is counted as well. A child that nobody waits for (SIGCHLD ignored) is lost with its end.
    """

    def __init__(self, root: psutil.Process | None = None) -> None:
        self._root = root or psutil.Process()
        self._processes = [self._root]
        self._next_walk_s = float("-inf")
        self._last_cpu: tuple[float, float] | None = None
        self._cores = psutil.cpu_count() or 1
        self._absences = _Absences()

    def processes(self, now_s: float) -> list[psutil.Process]:
        """The tree's processes, at most a few walks' times old."""
        if now_s >= self._next_walk_s:
            began_s = time.perf_counter()
            self._processes = [self._root, *self._root.children(recursive=True)]
            self._next_walk_s = now_s + (time.perf_counter() - began_s) / _WALK_SHARE
        return self._processes

    def read(self, now_s: float) -> Iterator[Reading]:
        """CPU, memory, and numbers of processes, threads and open files; sums over the tree."""
        cpu_s, rss, threads, count = 0.0, 0, 0, 0
        open_files: int | None = 0
        for process in self.processes(now_s):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    rss += process.memory_info().rss
                    threads += process.num_threads()
            except psutil.NoSuchProcess:
                continue
            count += 1
            cpu_s += times.user + times.system + times.children_user + times.children_system
            open_files = self._add_open_files(process, open_files)
        if (percent := self._cpu_percent(cpu_s, now_s)) is not None:
            yield Reading("CPU", "process tree", percent, "%")
        yield Reading("Memory", "process tree RSS", float(rss), "By")
        yield Reading("Processes", "processes", float(count), "1")
        yield Reading("Processes", "threads", float(threads), "1")
        if open_files is not None:
            yield Reading("Processes", "open files", float(open_files), "1")

    def _add_open_files(self, process: psutil.Process, open_files: int | None) -> int | None:
        """A sum with a part missing would be a wrong figure: then it is absent."""
        if open_files is None:
            return None
        try:
            return open_files + process.num_fds()
        except psutil.NoSuchProcess:
            return open_files
        except _DENIALS as error:
            self._absences.note("open files", error)
            return None

    def _cpu_percent(self, cpu_s: float, now_s: float) -> float | None:
        """100 is one core. A child that ends between two looks at the tree can make the sum jump either way:
        what is returned stays between nothing and all cores."""
        last, self._last_cpu = self._last_cpu, (cpu_s, now_s)
        if last is None or now_s <= last[1]:
            return None
        return 100.0 * min(max(0.0, (cpu_s - last[0]) / (now_s - last[1])), float(self._cores))


class MachineReader:
    """The readings that are cheap enough for each second: call `read` with a monotonic time in seconds."""

    def __init__(self, limits: ControlGroups | None, tree: ProcessTree | None = None) -> None:
        self._limits = limits
        self._tree = tree or ProcessTree()
        self._rates = Rates()
        self._absences = _Absences()
        self._last_cpu: tuple[float, float] | None = None

    def read(self, now_s: float) -> list[Reading]:
        """All that can be had now."""
        return self._absences.collect(
            [
                ("CPU of the host", self._host_cpu),
                ("load", self._load),
                ("memory of the host", self._host_memory),
                ("swap", self._swap),
                ("disk rates", lambda: self._disk(now_s)),
                ("network rates", lambda: self._network(now_s)),
                ("the process tree", lambda: self._tree.read(now_s)),
                ("the container's memory", self._container_memory),
                ("the container's CPU", lambda: self._container_cpu(now_s)),
            ]
        )

    def _host_cpu(self) -> Iterator[Reading]:
        # Not psutil.cpu_percent(): its memory is shared with the program, and its first answer is 0.0.
        times = psutil.cpu_times()
        # Linux counts guest time within user and nice already.
        total_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        busy_s = total_s - times.idle - getattr(times, "iowait", 0.0)
        last, self._last_cpu = self._last_cpu, (busy_s, total_s)
        if last is not None and total_s > last[1]:
            percent = 100.0 * (busy_s - last[0]) / (total_s - last[1])
            # Idle and I/O wait may step back by a tick.
            yield Reading("CPU", "host", min(max(0.0, percent), 100.0), "%")

    def _load(self) -> Iterator[Reading]:
        yield Reading("Load", "1 min", os.getloadavg()[0], "1")

    def _host_memory(self) -> Iterator[Reading]:
        memory = psutil.virtual_memory()
        yield Reading("Memory", "host used", float(memory.total - memory.available), "By")
        yield Reading("Memory", "host available", float(memory.available), "By")

    def _swap(self) -> Iterator[Reading]:
        swap = psutil.swap_memory()
        if swap.total:
            yield Reading("Memory", "host swap used", float(swap.used), "By")

    def _disk(self, now_s: float) -> Iterator[Reading]:
        counters = psutil.disk_io_counters()
        if counters is not None:
            yield from self._rate("Disk", "read", counters.read_bytes, now_s)
            yield from self._rate("Disk", "write", counters.write_bytes, now_s)

    def _network(self, now_s: float) -> Iterator[Reading]:
        cards = [card for name, card in psutil.net_io_counters(pernic=True).items() if name not in _LOOPBACK]
        if cards:
            yield from self._rate("Network", "received", sum(card.bytes_recv for card in cards), now_s)
            yield from self._rate("Network", "sent", sum(card.bytes_sent for card in cards), now_s)

    def _container_memory(self) -> Iterator[Reading]:
        memory = self._limits.memory() if self._limits else None
        if memory is None:
            return
        yield Reading("Memory", "container limit", float(memory.limit_bytes), "By")
        if memory.used_bytes is not None:
            yield Reading("Memory", "container used", float(memory.used_bytes), "By")
        if memory.working_set_bytes is not None:
            yield Reading("Memory", "container working set", float(memory.working_set_bytes), "By")

    def _container_cpu(self, now_s: float) -> Iterator[Reading]:
        cpu = self._limits.cpu() if self._limits else None
        if cpu is None:
            return
        yield Reading("CPU", "container limit", 100.0 * cpu.limit_cores, "%")
        if cpu.used_s is not None:
            cores = self._rates.rate("container CPU", cpu.used_s, now_s)
            if cores is not None:
                yield Reading("CPU", "container", 100.0 * cores, "%")
        if cpu.periods is not None and cpu.throttled_periods is not None:
            share = self._rates.rate("throttled", cpu.throttled_periods, cpu.periods)
            if share is not None:
                yield Reading("CPU", "container throttled", 100.0 * share, "%")

    def _rate(self, title: str, series: str, counter: float, now_s: float) -> Iterator[Reading]:
        rate = self._rates.rate(f"{title}/{series}", counter, now_s)
        if rate is not None:
            yield Reading(title, series, rate, "By/s")


class SlowReader:
    """What can be slow or hang (a full walk through a process's memory map, a dead network disk)."""

    def __init__(self, *, proc: Path = Path("/proc"), tree: ProcessTree | None = None) -> None:
        self._proc = proc
        self._tree = tree or ProcessTree()
        self._absences = _Absences()

    def read(self, now_s: float) -> list[Reading]:
        """Disk space of the working folder, and PSS: shared memory divided by those who share it."""
        return self._absences.collect([("disk space", self._disk_space), ("PSS", lambda: self._pss(now_s))])

    def _disk_space(self) -> Iterator[Reading]:
        # The working folder may be changed by the program; it is what a relative checkpoint path means.
        usage = psutil.disk_usage(".")
        yield Reading("Disk space", "used", float(usage.used), "By")
        yield Reading("Disk space", "free", float(usage.free), "By")

    def _pss(self, now_s: float) -> Iterator[Reading]:
        total = 0
        for process in self._tree.processes(now_s):
            try:
                rollup = (self._proc / str(process.pid) / "smaps_rollup").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                # Ended meanwhile; or there is no such file at all, which shows on ourselves.
                if process.pid == os.getpid():
                    raise
                continue
            for line in rollup.splitlines():
                if line.startswith(b"Pss:"):
                    total += int(line.split()[1]) * 1024
        yield Reading("Memory", "process tree PSS", float(total), "By")
