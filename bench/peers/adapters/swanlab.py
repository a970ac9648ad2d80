"""swanlab, offline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from adapters.reading import leveldb_records, protobuf_fields

_FILE_HEADER_BYTES = 7  # ":SWL", a magic number and a version
_SCALAR = 13  # the field of a record that holds a scalar, seen in a file of swanlab 0.10.3


class Adapter:
    """swanlab.log per scalar; hardware monitoring is off."""

    def __init__(self, case: str, folder: Path) -> None:
        self._logs = folder / "swanlog"
        os.environ.update(SWANLAB_MODE="offline", SWANLAB_LOG_DIR=str(self._logs))

    def load(self) -> None:
        """Import."""
        import swanlab

        self._swanlab = swanlab

    def open(self) -> Any:
        """Begin a run."""
        self._logs.mkdir(exist_ok=True)
        self._swanlab.init(project="bench", experiment_name="run", mode="offline", logdir=str(self._logs))
        log = self._swanlab.log
        return lambda title, series, value, iteration: log({f"{title}/{series}": value}, step=iteration)

    def close(self) -> None:
        """Finish the run."""
        self._swanlab.finish()

    def count(self) -> int | None:
        """Count the scalar records of the .swanlab file."""
        found = 0
        for path in self._logs.rglob("*.swanlab"):
            for data in leveldb_records(path.read_bytes(), skip=_FILE_HEADER_BYTES):
                found += any(number == _SCALAR for number, _ in protobuf_fields(data))
        return found
