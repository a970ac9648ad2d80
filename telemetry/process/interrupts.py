"""Exceptions that are not ours: what a signal handler, or another thread, raises into the middle of our code.

A watchdog (SIGALRM and an exception, pytest-timeout, Celery's time limits, a debugger that is left) interrupts
whatever runs just then. That may be a call of ours, inside an `except` that was meant for somebody's `__float__`. Such
an `except` asks `is_interrupt` first, and raises again what is the program's:

    except Exception as error:
        if is_interrupt(error):
            raise

An `except` for the errors of the file system or of a number asks as well, because TimeoutError is an OSError, and
a program may raise what it likes. It costs nothing until something is raised.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import signal
import sys
from collections.abc import Iterator
from types import CodeType, FrameType, TracebackType
from typing import Any

__all__ = ["is_interrupt"]

# Where the interpreter looks for what came from outside: at instructions that raise nothing, and after calls.
_CHECKPOINTS = ("RESUME", "JUMP_BACKWARD")
_STAND_IN_BYTES = 6
_CALLS = ("CALL", "PRECALL", "CALL_FUNCTION_EX", "CALL_KW")


def is_interrupt(error: BaseException) -> bool:
    """Return True if the code that was running has not raised this: a signal handler has, or another thread.

    Known by its traceback: the frame of a signal handler is in it, or of a trace function; or it was set from outside
    (PyThreadState_SetAsyncExc) where nothing is called; or it was raised in our own code or
    Python's, and is of a class that nothing called there knows. KeyboardInterrupt, SystemExit and their kin always are.
    """
    if not isinstance(error, Exception):
        return True
    trace = error.__traceback__
    if trace is None:
        return False
    # The first frame is that of whoever asks.
    called = trace.tb_next
    handlers = set(_handler_codes()) if called is not None else set()
    while called is not None:
        if called.tb_frame.f_code in handlers or _is_given_its_caller(called.tb_frame):
            return True
        trace, called = called, called.tb_next
    return _is_from_outside(error, trace)


def _handler_codes() -> Iterator[CodeType]:
    """Yield the code of each signal handler that is installed now."""
    for number in range(1, signal.NSIG):
        # Not signal.getsignal, which makes an enum of it first, and keeps a ValueError that is raised meanwhile.
        handler: Any = _signal.getsignal(number)
        if not callable(handler):
            continue  # the default action, ignored, or not from Python
        while hasattr(handler, "func"):
            handler = handler.func  # functools.partial
        function = getattr(handler, "__func__", handler)
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            yield code


def _is_given_its_caller(frame: FrameType) -> bool:
    """Say whether a function has its caller's frame as an argument, as only signal handlers and trace functions do.

    A handler may have taken itself out before it raised, and one may call another.
    """
    caller, code = frame.f_back, frame.f_code
    if caller is None:
        return False
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 0x04)  # 0x04: it has *args
    given = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
    return any(value is caller or (type(value) is tuple and any(item is caller for item in value)) for value in given)


def _is_from_outside(error: Exception, innermost: TracebackType) -> bool:
    frame = innermost.tb_frame
    instruction = _instruction(frame.f_code, innermost.tb_lasti)
    if instruction in _CHECKPOINTS:
        # Code that raises and nothing else stands for a function of Cython's, and says where in its source it is.
        return len(frame.f_code.co_code) > _STAND_IN_BYTES
    if instruction not in _CALLS or not _is_known(frame.f_globals.get("__name__")):
        return False
    # A call of what is written in C. What such functions raise is a builtin exception, or one of the library's own
    # that is also a builtin one; a class beside all of these is the program's.
    own = type(error).__mro__[: -len(Exception.__mro__)]
    return not any(kind.__module__ == "builtins" for kind in own) and not _is_known(type(error).__module__)


def _is_known(module: Any) -> bool:
    """Say whether a module is ours or Python's own."""
    home = str(module).partition(".")[0]
    return home == "telemetry" or home in sys.stdlib_module_names


def _instruction(code: CodeType, position: int) -> str:
    import opcode

    return opcode.opname[code.co_code[position]] if 0 <= position < len(code.co_code) else ""
