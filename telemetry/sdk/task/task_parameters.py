"""Task, section "Configuration": parameters, user properties, and objects whose values are parameters."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from telemetry.errors import ConfigurationError
from telemetry.record import Section
from telemetry.sdk.cores.base import TaskBase
from telemetry.sdk.parameters import parameters
from telemetry.sdk.parameters.attributes import attributes_of, class_attributes_of, unrecorded_in
from telemetry.sdk.parameters.connected_dict import can_be_connected, connected_dict
from telemetry.sdk.parameters.properties import names_of, properties_of, shown_property
from telemetry.values import excerpt, plain, text_of, value_of

__all__ = ["TaskParameters"]

log = logging.getLogger(__name__)

_Thing = TypeVar("_Thing")


class TaskParameters(TaskBase):
    """See Task.

    A parameter's full name is "Section/name"; a name without a section is one of section General. Names and sections
    are case-sensitive. Values keep their type (see values.py); where strings are promised, `cast=True` gives it.
    """

    # ---- setting -----------------------------------------------------------------------------------

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Replace all parameters, in all sections, by those of these dicts and keywords. User properties stay.

        A dict as a value is one parameter, whose text is JSON.

        Raises:
            ConfigurationError: an argument that is no dict; nothing was changed.
        """
        values = parameters.merged("set_parameters", args, kwargs)
        known = self._known()
        changes: dict[str, dict[str, Any]] = dict(parameters.changes_of(values, known))
        gone = dict.fromkeys(name for name in known[Section.PARAMETERS] if name not in changes[Section.PARAMETERS])
        self._record.change_sections({**changes, Section.PARAMETERS: {**gone, **changes[Section.PARAMETERS]}})

    def update_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Set these parameters; the others stay."""
        values = parameters.merged("update_parameters", args, kwargs)
        self._record.change_sections(parameters.changes_of(values, self._known()))

    def set_parameters_as_dict(self, dictionary: Mapping[str, Any]) -> None:
        """Set the parameters of a dict, {"section": {"name": value}} or {"section/name": value}; the others stay."""
        if not isinstance(dictionary, Mapping):
            raise ConfigurationError(
                f"set_parameters_as_dict takes a dict, not {type(dictionary).__name__}. Nothing was changed"
            )
        self._record.change_sections(parameters.changes_of(parameters.flatten(dictionary), self._known()))

    def set_parameter(self, name: str, value: Any, description: str | None = None, value_type: Any = None) -> None:
        """Set one parameter.

        Args:
            description: None keeps the one it has.
            value_type: a type, or its name; text as value is cast to it. Default: the value's own.
        """
        section, key = parameters.place_of(parameters.full_name(name))
        known = self._known()[section].get(key)
        word = parameters.type_word(value_type)
        self._record.change(section, key, parameters.parameter_entry(value, known, description, word))

    def delete_parameter(self, name: str, force: bool = False) -> bool:
        """Remove a parameter; False if there is none of this name.

        Args:
            force: without effect; what may be changed at all may be removed.
        """
        section, key = parameters.place_of(parameters.full_name(name))
        if key not in self._known()[section]:
            return False
        self._record.change(section, key, None)
        return True

    # ---- reading -----------------------------------------------------------------------------------

    def get_parameters(self, backwards_compatibility: bool = True, cast: bool = False) -> dict[str, Any]:
        """Return all parameters, {"section/name": "value"}, and the user properties as "properties/name".

        Args:
            backwards_compatibility: without effect; every name has its section.
            cast: values of their own types, and not their text.
        """
        return parameters.shown(self._read_known(), cast=cast)

    def get_parameters_as_dict(self, cast: bool = False) -> dict[str, Any]:
        """Return all parameters nested by section, and by each "/" of their names."""
        return parameters.nested(self.get_parameters(cast=cast))

    def get_parameter(self, name: str, default: Any = None, cast: bool = False) -> Any:
        """Return one parameter's text, or its typed value if `cast`; `default` if there is none of this name.

        Args:
            name: "section/name"; a name without a section is looked up in General.
        """
        section, key = parameters.place_of(parameters.full_name(name))
        known = self._read_known()[section]
        if key not in known:
            return default
        value = value_of(known[key])
        return value if cast else text_of(value)

    # ---- objects -----------------------------------------------------------------------------------

    def connect(self, mutable: _Thing, name: str | None = None, ignore_remote_overrides: bool = False) -> _Thing:
        """Record an object's values as parameters, now and whenever they change.

        A dict comes back as a dict that writes each change at once; go on with it, or with your own: they stay the
        same. Of an object its public attributes are recorded, of a class its public class attributes, as far as they
        are settings (numbers, text, lists, dicts, ...); they are looked at again at every flush, at the end, before
        parameters are read, and every two seconds. Of an argparse parser, what it parses. Dicts and dataclasses inside
        become names, "outer/inner".

        Args:
            name: the section; default "General", of a parser "Args".
            ignore_remote_overrides: keep the object's values where somebody has set others for this run.
        Raises:
            ConfigurationError: nothing that has names and values; nothing was changed.
        """
        from telemetry.sdk.parameters.connected import ParameterSource

        thing: Any = mutable
        parser = self._connect_parser(thing, name)
        if parser:
            return mutable
        connected = self._core.connected
        if can_be_connected(thing):
            root: Any = connected_dict(thing)
            source = ParameterSource(connected, root, lambda: root, name)
        elif isinstance(thing, Mapping):
            root, source = thing, ParameterSource(connected, thing, lambda: plain(thing), name)
        elif isinstance(thing, type):
            root, source = thing, ParameterSource(connected, thing, lambda: class_attributes_of(thing), name)
        elif hasattr(thing, "__dict__") or hasattr(type(thing), "__slots__"):
            root, source = thing, ParameterSource(connected, thing, lambda: attributes_of(thing), name)
            if unrecorded := unrecorded_in(thing):
                log.warning(
                    "connect: of %s these are no settings, and are not recorded: %.500s",
                    type(thing).__name__,
                    ", ".join(unrecorded),
                )
        else:
            raise ConfigurationError(
                f"connect takes a dict, an object, a class or a parser, and {type(thing).__name__} is none of these: "
                f"{excerpt(thing)}. A list or file goes into connect_configuration. Nothing was changed"
            )
        if connected.overrides is not None and not ignore_remote_overrides:
            source.take_overrides()
        connected.add(source, root)
        connected_thing: _Thing = root
        return connected_thing

    def _connect_parser(self, thing: Any, name: str | None) -> bool:
        """Record an argparse parser; False if it is none."""
        argparse = sys.modules.get("argparse")
        if argparse is None or not isinstance(thing, argparse.ArgumentParser):
            return False
        if self._running is None:
            raise ConfigurationError(
                "a parser is connected in the program that runs the task; this one is another's. Nothing was changed"
            )
        self._running.launched.arguments.connect(thing, name or "Args")
        return True

    # ---- user properties ---------------------------------------------------------------------------

    def set_user_properties(self, *iterables: Any, **properties: Any) -> bool:
        """Set user properties; the others stay. They may be set at any time, also after the task has ended.

        In any of these forms:

            set_user_properties({"name": "backbone", "value": "great", "description": "network type"})
            set_user_properties([{"name": "backbone", "value": "great"}, ...])
            set_user_properties({"backbone": "great", "layers": {"value": 5, "description": "how many"}})
            set_user_properties(backbone="great")

        Returns:
            True.
        Raises:
            ConfigurationError: an argument in none of these forms; nothing was changed.
        """
        known = self._known()[Section.PROPERTIES]
        self._record.change_all(Section.PROPERTIES, properties_of(iterables, properties, known))
        return True

    def get_user_properties(self, value_only: bool = False) -> dict[str, Any]:
        """Return the user properties, {name: {"section", "name", "value", "description", "type"}}.

        Args:
            value_only: {name: value}; values have their own types.
        """
        kept = self._section(Section.PROPERTIES)
        if value_only:
            return {name: value_of(entry) for name, entry in kept.items()}
        return {name: shown_property(name, entry) for name, entry in kept.items()}

    def delete_user_properties(self, *iterables: Any) -> bool:
        """Remove user properties, given as names, lists of names or dicts with a "name"; True if one was there."""
        known = self._known()[Section.PROPERTIES]
        gone = dict.fromkeys(name for name in names_of(iterables) if name in known)
        self._record.change_all(Section.PROPERTIES, gone)
        return bool(gone)

    # ---- inside ------------------------------------------------------------------------------------

    def _known(self) -> dict[str, dict[str, Any]]:
        """Return the sections that a change builds on.

        Of a task that other processes take part in, a running program asks nobody: what it did not write itself, it
        does not replace.
        """
        running = self._running
        if running is not None and not running.leads:
            own = self._record.own
            return {
                Section.PARAMETERS: own.section(Section.PARAMETERS),
                Section.PROPERTIES: own.section(Section.PROPERTIES),
            }
        return self._read_known()

    def _read_known(self) -> dict[str, dict[str, Any]]:
        self._core.connected.settle()
        fold = self._view.fold()
        return {
            Section.PARAMETERS: fold.section(Section.PARAMETERS),
            Section.PROPERTIES: fold.section(Section.PROPERTIES),
        }
