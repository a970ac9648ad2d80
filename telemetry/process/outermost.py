"""The program's outermost frame: whether the program still runs, and whether it returned or was ended by an exception.

Hooks do not tell. sys.excepthook is called by shells for a typo at the prompt and by programs that only want a
traceback printed; SystemExit passes no hook at all, and may be caught. The frame knows: a module that has come to its
end stands at its return, one that an exception has ended stands where that left it.
"""

from __future__ import annotations

import opcode
import sys
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["Outermost", "is_interactive", "last_words", "note_last_words"]

# The code that the interpreter itself begins a program with: a file or -c, and runpy for -m and zip files.
_NAMES = ("<module>", "_run_module_as_main")
_RETURNS = tuple(opcode.opmap[name] for name in ("RETURN_VALUE", "RETURN_CONST") if name in opcode.opmap)
_RAISE = opcode.opmap["RAISE_VARARGS"]


# What the interpreter itself wrote last, of which no code of the program knows.
_last_words: list[str] = []


def note_last_words(text: str) -> None:
    """Note a text that was written to a stream while no Python code ran: by the interpreter, as it ends the program."""
    if text.strip():
        _last_words[:] = [text]


def last_words() -> str:
    """Return what `note_last_words` was told last; "" for nothing. Of a `SystemExit("text")` it is the text."""
    return _last_words[0] if _last_words else ""


class Outermost:
    """The frame that the main thread's program began with, found by the main thread while the program runs.

    Keeps the frame alive, whose names are the module's, until `forget`. On another thread, and where the main thread
    began with anything else (a greenlet, an embedding program), nothing is known, and both questions are answered with
    False. sys._current_frames would show the main thread's to any thread, but may hang for ever (CPython issue 106883:
    it can begin a garbage collection under a lock that other threads need to go on).
    """

    def __init__(self) -> None:
        self._frame: FrameType | None = None
        if threading.current_thread() is threading.main_thread():
            self._frame = list(_outwards(sys._getframe()))[-1]
            if self._frame.f_code.co_name not in _NAMES:
                self._frame = None

    def forget(self) -> None:
        self._frame = None

    @property
    def runs_below(self) -> bool:
        """True if the caller was called, through however many others, by the program; False if by the interpreter."""
        frames = list(_outwards(sys._getframe(1)))
        return self._frame in frames if self._frame is not None else frames[-1].f_code.co_name in _NAMES

    @property
    def returned(self) -> bool:
        """True if the program came to its end, however many exceptions it saw before."""
        return self._has_ended and self._instruction in _RETURNS

    @property
    def was_ended(self) -> bool:
        """True if an exception ended the program: one that was shown, or a SystemExit."""
        return self._has_ended and self._instruction not in _RETURNS

    def raised_constants(self) -> tuple[object, ...] | None:
        """Return the argument of the `raise SystemExit(3)` that ended the program; None if it was no such statement.

        Only a literal argument of a statement at the outermost level can be read back from the code.
        """
        if not self.was_ended or self._instruction != _RAISE:
            return None
        assert self._frame is not None
        import dis  # not at the start of every program

        before: list[dis.Instruction] = []
        for item in dis.get_instructions(self._frame.f_code):
            if item.offset == self._frame.f_lasti:
                break
            if item.opname not in ("PRECALL", "CACHE", "PUSH_NULL"):
                before.append(item)
        loaded = [item.opname.startswith("LOAD_CONST") or item.opname == "LOAD_SMALL_INT" for item in before[-3:]]
        names = [item.argval for item in before[-3:]]
        if names[-1:] == ["SystemExit"]:
            return ()
        if len(names) == 3 and names[0] == "SystemExit" and loaded[1] and before[-1].opname == "CALL":
            return (names[1],)
        return () if names[-2:-1] == ["SystemExit"] and before[-1].opname == "CALL" else None

    @property
    def is_known(self) -> bool:
        """False where nothing can be told: not even at a prompt, where each line is a program, and none the whole."""
        return self._frame is not None or is_interactive()

    @property
    def _has_ended(self) -> bool:
        if self._frame is None or is_interactive() or threading.current_thread() is not threading.main_thread():
            return False
        return self._frame not in _outwards(sys._getframe())

    @property
    def _instruction(self) -> int:
        assert self._frame is not None
        return self._frame.f_code.co_code[self._frame.f_lasti]


def is_interactive() -> bool:
    """Say whether somebody sits at a prompt: an exception there ends a line, and not the program."""
    return bool(hasattr(sys, "ps1") or sys.flags.interactive or sys.flags.inspect)


def _outwards(start: FrameType) -> Iterator[FrameType]:
    frame: FrameType | None = start
    while frame is not None:
        yield frame
        frame = frame.f_back
