"""The house's own rules (docs/architecture.md), held as data: who imports whom, what an import costs, how big it is."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "telemetry": ROOT / "telemetry",
    "telemetry.collectors": ROOT / "collectors",
    "telemetry.sinks": ROOT / "sinks",
}

# A module or package by the longest name that fits, and its floor: it imports from below, never from above.
FLOORS = {
    "telemetry.errors": 0,
    "telemetry.record": 0,
    "telemetry.events": 0,
    "telemetry.settings": 0,
    "telemetry.retry": 0,
    "telemetry.ledger": 0,
    "telemetry.disk": 0,
    "telemetry.values": 0,
    "telemetry.shapes": 0,
    "telemetry.clock": 0,
    "telemetry.process": 0,
    "telemetry.client.types": 0,
    "telemetry.network": 1,
    "telemetry.protocols": 1,
    "telemetry.payload": 1,
    "telemetry.fold": 1,
    "telemetry.iterations": 1,
    "telemetry.wire": 1,
    "telemetry.queue": 1,
    "telemetry.process.outermost": 2,
    "telemetry.process.signals": 2,
    "telemetry.network.proxies": 2,
    "telemetry.storage": 2,
    "telemetry.sessions": 2,
    "telemetry.journal": 2,
    "telemetry.client": 2,
    "telemetry.collectors": 2,
    "telemetry.sinks": 2,
    "telemetry.process.lifecycle": 3,
    "telemetry.lane": 3,
    "telemetry.batcher": 3,
    "telemetry.pipeline": 3,
    "telemetry.sdk": 4,
    "telemetry.server": 4,
    "telemetry.sessions.readdress": 4,
    "telemetry.sessions.importing": 4,
    "telemetry.sessions.importing_blobs": 4,
    "telemetry.sessions.importing_report": 4,
    "telemetry.export": 4,
    "telemetry.testing": 4,
    "telemetry.testing_contract": 4,
    "telemetry.commands": 5,
    "telemetry.cli": 5,
    "telemetry.__main__": 5,
}

# Inside a package that has floors of its own, its rooms from the ground up: each stands on those before it.
ROOMS = {
    "telemetry.sdk": [
        "identity",
        "record",
        "parameters",
        "reading",
        "bytes",
        "models",
        "reports",
        "launch",
        "cores",
        "handles",
        "task",
    ],
}

# Within a floor, modules may import each other but for these: (who, what it must not know).
APART = [
    ("telemetry.collectors", "telemetry.sinks"),
    ("telemetry.sinks", "telemetry.collectors"),
    ("telemetry.lane", "telemetry.collectors"),
    ("telemetry.lane", "telemetry.sinks"),
    ("telemetry.batcher", "telemetry.collectors"),
    ("telemetry.batcher", "telemetry.sinks"),
    ("telemetry.pipeline", "telemetry.collectors"),
    ("telemetry.pipeline", "telemetry.sinks"),
    ("telemetry.process.lifecycle", "telemetry.pipeline"),
    ("telemetry.lane", "telemetry.pipeline"),
    ("telemetry.batcher", "telemetry.pipeline"),
    ("telemetry.sinks.http", "telemetry.sinks"),
    ("telemetry.sinks.local_zip", "telemetry.sinks"),
    ("telemetry.sinks.stdout", "telemetry.sinks"),
    ("telemetry.client", "telemetry.journal"),
    ("telemetry.server", "telemetry.pipeline"),
    ("telemetry.server", "telemetry.batcher"),
    ("telemetry.server", "telemetry.lane"),
    ("telemetry.server", "telemetry.queue"),
    ("telemetry.server", "telemetry.sdk"),
    ("telemetry.server", "telemetry.sinks"),
    ("telemetry.server", "telemetry.collectors"),
    ("telemetry.sdk", "telemetry.server"),
    ("telemetry.collectors", "telemetry.journal"),
    ("telemetry.collectors", "telemetry.client"),
]

# Who speaks SQL, by what of the store is its own; nobody else imports SQLAlchemy or sqlite3. The next implementation of
# a seam is a line here; docs/architecture.md says what of the records is still spread over many.
SPEAKS_SQL = {
    "the database itself": {"database", "schema", "migrate", "moving", "backup", "compact"},
    "FrameRanges": {"sql_ranges"},
    "Log": {"log"},
    "SealedPoints": {"sql_points"},
    "the records: writing": {"writer", "state", "rows", "fold", "reset", "deletion", "gate", "summaries"},
    "the records: reading": {
        *("parts", "attempts", "reads", "reports", "export", "status", "model_index", "retention"),
        *("table", "columns", "conditions", "queries", "task_filter"),
    },
    "who holds which blob": {"blob_refs", "blob_store"},
}
# These hand on the handle of a transaction, and know nothing more of it.
HANDS_ON = {"seams", "point_store", "store"}
# Tables that one module reads and writes. Those that are named otherwise, and why.
OWN_TABLES = {
    "frame_ranges": "sql_ranges",
    "frames": "log",
    "chunks": "sql_points",
    "chunk_data": "sql_points",
    "blocks": "sql_points",
}
NAME_THEM = {"schema": "it defines them", "moving": "it fills them of an older store", "deletion": "to leave them out"}

MAX_LINES = 600
MAX_FILES = 25
# The store's tables are read by all of its files: to part them would hide that.
ONE_ROOM = {"telemetry/server/store"}
MAX_FUNCTION_LINES = 60


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *parts])
            yield name.removesuffix(".__init__"), path


MODULES = dict(modules())
FACADE = "telemetry"


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def floor_of(name: str) -> int:
    fitting = [module for module in FLOORS if within(name, module)]
    assert fitting, f"{name} has no floor: give it one in tests/docs/test_structure.py and docs/architecture.md"
    return FLOORS[max(fitting, key=len)]


def imports_of(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Yield (module of ours, line, is it inside a function) of each import."""
    tree = ast.parse(path.read_text("utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            base = node.module or ""
            names = [submodule if (submodule := f"{base}.{alias.name}") in MODULES else base for alias in node.names]
        for name in names:
            if within(name, FACADE):
                yield name, node.lineno, id(node) in inside


@pytest.mark.parametrize("name", [name for name in MODULES if name != FACADE])
def test_a_module_imports_from_its_floor_or_below_and_never_the_facade(name: str) -> None:
    for imported, line, _ in imports_of(MODULES[name]):
        assert imported != FACADE, f"{name}:{line} imports the facade"
        assert floor_of(imported) <= floor_of(name), f"{name}:{line} imports {imported} from a floor above"
        if floor_of(name) == 0:
            assert imported in {
                "telemetry.errors",
                "telemetry.process.interrupts",
                "telemetry.disk",
                "telemetry.process.lazy",
                "telemetry.events",
                "telemetry.record",
                "telemetry.process.threads",
            } or within(imported, name), f"{name}:{line} imports {imported}: floor 0 stands alone"
        for who, what in APART:
            if within(name, who) and within(imported, what) and imported not in {name, who}:
                raise AssertionError(f"{name}:{line} must not know {imported}")


@pytest.mark.parametrize("name", [name for name in MODULES if any(name.startswith(f"{package}.") for package in ROOMS)])
def test_a_room_stands_on_those_below_it(name: str) -> None:
    """Imports inside functions and for types alone are counted."""
    (package,) = (package for package in ROOMS if name.startswith(f"{package}."))
    rooms = ROOMS[package]
    own = rooms.index(name.removeprefix(f"{package}.").partition(".")[0])
    for imported, line, _ in imports_of(MODULES[name]):
        if imported.startswith(f"{package}."):
            room = imported.removeprefix(f"{package}.").partition(".")[0]
            assert rooms.index(room) <= own, f"{name}:{line} climbs to {imported}"


def test_there_is_no_circle_of_imports() -> None:
    """Neither inside functions nor for types alone: who would read one module of a circle has to read them all."""
    sorter = TopologicalSorter(
        {name: {imported for imported, _, _ in imports_of(path)} - {name} for name, path in MODULES.items()}
    )
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_every_floor_and_every_wall_is_about_a_module_that_exists() -> None:
    named = {*FLOORS, *(name for pair in APART for name in pair)}
    missing = {name for name in named if not any(within(module, name) for module in MODULES)}
    assert not missing


def test_the_facade_imports_nothing_until_it_is_used() -> None:
    tree = ast.parse(MODULES[FACADE].read_text("utf-8"))
    eager = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {getattr(node, "module", None) for node in eager} <= {"__future__", "typing"}


IMPORT_COST = """
import sys, threading
before = threading.active_count()
{statement}
assert threading.active_count() == before, threading.enumerate()
heavy = {{"aiohttp", "psutil", "asyncio", "uvloop", "numpy", "sqlalchemy", "plotly", "aiofiles", "orjson", "msgpack"}}
print(sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import telemetry", set()),
        ("import telemetry; dir(telemetry); telemetry.__all__", set()),
        ("from telemetry import Task", set()),
        ("from telemetry import Logger", set()),
        ("from telemetry import Task; Task.current_task(); Task.is_offline()", set()),
        ("import telemetry.pipeline", {"asyncio", "aiofiles", "msgpack"}),
        ("import telemetry.settings, telemetry.errors", set()),
    ],
)
def test_an_import_starts_no_thread_and_loads_nothing_heavy(statement: str, loaded: set[str]) -> None:
    command = [sys.executable, "-c", IMPORT_COST.format(statement=statement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(ast.literal_eval(done.stdout)) <= loaded


RUN_COST = """
import sys
from telemetry import Task
task = Task.init("p", "n")
task.flush()
before = set(sys.modules)
task.get_logger().report_scalar("loss", "train", 0.5, 0)
task.close()
print(sorted(name for name in set(sys.modules) - before if name.startswith("telemetry")))
"""


def test_a_task_that_has_begun_imports_nothing_to_report_and_to_end(tmp_path: Path) -> None:
    environment = {**os.environ, "TELEMETRY_DIR": str(tmp_path), "TELEMETRY_QUIET": "1", "TELEMETRY_MODE": "offline"}
    command = [sys.executable, "-c", RUN_COST]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "[]\n")


@pytest.mark.parametrize("name", MODULES)
def test_all_names_what_is_there(name: str) -> None:
    if name == "telemetry.__main__":
        return  # to import it is to run it
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", None)
    if exported is None:
        return
    assert len(exported) == len(set(exported))
    missing = [attribute for attribute in exported if not hasattr(module, attribute)]
    assert not missing


@pytest.mark.parametrize("name", [name for name, floor in FLOORS.items() if floor <= 3 and name in MODULES])
def test_every_core_module_says_what_it_offers_and_what_it_is_for(name: str) -> None:
    module = importlib.import_module(name)
    if MODULES[name].name != "__init__.py":
        assert module.__doc__
        assert module.__all__


@pytest.mark.parametrize("name", MODULES)
def test_no_file_and_no_function_grows_beyond_reading(name: str) -> None:
    text = MODULES[name].read_text("utf-8")
    assert len(text.splitlines()) <= MAX_LINES, f"{name} is too long: a part of it wants a name"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            lines = (node.end_lineno or 0) - first.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{name}.{node.name} has {lines} lines"


def test_no_folder_holds_more_than_is_taken_in_at_a_glance() -> None:
    for top in ("telemetry", "collectors", "sinks", "tests", "bench", "docs", "examples"):
        for folder, _, files in os.walk(ROOT / top):
            name = Path(folder).relative_to(ROOT).as_posix()
            kept = [file for file in files if not file.endswith(".pyc")]
            assert len(kept) <= MAX_FILES or name in ONE_ROOM, f"{name} has {len(kept)} files: it wants rooms"


def test_nothing_fails_silently() -> None:
    """`except: pass` needs its reason beside it, and nobody catches everything without saying why."""
    for name, path in MODULES.items():
        lines = path.read_text("utf-8").splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if not isinstance(node, ast.ExceptHandler):
                continue
            assert node.type is not None, f"{name}:{node.lineno} catches everything"
            if isinstance(node.body[0], ast.Pass) and len(node.body) == 1:
                around = "\n".join(lines[node.lineno - 1 : node.body[0].lineno])
                assert "#" in around, f"{name}:{node.lineno} passes without a reason"


def test_the_packages_that_are_installed_are_those_on_the_disk() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    declared = document["tool"]["setuptools"]
    on_disk = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(declared["packages"]) == on_disk
    mapped = {name: ROOT / folder for name, folder in declared["package-dir"].items()}
    assert mapped == FOLDERS
    # Nothing of ours lies in a folder that is no package
    assert all((path.parent / "__init__.py").is_file() for path in MODULES.values())


def test_the_floors_are_drawn_in_the_architecture() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and line[2].isdigit()]
    drawn = {name.strip(): int(row[2]) for row in rows for name in row.split("|")[2].split(",")}
    for name, floor in FLOORS.items():
        short = name.removeprefix("telemetry.")
        if short != "__main__":
            assert drawn.get(short) == floor, f"docs/architecture.md does not have {short} on floor {floor}"


STORE = "telemetry.server.store"


@pytest.mark.parametrize("name", MODULES)
def test_nobody_speaks_sql_but_who_is_named(name: str) -> None:
    own = name.removeprefix(f"{STORE}.")
    if within(name, STORE) and own in set().union(*SPEAKS_SQL.values()):
        return
    imported = [
        (module, [alias.name for alias in node.names])
        for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for module in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if module.partition(".")[0] in ("sqlalchemy", "sqlite3")
    ]
    handed_on = [("sqlalchemy", ["Connection"])] if within(name, STORE) and own in HANDS_ON else []
    assert imported == handed_on, f"{name} speaks SQL"


def test_those_who_speak_sql_are_there_and_do() -> None:
    for own in set().union(*SPEAKS_SQL.values()):
        text = MODULES[f"{STORE}.{own}"].read_text("utf-8")
        assert "sqlalchemy" in text or "sqlite3" in text, f"{own} speaks no SQL any more"


def test_ranges_log_and_sealed_points_are_read_and_written_by_one_module_each() -> None:
    for name, path in MODULES.items():
        own = name.removeprefix(f"{STORE}.")
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "schema" and node.attr in OWN_TABLES:
                assert own in {OWN_TABLES[node.attr], *NAME_THEM}, f"{name}:{node.lineno} reads or writes {node.attr}"


def test_zips_are_opened_by_the_bounded_reader_alone() -> None:
    """Whoever reads a zip by zipfile itself takes whatever a stranger has put into its directory."""
    for name, path in MODULES.items():
        if name == "telemetry.sessions.archive":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ZipFile"):
                assert [ast.unparse(mode) for mode in node.args[1:2]] == ["'w'"], f"{name}:{node.lineno} reads a zip"
