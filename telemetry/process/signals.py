"""Signals that would kill the process: seen in time to save what is there, also where the main thread can do nothing.

Two ways lead to the listeners, and after them the process dies of the signal, as it would have died at once without us.

- SIGTERM has a Python handler, which stops the program where it is. It runs once the main thread is back in Python.
- Beside it, and alone for the other signals, there is faulthandler's handler, in C: it writes where the program was
  into a pipe, and a thread of ours reads it. A main thread in a long C call (a stuck all-reduce) does not come back in
  time: then the thread tells the listeners, and sends the signal again.

What the program ignores or handles, in Python or in C, is left to it; a Python handler for SIGTERM is called by ours,
and one that is set later takes the place of ours, which it may call like any other. `signal.set_wakeup_fd` is left to
asyncio and trio. A forked child begins with the dispositions of the program, and never has a Python handler of ours: a
worker that takes SIGTERM by one just before it waits in C would lose it for good. One that reports has the second way.
"""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import select
import signal
import threading
import traceback
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from telemetry.process.threads import start_daemon

__all__ = ["LAST_WORDS_S", "Listener", "await_death", "forget", "watch"]

log = logging.getLogger(__name__)

# Whoever sends a signal and waits is to see the process dead within 2 s, whatever the listeners do.
LAST_WORDS_S = 1.6

# A main thread that runs Python code begins its handler within this time.
HANDLER_GRACE_S = 0.2

# How often the pipes are looked at: a program that closes all descriptors (a daemon) closes them, too.
CHECK_INTERVAL_S = 1.0

# A traceback comes in many small writes, all of them within the handler.
DRAIN_S = 0.02
_MAX_TRACE_BYTES = 65_536

# What schedulers, terminals and users end programs with. SIGINT is here for programs that gave it its default back.
_NAMES = ("SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU")


class Listener(Protocol):
    """Who is to be told."""

    @property
    def is_ending(self) -> bool:
        """True if the calling thread is just doing what `on_signal` is to do, and needs to get on with it."""

    def on_signal(self, name: str, where: str) -> None:
        """Called when the process is about to die of the signal `name`, within LAST_WORDS_S; on any thread.

        Args:
            where: the stack of the program, as text; "" where it is not known.
        """

    def on_handled_signal(self, name: str) -> None:
        """Called when a signal came that is the program's own to handle; on the main thread, in a signal handler."""


@dataclass(slots=True)
class _Pipe:
    """The pipe of one signal: which it was is known by the pipe that was written to. Number 0: the watch ends."""

    number: int
    read_end: int
    write_end: int
    identity: tuple[int, int]

    @classmethod
    def open(cls, number: int) -> _Pipe:
        read_end, write_end = os.pipe()
        # A handler must never wait; what does not fit is cut off.
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        return cls(number, read_end, write_end, _identity(read_end))

    @property
    def is_ours(self) -> bool:
        """False once the program has closed a descriptor, which may be a stranger's file by now."""
        return _identity(self.read_end) == _identity(self.write_end) == self.identity

    def close(self) -> None:
        if self.is_ours:
            os.close(self.read_end)
            os.close(self.write_end)


def _identity(descriptor: int) -> tuple[int, int]:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return (0, 0)
    return (status.st_dev, status.st_ino)


@dataclass(slots=True)
class _Watch:
    """The state of this process; a forked child begins with a new one.

    Attributes:
        handled: SIGTERM's handler before ours; None where ours is not set.
        on_main: set when the main thread has begun to die.
        dying: set when any thread has.
        told: set when the listeners have been told.
        is_whole: False for a child that is watched for SIGTERM alone, with no Python handler.
    """

    listeners: list[Listener] = field(default_factory=list)
    pipes: dict[int, _Pipe] = field(default_factory=dict)
    stop: _Pipe | None = None
    handled: Any = None
    forking: int = 0
    masks: dict[int, set[int]] = field(default_factory=dict)
    on_main: threading.Event = field(default_factory=threading.Event)
    dying: threading.Event = field(default_factory=threading.Event)
    turn: list[bool] = field(default_factory=lambda: [True])
    told: threading.Event = field(default_factory=threading.Event)
    is_whole: bool = False


_lock = threading.RLock()  # re-entrant: a signal handler may fork while its thread holds it
_watch = _Watch()
_registered = False


def watch(listener: Listener, *, in_child: bool = False) -> None:
    """Tell the listener of signals from now on, before those that were there. Safe from any thread.

    The Python handler is the main thread's to set. Where no thread or pipe can be had, and on Windows, a main thread in
    a C call is not helped, as it is not without us.

    Args:
        in_child: of SIGTERM alone, and without a Python handler.
    """
    global _registered
    with _lock:
        _watch.listeners.insert(0, listener)
        if not _registered and hasattr(os, "register_at_fork"):
            _registered = True
            os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
            atexit.register(await_death)
        if len(_watch.listeners) == 1 or not (in_child or _watch.is_whole):
            _end()
            caught = _caught_in_c()
            if not in_child:
                _watch.is_whole = True
                _take_sigterm(caught)
            try:
                _begin(caught)
            except OSError as error:
                log.debug("no second way to die of a signal: %s", error)
                _end()


def forget(listener: Listener) -> None:
    """Tell the listener no more; without any, all signals are as they were."""
    with _lock:
        if listener in _watch.listeners:
            _watch.listeners.remove(listener)
            if not _watch.listeners and not _watch.dying.is_set():
                _end()
                _give_sigterm_back()
                _watch.is_whole = False


def await_death() -> None:
    """Return at once, or never: a program that comes to its end while a signal is about to kill it dies of that."""
    if _watch.dying.is_set():
        threading.Event().wait(LAST_WORDS_S + HANDLER_GRACE_S + 1)


# ---- the main thread's way -----------------------------------------------------------------------------


def _take_sigterm(caught: int) -> None:
    if threading.current_thread() is threading.main_thread():
        previous = signal.getsignal(signal.SIGTERM)
        is_free = previous is signal.SIG_DFL and not caught >> (signal.SIGTERM - 1) & 1
        if is_free or callable(previous):
            _watch.handled = previous
            signal.signal(signal.SIGTERM, _on_sigterm)


def _give_sigterm_back() -> None:
    if threading.current_thread() is threading.main_thread() and _is_ours(signal.SIGTERM):
        signal.signal(signal.SIGTERM, _watch.handled)


def _is_ours(number: int) -> bool:
    return signal.getsignal(number) is _on_sigterm and _watch.handled is not None


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    previous = _watch.handled
    if callable(previous) or not _is_ours(number):
        # The program's handler decides: it is called by ours, or has just called ours as one that was there before it.
        for listener in list(_watch.listeners):
            listener.on_handled_signal(signal.Signals(number).name)
        if callable(previous):
            previous(number, frame)
        return
    _watch.dying.set()
    if number in _watch.pipes and any(listener.is_ending for listener in _watch.listeners):
        return  # the signal came into the end of the task: the thread sees to it that that is the process's end, too
    _watch.on_main.set()
    _tell(_watch, signal.Signals(number).name, "".join(traceback.format_stack(frame)))
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


# ---- the other way -------------------------------------------------------------------------------------


def _begin(caught: int) -> None:
    """Open the pipes, start the thread, and only then take the signals; the lock is held."""
    if not hasattr(faulthandler, "register"):
        return
    for name in _NAMES if _watch.is_whole else _NAMES[:1]:
        number = getattr(signal, name, 0)
        is_free = signal.getsignal(number) is signal.SIG_DFL and not caught >> (number - 1) & 1
        if number and (is_free or (_is_ours(number) and _watch.handled is signal.SIG_DFL)):
            _watch.pipes[number] = _Pipe.open(number)
    _watch.stop = _Pipe.open(0)
    if start_daemon(partial(_read, _watch), "telemetry-signals") is None:
        _end()
        return
    _take_signals()


def _end() -> None:
    """Give the signals back, and let the thread end; the lock is held."""
    _give_signals_back()
    pipes, _watch.pipes = _watch.pipes, {}
    for pipe in pipes.values():
        pipe.close()
    stop, _watch.stop = _watch.stop, None
    if stop is not None and stop.is_ours:
        os.write(stop.write_end, b"\0")  # the thread sees it, and closes the pipe


def _caught_in_c() -> int:
    """Return the signals that have a handler, as a bit mask: also those of C code, of which Python knows nothing."""
    try:
        with Path("/proc/self/status").open("rb", buffering=0) as file:
            status = file.read(16_384) or b""
    except OSError:
        return 0  # not Linux
    return int(status.partition(b"SigCgt:")[2].split(None, 1)[0] or b"0", 16) if b"SigCgt:" in status else 0


def _take_signals() -> None:
    for number, pipe in _watch.pipes.items():
        chained = _is_ours(number)
        if (chained or signal.getsignal(number) is signal.SIG_DFL) and pipe.is_ours:
            # One thread alone: the frames of others, which run meanwhile, cannot be read without the risk of a crash.
            # Of a thread that just begins nothing can be written, and the signal would be lost: so threads of ours
            # take none (threads.py). What is left is a signal in the moment in which the program starts a thread.
            faulthandler.register(number, file=pipe.write_end, all_threads=False, chain=chained)


def _give_signals_back() -> None:
    for number in _watch.pipes:
        # Where the program has set a handler since, that one is in force, and must stay.
        if _is_ours(number) or signal.getsignal(number) is signal.SIG_DFL:
            faulthandler.unregister(number)


def _read(mine: _Watch) -> None:
    """Wait for a signal, or for the end of the watch; the thread's whole life."""
    stop = mine.stop
    assert stop is not None
    poll = select.poll()
    pipes = {pipe.read_end: pipe for pipe in mine.pipes.values()}
    for descriptor in (stop.read_end, *pipes):
        poll.register(descriptor, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll(CHECK_INTERVAL_S * 1000)]
        with _lock:
            if mine is not _watch or mine.stop is not stop:
                stop.close()
                return
            if not all(pipe.is_ours for pipe in pipes.values()):
                # A daemon's beginning. A handler that writes into a stranger's file would be worse than none.
                _end()
                stop.close()
                return
        for descriptor in ready:
            _die_of(pipes[descriptor], mine)
            return


def _die_of(pipe: _Pipe, mine: _Watch) -> None:
    """Tell the listeners, or see the main thread do it, and die."""
    mine.dying.set()
    name = signal.Signals(pipe.number).name
    if not (_is_ours(pipe.number) and mine.on_main.wait(HANDLER_GRACE_S)):
        where = _drain(pipe.read_end) if mine.is_whole else ""
        if start_daemon(partial(_tell, mine, name, where), "telemetry-last-words") is None:
            mine.told.set()
    mine.told.wait(LAST_WORDS_S)
    with _lock:
        _give_signals_back()
        mine.pipes = {}  # so that no fork takes them again
        if _is_ours(pipe.number):
            _restore_default_in_c(pipe.number)
    os.kill(os.getpid(), pipe.number)


def _restore_default_in_c(number: int) -> None:
    """Do what signal.signal(number, SIG_DFL) does, which is the main thread's alone, and that does not come."""
    try:
        import ctypes

        ctypes.pythonapi.PyOS_setsig(number, None)
    except (ImportError, AttributeError, OSError):
        os._exit(128 + number)  # as a shell tells it


def _tell(mine: _Watch, name: str, where: str) -> None:
    try:
        mine.turn.pop()
    except IndexError:
        mine.told.wait(LAST_WORDS_S)  # another thread tells
        return
    for listener in list(mine.listeners):
        try:
            listener.on_signal(name, where)
        except Exception:  # the others are to be told, and the process is to die
            log.exception("the last words could not be said")
    mine.told.set()


def _drain(descriptor: int) -> str:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    parts: list[bytes] = []
    while poll.poll(DRAIN_S * 1000) and sum(map(len, parts)) < _MAX_TRACE_BYTES:
        part = os.read(descriptor, _MAX_TRACE_BYTES)
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode("utf-8", "backslashreplace")


# ---- forks ---------------------------------------------------------------------------------------------


def _before_fork() -> None:
    """See to it that the child is not for a moment without the dispositions that the program has."""
    with _lock:
        if _watch.listeners:
            _watch.forking += 1
            _give_signals_back()
            # The Python handler is still there; what comes before the child has put it away waits until then.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            _watch.masks[threading.get_ident()] = mask


def _after_fork() -> None:
    with _lock:
        mask = _watch.masks.pop(threading.get_ident(), None)
        if mask is not None:
            _watch.forking -= 1
            if _watch.forking == 0:
                _take_signals()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    global _lock, _watch
    _lock = threading.RLock()
    inherited = _watch
    _give_sigterm_back()
    _watch = _Watch()
    for pipe in (*inherited.pipes.values(), inherited.stop):
        if pipe is not None:
            pipe.close()
    mask = inherited.masks.get(threading.get_ident())
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
