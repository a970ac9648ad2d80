"""What the files of the parsers share: an argument, a source of arguments, a look at the program's variables.

A source knows one library's module. `watch` wraps the function that parses, once the module is imported; `find` looks
for what was parsed before that: in the library's own state, or in the local variables of the callers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, ClassVar, Protocol

from telemetry.collectors.hooks import Hooks

__all__ = [
    "ARGS",
    "Argument",
    "ArgumentRecorder",
    "ArgumentSource",
    "calling_frames",
    "is_suppressed",
    "program_variables",
    "shown",
    "text_of",
]

# The section of arguments that were typed.
ARGS = "Args"


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


class ArgumentRecorder(Protocol):
    """What a source writes to."""

    @property
    def is_active(self) -> bool: ...

    def guard(self, note: Callable[[], None]) -> None: ...

    def record(self, section: str, arguments: Iterable[Argument], *, choose: bool = True) -> None: ...

    def record_configuration(self, name: str, text: str, kind: str) -> None: ...

    def mask(self, name: str, value: Any) -> Any: ...


class ArgumentSource:
    """One library's arguments; a file for each.

    Attributes:
        name: as in auto_connect_frameworks, if it is there.
        module: its functions are wrapped once this is imported.
        is_parser: it belongs to auto_connect_arg_parser.
    """

    name: ClassVar[str]
    module: ClassVar[str]
    is_parser: ClassVar[bool] = True

    def __init__(self, recorder: ArgumentRecorder) -> None:
        self._recorder = recorder

    def watch(self, module: ModuleType, hooks: Hooks) -> None:
        """Wrap what parses."""

    def find(self, module: ModuleType) -> None:
        """Record what was parsed already."""


def shown(value: Any) -> Any:
    """Return a value as it is recorded: of a file that the parser has opened, its name."""
    name = getattr(value, "name", None)
    return name if isinstance(name, str) and hasattr(value, "fileno") else value


def text_of(value: Any) -> str:
    """Return a help text; "" where there is none, or where it is not to be shown."""
    return value if isinstance(value, str) and not is_suppressed(value) else ""


def is_suppressed(value: Any) -> bool:
    """Tell if a value is argparse's word for what is left out."""
    # Not by == alone: an array or a frame as a default answers that with another one.
    return isinstance(value, str) and value == "==SUPPRESS=="


# ---- the callers' variables --------------------------------------------------------------------------


def calling_frames() -> Iterator[FrameType]:
    """Yield the frames of the call that started us, the nearest first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def program_variables(fits: Callable[[Any], bool]) -> Iterator[Any]:
    """Yield what fits among the variables of the program's own functions that called us, and of its main module."""
    seen: set[int] = set()
    places = [frame.f_locals for frame in calling_frames() if _is_programs(frame.f_globals)]
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
