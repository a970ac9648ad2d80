"""mlflow: a local SQLite store, one log_metric per scalar."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any


class Adapter:
    """mlflow_sqlite: synchronous logging; making the fresh database is in init."""

    def __init__(self, case: str, folder: Path) -> None:
        self._database = folder / "mlflow.db"
        os.environ.update(MLFLOW_TRACKING_URI=f"sqlite:///{self._database}", MLFLOW_DISABLE_TELEMETRY="true")

    def load(self) -> None:
        """Import."""
        import mlflow

        self._mlflow = mlflow

    def open(self) -> Any:
        """Begin a run."""
        self._mlflow.set_experiment("bench")
        self._mlflow.start_run(run_name="run")
        log = self._mlflow.log_metric
        return lambda title, series, value, iteration: log(f"{title}/{series}", value, step=iteration)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()

    def count(self) -> int | None:
        """Count the rows of the metrics table."""
        with sqlite3.connect(self._database) as database:
            return int(database.execute("SELECT COUNT(*) FROM metrics").fetchone()[0])
