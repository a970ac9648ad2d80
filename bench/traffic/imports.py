"""How long does `telemetry import` take for many short runs?

    python bench/traffic/imports.py [--zips 1000] [--points 10000] [--series 5] [--again]

Topology: a server process and an importer process on this machine, loopback, a fresh directory. The zips are made
before, by the real sink's zip_session from frames as a run of that many points writes them: a frame each half
second's worth of points (2,000), its record, and how it ended. Not in it: reading from a slow disk, as the zips
were just written. Prints a line and JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

from telemetry.sinks.local_zip import zip_session

from telemetry.events import Batch, FrameEvent, RecordChange, ScalarColumns, SeriesKey
from telemetry.wire import encode

FRAME_POINTS = 2000
START_NS = 1_700_000_000_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zips", type=int, default=1000)
    parser.add_argument("--points", type=int, default=10_000, help="in each zip")
    parser.add_argument("--series", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2, help="imports; all but the first change nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options)
    print(json.dumps(result))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    make_zips(folder, options)
    size_bytes = sum(path.stat().st_size for path in (folder / "zips").iterdir())
    command = [sys.executable, "-m", "telemetry", "server", "--port", "0", "--directory", str(folder / "server")]
    environment = {**os.environ, "TELEMETRY_DIR": str(folder / "state")}
    seconds: list[float] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[2]
            for _ in range(options.repeats):
                seconds.append(import_all(folder, url, environment))
        finally:
            server.terminate()
    first = seconds[0]
    print(
        f"imports: {options.zips} zips of {options.points:,} points in {options.series} series "
        f"({size_bytes / 2**20:.0f} MiB), {os.cpu_count()} cores: {first:.1f} s, {options.zips / first:.0f} zips/s, "
        f"{options.zips * options.points / first / 1e6:.2f} M points/s; again: "
        + ", ".join(f"{item:.1f} s" for item in seconds[1:])
    )
    return {
        "zips": options.zips,
        "points": options.points,
        "series": options.series,
        "bytes": size_bytes,
        "seconds": seconds,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def import_all(folder: Path, url: str, environment: dict[str, str]) -> float:
    command = [sys.executable, "-m", "telemetry", "import", str(folder / "zips"), "--url", url]
    begun_s = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun_s


def make_zips(folder: Path, options: argparse.Namespace) -> None:
    for number in range(options.zips):
        session = folder / "session" / f"{number:032x}"
        (session / "segments").mkdir(parents=True)
        document = {"format": 1, "task_id": session.name, "project": "bench", "name": f"run {number}"}
        (session / "session.json").write_text(json.dumps(document))
        writer = (2**100 + number).to_bytes(16, "big")
        frames = [
            encode(batch_of(number, first, options), writer_id=writer, sequence=sequence).data
            for sequence, first in enumerate(range(0, options.points, FRAME_POINTS))
        ]
        (session / "segments" / f"{writer.hex()}-000001.frames").write_bytes(b"".join(frames))
        zip_session(session, folder / "zips" / f"{number}.zip")


def batch_of(number: int, first: int, options: argparse.Namespace) -> Batch:
    chance = random.Random(number)
    count = min(FRAME_POINTS, options.points - first)
    columns = ScalarColumns([SeriesKey("scalar", "train", f"metric {n}") for n in range(options.series)])
    columns.series_index.extend([n % options.series for n in range(count)])
    columns.iterations.extend(array("q", [(first + n) // options.series for n in range(count)]))
    columns.times_unix_ns.extend(
        array("q", [START_NS + (first + n) * 250_000 + chance.randrange(9_000) for n in range(count)])
    )
    columns.values.extend(array("d", [chance.random() for _ in range(count)]))
    events: list[FrameEvent] = []
    if not first:
        fields = {
            "name": f"run {number}",
            "project": "bench",
            "status": "in_progress",
            "host": "node",
            "python": "3.11",
        }
        events = [RecordChange(START_NS, "task", key, value) for key, value in fields.items()]
    if first + count == options.points:
        events = [*events, RecordChange(START_NS + 10**9, "task", "status", "completed")]
    return Batch(f"{number:032x}", columns, events, len(columns) + len(events))


if __name__ == "__main__":
    main()
