"""Blocks: the short runs of many series of a task in one row of the store, each found by an index.

A block holds runs, ordered by series and then by position. A run is some points of one series in the order they
arrived; neighbours share a pack (chunks.pack), so that short runs pack as well as long ones and a reader of one series
unpacks little. Where a chunk of a series lies between two of its runs, they stay two runs with a position each.

    index:  zlib of: version u8 (1), runs u32, packs u32; then columns, little-endian:
            series u32[runs], counts u32[runs], positions i64[runs], runs of each pack u32[packs], its bytes u32[packs]
    data:   the packs, one after the other

Everything here is pure and safe from any thread; zlib lets the GIL go.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from telemetry.server.store.chunks import IntArray, Points, concat_points, pack, unpack

__all__ = ["PARTITION_SERIES", "BlockIndex", "PackedBlock", "PlacedRun", "make_block", "partition_of", "read_index"]

# A block holds series of one partition only, so a reader of one series looks at the blocks of one.
PARTITION_SERIES = 512
# A pack is closed at so many points: large enough to pack well, some 0.1 ms to unpack.
_PACK_POINTS = 2048
_HEAD = struct.Struct("<BII")
_VERSION = 1


def partition_of(series: int) -> int:
    """Return the partition of a series by its id."""
    return series // PARTITION_SERIES


@dataclass(frozen=True, slots=True)
class PlacedRun:
    """Points of a series, and the position in the log of the first frame that they came in."""

    series: int
    position: int
    points: Points


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """A block's two columns, and how many points and runs are in it."""

    index: bytes
    data: bytes
    points: int
    runs: int


@dataclass(frozen=True, slots=True)
class BlockIndex:
    """What a block holds, and where.

    Attributes:
        series, counts, positions: int64[runs].
        packs: int64[runs], the pack that each run is in.
        starts: int64[runs], the row of its pack at which it begins.
        offsets: int64[packs + 1], where in the data each pack begins, and where the last one ends.
    """

    series: IntArray
    counts: IntArray
    positions: IntArray
    packs: IntArray
    starts: IntArray
    offsets: IntArray

    def find(self, wanted: Collection[int] | None) -> npt.NDArray[np.intp]:
        """Return the runs of these series, of all for None."""
        if wanted is None:
            return np.arange(len(self.series))
        return np.flatnonzero(np.isin(self.series, np.fromiter(wanted, np.int64, len(wanted))))

    def span(self, packs: npt.NDArray[np.int64]) -> tuple[int, int]:
        """Return the bytes of the data that hold these packs: from the first of them to the end of the last."""
        return int(self.offsets[packs.min()]), int(self.offsets[packs.max() + 1])

    def runs(self, which: npt.NDArray[np.intp], data: bytes, at: int = 0) -> Iterator[PlacedRun]:
        """Yield some of the runs. `data`: of the block from byte `at` on, as far as these need it."""
        opened = -1
        points = concat_points([])
        for run in which.tolist():
            number = int(self.packs[run])
            if number != opened:
                points = unpack(data[int(self.offsets[number]) - at : int(self.offsets[number + 1]) - at])
                opened = number
            start = int(self.starts[run])
            part = points.take(slice(start, start + int(self.counts[run])))
            yield PlacedRun(int(self.series[run]), int(self.positions[run]), part)


def make_block(runs: Sequence[PlacedRun], level: int = 1) -> PackedBlock:
    """Pack runs, in order of series and position. `level`: zlib's."""
    packs: list[bytes] = []
    runs_of_pack: list[int] = []
    waiting: list[Points] = []
    size = total = 0
    for number, run in enumerate(runs):
        waiting.append(run.points)
        size += len(run.points)
        if size >= _PACK_POINTS or number + 1 == len(runs):
            packs.append(pack(concat_points(waiting), level))
            runs_of_pack.append(len(waiting))
            total += size
            waiting, size = [], 0
    index = b"".join(
        (
            _HEAD.pack(_VERSION, len(runs), len(packs)),
            np.array([run.series for run in runs], "<u4").tobytes(),
            np.array([len(run.points) for run in runs], "<u4").tobytes(),
            np.array([run.position for run in runs], "<i8").tobytes(),
            np.array(runs_of_pack, "<u4").tobytes(),
            np.array([len(data) for data in packs], "<u4").tobytes(),
        )
    )
    return PackedBlock(zlib.compress(index, 1), b"".join(packs), total, len(runs))


def read_index(packed: bytes) -> BlockIndex:
    """Return the index of a block.

    Raises:
        ValueError: these bytes were not written by `make_block`.
    """
    try:
        data = zlib.decompress(packed)
        version, runs, packs = _HEAD.unpack_from(data)
    except (zlib.error, struct.error) as error:
        raise ValueError(f"the index of a block cannot be read: {error}") from error
    if version != _VERSION or len(data) != _HEAD.size + 16 * runs + 8 * packs:
        raise ValueError(f"the index of a block of {runs} runs has version {version} and {len(data)} bytes")
    at = _HEAD.size
    columns: list[IntArray] = []
    for kind, count in (("<u4", runs), ("<u4", runs), ("<i8", runs), ("<u4", packs), ("<u4", packs)):
        columns.append(np.frombuffer(data, kind, count, at).astype(np.int64))
        at += np.dtype(kind).itemsize * count
    series, counts, positions, runs_of_pack, pack_bytes = columns
    if int(runs_of_pack.sum()) != runs:
        raise ValueError(f"the packs of a block do not hold its {runs} runs")
    pack_of_run = np.repeat(np.arange(packs), runs_of_pack)
    ends = np.cumsum(counts)
    first_runs = np.cumsum(runs_of_pack) - runs_of_pack
    pack_starts = (ends - counts)[first_runs] if runs else first_runs
    return BlockIndex(
        series,
        counts,
        positions,
        pack_of_run,
        ends - counts - pack_starts[pack_of_run],
        np.concatenate([np.zeros(1, np.int64), np.cumsum(pack_bytes)]),
    )
