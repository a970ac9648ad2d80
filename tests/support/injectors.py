"""Faults of the disk: real ones where root may mount, and calls of the journal's own that fail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from telemetry import journal

__all__ = ["FailingDisk", "small_disk"]


@contextmanager
def small_disk(mount_point: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a tmpfs of this size; skips the test, and says so, where nobody may mount one."""
    mount_point.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", str(mount_point)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", "-l", str(mount_point)], check=True)


class FailingDisk:
    """The journal's writes fail with `number` while `broken`; everything else passes.

    Attributes:
        refused: writes that failed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.number = number
        self.broken = False
        self.refused = 0
        real_open = journal.aiofiles.open

        async def open_(*arguments: Any, **options: Any) -> Any:
            return _File(await real_open(*arguments, **options), self)

        monkeypatch.setattr(journal.aiofiles, "open", open_)

    def check(self) -> None:
        if self.broken:
            self.refused += 1
            raise OSError(self.number, os.strerror(self.number))


class _File:
    """A file of aiofiles, whose writes ask the disk first."""

    def __init__(self, file: Any, disk: FailingDisk) -> None:
        self._file = file
        self._disk = disk

    async def write(self, data: Any) -> Any:
        self._disk.check()
        return await self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
