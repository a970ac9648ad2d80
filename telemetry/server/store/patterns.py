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

_REPEATS = frozenset({sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT})


class Pattern:
    """A pattern of `re.search`: partial and case-sensitive.

    Raises:
        InvalidQuery: it is no regular expression, or could take for ever; so does `found_in` for a text that is too
            long for it.
    """

    def __init__(self, text: str, what: str, *, ignore_case: bool = False) -> None:
        self._what = what
        if len(text) > _MAX_PATTERN_CHARS:
            raise InvalidQuery(f"{what} is a pattern of {len(text)} characters; at most {_MAX_PATTERN_CHARS} are taken")
        # What any text can begin and end with need not be looked for, and is what costs.
        wanted = text.removeprefix(".*")
        if wanted.endswith(".*") and not wanted.endswith("\\.*"):
            wanted = wanted.removesuffix(".*")
        flags = re.IGNORECASE if ignore_case else 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                parsed = sre_parse.parse(wanted, flags)
                self._regex = re.compile(wanted, flags)
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidQuery(f"{what} is not a regular expression: {error} in {text!r:.100}") from error
        self._text = text
        self._repeats = _loose_repeats(parsed, text, what)
        self._deadline_s: float | None = None

    def found_in(self, text: str) -> bool:
        """Say whether it is found anywhere in a text."""
        degree = self._repeats + 1
        if self._repeats and len(text) ** degree / math.factorial(degree) > _MAX_STEPS:
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


def _loose_repeats(parsed: Any, text: str, what: str) -> int:
    """Return how many repeats without a limit follow each other, at the most.

    Raises:
        InvalidQuery: one is inside another, or holds alternatives: such a pattern can take exponential time.
    """

    def refuse(why: str) -> InvalidQuery:
        return InvalidQuery(f"{what}: {text!r:.100} {why}, which can take for ever; write it without")

    def count(items: Any, inside: bool) -> int:
        total = 0
        for operator, argument in items:
            if operator in _REPEATS:
                _, most, body = argument
                loose = most is sre.MAXREPEAT or most > _FEW
                if loose and inside:
                    raise refuse("has a repeat inside a repeat")
                total += count(body, inside or loose) * (1 if loose else max(1, min(most, _FEW))) + loose
            elif operator is sre.BRANCH:
                if inside:
                    raise refuse("has alternatives inside a repeat")
                total += max(count(branch, inside) for branch in argument[1])
            elif operator is sre.SUBPATTERN:
                total += count(argument[-1], inside)
            elif operator is sre.ATOMIC_GROUP:
                total += count(argument, inside)
            elif operator in (sre.ASSERT, sre.ASSERT_NOT):
                total += count(argument[1], inside)
            elif operator in (sre.GROUPREF, sre.GROUPREF_EXISTS):
                raise refuse("refers back to a group")
        return total

    return count(parsed, False)
