"""A store of version 4 is moved to today's tables: once, all of it, and whatever stops that."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_store import LOSS, Sender, task_id
from injectors import small_disk
from old_stores import unpack_golden
from server_support import MS, START_NS, Row, config_of, rows_of, soon_after_the_start
from store_answers import answers_of

from telemetry.errors import ConfigurationError
from telemetry.events import RecordChange, SeriesKey
from telemetry.record import TaskKey
from telemetry.server.app import serve
from telemetry.server.store import Store, StoreUnavailable, moving
from telemetry.server.store.chunks import Points, pack, unpack
from telemetry.server.store.database import DATABASE_NAME
from telemetry.server.store.schema import SCHEMA_VERSION

FRESH = SeriesKey("scalar", "fresh", "one")


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in SMALL_SLICES.items():
        monkeypatch.setattr(moving, name, size)


SMALL_SLICES = {"SLICE_CHUNKS": 3, "SLICE_SERIES": 150, "SLICE_POINTS": 400}


def opened(directory: Path, *, max_bytes: int | None = None) -> Store:
    return Store(directory, max_bytes=max_bytes, clock=soon_after_the_start)


def in_database(directory: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(directory / DATABASE_NAME, isolation_level=None))


def changed_by(directory: Path, script: str) -> None:
    with in_database(directory) as connection:
        connection.executescript(script)


def version_of(directory: Path) -> int:
    with in_database(directory) as connection:
        version: int = connection.execute("SELECT version FROM schema_info").fetchone()[0]
        return version


def key_of(series: SeriesKey, rank: int | None) -> tuple[Any, ...]:
    return (series.kind, series.title, series.series, rank)


def exported(store: Store, name: str) -> dict[tuple[Any, ...], list[bytes]]:
    """Return a task's columns of points by series and rank, in the order they came."""
    found: dict[tuple[Any, ...], list[bytes]] = {}
    page: dict[str, Any] = {"next": None}
    while True:
        page = store.export_points(task_id(name), page["next"])
        for kind, title, series, _, rank, *columns in page["runs"]:
            held = found.setdefault((kind, title, series, rank), [b""] * 3)
            found[kind, title, series, rank] = [old + new for old, new in zip(held, columns, strict=True)]
        if page["next"] is None:
            return found


def columns_of(rows: Sequence[Row]) -> list[bytes]:
    return [array(kind, column).tobytes() for kind, column in zip("qqd", zip(*rows, strict=True), strict=True)]


# -- all of it


def test_a_moved_store_answers_as_the_old_one_did(tmp_path: Path) -> None:
    answers = unpack_golden(tmp_path)
    # when it is opened, and opened again
    for _ in range(2):
        store = opened(tmp_path)
        found = answers_of(store)
        store.close()
        # then every answer and every export is what version 4 gave
        assert {name for name in answers.keys() | found.keys() if answers.get(name) != found.get(name)} == set()


def test_a_moved_store_has_the_tables_of_a_new_one(tmp_path: Path) -> None:
    unpack_golden(tmp_path / "old")
    for name in ("old", "new"):
        opened(tmp_path / name).close()
    shapes = []
    for name in ("old", "new"):
        with in_database(tmp_path / name) as connection:
            names = [
                row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
            ]
            # A column that was added later is the last one; nothing depends on it.
            columns = {
                table: sorted(row[1:] for row in connection.execute(f"PRAGMA table_info({table})")) for table in names
            }
            shapes.append(
                (sorted(names), {name: columns[name] for name in ("series", "series_stats", "chunks", "blocks")})
            )
    assert shapes[0] == shapes[1]


def test_moved_tasks_go_on_and_their_points_stay_in_the_order_they_came(tmp_path: Path) -> None:
    # given a moved store whose tasks go on
    unpack_golden(tmp_path)
    store = opened(tmp_path)
    ranks = {"long": None, "ranks": 1, "many": None}
    expected = {name: exported(store, name) for name in ranks}
    senders = {name: Sender(name, "of today", rank) for name, rank in ranks.items()}
    highest = max(one["id"] for one in store.series(task_id("long"))["series"])
    # when more comes, of old series and of new ones, and is sealed bit by bit
    for part in range(10):
        brought = {key: rows_of([part + n / 1000 for n in range(700)], first=50) for key in (LOSS, FRESH)}
        for name, rank in ranks.items():
            store.write([senders[name].frame(brought)])
            for key, rows in brought.items():
                held = expected[name].setdefault(key_of(key, rank), [b""] * 3)
                held[:] = [old + new for old, new in zip(held, columns_of(rows), strict=True)]
        if part % 3 == 2:
            store.point_store.seal_all()
    # then every series is what it was, and then what came; also when all is sealed and merged at the end
    assert {name: exported(store, name) for name in ranks} == expected
    for sender in senders.values():
        store.write([sender.frame({LOSS: []}, [RecordChange(START_NS + MS, "task", "status", "completed")])])
    store.point_store.keep()
    assert {name: exported(store, name) for name in ranks} == expected
    # and it has its figures, the new ones under the ids after the highest
    series = {(one["title"], one["series"]): one for one in store.series(task_id("long"))["series"]}
    assert series["fresh", "one"]["id"] == highest + 1
    assert series["loss", "train"]["count"] == len(expected["long"][key_of(LOSS, None)][0]) // 8
    store.close()


def test_a_moved_task_can_be_begun_anew_and_deleted_to_the_last_row(tmp_path: Path) -> None:
    # given a moved store in which a task was deleted and one begun anew before, and rows of both are left
    unpack_golden(tmp_path)
    store = opened(tmp_path)
    # when another one is begun anew, with points that are newer, and all others are deleted
    since_ns = START_NS + 12_000 * MS
    store.write([Sender("long", "anew").frame({}, [RecordChange(since_ns, "task", TaskKey.RESET, since_ns)])])
    for name in ("ranks", "attempts", "anew", "reports", "many"):
        store.delete_task(task_id(name))
    while store.remove_deleted():
        pass
    # then nothing but the newer points is left
    kept = exported(store, "long")
    row = store.task(task_id("long"))
    store.close()
    assert {key: len(columns[0]) // 8 for key, columns in kept.items()} == {key_of(LOSS, None): 501}
    assert row["counts"]["points"] == 501
    with in_database(tmp_path) as connection:
        chunks = connection.execute("SELECT count(*) FROM chunks").fetchone()
        assert connection.execute("SELECT count(*) FROM chunk_data").fetchone() == chunks
        for table in ("series", "series_stats", "chunks", "blocks", "frames"):
            assert len(connection.execute(f"SELECT DISTINCT task FROM {table}").fetchall()) <= 1, table


# -- stopped

# Dies by the signal nobody can catch when the store commits for the n-th time, all of it written and nothing committed.
KILLED = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import Engine, event
from telemetry.server.store import Store, moving
commits_left = int(sys.argv[2])
@event.listens_for(Engine, "commit")
def kill(connection):
    global commits_left
    commits_left -= 1
    if not commits_left:
        os.kill(os.getpid(), signal.SIGKILL)
for setting in sys.argv[3:]:
    name, size = setting.split("=")
    setattr(moving, name, int(size))
Store(Path(sys.argv[1])).close()
"""


def start_and_kill(directory: Path, commit: int) -> bool:
    """Open a store in a process that is killed in its n-th commit; False if it was opened before it came to that."""
    sizes = ["SLICE_CHUNKS=4", "SLICE_SERIES=200", "SLICE_POINTS=2500"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(directory), str(commit), *sizes], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def held(directory: Path) -> dict[str, int]:
    """Count what old and new tables hold together."""
    found: Counter[str] = Counter()
    with in_database(directory) as connection:
        there = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table, column in (("series", None), ("series_stats", "count"), ("chunks", "count"), ("blocks", "points")):
            for name in {table, f"{table}_4"} & there:
                query = f"SELECT {f'sum({column})' if column else 'count(*)'} FROM {name}"
                found["blocks" if table == "tails" else table] += connection.execute(query).fetchone()[0] or 0
        if "tails" in there:
            for (data,) in connection.execute("SELECT data FROM tails"):
                found["blocks"] += len(unpack(data))
    return dict(found)


def test_killed_at_every_commit_it_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    answers = unpack_golden(tmp_path)
    before = held(tmp_path)
    # when it is killed in its first commit
    assert start_and_kill(tmp_path, 1)
    # then nothing has happened, and the old program could go on
    assert (version_of(tmp_path), held(tmp_path)) == (4, before)
    # when each start is killed in its third commit: the first sees what is there, the second moves a slice
    starts = 0
    while start_and_kill(tmp_path, 3):
        starts += 1
        # then the old program refuses it, and nothing is lost or there twice
        assert (version_of(tmp_path), held(tmp_path)) == (SCHEMA_VERSION, before)
    assert starts > 6, starts
    # and it ends as if nothing had happened
    store = opened(tmp_path)
    found = answers_of(store)
    store.close()
    assert {name for name in answers.keys() | found.keys() if answers.get(name) != found.get(name)} == set()


@pytest.mark.usefixtures("small_slices")
def test_a_server_that_is_stopped_meanwhile_ends_and_the_next_one_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # given servers that are to stop before they have begun
    answers = unpack_golden(tmp_path)
    before = held(tmp_path)
    ready: list[str] = []

    async def start() -> None:
        stop = asyncio.Event()
        stop.set()
        await serve(config_of(tmp_path), on_ready=ready.append, stop=stop)

    # when they are started, then each moves a slice and ends; the one that finds nothing left to move serves
    starts = 0
    while not ready:
        caplog.clear()
        asyncio.run(start())
        starts += 1
        if not ready:
            assert "the next start goes on" in caplog.text
            assert held(tmp_path) == before
    assert starts > 10
    store = opened(tmp_path)
    found = answers_of(store)
    store.close()
    assert {name for name in answers.keys() | found.keys() if answers.get(name) != found.get(name)} == set()


@pytest.mark.usefixtures("small_slices")
def test_a_store_that_may_not_grow_says_what_to_do_and_goes_on_when_it_may(tmp_path: Path) -> None:
    # given a store that fills what it may take
    answers = unpack_golden(tmp_path)
    before = held(tmp_path)
    versions: list[int] = []
    # when it may take a page more at each start
    for pages in count((tmp_path / DATABASE_NAME).stat().st_size // 8192):
        try:
            store = opened(tmp_path, max_bytes=pages * 8192)
            break
        except StoreUnavailable as error:
            versions.append(version_of(tmp_path))
            if versions[-1] == SCHEMA_VERSION:
                assert re.search(r"in part.*full.*Nothing is lost.*start the server again", str(error))
        assert held(tmp_path) == before
    # then it stopped, at least before the move (in the middle of it: the next test), and ends as if there had been room
    assert 4 in versions
    found = answers_of(store)
    store.close()
    assert {name for name in answers.keys() | found.keys() if answers.get(name) != found.get(name)} == set()


@pytest.mark.usefixtures("small_slices")
def test_a_disk_that_fills_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4_000_000) as disk:
        answers = unpack_golden(disk)
        before = held(disk)
        # given a disk with room for some steps at most
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(2_800_000))
        said: list[str] = []
        store: Store | None = None
        # when there is a little more room at each start
        while store is None:
            try:
                store = opened(disk)
            except StoreUnavailable as error:
                said += [str(error)] if version_of(disk) == SCHEMA_VERSION else []
                os.truncate(ballast, ballast.stat().st_size - 100_000)
                assert held(disk) == before
        # then it says what to do where it stopped in the middle, and ends as if there had been room
        assert said and all(re.search(r"in part.*Nothing is lost.*Make room", text) for text in said)
        found = answers_of(store)
        store.close()
        assert {name for name in answers.keys() | found.keys() if answers.get(name) != found.get(name)} == set()


# -- what it says, and what it does not believe


@pytest.mark.usefixtures("small_slices")
def test_it_says_how_far_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "PROGRESS_S", 0.0)
    unpack_golden(tmp_path)
    with caplog.at_level(logging.WARNING, "telemetry.server"):
        opened(tmp_path).close()
        opened(tmp_path).close()
    first, *between, last = [record.getMessage() for record in caplog.records]
    assert re.search(r"moved to version 5 now, once: 0 of 40,311 points, 0 of 616 series, 0 of 7 tasks", first)
    assert re.search(r"is moved: 40,311 points of 7 tasks; \d+\.\d s$", last)
    pattern = r"moving the store: ([\d,]+) of 40,311 points, ([\d,]+) of 616 series, (\d) of 7 tasks; about \d+ s still"
    said = [re.fullmatch(pattern, line) for line in between]
    counts = [[int(text.replace(",", "")) for text in found.groups()] for found in said if found is not None]
    assert len(counts) == len(between) > 5
    for column in zip(*counts, strict=True):
        assert list(column) == sorted(column)
    assert counts[-1] == [40_311, 616, 7]


def test_a_tail_that_cannot_be_read_is_kept_and_the_rest_is_moved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # given a store with bytes in a tail of one series that are none of ours
    answers = unpack_golden(tmp_path)
    changed_by(tmp_path, "UPDATE tails SET data = x'00112233' WHERE id = (SELECT min(id) FROM tails WHERE series = 20)")
    # when it is opened
    with caplog.at_level(logging.ERROR, "telemetry.server"):
        store = opened(tmp_path)
    found = answers_of(store)
    store.close()
    # then it says which, leaves the bytes, and all else is there
    assert "points of series 20 are left in the table tails" in caplog.text
    with in_database(tmp_path) as connection:
        assert connection.execute("SELECT series, data FROM tails").fetchall() == [(20, bytes.fromhex("00112233"))]
    differing = {name for name in answers if answers[name] != found[name]}
    assert differing and all(re.match("many: (chart|band|exported points)", name) for name in differing)


def test_a_tail_as_long_as_a_chunk_becomes_one(tmp_path: Path) -> None:
    unpack_golden(tmp_path)
    rows = rows_of([n / 4 for n in range(5000)], first=100)
    columns = [
        np.frombuffer(column, kind) for column, kind in zip(columns_of(rows), ("<i8", "<i8", "<f8"), strict=True)
    ]
    with in_database(tmp_path) as connection:
        connection.execute("INSERT INTO tails (series, merged, data) VALUES (3, 0, ?)", (pack(Points(*columns)),))
        connection.execute("UPDATE series_stats SET tail_points = tail_points + 5000 WHERE series = 3")
        chunks = connection.execute("SELECT count(*) FROM chunks").fetchone()[0]
    store = opened(tmp_path)
    loss = exported(store, "long")[key_of(LOSS, None)]
    store.close()
    assert [column[-40_000:] for column in loss] == columns_of(rows)
    with in_database(tmp_path) as connection:
        assert connection.execute("SELECT count(*) FROM chunks").fetchone()[0] == chunks + 1


def test_a_store_between_two_releases_is_mended_and_moved(tmp_path: Path) -> None:
    # given a store of version 4 by number, from before tasks were put away and writers had ranks
    answers = unpack_golden(tmp_path)
    changed_by(
        tmp_path,
        """
        ALTER TABLE plots DROP COLUMN blob;
        ALTER TABLE tasks DROP COLUMN archived;
        ALTER TABLE tasks DROP COLUMN last_change;
        DROP INDEX metrics_by_md5;
        """,
    )
    store = opened(tmp_path)
    found = answers_of(store)
    store.close()
    assert {name for name in answers if answers[name] != found[name]} == set()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("ALTER TABLE series DROP COLUMN unit", "series has no column unit"),
        ("DROP TABLE tails", "no table tails"),
    ],
)
def test_a_store_that_lacks_what_is_to_be_moved_is_refused_and_left_alone(
    tmp_path: Path, script: str, words: str
) -> None:
    unpack_golden(tmp_path)
    changed_by(tmp_path, script)
    with in_database(tmp_path) as connection:
        before = list(connection.iterdump())
    with pytest.raises(ConfigurationError, match=rf"schema version 4.*{words}.*Nothing was changed"):
        opened(tmp_path)
    with in_database(tmp_path) as connection:
        assert list(connection.iterdump()) == before
