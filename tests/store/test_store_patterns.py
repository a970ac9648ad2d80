"""Patterns from outside: what is searched, and what is refused because it could take for ever."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import InvalidQuery
from telemetry.server.store.patterns import Pattern


@pytest.mark.parametrize(
    "text",
    [
        "resnet", ".*resnet.*", "^exp[0-9]+$", "lr=0\\.1", "(a|b|c)d", "https?://", "a.*b.*c", "\\d{1,3}\\.\\d{1,3}",
        "(?i)loss", "v(?:1|2)\\b", "ab{3}", "(foo)?bar", "x(?=y)", "", "ends with \\.*",
    ],
)  # fmt: skip
def test_usual_patterns_find_what_re_finds(text: str) -> None:
    pattern = Pattern(text, "name")
    for name in ["resnet 50", "exp12", "my LOSS", "lr=0.1", "bd", "a1b2c", "10.20", "v2 b", "abbb", "bar", "xy", ""]:
        assert pattern.found_in(name) == (re.search(text, name) is not None), name


@pytest.mark.parametrize(
    "text",
    [
        "(a+)+b", "(a*)*", "(a|aa)+$", "(a?){50}b", "([a-z]+)*\\d", "(a)\\1", "(x)?(?(1)a|b)",
        "a?" * 30, "(a{1,40}){1,40}b", "(?:(?:a{0,9}){0,9}){0,9}",
    ],
)  # fmt: skip
def test_what_can_take_exponential_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuery, match="can take for ever"):
        Pattern(text, "name")


def test_what_takes_a_power_of_the_length_is_used_on_short_texts_only() -> None:
    pattern = Pattern("a*a*a*b", "name")
    assert pattern.found_in("a" * 30) is False
    assert pattern.found_in("aab")
    with pytest.raises(InvalidQuery, match="too costly for a text of 5000 characters"):
        pattern.found_in("a" * 5000)
    with pytest.raises(InvalidQuery, match="too costly for a text of 40 characters"):
        Pattern("(.*a){60}", "name").found_in("a" * 40)
    # and a plain text, or what begins and ends anywhere, on any
    assert Pattern(".*needle.*", "name").found_in("x" * 1_000_000 + "needle")


def test_a_pattern_that_is_none_or_endless_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="is not a regular expression"):
        Pattern("(", "name")
    with pytest.raises(InvalidQuery, match="at most 1000"):
        Pattern("a" * 1001, "name")
    with pytest.raises(InvalidQuery):
        Pattern("(" * 500 + ")" * 500 + "(", "name")


@given(st.text(alphabet="ab.*+?|()[]{}1,\\^$-", max_size=12), st.text(alphabet="ab1", max_size=20))
def test_whatever_is_taken_finds_what_re_finds(text: str, subject: str) -> None:
    try:
        pattern = Pattern(text, "name")
    except InvalidQuery:
        return
    assert pattern.found_in(subject) == (re.search(text, subject) is not None)
