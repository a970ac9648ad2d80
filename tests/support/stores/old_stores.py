"""Stores as older versions left them: the one in tests/golden/stores, and any store made one of version 4."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

from telemetry.server.store.blocks import read_index
from telemetry.server.store.chunks import pack
from telemetry.server.store.database import DATABASE_NAME

GOLDEN = Path(__file__).parents[2] / "golden" / "stores"


def unpack_golden(directory: Path) -> dict[str, Any]:
    """Make the store that version 4 wrote in a directory; return what it answered (store_answers.py)."""
    with zipfile.ZipFile(GOLDEN / "store_4.zip") as archive:
        archive.extractall(directory)
    answers: dict[str, Any] = json.loads((GOLDEN / "store_4.json").read_text("utf-8"))
    return answers


_STATISTICS = """count, non_finite, lowest_iteration, highest_iteration, last_time, last_iteration, last, min,
    min_iteration, max, max_iteration"""
_BACK = f"""
    ALTER TABLE tasks DROP COLUMN sealed;
    ALTER TABLE tasks DROP COLUMN summed;
    CREATE TABLE old (id INTEGER NOT NULL PRIMARY KEY, task BIGINT NOT NULL, metric BIGINT NOT NULL,
        rank INTEGER NOT NULL, unit TEXT NOT NULL, UNIQUE (task, metric, rank));
    INSERT INTO old SELECT id, task, metric, rank, unit FROM series;
    DROP TABLE series;
    ALTER TABLE old RENAME TO series;
    CREATE TABLE old (series INTEGER NOT NULL PRIMARY KEY, task BIGINT NOT NULL, metric BIGINT NOT NULL,
        rank INTEGER NOT NULL, count BIGINT NOT NULL, non_finite BIGINT NOT NULL, lowest_iteration BIGINT NOT NULL,
        highest_iteration BIGINT NOT NULL, last_time BIGINT NOT NULL, last_iteration BIGINT NOT NULL, last FLOAT,
        min FLOAT, min_iteration BIGINT, max FLOAT, max_iteration BIGINT, tail_points INTEGER NOT NULL,
        tail_rows INTEGER NOT NULL);
    INSERT INTO old SELECT series, task, metric, rank, {_STATISTICS}, count, 1 FROM series_stats;
    DROP TABLE series_stats;
    ALTER TABLE old RENAME TO series_stats;
    CREATE INDEX series_stats_by_metric ON series_stats (metric, last, task, rank);
    CREATE INDEX series_stats_by_task ON series_stats (task, metric, rank);
    CREATE TABLE tails (id INTEGER NOT NULL PRIMARY KEY, series BIGINT NOT NULL, merged INTEGER NOT NULL,
        data BLOB NOT NULL);
    CREATE INDEX tails_by_series ON tails (series, id);
    DROP INDEX chunks_by_series;
    DROP INDEX chunks_by_position;
    ALTER TABLE chunks DROP COLUMN task;
    ALTER TABLE chunks DROP COLUMN position;
    CREATE INDEX chunks_by_series ON chunks (series, id);
    DROP INDEX metrics_by_md5;
    ALTER TABLE metrics DROP COLUMN md5;
    ALTER TABLE metrics ADD COLUMN path TEXT NOT NULL DEFAULT '';
    ALTER TABLE metrics ADD COLUMN title_md5 TEXT;
    ALTER TABLE metrics ADD COLUMN series_md5 TEXT;
    CREATE INDEX ix_metrics_path ON metrics (path);
    CREATE INDEX metrics_by_md5 ON metrics (title_md5, series_md5);
    DROP TABLE frames;
    UPDATE schema_info SET version = 4;
"""


def back_to_version_4(directory: Path) -> None:
    """Make a closed store one of version 4. All must be sealed, nothing in chunks, and each series of one task."""
    connection = sqlite3.connect(directory / DATABASE_NAME)
    assert not connection.execute("SELECT count(*) FROM frames").fetchone()[0], "seal it first"
    connection.executescript(_BACK)
    for places, data in connection.execute("SELECT places, data FROM blocks ORDER BY position, id").fetchall():
        index = read_index(places)
        rows = [(run.series, pack(run.points)) for run in index.runs(index.find(None), data)]
        connection.executemany("INSERT INTO tails (series, merged, data) VALUES (?, 0, ?)", rows)
    connection.execute("DROP TABLE blocks")
    connection.commit()
    connection.close()
