"""Do imports in any order, with kills of both sides in between, give the same data to the byte?

    python bench/soaks/reimports.py [--sessions 50] [--imports 3] [--kills 5]

One quiet import into a first server gives what is expected. Into a second one the same sessions are imported again and
again, each time in a new random order, while the importer or the server is killed at random moments and simply
started again. After each import everything is exported, as JSON lines and as Parquet, and compared file by file. Prints
one line of JSON; the exit code is 1 if a byte differs. The tests do 8 sessions (tests/faults/).
Unfair in it: a SIGKILL is not a power cut, and both sides run on one machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# The parts are the tests' own: what is measured here is what is checked there.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
from fault_support import ServerProcess
from reimport_support import begin_import, export_digests, kill_while_importing, make_sessions


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the figures; what is written lies in `folder`."""
    random_ = random.Random(options.seed)
    sessions = make_sessions(folder / "sessions", options.sessions, options.points)
    with ServerProcess(folder / "reference") as server:
        quiet = begin_import(sessions, server.url, folder).wait()
        expected = export_digests(server.url, folder / "expected")
    victims = [random_.choice(["importer", "server"]) for _ in range(options.kills)]
    codes, differing, imports_s = [quiet], [], []
    with ServerProcess(folder / "server") as other:
        for turn in range(options.imports):
            # Dealt out to the imports in turn, so that each has some.
            for victim in victims[turn :: options.imports]:
                order = random_.sample(sessions, len(sessions))
                kill_while_importing(order, other, victim, folder, request=random_.randint(1, options.latest_request))
            begin = time.monotonic()
            codes.append(begin_import(random_.sample(sessions, len(sessions)), other.url, folder).wait())
            imports_s.append(round(time.monotonic() - begin, 2))
            found = export_digests(other.url, folder / f"turn-{turn}")
            differing += [f"{turn}: {name}" for name in expected if found.get(name) != expected[name]]
        starts = other.starts
    return {
        "sessions": options.sessions,
        "points_in_each": 2 * options.points,
        "imports": options.imports,
        "kills": victims,
        "server_starts": starts,
        "exit_codes": codes,
        "imports_s": imports_s,
        "files_compared": sorted(expected),
        "files_that_differ": differing,
        "bytes": sum(path.stat().st_size for path in (folder / "expected").iterdir()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--points", type=int, default=3000, help="of each session's two writers (default: %(default)s)")
    parser.add_argument("--imports", type=int, default=3)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--latest-request", type=int, default=4, help="a kill comes at one of the first requests")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="telemetry-reimports-") as folder:
        figures = measure(options, Path(folder))
    print(json.dumps(figures | {"cpus": os.cpu_count(), "python": sys.version.split()[0], "seed": options.seed}))
    return int(bool(figures["files_that_differ"]) or any(figures["exit_codes"]))


if __name__ == "__main__":
    sys.exit(main())
