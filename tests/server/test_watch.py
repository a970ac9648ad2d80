"""Folders that the server watches: growing sessions, zips that appear, half-written ends, kills and restarts."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from sdk_support import environment
from server_support import Http
from sessions_support import POINTS, frames_of, session_of, task_id_of, write_folder, write_zip
from watch_support import until, watching

from telemetry.cli import main
from telemetry.client import Client
from telemetry.errors import ServerError
from telemetry.server.watch.files import Memory, Place, read_growth
from telemetry.wire import Frame


def points_of(url: str, number: int) -> int:
    with Client(url) as client:
        try:
            return client.task(task_id_of(number))["points"]
        except ServerError:
            return 0


def values_of(url: str, number: int) -> list[float]:
    http = Http(url)
    (series,) = http.get(f"/tasks/{task_id_of(number)}/series", kind="scalar")["series"]
    answer = http.get(f"/tasks/{task_id_of(number)}/points", series=series["id"], max_samples=20_000)
    values: list[float] = answer["series"][0]["y"]
    return values


def expected(number: int) -> list[float]:
    return [number + 1 / (step + 1) for step in range(POINTS)]


def segment_of(folder: Path) -> Path:
    (segment,) = (folder / "segments").iterdir()
    return segment


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_a_session_shows_as_it_grows(tmp_path: Path) -> None:
    # Given a server that watches a folder which is not there yet
    first, second = frames_of(1)
    with watching(tmp_path) as url:
        # When a session appears in it, then the server shows it,
        folder = write_folder(tmp_path / "runs" / "a", 1, [first])
        until(lambda: points_of(url, 1) == POINTS // 2)
        # and so the half frame that is written next, as soon as it is whole
        append(segment_of(folder), second.data[:100])
        append(segment_of(folder), second.data[100:])
        until(lambda: points_of(url, 1) == POINTS)
        assert values_of(url, 1) == expected(1)


def test_a_half_written_end_waits_and_harms_nothing(tmp_path: Path) -> None:
    first, second = frames_of(1)
    with watching(tmp_path) as url:
        folder = write_folder(tmp_path / "runs" / "a", 1, [first], tail=second.data[:-1])
        write_folder(tmp_path / "runs" / "b", 2, frames_of(2))
        until(lambda: points_of(url, 2) == POINTS)
        until(lambda: points_of(url, 1) == POINTS // 2)

        append(segment_of(folder), second.data[-1:])

        until(lambda: points_of(url, 1) == POINTS)


def test_damage_in_the_middle_costs_its_frame_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = frames_of(1)
    flipped = bytearray(first.data)
    flipped[100] ^= 1
    folder = write_folder(tmp_path / "runs" / "a", 1, [])
    segment = segment_of(folder)
    segment.write_bytes(bytes(flipped) + second.data)
    # Not just written: damage that may still be on its way is waited for
    os.utime(segment, (1, 1))

    with caplog.at_level(logging.WARNING, "telemetry.server"), watching(tmp_path) as url:
        until(lambda: points_of(url, 1) == POINTS // 2)
        until(lambda: f"{len(flipped)} bytes at 0 skipped" in caplog.text)


def test_damage_that_heals_is_read_again(tmp_path: Path) -> None:
    # Given a file whose middle has not arrived yet, as over NFS
    first, second = frames_of(1)
    folder = write_folder(tmp_path / "a", 1, [])
    place = Place(segment_of(folder))
    place.path.write_bytes(bytes(len(first)) + second.data)
    now_s = 1000.0

    growth = read_growth(place, now_s)
    assert [frame.sequence for frame in growth.frames] == [1]
    place.advance(growth)
    assert (place.offset, place.taken) == (0, None)
    # When it has arrived
    place.path.write_bytes(first.data + second.data)
    growth = read_growth(place, now_s + 1)
    place.advance(growth)
    # Then it is read whole
    assert [frame.sequence for frame in growth.frames] == [0, 1]
    assert place.offset == len(first) + len(second)
    assert place.taken is not None


def test_damage_that_does_not_heal_is_given_up(tmp_path: Path) -> None:
    first, second = frames_of(1)
    folder = write_folder(tmp_path / "a", 1, [])
    place = Place(segment_of(folder))
    place.path.write_bytes(bytes(len(first)) + second.data)

    place.advance(read_growth(place, 1000.0))
    growth = read_growth(place, 1011.0)
    place.advance(growth)

    assert "skipped" in growth.skipped
    assert place.offset == len(first) + len(second)


def test_a_frame_larger_than_a_block_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.server.watch.files.BLOCK_BYTES", 64)
    first, second = frames_of(1)
    place = Place(segment_of(write_folder(tmp_path / "a", 1, [first, second])))
    found: list[Frame] = []
    while place.taken is None:
        growth = read_growth(place, 0.0)
        found += growth.frames
        place.advance(growth)
    assert found == [first, second]


def test_a_zip_is_taken_once_it_is_whole(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "elsewhere.zip", 1, frames_of(1)).read_bytes()
    target = tmp_path / "runs" / "copied.zip"
    target.parent.mkdir()
    with watching(tmp_path) as url:
        # Given the half of a zip, that is old enough to be believed
        target.write_bytes(whole[: len(whole) // 2])
        os.utime(target, (1, 1))
        write_folder(tmp_path / "runs" / "b", 2, frames_of(2))
        until(lambda: points_of(url, 2) == POINTS)
        assert points_of(url, 1) == 0
        # When its rest comes
        append(target, whole[len(whole) // 2 :])
        # Then it is taken
        until(lambda: points_of(url, 1) == POINTS)
        assert values_of(url, 1) == expected(1)
        # and so is one that is moved into its place
        write_zip(tmp_path / "third.zip", 3, frames_of(3)).replace(target)
        until(lambda: points_of(url, 3) == POINTS)


def test_nothing_that_is_watched_is_touched(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_folder(runs / "a", 1, frames_of(1))
    write_zip(runs / "b.zip", 2, frames_of(2))
    (runs / "notes.txt").write_text("mine")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size, path.stat().st_mode) for path in runs.rglob("*")}
    with watching(tmp_path) as url:
        until(lambda: points_of(url, 1) == points_of(url, 2) == POINTS)
    after = {path: (path.stat().st_mtime_ns, path.stat().st_size, path.stat().st_mode) for path in runs.rglob("*")}
    assert after == before


def test_what_is_strange_or_goes_away_stops_nothing(tmp_path: Path) -> None:
    # Given a pipe in the place of a segment, a zip that is none, a session.json that is nonsense, a folder loop,
    # and a session that goes away while it is watched
    runs = tmp_path / "runs"
    strange = write_folder(runs / "strange", 8, frames_of(8))
    os.mkfifo(strange / "segments" / "pipe.frames")
    (strange / "segments" / "folder.frames").mkdir()
    (runs / "no.zip").write_text("no zip")
    (runs / "loop").symlink_to(runs)
    nonsense = write_folder(runs / "nonsense", 9, frames_of(9))
    (nonsense / "session.json").write_text("{")
    going = write_folder(runs / "going", 1, frames_of(1))
    with watching(tmp_path, runs, tmp_path / "not there", tmp_path / "server" / "telemetry.db") as url:
        until(lambda: points_of(url, 1) == POINTS)
        for path in (segment_of(going), going / "session.json", going / "segments", going):
            path.rmdir() if path.is_dir() else path.unlink()

        write_folder(runs / "late", 2, frames_of(2))

        until(lambda: points_of(url, 2) == POINTS)
        # Frames tell their task themselves, so that session.json is not needed for them
        until(lambda: points_of(url, 8) == points_of(url, 9) == POINTS)


def test_a_folder_that_may_not_be_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything, so the refusal is played
    locked = write_folder(tmp_path / "runs" / "locked", 1, frames_of(1))
    monkeypatch.setattr("telemetry.server.watch.files._MAX_IDLE_S", 0.1)
    monkeypatch.setattr("telemetry.server.watch._RETRY_S", 0.1)
    refused: list[str] = []
    scan, allow = os.scandir, False

    def scandir(path: str | Path) -> object:
        if str(path).startswith(str(locked)) and not allow:
            refused.append(str(path))
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("telemetry.server.watch.files.os.scandir", scandir)
    with watching(tmp_path) as url:
        write_folder(tmp_path / "runs" / "open", 2, frames_of(2))
        until(lambda: points_of(url, 2) == POINTS and len(refused) > 1)
        assert points_of(url, 1) == 0

        allow = True

        until(lambda: points_of(url, 1) == POINTS)


def test_a_restart_reads_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a server that has taken a session and a zip, and was stopped
    first, second = frames_of(1)
    folder = write_folder(tmp_path / "runs" / "a", 1, [first])
    write_zip(tmp_path / "runs" / "b.zip", 2, frames_of(2))
    with watching(tmp_path) as url:
        until(lambda: points_of(url, 1) == POINTS // 2 and points_of(url, 2) == POINTS)
    offsets: list[tuple[str, int]] = []

    def read(place: Place, now_s: float) -> object:
        offsets.append((place.path.parent.parent.name, place.offset))
        return read_growth(place, now_s)

    monkeypatch.setattr("telemetry.server.watch.files.read_growth", read)
    # When the session grows, and the next server starts
    append(segment_of(folder), second.data)
    with watching(tmp_path) as url:
        until(lambda: points_of(url, 1) == POINTS)
    # Then only what is new was read
    assert offsets == [("a", len(first))]


def test_a_memory_that_is_newer_than_the_store_is_not_believed(tmp_path: Path) -> None:
    # Given a memory of a store that is then lost
    write_folder(tmp_path / "runs" / "a", 1, frames_of(1))
    write_zip(tmp_path / "runs" / "b.zip", 2, frames_of(2))
    with watching(tmp_path) as url:
        until(lambda: points_of(url, 1) == points_of(url, 2) == POINTS)
    memory = (tmp_path / "server" / "watch.json").read_bytes()
    assert len(json.loads(memory)) == 2
    for path in (tmp_path / "server").glob("telemetry.*"):
        path.unlink()

    with watching(tmp_path) as url:
        assert (tmp_path / "server" / "watch.json").read_bytes() == memory
        until(lambda: points_of(url, 1) == points_of(url, 2) == POINTS)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b'{"a": [1, 2, 3, "zz", 5]}', b"\xff"])
def test_a_memory_that_is_no_use_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "watch.json").write_bytes(content)
    memory = Memory(tmp_path / "watch.json", lambda writer, sequence: True)
    place = Place(Path("a"))
    memory.load()
    memory.recall(place)
    assert (place.offset, place.taken) == (0, None)


def test_the_same_by_watching_by_http_and_by_zip_is_there_once(tmp_path: Path) -> None:
    first, second = frames_of(1)
    with watching(tmp_path) as url:
        Http(url).send(second)
        write_folder(tmp_path / "runs" / "a", 1, [first, second])
        write_zip(tmp_path / "runs" / "b.zip", 1, [second, first])
        assert main(["import", str(tmp_path / "runs"), "--url", url]) == 0
        write_folder(tmp_path / "runs" / "c", 2, frames_of(2))
        until(lambda: points_of(url, 2) == POINTS)
        assert values_of(url, 1) == expected(1)


def test_hundreds_of_old_sessions_are_all_shown_and_a_new_one_does_not_wait_for_them(tmp_path: Path) -> None:
    for number in range(1, 301):
        folder = write_folder(tmp_path / "runs" / f"{number}", number, frames_of(number, count=10))
        os.utime(segment_of(folder), (number, number))
    with watching(tmp_path) as url, Client(url) as client:
        until(lambda: client.tasks()["total"] == 300)
        write_folder(tmp_path / "runs" / "new", 999, frames_of(999))
        until(lambda: points_of(url, 999) == POINTS)
        assert client.tasks()["total"] == 301


# ---- real processes --------------------------------------------------------------------------------

TRAINING = """
    import sys, time
    from telemetry import Task
    task = Task.init("tests", "without a server", auto_resource_monitoring=False)
    print(task.id, flush=True)
    logger = task.get_logger()
    for step, line in enumerate(sys.stdin):
        if line == "end\\n":
            break
        logger.report_scalar("loss", "train", float(line), step)
"""


@contextmanager
def server_process(state_dir: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Run `telemetry server`; give the process, its address and its first line."""
    command = [sys.executable, "-m", "telemetry", "server", "--port", "0", *arguments]
    with subprocess.Popen(command, env=environment(state_dir), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield process, line.split()[2], line
        finally:
            process.terminate()


@contextmanager
def training(state_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a program that reports each number it is given; give the process and the task's id."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TRAINING)],
        env=environment(state_dir),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def tell(process: subprocess.Popen[str], *lines: str) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(f"{line}\n" for line in lines))
    process.stdin.flush()


def task_of(url: str, task_id: str) -> tuple[str, int]:
    """Return a task's status and points; ("", 0) if it is not known."""
    with Client(url) as client:
        try:
            task = client.task(task_id)
        except ServerError:
            return "", 0
        return task["status"], task["points"]


def has_points(url: str, task_id: str, least: int) -> bool:
    return task_of(url, task_id)[1] >= least


def test_a_run_without_a_server_shows_live_on_one_of_its_machine(tmp_path: Path) -> None:
    state = tmp_path / "state"
    # Given a run that knows of no server, and a server that is started later, with no argument
    with training(state) as (run, task_id):
        tell(run, "1", "2", "3")
        with server_process(state) as (_, url, line):
            assert f"watching {state}/{{sessions,spool}}" in line
            # Then it is there, and moves
            until(lambda: task_of(url, task_id) == ("in_progress", 3))
            begun_s = time.monotonic()
            tell(run, "4", "5")
            until(lambda: task_of(url, task_id) == ("in_progress", 5))
            seconds = time.monotonic() - begun_s
            # and ends as it ended, and the run has named what shows it
            tell(run, "end")
            until(lambda: task_of(url, task_id)[0] == "completed")
            assert run.stderr is not None
            assert "telemetry server" in run.stderr.read().splitlines()[-1]
    # A promise, not a measurement: 15 s is the bound, about one is seen.
    assert seconds < 15


def test_the_server_killed_again_and_again_has_each_point_once(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with training(state) as (run, task_id):
        for least in (1, 101, 201):
            with server_process(state) as (server, url, _):
                tell(run, *map(str, range(100)))
                until(partial(has_points, url, task_id, least))
                server.send_signal(signal.SIGKILL)
        tell(run, "end")
        run.wait()
        with server_process(state) as (_, url, _):
            until(lambda: task_of(url, task_id) == ("completed", 300))
            http = Http(url)
            (series,) = http.get(f"/tasks/{task_id}/series", kind="scalar")["series"]
            points = http.get(f"/tasks/{task_id}/points", series=series["id"])["series"][0]
            assert points["x"] == list(range(300))
            assert points["y"] == [float(step % 100) for step in range(300)]


def test_a_killed_run_shows_what_it_wrote_and_is_not_completed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with training(state) as (run, task_id):
        with server_process(state) as (_, url, _):
            tell(run, "1", "2")
            until(lambda: task_of(url, task_id)[1] == 2)
            run.kill()
            run.wait()
            assert task_of(url, task_id)[0] != "completed"


def test_a_run_whose_server_is_gone_is_found_in_the_spool(tmp_path: Path) -> None:
    state = tmp_path / "state"
    source = "from telemetry import Task\nTask.init('t', 'spooled').get_logger().report_scalar('a', 'b', 1.0, 0)"
    nobody = environment(state, TELEMETRY_URL="http://127.0.0.1:9", TELEMETRY_CLOSE_TIMEOUT="1")
    subprocess.run([sys.executable, "-c", source], env=nobody, check=True, timeout=60, capture_output=True)

    with server_process(state) as (_, url, _), Client(url) as client:
        (task,) = until(lambda: client.tasks(status="completed")["tasks"])
        assert task["name"] == "spooled"


def test_no_watch_and_watch(tmp_path: Path) -> None:
    state = tmp_path / "state"
    write_folder(state / "sessions" / "own", 1, frames_of(1))
    write_folder(tmp_path / "relay" / "other", 2, frames_of(2))
    write_folder(tmp_path / "third" / "one" / "deep", 3, frames_of(3))
    folders = ["--watch", str(tmp_path / "relay"), "--watch", str(tmp_path / "third")]
    with server_process(state, "--no-watch") as (_, url, line):
        assert "watching nothing" in line
    with server_process(state, "--no-watch", *folders) as (_, url, line):
        assert f"watching {tmp_path / 'relay'}, {tmp_path / 'third'}" in line
        until(lambda: points_of(url, 2) == points_of(url, 3) == POINTS)
        assert points_of(url, 1) == 0
    with server_process(state, *folders) as (_, url, line):
        until(lambda: points_of(url, 1) == POINTS)


def test_session_json_may_come_last(tmp_path: Path) -> None:
    # Given a session that is copied file by file
    with watching(tmp_path) as url:
        folder = write_folder(tmp_path / "runs" / "a", 1, frames_of(1))
        (folder / "session.json").unlink()
        write_folder(tmp_path / "runs" / "b", 2, frames_of(2))
        until(lambda: points_of(url, 2) == POINTS)
        (folder / "session.json").write_text(json.dumps(session_of(1)))
        until(lambda: points_of(url, 1) == POINTS)
