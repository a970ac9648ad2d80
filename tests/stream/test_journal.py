"""The journal: what was appended is read back, in order, whatever became of the disk in between."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from telemetry.disk import DaemonExecutor
from telemetry.errors import JournalError
from telemetry.events import Batch, ConsoleLine, ScalarColumns, TaskHeader
from telemetry.journal import Journal, SegmentDamage, read_segments, read_session
from telemetry.wire import Frame, encode

TASK = "a" * 32
WRITER = bytes(range(16))
ALL = 10**9


def header(writer: bytes = WRITER) -> TaskHeader:
    return TaskHeader(TASK, writer, "tests", "a task", created_unix_ns=1)


def frame(sequence: int, *, writer: bytes = WRITER, size: int = 100) -> Frame:
    # Random text, so that deflate leaves the size about as it is
    text = os.urandom(size // 2).hex()
    return encode(Batch(TASK, ScalarColumns(), [ConsoleLine(1, "s", text)], 1), writer_id=writer, sequence=sequence)


@asynccontextmanager
async def opened(folder: Path, *, writer: bytes = WRITER, **options: Any) -> AsyncIterator[Journal]:
    executor = DaemonExecutor()
    journal = Journal(folder, executor, **options)
    await journal.open(header(writer))
    try:
        yield journal
    finally:
        await journal.close()
        executor.shutdown()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def sequences(folder: Path) -> list[int]:
    return [item.sequence for item in read_segments(folder) if isinstance(item, Frame)]


def segments(folder: Path) -> list[str]:
    return sorted(path.name[-13:] for path in (folder / "segments").iterdir())


def test_what_is_appended_is_read_back_by_anybody(tmp_path: Path) -> None:
    async def given_a_journal() -> None:
        frames = [frame(sequence) for sequence in range(5)]
        async with opened(tmp_path / "s") as journal:
            await journal.append(frames[:2])
            await journal.append(frames[2:])
            # A reader of the growing session sees it already
            assert list(read_segments(tmp_path / "s")) == frames
        assert read_session(tmp_path / "s")["task_id"] == TASK
        assert read_session(tmp_path / "s")["project"] == "tests"

    run(given_a_journal)


def test_files_are_private(tmp_path: Path) -> None:
    previous = os.umask(0)  # the worst of umasks must not open them
    try:

        async def given_a_session_with_everything() -> None:
            async with opened(tmp_path / "s") as journal:
                await journal.append([frame(0)])
                await journal.quarantine(frame(1), "refused")

        run(given_a_session_with_everything)
    finally:
        os.umask(previous)
    for path in [tmp_path / "s", *(tmp_path / "s").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path} has {mode:o}"


def test_segments_roll_and_are_removed_once_delivered(tmp_path: Path) -> None:
    async def given_a_journal_of_small_segments() -> None:
        folder = tmp_path / "s"
        async with opened(folder, segment_bytes=500) as journal:
            # When it grows past its segments' size
            for sequence in range(12):
                await journal.append([frame(sequence, size=200)])
            names = segments(folder)
            assert len(names) >= 4
            assert sequences(folder) == list(range(12))
            # Then what was delivered goes, by whole segments
            await journal.forget(-1)
            assert segments(folder) == names
            await journal.forget(5)
            left = sequences(folder)
            assert left[-1] == 11
            assert 0 < left[0] <= 6
            # also when somebody else has removed one of them first
            (folder / "segments" / next((folder / "segments").iterdir()).name).unlink()
            await journal.forget(11)
            assert len(segments(folder)) <= 1
            # and the last one goes on being written
            await journal.append([frame(12)])
            assert sequences(folder)[-1] == 12

    run(given_a_journal_of_small_segments)


def test_reading_back_in_pieces_gives_every_frame_once(tmp_path: Path) -> None:
    async def given_a_backlog_over_several_segments() -> None:
        async with opened(tmp_path / "s", segment_bytes=2000) as journal:
            frames = [frame(sequence, size=300) for sequence in range(40)]
            for item in frames[:30]:
                await journal.append([item])
            # When it is read in pieces, while delivered segments go
            found: list[Frame] = []
            while piece := await journal.read_after(found[-1].sequence if found else -1, 1000):
                found += piece
                await journal.forget(found[-1].sequence)
            assert found == frames[:30]
            for item in frames[30:]:
                await journal.append([item])
            assert await journal.read_after(29, ALL) == frames[30:]
            assert await journal.read_after(39, ALL) == []
            # and again from further behind
            assert (await journal.read_after(35, ALL))[0].sequence == 36

    run(given_a_backlog_over_several_segments)


def test_a_half_written_tail_is_skipped_and_said(tmp_path: Path) -> None:
    async def given_a_session() -> None:
        async with opened(tmp_path / "s") as journal:
            await journal.append([frame(sequence) for sequence in range(3)])

    run(given_a_session)
    [segment] = (tmp_path / "s" / "segments").iterdir()
    whole = segment.read_bytes()
    # When the machine died in the middle of the last frame
    segment.write_bytes(whole[:-10])
    # Then the others are there, and the reader says what it skipped
    *frames, damage = read_segments(tmp_path / "s")
    assert [item.sequence for item in frames if isinstance(item, Frame)] == [0, 1]
    assert isinstance(damage, SegmentDamage)
    assert segment.name in str(damage)
    assert "10 bytes early" in str(damage)


def test_writers_of_one_task_share_a_folder_and_nothing_else(tmp_path: Path) -> None:
    async def given_two_writers() -> None:
        other = bytes(16)
        folder = tmp_path / "s"
        async with opened(folder) as first:
            async with opened(folder, writer=other) as second:
                for sequence in range(3):
                    await first.append([frame(sequence)])
                    await second.append([frame(sequence, writer=other)])
                found = [item for item in read_segments(folder) if isinstance(item, Frame)]
                assert sorted((item.writer_id, item.sequence) for item in found) == sorted(
                    (writer, sequence) for writer in (WRITER, other) for sequence in range(3)
                )
                # When one has delivered everything and goes
                await first.forget(2)
                await first.close(remove_if_delivered=True)
                # Then the other's frames stay, and so does the session
                assert {item.writer_id for item in read_segments(folder) if isinstance(item, Frame)} == {other}
                assert read_session(folder)
                await second.forget(2)
                await second.close(remove_if_delivered=True)
        assert not folder.exists()

    run(given_two_writers)


def test_closing_keeps_what_is_owed(tmp_path: Path) -> None:
    async def given_frames_of_which_one_is_not_delivered() -> None:
        async with opened(tmp_path / "s") as journal:
            await journal.append([frame(0), frame(1)])
            await journal.forget(0)
            await journal.close(remove_if_delivered=True)
        assert sequences(tmp_path / "s") == [0, 1]

    run(given_frames_of_which_one_is_not_delivered)


def test_a_refused_frame_lies_in_quarantine_with_its_reason(tmp_path: Path) -> None:
    async def given_a_refusal() -> None:
        refused = frame(7)
        async with opened(tmp_path / "s") as journal:
            await journal.append([refused])
            path = await journal.quarantine(refused, "the name is too long")
            assert path.read_bytes() == refused.data
            assert path.with_suffix(".reason.txt").read_text() == "the name is too long\n"
            await journal.forget(7)
            await journal.close(remove_if_delivered=True)
            # Its session is still to be found by whoever looks at the quarantine
            assert path.exists()
            assert read_session(tmp_path / "s")

    run(given_a_refusal)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_an_error_at_open(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    async def given_a_read_only_folder() -> None:
        with pytest.raises(JournalError, match="no journal can be written"):
            async with opened(tmp_path / "s"):
                pass

    run(given_a_read_only_folder)


def test_a_file_in_the_way_is_an_error_at_open(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("somebody's file")

    async def given_a_file_where_the_folder_should_be() -> None:
        with pytest.raises(JournalError, match="no journal can be written"):
            async with opened(tmp_path / "s"):
                pass

    run(given_a_file_where_the_folder_should_be)
    assert (tmp_path / "s").read_text() == "somebody's file"


def test_what_is_no_session_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="is not a session folder"):
        read_session(tmp_path)
    for content in ("{", "[]", '{"format": 99}'):
        (tmp_path / "session.json").write_text(content)
        with pytest.raises(JournalError):
            read_session(tmp_path)


def test_a_disk_that_is_full_costs_what_it_refuses_and_no_more(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the kernel itself refuse, in the middle of a frame, as a full disk does."""

    async def given_a_disk_with_room_for_two_frames_and_a_half() -> None:
        folder = tmp_path / "s"
        frames = [frame(sequence, size=10_000) for sequence in range(8)]
        limit = len(frames[0]) + len(frames[1]) + 5_000
        async with opened(folder) as journal:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            await journal.append([frames[0]])
            await journal.append([frames[1]])
            # When one more is appended, and again
            with pytest.raises(OSError, match="File too large"):
                await journal.append([frames[2]])
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
            for _ in range(5):
                with pytest.raises(OSError, match="File too large"):
                    await journal.append([frames[3]])
            # Then what was whole is still there, and the tries did not litter the folder
            assert sequences(folder) == [0, 1]
            assert len(segments(folder)) == 2
            # and when there is room again, it goes on, and reads back all that it took
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            for item in frames[4:]:
                await journal.append([item])
            assert sequences(folder) == [0, 1, 4, 5, 6, 7]
            assert await journal.read_after(-1, ALL) == frames[:2] + frames[4:]
            [damage] = [item for item in read_segments(folder) if isinstance(item, SegmentDamage)]
            assert damage.damage.length == 5_000

    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        run(given_a_disk_with_room_for_two_frames_and_a_half)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


def test_appended_frames_survive_a_kill(tmp_path: Path) -> None:
    # Given a process that appends, says so, and is killed on the spot
    program = f"""
        import asyncio, os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_journal import frame, opened

        async def main():
            async with opened(Path({str(tmp_path / "s")!r}), fsync_interval_s=3600) as journal:
                for sequence in range(20):
                    await journal.append([frame(sequence)])
                os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=30)
    # Then every appended frame is there
    assert done.returncode == -signal.SIGKILL
    assert sequences(tmp_path / "s") == list(range(20))


def test_appended_frames_are_synced_within_the_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def given_a_journal() -> None:
        loop = asyncio.get_running_loop()
        synced = asyncio.Event()
        real = os.fsync

        async def fsync(number: int, executor: Any = None) -> None:
            await loop.run_in_executor(executor, real, number)
            synced.set()

        monkeypatch.setattr("telemetry.journal._fsync", fsync)
        async with opened(tmp_path / "s", fsync_interval_s=0.01) as journal:
            for sequence in range(3):
                # When a frame is appended and nothing else is asked for
                await journal.append([frame(sequence)])
                # Then it is synced by itself, each time anew
                await asyncio.wait_for(synced.wait(), 10)
                synced.clear()

    run(given_a_journal)
