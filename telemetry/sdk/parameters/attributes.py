"""What of the program's objects is settings: which attributes `connect` records, and what of them. Pure functions.

Settings are the types of values.py. What has names and values inside is a group of settings, whose parts are names,
"opt/lr": dicts, dataclasses, namespaces, classes of attrs and pydantic, ConfigDict; and a plain object of the program
all of whose public attributes are settings. Models, data and connections are none.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from telemetry.values import fields_of, is_simple

__all__ = ["attributes_of", "class_attributes_of", "group_of", "unrecorded_in"]

# Objects inside each other; a working object knows others, and these know it.
_MAX_LEVELS = 16

# Who has these works, or holds data: a layer, a loader, an array.
_WORKERS = ("__call__", "__iter__", "__getitem__", "dtype")


def group_of(value: Any) -> dict[Any, Any] | None:
    """Return the names and values inside of a group of settings; None of anything else, which is a value."""
    fields = fields_of(value)
    return _plain_object(value, _MAX_LEVELS) if fields is None else fields


def attributes_of(thing: Any) -> dict[str, Any]:
    """Return an object's public attributes that are settings and no working objects; those of its class are not its."""
    return _settings(_own_attributes(thing))


def class_attributes_of(kind: type) -> dict[str, Any]:
    """Return a class's public attributes, its bases' included, that are settings; of classes inside it theirs."""
    values: dict[str, Any] = {}
    for owner in reversed(kind.__mro__[:-1]):
        values.update(vars(owner))
    for name, value in _public(values).items():
        if isinstance(value, type) and value.__qualname__ == f"{kind.__qualname__}.{name}":
            values[name] = class_attributes_of(value)
    return _settings(values)


def unrecorded_in(thing: Any) -> list[str]:
    """Return what of an object may be meant as settings and is not recorded: "name (type)"."""
    unrecorded: list[str] = []
    _settings(_own_attributes(thing), unrecorded)
    return unrecorded


def _own_attributes(thing: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for owner in type(thing).__mro__:
        slots = owner.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, name):
                values[name] = getattr(thing, name)
    values.pop("__dict__", None)
    values.update(getattr(thing, "__dict__", {}))
    # Where it keeps them is its own affair.
    values.update(fields_of(thing) or {})
    return values


def _public(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: value for name, value in list(values.items()) if isinstance(name, str) and not name.startswith("_")}


def _settings(
    values: Mapping[Any, Any], unrecorded: list[str] | None = None, path: str = "", around: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Return what of these values is settings; what is none costs itself alone, and what holds itself is none."""
    kept: dict[str, Any] = {}
    for name, value in _public(values).items():
        if is_simple(value) or _plain_object(value, _MAX_LEVELS) is not None:
            kept[name] = value
            continue
        inside = fields_of(value)
        if inside is not None and len(around) < _MAX_LEVELS and id(value) not in around:
            if part := _settings(inside, unrecorded, f"{path}{name}/", (*around, id(value))):
                kept[name] = part
        elif unrecorded is not None and _may_be_meant(value):
            unrecorded.append(f"{path}{name} ({type(value).__name__})")
    return kept


def _plain_object(value: Any, levels: int) -> dict[str, Any] | None:
    """Return the attributes of an object of the program that is nothing but settings; None of any other."""
    kind = type(value)
    if not levels or _is_standard(kind) or _is_worker(kind) or is_simple(value):
        return None
    own = _public(_own_attributes(value))
    if all(is_simple(item) or _plain_object(item, levels - 1) is not None for item in own.values()):
        return own or None
    return None


def _may_be_meant(value: Any) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return True
    kind = type(value)
    return not (_is_standard(kind) or _is_worker(kind))


def _is_standard(kind: type) -> bool:
    """Say whether a class is Python's own: a lock, a logger, a function, a module."""
    return kind.__module__.partition(".")[0] in sys.stdlib_module_names


def _is_worker(kind: type) -> bool:
    return issubclass(kind, BaseException) or any(name in vars(base) for base in kind.__mro__ for name in _WORKERS)
