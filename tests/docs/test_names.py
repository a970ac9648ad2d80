"""Names: a type has one home, a time says its unit, and each word of the house is in the glossary."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [path for folder in ("telemetry", "collectors", "sinks") for path in sorted((ROOT / folder).rglob("*.py"))]
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in FILES}

# What says nothing of seconds or nanoseconds, of a clock or a span.
BARE_TIMES = {
    *("now", "time", "times", "timestamp", "moment", "since", "until", "deadline"),
    *("timeout", "interval", "period", "delay", "duration", "elapsed"),
    *("first_time", "last_time", "start_time", "end_time", "active_time", "sent_time"),
}
# (where, name) -> why it stays.
BARE_TIMES_THAT_STAY = {
    (
        "telemetry/sdk/task/task.py",
        "timeout",
    ): "ClearML's Task.close and flush callers write it; the docstring has the unit",
    ("telemetry/sdk/reports/logger.py", "period"): "Logger.set_flush_period of ClearML",
    ("telemetry/sdk/handles/artifacts.py", "timestamp"): "Artifact.timestamp of ClearML, a datetime",
}

# Words that mean more here than in a dictionary, each with a row in docs/glossary.md.
HOUSE_WORDS = [
    # events and their way
    *("task", "project", "event", "collector", "report", "EventQueue", "batcher", "Batch", "Frame", "writer"),
    *("sequence number", "sink", "ability", "lane", "delivered", "ledger", "flush", "drain", "close"),
    # what is on the disk
    *("journal", "segment", "session folder", "session zip", "part", "spool", "leftovers", "salvage", "new address"),
    *("watched folder", "artifact", "parcel", "deposit", "depot", "upload", "carrier", "storage", "target", "blob"),
    # whose task it is
    *("core", "running task", "stored task", "view", "membership", "lineage", "leader", "rank", "attempt", "cut"),
    *("outermost frame", "heartbeat"),
    # the record
    *("record", "fold", "reset", "entry", "connected", "overrides", "fidelity"),
    # series and the store
    *("series", "series key", "iteration", "curve", "run", "chunk", "tail", "seal", "merge", "overview", "band"),
    *("gate", "ranges"),
    # the server
    *("feed", "viewer", "page", "result page", "task queue"),
]


def types_of(tree: ast.Module) -> Iterator[str]:
    """Yield the classes and type aliases of a module; type variables are placeholders, and no types."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.annotation, ast.Name)
            and node.annotation.id == "TypeAlias"
        ):
            yield ast.unparse(node.target)
        elif isinstance(node, ast.Assign) and isinstance(node.value, (ast.Subscript, ast.BinOp)):
            # `OnBlob = Callable[...]`, `Source = Path | bytes`: an alias is in capitals and small letters.
            yield from (
                name for name in map(ast.unparse, node.targets) if name.lstrip("_")[:1].isupper() and not name.isupper()
            )


def test_the_name_of_a_type_has_one_home() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path, tree in TREES.items():
        for name in types_of(tree):
            homes[name.lstrip("_")].append(path)
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def bare_times(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield (name, line) of parameters, fields and attributes that hold a time and do not say its unit."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            # A datetime knows its unit.
            of_a_class = node.annotation is not None and "datetime" in ast.unparse(node.annotation)
            name = "" if of_a_class else node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        else:
            continue
        if name.lstrip("_") in BARE_TIMES:
            yield name, node.lineno


def test_a_time_says_its_unit() -> None:
    found = {(path, name): line for path, tree in TREES.items() for name, line in bare_times(tree)}
    assert {key: line for key, line in found.items() if key not in BARE_TIMES_THAT_STAY} == {}
    assert set(BARE_TIMES_THAT_STAY) <= set(found), "an exception that nobody needs any more"


def test_each_word_of_the_house_is_in_the_glossary() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ") and not line.startswith("| word")]
    words = [word.strip() for row in rows for word in row.split(",")]
    assert [word for word in HOUSE_WORDS if word not in words] == []
    assert len(words) == len(set(words)), "a word has two rows"
