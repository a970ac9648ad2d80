"""Session folders and zips as runs leave them, written by hand."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from server_support import LOSS, frame_of, rows_of

from telemetry.events import FrameEvent, RecordChange
from telemetry.wire import Frame

POINTS = 400


def task_id_of(number: int) -> str:
    return f"{number:032x}"


def frames_of(number: int, status: str = "completed", count: int = POINTS) -> list[Frame]:
    """Return a run of two frames: its record and half of its points, then the rest and how it ended."""
    rows = rows_of([float(number) + 1 / (step + 1) for step in range(count)])
    begun: list[FrameEvent] = [
        RecordChange(1, "task", "name", f"run {number}"),
        RecordChange(1, "task", "project", "imported"),
        RecordChange(1, "task", "status", "in_progress"),
    ]
    ended = [RecordChange(2, "task", "status", status)] if status else []
    where: dict[str, Any] = {"task_id": task_id_of(number), "writer": number.to_bytes(16, "big")}
    half = count // 2
    return [
        frame_of({LOSS: rows[:half]}, begun, sequence=0, **where),
        frame_of({LOSS: rows[half:]}, ended, sequence=1, **where),
    ]


def session_of(number: int) -> dict[str, Any]:
    return {"format": 1, "task_id": task_id_of(number), "project": "imported", "name": f"run {number}"}


def write_folder(path: Path, number: int, frames: list[Frame], *, tail: bytes = b"") -> Path:
    (path / "segments").mkdir(parents=True)
    (path / "session.json").write_text(json.dumps(session_of(number)))
    data = b"".join(frame.data for frame in frames) + tail
    (path / "segments" / f"{number:032x}-000001.frames").write_bytes(data)
    return path


def write_zip(path: Path, number: int, frames: list[Frame]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("session.json", json.dumps(session_of(number)))
        archive.writestr(f"segments/{number:032x}-000001.frames", b"".join(frame.data for frame in frames))
    return path
