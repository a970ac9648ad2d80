"""Zips in parts: a long run can be carried out before it ends, and many processes may zip into one place."""

from __future__ import annotations

import asyncio
import itertools
import json
import shlex
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from sdk_support import environment
from server_support import LOSS, Http, frame_of, rows_of, started
from telemetry.sinks.local_zip import LocalZipSink, open_sink

from telemetry import Task
from telemetry.cli import main
from telemetry.errors import ConfigurationError
from telemetry.events import TaskHeader
from telemetry.settings import Settings
from telemetry.wire import Frame, scan

TASK = "0123456789abcdef" * 2
# Enough for two full parts of 20,000 bytes and a rest.
PARTS_FRAMES = 36


def header(writer: int = 1) -> TaskHeader:
    return TaskHeader(TASK, writer.to_bytes(16, "big"), "tests", "rolled", "training", 1)


def frames(count: int, writer: int = 1, first: int = 0) -> list[Frame]:
    """Return frames of about 2 KB, with 100 points each."""
    return [
        frame_of(
            {LOSS: rows_of([1 / (step + 1) for step in range(number * 100, number * 100 + 100)], first=number * 100)},
            task_id=TASK,
            writer=writer.to_bytes(16, "big"),
            sequence=number,
        )
        for number in range(first, first + count)
    ]


def sequences(path: Path) -> list[tuple[int, int]]:
    """Return (writer, sequence) of a zip's frames, checking the zip on the way."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read("session.json"))["task_id"] == TASK
        members = set(json.loads(archive.read("manifest.json"))["files"])
        assert members == set(archive.namelist()) - {"manifest.json"}
        segments = [name for name in sorted(members) if name.endswith(".frames")]
        items = [item for name in segments for _, item in scan(archive.read(name))]
    found = []
    for item in items:
        assert isinstance(item, Frame)
        found.append((int.from_bytes(item.writer_id, "big"), item.sequence))
    return found


def zips(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.zip"))


async def write_all(sink: LocalZipSink, what: Sequence[Frame]) -> None:
    for frame in what:
        await sink.write([frame])
        if sink._zipping is not None:
            await sink._zipping


def test_full_segments_are_zipped_while_the_run_goes_on(tmp_path: Path) -> None:
    max_bytes = 20_000

    async def given_a_run_of_fifty_frames() -> None:
        sink = LocalZipSink(tmp_path, tmp_path, max_zip_bytes=max_bytes)
        await sink.open(header())
        await write_all(sink, frames(50))
        # While it goes on there are parts, which are not in the folder any more
        parts = zips(tmp_path)
        assert len(parts) >= 3
        assert parts[0].name == f"{TASK}-0001.zip"
        in_parts = [key for part in parts for key in sequences(part)]
        folder_bytes = sum(path.stat().st_size for path in (tmp_path / TASK / "segments").iterdir())
        assert folder_bytes <= max_bytes
        # and each is under the bound
        assert all(part.stat().st_size <= max_bytes + 2000 for part in parts)
        await sink.close()
        # When it ends, the last has what was left
        assert zips(tmp_path) == [*parts, tmp_path / f"{TASK}.zip"]
        assert sorted([*in_parts, *sequences(tmp_path / f"{TASK}.zip")]) == [(1, number) for number in range(50)]
        assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in zips(tmp_path)]

    asyncio.run(given_a_run_of_fifty_frames())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1::2])
def test_parts_are_imported_in_any_order(order: tuple[int, ...], tmp_path: Path) -> None:
    async def given_a_run_in_parts() -> None:
        sink = LocalZipSink(tmp_path / "out", tmp_path / "out", max_zip_bytes=20_000)
        await sink.open(header())
        await write_all(sink, frames(PARTS_FRAMES))
        await sink.close()

    asyncio.run(given_a_run_in_parts())
    parts = zips(tmp_path / "out")
    assert len(parts) == 3
    with started(tmp_path / "server") as server:
        for number, index in enumerate(order, 1):
            assert main(["import", str(parts[index]), "--url", server.url]) == 0
            # Each is of use by itself
            http = Http(server.url)
            assert http.get(f"/tasks/{TASK}")["points"] == 100 * sum(len(sequences(parts[i])) for i in order[:number])
        (series,) = http.get(f"/tasks/{TASK}/series", kind="scalar")["series"]
        points = http.get(f"/tasks/{TASK}/points", series=series["id"], max_samples=20_000)["series"][0]
        assert points["x"] == list(range(100 * PARTS_FRAMES))


def test_a_frame_over_the_bound_makes_a_part_of_its_own(tmp_path: Path) -> None:
    async def given_a_bound_below_every_frame() -> None:
        sink = LocalZipSink(tmp_path, tmp_path / "run.zip", max_zip_bytes=1)
        await sink.open(header())
        await sink.write(frames(3))
        await sink.close()

    asyncio.run(given_a_bound_below_every_frame())
    assert sorted(key for path in zips(tmp_path) for key in sequences(path)) == [(1, 0), (1, 1), (1, 2)]


def test_a_part_that_cannot_be_written_is_in_the_last_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import telemetry.sinks.local_zip as module

    whole = module.zip_session

    def refuse(folder: Path, target: Path, segments: object = None, without: object = ()) -> dict[str, int]:
        if target.stem != "run":
            raise OSError(28, "No space left on device")
        return whole(folder, target)

    async def given_a_disk_that_is_full_until_the_end() -> None:
        sink = LocalZipSink(tmp_path, tmp_path / "run.zip", max_zip_bytes=20_000)
        await sink.open(header())
        monkeypatch.setattr(module, "zip_session", refuse)
        await write_all(sink, frames(20))
        await sink.close()

    asyncio.run(given_a_disk_that_is_full_until_the_end())
    assert [path.name for path in tmp_path.iterdir()] == ["run.zip"]
    assert sequences(tmp_path / "run.zip") == [(1, number) for number in range(20)]
    assert "could not be zipped" in caplog.text


def test_processes_of_one_task_each_make_a_zip_and_lose_nothing(tmp_path: Path) -> None:
    # Given two processes (a job's ranks) that write into one folder and zip to one name
    async def given_two_writers() -> None:
        first, second = (LocalZipSink(tmp_path, tmp_path / "run.zip") for _ in range(2))
        await first.open(header(1))
        await second.open(header(2))
        await first.write(frames(2, writer=1))
        await second.write(frames(1, writer=2))
        # When one ends before the other, which goes on
        await first.close()
        await second.write(frames(2, writer=2, first=1))
        await second.close()

    asyncio.run(given_two_writers())
    # Then there are two zips, all frames are in them, and the folder is gone
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-0001.zip", "run.zip"]
    assert sequences(tmp_path / "run.zip") == [(1, 0), (1, 1)]
    assert sequences(tmp_path / "run-0001.zip") == [(2, 0), (2, 1), (2, 2)]


def test_a_forked_child_that_has_ended_is_in_its_parents_zip(tmp_path: Path) -> None:
    async def given_a_parent_and_its_child() -> None:
        parent = LocalZipSink(tmp_path, tmp_path / "run.zip")
        await parent.open(header(1))
        child = parent.clone()
        await child.open(header(2))
        await child.write(frames(1, writer=2))
        await child.close()
        await parent.write(frames(1))
        await parent.close()

    asyncio.run(given_a_parent_and_its_child())
    assert [path.name for path in tmp_path.iterdir()] == ["run.zip"]
    assert sequences(tmp_path / "run.zip") == [(1, 0), (2, 0)]


def test_a_zip_of_an_older_run_is_replaced(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "run.zip", "w") as archive:
        archive.writestr("session.json", json.dumps({"task_id": "f" * 32}))

    async def given_a_new_run_with_the_same_target() -> None:
        sink = LocalZipSink(tmp_path, tmp_path / "run.zip")
        await sink.open(header())
        await sink.write(frames(1))
        await sink.close()

    asyncio.run(given_a_new_run_with_the_same_target())
    assert sequences(tmp_path / "run.zip") == [(1, 0)]


def test_runs_that_are_given_one_target_at_the_same_time_each_keep_theirs(tmp_path: Path) -> None:
    (tmp_path / "run.zip").write_bytes(b"an older run's")

    async def given_two_runs_of_different_tasks() -> list[Path | None]:
        sinks = []
        for number in (1, 2):
            sinks.append(LocalZipSink(tmp_path, tmp_path / "run.zip"))
            await sinks[-1].open(TaskHeader(f"{number:032x}", bytes([number]) * 16, "p", "n"))
            await sinks[-1].write(frames(number))
        for sink in sinks:
            await sink.close()
        return [sink.zip_file for sink in sinks]

    named = asyncio.run(given_two_runs_of_different_tasks())
    assert named == [tmp_path / "run.zip", tmp_path / "run-0001.zip"]
    tasks = [json.loads(zipfile.ZipFile(path).read("session.json"))["task_id"] for path in named if path]
    assert tasks == ["1".zfill(32), "2".zfill(32)]


def test_the_bound_comes_from_the_url_or_the_setting(tmp_path: Path) -> None:
    def bound(url: str, setting: int | None = None) -> int | None:
        sink = open_sink(url, Settings(state_dir=tmp_path, max_zip_bytes=setting))
        return sink._max_zip_bytes

    assert bound(f"zip:{tmp_path}/a.zip") is None
    assert bound(f"zip:{tmp_path}/a.zip?max_zip_bytes=1000") == 1000
    assert bound(f"zip:{tmp_path}/a.zip", 2000) == 2000
    assert bound(f"zip:{tmp_path}/a.zip?max_zip_bytes=1000", 2000) == 1000
    assert bound("zip:", 2000) is None
    for wrong in ("max_zip_bytes=0", "max_zip_bytes=-1", "max_zip_bytes=1MB", "size=3"):
        with pytest.raises(ConfigurationError, match="max_zip_bytes"):
            bound(f"zip:{tmp_path}/a.zip?{wrong}")
    # A question mark alone is part of a name
    assert bound(f"zip:{tmp_path}/what?.zip", 5) == 5


def test_a_run_with_parts_says_where_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"zip:{tmp_path / 'my run.zip'}?max_zip_bytes=3000"
    task = Task.init("tests", "parts", sinks=[url], auto_resource_monitoring=False, auto_connect_streams=False)
    for step in range(3000):
        task.get_logger().report_scalar("loss", "train", step * 1.37, step)
        if step % 300 == 0:
            task.flush()
    task.close()

    first, last = capsys.readouterr().err.splitlines()
    assert f"-> {tmp_path / 'my run.zip'} (" in first
    parts = [*sorted(tmp_path.glob("my run-*.zip")), tmp_path / "my run.zip"]
    assert last.endswith(f"See it with: telemetry import {' '.join(shlex.quote(str(path)) for path in parts)}")
    names = [path.name for path in zips(tmp_path)]
    assert len(names) > 2
    assert {"my run-0001.zip", "my run-0002.zip", "my run.zip"} <= set(names)
    with started(tmp_path / "server") as server:
        assert main(["import", str(tmp_path), "--url", server.url]) == 0
        task_info = Http(server.url).get(f"/tasks/{task.id}")
        assert (task_info["status"], task_info["points"]) == ("completed", 3000)


def test_a_killed_run_leaves_whole_parts_and_a_folder(tmp_path: Path) -> None:
    # Given a program that reports without end into parts
    source = f"""
        from telemetry import Task
        task = Task.init("tests", "killed", sinks=["zip:{tmp_path}/out?max_zip_bytes=50000"],
                         auto_resource_monitoring=False, auto_connect_streams=False)
        step = 0
        while True:
            task.get_logger().report_scalar("loss", "train", step * 1.37, step)
            step += 1
            if step % 1000 == 0:
                task.flush()
                print(step, flush=True)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        env=environment(tmp_path / "state"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as run:
        assert run.stdout is not None
        steps = 0
        # When it is killed after some parts
        while len(zips(tmp_path / "out")) < 3:
            steps = int(run.stdout.readline())
        run.kill()
    # Then what it flushed is in the parts and the folder together, and none of it is damaged
    with started(tmp_path / "server") as server:
        # A part that was begun is an empty file and a hidden one
        names = [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")]
        left = [path for path in names if path.is_dir() or path.stat().st_size]
        assert main(["import", *map(str, left), "--url", server.url]) == 0
        (task,) = Http(server.url).get("/tasks")["tasks"]
        assert task["points"] >= steps
        (series,) = Http(server.url).get(f"/tasks/{task['id']}/series", kind="scalar")["series"]
        assert series["count"] == series["last_iteration"] + 1
        assert task["status"] != "completed"
