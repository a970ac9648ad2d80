"""Store: the server's memory. Frames go in, one transaction a group; answers in the API's words come out.

The server sees this class only. Writing belongs to one thread at a time; every read opens its own
snapshot and may run on any thread, also while a group is being written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from telemetry.clock import unix_ns
from telemetry.disk import make_private_folder
from telemetry.errors import ConfigurationError
from telemetry.server.store import blob_refs, deletion, export, model_index, reads, reports, schema, status
from telemetry.server.store.attempts import cuts_by_series
from telemetry.server.store.backup import (
    BackupMade,
    BackupWriter,
    OnBackupProgress,
    check_takeable,
    copy_pages,
    lineage,
    take_over,
)
from telemetry.server.store.bands import Band, query_band
from telemetry.server.store.blob_files import BlobFiles
from telemetry.server.store.blob_store import BlobStore
from telemetry.server.store.content import FrameContent
from telemetry.server.store.database import DATABASE_NAME, Database, DirectoryLock
from telemetry.server.store.gate import ProjectLimits
from telemetry.server.store.log import SqlLog
from telemetry.server.store.parts import TaskParts
from telemetry.server.store.point_store import PointStore, SealingLimits, SeriesChange
from telemetry.server.store.points import PointsQuery, SampledSeries, query_points
from telemetry.server.store.queries import TaskQuery, read_query
from telemetry.server.store.ranges import Ranges
from telemetry.server.store.reads import ConsoleQuery
from telemetry.server.store.reports import ReportsQuery
from telemetry.server.store.retention import Retention, RetentionPlan, plan_retention
from telemetry.server.store.seams import FrameRanges, Log, SealedPoints
from telemetry.server.store.sql_points import SqlPoints
from telemetry.server.store.sql_ranges import SqlRanges
from telemetry.server.store.state import WriterCache
from telemetry.server.store.table import TasksQuery, read_choices, read_tasks
from telemetry.server.store.writer import TaskChange, Transaction

__all__ = ["Store", "Written"]

# Totals of tasks kept in memory by the writer, some 1 kB each.
_MAX_CACHED_TASKS = 20_000
# Free pages that go back to the file system at once: 4 MB, some 10 ms of the writer's time.
_GIVE_BACK_PAGES = 512
# Writers whose sequence numbers are kept in memory.
_MAX_CACHED_WRITERS = 10_000


@dataclass(frozen=True, slots=True)
class Written:
    """What a committed transaction did.

    Attributes:
        stored: for each frame, True if it was new and False if the store had it already.
        changes: by task id.
        refused: by position among the frames: why that one may not be written, and was not.
        ignored: positions of frames of deleted tasks: taken, and thrown away.
    """

    stored: list[bool]
    changes: dict[str, TaskChange]
    refused: dict[int, str] = field(default_factory=dict)
    ignored: frozenset[int] = frozenset()


class Store:
    """A directory with one SQLite database, made if it is not there (folder 0700, files 0600).

    Args:
        stopping: asked now and then while a store of an older version is moved, which may take minutes.

    Raises:
        ConfigurationError: another server uses the directory, or a newer version wrote it.
        StoreUnavailable: an older version wrote it, and the disk is full or failing while it is moved.
        MoveStopped: because of `stopping`.
    """

    schema_version = schema.SCHEMA_VERSION

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int | None = None,
        readers: int = 4,
        project_limits: ProjectLimits | None = None,
        min_free_share: float = 0.0,
        sealing: SealingLimits | None = None,
        clock: Callable[[], int] = unix_ns,
        stopping: Callable[[], bool] | None = None,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._project_limits = project_limits or ProjectLimits()
        try:
            make_private_folder(directory)
            self._lock = DirectoryLock(directory)
        except OSError as error:
            raise ConfigurationError(
                f"the server's data cannot be kept in {directory}: {error.strerror or error}. "
                "--directory or TELEMETRY_DIR names another folder"
            ) from error
        try:
            check_takeable(directory)
            self._database = Database(
                directory / DATABASE_NAME, max_bytes=max_bytes, readers=readers, stopping=stopping
            )
            # The backup that the directory was until now; None if it was none.
            self.restored = take_over(directory)
            self._lineage = lineage(directory, self._database.store_id)
        except BaseException:
            self._lock.release()
            raise
        self._cache: WriterCache | None = None
        # Only committed ranges, replaced whole; so a lookup from another thread needs no lock.
        self._ranges: dict[bytes, Ranges] = {}
        self._writing = threading.Lock()
        # Who keeps something of a task beside the database: called in the transaction that deletes a task, while its
        # rows are still there, with its row id; what it returns is called after the commit.
        self.on_deleted: list[Callable[[Connection, int], Callable[[], None]]] = []
        self._frame_ranges: FrameRanges = SqlRanges()
        self._log: Log = SqlLog()
        self._sealed: SealedPoints = SqlPoints()
        self.point_store = PointStore(
            self._database, self._log, self._sealed, self._writing, self._transaction, sealing or SealingLimits()
        )
        files = BlobFiles(directory, min_free_share=min_free_share)
        self.blobs = BlobStore(files, self._database, self._writing, self._project_limits, clock)
        self.on_deleted.append(self.blobs.forget)

    def close(self) -> None:
        """Close the database; the store cannot be used after it."""
        self._database.close()
        self._lock.release()

    # -- writing

    def has_frame(self, writer_id: bytes, sequence: int) -> bool:
        """Say whether a frame is already committed; safe from any thread, no decoding needed."""
        known = self._ranges.get(writer_id)
        if known is None:
            with self._database.snapshot() as connection:
                known = self._frame_ranges.held(connection, writer_id)
        return sequence in known

    @property
    def store_id(self) -> str:
        """The store's identity for its clients: random, made with it; another one once it was restored."""
        return self._lineage

    def held_frames(self, writer_id: bytes) -> list[tuple[int, int]]:
        """Return which frames of a writer are committed, as inclusive ranges; safe from any thread."""
        known = self._ranges.get(writer_id)
        if known is None:
            with self._database.snapshot() as connection:
                known = self._frame_ranges.held(connection, writer_id)
        return known.pairs()

    def write(self, contents: Sequence[FrameContent]) -> Written:
        """Store these frames in one transaction; all of them or, on an error, none.

        Raises:
            StoreUnavailable: the disk is full or failing.
        """
        self.point_store.relieve()
        with self._writing:
            with self._transaction() as (connection, cache):
                transaction = Transaction(
                    connection,
                    cache,
                    self._known_ranges,
                    self._project_limits,
                    frame_ranges=self._frame_ranges,
                    log=self._log,
                    points=self.point_store,
                    now_unix_ns=self._clock(),
                )
                stored = [transaction.apply(content) for content in contents]
                transaction.finish()
            cache.trim(_MAX_CACHED_TASKS, transaction.changes)
            ended = [task_id for task_id, change in transaction.changes.items() if change.ended]
            self.point_store.feed(transaction.logged, transaction.begun_anew, ended)
            if len(self._ranges) > _MAX_CACHED_WRITERS:
                self._ranges = {}
            self.blobs.remove_files(transaction.lost_blobs)
            self._ranges.update((writer, now) for writer, (_, now) in transaction.ranges.items())
            return Written(stored, transaction.changes, transaction.refused, frozenset(transaction.ignored))

    @contextmanager
    def _transaction(self) -> Iterator[tuple[Connection, WriterCache]]:
        """Open the write transaction with what is known of committed rows; the writer's lock must be held."""
        try:
            with self._database.transaction() as connection:
                if self._cache is None:
                    self._cache = WriterCache(connection)
                yield connection, self._cache
        except BaseException:
            # It may know of what was rolled back.
            self._cache = None
            raise

    def delete_task(self, task_id: str) -> None:
        """Delete a task: it is in no answer any more. Its rows go by `remove_deleted`.

        Raises:
            NotFound, StoreUnavailable: nothing was deleted.
        """
        with self._writing:
            with self._database.transaction() as connection:
                task = deletion.bury(connection, task_id)
                after = [forget(connection, task) for forget in self.on_deleted]
            # It knows the task, and what the task's project holds.
            self._cache = None
            self.point_store.forget(task_id)
        for step in after:
            step()

    def remove_deleted(self) -> bool:
        """Remove a slice of what deleted tasks left behind; True if there may be more. Writing goes on in between."""
        with self._writing, self._database.transaction() as connection:
            task = deletion.next_buried(connection)
            if task is None:
                return False
            deletion.remove_slice(connection, task, (self._log, self._sealed))
            return True

    def give_back(self) -> bool:
        """Give a slice of the database's free space back to the disk; True if there may be more.

        Raises:
            StoreUnavailable: the disk is failing.
        """
        with self._writing:
            return self._database.give_back(_GIVE_BACK_PAGES) > 0

    def plan_retention(self, project: str | None, retention: Retention) -> RetentionPlan:
        """Return which tasks have been kept for long enough; see store/retention.py."""
        with self._database.snapshot() as connection:
            return plan_retention(connection, project, retention, self._clock())

    def now_unix_ns(self) -> int:
        """Return the time by the store's clock."""
        return self._clock()

    @property
    def stuck_bytes(self) -> int:
        """Return the free space in the database's file that only `telemetry compact` gives back."""
        with self._writing:
            return self._database.stuck_bytes

    def backup(self, folder: Path, on_progress: OnBackupProgress) -> BackupMade:
        """Make a backup of the store in another folder, one at a time; frames are written meanwhile.

        Args:
            on_progress: what it raises ends the backup.
        Raises:
            ConfigurationError, BackupFailed: as BackupWriter.write does.
        """
        with self._writing:
            source = self._database.writing_connection()
        page_bytes = source.execute("PRAGMA page_size").fetchone()[0]

        def copy(path: Path, on_bytes: Callable[[int, int], None]) -> None:
            stepped_s = time.perf_counter()

            def between(done: int, total: int) -> None:
                nonlocal stepped_s
                took_s = time.perf_counter() - stepped_s
                self._writing.release()
                try:
                    on_bytes(done * page_bytes, total * page_bytes)
                    # As long again for the frames that wait.
                    time.sleep(took_s)
                finally:
                    self._writing.acquire()
                    stepped_s = time.perf_counter()

            with self._writing:
                copy_pages(source, path, between)

        with self.blobs.keeping_files():
            writer = BackupWriter(self._directory, folder, store_id=self._database.store_id, on_progress=on_progress)
            return writer.write(copy)

    def _known_ranges(self, connection: Connection, writer_id: bytes) -> Ranges:
        known = self._ranges.get(writer_id)
        return self._frame_ranges.held(connection, writer_id) if known is None else known

    # -- reading

    def tasks(self, query: TasksQuery) -> dict[str, Any]:
        """Return one page of the table of tasks."""
        self.point_store.freshen()
        with self._database.snapshot() as connection:
            return read_tasks(connection, query, self._clock())

    def query(self, query: TaskQuery) -> dict[str, Any]:
        """Return one page of the tasks that match a query.

        Raises:
            InvalidQuery: something asked for cannot be; says what.
        """
        self.point_store.freshen()
        with self._database.snapshot() as connection:
            return read_query(connection, query, self._clock())

    def choices(self, project: str | None, subprojects: bool, within: tuple[str, ...] | None = None) -> dict[str, Any]:
        """Return what the table of tasks can be filtered by, and the columns that it can show."""
        self.point_store.freshen()
        with self._database.snapshot() as connection:
            return read_choices(connection, project, subprojects, within)

    def projects(self, within: tuple[str, ...] | None = None) -> dict[str, Any]:
        """Return each project with the number of its tasks; only those `within` some, if given."""
        with self._database.snapshot() as connection:
            return reads.read_projects(connection, within)

    def project_of(self, task_id: str) -> str | None:
        """Return a task's project, "" if it has not said yet; None for an unknown task."""
        return self.projects_of([task_id]).get(task_id)

    def projects_of(self, task_ids: Sequence[str]) -> dict[str, str]:
        """Return the project of each of these tasks that is known."""
        with self._database.snapshot() as connection:
            return reads.read_projects_of(connection, task_ids)

    def task(self, task_id: str) -> dict[str, Any]:
        """Return a task with its record and counts.

        Raises:
            NotFound: no frame of this task has been stored; so for all methods that take a task id.
        """
        self.point_store.freshen(task_id)
        with self._database.snapshot() as connection:
            found = reads.read_task(connection, task_id, self._clock())
            blob_refs.with_states(connection, reads.task_row_id(connection, task_id), found["record"])
            return found

    def stands(self, task_id: str, keys: Sequence[tuple[str, str]]) -> tuple[str, int]:
        """Return a task's status as it said, and when one of these (section, key) was last changed, Unix ns or 0."""
        with self._database.snapshot() as connection:
            return reads.read_stands(connection, task_id, keys)

    def task_summary(self, task_id: str) -> dict[str, Any]:
        """Return a task as the table shows it, without its record."""
        self.point_store.freshen(task_id)
        with self._database.snapshot() as connection:
            return reads.read_summary(connection, task_id, self._clock())

    def moved_by_time(self, since_unix_ns: int) -> tuple[list[str], int]:
        """Return the ids of tasks whose status has changed since a moment by time alone, and the moment now."""
        now_unix_ns = self._clock()
        with self._database.snapshot() as connection:
            return status.moved_by_time(connection, since_unix_ns, now_unix_ns), now_unix_ns

    def series(self, task_id: str, kind: str | None = None) -> dict[str, Any]:
        """Return the statistics of a task's series."""
        self.point_store.freshen(task_id)
        with self._database.snapshot() as connection:
            return reads.read_series(connection, task_id, kind)

    def points(self, task_id: str, series: Sequence[int], query: PointsQuery) -> list[tuple[int, SampledSeries]]:
        """Return the points or outlines of some series of a task, all from one state of the store.

        Raises:
            NotFound: a series is not one of this task's.
        """
        with self._parts(task_id) as parts:
            parts.check(series)
            cuts = {} if query.all_attempts else cuts_by_series(parts, series)
            runs = parts.loose(series)
            return [(one, query_points(parts, one, runs.get(one, ()), query, cuts.get(one, ()))) for one in series]

    def series_changed(self, task_id: str, after: int) -> dict[int, SeriesChange]:
        """Return the state of each series that had points in frames after a position in the log, by id."""
        return self.point_store.changed_series(task_id, after)

    @contextmanager
    def _parts(self, task_id: str) -> Iterator[TaskParts]:
        """Open one state of all points of a task."""
        # Before the snapshot: see parts.py.
        view = self.point_store.view(task_id)
        with self._database.snapshot() as connection:
            yield TaskParts(self._sealed, connection, reads.task_row_id(connection, task_id), view)

    def bands(self, task_id: str, series: Sequence[int], query: PointsQuery) -> list[tuple[int, Band]]:
        """Return, for each of these series, the band over all ranks of it, from one state of the store.

        Raises:
            NotFound: a series is not one of this task's.
        """
        with self._parts(task_id) as parts:
            parts.check(series)
            cuts = {} if query.all_attempts else cuts_by_series(parts, series)
            bands = []
            for one, ranks in zip(series, parts.ranks_of(series), strict=True):
                bands.append((one, query_band(parts, ranks, parts.loose(ranks), query, cuts.get(one, ()))))
            return bands

    def console(self, task_id: str, query: ConsoleQuery) -> dict[str, Any]:
        """Return console lines of a task."""
        with self._database.snapshot() as connection:
            return reads.read_console(connection, task_id, query)

    def models(self, task_id: str) -> dict[str, Any]:
        """Return the model files of a task."""
        with self._database.snapshot() as connection:
            return reads.read_models(connection, task_id)

    def model(self, model_id: str, within: tuple[str, ...] | None = None) -> dict[str, Any]:
        """Return a model by its id.

        Raises:
            NotFound: no task `within` these projects has one.
        """
        with self._database.snapshot() as connection:
            return model_index.read_model(connection, model_id, within)

    def find_models(self, query: model_index.ModelsQuery) -> dict[str, Any]:
        """Return models of all tasks, the youngest first."""
        with self._database.snapshot() as connection:
            return model_index.find_models(connection, query)

    def values(self, task_id: str) -> dict[str, Any]:
        """Return the single values of a task."""
        with self._database.snapshot() as connection:
            return reads.read_values(connection, task_id)

    def plots(self, task_id: str, query: ReportsQuery, *, figures: bool = True) -> dict[str, Any]:
        """Return plots of a task, with their figures as far as one answer goes."""
        with self._database.snapshot() as connection:
            return reports.read_plots(connection, task_id, query, figures=figures)

    def media(self, task_id: str, query: ReportsQuery) -> dict[str, Any]:
        """Return images, sounds and other media of a task."""
        with self._database.snapshot() as connection:
            held = blob_refs.held_blobs(connection, reads.task_row_id(connection, task_id))
            return reports.read_media(connection, task_id, query, held)

    # -- exporting

    def export_points(self, task_id: str, after: export.Cursor | None) -> dict[str, Any]:
        """Return a page of the task's points, every bit of them; see store/export.py."""
        with self._parts(task_id) as parts:
            return export.read_points_page(parts, after)

    def export_console(self, task_id: str, after: int) -> dict[str, Any]:
        """Return a page of the task's console lines, with the frames they came in."""
        with self._database.snapshot() as connection:
            return export.read_console_page(connection, task_id, after)

    def export_plots(self, task_id: str, after: int) -> dict[str, Any]:
        """Return a page of the task's plots."""
        with self._database.snapshot() as connection:
            return reports.read_plots_page(connection, task_id, after)

    def record(self, task_id: str) -> dict[str, Any]:
        """Return the fold of the task's record, with times in ns."""
        with self._database.snapshot() as connection:
            return export.read_record(connection, task_id)

    def records(self, task_ids: Sequence[str], within: tuple[str, ...] | None = None) -> dict[str, Any]:
        """Return the records of several tasks, the first ones that fit an answer; see export.read_records."""
        with self._database.snapshot() as connection:
            return export.read_records(connection, task_ids, within)

    def export_events(self, task_id: str) -> dict[str, Any]:
        """Return the task's record, single values, models and media, with times in ns."""
        with self._database.snapshot() as connection:
            return export.read_events(connection, task_id)
