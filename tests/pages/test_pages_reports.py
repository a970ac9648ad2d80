"""The Plots and Debug samples tabs: what was reported at which iteration, large and small."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from pages_browser import NEEDS_BROWSER, OpenPage, overflow
from pages_samples import blob_uri, figure, picture, plots, samples, send_blob
from pages_support import NASTY, Writer

from telemetry.events import Media, Plot

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

pytestmark = NEEDS_BROWSER

TASK = "1" * 32
LINE = [{"type": "scatter", "x": [0, 1], "y": [0, 1], "name": NASTY}]


def drawn(page: Any, series: str, iteration: int) -> None:
    """Wait until a plot is drawn at an iteration."""
    expect(page.locator(f'.plot-card[data-series="{series}"] .plot')).to_have_attribute(
        "data-iteration", str(iteration)
    )


def with_samples(url: str) -> Writer:
    writer = Writer(url, TASK).task()
    blobs = samples(writer)
    writer.flush()
    for blob in blobs:
        send_blob(writer, blob)
    return writer


def test_plots_are_drawn_by_title_at_any_iteration(open_page: OpenPage, url: str) -> None:
    writer = Writer(url, TASK).task()
    plots(writer)
    writer.flush()
    page = open_page(f"/tasks/{TASK}#plots")

    expect(page.locator("#plot-count")).to_have_text("9 plots, 5 titles")
    assert page.locator(".plot-section h2").all_inner_texts()[:2] == ["ROC", "confusion"]
    drawn(page, "validation", 300)
    card = page.locator('.plot-card[data-series="validation"]')
    expect(card.locator(".iteration-text")).to_have_text("iteration 300 (4 of 4)")
    value = "card => card.querySelector('.plot').data[0].z[0][0]"
    assert card.evaluate(value) == 90

    card.get_by_role("button", name="Previous iteration").click()
    drawn(page, "validation", 200)
    assert card.evaluate(value) == 80
    card.get_by_label("Iteration", exact=True).fill("0")
    drawn(page, "validation", 0)
    # A figure's own words are text to Plotly, and its own background is kept.
    white = page.locator('.plot-card[data-series="white"] .plot')
    assert white.evaluate("plot => plot._fullLayout.paper_bgcolor") == "white"


def test_a_plot_opens_in_full_screen_at_its_iteration(open_page: OpenPage, url: str) -> None:
    writer = Writer(url, TASK).task()
    for iteration in range(3):
        figure(writer, "line", "one", iteration, LINE)
    writer.flush()
    page = open_page(f"/tasks/{TASK}#plots")
    drawn(page, "one", 2)
    card = page.locator("#plots .plot-card")
    card.focus()
    page.keyboard.press("ArrowLeft")
    drawn(page, "one", 1)

    page.keyboard.press("f")

    expect(page.locator("#full .plot")).to_have_attribute("data-iteration", "1")
    assert page.locator("#full .plot").bounding_box()["height"] > 600
    page.keyboard.press("Escape")
    expect(page.locator("#full")).to_be_hidden()


def test_new_plots_come_by_themselves_and_the_last_is_followed(open_page: OpenPage, url: str) -> None:
    writer = Writer(url, TASK).task()
    figure(writer, "line", "one", 1, LINE)
    writer.flush()
    page = open_page(f"/tasks/{TASK}#plots")
    drawn(page, "one", 1)
    page.evaluate("window.stillTheSamePage = true")

    figure(writer, "line", "one", 2, LINE)
    figure(writer, NASTY, NASTY, 2, LINE)
    writer.flush()

    drawn(page, "one", 2)
    expect(page.get_by_role("heading", name=NASTY).first).to_be_visible()
    assert page.evaluate("window.stillTheSamePage")
    # One that looks at an earlier iteration is left there.
    page.locator('.plot-card[data-series="one"]').get_by_role("button", name="Previous iteration").click()
    drawn(page, "one", 1)
    figure(writer, "line", "one", 3, LINE)
    writer.flush()
    expect(page.locator('.plot-card[data-series="one"] .iteration-text')).to_have_text("iteration 1 (1 of 3)")


def test_a_large_figure_is_read_from_its_blob(open_page: OpenPage, url: str) -> None:
    data = json.dumps({"data": [{"type": "scatter", "y": [3, 1, 2]}], "layout": {}}).encode()
    writer = Writer(url, TASK).task()
    writer.event(Plot(time.time_ns(), "big", "one", 7, "", blob_uri(data).removeprefix("blob:")))
    writer.flush()
    send_blob(writer, data)
    page = open_page(f"/tasks/{TASK}#plots/big")
    drawn(page, "one", 7)
    assert page.locator(".plot-card .plot").evaluate("plot => plot.data[0].y") == [3, 1, 2]


def test_samples_are_shown_by_kind_and_iteration(open_page: OpenPage, url: str) -> None:
    with_samples(url)
    page = open_page(f"/tasks/{TASK}#samples")
    predictions = page.locator('.sample-section[data-title="predictions"]')
    images = predictions.locator("img")
    expect(images).to_have_count(6)
    page.wait_for_function("() => [...document.querySelectorAll('.sample img')].every(image => image.naturalWidth > 0)")
    # Of a series that had nothing at this iteration: what it had last, and it says so.
    expect(predictions.locator('[data-series="only at first"]')).to_contain_text("iteration 0")
    first = images.first.get_attribute("src")

    predictions.get_by_role("button", name="Previous iteration").click()
    expect(predictions.locator(".iteration-text")).to_have_text("iteration 100 (2 of 3)")
    expect(images).to_have_count(6)
    assert images.first.get_attribute("src") != first

    speech = page.locator('.sample-section[data-title="speech"]')
    page.wait_for_function("() => document.querySelector('audio').duration > 0.4")
    expect(speech.get_by_text("Its bytes are on their way.")).to_be_visible()
    with page.expect_download() as download:
        speech.get_by_role("link", name="Download transcript.txt").click()
    assert download.value.suggested_filename == "transcript.txt"
    assert download.value.path().read_bytes() == b"the quick brown fox"


def test_bytes_that_arrive_are_shown(open_page: OpenPage, url: str) -> None:
    data = picture(30, 20, 5)
    writer = Writer(url, TASK).task()
    writer.event(Media(time.time_ns(), "late", "one", 1, blob_uri(data), "late.png", "image/png", len(data))).flush()
    page = open_page(f"/tasks/{TASK}#samples")
    expect(page.get_by_text("Its bytes are on their way.")).to_be_visible()

    send_blob(writer, data)

    expect(page.locator(".sample img")).to_be_visible()


def test_the_lightbox_is_worked_by_keys(open_page: OpenPage, url: str) -> None:
    with_samples(url)
    page = open_page(f"/tasks/{TASK}#samples")
    page.get_by_role("button", name="Enlarge predictions image 1").press("Enter")
    box = page.locator("#lightbox")
    title = box.locator(".lightbox-title")
    expect(title).to_have_text("predictions / image 1 · iteration 200 · 2 of 6")
    expect(box).to_contain_text("180 × 120")

    page.keyboard.press("ArrowRight")
    expect(title).to_contain_text("image 2")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    expect(title).to_contain_text("only at first · iteration 0 · 6 of 6")
    page.keyboard.press("+")
    expect(box.locator("img")).to_have_class("zoomed")
    page.keyboard.press("0")
    page.keyboard.press("Escape")

    expect(box).to_be_hidden()
    expect(page.get_by_role("button", name="Enlarge predictions image 1")).to_be_focused()


@pytest.mark.parametrize("tab", ["plots", "samples"])
def test_long_names_fit_a_phone(open_page: OpenPage, url: str, tab: str) -> None:
    long = "a_rather_long_name_without_any_place_to_break_it_" * 3
    data = picture(900, 20, 5)
    writer = Writer(url, TASK).task()
    for iteration in (1, 2_000_000_000):
        figure(writer, long, long, iteration, LINE)
        for name, kind in [(long, "image/png"), ("file", "application/zip")]:
            uri = blob_uri(data)
            writer.event(Media(time.time_ns(), long, name, iteration, uri, f"{long}.x", kind, len(data)))
    writer.flush()
    send_blob(writer, data)
    page = open_page(f"/tasks/{TASK}#{tab}", viewport={"width": 375, "height": 700}, has_touch=True, is_mobile=True)
    expect(page.locator(".sample img" if tab == "samples" else "#plots .main-svg").first).to_be_visible()
    assert overflow(page) == 0
    expect(page.get_by_role("tab", selected=True)).to_be_in_viewport(ratio=0.9)
