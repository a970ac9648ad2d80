"""The seams: what a sink and a collector are, what a collector is handed, and what else either may be able to do.

Third parties implement these without importing anything else of ours; entry points in the groups
`telemetry.sinks` and `telemetry.collectors` make them known by URL scheme and by name.

What a sink must have is `Sink`. Each protocol after it is one more ability: a sink that has these members has it, by
whatever class it is made, and who needs it asks `isinstance(sink, Cloneable)`. All of them are optional.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, runtime_checkable

from telemetry.events import Event, TaskHeader
from telemetry.wire import Frame

if TYPE_CHECKING:
    from telemetry.client.types import BlobStatus, WantedBlob

__all__ = [
    "BlobClient",
    "BlobSender",
    "Cloneable",
    "Collector",
    "Emit",
    "Forkable",
    "ForwardsFrames",
    "HasSessionFolder",
    "HasUrl",
    "KeepsSessions",
    "Paced",
    "Sink",
    "StoresBlobs",
    "Syncable",
    "TaskEmit",
    "TellsHeld",
    "TellsLoss",
]


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


# ---- what a sink may be able to do besides -----------------------------------------------------------


@runtime_checkable
class Cloneable(Protocol):
    """A sink that each further process of the task can have one of; without it, they report nothing there."""

    def clone(self) -> Sink:
        """Return an unopened sink with the same name, for the same destination.

        Called in a forked child before its first event, and in each further process of a task; on the thread that
        forks or starts the task. The original may be open, and belongs to a loop that is not there: nothing of it
        may be shared but settings. It must not raise, and must not wait.
        """


@runtime_checkable
class Syncable(Protocol):
    """A sink that writes to this machine's disk, and can say when that holds what it was given."""

    async def sync(self) -> None:
        """Return when everything written so far is on stable storage.

        Called on the pipeline's loop by each `flush`; also of a sink that is not open yet or not any more, which has
        nothing to bring there.

        Raises:
            OSError: the disk refuses; the flush returns False.
        """


@runtime_checkable
class HasUrl(Protocol):
    """A sink with a far side.

    Attributes:
        url: its address. The journal keeps a digest of it, so that what a dead run left is sent where it belongs.
            Read on the pipeline's loop before `open`.
    """

    @property
    def url(self) -> str: ...


@runtime_checkable
class HasSessionFolder(Protocol):
    """A sink that writes a session folder, in which the bytes of artifacts and models can lie beside the frames.

    Attributes:
        session_folder: read on the pipeline's loop, once `open` has returned; None if there is none after all. The
            bytes go into its `blobs/` by threads of the task's.
    """

    @property
    def session_folder(self) -> Path | None: ...


@runtime_checkable
class KeepsSessions(Protocol):
    """A sink whose sessions can be read back on this machine: by the task itself, and by who is told where at its end.

    Attributes:
        zips: True if what is kept is a zip, made at close; False if it is the folder, which a server of this machine
            shows by itself.
    """

    @property
    def zips(self) -> bool: ...

    def places(self, task_id: str) -> list[Path]:
        """Return where a task's session lies, or will; at least one place, the likeliest first.

        Called from any thread, also before `open` and after `close`. It must not raise.
        """


class BlobSender(Protocol):
    """What carries bytes to a sink's far side. It belongs to the event loop that it is first used on."""

    async def send_blob(
        self,
        task_id: str,
        sha256: str,
        file: IO[bytes],
        size_bytes: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> int:
        """Send what the far side does not have of a blob yet; return how many bytes that were.

        Raises:
            ServerError: status 400, 413 or 415 is believed; after every other the same call comes again.
        """


@runtime_checkable
class BlobClient(BlobSender, Protocol):
    """A BlobSender that can be asked what is missing."""

    async def blob_status(self, task_id: str, sha256: str) -> BlobStatus:
        """Return how much of a blob the far side has."""

    async def wanted_blobs(self, task_id: str) -> list[WantedBlob]:
        """Return the blobs that a task's record names and the far side does not have."""

    async def close(self) -> None:
        """Let go of the connections."""


@runtime_checkable
class StoresBlobs(Protocol):
    """A network sink whose far side takes the bytes of artifacts and models. Without it they stay in the spool."""

    def blob_client(self) -> BlobSender:
        """Return a new one for the same destination, not connected yet.

        Called from the uploads' thread, which has an event loop of its own; the sink may be open or not.
        """


@runtime_checkable
class TellsHeld(Protocol):
    """A sink whose far side says what it has. What it had and has lost is then sent again from the journal.

    Attributes:
        held: of the writer of the last write, the frames that the far side has, as inclusive ranges of sequence
            numbers in order; None if it did not say. Read on the pipeline's loop after each write.
    """

    @property
    def held(self) -> list[tuple[int, int]] | None: ...


@runtime_checkable
class Paced(Protocol):
    """A sink whose far side asks it to be written to less often: many others write to it as well.

    Attributes:
        pace_s: how far apart writes should begin, in seconds; 0.0 as often as there is something. Read on the
            pipeline's loop before each write. Frames gather meanwhile; who waits for them (`flush`, `close`), or a
            backlog, does not wait for the pace.
    """

    @property
    def pace_s(self) -> float: ...


@runtime_checkable
class TellsLoss(Protocol):
    """A sink on this machine that notices when what it has written is taken away.

    Attributes:
        on_lost: set before `open`; to be called, on the pipeline's loop, with the number of events that are lost after
            `write` returned. They move from delivered to dropped in the ledger.
    """

    on_lost: Callable[[int], None]


@runtime_checkable
class ForwardsFrames(HasUrl, StoresBlobs, Protocol):
    """A network sink that also takes frames of other tasks and writers: what ended runs have left for the same server.

    Attributes:
        store_id: which store answered last, None if it did not say; what was sent to another one is sent again.
    """

    @property
    def store_id(self) -> str | None: ...

    def clone(self) -> ForwardsFrames:
        """As of Cloneable. What is left is sent by clones, on a loop and thread of their own."""

    def blob_client(self) -> BlobClient:
        """As of StoresBlobs."""

    async def connect(self) -> None:
        """Get ready to send; called in place of `open`."""

    async def send(self, frames: Sequence[Frame]) -> dict[tuple[bytes, int], str]:
        """Deliver frames of any tasks and writers; return why some are refused, by (writer id, sequence number).

        Raises:
            SinkUnavailable: which of them were taken is not known; the same frames come again later.
        """

    async def close(self) -> None:
        """As of Sink."""


# ---- collectors --------------------------------------------------------------------------------------


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


class TaskEmit(Emit, Protocol):
    """What a task's logger reports into: a figure without an iteration belongs to the scalars before it."""

    @property
    def latest_iteration(self) -> int:
        """The iteration of the scalar that was reported last; 0 before the first."""


@runtime_checkable
class Collector(Protocol):
    """A source of events. `start` and `stop` are called once each, from the thread that owns the task."""

    name: str

    def start(self, emit: Emit) -> None:
        """Begin to emit; must return at once (long work belongs on the collector's own thread)."""

    def stop(self) -> None:
        """Emit what is left and restore whatever was hooked. Nothing is emitted after it returns."""


@runtime_checkable
class Forkable(Protocol):
    """What lives on in a forked child; a collector that is none has ended there with its thread."""

    def reset_after_fork(self) -> None:
        """Make locks anew, which a thread that is not there may hold, and forget what is the parent's.

        Called in the child before anything else of ours runs there. It must not raise.
        """
