"""Pictures of every page and tab, light and dark, wide and at phone width, to be looked at.

    python tests/tools/screenshots.py FOLDER [WORD ...]      only those whose name has one of the words

It also says for each whether the page is wider than its window, and what the browser complained of.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pages_samples import draft, rich
from pages_support import Writer
from playwright.sync_api import sync_playwright

from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
SIZES = {"wide": (1440, 900), "phone": (375, 812)}
RICH, OTHER, THIRD, DRAFT = ("a" * 32, "b" * 32, "c" * 32, "d" * 32)
Act = Callable[[Any], None]


def shots() -> Iterator[tuple[str, str, Act | None]]:
    """Yield a name, a path, and what to do before the picture is taken."""
    yield "empty", "/?project=nothing", None
    yield "tasks", "/", None
    columns = "columns=param:Args/lr&columns=param:Args/batch_size&columns=last:loss/train&columns=min:loss/validation"
    yield "tasks-columns", f"/?{columns}&sort=-min:loss/validation", None
    yield "tasks-project", "/?project=vision&status=completed,failed&tags=sweep", None
    yield "tasks-tree", "/", lambda page: page.get_by_role("button", name="Project", exact=True).first.click()
    yield "tasks-column-choice", "/", lambda page: page.locator("#columns button").first.click()
    yield "tasks-selected", "/", select_tasks
    for tab in ("scalars", "plots", "samples", "artifacts", "console", "configuration", "resources", "info"):
        yield f"task-{tab}", f"/tasks/{RICH}#{tab}", None
    for tab in ("scalars", "configuration", "values", "plots"):
        yield f"compare-{tab}", f"/compare?tasks={RICH},{OTHER},{THIRD}#{tab}", None
    yield "compare-differences", f"/compare?tasks={RICH},{OTHER}&differences=1#configuration", None
    yield "compare-nothing", "/compare", None
    yield "artifacts-open", f"/tasks/{RICH}#artifacts", open_artifacts
    yield "lightbox", f"/tasks/{RICH}#samples", lambda page: page.locator(".sample-open").first.click()
    yield "plot-full", f"/tasks/{RICH}#plots/confusion", full_screen
    yield "draft-configuration", f"/tasks/{DRAFT}#configuration", None
    yield "draft-editing", f"/tasks/{DRAFT}#configuration", edit_parameters
    yield "task-edit-dialog", f"/tasks/{RICH}#info", lambda page: page.locator("#task-actions button").first.click()


def select_tasks(page: Any) -> None:
    for number in range(3):
        page.locator("#rows input").nth(number).click()


def open_artifacts(page: Any) -> None:
    for name in ("confusion", "scores", "best"):
        page.locator(f'details[data-name="{name}"] summary').click()
    page.evaluate("scrollTo(0, 300)")


def full_screen(page: Any) -> None:
    page.locator('.plot-section[data-title="confusion"]').get_by_role("button", name="Full screen").click()


def edit_parameters(page: Any) -> None:
    panel = page.locator("#parameters-Args")
    panel.get_by_role("button", name="Edit").click()
    panel.get_by_label("Value of lr").fill("fast")
    panel.get_by_role("button", name="Remove epochs").click()
    panel.get_by_role("button", name="Add parameter").click()
    panel.get_by_role("button", name="Save").click()


def fill(url: str) -> None:
    rich(url, RICH)
    rich(url, OTHER, seed=1, name="vit-small, larger depth")
    rich(url, THIRD, seed=2, name="vit-small with a rather long name that says what is different in it")
    draft(url, DRAFT)
    for number in range(60):
        project = ["vision/imagenet/sweep", "vision/detection", "speech", "speech/asr"][number % 4]
        writer = Writer(url, f"{number:032x}")
        writer.task(
            name=f"sweep {number}",
            project=project,
            status=["completed", "failed", "in_progress", "stopped"][number % 4],
            status_reason="RuntimeError: CUDA out of memory" if number % 4 == 1 else None,
            tags=[["sweep"], ["sweep", "best"], []][number % 3],
            progress=float(number % 100),
        )
        writer.scalars("loss", "train", [2.0 / (1 + step) for step in range(10)]).flush()


def main(folder: Path, words: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as store, BackgroundServer(ServerConfig(Path(store), port=0)) as server:
        fill(server.url)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            for name, path, act in shots():
                if words and not any(word in name for word in words):
                    continue
                for size, (width, height) in SIZES.items():
                    for scheme in ("light", "dark"):
                        take(
                            browser,
                            server.url + path,
                            act,
                            folder / f"{name}-{size}-{scheme}.png",
                            width,
                            height,
                            scheme,
                        )
            browser.close()


def take(browser: Any, url: str, act: Act | None, path: Path, width: int, height: int, scheme: str) -> None:
    phone = {"is_mobile": True, "has_touch": True} if width < 500 else {}
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **phone)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda line: line.type in ("error", "warning") and complaints.append(line.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    page.wait_for_timeout(1300)
    if act is not None:
        act(page)
        page.wait_for_timeout(400)
    page.screenshot(path=str(path))
    wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    print(path.name, f"WIDER BY {wider}" if wider else "", *complaints)
    context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
