"""How soon are charts, pages and lists there while their runs report, and how old is what they show?"""

from __future__ import annotations

import http.client
import json
import random
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from array import array
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from harness import Benchmark, Column, Metrics, Scale, Target, child_main, median
from points_page import TASK_ID, load_series
from servers import Reader, ServerProcess, get_json, server
from traffic.frames import RUNS, Shape, names_of, task_id_of
from traffic.writers import fleet

# case: series of the page's task, and the gap of its steps
_PAGES = {"page_1000": Shape(1, 1_000, 0, 0.5), "names_20000": Shape(1, 20_000, 0, 5.0)}
_WARM_S = 10.0
_TIMES = 10
_OPENINGS = 5
# What a page of this height shows at first: charts of four series each.
_FIRST_SERIES = 48
_SPIKE_AT = 1_000
_EXTENDED_POINTS_PER_S = 1_000
_FLUSH_S = 0.5
_FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
# When the first charts' points had arrived, by the browser's own clock, and when a chart was drawn with them.
_FIRST_POINTS = "performance.getEntriesByType('resource').find(({ name }) => name.includes('/points?')).responseEnd"
_FIRST_CHART = """new Promise(done => {
  const look = () => (Number(document.querySelector('.card .plot[data-points]')?.dataset.points) > 0
    ? done(performance.now()) : setTimeout(look, 5));
  look();
})"""


def measure(case: str, scale: Scale) -> Metrics:
    """Read while writers write; return how long reading takes, and how old what is read is."""
    with tempfile.TemporaryDirectory() as folder, server(Path(folder) / "server") as running:
        if case == "ten_million":
            return _ten_million(running, scale)
        shape = _PAGES[case]
        return _page(running, shape if not scale.quick else Shape(1, shape.series // 10, 0, shape.gap_s), scale)


def _ten_million(running: ServerProcess, scale: Scale) -> Metrics:
    points, seconds = scale.pick(10_000_000, 500_000), scale.pick(30, 5)
    load_series(running, points, _SPIKE_AT)
    runs = scale.pick(RUNS.runs, 2)
    with fleet(RUNS, 1) as others, Reader(running.url) as reader:
        others.make(runs, seconds + 3)
        extender = _Extender(running.url, points)
        extender.start()
        others.begin(running.url, runs, (0.0, seconds + 2.0))
        viewer = _Viewer(running.url, extender)
        viewer.start()
        try:
            extender.first_answered.wait(30.0)
            metrics = _read_long(reader, extender, points, seconds, running)
            viewer.stop()
        finally:
            extender.stop()
        sent = others.end()
    return {
        "points": points,
        **metrics,
        "pushed_age_ms": median(viewer.ages_ms),
        "pushed_age_max_ms": max(viewer.ages_ms),
        "extended": extender.acked - points,
        "others_points": sum(sent.points.values()),
    }


def _read_long(reader: Reader, extender: _Extender, points: int, seconds: float, running: ServerProcess) -> Metrics:
    identifier = get_json(running.url, f"/tasks/{TASK_ID}/series?kind=scalar")["series"][0]["id"]
    query = f"/api/v1/tasks/{TASK_ID}/points?series={identifier}&max_samples=2000"
    generator = random.Random(1)
    first_ms, _ = reader.get(query)
    whole_ms: list[float] = []
    zoom_ms: list[float] = []
    age_ms: list[float] = []
    missing = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        whole_ms.append(reader.get(query)[0])
        width = int(points * generator.choice((0.5, 0.1, 0.01, 0.001)))
        begin = generator.randrange(points - width)
        zoom_ms.append(reader.get(f"{query}&from={begin}&to={begin + width}")[0])
        acked = extender.acked
        _, body = reader.get(f"{query}&from={acked - 100}")
        now_s = time.monotonic()
        newest = json.loads(body)["series"][0]["x"][-1]
        missing += newest < acked - 1
        age_ms.append((now_s - extender.made_at_s(newest)) * 1e3)
        # A person, not a loop: what is measured is an answer beside ingest, not how many there may be.
        time.sleep(0.05)
    return {
        "first_ms": first_ms,
        "whole_ms": median(whole_ms),
        "whole_max_ms": max(whole_ms),
        "zoom_ms": median(zoom_ms),
        "zoom_max_ms": max(zoom_ms),
        "age_ms": median(age_ms),
        "age_max_ms": max(age_ms),
        "asked": len(age_ms),
        "acked_missing": missing,
    }


class _Extender(threading.Thread):
    """A writer that goes on with the long series: 1,000 points a second, a frame each flush interval.

    Attributes:
        acked: the iteration after the last point that the server has answered for.
    """

    def __init__(self, url: str, first: int) -> None:
        super().__init__(daemon=True)
        self._url, self._first = url, first
        self._stopping = threading.Event()
        self.first_answered = threading.Event()
        self._begin_s = time.monotonic()
        self.acked = first

    def made_at_s(self, iteration: int) -> float:
        """Return when a point was reported, on the monotonic clock."""
        return self._begin_s + (iteration - self._first) / _EXTENDED_POINTS_PER_S

    def stop(self) -> None:
        """End it, after the frame that is on its way."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Post what has been made since the last frame, again and again."""
        from telemetry.wire import CONTENT_TYPE

        connection = http.client.HTTPConnection(urlsplit(self._url).netloc, timeout=60)
        sequence, made = 0, self._first
        self._begin_s = time.monotonic()
        while not self._stopping.wait(_FLUSH_S):
            until = self._first + int((time.monotonic() - self._begin_s) * _EXTENDED_POINTS_PER_S)
            frame = self._frame(made, until, sequence)
            connection.request("POST", "/api/v1/frames", frame, {"Content-Type": CONTENT_TYPE})
            answer = json.loads(connection.getresponse().read())
            if answer["frames"][0]["result"] != "stored":
                raise RuntimeError(f"the server did not store {answer['frames'][0]}")
            made, sequence = until, sequence + 1
            self.acked = until
            self.first_answered.set()
        connection.close()

    def _frame(self, begin: int, end: int, sequence: int) -> bytes:
        from telemetry.events import Batch, ScalarColumns, SeriesKey
        from telemetry.wire import encode

        count = end - begin
        now_ns = time.time_ns()
        columns = ScalarColumns(
            [SeriesKey("scalar", "train", "loss")],
            array("I", bytes(4 * count)),
            array("q", range(begin, end)),
            array("q", range(now_ns - count * 1_000_000, now_ns, 1_000_000)),
            array("d", [random.random() for _ in range(count)]),
        )
        return encode(Batch(TASK_ID, columns, [], count), writer_id=b"e" * 16, sequence=sequence).data


class _Viewer(threading.Thread):
    """An open page: the live stream of the task.

    Attributes:
        ages_ms: how old the newest point was that the stream told of, each time.
    """

    def __init__(self, url: str, extender: _Extender) -> None:
        super().__init__(daemon=True)
        self._url, self._extender = url, extender
        self._stopping = threading.Event()
        self.ages_ms: list[float] = []

    def stop(self) -> None:
        """End it with the next event; there are some a second."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Read the stream."""
        event = b""
        with urllib.request.urlopen(f"{self._url}/api/v1/live?task={TASK_ID}", timeout=60) as stream:
            for line in stream:
                now_s = time.monotonic()
                if line.startswith(b"event: "):
                    event = line.strip().removeprefix(b"event: ")
                elif line.startswith(b"data: ") and event == b"points":
                    (series,) = json.loads(line.removeprefix(b"data: "))["series"].values()
                    made_s = self._extender.made_at_s(series["last_iteration"])
                    self.ages_ms.append((now_s - made_s) * 1e3)
                if self._stopping.is_set():
                    return


def _page(running: ServerProcess, shape: Shape, scale: Scale) -> Metrics:
    """Ask what the page of a task that reports asks until its first charts have data, and open the page itself."""
    times, openings = scale.pick(_TIMES, 2), scale.pick(_OPENINGS, 1)
    warm_s = _WARM_S if not scale.quick else shape.gap_s + 2.0
    # Far longer than the reading takes; the writers are ended with it.
    seconds = warm_s + scale.pick(240, 40)
    with fleet(shape, 1) as writer, Reader(running.url) as reader:
        writer.make(1, seconds)
        writer.begin(running.url, 1, (0.0, seconds))
        _until_listed(running, shape.series, warm_s)
        metrics = _ask(reader, shape, times)
        points_ms, drawn_ms = _open_page(f"{running.url}/tasks/{task_id_of(0)}", openings)
    return {
        "series": shape.series,
        **metrics,
        "page_points_ms": median(points_ms) if points_ms else None,
        "page_first_ms": drawn_ms[0] if drawn_ms else None,
        "page_ms": median(drawn_ms) if drawn_ms else None,
    }


def _until_listed(running: ServerProcess, series: int, warm_s: float) -> None:
    """Wait until the server has seen all series, and has been fed for a while."""
    begin = time.monotonic()
    while True:
        time.sleep(0.5)
        tasks = get_json(running.url, "/tasks")["tasks"]
        fed_s = time.monotonic() - begin
        if tasks and fed_s > warm_s:
            listed = len(get_json(running.url, f"/tasks/{task_id_of(0)}/series?kind=scalar")["series"])
            if listed == series:
                return
        if fed_s > warm_s + 60:
            raise RuntimeError("the server does not list all series")


def _ask(reader: Reader, shape: Shape, times: int) -> Metrics:
    task = f"/api/v1/tasks/{task_id_of(0)}"
    key = quote("last:" + "/".join(names_of(shape.series)[shape.series // 2]))
    requests_ms: list[float] = []
    parts_ms: dict[str, list[float]] = {name: [] for name in ("series", "charts", "choices", "sorted")}

    def ask(name: str, path: str) -> Any:
        took_ms, body = reader.get(path)
        parts_ms[name].append(took_ms)
        return json.loads(body)

    for _ in range(times):
        html_ms, _ = reader.get(f"/tasks/{task_id_of(0)}")
        task_ms, _ = reader.get(task)
        ids = [str(item["id"]) for item in ask("series", f"{task}/series?kind=scalar")["series"]]
        ask("charts", f"{task}/points?series={','.join(ids[:_FIRST_SERIES])}&x=iteration&max_samples=1000")
        requests_ms.append(html_ms + task_ms + parts_ms["series"][-1] + parts_ms["charts"][-1])
        ask("choices", "/api/v1/choices")
        ask("sorted", f"/api/v1/tasks?page_size=50&sort=-{key}&columns={key}")
        time.sleep(0.2)
    medians = {f"{name}_ms": median(took_ms) for name, took_ms in parts_ms.items()}
    firsts = {f"{name}_first_ms": took_ms[0] for name, took_ms in parts_ms.items()}
    return {
        "requests_first_ms": requests_ms[0],
        "requests_ms": median(requests_ms),
        "requests_max_ms": max(requests_ms),
        **medians,
        **firsts,
    }


def _open_page(address: str, openings: int) -> tuple[list[float], list[float]]:
    """Return how long a browser, its cache empty, took each time to have points and to have drawn a chart, in ms.

    Nothing where there is no Chromium, or no playwright to drive it.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        print("no playwright or no Chromium: the page itself is not opened", file=sys.stderr)
        return [], []
    points_ms: list[float] = []
    drawn_ms: list[float] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(_FLAGS))
        for _ in range(openings):
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            page = context.new_page()
            page.goto(address, wait_until="commit")
            drawn_ms.append(float(page.evaluate(_FIRST_CHART)))
            points_ms.append(float(page.evaluate(_FIRST_POINTS)))
            context.close()
        browser.close()
    return points_ms, drawn_ms


BENCHMARK = Benchmark(
    name="reading_live",
    question="How soon are charts, pages and lists there while their runs report, and how old is what they show?",
    topology=(
        "ten_million = a series of 10,000,000 points that one writer extends by 1,000 points a second, a frame each "
        "0.5 s, beside 20 runs of 20 series at 5 Hz; one reader on a kept connection asks for the whole chart, a zoom "
        "and the newest points, for 30 s; age = from a point's report until the answer that has it, for the newest "
        "point of an answer; pushed = the same, for the live stream of an open page; page_1000 = the page of a run "
        "that reports 1,000 series at 2 Hz, names_20000 = of one that reports 20,000 each 5 s; requests = the page, "
        "the task, its series and the points of the first 12 charts, one after the other; Chromium = headless, nothing "
        "in its cache, from going there until the first charts' points have arrived, and until a chart is drawn"
    ),
    unfair=(
        "transport over loopback is in it; one reader at a time, and what writes shares the machine's cores with "
        "server and browser; half a second of a point's age is the writer's flush interval; Chromium draws without a "
        "graphics card"
    ),
    cases=("ten_million", *_PAGES),
    measure=measure,
    columns=(
        Column("first_ms", "10 M, first ms", ".0f"),
        Column("whole_ms", "again", ".0f"),
        Column("whole_max_ms", "slowest", ".0f"),
        Column("zoom_ms", "zoom ms", ".0f"),
        Column("zoom_max_ms", "slowest", ".0f"),
        Column("age_ms", "age of the newest ms", ".0f"),
        Column("age_max_ms", "oldest", ".0f"),
        Column("pushed_age_ms", "pushed to a page ms", ".0f"),
        Column("pushed_age_max_ms", "oldest", ".0f"),
        Column("requests_first_ms", "page's requests, first ms", ".0f"),
        Column("requests_ms", "again", ".0f"),
        Column("page_points_ms", "points in Chromium ms", ",.0f"),
        Column("page_ms", "chart drawn", ",.0f"),
        Column("series_ms", "series list ms", ".0f"),
        Column("choices_ms", "names ms", ".0f"),
        Column("sorted_ms", "sorted by metric ms", ".0f"),
        Column("acked_missing", "acked and missing", ".0f"),
    ),
    targets=(
        Target("first_ms", "<=", 300, "a chart of 10 million points: first answer at most 0.3 s"),
        Target("zoom_ms", "<=", 100, "a zoom at most 0.1 s"),
        Target("age_ms", "<=", 1_000, "the newest points at most 1 s old"),
        Target("pushed_age_ms", "<=", 1_000, "and when an open page is told of them"),
        Target("acked_missing", "==", 0, "what is acknowledged is in the next answer"),
        Target("requests_ms", "<=", 1_000, "1,000 and 20,000 series: at most 1 s of requests to the first charts"),
        Target("page_points_ms", "<=", 1_000, "and at most 1 s until the page has their points"),
        Target("page_ms", "<=", 1_000, "and at most 1 s until one is drawn"),
        Target("choices_ms", "<=", 1_000, "20,000 metric names to choose columns from: at most 1 s"),
    ),
    timeout_s=600.0,
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
