"""Artifacts of every type: what comes back is what was uploaded, bit for bit, or the upload has named what changes."""

from __future__ import annotations

import enum
import io
import logging
import math
import tempfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from telemetry.sdk.bytes.deserialize import deserialize
from telemetry.sdk.bytes.parcel import Parcel
from telemetry.sdk.bytes.serialize import StoreOptions, serialize
from telemetry.sdk.parameters.connected_dict import connected_dict


class Colour(str, enum.Enum):  # noqa: UP042 (the str() of this one is no text of its own)
    RED = "red"


class Number(int):
    pass


class Quantity(np.ndarray[Any, Any]):
    pass


class Table(pd.DataFrame):  # type: ignore[misc]
    pass


class Shy:
    def __repr__(self) -> str:
        raise ValueError("not this one")


def uploaded(value: Any, extension: str | None = None) -> tuple[Any, Parcel]:
    """Return what `get` gives back of a value, and what it was uploaded as."""
    with tempfile.TemporaryDirectory() as folder:
        parcel = serialize(value, StoreOptions(name="thing", scratch=Path(folder, "scratch"), extension=extension))
        assert isinstance(parcel.source, bytes)
        file = Path(folder, "file")
        file.write_bytes(parcel.source)
        read = deserialize(file, parcel.kind, parcel.filename, form=parcel.form, allow_pickle=True, refusal="")
        return read, parcel


@contextmanager
def warnings_said() -> Iterator[list[str]]:
    """The warnings of telemetry, as a list: caplog lives for a whole test, a property has many examples."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("telemetry")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


# ---- arrays ----------------------------------------------------------------------------------------

EXACT_ARRAYS: dict[str, Callable[[], Any]] = {
    "structured": lambda: np.array([("x", 1)], dtype=[("name", "U3"), ("count", "i4")]),
    "structured with arrays": lambda: np.ones(2, np.dtype([("a", "f4", (2, 2))])),
    "structured with titles": lambda: np.ones(2, np.dtype([(("title", "a"), "u1")])),
    "big-endian": lambda: np.arange(6, dtype=">f8").reshape(2, 3),
    "no dimensions": lambda: np.array(3, ">i2"),
    "empty": lambda: np.empty((2, 0, 3), "c8"),
    "Fortran order": lambda: np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "reversed": lambda: np.arange(5)[::-1],
    "times": lambda: np.array(["2026-01-01", "NaT"], "datetime64[25s]"),
    "spans": lambda: np.array([1, 2], ">m8[us]"),
    "complex": lambda: np.array([1 + 2j, complex(math.nan, -0.0)], "c8"),
    "half": lambda: np.array([1.5, math.nan, -0.0, math.inf], "f2"),
    "long double": lambda: np.array([np.longdouble(1) / 3]),
    "NaNs with something in them": lambda: np.array([0x7FC00001, 0xFFC00002], "u4").view("f4"),
    "texts": lambda: np.array(["a", "b\0c", "\ud800"]),
    "bytes": lambda: np.array([b"a", b"b\0c"]),
    "raw": lambda: np.array([b"abc", b"d"], "V3"),
    "records": lambda: np.rec.array([(1, "a")], dtype=[("x", "i4"), ("y", "U1")]),
    "matrix": lambda: np.arange(4).reshape(2, 2).view(np.matrix),
}


@pytest.mark.parametrize("kind", EXACT_ARRAYS)
def test_an_array_comes_back_bit_for_bit_without_a_word(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    array = EXACT_ARRAYS[kind]()
    read, parcel = uploaded(array)
    assert parcel.kind == "numpy"
    assert type(read) is type(array)
    assert (read.dtype.str, read.dtype.fields, read.shape) == (array.dtype.str, array.dtype.fields, array.shape)
    assert read.tobytes() == array.tobytes()
    assert caplog.text == ""


def test_a_matrix_is_one_when_it_was_text(caplog: pytest.LogCaptureFixture) -> None:
    read, _ = uploaded(np.arange(4).reshape(2, 2).view(np.matrix), ".csv.gz")
    assert type(read) is np.matrix
    assert read.tolist() == [[0, 1], [2, 3]]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("array", "extension", "what"),
    [
        (np.arange(3).view(Quantity), None, ".npz changes its class, Quantity"),
        (np.arange(3).view(Quantity), ".csv.gz", ".csv.gz changes its class, Quantity"),
        (np.ones(2, np.dtype("f8", metadata={"unit": "m"})), ".csv.gz", "the metadata of its dtype"),
    ],
    ids=["class", "class as text", "metadata"],
)
def test_what_a_file_has_not_of_an_array_is_named(
    array: Any, extension: str | None, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    np.testing.assert_array_equal(uploaded(array, extension)[0], array)
    assert what in caplog.text


SCALARS: dict[str, Any] = {
    "float32": np.float32(0.1),
    "int8": np.int8(3),
    "bool": np.bool_(True),
    "time": np.datetime64("2026-01-01"),
    "long double": np.longdouble(1) / 3,
    "masked": np.ma.masked_array([1.0, 2.0], mask=[False, True], fill_value=7),
    "set": {1, 2},
    "tuple": (1, [2]),
    "bytes": b"\0\xff",
    "Decimal": Decimal("1.10"),
    "series": pd.Series([2**64 - 1, 0], dtype="UInt64", name="a"),
    "index": pd.Index([2**64 - 1], dtype="uint64"),
    "negative zero": -0.0,
}


@pytest.mark.parametrize("kind", SCALARS)
def test_what_has_no_format_of_its_own_comes_back_without_a_word(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    value = SCALARS[kind]
    read, _ = uploaded(value)
    assert (type(read), repr(read)) == (type(value), repr(value))
    assert caplog.text == ""


# ---- dicts -----------------------------------------------------------------------------------------

EXACT_DICTS: dict[str, tuple[dict[Any, Any], str | None]] = {
    "numbers": ({"a": [math.nan, math.inf, -0.0, 5e-324, 2**100, True, None]}, None),
    "texts": ({"a": "x\r\ny\rz\n\0\x7f\x85\u2028\ufeff", "b\ud800": "\udc80😀"}, None),
    "numbers in YAML": ({"a": [math.nan, -math.inf, -0.0, 5e-324, 1e16, 2**100, True, None]}, ".yaml"),
    "texts in YAML": ({"a": ["yes", "1e3", "null", "~", "0o7", "1:30", "2026-01-01", "<<", "=", "", " x "]}, ".yaml"),
    "keys in YAML": ({1: "a", "1": "b", None: "c", False: "d", 1.5: "e"}, ".yaml"),
    "bytes and sets in YAML": ({"a": b"\0\xff", "b": {1, 2}, "c": date(2026, 1, 1)}, ".yaml"),
    "times in YAML": (
        {"a": datetime(2026, 1, 1, 1, 2, 3, 4), "b": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-5.5)))},
        ".yaml",
    ),
    "a connected dict": (connected_dict({"a": 1, "b": {"c": [2]}}), None),
}


@pytest.mark.parametrize("kind", EXACT_DICTS)
def test_a_dict_comes_back_as_it_is_without_a_word(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    value, extension = EXACT_DICTS[kind]
    read, parcel = uploaded(value, extension)
    assert parcel.kind == "dict"
    assert sorted(map(repr, read.items())) == sorted(map(repr, value.items()))
    assert caplog.text == ""


CHANGED_DICTS: dict[str, tuple[dict[Any, Any], str | None, str]] = {
    "tuple": ({"a": [{"b": (1, 2)}]}, None, "JSON changes tuple at 'a/0/b'"),
    "keys": ({"a": {1: 2, None: 3}}, None, "JSON changes the key 1 at 'a', the key None at 'a'"),
    "enum": ({"a": Colour.RED}, None, "JSON changes Colour at 'a'"),
    "enum as a key": ({Colour.RED: 1}, None, "JSON changes the key <Colour.RED: 'red'>"),
    "int of its own": ({"a": Number(1)}, None, "JSON changes Number at 'a'"),
    "numpy": ({"a": np.float64(0.5)}, None, "JSON changes float64 at 'a'"),
    "ordered": (OrderedDict(b=1, a=2), None, "JSON changes OrderedDict;"),
    "with a default": ({"a": defaultdict(list)}, None, "JSON changes defaultdict at 'a'"),
    "counted": (Counter("aab"), None, "JSON changes Counter;"),
    "two halves of a character": ({"a": "\ud83d\ude00"}, None, "JSON changes str at 'a'"),
    "many": ({"a": [(n,) for n in range(8)]}, None, "tuple at 'a/4' and 3 more"),
    "tuple in YAML": ({"a": (1, 2)}, ".yaml", "YAML changes tuple at 'a'"),
    "fold in YAML": ({"a": datetime(2026, 10, 25, 2, fold=1)}, ".yaml", "YAML changes datetime at 'a'"),
    "zone in YAML": ({"a": datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))}, ".yaml", "datetime at 'a'"),
}


@pytest.mark.parametrize("kind", CHANGED_DICTS)
def test_what_a_text_changes_of_a_dict_is_named(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    value, extension, what = CHANGED_DICTS[kind]
    assert uploaded(value, extension)[1].kind == "dict"
    assert what in caplog.text
    assert "extension_name='.pkl' keeps them" in caplog.text


UNREADABLE_DICTS: dict[str, tuple[dict[Any, Any], str | None, str]] = {
    "two keys of one text": ({1: "a", "1": "b"}, None, "two keys have the same text as 1"),
    "two keys of one text below": ({"x": {None: "a", "null": "b"}}, None, "as None at 'x'"),
    "a tuple as a key": ({"x": {(1, 2): 3}}, ".yaml", "which is no key: (1, 2) at 'x'"),
    "a tuple in a set": ({"x": {(1, 2)}}, ".yaml", "which is no key: (1, 2) at 'x'"),
    "seconds in an offset": (
        {"x": datetime(1890, 1, 1, tzinfo=timezone(timedelta(minutes=53, seconds=28)))},
        ".yaml",
        "an offset of seconds",
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE_DICTS)
def test_a_dict_that_a_text_would_lose_is_a_pickle_and_that_is_said(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    value, extension, why = UNREADABLE_DICTS[kind]
    read, parcel = uploaded(value, extension)
    assert parcel.kind == "pickle"
    assert read == value
    assert "but as a pickle" in caplog.text
    assert why in caplog.text


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters())  # with halves of characters
    | st.binary(max_size=4)
    | st.dates()
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.timezones())
    | st.sampled_from([Colour.RED, Number(3), Decimal("1.10"), np.float32(0.1), np.str_("x"), Path("x")])
)
keys = st.text(st.characters()) | st.integers(-3, 3) | st.none() | st.sampled_from(["1", "null", (1, 2), Colour.RED])
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=2).map(OrderedDict)
        | st.frozensets(keys, max_size=2)
        | st.sets(keys, max_size=2)
    ),
    max_leaves=8,
)


def shape_of(value: Any) -> Any:
    """What makes two values the same: types, values, and NaN as well; a dict's order is left out."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return kind, sorted((repr(shape_of(key)), repr(shape_of(item))) for key, item in value.items())
    if isinstance(value, (set, frozenset)):
        return kind, sorted(repr(shape_of(item)) for item in value)
    if isinstance(value, (list, tuple)):
        return kind, [shape_of(item) for item in value]
    return kind, repr(value)


@settings(deadline=None, max_examples=300)
@given(value=st.dictionaries(keys, anything, max_size=3), extension=st.sampled_from([None, ".yaml"]))
def test_any_dict_can_be_read_and_is_the_same_unless_it_was_said(value: dict[Any, Any], extension: str | None) -> None:
    with warnings_said() as said:
        read, parcel = uploaded(value, extension)
    if not said or parcel.kind == "pickle":
        assert shape_of(read) == shape_of(value)


# ---- texts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a\r\nb\rc\n", "x\ud800", "\ud83d\ude00", "a\0b", "\ufeffabc", "  a\n", "   ", ""])
def test_a_text_comes_back_with_each_of_its_characters(text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert uploaded(text)[0] == text
    assert caplog.text == ""


def test_a_text_of_a_class_of_its_own_is_its_characters_and_the_class_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert uploaded(Colour.RED)[0] == "red"
    assert "text changes its class, Colour" in caplog.text


# ---- images ----------------------------------------------------------------------------------------


def noise(mode: str, channels: int = 1, dtype: str = "uint8") -> Image.Image:
    values = np.random.default_rng(7).integers(0, 256, (8, 9, channels)).astype(dtype)
    return Image.frombytes(mode, (9, 8), values.tobytes())


def paletted(transparency: int | bytes | None = None) -> Image.Image:
    image = noise("RGB", 3).quantize(16)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def oriented() -> Image.Image:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    noise("RGB", 3).save(file, "JPEG", exif=exif)
    return Image.open(file)


EXACT_IMAGES: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "1": (lambda: noise("L").convert("1"), ".png"),
    "L": (lambda: noise("L"), ".png"),
    "LA": (lambda: noise("LA", 2), ".png"),
    "P": (paletted, ".png"),
    "P with one clear colour": (lambda: paletted(3), ".png"),
    "P with an alpha for each": (lambda: paletted(bytes(range(16))), ".png"),
    "RGB": (lambda: noise("RGB", 3), ".png"),
    "RGBA": (lambda: noise("RGBA", 4), ".png"),
    "I;16": (lambda: noise("I;16", dtype="uint16"), ".png"),
    "EXIF": (oriented, ".png"),
    "RGB in WebP": (lambda: noise("RGB", 3), ".webp"),
    "RGBA in WebP": (lambda: noise("RGBA", 4), ".webp"),
    "EXIF in WebP": (oriented, ".webp"),
    "CMYK": (lambda: noise("CMYK", 4), ".tiff"),
    "YCbCr": (lambda: noise("YCbCr", 3), ".tiff"),
    "LAB": (lambda: noise("LAB", 3), ".tiff"),
    "I": (lambda: noise("I", dtype="int32"), ".tiff"),
    "F": (lambda: noise("F", dtype="float32"), ".tiff"),
}


@pytest.mark.parametrize("kind", EXACT_IMAGES)
def test_an_image_comes_back_with_its_mode_and_pixels_without_a_word(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, extension = EXACT_IMAGES[kind]
    image = make()
    read, parcel = uploaded(image, extension)
    assert (parcel.kind, parcel.filename) == ("image", f"thing{extension}")
    assert (read.mode, read.size, read.tobytes()) == (image.mode, image.size, image.tobytes())
    if image.mode == "P":
        assert read.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()
    assert dict(read.getexif()).items() >= dict(image.getexif()).items()
    assert caplog.text == ""


def animated() -> Image.Image:
    file = io.BytesIO()
    frames = [noise("L"), noise("L").transpose(Image.Transpose.ROTATE_180)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return Image.open(file)


CHANGED_IMAGES: dict[str, tuple[Callable[[], Image.Image], str | None, str]] = {
    "JPEG": (lambda: noise("RGB", 3), ".jpg", "JPEG changes its pixels"),
    "no alpha in BMP": (lambda: noise("RGBA", 4), ".bmp", "BMP changes its mode RGBA to RGB"),
    "floats in GIF": (lambda: noise("F", dtype="float32"), ".gif", "GIF changes its mode F to P"),
    "grey in WebP": (lambda: noise("L"), ".webp", "WEBP changes its mode L to RGB"),
    "clear colour in TIFF": (lambda: paletted(3), ".tiff", "TIFF changes its colours"),
    "frames": (animated, None, "PNG changes its 2 frames to the one that is shown"),
    "EXIF": (oriented, ".bmp", "BMP changes its EXIF"),
    "not read": (lambda: noise("RGB", 3), ".pdf", "PDF changes all of it, as PIL cannot read it"),
}


@pytest.mark.parametrize("kind", CHANGED_IMAGES)
def test_what_a_format_changes_of_an_image_is_named(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, extension, what = CHANGED_IMAGES[kind]
    serialize(make(), StoreOptions(name="thing", scratch=tmp_path, extension=extension))
    assert what in caplog.text


def test_an_image_that_a_format_chokes_on_goes_into_another(caplog: pytest.LogCaptureFixture) -> None:
    # PIL's GIF raises TypeError of a palette with an alpha for each colour.
    read, parcel = uploaded(paletted(bytes(range(16))), ".gif")
    assert parcel.filename == "thing.png"
    assert read.mode == "P"
    assert "it is stored as .png" in caplog.text


# ---- frames ----------------------------------------------------------------------------------------

EXACT_TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "unsigned": lambda: pd.DataFrame({"a": np.array([2**64 - 1], np.uint64)}),
    "half": lambda: pd.DataFrame({"a": np.array([1.5, math.nan], np.float16)}),
    "texts": lambda: pd.DataFrame({"a": ["x", None]}),
    "categories of texts": lambda: pd.DataFrame({"a": pd.Categorical(["x", "y"], ordered=True)}),
    "periods": lambda: pd.DataFrame({"a": pd.period_range("2026-01", periods=2, freq="M")}),
    "zone": lambda: pd.DataFrame({"a": pd.date_range("2026-10-25", periods=6, freq="h", tz="Europe/Berlin")}),
    "bytes": lambda: pd.DataFrame({"a": [b"x", None]}),
    "dates": lambda: pd.DataFrame({"a": [date(2026, 1, 1)]}),
    "missing at first": lambda: pd.DataFrame({"a": pd.Series([None] * 50 + [True], dtype=object)}),
    "days": lambda: pd.DataFrame({"a": [1, 2]}, index=pd.date_range("2026-01-01", periods=2, freq="D")),
    "index with levels": lambda: pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([("x", 1)])),
    "labels are a range": lambda: pd.DataFrame(np.zeros((2, 2))),
    "labels of several types": lambda: pd.DataFrame([[1, 2]], columns=["a", 1], index=pd.Index([3], name=5)),
}


@pytest.mark.filterwarnings("ignore:The DataFrame has:UserWarning")
@pytest.mark.parametrize("kind", EXACT_TABLES)
def test_a_frame_in_parquet_comes_back_bit_for_bit_without_a_word(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    frame = EXACT_TABLES[kind]()
    read, parcel = uploaded(frame, ".parquet")
    assert parcel.filename == "thing.parquet"
    pd.testing.assert_frame_equal(
        read, frame, check_exact=True, check_freq=True, check_index_type="exact", check_column_type="exact"
    )
    assert caplog.text == ""


CHANGED_TABLES: dict[str, tuple[Callable[[], pd.DataFrame], str]] = {
    "lists": (lambda: pd.DataFrame({"a": [1], "b": [[1, 2]]}), ".parquet changes column 'b'"),
    "dicts": (lambda: pd.DataFrame({"a": [{"x": 1}, {"y": 2}]}), ".parquet changes column 'a'"),
    "integers and nothing": (lambda: pd.DataFrame({"a": pd.Series([1, None], dtype=object)}), "column 'a'"),
    "nothing late": (lambda: pd.DataFrame({"a": pd.Series([1] * 50 + [None], dtype=object)}), "column 'a'"),
    "categories of numbers": (lambda: pd.DataFrame({"a": pd.Categorical([3, 1])}), "column 'a'"),
    "seconds": (lambda: pd.DataFrame({"a": np.array([1], "datetime64[s]")}), "column 'a'"),
    "object index": (lambda: pd.DataFrame({"a": [1]}, index=pd.Index(["x"], dtype=object)), "the index"),
    "no columns": (lambda: pd.DataFrame(index=range(3)), "the index"),
    "attrs": (lambda: with_attrs(pd.DataFrame({"a": [1]})), "attrs"),
    "class": (lambda: Table({"a": [1]}), "the class, Table"),
    "flags": (lambda: pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False), "flags"),
}


def with_attrs(frame: pd.DataFrame) -> pd.DataFrame:
    frame.attrs["unit"] = ("m", "s")
    return frame


@pytest.mark.parametrize("kind", CHANGED_TABLES)
def test_what_parquet_changes_is_named(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    make, what = CHANGED_TABLES[kind]
    assert uploaded(make(), ".parquet")[1].filename == "thing.parquet"
    assert ".parquet changes " in caplog.text
    assert what in caplog.text


def test_labels_that_parquet_writes_and_cannot_read_go_into_csv(caplog: pytest.LogCaptureFixture) -> None:
    read, parcel = uploaded(pd.DataFrame([[1]], columns=pd.CategoricalIndex(["x"])), ".parquet")
    assert parcel.filename == "thing.csv.gz"
    assert read["x"].tolist() == [1]
    assert "cannot be written as .parquet; it is .csv.gz" in caplog.text


@pytest.mark.parametrize(
    ("make", "extension", "preview"),
    [
        (lambda: pd.DataFrame({"a": [Shy()]}), ".pickle", "<DataFrame>"),
        (lambda: np.array([Shy()]), None, "object (1,)\n<ndarray>"),
    ],
    ids=["frame", "array"],
)
def test_what_cannot_be_shown_can_be_kept(make: Callable[[], Any], extension: str | None, preview: str) -> None:
    read, parcel = uploaded(make(), extension)
    assert (read.shape, parcel.preview) == (make().shape, preview)


def test_arrays_in_the_cells_of_csv_are_named_and_nothing_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    assert uploaded(pd.DataFrame({"a": [np.arange(2)]}))[0]["a"].tolist() == ["[0 1]"]
    assert "only the text of column 'a'" in caplog.text
