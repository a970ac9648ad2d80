"""neptune-scale, offline: a local SQLite file of operations."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from adapters.reading import protobuf_fields

_APPEND = 8  # the field of an update with one appended value, seen in a file of neptune-scale 0.30.0


class Adapter:
    """Run.log_metrics per scalar; each call is one operation in the file."""

    def __init__(self, case: str, folder: Path) -> None:
        self._store = folder / "neptune"
        os.environ.update(NEPTUNE_MODE="offline", NEPTUNE_PROJECT="bench/bench", NEPTUNE_LOG_DIRECTORY=str(self._store))

    def load(self) -> None:
        """Import."""
        from neptune_scale import Run

        self._run_class = Run

    def open(self) -> Any:
        """Begin a run."""
        self._run = self._run_class(
            experiment_name="bench", mode="offline", log_directory=str(self._store), enable_console_log_capture=False
        )
        log = self._run.log_metrics
        # One step may be given once for each attribute, and only in growing order.
        return lambda title, series, value, iteration: log({f"{title}/{series}": value}, step=iteration)

    def close(self) -> None:
        """Close the run."""
        self._run.close()

    def count(self) -> int | None:
        """Count the appended values in the operations of the file."""
        found = 0
        for path in self._store.rglob("*.sqlite3"):
            with sqlite3.connect(path) as database:
                for (operation,) in database.execute("SELECT operation FROM run_operations WHERE operation_type = 0"):
                    found += sum(number == _APPEND for number, _ in protobuf_fields(operation))
        return found
