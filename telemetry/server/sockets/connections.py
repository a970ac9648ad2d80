"""Connections before there is a request: how many may be open, how long each may take, and who goes first.

A connection is a newcomer until the guard has let a request of it in, by a token where there are any; from then on
it is trusted. Newcomers have only a part of the places, so that those who have a token find one. Who comes when
that part is full takes the place of the newcomer that has waited longest: it is cheap to open a connection and say
nothing, and a client that means it has said something by then.

aiohttp's handler stands behind each connection and does not know of this.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import cast

from aiohttp import StreamReader, web
from aiohttp.typedefs import Handler

from telemetry.network.credentials import is_loopback
from telemetry.server.config import ConnectionLimits
from telemetry.server.sockets.descriptors import descriptor_limit

__all__ = ["Connection", "Connections", "EndReason", "note_request", "places", "trust"]

log = logging.getLogger("telemetry.server")

# A deadline is kept to within this.
_SWEEP_S = 1.0
# A flood is one line a minute.
_SAY_EVERY_S = 60.0
# No answer is read at less than this; 30 s of it is what a telephone loses in a tunnel.
_MIN_READ_BYTES_PER_S = 1024
# So many go at once where the process is out of descriptors: others than ours need some as well.
_CUT_AT_ONCE = 16
# struct linger: on, for 0 s; two shorts on Windows.
_NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class EndReason(StrEnum):
    """Why a connection was ended, or not taken."""

    # Too many, or out of descriptors: an operator wants to know.
    FULL = "made room for others"
    REFUSED = "turned away, as all places are in use"
    ADDRESS = "more than one address may have"
    # Late: browsers that open connections in advance, sleeping laptops and port scanners are, every day.
    HEADER = "sent no whole header in time"
    BODY = "sent no whole body in time"
    SLOW = "did not read the answer"


_PRESSURE = (EndReason.FULL, EndReason.REFUSED, EndReason.ADDRESS)


def places(limits: ConnectionLimits) -> tuple[int, int, int | None]:
    """Return how many connections there may be: in all, newcomers, and of one address (None: as many as there are).

    Of the descriptors a quarter is left for the store, blobs and downloads.
    """
    total = limits.max_total
    descriptors = descriptor_limit()
    if descriptors is not None:
        total = min(total, max(8, descriptors - max(64, descriptors // 4)))
    return total, min(limits.max_newcomers, max(1, total // 2)), limits.max_per_address


class Connection(asyncio.Protocol):
    """One connection: what it waits for, in front of aiohttp's handler, which gets all that comes.

    Args:
        handler: aiohttp's, made for this connection.
        host: the other side's address.
    """

    def __init__(self, handler: asyncio.Protocol, connections: Connections, host: str) -> None:
        self.address = _network_of(host)
        self.is_trusted = False
        self._handler = handler
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._request: web.Request | None = None
        # Of the latest request.
        self._body: StreamReader | None = None
        # Bytes have come, and no request has been made of them yet.
        self._asks = False
        self._since_s = connections.now_s
        # Where writing is paused: since when, and how much was unsent then.
        self._stuck_since_s: float | None = None
        self._stuck_bytes = 0

    @property
    def is_waiting(self) -> bool:
        """Whether no request is under way and no answer is being sent: it may go without harm."""
        return self._request is None and self._stuck_since_s is None

    @property
    def unsent_bytes(self) -> int:
        """What was answered and the other side has not taken yet, as far as it lies in our memory."""
        return 0 if self._transport is None or self._stuck_since_s is None else self._transport.get_write_buffer_size()

    @property
    def stuck_since_s(self) -> float | None:
        """Since when the other side has taken next to nothing; None where it takes what comes."""
        return self._stuck_since_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand it to the handler."""
        # uvloop's transports are none by their class.
        self._transport = cast(asyncio.Transport, transport)
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Begin to wait for a whole header, if this is the beginning of one."""
        if self._request is None and not self._asks:
            self._asks = True
            # A newcomer's time runs from its arrival.
            if self.is_trusted:
                self._since_s = self._connections.now_s
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        """Hand it on."""
        return self._handler.eof_received()

    def pause_writing(self) -> None:
        """Begin to watch how fast the other side reads."""
        assert self._transport is not None
        self._stuck_since_s = self._connections.now_s
        self._stuck_bytes = self._transport.get_write_buffer_size()
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """End that; a sign of life as well."""
        self._stuck_since_s = None
        self._since_s = self._connections.now_s
        self._handler.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """Give the place back."""
        self._connections.remove(self)
        self._handler.connection_lost(error)
        self._transport = None
        if self._request is None and self._body is not None and not self._body.is_eof():
            # The handler waits for the rest of a body that was refused, up to 10 s, also for one that cannot come.
            self._body.feed_eof()

    def begin(self, request: web.Request) -> None:
        """Note that a request's header is whole."""
        self._request, self._body = request, request.content
        self._asks, self._since_s = False, self._connections.now_s

    def finish(self) -> None:
        """Note that the request's handler is done."""
        self._request, self._since_s = None, self._connections.now_s

    def trust(self) -> None:
        """Count it among those who were let in."""
        if not self.is_trusted:
            self.is_trusted = True
            self._connections.move(self)

    def lateness(self, now_s: float, limits: ConnectionLimits) -> EndReason | None:
        """Return what it is late with, if it is."""
        if self._is_stuck(now_s, limits.read_timeout_s):
            return EndReason.SLOW
        waited_s = now_s - self._since_s
        if self._request is not None:
            return EndReason.BODY if waited_s > limits.body_timeout_s and not self._request.content.is_eof() else None
        if self._stuck_since_s is not None:
            return None
        # Idle ones that were let in are the handler's: it knows when the last answer was sent to its end.
        if self._asks or not self.is_trusted:
            return EndReason.HEADER if waited_s > limits.header_timeout_s else None
        return None

    def _is_stuck(self, now_s: float, timeout_s: float) -> bool:
        if self._stuck_since_s is None or self._transport is None:
            return False
        unsent = self._transport.get_write_buffer_size()
        # More may have been written meanwhile.
        self._stuck_bytes = max(self._stuck_bytes, unsent)
        if self._stuck_bytes - unsent >= _MIN_READ_BYTES_PER_S * timeout_s:
            self._stuck_since_s, self._stuck_bytes = now_s, unsent
        return now_s - self._stuck_since_s > timeout_s

    def end(self, *, at_once: bool) -> None:
        """Close it; `at_once` throws away what was not sent yet, also what the kernel has of it."""
        if self._transport is None:
            return
        if not at_once:
            self._transport.close()
            return
        # Without this the kernel would go on to offer its megabytes to somebody who does not read.
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()


class Connections:
    """All connections of a server, each with its place. Lives on the event loop; every method is called there.

    Attributes:
        now_s: seconds, by a clock that stands while the loop does: a server that hung must not cut off those who
            waited for it.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.now_s = 0.0
        self._limits = limits
        self._max_total, self._max_newcomers, self._max_per_address = places(limits)
        # In the order of their coming.
        self._newcomers: dict[Connection, None] = {}
        self._trusted: dict[Connection, None] = {}
        self._of_address: Counter[str] = Counter()
        self._ended: Counter[EndReason] = Counter()
        self._says_again_s = 0.0
        self._out_of_descriptors = ""

    def __len__(self) -> int:
        return len(self._newcomers) + len(self._trusted)

    def __iter__(self) -> Iterator[Connection]:
        yield from [*self._newcomers, *self._trusted]

    def admit(self, host: str) -> bool:
        """Make room for one more connection from `host`; False if there is none."""
        return (
            self._has_room_for(host)
            and (len(self._newcomers) < self._max_newcomers or self._end_first(self._newcomers))
            and (len(self) < self._max_total or self._end_first(self._newcomers) or self._end_first(self._trusted))
        ) or self._refuse()

    def _has_room_for(self, host: str) -> bool:
        most = self._max_per_address
        if most is None:
            # Behind a reverse proxy of this machine are all who come, and so are a machine's own 64 ranks.
            if is_loopback(host):
                return True
            most = max(1, self._max_total // 2)
        address = _network_of(host)
        if self._of_address[address] < most:
            return True
        theirs = [one for one in self if one.address == address]
        return self._end_first(theirs, EndReason.ADDRESS)

    def _refuse(self) -> bool:
        self._ended[EndReason.REFUSED] += 1
        return False

    def _end_first(self, connections: Iterable[Connection], why: EndReason = EndReason.FULL) -> bool:
        """End the first that waits; False if none does."""
        first = next((one for one in connections if one.is_waiting), None)
        if first is None:
            return False
        self._end(first, why)
        return True

    def add(self, connection: Connection) -> None:
        """Give a newcomer its place."""
        self._newcomers[connection] = None
        self._of_address[connection.address] += 1

    def remove(self, connection: Connection) -> None:
        """Take the place back; again does no harm."""
        if connection not in self._newcomers and connection not in self._trusted:
            return
        self._newcomers.pop(connection, None)
        self._trusted.pop(connection, None)
        self._of_address[connection.address] -= 1
        if not self._of_address[connection.address]:
            del self._of_address[connection.address]

    def move(self, connection: Connection) -> None:
        """Give a newcomer that was let in a place among the trusted."""
        if connection in self._newcomers:
            del self._newcomers[connection]
            self._trusted[connection] = None

    def on_no_descriptors(self, error: OSError) -> None:
        """The process has no descriptor left for one more: end some that wait, newcomers first."""
        self._out_of_descriptors = str(error.strerror or error)
        for _ in range(_CUT_AT_ONCE):
            if not self._end_first(self._newcomers) and not self._end_first(self._trusted):
                break

    async def watch(self) -> None:
        """End what is late, again and again, and say what was ended; until cancelled."""
        limits = self._limits
        shortest_s = min(limits.header_timeout_s, limits.body_timeout_s, limits.read_timeout_s)
        interval_s = min(_SWEEP_S, shortest_s / 4)
        while True:
            await asyncio.sleep(interval_s)
            self.now_s += interval_s
            self._sweep()
            self._say()

    def _sweep(self) -> None:
        for connection in self:
            if (why := connection.lateness(self.now_s, self._limits)) is not None:
                self._end(connection, why)
        stuck = sorted((one for one in self if one.stuck_since_s is not None), key=lambda one: one.stuck_since_s or 0.0)
        unsent = sum(one.unsent_bytes for one in stuck)
        for connection in stuck:
            if unsent <= self._limits.max_unsent_bytes:
                break
            unsent -= connection.unsent_bytes
            self._end(connection, EndReason.SLOW)

    def _end(self, connection: Connection, why: EndReason) -> None:
        self._ended[why] += 1
        # Its place is free now; its descriptor within the loop's next round.
        self.remove(connection)
        connection.end(at_once=why in (EndReason.BODY, EndReason.SLOW))

    def _say(self) -> None:
        under_pressure = self._out_of_descriptors or any(self._ended[why] for why in _PRESSURE)
        if not under_pressure or self.now_s < self._says_again_s:
            return
        counted = ", ".join(f"{count} {why}" for why, count in self._ended.items() if count)
        log.warning(
            "%sconnections ended or not taken: %s; open are %d, %d of them let in, of at most %d (without a token %d). "
            "What is sent again is not lost. More may be open with a higher limit of descriptors (ulimit -n, now %s), "
            "or as [connections] in server.toml says",
            f"no descriptors are left ({self._out_of_descriptors}); " if self._out_of_descriptors else "",
            counted or "none",
            len(self),
            len(self._trusted),
            self._max_total,
            self._max_newcomers,
            descriptor_limit() or "without end",
        )
        self._ended.clear()
        self._out_of_descriptors = ""
        self._says_again_s = self.now_s + _SAY_EVERY_S


@web.middleware
async def note_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell the request's connection that its header has come, and when its handler is done."""
    connection = _connection_of(request)
    if connection is None:
        return await handler(request)
    connection.begin(request)
    try:
        return await handler(request)
    finally:
        connection.finish()


def trust(request: web.Request) -> None:
    """Note that a request was let in; the guard's part."""
    connection = _connection_of(request)
    if connection is not None:
        connection.trust()


def _connection_of(request: web.Request) -> Connection | None:
    # Gone already, where the client is.
    transport = request.transport
    protocol = None if transport is None else transport.get_protocol()
    return protocol if isinstance(protocol, Connection) else None


def _network_of(host: str) -> str:
    """Return what stands for one sender: an IPv4 address, or the /64 that any machine with IPv6 has to itself."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, 64), strict=False))
        return str(address.ipv4_mapped)
    return host
