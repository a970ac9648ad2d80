"""The batches behind tests/golden: run this file to write them anew, which only a new wire version may need.

    python tests/tools/golden_frames.py

NAME.frame is the frame; NAME.json is what docs/read_frames.py must print of it.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from array import array
from pathlib import Path

from telemetry.events import (
    Batch,
    ConsoleLine,
    Media,
    ModelSaved,
    Plot,
    RecordChange,
    ScalarColumns,
    SeriesKey,
    SingleValue,
)
from telemetry.wire import Frame, encode

GOLDEN = Path(__file__).parents[1] / "golden"
READER = Path(__file__).parents[2] / "docs" / "read_frames.py"
TASK = "0123456789abcdef0123456789abcdef"
WRITER = bytes(range(16))
NOON = 1_700_000_000_000_000_000

# A NaN with a payload and a sign: its bits must come through, not just its being no number.
ODD_NAN = struct.unpack("<d", bytes.fromhex("0df0adba0d00fcff"))[0]


def _scalars() -> Batch:
    columns = ScalarColumns(
        [SeriesKey("scalar", "loss", "train"), SeriesKey("scalar", "Genauigkeit", "prüf ✓")],
        array("I", [0, 1, 0, 1]),
        array("q", [1, 1, 2, -(2**63)]),
        array("q", [NOON, NOON + 1, NOON + 2, 2**63 - 1]),
        array("d", [0.5, float("inf"), float("-inf"), 1e-320]),
    )
    return Batch(TASK, columns, (), 4)


def _nan() -> Batch:
    key = SeriesKey("resource", "CPU", "host", "%")
    columns = ScalarColumns([key], array("I", [0]), array("q", [NOON // 10**6]), array("q", [NOON]), array("d"))
    columns.values.frombytes(struct.pack("=d", ODD_NAN))
    return Batch(TASK, columns, (), 1)


def _events() -> Batch:
    value = {"lr": 1e-3, "layers": [64, 32], "seed": -1, "big": 2**63, "on": True, "none": None, "raw": b"\x00\xff"}
    events = (
        ConsoleLine(NOON, "stdout", "epoch 1 … done"),
        ConsoleLine(NOON, "log", "", 30),
        ModelSaved(NOON, "best", "/tmp/best.pt", "pytorch", 7, 1024),
        ModelSaved(NOON, "last", "last.npz", "numpy"),
        SingleValue(NOON, "accuracy", 0.97),
        RecordChange(NOON, "parameters", "all", value),
        RecordChange(NOON, "task", "comment", None),
    )
    return Batch(TASK, ScalarColumns(), events, len(events))


def _reports() -> Batch:
    figure = '{"data":[{"type":"scatter","y":[1,null,"Infinity"]}],"layout":{"title":{"text":"Kurve ✓"}}}'
    events = (
        Plot(NOON, "curves", "roc", 7, figure),
        Plot(NOON, "curves", "large", -1, "", "0123456789abcdef" * 4),
        Media(NOON, "images", "träin", 7, "blob:" + "0123456789abcdef" * 4, "7.png", "image/png", 1024),
        Media(NOON, "clips", "all", 2**63 - 1, "https://example.org/a.mp4", "a.mp4", ""),
    )
    return Batch(TASK, ScalarColumns(), events, len(events))


def _many() -> Batch:
    count = 1000
    columns = ScalarColumns(
        [SeriesKey("scalar", "loss", "train")],
        array("I", [0] * count),
        array("q", range(count)),
        array("q", range(NOON, NOON + count * 10**6, 10**6)),
        array("d", [1 / (step + 1) for step in range(count)]),
    )
    return Batch(TASK, columns, (), count, rank=3)


# name: (batch, sequence, zlib level)
BATCHES: dict[str, tuple[Batch, int, int]] = {
    "empty": (Batch(TASK), 0, 0),
    "scalars": (_scalars(), 1, 0),
    "nan": (_nan(), 2, 0),
    "events": (_events(), 2**63, 0),
    "deflated": (_many(), 4, 1),
    "reports": (_reports(), 5, 0),
}


def make(name: str) -> Frame:
    batch, sequence, level = BATCHES[name]
    return encode(batch, writer_id=WRITER, sequence=sequence, level=level)


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name in BATCHES:
        path = GOLDEN / f"{name}.frame"
        path.write_bytes(make(name).data)
        printed = subprocess.run([sys.executable, str(READER), str(path)], capture_output=True, check=True, text=True)
        lines = [json.loads(line) for line in printed.stdout.splitlines()]
        if name == "deflated":
            lines = [lines[0], lines[-1]]
        (GOLDEN / f"{name}.json").write_text(json.dumps(lines, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
