"""Figures of matplotlib, reported when the program shows or saves them.

`plt.show()` reports every open figure, `savefig` its own. A figure is reported once for each of its versions: it is
known by its identity and by its picture, so one that is still open at the next show, or that is saved twice, is not
reported again unless it has changed. It is drawn once more for that, on the thread that shows or saves it, because
matplotlib is not safe to draw from another.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from telemetry.collectors.drawing import draw, is_drawing
from telemetry.collectors.hooks import Hooks
from telemetry.collectors.post_import import PostImport
from telemetry.collectors.reporting import Reporter, WriteSection

from telemetry.errors import EventsDropped
from telemetry.ledger import DropReason
from telemetry.process.interrupts import is_interrupt
from telemetry.protocols import Emit

__all__ = ["SERIES", "UNTITLED", "FigureCollector"]

_log = logging.getLogger(__name__)

SERIES = "plot"
UNTITLED = "untitled"

# Titles whose figures are counted; a program that makes up titles for ever must not fill memory with them.
_MAX_TITLES = 10_000


@dataclass(slots=True)
class _Known:
    """What was reported of a figure last."""

    title: str
    series: str
    digest: bytes


class FigureCollector:
    """Reports figures under their title (suptitle, else that of the first axes) and the series "plot".

    The iteration is that of the scalar that was reported last. A second figure of the same title and iteration is
    "plot 1", and so on.
    """

    name = "matplotlib"

    def __init__(self) -> None:
        self._reports: Reporter | None = None
        self._emit: Emit | None = None
        self._hooks = Hooks()
        self._post_import: PostImport | None = None
        self._known: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()
        # By title: the iteration of its latest figures, and how many they are.
        self._counts: dict[str, tuple[int, int]] = {}
        self.reset_after_fork()

    def report_to(self, reports: Reporter, write: WriteSection) -> None:
        """Report through this logger."""
        self._reports = reports

    def start(self, emit: Emit) -> None:
        """Watch matplotlib if it is imported, or once it will be."""
        self._emit = emit
        self._post_import = PostImport(
            {"matplotlib.pyplot": self._watch_pyplot, "matplotlib.figure": self._watch_figure}
        )
        self._post_import.install()

    def stop(self) -> None:
        """Put matplotlib's functions back."""
        self._emit = None
        if self._post_import is not None:
            self._post_import.remove()
        self._hooks.restore()

    def reset_after_fork(self) -> None:
        """In a forked child: a new lock; the parent's figures are known here too."""
        self._lock = threading.Lock()

    def _watch_pyplot(self, module: ModuleType) -> None:
        self._hooks.wrap(module, "show", self._show)

    def _watch_figure(self, module: ModuleType) -> None:
        self._hooks.wrap(module.Figure, "savefig", self._savefig)

    def _show(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # Before the call: a window that blocks may be closed, and its figure gone, when it returns.
        if self._emit is not None and not is_drawing():
            self._note(_open_figures)
        return original(*args, **kwargs)

    def _savefig(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if self._emit is not None and not is_drawing() and args:
            self._note(lambda: [args[0]])
        return result

    def _note(self, figures: Callable[[], list[Any]]) -> None:
        """Report the figures that are new or have changed; whatever goes wrong stays here."""
        emit = self._emit
        if emit is None or self._reports is None:
            return
        try:
            for figure in figures():
                self._report(self._reports, figure)
        except EventsDropped:
            pass  # strict mode; counted already, and it is for report calls to raise
        except Exception as error:
            if is_interrupt(error):
                raise
            _log.debug("a figure was not reported", exc_info=True)
            try:
                emit.refuse(DropReason.INVALID, f"a matplotlib figure was not reported: {error!r:.200}")
            except EventsDropped:
                pass  # strict mode; counted already

    def _report(self, reports: Reporter, figure: Any) -> None:
        drawn = draw(figure)
        digest = hashlib.sha256(drawn.png).digest()
        iteration, title = reports.latest_iteration, _title_of(figure)
        with self._lock:
            known = self._known.get(figure)
            if known is not None and known.digest == digest:
                return
            series = known.series if known is not None and known.title == title else self._next_series(title, iteration)
            self._known[figure] = _Known(title, series, digest)
        reports.report_drawn(title, series, drawn, iteration)

    def _next_series(self, title: str, iteration: int) -> str:
        latest, count = self._counts.get(title, (iteration, 0))
        count = count if latest == iteration else 0
        if title in self._counts or len(self._counts) < _MAX_TITLES:
            self._counts[title] = (iteration, count + 1)
        return f"{SERIES} {count}" if count else SERIES


def _open_figures() -> list[Any]:
    from matplotlib._pylab_helpers import Gcf

    return [manager.canvas.figure for manager in Gcf.get_all_fig_managers()]


def _title_of(figure: Any) -> str:
    suptitle = getattr(figure, "_suptitle", None)
    titles = [suptitle.get_text() if suptitle is not None else ""]
    for axes in figure.axes:
        titles += [axes.get_title(loc=place) for place in ("center", "left", "right")]
    return next((title for title in titles if title.strip()), UNTITLED)
