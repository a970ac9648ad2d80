"""Which frames are known: ranges behave as a set of numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from telemetry.server.store.ranges import Ranges


@given(st.lists(st.integers(0, 30)))
def test_ranges_behave_as_a_set(numbers: list[int]) -> None:
    ranges = Ranges()
    for number in numbers:
        ranges = ranges.adding(number)
    assert {number for number in range(32) if number in ranges} == set(numbers)
    pairs = ranges.pairs()
    assert all(first <= last for first, last in pairs)
    # then they are disjoint and do not touch: a writer without gaps takes one row
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(pairs))
    assert Ranges(pairs) == ranges


def test_adding_leaves_the_old_set_as_it_was() -> None:
    before = Ranges([(0, 4), (6, 9)])
    after = before.adding(5)
    assert (before.pairs(), after.pairs()) == ([(0, 4), (6, 9)], [(0, 9)])
