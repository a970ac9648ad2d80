"""Is what a killed session leaves the state of the calls that had returned? A long script is killed after each call.

    python bench/soaks/scripted_kills.py

A program makes k calls of the Task SDK and is killed a little more than a second after the last of them returned;
another makes the same k calls and ends by itself. Both sessions are imported and compared: parameters, configuration,
properties, labels, artifacts, models, tags, points, single values, plots, media, console. For each k from none to all.
Prints one line of JSON; exit code 1 if any two differ. The tests do nine of them (tests/faults/test_faults_script.py).
Unfair in it: a SIGKILL is not a power cut; what the page cache holds survives it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from telemetry.client import Client

# The parts are the tests' own: what is measured here is what is checked there.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
from fault_support import ServerProcess
from script_support import CALLS, run_script, state_of


def main() -> int:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TELEMETRY_")}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name, ServerProcess(Path(name) / "server") as server:
        folder = Path(name)
        with ThreadPoolExecutor(4) as programs:
            runs = [
                [
                    programs.submit(run_script, folder / ending / str(calls), calls, ending, clean)
                    for calls in range(CALLS + 1)
                ]
                for ending in ("close", "kill")
            ]
        ended, killed = ([run.result() for run in one] for one in runs)
        command = [sys.executable, "-m", "telemetry", "import", *map(str, [*ended, *killed]), "--url", server.url]
        code = subprocess.run(command, capture_output=True, check=False).returncode
        with Client(server.url) as client:
            differing = [
                calls
                for calls, (whole, cut) in enumerate(zip(ended, killed, strict=True))
                if state_of(client, whole.name) != state_of(client, cut.name)
            ]
    figures = {
        "calls": CALLS,
        "kills": len(killed),
        "import_exit_code": code,
        "differing_after": differing,
        "seconds": round(time.monotonic() - begin, 1),
        "python": sys.version.split()[0],
    }
    print(json.dumps(figures))
    return 1 if differing or code else 0


if __name__ == "__main__":
    sys.exit(main())
