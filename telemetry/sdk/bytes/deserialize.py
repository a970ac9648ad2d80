"""Files as objects: what serialize.py has written, read back.

A pickle can run any code when it is loaded, so none is loaded unless `allow_pickle` says so; that goes for arrays of
objects and frames in pickles, too.
"""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from telemetry.errors import BlobError, ConfigurationError
from telemetry.process.interrupts import is_interrupt
from telemetry.sdk.bytes.dataframes import read_csv, read_table
from telemetry.sdk.bytes.fidelity import ARRAY_CLASSES

__all__ = ["deserialize", "is_pickle"]

_PICKLES = (".pkl", ".pickle")


def is_pickle(kind: str, filename: str) -> bool:
    """Say whether an artifact is a pickle as a whole. (An .npz of objects has pickles inside.)"""
    return kind == "pickle" or (kind == "pandas" and filename.lower().endswith(_PICKLES))


def deserialize(
    path: Path, kind: str, filename: str, *, form: Mapping[str, Any] | None, allow_pickle: bool, refusal: str
) -> Any:
    """Return the object in a file; the path itself where it is a file or folder of the user's.

    Args:
        path: the file, or of kind "archive" the folder that it was unpacked to.
        kind, filename, form: as the record has them.
        refusal: what to say if it would take a pickle and none may be loaded.
    Raises:
        ConfigurationError: it is a pickle and `allow_pickle` is False; or a package is missing.
        BlobError: the file is not what the record says.
    """
    if is_pickle(kind, filename) and not allow_pickle:
        raise ConfigurationError(refusal)
    reader = _READERS.get(kind)
    if reader is None:
        return path
    try:
        return reader(path, filename.lower(), form, allow_pickle)
    except ImportError as error:
        missing = error.name or "a package"
        raise ConfigurationError(f"{filename} needs {missing} to be read ({error}): pip install {missing}") from error
    except _PickleInside as error:
        raise ConfigurationError(refusal) from error
    except Exception as error:  # damage, another version's pickle, somebody else's __setstate__
        if is_interrupt(error):
            raise
        raise BlobError(f"{filename} cannot be read as {kind}: {error!r:.300}. The file itself: {path}") from error


class _PickleInside(Exception):
    """An array of objects."""


def _read_pickle(path: Path, filename: str, form: Any, allow_pickle: bool) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


def _read_dict(path: Path, filename: str, form: Any, allow_pickle: bool) -> Any:
    text = path.read_text(encoding="utf-8")
    if filename.endswith((".yaml", ".yml")):
        import yaml

        return yaml.safe_load(text)
    return json.loads(text)


def _read_text(path: Path, filename: str, form: Any, allow_pickle: bool) -> str:
    # Not read_text: it would turn line ends into "\n".
    return path.read_bytes().decode("utf-8", "surrogatepass")


def _read_array(path: Path, filename: str, form: Mapping[str, Any] | None, allow_pickle: bool) -> Any:
    import numpy as np

    array = _plain_array(path, filename, form, allow_pickle)
    name = form.get("class") if form is not None else None
    return array.view(getattr(np, name)) if name in ARRAY_CLASSES and hasattr(np, name) else array


def _plain_array(path: Path, filename: str, form: Mapping[str, Any] | None, allow_pickle: bool) -> Any:
    import numpy as np

    if filename.endswith(".csv.gz"):
        if form is None:
            with gzip.open(path, "rb") as file:
                return np.loadtxt(file, delimiter=",")
        dtype, shape = np.dtype(form["dtype"]), tuple(form["shape"])
        if 0 in shape:
            return np.empty(shape, dtype)
        with gzip.open(path, "rb") as file:
            numbers = np.loadtxt(file, np.uint8 if dtype.kind == "b" else dtype, delimiter=",", ndmin=1)
        return numbers.reshape(shape).astype(dtype)
    with np.load(path, allow_pickle=allow_pickle) as arrays:
        try:
            return arrays[arrays.files[0]]
        except ValueError as error:
            if not allow_pickle and "allow_pickle" in str(error):
                raise _PickleInside from error
            raise


def _read_frame(path: Path, filename: str, form: Mapping[str, Any] | None, allow_pickle: bool) -> Any:
    for suffix in (".parquet", ".feather"):
        if filename.endswith(suffix):
            return read_table(path, suffix, form)
    if filename.endswith(_PICKLES):
        return _read_pickle(path, filename, form, allow_pickle)
    return read_csv(path, form)


def _read_image(path: Path, filename: str, form: Any, allow_pickle: bool) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        return image.copy()


_READERS: dict[str, Callable[[Path, str, Any, bool], Any]] = {
    "pickle": _read_pickle,
    "dict": _read_dict,
    "string": _read_text,
    "numpy": _read_array,
    "pandas": _read_frame,
    "image": _read_image,
}
