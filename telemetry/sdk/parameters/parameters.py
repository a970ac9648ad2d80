"""Parameters by name: "Section/name", flat in the record, nested for whoever asks. Pure functions.

In the record's section "parameters" the key is the full name, and the value an entry (see values.py). Names of the
section "properties" are the user properties', which have a section of their own in the record: whoever copies
`get_parameters()` of one task into another brings them along where they belong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from telemetry.errors import ConfigurationError
from telemetry.events import clean_name
from telemetry.process.interrupts import is_interrupt
from telemetry.record import Section
from telemetry.sdk.parameters.attributes import group_of
from telemetry.shapes import text
from telemetry.values import ValueEntry, entry, excerpt, text_of, value_of

__all__ = [
    "DEFAULT_SECTION",
    "Changes",
    "Names",
    "changes_of",
    "children_of",
    "flatten",
    "full_name",
    "merged",
    "nested",
    "parameter_entry",
    "place_of",
    "shown",
    "type_word",
    "word_of",
]

# Where a name without a section belongs.
DEFAULT_SECTION = "General"


# Dicts inside each other whose keys become names; what lies deeper is one value.
_MAX_LEVELS = 32

# Full name -> value.
Names: TypeAlias = dict[str, Any]

# The record's section -> key -> entry.
Changes: TypeAlias = dict[str, dict[str, ValueEntry]]


def full_name(name: Any) -> str:
    """Return "Section/name"; without a section it is General's.

    Raises:
        ConfigurationError: the name is empty.
    """
    text = word_of(name)
    section, slash, rest = text.partition("/")
    if slash and section and rest:
        return clean_name(text)
    if not text.strip("/"):
        raise ConfigurationError(f"a parameter needs a name, and {excerpt(name)} has none. Nothing was changed")
    return clean_name(f"{DEFAULT_SECTION}/{text.strip('/')}")


def place_of(name: str) -> tuple[str, str]:
    """Return the record's section and key of a parameter's full name."""
    section, _, rest = name.partition("/")
    return (Section.PROPERTIES, rest) if section == Section.PROPERTIES else (Section.PARAMETERS, name)


def merged(call: str, dicts: Iterable[Any], keywords: Mapping[str, Any]) -> dict[Any, Any]:
    """Return the dicts, or iterables of pairs, and the keyword arguments of a call as one dict.

    Raises:
        ConfigurationError: one of them is neither.
    """
    values: dict[Any, Any] = {}
    for number, given in enumerate(dicts, 1):
        try:
            values.update(given)
        except (TypeError, ValueError) as error:
            if is_interrupt(error):
                raise
            raise ConfigurationError(
                f"{call} takes dicts, and its argument {number} is {type(given).__name__}: {excerpt(given)}. "
                "Nothing was changed"
            ) from error
    values.update(keywords)
    return values


def word_of(key: Any) -> str:
    """Return a dict's key as a part of a name."""
    return key if isinstance(key, str) else str(key)


def children_of(value: Any) -> list[tuple[Any, Any]]:
    """Return the (key, value) pairs inside a group of settings; none of anything else, which is a value."""
    group = group_of(value)
    return [] if group is None else list(group.items())


def flatten(values: Any, prefix: str = "") -> Names:
    """Return a nested dict as one of names, "outer/inner". An empty dict inside is a value, and so is a list."""
    return _flat(children_of(values), prefix, (id(values),))


def _flat(pairs: Iterable[tuple[Any, Any]], prefix: str, around: tuple[int, ...]) -> Names:
    flat: Names = {}
    for key, value in pairs:
        name = f"{prefix}/{word_of(key)}" if prefix else word_of(key)
        # What holds itself is a value, too, and kept as text.
        inside = children_of(value) if len(around) <= _MAX_LEVELS and id(value) not in around else []
        if inside:
            flat.update(_flat(inside, name, (*around, id(value))))
        else:
            flat[name] = value
    return flat


def parameter_entry(value: Any, known: Any, description: str | None = None, word: str | None = None) -> ValueEntry:
    """Return the entry of a parameter; without a description it keeps the one that it has.

    Args:
        known: the entry as it stands; None for a new parameter.
        word: the type's word, if it is not the value's own. Text is cast to it, and stays text where it can't be.
    """
    if description is None and isinstance(known, Mapping):
        description = text(known.get("description"))
    return entry(value, description or "", word)


def type_word(value_type: Any) -> str | None:
    """Return the word for a type given as one, or as a word."""
    if value_type is None or isinstance(value_type, str):
        return value_type
    return str(getattr(value_type, "__name__", value_type))


def changes_of(names: Mapping[Any, Any], known: Mapping[str, Mapping[str, Any]]) -> Changes:
    """Return the changes of the record that give parameters their values.

    Args:
        names: name, with or without its section -> value.
        known: the sections "parameters" and "properties" as they stand.
    """
    changes: Changes = {Section.PARAMETERS: {}, Section.PROPERTIES: {}}
    for name, value in names.items():
        section, key = place_of(full_name(name))
        changes[section][key] = parameter_entry(value, known.get(section, {}).get(key))
    return changes


def shown(known: Mapping[str, Mapping[str, Any]], *, cast: bool) -> Names:
    """Return all parameters by full name, and the user properties as "properties/name".

    Args:
        known: the sections "parameters" and "properties" as they stand.
        cast: values of their own type; else their text.
    """
    values = {name: value_of(kept) for name, kept in known.get(Section.PARAMETERS, {}).items()}
    values |= {
        f"{Section.PROPERTIES}/{name}": value_of(kept) for name, kept in known.get(Section.PROPERTIES, {}).items()
    }
    return values if cast else {name: text_of(value) for name, value in values.items()}


def nested(names: Mapping[str, Any]) -> dict[str, Any]:
    """Return flat names as dicts inside each other: {"a/b/c": 1} as {"a": {"b": {"c": 1}}}.

    Where a name is both a value and the beginning of another ("a/b" and "a/b/c"), the longer keeps its slash.
    """
    root: dict[str, Any] = {}
    groups = {id(root)}
    for name in sorted(names):
        at, left = root, name
        while "/" in left:
            head, _, rest = left.partition("/")
            if head not in at:
                at[head] = {}
                groups.add(id(at[head]))
            # A dict that is somebody's value is no group.
            if id(at[head]) not in groups:
                break
            at, left = at[head], rest
        at[left] = names[name]
    return root
