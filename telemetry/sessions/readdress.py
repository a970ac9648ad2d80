"""An offline session sent as the continuation of a task that is on the server already.

Each frame is decoded and encoded again for the other task, its iterations moved on. The new writer's id follows from
the old one, the task and the offset, and the sequence numbers stay, so that importing again changes nothing.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace

from telemetry.errors import ConfigurationError, FrameError
from telemetry.events import INT64_MAX, INT64_MIN, Batch, FrameEvent, Media, ModelSaved, Plot, RecordChange
from telemetry.fold import RecordFold, newer_part
from telemetry.record import Section, TaskKey
from telemetry.wire import Frame, decode, encode

__all__ = ["NewAddress", "reset_of"]

# What the previous task is: how and when it began, and what people have called it since.
_OF_THE_PREVIOUS = frozenset(
    {
        *(TaskKey.NAME, TaskKey.PROJECT, TaskKey.TYPE, TaskKey.TAGS, TaskKey.SYSTEM_TAGS, TaskKey.PARENT),
        TaskKey.PUBLISHED,
        *(TaskKey.STARTED, TaskKey.RESET, TaskKey.ATTEMPT, TaskKey.CONTINUED, TaskKey.INITIAL_ITERATION),
    }
)
# In these sections the key is a writer's id.
_BY_WRITER = frozenset({Section.WRITERS, Section.HEARTBEATS})


@dataclass(frozen=True, slots=True)
class NewAddress:
    """Which task a session is sent as.

    Attributes:
        task_id: of a task that is on the server; None for the session's own.
        iteration_offset: added to each iteration of scalars, plots, media and models; resources have none.
    """

    task_id: str | None = None
    iteration_offset: int = 0

    def writer_id(self, writer_id: bytes, task_id: str) -> bytes:
        """Return the writer that stands for one of the session's in a task, 16 bytes."""
        words = b"\0".join((b"telemetry import", writer_id, task_id.encode(), str(self.iteration_offset).encode()))
        return hashlib.sha256(words).digest()[:16]

    def frame(self, frame: Frame, reset_unix_ns: int = 0) -> Frame:
        """Return the frame as one of the previous task.

        Args:
            reset_unix_ns: when the session's task was begun anew; what is older is left behind.
        Raises:
            FrameError: it can't be decoded.
            ConfigurationError: the offset moves an iteration out of the signed 64-bit integers.
        """
        batch = newer_part(decode(frame), reset_unix_ns)
        task_id = self.task_id or batch.task_id
        kept = batch.events if task_id == batch.task_id else [event for event in batch.events if not _is_its_own(event)]
        events = [self._moved(event, task_id) for event in kept]
        columns = batch.columns
        if self.iteration_offset:
            is_scalar = [key.kind == "scalar" for key in columns.series]
            try:
                iterations = array(
                    "q",
                    [
                        iteration + self.iteration_offset if is_scalar[index] else iteration
                        for index, iteration in zip(columns.series_index, columns.iterations, strict=True)
                    ],
                )
            except OverflowError as error:
                raise self._too_far(error) from error
            columns = replace(columns, iterations=iterations)
        moved_batch = Batch(task_id, columns, events, batch.events_logged, batch.rank)
        return encode(moved_batch, writer_id=self.writer_id(frame.writer_id, task_id), sequence=frame.sequence)

    def _moved(self, event: FrameEvent, task_id: str) -> FrameEvent:
        """Return an event as one of that task."""
        if isinstance(event, RecordChange):
            return self._moved_change(event, task_id)
        if isinstance(event, (Plot, Media)):
            return replace(event, iteration=self._iteration(event.iteration))
        if isinstance(event, ModelSaved) and event.iteration is not None:
            return replace(event, iteration=self._iteration(event.iteration))
        return event

    def _moved_change(self, change: RecordChange, task_id: str) -> RecordChange:
        if change.section in _BY_WRITER:
            return replace(change, key=self._writer_key(change.key, task_id))
        value = change.value
        if change.section == Section.OUTPUT_MODELS and isinstance(value, dict) and type(value.get("iteration")) is int:
            return replace(change, value={**value, "iteration": self._iteration(value["iteration"])})
        return change

    def _iteration(self, iteration: int) -> int:
        moved = iteration + self.iteration_offset
        if not INT64_MIN <= moved <= INT64_MAX:
            raise self._too_far(None)
        return moved

    def _writer_key(self, key: str, task_id: str) -> str:
        try:
            return self.writer_id(bytes.fromhex(key), task_id).hex()
        except ValueError as error:
            raise FrameError(f"{key!r:.60} is no writer's id") from error

    def _too_far(self, error: Exception | None) -> ConfigurationError:
        return ConfigurationError(
            f"an iteration moved on by {self.iteration_offset} does not fit a signed 64-bit integer"
            f"{'' if error is None else f' ({error})'}; give a smaller offset"
        )


def reset_of(frames: Iterable[object]) -> int:
    """Return when the task of these frames was begun anew last, Unix ns; 0: never. What is no frame is passed over."""
    fold = RecordFold()
    for frame in frames:
        if not isinstance(frame, Frame):
            continue
        try:
            events = decode(frame).events
        except FrameError:
            continue  # it is named when it is to be sent
        for event in events:
            if isinstance(event, RecordChange) and event.section == Section.TASK and event.key == TaskKey.RESET:
                fold.apply(event, frame.writer_id, frame.sequence)
    return fold.reset_unix_ns


def _is_its_own(event: FrameEvent) -> bool:
    """Say whether this is something that the previous task has of its own."""
    return isinstance(event, RecordChange) and event.section == Section.TASK and event.key in _OF_THE_PREVIOUS
