"""One file of a journal's frames: what is in it, reading it, and telling that somebody took it away.

Plain, synchronous code, for the disk thread.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from telemetry.wire import SCAN_BLOCK_BYTES, Damage, Frame, scan_source

__all__ = ["Segment", "frames_from", "frames_of", "holds", "is_taken_away", "open_private", "path_of", "scan_file"]


@dataclass(slots=True)
class Segment:
    """One file of frames. `last_sequence` is the greatest appended, -1 for none.

    Attributes:
        sequences, events: of each frame in it: 16 bytes a frame, by which is known what is
            lost with the file.
    """

    path: Path
    last_sequence: int = -1
    size: int = 0
    sequences: array[int] = field(default_factory=lambda: array("q"))
    events: array[int] = field(default_factory=lambda: array("L"))

    def note(self, frames: Sequence[Frame]) -> None:
        self.last_sequence = frames[-1].sequence
        self.sequences.extend([frame.sequence for frame in frames])
        self.events.extend([frame.events for frame in frames])

    def events_after(self, sequence: int) -> dict[int, int]:
        """Return the number of events of each frame with a greater sequence number."""
        return {one: count for one, count in zip(self.sequences, self.events, strict=True) if one > sequence}


def scan_file(
    path: Path, *, offset: int = 0, block_bytes: int = SCAN_BLOCK_BYTES
) -> Iterator[tuple[int, Frame | Damage]]:
    """Yield the frames and the damage of a file from `offset` on, each with its place; see wire.scan_source.

    Raises:
        OSError: it is not there or cannot be read.
    """
    with path.open("rb") as file:
        file.seek(offset)
        yield from scan_source(file.read, offset=offset, block_bytes=block_bytes)


def frames_from(path: Path, offset: int) -> Iterator[tuple[int, Frame]]:
    """Yield (offset, frame) of a segment from `offset` on; nothing of one that somebody else has removed."""
    try:
        for position, item in scan_file(path, offset=offset):
            if isinstance(item, Frame):
                yield position, item
    except FileNotFoundError:
        return


def is_taken_away(descriptor: int, path: Path, size: int) -> bool:
    """Say whether an open file is not any more what lies at its path, with at least `size` bytes."""
    ours = os.fstat(descriptor)
    try:
        there = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as error:
        # It may not be looked at, or the file system does not answer: that says nothing about the file.
        return error.errno == errno.ESTALE
    if ours.st_size < size:
        return True
    # Some FUSE file systems number a file anew at each look: the number alone is no proof.
    return not os.path.samestat(ours, there) and (ours.st_nlink == 0 or ours.st_size != there.st_size)


def holds(path: Path, size: int) -> bool:
    """Say whether a file is there with so many bytes; one that may not be looked at is taken to be."""
    try:
        return path.stat().st_size >= size
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        return error.errno != errno.ESTALE


def frames_of(descriptor: int) -> Iterator[Frame]:
    """Yield the sound frames of an open file, which may have no name any more; its own position stays."""
    offset = 0

    def read(size: int) -> bytes:
        nonlocal offset
        block = os.pread(descriptor, size, offset)
        offset += len(block)
        return block

    return (item for _, item in scan_source(read) if isinstance(item, Frame))


def path_of(descriptor: int) -> Path | None:
    """Return where an open file lies by now, where the system can tell (Linux); None if it was deleted."""
    try:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        return path if os.path.samestat(path.stat(), os.fstat(descriptor)) else None
    except OSError:
        return None


def open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
