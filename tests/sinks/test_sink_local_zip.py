"""The local sink: a session folder that survives a kill, and a zip that is whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from telemetry.collectors.scalars import ScalarReports
from telemetry.sinks.local_zip import LocalZipSink, open_sink, zip_session

from telemetry.errors import JournalError
from telemetry.events import ConsoleLine
from telemetry.journal import SegmentDamage, read_segments, read_session
from telemetry.sessions import archive
from telemetry.settings import Settings
from telemetry.storage.blobs import BLOBS
from telemetry.testing import make_header, run_pipeline
from telemetry.wire import Damage, Frame, decode, scan

TASK = "d" * 32


def run(sink: LocalZipSink, count: int = 1000) -> None:
    with run_pipeline([sink]) as pipeline:
        scalars = ScalarReports(pipeline.emit)
        for step in range(count):
            scalars.report_scalar("loss", "train", step * 0.5, step)
        pipeline.emit(ConsoleLine(1, "stdout", "done"))
    assert pipeline.ledger().delivered == count + 1


def values_in(zip_path: Path, *, killed: bool = False) -> list[float]:
    """Return the values in order. `killed`: a segment may end inside a frame, as a kill during a write leaves it."""
    found: list[float] = []
    with zipfile.ZipFile(zip_path) as archive:
        for member in archive.namelist():
            if member.endswith(".frames"):
                for _, item in scan(archive.read(member)):
                    if killed and isinstance(item, Damage) and item.cut:
                        continue
                    assert isinstance(item, Frame)
                    found += decode(item).columns.values
    return found


def test_a_run_ends_as_one_zip_whose_manifest_is_true(tmp_path: Path) -> None:
    # When a run ends
    target = tmp_path / "out" / "run.zip"
    run(LocalZipSink(tmp_path / "sessions", target))
    # Then there is the zip and nothing else, private and whole
    assert [path.name for path in target.parent.iterdir()] == ["run.zip"]
    assert list((tmp_path / "sessions").iterdir()) == []
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert values_in(target) == [step * 0.5 for step in range(1000)]
    with zipfile.ZipFile(target) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert manifest["format"] == 1
        assert set(manifest["files"]) == set(archive.namelist()) - {"manifest.json"}
        for member, entry in manifest["files"].items():
            data = archive.read(member)
            assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        assert json.loads(archive.read("session.json"))["project"] == "tests"
        assert not any(name.startswith(("/", "..")) for name in archive.namelist())


def test_without_a_zip_path_the_folder_stays(tmp_path: Path) -> None:
    sink = LocalZipSink(tmp_path, None)
    run(sink)
    assert sink.session_folder is not None
    assert read_session(sink.session_folder)["name"] == "a task"
    assert sum(item.events for item in read_segments(sink.session_folder) if isinstance(item, Frame)) == 1001
    assert list(tmp_path.rglob("*.zip")) == []


def test_a_zip_that_cannot_be_written_leaves_the_folder_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a folder in the place where the zip should go
    target = tmp_path / "run.zip"
    (target / "in the way").mkdir(parents=True)
    sink = LocalZipSink(tmp_path / "sessions", target)
    # When the run ends
    run(sink)
    # Then the data are in the session folder, which the log names, and nothing half-written lies about
    assert sink.session_folder is not None
    assert sum(item.events for item in read_segments(sink.session_folder) if isinstance(item, Frame)) == 1001
    assert f"The data are safe in {sink.session_folder}" in caplog.text
    assert [path.name for path in tmp_path.glob(".*.part")] == []


def test_what_would_be_too_many_members_for_a_reader_stays_in_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Given as many images as a reader takes members
    blobs = tmp_path / "sessions" / make_header().task_id / BLOBS
    blobs.mkdir(parents=True)
    for number in range(archive.MAX_MEMBERS):
        (blobs / f"{number:064x}").touch()
    sink = LocalZipSink(tmp_path / "sessions", tmp_path / "run.zip")
    # When the run ends
    run(sink)
    # Then they are not put where nobody could take them from
    assert not (tmp_path / "run.zip").exists()
    assert "a session zip holds at most 32768 files" in caplog.text
    assert f"The data are safe in {blobs.parent}" in caplog.text
    assert len(list(blobs.iterdir())) == archive.MAX_MEMBERS


def test_the_error_of_a_failing_rename_is_one_of_ours(tmp_path: Path) -> None:
    import asyncio

    target = tmp_path / "run.zip"
    (target / "in the way").mkdir(parents=True)

    async def given_a_session() -> None:
        sink = LocalZipSink(tmp_path / "sessions", target)
        await sink.open(make_header(TASK))
        with pytest.raises(JournalError, match="could not be written"):
            await sink.close()
        await sink.close()  # once more is nothing

    asyncio.run(given_a_session())


def test_zipping_again_over_an_older_zip_replaces_it_whole(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "session.json").write_text("{}")
    (folder / "old").write_text("a file from before zip knew time")
    os.utime(folder / "old", (0, 0))
    target = tmp_path / "run.zip"
    target.write_text("an older one")
    assert set(zip_session(folder, target)) == {"session.json", "old"}
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.zip", "s"]


def test_a_folder_that_another_process_still_writes_is_kept(tmp_path: Path) -> None:
    import asyncio

    async def given_a_forked_child_that_is_still_writing() -> Path:
        sink = LocalZipSink(tmp_path, tmp_path / "run.zip")
        await sink.open(make_header(TASK))
        child = sink.clone()
        assert child._zip_path is None
        await child.open(make_header(TASK))
        await sink.close()
        await child.close()
        return tmp_path / TASK

    # Both wrote segments of their own into one folder; the zip has what was there, and so has the folder
    folder = asyncio.run(given_a_forked_child_that_is_still_writing())
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        assert sum(name.endswith(".frames") for name in archive.namelist()) == 2
    assert not folder.exists() or read_session(folder)


@pytest.mark.parametrize(
    ("url", "folder", "target"),
    [
        ("zip:", "{state}/sessions", None),
        ("zip:{tmp}/runs/a.zip", "{tmp}/runs", "{tmp}/runs/a.zip"),
        ("zip://{tmp}/runs", "{tmp}/runs", "{tmp}/runs/" + TASK + ".zip"),
    ],
)
def test_the_url_says_where_folder_and_zip_go(tmp_path: Path, url: str, folder: str, target: str | None) -> None:
    import asyncio

    places = {"state": tmp_path / "state", "tmp": tmp_path}
    sink = open_sink(url.format(**places), Settings(state_dir=tmp_path / "state"))

    async def given_an_opened_sink() -> None:
        await sink.open(make_header(TASK))
        assert sink.session_folder == Path(folder.format(**places)) / TASK
        assert sink.zip_file == (Path(target.format(**places)) if target else None)
        await sink.close()

    asyncio.run(given_an_opened_sink())


def test_a_killed_process_leaves_a_folder_with_all_but_the_last_moment(tmp_path: Path) -> None:
    # Given a process that reports as fast as it can, for more than a second
    program = f"""
        import sys, time
        from pathlib import Path
        from telemetry.collectors.scalars import ScalarReports
        from telemetry.sinks.local_zip import LocalZipSink
        from telemetry.pipeline import Pipeline
        from telemetry.settings import Settings
        from telemetry.testing import make_header

        sink = LocalZipSink(Path({str(tmp_path)!r}), Path({str(tmp_path / "run.zip")!r}))
        pipeline = Pipeline(make_header({TASK!r}), [sink], settings=Settings(flush_interval_s=0.1, block_timeout_s=60))
        pipeline.start()
        begun, said = time.monotonic(), False
        scalars = ScalarReports(pipeline.emit)
        for step in range(10**9):
            scalars.report_scalar("loss", "train", time.time(), step)
            if not said and time.monotonic() > begun + 1.2:
                print("more than a second has passed", flush=True)
                said = True
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "more than a second has passed\n"
        # When it is killed in the middle of it
        process.send_signal(signal.SIGKILL)
        process.wait()
    # Then its folder has every step from the first on, up to at most a second before the end, and damages nothing
    items = list(read_segments(tmp_path / TASK))
    assert sum(isinstance(item, SegmentDamage) for item in items) <= 1
    columns = [decode(item).columns for item in items if isinstance(item, Frame)]
    steps = [step for column in columns for step in column.iterations]
    assert steps == list(range(len(steps)))
    assert len(steps) > 1000
    times = [moment for column in columns for moment in column.times_unix_ns]
    newest = max(path.stat().st_mtime_ns for path in (tmp_path / TASK / "segments").iterdir())
    assert newest - times[-1] < 1e9
    # and it can be zipped and read like any other
    zip_session(tmp_path / TASK, tmp_path / "later.zip")
    assert len(values_in(tmp_path / "later.zip", killed=True)) == len(steps)
    assert not (tmp_path / "run.zip").exists()
