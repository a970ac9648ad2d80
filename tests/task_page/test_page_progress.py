"""The Task page, "Tracking Task Progress"."""

from __future__ import annotations

import pytest
from page_support import Way


def test_the_page_s_sample(way: Way, capsys: pytest.CaptureFixture[str]) -> None:
    task = way.init(project_name="examples", task_name="Track experiment progress")
    task.set_progress(0)
    # task doing stuff
    task.set_progress(50)
    print(task.get_progress())
    # task doing more stuff
    task.set_progress(100)
    # then
    assert capsys.readouterr().out == "50.0\n"
    assert way.read(task).get_progress() == 100.0


@pytest.mark.parametrize("progress", [12.5, 99.9, 0])
def test_progress_may_be_a_fraction_and_reads_back_exactly(way: Way, progress: float) -> None:
    task = way.init(project_name="examples", task_name="progress")
    task.set_progress(progress)
    assert way.read(task).get_progress() == progress


def test_what_is_no_percentage_changes_nothing(way: Way) -> None:
    task = way.init(project_name="examples", task_name="progress")
    task.set_progress(10)
    task.set_progress(101)
    task.set_progress("half")  # type: ignore[arg-type]
    assert task.ledger().dropped == {"invalid": 2}
    assert way.read(task).get_progress() == 10.0


def test_tags_and_comment_read_back(way: Way) -> None:
    task = way.init(project_name="examples", task_name="tags", tags=["b", "a"])
    task.add_tags(["c", "a"])
    assert task.get_tags() == ["b", "a", "c"]
    task.set_comment("a comment")
    read = way.read(task)
    assert read.get_tags() == ["b", "a", "c"]
    assert read.status == "completed"
