"""Console output as events: stdout, stderr and the logging module, seen in passing.

What the program writes reaches the terminal first, at once and unchanged; the collector reads along. Only
what goes through `sys.stdout` and `sys.stderr` is seen: bytes written to `sys.stdout.buffer`, to a file
descriptor by C code, or by a child process pass by.

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
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeAlias

from telemetry.collectors.terminal_lines import REDRAW_INTERVAL_S, LineAssembler

from telemetry.clock import unix_ns
from telemetry.errors import EventsDropped
from telemetry.events import ConsoleLine, clean_text
from telemetry.ledger import DropReason
from telemetry.protocols import Emit

__all__ = ["ConsoleCollector", "TeeStream"]

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


class _Capture:
    """One stream's way from writes to events. Any thread, signal handlers and finalizers included.

    A write puts its text on a deque, which is one atomic call, and then tries for the lock. Whoever has the
    lock works off the deque; nobody ever waits for it. So a signal handler or a finalizer that prints
    in the middle of a write cannot deadlock: its text is worked off by the frame that it interrupted.
    """

    def __init__(
        self,
        stream: StreamName,
        emit: Emit,
        *,
        refuse: Callable[[Exception], None],
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        redraw_interval_s: float,
    ) -> None:
        self._stream: StreamName = stream
        self._emit = emit
        self._refuse = refuse
        self._clock = clock
        self._monotonic = monotonic
        self._redraw_interval_s = redraw_interval_s
        # Thread ids whose writes are the rendering of a log record, and how deep.
        self.quiet: dict[int, int] = {}
        self._closed = False
        self._fresh()

    def _fresh(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, int]] = deque()
        self._assembler = LineAssembler(redraw_interval_s=self._redraw_interval_s, monotonic=self._monotonic)

    def reset_after_fork(self) -> None:
        """In a forked child: locks anew, and the parent's unfinished lines are the parent's."""
        self.quiet.clear()
        self._fresh()

    def write(self, text: str) -> None:
        """Take what was just written. Never raises, never waits."""
        if self._closed or (self.quiet and threading.get_ident() in self.quiet):
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
        except Exception as error:  # noqa: BLE001 - the program's print() must not fail for our sake
            self._refuse(error)

    def _overrun(self) -> None:
        try:
            self._emit.refuse(DropReason.QUEUE_FULL, f"{self._stream} is written faster than it can be kept")
        except EventsDropped:
            pass  # strict mode; counted already

    def _work_off(self) -> None:
        # Looked at again after the release: a text that came after the last look and found the lock taken
        # would otherwise wait for the next write.
        waiting, lock = self._waiting, self._lock
        turns = _MAX_WRITES_PER_TURN
        while waiting and turns and not self._closed and lock.acquire(False):
            try:
                while waiting and turns:
                    turns -= 1
                    text, time_unix_ns = waiting.popleft()
                    lines = self._assembler.feed(text, time_unix_ns)
                    if lines:
                        self._send(lines)
            finally:
                lock.release()

    def close(self) -> None:
        """Emit what is left. Nothing is emitted after it returns."""
        # The interrupted frame below a signal handler cannot give the lock back: then go on without.
        locked = self._lock.acquire(timeout=_STOP_WAIT_S)
        try:
            while self._waiting:
                self._send(self._assembler.feed(*self._waiting.popleft()))
            self._send(self._assembler.finish(self._clock()))
        finally:
            self._closed = True
            if locked:
                self._lock.release()

    def _send(self, lines: Iterable[tuple[int, str]]) -> None:
        for time_unix_ns, text in lines:
            self._emit(ConsoleLine(time_unix_ns, self._stream, clean_text(text)))


class TeeStream:
    """Stands in for a text stream: everything goes to the original, writes are seen by `on_write` as well.

    Attributes and methods that are not defined here are the original's: isatty(), fileno(), encoding,
    buffer, reconfigure() and whatever a subclass has. Not a TextIOBase: that one's finalizer would close
    the original. After `detach_capture()` it is a plain pass-through, for whoever still holds it.
    """

    def __init__(self, original: Any, on_write: Callable[[str], None]) -> None:
        self._telemetry_original = original
        self._telemetry_write = original.write
        self._telemetry_on_write: Callable[[str], None] | None = on_write

    def detach_capture(self) -> None:
        """Stop looking on."""
        self._telemetry_on_write = None

    def write(self, text: str) -> Any:
        """As the original's: same result, same errors; a text that the original refused is not seen."""
        result = self._telemetry_write(text)
        on_write = self._telemetry_on_write
        if on_write is not None:
            on_write(text)
        return result

    def writelines(self, lines: Iterable[str]) -> None:
        """As the original's."""
        for line in lines:
            self.write(line)

    def flush(self) -> Any:
        """As the original's."""
        return self._telemetry_original.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._telemetry_original, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._telemetry_original)

    def __enter__(self) -> TeeStream:
        self._telemetry_original.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> Any:
        return self._telemetry_original.__exit__(*exc_info)

    def __repr__(self) -> str:
        return f"<TeeStream of {self._telemetry_original!r}>"


class ConsoleCollector:
    """Emits a ConsoleLine for each line written to stdout or stderr and for each log record.

    Lines of a progress bar are thinned out: at most one per bar and 10 s, and its last state; see
    terminal_lines. Lines over 16 Ki characters come in pieces. A line's time is when its end was written.

    Args:
        stdout: look on at `sys.stdout`.
        stderr: look on at `sys.stderr`.
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
        self._tees: dict[StreamName, TeeStream] = {}
        self._emit: Emit | None = None
        self._call_handlers: CallHandlers | None = None
        self._original_call_handlers: Any = None
        self._said = False

    def start(self, emit: Emit) -> None:
        """Put the tees in place and look on at the logging module. Takes microseconds."""
        self._emit = emit
        for stream in self._streams:
            original = getattr(sys, stream)
            # None under pythonw and in some daemons.
            if original is None:
                continue
            capture = _Capture(
                stream,
                emit,
                refuse=self._refuse,
                clock=self._clock,
                monotonic=self._monotonic,
                redraw_interval_s=self._redraw_interval_s,
            )
            tee = TeeStream(original, capture.write)
            self._captures[stream] = capture
            self._tees[stream] = tee
            setattr(sys, stream, tee)
        if self._logging:
            self._hook_logging()

    def stop(self) -> None:
        """Put the original streams back and emit what is left.

        If somebody has wrapped our stream meanwhile, theirs stays in place and ours becomes a plain
        pass-through below it. The same goes for `Logger.callHandlers`.
        """
        for stream, tee in self._tees.items():
            if getattr(sys, stream) is tee:
                setattr(sys, stream, tee._telemetry_original)
            tee.detach_capture()
        if self._call_handlers is not None and logging.Logger.callHandlers is self._call_handlers:
            logging.Logger.callHandlers = self._original_call_handlers  # type: ignore[method-assign]
        self._call_handlers = None
        for capture in self._captures.values():
            self._try(capture.close)
        self._emit = None

    def reset_after_fork(self) -> None:
        """Call first in a forked child: no lock of the parent is waited for, none of its lines repeated."""
        for capture in self._captures.values():
            capture.reset_after_fork()

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except EventsDropped:
            pass  # strict mode; counted already
        except Exception as error:  # noqa: BLE001 - stop() must restore all streams, whatever one of them does
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
            collector._quieten(1)
            try:
                original(logger, record)
            finally:
                collector._quieten(-1)

        self._original_call_handlers = original
        self._call_handlers = call_handlers
        logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign,assignment]

    def _quieten(self, step: int) -> None:
        """What this thread writes from now on is (is no longer) the rendering of a stored record."""
        me = threading.get_ident()
        for capture in self._captures.values():
            depth = capture.quiet.get(me, 0) + step
            if depth > 0:
                capture.quiet[me] = depth
            else:
                capture.quiet.pop(me, None)

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
            now = self._clock()
            lines = assembler.feed(_message(record), now) + assembler.finish(now)
            for _, text in lines:
                emit(ConsoleLine(now, "log", clean_text(text), record.levelno))
        except EventsDropped:
            return True  # strict mode; counted already
        except Exception as error:  # noqa: BLE001 - e.g. arguments that do not fit; the handlers say so themselves
            self._refuse(error)
            return False
        return True


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
