"""wandb, offline: a child process (wandb-core) writes a .wandb file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from adapters.reading import leveldb_records

_FILE_HEADER_BYTES = 7  # ":W&B", a magic number and a version


class Adapter:
    """One run.log per scalar; system metrics, console, git, machine and code capture are off."""

    def __init__(self, case: str, folder: Path) -> None:
        self._folder = folder
        os.environ.update(
            WANDB_MODE="offline", WANDB_DIR=str(folder), WANDB_SILENT="true", WANDB_ERROR_REPORTING="false"
        )

    def load(self) -> None:
        """Import."""
        import wandb

        self._wandb = wandb

    def open(self) -> Any:
        """Begin a run."""
        settings = self._wandb.Settings(
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            console="off",
            disable_git=True,
            save_code=False,
        )
        self._run = self._wandb.init(project="bench", name="run", mode="offline", settings=settings)
        log = self._run.log
        keys = {(title, f"series {k}"): f"{title}/series_{k}" for title in ("train", "validation") for k in range(5)}
        # Calls of one step are joined into one row of the history, which is kinder than a row for each.
        return lambda title, series, value, iteration: log({keys[title, series]: value}, step=iteration)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()

    def count(self) -> int | None:
        """Count the scalars in the history records of the .wandb file, unpacked by wandb's own messages."""
        from wandb.proto import wandb_internal_pb2

        found = 0
        for path in self._folder.rglob("*.wandb"):
            for data in leveldb_records(path.read_bytes(), skip=_FILE_HEADER_BYTES):
                record = wandb_internal_pb2.Record()
                record.ParseFromString(data)
                for item in record.history.item:
                    key = item.key or item.nested_key[0]
                    found += key.startswith(("train/", "validation/")) and isinstance(
                        json.loads(item.value_json), float
                    )
        return found
