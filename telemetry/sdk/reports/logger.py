"""Logger: what training code reports by hand. Scalars take the hot path, the rest is an event each.

A skin: plots are in logger_plots.py, images and media in logger_media.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from telemetry.clock import unix_ns
from telemetry.collectors.scalars import ScalarReports
from telemetry.collectors.terminal_lines import MAX_LINE_CHARS
from telemetry.errors import InvalidEvent
from telemetry.events import ConsoleLine, SingleValue, TaskHeader, clean_name, clean_text, to_float
from telemetry.ledger import DropReason
from telemetry.process.interrupts import is_interrupt
from telemetry.process.terminal import unkept
from telemetry.sdk.identity.references import Referred, key_of, references
from telemetry.sdk.reports.logger_media import Uploader
from telemetry.sdk.reports.logger_plots import PlotReports
from telemetry.values import excerpt

if TYPE_CHECKING:
    from telemetry.protocols import TaskEmit

__all__ = ["Logger"]

# What a flush that waits may take, in seconds.
FLUSH_TIMEOUT_S = 10.0


class Logger(Referred, PlotReports, ScalarReports):
    """Reports into one task; made by `Task.get_logger()`. Safe from any thread; no call raises or waits for
    the network or a disk. What cannot be kept is counted with its reason; with strict=True it raises.

    Args:
        uploads: carries the bytes of media; None where only addresses can be reported.
        flush: brings what was reported to the sinks or the disk, within so many seconds.
        header: of the task, by which a copy finds it.
    """

    _emit: TaskEmit

    def __init__(
        self,
        emit: TaskEmit,
        uploads: Uploader | None = None,
        flush: Callable[[float], bool] = lambda timeout_s: True,
        *,
        header: TaskHeader | None = None,
    ) -> None:
        super().__init__(emit)
        self._uploads = uploads
        self._flush = flush
        self._destination: str | None = None
        self._header = header

    def _reference(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self._header is None:
            raise TypeError("this logger belongs to no task, by which a copy could find it")
        return references.task_class._referred_logger, key_of(self._header)

    @classmethod
    def current_logger(cls) -> Logger | None:
        """Return the logger of the current task; None where there is no task."""
        task = references.task_class.current_task()
        return None if task is None else task.get_logger()

    def report_single_value(self, name: str, value: Any) -> None:
        """Report a number of the whole task, such as a final accuracy; the last one under a name counts.

        Args:
            name: any text; over 1,000 characters it is shortened.
            value: a Python, numpy or torch number; NaN and infinities are kept as they are.
        """
        try:
            event = SingleValue(unix_ns(), clean_name(name), to_float(value))
        except InvalidEvent as error:
            self._emit.refuse(DropReason.INVALID, f"single value {excerpt(name)}: {error}")
            return
        self._emit(event)

    def report_text(self, msg: Any, level: int = logging.INFO, print_console: bool = True) -> None:
        """Report text to the task's console, one line per line of it.

        Args:
            msg: anything; its `str()` is kept.
            level: a logging level, 10 (debug) to 50 (critical).
            print_console: print it to the standard output as well; it is stored once either way.
        """
        try:
            text, now_unix_ns = clean_text(str(msg)), unix_ns()
            level = int(level)
        except Exception as error:
            if is_interrupt(error):
                raise
            self._emit.refuse(DropReason.INVALID, f"report_text: {error!r:.200}")
            return
        for line in text.splitlines() or [""]:
            for start in range(0, max(1, len(line)), MAX_LINE_CHARS):
                piece = line[start : start + MAX_LINE_CHARS]
                self._emit(ConsoleLine(now_unix_ns, "report", piece, level))
        if print_console:
            _print(text)

    def flush(self, wait: bool = False) -> bool:
        """Bring what was reported before to the sinks or the disk; with `wait` also the bytes of media to their place.

        Without `wait` this returns at once, and what was reported goes out within the flush interval as it always does.

        Returns:
            False if it took more than 10 seconds; nothing is lost by that.
        """
        if not wait:
            return True
        stored = self._uploads is None or self._uploads.wait(FLUSH_TIMEOUT_S)
        return self._flush(FLUSH_TIMEOUT_S) and stored

    def set_flush_period(self, period: float) -> None:
        """Accepted and without effect: events go out at the interval of TELEMETRY_FLUSH_INTERVAL."""

    def set_default_upload_destination(self, uri: str | None) -> None:
        """Remember an address for media. Their bytes go where the task's own go (`output_uri`), whatever it is."""
        self._destination = uri

    def get_default_upload_destination(self) -> str | None:
        """Return the address that was set; None for none."""
        return self._destination


def _print(text: str) -> None:
    """Print past our own capture, which would store the text a second time and without its level."""
    try:
        unkept(print, text)
    except (OSError, ValueError) as error:
        if is_interrupt(error):
            raise
        # closed, or a broken pipe: the text is in the task, and the job goes on
