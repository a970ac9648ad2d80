"""docs/sdk/task-page.md: every test that it names is there, and every argument of a call that it lists is listed."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from pathlib import Path

import pytest

import telemetry
from telemetry.sdk.handles.artifacts import Artifact

TESTS = Path(__file__).parents[1]
TABLE = (TESTS.parent / "docs" / "sdk" / "task-page.md").read_text(encoding="utf-8")
ROWS = [
    (cells[0].strip(), cells[1].strip(), cells[2].strip())
    for line in TABLE.splitlines()
    if line.startswith("| ") and not line.startswith("| call ")
    for cells in [line.strip("|").split("|")]
]


def functions_of(file: str) -> set[str]:
    (path,) = TESTS.rglob(file)
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=[f"{call} {arguments}"[:60] for call, arguments, _ in ROWS])
def test_every_row_names_tests_that_are_there(row: tuple[str, str, str]) -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[2])
    assert named and len(named) == row[2].count("`") // 2
    for file, test in named:
        assert test in functions_of(file), f"{file} has no {test}"


def test_every_argument_of_each_call_is_in_its_rows_and_no_other() -> None:
    listed: dict[str, set[str]] = defaultdict(set)
    for call, arguments, _ in ROWS:
        found = re.fullmatch(r"`(\w+(?:\.\w+)?)`", call)
        if found is not None:
            listed[found[1]] |= set(re.findall(r"`(\w+)`", arguments))
    assert len(listed) > 35
    for call, named in listed.items():
        owner, _, name = call.partition(".")
        cls = Artifact if owner == "Artifact" else getattr(telemetry, owner)
        member = inspect.getattr_static(cls, name) if name else cls
        if isinstance(member, property) or (not name and not callable(member)):
            continue
        signature = inspect.signature(getattr(cls, name) if name else cls)
        assert named == set(signature.parameters) - {"self"}, call
