"""The files of the store's blobs: `blobs/ab/<sha256>`, and parts of those that are still arriving.

A part belongs to one task, blob and size: what one sender got wrong spoils nobody else's. It is a prefix of the blob
at any instant, so it survives a killed server and is gone on with. Its sha256 is followed as it grows; after a restart
it is read again. All of it blocks: for threads; one call at a time for each part.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telemetry.disk import make_private_folder
from telemetry.server.store.errors import StoreUnavailable
from telemetry.storage.blobs import BLOBS, PIECE_BYTES, is_sha256

__all__ = ["BlobFiles", "Part", "WrongOffset"]

# A digest under way takes some hundred bytes; a part whose digest was forgotten is read again at its end.
_MAX_DIGESTS = 1000
STALE_PART_S = 7 * 24 * 3600.0


class WrongOffset(Exception):
    """A part ends elsewhere than where its sender goes on; `offset` is where."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the part ends at {offset}")
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Part:
    """A blob that a task's sender is sending."""

    task_id: str
    sha256: str
    size_bytes: int

    @property
    def name(self) -> str:
        return f"{self.task_id}-{self.sha256}-{self.size_bytes}"


class BlobFiles:
    """The folder `blobs` of a server's directory.

    Args:
        min_free_share: of the disk, must stay free when a blob has arrived.
    """

    def __init__(self, directory: Path, *, min_free_share: float = 0.0) -> None:
        self._folder = directory / BLOBS
        self.parts = self._folder / "parts"
        self._min_free_share = min_free_share
        self._digests: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def path(self, sha256: str) -> Path:
        """Return where a blob lies or would lie."""
        return self._folder / sha256[:2] / sha256

    def size(self, sha256: str) -> int | None:
        """Return a blob's size in bytes; None if it is not here."""
        try:
            return self.path(sha256).stat().st_size
        except OSError:
            return None

    def remove(self, sha256: str) -> None:
        """Remove a blob; one that cannot be removed is found again by the next sweep."""
        try:
            self.path(sha256).unlink(missing_ok=True)
        except OSError:
            return

    def names(self) -> Iterator[tuple[str, float]]:
        """Yield each blob that is here, and when it came, in Unix seconds."""
        for folder in sorted(self._folder.glob("[0-9a-f][0-9a-f]")):
            for entry in sorted(os.scandir(folder), key=lambda item: item.name):
                if is_sha256(entry.name):
                    yield entry.name, entry.stat().st_mtime

    def take(self, path: Path, sha256: str) -> None:
        """Move a file, whose sha256 was found right, to its place.

        Raises:
            StoreUnavailable: the disk refuses; the file is where it was.
        """
        target = self.path(sha256)
        try:
            make_private_folder(target.parent)
            path.replace(target)
        except OSError as error:
            raise StoreUnavailable(f"the blob {sha256} cannot be stored: {error}") from error

    # ---- parts -----------------------------------------------------------------------------------

    def arrived(self, task_id: str, sha256: str) -> tuple[int, int]:
        """Return how much of a blob has arrived and its size, as its sender says; (0, 0) for nothing."""
        found = [(path.stat().st_size, path.name) for path in self.parts.glob(f"{task_id}-{sha256}-*")]
        if not found:
            return 0, 0
        offset, name = max(found)
        return offset, int(name.rpartition("-")[2])

    def append(self, part: Part, offset: int, data: bytes) -> int:
        """Append to a part and return where it ends now.

        Raises:
            WrongOffset: it does not end at `offset`; nothing was written.
            StoreUnavailable: the disk is full or failing.
        """
        path = self.parts / part.name
        try:
            make_private_folder(self.parts)
            with open(path, "ab", buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                end = file.tell()
                if end != offset:
                    raise WrongOffset(end)
                view = memoryview(data)
                while view:
                    view = view[file.write(view) or 0 :]
        except OSError as error:
            raise StoreUnavailable(f"a blob cannot be stored: {error}") from error
        digest, upto = self._digests.pop(part.name, (hashlib.sha256(), 0))
        if upto == offset:
            digest.update(data)
            upto += len(data)
        self._digests[part.name] = (digest, upto)
        if len(self._digests) > _MAX_DIGESTS:
            self._digests.popitem(last=False)
        return offset + len(data)

    def check(self, part: Part) -> Path | None:
        """Return the file of a part that is whole and has the right sha256; else throw it away and return None.

        Raises:
            StoreUnavailable: the disk is failing.
        """
        path = self.parts / part.name
        digest, upto = self._digests.pop(part.name, (hashlib.sha256(), 0))
        try:
            with path.open("rb") as file:
                file.seek(upto)
                while piece := file.read(PIECE_BYTES):
                    digest.update(piece)
                os.fsync(file.fileno())
            if digest.hexdigest() == part.sha256:
                return path
            path.unlink()
        except OSError as error:
            raise StoreUnavailable(f"a blob cannot be checked: {error}") from error
        return None

    def forget(self, part: Part) -> None:
        """Throw a part away."""
        self._digests.pop(part.name, None)
        (self.parts / part.name).unlink(missing_ok=True)

    def room_for(self, size_bytes: int) -> bool:
        """Say whether the disk has room for so much more, and keeps its free share."""
        try:
            usage = shutil.disk_usage(self._folder if self._folder.exists() else self._folder.parent)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
                return True
            raise StoreUnavailable(f"the disk cannot be asked for its room: {error}") from error
        return usage.free - size_bytes >= usage.total * self._min_free_share

    def remove_stale_parts(self, now_s: float | None = None) -> int:
        """Remove parts to which nothing was added for a week; return their number."""
        now_s = time.time() if now_s is None else now_s
        removed = 0
        for path in self.parts.glob("*") if self.parts.is_dir() else ():
            try:
                if now_s - path.stat().st_mtime > STALE_PART_S:
                    path.unlink()
                    removed += 1
            except OSError:
                continue  # the next start tries again
        return removed
