"""Does a server that is killed at any moment, hundreds of times, hold what it has acknowledged, each once?

    python bench/soaks/store_kills.py --kills 500 [--seed N] [--folder DIR] [--spoil NAME]

Ten senders (tests/support/stores/store_load.py: many series, many runs, bursts, full frames, console lines, tasks
that are reset and deleted, ranks, points that no good program reports) post to one server, send again what was not
acknowledged and now and then what was. The server seals, merges and checkpoints all the time (HASTE in
tests/support/stores/hasty_server.py), and is killed with SIGKILL: while it starts, at any moment, or as it is about
to run a statement on a table chosen at random. After each start every sender reads back all tasks that it writes to:
every point, in order, to the bit. At the end the same steps go once to a server that nobody kills and nothing
hurries; exports (JSON lines and Parquet), counts, summaries and charts of both must be equal, the exports to the
byte.

Prints one line of JSON; exit code 1 if anything is wrong. Then the folder stays: both stores, their exports, the
server's log. The tests do some (tests/faults/test_faults_store.py).
--spoil NAME breaks the store on purpose (tests/support/stores/store_spoilers.py): then something must be wrong.
Unfair in it: a SIGKILL is not a power cut; what the page cache holds survives it. With the same seed the load is the
same and the moments of the kills are not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from telemetry.process.terminal import ProgressLine

# The parts are the tests' own: what is measured here is what is checked there.
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support" / "stores"))
from hasty_server import HASTE, HastyServer
from store_faults import Load, differences, integrity, kill_again_and_again, send_again
from store_spoilers import SPOILERS


def measure(kills: int, *, seed: int, folder: Path, spoiler: Callable[[Path], None] | None = None) -> dict[str, Any]:
    """Return the figures of so many kills; the stores lie in `folder`."""
    server = HastyServer(folder / "killed", spoiler=spoiler)
    begin = time.monotonic()
    line = ProgressLine(kills, sys.stderr)
    with Load(server, seed) as load:
        ways = kill_again_and_again(
            load, kills, on_kill=lambda done: line.show(done, f"{done} kills, {load.totals['points']:,} points")
        )
        server.start()
        steps = {} if load.wrong or not server.until_ready() else load.finish()
    line.close()
    figures: dict[str, Any] = {
        "kills": ways.total(),
        "seed": seed,
        "ways": dict(sorted(ways.items())),
        **{name.replace(" ", "_"): count for name, count in sorted(load.totals.items())},
        "kills_s": round(time.monotonic() - begin, 1),
        "wrong": load.wrong,
    }
    if not load.wrong:
        try:
            figures |= _compare(server, seed, steps, folder)
        except AssertionError as error:
            load.wrong.append(f"the server that is not killed: {error}")
    server.stop()
    figures["integrity"] = integrity(server.directory)
    log = server.log.read_text("utf-8", errors="replace")
    return figures | {"tracebacks_in_the_log": log.count("Traceback (most recent call last)")}


def _compare(server: HastyServer, seed: int, steps: dict[str, int], folder: Path) -> dict[str, Any]:
    quiet = HastyServer(folder / "quiet", haste={})
    quiet.start()
    begin = time.monotonic()
    line = ProgressLine(sum(steps.values()), sys.stderr)
    try:
        if not quiet.until_ready():
            raise RuntimeError(f"the server that is not killed does not start: {quiet.log}")
        send_again(quiet, seed, steps, on_step=lambda done: line.show(done, f"{done:,} steps sent once more"))
        line.close()
        sent_s = time.monotonic() - begin
        differing = differences(server.url, quiet.url, folder / "exports")
    finally:
        quiet.stop()
    return {
        "steps_by_lane": steps,
        "export_bytes": sum(path.stat().st_size for path in (folder / "exports" / "one").iterdir()),
        "differences": differing,
        "sent_once_more_s": round(sent_s, 1),
        "compared_s": round(time.monotonic() - begin - sent_s, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="new or empty, and kept (default: a temporary one)")
    parser.add_argument("--spoil", choices=SPOILERS, help="break the store on purpose, and see that it is found")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="telemetry-store-kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    figures = measure(arguments.kills, seed=arguments.seed, folder=folder, spoiler=SPOILERS.get(arguments.spoil))
    figures |= {"haste": dict(HASTE), "cpus": os.cpu_count(), "python": sys.version.split()[0]}
    print(json.dumps(figures))
    bad = bool(figures["wrong"] or figures.get("differences") or figures["integrity"] != "ok")
    if bad:
        print(f"the stores are in {folder}; the same load again: --seed {arguments.seed}", file=sys.stderr)
    elif arguments.folder is None:
        shutil.rmtree(folder)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
