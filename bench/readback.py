"""What is really in a closed session zip: points and a checksum per series, read by another process.

    python bench/readback.py SESSION.zip        prints {"points": n, "series": {"title/series": [n, crc32]}}

The checksum is CRC-32 over the iterations (int64) and then over the values (float64) of a series, each in
the order they were logged, so one changed, lost, doubled or reordered scalar shows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
import zlib
from array import array
from collections import defaultdict
from pathlib import Path
from typing import Any

from harness import Work

__all__ = ["expected", "read_zip", "read_zip_elsewhere"]


def expected(work: Work) -> dict[str, Any]:
    """Return what a complete store of `work` must give back."""
    series = {}
    for k, (title, name) in enumerate(work.names):
        values = work.of_series(k)
        series[f"{title}/{name}"] = [len(values), _checksum(array("q", range(len(values))), array("d", values))]
    return {"points": work.scalars, "series": series}


def read_zip_elsewhere(path: Path) -> dict[str, Any]:
    """Return what a fresh process finds in the zip."""
    done = subprocess.run(
        [sys.executable, __file__, str(path)], capture_output=True, text=True, check=True, timeout=300
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def read_zip(path: Path) -> dict[str, Any]:
    from telemetry.wire import Damage, decode, scan

    iterations: dict[str, array[int]] = defaultdict(lambda: array("q"))
    values: dict[str, array[float]] = defaultdict(lambda: array("d"))
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.namelist()):
            if not member.endswith(".frames"):
                continue
            for _offset, frame in scan(archive.read(member)):
                if isinstance(frame, Damage):
                    raise SystemExit(f"{member}: {frame}")
                columns = decode(frame).columns
                names = [f"{key.title}/{key.series}" if key.kind == "scalar" else None for key in columns.series]
                for index, iteration, value in zip(
                    columns.series_index, columns.iterations, columns.values, strict=True
                ):
                    name = names[index]
                    if name is not None:
                        iterations[name].append(iteration)
                        values[name].append(value)
    return {
        "points": sum(map(len, values.values())),
        "series": {name: [len(values[name]), _checksum(iterations[name], values[name])] for name in values},
    }


def _checksum(iterations: array[int], values: array[float]) -> int:
    return zlib.crc32(values.tobytes(), zlib.crc32(iterations.tobytes()))


if __name__ == "__main__":
    print(json.dumps(read_zip(Path(sys.argv[1]))))
