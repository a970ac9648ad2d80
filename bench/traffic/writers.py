"""Writers: what sends frames as the http sink does, each on a kept connection with one request at a time.

`post_all` sends as fast as it is answered, `pace` at the times that the frames carry. A `Fleet` is `pace` in
processes of their own, so that a server that is pinned to one core, and not its senders, is the limit.
Loopback only. `python bench/traffic/writers.py FIRST EVERY` is such a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))
from traffic.frames import Flush, Shape, flushes

__all__ = ["Fleet", "Sent", "fleet", "pace", "post_all"]

_AGAIN_AFTER_S = 1.0
_DRAIN_TIMEOUT_S = 120.0


@dataclass
class Sent:
    """What writers counted.

    Attributes:
        points: that the server has answered for, of each run.
        requests, refused, cut: all, those answered 503, and those whose connection ended before an answer.
        late_ms: of each frame due in the measured window, from when it was to be sent (due, or later where the server
            asked for a pace) until it was answered; of one that waits at its end, until then.
        due_points, answered_points: of the frames due in the window, and of those answered within it.
    """

    points: dict[int, int] = field(default_factory=dict)
    requests: int = 0
    refused: int = 0
    cut: int = 0
    late_ms: list[float] = field(default_factory=list)
    due_points: int = 0
    answered_points: int = 0

    def add(self, other: Sent) -> None:
        """Take the counts of other writers in."""
        self.points |= other.points
        self.requests += other.requests
        self.refused += other.refused
        self.cut += other.cut
        self.late_ms += other.late_ms
        self.due_points += other.due_points
        self.answered_points += other.answered_points


class _Connection:
    """The http sink's side of a connection: kept, opened when there is something to send, and again when it is cut."""

    def __init__(self, url: str, sent: Sent) -> None:
        from telemetry.wire import CONTENT_TYPE

        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        self._head = (
            f"POST /api/v1/frames HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
            f"User-Agent: bench\r\nContent-Type: {CONTENT_TYPE}\r\n"
        )
        self._sent = sent
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        # As the server asked for in its last answer.
        self.pace_s = 0.0

    async def post(self, body: bytes) -> None:
        """Post frames until they are committed: what is refused for now or cut off is sent again, as the sink does.

        Raises:
            RuntimeError: an answer that would be the same each time.
        """
        while True:
            self._sent.requests += 1
            try:
                status, headers, answer = await self._exchange(body)
            except (OSError, asyncio.IncompleteReadError):
                self._sent.cut += 1
                self.close()
                await asyncio.sleep(_AGAIN_AFTER_S)
                continue
            if status == 503:
                self._sent.refused += 1
                await asyncio.sleep(float(headers.get("retry-after", _AGAIN_AFTER_S)))
                continue
            if status != 200:
                raise RuntimeError(f"the server answered {status}: {answer[:300]!r}")
            receipt = json.loads(answer)
            self.pace_s = receipt.get("pace_s", 0.0)
            for item in receipt["frames"]:
                # A duplicate is one whose commit was not answered before.
                if item["result"] not in ("stored", "duplicate"):
                    raise RuntimeError(f"the server did not store {item}")
            return

    async def _exchange(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        from telemetry.wire import SENT_HEADER

        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        head = f"{self._head}{SENT_HEADER}: {time.time_ns()}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        answer = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return int(first.split()[1]), headers, answer

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def post_all(url: str, streams: Sequence[Iterable[Flush]]) -> Sent:
    """Send each stream on a connection of its own, a frame a request, the next as soon as one is answered."""
    sent = Sent()

    async def write(run: int, stream: Iterable[Flush]) -> None:
        connection = _Connection(url, sent)
        sent.points[run] = 0
        for flush in stream:
            await connection.post(flush.data)
            sent.points[run] += flush.points
        connection.close()

    await asyncio.gather(*(write(run, stream) for run, stream in enumerate(streams)))
    return sent


async def pace(
    url: str, streams: Mapping[int, Sequence[Flush]], *, window_s: tuple[float, float], speed: float = 1
) -> Sent:
    """Send the stream of each run at its frames' times until the window ends, and wait for what is on its way.

    What falls due while a request is on its way goes together in the next, as in the client.

    Args:
        window_s: from when until when what becomes of a frame is counted, from the start.
        speed: so many times as fast as the frames say.
    """
    sent = Sent()
    begin_s = asyncio.get_running_loop().time()
    async with asyncio.timeout(window_s[1] + _DRAIN_TIMEOUT_S):
        await asyncio.gather(
            *(
                _write_paced(_Connection(url, sent), run, _timed(stream, speed, window_s), sent, begin_s, window_s)
                for run, stream in streams.items()
            )
        )
    return sent


def _timed(stream: Sequence[Flush], speed: float, window_s: tuple[float, float]) -> list[tuple[float, Flush]]:
    return [(flush.due_s / speed, flush) for flush in stream if flush.due_s / speed < window_s[1]]


async def _write_paced(
    connection: _Connection,
    run: int,
    waiting: list[tuple[float, Flush]],
    sent: Sent,
    begin_s: float,
    window_s: tuple[float, float],
) -> None:
    """Send one run's frames; what waits when the window ends is not sent, but counted as late."""
    from telemetry.lane import WRITE_FRAMES

    clock = asyncio.get_running_loop().time
    first_s, last_s = window_s
    at, sent.points[run], wrote_s = 0, 0, -float("inf")
    measured = [(due_s, flush) for due_s, flush in waiting if due_s >= first_s]
    sent.due_points += sum(flush.points for _, flush in measured)
    while at < len(waiting) and (now_s := clock() - begin_s) < last_s:
        # When the sink sends them: with a server that asks for a pace frames gather until then.
        send_s = max(waiting[at][0], wrote_s + connection.pace_s)
        if send_s > now_s:
            await asyncio.sleep(min(send_s, last_s) - now_s)
            continue
        wrote_s = now_s
        end = at
        while end < len(waiting) and end - at < WRITE_FRAMES and waiting[end][0] <= now_s:
            end += 1
        await connection.post(b"".join(flush.data for _, flush in waiting[at:end]))
        answered_s = clock() - begin_s
        for due_s, flush in waiting[at:end]:
            sent.points[run] += flush.points
            if due_s >= first_s:
                sent.late_ms.append((answered_s - max(due_s, send_s)) * 1e3)
                sent.answered_points += flush.points if answered_s <= last_s else 0
        at = end
    left = [max(due_s, wrote_s + connection.pace_s) for due_s, _ in waiting[at:] if due_s >= first_s]
    sent.late_ms += [(last_s - send_s) * 1e3 for send_s in left if send_s < last_s]
    connection.close()


class Fleet:
    """Processes of writers; each has its share of the runs."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]], shape: Shape) -> None:
        self._processes = processes
        self._shape = shape

    def make(self, runs: int, seconds: float) -> None:
        """Make the frames of so many seconds of these runs; those that are there already stay."""
        steps = int(seconds / self._shape.gap_s)
        self._tell({"make": runs, "shape": asdict(self._shape) | {"steps": steps, "runs": runs}})
        for process in self._processes:
            self._hear(process)

    def begin(self, url: str, runs: int, window_s: tuple[float, float], speed: float = 1) -> None:
        """Let the runs begin; `end` waits for them."""
        self._tell({"url": url, "runs": runs, "window_s": window_s, "speed": speed})

    def end(self) -> Sent:
        """Wait for the window's end; return what all writers counted."""
        total = Sent()
        for process in self._processes:
            counted = self._hear(process)
            total.add(Sent(**counted | {"points": {int(run): n for run, n in counted["points"].items()}}))
        return total

    def _tell(self, what: dict[str, Any]) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(what) + "\n")
            process.stdin.flush()

    def _hear(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of writers ended with {process.wait()}")
        heard: dict[str, Any] = json.loads(line)
        return heard


@contextlib.contextmanager
def fleet(shape: Shape, processes: int) -> Iterator[Fleet]:
    """Run processes of writers for the block's length; how many runs of the shape, and how long, is told later."""
    started: list[subprocess.Popen[str]] = []
    try:
        for number in range(processes):
            command = [sys.executable, __file__, str(number), str(processes)]
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        yield Fleet(started, shape)
    finally:
        for process in started:
            process.kill()
            process.wait()


def _serve(first: int, every: int) -> None:
    """Do what the lines of standard input say, for the runs first, first + every, ...; say a line after each."""
    made: dict[int, list[Flush]] = {}
    for line in sys.stdin:
        told = json.loads(line)
        if "make" in told:
            for run in range(first, told["make"], every):
                if run not in made:
                    made[run] = list(flushes(Shape(**told["shape"]), run))
            answer: dict[str, Any] = {"made": len(made)}
        else:
            streams = {run: made[run] for run in range(first, told["runs"], every)}
            window_s = (told["window_s"][0], told["window_s"][1])
            answer = asdict(asyncio.run(pace(told["url"], streams, window_s=window_s, speed=told["speed"])))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
