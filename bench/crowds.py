"""Crowds, each in a process of its own: viewers of a live page, and connections that say too little.

Loopback only. `python bench/crowds.py viewers URL COUNT PATH` reads live streams, `mute` opens them and never
reads, `strangers` keeps connections open that send nothing, half a header or half a body, and comes again when it is
cut off.
Each prints a line when all are there, and a line of JSON when its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Crowd", "crowd"]

_GATHER_TIMEOUT_S = 30.0
# Who was cut off comes again, but not in a storm: that is another attack, of which the kernel has the larger part.
_AGAIN_AFTER_S = 1.0
_OPENING_AT_ONCE = 100
_SAYINGS = (
    b"",
    b"GET /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nX-Half: ",
    b"POST /api/v1/frames HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/vnd.telemetry.frames\r\n"
    b"Content-Length: 1000000\r\n\r\nhalf a body",
)


class Crowd:
    """A crowd at work. `end()` sends it home and returns what it counted."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def end(self) -> dict[str, Any]:
        """End it; return its counts."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        counted: dict[str, Any] = json.loads(self._process.stdout.readline())
        self._process.wait()
        return counted


@contextlib.contextmanager
def crowd(kind: str, url: str, count: int, path: str = "/") -> Iterator[Crowd]:
    """Run a crowd for the length of the block; it is complete when the block begins."""
    command = [sys.executable, __file__, kind, url, str(count), path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the crowd of {count} {kind} did not gather")
        yield Crowd(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


class _Counts:
    def __init__(self) -> None:
        self.there = self.opened = self.cut = self.refused = self.bytes = self.events = 0


async def _viewer(url: str, path: str, counts: _Counts, *, reads: bool) -> None:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise RuntimeError(f"the server answered {head[:100]!r}")
    counts.there += 1
    if not reads:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()
    while data := await reader.read(1 << 18):
        counts.bytes += len(data)
        counts.events += data.count(b"event: points")
    counts.cut += 1


async def _stranger(url: str, number: int, counts: _Counts, opening: asyncio.Semaphore) -> None:
    parts = urlsplit(url)
    first = True
    while True:
        try:
            async with opening:
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            counts.opened += 1
            writer.write(_SAYINGS[number % len(_SAYINGS)])
            counts.there += first
            first = False
            while await reader.read(1 << 16):
                continue
            writer.close()
        except OSError:
            counts.refused += 1
        counts.cut += 1
        await asyncio.sleep(_AGAIN_AFTER_S)


async def _gather(kind: str, url: str, count: int, path: str) -> None:
    counts, opening = _Counts(), asyncio.Semaphore(_OPENING_AT_ONCE)
    if kind == "strangers":
        people = [asyncio.create_task(_stranger(url, number, counts, opening)) for number in range(count)]
    else:
        people = [asyncio.create_task(_viewer(url, path, counts, reads=kind == "viewers")) for _ in range(count)]
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _GATHER_TIMEOUT_S
    while counts.there < count:
        for one in people:
            if one.done():
                one.result()
        if loop.time() > deadline:
            if kind != "strangers":
                raise RuntimeError(f"only {counts.there} of {count} are there")
            # A server that is out of descriptors leaves the others at its door, where they are in the way as well.
            break
        await asyncio.sleep(0.05)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for one in people:
        one.cancel()
    await asyncio.gather(*people, return_exceptions=True)
    print(json.dumps(vars(counts)), flush=True)


if __name__ == "__main__":
    asyncio.run(_gather(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
