"""Command-line arguments and configurations of the program, as parameters of its task.

Nothing is patched before the collector starts, and nothing is imported for it. A parser of argparse that ran before
is found by its result: the caller's variables and those of the main module are searched for its Namespace.

Each library has a file of its own, and SOURCES names them all; here is what they share: which arguments are wanted,
what is hidden, and how they are written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

from telemetry.collectors.arguments_absl import AbslSource
from telemetry.collectors.arguments_argparse import ArgparseSource
from telemetry.collectors.arguments_click import ClickSource
from telemetry.collectors.arguments_fire import FireSource
from telemetry.collectors.arguments_hydra import HydraSource
from telemetry.collectors.arguments_jsonargparse import JsonargparseSource
from telemetry.collectors.arguments_source import Argument, ArgumentSource
from telemetry.collectors.hooks import Hooks
from telemetry.collectors.post_import import PostImport

from telemetry.clock import unix_ns
from telemetry.errors import ConfigurationError, EventsDropped
from telemetry.events import RecordChange, clean_name, clean_text
from telemetry.ledger import DropReason
from telemetry.process.interrupts import is_interrupt
from telemetry.protocols import Emit
from telemetry.record import Section
from telemetry.values import entry

__all__ = ["SOURCES", "ArgumentCollector", "Selection", "WriteArguments"]

_log = logging.getLogger(__name__)

# The record's section -> key -> value.
WriteArguments: TypeAlias = Callable[[Mapping[str, Mapping[str, Any]]], None]

# A library more is a file more, and a line here.
SOURCES: tuple[type[ArgumentSource], ...] = (
    ArgparseSource,
    ClickSource,
    AbslSource,
    FireSource,
    JsonargparseSource,
    HydraSource,
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which arguments are recorded.

    Args:
        chosen: True for all, False or {} for none; or by the name of the variable: True or False. A name that is
            missing is recorded, unless "*" is False.

    Raises:
        ConfigurationError: something else was chosen.
    """

    chosen: bool | Mapping[str, bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.chosen, bool):
            return
        if not isinstance(self.chosen, Mapping) or not all(isinstance(name, str) for name in self.chosen):
            raise ConfigurationError(
                "auto_connect_arg_parser must be a bool or a dict from an argument's name to a bool, not "
                f"{self.chosen!r:.80}"
            )

    def __bool__(self) -> bool:
        return bool(self.chosen)

    def allows(self, name: str) -> bool:
        """Return True if an argument is to be recorded; of "command/option" either name may have been chosen."""
        if isinstance(self.chosen, bool):
            return self.chosen
        named = {_variable(key): bool(value) for key, value in self.chosen.items()}
        for candidate in (name, name.rpartition("/")[2]):
            if candidate in named:
                return named[candidate]
        return bool(self.chosen) and named.get("*", True)


def _variable(key: str) -> str:
    # "--batch-size" is what one types, batch_size what argparse calls it.
    return key.lstrip("-").replace("-", "_") if key.startswith("-") else key


def _is_empty(value: Any) -> bool:
    # Not by its truth: that of an array is an error.
    return value is None or value is False or (isinstance(value, (str, bytes, list, tuple, dict)) and not len(value))


def _unmasked(name: str, value: Any) -> Any:
    return value


class ArgumentCollector:
    """Records what the program's argument parsers have parsed, in whatever moment they do.

    Args:
        selection: see Selection.
        hydra, absl: False leaves these out.
        mask: from (name, value) to the value that may be recorded.
        clock: Unix time in ns.
    """

    name = "arguments"

    def __init__(
        self,
        selection: bool | Mapping[str, bool] = True,
        *,
        hydra: bool = True,
        absl: bool = True,
        mask: Callable[[str, Any], Any] = _unmasked,
        clock: Callable[[], int] = unix_ns,
    ) -> None:
        self.selection = Selection(selection)
        self._off = {"hydra": not hydra, "absl": not absl}
        self._mask = mask
        self._clock = clock
        self._emit: Emit | None = None
        self._write: WriteArguments | None = None
        self._owner_pid = os.getpid()
        self._hooks = Hooks()
        self._post_import: PostImport | None = None
        self._argparse: ArgparseSource | None = None

    def write_to(self, write: WriteArguments) -> None:
        """Let changes go through this from now on, and not straight into the stream."""
        self._write = write

    def start(self, emit: Emit) -> None:
        """Record what was parsed already, and watch the parsers that are imported and those that will be."""
        self._emit, self._owner_pid = emit, os.getpid()
        callbacks: dict[str, Callable[[ModuleType], None]] = {}
        for kind in SOURCES:
            wanted = bool(self.selection) if kind.is_parser else True
            if wanted and not self._off.get(kind.name, False):
                source = kind(self)
                if isinstance(source, ArgparseSource):
                    self._argparse = source
                callbacks[kind.module] = self._starter(source)
        if callbacks:
            self._post_import = PostImport(callbacks)
            self._post_import.install()

    def _starter(self, source: ArgumentSource) -> Callable[[ModuleType], None]:
        def begin(module: ModuleType) -> None:
            source.watch(module, self._hooks)
            self.guard(lambda: source.find(module))

        return begin

    def stop(self) -> None:
        """Put the libraries' functions back."""
        self._emit = None
        if self._post_import is not None:
            self._post_import.remove()
        self._hooks.restore()

    def connect(self, parser: Any, section: str) -> None:
        """Record this parser's arguments: its defaults now, and what it parses from now on."""
        if self._emit is None:
            return
        if self._argparse is None:
            import argparse

            self._argparse = ArgparseSource(self, only_connected=True)
            self._argparse.watch(argparse, self._hooks)
        argparse_source = self._argparse
        self.guard(lambda: argparse_source.connect(parser, section))

    # ---- for the sources ---------------------------------------------------------------------------

    @property
    def is_active(self) -> bool:
        """False after stop, and in a forked child, which is not the program that the task is about."""
        return self._emit is not None and os.getpid() == self._owner_pid

    def guard(self, note: Callable[[], None]) -> None:
        """Take a note of what was parsed; it never raises into the program's parsing."""
        if not self.is_active:
            return
        try:
            note()
        except EventsDropped:
            pass  # strict mode; counted already, and it is for report calls to raise
        except Exception as error:
            if is_interrupt(error):
                raise
            self._refuse(f"the program's arguments were not noted: {error!r}")

    def record(self, section: str, arguments: Iterable[Argument], *, choose: bool = True) -> None:
        """Write arguments as parameters of a section.

        Args:
            choose: False for what is no argument of a parser, and so not in the selection.
        """
        # A parser that was connected by hand is wanted even where none is by itself.
        choose = choose and bool(self.selection)
        entries: dict[str, Any] = {}
        for argument in arguments:
            if choose and not self.selection.allows(argument.name):
                continue
            hidden = argument.is_secret and not _is_empty(argument.value)
            value = "***" if hidden else self._mask(argument.name, argument.value)
            entries[clean_name(f"{section}/{argument.name}")] = entry(value, argument.help, argument.word)
        if entries:
            self._change({Section.PARAMETERS: entries})

    def record_configuration(self, name: str, text: str, kind: str) -> None:
        """Write a configuration object."""
        self._change({Section.CONFIGURATION: {name: {"text": clean_text(text), "type": kind, "description": ""}}})

    def mask(self, name: str, value: Any) -> Any:
        """Return a value as it may be recorded."""
        return self._mask(name, value)

    def _change(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        emit = self._emit
        if emit is None:
            return
        if self._write is not None:
            self._write(sections)
            return
        now_unix_ns = self._clock()
        for section, values in sections.items():
            for key, value in values.items():
                emit(RecordChange(now_unix_ns, section, key, value))

    def _refuse(self, message: str) -> None:
        emit = self._emit
        if emit is None:
            return
        try:
            emit.refuse(DropReason.INVALID, message)
        except EventsDropped:
            pass  # strict mode; counted already
