"""Task: one run of a program, from Task.init to its end. A thin skin; the work is done by the parts.

    task = Task.init(project_name="examples", task_name="first")
    task.get_logger().report_scalar("loss", "train", 0.5, iteration=0)

Nothing here waits for the network or a disk, apart from `flush` and `close`, and nothing raises into the
program, apart from `Task.init` when it is asked for something that it cannot do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

from telemetry.errors import ConfigurationError, InvalidEvent
from telemetry.events import TaskHeader, clean_text, to_iteration
from telemetry.record import Section, TaskKey, TaskStatus
from telemetry.sdk.cores.current import current
from telemetry.sdk.identity.modes import load_settings
from telemetry.sdk.identity.references import references
from telemetry.sdk.launch import options
from telemetry.sdk.launch.interrupt import release_leaked_import_lock
from telemetry.sdk.record.progress import checked_progress
from telemetry.sdk.record.status import Outcome, one_line, outcome_of_exception
from telemetry.sdk.reports.logger import Logger
from telemetry.sdk.task.task_artifacts import TaskArtifacts
from telemetry.sdk.task.task_configuration import TaskConfiguration
from telemetry.sdk.task.task_create import TaskCreate
from telemetry.sdk.task.task_edits import TaskEdits
from telemetry.sdk.task.task_iterations import TaskIterations
from telemetry.sdk.task.task_models import TaskModels
from telemetry.sdk.task.task_offline import TaskOffline
from telemetry.sdk.task.task_queries import TaskQueries
from telemetry.sdk.task.task_reports import TaskReports
from telemetry.sdk.task.task_seed import TaskSeed

if TYPE_CHECKING:
    from types import TracebackType

    from telemetry.collectors.models import Frameworks
    from telemetry.ledger import Ledger
    from telemetry.protocols import Collector, Sink
    from telemetry.sdk.cores.core import TaskCore
    from telemetry.sdk.cores.running import RunningTask

__all__ = ["Logger", "Task"]


class Task(
    TaskArtifacts,
    TaskConfiguration,
    TaskCreate,
    TaskEdits,
    TaskModels,
    TaskOffline,
    TaskQueries,
    TaskReports,
    TaskIterations,
    TaskSeed,
):
    """A task: made by `Task.init`, found anywhere in the program by `Task.current_task`, read by `Task.get_task`."""

    TaskTypes = options.TaskTypes

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
            reuse_last_task_id: True overwrites the task of the last run on this machine with the same project, name
                and type, if it ran less than 24 hours ago, has ended, and has no artifacts or models; False never
                does; an id names the task to overwrite. See docs/sdk/reuse.md.
            continue_last_task: go on with a task instead: True the last run's, an id that one, a number the last
                run's with so much added to each iteration that is reported. Otherwise the reported iteration counts.
            auto_connect_arg_parser: record what argument parsers parse, before or after this call; a dict gives
                argument -> bool, a missing one is on unless "*" is False; False and {} are off.
            output_uri: upload saved models, and artifacts: True to the server, a str to a storage. None and False
                leave models where they are, and record their paths.
            auto_connect_frameworks: record saved and loaded models; a dict gives framework -> bool or wildcards, and
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
        from telemetry.sdk.task import beginning

        beginning.continued_id(reuse_last_task_id, continue_last_task)
        with current.lock:
            running = _own()
            if running is not None and not running.ended:
                if running._is_same(project_name, task_name, task_type):
                    return running
                running._refuse_another(project_name, task_name, task_type)
            request = beginning.Request(
                project=options.choose_project(project_name),
                name=options.choose_name(task_name),
                type=options.choose_type(task_type),
                tags=options.choose_tags(tags),
                sinks=sinks,
                collectors=collectors,
                streams=auto_connect_streams,
                resources=auto_resource_monitoring,
                frameworks=auto_connect_frameworks,
                arguments=auto_connect_arg_parser,
                output_uri=output_uri,
                strict=strict,
            )
            return cls._started(
                beginning.begin(
                    request,
                    asked=(project_name, task_name, task_type),
                    reuse=reuse_last_task_id,
                    continues=continue_last_task,
                )
            )

    @classmethod
    def _started(cls, core: RunningTask) -> Task:
        """Make the task current and start its pipeline; the lock is held."""
        task = cls(core)
        current.task = task
        core.launched.start()
        return task

    @classmethod
    def current_task(cls) -> Task | None:
        """Return this process's task; None before Task.init and after the task has ended.

        In a child process that has not called Task.init it is the parent's task, to which this process then reports.
        """
        task = _own()
        if task is None:
            task = cls._attach()
        return None if task is None or task.ended else task

    @classmethod
    def _attach(cls) -> Task | None:
        """Join an ancestor's task, if there is one."""
        from telemetry.sdk.identity.membership import lineage_of_this_process

        if lineage_of_this_process() is None:
            return None
        from telemetry.sdk.task import beginning

        with current.lock:
            core = None if current.task is not None else beginning.begin_as_child()
            return _own() if core is None else cls._started(core)

    # ---- what it is ------------------------------------------------------------------------------

    @property
    def status(self) -> TaskStatus | str:
        """Where the task stands: of one's own task in_progress until it ends here, of any other as it is read now."""
        return self._core.status

    @property
    def page(self) -> str:
        """The link to the task's page on the server; "" where no sink is a server."""
        return "" if self._running is None else self._running.page

    def __repr__(self) -> str:
        return f"<Task {self.id} {self.project}/{self.name}>"

    # ---- reporting -------------------------------------------------------------------------------

    def get_logger(self) -> Logger:
        """Return the task's logger; always the same object."""
        return self._logger

    def set_progress(self, progress: float) -> None:
        """Set the progress in percent, 0 to 100, fractions included. May be called at every step.

        Anything else changes nothing and is counted as dropped (reason "invalid").
        """
        try:
            if self._running is not None and self._running.is_running:
                self._running.progress.set(progress)
            else:
                self._record.change(Section.TASK, TaskKey.PROGRESS, checked_progress(progress))
        except InvalidEvent as error:
            self._refuse(f"set_progress: {error}")

    def get_progress(self) -> float | None:
        """Return the progress in percent: just what this process set last, else what is read; None before the first."""
        own = None if self._running is None else self._running.progress.value
        if own is not None:
            return own
        value = self._field(TaskKey.PROGRESS)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def report_model(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        framework: str = "custom",
        iteration: int | None = None,
    ) -> None:
        """Record that a model was saved at `path`. It stays there, and is uploaded only where `output_uri` says so.

        Saves of known frameworks are recorded by themselves (auto_connect_frameworks); this is for the others.
        """
        try:
            number = None if iteration is None else to_iteration(iteration)
        except InvalidEvent as error:
            self._refuse(f"report_model: {error}")
            return
        if self._running is None:
            self._refuse("report_model: only the program that runs a task can report what it saved")
            return
        self._running.launched.models.saved(path, name=name, framework=framework, iteration=number)

    # ---- ending ----------------------------------------------------------------------------------

    def ledger(self) -> Ledger:
        """Return what became of the events so far: logged = delivered + on_disk + in_memory + dropped."""
        return self._core.ledger()

    def flush(self, timeout: float = 10.0) -> bool:
        """Return True once everything reported before has reached the sinks or the disk.

        Args:
            timeout: seconds; False is returned when they are over. Nothing is lost by that.
        """
        return self._core.flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """End the task as completed and return when its events are delivered, or safe on disk.

        Calling it again does nothing; Task.init may start another task after it.

        Args:
            timeout: seconds that this may take; default TELEMETRY_CLOSE_TIMEOUT, 10.
        """
        self._core.end(Outcome(TaskStatus.COMPLETED), timeout)

    def mark_completed(
        self, ignore_errors: bool = True, status_message: str | None = None, force: bool = False
    ) -> None:
        """End the task as completed: of one's own task the same as close(), and the program goes on.

        Args:
            status_message: any text.
            ignore_errors, force: taken for compatibility: one's own task is ended without an error, another's with one
                where the server can't be reached, whatever it stands at.
        """
        self._core.end(Outcome(TaskStatus.COMPLETED, message=clean_text(status_message or "")))

    def mark_failed(
        self,
        ignore_errors: bool = True,
        status_reason: str | None = None,
        status_message: str | None = None,
        force: bool = False,
    ) -> None:
        """End the task as failed. The program goes on; the task takes no more events.

        Args:
            status_reason: one line. status_message: any text, such as a traceback.
            ignore_errors, force: see mark_completed.
        """
        self._core.end(Outcome(TaskStatus.FAILED, one_line(status_reason or ""), clean_text(status_message or "")))

    def mark_stopped(
        self, force: bool = False, status_message: str | None = None, status_reason: str | None = None
    ) -> None:
        """End the task as stopped. The program goes on; the task takes no more events. `force`: see mark_completed."""
        self._core.end(Outcome(TaskStatus.STOPPED, one_line(status_reason or ""), clean_text(status_message or "")))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the task: completed, or what the exception that leaves the block means. It is not swallowed."""
        if isinstance(error, KeyboardInterrupt):
            release_leaked_import_lock()
        self._core.end(Outcome(TaskStatus.COMPLETED) if error is None else outcome_of_exception(error))

    # ---- copies and pickles (references.py) ------------------------------------------------------

    @classmethod
    def _referred(cls, task_id: str, project: str, name: str, task_type: str) -> Task:
        """Return the task of this id: this process's own, or its parent's, or one to be read."""
        for task in (_own(), cls.current_task()):
            if task is not None and task.id == task_id:
                return task
        from telemetry.sdk.cores.stored import referred_stored

        header = TaskHeader(task_id, writer_id=bytes(16), project=project, name=name, type=task_type)
        return cls(referred_stored(header, load_settings()))

    @classmethod
    def _referred_core(cls, task_id: str, project: str, name: str, task_type: str) -> TaskCore:
        return cls._referred(task_id, project, name, task_type)._core

    @classmethod
    def _referred_logger(cls, task_id: str, project: str, name: str, task_type: str) -> Logger:
        """Return the logger of the task of this id; of one that is not this process's, that of the task that is.

        What was trained in one run goes on reporting in the next one, which loads it from a checkpoint.
        """
        task = cls._referred(task_id, project, name, task_type)
        own = cls.current_task()
        return (task if own is None or own.id == task_id else own).get_logger()

    # ---- inside ----------------------------------------------------------------------------------

    def _is_same(self, project_name: str | None, task_name: str | None, task_type: str | None) -> bool:
        asked = ((project_name, self.project), (task_name, self.name), (task_type, self.task_type))
        return all(value is None or value == own for value, own in asked)

    def _refuse_another(self, project_name: str | None, task_name: str | None, task_type: str | None) -> None:
        """Raise, as a process has one task; but a forked child may leave its parent's for one of its own."""
        if self._running is not None and os.getpid() != self._running.owner_pid:
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


def _own() -> Task | None:
    """Return this process's task, running or ended. Only class Task makes one current."""
    return cast("Task | None", current.task)


references.task_class = Task
