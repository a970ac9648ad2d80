"""Resource samples: host, process tree, container and GPUs, once a second from the moment of start.

Each group of readings has a thread of its own, so one that hangs (a driver, a dead network disk) delays neither
the others nor the program, nor stop(). The threads are daemons and sleep on an event. The x axis is time:
samples come whether or not the program reports anything.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from telemetry.clock import unix_ns
from telemetry.errors import ConfigurationError, EventsDropped
from telemetry.events import Reading, ResourceSample
from telemetry.ledger import DropReason
from telemetry.process.threads import start_daemon
from telemetry.protocols import Emit

__all__ = ["ResourceCollector", "next_tick"]

_log = logging.getLogger(__name__)

# Readings at a time on the monotonic clock, in seconds.
Read: TypeAlias = Callable[[float], list[Reading]]

# PSS walks a process's whole memory map, and disk space changes slowly.
_SLOW_INTERVAL_S = 10.0

# Rates need two readings: the second comes after a second even if the interval is a minute.
_SECOND_READING_S = 1.0

# Together with what comes before and after it, stop() stays within half a second.
_STOP_WAIT_S = 0.3


def next_tick(start_s: float, now_s: float, interval_s: float) -> float:
    """The next point of the grid start, start + interval, ... after `now`: no drift; what was missed is left out."""
    return start_s + (math.floor((now_s - start_s) / interval_s) + 1) * interval_s


class ResourceCollector:
    """Emits a ResourceSample for each group of readings and interval. docs/collectors.md has the table.

    Args:
        interval_s: seconds between samples; disk space and PSS come at most each 10 s.
        clock: Unix time in ns.
        monotonic: seconds.

    Raises:
        ConfigurationError: the interval is not a positive number of seconds.
    """

    name = "resources"

    def __init__(
        self,
        interval_s: float = 1.0,
        *,
        clock: Callable[[], int] = unix_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not (interval_s > 0 and math.isfinite(interval_s)):
            raise ConfigurationError(f"interval_s must be a positive number of seconds, not {interval_s!r}")
        self._interval_s = interval_s
        self._clock = clock
        self._monotonic = monotonic
        # Open a group of readings on its thread; None if there is nothing to read.
        self._groups: dict[str, tuple[float, Callable[[], Read | None]]] = {
            "machine": (interval_s, _open_machine),
            "slow": (max(interval_s, _SLOW_INTERVAL_S), _open_slow),
            "gpus": (interval_s, _open_gpus),
        }
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        # Held while a sample is emitted, so that none comes after stop().
        self._emitting = threading.Lock()

    def start(self, emit: Emit) -> None:
        """Start the threads; the first sample is taken at once, on them."""
        for group, (interval_s, open_group) in self._groups.items():
            run = partial(self._run, emit, group, interval_s, open_group)
            thread = start_daemon(run, f"telemetry-resources-{group}")
            if thread is not None:
                self._threads.append(thread)

    def stop(self) -> None:
        """End the threads; a reading that hangs is left behind. Returns within half a second."""
        self._stopping.set()
        # A sample on its way is let through: emit does not block for resource samples.
        if self._emitting.acquire(timeout=_STOP_WAIT_S / 3):
            self._emitting.release()
        deadline_s = time.monotonic() + _STOP_WAIT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        self._threads.clear()

    def reset_after_fork(self) -> None:
        """In a forked child: its figures are in the parent's process tree, so here nothing is sampled."""
        self._threads.clear()
        self._emitting = threading.Lock()
        self._stopping = threading.Event()
        self._stopping.set()

    def _run(self, emit: Emit, group: str, interval_s: float, open_group: Callable[[], Read | None]) -> None:
        try:
            read = open_group()
            if read is None:
                return
            start_s = self._monotonic()
            # The slow readings are no rates.
            due_s = start_s + (interval_s if group == "slow" else min(interval_s, _SECOND_READING_S))
            while not self._stopping.is_set():
                try:
                    self._sample(emit, read)
                except EventsDropped:
                    pass  # strict mode; counted already, and nobody is there to catch it
                except Exception as error:  # noqa: BLE001 - one bad tick must not end the series
                    self._refuse(emit, group, error)
                if self._stopping.wait(max(0.0, due_s - self._monotonic())):
                    return
                due_s = next_tick(start_s, self._monotonic(), interval_s)
        except Exception:  # noqa: BLE001 - the top of a thread: without this group the others go on
            _log.debug("no readings of %s", group, exc_info=True)

    def _refuse(self, emit: Emit, group: str, error: Exception) -> None:
        _log.debug("a sample of %s failed", group, exc_info=error)
        try:
            emit.refuse(DropReason.INVALID, f"a sample of {group} failed: {error!r}")
        except EventsDropped:
            pass  # strict mode; counted already

    def _sample(self, emit: Emit, read: Read) -> None:
        time_unix_ns = self._clock()
        readings = read(self._monotonic())
        if not readings:
            return
        with self._emitting:
            if not self._stopping.is_set():
                emit(ResourceSample(time_unix_ns, tuple(readings)))


def _open_machine() -> Read | None:
    # psutil costs 15 ms to import; not on the program's thread.
    from telemetry.collectors.cgroups import find_limits
    from telemetry.collectors.machine import MachineReader

    return MachineReader(find_limits()).read


def _open_slow() -> Read | None:
    from telemetry.collectors.machine import SlowReader

    return SlowReader().read


def _open_gpus() -> Read | None:
    from telemetry.collectors.gpus import open_gpus

    gpus = open_gpus()
    return gpus.read if gpus is not None else None
