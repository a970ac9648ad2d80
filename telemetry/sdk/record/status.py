"""How a task ends: which status an exit means, and what the record says of it. Pure functions."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

from telemetry.events import clean_text
from telemetry.process.lifecycle import ExitCause
from telemetry.record import TaskKey, TaskStatus

__all__ = ["Outcome", "one_line", "outcome_of_exception", "outcome_of_exit"]

# A reason is a table cell; the whole story is in the message.
MAX_REASON_CHARS = 300
# A recursion error's traceback has 1,000 frames; the ends tell what happened.
MAX_MESSAGE_CHARS = 32_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """A final status with its reason (one line) and its message (a traceback, where it was when killed, or nothing)."""

    status: TaskStatus
    reason: str = ""
    message: str = ""

    def fields(self, ended_unix_ns: int) -> dict[str, Any]:
        """Return the fields of section "task" that say so."""
        return {
            TaskKey.STATUS: self.status.value,
            TaskKey.STATUS_REASON: self.reason,
            TaskKey.STATUS_MESSAGE: self.message,
            TaskKey.ENDED: ended_unix_ns,
        }


def outcome_of_exit(cause: ExitCause, *, requeueable: bool = False) -> Outcome:
    """Return what the end of the process means for its task.

    Args:
        requeueable: whoever sends SIGTERM is a scheduler, which starts the job again.
    """
    if cause.kind == "normal":
        return Outcome(TaskStatus.COMPLETED)
    if cause.kind == "signal" and cause.reason == "SIGTERM" and requeueable:
        return Outcome(TaskStatus.PREEMPTED, "ended by the scheduler (SIGTERM)", _shortened(cause.detail))
    if cause.kind == "signal":
        by_user = " by the user" if cause.reason == "SIGINT" else ""
        return Outcome(TaskStatus.STOPPED, f"stopped{by_user} ({cause.reason})", _shortened(cause.detail))
    return Outcome(TaskStatus.FAILED, one_line(cause.reason), _shortened(cause.detail))


def outcome_of_exception(error: BaseException) -> Outcome:
    """Return what an exception that leaves a `with task:` block means, as if it had reached the top."""
    if isinstance(error, KeyboardInterrupt):
        return outcome_of_exit(ExitCause("signal", "SIGINT"))
    if isinstance(error, SystemExit):
        return _outcome_of_exit_code(error.code)
    reason = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return outcome_of_exit(ExitCause("exception", reason, "".join(traceback.format_exception(error))))


def _outcome_of_exit_code(code: object) -> Outcome:
    if code is None or code == 0:
        return Outcome(TaskStatus.COMPLETED)
    # sys.exit("text") prints the text and exits with 1: the text is the better reason.
    return Outcome(TaskStatus.FAILED, f"exit code {code}" if isinstance(code, int) else one_line(str(code)))


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
