"""The store in tests/golden/stores/store_4.zip, as version 4 wrote it: only that program can write it anew.

    git archive 6f101b0 | tar -x -C OLD
    PYTHONPATH=OLD:tests/support:tests/support/stores python tests/tools/golden_store.py

store_4.zip is the directory of the store; store_4.json is what that program answered about it (store_answers.py). No
clock and no random number is in it, but for the store's id: so it is the same each time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import tempfile
import zipfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from server_support import MS, START_NS, Row, content_of, rows_of, soon_after_the_start
from store_answers import answers_of

from telemetry.events import (
    Batch,
    ConsoleLine,
    FrameEvent,
    Media,
    ModelSaved,
    Plot,
    RecordChange,
    ScalarColumns,
    SeriesKey,
    SingleValue,
)
from telemetry.record import TaskKey
from telemetry.server.store import FrameContent, Part, Store, prepare
from telemetry.wire import encode

GOLDEN = Path(__file__).parents[1] / "golden" / "stores"
VERSION = 4

LOSS = SeriesKey("scalar", "loss", "train")
ACCURACY = SeriesKey("scalar", "accuracy", "prüf ✓", "%")
CPU = SeriesKey("resource", "cpu", "host", "%")
ODD_NAN = struct.unpack("<d", bytes.fromhex("0df0adba0d00fcff"))[0]
HOUR_NS = 3600 * 1000 * MS


def task_id(name: str) -> str:
    """Return the id of the task of this name."""
    return hashlib.md5(name.encode()).hexdigest()


class Sender:
    """Frames of one writer of a task, in turn."""

    def __init__(self, task: str, writer: str = "", rank: int | None = None) -> None:
        self._task = task
        self.writer = hashlib.md5(f"{task}, writer {writer}".encode()).digest()
        self._rank = rank
        self._sequence = 0

    def frame(
        self, points: Mapping[SeriesKey, Sequence[Row]] | None = None, events: Sequence[FrameEvent] = ()
    ) -> FrameContent:
        """Return the next frame."""
        columns = ScalarColumns(list(points or {}))
        for index, rows in enumerate((points or {}).values()):
            columns.series_index.extend([index] * len(rows))
            columns.iterations.extend(array("q", [row[0] for row in rows]))
            columns.times_unix_ns.extend(array("q", [row[1] for row in rows]))
            columns.values.extend(array("d", [row[2] for row in rows]))
        batch = Batch(task_id(self._task), columns, list(events), len(columns) + len(events), self._rank)
        self._sequence += 1
        return prepare(encode(batch, writer_id=self.writer, sequence=self._sequence - 1), batch)


def named(name: str, project: str = "old", **fields: object) -> list[FrameEvent]:
    """Return what says who a task is."""
    entries = {"name": name, "project": project, "status": "in_progress", **fields}
    return [RecordChange(START_NS, "task", key, value) for key, value in entries.items()]


def long_series() -> Iterator[FrameContent]:
    """Chunks and a tail, one that is only a tail, one that is only chunks; and values that are no numbers."""
    sender = Sender("long")
    yield sender.frame({}, named("long", tags=["a", "b"], comment="by hand"))
    for part in range(5):
        first = 2500 * part
        values = [math.nan if n % 1000 == 7 else (n % 64) / 8 for n in range(first, first + 2500)]
        values[11] = (math.inf, -math.inf)[part % 2]
        yield sender.frame({LOSS: rows_of(values, first=first), ACCURACY: rows_of([part / 8], first=part)})
    yield sender.frame({SeriesKey("scalar", "loss", "chunks"): rows_of([n % 16 for n in range(4096)])})
    yield sender.frame({SeriesKey("scalar", "nan", "payload"): [(-(2**63), START_NS, ODD_NAN)]})
    yield sender.frame({SeriesKey("scalar", "nan", "payload"): [(2**63 - 1, START_NS, -0.0)]})
    # Out of order, and a step twice.
    yield sender.frame({LOSS: rows_of([0.5, 0.25], first=100, step=-50) + rows_of([7.5], first=12_499)})
    yield sender.frame({CPU: rows_of([12.5, 50.0])})


def ranks() -> Iterator[FrameContent]:
    """Three processes in turn, a point at a time: rows of tails that were merged, and some after them."""
    senders = [Sender("ranks", str(rank), rank) for rank in range(3)]
    yield senders[0].frame({}, named("ranks", "old/deep"))
    for step in range(150):
        for rank, sender in enumerate(senders[: 3 if step < 70 else 2]):
            yield sender.frame({LOSS: rows_of([step / 4 + rank], first=step)})
            if step == 75:
                # So a series is cut between two tasks' ids.
                yield sender.frame({SeriesKey("scalar", "late", f"of {rank}"): rows_of([float(rank)])})


def attempts() -> Iterator[FrameContent]:
    """A job that was started again from its checkpoint: chunks of both attempts, and of one that has both."""
    for attempt in (1, 2):
        sender = Sender("attempts", str(attempt))
        start_ns = START_NS + attempt * HOUR_NS
        entry = {"started_unix_ns": start_ns, **({"attempt": attempt} if attempt > 1 else {})}
        events: list[FrameEvent] = [RecordChange(start_ns, "writers", sender.writer.hex(), entry)]
        events += named("attempts") if attempt == 1 else [RecordChange(start_ns, "task", "attempt", attempt)]
        yield sender.frame({}, events)
        for first in range(3000 * (attempt - 1), 3000 * (attempt + 1), 1000):
            rows = [(n, start_ns + n * MS, attempt + n % 8 / 8) for n in range(first, first + 1000)]
            yield sender.frame({LOSS: rows, SeriesKey("scalar", "loss", "test"): rows[::100]})


def begun_anew() -> Iterator[FrameContent]:
    """A task whose id was used again: what was before lies under a row that is to be removed."""
    yield Sender("anew").frame({LOSS: rows_of([n % 4 for n in range(5000)])}, named("anew"))
    since_ns = START_NS + 100_000 * MS
    events = [
        RecordChange(since_ns, "task", TaskKey.RESET, since_ns),
        RecordChange(since_ns, "task", "name", "anew, twice"),
    ]
    yield Sender("anew", "later").frame({LOSS: [(n, since_ns + n * MS, n / 2) for n in range(10)]}, events)


def reports(figure: bytes) -> Iterator[FrameContent]:
    """Everything that is no point."""
    sender = Sender("reports")
    blob = hashlib.sha256(figure).hexdigest()
    plot = '{"data":[{"type":"scatter","y":[1,null,"Infinity"]}],"layout":{}}'
    artifact = {"uri": f"blob:{blob}", "size_bytes": len(figure), "sha256": blob}
    yield sender.frame(
        {},
        [
            *named("reports", "other", status="completed", system_tags=["archived"]),
            *(ConsoleLine(START_NS + n * MS, ("stdout", "stderr")[n % 2], f"line {n} ✓") for n in range(40)),
            ConsoleLine(START_NS, "log", "", 30),
            ModelSaved(START_NS, "best", "/models/best.pt", "pytorch", 7, 1024),
            SingleValue(START_NS, "accuracy", 0.97),
            SingleValue(START_NS, "nothing", math.nan),
            RecordChange(START_NS, "parameters", "Args/lr", 1e-3),
            RecordChange(START_NS, "artifacts", "figure", artifact),
            RecordChange(START_NS, "output_models", "m1", {"name": "Best", "uri": "file:///models/best.pt"}),
            Plot(START_NS, "curves", "roc", 7, plot),
            Plot(START_NS + 1, "curves", "roc", 8, plot),
            Media(START_NS, "images", "träin", 7, f"blob:{blob}", "7.png", "image/png", len(figure)),
            Media(START_NS, "clips", "all", 1, "https://example.org/a.mp4", "a.mp4", ""),
        ],
    )


def many_series() -> Iterator[FrameContent]:
    """More series than a partition holds, of two points each."""
    sender = Sender("many")
    yield sender.frame({}, named("many"))
    keys = [SeriesKey("scalar", f"title {n // 40}", f"series {n % 40}") for n in range(600)]
    for step in range(2):
        yield sender.frame({key: rows_of([n / 8 + step], first=step) for n, key in enumerate(keys)})


def write_golden() -> None:
    """Write the files into tests/golden/stores."""
    assert Store.schema_version == VERSION, "this is not the program of that version"
    figure = b"\x89PNG" + bytes(100)
    part = Part(task_id("reports"), hashlib.sha256(figure).hexdigest(), len(figure))
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder, "store")
        store = Store(directory, clock=soon_after_the_start)
        # Deleted, and not a row of it is removed yet.
        store.write([content_of({LOSS: rows_of([0.0] * 5000), ACCURACY: rows_of([1.0])}, task_id=task_id("deleted"))])
        for content in (*long_series(), *ranks(), *attempts(), *begun_anew(), *reports(figure), *many_series()):
            store.write([content])
        store.blobs.files.append(part, 0, figure)
        path = store.blobs.files.check(part)
        assert path is not None
        store.blobs.take(part.task_id, part.sha256, part.size_bytes, path)
        store.delete_task(task_id("deleted"))
        answers = answers_of(store)
        store.close()
        with zipfile.ZipFile(GOLDEN / f"store_{VERSION}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name in sorted(os.path.relpath(path, directory) for path in directory.rglob("*") if path.is_file()):
                archive.writestr(zipfile.ZipInfo(name), Path(directory, name).read_bytes(), zipfile.ZIP_DEFLATED)
    text = json.dumps(answers, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    (GOLDEN / f"store_{VERSION}.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    write_golden()
