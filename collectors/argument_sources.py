"""How the arguments of each library are found: argparse, click, absl, python-fire, jsonargparse, Hydra.

Each source knows one module. `watch` wraps the function that parses, once the module is imported; `find` looks for
what was parsed before that: in the library's own state, or in the local variables of the callers.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, ClassVar, Protocol

from telemetry.collectors.hooks import Hooks

from telemetry.interrupts import is_interrupt

__all__ = ["SOURCES", "ArgparseSource", "Argument", "Recorder", "Source"]

ARGS = "Args"

# Packages that parse for themselves, or have a source of their own: what they do with argparse is not the program's.
_TOOLS = {"IPython", "traitlets", "ipykernel", "pytest", "_pytest", "telemetry", "jsonargparse", "fire", "hydra"}


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument as it was parsed.

    Attributes:
        word: for the type; None is the value's own.
        is_secret: the parser itself hides what is typed.
    """

    name: str
    value: Any
    word: str | None = None
    help: str = ""
    is_secret: bool = False


class Recorder(Protocol):
    """What a source writes to."""

    @property
    def is_active(self) -> bool: ...

    def guard(self, note: Callable[[], None]) -> None: ...

    def record(self, section: str, arguments: Iterable[Argument], *, choose: bool = True) -> None: ...

    def record_configuration(self, name: str, text: str, kind: str) -> None: ...

    def mask(self, name: str, value: Any) -> Any: ...


class Source:
    """One library's arguments.

    Attributes:
        name: as in auto_connect_frameworks, if it is there.
        module: its functions are wrapped once this is imported.
        is_parser: it belongs to auto_connect_arg_parser.
    """

    name: ClassVar[str]
    module: ClassVar[str]
    is_parser: ClassVar[bool] = True

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def watch(self, module: ModuleType, hooks: Hooks) -> None:
        """Wrap what parses."""

    def find(self, module: ModuleType) -> None:
        """Record what was parsed already."""


# ---- argparse ----------------------------------------------------------------------------------------


class ArgparseSource(Source):
    """argparse, and what is built on it.

    Args:
        only_connected: record only parsers that were handed to `connect`.
    """

    name = "argparse"
    module = "argparse"

    def __init__(self, recorder: Recorder, *, only_connected: bool = False) -> None:
        super().__init__(recorder)
        self._only_connected = only_connected
        self._sections: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._parsed: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        # The parsers that are at work on this thread, the outermost first: its sub-parsers run inside it.
        self._at_work = threading.local()

    def watch(self, module: ModuleType, hooks: Hooks) -> None:
        """See Source."""
        for name in ("parse_args", "parse_known_args", "parse_intermixed_args", "parse_known_intermixed_args"):
            hooks.wrap(module.ArgumentParser, name, self._parse)

    def connect(self, parser: Any, section: str) -> None:
        """Record a parser whatever it is: what it has parsed, or else its defaults; and what it will parse."""
        self._sections[parser] = section
        if parser in self._parsed:
            self._note(parser, *self._parsed[parser])
        else:
            names = {action.dest for action in parser._actions}
            found = next((space for space in _found(_is_namespace) if names - {"help"} <= vars(space).keys()), None)
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
        parsers = list(_found(lambda value: isinstance(value, module.ArgumentParser)))
        # The nearest last: it is the one that counts.
        for namespace in reversed(list(_found(_is_namespace))):
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
        if not _is_suppressed(action.dest) and not _is_suppressed(action.default) and action.dest != "help"
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
            yield Argument(action.dest, _shown(value), _word_of(action, value), _help_of(parser, action))


def _of_command(
    action: Any, choices: Mapping[str, Any], namespace: Any, inner: list[Any], seen: set[str]
) -> Iterator[Argument]:
    values = vars(namespace)
    name = values.get(action.dest)
    if name is None:
        # Sub-parsers without a `dest`: the choice is known from which parser was at work.
        name = next((key for key, parser in choices.items() if any(parser is one for one in inner)), None)
    dest = "command" if _is_suppressed(action.dest) else action.dest
    if name is not None or action.dest in values:
        seen.add(dest)
        yield Argument(dest, name, "str", _text(action.help))
    if name in choices:
        yield from _of_actions(choices[name], namespace, inner, seen)


def _leftover(namespace: Any, seen: set[str]) -> Iterator[Argument]:
    """Yield what no action stands for: `set_defaults`, or everything where the parser is not known."""
    for name, value in list(vars(namespace).items()):
        if name not in seen and not name.startswith("_") and not callable(value):
            yield Argument(name, _shown(value))


def _shown(value: Any) -> Any:
    # A file that FileType has opened.
    name = getattr(value, "name", None)
    return name if isinstance(name, str) and hasattr(value, "fileno") else value


def _word_of(action: Any, value: Any) -> str | None:
    if action.type is not None:
        kind = action.type
        return kind if isinstance(kind, str) else str(getattr(kind, "__name__", type(kind).__name__))
    if action.nargs == 0:
        return "bool" if isinstance(value, bool) else None
    items = value if isinstance(value, list) else [value]
    return "str" if all(item is None or isinstance(item, str) for item in items) else None


def _help_of(parser: Any, action: Any) -> str:
    text = _text(action.help)
    if "%" not in text:
        return text
    try:
        return str(parser._get_formatter()._expand_help(action))
    except Exception as error:
        if is_interrupt(error):
            raise
        return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) and not _is_suppressed(value) else ""


def _is_suppressed(value: Any) -> bool:
    # Not by == alone: an array or a frame as a default answers that with another one.
    return isinstance(value, str) and value == "==SUPPRESS=="


# ---- the others --------------------------------------------------------------------------------------


class ClickSource(Source):
    """click, and what is built on it (Typer, rich-click): "command/option"."""

    name = "click"
    module = "click.core"

    def watch(self, module: ModuleType, hooks: Hooks) -> None:
        """See Source."""
        hooks.wrap(module.Command, "invoke", self._invoke)

    def _invoke(self, original: Callable[..., Any], command: Any, context: Any) -> Any:
        self._recorder.guard(lambda: self._note(context))
        return original(command, context)

    def find(self, module: ModuleType) -> None:
        """Record the command inside which we are, and those around it."""
        context = sys.modules["click"].get_current_context(silent=True) if "click" in sys.modules else None
        while context is not None:
            self._note(context)
            context = context.parent

    def _note(self, context: Any) -> None:
        command = context.command
        name = command.name or context.info_name or "main"
        self._recorder.record(
            ARGS,
            [
                Argument(
                    f"{name}/{option.name}",
                    _shown(context.params[option.name]),
                    help=_text(getattr(option, "help", None)),
                    is_secret=bool(getattr(option, "hide_input", False)),
                )
                for option in command.params
                if option.name in context.params
            ],
        )


class AbslSource(Source):
    """absl.flags: section TF_DEFINE."""

    name = "absl"
    module = "absl.flags"

    def watch(self, module: ModuleType, hooks: Hooks) -> None:
        """See Source."""

        def parse(original: Callable[..., Any], flags: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(flags, *args, **kwargs)
            if flags is module.FLAGS:
                self._recorder.guard(lambda: self._note(flags))
            return result

        hooks.wrap(module.FlagValues, "__call__", parse)

    def find(self, module: ModuleType) -> None:
        """See Source."""
        if module.FLAGS.is_parsed():
            self._note(module.FLAGS)

    def _note(self, flags: Any) -> None:
        words = {"string": "str", "bool": "bool", "int": "int", "float": "float"}
        self._recorder.record(
            "TF_DEFINE",
            [
                Argument(flag.name, flag.value, words.get(flag.flag_type()), _text(flag.help))
                for home, own in flags.flags_by_module_dict().items()
                # absl's own: how to log, how to show help.
                if home.partition(".")[0] != "absl"
                for flag in own
            ],
        )


class FireSource(Source):
    """python-fire: the arguments of the function or class that was handed to it; of others "function/argument"."""

    name = "fire"
    module = "fire.core"

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._root: Any = None

    def watch(self, module: ModuleType, hooks: Hooks) -> None:
        """See Source."""

        def fire(original: Callable[..., Any], component: Any, *args: Any, **kwargs: Any) -> Any:
            self._root = component
            try:
                return original(component, *args, **kwargs)
            finally:
                self._root = None

        def make_parse(original: Callable[..., Any], function: Any, *args: Any, **kwargs: Any) -> Any:
            parse = original(function, *args, **kwargs)

            def parse_and_note(words: Any) -> Any:
                result = parse(words)
                self._recorder.guard(lambda: self._note(function, *result[0]))
                return result

            return parse_and_note

        hooks.wrap(module, "_Fire", fire)
        hooks.wrap(module, "_MakeParseFn", make_parse)

    def find(self, module: ModuleType) -> None:
        """Record the calls of python-fire inside which we are, the outermost first."""
        for frame in reversed(list(_frames())):
            if frame.f_globals is not vars(module):
                continue
            names = frame.f_locals
            if frame.f_code.co_name == "_Fire":
                self._root = names.get("initial_component")
            elif frame.f_code.co_name == "_CallAndUpdateTrace" and {"fn", "varargs", "kwargs"} <= names.keys():
                self._note(names["fn"], names["varargs"], names["kwargs"])

    def _note(self, function: Any, positional: Any, named: Mapping[str, Any]) -> None:
        root = self._root
        # An object that can be called is handed over as its __call__.
        called = getattr(root, "__call__", None)  # noqa: B004
        is_root = function is root or (inspect.ismethod(called) and function == called)
        prefix = "" if is_root else f"{function.__name__}/"
        bound = inspect.signature(function).bind(*positional, **named)
        bound.apply_defaults()
        values: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                values.update(value)
            else:
                values[name] = value
        self._recorder.record(ARGS, [Argument(prefix + name, value) for name, value in values.items()])


class JsonargparseSource(Source):
    """jsonargparse, and so LightningCLI: dotted names, as on the command line."""

    name = "jsonargparse"
    module = "jsonargparse"

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._inside = threading.local()

    def watch(self, module: ModuleType, hooks: Hooks) -> None:
        """See Source."""
        for name in ("parse_args", "parse_object", "parse_path", "parse_string"):
            hooks.wrap(module.ArgumentParser, name, self._parse)

    def _parse(self, original: Callable[..., Any], parser: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self._inside, "busy", False):
            return original(parser, *args, **kwargs)
        self._inside.busy = True
        try:
            result = original(parser, *args, **kwargs)
        finally:
            self._inside.busy = False
        self._recorder.guard(lambda: self._note(result, parser))
        return result

    def find(self, module: ModuleType) -> None:
        """Record the jsonargparse Namespaces among the callers' variables."""
        for namespace in reversed(list(_found(lambda value: isinstance(value, module.Namespace)))):
            self._note(namespace, None)

    def _note(self, namespace: Any, parser: Any) -> None:
        helps = {action.dest: _text(action.help) for action in getattr(parser, "_actions", ())}
        self._recorder.record(
            ARGS,
            [
                Argument(name, value, help=helps.get(name, ""))
                for name, value in vars(namespace.as_flat()).items()
                if not name.startswith("__")
            ],
        )


class HydraSource(Source):
    """Hydra: the overrides in section Hydra, and the composed configuration as the configuration object OmegaConf."""

    name = "hydra"
    module = "hydra.core.utils"
    is_parser = False

    def watch(self, module: ModuleType, hooks: Hooks) -> None:
        """See Source."""
        run_job = module.run_job

        def run(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            bound = inspect.signature(original).bind(*args, **kwargs).arguments
            self._recorder.guard(lambda: self._note(bound["config"]))
            return original(*args, **kwargs)

        # Others have imported it by name.
        for name, other in list(sys.modules.items()):
            if name.partition(".")[0] == "hydra" and vars(other).get("run_job") is run_job:
                hooks.wrap(other, "run_job", run)

    def find(self, module: ModuleType) -> None:
        """Record the job inside which we are."""
        for frame in _frames():
            if frame.f_code.co_name == "run_job" and "config" in frame.f_locals:
                self._note(frame.f_locals["config"])
                return

    def _note(self, config: Any) -> None:
        conf: Any = sys.modules["omegaconf"].OmegaConf
        given = conf.to_container(config.hydra.overrides.task)
        pairs = [str(item).lstrip("+~").partition("=") for item in given]
        self._recorder.record("Hydra", [Argument(name, value, "str") for name, _, value in pairs], choose=False)
        whole = conf.to_container(config, resolve=False)
        whole.pop("hydra", None)
        self._recorder.record_configuration("OmegaConf", conf.to_yaml(conf.create(self._masked(whole))), "yaml")

    def _masked(self, value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: self._masked(item, str(key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._masked(item, name) for item in value]
        return self._recorder.mask(name, value)


SOURCES: tuple[type[Source], ...] = (
    ArgparseSource,
    ClickSource,
    AbslSource,
    FireSource,
    JsonargparseSource,
    HydraSource,
)


# ---- the callers' variables --------------------------------------------------------------------------


def _frames() -> Iterator[FrameType]:
    """Yield the frames of the call that started us, the nearest first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _found(fits: Callable[[Any], bool]) -> Iterator[Any]:
    """Yield what fits among the variables of the program's own functions that called us, and of its main module."""
    seen: set[int] = set()
    places = [frame.f_locals for frame in _frames() if _is_programs(frame.f_globals)]
    main = vars(sys.modules["__main__"]) if "__main__" in sys.modules else {}
    if _is_programs(main):
        places.append(main)
    for place in places:
        for value in list(place.values()):
            if id(value) not in seen and fits(value):
                seen.add(id(value))
                yield value


_STANDARD_LIBRARY = str(Path(os.__file__).parent)


def _is_programs(variables: Mapping[str, Any]) -> bool:
    """False for installed packages and for ourselves."""
    name, file = str(variables.get("__name__", "")), str(variables.get("__file__", ""))
    if name.partition(".")[0] == "telemetry" or "site-packages" in file or "dist-packages" in file:
        return False
    return not file.startswith(_STANDARD_LIBRARY)
