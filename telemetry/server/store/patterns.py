"""Regular expressions from outside, as far as they can be trusted.

Python's `re` can neither be interrupted nor given a limit, and lets nobody else run meanwhile. So a pattern is looked
at before it is used: what can take exponential time is refused, and what takes a power of the text's length is
only used on texts of which that power is small. All matches of a query together have a deadline.
"""

from __future__ import annotations

import math
import re
import re._constants as sre  # type: ignore[import-not-found, unused-ignore]
import re._parser as sre_parse  # type: ignore[import-not-found, unused-ignore]
import time
import warnings
from dataclasses import dataclass
from typing import Any

from telemetry.errors import InvalidQuery

__all__ = ["Pattern"]

_MAX_PATTERN_CHARS = 1000
# Of `re` on one text, in steps; some 0.2 s.
_MAX_STEPS = 10_000_000
# Of a query on all texts, in seconds.
_DEADLINE_S = 5.0

# Repeats of up to this often are counted as if they were written out.
_FEW = 50
_MAX_WAYS = 10_000

_REPEATS = frozenset({sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT})


class Pattern:
    """A pattern of `re.search`: partial and case-sensitive; `in_lines`: each line by itself, without regard to case.

    Raises:
        InvalidQuery: it is no regular expression, or could take for ever; so does `found_in` for a text that is too
            long for it.
    """

    def __init__(self, text: str, what: str, *, in_lines: bool = False) -> None:
        self._what = what
        if len(text) > _MAX_PATTERN_CHARS:
            raise InvalidQuery(f"{what} is a pattern of {len(text)} characters; at most {_MAX_PATTERN_CHARS} are taken")
        # What any text can begin and end with need not be looked for, and is what costs.
        wanted = text.removeprefix(".*")
        if wanted.endswith(".*") and not wanted.endswith("\\.*"):
            wanted = wanted.removesuffix(".*")
        flags = re.IGNORECASE | re.MULTILINE if in_lines else 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                parsed = sre_parse.parse(wanted, flags)
                self._regex = re.compile(wanted, flags)
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidQuery(f"{what} is not a regular expression: {error} in {text!r:.100}") from error
        self._text = text
        try:
            self._cost = _cost_of(parsed)
        except ValueError as error:
            raise InvalidQuery(f"{what}: {text!r:.100} {error}, which can take for ever; write it without") from error
        self._deadline_s: float | None = None

    def found_in(self, text: str) -> bool:
        """Say whether it is found anywhere in a text."""
        # One more: a search begins anywhere.
        degree = self._cost.loose + 1
        if degree > 1 and self._cost.ways * len(text) ** degree / math.factorial(degree) > _MAX_STEPS:
            raise InvalidQuery(
                f"{self._what}: {self._text!r:.100} is too costly for a text of {len(text)} characters; use a pattern "
                "with fewer of * and +"
            )
        now_s = time.monotonic()
        if self._deadline_s is None:
            self._deadline_s = now_s + _DEADLINE_S
        elif now_s > self._deadline_s:
            raise InvalidQuery(f"{self._what}: {self._text!r:.100} took more than {_DEADLINE_S:g} s; use a simpler one")
        return self._regex.search(text) is not None


@dataclass(frozen=True, slots=True)
class _Cost:
    """How a pattern's time may grow: with the text's length to the power of `loose`, and `ways` as often."""

    loose: int = 0
    ways: int = 1

    def then(self, other: _Cost) -> _Cost:
        return _Cost(self.loose + other.loose, self.ways * other.ways)

    def times(self, most: int) -> _Cost:
        return _Cost(self.loose * most, _MAX_WAYS + 1 if self.ways > 1 and most > _FEW else self.ways**most)


def _cost_of(items: Any) -> _Cost:
    """Return the cost of a parsed pattern.

    Raises:
        ValueError: it can be exponential, or is nothing that can be estimated; says why.
    """
    total = _Cost()
    for operator, argument in items:
        total = total.then(_cost_of_one(operator, argument))
        if total.ways > _MAX_WAYS:
            raise ValueError("can match in too many ways")
    return total


def _cost_of_one(operator: Any, argument: Any) -> _Cost:
    if operator in _REPEATS:
        least, most, body = argument
        inner = _cost_of(body)
        if least == most:
            return inner.times(most)
        if most > _FEW:
            if inner != _Cost():
                raise ValueError("has a repeat or alternatives inside a repeat")
            return _Cost(1)
        return inner.times(most).then(_Cost(0, most - least + 1))
    if operator is sre.BRANCH:
        branches = [_cost_of(branch) for branch in argument[1]]
        return _Cost(max(branch.loose for branch in branches), sum(branch.ways for branch in branches))
    if operator is sre.SUBPATTERN:
        return _cost_of(argument[-1])
    if operator is sre.ATOMIC_GROUP:
        return _cost_of(argument)
    if operator in (sre.ASSERT, sre.ASSERT_NOT):
        return _cost_of(argument[1])
    if operator in (sre.GROUPREF, sre.GROUPREF_EXISTS):
        raise ValueError("refers back to a group")
    return _Cost()
