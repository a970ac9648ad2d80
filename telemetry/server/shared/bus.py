"""The bus of a server that is alone: whoever subscribes is called."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from aiohttp import web

from telemetry.server.shared.seams import Bus
from telemetry.server.store import TaskChange

__all__ = ["BUS", "LocalBus"]

log = logging.getLogger("telemetry.server")


class LocalBus:
    """Implements `seams.Bus` within this process: in the order of subscription, and before `publish` returns."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Mapping[str, TaskChange]], None]] = []

    def publish(self, changes: Mapping[str, TaskChange]) -> None:
        for listen in self._subscribers:
            try:
                listen(changes)
            except Exception as error:
                log.error("somebody could not be told what was committed", exc_info=error)

    def subscribe(self, listen: Callable[[Mapping[str, TaskChange]], None]) -> None:
        self._subscribers.append(listen)


BUS: web.AppKey[Bus] = web.AppKey("bus")
