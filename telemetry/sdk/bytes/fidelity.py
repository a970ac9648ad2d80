"""What a format changes of an object, in words for a warning: `get` gives back what was uploaded, or it has been said.

JSON      None, bool, int, float, str, list, and dicts with keys of str; a tuple becomes a list, a key its text
YAML      these with any simple key, and bytes, sets, dates; a tuple becomes a list
arrays    numpy's own classes; of any other class the numbers
images    what the file gives when it is read again: mode, pixels, palette, and whether EXIF is there
"""

from __future__ import annotations

import io
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from telemetry.process.interrupts import is_interrupt
from telemetry.sdk.parameters.connected_dict import ConnectedDict

__all__ = ["ARRAY_CLASSES", "array_changes", "image_changes", "in_words", "json_changes", "yaml_changes"]

# Subclasses of numpy's array that the record names, and that are made again of the plain one.
ARRAY_CLASSES = ("recarray", "matrix")

# How many changes a warning names.
_MAX_NAMED = 5

_MAX_PATH_CHARS = 80

# JSON joins the halves of a character outside the basic plane that stand side by side.
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")

_JSON_TYPES = frozenset({type(None), bool, int, float})
_YAML_TYPES = _JSON_TYPES | {str, bytes, date}

# A key, and the dict or list around it; () stands for the whole.
_ValuePath = tuple[Any, ...]


def in_words(changes: Sequence[str]) -> str:
    """Return the first of several changes, and how many there are beside."""
    more = len(changes) - _MAX_NAMED
    return ", ".join(changes[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


# ---- dicts -----------------------------------------------------------------------------------------


def json_changes(value: dict[Any, Any]) -> list[str]:
    """Return what comes back otherwise of a dict that has become JSON.

    Raises:
        ValueError: two keys have the same text, and only one would come back.
    """
    changes = []
    for item, place in _parts(value, _JSON_TYPES):
        if isinstance(item, dict):
            others = [key for key in item if type(key) is not str or not _is_whole(key)]
            # The texts that JSON gives them, as JSON itself tells.
            if others and len(json.loads(json.dumps(dict.fromkeys(item)))) < len(item):
                raise ValueError(f"two keys have the same text as {others[0]!r:.60}{_at(place)}")
            changes += [f"the key {key!r:.60}{_at(place)}" for key in others]
        if type(item) is str and _is_whole(item):
            continue
        if type(item) not in (dict, list, ConnectedDict):
            changes.append(_named(item, place))
    return changes


def yaml_changes(value: dict[Any, Any]) -> list[str]:
    """Return what comes back otherwise of a dict that has become YAML.

    Raises:
        ValueError: it could not be read again.
    """
    changes = []
    for item, place in _parts(value, _YAML_TYPES):
        keys: Iterable[Any] = item if isinstance(item, (dict, set)) else ()
        for key in keys:
            if isinstance(key, tuple):
                raise ValueError(f"a tuple becomes a list, which is no key: {key!r:.60}{_at(place)}")
            if isinstance(key, datetime) and not _is_yaml_time(key):
                changes.append(f"the key {key!r:.60}{_at(place)}")
        if type(item) in (dict, list, set, ConnectedDict) or (type(item) is datetime and _is_yaml_time(item)):
            continue
        changes.append(_named(item, place))
    return changes


def _parts(value: Any, kept: frozenset[type]) -> Iterator[tuple[Any, _ValuePath]]:
    """Yield a dict and what lies in it, except what is of the kept types; each with its place."""
    to_visit: deque[tuple[Any, _ValuePath]] = deque([(value, ())])
    while to_visit:
        at, place = to_visit.popleft()
        yield at, place
        if isinstance(at, dict):
            pairs: Iterable[tuple[Any, Any]] = at.items()
        elif isinstance(at, (list, tuple)):
            pairs = enumerate(at)
        else:
            continue
        to_visit.extend((item, (place, key)) for key, item in pairs if type(item) not in kept)


def _is_whole(text: str) -> bool:
    return text.isascii() or _SURROGATE_PAIR.search(text) is None


def _is_yaml_time(value: datetime) -> bool:
    """Say whether YAML keeps a datetime: it has an offset's hours and minutes, no zone, and no fold.

    Raises:
        ValueError: it has an offset that its reader does not take.
    """
    offset = value.utcoffset()
    if offset is not None and offset % timedelta(minutes=1):
        raise ValueError(f"an offset of seconds cannot be read again: {value}")
    return value.fold == 0 and (offset is None or type(value.tzinfo) is timezone)


def _named(item: Any, place: _ValuePath) -> str:
    return f"{type(item).__name__}{_at(place)}"


def _at(place: _ValuePath) -> str:
    keys: list[str] = []
    while place:
        place, key = place
        keys.append(str(key))
    path = "/".join(reversed(keys))
    return f" at {path[:_MAX_PATH_CHARS]!r}" if keys else ""


# ---- arrays ----------------------------------------------------------------------------------------


def array_changes(array: Any, *, is_text: bool) -> list[str]:
    """Return what comes back otherwise of an array.

    Args:
        is_text: it is written as CSV. Of its own files numpy says itself what they lack.
    """
    import numpy as np

    # A memmap is the array that its file holds.
    known = [np.ndarray, np.memmap, *(getattr(np, name, None) for name in ARRAY_CLASSES)]
    changes = [] if type(array) in known else [f"its class, {type(array).__name__}"]
    if is_text and array.dtype.metadata:
        changes.append("the metadata of its dtype")
    return changes


# ---- images ----------------------------------------------------------------------------------------


def image_changes(image: Any, file: bytes | Path) -> list[str]:
    """Return what of an image is other in the file that PIL has written of it."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as read:
            read.load()
            changes = _picture_changes(image, read)
            if len(image.getexif()) > 0 and not len(read.getexif()):
                changes.append("its EXIF")
    except Exception as error:  # PDF and others are written and not read
        if is_interrupt(error):
            raise
        return [f"all of it, as PIL cannot read it ({error})"]
    frames = getattr(image, "n_frames", 1)
    return [*changes, f"its {frames} frames to the one that is shown"] if frames > 1 else changes


def _picture_changes(image: Any, read: Any) -> list[str]:
    if read.mode != image.mode:
        return [f"its mode {image.mode} to {read.mode}"]
    if read.size != image.size or read.tobytes() != image.tobytes():
        return ["its pixels"]
    # Their colours are told by the palette, and by what stands for transparent.
    if (image.mode in ("P", "PA") or "transparency" in image.info) and _colours(read) != _colours(image):
        return ["its colours"]
    return []


def _colours(image: Any) -> bytes:
    return bytes(image.convert("RGBA").tobytes())
