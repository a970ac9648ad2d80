"""The pages in a real browser against a real server; pages_browser.py has its fixtures."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
from pages_browser import NEEDS_BROWSER, OpenPage, overflow
from pages_support import NASTY, Writer

from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig
from telemetry.server.feeds import Viewer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
# A machine with other work takes more than the five seconds that are the default.
expect.set_options(timeout=30_000)

pytestmark = NEEDS_BROWSER

TASK = "1" * 32
POINTS = ".card .plot[data-points]"


def chart(page: Any, title: str) -> Any:
    return page.locator(f'.card[data-title="{title}"]')


def drawn_points(page: Any, title: str) -> int:
    return int(chart(page, title).locator(".plot").get_attribute("data-points") or 0)


def wait_for_points(page: Any, title: str, at_least: int) -> None:
    page.wait_for_function(
        '([title, n]) => Number(document.querySelector(`.card[data-title="${title}"] .plot`)?.dataset.points) >= n',
        arg=[title, at_least],
    )


def test_the_table_shows_tasks_as_text_and_filters_into_the_address(open_page: OpenPage, url: str) -> None:
    # given two tasks, one with a name that is a script
    Writer(url, "a" * 32).task(name=NASTY, status="failed", status_reason="ValueError: <b>bad</b>").flush()
    Writer(url, "b" * 32).task(name="baseline", project="vision", progress=40.0).scalars(
        "loss", "train", [0.5, math.nan]
    ).flush()
    page = open_page("/")

    # then both are there as they were written
    expect(page.locator("#rows tr")).to_have_count(2)
    expect(page.get_by_role("link", name=NASTY)).to_be_visible()
    expect(page.get_by_text("ValueError: <b>bad</b>")).to_be_visible()
    expect(page.locator(".scalars .value.bad")).to_have_text("NaN")

    # when one searches, filters and sorts
    page.keyboard.press("/")
    page.keyboard.type("base")
    expect(page.locator("#rows tr")).to_have_count(1)
    page.get_by_role("button", name="Status", exact=True).first.click()
    page.get_by_label("running").check()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Name").click()
    expect(page.locator("th.name")).to_have_attribute("aria-sort", "ascending")

    # then the address says so, and is enough to see the same again
    assert re.search(r"\?search=base&status=in_progress&sort=name$", page.url)
    page.reload()
    expect(page.locator("#search")).to_have_value("base")
    expect(page.locator("#rows tr")).to_have_count(1)
    page.get_by_role("button", name="Clear filters").first.click()
    expect(page.locator("#rows tr")).to_have_count(2)


def test_the_table_updates_by_itself_and_keeps_the_focus(open_page: OpenPage, url: str) -> None:
    writer = Writer(url, "a" * 32).task(name="first", progress=10.0)
    writer.flush()
    page = open_page("/?sort=name")
    expect(page.locator("#live")).to_have_text("Live")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="first")).to_be_focused()

    # when a task starts that sorts before it, and the first moves on
    Writer(url, "b" * 32).task(name="and another").flush()
    writer.task(progress=60.0).flush()

    # then both show without a reload and the focus stays where it was
    expect(page.locator("#rows tr").first).to_contain_text("and another")
    expect(page.get_by_text("60%")).to_be_visible()
    expect(page.get_by_role("link", name="first")).to_be_focused()
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    expect(page.locator("#name")).to_have_text("and another")


def test_an_empty_server_says_how_to_start(open_page: OpenPage, url: str) -> None:
    page = open_page("/")
    expect(page.locator("#snippet-python")).to_contain_text("Task.init")
    expect(page.locator("#snippet-url")).to_have_text(f"export TELEMETRY_URL={url}")

    Writer(url).task(name="the first one").flush()

    expect(page.get_by_role("link", name="the first one")).to_be_visible()
    expect(page.locator("#start")).to_be_hidden()


def test_charts_appear_and_grow_without_a_reload(open_page: OpenPage, url: str) -> None:
    writer = Writer(url).task(name=NASTY).scalars("loss", "train", [1.0, 0.5])
    writer.flush()
    page = open_page(f"/tasks/{TASK}")
    wait_for_points(page, "loss", 2)
    page.evaluate("window.stillTheSamePage = true")

    writer.scalars("loss", "train", [0.25], first=2).scalars("loss", "<b>validation</b>", [0.75]).scalars(
        "lr", "adam", [0.1]
    ).flush()

    wait_for_points(page, "loss", 4)
    wait_for_points(page, "lr", 1)
    expect(chart(page, "loss").locator(".legend")).to_contain_text("train0.25")
    expect(chart(page, "loss").locator(".legend")).to_contain_text("<b>validation</b>0.75")
    expect(page.locator("#points")).to_have_text("5")
    assert page.evaluate("window.stillTheSamePage")
    expect(page.locator("#name")).to_have_text(NASTY)


def test_a_zoom_asks_for_its_range_and_a_double_click_for_all(open_page: OpenPage, url: str) -> None:
    # given more points than pixels, with a single spike
    values = [1.0] * 60_000
    values[43_210] = 9.0
    Writer(url).task().scalars("loss", "train", values).flush()
    page = open_page(f"/tasks/{TASK}")
    wait_for_points(page, "loss", 500)
    shown = drawn_points(page, "loss")
    assert shown < 5000
    peak = "Math.max(...document.querySelector('.plot').data[0].y)"
    assert page.evaluate(peak) == 9.0

    # when one drags over a part of it
    box = chart(page, "loss").locator(".nsewdrag").first.bounding_box()
    with page.expect_response(lambda response: "/points" in response.url and "from=" in response.url) as answer:
        page.mouse.move(box["x"] + box["width"] * 0.70, box["y"] + 80)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 82, steps=4)
        page.mouse.up()

    # then just that part is fetched and drawn, with its points between the pixels before
    part = answer.value.json()["series"][0]
    assert 0 < part["count"] < 6000
    low, high = page.evaluate("document.querySelector('.plot')._fullLayout.xaxis.range")
    assert 30_000 < low < high < 50_000
    reset = page.get_by_role("button", name="Reset zoom")
    expect(reset).to_be_visible()

    # and a double click shows everything again
    with page.expect_response(lambda response: "/points" in response.url and "from=" not in response.url):
        page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + 80)
    expect(reset).to_be_hidden()
    page.wait_for_function("() => document.querySelector('.plot')._fullLayout.xaxis.range[1] > 59000")


def test_a_zoom_survives_new_points(open_page: OpenPage, url: str) -> None:
    writer = Writer(url).task().scalars("loss", "train", [float(n) for n in range(100)])
    writer.flush()
    page = open_page(f"/tasks/{TASK}")
    wait_for_points(page, "loss", 100)
    card = chart(page, "loss")
    card.focus()
    with page.expect_response(lambda response: "from=" in response.url):
        page.keyboard.press("+")
    page.wait_for_function("() => document.querySelector('.plot')._fullLayout.xaxis.range[1] < 90")
    before = page.evaluate("document.querySelector('.plot')._fullLayout.xaxis.range")

    with page.expect_response(lambda response: "/points" in response.url and "from=" in response.url):
        writer.scalars("loss", "train", [5.0] * 100, first=100).flush()

    expect(card.locator(".legend")).to_contain_text("train5")
    assert page.evaluate("document.querySelector('.plot')._fullLayout.xaxis.range") == before


def test_nan_and_infinities_are_marked(open_page: OpenPage, url: str) -> None:
    Writer(url).task().scalars("loss", "train", [1.0, 0.5, math.nan, 0.4, math.inf]).flush()
    page = open_page(f"/tasks/{TASK}")
    wait_for_points(page, "loss", 5)

    expect(chart(page, "loss").locator(".badge.bad")).to_have_text("2 not finite")
    expect(chart(page, "loss").locator(".annotation-text")).to_have_text("first NaN")
    assert page.evaluate("document.querySelector('.plot').layout.shapes[0].x0") == 2


def test_smoothing_time_and_log_are_kept_in_the_address(open_page: OpenPage, url: str) -> None:
    Writer(url).task().scalars("loss", "train", [1 / (1 + n) for n in range(200)]).flush()
    page = open_page(f"/tasks/{TASK}")
    wait_for_points(page, "loss", 200)

    with page.expect_response(lambda response: "half_life=5" in response.url):
        page.locator("#smoothing").fill("3")
    wait_for_points(page, "loss", 400)
    with page.expect_response(lambda response: "x=time" in response.url):
        page.get_by_role("button", name="Time", exact=True).click()
    page.get_by_role("button", name="Log y", exact=True).click()

    page.wait_for_function("() => document.querySelector('.plot')._fullLayout.yaxis.type === 'log'")
    assert re.search(r"\?x=time&log=1&smoothing=3$|\?smoothing=3&x=time&log=1$", page.url)
    # Times are the reader's: 9 hours ahead of UTC in Tokyo.
    first = page.evaluate("new Date(document.querySelector('.plot').data[0].x[0]).getTime()")
    assert abs(first / 1000 - 9 * 3600 - time.time()) < 120


def test_full_screen_opens_and_escape_leaves_it(open_page: OpenPage, url: str) -> None:
    Writer(url).task().scalars("loss", "train", [1.0, 0.5, 0.2]).flush()
    page = open_page(f"/tasks/{TASK}")
    wait_for_points(page, "loss", 3)

    chart(page, "loss").get_by_role("button", name="Full screen").click()
    expect(page.locator("#full .main-svg").first).to_be_visible()
    assert page.locator("#full .plot").bounding_box()["height"] > 600
    page.keyboard.press("Escape")

    expect(page.locator("#full")).to_be_hidden()


def test_a_page_of_20000_charts_holds_only_those_near_the_window(open_page: OpenPage, url: str) -> None:
    writer = Writer(url).task()
    for number in range(20_000):
        writer.scalars(f"layer {number:05d}", "norm", [1.0])
    writer.flush()
    page = open_page(f"/tasks/{TASK}")

    expect(page.locator("#chart-count")).to_have_text("20,000 charts")
    wait_for_points(page, "layer 00000", 1)
    assert page.locator(".card").count() < 40

    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    wait_for_points(page, "layer 19999", 1)
    assert page.locator(".card").count() < 40
    page.locator("#chart-search").fill("layer 1234")
    expect(page.locator("#chart-count")).to_have_text("12 of 20,000 charts")


def test_the_console_follows_until_one_scrolls_up(open_page: OpenPage, url: str) -> None:
    writer = Writer(url).task().lines(f"line {number}" for number in range(3000))
    writer.flush()
    page = open_page(f"/tasks/{TASK}#console")
    expect(page.get_by_text("line 2999", exact=True)).to_be_in_viewport()

    # given new lines, the end stays in sight
    writer.lines(["a new one"]).lines([NASTY], "stderr").lines(["\x1b[31mred\x1b[0m"], "log", 40).flush()
    expect(page.get_by_text(NASTY)).to_be_in_viewport()
    expect(page.locator(".line.stderr")).to_have_count(1)
    expect(page.locator(".line.level-error .ansi-1")).to_have_text("red")

    # when the reader scrolls up, older lines come and new ones do not move the view
    page.locator("#lines").evaluate("box => { box.scrollTop = 0; }")
    expect(page.get_by_text("line 2100", exact=True)).to_be_attached()
    page.locator("#lines").evaluate("box => { box.scrollTop = 200; }")
    top = page.locator("#lines").evaluate("box => box.scrollTop")
    writer.lines(["the very last"]).flush()
    latest = page.get_by_role("button", name="New lines: jump to latest")
    expect(latest).to_be_visible()
    assert page.locator("#lines").evaluate("box => box.scrollTop") >= top

    latest.click()
    expect(page.get_by_text("the very last")).to_be_in_viewport()
    expect(latest).to_be_hidden()

    # and the window holds only so many lines, whatever the reader searches
    assert page.locator(".line").count() <= 2500
    page.locator("#console-search").fill("line 299")
    expect(page.locator(".line")).to_have_count(11)
    expect(page.locator(".line mark").first).to_have_text("line 299")
    page.locator("#console-stream").select_option("stderr")
    expect(page.get_by_text("No line matches.")).to_be_visible()


def test_a_long_console_can_be_read_to_its_first_line(open_page: OpenPage, url: str) -> None:
    writer = Writer(url).task()
    writer.lines(f"line {number}" for number in range(100_000)).flush()
    page = open_page(f"/tasks/{TASK}#console")
    expect(page.get_by_text("line 99999", exact=True)).to_be_in_viewport()

    # when one scrolls up far beyond what the page holds
    for _ in range(8):
        first = page.locator(".line").first.get_attribute("data-id")
        page.locator("#lines").evaluate("box => { box.scrollTop = 0; }")
        page.wait_for_function("id => document.querySelector('.line').dataset.id !== id", arg=first)

    # then the newest lines were let go and come back on the way down
    assert page.locator(".line").count() <= 2500
    expect(page.get_by_text("line 99999", exact=True)).to_have_count(0)
    last = page.locator(".line").last.get_attribute("data-id")
    page.locator("#lines").evaluate("box => { box.scrollTop = box.scrollHeight; }")
    page.wait_for_function("id => [...document.querySelectorAll('.line')].at(-1).dataset.id !== id", arg=last)


def test_resources_are_grouped_and_have_units(open_page: OpenPage, url: str) -> None:
    writer = Writer(url).task().resources("CPU", "host", "%", [10.0, 20.0])
    writer.resources("Memory", "host used", "By", [3 * 2.0**30, 4 * 2.0**30]).flush()
    page = open_page(f"/tasks/{TASK}#resources")
    wait_for_points(page, "Memory", 2)

    expect(page.get_by_role("heading", name="CPU", level=2)).to_be_visible()
    expect(chart(page, "Memory").locator(".ytitle")).to_have_text("GiB")
    expect(chart(page, "CPU").locator(".ytitle")).to_have_text("%")
    assert page.evaluate("document.querySelector('.card[data-title=Memory] .plot').data[0].y") == [3, 4]


def test_info_shows_record_traceback_and_ledger(open_page: OpenPage, url: str) -> None:
    ledger = {"logged": 1234, "delivered": 1200, "on_disk": 30, "in_memory": 1, "dropped": {"queue full": 3}}
    writer = Writer(url).task(
        status="failed", status_reason="boom", status_message=f"Traceback\n  {NASTY}", ledger=ledger
    )
    writer.task(command=["python", "train.py", "--note", "two words"])
    writer.record("environment", {"modules": {"cuda": "13.0"}}).flush()
    page = open_page(f"/tasks/{TASK}#info")

    expect(page.locator(".traceback")).to_have_text(f"Traceback\n  {NASTY}")
    expect(page.locator(".ledger")).to_contain_text("1,234")
    expect(page.get_by_text("Dropped: queue full")).to_be_visible()
    expect(page.get_by_text("python train.py --note 'two words'")).to_be_visible()
    expect(page.locator(".panel[aria-label=Environment]")).to_contain_text("cuda")
    expect(page.get_by_role("tab", name="Info")).to_have_attribute("aria-selected", "true")
    page.get_by_role("tab", name="Info").press("Home")
    expect(page.get_by_role("tab", name="Scalars")).to_be_focused()
    assert page.url.endswith("#scalars")


def test_the_theme_follows_the_system_until_one_chooses(open_page: OpenPage, url: str) -> None:
    Writer(url).task().scalars("loss", "train", [1.0, 0.5]).flush()
    page = open_page(f"/tasks/{TASK}", color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    wait_for_points(page, "loss", 2)

    page.locator("#theme").click()
    light = page.evaluate(background)
    page.reload()

    assert dark != light
    assert page.evaluate(background) == light
    expect(page.locator("#theme")).to_have_attribute("aria-label", "Theme: light")


def test_nothing_is_wider_than_a_phone(open_page: OpenPage, url: str) -> None:
    long = "a_rather_long_name_without_any_place_to_break_it_" * 3
    writer = Writer(url).task(
        name=long, project=long, progress=50.0, status="failed", status_reason=long, host=long, command=[long]
    )
    writer.record("writers", {"f" * 32: {"host": long, "pid": 1, "rank": 0, "world_size": 1}})
    writer.scalars(long, long, [1.0, 2.0]).resources("CPU", long, "%", [1.0]).lines([long * 10]).flush()
    page = open_page("/", viewport={"width": 375, "height": 700}, has_touch=True, is_mobile=True)
    expect(page.locator("#rows tr")).to_have_count(1)
    assert overflow(page) == 0

    for tab, sign in [
        ("scalars", ".main-svg"),
        ("console", ".line"),
        ("resources", "#resources-panel .main-svg"),
        ("plots", "#no-plots"),
        ("samples", "#no-samples"),
        ("configuration", "#no-configuration"),
        ("artifacts", "#no-artifacts"),
        ("info", ".definitions"),
    ]:
        page.goto(f"{url}/tasks/{TASK}#{tab}")
        expect(page.locator(sign).first).to_be_visible()
        assert overflow(page) == 0, tab


@pytest.mark.parametrize("width", [320, 700, 1240, 1241, 1401, 1920])
def test_the_table_fits_every_window(open_page: OpenPage, url: str, width: int) -> None:
    long = "a long name in words " * 6
    writer = Writer(url).task(name=long, project=long, progress=99.0, status="failed", status_reason=long)
    writer.scalars(long, long, [1 / 3] * 3, first=10_000_000).flush()
    page = open_page("/", viewport={"width": width, "height": 700})

    expect(page.locator("#rows tr")).to_have_count(1)

    assert overflow(page) == 0


def test_a_task_that_is_not_there_yet_appears(open_page: OpenPage, url: str, trouble: list[str]) -> None:
    page = open_page(f"/tasks/{TASK}")
    expect(page.get_by_role("heading", name="No such task")).to_be_visible()
    # The browser itself reports each 404 in its console.
    assert trouble and all("404" in line for line in trouble)

    Writer(url).task(name="there it is").scalars("loss", "train", [1.0]).flush()

    expect(page.locator("#name")).to_have_text("there it is")
    wait_for_points(page, "loss", 1)
    expect(page.locator("#problem")).to_be_hidden()
    trouble.clear()


def test_a_lost_server_is_said_and_found_again(browser: Any, tmp_path: Path) -> None:
    with BackgroundServer(ServerConfig(tmp_path / "store", port=0)) as server:
        writer = Writer(server.url).task().scalars("loss", "train", [1.0])
        writer.flush()
        page = browser.new_page()
        page.goto(f"{server.url}/tasks/{TASK}")
        wait_for_points(page, "loss", 1)
        expect(page.locator("#live")).to_have_text("Live")
        page.evaluate("window.stillTheSamePage = true")

    expect(page.locator("#live")).to_have_text("Reconnecting…", timeout=15_000)

    port = int(server.url.rpartition(":")[2])
    with BackgroundServer(ServerConfig(tmp_path / "store", port=port)) as server:
        writer.scalars("loss", "train", [0.5, 0.25], first=1).flush()
        expect(page.locator("#live")).to_have_text("Live", timeout=30_000)
        wait_for_points(page, "loss", 3)
        assert page.evaluate("window.stillTheSamePage")
        page.close()


def test_a_page_that_missed_something_reads_it_anew(
    url: str, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(url).task().scalars("loss", "train", [1.0])
    writer.flush()
    page = open_page(f"/tasks/{TASK}")
    wait_for_points(page, "loss", 1)
    expect(page.locator("#live")).to_have_text("Live")
    # when what is told comes to a viewer that has not taken what it was told before
    monkeypatch.setattr(Viewer, "offer", lambda viewer, pieces: viewer.miss())
    writer.scalars("loss", "train", [0.5, 0.25], first=1).flush()
    # then the page has it all the same
    wait_for_points(page, "loss", 3)


def test_ranks_are_a_band_and_each_by_itself_on_demand(url: str, open_page: OpenPage) -> None:
    # given four ranks that log one series, and rank 0 another one
    for rank in range(4):
        writer = Writer(url, TASK, rank=rank)
        if not rank:
            writer.task().scalars("loss", "eval", [1.0, 0.5])
        writer.record("writers", {f"{rank:032x}": {"rank": rank, "world_size": 4, "host": f"node{rank}", "pid": 1}})
        writer.scalars("loss", "train", [rank + step / 10 for step in range(20)])
        writer.resources("CPU", "host", "%", [10.0 * rank] * 5)
        writer.flush()
    page = open_page(f"/tasks/{TASK}")
    # then at first: a mean with its band (3 traces of 20) and the other series (2)
    wait_for_points(page, "loss", 62)
    loss = chart(page, "loss")
    assert loss.locator(".legend span").all_inner_texts() == ["eval", "train"]
    assert (
        "1.5" in loss.locator(".legend b").nth(1).inner_text() or "3.4" in loss.locator(".legend b").nth(1).inner_text()
    )
    # when each rank is asked for
    loss.get_by_role("button", name="mean of ranks").click()
    # then
    expect(loss.locator(".legend span")).to_have_text(
        ["eval", "train · rank 0", "train · rank 1", "train · rank 2", "train · rank 3"]
    )
    wait_for_points(page, "loss", 82)
    # and one of them can be left out
    loss.get_by_role("button", name="train · rank 2").click()
    expect(loss.locator(".plot")).to_have_attribute("data-points", "62")
    # a few machines are shown by name, side by side
    page.get_by_role("tab", name="Resources").click()
    expect(chart(page, "CPU").locator(".legend span")).to_have_text([f"host · node{rank}" for rank in range(4)])


def test_statuses_that_follow_from_silence_have_words_and_colours(url: str, open_page: OpenPage) -> None:
    minute = 60_000_000_000
    now = time.time_ns()
    for number, (age, word) in enumerate([(0, "running"), (5 * minute, "lost")]):
        writer = Writer(url, f"{number + 2}" * 32).at(now - age)
        writer.task(name=word).flush()
    page = open_page("/?status=lost")
    expect(page.locator("tbody tr")).to_have_count(1)
    badge = page.locator("tbody tr .status")
    expect(badge).to_have_text("lost")
    assert badge.get_attribute("data-tone") == "bad"
    assert "killed" in badge.get_attribute("title")


def test_points_that_a_later_attempt_reports_anew_are_shown_on_demand(url: str, open_page: OpenPage) -> None:
    # given a job that came to step 20 and was started again from step 10
    minute, now = 60_000_000_000, time.time_ns()
    first = Writer(url, TASK, rank=0).at(now - minute)
    first.task().scalars("loss", "train", [1.0] * 20).flush()
    second = Writer(url, TASK, rank=0).at(now - minute // 2)
    second._writer_id = b"another attempt "
    second.record("task", {"attempt": 2})
    second.record("writers", {"a" * 32: {"attempt": 2, "started_unix_ns": now - minute // 2}})
    second.scalars("loss", "train", [2.0] * 20, first=10).flush()
    page = open_page(f"/tasks/{TASK}")
    # then the chart goes on from one to the other
    wait_for_points(page, "loss", 30)
    assert drawn_points(page, "loss") == 30
    # when all attempts are asked for
    page.get_by_role("button", name="All attempts").click()
    # then both are there, after a reload too
    wait_for_points(page, "loss", 40)
    page.reload()
    wait_for_points(page, "loss", 40)
    expect(page.get_by_role("button", name="All attempts")).to_have_attribute("aria-pressed", "true")


def test_console_lines_show_their_rank_and_can_be_read_by_rank(url: str, open_page: OpenPage) -> None:
    # given two ranks that print
    for rank in range(2):
        writer = Writer(url, TASK, rank=rank).lines([f"hello from {rank}"])
        if not rank:
            writer.task()
        writer.record("writers", {f"{rank:032x}": {"rank": rank, "world_size": 2, "host": "node", "pid": 1}}).flush()
    page = open_page(f"/tasks/{TASK}#console")
    # then each line names its rank
    expect(page.locator(".line .text")).to_have_text(["hello from 0", "hello from 1"])
    expect(page.locator(".line .rank")).to_have_text(["0", "1"])
    expect(page.locator(".line .rank").first).to_be_visible()
    # and one rank can be read by itself
    page.get_by_label("Rank").select_option("rank 1")
    expect(page.locator(".line .text")).to_have_text(["hello from 1"])
