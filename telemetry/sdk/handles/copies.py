"""Local copies of what the record refers to: from this task's own session, a session on this machine, or its server.

A copy lies in the cache, `$XDG_CACHE_HOME/telemetry/<sha256>/<file name>`, and is made once; its sha256 is checked on
the way. A zip is unpacked beside it. A caller gets the same path each time, and should not write to it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from telemetry.disk import make_private_folder
from telemetry.errors import BlobError, ConfigurationError, JournalError, ServerError
from telemetry.process.interrupts import is_interrupt
from telemetry.sdk.bytes.parcel import file_stem
from telemetry.sdk.cores.core import TaskCore
from telemetry.sdk.reading.view import OnPiece, View
from telemetry.sessions.archive import MALFORMED, open_artifact
from telemetry.settings import Settings, default_cache_dir
from telemetry.shapes import text
from telemetry.storage import read_storage
from telemetry.storage.blobs import PIECE_BYTES, is_sha256, sha256_of_uri

__all__ = ["local_copy", "unpacked"]

# Deflate packs 1032 to 1 at most: whatever claims more has members that share their bytes.
MAX_UNPACK_RATIO = 1100


def local_copy(
    core: TaskCore | None, entry: Mapping[str, Any], *, settings: Settings, label: str, force: bool = False
) -> Path:
    """Return a file with the bytes of an entry (uri, sha256, filename) of the record.

    Args:
        core: of the task whose entry it is; None for an address that needs no task.
        label: for errors: "artifact 'data' of task ...".
        force: copy anew, whatever the cache has.
    Raises:
        BlobError: the bytes can't be had, or are not what their sha256 says. Nothing is left in the cache.
    """
    uri, sha256 = text(entry.get("uri")), text(entry.get("sha256"))
    filename = _safe_name(text(entry.get("filename"))) or "file"
    if uri.startswith("file://"):
        return _file_of_uri(uri, label)
    key = sha256 if is_sha256(sha256) else hashlib.sha256(uri.encode()).hexdigest()
    target = default_cache_dir() / key / filename
    if target.is_file() and not force:
        return target
    blob = sha256_of_uri(uri)
    with _written(target, sha256 if is_sha256(sha256) else "", label) as on_piece:
        if blob is not None:
            if core is None:
                raise BlobError(f"{label} is {uri}, and of which task is not known")
            _read_blob(core.view, blob, on_piece, label)
        elif uri.startswith(("http://", "https://")):
            _read_url(uri, on_piece, label, settings.request_timeout_s)
        elif uri:
            _read_storage(uri, on_piece, label)
        else:
            raise BlobError(f"{label} {_why_not(entry)}")
    return target


def _why_not(entry: Mapping[str, Any]) -> str:
    """Return why an entry has no bytes anywhere."""
    if entry.get("error"):
        return f"could not be stored: {entry['error']}"
    return f"is not stored yet (state {entry.get('state') or 'unknown'!s}); try again later"


def unpacked(path: Path, *, force: bool = False) -> Path:
    """Return the folder that a zip of the cache is unpacked to, beside it.

    Raises:
        BlobError: it is no zip, or a member leads out of the folder, links, or claims an absurd size.
    """
    folder = path.with_name(f"{path.name}.unpacked")
    if folder.is_dir() and not force:
        return folder
    part = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=path.parent))
    try:
        with open_artifact(path) as archive:
            size_bytes = sum(member.file_size for member in archive.infolist())
            free_bytes = shutil.disk_usage(part).free
            if size_bytes > min(free_bytes, MAX_UNPACK_RATIO * path.stat().st_size):
                raise BlobError(
                    f"{path} is not unpacked: it claims to hold {size_bytes:,} bytes, more than an honest zip of its "
                    f"size, or than the disk has room for ({free_bytes:,})"
                )
            archive.extractall(part)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    except (OSError, JournalError, *MALFORMED) as error:
        shutil.rmtree(part, ignore_errors=True)
        if is_interrupt(error):
            raise
        if folder.is_dir() and not force:
            return folder  # another process was quicker
        raise BlobError(f"{path} cannot be unpacked: {error}") from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return folder


@contextmanager
def _written(target: Path, sha256: str, label: str) -> Iterator[OnPiece]:
    """Give what takes the pieces of a file; at the end it is whole, checked, and under its name."""
    try:
        make_private_folder(target.parent)
        handle, name = tempfile.mkstemp(prefix=".part-", dir=target.parent)
    except OSError as error:
        if is_interrupt(error):
            raise
        raise BlobError(f"{label} cannot be copied to {target.parent}: {error.strerror or error}") from error
    part, digest = Path(name), hashlib.sha256()
    try:
        with os.fdopen(handle, "wb") as file:

            def on_piece(piece: bytes) -> None:
                digest.update(piece)
                file.write(piece)

            yield on_piece
        if sha256 and digest.hexdigest() != sha256:
            raise BlobError(
                f"{label} arrived damaged: its sha256 is {digest.hexdigest()}, not {sha256}. Nothing is kept"
            )
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        if is_interrupt(error):
            raise
        raise BlobError(f"{label} cannot be copied to {target.parent}: {error.strerror or error}") from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


# ---- places ----------------------------------------------------------------------------------------


def _read_blob(view: View, sha256: str, on_piece: OnPiece, label: str) -> None:
    try:
        reason = view.read_blob(sha256, on_piece)
    except (JournalError, ServerError) as error:
        raise BlobError(f"{label} cannot be read: {error}") from error
    if reason:
        raise BlobError(
            f"the bytes of {label} are nowhere to be found: {reason}. If its program has just ended, they may still "
            "be on their way: `telemetry sync` on its machine sends them"
        )


def _file_of_uri(uri: str, label: str) -> Path:
    path = Path(unquote(urlsplit(uri).path))
    if not path.exists():
        raise BlobError(f"{label} was registered as {path}, and nothing is there now, on this machine")
    return path


def _read_url(url: str, on_piece: OnPiece, label: str, timeout_s: float) -> None:
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(url, headers={"User-Agent": "telemetry"}), timeout=timeout_s) as answer:
            while piece := answer.read(PIECE_BYTES):
                on_piece(piece)
    except (URLError, OSError, ValueError) as error:
        if is_interrupt(error):
            raise
        raise BlobError(f"{label} cannot be read from {url}: {error}") from error


def _read_storage(uri: str, on_piece: OnPiece, label: str) -> None:
    try:
        read_storage(uri, on_piece)
    except (BlobError, ConfigurationError) as error:
        raise BlobError(f"{label}: {error}") from error


def _safe_name(filename: str) -> str:
    """Return a record's file name as one of this machine's: no path leads out of the cache."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = name.partition(".")
    return f"{file_stem(stem)}{dot}{file_stem(suffix) if suffix else ''}" if name.strip(". ") else ""
