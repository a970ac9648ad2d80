"""From what a program writes to a terminal to the lines that are worth keeping.

A console is not a list of lines: progress bars redraw a row with carriage returns, nested bars walk up and
down with cursor movements, colours are control sequences. `LineAssembler` follows just enough of
that to tell a line that stays on the screen from a redraw that does not:

* A plain line is given back when its line feed comes.
* A row that is rewritten (after `\\r`, an erase, or a cursor movement into it) is a bar. Of its states at
  most one per `redraw_interval_s` is given back, and its last one when the cursor has left the row for good.
* Rows are told apart by where they are. How far up a stream's cursor ever moves is remembered: a bar's
  row is final once the cursor is further below it than that. In a stream that never moves up a bar's last
  state is given back at its line feed.
  (A stream's first movement up makes a bar known in a new place: one more line, once.)
* Colours (SGR sequences) stay where they stand, and take no room; all other control sequences go. A rewritten row takes
  the newest text whole: what a shorter text would leave standing behind it on a real screen is not kept.

Any way of cutting a text into writes gives the same lines. Not thread-safe; the caller has the lock.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["MAX_LINE_CHARS", "REDRAW_INTERVAL_S", "Line", "LineAssembler"]

# (Unix time in ns at which the line's end was written, text without its line end)
Line: TypeAlias = tuple[int, str]

# Longer lines come in pieces: what a page can still lay out, and what bounds the memory of a row.
MAX_LINE_CHARS = 16 * 1024

# One state of a bar per 10 s: 360 lines an hour tell the pace, and ClearML's users know the figure.
REDRAW_INTERVAL_S = 10.0

# Colours that no text has come for yet: more than any program combines, and what bounds the memory of a row.
_MAX_COLOUR_CHARS = 256

# Rows that a redrawn region may span (rich tables, nested bars); bounds memory to this many rows.
_MAX_REGION_ROWS = 64

# A row's parts: colours, or text.
_RUN = re.compile(r"\x1b\[[0-9;:]{0,64}m|(?P<text>[^\x1b]+)")

# Everything that is not text: C0 without tab and line feed, delete, and the C1 control bytes.
_SPECIAL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# Colours and other renditions, which most sequences are. They take no room on the screen.
_COLOUR = re.compile(r"\x1b\[[0-9;:]{0,64}m")

# ECMA-48: CSI with its parameters bounded, other escape sequences, then any single control character.
_TOKEN = re.compile(
    r"\x1b\[(?P<parameters>[0-?]{0,64})[ -/]{0,8}(?P<final>[@-~])"
    r"|(?P<string>\x1b[\]PX^_])"
    r"|\x1b[ -/]{0,8}(?P<escape>[0-Z\\`-~])"
    r"|(?P<bracket>\x1b\[)"
    r"|(?P<control>[\x00-\x08\n\x0b-\x1f\x7f-\x9f])"
)

# The beginning of a sequence at the end of a write: the rest is still to come.
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]{0,64}[ -/]{0,8}|[ -/]{0,8})?\Z")

# A control string (window title, hyperlink) ends at BEL or at the escape of its ST. A line end ends it as
# well: a program that forgets the terminator must not silence the rest of its output.
_STRING_END = re.compile(r"[\x07\n\r\x1b]")


class _Throttle:
    """When a bar was last given back, and its newest state that was not. Outlives its row: see `_settle`."""

    __slots__ = ("last_s", "pending")

    def __init__(self) -> None:
        self.last_s = float("-inf")
        self.pending: Line | None = None


class _Row:
    """One row of the screen that may still change."""

    __slots__ = ("bar", "chars", "left", "parts", "reported", "restart", "throttle", "time_unix_ns")

    def __init__(self, *, bar: bool = False) -> None:
        self.parts: list[str] = []
        self.chars = 0  # of the text; colours take no room
        self.bar = bar  # has been rewritten
        self.restart = False  # the next text replaces what stands here
        self.left = False  # a line feed was written since the last text
        self.reported: str | None = None  # what was last given back from here
        self.time_unix_ns = 0
        self.throttle: _Throttle | None = None

    def text(self) -> str:
        text = "".join(self.parts)
        return _bar_state(text) if self.bar else text

    def clear(self) -> None:
        self.parts = []
        self.chars = 0


class LineAssembler:
    """Takes writes of one stream, gives back lines. See the module's text for the rules.

    Args:
        redraw_interval_s: seconds between two states of the same bar.
        max_line_chars: longer lines come in pieces of this many characters; nothing is lost.
        monotonic: seconds; the redraw interval is measured on it.
    """

    def __init__(
        self,
        *,
        redraw_interval_s: float = REDRAW_INTERVAL_S,
        max_line_chars: int = MAX_LINE_CHARS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s = redraw_interval_s
        self._max_chars = max_line_chars
        self._monotonic = monotonic
        self._rows = [_Row()]
        self._at = 0
        self._height = 0  # how many rows above its lowest row this stream's cursor has been
        self._tail = ""
        self._in_string = False
        self._colours = ""  # for the text that comes next; a terminal has one pen, whatever row it is in
        self._spare: list[_Throttle] = []
        self._lines: list[Line] = []
        self._time_unix_ns = 0

    def feed(self, text: str, time_unix_ns: int) -> list[Line]:
        """Take one write; return the lines that it completed.

        Args:
            time_unix_ns: when it was written.
        """
        if text[-1:] == "\n" and self._at_plain_row():
            line = text[:-1]
            # The usual write, in a quarter of the time of what follows.
            if line.isprintable() and len(line) <= self._max_chars:
                return [(time_unix_ns, line)]
        self._time_unix_ns = time_unix_ns
        lines: list[Line] = []
        self._lines = lines
        if self._tail or self._in_string:
            self._feed_controls(text)
        elif (special := _SPECIAL.search(text)) is None:
            self._feed_text(text)
        elif special.start() == 0 and text[0] == "\r" and not _SPECIAL.search(text, 1):
            # How tqdm and most others redraw.
            self._carriage_return()
            self._feed_text(text[1:])
        elif "\x1b" in text and not _SPECIAL.search(plain := _COLOUR.sub("", text)):
            is_line = text[-1] == "\n" and plain.count("\n") == 1 and 1 < len(plain) <= self._max_chars
            if is_line and self._at_plain_row():
                return [(time_unix_ns, text[:-1])]
            self._feed_coloured(text)
        else:
            self._feed_controls(text)
        return lines

    def finish(self, time_unix_ns: int) -> list[Line]:
        """Return what has not been given back: open lines and the last states of bars. Starts afresh."""
        self._time_unix_ns = time_unix_ns
        lines: list[Line] = []
        self._lines = lines
        if self._colours:
            self._colour(self._rows[self._at])
        for row in self._rows:
            if not row.bar and not row.left and row.chars:
                lines.append((time_unix_ns, row.text()))
            elif row.bar:
                self._settle(row)
        lines.extend(throttle.pending for throttle in self._spare if throttle.pending is not None)
        self._rows = [_Row()]
        self._at = 0
        self._height = 0
        self._tail = ""
        self._in_string = False
        self._colours = ""
        self._spare = []
        return lines

    def _feed_text(self, text: str) -> None:
        """Text with line feeds and no other control characters: nearly every write."""
        first, *others = text.split("\n")
        if first:
            self._put(first)
        for part in others:
            self._line_feed()
            if part:
                self._put(part)

    def _feed_coloured(self, text: str) -> None:
        """Text with line feeds, colours and no other control characters."""
        first, *others = text.split("\n")
        self._put_coloured(first)
        for part in others:
            self._line_feed()
            self._put_coloured(part)

    def _put_coloured(self, text: str) -> None:
        text, after = _without_last_colours(text)
        if text:
            self._put(text, len(_COLOUR.sub("", text)))
        for colour in _COLOUR.findall(after):
            self._take_up(colour)

    def _at_plain_row(self) -> bool:
        """Whether the cursor is at the start of a fresh row in a stream that never had a bar."""
        if self._height or self._spare or self._tail or self._in_string or self._colours:
            return False
        row = self._rows[0]
        return not (row.parts or row.bar or row.restart)

    def _feed_controls(self, text: str) -> None:
        text = self._tail + text
        self._tail = ""
        # No sequence holds a second escape character, so only the last one can be unfinished.
        last = text.rfind("\x1b")
        if last >= 0 and _UNFINISHED.match(text, last):
            text, self._tail = text[:last], text[last:]
        position = 0
        while True:
            if self._in_string:
                end = _STRING_END.search(text, position)
                if end is None:
                    return
                self._in_string = False
                position = end.end() if end.group() == "\x07" else end.start()
            token = _TOKEN.search(text, position)
            start = len(text) if token is None else token.start()
            if start > position:
                self._put(text[position:start])
            if token is None:
                return
            position = token.end()
            self._control(token)

    def _control(self, token: re.Match[str]) -> None:
        if (control := token["control"]) is not None:
            if control == "\n":
                self._line_feed()
            elif control == "\r":
                self._carriage_return()
            elif control == "\b":
                self._backspace()
        elif token["string"] is not None:
            self._in_string = True
        elif (final := token["final"]) is not None:
            if final == "m" and _COLOUR.fullmatch(token.group()):
                self._take_up(token.group())
            self._sequence(final, token["parameters"])
        elif token["escape"] == "M":  # reverse line feed
            self._up(1)

    def _sequence(self, final: str, parameters: str) -> None:
        """Carry out what moves or erases; modes and the rest have no effect on the text."""
        count = int(parameters) if parameters.isdecimal() else 0
        if final in "AF":
            self._up(max(1, count))
        elif final in "BE":
            for _ in range(min(max(1, count), _MAX_REGION_ROWS)):
                if self._at < len(self._rows) - 1:
                    self._leave_for(self._at + 1)
        elif (final == "G" and count <= 1) or (final == "D" and count >= self._rows[self._at].chars):
            self._carriage_return()
        elif final in "KJ":
            row = self._rows[self._at]
            if self._colours:
                self._colour(row)
            # Erasing behind the text that was just written changes nothing.
            if row.restart or (final == "K" and count):
                if not row.restart:
                    row.time_unix_ns = self._time_unix_ns
                self._offer(row)
                row.clear()
                row.bar = True
                row.restart = False

    def _take_up(self, colour: str) -> None:
        kept = self._colours if len(self._colours) < _MAX_COLOUR_CHARS else ""
        self._colours = kept + colour

    def _put(self, text: str, chars: int | None = None) -> None:
        """Write text where the cursor is; `chars` without the colours in it, if there are any."""
        row = self._rows[self._at]
        if row.restart:
            self._offer(row)
            row.clear()
            row.bar = True
            row.restart = False
        row.left = False
        row.parts.append(self._colours + text)
        self._colours = ""
        row.chars += len(text) if chars is None else chars
        if row.chars > self._max_chars:
            self._cut(row)

    def _colour(self, row: _Row) -> None:
        """The text of a row is complete: colours that came after it, usually their reset, belong to it."""
        if row.chars and not row.restart and not row.left:
            row.parts.append(self._colours)
            self._colours = ""

    def _cut(self, row: _Row) -> None:
        text = "".join(row.parts)
        size = self._max_chars
        start = end = chars = 0
        for run in _RUN.finditer(text):
            if run["text"] is None:
                continue
            at = run.start()
            while chars + run.end() - at > size:
                if chars < size:
                    at += size - chars
                    end = at
                self._lines.append((self._time_unix_ns, text[start:end]))
                start, chars = end, 0
            chars += run.end() - at
            end = run.end()
        row.parts = [text[start:]]
        row.chars = chars

    def _carriage_return(self) -> None:
        row = self._rows[self._at]
        if self._colours:
            self._colour(row)
        # Decided by what follows: a line feed makes it a line end, text a redraw.
        row.restart = True
        row.time_unix_ns = self._time_unix_ns

    def _backspace(self) -> None:
        row = self._rows[self._at]
        if row.chars and not row.restart:
            text, colours = _without_last_colours("".join(row.parts))
            row.parts = [text[:-1] + colours]
            row.chars -= 1

    def _line_feed(self) -> None:
        row = self._rows[self._at]
        if self._colours:
            self._colour(row)
        row.time_unix_ns = self._time_unix_ns
        if not row.bar and not row.left:
            text = "".join(row.parts)
            self._lines.append((self._time_unix_ns, text))
            if self._spare:
                self._emit_overdue()
            if not self._height:
                # No cursor ever came back in this stream: the row is done with, and is used again.
                row.clear()
                row.restart = False
                return
            row.reported = text
            if text and self._at == len(self._rows) - 1:
                # Output has gone on below the redrawn region.
                self._settle_above(self._at)
        row.left = True
        row.restart = True
        if self._at < len(self._rows) - 1:
            self._leave_for(self._at + 1)
            return
        if row.bar and self._height:
            self._offer(row)
        self._rows.append(_Row())
        self._settle_above(len(self._rows) - 1 - self._height)
        self._at = len(self._rows) - 1

    def _up(self, count: int) -> None:
        missing = min(count - self._at, _MAX_REGION_ROWS + 1 - len(self._rows))
        if missing > 0:
            self._rows[:0] = [_Row(bar=True) for _ in range(missing)]
            self._at += missing
        target = max(0, self._at - count)
        self._rows[self._at].bar = True
        self._leave_for(target)
        self._height = max(self._height, len(self._rows) - 1 - target)

    def _leave_for(self, target: int) -> None:
        """Move the cursor to an existing row. The state of the row that it leaves is complete."""
        row = self._rows[self._at]
        if self._colours:
            self._colour(row)
        if row.bar:
            row.time_unix_ns = self._time_unix_ns
            self._offer(row)
        self._at = target
        self._rows[target].restart = True

    def _settle_above(self, index: int) -> None:
        """The cursor is done with the rows above `index`."""
        if index <= 0:
            return
        for row in self._rows[:index]:
            if row.bar:
                self._settle(row)
        del self._rows[:index]
        self._at = max(0, self._at - index)

    def _settle(self, row: _Row) -> None:
        """Give back a bar's last state. Its throttle goes to the next bar.

        A bar that is pushed down by a line above it (tqdm.write, rich's console.print) goes on in a new row;
        without the hand-over each such line would cost a line of the bar. For the same reason short
        bars one after another give their last states only.
        """
        text = row.text()
        throttle = row.throttle
        if text:
            if text != row.reported:
                self._lines.append((row.time_unix_ns or self._time_unix_ns, text))
            if throttle is not None:
                throttle.pending = None
        if throttle is not None:
            row.throttle = None
            self._spare.append(throttle)

    def _offer(self, row: _Row) -> None:
        """A state of a bar is complete: give it back if the interval allows, else remember it."""
        text = _bar_state("".join(row.parts))
        throttle = row.throttle
        if not text:
            # The bar was erased: what is written here next may be a line; the bar may come back elsewhere.
            if throttle is not None:
                row.throttle = None
                self._spare.append(throttle)
            return
        if text == row.reported:
            return
        if throttle is None:
            throttle = row.throttle = self._spare.pop() if self._spare else _Throttle()
        line = (row.time_unix_ns or self._time_unix_ns, text)
        now_s = self._monotonic()
        if now_s - throttle.last_s < self._interval_s:
            throttle.pending = line
            return
        throttle.last_s = now_s
        throttle.pending = None
        row.reported = text
        self._lines.append(line)

    def _emit_overdue(self) -> None:
        """Give back the last state of bars that were erased and have not come back for the interval."""
        for throttle in self._spare:
            if throttle.pending is None:
                continue
            now_s = self._monotonic()
            if now_s - throttle.last_s >= self._interval_s:
                throttle.last_s = now_s
                self._lines.append(throttle.pending)
                throttle.pending = None


def _without_last_colours(text: str) -> tuple[str, str]:
    """Return a text without the colours at its end, and these."""
    end = len(text)
    while (at := text.rfind("\x1b", 0, end)) >= 0 and _COLOUR.fullmatch(text, at, end):
        end = at
    return text[:end], text[end:]


def _bar_state(text: str) -> str:
    """Return a bar's text without the blanks with which bars overwrite a longer state; "" if nothing is to be seen."""
    if "\x1b" not in text:
        return text.rstrip(" ")
    after = ""
    while True:
        text, colours = _without_last_colours(text.rstrip(" "))
        after = colours + after
        if not text.endswith(" "):
            return text + after if text else ""
