"""What the contract's tests share: reading back what a sink has kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from telemetry.journal import read_segments
from telemetry.testing.contract import Point
from telemetry.wire import Frame, decode


def points_of(frames: Sequence[Frame]) -> Iterator[Point]:
    """The points of frames of which some may have come twice."""
    unique = {(frame.writer_id, frame.sequence): frame for frame in frames}
    for frame in unique.values():
        columns = decode(frame).columns
        for index, iteration, value in zip(columns.series_index, columns.iterations, columns.values, strict=True):
            yield columns.series[index].title, columns.series[index].series, iteration, value


def frames_of_folders(folder: Path) -> list[Frame]:
    sessions = [path.parent for path in folder.glob("*/session.json")]
    return [item for session in sessions for item in read_segments(session) if isinstance(item, Frame)]


def read_sessions(folder: Path) -> Iterator[Point]:
    return points_of(frames_of_folders(folder))
