"""argparse: every parser of the program's own, its sub-commands, and a Namespace that was there before us."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from telemetry.collectors.arguments_source import (
    ARGS,
    Argument,
    ArgumentRecorder,
    ArgumentSource,
    is_suppressed,
    program_variables,
    shown,
    text_of,
)
from telemetry.collectors.hooks import Hooks

from telemetry.process.interrupts import is_interrupt

__all__ = ["ArgparseSource"]

# Packages that parse for themselves, or have a source of their own: what they do with argparse is not the program's.
_TOOLS = {"IPython", "traitlets", "ipykernel", "pytest", "_pytest", "telemetry", "jsonargparse", "fire", "hydra"}


class ArgparseSource(ArgumentSource):
    """argparse, and what is built on it.

    Args:
        only_connected: record only parsers that were handed to `connect`.
    """

    name = "argparse"
    module = "argparse"

    def __init__(self, recorder: ArgumentRecorder, *, only_connected: bool = False) -> None:
        super().__init__(recorder)
        self._only_connected = only_connected
        self._sections: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._parsed: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        # The parsers that are at work on this thread, the outermost first: its sub-parsers run inside it.
        self._at_work = threading.local()

    def watch(self, module: ModuleType, hooks: Hooks) -> None:
        """See ArgumentSource."""
        for name in ("parse_args", "parse_known_args", "parse_intermixed_args", "parse_known_intermixed_args"):
            hooks.wrap(module.ArgumentParser, name, self._parse)

    def connect(self, parser: Any, section: str) -> None:
        """Record a parser whatever it is: what it has parsed, or else its defaults; and what it will parse."""
        self._sections[parser] = section
        if parser in self._parsed:
            self._note(parser, *self._parsed[parser])
        else:
            names = {action.dest for action in parser._actions}
            found = next(
                (space for space in program_variables(_is_namespace) if names - {"help"} <= vars(space).keys()), None
            )
            self._note(parser, _Defaults(parser) if found is None else found, [])

    def _parse(self, original: Callable[..., Any], parser: Any, *args: Any, **kwargs: Any) -> Any:
        stack = self._at_work.__dict__.setdefault("stack", [])
        if stack:
            stack.append(parser)
            return original(parser, *args, **kwargs)
        try:
            # Inside: an exception of a signal handler must not leave a parser at work for ever.
            stack.append(parser)
            result = original(parser, *args, **kwargs)
        finally:
            inner = stack[:]
            stack.clear()
        namespace = result[0] if isinstance(result, tuple) else result
        # Two up: the function that stands for argparse's, and whoever called it.
        caller = sys._getframe(2).f_globals.get("__name__", "")
        if str(caller).partition(".")[0] not in _TOOLS:
            self._recorder.guard(lambda: self._keep(parser, namespace, inner))
        return result

    def _keep(self, parser: Any, namespace: Any, inner: list[Any]) -> None:
        if any(kind.__module__.partition(".")[0] in _TOOLS for kind in type(parser).__mro__):
            return
        self._parsed[parser] = (namespace, [one for one in inner if one is not parser])
        self._note(parser, namespace, inner)

    def _note(self, parser: Any, namespace: Any, inner: list[Any]) -> None:
        section = self._sections.get(parser)
        if section is None and self._only_connected:
            return
        self._recorder.record(section or ARGS, _arguments_of(parser, namespace, inner))

    def find(self, module: ModuleType) -> None:
        """Record the Namespaces among the callers' variables, with what their parsers know if these are there, too."""
        parsers = list(program_variables(lambda value: isinstance(value, module.ArgumentParser)))
        # The nearest last: it is the one that counts.
        for namespace in reversed(list(program_variables(_is_namespace))):
            names = vars(namespace).keys()
            fitting = [parser for parser in parsers if _dests(parser) and _dests(parser) <= names]
            if fitting:
                self._keep(fitting[0], namespace, [])
            else:
                self._recorder.record(ARGS, _leftover(namespace, set()))


def _is_namespace(value: Any) -> bool:
    kind = type(value)
    return kind.__name__ == "Namespace" and kind.__module__ == "argparse"


def _dests(parser: Any) -> set[str]:
    return {
        action.dest
        for action in parser._actions
        if not is_suppressed(action.dest) and not is_suppressed(action.default) and action.dest != "help"
    }


class _Defaults:
    """What a parser would return if nothing were typed."""

    def __init__(self, parser: Any) -> None:
        for name in _dests(parser):
            setattr(self, name, parser.get_default(name))


def _arguments_of(parser: Any, namespace: Any, inner: list[Any]) -> Iterator[Argument]:
    """Yield the arguments of a parser and of the sub-commands that were chosen, and what else is in the namespace."""
    seen: set[str] = set()
    yield from _of_actions(parser, namespace, inner, seen)
    yield from _leftover(namespace, seen)


def _of_actions(parser: Any, namespace: Any, inner: list[Any], seen: set[str]) -> Iterator[Argument]:
    values = vars(namespace)
    for action in parser._actions:
        choices = getattr(action, "choices", None)
        if isinstance(choices, Mapping) and hasattr(action, "add_parser"):
            yield from _of_command(action, choices, namespace, inner, seen)
        elif action.dest in values and action.dest not in seen:
            seen.add(action.dest)
            value = values[action.dest]
            yield Argument(action.dest, shown(value), _word_of(action, value), _help_of(parser, action))


def _of_command(
    action: Any, choices: Mapping[str, Any], namespace: Any, inner: list[Any], seen: set[str]
) -> Iterator[Argument]:
    values = vars(namespace)
    name = values.get(action.dest)
    if name is None:
        # Sub-parsers without a `dest`: the choice is known from which parser was at work.
        name = next((key for key, parser in choices.items() if any(parser is one for one in inner)), None)
    dest = "command" if is_suppressed(action.dest) else action.dest
    if name is not None or action.dest in values:
        seen.add(dest)
        yield Argument(dest, name, "str", text_of(action.help))
    if name in choices:
        yield from _of_actions(choices[name], namespace, inner, seen)


def _leftover(namespace: Any, seen: set[str]) -> Iterator[Argument]:
    """Yield what no action stands for: `set_defaults`, or everything where the parser is not known."""
    for name, value in list(vars(namespace).items()):
        if name not in seen and not name.startswith("_") and not callable(value):
            yield Argument(name, shown(value))


def _word_of(action: Any, value: Any) -> str | None:
    if action.type is not None:
        kind = action.type
        return kind if isinstance(kind, str) else str(getattr(kind, "__name__", type(kind).__name__))
    if action.nargs == 0:
        return "bool" if isinstance(value, bool) else None
    items = value if isinstance(value, list) else [value]
    return "str" if all(item is None or isinstance(item, str) for item in items) else None


def _help_of(parser: Any, action: Any) -> str:
    text = text_of(action.help)
    if "%" not in text:
        return text
    try:
        return str(parser._get_formatter()._expand_help(action))
    except Exception as error:
        if is_interrupt(error):
            raise
        return text
