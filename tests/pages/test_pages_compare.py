"""The page that compares tasks: scalars overlaid, configurations with their differences, values and plots."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pages_browser import NEEDS_BROWSER, OpenPage, overflow
from pages_samples import entry, figure, rich
from pages_support import NASTY, Writer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

pytestmark = NEEDS_BROWSER

ONE, TWO, THREE = "a" * 32, "b" * 32, "c" * 32


def fill(url: str) -> None:
    for number, task_id in enumerate((ONE, TWO)):
        writer = Writer(url, task_id).task(name=["first", NASTY][number], started_unix_ns=1, host="node")
        writer.record("parameters", {"Args/lr": entry([0.1, 0.2][number], "float"), "Args/same": entry(1, "int")})
        writer.record("configuration", {"net": {"text": f"depth: {12 + number}\nheads: 6\n", "type": "yaml"}})
        if number:
            writer.record("parameters", {"Args/only": entry("1", "str")})
        writer.scalars("loss", "train", [3.0, 1.0 + number, 2.0]).scalars(f"own {number}", "x", [math.nan])
        writer.flush()


def chart(page: Any, title: str) -> Any:
    return page.locator(f'.card[data-title="{title}"]')


def row(page: Any, name: str) -> Any:
    return page.locator("table.compare tbody tr:not(.group)").filter(
        has=page.get_by_role("rowheader", name=name, exact=True)
    )


def test_chosen_tasks_are_compared_in_the_order_chosen(open_page: OpenPage, url: str) -> None:
    fill(url)
    page = open_page("/?sort=name")
    page.get_by_label("Select first").check()
    page.get_by_label(f"Select {NASTY}").check()
    page.get_by_role("link", name="Compare").click()

    assert page.url.endswith(f"/compare?tasks={ONE},{TWO}")
    expect(page.locator(".compared-toggle")).to_have_text(["first", NASTY])
    loss = chart(page, "loss / train")
    expect(loss.locator(".legend span")).to_have_text(["first", NASTY])
    expect(loss.locator(".plot")).to_have_attribute("data-points", "6")
    assert loss.locator(".plot").evaluate("plot => plot.data.map(trace => trace.y[1])") == [1, 2]
    # Each has its colour, everywhere.
    colors = loss.locator(".plot").evaluate("plot => plot.data.map(trace => trace.line.color)")
    assert len(set(colors)) == 2
    expect(chart(page, "own 1 / x").locator(".legend span")).to_have_text([NASTY])


def test_a_task_is_hidden_in_all_charts_or_left_out(open_page: OpenPage, url: str) -> None:
    fill(url)
    page = open_page(f"/compare?tasks={ONE},{TWO}")
    plot = chart(page, "loss / train").locator(".plot")
    expect(plot).to_have_attribute("data-points", "6")

    page.locator(".compared-toggle").first.press("Enter")
    expect(plot).to_have_attribute("data-points", "3")
    expect(page.locator(".compared-toggle").first).to_be_focused()
    expect(page.locator(".compared-toggle").first).to_have_attribute("aria-pressed", "false")
    page.locator(".compared-toggle").first.press("Enter")
    expect(plot).to_have_attribute("data-points", "6")

    page.get_by_role("button", name="Leave first out").click()
    expect(page.locator(".compared-toggle")).to_have_count(1)
    assert page.url.endswith(f"/compare?tasks={TWO}")


def test_differences_are_marked_and_can_be_all_there_is(open_page: OpenPage, url: str) -> None:
    fill(url)
    page = open_page(f"/compare?tasks={ONE},{TWO}#configuration")
    expect(row(page, "differs lr").locator("td")).to_have_text(["0.1", "0.2"])
    expect(row(page, "differs lr").locator("td.other")).to_have_text(["0.2"])
    expect(row(page, "same").locator("td")).to_have_text(["1", "1"])
    # A text that looks like a number is told apart from it, and what is not there from an empty text.
    expect(row(page, "differs only").locator("td")).to_have_text(["–", '"1"'])
    expect(row(page, "differs net").locator(".line-differs")).to_have_text(["depth: 13"])

    page.get_by_role("button", name="Only differences").click()
    expect(row(page, "same")).to_have_count(0)
    expect(row(page, "differs lr")).to_be_visible()
    assert "differences=1" in page.url
    page.reload()
    expect(page.get_by_role("button", name="Only differences")).to_have_attribute("aria-pressed", "true")
    page.locator("#difference-search").fill("depth")
    expect(row(page, "differs lr")).to_have_count(0)
    expect(row(page, "differs net")).to_be_visible()


def test_values_say_which_is_lowest_and_highest(open_page: OpenPage, url: str) -> None:
    fill(url)
    page = open_page(f"/compare?tasks={ONE},{TWO}#values")
    expect(row(page, "loss / train").locator("td")).to_have_text(["2", "2"])
    page.get_by_role("button", name="Min").click()
    expect(row(page, "loss / train").locator("td")).to_have_text(["1 lowest", "2 highest"])
    assert "statistic=min" in page.url
    expect(row(page, "own 0 / x").locator("td")).to_have_text(["–", "–"])


def test_plots_stand_side_by_side(open_page: OpenPage, url: str) -> None:
    fill(url)
    for number, task_id in enumerate((ONE, TWO)):
        writer = Writer(url, task_id, rank=number)
        figure(writer, "ROC", "all", 1, [{"type": "scatter", "y": [number, 1]}])
        writer.flush()
    page = open_page(f"/compare?tasks={ONE},{TWO}#plots")
    plots = page.locator(".plot-card .plot[data-iteration]")
    expect(plots).to_have_count(2)
    assert [plot.evaluate("plot => plot.data[0].y[0]") for plot in plots.all()] == [0, 1]
    expect(page.locator(".plot-card h3")).to_have_text(["first", NASTY])


def test_the_comparison_follows_its_tasks(open_page: OpenPage, url: str) -> None:
    fill(url)
    page = open_page(f"/compare?tasks={ONE},{TWO}")
    plot = chart(page, "loss / train").locator(".plot")
    expect(plot).to_have_attribute("data-points", "6")
    writer = Writer(url, ONE, rank=None)
    writer._sequence = 1
    writer.scalars("loss", "train", [0.5], first=3).flush()
    expect(plot).to_have_attribute("data-points", "7")


def test_what_cannot_be_compared_is_said(open_page: OpenPage, url: str, trouble: list[str]) -> None:
    page = open_page("/compare")
    expect(page.get_by_role("heading", name="Nothing to compare")).to_be_visible()
    fill(url)
    page.goto(f"{url}/compare?tasks={ONE},{THREE}")
    expect(page.locator("#gone")).to_contain_text(THREE)
    expect(page.locator(".compared-toggle")).to_have_text(["first"])
    # The browser itself reports each 404 in its console.
    assert trouble and all("404" in line for line in trouble)
    trouble.clear()


@pytest.mark.parametrize("tab", ["scalars", "configuration", "values", "plots"])
def test_ten_tasks_fit_a_phone(open_page: OpenPage, url: str, tab: str) -> None:
    ids = [f"{number:032x}" for number in range(1, 11)]
    for number, task_id in enumerate(ids):
        rich(url, task_id, seed=number % 4, name=f"a rather long name of task {number} without an end")
    page = open_page(
        f"/compare?tasks={','.join(ids)}#{tab}", viewport={"width": 375, "height": 700}, has_touch=True, is_mobile=True
    )
    expect(page.locator(".compared-toggle")).to_have_count(10)
    sign = {"scalars": "#charts .main-svg", "plots": "#compared-plots .main-svg"}.get(tab, "table.compare")
    expect(page.locator(sign).first).to_be_visible()
    assert overflow(page) == 0
