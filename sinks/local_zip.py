"""The local sink: a session folder while the task runs, one zip of it at the end.

The zip is the session folder, stored (frames are deflated already), with `manifest.json` naming the sha256 of
every member. A killed process leaves the folder, which imports just as well.

A long run may be zipped in parts while it goes on (`max_zip_bytes`): each holds some segments, the blobs that are new
and session.json, and each can be imported by itself, in any order. Several processes of one task may share folder and
target: each zips its own segments, under the next number where the name is taken, and the last one to end removes the
folder.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import itertools
import json
import logging
import os
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from telemetry.disk import DaemonExecutor, absolute_path, make_private_folder
from telemetry.errors import ConfigurationError, JournalError, SinkUnavailable
from telemetry.events import TaskHeader
from telemetry.journal import SEGMENTS, SESSION_FILE, Journal
from telemetry.settings import Settings
from telemetry.storage.blobs import BLOBS, BlobFolder
from telemetry.wire import Frame

__all__ = ["MANIFEST_FILE", "LocalZipSink", "open_sink", "split_target", "zip_session"]

log = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = 1
# What telemetry.sessions.archive takes of strangers, which is not imported where runs begin.
MAX_MEMBERS = 32_768
_COPY_BYTES = 1024 * 1024

# Beside the segments of a forked child, which makes no zip of its own: the parent zips them, too, and removes
# them if the child has closed them.
_FORKED_SUFFIX = ".forked"
_CLOSED_SUFFIX = ".closed"
_MARKS = (_FORKED_SUFFIX, _CLOSED_SUFFIX)


class LocalZipSink:
    """Writes frames into a session folder and zips it at close.

    Args:
        folder: the parent of the session folder, which is named by the task id.
        zip_path: the zip to write at close; None keeps the folder and makes no zip. A path without the
            suffix .zip is a folder in which the zip is named by the task id.
        commit: fsync each write before it returns, not once a second.
        max_zip_bytes: so much is zipped at a time while the run goes on: run-0001.zip, run-0002.zip, ..., and what
            is left at close run.zip. A frame that is larger makes a larger zip. None zips once, at close.
    """

    spool = False

    def __init__(
        self,
        folder: Path,
        zip_path: Path | None,
        *,
        fsync_interval_s: float = 1.0,
        segment_bytes: int = 64 * 1024 * 1024,
        commit: bool = False,
        max_zip_bytes: int | None = None,
        name: str = "zip",
    ) -> None:
        self.name = name
        self._parent = folder
        self._zip_path = zip_path
        self._fsync_interval_s = fsync_interval_s
        self._max_zip_bytes = None if zip_path is None else max_zip_bytes
        # An append takes a quarter at most, so that a segment that takes one more is full and not over.
        self._append_bytes = max(1, (self._max_zip_bytes or 0) // 4)
        self._segment_bytes = segment_bytes
        if self._max_zip_bytes is not None:
            self._segment_bytes = min(segment_bytes, max(1, 3 * self._append_bytes))
        self._commit = commit
        self._is_clone = False
        self._writer_hex = ""
        # Not the disk thread: frames must be safe on disk while a part is zipped.
        self._zipper = DaemonExecutor("telemetry-zip-parts")
        self._zipping: asyncio.Task[None] | None = None
        self._has_parts = False
        # Members of the parts that are blobs: each travels in one part.
        self._zipped_blobs: dict[str, int] = {}
        self._disk = DaemonExecutor("telemetry-zip")
        self._journal: Journal | None = None
        self.session_folder: Path | None = None
        self.zip_file: Path | None = None
        # The zip that lay in our place when the run began, which is an older run's.
        self._older_zip: tuple[int, int] | None = None
        # Told how many events are lost because somebody took the folder away; they were delivered.
        self.on_lost: Callable[[int], None] = lambda events: None

    def places(self, task_id: str) -> list[Path]:
        """Return where a task's session lies, or will: its folder while it is written, its zips after it."""
        zips: list[Path] = []
        if self._zip_path is not None:
            target = self._zip_path if self._zip_path.suffix == ".zip" else self._zip_path / f"{task_id}.zip"
            parts = target.parent.glob(f"{target.stem}-[0-9]*.zip") if target.parent.is_dir() else []
            zips = [*sorted(parts), target]
        own = [path for path in (self.session_folder, self.zip_file) if path is not None]
        return list(dict.fromkeys([self._parent / task_id, *zips, *own]))

    @property
    def zips(self) -> bool:
        """True if a zip is made at close; else the folder is what is kept."""
        return self._zip_path is not None

    def clone(self) -> LocalZipSink:
        """Return a sink for a forked child: it writes segments into the same session folder; the parent zips."""
        twin = LocalZipSink(
            self._parent,
            None,
            fsync_interval_s=self._fsync_interval_s,
            segment_bytes=self._segment_bytes,
            commit=self._commit,
            name=self.name,
        )
        # A twin of one that makes no zip leaves its segments to nobody.
        twin._is_clone = self._zip_path is not None or self._is_clone
        return twin

    async def open(self, task: TaskHeader) -> None:
        self._writer_hex = task.writer_id.hex()
        self.session_folder = self._parent / task.task_id
        if self._zip_path is not None:
            # A zip of its own for each rank: none may wait for the others, or remove what they still write.
            of_rank = f"-rank{task.rank}" if task.rank else ""
            self.session_folder = self._parent / f"{task.task_id}{of_rank}"
            if self._zip_path.suffix == ".zip":
                self.zip_file = self._zip_path.with_stem(f"{self._zip_path.stem}{of_rank}")
            else:
                self.zip_file = self._zip_path / f"{task.task_id}{of_rank}.zip"
            self._older_zip = _identity(self.zip_file)
        journal = Journal(
            self.session_folder,
            self._disk,
            segment_bytes=self._segment_bytes,
            fsync_interval_s=self._fsync_interval_s,
            commit=self._commit,
        )
        journal.on_lost = lambda lost: self.on_lost(sum(lost.values()))
        try:
            await journal.open(task)
            if self._is_clone:
                await asyncio.get_running_loop().run_in_executor(self._disk, self._mark, _FORKED_SUFFIX)
        except (JournalError, OSError) as error:
            raise SinkUnavailable(str(error)) from error
        self._journal = journal

    async def write(self, frames: Sequence[Frame]) -> None:
        if self._journal is None:
            raise SinkUnavailable("the session folder is not open")
        try:
            for some in [frames] if self._max_zip_bytes is None else _slices(frames, self._append_bytes):
                await self._journal.append(some)
        except OSError as error:
            raise SinkUnavailable(f"{self.session_folder} cannot be written: {error}") from error
        if self._max_zip_bytes is not None and self._journal.full_segments and self._zipping is None:
            self._zipping = asyncio.get_running_loop().create_task(self._zip_parts(self._journal))

    async def sync(self) -> None:
        """Return when everything written so far is on stable storage.

        Raises:
            OSError: the disk refuses.
        """
        if self._journal is not None:
            await self._journal.sync()

    async def close(self) -> None:
        """Sync, zip and remove the folder; the folder stays if the zip cannot be written.

        Raises:
            JournalError: the zip could not be written; the data are safe in the folder, if that is still there.
        """
        if self._journal is None:
            self._disk.shutdown(wait=False)
            return
        journal, self._journal = self._journal, None
        try:
            if self._zipping is not None:
                await self._zipping
            await journal.close()
            await asyncio.get_running_loop().run_in_executor(self._disk, self._finish)
        except OSError as error:
            what = self.zip_file or self.session_folder
            raise JournalError(f"{what} could not be written: {error}. {self._where_data_are()}") from error
        finally:
            self._disk.shutdown(wait=False)
            self._zipper.shutdown(wait=False)

    def _where_data_are(self) -> str:
        folder = self.session_folder
        if folder is not None and (folder / SESSION_FILE).is_file() and any((folder / SEGMENTS).glob("*.frames")):
            return f"The data are safe in {folder}"
        return f"{folder} is not there any more"

    async def _zip_parts(self, journal: Journal) -> None:
        """Zip the full segments, each in a part of its own. What fails stays in the folder, for the last zip."""
        assert self.session_folder is not None and self.zip_file is not None
        loop = asyncio.get_running_loop()
        try:
            while paths := journal.full_segments[:1]:
                part = await loop.run_in_executor(self._zipper, _reserve_part, self.zip_file)
                without = frozenset(self._zipped_blobs)
                zipped = await loop.run_in_executor(
                    self._zipper, _zip_reserved, self.session_folder, part, paths, without
                )
                self._zipped_blobs.update((name, size) for name, size in zipped.items() if name.startswith(f"{BLOBS}/"))
                self._has_parts = True
                await journal.give_away(paths)
        except OSError as error:
            log.warning("%s: a part could not be zipped: %s; it stays in %s", self.name, error, self.session_folder)
        finally:
            self._zipping = None

    def _finish(self) -> None:
        """Zip what is left of ours and of forked children that have closed, and remove it. On the disk thread."""
        folder = self.session_folder
        assert folder is not None
        if self._is_clone:
            self._mark(_CLOSED_SUFFIX)
        if self.zip_file is None:
            return
        ours, children, others = _sorted_segments(folder, self._writer_hex)
        has_new_blobs = any(
            f"{BLOBS}/{blob.sha256}" not in self._zipped_blobs for blob in BlobFolder(folder / BLOBS).list()
        )
        if not has_new_blobs and not any(path.stat().st_size for path in (*ours, *children)) and self._has_parts:
            zipped = {path.relative_to(folder).as_posix(): 0 for path in ours}
        else:
            target = _reserve(self.zip_file, folder.name, self._older_zip)
            segments = None if not others else [*ours, *children]
            zipped = _zip_reserved(folder, target, segments, frozenset(self._zipped_blobs))
            self.zip_file = target
        _remove_zipped(folder, self._zipped_blobs | zipped, ours)

    def _mark(self, suffix: str) -> None:
        assert self.session_folder is not None
        (self.session_folder / SEGMENTS / f"{self._writer_hex}{suffix}").touch(mode=0o600)


def _slices(frames: Sequence[Frame], max_bytes: int) -> Iterator[list[Frame]]:
    """Cut frames into runs of at most so many bytes; a frame that is larger is a run."""
    some: list[Frame] = []
    size = 0
    for frame in frames:
        if some and size + len(frame) > max_bytes:
            yield some
            some, size = [], 0
        some.append(frame)
        size += len(frame)
    if some:
        yield some


def _sorted_segments(folder: Path, writer_hex: str) -> tuple[list[Path], list[Path], list[Path]]:
    """Return the segments that only this sink writes; those of forked children that may still write; all others.

    The others belong to processes that make zips of their own.
    """
    files = sorted((folder / SEGMENTS).iterdir())
    segments = [path for path in files if path.suffix == ".frames"]
    closed = {path.stem for path in files if path.suffix == _CLOSED_SUFFIX}
    forked = {path.stem for path in files if path.suffix == _FORKED_SUFFIX}
    ours: list[Path] = []
    children: list[Path] = []
    others: list[Path] = []
    for path in segments:
        writer = path.name.partition("-")[0]
        whose = ours if writer == writer_hex or writer in closed else children if writer in forked else others
        whose.append(path)
    return ours, children, others


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from the one that replaces it; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _reserve(target: Path, task_id: str, older: tuple[int, int] | None) -> Path:
    """Return the name for the last zip: `target`, or the next number if another process took it meanwhile.

    That may be of the same task, or another run that was given the same target. Only what was there before the run
    began, `older`, is replaced.
    """
    make_private_folder(target.parent)
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        is_older = _identity(target) == older and not _is_of_task(target, task_id)
        return target if is_older else _reserve_part(target)
    return target


def _reserve_part(target: Path) -> Path:
    """Make an empty file run-0001.zip, or with the next number that is free; it is ours then."""
    make_private_folder(target.parent)
    for number in itertools.count(1):
        part = target.with_name(f"{target.stem}-{number:04d}.zip")
        try:
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            continue
        return part
    raise AssertionError("there is always a next number")


def _is_of_task(path: Path, task_id: str) -> bool:
    """Say whether a file is a zip of this task, or is becoming one."""
    from telemetry.sessions.archive import (  # not where a run begins: only where a zip is there
        open_archive,
        read_document,
    )

    try:
        if path.stat().st_size == 0:
            return True
        with open_archive(path) as archive:
            document = read_document(archive, SESSION_FILE)
    except (OSError, JournalError):
        return False
    return isinstance(document, dict) and document.get("task_id") == task_id


def _zip_reserved(
    folder: Path, target: Path, segments: Collection[Path] | None, without: Collection[str]
) -> dict[str, int]:
    """Zip into a reserved name; on an error an empty file is not left in its place."""
    try:
        return zip_session(folder, target, segments, without)
    except OSError:
        if target.is_file() and target.stat().st_size == 0:
            target.unlink()
        raise


def zip_session(
    folder: Path, zip_path: Path, segments: Collection[Path] | None = None, without: Collection[str] = ()
) -> dict[str, int]:
    """Zip a session folder: written aside, synced and renamed, so that a zip is whole or not there.

    Args:
        segments: those to zip, with session.json and the blobs; None zips all that the folder holds.
        without: members that an earlier zip has.
    Returns:
        The members and their sizes in bytes.
    Raises:
        OSError: the zip cannot be written, or would have more members than a reader takes; the folder is as it was.
    """
    make_private_folder(zip_path.parent)
    members = [path for path in _members(folder, segments) if path.relative_to(folder).as_posix() not in without]
    # With the manifest. The folder is read however many there are.
    if len(members) >= MAX_MEMBERS:
        raise OSError(errno.EFBIG, f"a session zip holds at most {MAX_MEMBERS} files, and these are {len(members)}")
    part = zip_path.with_name(f".{zip_path.name}.{os.getpid()}.part")
    digests: dict[str, dict[str, object]] = {}
    try:
        with open(part, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as raw:
            with zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                for path in members:
                    member = path.relative_to(folder).as_posix()
                    try:
                        digests[member] = _add_member(archive, path, member)
                    except FileNotFoundError:
                        if path.parent.name != BLOBS:
                            raise
                        # Replaced in this moment; the record that names its successor comes behind.
                        log.debug("the blob %s has gone", path)
                manifest = {"format": MANIFEST_FORMAT, "files": digests}
                archive.writestr(MANIFEST_FILE, json.dumps(manifest, indent=1))
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(zip_path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return {member: int(str(entry["bytes"])) for member, entry in digests.items()}


def _members(folder: Path, segments: Collection[Path] | None) -> list[Path]:
    blobs = [folder / BLOBS / blob.sha256 for blob in BlobFolder(folder / BLOBS).list()]
    if segments is not None:
        return [folder / SESSION_FILE, *segments, *blobs]
    others = [item for item in folder.rglob("*") if item.is_file() and item.suffix not in _MARKS]
    # Hidden ones are being written.
    return sorted([*(item for item in others if item.parent.name != BLOBS), *blobs])


def _add_member(archive: zipfile.ZipFile, path: Path, member: str) -> dict[str, object]:
    digest = hashlib.sha256()
    size = 0
    info = zipfile.ZipInfo.from_file(path, member, strict_timestamps=False)
    with path.open("rb") as source, archive.open(info, "w", force_zip64=True) as target:
        while block := source.read(_COPY_BYTES):
            digest.update(block)
            size += len(block)
            target.write(block)
    return {"sha256": digest.hexdigest(), "bytes": size}


def _remove_zipped(folder: Path, zipped: Mapping[str, int], ours: Collection[Path]) -> None:
    """Remove our segments that a zip holds, and the folder with the last of them.

    What has grown since, or belongs to a process that may still write, stays: it imports as well.
    """
    for path in ours:
        if path.stat().st_size == zipped.get(path.relative_to(folder).as_posix()):
            path.unlink()
    for blob in BlobFolder(folder / BLOBS).list():
        # Whoever else names it will find it in this zip.
        if blob.size_bytes == zipped.get(f"{BLOBS}/{blob.sha256}"):
            BlobFolder(folder / BLOBS).remove(blob.sha256)
    left = [path for path in folder.rglob("*") if path.is_file()]
    if any(path.suffix == ".frames" for path in left):
        return
    # A blob that was cut off while it was copied is of no use to anybody.
    kept = [path for path in left if path.suffix not in _MARKS and not path.name.startswith(".part-")]
    known = {path.relative_to(folder).as_posix(): path for path in kept}
    # Without others all files were zipped; with them, only what every zip holds may go.
    if any(path.stat().st_size != zipped.get(member) for member, path in known.items() if member != SESSION_FILE):
        return
    for path in left:
        path.unlink(missing_ok=True)
    for path in sorted((item for item in folder.rglob("*")), reverse=True):
        path.rmdir()
    folder.rmdir()


def split_target(url: str) -> tuple[str, int | None]:
    """Return (path, max_zip_bytes) of `zip:PATH?max_zip_bytes=N`; the path is "" for the state directory.

    Raises:
        ConfigurationError: a query that is not understood.
    """
    target, mark, query = url.partition(":")[2].removeprefix("//").rpartition("?")
    if not mark or "=" not in query:
        return url.partition(":")[2].removeprefix("//"), None
    name, _, value = query.partition("=")
    if name != "max_zip_bytes" or not (value.isascii() and value.isdigit() and int(value)):
        raise ConfigurationError(f"{url!r}: after the path only ?max_zip_bytes=N is understood, N in bytes")
    return target, int(value)


def open_sink(url: str, settings: Settings) -> LocalZipSink:
    """Entry point for `zip:` (a session folder in the state directory, no zip) and `zip:PATH[?max_zip_bytes=N]`."""
    target, max_zip_bytes = split_target(url)
    if not target:
        folder, zip_path = settings.state_dir / "sessions", None
    else:
        zip_path = absolute_path(Path(target).expanduser())
        folder = zip_path.parent if zip_path.suffix == ".zip" else zip_path
    return LocalZipSink(
        folder,
        zip_path,
        fsync_interval_s=settings.fsync_interval_s,
        segment_bytes=settings.segment_bytes,
        commit=settings.durability == "commit",
        max_zip_bytes=max_zip_bytes or settings.max_zip_bytes,
    )
