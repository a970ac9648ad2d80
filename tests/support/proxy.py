"""A proxy between sink and server that does what bad networks do, by a seeded plan.

It speaks just enough HTTP/1.1 to know where a request and an answer end. Each request draws one `Fault` from the
plan; every draw is counted in `seen`, so a test can say that the faults it is about did happen.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

__all__ = ["Fault", "FaultyProxy", "at_random", "scripted"]


class Fault(StrEnum):
    """What happens to one request."""

    NONE = "none"
    CUT_BEFORE = "cut_before"  # the connection ends before anything is passed on
    CUT_REQUEST = "cut_request"  # in the middle of the request; the server sees the first half
    CUT_ANSWER = "cut_answer"  # the server has committed, its answer never arrives
    CUT_IN_ANSWER = "cut_in_answer"  # half of the answer arrives
    DELAY = "delay"  # the request arrives late
    DUPLICATE = "duplicate"  # the server gets the request twice
    HOLD_BACK = "hold_back"  # the sender sees a cut; the request arrives after a later one
    CORRUPT_REQUEST = "corrupt_request"  # one byte of the body is another
    CORRUPT_ANSWER = "corrupt_answer"  # one byte of the answer's body is another
    ERROR_500 = "error_500"
    ERROR_503 = "error_503"  # with Retry-After


Plan = Iterator[Fault]


def at_random(seed: int, *, share: float, faults: Sequence[Fault] = tuple(Fault)[1:]) -> Plan:
    """Yield a fault for `share` of all requests, each of `faults` as often as the others."""
    random_ = random.Random(seed)
    while True:
        yield random_.choice(faults) if random_.random() < share else Fault.NONE


def scripted(*faults: Fault) -> Plan:
    """Yield these, then none for ever."""
    yield from faults
    while True:
        yield Fault.NONE


@dataclass(slots=True)
class _Message:
    """A request or an answer as it was read: the head with its empty line, and the body."""

    head: bytes
    body: bytes

    @property
    def data(self) -> bytes:
        return self.head + self.body

    def corrupted(self, random_: random.Random) -> bytes:
        if not self.body:
            return self.data
        at = random_.randrange(len(self.body))
        wrong = self.body[at] ^ random_.randrange(1, 256)
        return self.head + self.body[:at] + bytes([wrong]) + self.body[at + 1 :]


@dataclass
class FaultyProxy:
    """Listens on loopback while its block is open: `with FaultyProxy(server.url, plan) as proxy`.

    Attributes:
        target: the server's address, or a function that returns it: a server that restarts gets a new port.
        seen: how often each fault happened.
        answered_at_s: monotonic seconds at which each request was done with.
        url: where to send to.
        delay_s: of Fault.DELAY.
        retry_after_s: of Fault.ERROR_503, in whole seconds.
    """

    target: str | Callable[[], str]
    plan: Plan
    seed: int = 0
    delay_s: float = 0.02
    retry_after_s: int = 0
    url: str = ""
    seen: Counter[Fault] = field(default_factory=Counter)
    answered_at_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._held: list[bytes] = []
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="faulty-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None and self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def faults(self) -> int:
        """How many requests met a fault."""
        return self.seen.total() - self.seen[Fault.NONE]

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=1 << 20)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read_message(reader)) is not None:
                fault = next(self.plan)
                answer = await self._pass_on(request, fault)
                self.answered_at_s.append(time.monotonic())
                if answer is not None:
                    writer.write(answer)
                    await writer.drain()
                if answer is None or fault is Fault.CUT_IN_ANSWER:
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # either side went away: a cut like any other
        finally:
            # Not abort(): half an answer must still arrive.
            writer.close()

    async def _pass_on(self, request: _Message, fault: Fault) -> bytes | None:
        """Do what the fault says; return what the sender gets, None for a cut."""
        self.seen[fault] += 1
        if fault is Fault.CUT_BEFORE:
            return None
        if fault is Fault.CUT_REQUEST:
            await self._ask(request.data[: len(request.data) // 2], half=True)
            return None
        if fault is Fault.HOLD_BACK:
            self._held.append(request.data)
            return None
        if fault in (Fault.ERROR_500, Fault.ERROR_503):
            return self._refusal(fault)
        if fault is Fault.DELAY:
            await asyncio.sleep(self.delay_s)
        data = request.corrupted(self._random) if fault is Fault.CORRUPT_REQUEST else request.data
        answer = await self._ask(data)
        if fault is Fault.DUPLICATE:
            answer = await self._ask(data)
        held, self._held = self._held, []
        for late in held:
            await self._ask(late)
        if answer is None or fault is Fault.CUT_ANSWER:
            return None
        if fault is Fault.CUT_IN_ANSWER:
            return answer.data[: len(answer.data) // 2]
        return answer.corrupted(self._random) if fault is Fault.CORRUPT_ANSWER else answer.data

    def _refusal(self, fault: Fault) -> bytes:
        number = b"500 Oops" if fault is Fault.ERROR_500 else b"503 Busy"
        retry = b"Retry-After: %d\r\n" % self.retry_after_s if fault is Fault.ERROR_503 else b""
        return b"HTTP/1.1 %b\r\n%bContent-Length: 4\r\n\r\noops" % (number, retry)

    async def _ask(self, data: bytes, *, half: bool = False) -> _Message | None:
        """Send bytes to the server on a connection of their own; return its answer, None if there is none."""
        parts = urlsplit(self.target if isinstance(self.target, str) else self.target())
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
        except OSError:
            return None
        try:
            writer.write(data)
            await writer.drain()
            return None if half else await _read_message(reader)
        except (OSError, asyncio.IncompleteReadError):
            return None
        finally:
            writer.transport.abort()


async def _read_message(reader: asyncio.StreamReader) -> _Message | None:
    """Return the next request or answer; None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    size = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            size = int(value)
    return _Message(head, await reader.readexactly(size))
