"""Where the process begins and ends: atexit, exits, exceptions and forks. What would kill it is seen by signals.py."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
import weakref
from _sitebuiltins import Quitter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from telemetry.process import signals
from telemetry.process.outermost import Outermost, last_words

if TYPE_CHECKING:
    from telemetry.protocols import Forkable

__all__ = ["ExitCause", "ExitWatch", "at_worker_exit", "cause_of", "forget_forks", "watch_forks"]


@dataclass(frozen=True, slots=True)
class ExitCause:
    """Why the process ends.

    Attributes:
        kind: "normal", "exception" (uncaught), "signal" or "exit_code" (an exit with a failure).
        reason: one line, e.g. "ValueError: bad", "SIGTERM", "exit code 3"; empty for "normal".
        detail: the traceback, for "exception"; where the program was, for a signal that kills.
        is_deadly: the process dies of it within signals.LAST_WORDS_S, whatever `on_exit` does.
    """

    kind: str
    reason: str = ""
    detail: str = ""
    is_deadly: bool = False


NORMAL = ExitCause("normal")


class ExitWatch:
    """Calls `on_exit(cause)` once, when the process ends by whichever way Python lets us see.

    - normal end and exits: from atexit; an exit or exception that the program outlives is none;
    - uncaught exception and Ctrl-C: from atexit too, by what the interpreter has kept of it. sys.excepthook is left
      alone: where it is not the interpreter's own, Qt and the standard library's prompts behave differently;
    - a signal that kills: `on_exit` runs, on the main thread or another, then the process dies of it, see signals.py;
    - SIGTERM with a handler of the program's, set before: the task is noted as stopped and the handler called, which
      may go on for as long as it likes.
    """

    def __init__(self, on_exit: Callable[[ExitCause], None]) -> None:
        self._on_exit = on_exit
        self._noted: ExitCause | None = None
        self.program = Outermost()
        self._last_error = id(_last_error())
        # Taken, not locked: whoever comes first ends the task, on whichever thread, and no handler waits for itself.
        self._turn = [True]
        self._ender = 0
        self._told = threading.Event()
        self._previous_exit = sys.exit
        self._previous_quit = Quitter.__call__
        sys.exit = self._exit
        # site's exit() and quit() raise SystemExit themselves.
        self._quit = self._watched_quit()
        Quitter.__call__ = self._quit  # type: ignore[assignment, method-assign]
        atexit.register(self._at_exit)
        signals.watch(self)
        watch_forks(self)

    def begin_end(self) -> None:
        """The program ends the task by itself: `on_exit` will not be called, and signals wait until `remove`."""
        self._turn.clear()
        self._ender = self._ender or threading.get_ident()

    def remove(self) -> None:
        """Take the hooks out again where they are still ours; `on_exit` will not be called."""
        self._turn.clear()
        self._told.set()
        self.program.forget()
        atexit.unregister(self._at_exit)
        signals.forget(self)
        forget_forks(self)
        self._put_back()

    def reset_after_fork(self) -> None:
        """In a forked child: as if there were no watch, for the end of the task is its parent's to tell."""
        self._turn.clear()
        self._put_back()

    def _put_back(self) -> None:
        if sys.exit == self._exit:
            sys.exit = self._previous_exit
        if Quitter.__call__ is self._quit:
            Quitter.__call__ = self._previous_quit  # type: ignore[method-assign]

    def _call(self, cause: ExitCause) -> None:
        try:
            self._turn.pop()
        except IndexError:
            return
        self._ender = threading.get_ident()
        try:
            self._on_exit(cause)
        finally:
            self._told.set()

    # ---- what is noted ---------------------------------------------------------------------------

    def _at_exit(self) -> None:
        self._call(self._cause())
        signals.forget(self)
        signals.await_death()

    def _cause(self) -> ExitCause:
        """Return what ended the program: of all that was noted on the way, what it did not outlive."""
        noted = self._noted
        if self.program.returned:
            # A shell or a test runner has caught what was noted; but a signal was sent, whoever handled it.
            return noted if noted is not None and noted.kind == "signal" else NORMAL
        if noted is not None:
            return noted
        error = _last_error()
        shown = error is not None and id(error) != self._last_error
        if error is not None and shown and (self.program.was_ended or not self.program.is_known):
            return cause_of(error)
        # A SystemExit that the program raised itself: nobody is shown it, but its text, if it has one, is printed.
        told = self.program.raised_constants() or ((last_words(),) if self.program.was_ended else ())
        return _cause_of_exit(next(iter(told), None) or None)

    def _exit(self, status: Any = None, /) -> Any:
        try:
            return self._previous_exit(status)
        except SystemExit as error:
            self._watch_exit(error)
            raise

    def _watched_quit(self) -> Callable[..., None]:
        quit_ = self._previous_quit

        def watched(quitter: Quitter, code: Any = None) -> None:
            try:
                quit_(quitter, code)
            except SystemExit as error:
                self._watch_exit(error)
                raise

        return watched

    def _watch_exit(self, error: SystemExit) -> None:
        """Note an exit of the main thread, until the program turns out to have caught it."""
        if threading.current_thread() is threading.main_thread():
            cause = _cause_of_exit(error.code)
            if cause is NORMAL and self._noted is not None and self._noted.kind == "signal":
                return  # a handler that saved what it had: the signal is still what ended the program
            self._noted = cause
            error.telemetry_trace = _ExitTrace(self, cause)  # type: ignore[attr-defined]

    def exit_was_caught(self, cause: ExitCause) -> None:
        """The program caught the exit that `cause` tells of, and goes on."""
        if self._noted is cause:
            self._noted = None

    # ---- signals ---------------------------------------------------------------------------------

    @property
    def is_ending(self) -> bool:
        return self._ender == threading.get_ident() and not self._told.is_set()

    def on_handled_signal(self, name: str) -> None:
        self._noted = ExitCause("signal", name)

    def on_signal(self, name: str, where: str) -> None:
        self._call(ExitCause("signal", name, where, is_deadly=True))
        # Where another thread is already ending the task, it is to come to its end.
        self._told.wait(signals.LAST_WORDS_S)


def cause_of(error: BaseException) -> ExitCause:
    """Return what an exception means that nobody has caught."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCause("signal", "SIGINT")
    if isinstance(error, SystemExit):
        return _cause_of_exit(error.code)
    summary = "".join(traceback.format_exception_only(error)).strip().splitlines()
    text = "".join(traceback.format_exception(error))
    return ExitCause("exception", summary[-1] if summary else type(error).__name__, text)


def _cause_of_exit(code: object) -> ExitCause:
    if code is None or code == 0:
        return NORMAL
    # sys.exit("text") prints the text and exits with 1: the text is the better reason.
    return ExitCause("exit_code", f"exit code {code}" if isinstance(code, int) else str(code)[:500])


def _last_error() -> BaseException | None:
    """Return the last exception that the interpreter has shown, whichever hook showed it."""
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)  # last_exc: Python 3.12
    return error if isinstance(error, BaseException) else None


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
            if self._watch.program.runs_below:
                self._watch.exit_was_caught(self._cause)
        except Exception:  # noqa: BLE001  an interpreter that is taken apart: there is nobody to tell
            return


# ---- forks -----------------------------------------------------------------------------------------


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


# What a child's last words may take where a signal ends it: whoever terminates a pool waits for each worker.
HURRIED_S = 0.3


def at_worker_exit(close: Callable[[float | None], object], *, also_of_sigterm: bool = True) -> None:
    """Call `close(timeout_s)` when this child ends; None for the time that it always has.

    By atexit, by multiprocessing's own way, which skips atexit, or of SIGTERM, which ends the workers of a pool.
    """
    atexit.register(close, None)
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        # Before multiprocessing joins its queues (priority 10 and lower).
        util.Finalize(None, close, args=(None,), exitpriority=100)
    if also_of_sigterm:
        signals.watch(_WorkerEnd(close), in_child=True)


class _WorkerEnd:
    """Tells a part of a child that SIGTERM ends it."""

    def __init__(self, close: Callable[[float | None], object]) -> None:
        self._close = close

    is_ending = False  # no handler runs on a child's main thread

    def on_signal(self, name: str, where: str) -> None:
        self._close(HURRIED_S)

    def on_handled_signal(self, name: str) -> None:
        """The program's own handler ends the child, or does not."""
