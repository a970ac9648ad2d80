"""Listening: the sockets, and taking connections from them one by one, as there is room.

The event loop's own server would do, but for two things: it takes whatever comes before anybody can say no, and
when the process is out of descriptors it stops without a word.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import Any

from aiohttp import web

from telemetry.server.sockets.connections import Connection, Connections

__all__ = ["Site"]

log = logging.getLogger("telemetry.server")

_BACKLOG = 512
# Connections wait at the door meanwhile, in the kernel's queue.
_PAUSE_S = 0.1
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: application/json\r\n"
    b"Content-Length: 66\r\nConnection: close\r\n\r\n"
    b'{"error": "too many connections are open; ask again in some time"}'
)


class Site(web.BaseSite):
    """An address that the server answers on.

    Args:
        runner: set up already.
        host: "" for all addresses.
        port: 0 takes a free one.
    """

    def __init__(self, runner: web.AppRunner, host: str, port: int, connections: Connections) -> None:
        super().__init__(runner, backlog=_BACKLOG)
        self._host, self._wanted_port = host, port
        self._connections = connections
        self._sockets: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def name(self) -> str:
        """Its address, in words."""
        return f"http://{self._host}:{self.port}"

    @property
    def port(self) -> int:
        """The port, once it listens."""
        return int(self._sockets[0].getsockname()[1]) if self._sockets else self._wanted_port

    async def start(self) -> None:
        """Listen, and take connections from now on.

        Raises:
            OSError: the address is not this machine's, or in use.
        """
        await super().start()
        self._sockets = await _listen(self._host, self._wanted_port)
        self._tasks = [asyncio.create_task(self._take_from(listening)) for listening in self._sockets]
        self._tasks.append(asyncio.create_task(self._connections.watch()))

    async def stop(self) -> None:
        """Take no more; connections that are open stay."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listening in self._sockets:
            listening.close()
        await super().stop()

    async def _take_from(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                # Others are of a connection that ended at the door (ECONNABORTED and the network's own).
                if error.errno in _NO_ROOM:
                    self._connections.on_no_descriptors(error)
                    await asyncio.sleep(_PAUSE_S)
                continue
            if self._connections.admit(address[0]):
                await self._take(accepted, address)
            else:
                _turn_away(accepted)

    async def _take(self, accepted: socket.socket, address: Any) -> None:
        server = self._runner.server
        assert server is not None
        connection = Connection(server(), self._connections, address[0])
        self._connections.add(connection)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
        except OSError as error:
            log.debug("a connection from %s ended before it began: %s", address[0], error)
            self._connections.remove(connection)
            accepted.close()


async def _listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on all addresses of a name, on the same port."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        if port == 0 and sockets:
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        try:
            listening = socket.create_server(address, family=family, backlog=_BACKLOG)
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                # "localhost" is two addresses, of which a container often has one.
                failure = error
                continue
            for other in sockets:
                other.close()
            raise
        listening.setblocking(False)
        sockets.append(listening)
    if not sockets:
        raise failure or OSError(errno.EADDRNOTAVAIL, f"{host} is no address of this machine")
    return sockets


def _turn_away(accepted: socket.socket) -> None:
    with accepted:
        try:
            accepted.send(_REFUSAL)
        except OSError:
            # It is gone already, or does not even take this much: the close says the same.
            return
