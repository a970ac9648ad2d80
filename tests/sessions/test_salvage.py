"""Salvage: any damage costs the frame it hits and no other, and is said with its place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from telemetry.sinks.local_zip import zip_session

from telemetry.cli import main
from telemetry.errors import JournalError
from telemetry.events import Batch, ConsoleLine
from telemetry.journal import SegmentDamage, read_segments
from telemetry.sessions.salvage import salvage
from telemetry.wire import Frame, decode, encode

TASK = "ab" * 16
WRITER = bytes(range(16))


def frame(sequence: int) -> Frame:
    line = ConsoleLine(sequence, "stdout", f"line {sequence}")
    return encode(Batch(TASK, events=[line], events_logged=1), writer_id=WRITER, sequence=sequence)


FRAMES = [frame(sequence) for sequence in range(5)]
STREAM = b"".join(item.data for item in FRAMES)


def lines(folder: Path) -> list[str]:
    items = list(read_segments(folder))
    assert not any(isinstance(item, SegmentDamage) for item in items)
    return [event.text for item in items if isinstance(item, Frame) for event in decode(item).events]  # type: ignore[union-attr]


def session_with(data: bytes, folder: Path) -> Path:
    (folder / "segments").mkdir(parents=True)
    (folder / "segments" / f"{WRITER.hex()}-000001.frames").write_bytes(data)
    return folder


@pytest.mark.parametrize("mask", [0x01, 0x55, 0x80])
def test_a_flipped_byte_costs_its_frame_and_no_other(mask: int, tmp_path: Path) -> None:
    folder = session_with(STREAM, tmp_path / "s")
    (segment,) = (folder / "segments").iterdir()
    # given each byte of the journal in turn
    for position in range(len(STREAM)):
        damaged = bytearray(STREAM)
        damaged[position] ^= mask
        segment.write_bytes(damaged)
        hit = next(n for n in range(5) if position < sum(len(item) for item in FRAMES[: n + 1]))
        # when
        out = tmp_path / f"out {position}"
        found = salvage(folder, out)
        # then
        assert lines(out / TASK) == [f"line {n}" for n in range(5) if n != hit]
        assert found.frames == 4
        assert found.damage
        assert all(item.damage.offset >= sum(len(item) for item in FRAMES[:hit]) for item in found.damage)


@settings(max_examples=40, deadline=None)
@given(end=st.integers(0, len(STREAM)))
def test_a_cut_costs_the_frame_it_goes_through(end: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    # given
    folder = tmp_path_factory.mktemp("cut")
    whole = sum(1 for n in range(5) if sum(len(item) for item in FRAMES[: n + 1]) <= end)
    # when
    found = salvage(session_with(STREAM[:end], folder / "s"), folder / "out")
    # then
    assert found.frames == whole
    if whole:
        assert lines(folder / "out" / TASK) == [f"line {n}" for n in range(whole)]


def test_a_zip_without_its_directory_still_gives_its_frames(tmp_path: Path) -> None:
    # given a zip that was cut while it was copied
    zip_session(session_with(STREAM, tmp_path / "s"), tmp_path / "s.zip")
    cut = tmp_path / "cut.zip"
    cut.write_bytes((tmp_path / "s.zip").read_bytes()[: len(STREAM) + 60])
    # when
    found = salvage(cut, tmp_path / "out")
    # then
    assert found.frames >= 4
    assert lines(tmp_path / "out" / TASK)[:4] == [f"line {n}" for n in range(4)]


def test_frames_that_lie_there_twice_are_written_once(tmp_path: Path) -> None:
    folder = session_with(STREAM, tmp_path / "s")
    shutil.copy(next((folder / "segments").iterdir()), folder / "segments" / "copy.frames")
    assert salvage(folder, tmp_path / "out").frames == 5
    assert len(lines(tmp_path / "out" / TASK)) == 5


def test_a_source_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="there is no"):
        salvage(tmp_path / "nowhere", tmp_path / "out")


def test_the_command_says_what_it_saved_and_where_the_damage_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # given
    folder = session_with(STREAM[: len(FRAMES[0])] + b"rubbish" + STREAM[len(FRAMES[0]) :], tmp_path / "s")
    # when
    code = main(["salvage", str(folder), "--out", str(tmp_path / "out")])
    # then
    said = capsys.readouterr()
    assert code == 0
    assert "5 frames" in said.out
    assert str(tmp_path / "out" / TASK) in said.out
    assert f"7 bytes at {len(FRAMES[0])}" in said.out
