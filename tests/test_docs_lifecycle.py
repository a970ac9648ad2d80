"""docs/lifecycle.md: every promise names a test that exists, and every reason is one of the ledger's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from telemetry.ledger import DropReason

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "lifecycle.md").read_text("utf-8")


def test_every_promise_names_a_test_that_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 30
    for file, test in named:
        tree = ast.parse(next(TESTS.rglob(file)).read_text("utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        assert test in functions, f"{file} has no {test}"


def test_every_row_of_the_tables_of_faults_ends_in_a_test() -> None:
    faults = PAGE.partition("## Bad input")[2]
    rows = [line for line in faults.splitlines() if line.startswith("| ") and not line.startswith("| fault")]
    assert all("`test_" in row.split("|")[-2] for row in rows)


def test_every_drop_reason_is_explained() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == {reason.value for reason in DropReason}
