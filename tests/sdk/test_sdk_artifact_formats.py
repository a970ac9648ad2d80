"""Artifacts as files and back: every kind of object, every extension; equal objects, and nothing changed in silence."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from telemetry.errors import BlobError, ConfigurationError
from telemetry.sdk.bytes.deserialize import deserialize
from telemetry.sdk.bytes.parcel import MAX_MEMORY_BYTES, MAX_PREVIEW_CHARS, Parcel
from telemetry.sdk.bytes.serialize import StoreOptions, serialize

PROPERTY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


def parcel_of(value: Any, folder: Path, *, name: str = "thing", **arguments: Any) -> Parcel:
    return serialize(value, StoreOptions(name=name, scratch=folder / "scratch", **arguments))


def file_of(parcel: Parcel, folder: Path) -> Path:
    """The bytes as an upload keeps them: in a file that has no telling name."""
    source = parcel.source() if callable(parcel.source) else parcel.source
    assert source is not None
    if isinstance(source, Path):
        return source
    path = folder / hashlib.sha256(source).hexdigest()
    path.write_bytes(source)
    return path


def round_trip(value: Any, folder: Path, *, allow_pickle: bool = False, **arguments: Any) -> Any:
    parcel = parcel_of(value, folder, **arguments)
    return deserialize(
        file_of(parcel, folder),
        parcel.kind,
        parcel.filename,
        form=parcel.form,
        allow_pickle=allow_pickle,
        refusal="it is a pickle",
    )


# ---- dicts -----------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text()
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=15
)
json_dicts = st.dictionaries(st.text(), json_values, max_size=5)


@PROPERTY
@given(value=json_dicts, sort_keys=st.booleans())
@pytest.mark.parametrize("extension", [None, "json", ".json", "yaml", ".yaml", "YAML", ".yml"])
def test_a_dict_of_json_types_reads_back_equal(
    value: dict[str, Any], sort_keys: bool, extension: str | None, tmp_path: Path
) -> None:
    assert round_trip(value, tmp_path, extension=extension, sort_keys=sort_keys) == value


@pytest.mark.parametrize(
    ("extension", "filename"), [("yaml", "thing.yaml"), (".yaml", "thing.yaml"), (None, "thing.json")]
)
def test_an_extension_counts_with_its_dot_and_without(extension: str | None, filename: str, tmp_path: Path) -> None:
    parcel = parcel_of({"name": "Erik", "age": 30}, tmp_path, extension=extension)
    assert (parcel.kind, parcel.filename) == ("dict", filename)
    assert parcel.content_type == f"application/{filename.partition('.')[2]}"


def test_keys_are_sorted_unless_asked_not_to(tmp_path: Path) -> None:
    assert parcel_of({"b": 1, "a": 2}, tmp_path).source == b'{\n    "a": 2,\n    "b": 1\n}'
    assert parcel_of({"b": 1, "a": 2}, tmp_path, sort_keys=False).source == b'{\n    "b": 1,\n    "a": 2\n}'
    assert parcel_of({"b": 1, "a": 2}, tmp_path, extension="yaml", sort_keys=False).source == b"b: 1\na: 2\n"


def test_an_extension_that_a_type_has_not_is_said_and_the_default_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parcel = parcel_of({"a": 1}, tmp_path, extension=".xlsx")
    assert parcel.filename == "thing.json"
    assert "extension_name='.xlsx' is none of .json, .yaml" in caplog.text


def test_what_json_cannot_keep_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert round_trip({1: (2, 3)}, tmp_path) == {"1": [2, 3]}
    assert "extension_name='.pkl' keeps them" in caplog.text
    assert round_trip({1: (2, 3)}, tmp_path, extension="pkl", allow_pickle=True) == {1: (2, 3)}


def test_a_dict_that_is_no_json_becomes_a_pickle_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    value = {"when": datetime(2026, 1, 1, tzinfo=UTC)}
    parcel = parcel_of(value, tmp_path)
    assert (parcel.kind, parcel.filename) == ("pickle", "thing.pkl")
    assert "cannot be written as .json, but as a pickle" in caplog.text
    assert round_trip(value, tmp_path, allow_pickle=True) == value
    with pytest.raises(ConfigurationError, match="Nothing was uploaded"):
        parcel_of(value, tmp_path, auto_pickle=False)


# ---- numpy -----------------------------------------------------------------------------------------

DTYPES = ["bool", "int8", "uint64", "int64", "float16", "float32", "float64"]


@PROPERTY
@given(data=st.data(), dtype=st.sampled_from(DTYPES), shape=st.sampled_from([(0,), (1,), (3,), (0, 2), (1, 1), (4, 3)]))
@pytest.mark.parametrize("extension", [None, ".csv.gz"])
def test_an_array_reads_back_bit_for_bit(
    data: st.DataObject, dtype: str, shape: tuple[int, ...], extension: str | None, tmp_path: Path
) -> None:
    count = int(np.prod(shape))
    raw = data.draw(st.binary(min_size=8 * count, max_size=8 * count))
    whole = np.frombuffer(raw, dtype="uint8")[: count * np.dtype(dtype).itemsize]
    value = (whole % 2).astype(bool) if dtype == "bool" else whole.view(dtype)
    value = value.reshape(shape)
    read = round_trip(value, tmp_path, extension=extension)
    assert read.dtype == value.dtype
    np.testing.assert_array_equal(read, value)


@pytest.mark.parametrize(
    "value",
    [
        np.array(3.5),
        np.zeros((2, 3, 4)),
        np.array(["a", "bc"]),
        np.array([1 + 2j]),
        np.array([("x", 1)], dtype=[("name", "U3"), ("count", "i4")]),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(["2026-01-01"], dtype="datetime64[D]"),
    ],
    ids=lambda value: str(value.dtype),
)
def test_arrays_that_are_no_table_of_numbers_are_kept_in_npz(value: Any, tmp_path: Path) -> None:
    for extension in (None, "csv.gz"):
        read = round_trip(value, tmp_path, extension=extension)
        assert (read.dtype, read.shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(read, value)


def test_the_key_inside_an_npz_is_the_artifacts_name(tmp_path: Path) -> None:
    for name, key in (("features", "features"), ("train/x", "train_x"), ("file", "file_")):
        with np.load(file_of(parcel_of(np.arange(3), tmp_path, name=name), tmp_path)) as arrays:
            assert arrays.files == [key]


def test_equal_arrays_and_frames_are_equal_files(tmp_path: Path) -> None:
    for value in (np.arange(9.0), pd.DataFrame({"a": [1, 2]}), {"a": 1}):
        assert parcel_of(value, tmp_path).source == parcel_of(value, tmp_path).source


def test_an_array_of_objects_is_a_pickle_inside_and_says_so(tmp_path: Path) -> None:
    value = np.array([{"a": 1}, None], dtype=object)
    with pytest.raises(ConfigurationError, match="it is a pickle"):
        round_trip(value, tmp_path)
    np.testing.assert_array_equal(round_trip(value, tmp_path, allow_pickle=True), value)


def test_a_masked_array_keeps_its_mask(tmp_path: Path) -> None:
    value = np.ma.masked_array([1, 2, 3], mask=[False, True, False])
    read = round_trip(value, tmp_path, allow_pickle=True)
    assert read.mask.tolist() == [False, True, False]


def test_a_large_array_goes_straight_into_a_file(tmp_path: Path) -> None:
    value = np.zeros(MAX_MEMORY_BYTES, dtype="uint8")
    parcel = parcel_of(value, tmp_path)
    assert isinstance(parcel.source, Path) and parcel.removes_source
    assert parcel.source.parent == tmp_path / "scratch"
    value[:] = 1  # no later change can show
    assert not round_trip_parcel(parcel, tmp_path).any()


def round_trip_parcel(parcel: Parcel, folder: Path) -> Any:
    path = file_of(parcel, folder)
    return deserialize(path, parcel.kind, parcel.filename, form=parcel.form, allow_pickle=False, refusal="")


# ---- pandas ----------------------------------------------------------------------------------------

cells = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint8": st.integers(0, 255),
    "float64": st.floats(),
    "float32": st.floats(width=32),
    "bool": st.booleans(),
    "str": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    "Int64": st.none() | st.integers(-(2**63), 2**63 - 1),
    "boolean": st.none() | st.booleans(),
    "datetime64[ns]": st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)),
    "datetime64[ns, UTC]": st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    "timedelta64[ns]": st.timedeltas(timedelta(-10_000), timedelta(10_000)),
}
labels = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    rows = draw(st.integers(0, 5))
    dtypes = draw(st.lists(st.sampled_from(sorted(cells)), min_size=1, max_size=4))
    names = draw(st.lists(labels, min_size=len(dtypes), max_size=len(dtypes), unique=True))
    columns = {
        name: pd.Series(draw(st.lists(cells[dtype], min_size=rows, max_size=rows)), dtype=dtype)
        for name, dtype in zip(names, dtypes, strict=True)
    }
    frame = pd.DataFrame(columns, index=range(rows))
    if draw(st.booleans()) and rows:
        frame.index = pd.Index(draw(st.lists(labels, min_size=rows, max_size=rows)), name=draw(st.none() | labels))
    return frame


@PROPERTY
@given(frame=frames())
@pytest.mark.parametrize("extension", [None, ".csv.gz", "parquet", ".feather", ".pickle"])
def test_a_frame_reads_back_equal(frame: pd.DataFrame, extension: str | None, tmp_path: Path) -> None:
    logging.disable(logging.WARNING)  # feather has no index, and says so each time
    try:
        read = round_trip(frame, tmp_path, extension=extension, allow_pickle=extension == ".pickle")
    finally:
        logging.disable(logging.NOTSET)
    pd.testing.assert_frame_equal(read, frame, check_exact=True, check_index_type="equiv")


def test_a_text_that_looks_missing_and_one_that_is_stay_apart(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["", "NA", None, "NaN", " x "], 3: [1.5, None, -0.0, float("inf"), 2.0]})
    pd.testing.assert_frame_equal(round_trip(frame, tmp_path), frame, check_exact=True)


def test_a_multi_index_needs_the_pickle_or_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1, 2]}, index=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]))
    assert parcel_of(frame, tmp_path).filename == "thing.pickle"
    pd.testing.assert_frame_equal(round_trip(frame, tmp_path, allow_pickle=True), frame)
    pd.testing.assert_frame_equal(round_trip(frame, tmp_path, extension=".parquet"), frame)


def test_columns_of_which_csv_has_only_the_text_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = pd.DataFrame({"mixed": [1, "a"], "kind": pd.Categorical(["x", "y"]), "plain": [1, 2]})
    assert round_trip(frame, tmp_path)["plain"].tolist() == [1, 2]
    assert "only the text of column 'mixed', 'kind'" in caplog.text


def test_a_frame_that_parquet_has_no_place_for_is_stored_under_the_name_of_what_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = pd.DataFrame({"mixed": [1, "a"]})
    parcel = parcel_of(frame, tmp_path, extension=".parquet")
    assert (parcel.filename, parcel.content_type) == ("thing.csv.gz", "text/csv")
    assert "cannot be written as .parquet; it is .csv.gz" in caplog.text


EXACT_FRAMES: dict[str, Any] = {
    "uint64": lambda: pd.DataFrame({"a": np.array([2**64 - 1, 0, 1], np.uint64)}),
    "uint64 index": lambda: pd.DataFrame({"a": [1, 2]}, index=pd.Index(np.array([2**64 - 1, 5], np.uint64))),
    "int64": lambda: pd.DataFrame({"a": [2**53 + 1, -(2**63), 2**63 - 1]}),
    "Int64": lambda: pd.DataFrame({"a": pd.array([2**53 + 1, None, 2**63 - 1], dtype="Int64")}),
    "UInt64": lambda: pd.DataFrame({"a": pd.array([2**64 - 1, None, 1], dtype="UInt64")}),
    "objects that are texts": lambda: pd.DataFrame({"a": pd.Series(["x", None, ""], dtype=object)}),
    "object index": lambda: pd.DataFrame({"a": [1, 2]}, index=pd.Index(["a", "b"], dtype=object)),
    "summer time ends": lambda: pd.DataFrame(
        {"a": pd.date_range("2026-10-25", periods=6, freq="h", tz="Europe/Berlin")}
    ),
    "days": lambda: pd.DataFrame({"a": [1, 2]}, index=pd.date_range("2026-01-01", periods=2, freq="D")),
    "range with a step": lambda: pd.DataFrame({"a": [1, 2]}, index=pd.RangeIndex(0, 4, 2)),
    "integers like a range": lambda: pd.DataFrame({"a": [1, 2]}, index=pd.Index([0, 1], dtype="int64")),
    "labels are a range": lambda: pd.DataFrame(np.zeros((2, 2))),
    "labels are times": lambda: pd.DataFrame([[1, 2]], columns=pd.to_datetime(["2026-01-01", "2026-01-02"])),
    "the same label twice": lambda: pd.DataFrame([[1, 2.5]], columns=["a", "a"]),
    "no rows": lambda: pd.DataFrame({"a": np.array([], np.uint64), "b": pd.array([], dtype="string")}),
}


@pytest.mark.parametrize("kind", EXACT_FRAMES)
def test_a_frame_comes_back_bit_for_bit_without_a_word(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = EXACT_FRAMES[kind]()
    read = round_trip(frame, tmp_path)
    pd.testing.assert_frame_equal(
        read, frame, check_exact=True, check_freq=True, check_index_type="exact", check_column_type="exact"
    )
    assert caplog.text == ""


CHANGED_FRAMES: dict[str, tuple[Any, str]] = {
    "category": (lambda: pd.DataFrame({"a": pd.Categorical(["x", "y"])}), "'a'"),
    "period": (lambda: pd.DataFrame({"a": pd.period_range("2026-01", periods=2, freq="M")}), "'a'"),
    "complex": (lambda: pd.DataFrame({"a": [1 + 2j]}), "'a'"),
    "long spans": (lambda: pd.DataFrame({"a": np.array([10**12, -1], "timedelta64[s]")}), "'a'"),
    "mixed": (lambda: pd.DataFrame({"a": [1, "x"]}), "'a'"),
    "category index": (lambda: pd.DataFrame({"a": [1]}, index=pd.CategoricalIndex(["x"])), "the index"),
    "period index": (lambda: pd.DataFrame({"a": [1]}, index=pd.period_range("2026-01", periods=1)), "the index"),
    "mixed index": (lambda: pd.DataFrame({"a": [1, 2]}, index=[1, "x"]), "the index"),
    "category labels": (lambda: pd.DataFrame([[1]], columns=pd.CategoricalIndex(["x"])), "the columns' labels"),
}


@pytest.mark.parametrize("kind", CHANGED_FRAMES)
def test_what_csv_changes_is_named(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make, what = CHANGED_FRAMES[kind]
    parcel_of(make(), tmp_path)
    assert "CSV has only the text of" in caplog.text
    assert what in caplog.text


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.sampled_from(["uint64", "UInt64"]))
def test_any_unsigned_integers_come_back(values: list[int], dtype: str) -> None:
    frame = pd.DataFrame({"a": pd.array(values, dtype=dtype)}, index=pd.Index(np.array(values, np.uint64)))
    with tempfile.TemporaryDirectory() as folder:
        read = round_trip(frame, Path(folder))
    pd.testing.assert_frame_equal(read, frame, check_exact=True)


def test_a_csv_that_somebody_has_edited_is_still_read(tmp_path: Path) -> None:
    parcel = parcel_of(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), tmp_path)
    assert parcel.form is not None
    form = {**parcel.form, "dtypes": ["int64"]}
    read = deserialize(file_of(parcel, tmp_path), "pandas", "a.csv.gz", form=form, allow_pickle=False, refusal="")
    assert read["a"].tolist() == [1, 2]


# ---- images, texts, anything -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "F"])
def test_an_image_reads_back_pixel_for_pixel(mode: str, tmp_path: Path) -> None:
    image = Image.new(mode, (5, 4))
    pixel = image.getpixel((0, 0))
    assert pixel is not None
    image.putpixel((1, 2), pixel)
    read = round_trip(image, tmp_path)
    assert (read.mode, read.size) == (image.mode, image.size)
    assert read.tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("extension", "filename", "content_type"),
    [
        (None, "thing.png", "image/png"),
        ("jpg", "thing.jpg", "image/jpeg"),
        (".bmp", "thing.bmp", "image/bmp"),
        (".webp", "thing.webp", "image/webp"),
        (".docx", "thing.png", "image/png"),
    ],
)
def test_an_image_takes_any_extension_that_pil_writes(
    extension: str | None, filename: str, content_type: str, tmp_path: Path
) -> None:
    parcel = parcel_of(Image.new("RGB", (3, 2), "red"), tmp_path, extension=extension)
    assert (parcel.kind, parcel.filename, parcel.content_type) == ("image", filename, content_type)
    assert parcel.preview == "3 x 2, RGB"


def test_an_image_that_a_format_cannot_hold_is_png(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert parcel_of(Image.new("RGBA", (3, 2)), tmp_path, extension=".jpg").filename == "thing.png"
    assert "it is stored as .png" in caplog.text


@PROPERTY
@given(text=st.text(min_size=1))
def test_a_text_reads_back_equal(text: str, tmp_path: Path) -> None:
    if not text.strip():
        return
    assert round_trip(f"{text}\r\n\ud800", tmp_path) == f"{text}\r\n\ud800"


def test_a_long_text_is_a_text_and_its_beginning_the_preview(tmp_path: Path) -> None:
    parcel = parcel_of("é" * 100_000, tmp_path)
    assert (parcel.kind, parcel.filename) == ("string", "thing.txt")
    assert len(parcel.preview) == MAX_PREVIEW_CHARS


def test_a_text_that_looks_like_a_path_but_names_nothing_is_stored_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert round_trip("/nowhere/data.csv", tmp_path) == "/nowhere/data.csv"
    assert "so this text itself is stored" in caplog.text
    caplog.clear()
    parcel_of("the run went well.", tmp_path)
    assert not caplog.text
    with pytest.raises(ConfigurationError, match="does not exist"):
        parcel_of(tmp_path / "nowhere.csv", tmp_path)


@pytest.mark.parametrize("value", [None, "", [1, {"a": (2,)}], {1, 2}, 3.5, object, datetime(2026, 1, 1)])
def test_anything_else_is_a_pickle(value: Any, tmp_path: Path) -> None:
    parcel = parcel_of(value, tmp_path)
    assert (parcel.kind, parcel.filename, parcel.content_type) == ("pickle", "thing.pkl", "application/pickle")
    assert round_trip(value, tmp_path, allow_pickle=True) == value
    with pytest.raises(ConfigurationError, match="it is a pickle"):
        round_trip(value, tmp_path)


def test_what_cannot_be_pickled_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="serialization_function"):
        parcel_of(lambda: 1, tmp_path)
    with pytest.raises(ConfigurationError, match="auto_pickle=False forbids"):
        parcel_of(3.5, tmp_path, auto_pickle=False)


def test_a_function_of_the_users_makes_the_bytes(tmp_path: Path) -> None:
    parcel = parcel_of([1, 2], tmp_path, extension="bin", serialization_function=lambda value: bytes(value))
    assert (parcel.kind, parcel.filename, parcel.source) == ("custom", "thing.bin", b"\x01\x02")
    with pytest.raises(ConfigurationError, match="must return bytes"):
        parcel_of([1], tmp_path, serialization_function=lambda value: "text")


def test_a_preview_of_the_users_counts(tmp_path: Path) -> None:
    assert parcel_of({"a": 1}, tmp_path, preview="only this").preview == "only this"


def test_the_preview_of_a_huge_list_is_short(tmp_path: Path) -> None:
    assert len(parcel_of(list(range(100_000)), tmp_path).preview) < 2000


def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(b"no zip at all")
    with pytest.raises(BlobError, match="cannot be read as numpy"):
        deserialize(path, "numpy", "a.npz", form=None, allow_pickle=False, refusal="")


# ---- files, folders, wildcards, lists, URLs --------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work = tmp_path / "work"
    (work / "data" / "deep").mkdir(parents=True)
    for name in ("a.csv", "b.txt", "deep/c.csv"):
        (work / "data" / name).write_text(f"text of {name}", encoding="utf-8")
    monkeypatch.chdir(work)
    return work


def members(parcel: Parcel, folder: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file_of(parcel, folder)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("spelled", ["data/a.csv", "{}/data/a.csv", "file://{}/data/a.csv", "./data/../data/a.csv"])
def test_an_existing_file_goes_as_it_is(spelled: str, tree: Path, tmp_path: Path) -> None:
    parcel = parcel_of(spelled.format(tree), tmp_path)
    assert (parcel.kind, parcel.filename, parcel.content_type) == ("custom", "a.csv", "text/csv")
    assert parcel.preview == "text of a.csv"
    assert file_of(parcel, tmp_path).read_text() == "text of a.csv"
    assert not parcel.removes_source


def test_a_folder_becomes_a_zip_of_all_that_is_in_it(tree: Path, tmp_path: Path) -> None:
    for value in ("data", tree / "data", Path("data")):
        parcel = parcel_of(value, tmp_path)
        assert (parcel.kind, parcel.filename, parcel.content_type) == ("archive", "data.zip", "application/zip")
        assert members(parcel, tmp_path) == {
            "a.csv": b"text of a.csv",
            "b.txt": b"text of b.txt",
            "deep/c.csv": b"text of deep/c.csv",
        }
    assert parcel.preview.splitlines()[0] == "a.csv - 13 bytes"


def test_a_wildcard_finds_files_in_folders_below_too(tree: Path, tmp_path: Path) -> None:
    parcel = parcel_of("data/*.csv", tmp_path)
    assert (parcel.kind, parcel.filename) == ("archive", "data.zip")
    assert set(members(parcel, tmp_path)) == {"a.csv", "deep/c.csv"}
    assert parcel_of("data/*.nothing", tmp_path).kind == "string"


def test_a_list_of_paths_is_one_zip_also_of_relative_ones(tree: Path, tmp_path: Path) -> None:
    for value in ([Path("data/a.csv"), Path("data/deep")], (tree / "data/a.csv", "data/deep")):
        parcel = parcel_of(value, tmp_path)
        assert (parcel.kind, parcel.filename) == ("archive", "thing.zip")
        assert set(members(parcel, tmp_path)) == {"a.csv", "c.csv"} or set(members(parcel, tmp_path)) == {
            "a.csv",
            "deep/c.csv",
        }
    assert set(members(parcel_of(["data/a.csv", "./data/b.txt"], tmp_path), tmp_path)) == {"a.csv", "b.txt"}
    assert parcel_of(["a", "b"], tmp_path).kind == "pickle"
    with pytest.raises(ConfigurationError, match=r"gone\.csv does not exist"):
        parcel_of([Path("data/a.csv"), Path("gone.csv")], tmp_path)


def test_links_are_followed_to_files_and_not_into_folders(tree: Path, tmp_path: Path) -> None:
    (tree / "data" / "link.txt").symlink_to(tree / "data" / "b.txt")
    (tree / "data" / "loop").symlink_to(tree / "data", target_is_directory=True)
    found = members(parcel_of("data", tmp_path), tmp_path)
    assert found["link.txt"] == b"text of b.txt"
    assert not [name for name in found if name.startswith("loop")]


@pytest.mark.parametrize(
    "url",
    [
        "azure://<account name>.blob.core.windows.net/path/to/file",
        "https://example.com/a/model.pt?x=1",
        "s3://bucket/data.csv",
        "gs://bucket/data.csv",
        "http://host/x",
    ],
)
def test_a_url_is_registered_and_nothing_is_uploaded(url: str, tmp_path: Path) -> None:
    parcel = parcel_of(url, tmp_path)
    assert (parcel.kind, parcel.uri, parcel.source) == ("custom", url, None)


def test_scratch_files_are_for_this_user_alone_and_gone_after_an_error(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            raise ValueError("not this one")

    with pytest.raises(ConfigurationError, match="not this one"):
        parcel_of([b"x" * (MAX_MEMORY_BYTES + 1), Bad()], tmp_path)
    assert not list((tmp_path / "scratch").iterdir())
    parcel = parcel_of(b"x" * (MAX_MEMORY_BYTES + 1), tmp_path)
    assert isinstance(parcel.source, Path)
    assert parcel.source.stat().st_mode & 0o077 == 0
