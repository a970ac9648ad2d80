"""Typed values of parameters and configurations: how they are stored, read back, written as text, and cast.

A value is stored as JSON can carry it (a record travels as msgpack and is served as JSON), together with one word
for its type: 0.5 and "float", [1, 2] and "tuple/int". `load(*store(value))` is equal to `value` and of its type, for
None, bool, int of any size, float (NaN and infinities, too), str, bytes, list, tuple, set, frozenset, dict with any
keys, and the types of `_TEXT_CODECS` (Path, datetime, Decimal, ...), nested as they please.

numpy numbers and arrays, and tensors, become Python's numbers and lists; dataclasses and namespaces become dicts. An
Enum member is kept as its name, "Color.RED". Of anything else the text is kept, and the type's name is the word.

Inside a list or dict, what JSON has not got is a dict with one key that begins with "$": {"$tuple": [1, 2]}.
"""

from __future__ import annotations

import ast
import base64
import binascii
import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from importlib import import_module
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from types import FunctionType, SimpleNamespace
from typing import Any, TypeAlias
from uuid import UUID

from telemetry.errors import ConfigurationError, InvalidEvent
from telemetry.events import INT64_MAX, INT64_MIN, clean_text
from telemetry.process.interrupts import is_interrupt

__all__ = [
    "ValueEntry",
    "cast_like",
    "cast_text",
    "check_depth",
    "entry",
    "excerpt",
    "fields_of",
    "is_simple",
    "load",
    "plain",
    "read_text",
    "store",
    "text_of",
    "value_of",
]

# What the record keeps for a parameter or property: {"value", "type", "description"}.
ValueEntry: TypeAlias = dict[str, Any]

# A record value is at most 64 deep, an entry and the tags around tuples take some of it.
_MAX_DEPTH = 60

# Of an array that is larger, numpy's abbreviated text is kept: it is data, and belongs into an artifact.
_MAX_ARRAY_ITEMS = 10_000

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0", "", "none", "null"}

# " at 0x7f3a…" would make the same parameter of two runs look different.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def _bool_of(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    return float(word) != 0


def _bytes_of(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _microseconds(value: timedelta) -> str:
    return str(value // timedelta(microseconds=1))


# Types that are stored as text: the word, from the value to the text, and back. Subclasses come first.
_TEXT_CODECS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "bytes": (bytes, _base64, _bytes_of),
    "Path": (Path, str, Path),
    "PurePosixPath": (PurePosixPath, str, PurePosixPath),
    "PureWindowsPath": (PureWindowsPath, str, PureWindowsPath),
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, time.fromisoformat),
    "timedelta": (timedelta, _microseconds, lambda text: timedelta(microseconds=int(text))),
    "Decimal": (Decimal, str, Decimal),
    "complex": (complex, repr, complex),
    "UUID": (UUID, str, UUID),
}

# The same for what has a plain form as well: text stands for numbers that no int64 and no JSON number holds.
_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    **{word: from_text for word, (_, _, from_text) in _TEXT_CODECS.items()},
    "bool": _bool_of,
    "int": int,
    "float": float,
}

_SEQUENCES: dict[str, Callable[[Iterable[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}

_KINDS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict}


# ---- storing and loading ---------------------------------------------------------------------------


def store(value: Any) -> tuple[Any, str]:
    """Return the stored form of a value and the word for its type.

    Raises:
        InvalidEvent: it is nested more than about 60 deep, or holds itself.
    """
    value = plain(value)
    word = _word(value)
    packed = _pack(value, _MAX_DEPTH)
    if isinstance(packed, dict) and len(packed) == 1 and not isinstance(value, (dict, str)):
        # Outermost, the word tells the type, and the value is easier to read without its tag.
        (packed,) = packed.values()
    return packed, word


def load(stored: Any, word: str) -> Any:
    """Return the value that `store` has stored.

    Text under the word of another type is cast to it, as somebody may have edited it; text that cannot be cast, and
    text of a type that is not known here, is returned as it is.
    """
    base = word.partition("/")[0]
    if isinstance(stored, str):
        return cast_text(stored, word)
    if isinstance(stored, list) and base in _SEQUENCES:
        return _rebuilt(base, [_unpack(item) for item in stored])
    return _unpack(stored)


def entry(value: Any, description: str = "", word: str | None = None) -> ValueEntry:
    """Return what the record keeps for a value: a value nested too deep is kept as text.

    Args:
        word: the type's word, where it is not the value's own type that is to be shown.
    """
    value = plain(value)
    try:
        stored, own_word = store(value)
        if word is not None and word != own_word:
            stored = _pack(value, _MAX_DEPTH)
    except ValueError as error:  # InvalidEvent, or an int of so many digits that Python does not write them
        if is_interrupt(error):
            raise
        stored, own_word = _repr(value), type(value).__name__
    own_word = clean_text(own_word if word is None else word)
    return {"value": stored, "type": own_word, "description": clean_text(description)}


def value_of(kept: Any) -> Any:
    """Return the typed value of an entry; of anything else that stands in its place, that itself."""
    if not isinstance(kept, Mapping) or "value" not in kept:
        return kept
    word = kept.get("type")
    return load(kept["value"], word if isinstance(word, str) else "")


def cast_text(text: str, word: str) -> Any:
    """Return text as the type that a word names; the text itself where it is not of that type."""
    base = word.partition("/")[0]
    try:
        if base in _FROM_TEXT:
            return _FROM_TEXT[base](text)
        if base in _SEQUENCES or base == "dict":
            return _cast_container(read_text(text), base)
    except (ValueError, ArithmeticError, binascii.Error, RecursionError, MemoryError):
        # Brackets by the thousand: Python's parser gives up on them with either of the last two.
        return text
    return text


def check_depth(value: Any, *, path: str = "", lists: bool = False) -> None:
    """Refuse a dict that holds itself, or dicts nested deeper than a record can be.

    Args:
        path: where the value lies, for the error.
        lists: look into lists and tuples as well.
    Raises:
        ConfigurationError: with the place.
    """
    # (a dict, its path, those around it), and not by recursion, which is what would fail.
    to_visit: list[tuple[Any, str, tuple[int, ...]]] = [(value, path, ())]
    while to_visit:
        at, name, around = to_visit.pop()
        pairs: Iterable[tuple[Any, Any]]
        if isinstance(at, dict):
            pairs = list(at.items())
        elif lists and isinstance(at, (list, tuple)):
            pairs = enumerate(at)
        else:
            continue
        where = f" at {_shortened(name)}" if name else ""
        if id(at) in around:
            raise ConfigurationError(f"the {type(at).__name__}{where} holds itself. Nothing was changed")
        if len(around) >= _MAX_DEPTH:
            raise ConfigurationError(
                f"the {type(at).__name__}{where} lies more than {_MAX_DEPTH} deep. Nothing was changed. "
                "Keep it as an artifact: task.upload_artifact(...)"
            )
        inside = (*around, id(at))
        to_visit += [(item, f"{name}/{key}" if name else str(key), inside) for key, item in pairs if _has_parts(item)]


def _has_parts(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple)) and bool(value)


def _shortened(path: str) -> str:
    return repr(path if len(path) <= 80 else f"{path[:40]}…{path[-39:]}")


def plain(value: Any) -> Any:
    """Turn what has an obvious plain form into it: arrays, numpy numbers, dataclasses, namespaces, mappings."""
    if value is None or isinstance(value, (bool, int, float, str, bytes, list, tuple, dict, set, frozenset)):
        return value
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return _plain_array(value)
    if type(value).__module__.partition(".")[0] == "omegaconf":
        return _plain_config(value)
    fields = fields_of(value)
    return value if fields is None else fields


def fields_of(value: Any) -> dict[Any, Any] | None:
    """Return what has names and values inside as a dict of these; None of anything else, which is a value.

    Mappings, dataclasses, namespaces, classes of attrs and pydantic, ml_collections' ConfigDict; nothing is imported.
    """
    kind = type(value)
    if kind in _CONSTANTS:
        return None
    if isinstance(value, Mapping):
        return dict(value)
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    # argparse's Namespace, without importing argparse.
    if isinstance(value, SimpleNamespace) or kind.__name__ == "Namespace":
        return dict(vars(value))
    if hasattr(kind, "__attrs_attrs__"):
        return {field.name: getattr(value, field.name, None) for field in kind.__attrs_attrs__}
    homes = {base.__module__.partition(".")[0] for base in kind.__mro__}
    if "pydantic" in homes and hasattr(kind, "model_fields"):
        return dict(value)  # its fields, and the further ones that its model allows
    if "ml_collections" in homes and hasattr(kind, "items"):
        return dict(value.items())
    return None


# What has no parts and cannot change in place.
_CONSTANTS = frozenset({type(None), bool, int, float, str, bytes})


def _plain_config(value: Any) -> Any:
    """Return an OmegaConf config as dicts and lists; interpolations, and what is missing ("???"), stay as written."""
    conf: Any = sys.modules["omegaconf"].OmegaConf
    return conf.to_container(value, resolve=False) if conf.is_config(value) else value


def _plain_array(value: Any) -> Any:
    size = getattr(value, "size", 1)
    try:
        items = size() if callable(size) else size
        items = math.prod(items) if isinstance(items, Iterable) else int(items)
        plain = value.tolist() if items <= _MAX_ARRAY_ITEMS else str(value)
    except Exception as error:
        if is_interrupt(error):
            raise
        return _text_of_other(value)
    # A long double is its own tolist.
    return plain if type(plain) is not type(value) else float(plain)


def _word(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Enum):
        return type(value).__name__
    if basic := _basic_word(value):
        return basic
    for base in _SEQUENCES:
        if isinstance(value, _KINDS[base]):
            words = {_basic_word(plain(item)) for item in value}
            item_word = words.pop() if len(words) == 1 else ""
            return f"{base}/{item_word}" if item_word else base
    if isinstance(value, dict):
        return "dict"
    for word, (kind, _, _) in _TEXT_CODECS.items():
        if isinstance(value, kind):
            return word
    return type(value).__name__


def _basic_word(value: Any) -> str:
    if isinstance(value, Enum):
        return ""
    return next((kind.__name__ for kind in (bool, int, float, str) if isinstance(value, kind)), "")


def _pack(value: Any, depth: int) -> Any:
    """Return a value as JSON carries it, with a tag where JSON has no such type."""
    value = plain(value)
    if isinstance(value, Enum):
        return _enum_text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if INT64_MIN <= value <= INT64_MAX else {"$int": str(int(value))}
    if isinstance(value, float):
        # JSON has no NaN; orjson writes null for it.
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, str):
        # UTF-8 has no lone surrogates; JSON text escapes them.
        return str(value) if clean_text(value) == value else {"$text": json.dumps(str(value))}
    if not depth:
        raise InvalidEvent(f"a value is nested more than {_MAX_DEPTH} deep")
    if isinstance(value, list):
        return [_pack(item, depth - 1) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": _pack(list(value), depth - 1)}
    if isinstance(value, (set, frozenset)):
        packed = [_pack(item, depth - 2) for item in value]
        # In one order, so that equal sets are equal when stored.
        packed.sort(key=json.dumps)
        return {"$set" if isinstance(value, set) else "$frozenset": packed}
    if isinstance(value, dict):
        return _pack_dict(value, depth)
    for word, (kind, to_text, _) in _TEXT_CODECS.items():
        if isinstance(value, kind):
            return {f"${word}": to_text(value)}
    return _text_of_other(value)


def _pack_dict(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    if all(isinstance(key, str) and clean_text(key) == key for key in value) and not _looks_tagged(value):
        return {str(key): _pack(item, depth - 1) for key, item in value.items()}
    if depth < 4:
        raise InvalidEvent(f"a value is nested more than {_MAX_DEPTH} deep")
    return {"$dict": [[_pack(key, depth - 3), _pack(item, depth - 3)] for key, item in value.items()]}


def _looks_tagged(value: Mapping[Any, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("$")


def _unpack(stored: Any) -> Any:
    if isinstance(stored, list):
        return [_unpack(item) for item in stored]
    if not isinstance(stored, dict):
        return stored
    if not _looks_tagged(stored):
        return {key: _unpack(item) for key, item in stored.items()}
    ((tag, inner),) = stored.items()
    word = tag[1:]
    try:
        if word in _SEQUENCES:
            return _rebuilt(word, [_unpack(item) for item in inner])
        if word == "dict":
            return {_unpack(key): _unpack(item) for key, item in inner}
        if word == "text":
            return json.loads(inner)
        return _FROM_TEXT[word](inner)
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
        # Written by a later version, or by nobody of ours: better seen as it is than not at all.
        return stored


def _rebuilt(word: str, items: list[Any]) -> Any:
    try:
        return _SEQUENCES[word](items)
    except TypeError:
        return items  # of a set: something in it cannot be hashed, so it was never one of ours


# ---- text ------------------------------------------------------------------------------------------


def text_of(value: Any) -> str:
    """Return the string form of a value: "" for None, "True", "0.1", JSON for lists, tuples, sets and dicts."""
    value = plain(value)
    if value is None:
        return ""
    if isinstance(value, Enum):
        return _enum_text(value)
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, (int, float)):
        return _repr(int(value) if isinstance(value, int) else float(value))
    if isinstance(value, (list, tuple, dict, set, frozenset)):
        try:
            return json.dumps(_json_of(value), ensure_ascii=False)
        except (ValueError, RecursionError) as error:
            if is_interrupt(error):
                raise
            return _repr(value)  # it holds itself
    return str(value) if isinstance(value, (str, *_CODEC_TYPES)) else _text_of_other(value)


_CODEC_TYPES = tuple(kind for kind, _, _ in _TEXT_CODECS.values())


def _json_of(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, Enum):
        return _enum_text(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {key if isinstance(key, str) else text_of(key): _json_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_of(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_json_of(item) for item in value), key=json.dumps)
    return text_of(value)


def _enum_text(value: Enum) -> str:
    # str() of an IntEnum or StrEnum is its value; and a flag of several members has a name like A|B.
    return f"{type(value).__name__}.{value.name}" if value.name else str(value)


def _repr(value: Any) -> str:
    try:
        return clean_text(repr(value))
    except Exception as error:
        if is_interrupt(error):
            raise
        return f"<{type(value).__name__}>"


def excerpt(value: Any, max_chars: int = 80) -> str:
    """Return the beginning of a value's `repr()` for an error's text, whatever the value is; it never raises."""
    return _repr(value)[:max_chars]


def _text_of_other(value: Any) -> str:
    if isinstance(value, (type, FunctionType)):
        return f"{value.__module__}.{value.__qualname__}"
    try:
        return clean_text(_ADDRESS.sub("", str(value)))
    except Exception as error:
        if is_interrupt(error):
            raise
        return f"<{type(value).__name__}>"


def read_text(text: str) -> Any:
    """Return what a text says: JSON, or a Python literal, or YAML.

    Raises:
        ValueError: it is none of these.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass  # there are two more ways to write a list
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        if is_interrupt(error):
            raise
        return _read_yaml(text)


def _read_yaml(text: str) -> Any:
    try:
        yaml = import_module("yaml")
    except ImportError:
        raise ValueError(f"{text!r:.80} is neither JSON nor a Python literal") from None
    try:
        return yaml.safe_load(text)
    except Exception as error:  # yaml.YAMLError, and ValueError for a date like 2024-99-99
        if is_interrupt(error):
            raise
        raise ValueError(f"{text!r:.80} is neither JSON nor a Python literal nor YAML: {error}") from error


# ---- casting ---------------------------------------------------------------------------------------


def cast_like(value: Any, like: Any) -> Any:
    """Return a value as the type of another: what was stored, or edited as text, as the program's own type.

    None stays None, and where `like` is None the value stays as it is. An int stays an int unless the new number has
    a fraction. Lists and tuples whose items are of one type get items of that type.

    Raises:
        ValueError: it cannot be cast, as "abc" to an int.
    """
    try:
        return value if like is None or value is None else _cast_like(value, plain(like))
    except (TypeError, ArithmeticError, binascii.Error) as error:
        raise ValueError(f"{value!r:.80} cannot be made a {type(like).__name__}: {error}") from error


def _cast_like(value: Any, like: Any) -> Any:
    if isinstance(like, Enum):
        return _cast_enum(value, type(like))
    if isinstance(like, bool):
        return _bool_of(value) if isinstance(value, str) else bool(value)
    if isinstance(like, int):
        return _cast_int(value)
    if isinstance(like, float):
        return float(value)
    if isinstance(like, str):
        return text_of(value)
    if isinstance(like, (list, tuple, set, frozenset, dict)):
        base = next(word for word in (*_SEQUENCES, "dict") if isinstance(like, _KINDS[word]))
        return _cast_items(_cast_container(read_text(value) if isinstance(value, str) else value, base), like)
    if isinstance(value, type(like)):
        return value
    for kind, _, from_text in _TEXT_CODECS.values():
        if isinstance(like, kind) and isinstance(value, str):
            return from_text(value)
    raise ValueError(f"{value!r:.80} cannot be made a {type(like).__name__}")


def _cast_int(value: Any) -> int | float:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass  # "3.0" and "1e6" are whole numbers, too
    number = value if isinstance(value, int) else float(value)
    return int(number) if isinstance(number, int) or number.is_integer() else number


def _cast_enum(value: Any, kind: type[Enum]) -> Enum:
    if isinstance(value, kind):
        return value
    name = value.rpartition(".")[2] if isinstance(value, str) else value
    return kind[name] if name in kind.__members__ else kind(value)


def _cast_container(value: Any, base: str) -> Any:
    if base == "dict":
        if isinstance(value, Mapping):
            return dict(value)
    elif isinstance(value, (list, tuple, set, frozenset)):
        try:
            return _SEQUENCES[base](value)
        except TypeError as error:
            raise ValueError(f"{value!r:.80} cannot be made a {base}: {error}") from error
    raise ValueError(f"{value!r:.80} is no {base}")


def _cast_items(value: Any, like: Any) -> Any:
    """Give the items the type that all items of `like` have."""
    if isinstance(like, dict) or "/" not in _word(like):
        return value
    model = next(iter(like))
    return type(value)(cast_like(item, model) for item in value)


def is_simple(value: Any, depth: int = _MAX_DEPTH) -> bool:
    """True for what is a setting and no working object: numbers, text, paths, dates, and containers of these."""
    if type(value) in _CONSTANTS or isinstance(value, (bool, int, float, str, Enum, *_CODEC_TYPES, PurePath)):
        return True
    fields = fields_of(value)
    if fields is not None or isinstance(value, (list, tuple, set, frozenset)):
        items = value if fields is None else fields.values()
        # What holds itself is deeper than anything.
        return depth > 0 and all(is_simple(item, depth - 1) for item in items)
    # numpy's numbers, but no arrays: those of an object are data.
    return hasattr(value, "dtype") and hasattr(value, "item") and getattr(value, "shape", None) == ()
