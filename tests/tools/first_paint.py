"""How soon does the task table show its first rows, with 10,000 tasks of 20 parameters and 50 metrics?

    python tests/tools/first_paint.py [TASKS]

Each opening is a fresh browser profile: nothing is in its cache. Counted from the navigation to the first row on
the screen.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from pages_browser import CHROMIUM, FLAGS
from playwright.sync_api import sync_playwright

from telemetry.events import Batch, RecordChange, ScalarColumns, SeriesKey
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig
from telemetry.wire import CONTENT_TYPE, encode

METRICS = [SeriesKey("scalar", f"metric {number // 2}", ["train", "val"][number % 2]) for number in range(50)]
OPENINGS = 7
ROW = """new Promise(done => {
  const seen = () => requestAnimationFrame(() => done(performance.now()));
  const look = () => (document.querySelector('#rows tr') ? seen() : setTimeout(look, 5));
  look();
})"""
# What the server says it took to read the rows.
SERVER = """performance.getEntriesByType('resource').find(entry => entry.name.includes('/tasks?'))
  .serverTiming.find(({ name }) => name === 'read').duration"""


def frame(number: int) -> bytes:
    """Return a task as one frame."""
    now = time.time_ns()
    fields: dict[str, object] = {
        "name": f"task {number}",
        "project": f"team {number % 7}/project {number % 31}",
        "status": "completed",
    }
    fields |= {"tags": [f"tag {number % 11}"], "started_unix_ns": now, "ended_unix_ns": now}
    events = [RecordChange(now, "task", key, value) for key, value in fields.items()]
    for name in range(20):
        value = {"value": number % 97 / (1 + name), "type": "float", "description": ""}
        events.append(RecordChange(now, "parameters", f"Args/parameter {name}", value))
    columns = ScalarColumns(list(METRICS))
    for index in range(len(METRICS)):
        columns.series_index.append(index)
        columns.iterations.append(1)
        columns.times_unix_ns.append(now)
        columns.values.append(number * 0.5 + index)
    task_id = f"{number + 1:032x}"
    batch = Batch(task_id, columns, list(events), len(columns) + len(events))
    return bytes(encode(batch, writer_id=bytes.fromhex(task_id), sequence=0).data)


def main(tasks: int) -> None:
    with tempfile.TemporaryDirectory() as store, BackgroundServer(ServerConfig(Path(store), port=0)) as server:
        for first in range(0, tasks, 200):
            body = b"".join(frame(number) for number in range(first, min(tasks, first + 200)))
            request = urllib.request.Request(f"{server.url}/api/v1/frames", body, {"Content-Type": CONTENT_TYPE})
            with urllib.request.urlopen(request) as response:
                assert b"rejected" not in response.read()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            columns = "&".join(f"columns=last:metric {number}/train" for number in range(4))
            for name, path in [
                ("plain", "/"),
                ("four metrics, by one of them", f"/?{columns}&sort=-last:metric 3/train"),
                ("a tag and a project", "/?tags=tag 3&project=team 2"),
            ]:
                took, server_ms = [], []
                for _ in range(OPENINGS):
                    context = browser.new_context(viewport={"width": 1440, "height": 900})
                    page = context.new_page()
                    page.goto(server.url + path, wait_until="commit")
                    took.append(float(page.evaluate(ROW)))
                    server_ms.append(float(page.evaluate(SERVER)))
                    context.close()
                low, high = min(took), max(took)
                print(
                    f"{tasks} tasks, {name}: median {statistics.median(took):.0f} ms [{low:.0f}..{high:.0f}], "
                    f"of which the server read for {statistics.median(server_ms):.0f} ms"
                )
            browser.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
