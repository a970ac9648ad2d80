"""docs/lifecycle.md: every promise names a test that exists, and every reason is one of the ledger's."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from guest_programs import PROGRAMS

from telemetry.ledger import DropReason

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "lifecycle.md").read_text("utf-8")


def test_every_promise_names_a_test_that_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 30
    for file, test in named:
        tree = ast.parse(next(TESTS.rglob(file)).read_text("utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        assert test in functions, f"{file} has no {test}"


def rows_of(first_head: str) -> list[str]:
    """Return the rows of all tables whose first column has this head."""
    tables = re.findall(rf"^\| {first_head} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [row for table in tables for row in table.splitlines()]


def test_every_row_of_the_tables_of_faults_ends_in_a_test() -> None:
    rows = rows_of("fault")
    assert len(rows) > 40
    assert [row for row in rows if "`test_" not in row.split("|")[-2]] == []


def test_every_drop_reason_is_explained() -> None:
    assert {row.split("`")[1] for row in rows_of("reason")} == {reason.value for reason in DropReason}


def test_every_program_that_runs_with_us_and_without_us_is_named() -> None:
    named = {name for row in rows_of("programs") for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert named == {program.name for program in PROGRAMS}
