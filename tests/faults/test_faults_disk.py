"""Disks that are full, over quota or limited: the loop runs on, and every event is accounted for."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_support import START_NS, TITLES, delivered_all, log_points, until
from injectors import FailingDisk, small_disk
from sdk_support import run_program
from telemetry.sinks.http import HttpSink
from telemetry.sinks.local_zip import LocalZipSink

from telemetry import retry
from telemetry.journal import OPEN_RETRY_S, read_segments
from telemetry.lane import JOURNAL_RETRY_S
from telemetry.ledger import Ledger
from telemetry.pipeline import Pipeline
from telemetry.protocols import Sink
from telemetry.settings import Settings
from telemetry.testing import FlakySink, make_header
from telemetry.wire import Frame, decode


@contextmanager
def logging_to(sink: Sink, state_dir: Path, **settings: object) -> Iterator[Pipeline]:
    chosen = {"frame_scalars": 1000, "block_timeout_s": 0.05, "lane_memory_bytes": 200_000, **settings}
    pipeline = Pipeline(make_header(), [sink], settings=Settings(state_dir=state_dir, **chosen))  # type: ignore[arg-type]
    pipeline.start()
    try:
        yield pipeline
    finally:
        pipeline.close(timeout_s=2.0)


def sound_points(state_dir: Path) -> list[int]:
    """Return the numbers of the points in all session folders; each is read as an importer would."""
    found: list[int] = []
    for session in state_dir.rglob("session.json"):
        for item in read_segments(session.parent):
            if isinstance(item, Frame):
                found += [time - START_NS for time in decode(item).columns.times_unix_ns]
    return sorted(found)


def adds_up(ledger: Ledger, points: int) -> None:
    assert ledger.balanced and ledger.logged == points, ledger
    assert min(ledger.on_disk, ledger.in_memory, ledger.delivered) >= 0


def test_a_full_disk_raises_nothing_and_what_is_counted_as_on_disk_is_there(tmp_path: Path) -> None:
    points = 300_000
    with small_disk(tmp_path / "disk", 1024 * 1024) as disk:
        # given a disk of a megabyte and a server that is away
        with logging_to(HttpSink("http://127.0.0.1:9", timeout_s=0.2), disk / "state") as pipeline:
            # when far more is logged than fits
            for first in range(0, points, 10_000):
                log_points(pipeline, first, 10_000)
                pipeline.flush(timeout_s=10.0)
                adds_up(pipeline.ledger(), first + 10_000)
        # then it adds up to the end, and the disk holds what the ledger says
        ledger = pipeline.ledger()
        adds_up(ledger, points)
        assert ledger.on_disk > 10_000 and ledger.dropped_total > 10_000, ledger
        numbers = sound_points(disk)
        assert len(set(numbers)) == len(numbers) == ledger.on_disk


@pytest.mark.parametrize("fault", ["full", "no folder"])
def test_a_journal_that_could_not_be_opened_is_opened_later(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # given a disk that is full, or a folder that cannot be made, from the start, and a server that is away
    with small_disk(tmp_path / "disk", 1024 * 1024) as disk:
        state, filler = disk / "state", disk / "filler"
        if fault == "full":
            with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        else:
            state.write_bytes(b"a file where the folder should be")
        sink = FlakySink(spool=True)
        sink.down = True
        with logging_to(sink, state) as pipeline:
            log_points(pipeline, 0, 3000)
            assert not pipeline.flush(timeout_s=10.0)
            adds_up(pipeline.ledger(), 3000)
            assert (pipeline.ledger().in_memory, pipeline.spool_folder) == (3000, None)
            # when there is room, and nothing more is reported
            (filler if fault == "full" else state).unlink()
            until(lambda: pipeline.ledger().on_disk == 3000, "the journal")
            # then it is used from then on, and it was said once
            log_points(pipeline, 3000, 3000)
            assert pipeline.flush(timeout_s=10.0)
        assert pipeline.ledger().on_disk == 6000
        assert sound_points(disk) == list(range(6000))
    assert caplog.text.count("events wait in memory") == 1
    assert JOURNAL_RETRY_S + OPEN_RETRY_S < 5.0  # the promise


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_when_the_disk_takes_nothing_for_a_while_events_wait_in_memory(
    number: int, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "BASE_DELAY_S", 0.005)
    disk = FailingDisk(monkeypatch, number)
    sink = FlakySink(spool=True)
    sink.down = True
    with logging_to(sink, state_dir) as pipeline:
        # given a server that is away, and some frames that are on disk
        log_points(pipeline, 0, 3000)
        pipeline.flush()
        assert pipeline.ledger().on_disk == 3000
        # when the disk fails, and comes back
        disk.broken = True
        log_points(pipeline, 3000, 3000)
        until(lambda: disk.refused >= 3, "writes that fail")
        adds_up(pipeline.ledger(), 6000)
        disk.broken = False
        log_points(pipeline, 6000, 3000)
        sink.down = False
        # then nothing was lost, and nothing is there twice
        delivered_all(pipeline)
        assert not pipeline.ledger().dropped
    iterations = sorted(step for title in TITLES for step, _ in sink.scalars()[title, "train"])
    assert iterations == list(range(9000))


def test_a_journal_stays_within_its_bound_and_takes_frames_again_when_some_are_delivered(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "BASE_DELAY_S", 0.005)
    bound, points = 300_000, 100_000
    sink = FlakySink(spool=True)
    sink.down = True
    settings = {"max_journal_bytes": bound, "segment_bytes": 50_000, "lane_memory_bytes": 4_000_000}
    with logging_to(sink, state_dir, **settings) as pipeline:
        # given a server that is away for longer than the journal has room
        log_points(pipeline, 0, points)
        assert not pipeline.flush()
        ledger = pipeline.ledger()
        adds_up(ledger, points)
        assert ledger.on_disk > 10_000 and ledger.in_memory > 10_000 and not ledger.dropped, ledger
        size = sum(path.stat().st_size for path in (state_dir / "spool").rglob("*.frames"))
        assert bound * 0.9 < size <= bound
        # when it is back
        sink.down = False
        delivered_all(pipeline)
        # then there is room again
        sink.down = True
        log_points(pipeline, points, 1000)
        assert pipeline.flush()
        assert pipeline.ledger().on_disk == 1000
    iterations = sorted(step for title in TITLES for step, _ in sink.scalars()[title, "train"])
    assert iterations == list(range(points))


def test_a_session_folder_on_a_disk_that_fills_up_loses_only_what_is_counted(tmp_path: Path) -> None:
    points = 200_000
    with small_disk(tmp_path / "disk", 512 * 1024) as disk:
        with logging_to(LocalZipSink(disk / "sessions", None), tmp_path / "state") as pipeline:
            for first in range(0, points, 20_000):
                log_points(pipeline, first, 20_000)
        ledger = pipeline.ledger()
        adds_up(ledger, points)
        assert ledger.dropped_total > 0
        # A write of several frames that the disk cut counts as not delivered; those before the cut are there anyway.
        assert ledger.delivered <= len(set(sound_points(disk))) <= ledger.delivered + ledger.dropped_total


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_a_file_size_limit_does_not_reach_the_program(state_dir: Path) -> None:
    # given a process whose files may not grow beyond 100 kB: the kernel says EFBIG, as a quota says EDQUOT
    program = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from telemetry import Task
task = Task.init("faults", "limited", auto_resource_monitoring=False, auto_connect_streams=False)
for step in range(60_000):
    task.get_logger().report_scalar("loss", "train", step * 0.1, step)
task.close()
ledger = task.ledger()
assert ledger.balanced, ledger
print("ended", ledger.logged)
"""
    done = run_program(program, state_dir)

    assert done.returncode == 0, done.stderr
    assert "ended" in done.stdout
    assert "Traceback" not in done.stderr
    for path in state_dir.rglob("*.frames"):
        assert path.stat().st_size <= 100_000
