"""User properties: the many forms in which they may be given. Pure functions.

All of these set the property "backbone":

    {"name": "backbone", "value": "great", "description": "network type"}
    [{"name": "backbone", "value": "great"}, ...]
    {"backbone": "great"}, {"backbone": {"value": "great", "description": "network type"}}
    backbone="great", backbone={"value": "great"}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from telemetry.errors import ConfigurationError
from telemetry.events import clean_name
from telemetry.record import Section
from telemetry.sdk.parameters.parameters import parameter_entry, type_word
from telemetry.shapes import text
from telemetry.values import ValueEntry, excerpt, value_of

__all__ = ["names_of", "properties_of", "shown_property"]

# What a dict may have that describes one property.
_FIELDS = {"name", "value", "description", "type", "section"}


def properties_of(given: Iterable[Any], keywords: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, ValueEntry]:
    """Return the entries of the properties given to a call, by name.

    Args:
        known: section "properties" as it stands: a description that is not given stays.
    Raises:
        ConfigurationError: something that is no property; nothing was changed.
    """
    entries: dict[str, ValueEntry] = {}
    for item in (*given, keywords):
        for name, value in _pairs(item):
            key = _checked_name(name)
            entries[key] = _entry(value, known.get(key))
    return entries


def _pairs(item: Any) -> list[tuple[Any, Any]]:
    """Return (name, value or dict with "value") of each property in one argument."""
    if isinstance(item, Mapping):
        if "name" in item and set(item) <= _FIELDS:
            return [(item["name"], dict(item))]
        return list(item.items())
    if isinstance(item, str) or not isinstance(item, Iterable):
        raise _wrong(item)
    pairs: list[tuple[Any, Any]] = []
    for part in item:
        if isinstance(part, Mapping):
            pairs += _pairs(part)
        elif isinstance(part, (tuple, list)) and len(part) == 2:
            pairs.append((part[0], part[1]))
        else:
            raise _wrong(part)
    return pairs


def _entry(value: Any, known: Any) -> ValueEntry:
    if isinstance(value, Mapping) and set(value) <= _FIELDS and set(value) & (_FIELDS - {"name", "section"}):
        if "value" not in value and isinstance(known, Mapping):
            value = {**value, "value": value_of(known)}
        description = value.get("description")
        description = None if description is None else str(description)
        return parameter_entry(value.get("value"), known, description, type_word(value.get("type")))
    return parameter_entry(value, known)


def names_of(given: Iterable[Any]) -> list[str]:
    """Return the names of the properties to delete: as names, as dicts with a "name", as pairs ("properties", name).

    Raises:
        ConfigurationError: something that names no property.
    """
    names: list[str] = []
    for item in given:
        if isinstance(item, str):
            names.append(_checked_name(item))
        elif isinstance(item, Mapping):
            names += [_checked_name(item["name"])] if "name" in item and set(item) <= _FIELDS else list(item)
        elif isinstance(item, (tuple, list)) and len(item) == 2 and item[0] == Section.PROPERTIES:
            names.append(_checked_name(item[1]))
        elif isinstance(item, Iterable):
            names += names_of([_checked_part(part) for part in item])
        else:
            raise _wrong(item)
    return names


def _checked_part(part: Any) -> Any:
    # A list of names may be given as one argument, but not as a part of another one.
    if isinstance(part, (str, Mapping)) or (
        isinstance(part, (tuple, list)) and len(part) == 2 and part[0] == Section.PROPERTIES
    ):
        return part
    raise _wrong(part)


def shown_property(name: str, kept: Any) -> dict[str, Any]:
    """Return a property as `get_user_properties` gives it."""
    fields = kept if isinstance(kept, Mapping) else {}
    return {
        "section": Section.PROPERTIES,
        "name": name,
        "value": value_of(kept),
        "description": text(fields.get("description")),
        "type": text(fields.get("type")),
    }


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"a user property needs a name, which {excerpt(name)} is not. Nothing was changed")
    return clean_name(name.removeprefix(f"{Section.PROPERTIES}/"))


def _wrong(item: Any) -> ConfigurationError:
    return ConfigurationError(
        f"{excerpt(item)} is no user property; give a dict with name and value, a list of these, or name=value. "
        "Nothing was changed"
    )
