"""The Configuration tab: what the record says is shown as it is, and drafts are edited without a loss of types."""

from __future__ import annotations

from typing import Any

import pytest
from pages_browser import NEEDS_BROWSER, OpenPage, overflow
from pages_samples import DIFF, YAML, draft, entry, rich
from pages_support import NASTY, Writer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

pytestmark = NEEDS_BROWSER

TASK = "1" * 32


def row(page: Any, key: str) -> Any:
    return page.locator(f'.value-row[data-key="{key}"]')


def value(page: Any, key: str) -> str:
    return str(row(page, key).locator(".value").inner_text())


def test_parameters_are_shown_by_section_with_their_types_and_exact_values(open_page: OpenPage, url: str) -> None:
    rich(url, TASK)
    page = open_page(f"/tasks/{TASK}#configuration")
    expect(page.get_by_role("tab", name="Configuration")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("heading", name="Args 8")).to_be_visible()

    # Numbers as the program wrote them: no float lost its point, no integer its last digits.
    assert value(page, "Args/momentum") == "1.0"
    assert value(page, "Args/seed") == str(2**60)
    assert value(page, "Args/resume") == "False"
    assert value(page, "Args/checkpoint") == "None"
    assert value(page, "General/mean") == "[0.485, 0.456, 0.406]"
    assert value(page, "General/note") == NASTY
    expect(row(page, "General/mean").locator(".type")).to_have_text("tuple/float")
    expect(row(page, "Args/lr").locator(".description")).to_have_text("peak, after the warm-up")
    # And everything else that belongs to it; the uncommitted changes with their lines apart.
    assert page.locator("#object-model-yaml pre").inner_text() == YAML
    expect(page.locator("#labels")).to_contain_text("dog")
    expect(page.locator("#script")).to_contain_text("git@example.org:vision/imagenet.git")
    expect(page.locator("#packages")).to_contain_text("torch==2.9.0")
    expect(page.locator("#container")).to_contain_text("pytorch:2.9")
    expect(page.locator("#diff .added").last).to_contain_text("weight_decay=0.05")
    assert page.locator("#diff pre").inner_text().strip() == DIFF.strip()
    # What has run is not edited, apart from what people note about it.
    expect(page.get_by_role("button", name="Edit", exact=True)).to_have_count(1)
    expect(page.locator("#user-properties").get_by_role("button", name="Edit")).to_be_visible()


def test_a_search_finds_names_values_and_texts(open_page: OpenPage, url: str) -> None:
    rich(url, TASK)
    page = open_page(f"/tasks/{TASK}#configuration")
    expect(row(page, "Args/lr")).to_be_visible()

    page.keyboard.press("/")
    page.keyboard.type("adamw")

    expect(page.locator("#configuration-count")).to_have_text("1 of 15 values")
    expect(row(page, "General/optimizer")).to_be_visible()
    expect(page.locator("#object-model-yaml")).to_be_visible()
    expect(page.locator("#diff")).to_be_visible()
    expect(page.locator("#labels")).to_have_count(0)
    page.locator("#configuration-search").fill("no such thing")
    expect(page.get_by_text("Nothing here has these words.")).to_be_visible()


def test_a_part_of_the_configuration_has_an_address(open_page: OpenPage, url: str) -> None:
    rich(url, TASK)
    page = open_page(f"/tasks/{TASK}#configuration/Packages")
    expect(page.locator("#packages")).to_be_in_viewport()
    page.get_by_role("link", name="General", exact=True).click()
    expect(page.get_by_role("heading", name="General 5")).to_be_in_viewport()
    assert page.url.endswith("#configuration/parameters-General")


def test_a_draft_opens_with_its_configuration_and_follows_changes(open_page: OpenPage, url: str) -> None:
    writer = draft(url, TASK)
    page = open_page(f"/tasks/{TASK}")
    expect(page.get_by_role("tab", name="Configuration")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tab", name="Scalars")).to_have_class("nothing")

    writer.record("parameters", {"Args/lr": entry(0.25, "float")}).flush()

    expect(row(page, "Args/lr").locator(".value")).to_have_text("0.25")
    # When it runs it is no draft any more.
    expect(page.locator("#parameters-Args").get_by_role("button", name="Edit")).to_be_visible()
    writer.task(status="in_progress").flush()
    expect(page.locator("#parameters-Args").get_by_role("button", name="Edit")).to_be_hidden()


def test_a_wrong_value_is_said_beside_its_field_and_nothing_is_sent(open_page: OpenPage, url: str) -> None:
    draft(url, TASK)
    page = open_page(f"/tasks/{TASK}#configuration")
    panel = page.locator("#parameters-Args")
    panel.get_by_role("button", name="Edit").click()
    sent: list[str] = []
    page.on("request", lambda request: request.method == "POST" and sent.append(request.url))

    panel.get_by_label("Value of lr").fill("fast")
    panel.get_by_label("Value of batch_size").fill("1.5")
    panel.get_by_label("Value of seed").fill("7")
    panel.get_by_role("button", name="Save").click()

    expect(panel.get_by_text("“fast” is not a number.")).to_be_visible()
    expect(panel.get_by_text("“1.5” is not a whole number.")).to_be_visible()
    expect(panel.get_by_label("Value of batch_size")).to_be_focused()
    expect(panel.get_by_text("Nothing was sent")).to_be_visible()
    assert sent == []
    # What was typed stays; Cancel shows the record again.
    expect(panel.get_by_label("Value of seed")).to_have_value("7")
    panel.get_by_role("button", name="Cancel").click()
    assert value(page, "Args/seed") == str(2**60)


@pytest.mark.parametrize("width", [375, 900, 1440])
def test_the_configuration_fits_every_window(open_page: OpenPage, url: str, width: int) -> None:
    long = "a_rather_long_name_without_any_place_to_break_it_" * 3
    writer = Writer(url, TASK).task(name=long, status="created", tags=[long], comment=long)
    writer.record("parameters", {f"{long}/{long}": entry(long * 3, "str", long), "plain": 0.1})
    writer.record("configuration", {long: {"text": long * 5, "type": "yaml", "description": long}})
    writer.record("script", {"repository": long, "diff": f"+{long * 4}"}).flush()
    page = open_page(f"/tasks/{TASK}#configuration", viewport={"width": width, "height": 800})
    expect(page.locator(".value-row")).to_have_count(2)
    assert overflow(page) == 0

    page.locator(".panel.values").first.get_by_role("button", name="Edit").click()

    expect(page.locator(".edit-row")).to_have_count(1)
    assert overflow(page) == 0


def record_of(page: Any, url: str) -> Any:
    return page.request.get(f"{url}/api/v1/tasks/{TASK}").json()["record"]


def test_a_draft_is_edited_without_a_loss_of_types(open_page: OpenPage, url: str) -> None:
    draft(url, TASK)
    page = open_page(f"/tasks/{TASK}#configuration")
    panel = page.locator("#parameters-Args")
    panel.get_by_role("button", name="Edit").click()

    panel.get_by_label("Value of lr").fill("2")
    panel.get_by_label("Value of batch_size").fill("64")
    panel.get_by_label("Value of resume").select_option("True")
    panel.get_by_label("Description of momentum").fill("of the moving mean")
    panel.get_by_label("Type of checkpoint").select_option("str")
    panel.get_by_label("Value of checkpoint").fill(NASTY)
    panel.get_by_role("button", name="Remove epochs").click()
    panel.get_by_role("button", name="Add parameter").click()
    panel.get_by_label("Name", exact=True).fill("clip")
    panel.get_by_label("Type", exact=True).select_option("float")
    panel.get_by_label("Value", exact=True).fill("nan")
    panel.get_by_role("button", name="Save").click()

    expect(row(page, "Args/lr").locator(".value")).to_have_text("2.0")
    expect(row(page, "Args/checkpoint").locator(".value")).to_have_text(NASTY)
    kept = record_of(page, url)["parameters"]
    assert kept["Args/lr"] == entry(2.0, "float", "peak, after the warm-up")
    assert isinstance(kept["Args/lr"]["value"], float)
    assert kept["Args/batch_size"] == entry(64, "int", "per device")
    assert kept["Args/resume"] == entry(True, "bool")
    assert kept["Args/momentum"] == entry(1.0, "float", "of the moving mean")
    assert kept["Args/checkpoint"] == entry(NASTY, "str")
    assert kept["Args/clip"] == entry("nan", "float")
    assert kept["Args/seed"]["value"] == 2**60
    assert "Args/epochs" not in kept
    # A section of its own, and a list with its items' type.
    page.locator("#new-section-name").fill("Sweep")
    page.get_by_role("button", name="Add section").click()
    sweep = page.locator("#parameters-Sweep")
    sweep.get_by_label("Name", exact=True).fill("seeds")
    sweep.get_by_label("Type", exact=True).select_option("list")
    sweep.get_by_label("Value", exact=True).fill("[1, 2]")
    sweep.get_by_role("button", name="Save").click()
    expect(row(page, "Sweep/seeds").locator(".type")).to_have_text("list/int")


def test_a_configuration_object_and_a_property_are_edited(open_page: OpenPage, url: str) -> None:
    draft(url, TASK)
    page = open_page(f"/tasks/{TASK}#configuration")
    panel = page.locator("#object-model-yaml")
    panel.get_by_role("button", name="Edit").click()
    panel.get_by_label("Text of model.yaml").fill("depth: 24\n")
    panel.get_by_role("button", name="Save").click()
    expect(panel.locator("pre")).to_have_text("depth: 24\n")
    own = page.locator("#user-properties")
    own.get_by_role("button", name="Edit").click()
    own.get_by_label("Value of owner").fill("grace")
    own.get_by_role("button", name="Save").click()
    expect(row(page, "owner").locator(".value")).to_have_text("grace")

    record = record_of(page, url)
    assert record["configuration"]["model.yaml"] == {
        "text": "depth: 24\n",
        "type": "yaml",
        "description": "the network",
    }
    assert record["properties"]["owner"] == entry("grace", "str", "who answers questions")


def test_what_the_server_refuses_is_said_and_what_was_typed_stays(
    open_page: OpenPage, url: str, trouble: list[str]
) -> None:
    # given a form that was opened while the task was a draft
    writer = draft(url, TASK)
    page = open_page(f"/tasks/{TASK}#configuration")
    panel = page.locator("#parameters-Args")
    panel.get_by_role("button", name="Edit").click()
    panel.get_by_label("Value of lr").fill("0.5")
    writer.task(status="in_progress").flush()
    expect(page.locator("#status")).to_have_text("running")

    panel.get_by_role("button", name="Save").click()

    expect(panel.get_by_role("alert").filter(has_text="only be changed while it is created")).to_be_visible()
    expect(panel.get_by_text("What you typed is still here.")).to_be_visible()
    expect(panel.get_by_label("Value of lr")).to_have_value("0.5")
    assert record_of(page, url)["parameters"]["Args/lr"]["value"] == 0.001
    # The browser itself reports the 409 in its console.
    assert trouble and all("409" in line for line in trouble)
    trouble.clear()


def test_name_tags_and_comment_are_edited_and_a_task_is_archived(open_page: OpenPage, url: str) -> None:
    rich(url, TASK)
    page = open_page(f"/tasks/{TASK}#configuration")
    edit = page.get_by_role("button", name="Edit name, tags and comment")
    edit.click()
    dialog = page.locator("#edit-dialog")
    expect(dialog.get_by_label("Name")).to_be_focused()
    dialog.get_by_label("Name").fill(NASTY)
    dialog.get_by_label("Tags").fill("best, vit, best")
    dialog.get_by_label("Comment").fill("")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#name")).to_have_text(NASTY)
    expect(page.locator("#tags .badge")).to_have_text(["best", "vit"])
    expect(page.locator("#comment")).to_be_hidden()

    edit.click()
    dialog.get_by_role("button", name="Archive").click()
    expect(page.locator("#tags .badge")).to_have_text(["best", "vit", "archived"])
