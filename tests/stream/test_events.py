"""Values, iterations and names: what is taken, what is refused, and that nothing is seen to change later."""

from __future__ import annotations

import math
import warnings
import weakref
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import InvalidEvent
from telemetry.events import (
    INT64_MAX,
    INT64_MIN,
    MAX_NAME_CHARS,
    TaskHeader,
    clean_name,
    clean_text,
    task_fields,
    to_float,
    to_iteration,
)

FLOATS = [np.float16, np.float32, np.float64, np.longdouble]
INTS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


class Hostile:
    """Raises, whatever is asked of it."""

    def __float__(self) -> float:
        raise KeyError("no float today")

    def __index__(self) -> int:
        raise ZeroDivisionError("nor an int")

    def __repr__(self) -> str:
        raise RuntimeError("nor a name")


@pytest.mark.parametrize("dtype", [*FLOATS, *INTS, np.bool_])
@pytest.mark.parametrize(
    "make", [lambda dtype: dtype(1), lambda dtype: np.array(1, dtype=dtype)], ids=["scalar", "0-d"]
)
def test_numpy_numbers_become_floats(dtype: Any, make: Any) -> None:
    value = to_float(make(dtype))
    assert (type(value), value) == (float, 1.0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, 1.0), (7, 7.0), (Decimal("0.25"), 0.25), (Fraction(1, 4), 0.25), (2**1023, 2.0**1023), (-0.0, -0.0)],
)
def test_python_numbers_become_floats(value: Any, expected: float) -> None:
    assert to_float(value) == expected
    assert math.copysign(1, to_float(value)) == math.copysign(1, expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_infinities_stay_what_they_are(dtype: Any) -> None:
    assert math.isnan(to_float(dtype("nan")))
    assert to_float(dtype("inf")) == math.inf
    assert to_float(dtype("-inf")) == -math.inf


@pytest.mark.parametrize(
    "value",
    [
        None,
        "1.5",
        b"1.5",
        bytearray(b"1"),
        1 + 2j,
        np.complex64(1),
        np.array(1 + 2j),
        np.array("1.5"),
        np.array([1.0, 2.0]),
        np.array([]),
        np.array(["1.5"], dtype=object),
        np.datetime64("2026-01-01"),
        [1.0],
        {},
        object(),
        2**1024,
        Hostile(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_real_number_is_refused_without_a_warning(value: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidEvent, match=type(value).__name__):
            to_float(value)


@given(st.floats())
def test_a_float_is_itself(value: float) -> None:
    assert to_float(value) == value or math.isnan(value)


@pytest.mark.parametrize("dtype", INTS)
def test_numpy_integers_are_iterations(dtype: Any) -> None:
    for iteration in (dtype(5), np.array(5, dtype=dtype)):
        assert (type(to_iteration(iteration)), to_iteration(iteration)) == (int, 5)


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [(3.0, 3), (np.float32(3), 3), (True, 1), (Fraction(4, 2), 2), (INT64_MIN, INT64_MIN), (INT64_MAX, INT64_MAX)],
)
def test_whole_numbers_are_iterations(iteration: Any, expected: int) -> None:
    assert to_iteration(iteration) == expected


@pytest.mark.parametrize(
    "iteration", [None, "3", 2.5, math.nan, math.inf, 2**63, -(2**63) - 1, 1e30, np.uint64(2**63), [1], Hostile()]
)
def test_what_is_no_int64_is_no_iteration(iteration: Any) -> None:
    with pytest.raises(InvalidEvent, match=r"iteration|number"):
        to_iteration(iteration)


def test_a_tensor_is_copied_and_let_go() -> None:
    torch = pytest.importorskip("torch")
    # Given a loss that hangs on a graph
    weight = torch.ones(1000, requires_grad=True)
    loss = (weight * 3).sum()
    graph = weakref.ref(loss)
    # When its value is taken
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = to_float(loss)
    del loss
    # Then neither it nor its graph lives on
    assert value == 3000.0
    assert graph() is None
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool):
        assert to_float(torch.tensor(1, dtype=dtype)) == 1.0
    assert to_iteration(torch.tensor(7)) == 7
    with pytest.raises(InvalidEvent):
        to_float(torch.ones(2))


@pytest.mark.parametrize("name", [None, 1, b"loss", ["loss"], Hostile()], ids=lambda name: type(name).__name__)
def test_a_name_is_text(name: Any) -> None:
    with pytest.raises(InvalidEvent, match="must be a str"):
        clean_name(name)


@given(st.text(max_size=3000))
def test_any_text_makes_a_name_that_utf8_carries(text: str) -> None:
    name = clean_name(text)
    assert len(name) <= MAX_NAME_CHARS
    assert name.encode("utf-8").decode("utf-8") == name
    assert clean_name(name) == name


def test_two_long_names_stay_two() -> None:
    long = "x" * MAX_NAME_CHARS
    names = [clean_name(long + tail) for tail in ("", "a", "b")]
    assert names[0] == long
    assert len(set(names)) == 3
    assert all(name.startswith("x" * 900) for name in names)


def test_clean_text_leaves_sound_text_alone() -> None:
    for text in ("", "plain", "träin ✓ 🎉"):
        assert clean_text(text) == text
    assert clean_text("a\ud800") == "a\\ud800"


def test_task_fields_tell_a_task_to_whoever_folds_the_stream() -> None:
    header = TaskHeader("a" * 32, bytes(16), "project", "name", "testing", 7)
    changes = task_fields(header, {"host": "node1"})
    assert {change.key: change.value for change in changes} == {
        "name": "name",
        "project": "project",
        "type": "testing",
        "host": "node1",
    }
    assert {(change.section, change.time_unix_ns) for change in changes} == {("task", 7)}


class EagerTensor:
    """As tensorflow has it: dimensions, and no way to its element but through numpy."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape = array.shape
        self.ndim = array.ndim

    def numpy(self) -> Any:
        return self._array

    def __float__(self) -> float:
        return float(self._array)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool", ">f8", "object"])
@pytest.mark.parametrize("kind", [lambda array: array, EagerTensor, np.ma.array])
def test_an_array_of_one_element_is_its_element(shape: tuple[int, ...], dtype: str, kind: Any) -> None:
    value = kind(np.ones(shape, dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_float(value) == 1.0
        assert to_iteration(value) == 1


def test_a_large_step_in_an_array_is_not_rounded() -> None:
    assert to_iteration(np.array([2**60 + 1])) == 2**60 + 1
    with pytest.raises(InvalidEvent):
        to_iteration(np.array([1, 2]))
    with pytest.raises(InvalidEvent):
        to_iteration(np.array([1.5]))


def test_a_series_of_pandas_with_one_element_is_its_element() -> None:
    pandas = pytest.importorskip("pandas")
    assert to_float(pandas.Series([2.5])) == 2.5
    assert to_iteration(pandas.Series([3])) == 3
    with pytest.raises(InvalidEvent):
        to_float(pandas.Series(["2.5"]))
