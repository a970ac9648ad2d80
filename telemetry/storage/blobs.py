"""Blobs: bytes that belong to a task, each in a file named by its sha256: `blobs/<sha256>` of a session folder.

A blob is written under a hidden name, synced and renamed, so it is whole or not there; one that is there already is
not written twice. Sources are read and left as they are. Memory stays at a few pieces of 1 MiB, whatever the size.
Everything here is plain, synchronous code, safe from any thread and from several processes on one folder.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, BinaryIO

from telemetry.disk import make_private_folder
from telemetry.errors import BlobError

__all__ = [
    "BLOBS",
    "BLOB_SCHEME",
    "PIECE_BYTES",
    "Blob",
    "BlobFolder",
    "OnProgress",
    "blob_uri",
    "is_sha256",
    "is_shortage",
    "sha256_and_size",
    "sha256_of_uri",
]

# The folder's name, in session folders and zips and in the server's directory.
BLOBS = "blobs"
BLOB_SCHEME = "blob:"

PIECE_BYTES = 1024 * 1024

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# What the machine is short of now, and may have again in a moment: room, descriptors, memory.
_SHORTAGES = _FULL - {errno.EFBIG} | {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS}
# A file system or kernel that cannot copy inside itself says one of these, at the first piece.
_CANNOT_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF})

# Called with the bytes that are done so far.
OnProgress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes by their name.

    Attributes:
        uri: where they are: "blob:<sha256>" in the session or on the server, else a storage's address.
    """

    sha256: str
    size_bytes: int
    uri: str = ""

    def at(self, uri: str) -> Blob:
        """Return the same bytes at another place."""
        return replace(self, uri=uri)


def blob_uri(sha256: str) -> str:
    """Return "blob:<sha256>"."""
    return f"{BLOB_SCHEME}{sha256}"


def sha256_of_uri(uri: str) -> str | None:
    """Return the sha256 in "blob:<sha256>"; None for every other uri."""
    sha256 = uri.removeprefix(BLOB_SCHEME)
    return sha256 if sha256 != uri and is_sha256(sha256) else None


def sha256_and_size(file: IO[bytes]) -> tuple[str, int]:
    """Return the sha256 of what a file gives until its end, and its size in bytes; what reading raises goes through."""
    digest, size_bytes = hashlib.sha256(), 0
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
        size_bytes += len(piece)
    return digest.hexdigest(), size_bytes


def is_sha256(text: str) -> bool:
    """Say whether `text` is 64 lower-case hexadecimal digits."""
    return _SHA256.fullmatch(text) is not None


def is_shortage(error: BaseException) -> bool:
    """Say whether an error, or the one behind it, is about something that there may be again in a moment."""
    causes = (error, error.__cause__)
    return any(isinstance(cause, OSError) and cause.errno in _SHORTAGES for cause in causes)


class BlobFolder:
    """The blobs in one folder, `<session folder>/blobs`; made, 0700, when the first blob comes.

    Every method raises BlobError where the disk refuses; the message says what became of the source.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Return where a blob lies or would lie."""
        return self.folder / sha256

    def exists(self, sha256: str) -> bool:
        """Say whether a blob is here, whole."""
        return self.size(sha256) is not None

    def size(self, sha256: str) -> int | None:
        """Return a blob's size in bytes; None if it is not here."""
        try:
            found = self.path(sha256).stat()
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def open(self, sha256: str) -> BinaryIO:
        """Open a blob for reading."""
        try:
            return self.path(sha256).open("rb")
        except OSError as error:
            raise BlobError(f"the blob {sha256} in {self.folder} cannot be read: {error.strerror or error}") from error

    def remove(self, sha256: str) -> None:
        """Remove a blob, and the folder with the last of them. One that is not here is none to remove."""
        try:
            self.path(sha256).unlink(missing_ok=True)
        except OSError as error:
            raise BlobError(f"the blob {sha256} in {self.folder} cannot be removed: {error}") from error
        try:
            self.folder.rmdir()
        except OSError:
            return  # others are in it

    def list(self) -> list[Blob]:
        """Return the blobs that are here, by sha256; what is still being written is not among them."""
        try:
            names = sorted(entry.name for entry in self.folder.iterdir() if is_sha256(entry.name))
        except OSError:
            return []
        sizes = ((name, self.size(name)) for name in names)
        return [Blob(name, size, blob_uri(name)) for name, size in sizes if size is not None]

    def add_file(self, source: Path, on_progress: OnProgress | None = None) -> Blob:
        """Copy a file in. What another program writes into it meanwhile may be in the copy or not.

        Raises:
            BlobError: the file is not there, no file, or cannot be read; or the disk is full.
        """
        try:
            # Not to hang on a pipe that somebody calls a file.
            descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            why = "it is not there" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
            raise BlobError(f"{source} cannot be read: {why}. Nothing was kept") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise BlobError(f"{source} is no file, so it has no bytes to keep. Nothing was kept")
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            return self._add(_Copier(file, str(source), on_progress), str(source))

    def add_bytes(self, data: bytes | memoryview) -> Blob:
        """Keep bytes that are in memory."""
        return self._add(_Copier(io.BytesIO(data), "the data", None), "the data")

    def add_stream(self, source: IO[bytes], label: str = "the stream", on_progress: OnProgress | None = None) -> Blob:
        """Keep what a file object gives until its end."""
        return self._add(_Copier(source, label, on_progress), label)

    def _add(self, copier: _Copier, label: str) -> Blob:
        part = self.folder / f".part-{os.getpid()}-{uuid.uuid4().hex}"
        try:
            make_private_folder(self.folder)
            with open(part, "w+b", buffering=0, opener=_open_private) as target:
                copier.copy_to(target)
                os.fsync(target.fileno())
            sha256 = copier.sha256
            # Replacing one that is there would change nothing; but what is there may be a stump after a power cut.
            if self.size(sha256) == copier.size_bytes:
                part.unlink()
            else:
                part.replace(self.path(sha256))
                _sync_folder(self.folder)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise BlobError(_refusal(self.folder, label, error)) from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return Blob(sha256, copier.size_bytes, blob_uri(sha256))


class _Copier:
    """One pass over a source: its bytes into a file, their sha256 and their number.

    Where the kernel can copy from file to file it does (on some file systems that costs no space at all), and the
    sha256 is that of the copy.
    """

    def __init__(self, source: IO[bytes] | io.FileIO, label: str, on_progress: OnProgress | None) -> None:
        self._source = source
        self._label = label
        self._on_progress = on_progress
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def copy_to(self, target: io.FileIO) -> None:
        """Copy to the source's end.

        Raises:
            BlobError: the source cannot be read. OSError: the target cannot be written.
        """
        in_kernel = hasattr(os, "copy_file_range") and isinstance(self._source, io.FileIO)
        while True:
            if in_kernel and (piece := self._copy_in_kernel(target)):
                self._note(piece)
                continue
            # At the end, or cut off from it: files of /proc have bytes that only a read shows.
            in_kernel = False
            data = self._read()
            if not data:
                return
            view = memoryview(data)
            while view:
                view = view[target.write(view) or 0 :]
            self._note(data)

    def _copy_in_kernel(self, target: io.FileIO) -> bytes:
        """Copy a piece and return it; empty where the kernel gives none this way."""
        try:
            count = os.copy_file_range(self._source.fileno(), target.fileno(), PIECE_BYTES)
        except OSError as error:
            if error.errno in _CANNOT_COPY_RANGE:
                return b""
            if error.errno in _FULL:
                raise
            # Which of the two files is at fault only a plain read can tell.
            return b""
        piece = b""
        while len(piece) < count:
            more = os.pread(target.fileno(), count - len(piece), self.size_bytes + len(piece))
            if not more:
                raise OSError(errno.EIO, "what was just written cannot be read back")
            piece += more
        return piece

    def _read(self) -> bytes:
        try:
            return self._source.read(PIECE_BYTES) or b""
        except (OSError, ValueError) as error:
            raise BlobError(f"{self._label} cannot be read to its end: {error}. Nothing was kept") from error

    def _note(self, data: bytes) -> None:
        self._digest.update(data)
        self.size_bytes += len(data)
        if self._on_progress is not None:
            self._on_progress(self.size_bytes)


def _refusal(folder: Path, label: str, error: OSError) -> str:
    if error.errno in _FULL:
        return f"there is no room in {folder} for a copy of {label} ({error.strerror}); {label} is as it was"
    return f"{label} cannot be kept in {folder}: {error.strerror or error}; {label} is as it was"


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_folder(folder: Path) -> None:
    """Have the new name survive a power cut, where folders can be synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # not on Windows
    try:
        os.fsync(descriptor)
    except OSError:
        return  # some network file systems refuse; they write names through anyway
    finally:
        os.close(descriptor)
