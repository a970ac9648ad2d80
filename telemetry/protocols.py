"""The seams: what a sink and a collector are, and what a collector is handed.

Third parties implement these without importing anything else of ours; entry points in the groups
`telemetry.sinks` and `telemetry.collectors` make them known by URL scheme and by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from telemetry.events import Event, TaskHeader
from telemetry.wire import Frame

__all__ = ["Collector", "Emit", "Sink"]


@runtime_checkable
class Sink(Protocol):
    """Where frames go. All three methods run on the pipeline's event loop, never at the same time.

    The engine owns retrying, the order of frames and the counting; a sink only tries once.

    Attributes:
        name: unique within a pipeline; the ledger's and the log's word for it.
        spool: True if frames must survive in a journal until this sink has them (a network sink);
            False if the sink is itself on this machine.
    """

    name: str
    spool: bool

    async def open(self, task: TaskHeader) -> None:
        """Get ready; raise SinkUnavailable to be opened again later."""

    async def write(self, frames: Sequence[Frame]) -> None:
        """Deliver these frames, which are in order; return only when the far side has them.

        Raises:
            SinkUnavailable: none of them counts as delivered; the same frames come again later.
            SinkRejected: the named frames are refused for good, the others are delivered.
        """

    async def close(self) -> None:
        """Finish: nothing is written after this. Called once, also after a failed open."""


class Emit(Protocol):
    """The queue as a collector sees it: `emit(event)` from any thread; it never raises.

    The hot path may write a scalar straight into `rows`, as one flat
    `(title, series, value, iteration, time_unix_ns)`, and must then call `crossed()` if
    `len(rows) > mark`. `value` must be a float; the rest is checked later, off the caller's thread.
    """

    rows: list[Any]
    mark: int

    def __call__(self, event: Event) -> bool:
        """Offer an event; False if it was dropped (and counted with its reason)."""

    def crossed(self) -> None:
        """Wake the batcher, or apply the full-queue policy."""

    def refuse(self, reason: str, message: str) -> None:
        """Count an event that could not even be built, and say so once per reason."""


@runtime_checkable
class Collector(Protocol):
    """A source of events. `start` and `stop` are called once each, from the thread that owns the task."""

    name: str

    def start(self, emit: Emit) -> None:
        """Begin to emit; must return at once (long work belongs on the collector's own thread)."""

    def stop(self) -> None:
        """Emit what is left and restore whatever was hooked. Nothing is emitted after it returns."""
