"""Sessions at rest: finding, opening and reading session folders and session zips.

Everything here is synchronous, reads only, and is safe from any thread. Nothing is unpacked to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

from telemetry.errors import BlobError, JournalError
from telemetry.events import TaskHeader
from telemetry.journal import SEGMENTS, SESSION_FILE, SegmentDamage, read_segments, read_session
from telemetry.process.interrupts import is_interrupt
from telemetry.sessions.archive import (
    blob_members,
    member_items,
    open_archive,
    open_member,
    read_document,
    segment_members,
)
from telemetry.storage.blobs import BLOBS, Blob, BlobFolder, blob_uri, is_sha256
from telemetry.wire import Frame

__all__ = [
    "Missing",
    "Session",
    "SessionSource",
    "blobs_at",
    "find_sources",
    "has_blob",
    "holds_task",
    "is_foreign_zip",
    "is_unwritten_zip",
    "open_blob",
    "open_session",
    "other_halves",
]


@dataclass(frozen=True, slots=True)
class Session:
    """A task's frames at rest.

    Attributes:
        size_bytes: of all segments, as a progress bar needs it.
        read: yields every sound frame by writer and in order, and what had to be skipped.
        blobs: that were there when the session was opened; `open_blob(path, sha256)` opens one.
        is_spool: it holds what was still owed to a server, and not all that this has had.
    """

    path: Path
    header: TaskHeader
    size_bytes: int
    read: Callable[[], Iterator[Frame | SegmentDamage]]
    blobs: Sequence[Blob] = ()
    is_spool: bool = False


@dataclass(frozen=True, slots=True)
class SessionSource:
    """Where a session lies, before it is opened.

    Attributes:
        size_bytes: on disk, as a progress bar needs it.
        named: asked for by this path. What was only found in a folder may be somebody else's zip.
    """

    path: Path
    size_bytes: int
    named: bool


@dataclass(frozen=True, slots=True)
class Missing:
    """A path at which nothing can be found, and why."""

    path: Path
    reason: str


def find_sources(paths: Iterable[Path]) -> tuple[list[SessionSource], list[Missing]]:
    """Return what lies at `paths`: session folders, session zips, and folders that hold either.

    Nothing is opened. A path without anything in it gives nothing; one that is not there, or cannot be looked
    into, is missing.
    """
    sources: list[SessionSource] = []
    missing: list[Missing] = []
    for path in paths:
        try:
            sources += _sources_at(path)
        except OSError as error:
            missing.append(Missing(path, f"there is no {path}" if not path.exists() else str(error)))
    # A folder and a session inside it may both have been named.
    return list({source.path: source for source in sources}.values()), missing


def _sources_at(path: Path) -> list[SessionSource]:
    if path.stat() and (path.is_file() or (path / SESSION_FILE).is_file()):
        return [SessionSource(path, _size_of(path), named=True)]
    # Two levels: the state directory holds sessions/ and spool/, and those hold the sessions.
    folders = [path, *(entry for entry in sorted(path.iterdir()) if entry.is_dir())]
    found = [item.parent for folder in folders for item in sorted(folder.glob(f"*/{SESSION_FILE}"))]
    # A hidden one is still being written or copied.
    zips = [item for folder in folders for item in sorted(folder.glob("*.zip")) if not item.name.startswith(".")]
    return [SessionSource(item, _size_of(item), named=False) for item in (*dict.fromkeys(found), *dict.fromkeys(zips))]


def _size_of(path: Path) -> int:
    try:
        if path.is_file():
            return path.stat().st_size
        frames = sum(segment.stat().st_size for segment in (path / SEGMENTS).glob("*.frames"))
        return frames + sum(blob.size_bytes for blob in BlobFolder(path / BLOBS).list())
    except OSError:
        return 0  # it went away, or may not be read: opening it will say so


def holds_task(path: Path, task_id: str) -> bool:
    """Say whether there is a session of this task at a path, folder or zip, that opens and has frames or blobs."""
    try:
        session = open_session(path)
    except (JournalError, OSError):
        return False
    return session.header.task_id == task_id and bool(session.size_bytes or session.blobs)


def other_halves(sources: Iterable[SessionSource]) -> list[Path]:
    """Return the sessions beside these, and not among them, that belong to the same tasks.

    A run that was killed or replaced itself and went on later leaves a folder and a zip, or several zips.
    """
    known = {source.path.absolute() for source in sources}
    found: list[Path] = []
    for path in sorted(known):
        try:
            task_id = open_session(path).header.task_id
            # By name first: a folder may hold thousands of sessions, which are not all opened.
            stem = path.stem if path.suffix == ".zip" else path.name
            names = {task_id, stem, stem.rpartition("-")[0] or stem}
            beside = [item for item in sorted(path.parent.iterdir()) if any(item.name.startswith(one) for one in names)]
        except (JournalError, OSError):
            continue
        found += [item for item in beside if item not in known and item not in found and holds_task(item, task_id)]
    return found


def is_foreign_zip(path: Path) -> bool:
    """Say whether a path is a sound zip that holds no session: somebody else's file in the same folder."""
    try:
        with open_archive(path) as archive:
            return SESSION_FILE not in archive.NameToInfo
    except JournalError:
        return False  # a folder, damaged, or refused: opening it will say which


def is_unwritten_zip(path: Path) -> bool:
    """Say whether a zip was still being written when its run was killed, and the folder beside it holds everything."""
    return _size_of_file(path) == 0 and (path.with_suffix("") / SESSION_FILE).is_file()


def _size_of_file(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def open_session(path: Path) -> Session:
    """Return the session in a folder or zip.

    Raises:
        JournalError: it is no session, or its session.json cannot be read.
    """
    if path.is_dir():
        sizes = [segment.stat().st_size for segment in (path / SEGMENTS).glob("*.frames")]
        blobs = BlobFolder(path / BLOBS).list()
        document = read_session(path)
        return Session(
            path, _header(path, document), sum(sizes), lambda: read_segments(path), blobs, is_spool="server" in document
        )
    if _size_of_file(path) == 0:
        raise JournalError(
            f"{path} is empty: its run was killed before it was written; the session's folder has the data"
        )
    with open_archive(path) as archive:
        try:
            document = read_document(archive, SESSION_FILE)
            sizes = [member.file_size for member, _ in segment_members(archive)]
            blobs = _blobs_of(archive)
        except JournalError as error:
            raise JournalError(f"{path} is not a session zip: {error}") from error
    return Session(path, _header(path, document), sum(sizes), lambda: _read_zip(path), blobs)


def _blobs_of(archive: ZipFile) -> list[Blob]:
    return [Blob(name, item.file_size, blob_uri(name)) for name, item in blob_members(archive).items()]


def blobs_at(path: Path) -> list[Blob]:
    """Return the blobs that can be read from a session folder or zip: none from a zip that is refused."""
    if path.is_dir():
        return BlobFolder(path / BLOBS).list()
    try:
        with open_archive(path) as archive:
            return _blobs_of(archive)
    except JournalError:
        return []  # a part that is being written, or is gone by now; opening the session says what is wrong with it


@contextmanager
def open_blob(path: Path, sha256: str) -> Iterator[IO[bytes]]:
    """Open a blob of a session folder or zip for reading and seeking; whoever reads it checks its sha256.

    Raises:
        JournalError: it is not there, or the zip is refused. Reading raises it on a damaged member, and OSError.
    """
    folder = BlobFolder(path / BLOBS)
    # The name comes from a record or a frame, which may be a stranger's.
    if not is_sha256(sha256) or (path.is_dir() and not folder.exists(sha256)):
        raise JournalError(f"the blob {sha256:.80} is not in {path}")
    if path.is_dir():
        try:
            file = folder.open(sha256)
        except BlobError as error:
            raise JournalError(str(error)) from error
        with file:
            yield file
        return
    with open_archive(path) as archive:
        member = blob_members(archive).get(sha256)
        if member is None:
            raise JournalError(f"the blob {sha256} is not in {path}")
        with open_member(archive, member, f"the blob {sha256} in {path}") as stored:
            yield stored


def has_blob(path: Path, sha256: str) -> bool:
    """Say whether a blob can be read from a session folder or zip; not from a zip that is refused."""
    try:
        with open_blob(path, sha256):
            return True
    except (OSError, JournalError) as error:
        if is_interrupt(error):
            raise
        return False  # a part that is being written, or is gone by now


def _header(path: Path, document: Any) -> TaskHeader:
    try:
        return TaskHeader(
            task_id=str(document["task_id"]),
            writer_id=bytes(16),
            project=str(document["project"]),
            name=str(document["name"]),
            type=str(document.get("type", "training")),
            created_unix_ns=int(document.get("created_unix_ns", 0)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JournalError(f"the {SESSION_FILE} of {path} is malformed: {error!r}") from error


def _read_zip(path: Path) -> Iterator[Frame | SegmentDamage]:
    with open_archive(path) as archive:
        try:
            for member, sha256 in segment_members(archive):
                for item in member_items(archive, member, sha256):
                    yield item if isinstance(item, Frame) else SegmentDamage(member.filename, item)
        except JournalError as error:
            raise JournalError(f"{path}: {error}") from error
