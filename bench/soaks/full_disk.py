"""What becomes of a server whose disk is full, again and again, at any moment?

    python bench/soaks/full_disk.py --rounds 60 [--seed N]     (needs root: it mounts a tmpfs)

The senders of store_kills.py post to a server whose folder lies on a small tmpfs, and which seals, merges and
checkpoints all the time. In each round the disk fills up: by what is sent, or because another file takes all there is
at some moment, every second time with a SIGKILL and a start while nothing is free. Then frames must be refused with an
answer that names the disk and says when to ask again; every point that was acknowledged is read back while the disk is
full; SQLite's integrity check is asked; and when there is space again it must go on by itself. At the end the same
steps go to a server that had space all the time, and both are compared as in store_kills.py.

Prints one line of JSON; exit code 1 if anything is wrong, and then the exports stay; 2 where no tmpfs can be mounted.
The tests do some rounds (tests/faults/test_faults_store.py).
Unfair in it: a tmpfs is full at once, and has no blocks kept for root.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from telemetry.process.terminal import ProgressLine

# The parts are the tests' own: what is measured here is what is checked there.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support" / "stores"))
from hasty_server import HastyServer
from injectors import small_disk
from store_faults import Filler, Load, differences, fill_again_and_again, integrity, send_again

DISK_BYTES = 256 * 1024 * 1024


def measure(rounds: int, *, seed: int, folder: Path) -> dict[str, Any]:
    """Return the figures of so many rounds; what is compared lies in `folder`."""
    with small_disk(folder / "disk", DISK_BYTES) as disk:
        server = HastyServer(disk / "server", log=folder / "server.log")
        server.start()
        if not server.until_ready():
            raise RuntimeError(f"the server does not start: {server.log.read_text()}")
        line = ProgressLine(rounds, sys.stderr)
        with Load(server, seed) as load:
            figures = fill_again_and_again(
                load, Filler(disk), rounds, on_round=lambda done: line.show(done, f"full {done} times")
            )
            steps = {} if load.wrong else load.finish()
        line.close()
        quiet = HastyServer(folder / "quiet", haste={})
        try:
            if not load.wrong:
                quiet.start()
                quiet.until_ready()
                send_again(quiet, seed, steps)
                figures["differences"] = differences(server.url, quiet.url, folder / "exports")
        except AssertionError as error:
            load.wrong.append(f"the server that has space: {error}")
        finally:
            quiet.stop()
            server.stop()
        figures["integrity"] = integrity(server.directory)
        figures["store_bytes"] = sum(path.stat().st_size for path in server.directory.iterdir())
    refusals = {f"{refusal.status} {refusal.text}": count for refusal, count in load.refusals.items()}
    totals = {name.replace(" ", "_"): count for name, count in sorted(load.totals.items())}
    return {**figures, **totals, "refusals": refusals, "wrong": load.wrong}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="telemetry-full-disk-"))
    try:
        figures = measure(arguments.rounds, seed=arguments.seed, folder=folder)
    except pytest.skip.Exception as nothing:
        print(nothing, file=sys.stderr)
        return 2
    print(json.dumps(figures | {"seed": arguments.seed, "cpus": os.cpu_count(), "python": sys.version.split()[0]}))
    bad = bool(figures["wrong"] or figures.get("differences") or figures["integrity"] != "ok")
    if bad:
        print(f"the exports and the server's log are in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
