"""Where on this machine the session of a task may lie."""

from __future__ import annotations

from pathlib import Path

from telemetry.settings import Settings

__all__ = ["local_places"]


def local_places(settings: Settings, task_id: str) -> list[Path]:
    """Return the folders and zips of the state directory that hold, or may come to hold, parts of a task."""
    folder = settings.state_dir / "sessions"
    parts = sorted(folder.glob(f"{task_id}-[0-9]*.zip")) if folder.is_dir() else []
    return [folder / task_id, *parts, folder / f"{task_id}.zip"]
