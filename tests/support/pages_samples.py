"""Tasks with something on every page, as training code would report them; for tests and screenshots."""

from __future__ import annotations

import hashlib
import json
import math
import random
import struct
import time
import urllib.request
import zlib
from typing import Any

from pages_support import NASTY, Writer

from telemetry.events import Media, ModelSaved, Plot, SingleValue

_HOUR_NS = 3_600_000_000_000

DIFF = """diff --git a/train.py b/train.py
index 3b18e51..a9c0f1d 100644
--- a/train.py
+++ b/train.py
@@ -12,7 +12,7 @@ def main():
     model = build(config)
-    optimizer = SGD(model, lr=0.1)
+    optimizer = AdamW(model, lr=config["lr"], weight_decay=0.05)
     for epoch in range(config["epochs"]):
"""
YAML = """model:
  name: vit_small
  depth: 12
  heads: 6
data:
  root: /data/imagenet
  augment: [crop, flip, color]
optimizer:
  name: adamw
  weight_decay: 0.05
"""


def entry(value: Any, type_: str, description: str = "") -> dict[str, Any]:
    """Return what the record keeps for a typed value."""
    return {"value": value, "type": type_, "description": description}


def parameters(seed: int = 0) -> dict[str, Any]:
    """Return a training run's parameters, in two sections."""
    rate = [0.001, 0.0005, 0.003, 0.0001][seed % 4]
    return {
        "Args/batch_size": entry([256, 128][seed % 2], "int", "per device"),
        "Args/epochs": entry(90, "int"),
        "Args/lr": entry(rate, "float", "peak, after the warm-up"),
        "Args/momentum": entry(1.0, "float"),
        "Args/seed": entry(2**60 + seed, "int", "an integer that no float holds"),
        "Args/resume": entry(seed % 2 == 1, "bool"),
        "Args/checkpoint": entry(None, ""),
        "Args/output": entry("/scratch/runs/vit/" + "long/" * 6, "Path"),
        "General/model/depth": entry(12, "int"),
        "General/schedule": entry([30, 60, 80], "list/int", "epochs at which the rate falls"),
        "General/mean": entry([0.485, 0.456, 0.406], "tuple/float"),
        "General/optimizer": entry({"name": "adamw", "betas": [0.9, 0.999], "weight_decay": 0.05}, "dict"),
        "General/note": entry(NASTY, "str"),
    }


def draft(url: str, task_id: str = "d" * 32) -> Writer:
    """Send a task that was created and not started: its parameters may be edited."""
    writer = Writer(url, task_id).task(name="draft of a sweep", project="vision/imagenet", status="created")
    writer.record("parameters", parameters()).record(
        "configuration", {"model.yaml": {"text": YAML, "type": "yaml", "description": "the network"}}
    )
    writer.record("properties", {"owner": entry("ada", "str", "who answers questions")})
    writer.flush()
    return writer


def rich(url: str, task_id: str = "a" * 32, *, seed: int = 0, name: str = "vit-small baseline") -> Writer:
    """Send a task with parameters, configuration, properties, labels, script, container, scalars and single values."""
    draw = random.Random(seed)
    writer = Writer(url, task_id).at(time.time_ns() - _HOUR_NS)
    writer.task(
        name=name,
        project="vision/imagenet",
        type="training",
        status="completed",
        progress=100.0,
        tags=["baseline", "vit"] if seed == 0 else ["vit", "sweep"],
        comment="First run with the new augmentation.\nCompare with the ResNet of last week.",
        host="node-17",
        ended_unix_ns=time.time_ns() - _HOUR_NS // 4,
        started_unix_ns=time.time_ns() - _HOUR_NS,
        command=["python", "train.py", "--lr", "0.001"],
    )
    writer.record("parameters", parameters(seed))
    yaml = YAML if seed == 0 else YAML.replace("depth: 12", f"depth: {12 + seed}")
    writer.record(
        "configuration",
        {
            "model.yaml": {"text": yaml, "type": "yaml", "description": "the network, as the program read it"},
            "augment": {"text": '{\n  "crop": 224,\n  "flip": true\n}', "type": "json", "description": ""},
        },
    )
    writer.record("properties", {"owner": entry("ada", "str"), "reviewed": entry(True, "bool", "by two people")})
    writer.record("labels", {"background": 0, "cat": 1, "dog": 2})
    writer.record(
        "script",
        {
            "repository": "git@example.org:vision/imagenet.git",
            "branch": "augment",
            "commit": f"{seed}9c1f0a7d3e5b2846c0d1e2f3a4b5c6d7e8f9a0b",
            "entry_point": "train.py",
            "working_dir": ".",
            "binary": "/usr/bin/python3.11",
            "diff": DIFF,
            "requirements": "numpy==2.4.6\ntorch==2.9.0\ntorchvision==0.24.0\n",
        },
    )
    writer.record("container", {"image": "pytorch:2.9", "arguments": "--ipc=host", "setup_script": "apt-get update"})
    steps = range(400)
    for title, series, base in [("loss", "train", 2.2), ("loss", "validation", 2.4), ("accuracy", "top1", 0.0)]:
        if title == "loss":
            values = [base * math.exp(-step / (120 + 15 * seed)) + draw.gauss(0.1, 0.03) for step in steps]
        else:
            values = [0.8 * (1 - math.exp(-step / (100 + 20 * seed))) + draw.gauss(0, 0.008) for step in steps]
        writer.scalars(title, series, values)
    writer.scalars("lr", "adamw", [0.001 * 0.99**step for step in steps])
    writer.resources("CPU", "host", "%", [draw.uniform(20, 60) for _ in range(60)])
    writer.resources("Memory", "host used", "By", [(8 + step / 30) * 2.0**30 for step in range(60)])
    writer.lines([f"epoch {step}: loss {2.2 * math.exp(-step / 120):.4f}" for step in range(60)])
    writer.event(single("top-1", 0.781 + seed / 100)).event(single("parameters", 22_050_664.0))
    plots(writer, seed)
    kinds(writer)
    blobs = [*samples(writer, seed), *artifacts(writer, task_id)]
    writer.flush()
    for blob in blobs:
        send_blob(writer, blob)
    return writer


def picture(width: int, height: int, shade: int) -> bytes:
    """Return a PNG with a gradient."""
    rows = b"".join(
        b"\0" + bytes(v for x in range(width) for v in (255 * x // width, 255 * y // height, shade))
        for y in range(height)
    )
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    framed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def sound() -> bytes:
    """Return half a second of a tone, as WAV."""
    data = b"".join(struct.pack("<h", int(9000 * math.sin(n / 6))) for n in range(4000))
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + len(data),
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        8000,
        16000,
        2,
        16,
        b"data",
        len(data),
    )
    return head + data


def blob_uri(data: bytes) -> str:
    return f"blob:{hashlib.sha256(data).hexdigest()}"


def send_blob(writer: Writer, data: bytes) -> None:
    """Upload the bytes that a flushed record names."""
    address = f"{writer.url}/api/v1/tasks/{writer.task_id}/blobs/{hashlib.sha256(data).hexdigest()}"
    request = urllib.request.Request(f"{address}?offset=0&size={len(data)}", data, method="PATCH")
    with urllib.request.urlopen(request) as response:
        assert response.headers["Upload-Complete"] == "1"


def samples(writer: Writer, seed: int = 0) -> list[bytes]:
    """Report images over some iterations, a sound, a text and one whose bytes never come; return the bytes to send."""
    blobs = []

    def medium(title: str, series: str, iteration: int, data: bytes, filename: str, content_type: str) -> None:
        writer.event(Media(time.time_ns(), title, series, iteration, blob_uri(data), filename, content_type, len(data)))
        blobs.append(data)

    for iteration in (0, 100, 200):
        for number in range(5):
            data = picture(160 + 20 * number, 120, (iteration + 40 * number + seed) % 256)
            medium("predictions", f"image {number}", iteration, data, f"{number}.png", "image/png")
    medium("predictions", "only at first", 0, picture(90, 120, 7), "first.png", "image/png")
    medium("speech", "tone", 200, sound(), "tone.wav", "audio/wav")
    medium("speech", "transcript", 200, b"the quick brown fox", "transcript.txt", "text/plain")
    lost = picture(10, 10, 1)
    writer.event(Media(time.time_ns(), "speech", "spectrogram", 200, blob_uri(lost), "s.png", "image/png", len(lost)))
    return blobs


def artifacts(writer: Writer, task_id: str) -> list[bytes]:
    """Record artifacts and models in all states; return the bytes to send."""
    table, image, weights = b"class,f1\ncat,0.9\ndog,0.8\n", picture(320, 200, 90), b"\x80weights" * 4000

    def kept(
        data: bytes, kind: str, filename: str, content_type: str, preview: str = "", **more: Any
    ) -> dict[str, Any]:
        return {
            "type": kind,
            "uri": blob_uri(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_bytes": len(data),
            "filename": filename,
            "content_type": content_type,
            "preview": preview,
            "metadata": {},
            "time_unix_ns": time.time_ns(),
            "error": "",
            **more,
        }

    failed = {**kept(b"?", "pickle", "cache.pkl", "application/pickle"), "uri": "", "state": "failed"}
    writer.record(
        "artifacts",
        {
            "scores": kept(
                table, "pandas", "scores.csv", "text/csv", table.decode(), metadata={"rows": 2, "split": "test"}
            ),
            "confusion": kept(image, "image", "confusion.png", "image/png"),
            "cache": {**failed, "error": "OSError: No space left on device"},
            "predictions": kept(
                b"never sent", "numpy", "predictions.npz", "application/numpy", "array(10000, 3) float32"
            ),
            NASTY: kept(NASTY.encode(), "string", "note.txt", "text/plain", NASTY),
            "manual": {
                **kept(b"", "custom", "", ""),
                "uri": "https://example.org/manual.pdf",
                "sha256": "",
                "size_bytes": 0,
            },
        },
    )
    model = kept(weights, "", "best.pt", "application/octet-stream", name="best", framework="PyTorch", iteration=300)
    model |= {"comment": "highest top-1", "tags": ["best"], "labels": {"cat": 1, "dog": 2}, "config_text": YAML}
    model |= {"path": "/scratch/runs/best.pt", "host": "node-17", "task": task_id}
    writer.record("output_models", {"5" * 32: model})
    base = {
        **model,
        "name": "imagenet-21k",
        "task": "b" * 32 if task_id != "b" * 32 else "a" * 32,
        "uri": "s3://models/21k.pt",
    }
    writer.record("input_models", {"6" * 32: {**base, "state": "stored", "iteration": None, "tags": []}})
    writer.event(ModelSaved(time.time_ns(), "last", "/scratch/runs/last.pt", "PyTorch", 399, len(weights)))
    return [table, image, weights, NASTY.encode()]


def plots(writer: Writer, seed: int = 0) -> None:
    """Report figures: one with several iterations, a surface, a table, and one with a white background of its own."""
    names = ["cat", "dog", "owl"]
    for iteration in (0, 100, 200, 300):
        hits = [
            [60 + iteration // 10 if row == column else 20 - iteration // 20 for column in range(3)] for row in range(3)
        ]
        figure(writer, "confusion", "validation", iteration, [{"type": "heatmap", "z": hits, "x": names, "y": names}])
    bars = [
        {"type": "bar", "x": names, "y": [3 + seed, 1, 2], "name": NASTY},
        {"type": "bar", "x": names, "y": [2, 2, 1]},
    ]
    figure(writer, "histogram", "classes", 300, bars, {"title": {"text": "classes"}, "barmode": "group"})
    line = [{"type": "scatter", "x": [n / 50 for n in range(50)], "y": [math.sqrt(n / 50) for n in range(50)]}]
    figure(
        writer,
        "ROC",
        "all",
        300,
        line,
        {"title": {"text": "ROC of the last epoch"}, "xaxis": {"title": {"text": "false"}}},
    )
    white = {"paper_bgcolor": "white", "plot_bgcolor": "white", "font": {"color": "black"}}
    figure(writer, "ROC", "white", 300, line, white)
    height = [[math.sin(x / 4) * math.cos(y / 4) for x in range(24)] for y in range(24)]
    figure(writer, "surface", "loss landscape", 300, [{"type": "surface", "z": height, "showscale": False}])
    cells = {"header": {"values": ["class", "F1"]}, "cells": {"values": [names, [0.9, 0.8, 0.7]]}}
    figure(writer, "table", "scores", 300, [{"type": "table", **cells}])


# A ground without an ink, and an ink without a ground.
CHOSEN_TABLE: dict[str, Any] = {
    "type": "table",
    "header": {"values": ["a", "b"], "fill": {"color": "lavender"}},
    "cells": {"values": [[1, 2], [3, 4]], "font": {"color": "black"}},
}

# One of each kind of trace that has a ground, a line or a text of its own.
TRACES: dict[str, dict[str, Any]] = {
    "pie": {"type": "pie", "labels": ["cat", "dog"], "values": [3, 1], "textposition": "outside"},
    "treemap": {"type": "treemap", "labels": ["all", "a", "b"], "parents": ["", "all", "all"], "values": [3, 2, 1]},
    "polar": {"type": "scatterpolar", "r": [1, 2, 3, 1], "theta": ["a", "b", "c", "a"], "fill": "toself"},
    "ternary": {"type": "scatterternary", "a": [1, 2], "b": [2, 1], "c": [1, 1], "mode": "markers"},
    "gauge": {"type": "indicator", "mode": "gauge+number", "value": 0.78, "gauge": {"axis": {"range": [0, 1]}}},
    "box": {"type": "box", "y": [1, 2, 3, 8]},
    "contour": {"type": "contour", "z": [[1, 2], [3, 4]]},
}

CONTROLS: dict[str, Any] = {
    "annotations": [
        {"x": 0.3, "y": 0.5, "xref": "paper", "text": "a note"},
        {"x": 0.6, "y": 0.8, "xref": "paper", "text": "on white", "bgcolor": "white"},
    ],
    "shapes": [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5}],
    "updatemenus": [{"buttons": [{"label": "a menu", "method": "relayout", "args": [{}]}]}],
    "xaxis": {"rangeselector": {"buttons": [{"label": "1 m", "step": "month", "count": 1}]}},
}

# As plotly.py sends it with each figure.
PLOTLY_TEMPLATE: dict[str, Any] = {
    "layout": {"font": {"color": "#2a3f5f"}, "paper_bgcolor": "white", "plot_bgcolor": "#E5ECF6"},
    "data": {
        "table": [
            {
                "type": "table",
                "cells": {"fill": {"color": "#EBF0F8"}, "line": {"color": "white"}},
                "header": {"fill": {"color": "#C8D4E3"}, "line": {"color": "white"}},
            }
        ]
    },
}


def kinds(writer: Writer) -> None:
    """Report one figure of each kind that has grounds, lines and texts of its own, and what authors add to figures."""
    cells = {"header": {"values": ["class", "F1"]}, "cells": {"values": [["cat", "dog"], [0.9, 0.8]]}}
    line = [{"type": "scatter", "x": ["2026-01-01", "2026-03-01"], "y": [0, 1]}]
    figure(writer, "kinds", "chosen table", 300, [CHOSEN_TABLE])
    figure(writer, "kinds", "template", 300, [{"type": "table", **cells}], {"template": PLOTLY_TEMPLATE})
    figure(writer, "kinds", "controls", 300, line, CONTROLS)
    for name, trace in TRACES.items():
        figure(writer, "kinds", name, 300, [trace])


def figure(
    writer: Writer, title: str, series: str, iteration: int, data: list[Any], layout: dict[str, Any] | None = None
) -> None:
    text = json.dumps({"data": data, "layout": layout or {}})
    writer.event(Plot(time.time_ns(), title, series, iteration, text))


def single(name: str, value: float) -> SingleValue:
    """Return a single value."""
    return SingleValue(time.time_ns(), name, value)
