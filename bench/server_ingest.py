"""How many points a second does the server take by itself, from frames that lie ready?"""

from __future__ import annotations

import sys
import tempfile
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

from harness import SERIES, Benchmark, Column, Metrics, Scale, Target, Work, child_main
from servers import folder_bytes, post_frames, server, until_points

if TYPE_CHECKING:
    from telemetry.wire import Frame

_FRAME_SCALARS = 65_536
# Of a frame as clients fill it by default (TELEMETRY_FRAME_SCALARS).
_CLIENT_FRAME_SCALARS = 32_768
_BODY_FRAMES = 4
_TASK_ID = "0123456789abcdef" * 2
_WRITER_ID = bytes(range(16))
_TIME_NS = 1_700_000_000_000_000_000
_NS_PER_SCALAR = 1_500


def measure(case: str, scale: Scale) -> Metrics:
    """Return points/s into a committed store: within one thread, or into the server's process by HTTP."""
    frames = _frames(scale.pick(64, 8))
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "server"
        metrics = _into_store(frames, directory) if case == "store" else _over_http(frames, directory)
        metrics["bytes_per_point"] = folder_bytes(directory) / metrics["points"]
    metrics["frame_bytes_per_point"] = sum(map(len, frames)) / metrics["points"]
    return metrics


def _frames(count: int) -> list[Frame]:
    """Return `count` frames of 65,536 scalars each: 10 series in turn, random values, a regular clock."""
    from telemetry.events import Batch, RecordChange, ScalarColumns, SeriesKey
    from telemetry.wire import encode

    work = Work(_FRAME_SCALARS * 2 // SERIES)
    keys = [SeriesKey("scalar", title, series) for title, series in work.names]
    header = [RecordChange(_TIME_NS, "task", "name", "ingest"), RecordChange(_TIME_NS, "task", "project", "bench")]
    frames = []
    for sequence in range(count):
        first = sequence * _FRAME_SCALARS
        rows = range(first, first + _FRAME_SCALARS)
        # A window of the random values that is nowhere the same twice running.
        offset = sequence * 101 % _FRAME_SCALARS
        columns = ScalarColumns(
            keys,
            array("I", [row % SERIES for row in rows]),
            array("q", [row // SERIES for row in rows]),
            array("q", range(_TIME_NS + first * _NS_PER_SCALAR, _TIME_NS + rows.stop * _NS_PER_SCALAR, _NS_PER_SCALAR)),
            array("d", work.values[offset : offset + _FRAME_SCALARS]),
        )
        events = header if sequence == 0 else []
        batch = Batch(_TASK_ID, columns, events, _FRAME_SCALARS + len(events))
        frames.append(encode(batch, writer_id=_WRITER_ID, sequence=sequence))
    return frames


def _into_store(frames: list[Frame], directory: Path) -> Metrics:
    """Do what the server does with a body, one step after the other in one thread, and time each step."""
    from telemetry.server.store import Store, prepare
    from telemetry.wire import decode, parse_frame

    clock = time.perf_counter
    store = Store(directory)
    decode_s = prepare_s = write_s = 0.0
    for data in [frame.data for frame in frames]:
        begin = clock()
        frame = parse_frame(data)
        batch = decode(frame)
        decoded = clock()
        content = prepare(frame, batch)
        prepared = clock()
        store.write([content])
        write_s += clock() - prepared
        prepare_s += prepared - decoded
        decode_s += decoded - begin
    begin = clock()
    for data in [frame.data for frame in frames]:
        frame = parse_frame(data)
        if not store.has_frame(frame.writer_id, frame.sequence):
            raise RuntimeError(f"the store does not know frame {frame.sequence}")
    duplicates_s = clock() - begin
    points = len(frames) * _FRAME_SCALARS
    counted = store.task(_TASK_ID)["counts"]["points"]
    store.close()
    return {
        "points": points,
        "rate": points / (decode_s + prepare_s + write_s),
        "decode_us": decode_s / points * 1e6,
        "prepare_us": prepare_s / points * 1e6,
        "write_us": write_s / points * 1e6,
        "duplicate_ms": duplicates_s / (points / _CLIENT_FRAME_SCALARS) * 1e3,
        "lost": points - counted,
    }


def _over_http(frames: list[Frame], directory: Path) -> Metrics:
    """Post the frames, a few a body, one request after the other; each is answered after its commit."""
    bodies = [
        b"".join(frame.data for frame in frames[k : k + _BODY_FRAMES]) for k in range(0, len(frames), _BODY_FRAMES)
    ]
    points = len(frames) * _FRAME_SCALARS
    with server(directory) as running:
        cpu_begin = running.cpu_s()
        begin = time.perf_counter()
        for body in bodies:
            answer = post_frames(running.url, body)
            refused = [item for item in answer["frames"] if item["result"] != "stored"]
            if refused:
                raise RuntimeError(f"the server did not store {refused[0]}")
        seconds = time.perf_counter() - begin
        cpu_s = running.cpu_s() - cpu_begin
        cpu_begin = running.cpu_s()
        for body in bodies:
            again = {item["result"] for item in post_frames(running.url, body)["frames"]}
            if again != {"duplicate"}:
                raise RuntimeError(f"frames that are there already are {again}")
        duplicates_s = running.cpu_s() - cpu_begin
        counted = until_points(running.url, _TASK_ID, points, timeout_s=5.0)
        running.stop()
    return {
        "points": points,
        "rate": points / seconds,
        "server_cpu_us": cpu_s / points * 1e6,
        "duplicate_ms": duplicates_s / (points / _CLIENT_FRAME_SCALARS) * 1e3,
        "lost": points - counted,
    }


BENCHMARK = Benchmark(
    name="server_ingest",
    question="How many points a second does the server's ingest take by itself?",
    topology=(
        "64 frames of 65,536 scalars in 10 series, encoded before the clock starts; store = one thread, "
        "one process: parse, decode, check and write, a transaction a frame; http = posted over loopback "
        "to our server in its own process, 4 frames a body, one request at a time, each answered after "
        "commit; again = sent once more, when all of it is there: for 32,768 scalars, a client's full frame; http = "
        "server CPU, receiving it included"
    ),
    unfair=(
        "frames this full come only from a loop that does nothing but log; one writer, one task, 10 "
        "series: many small series cost more a point; SQLite's own durability setting applies"
    ),
    cases=("store", "http"),
    measure=measure,
    columns=(
        Column("rate", "points/s", ",.0f"),
        Column("decode_us", "decode us/point", ".3f"),
        Column("prepare_us", "prepare", ".3f"),
        Column("write_us", "write", ".3f"),
        Column("server_cpu_us", "server CPU us/point", ".3f"),
        Column("frame_bytes_per_point", "bytes/point in frames", ".2f"),
        Column("bytes_per_point", "on disk", ".2f"),
        Column("duplicate_ms", "ms a frame again", ".2f"),
        Column("lost", "lost", ".0f"),
    ),
    targets=(
        Target("rate", ">=", 1_500_000, "server ingest alone at least 1.5 million points/s"),
        Target("bytes_per_point", "<=", 16, "at most 16 bytes a point on disk after sealing"),
        Target("duplicate_ms", "<=", 1.0, "a full frame that is there already costs at most 1 ms"),
        Target("lost", "==", 0, "nothing lost"),
    ),
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
