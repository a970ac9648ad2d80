"""Logger: what training code reports by hand. Scalars take the hot path, the rest is an event each."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from telemetry.collectors.scalars import ScalarCollector
from telemetry.collectors.terminal_lines import MAX_LINE_CHARS
from telemetry.errors import InvalidEvent
from telemetry.events import ConsoleLine, SingleValue, clean_name, clean_text, to_float
from telemetry.ledger import DropReason
from telemetry.protocols import Emit

__all__ = ["Logger"]


class Logger(ScalarCollector):
    """Reports into one task; made by `Task.get_logger()`. Safe from any thread; no call raises or waits for
    the network or a disk. What cannot be kept is counted with its reason; with strict=True it raises.
    """

    def __init__(self, emit: Emit) -> None:
        super().__init__(emit)

    @classmethod
    def current_logger(cls) -> Logger | None:
        """Return the logger of the current task; None where there is no task."""
        from telemetry.sdk.task import Task  # Task imports this module

        task = Task.current_task()
        return None if task is None else task.get_logger()

    def report_single_value(self, name: str, value: Any) -> None:
        """Report a number of the whole task, such as a final accuracy; the last one under a name counts.

        Args:
            name: any text; over 1,000 characters it is shortened.
            value: a Python, numpy or torch number; NaN and infinities are kept as they are.
        """
        try:
            event = SingleValue(time.time_ns(), clean_name(name), to_float(value))
        except InvalidEvent as error:
            self._emit.refuse(DropReason.INVALID, f"single value {name!r:.80}: {error}")
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
            text, moment = clean_text(str(msg)), time.time_ns()
            level = int(level)
        except Exception as error:  # noqa: BLE001 - msg is anybody's object, and its __str__ anybody's code
            self._emit.refuse(DropReason.INVALID, f"report_text: {error!r:.200}")
            return
        for line in text.splitlines() or [""]:
            for start in range(0, max(1, len(line)), MAX_LINE_CHARS):
                piece = line[start : start + MAX_LINE_CHARS]
                self._emit(ConsoleLine(moment, "report", piece, level))
        if print_console:
            _print(text)


def _print(text: str) -> None:
    """Print past our own capture, which would store the text a second time and without its level."""
    stream: Any = sys.stdout
    stream = getattr(stream, "_telemetry_original", stream)
    if stream is None:
        return
    try:
        print(text, file=stream)
    except (OSError, ValueError):
        pass  # closed, or a broken pipe: the text is in the task, and the job goes on
