"""Depot: where a task puts the bytes of its artifacts and models, and what the record says of them meanwhile.

RunningDepot   of the task that this process runs: put() returns at once, the bytes are uploaded (sdk/bytes/uploads.py)
SendingDepot   of any other task: they are on the server when put() returns
NowhereDepot   while telemetry is disabled
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from telemetry.errors import BlobError
from telemetry.process import lifecycle
from telemetry.process.interrupts import is_interrupt
from telemetry.record import BlobState
from telemetry.sdk.bytes.deposit import Deposit, Upload, fields_of
from telemetry.sdk.bytes.parcel import Parcel, new_scratch_path
from telemetry.sdk.bytes.uploads import Uploads
from telemetry.storage.blobs import Blob, blob_uri, sha256_and_size

__all__ = ["READ_TIMEOUT_S", "Depot", "NowhereDepot", "RunningDepot", "SendingDepot", "was_put_here"]

# What a reader waits for bytes that are still being read from their source, in seconds.
READ_TIMEOUT_S = 60.0

# For this long without a byte moving a program waits that has asked to wait, in seconds.
STALL_S = 30.0


# The sha256 of all that this process, or the one that forked it, has put into a depot. Growing by one is atomic.
_put_here: set[str] = set()


def was_put_here(sha256: str) -> bool:
    """Return True if this process has put these very bytes into a task itself."""
    return sha256 in _put_here


class Depot:
    """What puts the bytes of entries of the record where they belong.

    Attributes:
        keeps: False where no byte is ever kept: nothing needs to be made of an object.
    """

    keeps = True

    def put(self, deposit: Deposit) -> None:
        """Take bytes to be stored, and tell at once what is known of them; not after the next put for the same key."""
        raise NotImplementedError

    def forget(self, section: str, key: str) -> None:
        """Let an upload that is under way tell nothing more about this key."""

    def wait(self, section: str, key: str) -> bool:
        """Wait until this key's bytes are stored; False if they can't be, or nothing has moved for 30 s."""
        return True

    def upload(self, section: str, key: str) -> Upload | None:
        """Return the upload of this process for a key; None if there was none."""
        return None


class RunningDepot(Depot):
    """The depot of a task that this process runs: nothing waits for a disk or network. Safe from any thread."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self.reset_after_fork()
        lifecycle.watch_forks(self)

    def reset_after_fork(self) -> None:
        """In a forked child: another thread of the parent's may have held the lock, and its uploads are its own."""
        self._lock = threading.RLock()
        # None: what was put is somewhere already, and only its address is recorded.
        self._latest: dict[tuple[str, str], Upload | None] = {}

    def put(self, deposit: Deposit) -> None:
        """See Depot."""
        entry, tell_record = (deposit.section, deposit.key), deposit.tell
        upload: Upload | None = None

        def tell(fields: Mapping[str, Any]) -> None:
            if sha256 := fields.get("sha256"):
                _put_here.add(sha256)
            # Of two uploads under one key the later one counts, whichever comes to its end first.
            with self._lock:
                if entry in self._latest and self._latest[entry] is upload:
                    tell_record(fields)

        uri = deposit.parcel.uri
        if not uri:
            upload = Upload(replace(deposit, tell=tell))
        with self._lock:
            self._latest[entry] = upload
            tell({"uri": uri, "state": BlobState.STORED if uri else BlobState.PENDING})
        if upload is not None:
            self._uploads.start(upload)

    def forget(self, section: str, key: str) -> None:
        """See Depot."""
        with self._lock:
            self._latest.pop((section, key), None)

    def wait(self, section: str, key: str) -> bool:
        """See Depot."""
        if (section, key) not in self._latest:
            return False
        upload = self.upload(section, key)
        return upload is None or self._uploads.wait_stored(upload, stall_s=STALL_S)

    def upload(self, section: str, key: str) -> Upload | None:
        """See Depot."""
        return self._latest.get((section, key))


class SendingDepot(Depot):
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

    def put(self, deposit: Deposit) -> None:
        """See Depot.

        Raises:
            BlobError: the file can't be read. ServerError: the server can't be reached, or refuses.
        """
        if deposit.parcel.uri:
            deposit.tell({"uri": deposit.parcel.uri, "state": BlobState.STORED})
            return
        path, is_ours = _as_file(deposit.parcel, self._scratch)
        try:
            blob = _blob_of(path)
            _put_here.add(blob.sha256)
            storage = deposit.storage(None)
            if storage is not None:
                stored = blob.at(storage.put(f"{self._prefix}/{deposit.path}", path))
                deposit.tell(fields_of(stored, BlobState.STORED))
            else:
                # First the record: the server takes bytes that a task refers to.
                deposit.tell(fields_of(blob, BlobState.PENDING))
                self._send(blob.sha256, path, blob.size_bytes)
        finally:
            if is_ours:
                path.unlink(missing_ok=True)
        if deposit.on_stored is not None:
            deposit.on_stored()


class NowhereDepot(Depot):
    """The depot of any task while telemetry is disabled: no byte is read, and what was put stays pending."""

    keeps = False

    def put(self, deposit: Deposit) -> None:
        """See Depot."""
        uri = deposit.parcel.uri
        deposit.tell({"uri": uri, "state": BlobState.STORED if uri else BlobState.PENDING})


def _as_file(parcel: Parcel, scratch: Path) -> tuple[Path, bool]:
    """Return the parcel's file, and whether it is to be deleted afterwards."""
    source = parcel.source() if callable(parcel.source) else parcel.source
    if isinstance(source, Path):
        return source, parcel.removes_source
    path = new_scratch_path(scratch)
    path.write_bytes(source or b"")
    return path, True


def _blob_of(path: Path) -> Blob:
    try:
        with path.open("rb") as file:
            sha256, size_bytes = sha256_and_size(file)
    except OSError as error:
        if is_interrupt(error):
            raise
        raise BlobError(f"{path} cannot be read: {error.strerror or error}. Nothing was uploaded") from error
    return Blob(sha256, size_bytes, blob_uri(sha256))
