"""A place for bytes outside the server, and the simplest one: a folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from telemetry.disk import absolute_path
from telemetry.errors import BlobError, ConfigurationError
from telemetry.storage.blobs import PIECE_BYTES, OnProgress

__all__ = ["FolderTarget", "Target"]


# Called with the bytes that are there so far.
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
