"""A journal's folder or file that somebody deletes, moves, cuts or replaces while the program runs.

What memory and the open file still hold is written anew; the rest is counted as lost, and no line says otherwise.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from sdk_support import run_program
from telemetry.sinks.http import HttpSink
from telemetry.sinks.local_zip import LocalZipSink
from test_lane import driven

from telemetry.disk import DaemonExecutor
from telemetry.events import Batch, ConsoleLine, Scalar, ScalarColumns
from telemetry.journal import Journal, read_segments, read_session
from telemetry.pipeline import Pipeline
from telemetry.settings import Settings
from telemetry.testing import FlakySink, make_header
from telemetry.wire import Frame, encode

HEADER = make_header("c" * 32)


def point(step: int) -> Scalar:
    return Scalar("loss", "train", 0.5, step, 0)


def frame(sequence: int, events: int = 1) -> Frame:
    lines = [ConsoleLine(sequence, "stdout", "x" * 100)] * events
    return encode(Batch(HEADER.task_id, ScalarColumns(), lines, events), writer_id=HEADER.writer_id, sequence=sequence)


def held_in(folder: Path) -> list[int]:
    read_session(folder)
    return [item.sequence for item in read_segments(folder) if isinstance(item, Frame)]


def delete(folder: Path) -> None:
    shutil.rmtree(folder)


def delete_the_segments(folder: Path) -> None:
    shutil.rmtree(folder / "segments")


def move(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def replace_by_a_copy(folder: Path) -> None:
    move(folder)
    (folder / "segments").mkdir(parents=True)
    for segment in (folder.with_name("moved") / "segments").iterdir():
        (folder / "segments" / segment.name).write_bytes(b"another file")


@pytest.mark.parametrize("take_away", [delete, delete_the_segments, move, replace_by_a_copy])
def test_what_the_open_file_holds_is_written_anew(
    take_away: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[Mapping[int, int]] = []

    async def given_a_journal_whose_folder_goes() -> None:
        journal = Journal(tmp_path / "s", DaemonExecutor())
        journal.on_lost = lost.append
        await journal.open(HEADER)
        await journal.append([frame(0), frame(1)])
        assert callable(take_away)
        take_away(tmp_path / "s")
        await journal.append([frame(2)])
        await journal.sync()
        assert held_in(tmp_path / "s") == [0, 1, 2]
        await journal.append([frame(3)])
        await journal.close()

    asyncio.run(given_a_journal_whose_folder_goes())
    assert held_in(tmp_path / "s") == [0, 1, 2, 3]
    assert lost == []
    assert len(caplog.records) == 1
    assert "was deleted, moved or replaced" in caplog.text
    assert (str(tmp_path / "moved") in caplog.text) == (tmp_path / "moved").exists()


def test_it_is_noticed_within_the_second_in_which_frames_are_synced(tmp_path: Path) -> None:
    async def given_a_journal_that_nobody_flushes() -> None:
        journal = Journal(tmp_path / "s", DaemonExecutor(), fsync_interval_s=0.01)
        await journal.open(HEADER)
        await journal.append([frame(0)])
        delete(tmp_path / "s")
        await journal.append([frame(1)])
        while not (tmp_path / "s" / "session.json").exists():  # noqa: ASYNC110  nothing tells of it, but it comes
            await asyncio.sleep(0)
        await journal.close()

    asyncio.run(given_a_journal_that_nobody_flushes())
    assert held_in(tmp_path / "s") == [0, 1]


def test_closed_segments_that_were_deleted_are_lost_but_for_what_memory_holds(tmp_path: Path) -> None:
    lost: dict[int, int] = {}

    async def given_segments_of_one_frame() -> None:
        journal = Journal(tmp_path / "s", DaemonExecutor(), segment_bytes=1)
        journal.on_lost = lost.update
        journal.copies = lambda: [frame(1, events=2)]
        await journal.open(HEADER)
        for sequence in range(4):
            await journal.append([frame(sequence, events=sequence + 1)])
        delete(tmp_path / "s")
        await journal.append([frame(4)])
        await journal.close()

    asyncio.run(given_segments_of_one_frame())
    assert held_in(tmp_path / "s") == [1, 3, 4]
    assert lost == {0: 1, 2: 3}


def test_a_file_that_was_cut_loses_what_was_cut_off(tmp_path: Path) -> None:
    lost: dict[int, int] = {}

    async def given_a_segment_that_somebody_empties() -> None:
        journal = Journal(tmp_path / "s", DaemonExecutor())
        journal.on_lost = lost.update
        await journal.open(HEADER)
        await journal.append([frame(0), frame(1)])
        (segment,) = (tmp_path / "s" / "segments").iterdir()
        segment.write_bytes(frame(0).data)
        await journal.append([frame(2)])
        await journal.close()

    asyncio.run(given_a_segment_that_somebody_empties())
    assert lost == {1: 1}
    assert sorted(set(held_in(tmp_path / "s"))) == [0, 2]


def test_a_lost_journal_of_a_server_that_is_down_is_counted(tmp_path: Path) -> None:
    # Given a server that is down, memory for few frames, and a spool of many small segments
    settings = Settings(state_dir=tmp_path, segment_bytes=2000, lane_memory_bytes=1, flush_interval_s=0.01)
    pipeline = Pipeline(HEADER, [HttpSink("http://127.0.0.1:9")], settings=settings)
    pipeline.start()
    for step in range(50):
        pipeline.emit(point(step))
        pipeline.flush(5)
    # When the state folder is deleted
    delete(tmp_path / "spool")
    pipeline.emit(point(50))
    pipeline.flush(5)
    ledger = pipeline.close(1.0)

    # Then what is said to be on disk is on disk, and nothing is missing without a word
    (folder,) = (tmp_path / "spool").iterdir()
    kept = sum(item.events for item in read_segments(folder) if isinstance(item, Frame))
    assert 0 < ledger.on_disk == kept < ledger.logged
    assert ledger.dropped == {"journal_lost": ledger.logged - kept}


def test_a_folder_that_cannot_be_made_again_is_counted_as_lost(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    pipeline = Pipeline(HEADER, [HttpSink("http://127.0.0.1:9")], settings=settings)
    pipeline.start()
    pipeline.emit(point(0))
    pipeline.flush(5)
    delete(tmp_path / "state")
    (tmp_path / "state").write_text("somebody else's file")
    pipeline.emit(point(1))
    ledger = pipeline.close(1.0)

    assert ledger.on_disk == ledger.in_memory == ledger.delivered == 0
    assert ledger.dropped_total == ledger.logged == 2
    assert ledger.dropped["journal_lost"] >= 1


def test_a_session_folder_that_was_deleted_is_no_delivery(tmp_path: Path) -> None:
    pipeline = Pipeline(
        HEADER, [LocalZipSink(tmp_path / "s", None, segment_bytes=1)], settings=Settings(state_dir=tmp_path / "state")
    )
    pipeline.start()
    for step in range(3):
        pipeline.emit(point(step))
        pipeline.flush(5)
    delete(tmp_path / "s")
    pipeline.emit(point(3))
    ledger = pipeline.close(2.0)

    kept = sum(item.events for item in read_segments(tmp_path / "s" / HEADER.task_id) if isinstance(item, Frame))
    assert 0 < ledger.delivered == kept < 4
    assert ledger.dropped == {"journal_lost": 4 - kept}


def test_a_frame_in_the_journal_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    async def given_a_damaged_frame_and_a_sink_that_comes_up_late() -> None:
        flaky = FlakySink(["unavailable"] * 3, spool=True)
        async with driven(flaky, tmp_path / "j", memory_bytes=1) as lane:
            await lane.offer(0, 1, 2, 3)
            for segment in (tmp_path / "j" / "segments").iterdir():
                data = bytearray(segment.read_bytes())
                data[len(data) // 2 + 40] ^= 0xFF
                segment.write_bytes(bytes(data))
            ledger = await lane.finish()
        assert ledger.on_disk == 0
        assert ledger.delivered + ledger.dropped["journal_lost"] == 4

    asyncio.run(given_a_damaged_frame_and_a_sink_that_comes_up_late())


def test_the_last_line_after_the_state_folder_was_deleted(tmp_path: Path) -> None:
    source = """
        import os, shutil
        from telemetry import Task

        task = Task.init(project_name="p", task_name="gone")
        task.get_logger().report_scalar("loss", "train", value=1.0, iteration=0)
        task.flush()
        shutil.rmtree(os.environ["TELEMETRY_DIR"])
        task.close()
    """
    done = run_program(source, tmp_path / "state", variables={"TELEMETRY_MODE": "offline"})
    assert done.returncode == 0, done.stderr
    (zipped,) = (tmp_path / "state" / "sessions").iterdir()
    assert f"telemetry import {zipped}" in done.stderr
