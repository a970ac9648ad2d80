"""The Logger's plots: the figures that plotly draws, from every kind of data, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects
import pytest
from reports_support import Kept

from telemetry.events import MAX_FIGURE_BYTES, Plot
from telemetry.sdk.reports.figures import figure_text
from telemetry.sdk.reports.logger import Logger
from telemetry.sdk.reports.plots import MAX_TABLE_CELLS, SeriesInfo


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def logger(kept: Kept) -> Logger:
    return Logger(kept)


def only(kept: Kept) -> Plot:
    assert kept.refused == []
    (event,) = kept.events
    assert isinstance(event, Plot)
    return event


def figure_of(kept: Kept) -> dict[str, Any]:
    figure: dict[str, Any] = json.loads(only(kept).figure)
    # plotly's own schema: an unknown field or a wrong type raises here
    plotly.graph_objects.Figure(figure)
    return figure


CALLS: dict[str, Callable[[Logger], None]] = {
    "vector": lambda logger: logger.report_vector("t", "s", [1, 2.5, 3], 7, xlabels=["a", "b", "c"], xaxis="x"),
    "histogram": lambda logger: logger.report_histogram("t", "s", [[1, 2], [3, 4]], 7, ["p", "q"], mode="stack"),
    "table": lambda logger: logger.report_table("t", "s", 7, [["a", "b"], [1, "x"], [math.nan, None]]),
    "line": lambda logger: logger.report_line_plot("t", [SeriesInfo("s", [[0, 1], [1, 2]])], "x", "y", iteration=7),
    "scatter2d": lambda logger: logger.report_scatter2d("t", "s", [[0, 1], [1, 2]], 7, labels=["a", "b"], comment="c"),
    "scatter3d": lambda logger: logger.report_scatter3d("t", "s", [[0, 1, 2]], 7, zaxis="z", mode="markers", fill=True),
    "confusion": lambda logger: logger.report_confusion_matrix("t", "s", [[5, 1], [0, 9]], 7, "p", "q", ["a", "b"]),
    "matrix": lambda logger: logger.report_matrix("t", "s", [[5, 1], [0, 9]], 7, yaxis_reversed=True),
    "surface": lambda logger: logger.report_surface("t", "s", [[5, 1], [0, 9]], 7, xlabels=["a"], camera=(1, 1, 1)),
    "plotly": lambda logger: logger.report_plotly("t", "s", {"data": [{"type": "bar", "y": [1]}], "layout": {}}, 7),
    "plotly figure": lambda logger: logger.report_plotly("t", "s", plotly.graph_objects.Figure({"data": []}), 7),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_plot_is_a_figure_that_plotly_draws(name: str, kept: Kept, logger: Logger) -> None:
    CALLS[name](logger)
    event = only(kept)
    assert (event.title, event.iteration, event.blob) == ("t", 7, "")
    assert event.series == ("plot" if name == "line" else "s")
    assert "data" in figure_of(kept)


@pytest.mark.parametrize("name", CALLS)
def test_plots_need_neither_numpy_nor_plotly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "plotly figure":
        return
    # None in sys.modules is a module that can't be imported.
    for module in ("numpy", "plotly", "pandas"):
        monkeypatch.setitem(sys.modules, module, None)
    kept = Kept()
    CALLS[name](Logger(kept))
    assert only(kept).figure


def test_the_figure_holds_what_was_given(kept: Kept, logger: Logger) -> None:
    logger.report_confusion_matrix(
        "Confusion", "test", np.array([[5, 1], [0, 9]]), None, "predicted", "true", ["cat", "dog"], ["cat", "dog"],
        yaxis_reversed=True, comment="of the test set", extra_layout={"height": 300},
    )  # fmt: skip
    figure = figure_of(kept)
    (trace,) = figure["data"]
    assert (trace["type"], trace["z"], trace["x"], trace["y"]) == (
        "heatmap", [[5, 1], [0, 9]], ["cat", "dog"], ["cat", "dog"],
    )  # fmt: skip
    assert trace["texttemplate"] == "%{z}"
    layout = figure["layout"]
    assert layout["yaxis"]["autorange"] == "reversed"
    assert layout["xaxis"]["title"]["text"] == "predicted"
    assert layout["annotations"][0]["text"] == "of the test set"
    assert layout["height"] == 300
    assert only(kept).iteration == 0


@pytest.mark.parametrize(
    "series",
    [
        [SeriesInfo("a", [[0, 1.5], [1, 2]]), SeriesInfo("b", np.array([[0, 3], [1, 4]]), ["p", "q"])],
        [{"name": "a", "data": [[0, 1.5], [1, 2]]}, {"name": "b", "data": [(0, 3), (1, 4)], "labels": ["p", "q"]}],
        [("a", [[0, 1.5], [1, 2]]), ("b", [[0, 3], [1, 4]], ["p", "q"])],
    ],
)
def test_lines_are_given_in_three_ways(series: Any, kept: Kept, logger: Logger) -> None:
    logger.report_line_plot("curves", series, "x", "y", mode="lines+markers", reverse_xaxis=True)
    figure = figure_of(kept)
    assert [(trace["name"], trace["x"], trace["y"], trace.get("text")) for trace in figure["data"]] == [
        ("a", [0, 1], [1.5, 2], None),
        ("b", [0, 1], [3, 4], ["p", "q"]),
    ]
    assert figure["layout"]["xaxis"]["autorange"] == "reversed"


def test_numbers_that_are_not_finite_are_gaps_and_are_told_apart(kept: Kept, logger: Logger) -> None:
    logger.report_scatter2d("t", "s", np.array([[0, 1], [1, math.nan], [2, math.inf], [3, -math.inf]]))
    figure = figure_of(kept)
    assert figure["data"][0]["y"] == [1.0, None, "Infinity", "-Infinity"]
    # or plotly might take the column for names
    assert figure["layout"]["yaxis"]["type"] == "linear"
    assert "type" not in figure["layout"]["xaxis"]


def test_a_vector_may_stand_for_a_scatter(kept: Kept, logger: Logger) -> None:
    logger.report_scatter2d("t", "s", np.array([4.0, 5.0]), mode="markers")
    trace = figure_of(kept)["data"][0]
    assert (trace["x"], trace["y"], trace["mode"]) == ([0, 1], [4.0, 5.0], "markers")


def test_several_sets_of_points_in_space(kept: Kept, logger: Logger) -> None:
    logger.report_scatter3d("t", "s", [[[0, 0, 0]], [[1, 1, 1], [2, 2, 2]]], labels=[["a"], ["b", "c"]])
    assert [(trace["name"], trace["z"], trace["text"]) for trace in figure_of(kept)["data"]] == [
        ("s 0", [0], ["a"]),
        ("s 1", [1, 2], ["b", "c"]),
    ]


def test_tables_of_every_kind(kept: Kept, logger: Logger, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["a", "b"], ["1", "x, y"], ["2", "ü"]])
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x, y", "ü"]})
    logger.report_table("t", "frame", table_plot=frame)
    logger.report_table("t", "indexed", table_plot=frame.set_index("a"))
    logger.report_table("t", "dict", table_plot={"a": [1, 2], "b": ["x, y", "ü"]})
    logger.report_table("t", "rows", table_plot=[["a", "b"], [1, "x, y"], [2, "ü"]])
    assert kept.refused == []
    for event in kept.events:
        assert isinstance(event, Plot)
        (trace,) = json.loads(event.figure)["data"]
        assert (trace["header"]["values"], trace["cells"]["values"]) == (["a", "b"], [[1, 2], ["x, y", "ü"]])
    kept.events.clear()
    logger.report_table("t", "csv", csv=path, extra_data={"columnwidth": [1, 2]})
    (trace,) = figure_of(kept)["data"]
    assert trace["cells"]["values"] == [["1", "2"], ["x, y", "ü"]]


def test_tables_say_nan(kept: Kept, logger: Logger) -> None:
    logger.report_table("t", "s", table_plot=[["a"], [math.nan], [math.inf], [None]])
    assert figure_of(kept)["data"][0]["cells"]["values"] == [["NaN", "Infinity", None]]


def test_a_plotly_figure_keeps_its_arrays(kept: Kept, logger: Logger) -> None:
    figure = plotly.graph_objects.Figure(plotly.graph_objects.Scatter(y=np.array([1.0, 2.0])), {"title": "mine"})
    logger.report_plotly("t", "s", figure)
    read = plotly.graph_objects.Figure(json.loads(only(kept).figure))
    assert read == plotly.graph_objects.Figure(json.loads(figure.to_json()))


def test_data_are_copied_at_once(kept: Kept, logger: Logger) -> None:
    values = np.array([1.0, 2.0])
    logger.report_vector("t", "s", values)
    values[:] = 9
    assert figure_of(kept)["data"][0]["y"] == [1.0, 2.0]


class Hostile:
    def __len__(self) -> int:
        raise RuntimeError("mine")

    __iter__ = __getitem__ = __len__


REFUSED: dict[str, Callable[[Logger], None]] = {
    "text as values": lambda logger: logger.report_vector("t", "s", "abc"),
    "nothing as values": lambda logger: logger.report_histogram("t", "s", None),
    "words as values": lambda logger: logger.report_histogram("t", "s", [1, "a"]),
    "ragged": lambda logger: logger.report_matrix("t", "s", [[1, 2], [3]]),
    "a vector as matrix": lambda logger: logger.report_surface("t", "s", [1, 2, 3]),
    "three columns": lambda logger: logger.report_scatter2d("t", "s", [[1, 2, 3]]),
    "two columns": lambda logger: logger.report_scatter3d("t", "s", [[1, 2]]),
    "mode": lambda logger: logger.report_scatter2d("t", "s", [[1, 2]], mode="dots"),
    "bar mode": lambda logger: logger.report_vector("t", "s", [1], mode="lines"),
    "layout": lambda logger: logger.report_vector("t", "s", [1], extra_layout=["height"]),  # type: ignore[arg-type]
    "no series": lambda logger: logger.report_line_plot("t", "s", "x", "y"),
    "two tables": lambda logger: logger.report_table("t", "s", table_plot=[["a"]], url="http://h/a.csv"),
    "no table": lambda logger: logger.report_table("t", "s"),
    "no such csv": lambda logger: logger.report_table("t", "s", csv="/nowhere/a.csv"),
    "a huge table": lambda logger: logger.report_table("t", "s", table_plot={"a": range(MAX_TABLE_CELLS + 1)}),
    "no figure": lambda logger: logger.report_plotly("t", "s", [1]),
    "odd figure": lambda logger: logger.report_plotly("t", "s", {"data": 5}),
    "no matplotlib": lambda logger: logger.report_matplotlib_figure("t", "s", 5),
    "iteration": lambda logger: logger.report_vector("t", "s", [1], 1.5),  # type: ignore[arg-type]
    "title": lambda logger: logger.report_vector(None, "s", [1]),  # type: ignore[arg-type]
    "hostile": lambda logger: logger.report_vector("t", "s", Hostile()),
    "endless": lambda logger: logger.report_plotly("t", "s", endless()),
}


def endless() -> dict[str, Any]:
    figure: dict[str, Any] = {}
    figure["layout"] = figure
    return figure


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plot_is_counted_with_its_reason_and_never_raises(name: str, kept: Kept, logger: Logger) -> None:
    REFUSED[name](logger)
    assert kept.events == []
    (reason,) = kept.refused
    assert reason.startswith("report_")
    assert len(reason) < 500


def test_figures_hold_what_json_does_not_know() -> None:
    import datetime
    from decimal import Decimal

    value = {
        1: np.float32(0.5),
        "array": np.array([[1, 2]], np.int8),
        "when": datetime.date(2026, 1, 2),
        "big": 2**70,
        "text": "a\ud800",
        "other": Decimal("1.5"),
        "true": np.bool_(True),
        "tuple": (1, {2}),
    }
    assert json.loads(figure_text({"layout": value}))["layout"] == {
        "1": 0.5, "array": [[1, 2]], "when": "2026-01-02", "big": 2.0**70, "text": "a\\ud800", "other": "1.5",
        "true": True, "tuple": [1, [2]],
    }  # fmt: skip


def test_tensors_are_data_as_well(kept: Kept, logger: Logger) -> None:
    torch = pytest.importorskip("torch")
    logger.report_matrix("t", "s", torch.ones(2, 2, requires_grad=True))
    assert figure_of(kept)["data"][0]["z"] == [[1.0, 1.0], [1.0, 1.0]]


def test_a_large_figure_travels_as_a_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from telemetry.sdk.task.task import Task

    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path))
    task = Task.init("examples", "large", auto_connect_streams=False, auto_resource_monitoring=False)
    values = [index / 7 for index in range(MAX_FIGURE_BYTES // 15)]
    task.get_logger().report_vector("large", "s", values)
    task.close()
    (plot,) = task.get_reported_plots()
    assert len(plot["plot_str"]) > MAX_FIGURE_BYTES
    assert json.loads(plot["plot_str"])["data"][0]["y"] == values


@pytest.fixture(autouse=True)
def _no_task_is_left() -> Iterator[None]:
    from telemetry.sdk.cores.current import current
    from telemetry.sdk.task.task import Task

    yield
    if isinstance(current.task, Task) and not current.task.ended:
        current.task.close()
