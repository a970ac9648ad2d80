"""Figures of matplotlib are reported when they are shown or saved: once a version, and never to the program's harm."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import pytest
from matplotlib.figure import Figure
from reports_support import Kept
from telemetry.collectors.matplotlib import FigureCollector

from telemetry.events import Plot
from telemetry.sdk.reports.logger import Logger

matplotlib.use("Agg")
plt: Any = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def collector(kept: Kept) -> Iterator[FigureCollector]:
    made = FigureCollector()
    made.report_to(Logger(kept), lambda section, values: None)
    made.start(kept)
    yield made
    made.stop()
    plt.close("all")


def line(title: str = "", *, suptitle: str = "") -> Any:
    figure, axes = plt.subplots()
    axes.plot([1, 3, 2])
    axes.set_title(title)
    if suptitle:
        figure.suptitle(suptitle)
    return figure


def plots(kept: Kept) -> list[tuple[str, str, int]]:
    assert kept.refused == []
    return [(event.title, event.series, event.iteration) for event in kept.events if isinstance(event, Plot)]


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_show_reports_each_open_figure_once(kept: Kept, collector: FigureCollector) -> None:
    line("roc")
    line(suptitle="overview", title="part")
    plt.show()
    # the figures are still open at the next show, where a new one has joined them
    line()
    plt.show()
    assert plots(kept) == [("roc", "plot", 0), ("overview", "plot", 0), ("untitled", "plot", 0)]


def test_savefig_reports_its_figure_as_it_looks(kept: Kept, collector: FigureCollector) -> None:
    kept.latest_iteration = 7
    file = io.BytesIO()
    line("roc").savefig(file)
    plt.savefig(io.BytesIO(), format="svg")
    assert plots(kept) == [("roc", "plot", 7)]
    # the program's file is what it is without us
    assert file.getvalue().startswith(b"\x89PNG")
    (event,) = kept.events
    assert isinstance(event, Plot)
    (picture,) = json.loads(event.figure)["layout"]["images"]
    assert picture["source"].startswith("data:image/png;base64,")
    assert (picture["sizex"], picture["sizey"]) == (640, 480)


def test_a_figure_that_changed_is_reported_again_in_its_place(kept: Kept, collector: FigureCollector) -> None:
    figure = line("roc")
    figure.savefig(io.BytesIO())
    figure.axes[0].plot([3, 1, 2])
    kept.latest_iteration = 9
    figure.savefig(io.BytesIO())
    figure.savefig(io.BytesIO())
    assert plots(kept) == [("roc", "plot", 0), ("roc", "plot", 9)]


def test_figures_of_one_title_are_told_apart_at_one_iteration(kept: Kept, collector: FigureCollector) -> None:
    for iteration in (1, 1, 2):
        kept.latest_iteration = iteration
        line("roc").savefig(io.BytesIO())
    assert plots(kept) == [("roc", "plot", 1), ("roc", "plot 1", 1), ("roc", "plot", 2)]


def test_figures_without_pyplot_are_seen_too(kept: Kept, collector: FigureCollector) -> None:
    figure = Figure()
    figure.subplots().set_title("alone", loc="left")
    figure.savefig(io.BytesIO(), format="png")
    assert plots(kept) == [("alone", "plot", 0)]


def test_what_we_draw_is_not_reported_as_the_program_s(kept: Kept, collector: FigureCollector) -> None:
    Logger(kept).report_matplotlib_figure("mine", "a", line("roc"), 3)
    Logger(kept).report_matplotlib_figure("mine", "b", plt, 3)
    assert plots(kept) == [("mine", "a", 3), ("mine", "b", 3)]


class Exploding(Figure):
    """Saves the first time, and never again: the program's own call must still be fine."""

    saved = 0

    def draw(self, renderer: Any) -> None:
        self.saved += 1
        if self.saved > 1:
            raise RuntimeError("mine")
        super().draw(renderer)


def test_a_figure_that_cannot_be_drawn_harms_nobody(kept: Kept, collector: FigureCollector) -> None:
    Exploding().savefig(io.BytesIO(), format="png", dpi=100)
    assert kept.events == []
    (reason,) = kept.refused
    assert "mine" in reason


def test_the_program_s_own_error_goes_through(kept: Kept, collector: FigureCollector) -> None:
    with pytest.raises(ValueError, match="is not supported"):
        line().savefig("a.xyz")
    assert kept.events == []


def test_stop_puts_the_functions_back_and_kept_references_go_on(kept: Kept) -> None:
    before: tuple[Callable[..., Any], ...] = (plt.show, Figure.savefig)
    collector = FigureCollector()
    collector.report_to(Logger(kept), lambda section, values: None)
    collector.start(kept)
    kept_by_somebody = Figure.savefig
    assert (plt.show, Figure.savefig) != before
    collector.stop()
    assert (plt.show, Figure.savefig) == before
    kept_by_somebody(line("late"), io.BytesIO())
    plt.close("all")
    assert kept.events == []


def test_a_figure_is_not_kept_alive(kept: Kept, collector: FigureCollector) -> None:
    import gc
    import weakref

    figure = Figure()
    figure.savefig(io.BytesIO(), format="png")
    gone = weakref.ref(figure)
    del figure
    gc.collect()
    assert gone() is None
