"""Hostile values: what a sender with a token may put into a task, where each reader expects something else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from server_support import MS, START_NS

from telemetry.events import (
    INT64_MAX,
    INT64_MIN,
    MAX_VALUE_DEPTH,
    ConsoleLine,
    FrameEvent,
    Media,
    ModelSaved,
    Plot,
    RecordChange,
    SeriesKey,
    SingleValue,
)

SHA256 = "0123456789abcdef" * 4
MODEL_ID = "fedcba9876543210" * 2

# As a Task writes them: what readers expect of each section.
SOUND: dict[str, dict[str, Any]] = {
    "task": {
        "name": "hostile",
        "project": "p",
        "type": "training",
        "status": "in_progress",
        "status_reason": "because",
        "status_message": "said",
        "progress": 50,
        "tags": ["a", "b"],
        "system_tags": ["archived"],
        "comment": "text",
        "parent": "0" * 32,
        "published": True,
        "host": "h",
        "started_unix_ns": START_NS,
        "ended_unix_ns": START_NS + MS,
        "attempt": 2,
        "output_uri": "s3://bucket",
        "last_iteration": 3,
        "initial_iteration": 3,
        "continued_unix_ns": START_NS,
        "reset_unix_ns": START_NS,
        "seed": 1,
    },
    "parameters": {"Args/lr": {"value": 0.1, "type": "float", "description": "d"}, "General/x": {"value": [1, 2]}},
    "properties": {"owner": {"value": "me", "type": "str", "description": "d", "group": "g"}},
    "configuration": {"General": {"text": "a: 1", "format": "yaml", "type": "dict", "description": "d"}},
    "user_properties": {"x": {"value": 1}},
    "artifacts": {
        "a": {
            "type": "pandas",
            "uri": f"blob:{SHA256}",
            "sha256": SHA256,
            "size_bytes": 5,
            "filename": "a.csv",
            "content_type": "text/csv",
            "metadata": {"k": "v"},
            "preview": "text",
            "preview_type": "text/plain",
            "time_unix_ns": START_NS,
            "state": "pending",
            "serializer": "pandas",
            "timestamp": START_NS,
        }
    },
    "output_models": {
        MODEL_ID: {
            "name": "model",
            "framework": "PyTorch",
            "uri": f"blob:{SHA256}",
            "path": "/m.pt",
            "host": "h",
            "size_bytes": 5,
            "sha256": SHA256,
            "time_unix_ns": START_NS,
            "tags": ["a"],
            "labels": {"cat": 1},
            "metadata": {"k": "v"},
            "config_text": "{}",
            "comment": "c",
            "iteration": 1,
            "is_package": False,
            "published": True,
            "state": "stored",
            "filename": "m.pt",
            "task": "0" * 32,
            "model": MODEL_ID,
        }
    },
    "input_models": {
        MODEL_ID: {
            "name": "model",
            "uri": "",
            "path": "/m.pt",
            "host": "h",
            "size_bytes": 5,
            "time_unix_ns": START_NS + MS,
            "tags": ["a"],
            "task": "",
            "model": "",
        }
    },
    "writers": {
        "00" * 16: {
            "attempt": 2,
            "restarts": 1,
            "started_unix_ns": START_NS,
            "continued_unix_ns": START_NS,
            "host": "h",
            "pid": 1,
            "rank": 0,
            "world_size": 2,
            "python": "3.12",
        }
    },
    "heartbeats": {"00" * 16: START_NS},
    "script": {
        "repository": "https://host/r.git",
        "branch": "b",
        "commit": "c",
        "diff": "text",
        "entry_point": "t.py",
        "working_dir": ".",
        "packages": "a==1",
        "binary": "python",
        "notebook": "text",
    },
    "container": {"image": "i", "arguments": "-v", "setup_shell_script": "s"},
    "iterations": {"last": 5},
    "of nobody": {"key": "value"},
}


def deep(depth: int, leaf: Any = 1) -> Any:
    """Return lists and maps inside each other, as deep as frames carry them."""
    value = leaf
    for level in range(depth):
        value = [value] if level % 2 else {"k": value}
    return value


HOSTILE: tuple[Any, ...] = (
    True,
    False,
    0,
    -1,
    INT64_MAX,
    INT64_MIN,
    2**64 - 1,
    0.0,
    -0.5,
    float("nan"),
    float("inf"),
    float("-inf"),
    1e308,
    5e-324,
    "",
    "text",
    "\x00",
    "é\u202e\U0001f600",
    "\\ud800",
    "x" * 70_000,
    "javascript:alert(1)",
    "blob:",
    f"blob:{SHA256}",
    b"",
    b"\xff\xfe",
    [],
    [[]],
    [{}],
    {},
    {"": {}},
    {"value": {"value": []}},
    {"value": None},
    {"value": float("nan"), "type": []},
    {"tags": [{}]},
    {"$bool": []},
    {"$tuple": 7},
    {"$dict": [1]},
    {"value": "[" * 5000, "type": "list"},
    {"value": {"$text": "[" * 5000}},
    {"value": "9" * 5000, "type": "int"},
    {"text": {}},
    ["a", 1, None, {}, [], b"b", float("nan")],
    deep(MAX_VALUE_DEPTH - 2),
    deep(MAX_VALUE_DEPTH - 2, b"\xff"),
    [None] * 1000,
    {str(number): number for number in range(1000)},
)


def hostile_records() -> Iterator[list[RecordChange]]:
    """Yield the records of some tasks: wrong as a whole, wrong in every field, and wrong in one field of each entry.

    The last kind finds what the others hide: a reader that gives an entry up at its first wrong field.
    """
    choose = random.Random(7)
    for hostile in HOSTILE:
        yield _changes(hostile, lambda value: None)
        yield _changes(hostile, list)
        yield _changes(hostile, lambda value: choose.sample(list(value), min(1, len(value))))


def _changes(wrong: Any, keys_of: Callable[[dict[str, Any]], list[str] | None]) -> list[RecordChange]:
    """Return the sound record with what is wrong under the keys that are chosen in each value; None: in its place."""
    found = []
    for section, values in SOUND.items():
        for key, value in values.items():
            fields = value if isinstance(value, dict) else {"": value}
            keys = keys_of(fields)
            spoilt = wrong if keys is None else _with(fields, keys, wrong)
            found.append(RecordChange(START_NS + MS, section, key, spoilt))
    return found


def _with(value: dict[str, Any], keys: list[str], wrong: Any) -> Any:
    if list(value) == [""]:
        # A value that is no map: a list of wrong ones is what a list may be, too.
        return [wrong] if isinstance(value[""], list) else wrong
    return {**value, **dict.fromkeys(keys, wrong)}


def odd_names(choose: random.Random) -> str:
    """Return a title, series or other name that is text, and that is all there is to be said for it."""
    return choose.choice(["", " ", "/", "a/b", "\x00", "%", "_", "é\u202e", "'\"<b>", "x" * 1000, ":monitor:gpu", "\n"])


FIGURES = (
    "{",
    "null",
    "[]",
    "7",
    '"text"',
    "{}",
    '{"data": null}',
    '{"data": 7, "layout": []}',
    '{"data": [null, 7, {"type": {}}], "layout": {"title": []}}',
    '{"data": [{"x": [1e999], "y": "no"}]}',
    "NaN",
    '{"data": [NaN, Infinity]}',
    json.dumps({"data": [{"type": "scatter", "x": [1], "y": [2**70]}]}),
    "[" * 2000 + "]" * 2000,
)


def hostile_events(choose: random.Random) -> list[FrameEvent]:
    """Return an event of each type with fields that are what the wire allows, and no more."""
    times = (0, -1, 1, INT64_MIN, INT64_MAX, START_NS)
    numbers = (0, -1, INT64_MIN, INT64_MAX, 7)
    uris = ("", "blob:", f"blob:{SHA256}", "javascript:alert(1)", "data:text/html,x", "http://[", "x" * 30_000, "\x00")

    def name() -> str:
        return odd_names(choose)

    events: list[FrameEvent] = []
    for _ in range(3):
        time, iteration = choose.choice(times), choose.choice(numbers)
        size = choose.choice((None, *numbers))
        events += [
            ConsoleLine(time, name(), choose.choice(("", "\x1b[31mred", "x" * 10_000, "\x00\r\n")), size),
            ModelSaved(time, name(), choose.choice(uris), name(), choose.choice((None, *numbers)), size),
            SingleValue(time, name(), choose.choice((0.0, float("nan"), float("inf"), 1e308))),
            Plot(time, name(), name(), iteration, choose.choice(FIGURES)),
            Plot(time, name(), name(), iteration, "", SHA256),
            Media(time, name(), name(), iteration, choose.choice(uris), name(), choose.choice(("", "a", "x/y")), size),
        ]
    return events


def hostile_points(choose: random.Random) -> dict[SeriesKey, list[tuple[int, int, float]]]:
    """Return series with odd names and with points at the ends of every range."""
    ends = (INT64_MIN, -1, 0, 1, INT64_MAX)
    values = (0.0, float("nan"), float("inf"), float("-inf"), 1.7e308, -1.7e308, 5e-324)
    keys = {
        SeriesKey(kind, odd_names(choose), odd_names(choose), odd_names(choose))
        for kind in ("scalar", "resource")
        for _ in range(3)
    }
    return {
        key: [(choose.choice(ends), choose.choice(ends), choose.choice(values)) for _ in range(6)]
        for key in sorted(keys, key=repr)
    }
