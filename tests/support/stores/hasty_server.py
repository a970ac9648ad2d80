"""A server that seals, merges and tidies up all the time, and dies when it is told to: of its own hand, at a statement.

It is forked from a process that has imported everything, so that it answers within a fifth of a second of its start:
hundreds of kills take minutes, and many of them meet a store that is being opened.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sqlite3
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

__all__ = ["HASTE", "HASTY_SEALING", "NO_SEALING", "POINT_TABLES", "UNSEALED_TABLE", "Death", "HastyServer"]

# What makes a store do all the time what it otherwise does now and then, by module and name. The one place to change
# when the store's constants do; a name that is not there any more is an error.
HASTE: Mapping[str, int | float] = {
    "telemetry.server.store.sealing.CHUNK_MIN_POINTS": 64,
    "telemetry.server.store.sealing.FAN_IN": 2,
    "telemetry.server.store.point_store._TURN_S": 0.02,
    "telemetry.server.store.point_store._BATCH_TASKS": 3,
    "telemetry.server.store.point_store._LOAD_POINTS": 500,
    "telemetry.server.store.point_store._IDLE_S": 0.2,
    "telemetry.server.store.deletion._SLICE_ROWS": 50,
    "telemetry.server.store.database._CHECKPOINT_PAGES": 100,
    # A log that keeps its space takes frames for long on a disk that is full.
    "telemetry.server.store.database._WAL_KEPT_BYTES": 100_000,
}
# The same of what an operator may set: [sealing] of server.toml.
HASTY_SEALING: Mapping[str, int | float] = {
    "task_points": 300,
    "max_points": 3000,
    "after_s": 0.3,
    "summary_s": 0.05,
}
# What keeps it from ever sealing.
NO_SEALING: Mapping[str, int | float] = {"task_points": 10**12, "max_points": 10**12, "after_s": 10**9}
# Where points are, sealed and not, with what is known of them; those that the store has.
POINT_TABLES = frozenset({"frames", "blocks", "chunks", "chunk_data", "series", "series_stats"})
# The one of what is stored and not sealed.
UNSEALED_TABLE = "frames"

# An answer that takes longer than this will not come.
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Death:
    """The server kills itself as it is about to run the SQL statement after `statements` that fit `pattern`."""

    pattern: str
    statements: int


class HastyServer:
    """A server in a process of its own on one folder, started as often as it is killed.

    Args:
        haste: see HASTE; an empty one for a server as everybody runs it.
        sealing: [sealing] of its server.toml; None: as `haste` says, HASTY_SEALING with one and nothing without.
        log: where its log lines go; None for a file beside the folder.
        spoiler: called in its process with its folder before it starts: breaks it on purpose (store_spoilers.py).

    Attributes:
        url: its address while it answers; "" from a start until then.
        life: how often it was started.
        log: where its log lines go.
    """

    def __init__(
        self,
        directory: Path,
        *,
        haste: Mapping[str, int | float] = HASTE,
        sealing: Mapping[str, int | float] | None = None,
        log: Path | None = None,
        spoiler: Callable[[Path], None] | None = None,
    ) -> None:
        self.directory = directory
        self.log = log or directory.with_name(directory.name + ".log")
        self.url = ""
        self.life = 0
        self._haste = dict(haste)
        self._sealing = (HASTY_SEALING if haste else {}) if sealing is None else sealing
        self._spoiler = spoiler
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["telemetry.server.app", "orjson", "hasty_server"])
        self._process: ForkServerProcess | None = None
        self._ready: Connection | None = None

    def start(self, death: Death | None = None) -> None:
        """Start it; it is not waited for."""
        self.url, self.life = "", self.life + 1
        if self._sealing:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lines = ["[sealing]", *(f"{name} = {value}" for name, value in self._sealing.items())]
            (self.directory / "server.toml").write_text("\n".join(lines) + "\n")
        self._ready, ready = self._context.Pipe(duplex=False)
        self._process = self._context.Process(
            target=_serve, args=(self.directory, self.log, self._haste, self._spoiler, death, ready), daemon=True
        )
        self._process.start()
        ready.close()

    def until_ready(self) -> bool:
        """Return when it answers; False if it has ended before."""
        assert self._ready is not None
        try:
            if not self._ready.poll(PATIENCE_S):
                raise AssertionError(f"the server has not answered for {PATIENCE_S:g} s: {self.log}")
            self.url = self._ready.recv()
        except EOFError:
            return False
        return True

    @property
    def pid(self) -> int:
        assert self._process is not None and self._process.pid is not None
        return self._process.pid

    def ended_within(self, seconds: float) -> bool:
        """Wait until it ends by itself; False if it is still there after `seconds`."""
        assert self._process is not None
        self._process.join(seconds)
        return self._process.exitcode is not None

    def kill(self) -> bool:
        """SIGKILL it; False if it had ended by itself in another way, or of an error."""
        assert self._process is not None and self._ready is not None
        self._process.kill()
        self._process.join()
        killed = self._process.exitcode == -signal.SIGKILL
        self._process.close()
        self._ready.close()
        self._process, self.url = None, ""
        return killed

    def stop(self) -> None:
        """Ask it to finish (SIGTERM), and wait; what it has open is on disk afterwards."""
        if self._process is not None:
            self._process.terminate()
            self._process.join(PATIENCE_S)
            self.kill()


def _serve(
    directory: Path,
    log: Path,
    haste: Mapping[str, int | float],
    spoiler: Callable[[Path], None] | None,
    death: Death | None,
    ready: Connection,
) -> None:
    """Be a server, in a process that was forked for it."""
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    _end_with(multiprocessing.parent_process())
    for name, value in haste.items():
        module, _, attribute = name.rpartition(".")
        if not hasattr(import_module(module), attribute):
            raise AttributeError(f"{name} is not there: HASTE names what the store has no more")
        setattr(import_module(module), attribute, value)
    if spoiler is not None:
        spoiler(directory)
    if death is not None:
        _die_at(death)

    from telemetry.server.app import run_server
    from telemetry.server.config import ServerConfig

    run_server(ServerConfig.from_environment(directory, port=0), on_ready=ready.send)


def _end_with(parent: Any) -> None:
    """End this process when its parent does, however that ends."""

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="orphan", daemon=True).start()


def _die_at(death: Death) -> None:
    """Have each connection that is opened from now on count statements; the wanted one is not run any more."""
    wanted, left = re.compile(death.pattern, re.IGNORECASE), [death.statements]
    connect = sqlite3.dbapi2.connect

    def look(statement: str) -> None:
        if wanted.match(statement):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def watched(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(look)
        return connection

    sqlite3.dbapi2.connect = watched  # type: ignore[assignment]
