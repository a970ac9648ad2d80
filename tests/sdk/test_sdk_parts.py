"""The SDK's pure parts: masking, options, progress, statuses, the two lines, and the record's clock."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import ConfigurationError, InvalidEvent
from telemetry.events import RecordChange
from telemetry.ledger import Ledger
from telemetry.process.lifecycle import ExitCause
from telemetry.record import TaskStatus
from telemetry.sdk.identity.masking import MASK, mask_command, mask_url
from telemetry.sdk.launch import announce, options
from telemetry.sdk.record import status
from telemetry.sdk.record.progress import Progress
from telemetry.sdk.record.record import Record


@pytest.mark.parametrize(
    ("command", "masked"),
    [
        (["--token", "abc"], ["--token", MASK]),
        (["--token=abc"], [f"--token={MASK}"]),
        (["--api-key", "abc", "--lr", "1"], ["--api-key", MASK, "--lr", "1"]),
        (["WANDB_API_KEY=abc"], [f"WANDB_API_KEY={MASK}"]),
        (["--aws_secret_access_id=1"], [f"--aws_secret_access_id={MASK}"]),
        (["--db.password", "x"], ["--db.password", MASK]),
        (["--password", "-v"], ["--password", "-v"]),
        (["--tokenizer", "bert", "--n-tokens", "5"], ["--tokenizer", "bert", "--n-tokens", "5"]),
        (["--monkey", "george"], ["--monkey", "george"]),
        (["hf_abcdefghijklmnopqrstuv"], [MASK]),
        (["postgres://me:pw@host/db"], [f"postgres://me:{MASK}@host/db"]),
        (["train.py", "--lr", "0.1"], ["train.py", "--lr", "0.1"]),
    ],
)
def test_command_hides_secrets_and_nothing_else(command: list[str], masked: list[str]) -> None:
    assert mask_command(command) == masked


@given(st.lists(st.text(max_size=20), max_size=8))
def test_masking_keeps_the_number_of_words(command: list[str]) -> None:
    assert len(mask_command(command)) == len(command)


@given(st.text(alphabet="abcdefghijklmnop0123456789", min_size=4))
def test_a_password_never_survives_masking(secret: str) -> None:
    for command in ([f"--password={secret}"], ["--password", secret], [f"X_API_KEY={secret}"]):
        assert secret not in " ".join(mask_command(command)).replace("password", "").replace("API_KEY", "")
    assert mask_url(f"http://user:{secret}@host/") == f"http://user:{MASK}@host/"


def test_names_have_defaults_and_limits() -> None:
    assert options.choose_project(None) == "Untitled"
    assert options.choose_project("a/b") == "a/b"
    assert options.choose_name("  x ") == "x"
    assert options.choose_type(None) == "training"
    assert options.choose_type("qc") == "qc"
    for wrong in ("", "  ", "x" * 1001, 5):
        with pytest.raises(ConfigurationError, match="task_name"):
            options.choose_name(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="not one of training, testing"):
        options.choose_type("dancing")


@pytest.mark.parametrize(
    ("file", "name"),
    [("/a/b/train.py", "train"), ("/a/package/__main__.py", "package"), (None, "interactive")],
)
def test_a_task_is_named_after_its_program(file: str | None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=file))

    assert options.choose_name(None) == name


def test_tags_keep_their_order_and_come_once() -> None:
    assert options.choose_tags(["b", "a", "b"]) == ["b", "a"]
    with pytest.raises(ConfigurationError, match=r"tags=\['abc'\]"):
        options.choose_tags("abc")
    with pytest.raises(ConfigurationError, match="non-empty str"):
        options.choose_tags(["a", ""])


def test_streams_missing_from_a_dict_are_off() -> None:
    assert options.choose_streams(True) == {"stdout": True, "stderr": True, "logging": True}
    assert options.choose_streams({"stderr": True}) == {"stdout": False, "stderr": True, "logging": False}
    with pytest.raises(ConfigurationError, match="'stdin'"):
        options.choose_streams({"stdin": True})


def test_resources_are_sampled_as_asked() -> None:
    assert options.choose_resource_interval_s(True, 1.0) == 1.0
    assert options.choose_resource_interval_s(False, 1.0) is None
    assert options.choose_resource_interval_s({"interval_s": 5}, 1.0) == 5
    assert options.choose_resource_interval_s({}, 1.0) == 1.0
    with pytest.raises(ConfigurationError, match="'report_start_sec'"):
        options.choose_resource_interval_s({"report_start_sec": 5}, 1.0)


class FakeClock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_progress_is_exact_for_the_program_and_thinned_for_the_stream() -> None:
    sent: list[float] = []
    clock = FakeClock()
    progress = Progress(sent.append, clock=clock)
    at_first = progress.value
    assert at_first is None

    for step in range(100_001):
        progress.set(step / 1000)

    assert progress.value == 100.0
    assert sent[0] == 0.0
    assert sent[-1] == 100.0
    assert len(sent) <= 1002


def test_a_slow_job_sends_its_progress_each_second_and_the_rest_when_it_settles() -> None:
    sent: list[float] = []
    clock = FakeClock()
    progress = Progress(sent.append, clock=clock)
    progress.set(50)

    progress.set(50.01)
    assert sent == [50.0]
    clock.now_s = 1.0
    progress.set(50.02)
    assert sent == [50.0, 50.02]
    progress.set(50.03)
    progress.settle()
    progress.settle()
    assert sent == [50.0, 50.02, 50.03]


@pytest.mark.parametrize("wrong", [-1, 100.5, float("nan"), float("inf"), "50", None])
def test_a_progress_that_is_none_changes_nothing(wrong: object) -> None:
    sent: list[float] = []
    progress = Progress(sent.append)
    progress.set(5)

    with pytest.raises(InvalidEvent):
        progress.set(wrong)

    assert progress.value == 5.0
    assert sent == [5.0]


NO_KEYS: dict[str, int] = {}


def raised(make: Callable[[], object]) -> BaseException:
    try:
        make()
    except BaseException as error:  # noqa: BLE001 - the test is about whatever was raised
        return error
    raise AssertionError("nothing was raised")


def test_what_an_exit_means() -> None:
    assert status.outcome_of_exit(ExitCause("normal")) == status.Outcome(TaskStatus.COMPLETED)
    assert status.outcome_of_exit(ExitCause("signal", "SIGTERM")).reason == "stopped (SIGTERM)"
    assert status.outcome_of_exit(ExitCause("signal", "SIGINT")).status is TaskStatus.STOPPED
    assert status.outcome_of_exit(ExitCause("exit_code", "exit code 3")) == status.Outcome(
        TaskStatus.FAILED, "exit code 3"
    )


def test_what_an_exception_that_leaves_a_with_block_means() -> None:
    outcome = status.outcome_of_exception(raised(lambda: NO_KEYS["no\nsuch key"]))
    assert (outcome.status, outcome.reason) == (TaskStatus.FAILED, "KeyError: 'no\\nsuch key'")
    assert "Traceback (most recent call last)" in outcome.message
    assert "in <lambda>" in outcome.message

    assert status.outcome_of_exception(KeyboardInterrupt()).status is TaskStatus.STOPPED
    assert status.outcome_of_exception(SystemExit(3)).reason == "exit code 3"
    assert status.outcome_of_exception(SystemExit(0)).status is TaskStatus.COMPLETED
    assert status.outcome_of_exception(SystemExit("no data")).reason == "no data"


def test_reasons_and_messages_are_bounded() -> None:
    def recurse(depth: int) -> None:
        if depth:
            recurse(depth - 1)
        raise ValueError("x" * 100_000)

    outcome = status.outcome_of_exception(raised(lambda: recurse(100)))

    assert len(outcome.reason) == 300
    assert "\n" not in outcome.reason
    assert len(outcome.message) < 33_000
    assert "characters left out" in outcome.message


def test_the_lines_say_where_and_what_became_of_the_events() -> None:
    assert announce.start_line("x", ["http://h/tasks/1"]) == 'telemetry: task "x" -> http://h/tasks/1'
    assert (
        announce.end_line("completed", Ledger(12345, 12345, 0, 0), left_in=Path("/a"))
        == "telemetry: completed. 12,345 events logged: 12,345 delivered."
    )
    nowhere = announce.end_line(
        "completed", Ledger(2, 0, 0, 0, {"not_delivered": 2}), left_in=None, kept="See it with: telemetry server"
    )
    assert "See it with" not in nowhere
    left = announce.end_line("stopped", Ledger(3, 1, 2, 0), left_in=Path("/a/my runs"))
    assert left.endswith("1 delivered, 2 on disk. Send what is on disk with: telemetry sync '/a/my runs'")


def test_an_announcer_is_quiet_when_asked_and_survives_a_closed_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    announce.Announcer(quiet=True).say("no")
    loud = announce.Announcer(quiet=False)
    loud.say("yes")
    assert stream.getvalue() == "yes\n"

    stream.close()
    loud.say("nobody reads this")

    monkeypatch.setattr(sys, "stderr", None)
    announce.Announcer(quiet=False).say("nor this")


class ListOfChanges:
    """An Emit that keeps record changes."""

    def __init__(self) -> None:
        self.rows: list[object] = []
        self.mark = 1000
        self.changes: list[RecordChange] = []

    def __call__(self, event: object) -> bool:
        assert isinstance(event, RecordChange)
        self.changes.append(event)
        return True

    def crossed(self) -> None:
        raise AssertionError("no scalar was written")

    def refuse(self, reason: str, message: str) -> None:
        raise AssertionError(f"{reason}: {message}")


def test_each_record_change_is_younger_than_the_last_even_if_the_clock_is_set_back() -> None:
    emit = ListOfChanges()
    times = iter([1_000, 400, 401, 5_000])
    record = Record(emit, clock=lambda: next(times))

    for value in ("in_progress", "completed", "failed", "stopped"):
        record.change("task", "status", value)

    assert [change.time_unix_ns for change in emit.changes] == [1_000, 1_001, 1_002, 5_000]
    assert [change.value for change in emit.changes] == ["in_progress", "completed", "failed", "stopped"]
