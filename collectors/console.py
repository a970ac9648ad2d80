"""Console output as events: stdout, stderr and the logging module, seen in passing.

What the program writes reaches the terminal first, at once and unchanged; the collector reads along, at the
stream objects themselves (`streams.py`): those that `sys.stdout` and `sys.stderr` name at the start, and the
interpreter's own, `sys.__stdout__` and `sys.__stderr__`. So it does not matter who holds them, since when, and
what the names mean later. Not seen are bytes written to `sys.stdout.buffer`, to a file descriptor by C code, or by a
child process, and a stream that is made later on the same descriptor.

A log record is stored once, as stream "log" with its level. What the record's own handlers write to stdout or
stderr meanwhile is not stored a second time. For this the collector looks on at
`logging.Logger.callHandlers` (as Sentry's SDK does) and adds no handler to the root logger: one
more handler there would turn the program's own `logging.basicConfig()` into a no-op, would silence
`logging.lastResort`, and would be gone after `logging.config.dictConfig()`. Records of a logger that
does not propagate to the root are left to their handlers. Records of this package's own loggers are
never stored, nor is what their handlers write, so that a warning of ours cannot feed itself.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

from telemetry.collectors.streams import Calls, StreamWatch, TeeStream, takes_hook
from telemetry.collectors.terminal_lines import REDRAW_INTERVAL_S, LineAssembler

from telemetry.clock import unix_ns
from telemetry.errors import EventsDropped
from telemetry.events import ConsoleLine, clean_text
from telemetry.ledger import DropReason
from telemetry.process.interrupts import is_interrupt
from telemetry.process.terminal import UNKEPT_THREADS
from telemetry.protocols import Emit

__all__ = ["ConsoleCollector"]

StreamName: TypeAlias = Literal["stdout", "stderr"]
CallHandlers: TypeAlias = Callable[[logging.Logger, logging.LogRecord], None]

_log = logging.getLogger(__name__)
_OWN_LOGGERS = "telemetry"

# Writes that wait while another thread, or an interrupted frame of this one, turns earlier ones into
# lines. It is reached only if that never ends; then memory stays bounded and the loss is counted.
_MAX_WAITING_WRITES = 20_000

# How many waiting writes one writer handles before it goes on with its own work.
_MAX_WRITES_PER_TURN = 512

# Writes without a line end are only put aside; beyond these they are worked on all the same.
_MAX_ASIDE_WRITES = 64
_MAX_ASIDE_CHARS = 4096

# How long stop() waits for a writer in another thread. It can only be late, not stuck: emit never blocks.
_STOP_WAIT_S = 1.0
_STOP_LOOK_S = 0.001


class _TerminalCursor:
    """Where the program's output has left the cursor of one terminal or file.

    Attributes:
        tail: the last character that was written.
    """

    __slots__ = ("tail",)

    def __init__(self) -> None:
        self.tail = "\n"


class _Capture:
    """One stream's way from writes to events. Any thread, signal handlers and finalizers included.

    A write puts its text on a deque, which is one atomic call, and then tries to be the one that works off the deque;
    nobody ever waits for it. So a signal handler or a finalizer that prints in the middle of a write cannot
    deadlock: its text is worked off by the frame that it interrupted.
    """

    def __init__(
        self,
        stream: StreamName,
        emit: Emit,
        *,
        cursor: _TerminalCursor,
        refuse: Callable[[Exception], None],
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        redraw_interval_s: float,
    ) -> None:
        self._stream: StreamName = stream
        self.cursor = cursor
        self._emit = emit
        self._refuse = refuse
        self._clock = clock
        self._monotonic = monotonic
        self._redraw_interval_s = redraw_interval_s
        self._closed = False
        self._fresh()

    def _fresh(self) -> None:
        # Under "worker" whoever works off the deque. Not a Lock: what a signal handler raises right after its acquire()
        # has returned, before any `try`, would leave it locked, and the console would end in silence.
        self._turn: dict[str, object] = {}
        self._waiting: deque[tuple[str, int]] = deque()
        self._assembler = LineAssembler(redraw_interval_s=self._redraw_interval_s, monotonic=self._monotonic)

    def reset_after_fork(self) -> None:
        """In a forked child: locks anew, and the parent's unfinished lines are the parent's."""
        self._fresh()

    def watch(self, streams: list[Any]) -> list[StreamWatch]:
        """Look on at streams of which each may hand on to the next. Of a text that is handed on the last one tells."""
        calls: Calls | None = {} if len(streams) > 1 else None
        return [StreamWatch(stream, self.write, calls=calls, place=place) for place, stream in enumerate(streams)]

    def write(self, text: str) -> None:
        """Take what was just written. Never waits, and raises nothing but what interrupts the program."""
        if text:
            self.cursor.tail = text[-1]
        if self._closed or (UNKEPT_THREADS and threading.get_ident() in UNKEPT_THREADS):
            return
        waiting = self._waiting
        if len(waiting) >= _MAX_WAITING_WRITES:
            self._overrun()
            return
        waiting.append((text, self._clock()))
        if "\n" not in text and "\r" not in text and len(text) < _MAX_ASIDE_CHARS and len(waiting) < _MAX_ASIDE_WRITES:
            return
        try:
            self._work_off()
        except EventsDropped:
            pass  # strict mode; counted already, and it is for report calls to raise, not for print()
        except Exception as error:  # the program's print() must not fail for our sake
            if is_interrupt(error):
                raise
            self._refuse(error)

    def _overrun(self) -> None:
        try:
            self._emit.refuse(DropReason.QUEUE_FULL, f"{self._stream} is written faster than it can be kept")
        except EventsDropped:
            pass  # strict mode; counted already

    def _work_off(self) -> None:
        # Looked at again after each turn: a text that came after the last look and found somebody at work
        # would otherwise wait for the next write.
        waiting, turn, me = self._waiting, self._turn, object()
        writes = _MAX_WRITES_PER_TURN
        while waiting and writes and not self._closed:
            try:
                if turn.setdefault("worker", me) is not me:
                    return
                while waiting and writes:
                    writes -= 1
                    text, time_unix_ns = waiting.popleft()
                    lines = self._assembler.feed(text, time_unix_ns)
                    if lines:
                        self._send(lines)
            finally:
                # No call in here, at whose end a signal handler could run.
                try:
                    if turn["worker"] is me:
                        del turn["worker"]
                except KeyError:
                    pass  # it was another thread's, which has just ended its own

    def close(self) -> None:
        """Emit what is left. Nothing is emitted after it returns."""
        # The interrupted frame below a signal handler cannot give its turn back: then go on without.
        deadline_s = time.monotonic() + _STOP_WAIT_S
        while self._turn.setdefault("worker", self) is not self and time.monotonic() < deadline_s:
            time.sleep(_STOP_LOOK_S)
        try:
            while self._waiting:
                self._send(self._assembler.feed(*self._waiting.popleft()))
            self._send(self._assembler.finish(self._clock()))
        finally:
            self._closed = True

    def _send(self, lines: Iterable[tuple[int, str]]) -> None:
        for time_unix_ns, text in lines:
            self._emit(ConsoleLine(time_unix_ns, self._stream, clean_text(text)))


class ConsoleCollector:
    """Emits a ConsoleLine for each line written to stdout or stderr and for each log record.

    Lines of a progress bar are thinned out: at most one per bar and 10 s, and its last state; see
    terminal_lines. Lines over 16 Ki characters come in pieces. A line's time is when its end was written.

    Args:
        stdout: look on at `sys.stdout` and `sys.__stdout__`.
        stderr: look on at `sys.stderr` and `sys.__stderr__`.
        logging: store log records, as stream "log".
        clock: Unix time in ns.
        monotonic: seconds, for the interval between two states of a progress bar.
    """

    name = "console"

    def __init__(
        self,
        stdout: bool = True,
        stderr: bool = True,
        logging: bool = True,
        *,
        redraw_interval_s: float = REDRAW_INTERVAL_S,
        clock: Callable[[], int] = unix_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._streams: list[StreamName] = []
        if stdout:
            self._streams.append("stdout")
        if stderr:
            self._streams.append("stderr")
        self._logging = logging
        self._redraw_interval_s = redraw_interval_s
        self._clock = clock
        self._monotonic = monotonic
        self._captures: dict[StreamName, _Capture] = {}
        self._watches: list[StreamWatch] = []
        self._stand_ins: dict[StreamName, TeeStream] = {}
        self._emit: Emit | None = None
        self._call_handlers: CallHandlers | None = None
        self._original_call_handlers: Any = None
        self._said = False

    def start(self, emit: Emit) -> None:
        """Look on at the streams and at the logging module. Takes microseconds."""
        self._emit = emit
        cursors = _cursors()
        watched: list[Any] = []
        for stream in self._streams:
            streams = [found for found in _streams(stream) if not any(found is other for other in watched)]
            # None under pythonw and in some daemons; sys.stderr may be the very object that sys.stdout is.
            if not streams:
                continue
            watched += streams
            capture = self._captures[stream] = _Capture(
                stream,
                emit,
                cursor=cursors[stream],
                refuse=self._refuse,
                clock=self._clock,
                monotonic=self._monotonic,
                redraw_interval_s=self._redraw_interval_s,
            )
            current = getattr(sys, stream)
            if current is streams[0] and not takes_hook(current):
                self._stand_ins[stream] = stand_in = TeeStream(current)
                setattr(sys, stream, stand_in)
                streams.insert(0, stand_in)
            self._watches += capture.watch(streams)
        if self._logging:
            self._hook_logging()

    def stop(self) -> None:
        """Put the streams' own methods back and emit what is left.

        If somebody has hooked a stream's `write` over ours meanwhile, theirs stays in place and ours becomes a plain
        pass-through below it. The same goes for `Logger.callHandlers`.
        """
        for watch in self._watches:
            watch.stop()
        self._watches.clear()
        for stream, stand_in in self._stand_ins.items():
            if getattr(sys, stream) is stand_in:
                setattr(sys, stream, stand_in._telemetry_original)
        self._stand_ins.clear()
        if self._call_handlers is not None and logging.Logger.callHandlers is self._call_handlers:
            logging.Logger.callHandlers = self._original_call_handlers  # type: ignore[method-assign]
        self._call_handlers = None
        for capture in self._captures.values():
            self._close(capture)
        self._emit = None

    def line_is_open(self) -> bool:
        """Return whether what the program wrote last has left a line open, which the next one to stderr would go on."""
        capture = self._captures.get("stderr")
        return capture is not None and capture.cursor.tail != "\n"

    def reset_after_fork(self) -> None:
        """Call first in a forked child: no lock of the parent is waited for, none of its lines repeated."""
        for thread in set(UNKEPT_THREADS) - {threading.get_ident()}:
            UNKEPT_THREADS.pop(thread, None)
        for capture in self._captures.values():
            capture.reset_after_fork()

    def _close(self, capture: _Capture) -> None:
        try:
            capture.close()
        except EventsDropped:
            pass  # strict mode; counted already
        except Exception as error:  # the end of a task must not fail for the last line's sake
            if is_interrupt(error):
                raise
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        """Count a line that could not be built. Said once: saying it may write to a stream we look on at."""
        emit = self._emit
        try:
            if emit is not None:
                emit.refuse(DropReason.INVALID, f"a line of console output was not kept: {error!r}")
        except EventsDropped:
            pass  # strict mode; counted already
        if not self._said:
            self._said = True
            _log.debug("a line of console output was not kept", exc_info=error)

    def _hook_logging(self) -> None:
        original = logging.Logger.callHandlers
        collector = self

        def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            # After stop() somebody may still hold this function.
            if collector._emit is None or not collector._store(logger, record):
                original(logger, record)
                return
            # As terminal.unkept() does, which would be one more frame of ours between the program's.
            me = threading.get_ident()
            nested = me in UNKEPT_THREADS
            UNKEPT_THREADS[me] = True
            try:
                original(logger, record)
            finally:
                if not nested:
                    UNKEPT_THREADS.pop(me, None)

        self._original_call_handlers = original
        self._call_handlers = call_handlers
        logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign,assignment]

    def _store(self, logger: logging.Logger, record: logging.LogRecord) -> bool:
        """Emit a record's lines; True if what its handlers write need not be stored."""
        if logger.name == _OWN_LOGGERS or logger.name.startswith(_OWN_LOGGERS + "."):
            return True
        if not _reaches_root(logger):
            return False
        emit = self._emit
        if emit is None:
            return False
        try:
            assembler = LineAssembler()
            now_unix_ns = self._clock()
            lines = assembler.feed(_message(record), now_unix_ns) + assembler.finish(now_unix_ns)
            for _, text in lines:
                emit(ConsoleLine(now_unix_ns, "log", clean_text(text), record.levelno))
        except EventsDropped:
            return True  # strict mode; counted already
        except Exception as error:  # e.g. arguments that do not fit; the handlers say so themselves
            if is_interrupt(error):
                raise
            self._refuse(error)
            return False
        return True


def _streams(name: StreamName) -> list[Any]:
    """Return what `sys.stdout` (or `sys.stderr`) names now, and the interpreter's own, each once; the own one last."""
    current, own = getattr(sys, name), getattr(sys, f"__{name}__")
    # IPython's kernel reads what comes to the descriptor and writes it to its own stream: seen there, it is complete.
    if own is current or getattr(current, "watch_fd_thread", None) is not None:
        own = None
    return [stream for stream in (current, own) if stream is not None]


def _cursors() -> dict[StreamName, _TerminalCursor]:
    """Return the cursor that each stream moves: one for both where they show on the same terminal."""
    stdout = _TerminalCursor()
    return {"stdout": stdout, "stderr": stdout if _terminal(sys.stdout) == _terminal(sys.stderr) else _TerminalCursor()}


def _terminal(stream: Any) -> object:
    """Return what tells a stream's terminal from others; the stream itself, which is like no other, if it has none."""
    try:
        if stream.isatty():
            return os.fstat(stream.fileno()).st_rdev
    except (AttributeError, OSError, TypeError, ValueError):
        return stream  # None, closed, or nothing that has a descriptor
    return stream


def _reaches_root(logger: logging.Logger) -> bool:
    current: logging.Logger | None = logger
    while current is not None:
        if current.parent is not None and not current.propagate:
            return False
        current = current.parent
    return True


def _message(record: logging.LogRecord) -> str:
    """A record as `name: message`, with its traceback as logging prints it."""
    message = record.getMessage()
    text = message if record.name == "root" else f"{record.name}: {message}"
    if record.exc_info and record.exc_info[1] is not None:
        text += "\n" + _FORMATTER.formatException(record.exc_info)
    elif record.exc_text:
        text += "\n" + record.exc_text
    if record.stack_info:
        text += "\n" + _FORMATTER.formatStack(record.stack_info)
    return text


_FORMATTER = logging.Formatter()
