"""Depot: the bytes of a task's artifacts and models, and what the record says of them.

    put()  -> the entry, state "pending"                                 at once
           -> the same with uri "blob:<sha256>", sha256 and size         when the bytes are in the session folder
           -> with its final uri, state "stored"                         where they go to another storage
           -> state "failed" and the error                               if they can't be stored

Whether a "blob:" is stored is decided when the record is read: it is, where the blob is.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from telemetry import lifecycle
from telemetry.blobs import PIECE_BYTES, Blob, blob_uri
from telemetry.errors import BlobError
from telemetry.interrupts import is_interrupt
from telemetry.record import BlobState, Section
from telemetry.sdk.parcel import Parcel, file_stem, new_scratch_path
from telemetry.sdk.uploads import Upload, Uploads
from telemetry.storage_target import Target

__all__ = [
    "FAILED",
    "PENDING",
    "READ_TIMEOUT_S",
    "STORED",
    "Depot",
    "NowhereDepot",
    "RunningDepot",
    "SendingDepot",
    "was_put_here",
]

log = logging.getLogger(__name__)

PENDING = BlobState.PENDING
STORED = BlobState.STORED
FAILED = BlobState.FAILED

# Takes what has become known of the bytes: uri, state, sha256, size_bytes, error.
Write = Callable[[Mapping[str, Any]], object]
OnStored = Callable[[], object]

# What a reader waits for bytes that are still being read from their source, in seconds.
READ_TIMEOUT_S = 60.0

# For this long without a byte moving a program waits that has asked to wait, in seconds.
STALL_S = 30.0


# The sha256 of all that this process, or the one that forked it, has put into a depot. Growing by one is atomic.
_put_here: set[str] = set()


def was_put_here(sha256: str) -> bool:
    """Return True if this process has put these very bytes into a task itself."""
    return sha256 in _put_here


class Depot(Protocol):
    """What puts the bytes of entries of the record where they belong."""

    def put(
        self,
        section: str,
        key: str,
        parcel: Parcel,
        write: Write,
        *,
        label: str,
        target: Target | bool | None = None,
        on_stored: OnStored | None = None,
    ) -> None:
        """Take the bytes of an entry to be stored. An earlier upload for this key is replaced.

        Args:
            write: writes what is known of the bytes into the entry, now and when more is known; not after the next
                put for this key.
            label: for a person: "artifact 'data'".
            target: None for the task's own storage, True for the server, or another.
            on_stored: called when the bytes are at their final place, on some thread.
        """

    def forget(self, section: str, key: str) -> None:
        """Let an upload that is under way write nothing more about this key."""

    def wait(self, section: str, key: str) -> bool:
        """Wait until this key's bytes are stored; False if they can't be, or nothing has moved for 30 s."""

    def upload(self, section: str, key: str) -> Upload | None:
        """Return the upload of this process for a key; None if there was none."""


class _Put:
    """One put: the latest of its key, until the next."""

    def __init__(self, upload: Upload | None = None) -> None:
        self.upload = upload


class RunningDepot:
    """The depot of a task that this process runs: nothing waits for a disk or network. Safe from any thread."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self.reset_after_fork()
        lifecycle.watch_forks(self)

    def reset_after_fork(self) -> None:
        """In a forked child: another thread of the parent's may have held the lock, and its uploads are its own."""
        self._lock = threading.RLock()
        self._latest: dict[tuple[str, str], _Put] = {}

    def put(
        self,
        section: str,
        key: str,
        parcel: Parcel,
        write: Write,
        *,
        label: str,
        target: Target | bool | None = None,
        on_stored: OnStored | None = None,
    ) -> None:
        """See Depot."""
        put = _Put()

        def tell(**fields: Any) -> None:
            # Of two uploads under one key the later one counts, whichever comes to its end first.
            with self._lock:
                if self._latest.get((section, key)) is put:
                    write(fields)

        with self._lock:
            self._latest[section, key] = put
            if parcel.source is None:
                tell(uri=parcel.uri, state=STORED)
                return
            tell(uri="", state=PENDING)
        elsewhere = self._uploads.target if target is None else None if isinstance(target, bool) else target

        def finished(blob: Blob) -> None:
            if elsewhere is not None:
                tell(uri=blob.uri, state=STORED, sha256=blob.sha256, size_bytes=blob.size_bytes)
            if on_stored is not None:
                on_stored()

        def kept(blob: Blob) -> None:
            _put_here.add(blob.sha256)
            tell(uri=blob.uri, state=PENDING, sha256=blob.sha256, size_bytes=blob.size_bytes)

        put.upload = self._uploads.submit(
            parcel.source,
            filename=parcel.filename,
            on_blob=kept,
            on_stored=finished,
            on_failed=lambda why: tell(uri="", state=FAILED, error=why),
            label=label,
            remove_source=parcel.scratch,
            target=target,
            key=_key_at_target(section, key, parcel.filename),
            slot=f"{section}/{key}",
        )

    def forget(self, section: str, key: str) -> None:
        """See Depot."""
        with self._lock:
            self._latest.pop((section, key), None)

    def wait(self, section: str, key: str) -> bool:
        """See Depot."""
        put = self._latest.get((section, key))
        if put is None or put.upload is None:
            return put is not None
        return self._uploads.wait_stored(put.upload, stall_s=STALL_S)

    def upload(self, section: str, key: str) -> Upload | None:
        """See Depot."""
        put = self._latest.get((section, key))
        return None if put is None else put.upload


class SendingDepot:
    """The depot of any other task: the bytes are on the server when `put` returns, or it raises.

    Args:
        send: takes a blob by its sha256, file and size in bytes to the server, after the record that names it.
        scratch: a folder for files of ours.
        prefix: the task's folder below a storage's address.
    """

    def __init__(self, send: Callable[[str, Path, int], None], *, scratch: Path, prefix: str) -> None:
        self._send = send
        self._scratch = scratch
        self._prefix = prefix

    def put(
        self,
        section: str,
        key: str,
        parcel: Parcel,
        write: Write,
        *,
        label: str,
        target: Target | bool | None = None,
        on_stored: OnStored | None = None,
    ) -> None:
        """See Depot.

        Raises:
            BlobError: the file can't be read. ServerError: the server can't be reached, or refuses.
        """
        if parcel.source is None:
            write({"uri": parcel.uri, "state": STORED})
            return
        path, is_ours = _as_file(parcel, self._scratch)
        try:
            sha256, size_bytes = _sha256_of(path)
            _put_here.add(sha256)
            fields = {"uri": blob_uri(sha256), "state": PENDING, "sha256": sha256, "size_bytes": size_bytes}
            if target is not None and not isinstance(target, bool):
                place = f"{self._prefix}/{_key_at_target(section, key, parcel.filename)}"
                fields |= {"uri": target.put(place, path), "state": STORED}
                write(fields)
            else:
                # First the record: the server takes bytes that a task refers to.
                write(fields)
                self._send(sha256, path, size_bytes)
        finally:
            if is_ours:
                path.unlink(missing_ok=True)
        if on_stored is not None:
            on_stored()

    def forget(self, section: str, key: str) -> None:
        """Do nothing: nothing is under way."""

    def wait(self, section: str, key: str) -> bool:
        """Return True: what was put is stored."""
        return True

    def upload(self, section: str, key: str) -> Upload | None:
        """Return None: nothing is under way."""
        return None


class NowhereDepot:
    """The depot of any other task while telemetry is disabled: no byte is read, and what was put stays pending."""

    def put(
        self,
        section: str,
        key: str,
        parcel: Parcel,
        write: Write,
        *,
        label: str,
        target: Target | bool | None = None,
        on_stored: OnStored | None = None,
    ) -> None:
        """See Depot."""
        write({"uri": parcel.uri, "state": STORED if parcel.source is None else PENDING})

    def forget(self, section: str, key: str) -> None:
        """Do nothing: nothing is under way."""

    def wait(self, section: str, key: str) -> bool:
        """Return True: nothing is to be waited for."""
        return True

    def upload(self, section: str, key: str) -> Upload | None:
        """Return None: nothing is under way."""
        return None


_FOLDERS = {Section.ARTIFACTS: "artifacts", Section.OUTPUT_MODELS: "models", Section.INPUT_MODELS: "models"}


def _key_at_target(section: str, key: str, filename: str) -> str:
    """Return the path of an entry's file below the task's folder: "artifacts/<name>/<file>"."""
    part = file_stem(key)
    if part != key:
        # "a/b" and "a_b" are two artifacts.
        part = f"{part}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    return f"{_FOLDERS.get(section, section)}/{part}/{filename}"


def _as_file(parcel: Parcel, scratch: Path) -> tuple[Path, bool]:
    """Return the parcel's file, and whether it is to be deleted afterwards."""
    source = parcel.source() if callable(parcel.source) else parcel.source
    if isinstance(source, Path):
        return source, parcel.scratch
    path = new_scratch_path(scratch)
    path.write_bytes(source or b"")
    return path, True


def _sha256_of(path: Path) -> tuple[str, int]:
    digest, size_bytes = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
                size_bytes += len(piece)
    except OSError as error:
        if is_interrupt(error):
            raise
        raise BlobError(f"{path} cannot be read: {error.strerror or error}. Nothing was uploaded") from error
    return digest.hexdigest(), size_bytes
