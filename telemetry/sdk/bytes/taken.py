"""Files that the server has taken, and what is still here of them: a server may lose what it has.

As the journal does with frames: the last ones stay in the spool until the task's end, and are sent again to a server
that turns out to have been given an older copy of its data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from telemetry.storage.blobs import Blob, BlobFolder

__all__ = ["TakenFile", "TakenFiles"]

# Of files that the server has, the last ones that stay here: as much as the journal keeps of frames.
KEEP_BYTES = 64 * 1024 * 1024
# Known by name; a task with more has sent pictures, mostly.
MAX_FILES = 10_000


@dataclass(frozen=True, slots=True)
class TakenFile:
    """A file that a server has taken. `folder` has its bytes, for as long as they are kept."""

    blob: Blob
    label: str
    sink: Any
    folder: BlobFolder


class TakenFiles:
    """The files of one process that servers have taken. On the carrier's thread, but for `let_go` after it is done."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, str], TakenFile] = {}
        # Those of which the bytes are kept, oldest first.
        self._kept: dict[tuple[str, str], TakenFile] = {}
        self._kept_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._files)

    def add(self, file: TakenFile) -> list[TakenFile]:
        """A server has taken a file. Return those whose bytes are to be removed, for it is too much to keep."""
        key = (file.sink.name, file.blob.sha256)
        self._files.pop(key, None)
        self._files[key] = file
        if len(self._files) > MAX_FILES:
            del self._files[next(iter(self._files))]
        if self._kept.pop(key, None) is None:
            self._kept_bytes += file.blob.size_bytes
        self._kept[key] = file
        removed = []
        while self._kept_bytes > KEEP_BYTES:
            removed.append(self._kept.pop(next(iter(self._kept))))
            self._kept_bytes -= removed[-1].blob.size_bytes
        return removed

    def of_sink(self, name: str) -> dict[str, TakenFile]:
        """Return the files that one sink's server has taken, by sha256."""
        return {sha256: file for (sink, sha256), file in self._files.items() if sink == name}

    def sinks(self) -> list[Any]:
        """Return the sinks whose servers have taken any."""
        return list({name: file.sink for (name, _), file in self._files.items()}.values())

    def forget(self, file: TakenFile) -> None:
        """The server has it no more."""
        self._files.pop((file.sink.name, file.blob.sha256), None)

    def let_go(self) -> list[TakenFile]:
        """Keep nothing any more; return what is to be removed."""
        removed = list(self._kept.values())
        self._kept.clear()
        self._kept_bytes = 0
        return removed
