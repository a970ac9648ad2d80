"""The fold of a task's record: record changes in, in any order, and the record as it stands out.

For each (section, key) the change with the greatest (time, writer, sequence) wins, and one that says None removes the
key. `task/reset_unix_ns` begins the task anew: what is older than it does not count, but for
defaults, whose time is 0 or before.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from telemetry.events import Batch, RecordChange, ScalarColumns
from telemetry.record import Section, TaskKey

__all__ = ["Entry", "RecordDict", "RecordFold", "is_void", "newer_part", "reset_moment"]

# section -> key -> value
RecordDict: TypeAlias = dict[str, dict[str, Any]]


def reset_moment(value: Any, time_unix_ns: int) -> int:
    """Return the moment that a value of TaskKey.RESET stands for, Unix ns; 0 if it is none or after its own change."""
    return value if type(value) is int and 0 < value <= time_unix_ns else 0


def is_void(time_unix_ns: int, reset_unix_ns: int) -> bool:
    """Say whether an event of that time does not count in a task that was begun anew at `reset_unix_ns`."""
    return 0 < time_unix_ns < reset_unix_ns


def newer_part(batch: Batch, reset_unix_ns: int) -> Batch:
    """Return what of a batch counts in a task that was begun anew at `reset_unix_ns`."""
    columns = batch.columns
    kept = [row for row, time_unix_ns in enumerate(columns.times_unix_ns) if not is_void(time_unix_ns, reset_unix_ns)]
    if len(kept) < len(columns):
        columns = ScalarColumns(
            columns.series,
            array("I", [columns.series_index[row] for row in kept]),
            array("q", [columns.iterations[row] for row in kept]),
            array("q", [columns.times_unix_ns[row] for row in kept]),
            array("d", [columns.values[row] for row in kept]),
        )
    events = [event for event in batch.events if not is_void(event.time_unix_ns, reset_unix_ns)]
    return Batch(batch.task_id, columns, events, batch.events_logged, batch.rank)


class Entry(NamedTuple):
    """A key's last change. `writer` and `sequence` settle what happened in the same nanosecond."""

    time_unix_ns: int
    writer: bytes
    sequence: int
    value: Any

    @property
    def order(self) -> tuple[int, bytes, int]:
        """What decides which of two changes is the later one."""
        return self.time_unix_ns, self.writer, self.sequence


class RecordFold:
    """Folds changes in whatever order they come. Not safe from several threads at once, apart from single calls."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, Entry]] = {}

    def apply(self, change: RecordChange, writer: bytes = b"", sequence: int = 0) -> None:
        """Take one change in; of equals the later call wins."""
        self.put(change.section, change.key, Entry(change.time_unix_ns, writer, sequence, change.value))

    def put(self, section: str, key: str, entry: Entry) -> None:
        """Take in a key's entry, if it is not older than the one that is there."""
        keys = self._entries.setdefault(section, {})
        known = keys.get(key)
        if known is None or entry.order >= known.order:
            keys[key] = entry

    def update(self, other: RecordFold) -> None:
        """Take in everything that another fold holds."""
        for section, keys in list(other._entries.items()):
            for key, entry in list(keys.items()):
                self.put(section, key, entry)

    def changes(self) -> list[RecordChange]:
        """Return the last change of each key, removals included, with its time."""
        return [
            RecordChange(entry.time_unix_ns, section, key, entry.value)
            for section, keys in list(self._entries.items())
            for key, entry in list(keys.items())
        ]

    @property
    def reset_unix_ns(self) -> int:
        """The moment before which nothing counts; 0 where the task was never begun anew."""
        entry = self._entries.get(Section.TASK, {}).get(TaskKey.RESET)
        return 0 if entry is None else reset_moment(entry.value, entry.time_unix_ns)

    def section(self, name: str) -> dict[str, Any]:
        """Return a section's keys and values as they stand, by key."""
        return {key: entry.value for key, entry in sorted(self._standing(name), key=lambda item: item[0])}

    def value(self, section: str, key: str) -> Any:
        """Return one key's value as it stands; None if there is none."""
        entry = self._entries.get(section, {}).get(key)
        return None if entry is None or is_void(entry.time_unix_ns, self.reset_unix_ns) else entry.value

    def record(self) -> RecordDict:
        """Return every section that has something in it."""
        found = {name: self.section(name) for name in sorted(self._entries)}
        return {name: section for name, section in found.items() if section}

    def _standing(self, name: str) -> Iterator[tuple[str, Entry]]:
        reset = self.reset_unix_ns
        for key, entry in list(self._entries.get(name, {}).items()):
            if entry.value is not None and not is_void(entry.time_unix_ns, reset):
                yield key, entry
