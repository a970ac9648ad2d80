"""Deposit: what is to be kept of a task beside its reports, where, and who is told. Upload: a deposit on its way.

Whoever made the deposit is told with what its entry in the record says of the bytes:

    uri "", "pending"                                           at once
    uri "blob:<sha256>", "pending", sha256 and size_bytes       when the bytes are in the session folder
    uri of a storage, "stored", sha256 and size_bytes           where they go to another place than the server
    uri "", "failed" and the error                              if they can't be stored

Whether a "blob:" is stored is decided when the record is read: it is, where the blob is.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from telemetry.record import BlobState, Section
from telemetry.sdk.bytes.parcel import Parcel, Source, file_stem
from telemetry.storage.blobs import Blob, BlobFolder
from telemetry.storage.target import Target

__all__ = ["Deposit", "Upload", "fields_of"]


_FOLDERS = {Section.OUTPUT_MODELS: "models", Section.INPUT_MODELS: "models"}


def _tell_nobody(fields: Mapping[str, Any]) -> None:
    """Take what has become of bytes that no record names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposit:
    """What is put where. Its callbacks run on threads of ours, one at a time.

    Attributes:
        parcel: the file, or what becomes one.
        section, key: whose bytes they are: "artifacts", "data". Of two deposits with the same the later replaces the
            earlier. Without a key it replaces nothing.
        label: for a person: "artifact 'data'".
        tell: takes what is known of the bytes, as above.
        on_stored: called when they are at their final place.
        target: the storage they go to; None for the task's own, True for the server.
        folder: where at a storage, below the task's; None for a folder that section and key name.
    """

    parcel: Parcel
    section: str = ""
    key: str = ""
    label: str = ""
    tell: Callable[[Mapping[str, Any]], object] = _tell_nobody
    on_stored: Callable[[], object] | None = None
    target: Target | bool | None = None
    folder: str | None = None

    @property
    def slot(self) -> str:
        """What two deposits have in common of which the later replaces the earlier; "" for nothing."""
        return f"{self.section}/{self.key}" if self.key else ""

    @property
    def path(self) -> str:
        """Where the file goes at a storage, below the task's folder: "artifacts/<name>/<file>"."""
        folder = self._named_folder() if self.folder is None else self.folder
        return f"{folder}/{self.parcel.filename}" if folder else self.parcel.filename

    def _named_folder(self) -> str:
        if not self.key:
            return ""
        part = file_stem(self.key)
        if part != self.key:
            # "a/b" and "a_b" are two artifacts.
            part = f"{part}-{hashlib.sha256(self.key.encode()).hexdigest()[:8]}"
        return f"{_FOLDERS.get(self.section, self.section)}/{part}"

    def storage(self, own: Target | None) -> Target | None:
        """Return the storage it goes to, where `own` is the task's; None for the server."""
        return own if self.target is None else None if isinstance(self.target, bool) else self.target


def fields_of(blob: Blob, state: str) -> dict[str, Any]:
    """Return what an entry of the record says of bytes that are somewhere."""
    return {"uri": blob.uri, "state": state, "sha256": blob.sha256, "size_bytes": blob.size_bytes}


class Upload:
    """A deposit on its way, as whoever made it sees it. Safe from any thread.

    Attributes:
        label: what it is, for lines that a person reads: "artifact 'data'".
        blob: its bytes' name and size, once they were read; with the final uri once they are stored.
        error: why it failed; "" while it has not.
        source: what is to be read, until it was.
        target: the storage it goes to; None for the server.
        places: the session folders that it was put into, with their sinks.
        is_replaced: a later one has taken its slot: nobody will ask for its bytes.
    """

    def __init__(self, deposit: Deposit) -> None:
        parcel = deposit.parcel
        self.label = deposit.label or parcel.filename
        self.slot = deposit.slot
        self.blob: Blob | None = None
        self.error = ""
        self.source: Source | None = parcel.source
        self.target: Target | None = None
        self.places: Sequence[tuple[Any, BlobFolder]] = ()
        self.is_replaced = False
        # The bytes in memory are held by `source` alone, which lets them go when they were read.
        self._deposit: Deposit | None = replace(deposit, parcel=replace(parcel, source=None, packed=[], preview=""))
        self._kept = threading.Event()
        self._ended = threading.Event()

    @property
    def deposit(self) -> Deposit:
        """What is on its way, but for its source. Once it has ended there is none: readers hold uploads for long."""
        assert self._deposit is not None
        return self._deposit

    @property
    def state(self) -> str:
        """Where the bytes are by now; one of BlobState."""
        if self.error:
            return BlobState.FAILED
        return BlobState.STORED if self.done else BlobState.PENDING

    def reset_after_fork(self) -> None:
        """In a forked child: who waited is in the parent, and may have held a lock; and so is what will be told."""
        self._kept, self._ended = threading.Event(), threading.Event()
        if self.blob is not None:
            self._kept.set()

    @property
    def kept(self) -> bool:
        """True once the bytes are in the session folder: the source is not needed any more."""
        return self._kept.is_set()

    @property
    def done(self) -> bool:
        """True once it is stored or has failed."""
        return self._ended.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is stored at its final place; False if it failed or the time ran out."""
        return self._ended.wait(timeout_s) and not self.error

    def wait_kept(self, timeout_s: float | None = None) -> bool:
        """Wait until its bytes are in the session folder; False if it failed or the time ran out."""
        return self._kept.wait(timeout_s) and not (self.error and self.blob is None)

    def note_kept(self, blob: Blob) -> None:
        """Note that the bytes are in the session folder."""
        self.blob, self.source = blob, None
        self._kept.set()

    def end(self, error: str = "") -> None:
        """Note that it is stored, or why it can't be."""
        self.error, self.source, self._deposit = error, None, None
        self._kept.set()
        self._ended.set()
