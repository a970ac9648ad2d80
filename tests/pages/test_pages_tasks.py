"""The task table: filters and columns in the address, projects as a tree, and what can be done with chosen tasks."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pages_browser import NEEDS_BROWSER, OpenPage, overflow
from pages_samples import entry
from pages_support import NASTY, Writer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

pytestmark = NEEDS_BROWSER


def fill(url: str) -> None:
    """Four tasks: two of vision/a, one of vision, one archived."""
    for number, (name, project, tags, kind) in enumerate(
        [
            ("one", "vision/a", ["best", NASTY], "training"),
            ("two", "vision/a", ["best"], "testing"),
            ("three", "vision", [], "training"),
            ("put away", "speech", ["best"], "training"),
        ]
    ):
        writer = Writer(url, f"{number + 1:032x}").at(1_700_000_000_000_000_000 + number)
        writer.task(name=name, project=project, tags=tags, type=kind, status="completed", started_unix_ns=number + 1)
        writer.record("parameters", {"Args/lr": entry([0.1, 0.01, 10.0, 1.0][number], "float")})
        if name == "put away":
            writer.task(system_tags=["archived"])
        writer.scalars("loss", "val", [3.0, 1.0 + number, 2.0]).flush()


def names(page: Any) -> list[str]:
    return [str(text) for text in page.locator("#rows td.name a").all_inner_texts()]


def expect_names(page: Any, *wanted: str) -> None:
    expect(page.locator("#rows td.name a")).to_have_text(list(wanted))


def query_of(page: Any) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def pick(page: Any, picker: str, *labels: str) -> None:
    page.locator(f"#{picker} .picker-button").click()
    for label in labels:
        page.locator(f"#{picker}").get_by_label(label, exact=True).check()
    page.keyboard.press("Escape")


def test_filters_are_in_the_address_and_archived_tasks_are_put_away(open_page: OpenPage, url: str) -> None:
    fill(url)
    page = open_page("/")
    expect_names(page, "three", "two", "one")

    pick(page, "tags", "best", NASTY)
    expect_names(page, "two", "one")
    expect(page.locator("#tags .picker-button")).to_have_text("Tags: 2")
    page.locator("#tags .picker-button").click()
    page.get_by_role("button", name="all of them").click()
    expect_names(page, "one")
    page.keyboard.press("Escape")
    expect(page.locator("#tags .picker-button")).to_be_focused()
    assert query_of(page) == {"tags": ["best", NASTY], "match": ["all"]}
    page.reload()
    expect_names(page, "one")

    page.get_by_role("button", name="Clear filters").first.click()
    pick(page, "type", "training")
    page.locator("#archived").select_option("all")
    expect_names(page, "put away", "three", "one")
    page.locator("#archived").select_option("1")
    expect_names(page, "put away")
    assert query_of(page) == {"type": ["training"], "archived": ["1"]}
    page.go_back()
    expect_names(page, "put away", "three", "one")


def test_projects_are_a_tree_with_a_path(open_page: OpenPage, url: str) -> None:
    fill(url)
    page = open_page("/")
    path = page.get_by_label("Projects")
    expect(path.get_by_role("link", name="vision 3")).to_be_visible()

    path.get_by_role("link", name="vision 3").click()
    expect_names(page, "three", "two", "one")
    path.get_by_role("link", name="a 2").click()
    expect_names(page, "two", "one")
    assert query_of(page) == {"project": ["vision/a"]}
    expect(path.get_by_role("link", name="a", exact=True)).to_have_attribute("aria-current", "page")

    page.locator("#project .picker-button").click()
    page.locator("#project").get_by_role("button", name="vision 3").click()
    expect_names(page, "three", "two", "one")
    page.locator("#project .picker-button").click()
    page.get_by_label("With sub-projects").uncheck()
    expect_names(page, "three")
    assert query_of(page) == {"project": ["vision"], "subprojects": ["0"]}


def test_columns_are_chosen_shown_and_sorted_by(open_page: OpenPage, url: str) -> None:
    fill(url)
    page = open_page("/")
    page.locator("#columns .picker-button").click()
    page.locator("#columns").get_by_label("Args/lr").check()
    page.locator("#columns").get_by_role("group", name="loss/val").get_by_label("min").check()
    page.locator("#columns").get_by_label("Progress").uncheck()
    page.keyboard.press("Escape")

    expect(page.locator("th")).to_have_text(
        ["", "Name", "Project", "Status", "Tags", "lr", "min loss / val", "Started", "Duration", "Iteration", "Points"]
    )
    cells = page.locator('td[data-column="param:Args/lr"]')
    expect(cells).to_have_text(["10", "0.01", "0.1"])
    page.get_by_role("button", name="lr", exact=True).click()
    expect_names(page, "two", "one", "three")
    page.get_by_role("button", name="lr", exact=True).click()
    expect_names(page, "three", "one", "two")
    page.get_by_role("button", name="min loss / val").click()
    expect(page.locator('td[data-column="min:loss/val"]')).to_have_text(["1", "2", "2"])
    assert query_of(page) == {
        "columns": ["param:Args/lr", "min:loss/val"],
        "hide": ["progress-cell"],
        "sort": ["min:loss/val"],
    }
    page.reload()
    expect(cells).to_have_count(3)


def test_tasks_are_chosen_by_mouse_and_keys(open_page: OpenPage, url: str) -> None:
    fill(url)
    page = open_page("/")
    boxes = page.locator("#rows input")
    count = page.locator("#selection-count")
    expect(boxes).to_have_count(3)

    boxes.nth(0).click()
    expect(count).to_have_text("1 task selected")
    expect(page.locator("#selection-compare")).to_have_attribute("aria-disabled", "true")
    boxes.nth(2).click(modifiers=["Shift"])
    expect(count).to_have_text("3 tasks selected")
    expect(page.get_by_label("Select all tasks of this page")).to_be_checked()
    page.get_by_label("Select all tasks of this page").click()
    expect(page.locator("#selection")).to_be_hidden()

    page.keyboard.press("j")
    page.keyboard.press("Shift+J")
    expect(count).to_have_text("2 tasks selected")
    page.keyboard.press("x")
    expect(count).to_have_text("1 task selected")
    page.keyboard.press("k")
    expect(page.get_by_role("link", name="three")).to_be_focused()
    page.keyboard.press(" ")
    expect(page.locator("#selection")).to_be_hidden()
    page.keyboard.press("x")
    page.keyboard.press("Escape")
    expect(page.locator("#selection")).to_be_hidden()


@pytest.mark.parametrize("width", [375, 900, 1241, 1440])
def test_chosen_columns_fit_every_window(open_page: OpenPage, url: str, width: int) -> None:
    fill(url)
    columns = "&".join(f"columns={name}:loss/val" for name in ("last", "min", "max", "count"))
    page = open_page(f"/?{columns}&columns=param:Args/lr", viewport={"width": width, "height": 700})
    expect(page.locator("#rows tr")).to_have_count(3)
    page.locator("#rows input").first.check()
    expect(page.locator("#selection")).to_be_visible()
    assert overflow(page) == 0


def test_chosen_tasks_are_tagged_archived_and_restored(open_page: OpenPage, url: str) -> None:
    fill(url)
    page = open_page("/")
    page.get_by_label("Select one").check()
    page.get_by_label("Select two").check()

    page.locator("#selection-tag-name").fill("kept")
    page.get_by_role("button", name="Add tag").click()
    expect(page.locator("#selection-note")).to_have_text("2 tasks were given the tag “kept”.")
    expect(page.locator("#rows tr").last.locator(".row-tags .badge")).to_have_text(["best", NASTY, "kept"])

    page.get_by_role("button", name="Archive", exact=True).click()
    expect_names(page, "three")
    expect(page.locator("#selection-note")).to_have_text("2 tasks were archived.")
    page.get_by_role("button", name="Restore").click()
    expect_names(page, "three", "two", "one")
    # What the page wrote is in the record as a program would have written it.
    pick(page, "tags", "kept")
    expect_names(page, "two", "one")
