"""The few lines of our own SDK that the benchmarks use, in one place.

Automatic collectors are off unless a benchmark says otherwise: what is measured is the scalars' way.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from telemetry import Task

__all__ = ["disabled_task", "flush", "ledger_of", "ledger_sums", "open_task"]


def open_task(*sinks: str) -> Task:
    """Return a Task of project "bench" that logs scalars, and nothing else, to `sinks`."""
    return _open(list(sinks))


def disabled_task() -> Task:
    """Return a Task with the SDK switched off: the program as it is without us."""
    os.environ["TELEMETRY_MODE"] = "disabled"
    try:
        return _open(None)
    finally:
        del os.environ["TELEMETRY_MODE"]


def _open(sinks: list[str] | None) -> Task:
    from telemetry import Task  # here, so that whoever measures the import has not imported it before

    return Task.init(
        project_name="bench",
        task_name="benchmark",
        sinks=sinks,
        reuse_last_task_id=False,
        auto_connect_streams=False,
        auto_resource_monitoring=False,
        auto_connect_frameworks=False,
    )


def flush(task: Task, *, timeout_s: float) -> bool:
    """Wait until all that was logged is with the sink or in its journal; False after `timeout_s` seconds."""
    return task.flush(timeout_s)


def ledger_of(task: Task) -> dict[str, Any]:
    """Return the task's ledger as a map: logged, delivered, on_disk, in_memory, dropped."""
    ledger = task.ledger()
    return {
        "logged": ledger.logged,
        "delivered": ledger.delivered,
        "on_disk": ledger.on_disk,
        "in_memory": ledger.in_memory,
        "dropped": dict(ledger.dropped),
    }


def ledger_sums(ledger: dict[str, Any]) -> bool:
    """Return whether logged = delivered + on_disk + in_memory + dropped, exactly."""
    kept = ledger["delivered"] + ledger["on_disk"] + ledger["in_memory"]
    return bool(ledger["logged"] == kept + sum(ledger["dropped"].values()))
