"""pandas frames as files and back: what a file does not say (CSV: dtypes, labels, what is missing) is in the record.

    {"columns": [label, ...], "dtypes": [text, ...], "index": {"dtype": text, "name": label}, "missing": text}

Exact for numbers, bools, texts and times; of other cells CSV has the text. Parquet and Feather keep the dtypes
themselves, of most columns; the record has the labels and the index's frequency.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import date, time
from typing import Any

from telemetry.values import entry, value_of

__all__ = ["csv_form", "read_csv", "read_table", "table_changes", "table_form", "write_csv", "write_table"]

# Above it the dtypes would make the record large; pandas guesses them from the text.
MAX_COLUMNS = 2000

# A binary format is tried with so many rows: it treats a column's later cells as its first ones.
_SAMPLE_ROWS = 20

# Of an object column that has only one of these, and None, the cells come back from a binary format.
_BINARY_CELLS = (bytes, bool, date, time)

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
        if str(cells.dtype) == "object":
            # One by one: what lies in them may be anything, and compare as it likes.
            texts |= {value for value in cells if isinstance(value, str) and value in _MISSING_MARKS}
        elif _is_text(cells.dtype):
            texts |= {mark for mark in _MISSING_MARKS if bool((cells == mark).any())}
    texts_only = [repr(str(cells.name)) for cells in columns if not _is_exact(cells)]
    lossy = [f"column {', '.join(texts_only[:5])}"] if texts_only else []
    if not _is_exact(frame.index):
        lossy.append("the index")
    form = {
        **_label_form(frame),
        "dtypes": [str(cells.dtype) for cells in columns],
        "missing": next((mark for mark in _MISSING_MARKS if mark not in texts), "<missing cell>"),
    }
    if not _are_same(_labels(form), frame.columns):
        lossy.append("the columns' labels")
    return form, lossy + _beside_the_cells(frame)


def _label_form(frame: Any) -> dict[str, Any]:
    return {
        "columns": [entry(label) for label in frame.columns],
        "columns_name": entry(frame.columns.name),
        "index": {
            "dtype": str(frame.index.dtype),
            "name": entry(frame.index.name),
            "range": _range_of(frame.index),
            "freq": getattr(frame.index, "freqstr", None),
        },
        "columns_range": _range_of(frame.columns),
    }


def _beside_the_cells(frame: Any) -> list[str]:
    import pandas as pd

    of_class = [] if type(frame) is pd.DataFrame else [f"the class, {type(frame).__name__}"]
    flags = [] if frame.flags.allows_duplicate_labels else ["flags"]
    return [*of_class, *flags, *(["attrs"] if frame.attrs else [])]


def table_form(frame: Any) -> dict[str, Any] | None:
    """Return what the record keeps of a frame that is written as Parquet or Feather; None for labels with levels."""
    if frame.shape[1] > MAX_COLUMNS or frame.index.nlevels > 1 or frame.columns.nlevels > 1:
        return None
    return _label_form(frame)


def write_table(frame: Any, file: Any, suffix: str) -> None:
    """Write a frame into a binary file as ".parquet" or ".feather"."""
    (frame.to_parquet if suffix == ".parquet" else frame.to_feather)(file)


def read_table(file: Any, suffix: str, form: Mapping[str, Any] | None) -> Any:
    """Return the frame in a file or path, with the labels that it had when `form` was made of it."""
    import pandas as pd

    frame = (pd.read_parquet if suffix == ".parquet" else pd.read_feather)(file)
    return frame if form is None else _relabelled(frame, form)


def table_changes(frame: Any, suffix: str) -> list[str]:
    """Return what a binary format changes of a frame, in words.

    Some rows are written and read again, so that nothing large is held twice. What pandas raises goes through: the
    format has no place for the frame, or a package is missing.
    """

    def again(rows: Any, form: Mapping[str, Any] | None = None) -> Any:
        file = io.BytesIO()
        write_table(rows, file, suffix)
        return read_table(io.BytesIO(file.getvalue()), suffix, form)

    head = frame.head(_SAMPLE_ROWS)
    read = again(head, table_form(frame))
    changed = []
    for position in range(frame.shape[1]):
        cells, dtype = frame.iloc[:, position], read.dtypes.iloc[position]
        if str(cells.dtype) == "object":
            dtype = again(_telling_rows(frame, position)).dtypes.iloc[0]
        if dtype != cells.dtype or (str(dtype) == "object" and not (_is_exact(cells) or _has_binary_cells(cells))):
            changed.append(repr(str(cells.name)))
    changes = [f"column {', '.join(changed[:5])}"] if changed else []
    if not _are_same(read.index, head.index):
        changes.append("the index")
    if not _are_same(read.columns, frame.columns):
        changes.append("the columns' labels")
    beside = _beside_the_cells(frame)
    return changes + [what for what in beside if what != "attrs" or repr(read.attrs) != repr(frame.attrs)]


def _relabelled(frame: Any, form: Mapping[str, Any]) -> Any:
    try:
        labels, name, freq = _labels(form), value_of(form["index"]["name"]), form["index"].get("freq")
        frame = frame.set_axis(labels, axis="columns").rename_axis(index=name)
        if freq and hasattr(frame.index, "freq"):
            frame.index.freq = freq
    except (KeyError, ValueError, TypeError):
        pass  # edited, or written by a later version: the file has labels, too
    return frame


def _telling_rows(frame: Any, position: int) -> Any:
    """Return one column's first cell that is there, and its first that is missing: together they make its type."""
    there = frame.iloc[:, position].notna().to_numpy()
    rows = sorted({int(there.argmax()), int(there.argmin())}) if len(there) else []
    return frame.iloc[rows, [position]].reset_index(drop=True)


def _has_binary_cells(cells: Any) -> bool:
    kinds = {type(value) for value in cells if value is not None}
    return len(kinds) <= 1 and kinds <= set(_BINARY_CELLS)


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
        and list(restored.names) == list(labels.names)
        and [level.dtype for level in getattr(restored, "levels", ())]
        == [level.dtype for level in getattr(labels, "levels", ())]
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
