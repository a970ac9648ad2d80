"""Which sequence numbers of a writer are in the store: a sorted list of ranges, usually just one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

__all__ = ["Ranges"]


class Ranges:
    """An immutable set of integers >= 0, kept as disjoint, non-adjacent, inclusive ranges.

    Immutable, so that readers on other threads need no lock: the writer replaces the whole object.
    """

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        ordered = sorted(pairs)
        self._firsts = [first for first, _ in ordered]
        self._lasts = [last for _, last in ordered]

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def __len__(self) -> int:
        return len(self._firsts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self.pairs() == other.pairs()

    def __hash__(self) -> int:
        return hash(tuple(self.pairs()))

    def pairs(self) -> list[tuple[int, int]]:
        """Return the ranges as (first, last), in order."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def adding(self, number: int) -> Ranges:
        """Return the set with `number` in it."""
        if number in self:
            return self
        grown = Ranges()
        firsts, lasts = self._firsts.copy(), self._lasts.copy()
        at = bisect_right(firsts, number)
        joins_left = at > 0 and lasts[at - 1] == number - 1
        joins_right = at < len(firsts) and firsts[at] == number + 1
        if joins_left and joins_right:
            lasts[at - 1] = lasts[at]
            del firsts[at], lasts[at]
        elif joins_left:
            lasts[at - 1] = number
        elif joins_right:
            firsts[at] = number
        else:
            firsts.insert(at, number)
            lasts.insert(at, number)
        grown._firsts, grown._lasts = firsts, lasts
        return grown
