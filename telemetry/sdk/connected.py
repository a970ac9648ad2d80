"""Connected objects: the program's own dicts, objects and classes, whose values the record follows.

A dict comes back as a `ConnectedDict`, which writes each change at once. Everything else (an object, a class, a list
inside a dict, the dict that was connected when it is changed itself) is looked at again at every flush, at the end,
before parameters are read, and every two seconds.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Protocol

from telemetry import lifecycle
from telemetry.sdk.connected_dict import ConnectedDict
from telemetry.sdk.parameters import (
    DEFAULT_SECTION,
    PARAMETERS,
    children_of,
    flatten,
    full_name,
    parameter_entry,
    place_of,
    word_of,
)
from telemetry.sdk.record import Record
from telemetry.threads import start_daemon
from telemetry.values import Entry, cast_like, is_simple, value_of

__all__ = ["Connected", "ParameterSource", "Source", "attributes_of", "class_attributes_of"]

log = logging.getLogger(__name__)

# Between two looks at what changes without a call, in seconds. 20 values take 0.1 ms.
LOOK_INTERVAL_S = 2.0

# Section of the record -> key -> entry: what somebody has changed in a task that runs on other settings than its own.
Overrides = Mapping[str, Mapping[str, Any]]


class Source(Protocol):
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
        self._sources: list[Source] = []
        self._owner_pid = os.getpid()
        self._stopped = threading.Event()
        self._watching = False
        self.reset_after_fork()
        lifecycle.watch_forks(self)

    def reset_after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        # Taken again by the same thread: a signal may end the task in the middle of a change.
        self.lock = threading.RLock()

    def add(self, source: Source) -> None:
        """Write a source's values, and look at it from now on."""
        with self.lock:
            source.sync()
            self._sources.append(source)
            if self._watches and not self._watching:
                # Without a thread what changes is written at the end; the next one that is connected tries again.
                self._watching = start_daemon(self._watch, "telemetry-connected") is not None

    def settle(self) -> None:
        """Write what has changed since. A forked child's copies are its own affair."""
        if os.getpid() != self._owner_pid or not self._sources or self.ended:
            return
        with self.lock:
            for source in self._sources:
                try:
                    source.sync()
                except Exception:
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
        # Outermost name -> the record's key -> entry, as last written.
        self._written: dict[str, dict[str, Entry]] = {}

    def sync(self, names: Iterable[str] | None = None) -> None:
        """See Source."""
        if self._connected.ended:
            return
        with self._connected.lock:
            if names is None and isinstance(self._thing, ConnectedDict):
                self._thing.follow_origin()
            values = {word_of(key): value for key, value in list(self._read().items())}
            looked_at = {*values, *self._written} if names is None else set(names)
            known: Mapping[str, Any] = {}
            if not looked_at <= self._written.keys():
                known = self._connected.record.own.section(PARAMETERS)
            changes: dict[str, Entry | None] = {}
            entries = {name: self._entries(name, values[name], known) for name in sorted(looked_at & values.keys())}
            for name in sorted(looked_at):
                changes |= _difference(self._written.get(name, {}), entries.get(name, {}))
            if changes:
                self._write(changes)
            # Not before it is written: what could not be sent is sent with the next change.
            for name in looked_at - entries.keys():
                self._written.pop(name, None)
            self._written |= entries

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
                log.warning("parameter %s: %s; the program's own value %r is kept", full, error, value)
                continue
            taken.add(full)
            if isinstance(owner, MutableMapping):
                owner[key] = new
            else:
                setattr(owner, key, new)

    def _entries(self, name: str, value: Any, known: Mapping[str, Any]) -> dict[str, Entry]:
        written = self._written.get(name, {})
        entries = {}
        for part, item in flatten({name: value}).items():
            full = full_name(f"{self._prefix}/{part}")
            entries[full] = parameter_entry(item, written.get(full, known.get(full)))
        return entries

    def _write(self, changes: Mapping[str, Entry | None]) -> None:
        sections: dict[str, dict[str, Any]] = {}
        for name, entry in changes.items():
            section, key = place_of(name)
            sections.setdefault(section, {})[key] = entry
        self._connected.record.change_sections(sections)


def _difference(old: Mapping[str, Entry], new: Mapping[str, Entry]) -> dict[str, Entry | None]:
    changes: dict[str, Entry | None] = {name: None for name in old if name not in new}
    # By text: True is equal to 1, and 0.0 to -0.0.
    changes |= {name: entry for name, entry in new.items() if name not in old or repr(old[name]) != repr(entry)}
    return changes


def attributes_of(thing: Any) -> dict[str, Any]:
    """Return an object's public attributes that are settings and no working objects; those of its class are not its."""
    values: dict[str, Any] = {}
    for owner in type(thing).__mro__:
        slots = owner.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, name):
                values[name] = getattr(thing, name)
    values.pop("__dict__", None)
    values.update(getattr(thing, "__dict__", {}))
    return _public(values)


def class_attributes_of(kind: type) -> dict[str, Any]:
    """Return a class's public attributes, its bases' included, that are settings."""
    values: dict[str, Any] = {}
    for owner in reversed(kind.__mro__[:-1]):
        values.update(vars(owner))
    return _public(values)


def _public(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in list(values.items())
        if isinstance(name, str) and not name.startswith("_") and is_simple(value)
    }
