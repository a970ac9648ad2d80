"""Hostile bytes against a real server in a process of its own: refused within a second, in bounded memory."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgpack
import psutil
import pytest
from sdk_support import environment
from server_support import LOSS, START_NS, TASK, Http, config_of, frame_of, rows_of

from telemetry import wire
from telemetry.errors import ConfigurationError, FrameError
from telemetry.events import Batch, ConsoleLine, RecordChange, ScalarColumns, SeriesKey
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig, read_project_limits
from telemetry.server.store import ProjectLimit, ProjectLimits
from telemetry.wire import MAGIC, MAX_PAYLOAD_BYTES, decode, encode, parse_frame, scan

MAX_RSS_BYTES = 256 * 1024 * 1024
# The promise is a second on a quiet machine; this one may be busy. What these tests are about takes minutes.
PATIENCE_S = 5.0


@dataclass
class Watched:
    """A server and the most memory that its process was seen to use: the kernel's own high-water mark."""

    http: Http
    process: psutil.Process

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            pytest.skip("the kernel's high-water mark is read from /proc")
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024


@pytest.fixture
def server(state_dir: Path) -> Iterator[Watched]:
    command = [sys.executable, "-m", "telemetry", "server", "--port", "0", "--until-eof"]
    running = subprocess.Popen(
        command, env=environment(state_dir), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert running.stdin is not None and running.stdout is not None
    try:
        url = next(word for word in running.stdout.readline().split() if word.startswith("http://"))
        yield Watched(Http(url), psutil.Process(running.pid))
    finally:
        running.stdin.close()
        running.wait(timeout=30)
        running.stdout.close()


def raw_frame(payload: bytes, *, deflate: bool = False, sequence: int = 0, unpacked: int | None = None) -> bytes:
    """Return a frame with a right header and checksum around any payload."""
    stored = zlib.compress(payload, 9) if deflate else payload
    length = len(payload) if unpacked is None else unpacked
    head = struct.pack("<8sBBHIIIQ16s", MAGIC, 1, int(deflate), 0, len(stored), length, 1, sequence, b"h" * 16)
    return head + zlib.crc32(stored, zlib.crc32(head)).to_bytes(4, "little") + stored


def array(count: int, item: bytes, *, claims: int | None = None) -> bytes:
    return b"\xdd" + struct.pack(">I", count if claims is None else claims) + item * count


def document(*, events: bytes = b"\x90", series: bytes = b"\x90", columns: bytes = b"\x94" + b"\xc4\x00" * 4) -> bytes:
    parts = {"task": msgpack.packb(TASK), "series": series, "columns": columns, "events": events}
    return bytes([0x80 + len(parts)]) + b"".join(msgpack.packb(key) + value for key, value in parts.items())


def record(value: bytes) -> bytes:
    return b"\x95\xa6record\x01\xa1s\xa1k" + value


ROOM = MAX_PAYLOAD_BYTES - 300

# Each would take hundreds of megabytes, or minutes, or break the reader, if it were simply unpacked.
PAYLOADS = {
    "a million empty arrays": document(events=array(1, record(array(1_000_000, b"\x90")))),
    "as many empty arrays as fit": document(events=array(1, record(array(ROOM, b"\x90")))),
    "as many in twelve events": document(events=array(12, record(array(1_000_000, b"\x90")))),
    "as many in events of 60 kB": document(events=array(250, record(array(60_000, b"\x90")))),
    "nils": document(events=array(1, record(array(ROOM, b"\xc0")))),
    "texts of two letters": document(events=array(1, record(array(ROOM // 3, b"\xa2ab")))),
    "maps of one key": document(events=array(1, record(array(ROOM // 4, b"\x81\xa1a\xc0")))),
    "a million events": document(events=array(1_000_000, record(b"\xc0"))),
    "empty events": document(events=array(131_072, b"\x90")),
    "a million series": document(series=array(1_000_000, b"\x94\xa6scalar\xa1a\xa1b\xa0")),
    "series that are arrays": document(series=array(16, array(900_000, b"\x90"))),
    "a thousand deep": document(events=array(1, record(b"\x91" * 1000 + b"\xc0"))),
    "sixteen million deep": document(events=array(1, record(b"\x91" * ROOM))),
    "arrays that claim more": b"\x81\xa4task" + b"\xdd\x00\xff\xff\xff" * 1000,
    "an array that claims 4 billion": document(events=array(1, b"\x90", claims=2**32 - 1)),
    "a text that claims 4 GB": document(events=array(1, b"\xdb\xff\xff\xff\xff")),
    "keys that are arrays": b"\x81" + array(ROOM, b"\x90") + b"\xc0",
    "more keys than allowed": b"\xdf" + struct.pack(">I", 2_000_000) + b"\xa1a\xc0" * 2_000_000,
    "a key twice": b"\x82\xa1a\xc0\xa1a\xc0",
    "a column of the wrong length": document(columns=b"\x94\xc4\x03abc" + b"\xc4\x00" * 3),
    "columns of four lengths": document(columns=b"\x94\xc4\x04abcd\xc4\x08abcdefgh\xc4\x00\xc4\x00"),
    "five columns": document(columns=b"\x95" + b"\xc4\x00" * 5),
    "bytes behind the end": document() + b"\xc0" * 1000,
    "nothing": b"",
    "no map": b"\xc0",
    "an extension type": document(events=array(1, record(b"\xd4\x05x"))),
}


@pytest.mark.parametrize("deflate", [False, True], ids=["stored", "deflated"])
@pytest.mark.slow
def test_every_hostile_payload_is_refused_and_the_server_stays_small(server: Watched, deflate: bool) -> None:
    for sequence, (name, payload) in enumerate(PAYLOADS.items()):
        begin_s = time.monotonic()
        answer = server.http.post(raw_frame(payload, deflate=deflate, sequence=sequence))
        took_s = time.monotonic() - begin_s
        assert answer.status in (200, 400, 413), (name, answer)
        assert answer.status != 200 or answer.results == ["rejected"], name
        assert took_s < PATIENCE_S, f"{name}: {took_s:.2f} s"
        assert server.peak_bytes() <= MAX_RSS_BYTES, f"{name}: {server.peak_bytes() >> 20} MiB"
    # and a frame that means well is taken
    server.http.send(frame_of({LOSS: rows_of([1.0])}))


@pytest.mark.slow
def test_a_bomb_is_not_inflated(server: Watched) -> None:
    zeros = bytes(MAX_PAYLOAD_BYTES)
    bomb = raw_frame(zeros, deflate=True)
    assert len(zeros) > 900 * len(bomb)
    lying = raw_frame(zeros, deflate=True, unpacked=100, sequence=1)
    too_large = raw_frame(zeros, deflate=True, unpacked=2**32 - 1, sequence=2)
    assert server.http.post(bomb).results == ["rejected"]
    assert server.http.post(lying).results == ["rejected"]
    assert server.http.post(too_large).status == 400
    # many in one body: more than the server inflates at once
    assert server.http.post(bomb * 100).status == 413
    assert server.peak_bytes() <= MAX_RSS_BYTES
    assert server.http.get("/tasks")["total"] == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Length": str(10**12)}, 413),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "application/json"}, 415),
    ],
)
def test_a_body_that_is_too_large_or_packed_is_not_read(server: Watched, headers: dict[str, str], status: int) -> None:
    assert server.http.post(b"x" * 100, headers=headers).status == status


def test_a_header_of_a_megabyte_is_refused(server: Watched) -> None:
    answer = server.http.request("GET", "/api/v1/tasks", headers={"X-Large": "x" * 1_000_000})
    assert 400 <= answer.status < 500
    assert server.http.api("/tasks", search="x" * 100_000).status in range(400, 500)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("name", PAYLOADS)
def test_decode_refuses_it_whoever_asks(name: str, deflate: bool) -> None:
    # The importer, salvage and the SDK read frames too.
    with pytest.raises(FrameError):
        decode(parse_frame(raw_frame(PAYLOADS[name], deflate=deflate)))


def test_what_decode_would_refuse_is_not_encoded() -> None:
    def encoded(batch: Batch) -> None:
        encode(batch, writer_id=b"w" * 16, sequence=0)

    series = ScalarColumns([SeriesKey("scalar", "t", str(number)) for number in range(wire.MAX_SERIES + 1)])
    lines = [ConsoleLine(1, "stdout", "")] * (wire.MAX_EVENTS + 1)
    value = [RecordChange(1, "s", "k", [None] * wire.MAX_VALUE_OBJECTS)]
    for batch in (Batch(TASK, series), Batch(TASK, events=lines), Batch(TASK, events=value)):
        with pytest.raises(FrameError, match=r"over the limit|more than"):
            encoded(batch)


def test_the_largest_frames_that_are_sent_are_read() -> None:
    # given one of 65,536 scalars and 4 MiB of events, four record values of a hundred thousand numbers among them
    values = [RecordChange(1, "s", str(number), [float(n) for n in range(100_000)]) for number in range(4)]
    lines = [ConsoleLine(START_NS + number, "stdout", "x" * 30) for number in range(10_000)]
    frame = frame_of({LOSS: rows_of([0.5] * 65_536)}, [*values, *lines])
    # then all of it comes back
    batch = decode(parse_frame(frame.data))
    assert len(batch.columns) == 65_536 and list(batch.events) == [*values, *lines]


def test_a_scan_of_a_million_forged_headers_is_given_up() -> None:
    # given headers that each claim all that follows: checking each would read 16 MiB 60,000 times
    head = struct.pack("<8sBBHIIIQ16sI", MAGIC, 1, 0, 0, 3_000_000, 100, 1, 0, b"h" * 16, 0)
    data = head * 120_000
    begin_s = time.monotonic()
    found = list(scan(data))
    # then the end is one piece of damage
    assert time.monotonic() - begin_s < PATIENCE_S
    offset, last = found[-1]
    assert isinstance(last, wire.Damage) and "not searched" in last.reason and offset + last.length == len(data)


# ---- the limits of projects


def in_project(project: str) -> RecordChange:
    return RecordChange(START_NS, "task", "project", project)


def test_a_full_project_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    limits = ProjectLimits(ProjectLimit(max_points=10), {"vision/big": ProjectLimit(max_points=6)})
    config = ServerConfig(tmp_path, port=0, project_limits=limits)
    with BackgroundServer(config) as server:
        http = Http(server.url)

        def send(project: str, points: int, sequence: int, task: str = "a") -> str:
            frame = frame_of(
                {LOSS: rows_of([1.0] * points)}, [in_project(project)], task_id=task * 32, sequence=sequence
            )
            answer = http.post(frame)
            assert answer.status == 200
            (item,) = answer.json["frames"]
            if item["result"] == "rejected":
                assert "is full" in item["reason"] and "limit of" in item["reason"]
            return str(item["result"])

        assert send("vision", 8, 0) == "stored"
        # below it counts to it, whatever the task
        assert send("vision/cars", 3, 1, "b") == "rejected"
        assert send("vision/cars", 2, 2, "b") == "stored"
        assert send("vision", 1, 3) == "rejected"
        # what is known stays known, what has no points still fits, and others have room
        assert send("vision", 8, 0) == "duplicate"
        assert send("vision", 0, 4) == "stored"
        assert send("speech", 10, 5, "c") == "stored"
        # a limit of its own does not lift the one above it
        assert send("vision/big", 1, 6, "d") == "rejected"
        assert http.get("/tasks")["total"] == 3
    # and it holds after a restart, over what the store has
    with BackgroundServer(config) as server:
        again = frame_of({LOSS: rows_of([1.0])}, task_id="a" * 32, sequence=9)
        assert Http(server.url).post(again).results == ["rejected"]
    with BackgroundServer(config_of(tmp_path)) as server:
        assert Http(server.url).post(again).results == ["stored"]


def test_bytes_are_limited_as_they_came(tmp_path: Path) -> None:
    frame = frame_of({LOSS: rows_of([1.0])}, [in_project("p")])
    limits = ProjectLimits(ProjectLimit(max_bytes=2 * len(frame)))
    with BackgroundServer(ServerConfig(tmp_path, port=0, project_limits=limits)) as server:
        frames = [frame_of({LOSS: rows_of([1.0])}, [in_project("p")], sequence=number) for number in range(3)]
        # in one group, and each by itself
        assert Http(server.url).post(*frames).results == ["stored", "stored", "rejected"]
        assert Http(server.url).post(frames[2]).results == ["rejected"]


def test_limits_are_read_from_the_servers_file(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    assert not read_project_limits(path)
    path.write_text('[limits]\nmax_points = 5\n[limits.project."vision/cars"]\nmax_bytes = 7\n')
    limits = read_project_limits(path)
    assert limits == ProjectLimits(ProjectLimit(5, None), {"vision/cars": ProjectLimit(None, 7)})
    assert limits.with_default(None, 9).default == ProjectLimit(5, 9)
    assert ServerConfig.from_environment(tmp_path).project_limits == limits


@pytest.mark.parametrize(
    "text",
    [
        "[limit]\n",
        "[limits]\nmax_point = 1\n",
        "[limits]\nmax_points = -1\n",
        "[limits]\nmax_points = true\n",
        "[limits]\nproject = 3\n",
        "[limits.project.a]\nmax_bytes = '1 GB'\n",
        "limits = 3\n",
        "[",
    ],
)
def test_a_file_that_nobody_understands_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "server.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"server\.toml"):
        read_project_limits(path)
