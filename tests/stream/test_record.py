"""The record's vocabulary: one home for its words, one rule for what may change, one table of the ways of a task."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from telemetry.record import (
    RUN_SECTIONS,
    TRANSITIONS,
    BlobState,
    Section,
    ShownStatus,
    TaskKey,
    TaskStatus,
    may_become,
    may_change,
)

ROOT = Path(__file__).parents[2]
PACKAGE = [*(ROOT / "telemetry").rglob("*.py"), *(ROOT / "collectors").glob("*.py"), *(ROOT / "sinks").glob("*.py")]
ENDED = [TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.STOPPED, TaskStatus.PUBLISHED, TaskStatus.PREEMPTED]
OPEN = [TaskStatus.CREATED, TaskStatus.QUEUED, TaskStatus.IN_PROGRESS]


def words(home: type) -> list[str]:
    return [value for name, value in vars(home).items() if name.isupper() and isinstance(value, str)]


@pytest.mark.parametrize("home", [Section, TaskKey, BlobState])
def test_a_word_has_one_meaning(home: type) -> None:
    assert len(words(home)) == len(set(words(home))) > 0


@pytest.mark.parametrize("home", [Section, TaskKey, BlobState, ShownStatus])
def test_every_word_is_used(home: type) -> None:
    """A status need not be written by us: the table of the ways has each."""
    names = {name for name in vars(home) if name.isupper()}
    trees = (ast.parse(path.read_text("utf-8")) for path in PACKAGE if path != ROOT / "telemetry" / "record.py")
    used = {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == home.__name__
    }
    assert used == names


@pytest.mark.parametrize("section", sorted(RUN_SECTIONS))
def test_what_a_task_ran_with_stays_once_it_has_ended(section: str) -> None:
    assert [may_change(section, status) for status in ENDED] == [False] * len(ENDED)
    assert [may_change(section, status) for status in OPEN] == [True] * len(OPEN)
    assert may_change(section, "")


@pytest.mark.parametrize("section", sorted(RUN_SECTIONS))
def test_by_hand_only_a_draft_is_changed_as_the_program_would_not_see_it(section: str) -> None:
    assert [status for status in ["", *TaskStatus] if may_change(section, status, by_hand=True)] == ["created"]


@pytest.mark.parametrize("section", [Section.TASK, Section.PROPERTIES, Section.ARTIFACTS, "a section of the user's"])
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_name_a_tag_and_a_property_may_change_at_any_time(section: str, by_hand: bool) -> None:
    assert all(may_change(section, status, by_hand=by_hand) for status in ["", *TaskStatus])


@pytest.mark.parametrize("section", [Section.WRITERS, Section.HEARTBEATS])
def test_what_the_programs_tell_of_themselves_is_nobody_elses_to_change(section: str) -> None:
    assert not any(may_change(section, status) for status in ["", *TaskStatus])


def test_every_status_has_its_ways_and_none_leads_to_itself() -> None:
    assert set(TRANSITIONS) == set(TaskStatus)
    assert not any(status in following for status, following in TRANSITIONS.items())
    # Each can be reached from a draft.
    reached, waiting = {TaskStatus.CREATED}, [TaskStatus.CREATED]
    while waiting:
        new = TRANSITIONS[waiting.pop()] - reached
        reached |= new
        waiting += new
    assert reached == set(TaskStatus)


@pytest.mark.parametrize(
    ("status", "following", "may"),
    [
        ("created", "in_progress", True),
        ("", "in_progress", True),
        ("completed", "published", True),
        ("failed", "published", False),
        ("created", "published", False),
        ("", "published", False),
        ("published", "published", True),
        ("published", "in_progress", False),
        ("in_progress", "preempted", True),
        ("preempted", "in_progress", True),
        ("a word of a later release", "completed", True),
        ("a word of a later release", "published", False),
        ("completed", "a word of a later release", False),
    ],
)
def test_from_where_to_where_a_task_may_go(status: str, following: str, may: bool) -> None:
    assert may_become(status, following) is may


def diagram() -> str:
    """Return the table of the ways as a state diagram in Mermaid's words."""
    order = list(TaskStatus)
    lines = ["stateDiagram-v2", "    [*] --> created: create, clone", "    [*] --> in_progress: init"]
    for status in order:
        lines += [f"    {status} --> {other}" for other in order if other in TRANSITIONS[status]]
    return "\n".join(lines)


def test_the_diagram_in_the_docs_is_the_table() -> None:
    page = (ROOT / "docs" / "lifecycle.md").read_text("utf-8")
    (drawn,) = re.findall(r"```mermaid\n(.*?)\n```", page, flags=re.DOTALL)
    assert drawn == diagram()


# Not the record's words: columns of tables, keys of the API's answers and fields of queries that happen to sound alike.
_ELSEWHERE = {
    "telemetry/server/store/schema.py": {"created", "published"},
    "telemetry/server/store/state.py": {"created"},
    "telemetry/server/store/table.py": {"created", "completed", "published", "parameters"},
    "telemetry/server/store/queries.py": {"created", "completed"},
    "telemetry/server/store/task_filter.py": {"created", "completed"},
    "telemetry/server/store/record.py": {"published"},
    "telemetry/server/store/conditions.py": {"published"},
    "telemetry/sdk/task/task_queries.py": {"created", "completed"},
    "telemetry/export/__init__.py": {"created"},
    # A collector, a reading of memory, Azure's word for a bucket, a part of a terminal's sequence.
    "collectors/script.py": {"script"},
    "collectors/machine.py": {"container"},
    "telemetry/storage/bucket.py": {"container"},
    "collectors/terminal_lines.py": {"parameters"},
    # A model's, not a task's.
    "telemetry/sdk/handles/models.py": {"published"},
    "telemetry/sdk/handles/model_reading.py": {"published"},
}


def test_a_status_and_a_section_are_spelled_in_one_file() -> None:
    # "task", "writers", "labels", "name" and the like are words of other things, too.
    sections = {*RUN_SECTIONS - {Section.LABELS}, Section.ARTIFACTS, Section.HEARTBEATS, Section.OUTPUT_MODELS}
    keys = {TaskKey.CONTINUED, TaskKey.INITIAL_ITERATION, TaskKey.RESET, TaskKey.STATUS_MESSAGE}
    banned = {*map(str, TaskStatus), *map(str, ShownStatus), *sections, *keys}
    found: dict[str, set[str]] = {}
    for path in PACKAGE:
        name = path.relative_to(ROOT).as_posix()
        if name == "telemetry/record.py":
            continue
        tree = ast.parse(path.read_text("utf-8"))
        sentences = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in sentences)
        spelled = {node.value for node in constants if isinstance(node.value, str)}
        if spelled & banned:
            found[name] = {str(word) for word in spelled & banned}
    # Neither more, nor an exception that nobody needs any more.
    assert found == _ELSEWHERE
