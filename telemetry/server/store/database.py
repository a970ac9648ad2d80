"""The SQLite file: making it, opening it, its connections, and what its errors mean to us."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from telemetry.errors import ConfigurationError
from telemetry.server.store import schema
from telemetry.server.store.columns import record_number_or_text, record_text
from telemetry.server.store.errors import MoveStopped, StoreFailed, StoreUnavailable, Unstorable
from telemetry.server.store.migrate import mend, migrate
from telemetry.server.store.moving import finish_move, is_moving

__all__ = ["DATABASE_NAME", "Database", "DirectoryLock"]

DATABASE_NAME = "telemetry.sqlite3"

# 8 KiB: a packed chunk of some 60 kB spans 8 pages instead of 15, and small rows still share pages.
_PAGE_BYTES = 8192
# SQLite's own 4 MB would make a fast ingest stop for a checkpoint at every second frame.
_CHECKPOINT_PAGES = 4000
# Beyond this the log is cut back to after a checkpoint, in bytes.
_WAL_KEPT_BYTES = 64 * 1024 * 1024
_CACHE_KIB = 32 * 1024
_BUSY_TIMEOUT_MS = 10_000


class DirectoryLock:
    """One server per directory: an advisory lock on a file in it, freed by the kernel when we die."""

    NAME = "server.lock"

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / self.NAME, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # Not on Windows, where two servers on one directory are left to SQLite's own locks.
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise ConfigurationError(
                f"another server is using {directory}; stop it or choose another directory"
            ) from error

    def release(self) -> None:
        """Let the next server in."""
        os.close(self._descriptor)


class Database:
    """One connection that writes and a pool that only reads.

    Args:
        max_bytes: the file may grow to this; beyond it writes fail as on a full disk. None: no limit.
        stopping: asked now and then while a store of an older version is brought up to date; True: stop that.

    Attributes:
        store_id: random, made with the store: a copy has the same, a new store another.

    Raises:
        ConfigurationError: a newer version wrote this store, or the file is not a store.
        StoreUnavailable: an older version wrote it, and the disk is full or failing while it is brought up to date.
        MoveStopped: because of `stopping`.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int | None = None,
        readers: int = 4,
        stopping: Callable[[], bool] | None = None,
    ) -> None:
        self.store_id = ""
        # SQLite gives the log and the shared memory the same mode as the database.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._writer = _engine(path, pool_size=1, read_only=False, max_bytes=max_bytes)
        self._readers = _engine(path, pool_size=readers, read_only=True, max_bytes=None)
        try:
            self._prepare(path, stopping)
        except StoreFailed as error:
            self.close()
            raise ConfigurationError(f"{path} cannot be opened as a store: {error}") from error
        except (ConfigurationError, MoveStopped, StoreUnavailable):
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open the write transaction; it commits at the end and rolls back on any error.

        Raises:
            StoreUnavailable: the disk is full or failing; nothing was kept.
            StoreFailed, Unstorable: the database failed in another way; nothing was kept.
        """
        try:
            with self._writer.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            if isinstance(error, DBAPIError) and _is_disk_trouble(error.orig):
                raise StoreUnavailable(f"the store cannot be written: {error.orig}") from error
            raise _failure(error) from error

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open a read-only view of one committed state; never waits for the writer.

        Raises:
            StoreFailed: the database failed.
        """
        try:
            with self._readers.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _failure(error) from error

    def give_back(self, pages: int) -> int:
        """Give at most so many free pages back to the file system; return how many.

        The file itself shrinks with a checkpoint, which is made once nothing is left. 0 also for a database of version
        0.1, which was made without `auto_vacuum`: there only `telemetry compact` helps.

        Raises:
            StoreUnavailable: the disk is full or failing; nothing has changed.
        """
        sqlite = self.writing_connection()
        try:
            free_before = _pragma(sqlite, "freelist_count")
            # Not execute(): SQLite frees a page a step, and Python takes one step of what has no columns.
            sqlite.executescript(f"PRAGMA incremental_vacuum({pages})")
            free = _pragma(sqlite, "freelist_count")
            if not free and free_before:
                sqlite.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            return free_before - free
        except sqlite3.Error as error:
            if _is_disk_trouble(error):
                raise StoreUnavailable(f"the store's file cannot be made smaller: {error}") from error
            raise

    @property
    def stuck_bytes(self) -> int:
        """Return the free space in the file that cannot be given back; 0 but for a database of version 0.1."""
        sqlite = self.writing_connection()
        if _pragma(sqlite, "auto_vacuum"):
            return 0
        return _pragma(sqlite, "freelist_count") * _pragma(sqlite, "page_size")

    def writing_connection(self) -> sqlite3.Connection:
        """Return the connection that writes, for what only SQLite itself can do; the caller lets nobody write then."""
        # The pool has this one connection for as long as it lives: who asks it next gets the same.
        connection = self._writer.raw_connection()
        try:
            found = connection.driver_connection
        finally:
            connection.close()
        assert isinstance(found, sqlite3.Connection)
        return found

    def close(self) -> None:
        """Close all connections; the last one checkpoints and removes the log."""
        self._readers.dispose()
        self._writer.dispose()

    def _prepare(self, path: Path, stopping: Callable[[], bool] | None) -> None:
        with self.transaction() as connection:
            there = "schema_info" in inspect(connection).get_table_names()
            version = connection.execute(select(schema.schema_info.c.version)).scalar() if there else None
            if version is not None and version > schema.SCHEMA_VERSION:
                raise ConfigurationError(
                    f"{path} has schema version {version}, this server knows version "
                    f"{schema.SCHEMA_VERSION}; nothing was changed. Use a matching version of telemetry-tasks."
                )
            schema.metadata.create_all(connection)
            different: list[str] = []
            if version is None:
                connection.execute(insert(schema.schema_info), {"version": schema.SCHEMA_VERSION})
            elif version < schema.SCHEMA_VERSION:
                different = migrate(connection, version)
            # The number alone is not believed: stores of versions between two releases have had the same one.
            different = different or mend(connection)
            if different:
                # What was made or added above goes with the transaction.
                raise ConfigurationError(
                    f"{path} says schema version {version}, and is different: {'; '.join(different)}. Nothing was "
                    'changed. Run "telemetry export" with the version of telemetry-tasks that wrote it, or start '
                    "with another directory (--data DIR)"
                )
            self.store_id = connection.execute(select(schema.store_identity.c.store_id)).scalar() or ""
            if not self.store_id:
                self.store_id = uuid.uuid4().hex
                connection.execute(insert(schema.store_identity), {"store_id": self.store_id})
            moving = is_moving(connection)
        if moving:
            self._move(path, stopping)

    def _move(self, path: Path, stopping: Callable[[], bool] | None) -> None:
        try:
            finish_move(self.transaction, stopping)
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"{path} is only in part moved to schema version {schema.SCHEMA_VERSION}: {error}. Nothing is lost. "
                "Make room on its disk (64 MiB and a tenth of the file are enough) and start the server again: it goes "
                "on where it stopped"
            ) from error


def _engine(path: Path, *, pool_size: int, read_only: bool, max_bytes: int | None) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        connect_args={"check_same_thread": False, "isolation_level": None},
    )

    # pysqlite's own transaction handling would begin late and commit before DDL; we say BEGIN ourselves.
    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: Any) -> None:
        pragmas = [f"busy_timeout={_BUSY_TIMEOUT_MS}", f"cache_size=-{_CACHE_KIB}", "temp_store=MEMORY"]
        if read_only:
            pragmas += ["query_only=ON"]
        else:
            pragmas += [
                f"page_size={_PAGE_BYTES}",
                # What is free in the file can be given back (give_back). One that holds something would be written to.
                *([] if _pragma(connection, "page_count") else ["auto_vacuum=INCREMENTAL"]),
                "journal_mode=WAL",
                # The log is synced at every commit: an acknowledged frame survives a power cut.
                "synchronous=FULL",
                f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
                f"journal_size_limit={_WAL_KEPT_BYTES}",
            ]
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        # For queries by parameters, whose values are msgpack.
        connection.create_function("telemetry_sort_value", 1, record_number_or_text, deterministic=True)
        connection.create_function("telemetry_text", 1, record_text, deterministic=True)
        if max_bytes is not None:
            page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count={max(1, max_bytes // page_bytes)}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _failure(error: SQLAlchemyError) -> StoreFailed:
    """Return an error of the database in the words of those who know no database."""
    reason = error.orig if isinstance(error, DBAPIError) else error
    # Of what was to be written, not of the store.
    of_the_values = isinstance(error, (DataError, IntegrityError, InterfaceError))
    return Unstorable(str(reason)) if of_the_values else StoreFailed(str(reason))


def _is_disk_trouble(error: BaseException | None) -> bool:
    # Full, I/O error, read-only, cannot open, locked by another program: all may pass.
    return isinstance(error, sqlite3.OperationalError) and (error.sqlite_errorcode & 0xFF) in (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )
