"""pandas frames as CSV and back: what CSV does not say (dtypes, labels, what is missing) goes into the record.

    {"columns": [label, ...], "dtypes": [text, ...], "index": {"dtype": text, "name": label}, "missing": text}

Exact for numbers, bools, texts and times; of other cells CSV has the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from telemetry.values import entry, value_of

__all__ = ["csv_form", "read_csv", "write_csv"]

# Above it the dtypes would make the record large; pandas guesses them from the text.
MAX_COLUMNS = 2000

# What a missing cell is written as where "" is a text that occurs.
_MISSING_MARKS = ("", "NaN", "<missing>")

_NANOSECONDS = {"timedelta64[s]": 10**9, "timedelta64[ms]": 10**6, "timedelta64[us]": 10**3}

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_NULLABLE = (*(name.replace("i", "I", 1).replace("u", "U", 1) for name in _INTEGERS), "boolean", "Float32", "Float64")


def csv_form(frame: Any) -> tuple[dict[str, Any] | None, list[str]]:
    """Return what the record keeps of a frame that is written as CSV, and that of which CSV has only text."""
    if frame.shape[1] > MAX_COLUMNS:
        return None, []
    columns = [frame.iloc[:, position] for position in range(frame.shape[1])]
    texts: set[str] = set()
    for cells in [*columns, frame.index]:
        if _is_text(cells.dtype):
            texts |= {mark for mark in _MISSING_MARKS if bool((cells == mark).any())}
    texts_only = [repr(str(cells.name)) for cells in columns if not _is_exact(cells)]
    lossy = [f"column {', '.join(texts_only[:5])}"] if texts_only else []
    if not _is_exact(frame.index):
        lossy.append("the index")
    form = {
        "columns": [entry(label) for label in frame.columns],
        "columns_name": entry(frame.columns.name),
        "dtypes": [str(cells.dtype) for cells in columns],
        "index": {
            "dtype": str(frame.index.dtype),
            "name": entry(frame.index.name),
            "range": _range_of(frame.index),
            "freq": getattr(frame.index, "freqstr", None),
        },
        "columns_range": _range_of(frame.columns),
        "missing": next((mark for mark in _MISSING_MARKS if mark not in texts), "<missing cell>"),
    }
    if not _are_same(_labels(form), frame.columns):
        lossy.append("the columns' labels")
    if frame.attrs:
        lossy.append("attrs")
    return form, lossy


def _range_of(index: Any) -> list[int] | None:
    return [index.start, index.stop, index.step] if type(index).__name__ == "RangeIndex" else None


def _labels(form: Mapping[str, Any]) -> Any:
    """Return the labels of the columns as they are restored."""
    import pandas as pd

    name = value_of(form["columns_name"])
    if form.get("columns_range") is not None:
        return pd.RangeIndex(*form["columns_range"], name=name)
    labels = [value_of(label) for label in form["columns"]]
    return pd.Index(labels, name=name, tupleize_cols=False)


def _are_same(restored: Any, labels: Any) -> bool:
    return (
        type(restored) is type(labels)
        and restored.dtype == labels.dtype
        and restored.equals(labels)
        and restored.name == labels.name
        and list(map(type, restored)) == list(map(type, labels))
        and getattr(restored, "freq", None) == getattr(labels, "freq", None)
    )


def write_csv(frame: Any, file: Any, form: Mapping[str, Any] | None) -> None:
    """Write a frame with its index as CSV, UTF-8, into a binary file."""
    missing = "" if form is None else form["missing"]
    # Python's csv quotes a carriage return inside a cell only where it is part of the line end.
    line_end = "\r\n" if _has_carriage_return(frame) else "\n"
    frame.to_csv(file, mode="wb", na_rep=missing, lineterminator=line_end, encoding="utf-8")


def read_csv(path: Any, form: Mapping[str, Any] | None) -> Any:
    """Return the frame in a gzipped CSV file, as it was when `form` was made of it.

    A form that does not fit the file counts for nothing: then pandas guesses.
    """
    import pandas as pd

    if form is not None:
        try:
            return _restored(pd.read_csv(path, dtype=object, keep_default_na=False, header=0, compression="gzip"), form)
        except (KeyError, ValueError, TypeError, IndexError):
            pass  # edited, or written by a later version: the plain way is still right for most cells
    return pd.read_csv(path, index_col=0, compression="gzip")


def _restored(cells: Any, form: Mapping[str, Any]) -> Any:
    import pandas as pd

    dtypes, missing = form["dtypes"], form["missing"]
    if cells.shape[1] != len(dtypes) + 1:
        raise ValueError("the file has other columns than the record")
    index_dtype = form["index"]["dtype"]
    index = pd.Index(
        _cast(cells.iloc[:, 0], index_dtype, missing),
        dtype=object if index_dtype == "object" else None,
        name=value_of(form["index"]["name"]),
    )
    if form["index"].get("range") is not None:
        index = pd.RangeIndex(*form["index"]["range"], name=index.name)
    elif "range" not in form["index"] and str(index.dtype) == "int64" and index.equals(pd.RangeIndex(len(index))):
        index = pd.RangeIndex(len(index), name=index.name)  # written when the record did not tell
    if form["index"].get("freq") and hasattr(index, "freq"):
        index.freq = form["index"]["freq"]
    data = {
        # An object stays one: pandas would make text of it.
        position: pd.Series(
            _cast(cells.iloc[:, position + 1], dtype, missing),
            index=index,
            dtype=object if dtype == "object" else None,
        )
        for position, dtype in enumerate(dtypes)
    }
    frame = pd.DataFrame(data, index=index)
    frame.columns = _labels(form)
    return frame


def _cast(cells: Any, dtype: str, missing: str) -> Any:
    """Return a column of texts as the dtype that it was."""
    import numpy as np
    import pandas as pd

    values = cells.to_numpy(dtype=object)
    gone = values == missing
    kept = [None if lost else value for value, lost in zip(values, gone, strict=True)]
    if dtype in _INTEGERS:
        # Not by way of pandas, which takes ints beyond int64 beside smaller ones for floats.
        return np.array([int(value) for value in values], dtype=dtype)
    if dtype in ("float16", "float32", "float64"):
        return np.array(["nan" if value is None else value for value in kept], dtype=dtype)
    if dtype == "bool":
        return values == "True"
    if dtype in _NULLABLE:
        return pd.array([None if value is None else _plain(value, dtype) for value in kept], dtype=dtype)
    if dtype.startswith("datetime64"):
        times = pd.to_datetime(pd.Series(kept, dtype=object), format="ISO8601", utc="," in dtype)
        return pd.Series(times).astype(dtype).array
    if dtype.startswith("timedelta64"):
        spans = pd.to_timedelta(pd.Series(kept, dtype=object))
        return pd.Series(spans).astype(dtype).array
    return pd.array(kept, dtype=dtype if dtype in ("str", "string") else object)


def _plain(value: str, dtype: str) -> Any:
    if dtype == "boolean":
        return value == "True"
    return float(value) if dtype.startswith("Float") else int(value)


def _has_carriage_return(frame: Any) -> bool:
    labels = (*frame.columns, frame.columns.name, frame.index.name)
    if any("\r" in str(label) for label in labels):
        return True
    columns = [frame.iloc[:, position] for position in range(frame.shape[1])]
    texts = [cells for cells in (*columns, frame.index) if _is_text(cells.dtype) or str(cells.dtype) == "category"]
    return any("\r" in str(value) for cells in texts for value in cells)


def _is_text(dtype: Any) -> bool:
    return str(dtype) in ("object", "str", "string")


def _is_exact(cells: Any) -> bool:
    dtype = str(cells.dtype)
    if dtype == "object":
        return all(value is None or isinstance(value, str) for value in cells)
    if dtype.startswith("timedelta64") and dtype != "timedelta64[ns]":
        # Read back by way of nanoseconds.
        most = abs(cells.dropna().to_numpy().astype("int64")).max(initial=0)
        return bool(most < 2**63 / _NANOSECONDS[dtype])
    known = (*_INTEGERS, *_NULLABLE, "float16", "float32", "float64", "bool", "str", "string")
    return dtype in known or dtype.startswith(("datetime64", "timedelta64"))
