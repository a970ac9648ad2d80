"""What colours the pages give to what programs report, in both themes: console lines, tables and other figures."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pages_browser import NEEDS_BROWSER, OpenPage
from pages_samples import kinds, plots
from pages_support import NASTY, Writer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

pytestmark = NEEDS_BROWSER

TASK = "1" * 32
SEQUENCE = re.compile(r"\x1b\[[0-9;:]*m")
THEMES = ["light", "dark"]
READABLE = 4.5

# Every colour by every way of saying it, on and off a ground, and the other renditions.
COLOURS = [
    *("".join(f"\x1b[{base + n}m {base + n}" for n in range(8)) for base in (30, 90, 40, 100)),
    *("".join(f"\x1b[38;5;{n}m {n}" for n in range(first, first + 32)) for first in range(0, 256, 32)),
    *("".join(f"\x1b[48;5;{n}m {n}" for n in range(first, first + 32)) for first in range(0, 256, 32)),
    "\x1b[38;2;255;255;0mbright\x1b[0m \x1b[38:2::10:10:60mdark\x1b[0m \x1b[48;2;120;120;120mgrey ground\x1b[0m",
    "\x1b[37;41mwhite on red\x1b[0m \x1b[31;48;2;200;30;30mred on red\x1b[0m",
    "\x1b[7minverse\x1b[0m \x1b[7;33minverse too\x1b[0m \x1b[1mbold\x1b[22m \x1b[2mfaint\x1b[22m",
    "\x1b[3mitalic\x1b[23m \x1b[4:3mwavy\x1b[24m \x1b[9mstruck\x1b[29m plain",
]

# The contrast (WCAG 2.2) of each piece of text in the console with what it stands on.
CONTRASTS = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (colors) => {
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => rgb
    .map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const found = [];
  const walker = document.createTreeWalker(document.querySelector("#lines"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!element.closest(".text") || !walker.currentNode.data.trim()) continue;
    const grounds = [];
    for (let at = element; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
    const inked = [...grounds, getComputedStyle(element).color];
    const [high, low] = [paint(grounds), paint(inked)].map(luminance).sort((a, b) => b - a);
    found.push([walker.currentNode.data, (high + 0.05) / (low + 0.05)]);
  }
  return found;
}
"""


@pytest.mark.parametrize("theme", THEMES)
def test_colours_of_console_lines_are_shown_and_can_be_read(open_page: OpenPage, url: str, theme: str) -> None:
    Writer(url).task().lines(COLOURS).lines(COLOURS[:2], "stderr").flush()

    page = open_page(f"/tasks/{TASK}#console", color_scheme=theme)
    expect(page.locator(".line")).to_have_count(len(COLOURS) + 2)

    # then the text is what is seen on a terminal, each part of it to be read
    shown = [text.text_content() for text in page.locator(".line .text").all()]
    assert shown == [SEQUENCE.sub("", line) for line in (*COLOURS, *COLOURS[:2])]
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 500
    assert [(text, ratio) for text, ratio in contrasts if ratio < READABLE] == []


def test_each_rendition_has_its_look_and_ends(open_page: OpenPage, url: str) -> None:
    Writer(url).task().lines(COLOURS).flush()
    page = open_page(f"/tasks/{TASK}#console")

    def style(text: str, name: str) -> str:
        return str(page.get_by_text(text, exact=True).evaluate(f"element => getComputedStyle(element).{name}"))

    assert style("bold", "fontWeight") == "700"
    assert style("italic", "fontStyle") == "italic"
    assert style("wavy", "textDecorationLine") == "underline"
    assert style("struck", "textDecorationLine") == "line-through"
    assert style("grey ground", "backgroundColor") == "rgb(120, 120, 120)"
    plain = page.locator(".line .text").last
    assert plain.evaluate("text => text.lastChild.nodeType === Node.TEXT_NODE && text.lastChild.data") == " plain"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (f"\x1b[31m{NASTY}\x1b[0m", NASTY),
        ("\x1b[38;5;1;4mparts\x1b[0m", "parts"),
        ("\x1b[38;2;1mtoo short\x1b[0m", "too short"),
        ("\x1b[38;5;999;48:2:300:1:1mout of range", "out of range"),
        ("\x1b[58;5;9;1mthe colour of an underline", "the colour of an underline"),
        ("\x1b[1;;31m\x1b[;m\x1b[mempty", "empty"),
        ("\x1b]8;;javascript:alert(1)\x07a link\x1b]8;;\x07", "a link"),
        ("\x1b[2J\x1b[Hcleared\x1b[?25l\x07", "cleared"),
        ("an end in the middle \x1b[", "an end in the middle "),
    ],
)
def test_no_sequence_is_more_than_a_look(open_page: OpenPage, url: str, line: str, shown: str) -> None:
    Writer(url).task().lines([line]).flush()
    page = open_page(f"/tasks/{TASK}#console")

    expect(page.locator(".line")).to_have_count(1)
    text = page.locator(".line .text")
    assert text.text_content().replace("\x07", "") == shown
    assert set(text.evaluate("text => [...text.querySelectorAll('*')].map((one) => one.localName)")) <= {"span"}


def test_a_search_sees_the_text_and_not_its_colours(open_page: OpenPage, url: str) -> None:
    # given a line whose colours change in the middle of words
    Writer(url).task().lines(["\x1b[31mred al\x1b[1mert\x1b[0m 31", "other \x1b[31mline\x1b[0m", "RED ALERT"]).flush()
    page = open_page(f"/tasks/{TASK}#console")

    page.locator("#console-search").fill("red alert")
    expect(page.locator(".line")).to_have_count(2)
    assert page.locator(".line").first.locator("mark").all_text_contents() == ["red al", "ert"]
    page.locator("#console-search").fill("31m")
    expect(page.get_by_text("No line matches.")).to_be_visible()

    # and what is copied is the text
    page.locator("#console-search").fill("alert 31")
    expect(page.locator(".line")).to_have_count(1)
    page.locator(".line .text").evaluate("text => getSelection().selectAllChildren(text)")
    assert page.evaluate("String(getSelection())") == "red alert 31"


@pytest.mark.parametrize("theme", THEMES)
def test_a_table_can_be_read(open_page: OpenPage, url: str, theme: str) -> None:
    writer = Writer(url).task()
    plots(writer)
    kinds(writer)
    writer.flush()
    page = open_page(f"/tasks/{TASK}#plots", color_scheme=theme)

    # a table of the page's colours, one with the author's, and one with plotly.py's template
    for title, series in (("table", "scores"), ("kinds", "chosen table"), ("kinds", "template")):
        plot = card(page, title, series)
        plot.scroll_into_view_if_needed()
        expect(plot.locator(".cell-text").first).to_be_attached()
        cells = plot.evaluate(
            """plot => [...plot.querySelectorAll(".column-cell")].map((cell) =>
              [".cell-rect", ".cell-text"].map((part) => getComputedStyle(cell.querySelector(part)).fill))"""
        )
        assert cells
        for ground, ink in cells:
            assert contrast(ground, ink) >= READABLE, (series, ground, ink)
    # in the dark theme the page's own is dark
    ground = card(page, "table", "scores").locator(".cell-rect").last.evaluate("cell => getComputedStyle(cell).fill")
    assert (luminance(ground) < 0.1) == (theme == "dark")


@pytest.mark.parametrize("theme", THEMES)
def test_no_part_of_a_figure_keeps_plotly_s_white_ground(open_page: OpenPage, url: str, theme: str) -> None:
    writer = Writer(url).task()
    kinds(writer)
    writer.flush()
    page = open_page(f"/tasks/{TASK}#plots", color_scheme=theme, viewport={"width": 1280, "height": 3000})

    def full(series: str, path: str) -> Any:
        plot = card(page, "kinds", series)
        expect(plot.locator(".main-svg").first).to_be_attached()
        expect(plot).to_have_attribute("data-iteration", "300")
        return plot.evaluate(f"plot => plot._fullLayout.{path}")

    assert full("polar", "polar.bgcolor") == "rgba(0,0,0,0)"
    assert full("ternary", "ternary.bgcolor") == "rgba(0,0,0,0)"
    # what stands on a ground has the ink that can be read on it
    assert contrast(full("controls", "updatemenus[0].bgcolor"), full("controls", "font.color")) >= READABLE
    assert contrast(full("controls", "xaxis.rangeselector.bgcolor"), full("controls", "font.color")) >= READABLE
    assert full("controls", "annotations[1].bgcolor") == "white"
    assert contrast("rgb(255, 255, 255)", full("controls", "annotations[1].font.color")) >= READABLE
    assert full("controls", "annotations[0].font.color") == full("controls", "font.color")


@pytest.mark.parametrize(
    ("script", "heading"),
    [
        ({"entry_point": "scripts/train.py", "diff": "import torch\n"}, "train.py"),
        ({"diff": "import torch\n"}, "Script text"),
        ({"entry_point": "train.py", "commit": "9c1f0a7", "diff": "diff --git a/x b/x\n"}, "Uncommitted changes"),
        ({"entry_point": "train.py", "repository": "r", "diff": "--- a/x\n+++ b/x\n"}, "Uncommitted changes"),
    ],
)
def test_a_script_s_text_is_headed_as_what_it_is(
    open_page: OpenPage, url: str, script: dict[str, str], heading: str
) -> None:
    Writer(url).task().record("script", script).flush()
    page = open_page(f"/tasks/{TASK}#configuration")

    expect(page.locator("#diff h2")).to_have_text(heading)
    # lines of a script that begin with a sign are no changes
    colored = page.locator("#diff .diff").count()
    assert bool(colored) == (heading == "Uncommitted changes")


def card(page: Any, title: str, series: str) -> Any:
    section = page.locator(f'.plot-section[data-title="{title}"]')
    return section.locator(".plot-card").filter(has=page.get_by_text(series, exact=True)).locator(".plot")


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def luminance(css: str) -> float:
    """The luminance (WCAG 2.2) of `rgb(1, 2, 3)` or `#123`."""
    if css.startswith("#"):
        digits = css[1:] if len(css) == 7 else "".join(2 * digit for digit in css[1:])
        parts = [int(digits[at : at + 2], 16) for at in (0, 2, 4)]
    else:
        parts = [int(part) for part in re.findall(r"\d+", css)[:3]]
    shares = [part / 255 for part in parts]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))
