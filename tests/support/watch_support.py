"""A server that watches folders, and waiting for what it sees."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig

T = TypeVar("T")
# What is waited for takes a second or two here; on a machine that is busy with all other tests, more.
PATIENCE_S = 60.0


@contextmanager
def watching(tmp_path: Path, *folders: Path) -> Iterator[str]:
    """Run a server that watches folders; by default tmp_path/runs."""
    config = ServerConfig(tmp_path / "server", port=0, watch=folders or (tmp_path / "runs",))
    with BackgroundServer(config) as server:
        yield server.url


def until(fact: Callable[[], T | None]) -> T:
    """Wait for a fact: ask again until it is there."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        found = fact()
        if found:
            return found
        assert time.monotonic() < give_up_s, "it did not come true"
        threading.Event().wait(0.02)  # another process's fact: there is nothing of ours to wait on
