"""The facade: its names are real, and importing it costs next to nothing."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import telemetry
from telemetry.sdk.launch import plugins

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", telemetry.__all__)
def test_every_name_is_there_and_is_listed(name: str) -> None:
    assert getattr(telemetry, name) is not None
    assert name in dir(telemetry)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = telemetry.Nothing


def test_type_checkers_see_the_names_that_are_looked_up() -> None:
    """Then the imports under TYPE_CHECKING, __all__ and the table say the same."""
    tree = ast.parse((ROOT / "telemetry" / "__init__.py").read_text())
    seen = {
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
        if node.module.startswith("telemetry.")
    }

    assert seen == {(home, name) for name, home in telemetry._HOME_OF.items()}
    assert set(telemetry.__all__) == {*telemetry._HOME_OF, "__version__"}
    assert telemetry.__all__ == sorted(telemetry.__all__)


def test_errors_all_come_from_the_facade_too() -> None:
    errors = importlib.import_module("telemetry.errors")

    assert set(errors.__all__) <= set(telemetry.__all__)


def test_the_version_is_the_distributions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert telemetry.__version__ == project["version"]


def run_python(source: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def test_importing_it_starts_no_thread_and_imports_nothing_of_weight() -> None:
    brought = "import sys, threading; before = set(sys.modules); import {}\nprint(*(set(sys.modules) - before))"
    heavy = run_python(brought.format("telemetry") + "\nassert threading.active_count() == 1")
    of_typing = run_python(brought.format("typing"))

    assert {name for name in heavy if name.startswith("telemetry")} == {"telemetry"}
    # typing and what it needs, which is more in some Pythons than in others; that is all.
    assert set(heavy) <= {"telemetry", *of_typing}


def test_the_task_brings_no_aiohttp_psutil_or_numpy_with_it() -> None:
    loaded = run_python("import sys; from telemetry import Task; print(*sys.modules)")

    assert not {"aiohttp", "psutil", "numpy", "uvloop", "sqlite3"} & set(loaded)


def test_built_in_plugins_are_the_declared_ones() -> None:
    """Then a sink of ours is found without asking importlib.metadata, and by the same name as with it."""
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]

    assert entry_points["telemetry.sinks"] == plugins.BUILT_IN_SINKS
    assert tuple(sorted(entry_points["telemetry.collectors"])) == tuple(sorted(plugins.BUILT_IN_COLLECTORS))
