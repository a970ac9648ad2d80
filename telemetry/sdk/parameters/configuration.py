"""Configuration objects: a dict, a list or a file, kept whole under a name. Pure functions, and the source of a dict.

In the record's section "configuration" the key is the name, and the value {"text", "type", "description"}, with
"value" beside them where the typed value is known. Who changes the text leaves "value" out: the text then counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from telemetry import shapes, values
from telemetry.errors import ConfigurationError
from telemetry.events import clean_name, clean_text
from telemetry.process.interrupts import is_interrupt
from telemetry.record import Section
from telemetry.sdk.parameters.connected import Connected
from telemetry.sdk.parameters.connected_dict import ConnectedDict, plain
from telemetry.values import entry, load, read_text, text_of

__all__ = [
    "ConfigurationSource",
    "as_value",
    "configuration_entry",
    "configuration_text",
    "file_entry",
    "name_of",
    "text_entry",
]


DEFAULT_NAME = "General"

# A frame holds 16 MiB; the typed value beside the text of a larger one would not fit in.
MAX_TEXT_BYTES = 8 * 1024 * 1024
MAX_VALUE_BYTES = 2 * 1024 * 1024

# The text of a larger one is not written at each change of a key, but with the next look at it.
_WRITE_AT_ONCE_CHARS = 16 * 1024

_DICTIONARY, _LIST = "dictionary", "list"


def name_of(name: Any) -> str:
    """Return the name of a configuration object, "General" by default.

    Raises:
        ConfigurationError: not a str.
    """
    if name is None or name == "":
        return DEFAULT_NAME
    if not isinstance(name, str):
        # The arguments in the wrong order are the usual reason.
        raise ConfigurationError(
            f"a configuration's name must be a str, not {type(name).__name__}: the configuration is the first "
            "argument, connect_configuration(configuration, name=...). Nothing was changed"
        )
    return clean_name(name)


def configuration_entry(value: Any, description: str = "") -> dict[str, Any]:
    """Return what the record keeps of a dict or list: its text as JSON, and the typed value.

    Raises:
        ConfigurationError: it is too large for a record, is nested too deep, or holds itself.
    """
    value = values.plain(value)
    values.check_depth(value, lists=True)
    kind = _DICTIONARY if isinstance(value, Mapping) else _LIST
    text = text_of(value)
    if len(text) <= _WRITE_AT_ONCE_CHARS:
        # To be read by people: of a large one the lines would be most of it.
        text = _indented(text)
    made = text_entry(text, kind, description)
    if len(text) <= MAX_VALUE_BYTES:
        made["value"] = entry(value if isinstance(value, Mapping) else list(value))["value"]
    return made


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError as error:
        if is_interrupt(error):
            raise
        return text  # an object inside holds itself: there is no JSON of it


def text_entry(text: str, kind: str, description: str = "") -> dict[str, Any]:
    """Return what the record keeps of a text.

    Raises:
        ConfigurationError: it is too large for a record.
    """
    text = clean_text(text)
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise ConfigurationError(
            f"a configuration of {len(text):,} characters is too large for a task's record (at most "
            f"{MAX_TEXT_BYTES // 2**20} MiB). Nothing was changed. Keep it as an artifact: task.upload_artifact(...)"
        )
    return {"text": text, "type": clean_text(kind), "description": clean_text(description)}


def file_entry(path: str | os.PathLike[str], description: str = "") -> dict[str, Any]:
    """Return what the record keeps of a file: its text, to the letter, and its extension as type.

    Raises:
        ConfigurationError: it cannot be read, or is no text.
    """
    file = Path(path)
    try:
        # In binary: line ends stay as they are.
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"the configuration file {str(path)!r} is no UTF-8 text: {error.reason}. Nothing was changed. "
            "Keep it as an artifact: task.upload_artifact(...)"
        ) from error
    except (OSError, ValueError) as error:
        if is_interrupt(error):
            raise
        raise ConfigurationError(
            f"the configuration file {str(path)!r} cannot be read: {error}. Nothing was changed"
        ) from error
    return text_entry(text, file.suffix.lstrip("."), description)


def configuration_text(kept: Any) -> str:
    """Return the text of a configuration object."""
    text = kept.get("text") if isinstance(kept, Mapping) else kept
    return text if isinstance(text, str) else text_of(text)


def as_value(name: str, kept: Any) -> Any:
    """Return a configuration object as the dict or list that it says.

    Raises:
        ConfigurationError: its text is neither.
    """
    fields = kept if isinstance(kept, Mapping) else {}
    if isinstance(found := load(fields.get("value"), ""), (dict, list)):
        return found
    text, kind = configuration_text(kept), shapes.text(fields.get("type"))
    try:
        if kind == "toml":
            import tomllib

            value: Any = tomllib.loads(text)
        else:
            value = read_text(text)
    except ValueError as error:
        raise _no_value(name, kind, str(error)) from error
    if not isinstance(value, (dict, list)):
        raise _no_value(name, kind, f"it says {value!r:.80}")
    return value


def _no_value(name: str, kind: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the configuration object {name!r} (type {kind or 'unknown'}) is no dict and no list: {why}. "
        f"get_configuration_object({name!r}) returns its text"
    )


class ConfigurationSource:
    """A configuration object that follows a dict or list of the program."""

    def __init__(self, connected: Connected, read: Callable[[], Any], name: str, description: str) -> None:
        self._connected = connected
        self._read = read
        self._name = name
        self._description = description
        self._written: dict[str, Any] = {}

    def write(self, names: list[str]) -> None:
        """See connected_dict.Follower."""
        self._connected.write(self, names)

    def sync(self, names: Iterable[str] | None = None) -> None:
        """See connected.ConnectedSource."""
        if self._connected.ended:
            return
        if names is not None and len(self._written.get("text", "")) > _WRITE_AT_ONCE_CHARS:
            return
        with self._connected.lock:
            value = self._read()
            if names is None and isinstance(value, ConnectedDict):
                value.follow_origin()
            made = configuration_entry(plain(value) if isinstance(value, ConnectedDict) else value, self._description)
            # By text: True is equal to 1.
            if repr(made) != repr(self._written):
                self._written = made
                self._connected.record.change(Section.CONFIGURATION, self._name, made)

    def adopt(self) -> None:
        """Take the value as what the record has already: it came from it."""
        value = self._read()
        self._written = configuration_entry(plain(value) if isinstance(value, ConnectedDict) else value)
        self._written["description"] = self._description
