"""The store's tables, in SQLAlchemy Core; docs/server.md describes them in words.

Times are Unix ns (int64). A float column holds NULL for NaN, since SQLite has no NaN; the exact bits
of points are in the packed columns, never here.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

__all__ = [
    "MIGRATIONS",
    "NO_RANK",
    "SCHEMA_VERSION",
    "SYSTEM_TAG",
    "TAG",
    "blocks",
    "chunk_data",
    "chunks",
    "console",
    "deleted_tasks",
    "frame_ranges",
    "frames",
    "media",
    "metadata",
    "metrics",
    "models",
    "plots",
    "records",
    "schema_info",
    "series",
    "series_stats",
    "store_identity",
    "task_blobs",
    "task_bytes",
    "task_models",
    "task_tags",
    "task_writers",
    "tasks",
    "values",
]

# Raised by every change of a table; a store of a newer version is refused, an older one migrated.
SCHEMA_VERSION = 5

# What makes each version out of the one before it, for tables that are there already (migrate.py has what SQL cannot).
MIGRATIONS: dict[int, tuple[str, ...]] = {
    2: (
        "ALTER TABLE console_lines ADD COLUMN writer BLOB",
        "ALTER TABLE console_lines ADD COLUMN sequence BIGINT",
    ),
    3: (
        "ALTER TABLE tasks ADD COLUMN seen BIGINT",
        "ALTER TABLE tasks ADD COLUMN active BIGINT",
        "UPDATE tasks SET seen = last_update, active = last_update",
        # SQLite cannot change what is unique in a table; it can only be made anew.
        "CREATE TABLE series_3 (id INTEGER NOT NULL PRIMARY KEY, task BIGINT NOT NULL, metric BIGINT NOT NULL, "
        "rank INTEGER NOT NULL, unit TEXT NOT NULL, UNIQUE (task, metric, rank))",
        "INSERT INTO series_3 (id, task, metric, rank, unit) SELECT id, task, metric, -1, unit FROM series",
        "DROP TABLE series",
        "ALTER TABLE series_3 RENAME TO series",
        "ALTER TABLE series_stats ADD COLUMN rank INTEGER NOT NULL DEFAULT -1",
        "DROP INDEX series_stats_by_metric",
        "DROP INDEX series_stats_by_task",
        "CREATE INDEX series_stats_by_metric ON series_stats (metric, last, task, rank)",
        "CREATE INDEX series_stats_by_task ON series_stats (task, metric, rank)",
    ),
    4: (
        "ALTER TABLE tasks ADD COLUMN comment TEXT",
        "ALTER TABLE tasks ADD COLUMN parent TEXT",
        "ALTER TABLE tasks ADD COLUMN published INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE tasks ADD COLUMN archived INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE tasks ADD COLUMN last_change BIGINT",
        "ALTER TABLE tasks ADD COLUMN status_changed BIGINT",
        "CREATE INDEX ix_tasks_parent ON tasks (parent)",
        "ALTER TABLE metrics ADD COLUMN title_md5 TEXT",
        "ALTER TABLE metrics ADD COLUMN series_md5 TEXT",
        "CREATE INDEX metrics_by_md5 ON metrics (title_md5, series_md5)",
        "ALTER TABLE task_writers ADD COLUMN rank INTEGER",
    ),
    # The rows of series and points move in slices, each its own transaction: see moving.py.
    5: (
        "ALTER TABLE tasks ADD COLUMN sealed BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE tasks ADD COLUMN summed BIGINT NOT NULL DEFAULT 0",
        # Tombstones of rows that are gone: a new task may get their number.
        "DELETE FROM deleted_tasks WHERE task_id LIKE '#%' AND \"row\" IS NULL",
        # All that there is came before the log.
        "UPDATE tasks SET sealed = 1, summed = 1",
        "DROP INDEX IF EXISTS metrics_by_md5",
        "ALTER TABLE metrics DROP COLUMN title_md5",
        "ALTER TABLE metrics DROP COLUMN series_md5",
        "DROP INDEX IF EXISTS ix_metrics_path",
        "ALTER TABLE metrics DROP COLUMN path",
        "ALTER TABLE metrics ADD COLUMN md5 BLOB",
        "CREATE INDEX metrics_by_md5 ON metrics (md5)",
        # The indexes of the new tables have these names.
        "DROP INDEX IF EXISTS series_stats_by_metric",
        "DROP INDEX IF EXISTS series_stats_by_task",
        "DROP INDEX IF EXISTS chunks_by_series",
        "ALTER TABLE series RENAME TO series_4",
        "ALTER TABLE series_stats RENAME TO series_stats_4",
        "ALTER TABLE chunks RENAME TO chunks_4",
    ),
}

# A NULL would be different from every other NULL in a unique key.
NO_RANK = -1

# Kinds of tags.
TAG, SYSTEM_TAG = 0, 1

metadata = MetaData()

# SQLite makes only INTEGER PRIMARY KEY an alias of its rowid; elsewhere 32 bits would be too few.
_Id = BigInteger().with_variant(Integer, "sqlite")

schema_info = Table("schema_info", metadata, Column("version", Integer, nullable=False))

# One row, made with the store: who sees another one here talks to another store, at whatever address.
store_identity = Table("store_identity", metadata, Column("store_id", String(32), primary_key=True))

# One row a task: the fold of its record, denormalised for the table of tasks, and its totals.
tasks = Table(
    "tasks",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("task_id", String(32), nullable=False, unique=True),
    Column("name", Text, nullable=False, index=True),
    Column("project", Text, nullable=False, index=True),
    Column("type", Text, nullable=False),
    Column("status", Text, nullable=False, index=True),
    Column("status_reason", Text),
    Column("progress", Float, index=True),
    Column("tags", Text, nullable=False),
    Column("host", Text),
    Column("created", BigInteger, index=True),
    Column("started", BigInteger, index=True),
    Column("ended", BigInteger),
    Column("last_update", BigInteger, index=True),
    # By the server's clock: the last sign of life, and the last that was more than a sign of life (status.py).
    Column("seen", BigInteger),
    Column("active", BigInteger),
    Column("last_iteration", BigInteger),
    Column("points", BigInteger, nullable=False),
    Column("resource_points", BigInteger, nullable=False),
    Column("console_lines", BigInteger, nullable=False),
    Column("models", BigInteger, nullable=False),
    Column("frames", BigInteger, nullable=False),
    Column("writers", Integer, nullable=False),
    # JSON of the scalar series ids that were updated most recently: [[series id, time], ...].
    Column("recent_series", Text, nullable=False),
    # Case-folded name, project, id, tags and comment, for the search box.
    Column("search_text", Text, nullable=False),
    Column("comment", Text),
    Column("parent", Text, index=True),
    Column("published", Integer, nullable=False, server_default="0"),
    Column("archived", Integer, nullable=False, server_default="0"),
    # Times of the latest record change (heartbeats apart), and of the one that made the status.
    Column("last_change", BigInteger),
    Column("status_changed", BigInteger),
    # Positions in the log: up to the first one the points are in chunks and blocks, up to the second one in
    # series_stats. Points of later frames are in `frames` only.
    Column("sealed", BigInteger, nullable=False, server_default="0"),
    Column("summed", BigInteger, nullable=False, server_default="0"),
)

# The tags of each task once more, to be found by.
task_tags = Table(
    "task_tags",
    metadata,
    Column("kind", Integer, primary_key=True),
    Column("tag", Text, primary_key=True),
    Column("task", BigInteger, primary_key=True),
    Index("task_tags_by_task", "task"),
    sqlite_with_rowid=False,
)

# Tasks that were deleted: what their writers still send is taken and thrown away. `row` was the task's row id;
# NULL once nothing of it is left (delete.py).
deleted_tasks = Table(
    "deleted_tasks",
    metadata,
    Column("task_id", String(32), primary_key=True),
    Column("row", BigInteger),
    sqlite_with_rowid=False,
)

task_writers = Table(
    "task_writers",
    metadata,
    Column("task", BigInteger, primary_key=True),
    Column("writer", LargeBinary, primary_key=True),
    # NULL where the task has one process, and for writers from before version 4.
    Column("rank", Integer),
    sqlite_with_rowid=False,
)

# The bytes of frames that were taken, for the limits of projects. Apart from `tasks`, which older stores have.
task_bytes = Table(
    "task_bytes",
    metadata,
    Column("task", _Id, primary_key=True, autoincrement=False),
    Column("frame_bytes", BigInteger, nullable=False),
)

# The blobs that a task holds: its sender has sent these bytes, or may count on those of another task. The files are
# in blobs/ (blob_files.py).
task_blobs = Table(
    "task_blobs",
    metadata,
    Column("task", BigInteger, primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Index("task_blobs_by_sha256", "sha256"),
    sqlite_with_rowid=False,
)

# What models are found by: a row for each entry of a task's sections "output_models" and "input_models", whose value
# is in `records` (model_index.py).
task_models = Table(
    "task_models",
    metadata,
    Column("task", BigInteger, primary_key=True),
    Column("section", Text, primary_key=True),
    Column("model_id", Text, primary_key=True),
    # Case-folded.
    Column("name", Text, nullable=False),
    Column("uri", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("size", BigInteger),
    Column("time", BigInteger, nullable=False),
    Index("task_models_by_id", "model_id"),
    Index("task_models_by_time", "time"),
    Index("task_models_by_path", "path", "host"),
    sqlite_with_rowid=False,
)

# Which frames are in the store: inclusive ranges of sequence numbers by writer.
frame_ranges = Table(
    "frame_ranges",
    metadata,
    Column("writer", LargeBinary, primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("last", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# (section, key) of the record; `value` is msgpack, NULL where the key was removed: the removal must be
# remembered, or an older change that arrives later would bring the key back.
records = Table(
    "records",
    metadata,
    Column("task", BigInteger, primary_key=True),
    Column("section", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("writer", LargeBinary, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("value", LargeBinary),
    sqlite_with_rowid=False,
)

values = Table(
    "single_values",
    metadata,
    Column("task", BigInteger, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("writer", LargeBinary, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("value", Float),
    sqlite_with_rowid=False,
)

console = Table(
    "console_lines",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("task", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("stream", Text, nullable=False),
    Column("level", Integer),
    Column("text", Text, nullable=False),
    # The frame it came in: lines of one instant keep their order, however the frames arrived. NULL before version 2.
    Column("writer", LargeBinary),
    Column("sequence", BigInteger),
    Index("console_lines_by_task", "task", "id"),
)

models = Table(
    "models",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("task", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("framework", Text, nullable=False),
    Column("iteration", BigInteger),
    Column("size_bytes", BigInteger),
    Index("models_by_task", "task", "id"),
)

# One row for each (title, series, iteration): the latest by time, writer and sequence.
plots = Table(
    "plots",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("task", BigInteger, nullable=False),
    Column("title", Text, nullable=False),
    Column("series", Text, nullable=False),
    Column("iteration", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("writer", LargeBinary, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("blob", Text, nullable=False, server_default=""),  # sha256 of a figure beside the frames, else ""
    # Deflated JSON. Last: a list of names does not step over it.
    Column("figure", LargeBinary),
    UniqueConstraint("task", "title", "series", "iteration"),
)

media = Table(
    "media",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("task", BigInteger, nullable=False),
    Column("title", Text, nullable=False),
    Column("series", Text, nullable=False),
    Column("iteration", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("writer", LargeBinary, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("uri", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("size_bytes", BigInteger),
    UniqueConstraint("task", "title", "series", "iteration"),
)

# A metric is a series' name over all tasks: what the table of tasks can be sorted by.
metrics = Table(
    "metrics",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("series", Text, nullable=False),
    # What queries name them by, last_metrics.<md5 of title>.<md5 of series>.value: both, 32 bytes.
    Column("md5", LargeBinary),
    UniqueConstraint("kind", "title", "series"),
    Index("metrics_by_md5", "md5"),
)

# A series is numbered within its task.
series = Table(
    "series",
    metadata,
    Column("task", BigInteger, primary_key=True),
    Column("id", BigInteger, primary_key=True),
    Column("metric", BigInteger, nullable=False),
    Column("rank", Integer, nullable=False),  # NO_RANK where the task has one process
    Column("unit", Text, nullable=False),
    UniqueConstraint("task", "metric", "rank"),
    sqlite_with_rowid=False,
)

# Written in bulk, task by task: what is known of each series up to the frame `tasks.summed`.
series_stats = Table(
    "series_stats",
    metadata,
    Column("task", BigInteger, primary_key=True),
    Column("series", BigInteger, primary_key=True),
    Column("metric", BigInteger, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("non_finite", BigInteger, nullable=False),
    Column("lowest_iteration", BigInteger, nullable=False),
    Column("highest_iteration", BigInteger, nullable=False),
    Column("last_time", BigInteger, nullable=False),
    Column("last_iteration", BigInteger, nullable=False),
    Column("last", Float),
    Column("min", Float),
    Column("min_iteration", BigInteger),
    Column("max", Float),
    Column("max_iteration", BigInteger),
    Index("series_stats_by_metric", "metric", "last", "task", "rank"),
    sqlite_with_rowid=False,
)

# The log: frames with points that are not sealed yet, whole, in the order of their commits. `id` is a frame's position.
frames = Table(
    "frames",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("task", BigInteger, nullable=False),
    Column("points", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("frames_by_task", "task", "id"),
)

# Sealed points in runs too short for a chunk, of many series of a task in one row (blocks.py). `level`: how often they
# were merged. Positions: of the first and the last frame that its points came in.
blocks = Table(
    "blocks",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("task", BigInteger, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("level", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("last_position", BigInteger, nullable=False),
    Column("points", Integer, nullable=False),
    Column("runs", Integer, nullable=False),
    # The block's index, before the data: who looks for a run does not step over the points.
    Column("places", LargeBinary, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Index("blocks_by_partition", "task", "partition", "level", "position"),
)

# Sealed points of one long series, and their overview.
chunks = Table(
    "chunks",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("task", BigInteger, nullable=False),
    Column("series", BigInteger, nullable=False),
    # Of the first frame that its points came in. Chunks of one position are in the order of their ids.
    Column("position", BigInteger, nullable=False),
    Column("count", Integer, nullable=False),
    Column("non_finite", Integer, nullable=False),
    Column("first_iteration", BigInteger, nullable=False),
    Column("last_iteration", BigInteger, nullable=False),
    Column("lowest_iteration", BigInteger, nullable=False),
    Column("highest_iteration", BigInteger, nullable=False),
    Column("first_time", BigInteger, nullable=False),
    Column("last_time", BigInteger, nullable=False),
    Column("lowest_time", BigInteger, nullable=False),
    Column("highest_time", BigInteger, nullable=False),
    Column("min", Float),
    Column("max", Float),
    Column("overview", LargeBinary, nullable=False),
    Index("chunks_by_series", "task", "series", "position", "id"),
    Index("chunks_by_position", "task", "position"),
)

# Apart from `chunks`, so that a zoom-out reads the overviews without stepping over the points.
chunk_data = Table(
    "chunk_data",
    metadata,
    Column("chunk", _Id, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)
