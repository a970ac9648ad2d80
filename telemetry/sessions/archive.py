"""Zips that come from strangers: opened only if they are harmless, and read in bounded memory. Nothing else opens one.

A session zip is never unpacked to disk, so no member can escape; but a zip may hold a million entries, inflate a
thousandfold, or say one thing in its manifest and hold another. Such a zip is refused whole, before any
of its frames is used, except for a wrong sha256, which shows at the end of the member. The zip of an artifact is
unpacked, so its members may have any name and size that stays inside its folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from telemetry.errors import JournalError
from telemetry.process.interrupts import is_interrupt
from telemetry.storage.blobs import BLOBS, PIECE_BYTES, is_sha256
from telemetry.wire import SCAN_BLOCK_BYTES, Damage, Frame, scan_source

__all__ = [
    "MALFORMED",
    "MANIFEST_FILE",
    "blob_members",
    "member_items",
    "open_archive",
    "open_artifact",
    "open_member",
    "read_document",
    "segment_members",
]

MANIFEST_FILE = "manifest.json"

# A run of a year, rolled at 64 MiB, has some thousands of segments and blobs.
MAX_MEMBERS = 32_768
# Their names and attributes; a hundred bytes each. zipfile turns it into objects before anyone can look.
MAX_DIRECTORY_BYTES = 8 * 1024 * 1024
MAX_NAME_CHARS = 1000
# A data set of small files; zipfile takes 600 MB for so many.
MAX_ARTIFACT_MEMBERS = 1_000_000
MAX_ARTIFACT_DIRECTORY_BYTES = 256 * 1024 * 1024
# session.json has 300 bytes, the manifest 150 for each member.
MAX_DOCUMENT_BYTES = 8 * 1024 * 1024
# A segment is closed at 64 MiB by default; who sets more may have more.
MAX_MEMBER_BYTES = 4 * 1024**3
# Frames are deflated already and gain nothing; uncompressed ones were seen to shrink to a fortieth. Small members may
# do what they like.
MAX_RATIO = 200
SMALL_MEMBER_BYTES = 1024 * 1024

# A disk's bad blocks damage some frames; forged headers do it by the hundred thousand, and each is to be told of.
MAX_DAMAGES = 1000

_BLOB_PREFIX = f"{BLOBS}/"
_ENTRY = b"PK\x01\x02"
_BLOCK_BYTES = SCAN_BLOCK_BYTES
_ENCRYPTED = 0x1
# What zipfile and json raise on content; RuntimeError is nesting without end, and features that zipfile lacks.
MALFORMED = (EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)
_UNREADABLE = (OSError, *MALFORMED)


class _BoundedFile(io.FileIO):
    """A zip file that does not give its directory away if it is too large. One entry takes zipfile 600 bytes."""

    def __init__(self, path: Path, max_directory_bytes: int, max_members: int) -> None:
        super().__init__(path)
        self.opening = True
        self._max_directory_bytes = max_directory_bytes
        self._max_members = max_members

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.opening:
            return super().read(size) or b""
        whole = size is None or size < 0
        # One byte more than allowed, where all that is left is asked for.
        limit_bytes = self._max_directory_bytes
        data = super().read(limit_bytes + 1 if whole else min(size or 0, limit_bytes + 1)) or b""
        if len(data) > limit_bytes:
            raise zipfile.BadZipFile(f"its directory is over the limit of {limit_bytes} bytes")
        if data.count(_ENTRY) > self._max_members:
            raise zipfile.BadZipFile(f"it has more than {self._max_members} members")
        return data


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a session zip whose members are all harmless.

    Raises:
        JournalError: it is no zip, or a member escapes, links, is encrypted, is there twice, or would explode.
    """
    file = _opened(path, MAX_DIRECTORY_BYTES, MAX_MEMBERS)
    with _checked(file, path, "a session zip", _harm_of) as archive:
        yield archive


@contextmanager
def open_artifact(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open the zip of an artifact, which is to be unpacked. How much it claims to hold is for the caller to look at.

    Raises:
        JournalError: it is no zip, or a member leads out of the folder, links, or is there twice.
    """
    file = _opened(path, MAX_ARTIFACT_DIRECTORY_BYTES, MAX_ARTIFACT_MEMBERS)
    with _checked(file, path, "a zip", _harm_in_folder) as archive:
        yield archive


def _opened(path: Path, max_directory_bytes: int, max_members: int) -> _BoundedFile:
    try:
        return _BoundedFile(path, max_directory_bytes, max_members)
    except OSError as error:
        if is_interrupt(error):
            raise
        raise JournalError(f"{path} cannot be read: {error}") from error


@contextmanager
def _checked(
    file: _BoundedFile, path: Path, kind: str, harm_of: Callable[[zipfile.ZipInfo], str]
) -> Iterator[zipfile.ZipFile]:
    with file:
        try:
            archive = zipfile.ZipFile(file)
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            if is_interrupt(error):
                raise
            raise JournalError(f"{path} is not {kind}: {error}") from error
        file.opening = False
        with archive:
            names: set[str] = set()
            for member in archive.infolist():
                reason = "there twice" if member.filename in names else harm_of(member)
                if reason:
                    raise JournalError(f"{path} is refused: the member {member.filename!r:.100} is {reason}")
                names.add(member.filename)
            yield archive


class _Member(io.RawIOBase):
    """A member that says as a JournalError what is wrong with it."""

    def __init__(self, file: IO[bytes], label: str) -> None:
        self._file = file
        self._label = label

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            data = self._file.read(len(buffer))
        except MALFORMED as error:
            raise JournalError(f"{self._label} cannot be read: {error}") from error
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return self._file.seek(offset, whence)
        except MALFORMED as error:
            raise JournalError(f"{self._label} cannot be read: {error}") from error

    def close(self) -> None:
        super().close()
        self._file.close()


def open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, label: str) -> BinaryIO:
    """Open a member for reading and seeking; `label` is for errors.

    Raises:
        JournalError: it is not what the directory says, now or as it is read.
    """
    try:
        file = archive.open(member)
    except MALFORMED as error:
        raise JournalError(f"{label} cannot be read: {error}") from error
    return io.BufferedReader(_Member(file, label), PIECE_BYTES)


def read_document(archive: zipfile.ZipFile, name: str) -> Any:
    """Return a JSON member.

    Raises:
        JournalError: it is not there, too large, or no JSON.
    """
    try:
        with archive.open(name) as file:
            data = file.read(MAX_DOCUMENT_BYTES + 1)
        if len(data) > MAX_DOCUMENT_BYTES:
            raise ValueError(f"it is over the limit of {MAX_DOCUMENT_BYTES} bytes")
        return json.loads(data)
    except KeyError as error:
        raise JournalError(f"there is no {name} in it") from error
    except (
        OSError,
        EOFError,
        ValueError,
        RecursionError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise JournalError(f"its {name} cannot be read: {error!r:.200}") from error


def segment_members(archive: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, str]]:
    """Return the segments in order, each with the sha256 that the manifest promises; "" without a manifest.

    Raises:
        JournalError: the manifest does not fit what is there.
    """
    members = sorted(
        (item for item in archive.infolist() if item.filename.endswith(".frames")), key=lambda item: item.filename
    )
    if MANIFEST_FILE not in archive.NameToInfo:
        return [(item, "") for item in members]
    promised = _kept_promises(archive)
    for item in members:
        if item.filename not in promised:
            raise JournalError(f"its manifest does not name {item.filename!r:.100}")
    return [(item, promised[item.filename][0]) for item in members]


def blob_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the blobs by their sha256, which is what whoever takes them must check.

    Raises:
        JournalError: the manifest does not fit what is there.
    """
    found = {item.filename.removeprefix(_BLOB_PREFIX): item for item in archive.infolist() if _is_blob(item.filename)}
    if found and MANIFEST_FILE in archive.NameToInfo:
        promised = _kept_promises(archive)
        for item in found.values():
            if item.filename not in promised:
                raise JournalError(f"its manifest does not name {item.filename!r:.100}")
    return found


def _kept_promises(archive: zipfile.ZipFile) -> dict[str, tuple[str, int]]:
    """Return (sha256, bytes) by member, as the manifest has it and with sizes as they are."""
    promised = _promised(read_document(archive, MANIFEST_FILE))
    for name, (_, size) in promised.items():
        if name not in archive.NameToInfo:
            raise JournalError(f"its manifest names {name!r:.100}, which is not there")
        if archive.NameToInfo[name].file_size != size:
            raise JournalError(
                f"its manifest says {size} bytes of {name!r:.100}, which has {archive.NameToInfo[name].file_size}"
            )
    return promised


def member_items(archive: zipfile.ZipFile, member: zipfile.ZipInfo, sha256: str = "") -> Iterator[Frame | Damage]:
    """Yield the frames of a segment, and what had to be skipped, with no more in memory than a few blocks.

    Raises:
        JournalError: the member cannot be inflated to its end, or is not what `sha256` promised.
    """
    digest = hashlib.sha256()
    damages = 0
    try:
        with archive.open(member) as file:

            def read(size: int) -> bytes:
                block = file.read(size)
                digest.update(block)
                return block

            for offset, item in scan_source(read, block_bytes=_BLOCK_BYTES):
                if isinstance(item, Damage):
                    damages += 1
                    if damages > MAX_DAMAGES or item.unsearched:
                        raise ValueError(f"it has too many damaged frames; those before byte {offset:,} were read")
                yield item
    except _UNREADABLE as error:
        raise JournalError(f"the member {member.filename} cannot be read: {error}") from error
    if sha256 and digest.hexdigest() != sha256:
        raise JournalError(f"the member {member.filename} is not what the manifest says: its sha256 differs")


def _harm_of(member: zipfile.ZipInfo) -> str:
    """Return what is wrong with a member; "" for a harmless one."""
    name = member.orig_filename
    path = PurePosixPath(name)
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable() or "\\" in name:
        return "of a name that is no path"
    if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
        return "of a name that leads out of the zip"
    if _is_special(member):
        return "a link or a device, not a file"
    if member.flag_bits & _ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "encrypted or packed in a way that is not taken"
    if _is_blob(name):
        # As large as it likes: it takes as much of the zip itself.
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            return "a blob that is not stored as it is"
        return ""
    if member.file_size > MAX_MEMBER_BYTES:
        return f"of {member.file_size} bytes, over the limit of {MAX_MEMBER_BYTES}"
    if member.file_size > SMALL_MEMBER_BYTES and member.file_size > MAX_RATIO * member.compress_size:
        return f"a bomb: {member.compress_size} bytes that claim to inflate to {member.file_size}"
    return ""


def _harm_in_folder(member: zipfile.ZipInfo) -> str:
    """Return what is wrong with a member that is to be unpacked; "" for a harmless one."""
    name = member.filename
    if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
        return "of a name that leads out of the folder"
    return "a link or a device, not a file" if _is_special(member) else ""


def _is_special(member: zipfile.ZipInfo) -> bool:
    return stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR)


def _is_blob(name: str) -> bool:
    return name.startswith(_BLOB_PREFIX) and is_sha256(name.removeprefix(_BLOB_PREFIX))


def _promised(manifest: Any) -> dict[str, tuple[str, int]]:
    """Return (sha256, bytes) by member."""
    try:
        files = manifest["files"]
        if not isinstance(files, Mapping):
            raise TypeError("its files are no map")
        return {name: (str(entry["sha256"]), int(entry["bytes"])) for name, entry in files.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise JournalError(f"its {MANIFEST_FILE} is malformed: {error!r:.200}") from error
