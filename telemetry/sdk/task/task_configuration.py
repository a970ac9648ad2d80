"""Task, section "Configuration Objects": dicts, lists and files kept whole, and the labels of a model's classes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from telemetry.errors import ConfigurationError
from telemetry.events import clean_name
from telemetry.process.interrupts import is_interrupt
from telemetry.record import Section
from telemetry.sdk.cores.base import TaskBase
from telemetry.sdk.parameters.connected_dict import can_be_connected, connected_dict
from telemetry.values import excerpt, plain

__all__ = ["TaskConfiguration"]


_Configuration = TypeVar("_Configuration")


class TaskConfiguration(TaskBase):
    """See Task."""

    def connect_configuration(
        self,
        configuration: _Configuration,
        name: str | None = None,
        description: str | None = None,
        ignore_remote_overrides: bool = False,
    ) -> _Configuration:
        """Keep a configuration whole, under a name.

        A dict comes back as a dict that writes its changes, as of `connect`; a list is looked at again as an object
        is. Of a file its text is kept as it is now, with the extension as type, and the same path comes back.

        Args:
            name: default "General".
            ignore_remote_overrides: use the program's own where somebody has set another for this run. Otherwise a
                file comes back as the path of a temporary file that holds the other text.
        Raises:
            ConfigurationError: a file that cannot be read (it is a ValueError, too), or none of the above; nothing was
                changed.
        """
        from telemetry.sdk.parameters import configuration as objects

        name = objects.name_of(name)
        overridden = self._core.connected.override_of(Section.CONFIGURATION, name)
        kept = None if ignore_remote_overrides else overridden
        given: Any = configuration
        if isinstance(given, (str, os.PathLike)):
            result: Any = self._connect_file(given, name, description or "", kept)
        elif isinstance(plain(given), (Mapping, list, tuple)):
            result = self._connect_object(given, name, description or "", kept)
        else:
            raise ConfigurationError(
                f"connect_configuration takes a dict, a list or the path of a file, not {type(given).__name__}: "
                f"{excerpt(given)}. Nothing was changed"
            )
        chosen: _Configuration = result
        return chosen

    def _connect_file(self, path: Any, name: str, description: str, kept: Any) -> Any:
        from telemetry.sdk.parameters import configuration as objects

        if kept is None:
            self._record.change(Section.CONFIGURATION, name, objects.file_entry(path, description))
            return path
        import tempfile  # a few milliseconds, for the few runs that somebody has set another file for

        suffix = Path(path).suffix
        with tempfile.NamedTemporaryFile(
            "w", prefix="configuration-", suffix=suffix, delete=False, encoding="utf-8", newline=""
        ) as file:
            file.write(objects.configuration_text(kept))
        return type(path)(file.name) if isinstance(path, (str, Path)) else Path(file.name)

    def _connect_object(self, given: Any, name: str, description: str, kept: Any) -> Any:
        from telemetry.sdk.parameters import configuration as objects

        connected = self._core.connected
        if kept is not None:
            given = objects.as_value(name, kept)
        root = connected_dict(given) if can_be_connected(given) else given
        source = objects.ConfigurationSource(connected, lambda: root, name, description)
        if kept is not None:
            source.adopt()
        connected.add(source, root)
        return root

    def set_configuration_object(
        self,
        name: str,
        config_text: str | None = None,
        description: str | None = None,
        config_type: str | None = None,
        config_dict: Mapping[str, Any] | list[Any] | None = None,
    ) -> None:
        """Set a configuration object to a text, or to a dict or list.

        Raises:
            ConfigurationError: both or neither were given; nothing was changed.
        """
        from telemetry.sdk.parameters import configuration as objects

        if (config_text is None) is (config_dict is None):
            raise ConfigurationError(
                "set_configuration_object takes either config_text or config_dict. Nothing was changed"
            )
        if config_dict is not None and not isinstance(plain(config_dict), (Mapping, list, tuple)):
            raise ConfigurationError(
                f"config_dict is a dict or a list, and {excerpt(config_dict)} is neither. Nothing was changed"
            )
        if config_text is not None:
            made = objects.text_entry(config_text, config_type or "", description or "")
        else:
            made = objects.configuration_entry(config_dict, description or "")
            made["type"] = config_type or made["type"]
        self._record.change(Section.CONFIGURATION, objects.name_of(name), made)

    def get_configuration_object(self, name: str) -> str | None:
        """Return a configuration object's text; None if there is none of this name. A dict's text is JSON."""
        from telemetry.sdk.parameters import configuration as objects

        kept = self._configurations().get(name)
        return None if kept is None else objects.configuration_text(kept)

    def get_configuration_objects(self) -> dict[str, str]:
        """Return the texts of all configuration objects by name."""
        from telemetry.sdk.parameters import configuration as objects

        return {name: objects.configuration_text(kept) for name, kept in self._configurations().items()}

    def get_configuration_object_as_dict(self, name: str) -> Any:
        """Return a configuration object as a dict or list, with the types that it had; None if there is none.

        Raises:
            ConfigurationError: its text is neither JSON nor YAML nor TOML of a dict or list.
        """
        from telemetry.sdk.parameters import configuration as objects

        kept = self._configurations().get(name)
        return None if kept is None else objects.as_value(name, kept)

    def _configurations(self) -> dict[str, Any]:
        self._core.connected.settle()
        return self._section(Section.CONFIGURATION)

    # ---- labels ------------------------------------------------------------------------------------

    def connect_label_enumeration(
        self, enumeration: Mapping[str, int], ignore_remote_overrides: bool = False
    ) -> dict[str, int]:
        """Record which number stands for which label; replaces those recorded before.

        Returns:
            The labels: those given, or those that somebody has set for this run.
        Raises:
            ConfigurationError: not a dict from str to int; nothing was changed.
        """
        overrides = (self._core.connected.overrides or {}).get(Section.LABELS)
        if overrides and not ignore_remote_overrides:
            return _numbers(overrides)
        if not isinstance(enumeration, Mapping):
            raise ConfigurationError(
                f"labels are a dict from name to number, not {type(enumeration).__name__}. Nothing was changed"
            )
        labels: dict[str, Any] = {}
        for label, number in enumeration.items():
            try:
                labels[clean_name(label)] = int(number.__index__())
            except (AttributeError, TypeError, ValueError) as error:
                if is_interrupt(error):
                    raise
                raise ConfigurationError(
                    f"labels are a dict from name to number, and {excerpt(label)}: {excerpt(number)} is no such pair. "
                    "Nothing was changed"
                ) from error
        gone = {label: None for label in self._section(Section.LABELS) if label not in labels}
        self._record.change_all(Section.LABELS, {**gone, **labels})
        return {str(label): int(number) for label, number in enumeration.items()}

    def get_labels_enumeration(self) -> dict[str, int]:
        """Return which number stands for which label."""
        return _numbers(self._section(Section.LABELS))


def _numbers(kept: Mapping[str, Any]) -> dict[str, int]:
    return {label: number for label, number in kept.items() if isinstance(number, int)}
