"""trackio: a local SQLite file (and, in this version, a background thread that fills it)."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any


class Adapter:
    """trackio.init / log / finish without a space, without GPU logging."""

    def __init__(self, case: str, folder: Path) -> None:
        self._store = folder / "trackio"
        os.environ["TRACKIO_DIR"] = str(self._store)
        os.environ["HF_HUB_OFFLINE"] = "1"

    def load(self) -> None:
        """Import."""
        import trackio

        self._trackio = trackio

    def open(self) -> Any:
        """Begin a run."""
        self._trackio.init(project="bench", name="run")
        log = self._trackio.log
        keys = {(title, f"series {k}"): f"{title}/series_{k}" for title in ("train", "validation") for k in range(5)}
        return lambda title, series, value, iteration: log({keys[title, series]: value}, step=iteration)

    def close(self) -> None:
        """Finish the run."""
        self._trackio.finish()

    def count(self) -> int | None:
        """Count the keys of the logged metrics in every SQLite file."""
        found = 0
        for path in self._store.rglob("*.db"):
            with sqlite3.connect(path) as database:
                for (metrics,) in database.execute("SELECT metrics FROM metrics"):
                    found += sum(key.startswith(("train/", "validation/")) for key in json.loads(metrics))
        return found
