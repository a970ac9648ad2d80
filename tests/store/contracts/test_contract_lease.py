"""The contract of a lease: see telemetry/server/store/seams.py. Another one is a line more in LEASES."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from telemetry.errors import ConfigurationError
from telemetry.server.store.database import DirectoryLock
from telemetry.server.store.seams import Lease

HOLDER = """
import sys
from pathlib import Path
from telemetry.server.store.database import DirectoryLock
held = DirectoryLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""

# How each is taken, and a program that takes it, says so, and holds it until it is killed.
LEASES: dict[str, tuple[Callable[[Path], Lease], str]] = {"directory": (DirectoryLock, HOLDER)}


@pytest.mark.skipif(os.name == "nt", reason="two servers on one directory are left to SQLite's own locks there")
@pytest.mark.parametrize("name", LEASES)
class TestLease:
    def test_one_has_it_until_it_is_released(self, name: str, tmp_path: Path) -> None:
        take, _ = LEASES[name]
        held = take(tmp_path)
        with pytest.raises(ConfigurationError, match="another server"):
            take(tmp_path)
        held.release()
        take(tmp_path).release()

    def test_a_process_that_is_killed_has_it_no_more(self, name: str, tmp_path: Path) -> None:
        take, program = LEASES[name]
        command = [sys.executable, "-c", program, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(ConfigurationError, match="another server"):
                take(tmp_path)
            holder.kill()
            holder.wait()
        take(tmp_path).release()
