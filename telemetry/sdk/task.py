"""Task: one run of a program, from Task.init to its end. A thin skin; the work is done by the parts.

    task = Task.init(project_name="examples", task_name="first")
    task.get_logger().report_scalar("loss", "train", 0.5, iteration=0)

Nothing here waits for the network or a disk, apart from `flush` and `close`, and nothing raises into the
program, apart from `Task.init` when it is asked for something that it cannot do.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from telemetry import lifecycle
from telemetry.collectors.models import Frameworks
from telemetry.errors import ConfigurationError, InvalidEvent, TelemetryError
from telemetry.events import clean_text, to_iteration
from telemetry.ledger import DropReason, Ledger
from telemetry.pipeline import Pipeline
from telemetry.protocols import Collector, Sink
from telemetry.sdk import options
from telemetry.sdk.announce import end_line, start_line
from telemetry.sdk.identity import is_requeueable
from telemetry.sdk.interrupt import keep_death_by_sigint, release_leaked_import_lock
from telemetry.sdk.launch import Launch, Request, prepare
from telemetry.sdk.logger import Logger
from telemetry.sdk.membership import Heirloom, Membership, found_membership, join, lineage_of_this_process, lineage_to
from telemetry.sdk.progress import Progress
from telemetry.sdk.record import Record, WriterRecord, start_fields
from telemetry.sdk.status import Outcome, TaskStatus, one_line, outcome_of_exception, outcome_of_exit

__all__ = ["Task"]

log = logging.getLogger(__name__)

# What the end may take when a signal asked for it, in seconds.
SIGNAL_TIMEOUT_S = 5.0


class _Current:
    """The process's task, and the lock that lets only one Task.init start it."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.lock = threading.Lock()
        # How many tasks of one job's name were begun here.
        self.turns: dict[str, int] = {}
        lifecycle.watch_forks(self)

    def reset_after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self.lock = threading.Lock()


_current = _Current()


class Task:
    """A running task; made by `Task.init`, found anywhere in the program by `Task.current_task`."""

    @classmethod
    def init(
        cls,
        project_name: str | None = None,
        task_name: str | None = None,
        task_type: str | None = None,
        tags: Iterable[str] | None = None,
        reuse_last_task_id: bool | str = True,
        continue_last_task: bool | str | int = False,
        output_uri: str | bool | None = None,
        auto_connect_arg_parser: bool | Mapping[str, bool] = True,
        auto_connect_frameworks: Frameworks = True,
        auto_resource_monitoring: bool | Mapping[str, Any] = True,
        auto_connect_streams: bool | Mapping[str, bool] = True,
        deferred_init: bool = False,
        *,
        sinks: Sequence[str | Sink] | None = None,
        collectors: Sequence[Collector] = (),
        strict: bool = False,
    ) -> Task:
        """Start a task and return at once, whether the server is up, down or silent.

        A second call for the same project, name and type (or for none) returns the same task.

        Args:
            project_name: "a/b" is project b inside a. Default: "Untitled".
            task_name: default: the program's file name without its extension.
            task_type: one of `options.TASK_TYPES`; default "training".
            reuse_last_task_id, continue_last_task, output_uri, auto_connect_arg_parser: of features that are
                not built yet; their defaults and False are accepted.
            auto_connect_frameworks: record saved models; a dict gives framework -> bool or wildcards, and
                a missing framework is on.
            auto_resource_monitoring: sample CPU, memory and so on; a dict sets {"interval_s": seconds}.
            auto_connect_streams: a dict gives stdout, stderr, logging; a missing one is off.
            deferred_init: init never waits, so there is nothing to defer; both values do the same.
            sinks: where events go, as URLs or Sink objects; default: what the settings say.
            collectors: further collectors to run with the task.
            strict: raise at the first event that is dropped or invalid; for tests.
        Raises:
            ConfigurationError: an argument or setting that cannot be used, or another task is current in
                this process. Nothing was started.
        """
        options.refuse_unsupported(
            reuse_last_task_id=reuse_last_task_id,
            continue_last_task=continue_last_task,
            output_uri=output_uri,
            auto_connect_arg_parser=auto_connect_arg_parser,
        )
        with _current.lock:
            current = _current.task
            if current is not None and not current.ended:
                if current._is_same(project_name, task_name, task_type):
                    return current
                current._refuse_another(project_name, task_name, task_type)
            request = Request(
                project=options.choose_project(project_name),
                name=options.choose_name(task_name),
                type=options.choose_type(task_type),
                tags=options.choose_tags(tags),
                sinks=sinks,
                collectors=collectors,
                streams=auto_connect_streams,
                resources=auto_resource_monitoring,
                frameworks=auto_connect_frameworks,
                strict=strict,
            )
            lineage = lineage_of_this_process()
            if lineage is not None and lineage.matches(project_name, task_name, task_type):
                request = replace(request, project=lineage.project, name=lineage.name, type=lineage.type)
                membership = join(lineage, os.environ)
            else:
                membership = found_membership(request.project, request.name, os.environ, _current.turns)
            return cls._begin(request, membership)

    @classmethod
    def _begin(cls, request: Request, membership: Membership, *, hooks: bool = True) -> Task:
        """Start this process's part of a task; the lock is held."""
        part = WriterRecord(membership)
        launched = prepare(request, membership, on_child=part.tell_of_fork)
        task = cls(launched, tags=request.tags, part=part, hooks=hooks)
        _current.task = task
        launched.start()
        return task

    @classmethod
    def current_task(cls) -> Task | None:
        """Return this process's task; None before Task.init and after the task has ended.

        In a child process that has not called Task.init it is the parent's task, to which this process then reports.
        """
        current = _current.task
        if current is None:
            current = cls._attach()
        return None if current is None or current.ended else current

    @classmethod
    def _attach(cls) -> Task | None:
        """Join an ancestor's task for reporting alone: no output is captured, no signal handled."""
        if lineage_of_this_process() is None:
            return None
        with _current.lock:
            lineage = lineage_of_this_process()
            if _current.task is not None or lineage is None or lineage.pid == os.getpid():
                return _current.task
            request = Request(
                project=lineage.project,
                name=lineage.name,
                type=lineage.type,
                streams=False,
                resources=False,
                frameworks=False,
            )
            try:
                return cls._begin(request, join(lineage, os.environ), hooks=False)
            except TelemetryError as error:
                log.warning("this process cannot join its parent's task %s: %s", lineage.task_id, error)
                return None

    @classmethod
    def import_offline_session(
        cls, session_folder_zip: str | os.PathLike[str], previous_task_id: str | None = None, iteration_offset: int = 0
    ) -> str:
        """Send a session folder or zip to the server at TELEMETRY_URL; return the task's id.

        It becomes the task that the run was: same id, times and final status. Importing again changes nothing, and
        the source is left as it is. Returns when everything is on the server.

        Args:
            session_folder_zip: a session folder, also one that still grows, or a session zip.
            previous_task_id, iteration_offset: not built yet; only the defaults are accepted.
        Raises:
            ConfigurationError: nothing is there (it is a ValueError, too), or there is no server to send it to.
            JournalError: it is no session, or cannot be read to its end.
            SinkUnavailable: the server does not answer; what it took until then is there.
        """
        from telemetry.sdk.offline import import_offline_session

        return import_offline_session(session_folder_zip, previous_task_id, iteration_offset)

    def __init__(self, launched: Launch, *, tags: list[str], part: WriterRecord, hooks: bool = True) -> None:
        """Use Task.init."""
        self._launched = launched
        self._header = launched.header
        self._pipeline = launched.pipeline
        self._owner_pid = os.getpid()
        self._tags = tags
        self._ends: dict[str, Outcome] = {}
        self._logger = Logger(self._pipeline.emit)
        self._record = Record(self._pipeline.emit)
        self._progress = Progress(lambda value: self._record.change("task", "progress", value))
        self._part = part
        part.begin(self._record, self._header, start_fields(self._header, tags=tags))
        self._exit_watch: lifecycle.ExitWatch | None = None
        self._heirloom: Heirloom | None = None
        if launched.destination is None:
            return
        membership = launched.membership
        if hooks:
            self._exit_watch = lifecycle.ExitWatch(self._on_exit)
            self._heirloom = Heirloom(lineage_to(self._header, launched.urls))
        if membership.joined:
            # Workers of multiprocessing end without atexit.
            lifecycle.at_worker_exit(lambda: self._end(Outcome(TaskStatus.COMPLETED)))
        if membership.leads:
            launched.announcer.say(start_line(self.name, launched.destination.places))

    # ---- what it is ------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The task's id: 32 hexadecimal digits."""
        return self._header.task_id

    @property
    def name(self) -> str:
        """The task's name."""
        return self._header.name

    @property
    def project(self) -> str:
        """The task's project, "a/b" for b inside a."""
        return self._header.project

    @property
    def task_type(self) -> str:
        """The task's type, such as "training"."""
        return self._header.type

    @property
    def status(self) -> TaskStatus:
        """in_progress until the task ends in this process; then how it ended."""
        outcome = self._ends.get("outcome")
        return TaskStatus.IN_PROGRESS if outcome is None else outcome.status

    @property
    def ended(self) -> bool:
        """True once the task was closed or marked; what is reported after that is counted as dropped."""
        return bool(self._ends)

    @property
    def page(self) -> str:
        """The link to the task's page on the server; "" where no sink is a server."""
        destination = self._launched.destination
        return "" if destination is None else destination.page

    def __repr__(self) -> str:
        return f"<Task {self.id} {self.project}/{self.name} {self.status}>"

    # ---- reporting -------------------------------------------------------------------------------

    def get_logger(self) -> Logger:
        """Return the task's logger; always the same object."""
        return self._logger

    def set_progress(self, progress: float) -> None:
        """Set the progress in percent, 0 to 100, fractions included. May be called at every step.

        Anything else changes nothing and is counted as dropped (reason "invalid").
        """
        try:
            self._progress.set(progress)
        except InvalidEvent as error:
            self._pipeline.emit.refuse(DropReason.INVALID, f"set_progress: {error}")

    def get_progress(self) -> float | None:
        """Return the progress last set in this process, exactly; None before the first."""
        return self._progress.value

    def add_tags(self, tags: Iterable[str]) -> None:
        """Add tags; one that the task has already stays where it is. A value that is no list of str is counted
        as dropped (reason "invalid")."""
        try:
            self._tags = options.choose_tags([*self._tags, *options.choose_tags(tags)])
        except (ConfigurationError, TypeError) as error:
            self._pipeline.emit.refuse(DropReason.INVALID, f"add_tags: {error}")
            return
        self._record.change("task", "tags", list(self._tags))

    def get_tags(self) -> list[str]:
        """Return the tags in the order they were given."""
        return list(self._tags)

    def set_comment(self, comment: str) -> None:
        """Set the task's free text; the last one counts."""
        self._record.change("task", "comment", clean_text(str(comment)))

    def report_model(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        framework: str = "custom",
        iteration: int | None = None,
    ) -> None:
        """Record that a model was saved at `path`; the file is neither read nor moved.

        Saves of known frameworks are recorded by themselves (auto_connect_frameworks); this is for the others.
        """
        try:
            number = None if iteration is None else to_iteration(iteration)
        except InvalidEvent as error:
            self._pipeline.emit.refuse(DropReason.INVALID, f"report_model: {error}")
            return
        self._launched.models.saved(path, name=name, framework=framework, iteration=number)

    # ---- ending ----------------------------------------------------------------------------------

    def ledger(self) -> Ledger:
        """Return what became of the events so far: logged = delivered + on_disk + in_memory + dropped."""
        return self._pipeline.ledger()

    def flush(self, timeout: float = 10.0) -> bool:
        """Return True once everything reported before has reached the sinks or the disk.

        Args:
            timeout: seconds; False is returned when they are over. Nothing is lost by that.
        """
        self._progress.settle()
        return self._pipeline.flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """End the task as completed and return when its events are delivered, or safe on disk.

        Calling it again does nothing; Task.init may start another task after it.

        Args:
            timeout: seconds that this may take; default TELEMETRY_CLOSE_TIMEOUT, 10.
        """
        self._end(Outcome(TaskStatus.COMPLETED), timeout)

    def mark_completed(self) -> None:
        """End the task as completed: the same as close()."""
        self.close()

    def mark_failed(self, status_reason: str | None = None, status_message: str | None = None) -> None:
        """End the task as failed. The program goes on; the task takes no more events.

        Args:
            status_reason: one line. status_message: any text, such as a traceback.
        """
        self._end(Outcome(TaskStatus.FAILED, one_line(status_reason or ""), clean_text(status_message or "")))

    def mark_stopped(self, status_reason: str | None = None, status_message: str | None = None) -> None:
        """End the task as stopped. The program goes on; the task takes no more events."""
        self._end(Outcome(TaskStatus.STOPPED, one_line(status_reason or ""), clean_text(status_message or "")))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the task: completed, or what the exception that leaves the block means. It is not swallowed."""
        if isinstance(error, KeyboardInterrupt):
            release_leaked_import_lock()
        self._end(Outcome(TaskStatus.COMPLETED) if error is None else outcome_of_exception(error))

    # ---- inside ----------------------------------------------------------------------------------

    def _on_exit(self, cause: lifecycle.ExitCause) -> None:
        timeout_s = self._launched.settings.close_timeout_s
        if cause.kind == "signal":
            # Whoever sends a signal follows up with SIGKILL: after 30 s under Slurm and Kubernetes, sooner elsewhere.
            timeout_s = min(timeout_s, SIGNAL_TIMEOUT_S)
        if cause.reason != "SIGINT":
            self._end(outcome_of_exit(cause, requeueable=is_requeueable(os.environ)), timeout_s)
            return
        release_leaked_import_lock()
        self._end(outcome_of_exit(cause), timeout_s)
        keep_death_by_sigint()

    def _end(self, outcome: Outcome, timeout_s: float | None = None) -> None:
        settings = self._launched.settings
        timeout_s = settings.close_timeout_s if timeout_s is None else timeout_s
        deadline_s = time.monotonic() + timeout_s
        # One atomic call: the first to come ends the task. A lock could be held across a fork, or by the very
        # frame that a signal handler has interrupted.
        if self._ends.setdefault("outcome", outcome) is not outcome:
            return
        if os.getpid() != self._owner_pid:
            # A forked child: what it reported is delivered, and how the task ends is its parent's to tell.
            self._pipeline.close(timeout_s)
            return
        if self._heirloom is not None:
            self._heirloom.take_back()
        if self._exit_watch is not None:
            self._exit_watch.remove()
        if self._launched.installed is not None:
            self._launched.installed.stop()
        # Before the last words: the ledger they carry is then of all events but itself.
        self._pipeline.stop_collectors()
        self._write_end(outcome, timeout_s)
        ledger = self._pipeline.close(max(0.0, deadline_s - time.monotonic()))
        # Of many processes' lines only those are worth reading that say that something is left.
        complete = ledger.delivered == ledger.logged
        if isinstance(self._pipeline, Pipeline) and (self._launched.membership.leads or not complete):
            left_in = self._pipeline.spool_folder
            destination = self._launched.destination
            afterwards = "" if destination is None else destination.afterwards
            self._launched.announcer.say(end_line(outcome.status, ledger, left_in=left_in, afterwards=afterwards))

    def _write_end(self, outcome: Outcome, timeout_s: float) -> None:
        """Write how the task ended, and what became of its events."""
        self._progress.settle()
        self._part.end(outcome)
        if not self._launched.membership.leads:
            return
        self._record.change_all(
            "task",
            {
                "status": outcome.status.value,
                "status_reason": outcome.reason,
                "status_message": outcome.message,
                "ended_unix_ns": time.time_ns(),
            },
        )
        # The page is to show what became of the events, and that is known once they have arrived. Half of
        # the time at most: a sink that does not answer must leave some for the close itself.
        self._pipeline.flush(timeout_s / 2)
        self._record.change("task", "ledger", self._pipeline.ledger().as_dict())

    def _is_same(self, project_name: str | None, task_name: str | None, task_type: str | None) -> bool:
        asked = ((project_name, self.project), (task_name, self.name), (task_type, self.task_type))
        return all(value is None or value == own for value, own in asked)

    def _refuse_another(self, project_name: str | None, task_name: str | None, task_type: str | None) -> None:
        """Raise, as a process has one task; but a forked child may leave its parent's for one of its own."""
        if os.getpid() != self._owner_pid:
            return
        asked = {"project_name": project_name, "task_name": task_name, "task_type": task_type}
        have = {"project_name": self.project, "task_name": self.name, "task_type": self.task_type}
        for argument, value in asked.items():
            if value is not None and value != have[argument]:
                raise ConfigurationError(
                    f"this process already has the task {self.project}/{self.name} ({self.id}), and "
                    f"{argument}={value!r} does not match it. Task.current_task() returns it; to start another "
                    "one, end it first: Task.current_task().close()"
                )
