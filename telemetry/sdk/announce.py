"""The two lines a run prints: where it can be seen, and at the end what became of its events.

They go to the standard error as it was before the console was captured; TELEMETRY_QUIET=1 keeps
them back. Wording lives here so that every exit tells the same story.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Protocol, TextIO

__all__ = ["Announcer", "Counts", "count_text", "end_line", "start_line"]

PREFIX = "telemetry:"


class Counts(Protocol):
    """The ledger as the end line reads it: logged = delivered + on_disk + in_memory + dropped."""

    @property
    def logged(self) -> int: ...
    @property
    def delivered(self) -> int: ...
    @property
    def on_disk(self) -> int: ...
    @property
    def in_memory(self) -> int: ...
    @property
    def dropped(self) -> Mapping[str, int]: ...


def start_line(name: str, places: list[str]) -> str:
    """Return the line at the start. `places`: links and folders where the task can be seen."""
    return f'{PREFIX} task "{name}" -> {", ".join(places)}'


def end_line(status: str, counts: Counts, *, left_in: str | None) -> str:
    """Return the line at the end: the four counts, and how to send what is left.

    Args:
        left_in: the folder with the events that are on disk and not delivered.
    """
    parts = [f"{counts.delivered:,} delivered"]
    if counts.on_disk:
        parts.append(f"{counts.on_disk:,} safe on disk")
    if counts.in_memory:
        parts.append(f"{counts.in_memory:,} still in memory and lost with the process")
    dropped = sum(counts.dropped.values())
    if dropped:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.dropped.items()))
        parts.append(f"{dropped:,} dropped ({reasons})")
    line = f"{PREFIX} {status}. {count_text(counts.logged)} logged: {', '.join(parts)}."
    if counts.on_disk and left_in:
        line += f' "telemetry sync {_quoted(left_in)}" sends what is left.'
    return line


def count_text(events: int) -> str:
    """Return "1 event", "12,345 events"."""
    return f"{events:,} event{'' if events == 1 else 's'}"


class Announcer:
    """Prints lines on the stream that was the standard error when it was made."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._stream: TextIO | None = sys.stderr

    def say(self, line: str) -> None:
        """Print one line, unless quiet. A stream that is gone is no reason to harm the job."""
        if self._quiet or self._stream is None:
            return
        try:
            print(line, file=self._stream, flush=True)
        except (OSError, ValueError):
            self._stream = None  # closed under us, or a broken pipe: nobody is reading


def _quoted(path: str) -> str:
    return path if all(char.isalnum() or char in "/._-+@%:~" for char in path) else f"'{path}'"
