"""The local sink: a session folder while the task runs, one zip of it at the end.

The zip is the session folder, stored (frames are deflated already), with `manifest.json` naming the sha256 of
every member. A killed process leaves the folder, which imports just as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from telemetry.disk import DaemonExecutor
from telemetry.errors import JournalError, SinkUnavailable
from telemetry.events import TaskHeader
from telemetry.journal import Journal
from telemetry.settings import Settings
from telemetry.wire import Frame

__all__ = ["MANIFEST_FILE", "LocalZipSink", "open_sink", "zip_session"]

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = 1
_COPY_BYTES = 1024 * 1024


class LocalZipSink:
    """Writes frames into a session folder and zips it at close.

    Args:
        folder: the parent of the session folder, which is named by the task id.
        zip_path: the zip to write at close; None keeps the folder and makes no zip. A path without the
            suffix .zip is a folder in which the zip is named by the task id.
        commit: fsync each write before it returns, not once a second.
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
        name: str = "zip",
    ) -> None:
        self.name = name
        self._parent = folder
        self._zip_path = zip_path
        self._fsync_interval_s = fsync_interval_s
        self._segment_bytes = segment_bytes
        self._commit = commit
        self._disk = DaemonExecutor("telemetry-zip")
        self._journal: Journal | None = None
        self.session_folder: Path | None = None
        self.zip_file: Path | None = None

    def clone(self) -> LocalZipSink:
        """Return a sink for a forked child: it writes segments into the same session folder; the parent zips."""
        return LocalZipSink(
            self._parent,
            None,
            fsync_interval_s=self._fsync_interval_s,
            segment_bytes=self._segment_bytes,
            commit=self._commit,
            name=self.name,
        )

    async def open(self, task: TaskHeader) -> None:
        self.session_folder = self._parent / task.task_id
        if self._zip_path is not None:
            single = self._zip_path.suffix == ".zip"
            self.zip_file = self._zip_path if single else self._zip_path / f"{task.task_id}.zip"
        journal = Journal(
            self.session_folder,
            self._disk,
            segment_bytes=self._segment_bytes,
            fsync_interval_s=self._fsync_interval_s,
            commit=self._commit,
        )
        try:
            await journal.open(task)
        except JournalError as error:
            raise SinkUnavailable(str(error)) from error
        self._journal = journal

    async def write(self, frames: Sequence[Frame]) -> None:
        if self._journal is None:
            raise SinkUnavailable("the session folder is not open")
        try:
            await self._journal.append(frames)
        except OSError as error:
            raise SinkUnavailable(f"{self.session_folder} cannot be written: {error}") from error

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
            JournalError: the zip could not be written; the data are safe in the folder.
        """
        if self._journal is None:
            self._disk.shutdown(wait=False)
            return
        journal, self._journal = self._journal, None
        try:
            await journal.close()
            if self.zip_file is not None and self.session_folder is not None:
                loop = asyncio.get_running_loop()
                zipped = await loop.run_in_executor(self._disk, zip_session, self.session_folder, self.zip_file)
                await loop.run_in_executor(self._disk, _remove_zipped, self.session_folder, zipped)
        except OSError as error:
            raise JournalError(
                f"{self.zip_file} could not be written: {error}. The data are safe in {self.session_folder}"
            ) from error
        finally:
            self._disk.shutdown(wait=False)


def zip_session(folder: Path, zip_path: Path) -> dict[str, int]:
    """Zip a session folder: written aside, synced and renamed, so that a zip is whole or not there.

    Returns:
        The members and their sizes in bytes.
    Raises:
        OSError: the zip cannot be written; the folder is as it was.
    """
    zip_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = zip_path.with_name(f".{zip_path.name}.{os.getpid()}.part")
    digests: dict[str, dict[str, object]] = {}
    try:
        with open(part, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as raw:
            with zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                for path in sorted(item for item in folder.rglob("*") if item.is_file()):
                    member = path.relative_to(folder).as_posix()
                    digests[member] = _add_member(archive, path, member)
                manifest = {"format": MANIFEST_FORMAT, "files": digests}
                archive.writestr(MANIFEST_FILE, json.dumps(manifest, indent=1))
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(zip_path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return {member: int(str(entry["bytes"])) for member, entry in digests.items()}


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


def _remove_zipped(folder: Path, zipped: Mapping[str, int]) -> None:
    """Remove what the zip holds. If another process wrote meanwhile, the whole folder stays: it imports as well."""
    present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    if {member: path.stat().st_size for member, path in present.items()} != dict(zipped):
        return
    for path in present.values():
        path.unlink()
    for path in sorted((item for item in folder.rglob("*")), reverse=True):
        path.rmdir()
    folder.rmdir()


def open_sink(url: str, settings: Settings) -> LocalZipSink:
    """Entry point for `zip:` (a session folder in the state directory, no zip) and `zip:PATH`."""
    target = url.removeprefix("zip:").removeprefix("//")
    if not target:
        folder, zip_path = settings.state_dir / "sessions", None
    else:
        zip_path = Path(target).expanduser().absolute()
        folder = zip_path.parent if zip_path.suffix == ".zip" else zip_path
    return LocalZipSink(
        folder,
        zip_path,
        fsync_interval_s=settings.fsync_interval_s,
        segment_bytes=settings.segment_bytes,
        commit=settings.durability == "commit",
    )
