"""Backups: of one moment of a store that is written meanwhile, whole or not taken for one, and checked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from injectors import small_disk
from server_support import LOSS, OTHER_WRITER, START_NS, TASK, WRITER, content_of, rows_of, soon_after_the_start

from telemetry.errors import ConfigurationError
from telemetry.events import ConsoleLine, RecordChange
from telemetry.server.store import BackupFailed, Part, PointsQuery, Store, back_up_stopped, check_backup
from telemetry.server.store.backup import BACKUP_FILE
from telemetry.server.store.database import DATABASE_NAME

OTHER_TASK = "f" * 32


class Stopped(Exception):
    """A backup that is cut by a test."""


def silent(what: str, done_bytes: int, total_bytes: int) -> None:
    """Nobody watches."""


def cut_at(wanted: str) -> Callable[[str, int, int], None]:
    def on_progress(what: str, done_bytes: int, total_bytes: int) -> None:
        if what == wanted:
            raise Stopped

    return on_progress


def faults(folder: Path, *, digests: bool = True) -> list[str]:
    return check_backup(folder, digests=digests, on_progress=silent)


def opened(folder: Path) -> Store:
    return Store(folder, clock=soon_after_the_start)


def fill(store: Store, megabytes: int) -> None:
    """Make the database large enough for a backup of many steps."""
    line = "".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(64))
    for number in range(megabytes):
        lines = [ConsoleLine(START_NS, "stdout", line)] * 250
        store.write([content_of({}, lines, task_id=OTHER_TASK, writer=b"w" * 16, sequence=number)])


def add_artifact(store: Store, data: bytes, *, task_id: str = TASK, writer: bytes = WRITER, sequence: int = 0) -> str:
    """Store a task's artifact, named by its record, with its bytes; return its sha256."""
    sha256 = hashlib.sha256(data).hexdigest()
    entry = {"uri": f"blob:{sha256}", "sha256": sha256, "size_bytes": len(data), "type": "custom"}
    records = [RecordChange(START_NS + sequence, "artifacts", f"a{sequence}", entry)]
    store.write([content_of({}, records, task_id=task_id, writer=writer, sequence=sequence)])
    part = Part(task_id, sha256, len(data))
    store.blobs.files.append(part, 0, data)
    path = store.blobs.files.check(part)
    assert path is not None
    store.blobs.take(task_id, sha256, len(data), path)
    return sha256


def blobs_in(folder: Path) -> set[str]:
    return {path.name for path in (folder / "blobs").glob("??/*")}


def points_of(store: Store) -> list[float]:
    (series,) = store.series(TASK)["series"]
    ((_, sampled),) = store.points(TASK, [series["id"]], PointsQuery(False, None, None, 20_000))
    return [float(x) for x in sampled.x]


def test_a_store_that_is_written_all_the_time_is_copied_once_and_as_of_one_moment(tmp_path: Path) -> None:
    # Given a store, and somebody who writes one frame after the other
    store = opened(tmp_path / "data")
    fill(store, 24)
    acknowledged = 0
    ended = threading.Event()

    def write() -> None:
        nonlocal acknowledged
        while not ended.is_set():
            store.write([content_of({LOSS: rows_of([1.0], first=acknowledged)}, sequence=acknowledged)])
            acknowledged += 1

    writer = threading.Thread(target=write)
    done: list[int] = []
    at_begin = [0, 0]

    def on_progress(what: str, done_bytes: int, total_bytes: int) -> None:
        if what != "database":
            return
        if not done:
            writer.start()
            at_begin[:] = [acknowledged, total_bytes]
        before = acknowledged
        while acknowledged == before and writer.is_alive():
            # The writer has its turn in each step
            ended.wait(0.001)
        done.append(done_bytes)

    # When
    try:
        store.backup(tmp_path / "backup", on_progress)
    finally:
        ended.set()
        writer.join()
        store.close()
    # Then it never began again, although the store changed in each step
    assert len(done) > 8 and done == sorted(done)
    # And it is as of one moment: each frame up to it, none after it
    assert faults(tmp_path / "backup") == []
    restored = opened(tmp_path / "backup")
    ((first, last),) = restored.held_frames(WRITER)
    assert (first, points_of(restored)) == (0, [float(number) for number in range(last + 1)])
    assert len(done) - 2 <= last < acknowledged
    restored.close()


def test_a_blob_of_a_task_that_is_deleted_meanwhile_is_in_it_and_then_gone_from_the_store(tmp_path: Path) -> None:
    # Given a store with a task's artifact
    store = opened(tmp_path / "data")
    sha256 = add_artifact(store, b"weights")

    # When the task is deleted after the last page was copied, and before the files are
    def on_progress(what: str, done_bytes: int, total_bytes: int) -> None:
        if what == "database" and done_bytes == total_bytes:
            store.delete_task(TASK)

    made = store.backup(tmp_path / "backup", on_progress)
    # Then the backup, which has the task, has its bytes too
    assert (made.missing, made.new_blobs, faults(tmp_path / "backup")) == ((), 1, [])
    restored = opened(tmp_path / "backup")
    assert restored.blobs.holds(TASK, sha256)
    restored.close()
    # And the store has let go of them
    assert blobs_in(tmp_path / "data") == set()
    store.close()


def test_a_second_backup_adds_what_is_new_and_removes_what_nobody_names_any_more(tmp_path: Path) -> None:
    store, folder = opened(tmp_path / "data"), tmp_path / "backup"
    kept = add_artifact(store, b"kept", sequence=1)
    gone = add_artifact(store, b"gone", task_id=OTHER_TASK, writer=OTHER_WRITER)
    first = store.backup(folder, silent)
    store.delete_task(OTHER_TASK)
    new = add_artifact(store, b"new one", sequence=2)
    # When
    second = store.backup(folder, silent)
    store.close()
    # Then
    assert (first.new_blobs, blobs_in(folder) == {kept, gone}) == (2, False)
    assert (second.new_blobs, second.new_blob_bytes) == (1, len(b"new one"))
    assert blobs_in(folder) == {kept, new}
    assert (second.backup.blobs, second.backup.tasks, faults(folder)) == (2, 1, [])


def test_everything_in_it_is_private_and_what_belongs_to_the_server_is_there(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "backup"
    store = opened(data)
    (data / "tokens.json").write_text('{"format": 1, "tokens": []}')
    (data / "server.toml").write_text("[limits]\nmax_points = 10\n")
    (data / "watch.json").write_text("{}")
    add_artifact(store, b"bytes")
    store.backup(folder, silent)
    names = {path.name for path in folder.iterdir()}
    assert names == {"backup.json", "blobs", "server.lock", "server.toml", "telemetry.sqlite3", "tokens.json"}
    for path in (folder, *folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    # When they go from the server, they go from its next backup
    (data / "tokens.json").unlink()
    store.backup(folder, silent)
    assert not (folder / "tokens.json").exists() and (folder / "server.toml").exists()
    store.close()


def test_a_first_backup_that_is_cut_is_taken_for_none_and_can_be_made_again(tmp_path: Path) -> None:
    store, folder = opened(tmp_path / "data"), tmp_path / "backup"
    fill(store, 3)
    add_artifact(store, b"bytes")
    for stage in ("database", "files"):
        with pytest.raises(Stopped):
            store.backup(folder, cut_at(stage))
        assert "not whole" in faults(folder)[0]
        with pytest.raises(ConfigurationError, match="a backup that was cut"):
            Store(folder)
        assert not (folder / DATABASE_NAME).exists()
    store.backup(folder, silent)
    assert faults(folder) == []
    store.close()


def test_a_later_backup_that_is_cut_leaves_the_one_before(tmp_path: Path) -> None:
    store, folder = opened(tmp_path / "data"), tmp_path / "backup"
    old = add_artifact(store, b"old", sequence=0)
    before = store.backup(folder, silent).backup
    store.delete_task(TASK)
    add_artifact(store, b"new", task_id=OTHER_TASK, writer=OTHER_WRITER)
    for stage in ("database", "files"):
        with pytest.raises(Stopped):
            store.backup(folder, cut_at(stage))
        assert faults(folder) == []
    store.close()
    restored = opened(folder)
    assert restored.restored == before
    assert restored.blobs.holds(TASK, old)
    restored.close()


# What opens, renames, links and removes files, before it is done.
TOUCHES = frozenset({"open", "os.rename", "os.link", "os.remove", "os.mkdir", "sqlite3.connect"})


def backed_up_unless_killed(data: Path, folder: Path, touches: int) -> bool:
    """Make a backup in a child that is killed before it touches the folder once more; True if it came to its end."""
    child = os.fork()
    if not child:
        left = touches

        def count(name: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if name in TOUCHES and str(folder) in str(arguments):
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        sys.addaudithook(count)
        try:
            back_up_stopped(data, folder, silent)
        finally:
            os._exit(0 if sys.exc_info() == (None, None, None) else 1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFEXITED(status)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("later", [False, True])
def test_killed_at_any_moment_the_folder_has_a_whole_backup_or_says_that_it_has_none(
    tmp_path: Path, later: bool
) -> None:
    # Given a store, and perhaps a backup of what it was before
    data, folder = tmp_path / "data", tmp_path / "backup"
    store = opened(data)
    add_artifact(store, b"one", sequence=0)
    store.close()
    if later:
        back_up_stopped(data, folder, silent)
        store = opened(data)
        store.delete_task(TASK)
        add_artifact(store, b"two", task_id=OTHER_TASK, writer=OTHER_WRITER)
        store.close()
    # When it is killed at each of its steps in turn
    touches, whole = 0, 0
    while not backed_up_unless_killed(data, folder, touches):
        # Then
        touches += 1
        if not (folder / BACKUP_FILE).exists():
            # Not begun: nobody takes an empty folder for a backup
            assert not later and not (folder / DATABASE_NAME).exists()
            continue
        found = faults(folder)
        assert not found or (not later and "not whole" in found[0]), (touches, found)
        whole += not found
    assert touches > 15
    assert whole == touches if later else whole < touches
    assert faults(folder) == []


def test_a_folder_that_is_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    store, other = opened(data), opened(tmp_path / "other")
    other.backup(tmp_path / "of another store", silent)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photos").write_text("mine")
    (tmp_path / "file").write_text("mine")
    wrong = {
        data: "within each other",
        data / "backup": "within each other",
        tmp_path: "within each other",
        tmp_path / "full": "no backup, and not empty: it has 'photos'",
        tmp_path / "other": "a server's data, no backup",
        tmp_path / "of another store": "the backup of another store",
        tmp_path / "file": "is a file",
    }
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix == ""}
    for folder, said in wrong.items():
        with pytest.raises(ConfigurationError, match=said):
            store.backup(folder, silent)
    assert {path: path.read_bytes() for path in before} == before
    store.close()
    other.close()


def test_a_folder_on_which_a_server_was_started_is_no_backup_any_more(tmp_path: Path) -> None:
    store, folder = opened(tmp_path / "data"), tmp_path / "backup"
    store.write([content_of({LOSS: rows_of([1.0])}, [RecordChange(START_NS, "task", "status", "in_progress")])])
    made = store.backup(folder, silent)
    restored = opened(folder)
    assert restored.restored == made.backup
    assert (made.backup.tasks, made.backup.running_tasks) == (1, 1)
    # Who has sent something to the store before cannot count on it
    assert restored.store_id != store.store_id and len(restored.store_id) == 32
    identity = restored.store_id
    restored.close()
    restored = opened(folder)
    assert (restored.store_id, restored.restored) == (identity, None)
    # And it is the same store for its backups
    restored.backup(tmp_path / "of the restored", silent)
    restored.close()
    store.backup(tmp_path / "of the restored", silent)
    # What it has taken since would be lost
    with pytest.raises(ConfigurationError, match="a server was started on it"):
        store.backup(folder, silent)
    store.close()


def test_what_is_wrong_with_a_backup_is_found(tmp_path: Path) -> None:
    store, good = opened(tmp_path / "data"), tmp_path / "good"
    fill(store, 2)
    first, second = add_artifact(store, b"first", sequence=1), add_artifact(store, b"second", sequence=2)
    store.backup(good, silent)
    store.close()
    assert faults(good) == []

    def spoiled(name: str, spoil: Callable[[Path], Any], *, digests: bool = True) -> list[str]:
        folder = tmp_path / name
        shutil.copytree(good, folder)
        spoil(folder)
        return faults(folder, digests=digests)

    def flip(path: Path, at: int) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)

    def blob(folder: Path, sha256: str) -> Path:
        return folder / "blobs" / sha256[:2] / sha256

    assert spoiled("missing", lambda folder: blob(folder, first).unlink()) == [f"blob {first}: it is missing"]
    short = spoiled("short", lambda folder: blob(folder, second).write_bytes(b"sec"), digests=False)
    assert short == [f"blob {second}: it has 3 bytes, not 6"]
    assert spoiled("unread", lambda folder: flip(blob(folder, first), 2), digests=False) == []
    assert spoiled("flipped", lambda folder: flip(blob(folder, first), 2)) == [
        f"blob {first}: it is damaged: its sha256 is another one"
    ]
    # In the middle of a text, where SQLite sees nothing.
    text = (good / DATABASE_NAME).read_bytes().rindex(hashlib.sha256(b"63").hexdigest().encode())
    assert "another sha256" in spoiled("text", lambda folder: flip(folder / DATABASE_NAME, text))[-1]
    cut = spoiled("cut", lambda folder: (folder / DATABASE_NAME).write_bytes(b"SQLite format 3\0"), digests=False)
    assert "cannot be read" in cut[0] or "damaged" in cut[0]
    with pytest.raises(ConfigurationError, match="is no backup"):
        faults(tmp_path / "data")


def test_a_disk_without_room_is_said_and_the_store_and_the_backup_before_go_on(tmp_path: Path) -> None:
    store = opened(tmp_path / "data")
    add_artifact(store, b"bytes")
    with small_disk(tmp_path / "disk", 4_000_000) as disk:
        folder = disk / "backup"
        made = store.backup(folder, silent)
        # When the database is too large, which is known before it is copied; then a file is, which is not
        fill(store, 6)
        with pytest.raises(BackupFailed, match=r"no room for it .* its database needs .* from before is still there"):
            store.backup(folder, silent)
        assert faults(folder) == []
        store.delete_task(OTHER_TASK)
        while store.remove_deleted() or store.give_back():
            pass
        add_artifact(store, bytes(5_000_000), sequence=1)
        with pytest.raises(BackupFailed, match=r"no room for it .* its files need"):
            store.backup(folder, silent)
        # Then
        assert faults(folder) == []
        assert json.loads((folder / BACKUP_FILE).read_text())["unix_s"] == made.backup.unix_s
        assert not list(folder.rglob("*.part"))
    assert store.write([content_of({LOSS: rows_of([1.0])}, sequence=9)]).stored == [True]
    store.close()


def test_a_store_that_was_killed_is_backed_up_with_what_only_its_log_has(tmp_path: Path) -> None:
    # Given the files of a server that has just committed, as a kill leaves them
    store = opened(tmp_path / "data")
    store.write([content_of({LOSS: rows_of([1.0, 2.0])})])
    shutil.copytree(tmp_path / "data", tmp_path / "killed")
    store.close()
    assert (tmp_path / "killed" / f"{DATABASE_NAME}-wal").stat().st_size > 0
    # When
    back_up_stopped(tmp_path / "killed", tmp_path / "backup", silent)
    # Then
    restored = opened(tmp_path / "backup")
    assert points_of(restored) == [0.0, 1.0]
    restored.close()


def test_a_database_that_only_looks_like_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / DATABASE_NAME).write_text("no database at all, however long one looks at it" * 20)
    with pytest.raises(ConfigurationError, match="cannot be read as a store"):
        back_up_stopped(tmp_path / "data", tmp_path / "backup", silent)
    assert not (tmp_path / "backup").exists()
