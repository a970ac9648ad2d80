"""A backup: a folder on which a server can be started, made of a store while its server writes.

    <folder>/backup.json          of which store and moment it is, and whether it is whole
    <folder>/telemetry.sqlite3    the database as it was at that moment
    <folder>/blobs/ab/<sha256>    the blobs that it names
    <folder>/tokens.json, server.toml

The order makes it safe to be cut at any instant. A first backup says that it is not whole until the end. A later one
into the same folder adds blobs, then has the new database take the place of the old one, then removes the blobs that
only the old one named: the folder is the backup from before, or the new one.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from telemetry.disk import make_private_folder
from telemetry.errors import ConfigurationError
from telemetry.process.terminal import size_text
from telemetry.record import TaskStatus
from telemetry.server.store.blob_files import BlobFiles
from telemetry.server.store.database import DATABASE_NAME, DirectoryLock
from telemetry.server.store.errors import BackupFailed
from telemetry.storage.blobs import BLOBS, PIECE_BYTES, sha256_and_size

__all__ = [
    "BACKUP_FILE",
    "Backup",
    "BackupMade",
    "BackupWriter",
    "back_up_stopped",
    "check_backup",
    "check_takeable",
    "copy_pages",
    "lineage",
    "read_backup",
    "take_over",
]

BACKUP_FILE = "backup.json"
RESTORED_FILE = "restored.json"
FORMAT = 1

# Beside the database and the blobs. What is not there: watch.json (found anew), and parts of blobs that still arrive.
_OTHER_FILES = ("tokens.json", "server.toml")
_PART = ".part"
# 2 MB, some 2 ms of the writer's time.
_STEP_PAGES = 256
# After a step that found the database locked, in seconds.
_LOCKED_PAUSE_S = 0.01

# Called with what is copied ("database" or "files"), and the bytes of it that are done and all there are.
OnBackupProgress = Callable[[str, int, int], None]
# Copies the database to a path; calls back with the bytes that are done, and all.
CopyDatabase = Callable[[Path, Callable[[int, int], None]], None]


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup says of itself.

    Attributes:
        complete: False while the first one is being made, and for ever if that was cut.
        unix_s: the moment that it is of.
        database_sha256: "" where a second backup was cut just as it took the place of the first.
        running_tasks: those that had not ended then; what they have sent since is not in it.
    """

    complete: bool
    store_id: str
    unix_s: float = 0.0
    database_bytes: int = 0
    database_sha256: str = ""
    blobs: int = 0
    blob_bytes: int = 0
    tasks: int = 0
    running_tasks: int = 0


@dataclass(frozen=True, slots=True)
class BackupMade:
    """A backup that was just made.

    Attributes:
        new_blobs: those that the folder did not have; `new_blob_bytes` were copied or linked for them.
        missing: blobs that the store's database names and whose files the store itself has lost.
    """

    backup: Backup
    new_blobs: int
    new_blob_bytes: int
    missing: tuple[str, ...]


def read_backup(folder: Path) -> Backup | None:
    """Return what a folder says of itself; None if it is no backup.

    Raises:
        ConfigurationError: it cannot be read, or a newer version made it.
    """
    path = folder / BACKUP_FILE
    try:
        document = json.loads(path.read_text("utf-8"))
        if document.pop("format") != FORMAT:
            raise ValueError("another version of telemetry-tasks made it")
        known = {field.name for field in fields(Backup)}
        return Backup(**{name: value for name, value in document.items() if name in known})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error!s:.200}") from error


def copy_pages(source: sqlite3.Connection, target: Path, between: Callable[[int, int], None]) -> None:
    """Copy a database into a new file, in steps of 2 MB; the copy is the state after the last one.

    Over the connection that writes. SQLite then brings what that connection writes between two steps into the copy as
    well, so the copying never begins again, however much is written, and the write-ahead log is emptied as ever. Over
    any other connection each write would begin it again, or, from one long snapshot, keep the log growing to its end.

    Args:
        between: called after each step with the pages that are done and all there are; others may write while it runs.
            What it raises ends the copying.
    Raises:
        sqlite3.Error: one of the two cannot be read or written.
    """
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(target, isolation_level=None)) as copy:
        # It is thrown away if anything goes wrong, and synced at its end.
        copy.execute("PRAGMA journal_mode=OFF").fetchall()
        copy.execute("PRAGMA synchronous=OFF")
        source.backup(
            copy,
            pages=_STEP_PAGES,
            progress=lambda _, left, total: between(total - left, total),
            sleep=_LOCKED_PAUSE_S,
        )


class BackupWriter:
    """Makes one backup of the store in `source`. All of it blocks.

    Args:
        store_id: of the store; a folder that has a backup of another one is left alone.
        on_progress: what it raises ends the backup; the folder is then what it was before, or says that it is cut.
    """

    def __init__(self, source: Path, folder: Path, *, store_id: str, on_progress: OnBackupProgress) -> None:
        self._source, self._folder = source.resolve(), folder.resolve()
        self._store_id = store_id
        self._on_progress = on_progress
        self._files = BlobFiles(self._source)
        self._copies = BlobFiles(self._folder)

    def write(self, copy_database: CopyDatabase) -> BackupMade:
        """Make the backup; return when all of it is on stable storage.

        Raises:
            ConfigurationError: the folder cannot take it; nothing was changed.
            BackupFailed: the disk is full or failing.
        """
        self._check_folder()
        try:
            make_private_folder(self._folder)
            lock = DirectoryLock(self._folder)
        except OSError as error:
            raise ConfigurationError(f"no backup can be made in {self._folder}: {error.strerror or error}") from error
        try:
            with self._saying_why():
                return self._write(copy_database)
        finally:
            lock.release()

    def _check_folder(self) -> None:
        folder, source = self._folder, self._source
        if folder == source or folder.is_relative_to(source) or source.is_relative_to(folder):
            raise ConfigurationError(
                f"{folder} and the server's data in {source} lie within each other; take another DIR"
            )
        if folder.exists() and not folder.is_dir():
            raise ConfigurationError(f"{folder} is a file; a backup is a folder")
        there = read_backup(folder)
        if there is None and folder.exists():
            # All that there is of one that was cut before it had begun.
            begun = {DirectoryLock.NAME, f"{BACKUP_FILE}{_PART}"}
            names = sorted({entry.name for entry in folder.iterdir()} - begun)
            if DATABASE_NAME in names:
                raise ConfigurationError(
                    f"{folder} is a server's data, no backup (or no longer: a server was started on it). Nothing was "
                    "changed; take another DIR"
                )
            if names:
                raise ConfigurationError(
                    f"{folder} is no backup, and not empty: it has {names[0]!r:.60}. Nothing was changed; take another "
                    "DIR"
                )
        if there is not None and there.store_id not in ("", self._store_id):
            raise ConfigurationError(f"{folder} has the backup of another store. Nothing was changed; take another DIR")

    @contextmanager
    def _saying_why(self) -> Iterator[None]:
        part = self._folder / f"{DATABASE_NAME}{_PART}"
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in str(error)
            free = size_text(shutil.disk_usage(self._folder).free)
            why = f"its disk has no room for it ({free} are free): {error.args[-1]}" if full else str(error)
            there = read_backup(self._folder)
            kept = "The one from before is still there" if there and there.complete else "What is there is not whole"
            raise BackupFailed(f"the backup in {self._folder} could not be made: {why}. {kept}") from error
        finally:
            part.unlink(missing_ok=True)

    def _write(self, copy_database: CopyDatabase) -> BackupMade:
        folder = self._folder
        before = read_backup(folder)
        if before is None or not before.complete:
            _write_file(folder / BACKUP_FILE, Backup(False, self._store_id))
        part = folder / f"{DATABASE_NAME}{_PART}"
        part.unlink(missing_ok=True)
        copy_database(part, self._note_database)
        unix_s = time.time()
        sha256, database_bytes = self._sync_and_sum(part)
        with closing(_open(part)) as connection:
            held = _held(connection)
            tasks = _one(connection, "SELECT count(*) FROM tasks", 0)
            running = _one(connection, f"SELECT count(*) FROM tasks WHERE status = '{TaskStatus.IN_PROGRESS}'", 0)
        made = self._take_blobs(held)
        self._take_other_files()
        if before is not None and before.complete:
            # From here to the end the figures are of neither.
            _write_file(folder / BACKUP_FILE, replace(before, database_sha256=""))
        for suffix in ("-wal", "-shm"):
            # Of somebody who looked into it: beside another database it would be poison.
            (folder / f"{DATABASE_NAME}{suffix}").unlink(missing_ok=True)
        part.replace(folder / DATABASE_NAME)
        _sync_folder(folder)
        blob_bytes = sum(held.values())
        backup = Backup(
            True, self._store_id, unix_s, database_bytes, sha256, len(held), blob_bytes, int(tasks), int(running)
        )
        _write_file(folder / BACKUP_FILE, backup)
        for name in [name for name, _ in self._copies.names() if name not in held]:
            self._copies.remove(name)
        for cut in (folder / BLOBS).glob(f"*/*{_PART}"):
            cut.unlink(missing_ok=True)
        return replace(made, backup=backup)

    def _note_database(self, done_bytes: int, total_bytes: int) -> None:
        self._want_room(total_bytes - done_bytes, "its database")
        self._on_progress("database", done_bytes, total_bytes)

    def _take_blobs(self, held: dict[str, int]) -> BackupMade:
        wanted = {sha256: size for sha256, size in held.items() if self._copies.size(sha256) != size}
        missing = tuple(sha256 for sha256, size in wanted.items() if self._files.size(sha256) != size)
        for sha256 in missing:
            del wanted[sha256]
        total_bytes, done_bytes = sum(wanted.values()), 0
        folders: set[Path] = set()
        for sha256, size in sorted(wanted.items()):
            target = self._copies.path(sha256)
            if target.parent not in folders:
                make_private_folder(target.parent)
                folders.add(target.parent)
            if not _link(self._files.path(sha256), target):
                self._want_room(total_bytes - done_bytes, "its files")
                self._copy(self._files.path(sha256), target, done_bytes, total_bytes)
            done_bytes += size
            self._on_progress("files", done_bytes, total_bytes)
        for folder in (*sorted(folders), *([self._folder / BLOBS] if folders else [])):
            _sync_folder(folder)
        return BackupMade(Backup(False, ""), len(wanted), total_bytes, missing)

    def _copy(self, source: Path, target: Path, done_bytes: int, total_bytes: int) -> None:
        part = target.with_name(f"{target.name}{_PART}")
        try:
            with source.open("rb") as file, open(part, "wb", buffering=0, opener=_open_private) as copy:
                while piece := file.read(PIECE_BYTES):
                    view = memoryview(piece)
                    while view:
                        view = view[copy.write(view) or 0 :]
                    done_bytes += len(piece)
                    self._on_progress("files", done_bytes, total_bytes)
                os.fsync(copy.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def _take_other_files(self) -> None:
        for name in _OTHER_FILES:
            try:
                data = (self._source / name).read_bytes()
            except FileNotFoundError:
                (self._folder / name).unlink(missing_ok=True)
            else:
                _write_bytes(self._folder / name, data)

    def _sync_and_sum(self, path: Path) -> tuple[str, int]:
        with path.open("r+b") as file:
            os.fsync(file.fileno())
            return sha256_and_size(file)

    def _want_room(self, size_bytes: int, what: str) -> None:
        if shutil.disk_usage(self._folder).free < size_bytes:
            raise OSError(errno.ENOSPC, f"{what} needs {size_text(size_bytes)} more")


def back_up_stopped(source: Path, folder: Path, on_progress: OnBackupProgress) -> BackupMade:
    """Make a backup of a directory whose server does not run, whatever version it is of; see BackupWriter.

    Raises:
        ConfigurationError, BackupFailed: as BackupWriter.write does; also where a server runs after all.
    """
    lock = DirectoryLock(source)
    try:
        with closing(sqlite3.connect(source / DATABASE_NAME, isolation_level=None)) as connection:
            page_bytes = _one(connection, "PRAGMA page_size", 0)
            has_id = _one(connection, "SELECT count(*) FROM sqlite_master WHERE name = 'store_identity'", 0)
            store_id = _one(connection, "SELECT store_id FROM store_identity", "") if has_id else ""

            def copy(path: Path, on_bytes: Callable[[int, int], None]) -> None:
                copy_pages(connection, path, lambda done, total: on_bytes(done * page_bytes, total * page_bytes))

            return BackupWriter(source, folder, store_id=store_id, on_progress=on_progress).write(copy)
    except sqlite3.Error as error:
        raise ConfigurationError(f"{source / DATABASE_NAME} cannot be read as a store: {error}") from error
    finally:
        lock.release()


def check_takeable(folder: Path) -> None:
    """Before a server opens a folder's database.

    Raises:
        ConfigurationError: it is a backup that was cut.
    """
    backup = read_backup(folder)
    if backup is not None and not backup.complete:
        raise ConfigurationError(
            f"{folder} is a backup that was cut, and not whole. Nothing was changed; make it again (telemetry backup) "
            "or start with another directory (--directory DIR)"
        )


def take_over(folder: Path) -> Backup | None:
    """A server has opened a folder: if that was a backup it is none any more. Return what it was; None for any other.

    `restored.json` then says what it was, for people, and makes the store another one for clients (`lineage`): what
    they have sent to it once may not be in it.
    """
    backup = read_backup(folder)
    if backup is not None:
        restored = {**asdict(backup), "restored_unix_s": time.time(), "lineage": secrets.token_hex(8)}
        _write_bytes(folder / RESTORED_FILE, json.dumps(restored, indent=1).encode())
        (folder / BACKUP_FILE).unlink()
        _sync_folder(folder)
    return backup


def lineage(folder: Path, store_id: str) -> str:
    """Return the identity that a store has for its clients: its own, or after a restore one that is new."""
    try:
        restored = json.loads((folder / RESTORED_FILE).read_text("utf-8"))["lineage"]
    except (OSError, ValueError, KeyError, TypeError):
        return store_id
    return f"{store_id[:16]}{restored:.16}"


def check_backup(folder: Path, *, digests: bool, on_progress: OnBackupProgress) -> list[str]:
    """Return what is wrong with a backup, in words; empty if nothing is.

    The database's structure is checked, and that each blob that it names is there with its size.

    Args:
        digests: read every byte, too, and compare the sha256 of the database and of each blob.
    Raises:
        ConfigurationError: the folder is no backup.
    """
    backup = read_backup(folder)
    if backup is None:
        raise ConfigurationError(f"{folder} is no backup: it has no {BACKUP_FILE}")
    if not backup.complete:
        return ["it is not whole: the backup was cut. Run it again"]
    database = folder / DATABASE_NAME
    faults: list[str] = []
    try:
        with closing(_open(database)) as connection:
            on_progress("database", 0, backup.database_bytes)
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(10)")]
            faults += [] if found == ["ok"] else [f"{DATABASE_NAME} is damaged: {line}" for line in found]
            held = _held(connection)
        if digests and backup.database_sha256:
            with database.open("rb") as file:
                if sha256_and_size(file)[0] != backup.database_sha256:
                    faults.append(f"{DATABASE_NAME} has another sha256 than was written: it has changed since")
        on_progress("database", backup.database_bytes, backup.database_bytes)
    except (OSError, sqlite3.Error) as error:
        return [*faults, f"{DATABASE_NAME} cannot be read: {error}"]
    files, done_bytes, total_bytes = BlobFiles(folder), 0, sum(held.values())
    for sha256, size in sorted(held.items()):
        fault = _blob_fault(files, sha256, size, digests=digests)
        if fault:
            faults.append(f"blob {sha256}: {fault}")
        done_bytes += size
        on_progress("files", done_bytes, total_bytes)
    return faults


def _blob_fault(files: BlobFiles, sha256: str, size: int, *, digests: bool) -> str:
    found = files.size(sha256)
    if found != size:
        return "it is missing" if found is None else f"it has {found:,} bytes, not {size:,}"
    if digests:
        try:
            with files.path(sha256).open("rb") as file:
                if sha256_and_size(file)[0] != sha256:
                    return "it is damaged: its sha256 is another one"
        except OSError as error:
            return f"it cannot be read: {error}"
    return ""


def _open(database: Path) -> sqlite3.Connection:
    """Open a database that nobody writes, and write nothing beside it."""
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)


def _held(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the size of each blob that a task holds, by sha256."""
    if not _one(connection, "SELECT count(*) FROM sqlite_master WHERE name = 'task_blobs'", 0):
        return {}
    return dict(connection.execute("SELECT DISTINCT sha256, size_bytes FROM task_blobs"))


def _one(connection: sqlite3.Connection, query: str, default: Any) -> Any:
    row = connection.execute(query).fetchone()
    return default if row is None else row[0]


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name; False where that cannot be. Blobs are never written to again, only removed."""
    try:
        os.link(source, target)
    except FileExistsError:
        # Of another size, or it would not be wanted.
        target.unlink()
        return _link(source, target)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES):
            return False
        raise
    return True


def _write_file(path: Path, backup: Backup) -> None:
    _write_bytes(path, json.dumps({"format": FORMAT, **asdict(backup)}, indent=1).encode())


def _write_bytes(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}{_PART}")
    with open(part, "wb", opener=_open_private) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
