"""Resource samples: what they say, when they come, and that nothing that hangs holds anything up."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.collectors.cgroups import CpuUse, MemoryUse
from telemetry.collectors.gpus import open_gpus
from telemetry.collectors.machine import MachineReader, ProcessTree, Rates, SlowReader
from telemetry.collectors.resources import ResourceCollector, next_tick

from telemetry.errors import ConfigurationError
from telemetry.events import Event, Reading, ResourceSample
from telemetry.protocols import Collector


class WaitingEmit:
    """An Emit that a test can wait on."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.mark = 1 << 30
        self.samples: list[ResourceSample] = []
        self.refused: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, event: Event) -> bool:
        assert isinstance(event, ResourceSample)
        with self._changed:
            self.samples.append(event)
            self._changed.notify_all()
        return True

    def crossed(self) -> None:
        raise AssertionError("resource samples are no scalars")

    def refuse(self, reason: str, message: str) -> None:
        with self._changed:
            self.refused.append(reason)
            self._changed.notify_all()

    def wait_for(self, fact: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(fact, timeout=30)

    def has(self, title: str, series: str) -> bool:
        return any((r.title, r.series) == (title, series) for sample in self.samples for r in sample.readings)


def values(readings: list[Reading]) -> dict[str, float]:
    return {f"{reading.title}/{reading.series}": reading.value for reading in readings}


@pytest.fixture
def emit() -> WaitingEmit:
    return WaitingEmit()


def only(collector: ResourceCollector, *groups: tuple[str, float, Callable[[], Any]]) -> ResourceCollector:
    """Replace what a collector reads."""
    collector._groups = {name: (interval_s, open_group) for name, interval_s, open_group in groups}
    return collector


# The collector's threads


def test_samples_come_without_any_scalar_and_soon(emit: WaitingEmit) -> None:
    collector = ResourceCollector()
    assert isinstance(collector, Collector)
    began = time.time_ns()

    collector.start(emit)
    emit.wait_for(lambda: emit.has("Memory", "process tree RSS"))
    collector.stop()

    assert began <= emit.samples[0].time_unix_ns <= began + 30 * 10**9
    units = {reading.unit for sample in emit.samples for reading in sample.readings}
    assert units <= {"%", "By", "By/s", "1", "W", "Cel"}


def test_rates_come_with_the_second_sample(emit: WaitingEmit) -> None:
    collector = ResourceCollector(interval_s=0.05)

    collector.start(emit)
    emit.wait_for(lambda: emit.has("CPU", "process tree"))
    collector.stop()

    first = next(sample for sample in emit.samples if any(r.series == "process tree RSS" for r in sample.readings))
    assert not any(
        reading.title == "CPU" and reading.unit == "%" for reading in first.readings if "limit" not in reading.series
    )


def test_sample_times_come_from_the_clock(emit: WaitingEmit) -> None:
    times = iter(range(1000, 10**9))
    collector = only(
        ResourceCollector(interval_s=0.01, clock=lambda: next(times)),
        ("fake", 0.01, lambda: lambda now_s: [Reading("t", "s", 1.0, "1")]),
    )

    collector.start(emit)
    emit.wait_for(lambda: len(emit.samples) >= 3)
    collector.stop()

    assert [sample.time_unix_ns for sample in emit.samples[:3]] == [1000, 1001, 1002]


def test_a_reading_that_hangs_delays_neither_others_nor_stop(emit: WaitingEmit) -> None:
    # given a driver call that does not return
    entered, release = threading.Event(), threading.Event()

    def hang(now_s: float) -> list[Reading]:
        entered.set()
        release.wait(60)
        return [Reading("late", "late", 1.0, "1")]

    collector = only(
        ResourceCollector(interval_s=0.01),
        ("hanging", 0.01, lambda: hang),
        ("healthy", 0.01, lambda: lambda now_s: [Reading("t", "s", 1.0, "1")]),
    )
    collector.start(emit)
    threads = collector._threads[:]
    assert entered.wait(30)

    # then the other group goes on
    seen = len(emit.samples)
    emit.wait_for(lambda: len(emit.samples) > seen + 3)

    # and stop() does not wait for it, and nothing of it comes afterwards
    began_s = time.monotonic()
    collector.stop()
    took_s = time.monotonic() - began_s
    after = len(emit.samples)
    release.set()
    for thread in threads:
        thread.join(30)
    assert took_s < 0.5
    assert len(emit.samples) == after
    assert not emit.has("late", "late")


def test_a_group_that_fails_is_counted_and_goes_on(emit: WaitingEmit) -> None:
    # given readings that fail each second time, and a group that cannot even be opened
    calls = iter(range(10**9))

    def flaky(now_s: float) -> list[Reading]:
        if next(calls) % 2:
            raise ZeroDivisionError("a bug of ours")
        return [Reading("t", "s", 1.0, "1")]

    def broken() -> Any:
        raise ImportError("no such library")

    collector = only(ResourceCollector(interval_s=0.01), ("flaky", 0.01, lambda: flaky), ("broken", 0.01, broken))
    collector.start(emit)
    emit.wait_for(lambda: len(emit.samples) >= 3 and len(emit.refused) >= 2)
    collector.stop()

    assert set(emit.refused) == {"invalid"}


def test_stop_ends_its_threads(emit: WaitingEmit) -> None:
    collector = ResourceCollector(interval_s=3600)
    collector.start(emit)
    threads = collector._threads[:]
    emit.wait_for(lambda: bool(emit.samples))

    collector.stop()

    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def test_starting_imports_psutil_on_the_thread_only() -> None:
    program = "import sys, telemetry.collectors.resources; print('psutil' in sys.modules, 'pynvml' in sys.modules)"

    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert answer.stdout.split() == ["False", "False"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_samples_nothing_and_stops_at_once(emit: WaitingEmit) -> None:
    collector = ResourceCollector(interval_s=0.01)
    collector.start(emit)
    emit.wait_for(lambda: bool(emit.samples))

    with collector._emitting:
        pid = os.fork()
        if not pid:
            collector.reset_after_fork()
            collector.stop()
            os._exit(0)

    assert os.waitpid(pid, 0)[1] == 0
    collector.stop()


@pytest.mark.parametrize("interval_s", [0, -1, float("nan"), float("inf")])
def test_an_interval_must_be_a_positive_number(interval_s: float) -> None:
    with pytest.raises(ConfigurationError, match="interval_s"):
        ResourceCollector(interval_s)


@given(
    st.floats(-1e6, 1e6),
    st.floats(0, 1e6),
    st.floats(1e-2, 1e3),
)
def test_ticks_lie_on_one_grid_and_in_the_future(start_s: float, passed_s: float, interval_s: float) -> None:
    now_s = start_s + passed_s

    tick_s = next_tick(start_s, now_s, interval_s)

    steps = (tick_s - start_s) / interval_s
    assert steps == pytest.approx(round(steps), abs=1e-3)
    assert now_s - 1e-6 <= tick_s <= now_s + interval_s + 1e-6


# Readings


def test_rates_are_absent_at_first_and_after_a_reset() -> None:
    rates = Rates()

    assert rates.rate("a", 100, 1.0) is None
    assert rates.rate("a", 150, 3.0) == 25.0
    assert rates.rate("a", 10, 4.0) is None
    assert rates.rate("a", 11, 4.0) is None
    assert rates.rate("a", 31, 6.0) == 10.0
    assert rates.rate("b", 1, 6.0) is None


def test_a_machine_is_read_in_full() -> None:
    reader = MachineReader(None)

    first, second = values(reader.read(1.0)), values(reader.read(2.0))

    memory = psutil.virtual_memory()
    assert 0 < first["Memory/host available"] <= memory.total
    assert 0 < first["Memory/host used"] <= memory.total
    assert first["Memory/process tree RSS"] >= 5_000_000
    assert first["Processes/processes"] >= 1
    assert first["Processes/threads"] >= 1
    assert "CPU/process tree" not in first
    assert 0 <= second["CPU/process tree"] <= 100 * (psutil.cpu_count() or 1)


def test_the_first_answer_about_the_host_is_no_invented_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a host that was busy for 3 of 4 seconds, with guest time inside user time as on Linux
    times = namedtuple("times", "user system idle iowait guest")
    answers = iter([times(10.0, 5.0, 100.0, 3.0, 2.0), times(12.0, 6.0, 100.5, 3.5, 3.0)])
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(answers))
    reader = MachineReader(None)

    first, second = values(reader.read(1.0)), values(reader.read(5.0))

    assert "CPU/host" not in first
    # 2 s of user time, of which the guest's is a part, and 1 s of system
    assert second["CPU/host"] == pytest.approx(75)


def test_a_figure_that_is_denied_is_absent_and_the_others_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: object, **kwargs: object) -> Any:
        raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil, "virtual_memory", denied)
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    monkeypatch.setattr(psutil, "swap_memory", lambda: (_ for _ in ()).throw(RuntimeWarning("no vmstat")))
    reader = MachineReader(None)

    readings = values(reader.read(1.0))

    assert not any(name.startswith(("Memory/host", "Disk/")) for name in readings)
    assert "Load/1 min" in readings
    assert "Memory/process tree RSS" in readings


def test_the_containers_figures_are_relative_to_its_limits() -> None:
    # given a container of 2 CPUs that used 1 CPU second in 1 s and was throttled in 1 period of 10
    uses = iter([CpuUse(2.0, 5.0, 100, 10), CpuUse(2.0, 6.0, 110, 11), CpuUse(2.0, None, None, None)])
    limits: Any = SimpleNamespace(memory=lambda: MemoryUse(1000, 400, 300), cpu=lambda: next(uses))
    reader = MachineReader(limits)

    first, second, third = (values(reader.read(now_s)) for now_s in (1.0, 2.0, 3.0))

    assert first["Memory/container limit"] == 1000
    assert first["Memory/container used"] == 400
    assert first["Memory/container working set"] == 300
    assert first["CPU/container limit"] == 200
    assert "CPU/container" not in first
    assert second["CPU/container"] == pytest.approx(100)
    assert second["CPU/container throttled"] == pytest.approx(10)
    assert "CPU/container" not in third


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    """A child that burns CPU in a child of its own when told to, and waits for it."""
    program = """
import subprocess, sys
burn = "import time\\nwhile time.process_time() < 0.4: pass"
print("ready", flush=True)
for line in sys.stdin:
    subprocess.run([sys.executable, "-c", burn], check=True)
    print("burnt", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_a_worker_that_has_ended_is_still_counted(worker: subprocess.Popen[str]) -> None:
    # given a tree of a process and, at the time of both readings, no other
    assert worker.stdin is not None
    assert worker.stdout is not None
    tree = ProcessTree(psutil.Process(worker.pid))
    assert "CPU/process tree" not in values(list(tree.read(0.0)))

    # when a grandchild lives for 0.4 CPU seconds in between
    worker.stdin.write("go\n")
    worker.stdin.flush()
    assert worker.stdout.readline() == "burnt\n"
    readings = values(list(tree.read(1.0)))

    # the kernel counts in ticks of 10 ms
    assert readings["CPU/process tree"] >= 30
    assert readings["Processes/processes"] == 1


def test_children_are_part_of_the_tree(worker: subprocess.Popen[str]) -> None:
    readings = values(list(ProcessTree().read(0.0)))

    assert readings["Processes/processes"] >= 2
    assert readings["Memory/process tree RSS"] > psutil.Process(worker.pid).memory_info().rss


def test_open_files_are_absent_if_one_process_hides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: psutil.Process) -> int:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "num_fds", denied, raising=False)

    readings = values(list(ProcessTree().read(0.0)))

    assert "Processes/open files" not in readings
    assert "Processes/threads" in readings


def test_pss_is_the_sum_over_the_tree_or_absent(tmp_path: Path) -> None:
    # given a /proc of our own
    rollup = tmp_path / str(os.getpid()) / "smaps_rollup"
    rollup.parent.mkdir()
    rollup.write_text("5581 rollup\nRss:  2048 kB\nPss:  1000 kB\nPss_Dirty:  500 kB\n")

    present = values(SlowReader(proc=tmp_path).read(0.0))
    rollup.unlink()
    absent = values(SlowReader(proc=tmp_path).read(0.0))

    assert present["Memory/process tree PSS"] == 1000 * 1024
    assert "Memory/process tree PSS" not in absent
    assert absent["Disk space/free"] > 0


# GPUs


class FakeNvml:
    """NVML as the package nvidia-ml-py shows it: four devices, of which the last is split by MIG."""

    class NVMLError(Exception):
        pass

    NVML_TEMPERATURE_GPU = 0
    nvmlMemory_v2 = 2  # noqa: N815

    def __init__(self, *, driver: bool = True) -> None:
        self._driver = driver

    def nvmlInit(self) -> None:  # noqa: N802
        if not self._driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 4

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{'abcd'[handle]}000"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        if uuid != "MIG-known":
            raise self.NVMLError("Not Found")
        return 3

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        if handle == 3:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(gpu=10 * handle, memory=1)

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=handle * 100, total=1000)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        return 1500

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        return 40 + handle


@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        ("1,9,0", [1]),
        ("GPU-c, GPU-a000", [2, 0]),
        ("GPU-unknown,0", []),
        ("MIG-known", [3]),
        ("MIG-unknown,0", []),
    ],
)
def test_only_visible_devices_are_read_in_cudas_order(visible: str | None, devices: list[int]) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}

    gpus = open_gpus(FakeNvml(), environ)

    readings = values(gpus.read(0.0)) if gpus else {}
    assert [readings[f"GPU memory/gpu {index} used"] for index in range(len(devices))] == [100 * d for d in devices]
    assert f"GPU memory/gpu {len(devices)} used" not in readings


def test_a_value_the_driver_cannot_give_is_absent() -> None:
    gpus = open_gpus(FakeNvml(), {"CUDA_VISIBLE_DEVICES": "2,MIG-known"})

    assert gpus is not None
    assert values(gpus.read(0.0)) == {
        "GPU use/gpu 0": 20,
        "GPU memory/gpu 0 used": 200,
        "GPU memory/gpu 0 total": 1000,
        "GPU power/gpu 0": 1.5,
        "GPU temperature/gpu 0": 42,
        "GPU memory/gpu 1 used": 300,
        "GPU memory/gpu 1 total": 1000,
        "GPU power/gpu 1": 1.5,
        "GPU temperature/gpu 1": 43,
    }


def test_no_driver_and_no_library_mean_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_gpus(FakeNvml(driver=False), {}) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_gpus(environ={}) is None
