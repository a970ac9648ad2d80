"""docs/sdk/ and docs/quickstart.md: nothing public is missing from the one, and the other's words are true."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from sdk_support import only_session, read_story, run_program

from telemetry import Logger, Task
from telemetry.record import TaskStatus
from telemetry.sdk.launch.options import TASK_TYPES

DOCS = Path(__file__).parents[2] / "docs"
SDK = "\n".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "sdk").glob("*.md")))
QUICKSTART = (DOCS / "quickstart.md").read_text(encoding="utf-8")


def public(cls: type) -> list[str]:
    return [name for name in dir(cls) if not name.startswith("_")]


@pytest.mark.parametrize("name", list(inspect.signature(Task.init).parameters))
def test_every_argument_of_init_is_documented(name: str) -> None:
    assert f"`{name}`" in SDK


@pytest.mark.parametrize("name", sorted({*public(Task), *public(Logger)}))
def test_every_public_name_is_documented(name: str) -> None:
    assert re.search(rf"\b{name}\b", SDK)


@pytest.mark.parametrize("word", [*TASK_TYPES, *(status.value for status in TaskStatus)])
def test_every_type_and_status_is_documented(word: str) -> None:
    assert word in SDK


# task-page.md has a row for each group of a call's arguments; tests/task_page/test_page_table.py looks at it.
PROSE = sorted(path for path in (DOCS / "sdk").glob("*.md") if path.name != "task-page.md")


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_no_table_says_a_thing_twice(path: Path) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", path.read_text(encoding="utf-8"), re.MULTILINE):
        named = [re.split(r"(?<!\\)\|", row)[1].strip() for row in table.splitlines()[2:]]
        # The names alone: `add_tags(list)` is `add_tags`.
        calls = [name for cell in named for name in re.findall(r"`([a-z_]+)\(", cell)]
        assert len(named) == len(set(named)), path
        assert len(calls) == len(set(calls)), path


def test_the_quickstarts_program_runs_as_it_stands(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", QUICKSTART, re.DOTALL)

    done = run_program(program, tmp_path / "state")

    assert done.returncode == 0, done.stderr
    story = read_story(only_session(tmp_path / "state"))
    assert (story.task["project"], story.task["name"]) == ("examples", "first")
    assert len(story.scalars["loss", "train"]) == 1000
    first, last = done.stderr.splitlines()
    assert first.startswith('telemetry: task "first" -> ')
    counts = r"1,\d{3} events logged: 1,\d{3} delivered"
    assert re.fullmatch(rf"telemetry: completed\. {counts}\. See it with: telemetry server", last)
