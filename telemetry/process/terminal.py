"""What we write to the user's terminal ourselves: a progress line, and lines that the console collector is not to keep.

With nothing but the standard library.
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

__all__ = ["UNKEPT_THREADS", "ProgressLine", "size_text", "unkept"]

T = TypeVar("T")

BAR_CHARS = 28

# Ten times a second looks continuous and costs nothing.
REDRAW_S = 0.1

# The threads that write just now what is no output of the program.
UNKEPT_THREADS: dict[int, bool] = {}


def unkept(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a function. What it writes on this thread is ours, not the program's: no task keeps it as console output."""
    me = threading.get_ident()
    nested = me in UNKEPT_THREADS
    # Nothing that a signal handler could interrupt stands between this and `try`, nor between `finally` and its call:
    # a thread that stayed in here would never be heard again.
    UNKEPT_THREADS[me] = True
    try:
        return call(*args, **kwargs)
    finally:
        if not nested:
            UNKEPT_THREADS.pop(me, None)


class ProgressLine:
    """A progress bar on one line: redrawn in place on a terminal, a line each 10 % in a pipe or file.

    Args:
        total: the number of steps or bytes that is 100 %; at least 1 is assumed.
    """

    def __init__(self, total: int, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = max(1, total)
        self._stream = stream
        self._clock = clock
        self._redraws = stream.isatty()
        self._shown_at_s = -math.inf
        self._shown_tenth = 0

    def show(self, done: int, text: str) -> None:
        """Show how far it is. A call whose drawing nobody could see returns at once."""
        if self._redraws:
            self._redraw(done, text)
            return
        tenth = 10 * done // self._total
        if tenth > self._shown_tenth:
            self._shown_tenth = tenth
            unkept(print, f"{10 * tenth:3d} %  {text}", file=self._stream, flush=True)

    def close(self) -> None:
        """End the line, so that what follows starts on its own."""
        if self._redraws:
            unkept(print, file=self._stream, flush=True)

    def _redraw(self, done: int, text: str) -> None:
        now_s = self._clock()
        if now_s - self._shown_at_s < REDRAW_S and done < self._total:
            return
        self._shown_at_s = now_s
        filled = BAR_CHARS * min(done, self._total) // self._total
        bar = "█" * filled + "░" * (BAR_CHARS - filled)
        # A line that wraps could not be drawn over again.
        line = f"{bar} {100 * done // self._total:3d} %  {text}"[: shutil.get_terminal_size().columns - 1]
        # Erase to the end of the line: a shorter text must not leave the end of the longer one.
        unkept(self._stream.write, f"\r{line}\x1b[K")
        self._stream.flush()


def size_text(size_bytes: float) -> str:
    """Return "812 B", "1.5 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"
