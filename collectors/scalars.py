"""Scalars: the hot path. What is here runs inside somebody's training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from time import time_ns
from typing import TYPE_CHECKING, Any

from telemetry.errors import InvalidEvent
from telemetry.events import MAX_GROUP_SCALARS, Blanks, blank_group, names_of, to_float, to_iteration
from telemetry.ledger import DropReason
from telemetry.process.interrupts import is_interrupt

if TYPE_CHECKING:
    from telemetry.protocols import Emit

__all__ = ["ScalarReports"]

# Of the dicts in a dict. One that holds itself ends here.
MAX_NESTING = 16


class ScalarReports:
    """The calls that report scalars, each at about the cost of a deque append (bench/hot_path.py).

    No Collector: the program itself is the source, so there is nothing to start or to stop.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._rows = emit.rows
        self._blanks = Blanks()

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

    def scalar(self, title: str, series: str) -> Callable[[float, int], None]:
        """Return `emit(value, iteration)`, which reports one point of this series as `report_scalar` does, for less.

        Made once before the loop and called in it. It lasts as long as the task, also in a forked child.
        """
        emit, rows, extend = self._emit, self._rows, self._rows.extend

        def report(value: float, iteration: int) -> None:
            if value.__class__ is not float or iteration.__class__ is not int:
                self.report_scalar(title, series, value, iteration)
                return
            extend((title, series, value, iteration, time_ns()))
            if len(rows) > emit.mark:
                emit.crossed()

        return report

    def report_scalars(self, values: Mapping[Any, Any], iteration: int) -> None:
        """Report one point of each of several series, at one time; safe from any thread, and it never raises.

        Args:
            values: by name. "loss/train" is the series "train" of the chart "loss": the first slash parts them, as
                TensorBoard and W&B group by it. A name without one is chart and series both, a pair (title, series)
                is taken as it is, and under a name that has a dict for its value, which is the title of a chart,
                each key is a series; those of further dicts in it are joined by slashes.
            iteration: of all of them, as `report_scalar` takes it.

        A value or a name that cannot be kept costs itself alone, as in `report_scalar`.
        """
        if values.__class__ is not dict or iteration.__class__ is not int:
            self._report_apart(values, iteration)
            return
        # A copy, which nobody changes any more.
        numbers: dict[Any, Any] = values.copy()
        given, blank = numbers.values(), None
        first = next(iter(given), None)
        try:
            # A look at all of them for a third of what a look at each costs: floats, with ints among them, add up to a
            # float, and whatever had to be copied out adds up to its own kind, or not at all. The first is looked at
            # before, as most often all are of a kind, and adding dicts or tensors up is dear.
            if (first.__class__ is float or first.__class__ is int) and sum(given).__class__ is float:
                blanks = self._blanks[len(numbers)]
                blank = blanks.pop() if blanks else blank_group(len(numbers))
        except Exception as error:  # somebody else's addition, in a report call, which never raises
            if is_interrupt(error):
                raise
        if blank is None:
            self._report_apart(numbers, iteration)
            return
        blank[-3:] = numbers, iteration, time_ns()
        rows = self._rows
        rows += blank
        blanks.append(blank)
        if len(rows) > self._emit.mark:
            self._emit.crossed()

    def _report_apart(self, values: Any, iteration: Any) -> None:
        """Report what is not a dict of plain numbers: each is copied out, and what cannot be kept is refused."""
        now_unix_ns = time_ns()
        rows: list[Any] = []
        refused: list[str] = []
        try:
            if not _add_plain_dicts(rows, values, iteration, now_unix_ns):
                refused = _add_each(rows, list(_flat(values)), iteration, now_unix_ns)
        except Exception as error:  # somebody else's mapping, or none
            if is_interrupt(error):
                raise
            refused.append(f"report_scalars takes a dict of numbers by name, not {type(values).__name__}: {error}")
        if rows:
            self._rows += rows
            if len(self._rows) > self._emit.mark:
                self._emit.crossed()
        for message in refused:
            self._emit.refuse(DropReason.INVALID, message)


def _add_plain_dicts(rows: list[Any], values: Any, iteration: Any, time_unix_ns: int) -> bool:
    """Add a dict of dicts of plain numbers to the rows, each as a group; False, and nothing added, if it is none."""
    if values.__class__ is not dict or iteration.__class__ is not int:
        return False
    groups: list[Any] = []
    for title, inner in values.items():
        numbers = inner.copy() if inner.__class__ is dict else {}
        if not _are_plain(numbers):
            return False
        groups += blank_group(len(numbers))
        groups[-4:] = title, numbers, iteration, time_unix_ns
    rows += groups
    return True


def _add_each(rows: list[Any], entries: list[tuple[Any, Any, Any]], iteration: Any, time_unix_ns: int) -> list[str]:
    """Add entries to the rows; return a message for each that cannot be kept."""
    refused: list[str] = []
    whole: int | None = None
    for title, series, value in entries:
        try:
            number = value if value.__class__ is float else to_float(value)
            whole = to_iteration(iteration) if whole is None else whole
            rows += (title, series, number, whole, time_unix_ns)
        except InvalidEvent as error:
            refused.append(f"{title}/{series}: {error}")
    return refused


def _are_plain(numbers: dict[Any, Any]) -> bool:
    if len(numbers) > MAX_GROUP_SCALARS:
        return False
    try:
        return sum(numbers.values()).__class__ is float  # as in report_scalars
    except Exception as error:  # somebody else's addition
        if is_interrupt(error):
            raise
        return False


def _flat(values: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield title, series and value of each entry."""
    for name, value in list(values.items()):
        if isinstance(value, Mapping):
            for series, number in _flat_below(value, MAX_NESTING):
                yield name, series, number
        else:
            yield *names_of(name), value


def _flat_below(values: Mapping[Any, Any], depth: int) -> Iterator[tuple[Any, Any]]:
    for name, value in list(values.items()):
        if depth and isinstance(value, Mapping):
            for series, number in _flat_below(value, depth - 1):
                # A key that is no text is no name, and stays what it is for the batcher to refuse.
                yield f"{name}/{series}" if isinstance(name, str) and isinstance(series, str) else name, number
        else:
            yield name, value
