"""Scalars: the hot path. What is here runs inside somebody's training step."""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING, Any

from telemetry.errors import InvalidEvent
from telemetry.events import to_float, to_iteration
from telemetry.ledger import DropReason

if TYPE_CHECKING:
    from telemetry.protocols import Emit

__all__ = ["ScalarReports"]


class ScalarReports:
    """The calls that report scalars, each at about the cost of a deque append (bench/hot_path.py).

    No Collector: the program itself is the source, so there is nothing to start or to stop.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._rows = emit.rows

    def report_scalar(self, title: str, series: str, value: float, iteration: int) -> None:
        """Report one point of the series `title`/`series`; safe from any thread, and it never raises.

        Args:
            title: the chart. series: the line in it. Any text; over 1,000 characters they are shortened.
            value: a Python, numpy or torch number (a 0-d array or tensor is copied out at once); NaN and
                infinities are kept as they are.
            iteration: any signed 64-bit integer, in any order, also repeated; whole floats, numpy integers and
                tensors are copied out as well.

        A value that is no number, or an iteration that is no whole one, is counted as dropped (reason "invalid")
        and said once in the log; in strict mode it raises EventsDropped.
        """
        # Both are copied out here and now: a step counter that is a tensor moves on before the batcher looks.
        if value.__class__ is not float or iteration.__class__ is not int:
            try:
                value, iteration = to_float(value), to_iteration(iteration)
            except InvalidEvent as error:
                self._emit.refuse(DropReason.INVALID, f"{title}/{series}: {error}")
                return
        # One flat extend of five slots: atomic under the GIL, nothing left for the garbage collector.
        rows: list[Any] = self._rows
        rows += (title, series, value, iteration, time_ns())
        if len(rows) > self._emit.mark:
            self._emit.crossed()
