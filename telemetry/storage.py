"""Where artifacts and models are kept besides the server: folders and object stores, by the address in `output_uri`.

    /mnt/share/folder, file:///mnt/share/folder      a folder
    s3://bucket/folder                               Amazon S3
    s3://host:port/bucket/folder                     another service that speaks S3; the port is required
    gs://bucket/folder                               Google Cloud Storage
    azure://account.blob.core.windows.net/container/folder

The object stores need the extra [storage] (storage_bucket.py).
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from telemetry.blobs import PIECE_BYTES
from telemetry.disk import absolute_path
from telemetry.errors import BlobError, ConfigurationError
from telemetry.threads import start_daemon

__all__ = ["CHECK_TIMEOUT_S", "OnProgress", "Target", "check_target", "is_storage", "open_target", "read_storage"]

# Called with the bytes that are there so far.
OnProgress = Callable[[int], None]

# At Task.init, which otherwise waits for nothing: a wrong key must not be found at the end of the training.
CHECK_TIMEOUT_S = 5.0

_BUCKETS = ("s3", "gs", "azure")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


class Target(Protocol):
    """A place for bytes, outside the server. Every method blocks and may be called from any thread.

    Attributes:
        uri: the address as it was given, without a slash at the end.
        is_remote: it is reached over a network.
    """

    uri: str
    is_remote: bool

    def put(self, key: str, source: Path, on_progress: OnProgress | None = None) -> str:
        """Copy a file to `key`, a path below the address; return its uri.

        Raises:
            BlobError: it could not be stored; nothing is there under that name, or what was there before.
        """

    def read(self, key: str, on_piece: Callable[[bytes], object]) -> None:
        """Give the bytes at `key` to `on_piece`, piece by piece.

        Raises:
            BlobError: there is nothing, or it cannot be read.
        """

    def check(self, timeout_s: float) -> None:
        """Write and delete a small object.

        Raises:
            ConfigurationError: the place cannot be used; the text says which, why and what to set.
        """


def open_target(uri: str | os.PathLike[str]) -> Target:
    """Return the place at an address. Nothing is asked yet.

    Raises:
        ConfigurationError: the address is of no kind that is known, or lacks a part.
    """
    text = os.fspath(uri).strip()
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found else "file"
    if scheme == "file":
        return FolderTarget(text)
    if scheme in _BUCKETS:
        from telemetry.storage_bucket import BucketTarget

        return BucketTarget(text)
    further = "; for the server itself give True" if scheme in ("http", "https") else ""
    raise ConfigurationError(
        f"output_uri {text!r:.200} is of no kind that is known: give True for the server, a folder, s3://bucket/folder,"
        f" s3://host:port/bucket, gs://bucket/folder or azure://account.blob.core.windows.net/container{further}"
    )


def is_storage(uri: str) -> bool:
    """Say whether a uri is one that `read_storage` reads: in an object store."""
    found = _SCHEME.match(uri)
    return found is not None and found[1].lower() in _BUCKETS


def read_storage(uri: str, on_piece: Callable[[bytes], object]) -> None:
    """Give the bytes of an object to `on_piece`, piece by piece.

    Raises:
        BlobError: there is nothing, or it cannot be read. ConfigurationError: the extra [storage] is missing.
    """
    folder, _, name = uri.rpartition("/")
    open_target(folder).read(unquote(name), on_piece)


def check_target(target: Target, timeout_s: float = CHECK_TIMEOUT_S) -> None:
    """Check a place within a time: see Target.check. A file system that hangs counts as one that cannot be used.

    Raises:
        ConfigurationError: it cannot be used.
    """
    errors: list[BaseException] = []

    def check() -> None:
        try:
            target.check(timeout_s)
        except BaseException as error:  # noqa: BLE001  it is raised below, in the caller's thread
            errors.append(error)

    thread = start_daemon(check, "telemetry-check")
    if thread is None:
        check()  # at the caller's risk: where it hangs, so does the call
    else:
        thread.join(timeout_s + 0.5)
    if thread is not None and thread.is_alive():
        raise ConfigurationError(f"output_uri {target.uri} did not answer within {timeout_s:g} s. No task was started")
    if errors:
        raise errors[0]


class FolderTarget:
    """A folder, perhaps on a shared file system. Files are copied, synced and renamed, so that each is whole."""

    is_remote = False

    def __init__(self, uri: str) -> None:
        text = unquote(urlsplit(uri).path) if uri.lower().startswith("file://") else uri
        if not text:
            raise ConfigurationError(f"output_uri {uri!r} names no folder")
        self.folder = absolute_path(Path(text).expanduser())
        self.uri = uri.rstrip("/") or "/"

    def put(self, key: str, source: Path, on_progress: OnProgress | None = None) -> str:
        """See Target."""
        target = self.folder / key
        part = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.part")
        try:
            # As the user's umask has it: others are to read what lies in a shared folder.
            target.parent.mkdir(parents=True, exist_ok=True)
            done_bytes = 0
            with source.open("rb") as file, part.open("wb") as copy:
                while piece := file.read(PIECE_BYTES):
                    copy.write(piece)
                    done_bytes += len(piece)
                    if on_progress is not None:
                        on_progress(done_bytes)
                copy.flush()
                os.fsync(copy.fileno())
            part.replace(target)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise BlobError(f"{target} cannot be written: {error.strerror or error}") from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return target.as_uri()

    def read(self, key: str, on_piece: Callable[[bytes], object]) -> None:
        """See Target."""
        try:
            with (self.folder / key).open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    on_piece(piece)
        except OSError as error:
            raise BlobError(f"{self.folder / key} cannot be read: {error.strerror or error}") from error

    def check(self, timeout_s: float) -> None:
        """See Target."""
        probe = self.folder / f".telemetry-check-{uuid.uuid4().hex}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"telemetry")
            probe.unlink()
        except OSError as error:
            raise ConfigurationError(
                f"output_uri {self.uri}: the folder {self.folder} cannot be written: {error.strerror or error}. "
                "Give a folder that this user may write. No task was started"
            ) from error
