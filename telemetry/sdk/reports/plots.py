"""Plots as plotly figures: each function returns {"data": [...], "layout": {...}} made of plain dicts and lists.

plotly itself is not imported: its JSON is a format, and the pages draw it. Data may be lists, numpy arrays, tensors or
pandas objects; every function raises InvalidEvent for what is none of the right shape.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from telemetry.errors import InvalidEvent
from telemetry.events import clean_text
from telemetry.process.interrupts import is_interrupt
from telemetry.sdk.reports.figures import columns_of, numbers, rows_of, texts

__all__ = [
    "MAX_TABLE_CELLS",
    "Figure",
    "SeriesInfo",
    "bars",
    "heatmap",
    "lines",
    "picture",
    "read_csv",
    "scatter2d",
    "scatter3d",
    "surface",
    "table",
]

Figure: TypeAlias = dict[str, Any]

# A table beyond this is data to be kept as an artifact, and stops every browser.
MAX_TABLE_CELLS = 1_000_000

_MODES = {"line": "lines", "lines": "lines", "markers": "markers", "lines+markers": "lines+markers"}
_BAR_MODES = ("group", "stack", "relative", "overlay")


class SeriesInfo(NamedTuple):
    """One line of a line plot.

    Attributes:
        data: points [x, y], an array [n, 2].
        labels: the text that each point shows, if any.
    """

    name: str
    data: Any
    labels: Any = None


def _layout(title: str, extra: Any, **parts: Any) -> Figure:
    """Return a layout; `extra` is put over it."""
    layout: Figure = {"title": {"text": title}}
    layout.update((name, part) for name, part in parts.items() if part is not None)
    if extra is not None:
        if not isinstance(extra, Mapping):
            raise InvalidEvent(f"extra_layout must be a dict, not {type(extra).__name__}")
        layout.update(extra)
    return layout


def _axis(title: Any, *values: Iterable[Any], **parts: Any) -> Figure:
    """Return an axis of numbers; of some that are not finite it says so: plotly would guess from their texts."""
    axis: Figure = {"title": {"text": "" if title is None else str(title)}}
    if any(isinstance(item, float) and not math.isfinite(item) for column in values for item in column):
        axis["type"] = "linear"
    return axis | {name: part for name, part in parts.items() if part is not None}


def _comment(comment: Any) -> list[Figure] | None:
    if not comment:
        return None
    place = {"x": 0, "y": -0.15, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "top"}
    return [{"text": clean_text(str(comment)), "showarrow": False, **place}]


def _mode(mode: Any) -> str:
    if mode not in _MODES:
        raise InvalidEvent(f"mode is {mode!r:.60}; it must be one of {', '.join(map(repr, _MODES))}")
    return _MODES[mode]


def bars(
    title: str,
    series: str,
    values: Any,
    *,
    labels: Any = None,
    xlabels: Any = None,
    xaxis: Any = None,
    yaxis: Any = None,
    mode: Any = None,
    data_args: Any = None,
    extra_layout: Any = None,
) -> Figure:
    """Return bars: of one vector, or side by side of each row of a matrix.

    Args:
        labels: a name for each row. xlabels: a name for each bar.
        mode: "group", "stack", "relative" or "overlay".
        data_args: further fields of each trace, such as {"orientation": "h"}.
    """
    first = values[0] if not hasattr(values, "keys") and len(values) else 0.0
    nested = getattr(values, "ndim", 2 if hasattr(first, "__len__") else 1) > 1
    rows = rows_of(values, "values") if nested else [numbers(values)]
    names = texts(labels, "labels") or ([series] if len(rows) == 1 else [f"{series} {row}" for row in range(len(rows))])
    x = texts(xlabels, "xlabels")
    mode = "group" if mode is None else mode
    if mode not in _BAR_MODES:
        raise InvalidEvent(f"mode is {mode!r:.60}; it must be one of {', '.join(map(repr, _BAR_MODES))}")
    if data_args is not None and not isinstance(data_args, Mapping):
        raise InvalidEvent(f"data_args must be a dict, not {type(data_args).__name__}")
    data = [
        {
            "type": "bar",
            "name": names[row] if row < len(names) else f"{series} {row}",
            "x": x if x is not None else list(range(len(heights))),
            "y": heights,
            **(data_args or {}),
        }
        for row, heights in enumerate(rows)
    ]
    x_part = _axis(xaxis, type=None if x is None else "category")
    return {
        "data": data,
        "layout": _layout(title, extra_layout, xaxis=x_part, yaxis=_axis(yaxis, *rows), barmode=mode),
    }


def lines(
    title: str,
    series: Any,
    *,
    xaxis: Any = None,
    yaxis: Any = None,
    mode: Any = "lines",
    reverse_xaxis: bool = False,
    comment: Any = None,
    extra_layout: Any = None,
) -> Figure:
    """Return one or more lines, each a SeriesInfo, a dict of its fields, or (name, data)."""
    if isinstance(series, (str, bytes)) or not isinstance(series, Iterable):
        raise InvalidEvent(f"series must be a list of SeriesInfo(name, data), not {type(series).__name__}")
    data, columns = [], []
    for item in [series] if isinstance(series, SeriesInfo) or hasattr(series, "data") else series:
        info = _series_info(item)
        x, y = columns_of(info.data, f"the data of {info.name!r:.60}", 2)
        columns.append((x, y))
        trace = {"type": "scatter", "mode": _mode(mode), "name": clean_text(str(info.name)), "x": x, "y": y}
        data.append(trace | _point_texts(info.labels))
    x_part = _axis(xaxis, *(x for x, _ in columns), autorange="reversed" if reverse_xaxis else None)
    y_part = _axis(yaxis, *(y for _, y in columns))
    return {
        "data": data,
        "layout": _layout(title, extra_layout, xaxis=x_part, yaxis=y_part, annotations=_comment(comment)),
    }


def _series_info(item: Any) -> SeriesInfo:
    if isinstance(item, Mapping):
        item = SeriesInfo(item.get("name", ""), item.get("data"), item.get("labels"))
    if isinstance(item, tuple):
        if len(item) not in (2, 3):
            raise InvalidEvent(f"a series is (name, data) or (name, data, labels), not a tuple of {len(item)}")
        return SeriesInfo(*item)
    if not hasattr(item, "name") or not hasattr(item, "data"):
        raise InvalidEvent(f"a series is a SeriesInfo(name, data), not {type(item).__name__}")
    return SeriesInfo(item.name, item.data, getattr(item, "labels", None))


def _point_texts(labels: Any) -> Figure:
    found = texts(labels, "labels")
    return {} if found is None else {"text": found}


def scatter2d(
    title: str,
    series: str,
    scatter: Any,
    *,
    xaxis: Any = None,
    yaxis: Any = None,
    labels: Any = None,
    mode: Any = "lines",
    comment: Any = None,
    extra_layout: Any = None,
) -> Figure:
    """Return points [n, 2], joined by a line or not; a vector of n is taken as y over 0, 1, 2, …"""
    points = scatter
    if getattr(scatter, "ndim", 0) == 1 or (
        isinstance(scatter, Sequence) and scatter and not hasattr(scatter[0], "__len__")
    ):
        points = [[place, value] for place, value in enumerate(numbers(scatter, "scatter"))]
    x, y = columns_of(points, "scatter", 2)
    trace = {"type": "scatter", "mode": _mode(mode), "name": series, "x": x, "y": y, **_point_texts(labels)}
    layout = _layout(title, extra_layout, xaxis=_axis(xaxis, x), yaxis=_axis(yaxis, y), annotations=_comment(comment))
    return {"data": [trace], "layout": layout}


def scatter3d(
    title: str,
    series: str,
    scatter: Any,
    *,
    xaxis: Any = None,
    yaxis: Any = None,
    zaxis: Any = None,
    labels: Any = None,
    mode: Any = "markers",
    fill: bool = False,
    comment: Any = None,
    extra_layout: Any = None,
) -> Figure:
    """Return points [n, 3], or several sets of them [k, n, 3]. `fill`: the area under the line is coloured."""
    first = scatter[0] if isinstance(scatter, (list, tuple)) and scatter else None
    several = getattr(scatter, "ndim", 0) == 3 or (
        first is not None and len(first) > 0 and hasattr(first[0], "__len__")
    )
    sets = list(scatter) if several else [scatter]
    data, columns = [], []
    for number, points in enumerate(sets):
        x, y, z = columns_of(points, "scatter", 3)
        columns.append((x, y, z))
        trace: Figure = {"type": "scatter3d", "mode": _mode(mode), "x": x, "y": y, "z": z}
        trace["name"] = series if len(sets) == 1 else f"{series} {number}"
        if fill:
            trace["surfaceaxis"] = 1
        data.append(trace | _point_texts(labels[number] if len(sets) > 1 and labels is not None else labels))
    scene = {
        f"{name}axis": _axis(text, *(column[place] for column in columns))
        for place, (name, text) in enumerate((("x", xaxis), ("y", yaxis), ("z", zaxis)))
    }
    return {"data": data, "layout": _layout(title, extra_layout, scene=scene, annotations=_comment(comment))}


def heatmap(
    title: str,
    matrix: Any,
    *,
    xaxis: Any = None,
    yaxis: Any = None,
    xlabels: Any = None,
    ylabels: Any = None,
    yaxis_reversed: bool = False,
    with_values: bool = False,
    comment: Any = None,
    extra_layout: Any = None,
) -> Figure:
    """Return a matrix as a map of colours, row 0 at the bottom unless `yaxis_reversed`.

    Args:
        with_values: write the value into each cell, as a confusion matrix wants it.
    """
    rows = rows_of(matrix)
    x, y = texts(xlabels, "xlabels"), texts(ylabels, "ylabels")
    trace: Figure = {"type": "heatmap", "z": rows}
    trace.update((name, part) for name, part in (("x", x), ("y", y)) if part is not None)
    if with_values:
        trace["texttemplate"] = "%{z}"
    x_part = _axis(xaxis, type=None if x is None else "category")
    y_part = _axis(yaxis, type=None if y is None else "category", autorange="reversed" if yaxis_reversed else None)
    layout = _layout(title, extra_layout, xaxis=x_part, yaxis=y_part, annotations=_comment(comment))
    return {"data": [trace], "layout": layout}


def surface(
    title: str,
    series: str,
    matrix: Any,
    *,
    xaxis: Any = None,
    yaxis: Any = None,
    zaxis: Any = None,
    xlabels: Any = None,
    ylabels: Any = None,
    camera: Any = None,
    comment: Any = None,
    extra_layout: Any = None,
) -> Figure:
    """Return a matrix of heights as a surface. `camera`: (x, y, z), from where it is looked at."""
    rows = rows_of(matrix)
    trace: Figure = {"type": "surface", "name": series, "z": rows}
    scene: Figure = {"xaxis": _axis(xaxis), "yaxis": _axis(yaxis), "zaxis": _axis(zaxis, *rows)}
    for name, labels in (("xaxis", texts(xlabels, "xlabels")), ("yaxis", texts(ylabels, "ylabels"))):
        if labels is not None:
            scene[name] |= {"tickvals": list(range(len(labels))), "ticktext": labels}
    if camera is not None:
        place = numbers(camera, "camera")
        if len(place) != 3:
            raise InvalidEvent(f"camera must be 3 numbers (x, y, z), not {len(place)}")
        scene["camera"] = {"eye": dict(zip("xyz", place, strict=True))}
    return {"data": [trace], "layout": _layout(title, extra_layout, scene=scene, annotations=_comment(comment))}


def table(title: str, rows: Any, *, extra_data: Any = None, extra_layout: Any = None) -> Figure:
    """Return a table of a pandas DataFrame, a dict of columns, or a list of rows of which the first is the header."""
    header, columns = _columns_of(rows)
    cells = sum(map(len, columns))
    if cells > MAX_TABLE_CELLS:
        raise InvalidEvent(
            f"a table of {cells:,} cells; at most {MAX_TABLE_CELLS:,} are kept: upload it as an artifact"
        )
    if extra_data is not None and not isinstance(extra_data, Mapping):
        raise InvalidEvent(f"extra_data must be a dict, not {type(extra_data).__name__}")
    trace: Figure = {
        "type": "table",
        "header": {"values": header, "align": "left"},
        "cells": {"values": [[_cell(cell) for cell in column] for column in columns], "align": "left"},
    }
    return {"data": [{**trace, **(extra_data or {})}], "layout": _layout(title, extra_layout)}


def _columns_of(rows: Any) -> tuple[list[str], list[list[Any]]]:
    if hasattr(rows, "columns") and hasattr(rows, "reset_index"):
        # pandas: an index that was given a meaning is a column; a plain numbering is none.
        is_numbering = type(rows.index).__name__ == "RangeIndex" and rows.index.name is None
        frame = rows if is_numbering else rows.reset_index()
        names = [" ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in frame.columns]
        return names, [frame.iloc[:, place].tolist() for place in range(len(names))]
    if isinstance(rows, Mapping):
        return [str(name) for name in rows], [list(column) for column in rows.values()]
    listed = rows.tolist() if hasattr(rows, "tolist") else rows
    if isinstance(listed, (str, bytes)) or not isinstance(listed, Sequence):
        raise InvalidEvent(
            f"a table is a pandas DataFrame, a dict of columns or a list of rows, not {type(rows).__name__}"
        )
    if not all(isinstance(row, Sequence) and not isinstance(row, (str, bytes)) for row in listed):
        raise InvalidEvent("a table is a list of rows, each of which is a list; the first is the header")
    if not listed:
        return [], []
    width = max(map(len, listed))
    header = [str(listed[0][place]) if place < len(listed[0]) else "" for place in range(width)]
    body = [[row[place] if place < len(row) else "" for row in listed[1:]] for place in range(width)]
    return header, body


def _cell(value: Any) -> Any:
    # In a table NaN is something to read, not a gap.
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def read_csv(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file.

    Raises:
        InvalidEvent: it can't be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            return list(csv.reader(file))
    except (OSError, csv.Error) as error:
        if is_interrupt(error):
            raise
        raise InvalidEvent(f"the csv file {path} can't be read: {error}") from error


def picture(title: str, source: str, width: int, height: int) -> Figure:
    """Return a picture as a figure without axes. `source`: a data URI or URL; width and height in pixels."""
    hidden = {"visible": False, "range": [0, width], "constrain": "domain"}
    place = {"x": 0, "y": height, "sizex": width, "sizey": height, "xref": "x", "yref": "y", "sizing": "stretch"}
    return {
        "data": [],
        "layout": {
            "title": {"text": title},
            "xaxis": hidden,
            "yaxis": {**hidden, "range": [0, height], "scaleanchor": "x"},
            "images": [{"source": source, "layer": "below", **place}],
            "margin": {"l": 0, "r": 0, "b": 0, "t": 40},
        },
    }
