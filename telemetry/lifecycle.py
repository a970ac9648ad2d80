"""Where the process begins and ends: atexit, signals, uncaught exceptions and forks, here and nowhere else."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, NoReturn, Protocol

__all__ = ["ExitCause", "ExitWatch", "at_worker_exit", "forget_forks", "watch_forks"]


@dataclass(frozen=True, slots=True)
class ExitCause:
    """Why the process ends.

    Attributes:
        kind: "normal", "exception" (uncaught), "signal" or "exit_code" (sys.exit with a failure).
        reason: one line, e.g. "ValueError: bad", "SIGTERM", "exit code 3"; empty for "normal".
        detail: the traceback, for "exception".
    """

    kind: str
    reason: str = ""
    detail: str = ""


NORMAL = ExitCause("normal")


class ExitWatch:
    """Calls `on_exit(cause)` once, when the process ends by whichever way Python lets us see.

    - normal end and sys.exit: from atexit; an exit that the program catches is none;
    - uncaught exception and Ctrl-C: sys.excepthook notes it (and calls the hook that was there), atexit follows;
    - SIGTERM: `on_exit` runs in the handler, then the signal is delivered as it would have been without us: the
      process dies of it (status 143), or the user's handler, if there was one, is called. With a handler of
      the user's the task is only noted as stopped, for the handler may go on for as long as it likes.

    Only the main thread can set signal handlers; made from another thread, the watch leaves signals alone.
    """

    def __init__(self, on_exit: Callable[[ExitCause], None]) -> None:
        self._on_exit = on_exit
        self._cause = NORMAL
        self._called = False
        self._pid = os.getpid()
        self._previous_excepthook = sys.excepthook
        self._previous_exit = sys.exit
        self._previous_sigterm: Any = None
        self._hooks_signal = False
        sys.excepthook = self._excepthook
        sys.exit = self._exit
        atexit.register(self._at_exit)
        if threading.current_thread() is threading.main_thread():
            previous = signal.getsignal(signal.SIGTERM)
            # None: a handler installed from C, which we could not call; SIG_IGN: the user wants to survive it.
            if previous is not None and previous is not signal.SIG_IGN:
                self._previous_sigterm = previous
                signal.signal(signal.SIGTERM, self._sigterm)
                self._hooks_signal = True

    def remove(self) -> None:
        """Take the hooks out again where they are still ours; `on_exit` will not be called."""
        self._called = True
        atexit.unregister(self._at_exit)
        if sys.excepthook == self._excepthook:
            sys.excepthook = self._previous_excepthook
        if sys.exit == self._exit:
            sys.exit = self._previous_exit
        if (
            self._hooks_signal
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) == self._sigterm
        ):
            signal.signal(signal.SIGTERM, self._previous_sigterm)

    def _call(self, cause: ExitCause) -> None:
        # A forked child inherits the hooks; the end of the task is its parent's to tell.
        if not self._called and os.getpid() == self._pid:
            self._called = True
            self._on_exit(cause)

    def _at_exit(self) -> None:
        self._call(self._cause)

    def _excepthook(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            self._cause = ExitCause("signal", "SIGINT")
        else:
            summary = "".join(traceback.format_exception_only(kind, error)).strip().splitlines()
            text = "".join(traceback.format_exception(kind, error, trace))
            self._cause = ExitCause("exception", summary[-1] if summary else kind.__name__, text)
        self._previous_excepthook(kind, error, trace)

    def _exit(self, status: Any = None, /) -> NoReturn:
        if threading.current_thread() is threading.main_thread():
            if status is None or status == 0:
                self._cause = NORMAL
            else:
                reason = f"exit code {status}" if isinstance(status, int) else str(status)[:500]
                self._cause = ExitCause("exit_code", reason)
                error = SystemExit(status)
                error.telemetry_trace = _ExitTrace(self, self._cause)  # type: ignore[attr-defined]
                try:
                    raise error
                finally:
                    del error  # or its traceback would keep this frame, and the frame the error
        raise SystemExit(status)

    def exit_was_caught(self, cause: ExitCause) -> None:
        """The program caught the exit that `cause` tells of, and goes on."""
        if self._cause is cause:
            self._cause = NORMAL

    def _sigterm(self, number: int, frame: FrameType | None) -> None:
        cause = ExitCause("signal", "SIGTERM")
        if callable(self._previous_sigterm):
            self._cause = cause
            self._previous_sigterm(number, frame)
            return
        self._call(cause)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


class _ExitTrace:
    """Hangs on a SystemExit and dies with it, and where that happens tells whether it ended the program.

    The interpreter lets go of an exit that nobody caught when no code of the program runs any more. One that was
    caught goes while its code runs; so does the one that a second exit came in place of, which is the cause by then.
    """

    def __init__(self, watch: ExitWatch, cause: ExitCause) -> None:
        self._watch = watch
        self._cause = cause

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()  # an exit may be sent to another process, which has nothing to watch

    def __del__(self) -> None:
        try:
            outermost = sys._getframe()
            while outermost.f_back is not None:
                outermost = outermost.f_back
            # Under exit handlers and finalizers, which the interpreter calls, there is no module that runs.
            if outermost.f_code.co_name in ("<module>", "_run_module_as_main"):
                self._watch.exit_was_caught(self._cause)
        except Exception:  # noqa: BLE001  an interpreter that is taken apart: there is nobody to tell
            return


# ---- forks -----------------------------------------------------------------------------------------


class Forkable(Protocol):
    def reset_after_fork(self) -> None: ...


_forkables: weakref.WeakSet[Any] = weakref.WeakSet()
_registered = False


def watch_forks(owner: Forkable) -> None:
    """In each forked child, call `owner.reset_after_fork()` before anything else of ours runs there."""
    global _registered
    _forkables.add(owner)
    if not _registered and hasattr(os, "register_at_fork"):
        _registered = True
        os.register_at_fork(after_in_child=_reset_in_child)


def forget_forks(owner: Forkable) -> None:
    _forkables.discard(owner)


def _reset_in_child() -> None:
    for owner in list(_forkables):
        owner.reset_after_fork()


def at_worker_exit(close: Callable[[], object]) -> None:
    """Call `close` when this forked child ends: by atexit, or by multiprocessing's own way, which skips atexit."""
    atexit.register(close)
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        # Before multiprocessing joins its queues (priority 10 and lower).
        util.Finalize(None, close, exitpriority=100)
