"""What a far side said that it has, by frame: so that it is noticed when it has it no more.

A server whose disk was lost, or whose data were replaced by an older copy, answers like any other. Its receipts name
the frames of this writer that it holds; what is delivered and not among them is gone there.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

__all__ = ["Delivered"]

# Known one by one: 16 bytes each, and at two frames a second the last nine hours. Older ones are known as a sum.
MAX_FRAMES = 65_536

# Inclusive ranges of sequence numbers.
Pairs = Sequence[tuple[int, int]]


class Delivered:
    """The frames of one writer that were delivered, with their events."""

    def __init__(self, max_frames: int = MAX_FRAMES) -> None:
        self._max_frames = max_frames
        self._sequences = array("q")
        self._events = array("q")
        # Of the frames before those: the greatest number, how many they are, and their events.
        self._old_last = -1
        self._old_frames = 0
        self._old_events = 0

    def __contains__(self, sequence: int) -> bool:
        at = bisect_left(self._sequences, sequence)
        return (at < len(self._sequences) and self._sequences[at] == sequence) or (
            bool(self._old_frames) and sequence <= self._old_last
        )

    def note(self, sequence: int, events: int) -> None:
        """A frame was delivered."""
        # At the end, but for frames that were sent again.
        at = bisect_right(self._sequences, sequence)
        self._sequences.insert(at, sequence)
        self._events.insert(at, events)
        # By the half, not one by one: each cut moves all that stays.
        if len(self._sequences) > self._max_frames:
            cut = self._max_frames // 2
            self._old_last = max(self._old_last, self._sequences[cut - 1])
            self._old_frames += cut
            self._old_events += sum(self._events[:cut])
            del self._sequences[:cut], self._events[:cut]

    def missing(self, held: Pairs) -> dict[int, int]:
        """Return the frames, with their events, that are not among the `held`; of those known one by one."""
        sequences = self._sequences
        if sum(bisect_right(sequences, last) - bisect_left(sequences, first) for first, last in held) == len(sequences):
            return {}
        there = [False] * len(sequences)
        for first, last in held:
            for at in range(bisect_left(sequences, first), bisect_right(sequences, last)):
                there[at] = True
        return {sequences[at]: self._events[at] for at, is_there in enumerate(there) if not is_there}

    def take_missing_old(self, held: Pairs) -> int:
        """Return how many events of the older frames are gone, by the share of those frames that is not `held`.

        What is gone counts once: after that the older frames are not watched any more.
        """
        there = sum(max(0, min(last, self._old_last) - first + 1) for first, last in held)
        gone = self._old_frames - there
        if gone <= 0:
            return 0
        events = self._old_events * gone // self._old_frames
        self._old_last, self._old_frames, self._old_events = -1, 0, 0
        return events

    def take_back(self, sequences: Iterable[int]) -> None:
        """These frames are not delivered any more."""
        for sequence in sequences:
            at = bisect_left(self._sequences, sequence)
            del self._sequences[at], self._events[at]
