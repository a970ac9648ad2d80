"""Typed values: what goes in comes out, equal and of its type; text; and casting text back."""

from __future__ import annotations

import enum
import json
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import InvalidEvent
from telemetry.events import Batch, RecordChange
from telemetry.values import cast_like, entry, is_simple, load, read_text, store, text_of, value_of
from telemetry.wire import decode, encode


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


def same(left: Any, right: Any) -> bool:
    """Equal, of the same types all the way down, NaN equal to NaN and 0.0 not to -0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        if math.isnan(left) or math.isnan(right):
            return math.isnan(left) and math.isnan(right)
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


def travel(stored: Any) -> Any:
    """Through a frame, as JSON to a client, and back."""
    batch = Batch("0" * 32, events=[RecordChange(1, "parameters", "a/b", stored)])
    (event,) = decode(encode(batch, writer_id=b"w" * 16, sequence=0)).events
    assert isinstance(event, RecordChange)
    return orjson.loads(orjson.dumps(event.value))


any_text = st.text(st.characters())
plain = st.none() | st.booleans() | st.integers() | st.floats() | any_text
jsonable = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(any_text, inner), max_leaves=20)
hashable = st.recursive(
    st.integers() | st.text() | st.binary(), lambda inner: st.tuples(inner, inner) | st.frozensets(inner), max_leaves=4
)
others = (
    st.binary()
    | st.datetimes()
    | st.datetimes(timezones=st.just(UTC) | st.just(timezone(timedelta(hours=-3, minutes=30))))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.uuids()
    | st.text("abc./ -", min_size=1).map(Path)
    | st.sets(hashable)
    | st.frozensets(hashable)
)
everything = st.recursive(
    plain | others,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(any_text, inner)
        | st.dictionaries(hashable, inner)
        | st.dictionaries(st.sampled_from(["$tuple", "$int", "$", "$dict"]), inner, max_size=1)
    ),
    max_leaves=12,
)


@given(jsonable)
def test_any_jsonable_value_comes_back_as_it_was(value: Any) -> None:
    stored, word = store(value)

    assert same(load(travel(stored), word), value)


@given(everything)
def test_so_does_what_json_has_not_got(value: Any) -> None:
    stored, word = store(value)

    assert same(load(travel(stored), word), value)


@given(everything, st.sampled_from(["loads", "<lambda>", "Namespace"]))
def test_another_word_does_not_change_the_value(value: Any, word: str) -> None:
    assert same(value_of(travel(entry(value, word=word))), value)


@given(everything)
def test_the_text_is_text_and_equal_values_have_one(value: Any) -> None:
    stored, word = store(value)

    assert text_of(load(stored, word)) == text_of(value)


@given(jsonable)
def test_the_text_of_a_list_or_dict_is_json(value: Any) -> None:
    assert same(json.loads(text_of([value])), [value])


@given(st.booleans() | st.integers() | st.floats() | st.lists(jsonable) | st.dictionaries(any_text, jsonable))
def test_the_text_can_be_cast_back_to_the_type(value: Any) -> None:
    assert same(cast_like(text_of(value), value), value)


@pytest.mark.parametrize(
    ("value", "stored", "word", "text"),
    [
        (None, None, "", ""),
        (True, True, "bool", "True"),
        (7, 7, "int", "7"),
        (2**64, str(2**64), "int", str(2**64)),
        (0.1, 0.1, "float", "0.1"),
        (math.nan, "nan", "float", "nan"),
        (-math.inf, "-inf", "float", "-inf"),
        ("7", "7", "str", "7"),
        ([1, 2, 3], [1, 2, 3], "list/int", "[1, 2, 3]"),
        ([1, True], [1, True], "list", "[1, true]"),
        ([], [], "list", "[]"),
        ((1, 2), [1, 2], "tuple/int", "[1, 2]"),
        (("a", None), ["a", None], "tuple", '["a", null]'),
        ({3, 1}, [1, 3], "set/int", "[1, 3]"),
        ({}, {}, "dict", "{}"),
        ({"b": {"c": (1,)}}, {"b": {"c": {"$tuple": [1]}}}, "dict", '{"b": {"c": [1]}}'),
        ({1: "one"}, {"$dict": [[1, "one"]]}, "dict", '{"1": "one"}'),
        (b"\x00\xff", "AP8=", "bytes", "b'\\x00\\xff'"),
        (Path("a/b"), "a/b", "Path", "a/b"),
        (PurePosixPath("a/b"), "a/b", "PurePosixPath", "a/b"),
        (PureWindowsPath("a/b"), "a\\b", "PureWindowsPath", "a\\b"),
        (datetime(2024, 5, 1, 12, tzinfo=UTC), "2024-05-01T12:00:00+00:00", "datetime", "2024-05-01 12:00:00+00:00"),
        (date(2024, 5, 1), "2024-05-01", "date", "2024-05-01"),
        (time(12), "12:00:00", "time", "12:00:00"),
        (timedelta(seconds=1), "1000000", "timedelta", "0:00:01"),
        (Decimal("0.10"), "0.10", "Decimal", "0.10"),
        (UUID(int=1), str(UUID(int=1)), "UUID", str(UUID(int=1))),
        ("\ud800", {"$text": '"\\ud800"'}, "str", "\ud800"),
    ],
)
def test_how_each_type_is_kept(value: Any, stored: Any, word: str, text: str) -> None:
    assert same(store(value)[0], stored)
    assert store(value)[1] == word
    assert text_of(value) == text
    assert same(load(stored, word), value)


@pytest.mark.parametrize(
    ("value", "plain_value", "word"),
    [
        (np.float32(0.5), 0.5, "float"),
        (np.float64(0.1), 0.1, "float"),
        (np.int16(-3), -3, "int"),
        (np.bool_(True), True, "bool"),
        (np.str_("a"), "a", "str"),
        (np.arange(3), [0, 1, 2], "list/int"),
        (np.eye(2), [[1.0, 0.0], [0.0, 1.0]], "list"),
        (np.array(2.5), 2.5, "float"),
        ([np.float32(0.5)], [0.5], "list/float"),
        (np.longdouble(0.5), 0.5, "float"),
    ],
)
def test_numpy_becomes_pythons_numbers_and_lists(value: Any, plain_value: Any, word: str) -> None:
    stored, own_word = store(value)

    assert own_word == word
    assert same(load(travel(stored), own_word), plain_value)


def test_a_large_array_is_kept_as_numpys_short_text() -> None:
    assert len(store(np.zeros(1_000_000))[0]) < 100


def test_enums_are_kept_by_name_whatever_their_str_says() -> None:
    assert store(Color.RED) == ("Color.RED", "Color")
    assert store(Level.LOW) == ("Level.LOW", "Level")
    assert store([Color.RED, Level.LOW]) == (["Color.RED", "Level.LOW"], "list")
    assert text_of({"c": Level.LOW}) == '{"c": "Level.LOW"}'


@dataclass
class Options:
    lr: float = 0.1
    layers: list[int] = field(default_factory=lambda: [1, 2])


def test_dataclasses_and_namespaces_are_dicts() -> None:
    assert store(Options()) == ({"lr": 0.1, "layers": [1, 2]}, "dict")
    assert store(SimpleNamespace(a=(1,))) == ({"a": {"$tuple": [1]}}, "dict")


class Plain:
    pass


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_of_anything_else_the_text_is_kept() -> None:
    text, word = store(Plain())
    assert (text, word) == ("<test_values.Plain object>", "Plain")
    assert store(Broken())[0] == "<Broken>"
    assert store(Plain) == ("test_values.Plain", "type")
    assert store(store) == ("telemetry.values.store", "function")


def test_what_is_nested_too_deep_or_holds_itself_is_refused_and_an_entry_keeps_its_text() -> None:
    deep: list[Any] = []
    for _ in range(70):
        deep = [deep]
    loop: dict[str, Any] = {}
    loop["self"] = loop
    for value in (deep, loop, {1: deep}):
        with pytest.raises(InvalidEvent, match="nested more than 60 deep"):
            store(value)
    assert entry(loop) == {"value": "{'self': {...}}", "type": "dict", "description": ""}
    assert text_of(loop) == "{'self': {...}}"
    assert len(travel(entry(deep))["value"]) > 100


def test_an_entry_that_is_none_of_ours_is_returned_as_it_is() -> None:
    assert value_of(5) == 5
    assert value_of({"a": 1}) == {"a": 1}
    assert value_of({"value": {"$later": 1}, "type": "later"}) == {"$later": 1}
    assert value_of({"value": {"$set": [[1]]}, "type": 5}) == [[1]]
    assert value_of({"value": {"$int": "x"}, "type": "int"}) == {"$int": "x"}


@pytest.mark.parametrize(
    ("text", "word", "value"),
    [
        ("False", "bool", False),
        ("true", "bool", True),
        ("maybe", "bool", "maybe"),
        ("12", "int", 12),
        ("twelve", "int", "twelve"),
        ("1e-3", "float", 0.001),
        ("[1, 2]", "tuple/int", (1, 2)),
        ("['a', 'b']", "list/str", ["a", "b"]),
        ('{"a": 1}', "dict", {"a": 1}),
        ("[1", "list/int", "[1"),
        ("12", "str", "12"),
        ("12", "", "12"),
    ],
)
def test_text_that_somebody_edited_is_cast_to_the_type_beside_it(text: str, word: str, value: Any) -> None:
    assert same(load(text, word), value)


@pytest.mark.parametrize(
    ("value", "like", "cast"),
    [
        ("False", True, False),
        ("True", False, True),
        ("0", True, False),
        ("0.5", False, True),
        (0, True, False),
        ("7", 1, 7),
        ("7.0", 1, 7),
        (7.0, 1, 7),
        (7.5, 1, 7.5),
        ("7", 1.0, 7.0),
        (7, "x", "7"),
        (None, 5, None),
        ("5", None, "5"),
        ("[1, 2]", [1], [1, 2]),
        ("[1, 2]", (1,), (1, 2)),
        ("['1', '2']", [1], [1, 2]),
        ("[1, 2]", [0.5], [1.0, 2.0]),
        ("[1, 'a']", [], [1, "a"]),
        ("{'a': 1}", {}, {"a": 1}),
        ([1, 2], {0}, {1, 2}),
        ("Color.BLUE", Color.RED, Color.BLUE),
        ("BLUE", Color.RED, Color.BLUE),
        (2, Color.RED, Color.BLUE),
        (Color.BLUE, Color.RED, Color.BLUE),
        ("a/b", Path(), Path("a/b")),
        (Path("a"), Path(), Path("a")),
        ("2024-05-01", date.today(), date(2024, 5, 1)),
    ],
)
def test_a_stored_value_takes_the_type_of_the_programs_own(value: Any, like: Any, cast: Any) -> None:
    assert same(cast_like(value, like), cast)


@pytest.mark.parametrize(
    ("value", "like"),
    [
        ("abc", 1),
        ("abc", 1.0),
        ("maybe", True),
        ([1], 1),
        ("1", [1]),
        ("[1]", {}),
        ("GREEN", Color.RED),
        ("x", Plain()),
        ("[[1]]", {1}),
        ("not a date", date.today()),
    ],
)
def test_what_cannot_be_cast_is_a_value_error(value: Any, like: Any) -> None:
    with pytest.raises(ValueError):
        cast_like(value, like)


def test_text_is_read_as_json_or_as_python() -> None:
    assert read_text("[true, null]") == [True, None]
    assert read_text("[True, None]") == [True, None]


def test_settings_are_told_from_working_objects() -> None:
    assert all(map(is_simple, [1, None, "a", {"a": [1, (2,)]}, Path(), Color.RED, np.float32(1), Options()]))
    assert not any(map(is_simple, [Plain(), [Plain()], np.zeros(3), store, Plain, {"a": Plain()}]))


def test_an_int_of_more_digits_than_python_writes_breaks_nothing() -> None:
    assert entry(10**5000)["value"] == "<int>"
    assert text_of(10**5000) == "<int>"
