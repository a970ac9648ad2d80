"""How long does the server take to answer a chart of 10 million points, and is the one spike in it?"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import random
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness import Benchmark, Column, Metrics, Scale, Target, child_main, median
from servers import ServerProcess, folder_bytes, get_json, post_frames, server, until_points

_FRAME_POINTS = 65_536
_BODY_FRAMES = 8
_MAX_SAMPLES = 2_000
_SPIKE = 1e6
_ZOOMS_PER_WIDTH = 5
_WIDTHS = (0.5, 0.1, 0.01, 0.001)
TASK_ID = "0123456789abcdef" * 2
_TIME_NS = 1_700_000_000_000_000_000


def measure(_case: str, scale: Scale) -> Metrics:
    """Load the points, start the server afresh, and time the whole chart and zooms into it."""
    points = scale.pick(10_000_000, 500_000)
    spike_at = points // 3 + 17
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "server"
        with server(directory) as loading:
            load_s = load_series(loading, points, spike_at)
            loading.stop()
        stored = folder_bytes(directory)
        # A fresh process: its own caches are empty, the system's cache of the files is warm.
        with server(directory) as running, _connection(running) as connection:
            series = get_json(running.url, f"/tasks/{TASK_ID}/series?kind=scalar")["series"]
            query = f"/api/v1/tasks/{TASK_ID}/points?series={series[0]['id']}&max_samples={_MAX_SAMPLES}"
            first_s, first_server_s, body = _get(connection, query)
            again_s, _, again = _get(connection, query)
            zooms = _zooms(connection, query, points, spike_at)
    answer = json.loads(body)["series"][0]
    pairs = list(zip(answer["x"], answer["y"], strict=True))
    return {
        "points": points,
        "load_points_per_s": points / load_s,
        "bytes_per_point": stored / points,
        "first_ms": first_s * 1e3,
        "first_server_ms": None if first_server_s is None else first_server_s * 1e3,
        "again_ms": again_s * 1e3,
        "same_bytes": int(body == again),
        "samples": len(pairs),
        "answer_bytes": len(body),
        "spike_visible": int((spike_at, _SPIKE) in pairs),
        **zooms,
    }


def _zooms(connection: http.client.HTTPConnection, query: str, points: int, spike_at: int) -> Metrics:
    """Time zooms of several widths at random places, and one around the spike."""
    generator = random.Random(1)
    seconds: dict[float, list[float]] = {width: [] for width in _WIDTHS}
    for width in _WIDTHS:
        for _ in range(_ZOOMS_PER_WIDTH):
            begin = generator.randrange(int(points * (1 - width)) + 1)
            took, _, _ = _get(connection, f"{query}&from={begin}&to={begin + int(points * width)}")
            seconds[width].append(took)
    _, _, body = _get(connection, f"{query}&from={spike_at - 100}&to={spike_at + 100}")
    near = json.loads(body)["series"][0]
    every = [took for of_width in seconds.values() for took in of_width]
    return {
        "zoom_ms": median(every) * 1e3,
        "zoom_max_ms": max(every) * 1e3,
        **{f"zoom_{width:g}_ms": median(seconds[width]) * 1e3 for width in _WIDTHS},
        "near_exact": int(near["exact"] and near["count"] == 201 and near["y"][100] == _SPIKE),
    }


def load_series(running: ServerProcess, points: int, spike_at: int) -> float:
    """Send one series of `points` points with one spike, in frames of 65,536; return the seconds of sending."""
    from telemetry.events import Batch, RecordChange, ScalarColumns, SeriesKey
    from telemetry.wire import encode

    writer = bytes(range(16))
    header = [
        RecordChange(_TIME_NS, "task", "name", "10 million points"),
        RecordChange(_TIME_NS, "task", "project", "bench"),
    ]
    wave = [math.sin(k / 5_000) for k in range(31_416)]
    noise = random.Random(2)
    seconds, body = 0.0, bytearray()
    frames = math.ceil(points / _FRAME_POINTS)
    for sequence in range(frames):
        begin, end = sequence * _FRAME_POINTS, min(points, (sequence + 1) * _FRAME_POINTS)
        values = array("d", [wave[k % len(wave)] + noise.random() * 0.1 for k in range(begin, end)])
        if begin <= spike_at < end:
            values[spike_at - begin] = _SPIKE
        columns = ScalarColumns(
            [SeriesKey("scalar", "train", "loss")],
            array("I", bytes(4 * (end - begin))),
            array("q", range(begin, end)),
            array("q", range(_TIME_NS + begin * 1_000_000, _TIME_NS + end * 1_000_000, 1_000_000)),
            values,
        )
        events = header if sequence == 0 else []
        batch = Batch(TASK_ID, columns, events, end - begin + len(events))
        body += encode(batch, writer_id=writer, sequence=sequence).data
        if (sequence + 1) % _BODY_FRAMES == 0 or sequence == frames - 1:
            sent = time.perf_counter()
            answer = post_frames(running.url, bytes(body))
            seconds += time.perf_counter() - sent
            body.clear()
            refused = [item for item in answer["frames"] if item["result"] != "stored"]
            if refused:
                raise RuntimeError(f"the server did not store {refused[0]}")
    committed = until_points(running.url, TASK_ID, points, timeout_s=10.0)
    if committed != points:
        raise RuntimeError(f"the server has {committed} of {points} points")
    return seconds


@contextlib.contextmanager
def _connection(running: ServerProcess) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(urlsplit(running.url).netloc, timeout=60)
    try:
        yield connection
    finally:
        connection.close()


def _get(connection: http.client.HTTPConnection, query: str) -> tuple[float, float | None, bytes]:
    """Return (seconds until the body was read, the server's own seconds if it says them, body)."""
    begin = time.perf_counter()
    connection.request("GET", query)
    response = connection.getresponse()
    body = response.read()
    seconds = time.perf_counter() - begin
    if response.status != 200:
        raise RuntimeError(f"{query}: {response.status} {body[:300]!r}")
    return seconds, _server_timing(response.getheader("Server-Timing")), body


def _server_timing(header: Any) -> float | None:
    """Return the `dur` of a Server-Timing header in seconds, if there is one."""
    for part in (header or "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == "dur":
            return float(value) / 1e3
    return None


BENCHMARK = Benchmark(
    name="points_page",
    question="How long does a chart of 10 million points take, whole and zoomed, and does it show a single spike?",
    topology=(
        "one series of 10,000,000 points with one spike, our server started afresh on it, one loopback "
        f"connection, max_samples={_MAX_SAMPLES}; zooms: {_ZOOMS_PER_WIDTH} places each of 50, 10, 1 and "
        "0.1 % width"
    ),
    unfair=(
        "times are the client's, transport over loopback and the body included, so a little more than "
        "server time; the files are in the system's cache; one viewer at a time; drawing in the browser "
        "is not in it; the answer is asked once for each zoom"
    ),
    cases=("one_series",),
    measure=measure,
    columns=(
        Column("points", "points", ",.0f"),
        Column("load_points_per_s", "load points/s", ",.0f"),
        Column("bytes_per_point", "bytes/point", ".2f"),
        Column("first_ms", "first ms", ".1f"),
        Column("again_ms", "again ms", ".1f"),
        Column("zoom_0.5_ms", "zoom 50 % ms", ".1f"),
        Column("zoom_0.1_ms", "10 %", ".1f"),
        Column("zoom_0.01_ms", "1 %", ".1f"),
        Column("zoom_0.001_ms", "0.1 %", ".1f"),
        Column("zoom_max_ms", "slowest zoom ms", ".1f"),
        Column("samples", "samples", ",.0f"),
        Column("spike_visible", "spike", ".0f"),
    ),
    targets=(
        Target("first_ms", "<=", 500, "first answer at most 0.5 s"),
        Target("zoom_max_ms", "<=", 150, "a zoom at most 0.15 s (the slowest of all)"),
        Target("spike_visible", "==", 1, "the single spike is visible at full zoom-out"),
        Target("near_exact", "==", 1, "a deep zoom gives every raw point, the spike among them"),
        Target("same_bytes", "==", 1, "the same request gives the same bytes"),
    ),
    timeout_s=300.0,
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
