"""The Artifacts tab: what a task made and took, with preview, download and lineage."""

from __future__ import annotations

import hashlib

import pytest
from pages_browser import NEEDS_BROWSER, OpenPage, overflow
from pages_samples import rich
from pages_support import NASTY, Writer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

pytestmark = NEEDS_BROWSER

TASK = "1" * 32
OTHER = "a" * 32  # what the input model of the sample was made by


def test_artifacts_are_listed_with_preview_state_and_download(open_page: OpenPage, url: str) -> None:
    rich(url, TASK)
    page = open_page(f"/tasks/{TASK}#artifacts")
    names = page.get_by_role("region", name="Artifacts").locator(".item-name")
    expect(names).to_have_text([NASTY, "cache", "confusion", "manual", "predictions", "scores"])
    item = {
        name: page.locator(f'details[data-name="{name}"]') for name in ("cache", "confusion", "predictions", "scores")
    }
    expect(item["cache"].locator(".badge.bad")).to_have_text("failed")
    expect(item["predictions"].locator(".badge.warn")).to_have_text("on its way")

    # A text's preview is text, an image's the image itself, read when it is looked at.
    item["scores"].locator("summary").press("Enter")
    expect(item["scores"].locator(".preview")).to_have_text("class,f1\ncat,0.9\ndog,0.8\n")
    expect(item["scores"]).to_contain_text('"split": "test"')
    assert item["confusion"].locator("img").count() == 0
    item["confusion"].locator("summary").click()
    page.wait_for_function("() => document.querySelector('.image-preview img')?.naturalWidth === 320")
    item["cache"].locator("summary").click()
    expect(item["cache"]).to_contain_text("No space left on device")

    with page.expect_download() as download:
        page.get_by_role("link", name="Download scores").click()
    data = download.value.path().read_bytes()
    assert download.value.suggested_filename == "scores.csv"
    expect(item["scores"]).to_contain_text(hashlib.sha256(data).hexdigest())
    # What lies elsewhere is linked, not fetched; what is not here cannot be downloaded.
    expect(page.get_by_role("link", name="Open manual where it is")).to_have_attribute("rel", "noopener noreferrer")
    expect(page.get_by_role("link", name="Download predictions")).to_have_count(0)


def test_a_model_leads_to_the_task_that_made_it(open_page: OpenPage, url: str) -> None:
    rich(url, "b" * 32, name="pretraining")
    rich(url, TASK)
    page = open_page(f"/tasks/{TASK}#artifacts/imagenet-21k")
    model = page.locator('details[data-name="imagenet-21k"]')

    # Its address opened it.
    expect(model.get_by_text("s3://models/21k.pt")).to_be_visible()
    model.get_by_role("link", name="pretraining").click()

    expect(page.locator("#name")).to_have_text("pretraining")
    page.locator('details[data-name="best"] summary').click()
    expect(page.locator('details[data-name="best"]')).to_contain_text("highest top-1")
    expect(page.locator('details[data-name="best"] .design')).to_contain_text("vit_small")


def test_the_tab_follows_the_record_and_keeps_what_is_open(open_page: OpenPage, url: str) -> None:
    writer = Writer(url, TASK).task()
    entry = {"type": "dict", "uri": "", "preview": "{'a': 1}", "filename": "a.json"}
    writer.record("artifacts", {"a": entry}).flush()
    page = open_page(f"/tasks/{TASK}#artifacts")
    page.locator('details[data-name="a"] summary').click()

    writer.record("artifacts", {"a": {**entry, "preview": "{'a': 2}"}, "b": entry}).flush()

    expect(page.locator('details[data-name="a"] .preview')).to_have_text("{'a': 2}")
    expect(page.locator('details[data-name="b"]')).to_be_visible()
    expect(page.get_by_role("tab", name="Artifacts")).not_to_have_class("nothing")


def test_the_tab_fits_a_phone(open_page: OpenPage, url: str) -> None:
    long = "a_rather_long_name_without_any_place_to_break_it_" * 3
    writer = Writer(url, TASK).task()
    entry = {"type": long, "uri": f"s3://{long}", "preview": long * 3, "filename": long, "sha256": "0" * 64}
    writer.record("artifacts", {long: entry}).record("output_models", {"5" * 32: {**entry, "name": long, "path": long}})
    writer.flush()
    page = open_page(f"/tasks/{TASK}#artifacts", viewport={"width": 375, "height": 700}, has_touch=True, is_mobile=True)
    expect(page.locator("summary")).to_have_count(2)
    for summary in page.locator("summary").all():
        summary.click()
    expect(page.locator("#artifacts .definitions")).to_have_count(2)
    assert overflow(page) == 0


def test_addresses_that_are_no_http_are_text_and_never_links(open_page: OpenPage, url: str) -> None:
    # given artifacts, models and a medium at addresses that would run, or show what is not ours
    hostile = [
        "javascript:alert(1)",
        " java\tscript:alert(1)",
        "data:text/html,x",
        "vbscript:x",
        "file:///x",
        "//evil",
    ]
    writer = Writer(url, TASK).task()
    entries = {f"a{number}": {"type": "dict", "uri": uri, "state": "stored"} for number, uri in enumerate(hostile)}
    models = {f"{number:032x}": {"name": f"m{number}", **entries[f"a{number}"]} for number in range(len(hostile))}
    odd = {"tags": {"a": 1}, "labels": 7, "uri": {"x": 1}, "filename": [], "preview": {}, "size_bytes": "many"}
    writer.record("artifacts", {**entries, "odd": odd}).record("output_models", {**models, "f" * 32: odd})
    writer.record("script", {"repository": hostile[0]}).record("task", {"comment": hostile[0]}).flush()
    page = open_page(f"/tasks/{TASK}#artifacts")
    # when each is looked at
    expect(page.locator("#artifacts details")).to_have_count(2 * len(hostile) + 2)
    for summary in page.locator("#artifacts summary").all():
        summary.click()
    # then the addresses are there to be read
    expect(page.locator('details[data-name="a0"]')).to_contain_text(hostile[0])
    found = page.evaluate(
        "[...document.querySelectorAll('[href], [src]')].map((e) => (e.getAttribute('href') ?? e.getAttribute('src')))"
    )
    assert [
        address for address in found if not address.startswith(("/", "#", "http")) or address.startswith("//")
    ] == []
    # nor does anything that is built get one
    built = page.evaluate(
        """async (addresses) => {
            const path = [...document.scripts].map((s) => s.src).find((s) => s.endsWith("task-page.js"));
            const { el, setAttribute } = await import(path.replace("task/task-page.js", "common/dom.js"));
            const link = el("a");
            return addresses.map((address) => {
                setAttribute(link, "href", address);
                return el("a", { href: address }).hasAttribute("href") || link.hasAttribute("href");
            });
        }""",
        hostile,
    )
    assert built == [False] * len(hostile)
