"""RunningTask: this process's own task, from Task.init to its end."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from telemetry.clock import unix_ns
from telemetry.errors import TelemetryError
from telemetry.events import RecordChange, TaskHeader
from telemetry.ledger import Ledger
from telemetry.process import lifecycle
from telemetry.process.threads import start_daemon
from telemetry.protocols import TaskEmit
from telemetry.record import Section, TaskKey, TaskStatus
from telemetry.sdk.bytes.depot import Depot
from telemetry.sdk.bytes.uploads import Left
from telemetry.sdk.identity.identity import Lineage, is_requeueable
from telemetry.sdk.identity.membership import LineageVariable, lineage_to
from telemetry.sdk.identity.references import Referred, key_of, references
from telemetry.sdk.identity.reuse import RunNote, forbid_reuse, forbids_reuse
from telemetry.sdk.launch.interrupt import keep_death_by_sigint, release_leaked_import_lock
from telemetry.sdk.launch.launch import Launch
from telemetry.sdk.launch.seeds import Seeding, chosen_seed
from telemetry.sdk.models.book import ModelBook
from telemetry.sdk.models.files import ModelFiles
from telemetry.sdk.parameters.connected import Connected
from telemetry.sdk.reading.view import RunningView, SessionView, View, section_of
from telemetry.sdk.record.progress import Progress
from telemetry.sdk.record.record import Record, WriterRecord, start_fields
from telemetry.sdk.record.status import Outcome, outcome_of_exit
from telemetry.sdk.reports.logger import Logger
from telemetry.shapes import texts

__all__ = ["RunningTask"]

log = logging.getLogger(__name__)

# What the end may take when a signal asked for it, in seconds.
SIGNAL_TIMEOUT_S = 5.0

# The same where the process dies of it: with what closing takes beyond its time, within signals.LAST_WORDS_S.
DEADLY_TIMEOUT_S = 0.9

# Of the time that the end may take; the events need the rest.
UPLOADS_SHARE = 0.7

# What a read may wait until what was reported has arrived where it is read.
SETTLE_TIMEOUT_S = 10.0


class RunningTask(Referred):
    """See core.TaskCore. Made by Task.init; `begin()` and then `launched.start()` are still to come.

    Args:
        tags: as Task.init was given them.
        part: writes of this process in the record.
        hooks: watch the program's exit, and leave the task to child processes.
    """

    def __init__(self, launched: Launch, *, tags: list[str], part: WriterRecord, hooks: bool = True) -> None:
        self.launched = launched
        self.header: TaskHeader = launched.header
        self.settings = launched.settings
        self.pipeline = launched.pipeline
        self.emit: TaskEmit = self.pipeline.emit
        self.iteration_offset = self.pipeline.iteration_offset
        self.owner_pid = os.getpid()
        self.record = Record(self.emit)
        self.connected = Connected(self.record, watch=not launched.is_disabled)
        self.uploads = launched.make_uploads()
        self.depot: Depot = launched.make_depot(self.uploads)
        self.book = ModelBook(self)
        self.model_files = ModelFiles(self, self.book, keeps=self.keeps_models)
        self.logger = Logger(self.emit, self.uploads, self.flush, header=self.header)
        self.progress = Progress(lambda value: self.record.change(Section.TASK, TaskKey.PROGRESS, value))
        self._base = launched.make_view()
        self.view: View = RunningView(
            self.record.own,
            self._base,
            near=SessionView(lambda: self.blob_folders() + self.session_places(), self.header.task_id),
            settle=lambda: self.flush(SETTLE_TIMEOUT_S),
            began_elsewhere=launched.membership.began_elsewhere,
        )
        self._tags = tags
        self._part = part
        self._hooks = hooks
        # Not in a worker: all of them would draw the same numbers, as no forked worker does without us.
        self._seeding = Seeding(None if launched.membership.joined else chosen_seed())
        # Whether this run is known to hold what the next one must not overwrite.
        self._keeps = launched.membership.keep
        self._note: RunNote | None = None
        self._exit_watch: lifecycle.ExitWatch | None = None
        self._lineage_variable: LineageVariable | None = None
        self._ends: dict[str, Outcome] = {}
        self._ended = threading.Event()

    # ---- beginning -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Write the record's first words, watch over the program, and say where the task can be seen.

        Once, on the thread of Task.init; nothing is sent before `launched.start()`.
        """
        self.launched.report_to(self.logger, self.record)
        self._write_begin()
        if self.launched.is_disabled:
            return
        self.launched.models.listen(self.model_files)
        self.pipeline.on_server_lost = self._on_server_lost
        self._watch_program()
        self.launched.say_start(seed=self._seeding.seed)
        self._tell_next_run()
        self._add_tags()

    def _write_begin(self) -> None:
        membership = self.launched.membership
        if membership.leads and (self.iteration_offset or membership.continues):
            self.record.change(Section.TASK, TaskKey.INITIAL_ITERATION, self.iteration_offset.current)
        self._part.begin(self.record, self.header, start_fields(self.header, tags=self._tags))
        self._seeding.begin()
        if membership.leads and self._seeding.seed is not None:
            self.record.change(Section.TASK, "random_seed", self._seeding.seed)

    def _watch_program(self) -> None:
        """Be told of the program's end, and leave the task to its children."""
        if self._hooks:
            self._exit_watch = lifecycle.ExitWatch(self._on_exit)
            self._lineage_variable = LineageVariable(self._lineage())
        if self.launched.membership.joined:
            # Workers of multiprocessing end without atexit.
            lifecycle.at_worker_exit(self._end_of_worker, also_of_sigterm=not self._hooks)

    def _tell_next_run(self) -> None:
        """Note what the next run must know of this one."""
        membership = self.launched.membership
        if membership.note is not None and membership.leads:
            self._note = RunNote(membership.note, membership)
            self._note.begin()
        if self._note is not None or membership.joined:
            self.record.listen = self._on_change

    def _on_change(self, change: RecordChange) -> None:
        if not self._keeps and forbids_reuse(change, self.header):
            self._keeps = True
            note = partial(forbid_reuse, self.settings, self.header.task_id)
            if start_daemon(note, "telemetry-note") is None:
                note()

    def _add_tags(self) -> None:
        """Give a task that goes on its further tags."""
        membership = self.launched.membership
        if membership.continues and membership.leads and self._tags and self._base is not None:
            start_daemon(partial(self._add_to_known_tags, self._base), "telemetry-tags")

    def _add_to_known_tags(self, base: View) -> None:
        """Add tags to those that the task has, which only the server or the session knows."""
        try:
            known = texts(section_of(base, Section.TASK).get(TaskKey.TAGS))
        except TelemetryError as error:
            log.warning("the tags %s are not added to task %s: %s", self._tags, self.header.task_id, error)
            return
        self.record.change(Section.TASK, TaskKey.TAGS, list(dict.fromkeys([*known, *self._tags])))

    # ---- iterations ------------------------------------------------------------------------------

    def set_iteration_offset(self, offset: int) -> None:
        """Add this to each iteration that is reported from now on, here and by children that begin from now on."""
        self.iteration_offset.set(offset)
        self.record.change(Section.TASK, TaskKey.INITIAL_ITERATION, offset)
        if self._lineage_variable is not None:
            self._lineage_variable.renew(self._lineage())

    def _lineage(self) -> Lineage:
        return lineage_to(self.header, self.launched.urls, self.iteration_offset.current)

    def moved(self, iteration: int) -> int:
        """Return an iteration with the task's offset added, as those of scalars are moved on."""
        return iteration + self.iteration_offset.current

    # ---- what it is ------------------------------------------------------------------------------

    def _reference(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return references.task_class._referred_core, key_of(self.header)

    @property
    def begun_here(self) -> RunningTask:
        """Itself."""
        return self

    @property
    def is_running(self) -> bool:
        """True until the task was closed or marked."""
        return not self._ends

    @property
    def status(self) -> str:
        """in_progress until the task ends in this process; then how it ended."""
        outcome = self._ends.get("outcome")
        return TaskStatus.IN_PROGRESS if outcome is None else outcome.status

    @property
    def page(self) -> str:
        """The link to the task's page on the server; "" where no sink is a server."""
        return self.launched.page

    @property
    def leads(self) -> bool:
        """Whether this process tells how the task ends; False for ranks above 0 and for children."""
        return self.launched.membership.leads

    @property
    def keeps_models(self) -> bool:
        """Whether saved models are uploaded, where nothing else is said."""
        return self.launched.output.keeps_models

    # ---- reading ---------------------------------------------------------------------------------

    def session_places(self) -> list[Path]:
        """Return the folders and zips in which this task's session may lie, there or to come."""
        return self.launched.session_places()

    def blob_folders(self) -> list[Path]:
        """Return the folders, with their blobs, that this process's events are written to on their way."""
        folders = [folder for _, folder in self.pipeline.session_folders(SETTLE_TIMEOUT_S)]
        spool = self.pipeline.spool_folder
        return folders if spool is None or spool in folders else [*folders, spool]

    def _on_server_lost(self, lost_events: int) -> None:
        """A server has lost data: tell it whose task this is, and say that the files it had may be gone."""
        self.uploads.note_server_lost()
        if lost_events:
            # On the pipeline's thread, which no queue holds up: a flush that follows takes it along.
            self.record.tell_again()

    # ---- ending ----------------------------------------------------------------------------------

    def ledger(self) -> Ledger:
        """Return what became of the events so far: logged = delivered + on_disk + in_memory + dropped."""
        return self.pipeline.ledger()

    def flush(self, timeout_s: float) -> bool:
        """Return True once everything reported before has reached the sinks or the disk."""
        self.connected.settle()
        self.progress.settle()
        self.model_files.settle()
        return self.pipeline.flush(timeout_s)

    def end(self, outcome: Outcome, timeout_s: float | None = None) -> None:
        """End the task and return when its events are delivered, or safe on disk. Only the first call does anything."""
        # One atomic call: the first to come ends the task. A lock could be held across a fork, or by the very
        # frame that a signal handler has interrupted.
        if self._ends.setdefault("outcome", outcome) is not outcome:
            return
        if os.getpid() != self.owner_pid:
            self._end_in_child(self.settings.close_timeout_s if timeout_s is None else timeout_s)
            return
        # A signal that comes while the task ends must not cut its end short.
        if self._exit_watch is not None:
            self._exit_watch.begin_end()
        try:
            self._end_here(outcome, timeout_s)
        finally:
            self._ended.set()
            if self._exit_watch is not None:
                self._exit_watch.remove()

    def _end_of_worker(self, timeout_s: float | None) -> None:
        self.end(Outcome(TaskStatus.COMPLETED), timeout_s)
        if timeout_s is not None:
            self._ended.wait(timeout_s)  # its main thread may have begun the end before the signal came

    def _end_in_child(self, timeout_s: float) -> None:
        """Deliver what a forked child has reported; how the task ends is its parent's to tell."""
        deadline_s = time.monotonic() + timeout_s
        self.model_files.settle()
        self.uploads.drain(timeout_s * UPLOADS_SHARE)
        ledger = self.pipeline.close(max(0.0, deadline_s - time.monotonic()))
        self._let_go_of_files(ledger, timeout_s)

    def _end_here(self, outcome: Outcome, timeout_s: float | None) -> None:
        # Nobody set a limit: then a file that is being read is read to its end.
        patient = timeout_s is None
        timeout_s = self.settings.close_timeout_s if timeout_s is None else timeout_s
        deadline_s = time.monotonic() + timeout_s
        if self._lineage_variable is not None:
            self._lineage_variable.take_back()
        self._seeding.stop()
        # Before the last words: the ledger they carry is then of all events but itself.
        self.launched.stop()
        self.connected.stop()
        self.model_files.settle()
        # Before the end of the events: they tell of the blobs, and a zip is made of both.
        left = self.uploads.drain(timeout_s * UPLOADS_SHARE, patient=patient)
        deadline_s = max(deadline_s, time.monotonic() + timeout_s * (1 - UPLOADS_SHARE))
        self._write_end(outcome, timeout_s)
        ledger = self.pipeline.close(max(0.0, deadline_s - time.monotonic()))
        left = self._let_go_of_files(ledger, timeout_s) or left
        self.record.end()
        if self._note is not None:
            self._note.end(keep=self._keeps)
        self.launched.say_end(outcome.status, ledger, left)

    def _let_go_of_files(self, ledger: Ledger, timeout_s: float) -> Left | None:
        """Remove what was kept of files that the server has; return what is left of uploads, if that has changed."""
        left = None
        if self.uploads.looks_for_losses:
            # The last events were the first to reach a server that has lost data.
            left = self.uploads.drain(timeout_s * UPLOADS_SHARE)
        if not ledger.on_disk:
            # Else they are sent with the events, which may yet reach such a server.
            self.uploads.let_go()
        return left

    def _on_exit(self, cause: lifecycle.ExitCause) -> None:
        timeout_s = self.settings.close_timeout_s
        if cause.kind == "signal":
            # Whoever sends a signal follows up with SIGKILL: after 30 s under Slurm and Kubernetes, sooner elsewhere.
            timeout_s = min(timeout_s, DEADLY_TIMEOUT_S if cause.is_deadly else SIGNAL_TIMEOUT_S)
        if cause.reason != "SIGINT":
            self.end(outcome_of_exit(cause, requeueable=is_requeueable(os.environ)), timeout_s)
            return
        release_leaked_import_lock()
        self.end(outcome_of_exit(cause), timeout_s)
        keep_death_by_sigint()

    def _write_end(self, outcome: Outcome, timeout_s: float) -> None:
        """Write how the task ended, and what became of its events."""
        self.progress.settle()
        self._part.end(outcome)
        if not self.leads:
            return
        self.record.change_all(Section.TASK, outcome.fields(unix_ns()))
        # The page is to show what became of the events, and that is known once they have arrived. Half of
        # the time at most: a sink that does not answer must leave some for the close itself.
        self.pipeline.flush(timeout_s / 2)
        self.record.change(Section.TASK, "ledger", self.pipeline.ledger().as_dict())
