"""The store's directory: private, for one server, of one version; and what a full disk does."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from old_stores import back_to_version_4
from server_support import LOSS, START_NS, TASK, WRITER, content_of, rows_of

from telemetry.errors import ConfigurationError
from telemetry.events import ConsoleLine, RecordChange
from telemetry.server.store import ConsoleQuery, Store, StoreUnavailable, TasksQuery
from telemetry.server.store.compact import compact
from telemetry.server.store.database import DATABASE_NAME
from telemetry.server.store.schema import SCHEMA_VERSION


def test_everything_in_the_directory_is_private(tmp_path: Path) -> None:
    # given a lax umask
    old = os.umask(0)
    try:
        store = Store(tmp_path / "new" / "store")
        store.write([content_of({LOSS: rows_of([1.0])})])
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new" / "store").iterdir()}
        store.close()
    finally:
        os.umask(old)
    # then
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE((tmp_path / "new" / "store").stat().st_mode) == 0o700


def test_a_second_server_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    first = Store(tmp_path)
    with pytest.raises(ConfigurationError, match="another server"):
        Store(tmp_path)
    first.close()
    Store(tmp_path).close()


def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    # given
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        connection.execute("UPDATE schema_info SET version = ?", (SCHEMA_VERSION + 1,))
    connection.close()
    before = (tmp_path / DATABASE_NAME).read_bytes()
    # then
    with pytest.raises(ConfigurationError, match=f"schema version {SCHEMA_VERSION + 1}"):
        Store(tmp_path)
    assert (tmp_path / DATABASE_NAME).read_bytes() == before


BACK_TO_VERSION_3 = """
    DROP INDEX ix_tasks_parent;
    ALTER TABLE tasks DROP COLUMN comment;
    ALTER TABLE tasks DROP COLUMN parent;
    ALTER TABLE tasks DROP COLUMN published;
    ALTER TABLE tasks DROP COLUMN archived;
    ALTER TABLE tasks DROP COLUMN last_change;
    ALTER TABLE tasks DROP COLUMN status_changed;
    DROP INDEX metrics_by_md5;
    ALTER TABLE metrics DROP COLUMN title_md5;
    ALTER TABLE metrics DROP COLUMN series_md5;
    ALTER TABLE task_writers DROP COLUMN rank;
    DROP TABLE task_tags;
    DROP TABLE deleted_tasks;
"""

BACK_TO_VERSION_1 = f"""
    {BACK_TO_VERSION_3}
    ALTER TABLE console_lines DROP COLUMN writer;
    ALTER TABLE console_lines DROP COLUMN sequence;
    ALTER TABLE tasks DROP COLUMN seen;
    ALTER TABLE tasks DROP COLUMN active;
    CREATE TABLE old (id INTEGER NOT NULL PRIMARY KEY, task BIGINT NOT NULL, metric BIGINT NOT NULL,
        unit TEXT NOT NULL, UNIQUE (task, metric));
    INSERT INTO old SELECT id, task, metric, unit FROM series;
    DROP TABLE series;
    ALTER TABLE old RENAME TO series;
    DROP INDEX series_stats_by_metric;
    DROP INDEX series_stats_by_task;
    ALTER TABLE series_stats DROP COLUMN rank;
    CREATE INDEX series_stats_by_metric ON series_stats (metric, last, task);
    CREATE INDEX series_stats_by_task ON series_stats (task, metric);
"""


def test_a_store_of_version_1_is_migrated_and_keeps_its_lines(tmp_path: Path) -> None:
    # given a store as version 1 wrote it, with a line
    line = ConsoleLine(START_NS, "stdout", "old")
    store = Store(tmp_path)
    store.write([content_of({}, [line])])
    store.close()
    back_to_version_4(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        connection.executescript(BACK_TO_VERSION_1)
        connection.execute("UPDATE schema_info SET version = 1")
    connection.close()
    # when it is opened and written
    store = Store(tmp_path)
    store.write([content_of({}, [ConsoleLine(START_NS, "stdout", "new")], sequence=1)])
    # then
    assert [item["text"] for item in store.console(TASK, ConsoleQuery())["lines"]] == ["old", "new"]
    store.close()


def test_a_store_of_version_3_is_migrated_and_can_be_queried_by_what_it_held(tmp_path: Path) -> None:
    # given a store as version 3 wrote it
    store = Store(tmp_path)
    fields = {"name": "old", "comment": "by hand", "tags": ["a"], "system_tags": ["archived"], "status": "completed"}
    events = [RecordChange(START_NS + n, "task", key, value) for n, (key, value) in enumerate(fields.items())]
    store.write([content_of({LOSS: rows_of([1.0])}, events)])
    before = store.task(TASK)
    store.point_store.seal_all()
    store.close()
    back_to_version_4(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        connection.executescript(BACK_TO_VERSION_3)
        connection.execute("UPDATE schema_info SET version = 3")
    connection.close()
    # when it is opened
    store = Store(tmp_path)
    # then all is there as if it had been written today
    assert store.task(TASK) == before
    assert (before["comment"], before["system_tags"]) == ("by hand", ["archived"])
    store.close()
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        assert connection.execute("SELECT kind, tag FROM task_tags").fetchall() == [(0, "a"), (1, "archived")]
        assert connection.execute("SELECT md5 FROM metrics").fetchall() == [
            (hashlib.md5(b"loss").digest() + hashlib.md5(b"train").digest(),)
        ]
    connection.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(b"something else entirely" * 100)
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        Store(tmp_path)


def test_a_full_disk_refuses_the_frame_and_keeps_what_was_there(tmp_path: Path) -> None:
    # given a store that may hold about a megabyte
    import random

    generator = random.Random(1)
    store = Store(tmp_path, max_bytes=1_000_000)
    written = 0
    # when it fills up
    with pytest.raises(StoreUnavailable, match="full"):
        while written < 1000:
            values = [generator.random() for _ in range(8192)]
            store.write([content_of({LOSS: rows_of(values, first=written * 8192)}, sequence=written)])
            written += 1
    # then the frame that did not fit left nothing
    assert written > 3
    assert store.has_frame(WRITER, written - 1)
    assert not store.has_frame(WRITER, written)
    assert store.task(TASK)["counts"]["points"] == written * 8192
    assert store.tasks(TasksQuery())["total"] == 1
    store.close()
    # and with room again it is taken
    roomy = Store(tmp_path)
    assert roomy.write([content_of({LOSS: rows_of([1.0])}, sequence=written)]).stored == [True]
    roomy.close()


def test_a_million_random_points_take_less_than_twelve_bytes_each(tmp_path: Path) -> None:
    # given 10 series in turn, random values, a clock with jitter in ns
    import numpy as np

    from telemetry.events import Batch, ScalarColumns, SeriesKey
    from telemetry.server.store import prepare
    from telemetry.wire import Frame

    generator = np.random.default_rng(1)
    store = Store(tmp_path)
    keys = [SeriesKey("scalar", "loss", f"series {n}") for n in range(10)]
    clock = 1_700_000_000_000_000_000
    rows = 65_536
    for sequence in range(16):
        columns = ScalarColumns(keys)
        times = clock + np.cumsum(generator.integers(300, 900, rows))
        clock = int(times[-1])
        columns.series_index.frombytes((np.arange(rows) % 10).astype(np.uint32).tobytes())
        columns.iterations.frombytes((np.arange(rows) // 10 + sequence * rows // 10).astype(np.int64).tobytes())
        columns.times_unix_ns.frombytes(times.astype(np.int64).tobytes())
        columns.values.frombytes(generator.random(rows).tobytes())
        store.write([prepare(Frame(WRITER, sequence, rows, b""), Batch(TASK, columns, (), rows))])
    # when
    store.close()
    # then
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size / (16 * rows) < 12


# What commits between two releases wrote under the number of a version.
BEFORE_ARCHIVED_TASKS = """
    ALTER TABLE plots DROP COLUMN blob;
    ALTER TABLE tasks DROP COLUMN archived;
    ALTER TABLE tasks DROP COLUMN last_change;
    ALTER TABLE task_writers DROP COLUMN rank;
    DROP INDEX metrics_by_md5;
"""
BEFORE_SERIES_BY_RANK = """
    CREATE TABLE old (id INTEGER NOT NULL PRIMARY KEY, task BIGINT NOT NULL, metric BIGINT NOT NULL,
        unit TEXT NOT NULL, UNIQUE (task, metric));
    INSERT INTO old SELECT id, task, metric, unit FROM series;
    DROP TABLE series;
    ALTER TABLE old RENAME TO series;
"""


def altered(directory: Path, script: str) -> Path:
    """Return the file of a store with a point in it that a script has changed, which keeps its version's number."""
    store = Store(directory)
    store.write([content_of({LOSS: rows_of([1.0])})])
    store.close()
    with sqlite3.connect(directory / DATABASE_NAME) as connection:
        connection.executescript(script)
    connection.close()
    return directory / DATABASE_NAME


def test_a_store_that_lacks_columns_of_its_version_gets_them(tmp_path: Path) -> None:
    # given a store of this version's number, without some of its columns
    altered(tmp_path, BEFORE_ARCHIVED_TASKS)
    # when it is opened and written
    store = Store(tmp_path)
    store.write([content_of({LOSS: rows_of([2.0], first=1)}, sequence=1)])
    # then both points are there
    assert store.task(TASK)["points"] == 2
    assert [task["id"] for task in store.tasks(TasksQuery())["tasks"]] == [TASK]
    store.close()


def test_a_store_that_cannot_be_made_what_its_version_is_is_refused_and_left_alone(tmp_path: Path) -> None:
    # given a store of this version's number whose series have no rank
    path = altered(tmp_path, BEFORE_SERIES_BY_RANK)
    with sqlite3.connect(path) as connection:
        before = list(connection.iterdump())
    connection.close()
    # then it is refused with what is different and what to do, each time
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"series has no column rank.*Nothing was changed.*--data"):
            Store(tmp_path)
    with sqlite3.connect(path) as connection:
        assert list(connection.iterdump()) == before
    connection.close()


@pytest.mark.parametrize("size_bytes", [100, 5000, 20_000])
def test_a_store_that_is_cut_is_refused_with_its_path(tmp_path: Path, size_bytes: int) -> None:
    path = altered(tmp_path, "")
    os.truncate(path, size_bytes)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=DATABASE_NAME):
        Store(tmp_path)
    assert path.read_bytes() == before


def free_pages(folder: Path) -> int:
    with closing(sqlite3.connect(folder / DATABASE_NAME)) as connection:
        found: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return found


def filled(folder: Path, *, lines: int) -> Store:
    """A store with a task of so many long console lines, and another one."""
    store = Store(folder)
    long = [ConsoleLine(START_NS, "stdout", os.urandom(500).hex()) for _ in range(lines)]
    store.write([content_of({}, long)])
    store.write([content_of({LOSS: rows_of([1.0])}, task_id="f" * 32, writer=b"w" * 16)])
    return store


def test_the_space_of_a_deleted_task_goes_back_to_the_disk_slice_by_slice(tmp_path: Path) -> None:
    # Given a store of which most is one task's
    store = filled(tmp_path, lines=12_000)
    store.close()
    before = (tmp_path / DATABASE_NAME).stat().st_size
    store = Store(tmp_path)
    store.delete_task(TASK)
    while store.remove_deleted():
        pass
    # When it is given back, with frames written in between
    slices = 0
    while store.give_back():
        slices += 1
        other = content_of({}, [], task_id="f" * 32, writer=b"w" * 16, sequence=slices)
        assert store.write([other]).stored == [True]
    # Then the file is small while the server runs
    after = (tmp_path / DATABASE_NAME).stat().st_size
    assert slices > 2
    assert (before > 12_000_000, after < 1_000_000) == (True, True), (before, after)
    assert store.task("f" * 32)["points"] == 1
    store.close()
    assert free_pages(tmp_path) == 0
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_database_without_auto_vacuum_has_nothing_to_give_back_and_works_on(tmp_path: Path) -> None:
    # Given a database as version 0.1 made it
    filled(tmp_path, lines=3000).close()
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        connection.executescript("PRAGMA journal_mode=DELETE; PRAGMA auto_vacuum=NONE; VACUUM")
    unchanged = (tmp_path / DATABASE_NAME).read_bytes()

    def cut(done_bytes: int, total_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compact(tmp_path, cut)
    assert (tmp_path / DATABASE_NAME).read_bytes() == unchanged
    store = Store(tmp_path)
    store.delete_task(TASK)
    while store.remove_deleted():
        pass
    assert store.give_back() is False
    assert store.stuck_bytes > 2_000_000
    # And it is not made smaller while a server has it
    with pytest.raises(ConfigurationError, match="another server"):
        compact(tmp_path, lambda done, total: None)
    store.close()
    assert free_pages(tmp_path) > 300
    # When it is made anew
    before, after = compact(tmp_path, lambda done, total: None)
    assert after < before // 3
    # Then it is private, sound, and gives back as any other
    assert stat.S_IMODE((tmp_path / DATABASE_NAME).stat().st_mode) == 0o600
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    store = Store(tmp_path)
    assert store.task("f" * 32)["points"] == 1
    lines = [ConsoleLine(START_NS, "stdout", "x" * 900)] * 3000
    store.write([content_of({}, lines, task_id="e" * 32, writer=b"e" * 16)])
    store.delete_task("e" * 32)
    while store.remove_deleted() or store.give_back():
        pass
    assert store.stuck_bytes == 0
    store.close()
    assert free_pages(tmp_path) == 0
