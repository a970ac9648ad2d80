"""Readings of NVIDIA devices through NVML, if the package `nvidia-ml-py` is installed.

Only the devices that this process may use are read, and they are numbered as CUDA numbers them: "gpu 0" is
`cuda:0`. A value that the driver cannot give (utilisation under MIG, power of a laptop) is absent.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from typing import Any

from telemetry.events import Reading

__all__ = ["GpuReader", "open_gpus"]

_log = logging.getLogger(__name__)


def open_gpus(nvml: Any = None, environ: Mapping[str, str] = os.environ) -> GpuReader | None:
    """Return a reader of the visible devices; None without NVML, driver or visible device.

    Args:
        nvml: the module `pynvml`; imported if not given.
    """
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return None
    try:
        nvml.nvmlInit()
        handles = _visible_devices(nvml, environ.get("CUDA_VISIBLE_DEVICES"))
    except nvml.NVMLError as error:
        _log.debug("no reading of GPUs: %s", error)
        return None
    return GpuReader(nvml, handles) if handles else None


def _visible_devices(nvml: Any, visible: str | None) -> list[Any]:
    """Handles in CUDA's order.

    As CUDA does it: unset means all, entries are indices or (beginnings of) UUIDs, and the list ends at the first entry
    that names no device. Indices are taken in PCI order, which is NVML's; CUDA's own default order is
    another one only on machines with unlike devices.
    """
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    if visible is None:
        return handles
    uuids = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    chosen = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdecimal() and int(entry) < len(handles):
            chosen.append(handles[int(entry)])
        elif entry.startswith("GPU-") and (
            found := [h for h, u in zip(handles, uuids, strict=True) if u.startswith(entry)]
        ):
            chosen.append(found[0])
        elif entry.startswith("MIG-"):
            try:
                chosen.append(nvml.nvmlDeviceGetHandleByUUID(entry))
            except nvml.NVMLError:
                break
        else:
            break
    return chosen


class GpuReader:
    """Reads a fixed list of devices. Belongs to one thread: a driver that hangs hangs only that."""

    def __init__(self, nvml: Any, handles: list[Any]) -> None:
        self._nvml = nvml
        self._handles = handles
        self._said: set[str] = set()

    def read(self, now_s: float) -> list[Reading]:
        """Use, memory, power and temperature of each device, as far as the driver tells."""
        parts = (self._use, self._memory, self._power, self._temperature)
        readings: list[Reading] = []
        for index, handle in enumerate(self._handles):
            for part in parts:
                try:
                    readings.extend(part(f"gpu {index}", handle))
                except self._nvml.NVMLError as error:
                    # NOT_SUPPORTED, NO_PERMISSION, GPU_IS_LOST: no figure is the truth then.
                    self._say_once(f"{part.__name__.lstrip('_')} of gpu {index}", error)
        return readings

    def _say_once(self, what: str, error: Exception) -> None:
        if what not in self._said:
            self._said.add(what)
            _log.debug("no reading of the %s: %s", what, error)

    def _use(self, name: str, handle: Any) -> list[Reading]:
        return [Reading("GPU use", name, float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu), "%")]

    def _memory(self, name: str, handle: Any) -> list[Reading]:
        # Version 1 counts what the driver reserves for itself as used.
        version = getattr(self._nvml, "nvmlMemory_v2", None)
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle, *([version] if version else []))
        return [
            Reading("GPU memory", f"{name} used", float(memory.used), "By"),
            Reading("GPU memory", f"{name} total", float(memory.total), "By"),
        ]

    def _power(self, name: str, handle: Any) -> list[Reading]:
        return [Reading("GPU power", name, self._nvml.nvmlDeviceGetPowerUsage(handle) / 1000, "W")]

    def _temperature(self, name: str, handle: Any) -> list[Reading]:
        sensor = self._nvml.NVML_TEMPERATURE_GPU
        return [Reading("GPU temperature", name, float(self._nvml.nvmlDeviceGetTemperature(handle, sensor)), "Cel")]


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
