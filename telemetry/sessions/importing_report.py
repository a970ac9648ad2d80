"""What became of the sources of an import, each and all together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from telemetry.errors import SinkUnavailable
from telemetry.journal import SegmentDamage
from telemetry.sessions.sources import Missing, Session, SessionSource
from telemetry.wire import Frame

__all__ = ["ImportOutcome", "ImportReport"]

# Of each kind and source; a source with a thousand faults says the same a thousand times.
LISTED_FAULTS = 5


@dataclass(slots=True)
class ImportOutcome:
    """What became of one source.

    Attributes:
        task_id, label: "" until it could be opened; label is "project/name".
        skipped: it turned out to be somebody else's zip in a folder of ours, or one that was never written.
        cut: segments that end inside a frame, as a kill or a copy of a growing session leaves them. All frames
            before are there, so this is no failure.
        error: why it could not be read or sent to its end; "" if it was.
        session: as it was opened; None before, and if it could not be.
        blobs: how many of it were sent, or found to be there.
        damaged_blobs: why, by sha256.
        gone: of a spool: how many frames up to its last one are neither in it nor on the server, by writer.
        lost_blobs: in words, those that the task's record names and the server has not.
    """

    source: SessionSource
    task_id: str = ""
    label: str = ""
    frames: int = 0
    events: int = 0
    skipped: bool = False
    refused: list[str] = field(default_factory=list)
    damage: list[SegmentDamage] = field(default_factory=list)
    cut: list[SegmentDamage] = field(default_factory=list)
    error: str = ""
    session: Session | None = None
    blobs: int = 0
    damaged_blobs: dict[str, str] = field(default_factory=dict)
    lost_blobs: list[str] = field(default_factory=list)
    gone: dict[bytes, int] = field(default_factory=dict)
    _counted_bytes: int = 0
    # Of a spool: by writer the last frame that was sent, and how many were refused.
    _last: dict[bytes, Frame] = field(default_factory=dict)
    _refusals: Counter[bytes] = field(default_factory=Counter)

    @property
    def complete(self) -> bool:
        """True if everything that the source holds, and names, is on the server."""
        return not (self.error or self.refused or self.damage or self.lost_blobs)

    @property
    def frame_bytes(self) -> int:
        """What of the source's size is frames."""
        blobs = () if self.session is None else self.session.blobs
        return max(0, self.source.size_bytes - sum(blob.size_bytes for blob in blobs))

    def losses(self) -> list[str]:
        """Return in words what nobody has any more: it could not be sent, and so is no failure of sending."""
        return [
            f"{count:,} frames of writer {writer.hex()} are nowhere: they are not here any more, nor on the server "
            "(was it restored from a backup?)"
            for writer, count in self.gone.items()
        ]

    def faults(self) -> list[str]:
        """Return what there is to list, without the path."""
        lines = [self.error] if self.error else []
        kinds = (("skipped", self.damage), ("refused", self.refused), ("missing", self.lost_blobs))
        for what, items in kinds:
            lines += [f"{what}: {item}" for item in items[:LISTED_FAULTS]]
            if len(items) > LISTED_FAULTS:
                lines.append(f"{what}: {len(items) - LISTED_FAULTS:,} more like these")
        return lines


@dataclass(slots=True)
class ImportReport:
    """What became of all sources, in the order in which they were found."""

    outcomes: list[ImportOutcome] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    stopped_by: SinkUnavailable | None = None

    @property
    def complete(self) -> bool:
        return not self.missing and self.stopped_by is None and all(item.complete for item in self.outcomes)

    @property
    def failed(self) -> list[ImportOutcome]:
        return [item for item in self.outcomes if not item.complete]
