"""Connected objects: the program's own dicts, objects and classes, whose values the record follows.

A dict comes back as a `ConnectedDict`, which writes each change at once. Everything else (an object, a class, a list
inside a dict, the dict that was connected when it is changed itself) is looked at again at every flush, at the end,
before parameters are read, and every two seconds.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Protocol

from telemetry.collectors.post_import import PostImport
from telemetry.process import lifecycle
from telemetry.process.interrupts import is_interrupt
from telemetry.process.threads import start_daemon
from telemetry.record import Section
from telemetry.sdk.parameters.connected_dict import ConnectedDict, Follower
from telemetry.sdk.parameters.connected_types import watch_libraries
from telemetry.sdk.parameters.parameters import (
    DEFAULT_SECTION,
    children_of,
    flatten,
    full_name,
    parameter_entry,
    place_of,
    word_of,
)
from telemetry.sdk.record.record import Record
from telemetry.values import ValueEntry, cast_like, value_of

__all__ = ["Connected", "ConnectedSource", "ParameterSource"]

log = logging.getLogger(__name__)

# Between two looks at what changes without a call, in seconds. 20 values take 0.1 ms.
LOOK_INTERVAL_S = 2.0

# Section of the record -> key -> entry: what somebody has changed in a task that runs on other settings than its own.
Overrides = Mapping[str, Mapping[str, Any]]


class ConnectedSource(Protocol):
    """Something that is connected, and what of it the record has."""

    def sync(self, names: Iterable[str] | None = None) -> None:
        """Write what has changed, of all or of these outermost names."""


class Connected:
    """What is connected to one task. Safe from any thread.

    Args:
        record: takes the changes.
        watch: look again by itself, on a thread; only for a task of this process.

    Attributes:
        overrides: values that the program is to take instead of its own; None where it runs on its own.
        ended: the task takes no more changes.
    """

    def __init__(self, record: Record, *, watch: bool) -> None:
        self.record = record
        self.overrides: Overrides | None = None
        self.ended = False
        self._watches = watch
        self._sources: list[ConnectedSource] = []
        self._owner_pid = os.getpid()
        self._stopped = threading.Event()
        self._watching = False
        self._libraries: PostImport | None = None
        # Changes that came while another thread was looking: it writes them, so that nobody waits for its look.
        self._waiting: deque[tuple[ConnectedSource, list[str]]] = deque()
        self.reset_after_fork()
        lifecycle.watch_forks(self)

    def reset_after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        # Taken again by the same thread: a signal may end the task in the middle of a change.
        self.lock = threading.RLock()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Hold the lock, and afterwards write what others have changed meanwhile."""
        with self.lock:
            yield
        self._write_waiting()

    def write(self, source: ConnectedSource, names: list[str]) -> None:
        """Write a source's values of these outermost names: at once, or as soon as a look that is under way is over.

        Never waits for another thread.
        """
        self._waiting.append((source, names))
        self._write_waiting()

    def _write_waiting(self) -> None:
        # Asked again after each release: what was added while the lock was held is found by its holder or by whoever
        # added it, whichever comes second.
        while self._waiting and self.lock.acquire(blocking=False):
            try:
                # What was changed many times meanwhile is written once, as it is now.
                changed: dict[ConnectedSource, dict[str, None]] = {}
                while self._waiting:
                    source, names = self._waiting.popleft()
                    changed.setdefault(source, {}).update(dict.fromkeys(names))
                for source, chosen in changed.items():
                    source.sync(chosen)
            finally:
                self.lock.release()

    def add(self, source: ConnectedSource, root: Any = None) -> None:
        """Write a source's values, and look at it from now on.

        Args:
            root: a connected dict that is to tell the source of changes.
        """
        with self.looking():
            source.sync()
            self._sources.append(source)
            if isinstance(root, ConnectedDict) and isinstance(source, Follower):
                root.connect(source)
                if self._watches and self._libraries is None:
                    self._libraries = watch_libraries()
            if self._watches and not self._watching:
                # Without a thread what changes is written at the end; the next one that is connected tries again.
                self._watching = start_daemon(self._watch, "telemetry-connected") is not None

    def settle(self) -> None:
        """Write what has changed since. A forked child's copies are its own affair."""
        if os.getpid() != self._owner_pid or not self._sources or self.ended:
            return
        with self.looking():
            for source in self._sources:
                try:
                    source.sync()
                except Exception as error:
                    if is_interrupt(error):
                        raise
                    log.debug("a connected object could not be read", exc_info=True)

    @property
    def ending(self) -> bool:
        """True from the last look on."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Write what has changed, and look no more: what the program does with its objects now is its own affair."""
        self._stopped.set()
        self.settle()
        self.ended = True
        if self._libraries is not None:
            self._libraries.remove()

    def override_of(self, section: str, key: str) -> Any:
        """Return the entry that somebody has set for this run; None if there is none."""
        return (self.overrides or {}).get(section, {}).get(key)

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_INTERVAL_S):
            self.settle()


class ParameterSource:
    """A part of the parameters that follows an object of the program.

    Args:
        thing: a mapping, or whatever `read` reads.
        read: gives the values, nested, by outermost name.
        place: the section, or "section/prefix".
    """

    def __init__(
        self, connected: Connected, thing: Any, read: Callable[[], Mapping[Any, Any]], place: str | None
    ) -> None:
        self._connected = connected
        self._thing = thing
        self._read = read
        self._prefix = (place or DEFAULT_SECTION).strip("/") or DEFAULT_SECTION
        # Outermost name -> the record's key -> entry, as last written, and the value that they are of.
        self._written: dict[str, dict[str, ValueEntry]] = {}
        self._seen: dict[str, Any] = {}
        # The same for the values inside of others, by the record's key.
        self._seen_inside: dict[str, Any] = {}

    def write(self, names: list[str]) -> None:
        """See connected_dict.Follower."""
        self._connected.write(self, names)

    def sync(self, names: Iterable[str] | None = None) -> None:
        """See ConnectedSource."""
        if self._connected.ended:
            return
        with self._connected.lock:
            if names is None and isinstance(self._thing, ConnectedDict):
                self._thing.follow_origin()
            values = self._values(names)
            looked_at = {*values, *self._written} if names is None else set(names)
            # What is the same object and cannot have changed costs no second look: most of a large configuration.
            looked_at = {
                name for name in looked_at if name not in values or not _is_same(self._seen, name, values[name])
            }
            changes: dict[str, ValueEntry | None] = {}
            seen_inside: dict[str, Any] = {}
            entries = {
                name: self._entries(name, values[name], seen_inside) for name in sorted(looked_at & values.keys())
            }
            for name in sorted(looked_at):
                changes |= _difference(self._written.get(name, {}), entries.get(name, {}))
            if changes:
                self._write(changes)
            # Not before it is written: what could not be sent is sent with the next change.
            for name in looked_at - entries.keys():
                self._written.pop(name, None)
                self._seen.pop(name, None)
            self._written |= entries
            self._seen |= {name: values[name] for name in entries}
            self._seen_inside |= seen_inside

    def _values(self, names: Iterable[str] | None) -> dict[str, Any]:
        """Return the values by outermost name; of a connected dict at least those of `names`."""
        values = self._read()
        if names is not None and isinstance(values, ConnectedDict):
            chosen = {name: values[name] for name in names if name in values}
            if len(chosen) == len(set(names)):
                return chosen
        return {word_of(key): value for key, value in list(values.items())}

    def take_overrides(self) -> None:
        """Give the object the values that somebody has set for this run, each as the type of the object's own."""
        with self._connected.lock:
            taken: set[str] = set()
            values = self._read()
            # A mapping gives itself; of an object's attributes a dict was made.
            self._override(self._thing, values, "", taken)
            for outer, value in self._read().items():
                entries = self._entries(word_of(outer), value, {})
                kept = {key: entry for key, entry in entries.items() if key in taken}
                if kept:
                    self._written[word_of(outer)] = kept

    def _override(self, owner: Any, values: Any, prefix: str, taken: set[str]) -> None:
        for key, value in children_of(values):
            name = f"{prefix}/{word_of(key)}" if prefix else word_of(key)
            if children_of(value):
                inner = owner[key] if isinstance(owner, Mapping) else getattr(owner, key)
                self._override(inner, value, name, taken)
                continue
            full = full_name(f"{self._prefix}/{name}")
            kept = self._connected.override_of(*place_of(full))
            if kept is None:
                continue
            try:
                new = cast_like(value_of(kept), value)
            except ValueError as error:
                if is_interrupt(error):
                    raise
                log.warning("parameter %s: %s; the program's own value %r is kept", full, error, value)
                continue
            try:
                if isinstance(owner, MutableMapping):
                    owner[key] = new
                else:
                    setattr(owner, key, new)
            except (AttributeError, TypeError, ValueError) as error:  # it is frozen, or checks what it takes
                if is_interrupt(error):
                    raise
                log.warning("parameter %s: %s; the program's own value %r is kept", full, error, value)
                continue
            taken.add(full)

    def _entries(self, name: str, value: Any, seen_inside: dict[str, Any]) -> dict[str, ValueEntry]:
        """Return the entries of an outermost name, and put what they are of into `seen_inside`."""
        written = self._written.get(name, {})
        entries = {}
        for part, item in flatten({name: value}).items():
            full = full_name(f"{self._prefix}/{part}")
            known = written.get(full)
            if known is None:
                known = self._connected.record.own.value(Section.PARAMETERS, full)
            elif _is_same(self._seen_inside, full, item):
                entries[full] = known
                continue
            entries[full] = parameter_entry(item, known)
            seen_inside[full] = item
        for gone in written.keys() - entries.keys():
            self._seen_inside.pop(gone, None)
        return entries

    def _write(self, changes: Mapping[str, ValueEntry | None]) -> None:
        sections: dict[str, dict[str, Any]] = {}
        for name, entry in changes.items():
            section, key = place_of(name)
            sections.setdefault(section, {})[key] = entry
        self._connected.record.change_sections(sections)


def _difference(old: Mapping[str, ValueEntry], new: Mapping[str, ValueEntry]) -> dict[str, ValueEntry | None]:
    changes: dict[str, ValueEntry | None] = {name: None for name in old if name not in new}
    for name, entry in new.items():
        known = old.get(name)
        # By text: True is equal to 1, and 0.0 to -0.0.
        if known is not entry and (known is None or repr(known) != repr(entry)):
            changes[name] = entry
    return changes


# What cannot change in place.
_CONSTANTS = frozenset({type(None), bool, int, float, str})


def _is_same(seen: Mapping[str, Any], name: str, value: Any) -> bool:
    """Say whether a value is the very one that was seen under a name, and of a type that never changes."""
    return type(value) in _CONSTANTS and name in seen and seen[name] is value
