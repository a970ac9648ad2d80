"""The one scan of frames: whatever the source and its blocks, the same frames and the same damage."""

from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sessions_support import frames_of, write_folder

from telemetry.events import Batch, ConsoleLine
from telemetry.journal import SegmentDamage, read_segments
from telemetry.server.watch.files import Place, read_growth
from telemetry.sessions.salvage import salvage
from telemetry.sessions.segments import frames_from, scan_file
from telemetry.sessions.segments import frames_of as frames_of_descriptor
from telemetry.wire import (
    HEADER_BYTES,
    MAGIC,
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_BYTES,
    Damage,
    Frame,
    encode,
    scan,
    scan_source,
)

TASK, WRITER = "ab" * 16, bytes(range(16))
MIB = 1024 * 1024


def frame(sequence: int, text: str = "a line") -> Frame:
    # Not deflated: what is in the text is in the frame.
    batch = Batch(TASK, events=[ConsoleLine(1, "stdout", text)], events_logged=1)
    return encode(batch, writer_id=WRITER, sequence=sequence, level=0)


def claiming(payload_bytes: int) -> bytes:
    """A header that is sound so far and claims so many bytes behind it."""
    return struct.pack("<8sBBHIIIQ16sI", MAGIC, 1, 0, 0, payload_bytes, 100, 1, 0, WRITER, 0)


FRAMES = [frame(number) for number in range(3)]
PIECES = st.sampled_from(
    [
        *(item.data for item in FRAMES),
        FRAMES[0].data[:-5],
        FRAMES[1].data[:20],
        FRAMES[2].data[30:],
        b"junk",
        bytes(60),
        MAGIC,
        MAGIC[:5],
        claiming(1000),
        claiming(MAX_PAYLOAD_BYTES),
        claiming(2**32 - 1),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=8).map(b"".join), st.integers(1, 400), st.integers(0, 10**12))
def test_the_size_of_the_blocks_and_where_they_begin_change_nothing(data: bytes, block_bytes: int, start: int) -> None:
    whole = list(scan(data))
    # when the same bytes are read in blocks, as the rest of a longer source
    items = list(scan_source(io.BytesIO(data).read, offset=start, block_bytes=block_bytes))
    # then frames and damage are the same, and there is nothing between them
    assert [(offset - start, item) for offset, item in items if isinstance(item, Frame)] == [
        (offset, item) for offset, item in whole if isinstance(item, Frame)
    ]
    assert [
        (item.offset - start, item.length, item.reason, item.cut) for _, item in items if isinstance(item, Damage)
    ] == [(item.offset, item.length, item.reason, item.cut) for _, item in whole if isinstance(item, Damage)]
    at = start
    for offset, item in items:
        assert offset == at
        at += item.length if isinstance(item, Damage) else len(item)
    assert at == start + len(data)


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, max_size=8).map(b"".join), st.data())
def test_a_scan_that_goes_on_behind_any_item_finds_the_rest(data: bytes, draw: st.DataObject) -> None:
    whole = list(scan(data))
    ends = [offset + (item.length if isinstance(item, Damage) else len(item)) for offset, item in whole]
    index = draw.draw(st.integers(0, len(ends)))
    start = ends[index - 1] if index else 0
    file = io.BytesIO(data)
    file.seek(start)
    assert list(scan_source(file.read, offset=start, block_bytes=50)) == whole[index:]


def test_nothing_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert list(scan(b"")) == list(scan_file(tmp_path / "empty")) == []


def test_a_magic_number_in_a_payload_begins_no_frame() -> None:
    # given a frame that holds another one, as a console line that prints a segment would
    inner = frame(7).data.decode("latin-1")
    outer = frame(1, f"{inner} and {MAGIC.decode('latin-1')}")
    assert [item for _, item in scan(outer.data + FRAMES[2].data)] == [outer, FRAMES[2]]


@pytest.mark.parametrize("claim", [MAX_PAYLOAD_BYTES, 2**32 - 1])
def test_a_huge_claim_costs_nothing_but_itself(claim: int) -> None:
    asked: list[int] = []
    file = io.BytesIO(claiming(claim) + FRAMES[0].data + FRAMES[1].data)

    def read(size: int) -> bytes:
        asked.append(size)
        return file.read(size)

    (_, damage), *rest = scan_source(read, block_bytes=100)
    assert isinstance(damage, Damage) and damage.length == HEADER_BYTES and not damage.cut
    assert [item for _, item in rest] == FRAMES[:2]
    assert max(asked) <= MAX_FRAME_BYTES


def test_a_torn_tail_is_cut_and_damage_in_the_middle_is_not() -> None:
    torn = FRAMES[2].data[:-1]
    (_, middle), *frames, (offset, tail) = scan(b"junk" + FRAMES[0].data + FRAMES[1].data + torn)
    assert [item for _, item in frames] == FRAMES[:2]
    assert isinstance(middle, Damage) and (middle.length, middle.cut, middle.foreign) == (4, False, True)
    assert isinstance(tail, Damage) and (tail.length, tail.cut, tail.foreign) == (len(torn), True, False)
    # when the rest is written, the scan that begins there finds the frame
    assert [item for _, item in scan_source(io.BytesIO(FRAMES[2].data).read, offset=offset)] == [FRAMES[2]]


def test_what_is_appended_while_the_scan_goes_on_is_found(tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(FRAMES[0].data + FRAMES[1].data[:30])
    items = scan_file(path, block_bytes=16)
    assert next(items) == (0, FRAMES[0])
    with path.open("ab") as file:
        file.write(FRAMES[1].data[30:] + FRAMES[2].data)
    assert [item for _, item in items] == FRAMES[1:]


def _read_segments(path: Path) -> list[Frame]:
    return [item for item in read_segments(path.parent.parent) if isinstance(item, Frame)]


def _read_from(path: Path) -> list[Frame]:
    return [item for _, item in frames_from(path, 0)]


def _read_descriptor(path: Path) -> list[Frame]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return list(frames_of_descriptor(descriptor))
    finally:
        os.close(descriptor)


def _read_watched(path: Path) -> list[Frame]:
    place, found = Place(path), []
    os.utime(path, (time.time() - 3600,) * 2)  # old damage does not heal
    while place.taken is None:
        growth = read_growth(place, 0.0)
        found += growth.frames
        place.advance(growth)
    return found


@pytest.mark.parametrize("read", [_read_segments, _read_from, _read_descriptor, _read_watched])
def test_every_reader_passes_long_damage_in_bounded_memory(read: Callable[[Path], list[Frame]], tmp_path: Path) -> None:
    # given 64 MiB of zeros between two frames, in a file that takes no room on the disk
    first, second = frames_of(1)
    folder = write_folder(tmp_path / "run", 1, [first])
    (path,) = (folder / "segments").iterdir()
    with path.open("r+b") as file:
        file.seek(64 * MIB)
        file.write(second.data + second.data[:10])
    # when
    tracemalloc.start()
    try:
        found = read(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # then
    assert found == [first, second]
    assert peak_bytes < 48 * MIB


def test_salvage_and_import_tell_of_the_same_bytes(tmp_path: Path) -> None:
    first, second = frames_of(1)
    folder = write_folder(tmp_path / "run", 1, [first])
    (path,) = (folder / "segments").iterdir()
    path.write_bytes(first.data + b"junk" + claiming(1000) + second.data + second.data[:10])
    told = [item for item in read_segments(folder) if isinstance(item, SegmentDamage)]
    assert [item.damage.length for item in told] == [4, HEADER_BYTES, 10]
    assert salvage(folder, tmp_path / "out").damage == told
