"""BlobStore: the store's blobs, files and rows together, so that neither is ever without the other for long.

A row without its file is worse than a file without its row: files are put in place before the row is committed, and
removed after; both under the lock of the writer. What a crash leaves between the two, the sweep finds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from telemetry.server.store import blob_refs, schema
from telemetry.server.store.blob_refs import BlobRef
from telemetry.server.store.errors import BlobRefused, NotFound
from telemetry.server.store.gate import ProjectLimits
from telemetry.server.store.reads import task_row_id
from telemetry.server.store.seams import Blobs, Transactions

__all__ = ["BlobStore"]

# What no record names is kept this long: the frame that names it may be in the next part of a zip.
_UNNAMED_NS = 7 * 24 * 3600 * 1_000_000_000
_UNHELD_S = 24 * 3600.0


class BlobStore:
    """Blobs by task. Every method blocks, and is safe from any thread.

    Args:
        writing: the lock of whoever writes the database.
    """

    def __init__(
        self,
        files: Blobs,
        database: Transactions,
        writing: threading.Lock,
        limits: ProjectLimits,
        clock: Callable[[], int],
    ) -> None:
        self.files = files
        self._database = database
        self._writing = writing
        self._limits = limits
        self._clock = clock
        # Files that would have been removed while a backup is made; None while none is.
        self._postponed: set[str] | None = None

    # ---- reading ---------------------------------------------------------------------------------

    def of_task(self, task_id: str) -> dict[str, BlobRef]:
        """Return the blobs that a task names, by sha256, whether their bytes are here or not."""
        with self._database.snapshot() as connection:
            return blob_refs.read_refs(connection, task_row_id(connection, task_id))

    def wanted(self, task_id: str) -> list[BlobRef]:
        """Return the blobs that a task names and does not hold."""
        with self._database.snapshot() as connection:
            task = task_row_id(connection, task_id)
            held = blob_refs.held_blobs(connection, task)
            return [ref for sha256, ref in blob_refs.read_refs(connection, task).items() if sha256 not in held]

    def holds(self, task_id: str, sha256: str) -> bool:
        """Say whether a task holds a blob, and its file is here."""
        with self._database.snapshot() as connection:
            held = blob_refs.is_held(connection, task_row_id(connection, task_id), sha256)
        return held and self.files.size(sha256) is not None

    def find(self, task_id: str, sha256: str) -> tuple[Path, BlobRef] | None:
        """Return a blob's file and how the task names it; None unless the task both names and holds it."""
        with self._database.snapshot() as connection:
            task = task_row_id(connection, task_id)
            if not blob_refs.is_held(connection, task, sha256):
                return None
            ref = blob_refs.find_ref(connection, task, sha256)
            if ref is None:
                return None
        return (self.files.path(sha256), ref) if self.files.size(sha256) is not None else None

    # ---- taking ----------------------------------------------------------------------------------

    def may_send(self, task_id: str, sha256: str, size_bytes: int) -> bool:
        """Return True if a task's sender may send a blob; False if the task holds it already.

        Raises:
            NotFound: the store has no frame of the task. BlobRefused: it was deleted, or its project is full.
        """
        with self._database.snapshot() as connection:
            if blob_refs.is_deleted(connection, task_id):
                raise BlobRefused(f"task {task_id} was deleted", gone=True)
            columns = schema.tasks.c
            row = connection.execute(
                select(columns.id, columns.project).where(columns.task_id == task_id)
            ).one_or_none()
            if row is None:
                raise NotFound(f"no task {task_id}: its frames come first")
            if blob_refs.is_held(connection, row.id, sha256) and self.files.size(sha256) is not None:
                return False
            reason = blob_refs.over_limit(connection, row.project, size_bytes, self._limits)
        if reason is not None:
            raise BlobRefused(reason)
        return True

    def share(self, task_id: str, sha256: str, size_bytes: int, projects: tuple[str, ...] | None) -> bool:
        """Have a task hold a blob that another sent; False if there is none.

        Args:
            projects: of the sender: only their tasks' blobs count, for others it must prove to have the bytes.
        """
        with self._database.snapshot() as connection:
            if not blob_refs.holders_within(connection, sha256, projects):
                return False
        with self._writing:
            # Under the lock: nobody removes it in between.
            if self.files.size(sha256) != size_bytes:
                return False
            self._hold(task_id, sha256, size_bytes)
        return True

    def take(self, task_id: str, sha256: str, size_bytes: int, path: Path) -> None:
        """Take a file with the right sha256 as a blob that a task holds; the file is moved or removed."""
        with self._writing:
            if self.files.size(sha256) == size_bytes:
                path.unlink(missing_ok=True)
            else:
                self.files.take(path, sha256)
            self._hold(task_id, sha256, size_bytes)

    def _hold(self, task_id: str, sha256: str, size_bytes: int) -> None:
        with self._database.transaction() as connection:
            blob_refs.hold(connection, task_row_id(connection, task_id), sha256, size_bytes, self._clock())

    # ---- letting go ------------------------------------------------------------------------------

    def remove_files(self, sha256s: Iterable[str]) -> None:
        """Remove the files of blobs that nobody holds, after the commit that says so; the writer's lock is held."""
        wanted = set(sha256s)
        if not wanted:
            return
        with self._database.snapshot() as connection:
            self._remove(blob_refs.unheld(connection, wanted))

    def _remove(self, sha256s: Iterable[str]) -> None:
        if self._postponed is not None:
            self._postponed |= set(sha256s)
            return
        for sha256 in sha256s:
            self.files.remove(sha256)

    @contextmanager
    def keeping_files(self) -> Iterator[None]:
        """Remove no file within the block; those that nobody holds at its end go then. Not for two at once."""
        with self._writing:
            self._postponed = set()
        try:
            yield
        finally:
            with self._writing:
                postponed, self._postponed = self._postponed, None
                self.remove_files(postponed)

    def forget(self, connection: Connection, task: int) -> Callable[[], None]:
        """A task is deleted: let go of its blobs in that transaction; return what removes their files after it."""
        gone = blob_refs.release(connection, task)
        return lambda: self.remove_files(gone)

    def sweep(self) -> int:
        """Let go of what no record has named for a week, and of files without a row; return the files removed."""
        since_unix_ns = self._clock() - _UNNAMED_NS
        held = schema.task_blobs.c
        with self._database.snapshot() as connection:
            tasks = connection.execute(select(held.task).where(held.time < since_unix_ns).distinct()).scalars().all()
            unnamed: dict[int, set[str]] = {}
            for task in tasks:
                rows = connection.execute(
                    select(held.sha256).where(held.task == task, held.time < since_unix_ns)
                ).scalars()
                if gone := set(rows) - set(blob_refs.read_refs(connection, task)):
                    unnamed[task] = gone
        with self._writing:
            if unnamed:
                with self._database.transaction() as connection:
                    for task, gone in unnamed.items():
                        # Again, within the lock: a frame may have named one in between.
                        blob_refs.release(connection, task, gone - set(blob_refs.read_refs(connection, task)))
            old = {name for name, came_s in self.files.names() if self._clock() / 1e9 - came_s > _UNHELD_S}
            with self._database.snapshot() as connection:
                lost = blob_refs.unheld(connection, old)
            self._remove(lost)
        return len(lost)

    def states(self, task_id: str, record: dict[str, dict[str, Any]]) -> None:
        """See blob_refs.with_states."""
        with self._database.snapshot() as connection:
            blob_refs.with_states(connection, task_row_id(connection, task_id), record)
