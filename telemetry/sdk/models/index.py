"""Which model a file of this machine is: a small index in the state directory, so that nobody has to ask a server.

A file for each path, `models/<digest of the path>.json`: whoever saved a model there, or copied one there, notes its
id, and whoever loads it looks. The note counts while the file's size and time are what they were.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from telemetry.disk import make_private_folder
from telemetry.process.interrupts import is_interrupt

__all__ = ["KnownModel", "ModelIndex"]

log = logging.getLogger(__name__)

FOLDER = "models"

# A note has some 300 bytes.
_MAX_NOTE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model of some task, as it is known on this machine. `task`: "" where no task made it."""

    id: str
    task: str
    name: str
    framework: str


class ModelIndex:
    """Safe from any thread and process. Nothing here raises: where a model comes from is worth no error.

    Args:
        state_dir: of the settings.
        mode: of the settings; while it is "disabled" nothing is noted.
    """

    def __init__(self, state_dir: Path, mode: str = "online") -> None:
        self._folder = state_dir / FOLDER
        self._takes_notes = mode != "disabled"

    def note(self, path: Path, model: KnownModel) -> None:
        """Note which model is at `path`, a file or folder, as it is now."""
        if not self._takes_notes:
            return
        try:
            note = {**asdict(model), "path": str(path), "mark": _mark(path)}
            make_private_folder(self._folder)
            self._write(self._place(path), note)
            if model.task:
                self._write(self._folder / f"id-{model.id}.json", {"task": model.task})
        except (OSError, ValueError) as error:
            if is_interrupt(error):
                raise
            log.debug("a model file is not in the index: %s", error)

    def task_of(self, model_id: str) -> str:
        """Return the id of the task that made a model, as far as this machine knows; "" if it does not."""
        try:
            with (self._folder / f"id-{model_id}.json").open("rb") as file:
                task = json.loads(file.read(_MAX_NOTE_BYTES))["task"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            if is_interrupt(error):
                raise
            return ""
        return task if isinstance(task, str) else ""

    def _write(self, place: Path, note: dict[str, Any]) -> None:
        handle, name = tempfile.mkstemp(prefix=".note-", dir=self._folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(note, file)
            Path(name).replace(place)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise

    def find(self, path: Path) -> KnownModel | None:
        """Return the model that is at `path`; None if nobody noted one, or the file has changed since."""
        try:
            with self._place(path).open("rb") as file:
                note: Any = json.loads(file.read(_MAX_NOTE_BYTES))
            if note["path"] != str(path) or note["mark"] != _mark(path):
                return None
            texts = [note[name] for name in ("id", "task", "name", "framework")]
        except (OSError, ValueError, KeyError, TypeError) as error:
            if is_interrupt(error):
                raise
            return None
        return KnownModel(*texts) if all(isinstance(text, str) for text in texts) else None

    def _place(self, path: Path) -> Path:
        return self._folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"


def _mark(path: Path) -> list[int]:
    status = path.stat()
    # A folder's size and time tell nothing of the files in it.
    return [status.st_size, status.st_mtime_ns] if path.is_file() else [0, 0]
