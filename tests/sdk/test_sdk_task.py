"""Task and Logger in one process, down to the frames that a sink is given."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sdk_support import Story, only_session, read_story, tell
from telemetry.collectors.models import LOAD_FUNCTIONS, SAVE_FUNCTIONS

from telemetry import Logger, Task
from telemetry.errors import ConfigurationError, EventsDropped
from telemetry.events import ConsoleLine
from telemetry.protocols import Emit
from telemetry.record import TaskStatus
from telemetry.sdk.launch.options import FRAMEWORKS
from telemetry.testing import FlakySink, MemorySink

Start = Callable[..., Task]


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("TELEMETRY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state"


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a task with nothing running by itself, so that a test counts only its own events."""

    def start(**arguments: Any) -> Task:
        quiet = {
            "auto_connect_streams": False,
            "auto_resource_monitoring": False,
            "auto_connect_frameworks": False,
        }
        return Task.init("tests", "a task", **(quiet | arguments))

    yield start
    task = Task.current_task()
    if task is not None:
        task.close()
        ledger = task.ledger()
        assert ledger.balanced, ledger


def closed(task: Task, sink: MemorySink) -> Story:
    """Close the task; return what its sink was told."""
    task.close()
    assert task.ledger().balanced
    return tell(sink.batches())


def test_a_task_tells_who_it_is_and_that_it_runs(start: Start) -> None:
    sink = MemorySink()
    task = start(sinks=[sink], task_type="testing", tags=["b", "a"])

    assert task.flush()
    story = tell(sink.batches())

    assert sink.task is not None
    assert task.id == sink.task.task_id
    assert (task.name, task.project, task.task_type, task.status) == ("a task", "tests", "testing", "in_progress")
    told = story.task
    assert {key: told[key] for key in ("name", "project", "type", "status", "tags")} == {
        "name": "a task",
        "project": "tests",
        "type": "testing",
        "status": "in_progress",
        "tags": ["b", "a"],
    }
    assert told["cwd"] == os.getcwd()  # noqa: PTH109 - the same call as the record's
    assert told["command"]
    assert told["started_unix_ns"] == sink.task.created_unix_ns
    (writer,) = story.record["writers"].items()
    assert writer[0] == sink.task.writer_id.hex()
    assert writer[1]["pid"] == os.getpid()


def test_closing_completes_the_task_and_says_what_became_of_its_events(start: Start) -> None:
    sink = MemorySink()
    task = start(sinks=[sink])

    story = closed(task, sink)

    assert story.task["status"] == "completed"
    assert story.task["ended_unix_ns"] >= story.task["started_unix_ns"]
    assert task.status is TaskStatus.COMPLETED
    assert Task.current_task() is None
    ledger = task.ledger()
    assert ledger.logged == ledger.delivered
    # As it stood when everything before this very change had arrived.
    assert story.task["ledger"]["logged"] == story.task["ledger"]["delivered"] == ledger.logged - 1


def test_closing_twice_and_marking_after_it_change_nothing(start: Start) -> None:
    sink = MemorySink()
    task = start(sinks=[sink])

    task.close()
    task.close()
    task.mark_failed(status_reason="too late")

    assert tell(sink.batches()).task["status"] == "completed"


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_a_task_can_be_marked(status: str, start: Start) -> None:
    sink = MemorySink()
    task = start(sinks=[sink])

    getattr(task, f"mark_{status}")(status_reason="because\nof that", status_message="a\nlong story")

    told = tell(sink.batches()).task
    assert (told["status"], told["status_reason"], told["status_message"]) == (
        status,
        "because of that",
        "a\nlong story",
    )
    assert Task.current_task() is None


def test_a_with_block_ends_its_task_as_its_exception_says(start: Start) -> None:
    sink = MemorySink()
    with pytest.raises(ZeroDivisionError), start(sinks=[sink]):
        _ = 1 / 0

    told = tell(sink.batches()).task
    assert told["status"] == "failed"
    assert told["status_reason"] == "ZeroDivisionError: division by zero"
    assert "_ = 1 / 0" in told["status_message"]


def test_a_second_init_returns_the_same_task_or_says_what_to_type(start: Start) -> None:
    task = start(sinks=[MemorySink()])

    assert start() is task
    assert Task.init() is task
    assert Task.current_task() is task
    with pytest.raises(ConfigurationError, match=r"task_name='other'.*Task\.current_task\(\)\.close\(\)"):
        Task.init("tests", "other")
    with pytest.raises(ConfigurationError, match="task_type='testing'"):
        Task.init(task_type="testing")


def test_after_close_another_task_can_be_started(start: Start) -> None:
    first = start(sinks=[MemorySink()])
    first.close()

    second = Task.init("tests", "another", sinks=[MemorySink()])

    assert second is not first
    assert second.id != first.id
    assert second.name == "another"


def test_threads_that_init_together_get_one_task(start: Start) -> None:
    sink = MemorySink()
    barrier = threading.Barrier(8)
    found: list[Task] = []

    def init() -> None:
        barrier.wait()
        found.append(start(sinks=[sink]))

    threads = [threading.Thread(target=init) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id(task) for task in found}) == 1


def test_a_logger_reports_numbers_text_and_models(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    sink = MemorySink()
    task = start(sinks=[sink])
    logger = task.get_logger()
    assert Logger.current_logger() is logger

    logger.report_scalar("loss", "train", 0.5, 7)
    logger.report_single_value("score", math.inf)
    logger.report_single_value("score", 3)
    logger.report_text("one\ntwo", level=logging.WARNING)
    logger.report_text("quiet", print_console=False)
    task.report_model("runs/a.pt", framework="pytorch", iteration=7)
    task.set_comment("why")
    task.add_tags(["x", "y", "x"])

    story = closed(task, sink)
    assert story.scalars == {("loss", "train"): [(7, 0.5)]}
    assert story.values == {"score": 3.0}
    assert [(line.stream, line.text, line.level) for line in story.console] == [
        ("report", "one", 30),
        ("report", "two", 30),
        ("report", "quiet", 20),
    ]
    assert capsys.readouterr().out == "one\ntwo\n"
    (model,) = story.models
    assert (model.name, model.path, model.framework, model.iteration) == ("a.pt", "runs/a.pt", "pytorch", 7)
    assert story.task["comment"] == "why"
    assert story.task["tags"] == ["x", "y"] == task.get_tags()


def test_text_is_stored_once_where_the_console_is_captured(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    sink = MemorySink()
    task = start(sinks=[sink], auto_connect_streams=True)

    task.get_logger().report_text("reported")
    print("printed")

    story = closed(task, sink)
    assert [(line.stream, line.text) for line in story.console] == [("report", "reported"), ("stdout", "printed")]
    assert capsys.readouterr().out == "reported\nprinted\n"


def test_streams_are_captured_as_asked(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    sink = MemorySink()
    task = start(sinks=[sink], auto_connect_streams={"logging": True})

    print("not this")
    logging.getLogger("program").warning("this")

    assert [line.text for line in closed(task, sink).console] == ["program: this"]


class Unprintable:
    """An object whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_wrong_values_are_counted_and_never_raise(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    sink = MemorySink()
    task = start(sinks=[sink])
    logger = task.get_logger()

    logger.report_scalar("loss", "train", "high", 1)  # type: ignore[arg-type]
    logger.report_single_value("score", None)
    logger.report_single_value(5, 1.0)  # type: ignore[arg-type]
    logger.report_text(Unprintable())
    task.set_progress(101)
    task.set_progress("half")  # type: ignore[arg-type]
    task.add_tags([7])  # type: ignore[list-item]
    task.report_model("a", iteration=1.5)  # type: ignore[arg-type]

    story = closed(task, sink)
    assert task.ledger().dropped == {"invalid": 8}
    assert (story.scalars, story.values, story.console, story.models) == ({}, {}, [], [])
    assert "progress" not in story.task
    assert "set_progress" in caplog.text


def test_strict_raises_at_the_first_loss(start: Start) -> None:
    task = start(sinks=[MemorySink()], strict=True)

    with pytest.raises(EventsDropped, match="progress is in percent"):
        task.set_progress(101)


def test_progress_can_be_read_back_and_travels(start: Start) -> None:
    sink = MemorySink()
    task = start(sinks=[sink])
    assert task.get_progress() is None

    for percent in (0, 33.3, 66.64, 66.65):
        task.set_progress(percent)

    assert task.get_progress() == 66.65
    assert closed(task, sink).task["progress"] == 66.65


def test_what_comes_after_close_is_counted(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    task = start(sinks=[MemorySink()])
    task.close()
    before = task.ledger().logged

    task.get_logger().report_scalar("a", "b", 1.0, 1)
    task.get_logger().report_single_value("a", 1.0)

    assert task.ledger().dropped == {"closed": 2}
    assert task.ledger().logged == before + 2


def test_without_a_server_a_run_is_a_session_folder(start: Start, state_dir: Path) -> None:
    task = start()
    task.get_logger().report_scalar("a", "b", 1.0, 1)
    task.close()

    assert only_session(state_dir).name == task.id
    assert task.page == ""
    assert read_story(only_session(state_dir)).scalars == {("a", "b"): [(1, 1.0)]}


def test_offline_makes_a_zip(start: Start, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEMETRY_OFFLINE_MODE", "1")
    monkeypatch.setenv("TELEMETRY_URL", "http://127.0.0.1:1")

    task = start()
    task.close()

    assert [path.name for path in (state_dir / "sessions").iterdir()] == [f"{task.id}.zip"]


def test_disabled_does_nothing_and_takes_every_call(
    start: Start, state_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TELEMETRY_MODE", "disabled")
    threads = set(threading.enumerate())

    task = start(auto_connect_streams=True)
    logger = task.get_logger()
    for step in range(3000):
        logger.report_scalar("a", "b", 1.0, step)
    logger.report_single_value("a", 1.0)
    task.set_progress(50)
    assert task.flush()
    task.close()

    assert task.get_progress() == 50.0
    assert task.ledger().logged == 0
    assert set(threading.enumerate()) <= threads
    assert not state_dir.exists()
    assert capsys.readouterr() == ("", "")


def test_the_lines_name_the_place_and_the_counts(
    start: Start, state_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = start()
    task.close()
    first, last = capsys.readouterr().err.splitlines()
    assert first == f'telemetry: task "a task" -> {state_dir / "sessions" / task.id} (random seed 1337)'
    logged = task.ledger().logged
    assert last == f"telemetry: completed. {logged} events logged: {logged} delivered. See it with: telemetry server"

    monkeypatch.setenv("TELEMETRY_QUIET", "1")
    start().close()
    assert capsys.readouterr().err == ""


def test_two_sinks_get_the_same_and_names_of_their_own(start: Start, tmp_path: Path) -> None:
    memory = MemorySink()
    task = start(sinks=[f"zip:{tmp_path / 'a.zip'}", f"zip:{tmp_path / 'b.zip'}", memory])
    task.close()

    assert (tmp_path / "a.zip").is_file()
    assert (tmp_path / "b.zip").is_file()
    assert tell(memory.batches()).task["status"] == "completed"


def test_a_sink_that_fails_at_first_gets_everything(start: Start) -> None:
    sink = FlakySink(["unavailable", "lost_answer"], spool=True)
    task = start(sinks=[sink])
    task.get_logger().report_scalar("a", "b", 1.0, 1)
    task.close()

    assert {(frame.writer_id, frame.sequence) for frame in sink.frames}
    assert ("a", "b") in tell(sink.batches()).scalars
    ledger = task.ledger()
    assert (ledger.delivered, ledger.on_disk) == (ledger.logged, 0)


@pytest.mark.parametrize(
    ("sinks", "match"),
    [
        ("zip:a.zip", "give a list"),
        ([], "at least one"),
        (["nothing"], "is no sink URL"),
        (["nope://x"], "nope: is not one of http:, https:,.* stdout:, zip:"),
        ([5], "neither a sink's URL nor a Sink"),
    ],
)
def test_a_sink_that_is_none_is_refused_before_anything_starts(sinks: Any, match: str, start: Start) -> None:
    threads = set(threading.enumerate())

    with pytest.raises(ConfigurationError, match=match):
        start(sinks=sinks)

    assert set(threading.enumerate()) <= threads
    assert Task.current_task() is None


class Beacon:
    """A collector that emits a line when it starts and when it stops."""

    name = "beacon"

    def __init__(self) -> None:
        self._emit: Emit | None = None

    def start(self, emit: Emit) -> None:
        self._emit = emit
        emit(ConsoleLine(1, "report", "hello"))

    def stop(self) -> None:
        assert self._emit is not None
        self._emit(ConsoleLine(2, "report", "goodbye"))


def test_a_collector_of_ones_own_runs_with_the_task(start: Start) -> None:
    sink = MemorySink()
    task = start(sinks=[sink], collectors=[Beacon()])

    assert [line.text for line in closed(task, sink).console] == ["hello", "goodbye"]


def test_what_is_set_after_close_is_counted_and_reads_as_it_was(start: Start) -> None:
    task = start(tags=["a"])
    task.set_parameter("lr", 0.1)
    task.set_progress(40)
    task.close()
    dropped = task.ledger().dropped.get("closed", 0)

    task.set_parameter("lr", 0.2)
    task.set_progress(50)
    task.add_tags("b")
    task.set_name("another")
    task.set_user_properties(stage="late")

    assert task.get_parameters(cast=True) == {"General/lr": 0.1}
    assert (task.get_progress(), task.get_tags(), task.name) == (40.0, ["a"], "a task")
    assert task.get_user_properties() == {}
    assert task.ledger().dropped["closed"] == dropped + 5


def test_a_refused_tag_or_artifact_name_says_what_is_wrong(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    task = start(tags=["a"])

    task.add_tags(3)  # type: ignore[arg-type]
    task.remove_tags(None)  # type: ignore[arg-type]
    assert not task.upload_artifact(None, {})  # type: ignore[arg-type]

    assert task.get_tags() == ["a"]
    assert task.ledger().dropped == {"invalid": 3}
    assert "add_tags: tags must be a str or a list of str, not int: 3" in caplog.text
    assert "remove_tags: tags must be a str or a list of str, not NoneType: None" in caplog.text
    assert "upload_artifact: an artifact needs a name, a str that is not empty; None is none" in caplog.text
    task.close()


def test_a_misspelt_framework_is_warned_of_and_those_of_the_page_are_not(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    on_or_off = "matplotlib tensorflow xgboost scikit fastai lightgbm hydra detect_repository tfdefines joblib catboost"
    page: dict[str, Any] = dict.fromkeys(on_or_off.split(), True)
    page |= {"pytorch": "*.pt", "tensorboard": {"report_hparams": False}}
    start(auto_connect_frameworks=page).close()
    assert "no framework" not in caplog.text

    start(auto_connect_frameworks={"pytorh": False}).close()
    assert "auto_connect_frameworks has 'pytorh', which is no framework; did you mean 'pytorch'?" in caplog.text


def test_every_switch_of_a_hook_is_a_framework() -> None:
    switches = {switch for function in (*SAVE_FUNCTIONS, *LOAD_FUNCTIONS) for switch in function.switches}
    assert switches <= set(FRAMEWORKS)
