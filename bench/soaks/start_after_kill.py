"""How soon does a server answer that was killed with a gigabyte of points which were not sealed yet?

    python bench/soaks/start_after_kill.py [--megabytes 1024] [--tasks 200] [--folder DIR]

A server that never seals (NO_SEALING in tests/support/stores/hasty_server.py) takes so many bytes of frames, of tasks
with 20 series each, and is killed with SIGKILL. Then a server as everybody runs it starts on the folder: seconds from
the start of its process until it answers, until a new frame is acknowledged, until a chart is read, and until all is
sealed; and the most memory that it has had. In the end each task must count what was sent, and one in ten is read
back, each point in its place.

Prints one line of JSON; exit code 1 if a point is missing or there twice. Unfair in it: what was written a moment ago
is still in the page cache, and after a power cut it would not be. It needs memory for all of these points in the
server that does not seal, and some 3 times their bytes on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sqlite3
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from telemetry.client import Client
from telemetry.events import Batch, ScalarColumns, SeriesKey
from telemetry.export import read_series
from telemetry.process.terminal import ProgressLine
from telemetry.server.store.database import DATABASE_NAME
from telemetry.wire import encode

# The parts are the tests' own: what is measured here is what is checked there.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support" / "stores"))
from hasty_server import NO_SEALING, UNSEALED_TABLE, HastyServer
from servers import folder_bytes, post_frames, server

START_NS = 1_700_000_000_000_000_000
MS = 1_000_000
SERIES = [SeriesKey("scalar", f"title {number % 4}", f"series {number}") for number in range(20)]
# Of each series in a frame: what 20 seconds at 5 Hz are.
STEPS = 100
BODY_FRAMES = 8
POLL_S = 0.05


def frames(task: int, values: np.random.Generator) -> Iterator[bytes]:
    """Yield frames of one task without an end, each with STEPS points of each of its series."""
    count = len(SERIES)
    index = array("I", np.tile(np.arange(count, dtype=np.uint32), STEPS).tobytes())
    for sequence in range(2**31):
        iterations = np.repeat(np.arange(sequence * STEPS, (sequence + 1) * STEPS, dtype=np.int64), count)
        columns = ScalarColumns(
            SERIES,
            index,
            array("q", iterations.tobytes()),
            array("q", (START_NS + iterations * 200 * MS).tobytes()),
            array("d", values.random(count * STEPS).tobytes()),
        )
        batch = Batch(task_id(task), columns, events_logged=len(columns))
        yield encode(batch, writer_id=task.to_bytes(16, "big"), sequence=sequence).data


def task_id(task: int) -> str:
    return f"{task:032x}"


def fill(directory: Path, wanted_bytes: int, tasks: int) -> list[int]:
    """Have a server that never seals take so many bytes, kill it, and return how many frames each task has."""
    values = np.random.default_rng(1)
    sources = [frames(task, values) for task in range(tasks)]
    sent = [0] * tasks
    size = task = 0
    line = ProgressLine(wanted_bytes, sys.stderr)
    target = HastyServer(directory, haste={}, sealing=NO_SEALING)
    target.start()
    if not target.until_ready():
        raise RuntimeError(f"the server does not start: {target.log.read_text()}")
    try:
        while size < wanted_bytes:
            body = []
            for _ in range(BODY_FRAMES):
                body.append(next(sources[task]))
                sent[task] += 1
                task = (task + 1) % tasks
            answer = post_frames(target.url, b"".join(body))
            if any(item["result"] != "stored" for item in answer["frames"]):
                raise RuntimeError(f"the server did not take the frames: {answer}")
            size += sum(map(len, body))
            line.show(size, f"{size / 2**20:,.0f} MiB of frames")
    finally:
        target.kill()
        line.close()
    # The next one seals as everybody's does.
    (directory / "server.toml").unlink()
    return sent


def unsealed_rows(directory: Path) -> int:
    """Return how many rows are not sealed yet."""
    with closing(sqlite3.connect(f"file:{directory / DATABASE_NAME}?mode=ro", uri=True)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {UNSEALED_TABLE}").fetchone()[0])


def most_memory_mib(pid: int) -> float:
    """Return the most memory that a process has had resident, in MiB, as Linux tells it."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def start(directory: Path, sent: list[int], sealed_timeout_s: float) -> dict[str, Any]:
    """Start a server on the folder, and return how long what took."""
    unsealed = unsealed_rows(directory)
    begin = time.monotonic()

    def passed_s() -> float:
        return round(time.monotonic() - begin, 2)

    with server(directory) as target, Client(target.url, timeout_s=600.0) as client:
        client.server()
        figures: dict[str, Any] = {"unsealed_rows": unsealed, "answers_after_s": passed_s()}
        # The frame after the last one of the first task.
        source = frames(0, np.random.default_rng(2))
        for _ in range(sent[0]):
            next(source)
        begin_frame = time.monotonic()
        post_frames(target.url, next(source))
        sent[0] += 1
        figures["a_new_frame_took_s"] = round(time.monotonic() - begin_frame, 2)
        figures["accepts_after_s"] = passed_s()
        last = task_id(len(sent) - 1)
        identifier = client.series(last)[0]["id"]
        client.points(last, [identifier])
        figures["a_chart_after_s"] = passed_s()
        rows = 1
        while rows and passed_s() < sealed_timeout_s:
            rows = unsealed_rows(directory)
            time.sleep(POLL_S)
        figures["sealed_after_s"] = passed_s() if not rows else None
        figures["server_most_mib"] = round(most_memory_mib(target.pid))
        figures["wrong_tasks"] = wrong_tasks(client, sent)
        figures["most_mib_after_reading"] = round(most_memory_mib(target.pid))
        target.stop()
    return figures


def wrong_tasks(client: Client, sent: list[int]) -> int:
    """Return how many tasks do not hold what was sent: all by their counts, one in ten by its points."""
    wrong = 0
    for task, count in enumerate(sent):
        steps = count * STEPS
        if client.task(task_id(task))["counts"]["points"] != steps * len(SERIES):
            wrong += 1
        elif task % 10 == 0:
            found = [series.iterations for series in read_series(client, task_id(task))]
            expected = np.arange(steps)
            wrong += len(found) != len(SERIES) or not all(np.array_equal(one, expected) for one in found)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024, help="of frames (MiB; default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--sealed-timeout", type=float, default=600.0, help="seconds (default: %(default)g)")
    parser.add_argument("--folder", type=Path, help="where the store goes (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="telemetry-start-", dir=arguments.folder) as name:
        directory = Path(name) / "server"
        begin = time.monotonic()
        sent = fill(directory, arguments.megabytes * 2**20, arguments.tasks)
        figures: dict[str, Any] = {
            "megabytes_of_frames": arguments.megabytes,
            "tasks": arguments.tasks,
            "points": sum(sent) * STEPS * len(SERIES),
            "filled_s": round(time.monotonic() - begin, 1),
            "mib_on_disk_before": round(folder_bytes(directory) / 2**20),
        }
        figures |= start(directory, sent, arguments.sealed_timeout)
        figures["mib_on_disk_after"] = round(folder_bytes(directory) / 2**20)
    print(json.dumps(figures | {"cpus": os.cpu_count(), "python": sys.version.split()[0]}))
    return int(bool(figures["wrong_tasks"]))


if __name__ == "__main__":
    sys.exit(main())
