"""A large artifact: flat memory on both sides, and a killed server goes on where it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "soaks" / "large_artifact.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_large_artifact_survives_a_killed_server(tmp_path: Path) -> None:
    result = tmp_path / "seen.json"
    command = [sys.executable, str(BENCH), "64", "--json", str(result), "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(result.read_text())
    assert seen["stored"] and seen["right"]
    # Not the file's size, nor half of it.
    assert seen["program_grown_mib"] < 60 and seen["server_grown_mib"] < 60
    # Of one request, which holds 8 MiB, nothing is kept if it was cut off.
    assert 0 <= seen["sent_again_mib"] < 8.5
