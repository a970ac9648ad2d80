"""Importing many sessions: every promise about a real server, with kills, lies and repetition."""

from __future__ import annotations

import random
import re
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sdk_support import environment, run_program
from server_support import Http, started
from sessions_support import POINTS, frames_of, task_id_of, write_folder, write_zip

from telemetry import Task, TelemetryError
from telemetry.cli import main
from telemetry.client import Client


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with started(tmp_path / "server") as server:
        yield server.url


def state_of(url: str) -> dict[str, Any]:
    """Return all that the server knows of each task, without what depends on the order of arrival: row ids."""
    http = Http(url)
    found: dict[str, Any] = {}
    for task in http.get("/tasks", page_size=500)["tasks"]:
        (series,) = http.get(f"/tasks/{task['id']}/series", kind="scalar")["series"]
        points = http.get(f"/tasks/{task['id']}/points", series=series["id"], max_samples=20_000)
        curve = points["series"][0]
        record = http.get(f"/tasks/{task['id']}")["record"]
        # When the server last heard of it is the server's own affair.
        task.pop("last_seen_unix_ms", None)
        found[task["id"]] = [task, {**series, "id": 0}, {**curve, "id": 0}, record]
    return found


def tree(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_folders_and_zips_of_many_runs_arrive_whole_and_stay_as_they_were(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1, 31):
        write_zip(tmp_path / "out" / f"run{number}.zip", number, frames_of(number))
    for number in range(31, 41):
        write_folder(tmp_path / "out" / f"run{number}", number, frames_of(number))
    before = tree(tmp_path / "out")

    assert main(["import", str(tmp_path / "out"), "--url", url]) == 0

    state = state_of(url)
    assert set(state) == {task_id_of(number) for number in range(1, 41)}
    assert {(task["status"], task["points"]) for task, *_ in state.values()} == {("completed", POINTS)}
    assert state[task_id_of(7)][2]["y"] == [7 + 1 / (step + 1) for step in range(POINTS)]
    assert tree(tmp_path / "out") == before
    said = capsys.readouterr()
    assert "sending 40 sessions" in said.out
    assert "in 80 frames of 40 tasks are on the server" in said.out
    assert "100 %" in said.err


def test_one_progress_line_counts_the_bytes_of_all(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write_zip(tmp_path / f"{number}.zip", number, frames_of(number)) for number in range(1, 11)]

    assert main(["import", *map(str, paths), "--url", url]) == 0

    shares = [int(line.split("%")[0]) for line in capsys.readouterr().err.splitlines() if "%" in line]
    assert shares == sorted(shares)
    assert shares[-1] == 100


def test_bad_sources_are_listed_and_never_stop_the_others(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given good runs, and beside them a zip that is cut, one that lies about its length, one without a session, a
    # text, a folder without session.json, a session.json that is nonsense, and a path that is not there
    good = [write_zip(tmp_path / f"good{number}.zip", number, frames_of(number)) for number in range(1, 6)]
    cut = write_zip(tmp_path / "cut.zip", 10, frames_of(10))
    cut.write_bytes(cut.read_bytes()[:-100])
    lying = write_zip(tmp_path / "lying.zip", 11, frames_of(11))
    data = bytearray(lying.read_bytes())
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"PK\x05\x06"))
    data[at + 20 : at + 28] = (2**31).to_bytes(4, "little") * 2
    lying.write_bytes(bytes(data))
    foreign = tmp_path / "foreign.zip"
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("holiday.txt", "sun")
    text = tmp_path / "text.zip"
    text.write_text("no zip")
    nonsense = write_folder(tmp_path / "nonsense", 12, frames_of(12))
    (nonsense / "session.json").write_text('{"format": 1, "task_id"')
    bad = [cut, lying, foreign, text, nonsense, tmp_path / "nowhere.zip"]
    paths = [str(path) for pair in zip(bad, [*good, good[0]], strict=True) for path in pair]

    assert main(["import", *paths, "--url", url]) == 1

    said = capsys.readouterr().err
    for path in bad:
        assert re.search(rf"failed: {re.escape(str(path))}(: | is )", said)
    for path in good:
        assert f"failed: {path}" not in said
    assert set(state_of(url)) == {task_id_of(number) for number in range(1, 6)}


def test_somebody_elses_zip_in_a_folder_is_passed_over_and_a_damaged_one_is_not(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_zip(tmp_path / "runs" / "good.zip", 1, frames_of(1))
    with zipfile.ZipFile(tmp_path / "runs" / "holiday.zip", "w") as archive:
        archive.writestr("holiday.txt", "sun")

    assert main(["import", str(tmp_path / "runs"), "--url", url]) == 0

    damaged = write_zip(tmp_path / "runs" / "damaged.zip", 2, frames_of(2))
    damaged.write_bytes(damaged.read_bytes()[:500])
    assert main(["import", str(tmp_path / "runs"), "--url", url]) == 1
    assert f"failed: {damaged} is not a session zip" in capsys.readouterr().err


def test_what_a_kill_while_zipping_leaves_is_imported_whole(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "run", 1, frames_of(1))
    for name in ("run.zip", ".run.zip.77.part", "alone.zip"):
        (tmp_path / name).touch()

    assert main(["import", str(folder), str(tmp_path / "run.zip"), "--url", url]) == 0
    assert set(state_of(url)) == {task_id_of(1)}
    # Nor is one whose folder is elsewhere called damaged.
    assert main(["import", str(tmp_path / "alone.zip"), "--url", url]) == 1
    assert "is empty: its run was killed before it was written" in capsys.readouterr().err


def test_a_flipped_byte_costs_its_frame_alone(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = frames_of(1)
    flipped = bytearray(first.data)
    flipped[100] ^= 1
    folder = write_folder(tmp_path / "run", 1, [second])
    (segment,) = (folder / "segments").iterdir()
    segment.write_bytes(bytes(flipped) + second.data)

    assert main(["import", str(folder), "--url", url]) == 1

    assert f"failed: {folder}: skipped: {segment.name}: {len(flipped)} bytes at 0" in capsys.readouterr().err
    assert state_of(url)[task_id_of(1)][0]["points"] == POINTS - POINTS // 2


def test_a_folder_that_ends_inside_a_frame_is_no_failure_and_its_rest_comes_later(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a session that is copied while it grows
    first, second = frames_of(1)
    folder = write_folder(tmp_path / "run", 1, [first], tail=second.data[:-7])

    assert main(["import", str(folder), "--url", url]) == 0

    assert "ends inside a frame" in capsys.readouterr().err
    assert state_of(url)[task_id_of(1)][0]["points"] == POINTS // 2
    # When it is copied again, whole
    (segment,) = (folder / "segments").iterdir()
    segment.write_bytes(first.data + second.data)

    assert main(["import", str(folder), "--url", url]) == 0
    assert state_of(url)[task_id_of(1)][0]["points"] == POINTS


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_order_in_pieces_and_again_gives_the_same(seed: int, tmp_path: Path) -> None:
    # Given the same runs as whole zips, and each in two parts
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    sources = []
    for number in range(1, 9):
        status = "failed" if number % 2 else "completed"
        first, second = frames_of(number, status)
        sources.append(write_zip(whole / f"{number}.zip", number, [first, second]))
        sources.append(write_zip(parts / f"{number}-0001.zip", number, [first]))
        sources.append(write_zip(parts / f"{number}-0002.zip", number, [second]))
    with started(tmp_path / "expected") as server:
        assert main(["import", str(whole), "--url", server.url]) == 0
        expected = state_of(server.url)
    chance = random.Random(seed)

    with started(tmp_path / "server") as server:
        for _ in range(3):
            chance.shuffle(sources)
            for start in range(0, len(sources), 7):
                assert main(["import", *map(str, sources[start : start + 7]), "--url", server.url]) == 0

        assert state_of(server.url) == expected


def test_an_importer_killed_again_and_again_ends_with_the_same(url: str, tmp_path: Path) -> None:
    for number in range(1, 41):
        write_zip(tmp_path / "out" / f"{number}.zip", number, frames_of(number, count=4000))
    command = [sys.executable, "-m", "telemetry", "import", str(tmp_path / "out"), "--url", url]

    # When importers are killed when 20, 40 and 60 % of it are done
    for tenths in (2, 4, 6):
        with subprocess.Popen(command, env=environment(tmp_path), stderr=subprocess.PIPE, text=True) as importer:
            assert importer.stderr is not None
            for line in importer.stderr:
                if int(line.split("%")[0]) >= tenths * 10:
                    break
            importer.send_signal(signal.SIGKILL)
    # and one may finish
    assert main(["import", str(tmp_path / "out"), "--url", url]) == 0

    state = state_of(url)
    assert len(state) == 40
    for number in range(1, 41):
        task, _, curve, _ = state[task_id_of(number)]
        assert (task["points"], task["status"]) == (4000, "completed")
        assert curve["y"] == [float(number) + 1 / (step + 1) for step in range(4000)]


@pytest.mark.parametrize(
    ("last_words", "status"),
    [("raise ValueError('no more')", "failed"), ("os.kill(os.getpid(), 9)", "in_progress"), ("", "completed")],
)
def test_the_status_is_the_true_one(last_words: str, status: str, url: str, tmp_path: Path) -> None:
    # Given a run without a server that ends in its own way
    run_program(
        f"""
        import os
        from telemetry import Task
        task = Task.init("tests", "ends", auto_resource_monitoring=False)
        task.get_logger().report_scalar("loss", "train", 1.0, 0)
        task.flush()
        {last_words}
        """,
        tmp_path / "state",
    )

    assert main(["import", str(tmp_path / "state"), "--url", url]) == 0

    with Client(url) as client:
        (task,) = client.tasks()["tasks"]
    assert (task["name"], task["status"], task["points"]) == ("ends", status, 1)


def test_a_server_that_goes_away_ends_it_and_what_is_not_sent_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    paths = [write_zip(tmp_path / f"{number}.zip", number, frames_of(number)) for number in range(1, 4)]

    assert main(["import", *map(str, paths), "--url", nobody, "--timeout", "0"]) == 1

    said = capsys.readouterr().err
    assert "stopped: cannot reach" in said
    for path in paths:
        assert f"failed: {path}: not sent" in said


class TestImportOfflineSession:
    @pytest.fixture(autouse=True)
    def settings(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TELEMETRY_URL", url)

    @pytest.mark.parametrize("form", [str, Path])
    @pytest.mark.parametrize("what", ["folder", "zip"])
    def test_gives_the_tasks_id(self, what: str, form: type, url: str, tmp_path: Path) -> None:
        write = write_folder if what == "folder" else write_zip
        path = write(tmp_path / "run", 5, frames_of(5, "failed"))

        assert Task.import_offline_session(form(path)) == task_id_of(5)
        assert Task.import_offline_session(form(path)) == task_id_of(5)

        task, *_ = state_of(url)[task_id_of(5)]
        assert (task["status"], task["points"]) == ("failed", POINTS)

    async def _inside_a_loop(self, path: Path) -> str:
        return Task.import_offline_session(path)

    def test_works_where_an_event_loop_runs(self, tmp_path: Path) -> None:
        import asyncio

        path = write_zip(tmp_path / "run.zip", 5, frames_of(5))
        assert asyncio.run(self._inside_a_loop(path)) == task_id_of(5)

    def test_a_missing_file_is_a_value_error_and_one_of_ours(self, tmp_path: Path) -> None:
        for error in (ValueError, TelemetryError):
            with pytest.raises(error, match=r"no session folder or zip at .*nowhere\.zip"):
                Task.import_offline_session(tmp_path / "nowhere.zip")

    def test_what_is_no_session_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "text.zip").write_text("no zip")
        with pytest.raises(TelemetryError, match=r"text\.zip"):
            Task.import_offline_session(tmp_path / "text.zip")

    @pytest.mark.parametrize("setting", [None, "zip:elsewhere"])
    def test_without_a_server_it_says_what_to_set(
        self, setting: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("TELEMETRY_URL")
        if setting:
            monkeypatch.setenv("TELEMETRY_URL", setting)
        path = write_zip(tmp_path / "run.zip", 5, frames_of(5))
        with pytest.raises(TelemetryError, match="TELEMETRY_URL"):
            Task.import_offline_session(path)


def test_the_sources_may_be_read_only(url: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", 1, frames_of(1))
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        assert main(["import", str(folder), "--url", url]) == 0
    finally:
        folder.chmod(0o700)
        (folder / "segments").chmod(0o700)
    assert list((folder / "segments").iterdir())
