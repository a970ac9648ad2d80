"""aim: a local repository."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Adapter:
    """Run.track per scalar; system and console capture are off; making the repository is in init."""

    def __init__(self, case: str, folder: Path) -> None:
        self._repository = folder / "aim"
        os.environ["AIM_UI_TELEMETRY_ENABLED"] = "0"

    def load(self) -> None:
        """Import."""
        import aim

        self._aim = aim

    def open(self) -> Any:
        """Make the repository and begin a run."""
        self._repository.mkdir(exist_ok=True)
        self._run = self._aim.Run(
            repo=str(self._repository), experiment="bench", system_tracking_interval=None, capture_terminal_logs=False
        )
        track = self._run.track
        contexts = {"train": {"subset": "train"}, "validation": {"subset": "validation"}}
        return lambda title, series, value, iteration: track(
            value, name=series, step=iteration, context=contexts[title]
        )

    def close(self) -> None:
        """Close the run."""
        self._run.close()

    def count(self) -> int | None:
        """Count the points of every metric with aim's own reader."""
        import aim

        found = 0
        for name in aim.Repo(str(self._repository)).list_all_runs():
            # Opened for writing: read-only goes through an index that only aim's server brings up to date.
            run = aim.Run(name, repo=str(self._repository), system_tracking_interval=None, capture_terminal_logs=False)
            found += sum(len(metric.values.sparse_numpy()[0]) for metric in run.metrics())
        return found
