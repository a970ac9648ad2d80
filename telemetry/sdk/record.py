"""A task's record: what is written into it at the start, and every change after.

The record is the fold of RecordChange events, so writing it is emitting; nothing is read back.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from telemetry.events import RecordChange, TaskHeader
from telemetry.protocols import Emit
from telemetry.sdk.masking import mask_command
from telemetry.sdk.status import TaskStatus

__all__ = ["Record", "start_fields", "writer_entry"]


class Record:
    """Writes changes of one task's record into its stream. Safe from any thread.

    Every change is younger than the one before it, also when the clock is set back in between: the
    fold takes the youngest, and a task that ended must not stay in_progress.
    There is no lock, which a fork could leave held: two threads that change one field at the same
    instant have no order to keep.
    """

    def __init__(self, emit: Emit, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._emit = emit
        self._clock = clock
        self._last_unix_ns = 0

    def change(self, section: str, key: str, value: Any) -> None:
        """Give one field a new value; None removes it."""
        self.change_all(section, {key: value})

    def change_all(self, section: str, values: Mapping[str, Any]) -> None:
        """Give several fields of a section new values, all of the same instant."""
        self._last_unix_ns = moment = max(self._clock(), self._last_unix_ns + 1)
        for key, value in values.items():
            self._emit(RecordChange(moment, section, key, value))


def start_fields(header: TaskHeader, *, tags: list[str]) -> dict[str, Any]:
    """Return the fields of section "task" at the start: who runs what, where, since when."""
    return {
        "name": header.name,
        "project": header.project,
        "type": header.type,
        "status": TaskStatus.IN_PROGRESS.value,
        "started_unix_ns": header.created_unix_ns,
        "tags": tags,
        "host": socket.gethostname(),
        "python": platform.python_version(),
        # orig_argv has the interpreter and -m, which argv has lost.
        "command": mask_command(sys.orig_argv or sys.argv),
        "cwd": _working_directory(),
    }


def writer_entry(started_unix_ns: int) -> dict[str, Any]:
    """Return this process's entry in section "writers"."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "rank": _environment_int("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"),
        "world_size": _environment_int("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
        "started_unix_ns": started_unix_ns,
        "python": platform.python_version(),
    }


def _working_directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - a string, and pathlib is not needed for it
    except OSError:
        return ""  # the directory was deleted under the program, which runs on all the same


def _environment_int(*names: str) -> int | None:
    for name in names:
        text = os.environ.get(name, "")
        if text.isascii() and text.isdigit():
            return int(text)
    return None
