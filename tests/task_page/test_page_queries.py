"""The page's sections "Accessing Tasks", "Querying / Searching Tasks" and "Tag Filters", against a server.

Queries are about the tasks of other programs, so they have no meaning offline: there they say so.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from page_support import Way

from telemetry.errors import ConfigurationError
from telemetry.sdk.task.task import Task


def make(way: Way, name: str, *, project: str = "examples", archived: bool = False, **arguments: Any) -> Task:
    """Run a task to its end; `scalars` {(title, series): values} are reported."""
    scalars = arguments.pop("scalars", {})
    comment = arguments.pop("comment", None)
    parameters = arguments.pop("parameters", None)
    task = way.init(project_name=project, task_name=name, reuse_last_task_id=False, **arguments)
    for (title, series), values in scalars.items():
        for iteration, value in enumerate(values):
            task.get_logger().report_scalar(title, series, value, iteration)
    if comment is not None:
        task.set_comment(comment)
    if parameters is not None:
        task.set_parameters(parameters)
    if archived:
        task._record.change("task", "system_tags", ["archived"])
    task.close()
    return task


def names(tasks: list[Task]) -> list[str]:
    return [task.name for task in tasks]


# -- Accessing Tasks


def test_a_task_is_found_by_its_id(server_way: Way) -> None:
    made = make(server_way, "artifacts")
    a_task = Task.get_task(task_id=made.id)
    assert a_task is not None
    assert (a_task.id, a_task.name, a_task.project, a_task.status) == (made.id, "artifacts", "examples", "completed")


def test_an_id_that_there_is_not_is_an_error(server_way: Way) -> None:
    make(server_way, "one")
    for task_id in ("123456deadbeef", "f" * 32):
        with pytest.raises(ValueError, match=f"there is no task '{task_id}'"):
            Task.get_task(task_id=task_id)


def test_the_current_task_is_itself_by_its_id(server_way: Way) -> None:
    task = server_way.init(project_name="examples", task_name="one")
    assert Task.get_task(task_id=task.id) is task


def test_a_task_is_found_by_project_and_name_and_of_several_the_last_modified(server_way: Way) -> None:
    first = make(server_way, "artifacts")
    second = make(server_way, "artifacts")
    make(server_way, "artifacts", project="elsewhere")
    make(server_way, "artifacts 2")
    a_task = Task.get_task(project_name="examples", task_name="artifacts")
    assert a_task is not None and a_task.id == second.id
    # when the first one is modified
    again = Task.get_task(task_id=first.id)
    assert again is not None
    again.add_tags(["looked at"])
    a_task = Task.get_task(project_name="examples", task_name="artifacts")
    assert a_task is not None and a_task.id == first.id


def test_a_name_or_project_that_there_is_not_is_none(server_way: Way) -> None:
    make(server_way, "artifacts")
    assert Task.get_task(project_name="examples", task_name="artifact") is None
    assert Task.get_task(project_name="exam", task_name="artifacts") is None
    assert Task.get_task(project_name="Nope", task_name="artifacts") is None
    assert Task.get_task(task_name="artifacts", tags=["a"]) is None


def test_an_archived_task_is_found_only_where_no_other_is(server_way: Way) -> None:
    kept = make(server_way, "twice")
    make(server_way, "twice", archived=True)
    put_away = make(server_way, "once", archived=True)
    found = Task.get_task(project_name="examples", task_name="twice")
    assert found is not None and found.id == kept.id
    found = Task.get_task(project_name="examples", task_name="once")
    assert found is not None and found.id == put_away.id
    assert Task.get_task(project_name="examples", task_name="once", allow_archived=False) is None


def test_a_task_without_anything_to_look_for_is_an_error(server_way: Way) -> None:
    with pytest.raises(ValueError, match="needs a task_id, or a project_name and task_name"):
        Task.get_task()


# -- Querying / Searching Tasks


def test_the_first_sample_of_the_page(server_way: Way) -> None:
    make(server_way, "one", tags=["included_tag"])
    make(server_way, "two", tags=["included_tag", "excluded_tag"])
    make(server_way, "three")
    task_list = Task.get_tasks(
        task_ids=None,  # type Optional[Sequence[str]]
        project_name=None,  # Optional[str]
        task_name=None,  # Optional[str]
        allow_archived=True,  # [bool]
        task_filter=None,  # Optional[Dict]#
        # tasks with tag `included_tag` or without tag `excluded_tag`
        tags=["included_tag", "-excluded_tag"],
    )
    assert names(task_list) == ["one"]


def test_the_filter_sample_of_the_page(server_way: Way) -> None:
    make(server_way, "reg_exp_text first")
    make(server_way, "second", comment="a reg_exp_text in the comment")
    make(server_way, "reg_exp_text archived", archived=True)
    make(server_way, "reg_exp_text of another type", task_type="testing")
    make(server_way, "without")
    task_filter = {
        # filter out archived tasks
        "system_tags": ["-archived"],
        # only completed & published tasks
        "status": ["completed", "published"],
        # only training type tasks
        "type": ["training"],
        # match text in task comment or task name
        "search_text": "reg_exp_text",
        # order return task lists by their update time in ascending order
        "order_by": ["last_update"],
    }
    before = {key: list(value) if isinstance(value, list) else value for key, value in task_filter.items()}
    assert names(Task.get_tasks(task_filter=task_filter)) == ["reg_exp_text first", "second"]
    assert names(Task.get_tasks(task_filter=task_filter, allow_archived=False)) == ["reg_exp_text first", "second"]
    assert task_filter == before


def test_ordering_by_a_metric(server_way: Way) -> None:
    metric = ("testing", "epoch_accuracy")
    make(server_way, "middle", project="Example Project", scalars={metric: [0.5, 0.7, 0.1]})
    make(server_way, "best", project="Example Project", scalars={metric: [0.9, 0.2]})
    make(server_way, "worst", project="Example Project", scalars={metric: [0.3, 0.6]})
    make(server_way, "without", project="Example Project")
    make(server_way, "elsewhere", scalars={metric: [1.0]})

    title = hashlib.md5(b"testing").hexdigest()
    series = hashlib.md5(b"epoch_accuracy").hexdigest()

    tasks = Task.get_tasks(
        project_name="Example Project",
        # order tasks by metric performance in descending order
        task_filter={"order_by": [f"-last_metrics.{title}.{series}.max_value"]},
    )
    assert names(tasks) == ["best", "middle", "worst", "without"]
    tasks = Task.get_tasks(
        project_name="Example Project", task_filter={"order_by": [f"last_metrics.{title}.{series}.value"]}
    )
    assert names(tasks) == ["middle", "best", "worst", "without"]
    tasks = Task.get_tasks(
        project_name="Example Project", task_filter={"order_by": [f"last_metrics.{title}.{series}.min_value"]}
    )
    assert names(tasks) == ["middle", "best", "worst", "without"]


def test_ids_win_over_everything_and_keep_their_order(server_way: Way) -> None:
    one, two, three = (make(server_way, name) for name in ("one", "two", "three"))
    found = Task.get_tasks(task_ids=[three.id, "f" * 32, one.id, three.id], task_name="two", tags=["nothing"])
    assert names(found) == ["three", "one"]
    assert len(Task.get_tasks()) == 3
    assert [task.id for task in Task.get_tasks()] == [three.id, two.id, one.id]


def test_a_project_is_exact_and_a_name_is_a_pattern(server_way: Way) -> None:
    make(server_way, "ResNet 50", project="vision")
    make(server_way, "my resnet", project="vision/cars")
    assert names(Task.get_tasks(project_name="vision")) == ["ResNet 50"]
    assert names(Task.get_tasks(project_name=["vision", "vision/cars"])) == ["my resnet", "ResNet 50"]
    assert Task.get_tasks(project_name="visio") == []
    assert names(Task.get_tasks(task_name="resnet")) == ["my resnet"]
    assert names(Task.get_tasks(task_name="[rR]es[nN]et")) == ["my resnet", "ResNet 50"]
    assert names(Task.get_tasks(task_name="^Res.*50$")) == ["ResNet 50"]
    assert names(Task.get_tasks(task_filter={"project": ["vision/*"]})) == ["my resnet"]


def test_archived_tasks_can_be_left_out(server_way: Way) -> None:
    make(server_way, "kept")
    make(server_way, "archived", archived=True)
    assert names(Task.get_tasks()) == ["archived", "kept"]
    assert names(Task.get_tasks(allow_archived=False)) == ["kept"]


def test_tags_in_both_places_are_a_type_error(server_way: Way) -> None:
    with pytest.raises(TypeError, match="given twice"):
        Task.get_tasks(tags=["a"], task_filter={"tags": ["b"]})
    with pytest.raises(TypeError, match="given twice"):
        Task.get_task(task_name="a", tags=["a"], task_filter={"tags": ["b"]})
    with pytest.raises(TypeError, match="given twice"):
        Task.query_tasks(tags=["a"], task_filter={"tags": ["b"]})


def test_what_cannot_be_asked_says_so(server_way: Way) -> None:
    # The filter is what is wrong, not the server that says so.
    with pytest.raises(ValueError, match=r"^task_filter has no field 'stauts' \(did you mean 'status'"):
        Task.get_tasks(task_filter={"stauts": ["completed"]})
    with pytest.raises(ValueError, match="Is a comma missing"):
        Task.get_tasks(task_filter={"tags": ["__$notc"]})
    with pytest.raises(ValueError, match="which no filter can be"):
        Task.get_tasks(task_filter={"id": [object()]})


def test_dates_may_be_texts_or_datetimes(server_way: Way) -> None:
    make(server_way, "one")
    hour = timedelta(hours=1)
    for moment in (datetime.now(UTC), datetime.now()):
        assert names(Task.get_tasks(task_filter={"created": [moment - hour, moment + hour]})) == ["one"]
        assert names(Task.get_tasks(task_filter={"created": [moment + hour, None]})) == []
    assert names(Task.get_tasks(task_filter={"last_update": [">=2024-01-01"]})) == ["one"]
    assert names(Task.get_tasks(task_filter={"status_changed": "<2024-01-01"})) == []


def test_ones_own_task_is_found_while_it_runs(server_way: Way) -> None:
    with server_way.init(project_name="examples", task_name="running") as task:
        assert Task.query_tasks(project_name="examples") == [task.id]
        task.add_tags("later")
        assert [found.id for found in Task.get_tasks(tags=["later"])] == [task.id]
        task.set_name("renamed")
        found = Task.get_task(project_name="examples", task_name="renamed")
        assert found is not None
        assert found.id == task.id


def test_all_pages_are_read_unless_one_is_asked_for(server_way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.sdk.task.task_queries._PAGE_SIZE", 2)
    for number in range(5):
        make(server_way, str(number))
    assert names(Task.get_tasks()) == ["4", "3", "2", "1", "0"]
    assert len(Task.query_tasks()) == 5
    assert names(Task.get_tasks(task_filter={"page": 1, "page_size": 3})) == ["1", "0"]


# -- query_tasks


def test_query_tasks_returns_ids_or_the_fields_asked_for(server_way: Way) -> None:
    metric = ("testing", "accuracy")
    make(server_way, "one", scalars={metric: [0.5]}, parameters={"Args/sizes": [1, 2], "General/net": "vgg"})
    two = make(server_way, "two", tags=["a"])
    assert Task.query_tasks(tags=["a"]) == [two.id]
    title, series = (hashlib.md5(name.encode()).hexdigest() for name in metric)
    best = f"last_metrics.{title}.{series}.max_value"
    fields = ["name", "last_update", "hyperparams.Args.sizes", "hyperparams", best]
    found = Task.query_tasks(task_name="one", additional_return_fields=fields)
    (told,) = found
    assert isinstance(told, dict)
    updated = told.pop("last_update")
    assert timedelta(0) <= datetime.now(UTC) - updated < timedelta(minutes=10)
    assert told == {
        "id": told["id"],
        "name": "one",
        "hyperparams.Args.sizes": [1, 2],
        "hyperparams": {"Args": {"sizes": [1, 2]}, "General": {"net": "vgg"}},
        best: 0.5,
    }


# -- Tag Filters


@pytest.fixture
def tagged(server_way: Way) -> Way:
    for tags in ([], ["a"], ["b"], ["c"], ["a", "c"], ["b", "c"], ["c", "d"], ["a", "c", "d"], ["a", "b", "c"]):
        make(server_way, "".join(tags) or "-", tags=tags)
    return server_way


def test_the_samples_of_tag_filters(tagged: Way) -> None:
    def found(tags: list[Any]) -> set[str]:
        return set(names(Task.get_tasks(tags=tags)))

    task_list = Task.get_tasks(tags=["a", "b", "c"])
    assert set(names(task_list)) == {"a", "b", "c", "ac", "bc", "cd", "acd", "abc"}
    task_list = Task.get_tasks(tags=["__$and", "a", "b", "c"])
    assert names(task_list) == ["abc"]
    # The page's sample lacks a comma between the last two, which is named
    with pytest.raises(ValueError, match='between "__\\$not" and "c"'):
        Task.get_tasks(tags=["__$not", "a", "b", "__$notc"])
    assert found(["__$not", "a", "b", "__$not", "c"]) == {"b"}
    task_list = Task.get_tasks(tags=["a", "b", "__$and", "c", "d"])
    assert set(names(task_list)) == {"a", "b", "ac", "bc", "cd", "acd", "abc"}
    task_list = Task.get_tasks(tags=["__$and", "__$or", "a", "b", "__$and", "c", "d"])
    assert names(task_list) == ["acd"]
    assert found([None, "d"]) == {"-", "cd", "acd"}


# -- and where there is no server


def test_offline_a_task_is_found_by_its_id_and_queries_say_what_they_need(way: Way) -> None:
    task = way.init(project_name="examples", task_name="one")
    task.close()
    if way.name == "offline":
        found = Task.get_task(task_id=task.id)
        assert found is not None and (found.name, found.status) == ("one", "completed")
        with pytest.raises(ConfigurationError, match=r"get_tasks needs a server, and telemetry is in offline"):
            Task.get_tasks()


def test_the_samples_of_the_docs_run_as_they_stand(server_way: Way) -> None:
    make(server_way, "artifacts", tags=["a"], scalars={("testing", "epoch_accuracy"): [0.5]})
    page = Path(__file__).parents[2] / "docs" / "sdk" / "queries.md"
    samples = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    assert samples
    for sample in samples:
        exec(sample, {"Task": Task})
