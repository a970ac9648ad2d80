"""`telemetry salvage`: whatever sound frames are left in a damaged session, segment or zip, as a new session folder.

A frame is found by its magic number and proved by its checksum, so neither file names nor a zip's directory are
needed: a session zip stores its members as they are, and one that was cut in two still shows its frames.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from telemetry.disk import make_private_folder
from telemetry.errors import FrameError, JournalError
from telemetry.journal import SESSION_FILE, SESSION_FORMAT, SegmentDamage
from telemetry.sessions.segments import scan_file
from telemetry.wire import Damage, Frame, decode

__all__ = ["Salvaged", "salvage"]


@dataclass(slots=True)
class Salvaged:
    """What was found and what was skipped.

    Attributes:
        folders: the session folders written, one for each task found.
        frames, events: saved; a frame that lies there twice counts once.
        damage: bytes that are no frame, with file, offset and reason. Between the members of a zip lie bytes of
            the zip itself, which are not listed.
    """

    folders: list[Path] = field(default_factory=list)
    frames: int = 0
    events: int = 0
    damage: list[SegmentDamage] = field(default_factory=list)


def salvage(source: Path, out: Path) -> Salvaged:
    """Copy every sound frame below `source` into session folders in `out`; the source is only read.

    Args:
        source: a session folder, a segment, a session zip, or any file or folder with frames in it.
        out: a folder; each task found gets a session folder in it, named by its id.
    Raises:
        JournalError: `source` is not there, or `out` cannot be written.
    """
    if not source.exists():
        raise JournalError(f"there is no {source}")
    found = Salvaged()
    seen: set[tuple[bytes, int]] = set()
    writers: dict[str, Path] = {}
    for path in _files(source):
        for item in _items(path):
            if isinstance(item, SegmentDamage):
                found.damage.append(item)
                continue
            try:
                batch = decode(item)
            except FrameError as error:
                found.damage.append(SegmentDamage(str(path), Damage(0, len(item), f"frame {item.sequence}: {error}")))
                continue
            if (item.writer_id, item.sequence) in seen:
                continue
            seen.add((item.writer_id, item.sequence))
            folder = writers.get(batch.task_id)
            try:
                if folder is None:
                    folder = writers[batch.task_id] = _make_folder(out / batch.task_id, batch.task_id)
                    found.folders.append(folder)
                _append(folder / "segments" / f"{item.writer_id.hex()}-000001.frames", item.data)
            except OSError as error:
                raise JournalError(f"{out} cannot be written: {error}; {source} is as it was") from error
            found.frames += 1
            found.events += item.events
    return found


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    names = (".frames", ".frame", ".zip", ".part")
    return sorted(path for path in source.rglob("*") if path.is_file() and path.suffix in names)


def _items(path: Path) -> Iterator[Frame | SegmentDamage]:
    is_zip = path.suffix in (".zip", ".part")
    for _, item in scan_file(path):
        if isinstance(item, Frame):
            yield item
        elif not (is_zip and item.foreign):
            yield SegmentDamage(path.name, item)


def _make_folder(folder: Path, task_id: str) -> Path:
    make_private_folder(folder / "segments")
    folder.chmod(0o700)
    # Names and times are in the frames' own record changes; this only says whose they are.
    session = {
        "format": SESSION_FORMAT,
        "task_id": task_id,
        "project": "",
        "name": "",
        "type": "training",
        "created_unix_ns": 0,
    }
    _write(folder / SESSION_FILE, json.dumps(session, indent=1).encode(), os.O_TRUNC)
    return folder


def _append(path: Path, data: bytes) -> None:
    _write(path, data, os.O_APPEND)


def _write(path: Path, data: bytes, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
