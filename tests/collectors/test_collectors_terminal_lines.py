"""Which lines are kept of what a program writes to a terminal."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry.collectors.terminal_lines import LineAssembler


class Screen:
    """Feeds an assembler; the clock moves only when told to."""

    def __init__(self, *, max_line_chars: int = 16 * 1024) -> None:
        self.now_s = 0.0
        self.assembler = LineAssembler(max_line_chars=max_line_chars, monotonic=lambda: self.now_s)

    def feed(self, *writes: str) -> list[str]:
        return [text for write in writes for _, text in self.assembler.feed(write, int(self.now_s * 1e9))]

    def finish(self) -> list[str]:
        return [text for _, text in self.assembler.finish(int(self.now_s * 1e9))]


@pytest.mark.parametrize(
    ("writes", "lines"),
    [
        (["one\ntwo\n"], ["one", "two"]),
        (["on", "e", "\n", "two\n"], ["one", "two"]),
        (["one\r\ntwo\r\n"], ["one", "two"]),
        (["one\r", "\ntwo\n"], ["one", "two"]),
        (["\n\nafter two empty ones\n"], ["", "", "after two empty ones"]),
        (["  indented \t tabbed  \n"], ["  indented \t tabbed  "]),
        (
            ["\x1b[1;31mred\x1b[0m and \x1b[38;2;1;2;3mtrue\x1b[m\n"],
            ["\x1b[1;31mred\x1b[0m and \x1b[38;2;1;2;3mtrue\x1b[m"],
        ),
        (["\x1b[32m", "green", "\x1b[0m", "\n"], ["\x1b[32mgreen\x1b[0m"]),
        (["\x1b[32mgreen\n", "\x1b[0mplain\n"], ["\x1b[32mgreen", "\x1b[0mplain"]),
        (["\x1b[32m\n", "green\n"], ["", "\x1b[32mgreen"]),
        (["\x1b[4:3mwavy\x1b[24m \x1b[>4;2mno colour\n"], ["\x1b[4:3mwavy\x1b[24m no colour"]),
        (["\x1b[31mab\x1b[0m\bc\n"], ["\x1b[31ma\x1b[0mc"]),
        (["\x1b]0;a window title\x07text\n"], ["text"]),
        (["\x1b]8;;http://host/\x1b\\a link\x1b]8;;\x1b\\\n"], ["a link"]),
        (["\x1b]0;never closed\nnext\n"], ["", "next"]),
        (["\x1b(Bplain\x1b7\x1b8\x0f\x07\n"], ["plain"]),
        (["spin|\b/\b-\n"], ["spin-"]),
        (["ünï çødé 日本 🚀\n"], ["ünï çødé 日本 🚀"]),
        (["\x1b[12", "34", "mlate\n"], ["\x1b[1234mlate"]),
        (["not an end: \x1b[1\n"], ["not an end: 1"]),
    ],
)
def test_plain_lines_come_with_their_line_feed(writes: list[str], lines: list[str]) -> None:
    screen = Screen()

    assert screen.feed(*writes) == lines
    assert screen.finish() == []


def test_an_open_line_comes_at_the_end() -> None:
    screen = Screen()

    assert screen.feed("no line feed") == []
    assert screen.finish() == ["no line feed"]


def test_a_line_has_the_time_at_which_its_end_was_written() -> None:
    assembler = LineAssembler()

    assert assembler.feed("begun at 1", 1) == []
    assert assembler.feed(", ended at 2\nnext", 2) == [(2, "begun at 1, ended at 2")]
    assert assembler.finish(3) == [(3, "next")]


def test_a_bar_gives_its_first_state_one_in_ten_seconds_and_its_last() -> None:
    # given a bar that redraws itself ten times a second for 25 s
    screen = Screen()
    seen: list[tuple[float, str]] = []
    for tick in range(250):
        screen.now_s = tick / 10
        seen += [(screen.now_s, line) for line in screen.feed(f"\r{tick:3d}/250")]

    # when it ends
    last = screen.feed("\r250/250", "\n")

    # then three states came, 10 s apart, and the last one
    assert [line for _, line in seen] == ["  0/250", "100/250", "200/250"]
    assert last == ["250/250"]
    assert screen.finish() == []


def test_a_bar_that_is_cut_off_gives_its_last_state_at_the_end() -> None:
    screen = Screen()
    assert screen.feed("\r1/3", "\r2/3", "\r3/3") == ["1/3"]

    assert screen.finish() == ["3/3"]


def test_short_bars_one_after_another_give_their_last_states() -> None:
    # given epochs of less than 10 s with a bar each
    screen = Screen()
    lines: list[str] = []

    for epoch in range(4):
        for step in range(5):
            screen.now_s += 0.1
            lines += screen.feed(f"\repoch {epoch} {step}/4")
        lines += screen.feed("\n")

    assert lines == ["epoch 0 0/4", "epoch 0 4/4", "epoch 1 4/4", "epoch 2 4/4", "epoch 3 4/4"]


def test_a_redraw_padded_with_blanks_loses_the_blanks() -> None:
    screen = Screen()

    assert screen.feed("\r99/100 slow", "\r100/100    ", "\n") == ["99/100 slow", "100/100"]


def test_an_erased_bar_gives_its_last_state_once_nothing_redraws_it() -> None:
    # given a bar that tqdm's leave=False erases
    screen = Screen()
    assert screen.feed("\r1/2", "\r2/2", "\r   ", "\r") == ["1/2"]

    # when plain lines follow, first at once and then after the interval
    soon = screen.feed("next\n", "later\n")
    screen.now_s = 11.0
    late = screen.feed("much later\n")

    # then they are kept at once, and the bar's last state comes too
    assert soon == ["next", "later"]
    assert late == ["much later", "2/2"]
    assert screen.finish() == []


def test_lines_written_above_a_bar_do_not_multiply_the_bar() -> None:
    # given a bar that makes way for a line, as tqdm.write does, a hundred times
    screen = Screen()
    lines: list[str] = []

    for step in range(100):
        screen.now_s += 0.01
        lines += screen.feed(f"\r{step}/100", "\r      ", "\r", f"note {step}", "\n")

    assert [line for line in lines if line.startswith("note")] == [f"note {step}" for step in range(100)]
    assert len(lines) == 101


def test_nested_bars_keep_one_state_each_and_their_last() -> None:
    # given tqdm's way to nest: a line feed down, the bar, a cursor movement up
    screen = Screen()
    lines: list[str] = []
    for epoch in range(10):
        lines += screen.feed(f"\repoch {epoch}/9")
        for step in range(50):
            screen.now_s += 0.001
            lines += screen.feed("\n", f"\rstep {step}/49", "\x1b[A")

    # when both end
    lines += screen.feed("\repoch 9/9", "\n", "\rstep 49/49", "\n")
    lines += screen.finish()

    # then each has its first and its last state; the epoch's place is learnt with its second
    assert lines == ["epoch 0/9", "step 0/49", "epoch 1/9", "epoch 9/9", "step 49/49"]


def test_a_table_that_redraws_itself_in_place_keeps_what_stays() -> None:
    # given rich's way: erase each row going up, write all rows again
    screen = Screen()
    lines = screen.feed("a 0\nb 0\nc 0")
    for step in range(1, 200):
        lines += screen.feed("\r\x1b[2K\x1b[1A\x1b[2K\x1b[1A\x1b[2K", f"a {step}\nb {step}\nc {step}")

    # when a line is printed above it, and the table ends
    erase = "\r\x1b[2K\x1b[1A\x1b[2K\x1b[1A\x1b[2K"
    lines += screen.feed(erase + "a note\na 200\nb 200\nc 200", "\n", "done\n")
    lines += screen.finish()

    # then what stays on the screen is there once, and little else
    last = ["a note", "a 200", "b 200", "c 200", "done"]
    assert [lines.count(line) for line in last] == [1] * 5
    assert len(lines) <= len(last) + 2 * 3


def test_long_lines_come_in_pieces_and_whole() -> None:
    screen = Screen(max_line_chars=100)
    text = "".join(chr(33 + n % 90) for n in range(1050))

    pieces = screen.feed(text[:501], text[501:], "\n")

    assert [len(piece) for piece in pieces] == [100] * 10 + [50]
    assert "".join(pieces) == text


def test_colours_take_no_room_and_are_not_cut_through() -> None:
    screen = Screen(max_line_chars=3)

    pieces = screen.feed("\x1b[31mab", "\x1b[32mcd\x1b[0m", "e\n") + screen.feed("\x1b[1m123\x1b[0m\n")

    assert pieces == ["\x1b[31mab\x1b[32mc", "d\x1b[0me", "\x1b[1m123\x1b[0m"]


def test_a_coloured_bar_keeps_its_colours_and_an_erased_one_is_no_line() -> None:
    screen = Screen()

    lines = screen.feed("\r\x1b[32m1/3\x1b[0m  ", "\r\x1b[32m2/3\x1b[0m  ", "\r\x1b[32m3/3\x1b[0m  ")
    lines += screen.feed("\r\x1b[0m   \x1b[0m", "\r", "done\n")

    assert lines + screen.finish() == ["\x1b[32m1/3\x1b[0m", "done", "\x1b[32m3/3\x1b[0m"]


def test_a_line_of_exactly_the_limit_is_one_piece() -> None:
    assert Screen(max_line_chars=5).feed("12345", "\n", "12345\n", "123456\n") == [
        "12345",
        "12345",
        "12345",
        "6",
    ]


def test_memory_stays_bounded_whatever_is_written() -> None:
    # given writes that climb, redraw and never end
    screen = Screen()
    for number in range(2000):
        screen.feed(f"\x1b[1000A\r{number}", "\x1b[5B\r more", "\x1b[" + "1" * 70, "\x1b]" + "x" * 50 + "\x07")
        screen.feed(f"\r{number}" * 3, "\n", "\x1b[31m" * 50)

    assert len(screen.assembler._rows) <= 65
    assert len(screen.assembler._spare) <= 65
    assert len(screen.assembler._tail) < 100
    assert len(screen.assembler._colours) < 300
    assert max(len(row.text()) for row in screen.assembler._rows) < 600


# Words, line ends and the movements that bars use; a lone escape and broken sequences as well.
_PIECES = st.sampled_from(
    [
        "a",
        "bc ",
        " ",
        "\n",
        "\r",
        "\r\n",
        "\x1b[A",
        "\x1b[2A",
        "\x1b[B",
        "\x1b[K",
        "\x1b[2K",
        "\x1b[31m",
        "\x1b[0m",
        "\x1b",
        "\x1b[",
        "\x1b[1",
        "\x1b]0;t",
        "\x07",
        "\x1b\\",
        "\b",
        "é",
        "\x1b[1G",
        "[A",
        "m",
        "0",
    ]
)


@given(st.lists(_PIECES, max_size=60), st.lists(st.integers(0, 200), max_size=20))
def test_any_way_of_cutting_a_text_into_writes_gives_the_same_lines(pieces: list[str], cuts: list[int]) -> None:
    # given a text, and the same text in arbitrary writes
    text = "".join(pieces)
    edges = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    writes = [text[start:end] for start, end in itertools.pairwise(edges)]

    # when one assembler gets it whole and one in writes
    whole, cut = Screen(max_line_chars=7), Screen(max_line_chars=7)
    whole_lines = whole.feed(text) + whole.finish()
    cut_lines = cut.feed(*writes) + cut.finish()

    assert cut_lines == whole_lines


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@given(
    st.lists(
        st.sampled_from(
            ["a", "bc ", " ", "\n", "\r", "\x1b[A", "\x1b[B", "\x1b[K", "\b", "\x1b[31m", "\x1b[0m", "\x1b[1;48;5;3m"]
        ),
        max_size=60,
    )
)
def test_the_lines_are_those_of_the_same_text_without_colours(pieces: list[str]) -> None:
    # given writes with colours, and the same without
    coloured, plain = Screen(max_line_chars=7), Screen(max_line_chars=7)
    text = "".join(pieces)

    lines = coloured.feed(text) + coloured.finish()
    plain_lines = plain.feed(_COLOURS.sub("", text)) + plain.finish()

    assert [_COLOURS.sub("", line) for line in lines] == plain_lines


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40), max_size=20))
def test_plain_lines_come_back_as_they_are(lines: list[str]) -> None:
    screen = Screen()

    assert screen.feed("".join(f"{line}\n" for line in lines)) == lines


def _tqdm_writes(run: Callable[[io.StringIO], None]) -> list[str]:
    writes: list[str] = []

    class Terminal(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    run(Terminal())
    return writes


def test_real_tqdm_bars_nested_with_lines_between() -> None:
    tqdm = pytest.importorskip("tqdm").tqdm

    # given two nested bars of the real tqdm, and tqdm.write between
    def train(terminal: io.StringIO) -> None:
        options = {"file": terminal, "mininterval": 0, "ascii": True, "ncols": 60}
        for epoch in tqdm(range(5), desc="epochs", **options):
            for step in tqdm(range(40), desc="steps", leave=False, **options):
                if step == 20:
                    tqdm.write(f"epoch {epoch} is half done", file=terminal)

    # when its writes pass by within 10 s
    screen = Screen()
    lines = screen.feed(*_tqdm_writes(train)) + screen.finish()

    # then each written line is there once, and each bar with its first and its last state
    assert [line for line in lines if "half done" in line] == [f"epoch {n} is half done" for n in range(5)]
    epochs = [line for line in lines if line.startswith("epochs")]
    assert "0/5" in epochs[0]
    assert "5/5" in epochs[-1]
    assert len(epochs) <= 3
    assert len([line for line in lines if line.startswith("steps")]) <= 2


def test_real_tqdm_single_bar_gives_its_last_state_at_once() -> None:
    tqdm = pytest.importorskip("tqdm").tqdm

    def train(terminal: io.StringIO) -> None:
        for _ in tqdm(range(30), file=terminal, mininterval=0, ascii=True, ncols=60):
            pass

    screen = Screen()
    lines = screen.feed(*_tqdm_writes(train))

    assert len(lines) == 2
    assert "30/30" in lines[-1]
    assert screen.finish() == []
