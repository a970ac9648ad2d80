"""How a task ends: the statuses, and which one an exit means. Pure functions."""

from __future__ import annotations

import signal
import traceback
from dataclasses import dataclass
from enum import StrEnum

from telemetry.events import clean_text

__all__ = [
    "Outcome",
    "TaskStatus",
    "one_line",
    "outcome_of_exception",
    "outcome_of_exit_code",
    "outcome_of_signal",
]

# A reason is a table cell; the whole story is in the message.
MAX_REASON_CHARS = 300
# A recursion error's traceback has 1,000 frames; the ends tell what happened.
MAX_MESSAGE_CHARS = 32_000


class TaskStatus(StrEnum):
    """Where a task stands. One sentence each."""

    IN_PROGRESS = "in_progress"
    """The program runs, or was killed in a way that nobody could record (SIGKILL, power)."""
    COMPLETED = "completed"
    """The program came to its end, or said so."""
    FAILED = "failed"
    """An exception that nobody caught, or an exit code other than 0."""
    STOPPED = "stopped"
    """Somebody ended it: Ctrl-C, SIGINT, SIGTERM, or mark_stopped()."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A final status with its reason (one line) and its message (a traceback, or nothing)."""

    status: TaskStatus
    reason: str = ""
    message: str = ""


def outcome_of_exception(error: BaseException) -> Outcome:
    """Return what an exception that reached the top means: failed, or stopped for KeyboardInterrupt."""
    if isinstance(error, KeyboardInterrupt):
        return outcome_of_signal(signal.SIGINT)
    if isinstance(error, SystemExit):
        return outcome_of_exit_code(error.code)
    text = "".join(traceback.format_exception_only(error)).strip()
    return Outcome(TaskStatus.FAILED, one_line(text), _shortened("".join(traceback.format_exception(error))))


def outcome_of_signal(number: int) -> Outcome:
    """Return what a signal means: SIGINT and SIGTERM are a stop, any other one a failure."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"  # a real-time signal has no name of its own
    if number == signal.SIGINT:
        return Outcome(TaskStatus.STOPPED, "stopped by the user (SIGINT)")
    if number == signal.SIGTERM:
        return Outcome(TaskStatus.STOPPED, "stopped by SIGTERM")
    return Outcome(TaskStatus.FAILED, f"ended by {name}")


def outcome_of_exit_code(code: object) -> Outcome:
    """Return what sys.exit(code) means: None and 0 are success, a text is the reason of a failure."""
    if code is None or code == 0:
        return Outcome(TaskStatus.COMPLETED)
    if isinstance(code, int):
        return Outcome(TaskStatus.FAILED, f"exit code {code}")
    return Outcome(TaskStatus.FAILED, one_line(f"exit: {code}"))


def one_line(text: str) -> str:
    """Return a text as one line of at most 300 characters."""
    line = " ".join(clean_text(text).split())
    return line if len(line) <= MAX_REASON_CHARS else f"{line[: MAX_REASON_CHARS - 1]}…"


def _shortened(text: str) -> str:
    text = clean_text(text)
    if len(text) <= MAX_MESSAGE_CHARS:
        return text
    half = MAX_MESSAGE_CHARS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"
