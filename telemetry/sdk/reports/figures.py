"""A figure as JSON text: any mix of dicts, lists, numpy arrays, tensors and plotly objects in, plain JSON out.

JSON has no NaN. In a figure NaN becomes null, which plotly draws as a gap; an infinity becomes the text "Infinity" or
"-Infinity", which is drawn as a gap too and is not mistaken for a missing value by whoever reads the figure back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from telemetry.errors import InvalidEvent
from telemetry.events import INT64_MAX, INT64_MIN, clean_text

__all__ = ["MAX_DEPTH", "columns_of", "figure_text", "numbers", "plain", "rows_of", "texts"]

# Dicts and lists inside each other; no figure of plotly's has half as many.
MAX_DEPTH = 50


def figure_text(figure: Any) -> str:
    """Return a plotly Figure, or a dict of its form, as JSON text.

    Raises:
        InvalidEvent: it is neither, or holds what JSON can't.
    """
    import orjson  # not needed by a program that reports scalars alone

    if not isinstance(figure, Mapping):
        convert = getattr(figure, "to_plotly_json", None) or getattr(figure, "to_dict", None)
        if convert is None:
            raise InvalidEvent(f"a figure is a plotly Figure or a dict, not {type(figure).__name__}")
        figure = convert()
    document = plain(figure)
    if not isinstance(document, dict) or not isinstance(document.get("data", []), (list, dict)):
        raise InvalidEvent('a figure is a dict of "data", a list of traces, and "layout"')
    try:
        return orjson.dumps(document).decode()
    except orjson.JSONEncodeError as error:
        raise InvalidEvent(f"the figure is no JSON: {error}") from error


def plain(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Return a value made of dicts, lists, text, numbers, bools and None alone; it shares nothing with the original.

    Raises:
        InvalidEvent: nested too deep.
    """
    if value is None or isinstance(value, (bool, str)):
        return clean_text(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value) if INT64_MIN <= value <= INT64_MAX else float(value)
    if isinstance(value, float):
        return _float(value)
    if not depth:
        raise InvalidEvent(f"a figure is nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        return {clean_text(str(key)): plain(item, depth - 1) for key, item in value.items()}
    listed = _listed(value)
    if listed is not value:
        return plain(listed, depth - 1)
    if isinstance(value, (list, tuple, set, frozenset, range)):
        if isinstance(value, (list, tuple)) and _are_finite(value):
            return list(value)
        return [plain(item, depth - 1) for item in value]
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    convert = getattr(value, "to_plotly_json", None)
    return plain(convert(), depth - 1) if convert is not None else clean_text(str(value))


def _are_finite(values: Sequence[Any]) -> bool:
    """Say whether these are finite Python numbers alone, which JSON carries as they are: the usual long list."""
    kinds = set(map(type, values))
    if not kinds <= {float, int} or not all(map(math.isfinite, values)):
        return False
    return int not in kinds or (min(values) >= INT64_MIN and max(values) <= INT64_MAX)


def _float(value: float) -> float | str | None:
    if math.isfinite(value):
        return float(value)
    return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _listed(value: Any) -> Any:
    """Return an array, tensor, pandas Series or numpy scalar as Python's own; anything else as it is."""
    if isinstance(value, (list, tuple, str, bytes, Mapping)):
        return value
    detach = getattr(value, "detach", None)
    if detach is not None:
        value = detach().cpu()
        # bfloat16 has no Python form of its own; torch gives floats.
    convert = getattr(value, "tolist", None) or getattr(value, "item", None)
    return value if convert is None else convert()


def numbers(values: Any, what: str = "values") -> list[Any]:
    """Return a vector as a list of numbers: floats, ints, or None for a gap.

    Raises:
        InvalidEvent: it is no sequence of numbers.
    """
    listed = _listed(values)
    if isinstance(listed, (int, float)):
        listed = [listed]
    if isinstance(listed, (str, bytes, Mapping)) or not isinstance(listed, Sequence):
        raise InvalidEvent(f"{what} must be a sequence of numbers, not {type(values).__name__}")
    if set(map(type, listed)) <= {float, int}:
        return list(listed)
    found = []
    for item in listed:
        number = item if item is None or isinstance(item, (int, float)) else _listed(item)
        if number is not None and not isinstance(number, (int, float)):
            raise InvalidEvent(f"{what} must be numbers, and one is {type(item).__name__}")
        found.append(float(number) if isinstance(number, bool) else number)
    return found


def rows_of(matrix: Any, what: str = "matrix", *, width: int | None = None) -> list[list[Any]]:
    """Return a matrix as a list of rows of numbers, all of one length.

    Args:
        width: the length that each row must have; None for any.
    Raises:
        InvalidEvent: it is no matrix of numbers, or none of that width.
    """
    listed = _listed(matrix)
    if isinstance(listed, (str, bytes, Mapping)) or not isinstance(listed, Sequence):
        raise InvalidEvent(f"{what} must be a matrix (a list of rows, or an array), not {type(matrix).__name__}")
    if not all(hasattr(row, "__len__") for row in listed):
        raise InvalidEvent(f"{what} must be a matrix (a list of rows, or an array), not a vector")
    rows = [numbers(row, f"a row of {what}") for row in listed]
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise InvalidEvent(f"the rows of {what} have different lengths: {sorted(widths)[:5]}")
    if width is not None and widths - {width}:
        raise InvalidEvent(f"{what} must have {width} columns, not {widths.pop()}")
    return rows


def columns_of(points: Any, what: str, width: int) -> list[list[Any]]:
    """Return points, a matrix [n, width], as its columns.

    Raises:
        InvalidEvent: it is no matrix of numbers, or none of that width.
    """
    if getattr(points, "ndim", 0) == 2 and hasattr(points, "__getitem__") and not hasattr(points, "iloc"):
        # A column of an array at once: a tenth of the time of its rows.
        if points.shape[1] != width:
            raise InvalidEvent(f"{what} must have {width} columns, not {points.shape[1]}")
        return [numbers(points[:, place], what) for place in range(width)]
    rows = rows_of(points, what, width=width)
    return [[row[place] for row in rows] for place in range(width)]


def texts(labels: Any, what: str) -> list[str] | None:
    """Return labels as a list of texts; None stays None.

    Raises:
        InvalidEvent: it is no sequence.
    """
    if labels is None:
        return None
    listed = _listed(labels)
    if isinstance(listed, (str, bytes, Mapping)) or not isinstance(listed, Sequence):
        raise InvalidEvent(f"{what} must be a list of texts, not {type(labels).__name__}")
    return [clean_text(str(label)) for label in listed]
