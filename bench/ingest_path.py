"""What does a small frame cost the server on its way from the socket to the store and back, the store left out?

`python bench/ingest_path.py serve DIRECTORY CASE` is the process that serves.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Benchmark, Column, Metrics, Scale, Target, Work, child_main, median

if TYPE_CHECKING:
    from telemetry.server.store import FrameContent, Written
    from telemetry.wire import Frame

_SERIES = 20
_POINTS_PER_SERIES = 5
_TIME_NS = 1_700_000_000_000_000_000
_REQUESTS_PER_S = 1000
# Connections that are opened, or answered the first time, at once.
_AT_ONCE = 50
# A header as our http sink's session sends it.
_HEADER = (
    "POST /api/v1/frames HTTP/1.1\r\nHost: {host}\r\nX-Telemetry-Sent: 1700000000000000000\r\n"
    "Content-Type: application/vnd.telemetry.frames\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
    "User-Agent: telemetry\r\nContent-Length: {length}\r\n\r\n"
)


def measure(case: str, scale: Scale) -> Metrics:
    """Return CPU time a request, by the kernel's count of each thread; in "stages" that of each step by itself."""
    writers = scale.pick(1000, 100)
    frames = _frames(writers, scale.pick(10, 3))
    if case == "stages":
        return _stages([row[0] for row in frames])
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, __file__, "serve", folder, case], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError("the server did not start")
            # The server has the first core for itself.
            _stay_on(1)
            return asyncio.run(_drive(url, process.pid, frames))
        finally:
            process.terminate()
            process.wait()


def _frames(writers: int, count: int) -> list[list[Frame]]:
    """Return `count` frames of each writer: a second of 20 series at 5 Hz, random values."""
    from telemetry.events import Batch, RecordChange, ScalarColumns, SeriesKey
    from telemetry.wire import encode

    rows = _SERIES * _POINTS_PER_SERIES
    work = Work(10_000)
    keys = [SeriesKey("scalar", ("train", "validation")[k % 2], f"metric {k:02}") for k in range(_SERIES)]
    frames = []
    for writer in range(writers):
        of_writer = []
        for sequence in range(count):
            first = sequence * _POINTS_PER_SERIES
            offset = (writer * 7919 + sequence * 101) % (work.scalars - rows)
            columns = ScalarColumns(
                keys,
                array("I", [row % _SERIES for row in range(rows)]),
                array("q", [first + row // _SERIES for row in range(rows)]),
                array("q", [_TIME_NS + (first + row // _SERIES) * 200_000_000 + row * 1700 for row in range(rows)]),
                array("d", work.values[offset : offset + rows]),
            )
            events = [RecordChange(_TIME_NS, "task", "project", "bench")] if sequence == 0 else []
            batch = Batch(f"{writer:032x}", columns, events, rows + len(events))
            of_writer.append(encode(batch, writer_id=writer.to_bytes(16, "big"), sequence=sequence))
        frames.append(of_writer)
    return frames


# -- the side that sends


class _Sender(asyncio.Protocol):
    """One connection: a request, its answer, the next one."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        header, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) >= int(header.lower().partition(b"content-length:")[2].split(b"\r\n")[0]):
            self._received = b""
            assert self._answer is not None
            self._answer.set_result(header + end + body)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server ended the connection"))

    async def ask(self, request: bytes) -> float:
        """Return how long the answer took, in seconds."""
        begin = time.perf_counter()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        answer = await self._answer
        if not answer.startswith(b"HTTP/1.1 200") or b'"stored"' not in answer:
            raise RuntimeError(f"the server answered {answer[:500]!r}")
        return time.perf_counter() - begin


async def _drive(url: str, pid: int, frames: Sequence[Sequence[Frame]]) -> Metrics:
    """Send all at 1,000 requests/s, evenly; then measure what the server has used for it."""
    host = url.removeprefix("http://")
    name, _, port = host.partition(":")
    loop = asyncio.get_running_loop()
    senders: list[_Sender] = []
    requests = [[_HEADER.format(host=host, length=len(frame)).encode() + frame.data for frame in row] for row in frames]
    for begin in range(0, len(requests), _AT_ONCE):
        some = range(begin, min(len(requests), begin + _AT_ONCE))
        senders += [(await loop.create_connection(_Sender, name, int(port)))[1] for _ in some]
        # The first frame of each is not measured: the store learns of its writer.
        await asyncio.gather(*(senders[k].ask(requests[k][0]) for k in some))
    interval_s = 1 / _REQUESTS_PER_S
    begin_s = time.perf_counter()

    async def send(k: int) -> list[float]:
        seconds = []
        for n, request in enumerate(requests[k][1:]):
            due_s = begin_s + (n * len(requests) + k) * interval_s
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            seconds.append(await senders[k].ask(request))
        return seconds

    before_ns = _thread_cpu_ns(pid)
    taken = sorted(seconds for each in await asyncio.gather(*map(send, range(len(senders)))) for seconds in each)
    used_ns = {thread: now - before_ns.get(thread, 0) for thread, now in _thread_cpu_ns(pid).items()}
    count = len(taken)
    return {
        "rate": count / (time.perf_counter() - begin_s),
        "request_us": sum(used_ns.values()) / count / 1e3,
        # The process's first thread has its number.
        "loop_us": used_ns[pid] / count / 1e3,
        "others_us": (sum(used_ns.values()) - used_ns[pid]) / count / 1e3,
        "p50_ms": taken[count // 2] * 1e3,
        "p99_ms": taken[int(count * 0.99)] * 1e3,
    }


def _thread_cpu_ns(pid: int) -> dict[int, int]:
    folder = Path(f"/proc/{pid}/task")
    return {int(path.name): int((path / "schedstat").read_text().split()[0]) for path in folder.iterdir()}


def _stay_on(core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[min(core, len(cores) - 1)]})


# -- each step by itself


def _stages(frames: Sequence[Frame]) -> Metrics:
    import orjson

    from telemetry.payload import SeriesTables
    from telemetry.server.store import prepare
    from telemetry.wire import decode, parse_frame

    tables = SeriesTables(2**24)
    batches = [decode(frame, tables) for frame in frames]
    receipt = {
        "frames": [{"writer": "0" * 32, "sequence": 1, "result": "stored"}],
        "store": "0" * 32,
        "writers": {"0" * 32: [(0, 1)]},
    }
    return {
        "parse_us": _each_us(lambda n: parse_frame(frames[n].data), len(frames)),
        "first_decode_us": _each_us(lambda n: decode(frames[n]), len(frames)),
        "decode_us": _each_us(lambda n: decode(frames[n], tables), len(frames)),
        "prepare_us": _each_us(lambda n: prepare(frames[n], batches[n]), len(frames)),
        "receipt_us": _each_us(lambda n: orjson.dumps(receipt), len(frames)),
    }


def _each_us(step: Callable[[int], object], count: int) -> float:
    taken = []
    for _ in range(15):
        begin = time.perf_counter()
        for n in range(count):
            step(n)
        taken.append((time.perf_counter() - begin) / count * 1e6)
    return median(taken)


# -- the side that serves


def _serve(directory: Path, case: str) -> None:
    _stay_on(0)
    if case == "floor":
        # The loop that our server runs on.
        import uvloop

        uvloop.run(_serve_floor())
        return
    from telemetry.server import app
    from telemetry.server.config import ServerConfig
    from telemetry.server.store import Store

    app.Store = Store if case == "store" else _void_store()  # type: ignore[misc]
    app.run_server(ServerConfig(directory, port=0), on_ready=lambda url: print(url, flush=True))


def _void_store() -> Any:
    """Return a store that knows which frames it was given, and keeps nothing of them."""
    from telemetry.server.store import Store, Written

    class VoidStore(Store):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._taken: dict[bytes, int] = {}

        def has_frame(self, writer_id: bytes, sequence: int) -> bool:
            return sequence <= self._taken.get(writer_id, -1)

        def held_frames(self, writer_id: bytes) -> list[tuple[int, int]]:
            return [(0, self._taken[writer_id])]

        def write(self, contents: Sequence[FrameContent]) -> Written:
            self._taken.update((content.writer_id, content.sequence) for content in contents)
            return Written([True] * len(contents), {})

    return VoidStore


async def _serve_floor() -> None:
    """Serve with aiohttp alone: read the body, answer the same each time."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b'{"frames": [{"result": "stored"}]}', content_type="application/json")

    application = web.Application()
    application.router.add_post("/api/v1/frames", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


BENCHMARK = Benchmark(
    name="ingest_path",
    question="What does a small frame cost the server on its way from the socket to the store and back?",
    topology=(
        "1,000 connections, each with a frame of 100 points (20 series, 5 points, 1.2 kB) a second for 9 s, evenly, "
        "encoded before the clock starts; CPU time by the kernel, of the server's event loop and of its other threads; "
        "floor = aiohttp alone; void = our server, whose store keeps nothing; store = our server; stages = each step "
        "by itself in a loop; the server has one core and the senders another, where there are two"
    ),
    unfair=(
        "at 1,000 requests a second a server with nothing else to do sleeps and wakes for nearly each, which costs "
        "more than the same work in a row: the floor shows how much; stages are warmer than they are in the server"
    ),
    cases=("floor", "void", "store", "stages"),
    measure=measure,
    columns=(
        Column("rate", "requests/s", ",.0f"),
        Column("request_us", "CPU us/request", ".0f"),
        Column("loop_us", "event loop", ".0f"),
        Column("others_us", "other threads", ".0f"),
        Column("p50_ms", "p50 ms", ".1f"),
        Column("p99_ms", "p99 ms", ".1f"),
        Column("parse_us", "parse us", ".1f"),
        Column("first_decode_us", "first decode", ".1f"),
        Column("decode_us", "decode", ".1f"),
        Column("prepare_us", "prepare", ".1f"),
        Column("receipt_us", "receipt", ".1f"),
    ),
    targets=(Target("request_us", "<=", 300, "outside the store at most 300 us a request", ("void",)),),
)


def main() -> int:
    """Measure one case and print it, or serve."""
    if sys.argv[1:2] == ["serve"]:
        _serve(Path(sys.argv[2]), sys.argv[3])
        return 0
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
