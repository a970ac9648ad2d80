"""The two lines a run prints: where it can be seen, and at the end what became of its events.

They go to what was the standard error when the task began, and are no part of its console; TELEMETRY_QUIET=1 keeps
them back. The wording lives here, so that every exit tells the same story.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from telemetry.ledger import Ledger
from telemetry.process.interrupts import is_interrupt
from telemetry.process.terminal import unkept
from telemetry.protocols import KeepsSessions
from telemetry.sessions.sources import holds_task

if TYPE_CHECKING:
    from telemetry.sdk.bytes.uploads import Left

__all__ = ["Announcer", "end_line", "kept_sentence", "start_line"]


# The last line names this many at most; of more, the folders that they are in.
MAX_PATHS = 8


def start_line(name: str, places: list[str], *, seed: int | None = None, run: str = "") -> str:
    """Return the line at the start.

    Args:
        places: links and folders where the task can be seen.
        seed: with which random generators were started; None if they were left alone.
        run: "overwriting" or "continuing"; "" for a new task.
    """
    seeded = "" if seed is None else f" (random seed {seed})"
    return f'telemetry: {run and f"{run} "}task "{name}" -> {", ".join(places)}{seeded}'


def kept_sentence(sinks: Sequence[object], task_id: str) -> str:
    """Return how to see what sinks on this machine have kept of a task, or that it is not where it was put.

    It names what lies on the disk now and opens: after a kill, an exec or on a full disk that is a folder, or several
    zips, or a folder beside a zip.
    """
    for sink in sinks:
        if not isinstance(sink, KeepsSessions):
            continue
        found = [path for path in sink.places(task_id) if holds_task(path, task_id)]
        if not found:
            return f"It is lost: nothing of it can be read in {' or '.join(map(str, sink.places(task_id)))}"
        if not sink.zips:
            return "See it with: telemetry server"
        if len(found) > MAX_PATHS:
            found = list(dict.fromkeys(path.parent for path in found))
        return f"See it with: telemetry import {' '.join(shlex.quote(str(path)) for path in found)}"
    return ""


def end_line(status: str, ledger: Ledger, left: Left | None = None, *, left_in: Path | None, kept: str = "") -> str:
    """Return the line at the end: the counts, and the command that sends what is left or shows what is kept.

    Args:
        left: the uploads that were not stored.
        left_in: the session folder with the events and blobs that are on disk and not delivered.
        kept: how to see a run that no server has; "" where one has it.
    """
    line = f"telemetry: {status}. {ledger}."
    if left is not None and (said := str(left)):
        line += f" Uploads: {said}."
    if (ledger.on_disk or (left is not None and left.count)) and left_in is not None:
        line += f" Send what is on disk with: telemetry sync {shlex.quote(str(left_in))}"
    elif kept and ledger.delivered:
        line += f" {kept}"
    return line


class Announcer:
    """Prints lines on the stream that was the standard error when it was made.

    Args:
        line_is_open: whether the program has left the cursor in the middle of a line; None if nobody knows.
    """

    def __init__(self, *, quiet: bool, line_is_open: Callable[[], bool] | None = None) -> None:
        self._quiet = quiet
        self._stream: TextIO | None = sys.stderr
        self._line_is_open = line_is_open

    def say(self, line: str) -> None:
        """Print one line, unless quiet. A stream that is gone is no reason to harm the job."""
        stream = self._stream
        if self._quiet or stream is None:
            return
        try:
            _show_open_line(stream)
            # A progress bar, or a print without a line end: ours is not to be written onto it.
            start = "\n" if self._line_is_open is not None and self._line_is_open() else ""
            unkept(print, start + line, file=stream, flush=True)
        except (OSError, ValueError) as error:
            if is_interrupt(error):
                raise
            self._stream = None  # closed under us, or a broken pipe: nobody is reading


def _show_open_line(stream: TextIO) -> None:
    """Bring what waits in the standard output's buffer to the terminal, so that it does not come after our line."""
    stdout = sys.stdout
    try:
        if stream.isatty() and stdout is not None and stdout.isatty():
            stdout.flush()
    except (AttributeError, OSError, RuntimeError, ValueError) as error:
        if is_interrupt(error):
            raise
        # closed, or in use by the very frame that a signal has interrupted
