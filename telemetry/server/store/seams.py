"""The seams of the store: what its code asks of whatever keeps log, points and blobs, and what that must promise.

Here they are kept by SQLite and files: `SqlRanges` (sql_ranges.py), `SqlLog` (log.py), `SqlPoints` (sql_points.py),
`BlobFiles` (blob_files.py), `Database` and `DirectoryLock` (database.py). tests/store/contracts holds each to what is
said here. The other two seams, between handlers and what several servers share, are in
telemetry/server/shared/seams.py.

What is done in one transaction is handed its handle, which only the implementations look into: so points, which
frames were taken, records and totals are committed together or not at all. An implementation that keeps bytes elsewhere
writes them before the transaction that names them and removes them after the one that does not: what a crash leaves
is bytes that nobody names, for a sweep, and never a name without bytes.

All of it blocks, for threads. One transaction that writes is open at a time, so what takes one need not be safe for
two of them; what takes a snapshot is safe from any thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from telemetry.events import INT64_MAX, INT64_MIN
from telemetry.server.store.blob_files import Part
from telemetry.server.store.blocks import PlacedRun
from telemetry.server.store.chunks import Points
from telemetry.server.store.ranges import Ranges
from telemetry.server.store.sealing import Merge, Sealed

__all__ = ["Blobs", "ChunkPlace", "FrameRanges", "Lease", "Log", "LogFrame", "NewFrame", "SealedPoints", "Transactions"]


class Lease(Protocol):
    """The right to be the only one who writes what it is for: the store, or a shard of it.

    Promises: nobody else is given it before `release`, or before its holder can certainly write no more. Here the
    kernel sees to that: it frees the lock of a process that dies. One that ends by time must be checked by each
    transaction of `Transactions` before its commit (an epoch, read in it), which raises StoreUnavailable for who has
    lost it: there, and not in each method, so that no write can forget it.
    """

    def release(self) -> None:
        """Let the next one in; nothing may be written any more."""


class Transactions(Protocol):
    """Where transactions and snapshots come from.

    Promises of a transaction: all of it is committed at the end of the block and survives a power cut then, or
    nothing on any error, the block's own included; transactions happen one after the other.
    Of a snapshot: it is one committed state, and has all that was committed before it was opened; it never waits for
    a writer and never makes one wait.
    """

    @property
    def store_id(self) -> str:
        """The store's identity: random, made with it."""

    def transaction(self) -> AbstractContextManager[Connection]:
        """Open a transaction; the caller sees to it that there is one at a time.

        Raises:
            StoreUnavailable: no room, or nobody there: nothing was kept, and it is worth trying again.
            Unstorable: it does not take what it was given, and never will. StoreFailed: anything else.
        """

    def snapshot(self) -> AbstractContextManager[Connection]:
        """Open a view of one committed state.

        Raises:
            StoreFailed: it cannot be read.
        """

    def give_back(self, pages: int) -> int:
        """Give at most so many free pages of 8 KiB back to whoever lends the space; return how many these were.

        Raises:
            StoreUnavailable: as a transaction; nothing has changed.
        """

    def close(self) -> None:
        """Let go of it; nothing may be called after it."""


class FrameRanges(Protocol):
    """Which frames were taken, by (writer, sequence): what makes it harmless to send one again.

    A frame counts as taken from the commit that took it, whatever became of it: its points may be sealed and its task
    deleted. Two transactions never both find a frame missing and take it: one that would is refused (StoreUnavailable,
    and tried again) or made to wait for the other.
    """

    def held(self, snapshot: Connection, writer_id: bytes) -> Ranges:
        """Return which sequence numbers of a writer are taken; in a transaction, those that it noted itself too."""

    def note(self, transaction: Connection, grown: Mapping[bytes, tuple[Ranges, Ranges]]) -> None:
        """Write down what is taken now: of each writer what `held` said, and what it is with the new ones."""


class NewFrame(NamedTuple):
    """A frame for the log: the row id of its task, how many points it holds, and its bytes as they came."""

    task: int
    points: int
    data: bytes


class LogFrame(NamedTuple):
    """A frame of the log, and its position."""

    position: int
    data: bytes


class Log(Protocol):
    """Frames with points that are not sealed yet, whole, by task and in the order of their commits.

    A frame's position in the log is its name from then on: reads, seals and pushes say "up to" and "after" one. So
    positions promise more than to differ. They only rise, also over restarts, trims and transactions that failed, which
    may leave gaps. And they become visible in order: who has seen one of a task in a snapshot finds no lower one of
    that task in a later snapshot that was not in the first. (A sequence that is drawn from outside a lock does not
    promise that: the second to draw may be the first to commit.)

    Exactly-once is not the log's: the transaction that appends a frame also notes its (writer, sequence) in
    `FrameRanges`, and appends none that is noted there already.
    """

    def append(self, transaction: Connection, frames: Sequence[NewFrame]) -> Sequence[int]:
        """Append frames, of any tasks, and return the position of each; ascending. One write, however many there are.

        Raises:
            StoreUnavailable, as the transaction: none of them is there.
        """

    def claim(self, transaction: Connection, count: int) -> int:
        """Take positions for points that go past the log, sealed at once; return the first of `count` in a row."""

    def read(self, snapshot: Connection, task: int, after: int) -> Iterator[LogFrame]:
        """Yield a task's frames after a position, in order; read as they are asked for, so that a log is no list."""

    def tasks(self, snapshot: Connection) -> list[tuple[str, int]]:
        """Return the id and the row id of each task of which the log holds something."""

    def trim(self, transaction: Connection, task: int, upto: int) -> None:
        """Remove a task's frames up to a position, those included; again for the same is nothing.

        In the transaction that puts their points (`SealedPoints.put`), so that a point is in one of both at any
        moment, and never in two.
        """

    def drop(self, transaction: Connection, task: int) -> bool:
        """Remove some of what a deleted task left behind; True if there may be more. As long as a short commit."""


class ChunkPlace(NamedTuple):
    """A chunk without its columns: its place in the order of arrival, how many points, and their span (Unix ns)."""

    id: int
    position: int
    size: int
    non_finite: int
    lowest_iteration: int
    highest_iteration: int
    lowest_time: int
    highest_time: int


class SealedPoints(Protocol):
    """Points that have left the log, by task and series: chunks of one long series, and blocks of many short runs.

    What they are made of, and when they are merged, is sealing.py's; they are immutable, so a copy of one may be kept
    for as long as anybody likes. A part that `put` or `merge` was given is in every snapshot of a later commit, whole;
    what `merge` or `drop` took away stays readable for snapshots that were opened before.

    Order of arrival: the chunks and runs of one series by (position, id), a run before a chunk of its position. Who
    reads them all in that order, and then the log from `sealed_upto` on, has each point once.
    """

    def put(self, transaction: Connection, task: int, parts: Sealed, upto: int) -> None:
        """Add parts to a task, whose points are sealed up to a position of the log from then on.

        A few writes, however many series the parts are of.
        """

    def sealed_upto(self, snapshot: Connection, task: int) -> int:
        """Return up to which position of the log a task's points are sealed; 0: none are."""

    def chunks(
        self,
        snapshot: Connection,
        task: int,
        series: Collection[int],
        *,
        by_time: bool = False,
        low: int = INT64_MIN,
        high: int = INT64_MAX,
    ) -> dict[int, list[ChunkPlace]]:
        """Return the chunks of these series that reach into a range of times or iterations, by series, in order."""

    def overviews(self, snapshot: Connection, chunks: Sequence[ChunkPlace]) -> npt.NDArray[np.void]:
        """Return the cells of these chunks, CELL_DTYPE[n], one chunk after the other; no point is read for it."""

    def read(self, snapshot: Connection, chunks: Sequence[ChunkPlace]) -> list[Points]:
        """Return the points of each of these chunks, every bit of them."""

    def runs(self, snapshot: Connection, task: int, series: Collection[int]) -> Iterator[PlacedRun]:
        """Yield the runs of these series that are in blocks, of each series in order; little else is unpacked."""

    def merges(self, snapshot: Connection, task: int, *, ended: bool) -> list[Merge]:
        """Return what of a task is to be merged now. `ended`: nothing more will come."""

    def read_merge(self, snapshot: Connection, merge: Merge) -> Sealed | None:
        """Make of blocks what they become; None where they are not all there any more. No lock is needed."""

    def merge(self, transaction: Connection, merge: Merge, parts: Sealed) -> bool:
        """Put what `read_merge` made in the place of the blocks; False, and nothing happens, where one is gone."""

    def drop(self, transaction: Connection, task: int) -> bool:
        """Remove some of what a deleted task left behind; True if there may be more. As long as a short commit."""


class Blobs(Protocol):
    """The bytes of artifacts, models and media by their sha256, and of those that still arrive, in parts.

    Who holds a blob is the records' (blob_store.py): bytes come before the row that names them, and go after it. A
    part belongs to a task, a blob and a size, is a prefix of the blob at any instant, and survives whoever took it.
    One call at a time for each part; all else is safe from any thread.
    """

    @property
    def parts(self) -> Path:
        """A folder of this machine for what arrives."""

    def path(self, sha256: str) -> Path:
        """Return the file of this machine in which a blob's bytes are read, or would be."""

    def size(self, sha256: str) -> int | None:
        """Return a blob's size in bytes; None if it is not there, whole and right."""

    def take(self, path: Path, sha256: str) -> None:
        """Take a file of this machine, whose sha256 was found right, as a blob; the file is gone then.

        Raises:
            StoreUnavailable: the file is where it was.
        """

    def remove(self, sha256: str) -> None:
        """Remove a blob; one that is not there is nothing. One that cannot be removed is left to the next sweep."""

    def names(self) -> Iterator[tuple[str, float]]:
        """Yield each blob that is there, and when it came, in Unix seconds."""

    def room_for(self, size_bytes: int) -> bool:
        """Say whether so many bytes more may come."""

    def arrived(self, task_id: str, sha256: str) -> tuple[int, int]:
        """Return how much of a blob has arrived and its size, as its sender says; (0, 0) for nothing."""

    def append(self, part: Part, offset: int, data: bytes) -> int:
        """Append to a part and return where it ends now.

        Raises:
            WrongOffset: it does not end at `offset`; nothing was written. StoreUnavailable: there is no room.
        """

    def check(self, part: Part) -> Path | None:
        """Return the file of a part that is whole and has the right sha256; else throw it away and return None."""

    def forget(self, part: Part) -> None:
        """Throw a part away; one that is not there is nothing."""

    def remove_stale_parts(self) -> int:
        """Remove parts to which nothing was added for a week; return their number."""
