"""The keeper: a thread that writes summaries, seals points and merges blocks while frames come in."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator

from aiohttp import web

from telemetry.server.config import STORE
from telemetry.server.store import Store, StoreFailed, StoreUnavailable

__all__ = ["Keeper", "run_keeper"]

log = logging.getLogger("telemetry.server")

# After trouble with the disk: somebody may have made room.
_PAUSE_AFTER_TROUBLE_S = 5.0


class Keeper:
    """Calls `PointStore.keep` again and again on a thread of its own, sooner where the store wants it."""

    def __init__(self, store: Store) -> None:
        self._points = store.point_store
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry-keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread after what it is doing; what is not sealed stays in the log."""
        self._ending.set()
        self._points.wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                pause_s = self._points.keep()
            except (StoreUnavailable, StoreFailed) as error:
                log.error("points cannot be sealed now, they stay in the log: %s", error)
                self._ending.wait(_PAUSE_AFTER_TROUBLE_S)
                continue
            self._points.wanted.wait(pause_s)


async def run_keeper(app: web.Application) -> AsyncIterator[None]:
    """Keep the store small for the application's life (a cleanup context)."""
    keeper = Keeper(app[STORE])
    yield
    await asyncio.to_thread(keeper.close)
