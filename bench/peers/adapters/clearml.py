"""clearml, offline: a session folder, zipped at the end."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any


class Adapter:
    """clearml: as it comes (a reporting sub-process); clearml_thread: `report_use_subprocess: false`."""

    def __init__(self, case: str, folder: Path) -> None:
        self._folder = folder
        config = folder / "clearml.conf"
        lines = ['sdk.storage.cache.default_base_dir: "%s"' % (folder / "cache")]
        if case == "clearml_thread":
            lines.append("sdk.development.report_use_subprocess: false")
        config.write_text("\n".join(lines) + "\n")
        os.environ.update(
            CLEARML_CONFIG_FILE=str(config), CLEARML_OFFLINE_MODE="1", CLEARML_CACHE_DIR=str(folder / "cache")
        )

    def load(self) -> None:
        """Import."""
        from clearml import Task

        self._task_class = Task

    def open(self) -> Any:
        """Begin an offline task with every automatic feature off."""
        self._task_class.set_offline(offline_mode=True)
        self._task = self._task_class.init(
            project_name="bench",
            task_name="run",
            auto_connect_arg_parser=False,
            auto_connect_frameworks=False,
            auto_resource_monitoring=False,
            auto_connect_streams=False,
        )
        return self._task.get_logger().report_scalar

    def close(self) -> None:
        """Close the task: the offline session is zipped."""
        self._task.close()

    def count(self) -> int | None:
        """Count the scalar events in the metrics.jsonl of the session zips, else of the folders."""
        texts = []
        for path in self._folder.rglob("*.zip"):
            with zipfile.ZipFile(path) as archive:
                texts += [archive.read(name).decode() for name in archive.namelist() if name.endswith("metrics.jsonl")]
        texts = texts or [path.read_text() for path in self._folder.rglob("metrics.jsonl")]
        found = 0
        for text in texts:
            for line in filter(None, text.splitlines()):
                events = json.loads(line)
                for event in events if isinstance(events, list) else [events]:
                    found += event.get("type") == "training_stats_scalar" or "value" in event
        return found
