"""The contract of whoever keeps the bytes of blobs: see telemetry/server/store/seams.py."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from telemetry.server.store import Part, WrongOffset
from telemetry.server.store.blob_files import BlobFiles
from telemetry.server.store.seams import Blobs

TASK, OTHER = "a" * 32, "b" * 32
DATA = b"the bytes of a model" * 1000

# Another one is a line more: it opens what a folder, or an account, has.
KEEPERS: dict[str, Callable[[Path], Blobs]] = {"files": BlobFiles}


@pytest.fixture(params=KEEPERS)
def open_blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Blobs]:
    return lambda: KEEPERS[request.param](tmp_path)


@pytest.fixture
def blobs(open_blobs: Callable[[], Blobs]) -> Blobs:
    return open_blobs()


def part_of(data: bytes, task_id: str = TASK) -> Part:
    return Part(task_id, hashlib.sha256(data).hexdigest(), len(data))


def keep(blobs: Blobs, data: bytes) -> str:
    part = part_of(data)
    blobs.append(part, 0, data)
    path = blobs.check(part)
    assert path is not None
    blobs.take(path, part.sha256)
    return part.sha256


class TestBlobs:
    def test_a_blob_that_was_taken_is_there_also_after_a_start(
        self, blobs: Blobs, open_blobs: Callable[[], Blobs]
    ) -> None:
        sha256 = keep(blobs, DATA)
        for state in (blobs, open_blobs()):
            assert state.size(sha256) == len(DATA)
            assert state.path(sha256).read_bytes() == DATA
            assert [name for name, _ in state.names()] == [sha256]
        assert blobs.arrived(TASK, sha256) == (0, 0)

    def test_a_part_is_gone_on_with_from_where_it_ends_also_after_a_start(
        self, blobs: Blobs, open_blobs: Callable[[], Blobs]
    ) -> None:
        part = part_of(DATA)
        assert blobs.arrived(TASK, part.sha256) == (0, 0)
        assert blobs.append(part, 0, DATA[:1000]) == 1000
        assert blobs.append(part, 1000, DATA[1000:5000]) == 5000
        again = open_blobs()
        assert again.arrived(TASK, part.sha256) == (5000, len(DATA))
        assert again.size(part.sha256) is None
        assert again.append(part, 5000, DATA[5000:]) == len(DATA)
        path = again.check(part)
        assert path is not None
        assert path.read_bytes() == DATA

    def test_a_part_that_ends_elsewhere_is_left_alone(self, blobs: Blobs) -> None:
        part = part_of(DATA)
        blobs.append(part, 0, DATA[:10])
        for offset in (0, 9, 11):
            with pytest.raises(WrongOffset) as caught:
                blobs.append(part, offset, b"x")
            assert caught.value.offset == 10
        assert blobs.arrived(TASK, part.sha256) == (10, len(DATA))

    def test_a_part_whose_bytes_are_others_is_thrown_away(self, blobs: Blobs) -> None:
        part = part_of(DATA)
        blobs.append(part, 0, DATA[::-1])
        assert blobs.check(part) is None
        assert blobs.arrived(TASK, part.sha256) == (0, 0)
        assert blobs.size(part.sha256) is None

    def test_a_tasks_part_is_no_other_tasks(self, blobs: Blobs) -> None:
        mine, others = part_of(DATA), part_of(DATA, OTHER)
        blobs.append(mine, 0, DATA[:7])
        blobs.append(others, 0, b"wrong")
        blobs.forget(others)
        blobs.forget(others)
        assert blobs.arrived(OTHER, mine.sha256) == (0, 0)
        assert blobs.arrived(TASK, mine.sha256) == (7, len(DATA))

    def test_a_blob_is_removed_alone_and_may_be_removed_twice(self, blobs: Blobs) -> None:
        first, second = keep(blobs, DATA), keep(blobs, b"another")
        for _ in range(2):
            blobs.remove(first)
        assert blobs.size(first) is None
        assert [name for name, _ in blobs.names()] == [second]

    def test_a_part_that_is_young_is_no_stale_one(self, blobs: Blobs) -> None:
        blobs.append(part_of(DATA), 0, DATA[:7])
        assert blobs.remove_stale_parts() == 0
        assert blobs.room_for(1)
