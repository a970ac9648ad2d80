"""Making the database's file anew, as small as what is in it, and such that free space can be given back from then on.

For databases of version 0.1, which were made without `auto_vacuum`: SQLite can change that only by writing all of it
once more. So it is a command of its own, on a server that is stopped, and needs as much room again.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from telemetry.errors import ConfigurationError
from telemetry.process.terminal import size_text
from telemetry.server.store.database import DATABASE_NAME, DirectoryLock
from telemetry.server.store.errors import StoreUnavailable

__all__ = ["compact"]

# SQLite's steps between two looks at how far it is.
_LOOK_STEPS = 1000


def compact(directory: Path, on_progress: Callable[[int, int], None]) -> tuple[int, int]:
    """Write a server's database anew; return its bytes before and after. Cut at any instant it is the old or the new.

    Args:
        on_progress: called with the bytes that are written, and what there will be. What it raises ends it.
    Raises:
        ConfigurationError: a server uses the directory, or there is no store in it.
        StoreUnavailable: the disk has no room for a second one, or fails; nothing was changed.
    """
    path = directory / DATABASE_NAME
    part = path.with_name(f"{DATABASE_NAME}.compact")
    if not path.is_file():
        raise ConfigurationError(f"there is no server's data in {directory}: no {DATABASE_NAME}")
    lock = DirectoryLock(directory)
    try:
        before = path.stat().st_size
        _write_anew(path, part, on_progress)
        for suffix in ("-wal", "-shm"):
            path.with_name(f"{DATABASE_NAME}{suffix}").unlink(missing_ok=True)
        part.replace(path)
        return before, path.stat().st_size
    except (OSError, sqlite3.Error) as error:
        raise StoreUnavailable(f"{path} could not be made smaller: {error}. Nothing was changed") from error
    finally:
        part.unlink(missing_ok=True)
        lock.release()


def _write_anew(path: Path, part: Path, on_progress: Callable[[int, int], None]) -> None:
    part.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        page_bytes, pages, free = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        )
        total_bytes = (pages - free) * page_bytes
        free_bytes = shutil.disk_usage(path.parent).free
        if free_bytes < total_bytes:
            raise OSError(
                errno.ENOSPC, f"it needs {size_text(total_bytes)} beside it, and {size_text(free_bytes)} are free"
            )
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        raised: list[BaseException] = []

        def look() -> int:
            try:
                on_progress(min(part.stat().st_size, total_bytes), total_bytes)
            except BaseException as error:  # noqa: BLE001  SQLite would only say that it was interrupted
                raised.append(error)
            return len(raised)

        connection.set_progress_handler(look, _LOOK_STEPS)
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        try:
            connection.execute("VACUUM INTO ?", (str(part),))
        except sqlite3.OperationalError:
            if raised:
                raise raised[0] from None
            raise
        connection.set_progress_handler(None, 0)
        # The write-ahead log has nothing any more that is not in the file, and goes with it.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with part.open("r+b") as file:
        os.fsync(file.fileno())
