"""What Task.init puts together: settings, sinks, collectors and the pipeline.

Runs on the caller's thread and must be over in a few milliseconds: it connects to nothing, starts no
process, and what is slow to import (aiohttp, psutil) is imported by the threads that use it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telemetry.collectors.arguments import ArgumentCollector
from telemetry.collectors.matplotlib import FigureCollector
from telemetry.collectors.models import Frameworks, ModelCollector
from telemetry.collectors.reporting import Reporter, ReportingCollector
from telemetry.collectors.script import ScriptCollector
from telemetry.collectors.tensorboard import SummaryCollector
from telemetry.events import TaskHeader
from telemetry.ledger import Ledger
from telemetry.pipeline import Pipeline
from telemetry.process.descriptors import hold_standard_descriptors
from telemetry.protocols import Cloneable, Collector, ForwardsFrames, Sink
from telemetry.sdk.bytes.depot import Depot, NowhereDepot, RunningDepot
from telemetry.sdk.bytes.uploads import Left, Uploads, task_prefix
from telemetry.sdk.identity.masking import mask_argument, mask_text
from telemetry.sdk.identity.membership import Membership, shareable_urls
from telemetry.sdk.identity.modes import load_settings
from telemetry.sdk.identity.sessions import local_places
from telemetry.sdk.launch.announce import Announcer, end_line, kept_sentence, start_line
from telemetry.sdk.launch.destination import Destination, choose_destination
from telemetry.sdk.launch.disabled import DisabledPipeline, TaskPipeline
from telemetry.sdk.launch.green import refuse_green_threads
from telemetry.sdk.launch.leftovers import Leftovers
from telemetry.sdk.launch.options import choose_resource_interval_s, choose_streams
from telemetry.sdk.launch.outputs import Output, choose_output
from telemetry.sdk.launch.plugins import InstalledCollectors
from telemetry.sdk.reading.servers import client_of
from telemetry.sdk.reading.view import NowhereView, ServerView, SessionView, View
from telemetry.sdk.record.record import Record
from telemetry.sessions.sources import holds_task
from telemetry.settings import Settings

if TYPE_CHECKING:
    from telemetry.collectors.console import ConsoleCollector

__all__ = ["Launch", "Request", "framework_is_on", "prepare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked of Task.init, with its defaults filled in."""

    project: str
    name: str
    type: str
    tags: list[str] = field(default_factory=list)
    sinks: Sequence[str | Sink] | None = None
    collectors: Sequence[Collector] = ()
    streams: bool | Mapping[str, bool] = True
    resources: bool | Mapping[str, Any] = True
    frameworks: Frameworks = True
    arguments: bool | Mapping[str, bool] = True
    output_uri: str | bool | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A pipeline that is ready to start, and what its task needs to know of it.

    Attributes:
        urls: of the sinks, as children of this process may be told them.
        output: whether models are uploaded, and where the bytes of models and artifacts go.
        reporting: collectors that report through the task's logger, once it is made.
        installed: None while telemetry is disabled, and so is `destination`.
        leftovers: None where no sink is a server, and in all processes of a task but the leading one.
    """

    header: TaskHeader
    settings: Settings
    pipeline: TaskPipeline
    models: ModelCollector
    arguments: ArgumentCollector
    script: ScriptCollector | None = None
    reporting: tuple[ReportingCollector, ...] = ()
    announcer: Announcer
    membership: Membership
    urls: tuple[str, ...] = ()
    installed: InstalledCollectors | None = None
    leftovers: Leftovers | None = None
    destination: Destination | None = None
    output: Output = Output()

    def start(self) -> None:
        """Start the pipeline's thread and the collectors; returns at once.

        The last thing that Task.init does: from here on the threads import what they need, and each import of a
        C extension may keep the GIL from the caller for some ten milliseconds.
        """
        self.pipeline.start()
        if self.installed is not None:
            self.installed.start(self.pipeline.emit)
        if self.leftovers is not None:
            self.leftovers.start()

    def stop(self) -> None:
        """Stop the collectors; the pipeline goes on, and takes what is still to be said."""
        if self.installed is not None:
            self.installed.stop()
        if self.leftovers is not None:
            self.leftovers.stop()
        self.pipeline.stop_collectors()

    # ---- what the task is told -----------------------------------------------------------------------

    @property
    def is_disabled(self) -> bool:
        """Whether nothing of the task goes anywhere."""
        return self.destination is None

    @property
    def page(self) -> str:
        """The link to the task's page on the server; "" where no sink is a server."""
        return "" if self.destination is None else self.destination.page_url

    def report_to(self, reporter: Reporter, record: Record) -> None:
        """Tell the collectors where what they find is reported and recorded."""
        self.arguments.write_to(record.change_sections)
        if self.script is not None:
            self.script.write_to(record.change_sections)
        for collector in self.reporting:
            collector.report_to(reporter, record.change_all)

    def make_uploads(self) -> Uploads:
        """Return what carries the bytes of this process's part of the task; while telemetry is disabled, none."""
        return Uploads(
            self.header.task_id,
            None if self.is_disabled else self.pipeline.session_folders,
            settings=self.settings,
            target=self.output.target,
            prefix=task_prefix(self.header),
            settle=self.pipeline.flush,
            stream=sys.stderr,
        )

    def make_depot(self, uploads: Uploads) -> Depot:
        """Return what takes the deposits of the task."""
        return NowhereDepot() if self.is_disabled else RunningDepot(uploads)

    # ---- where its events can be read back -----------------------------------------------------------

    def make_view(self) -> View | None:
        """Return what reads them back: from a server, else from a session; None where both are missing."""
        task_id = self.header.task_id
        if self.destination is None:
            return NowhereView(task_id)
        if self.destination.server:
            return ServerView(partial(client_of, self.destination.server, self.settings), task_id)
        keeper = self.destination.keeper
        return None if keeper is None else SessionView(partial(keeper.places, task_id), task_id)

    def session_places(self) -> list[Path]:
        """Return the folders and zips in which the task's session may lie, there or to come."""
        if self.destination is None:
            return []
        keeper = None if self.destination.server else self.destination.keeper
        task_id = self.header.task_id
        return local_places(self.settings, task_id) if keeper is None else list(keeper.places(task_id))

    # ---- what the user is told -----------------------------------------------------------------------

    def say_start(self, *, seed: int | None) -> None:
        """Say which task has begun and where it can be seen; of many processes the leading one does."""
        if self.destination is None or not self.membership.leads:
            return
        if self.membership.said:
            self.announcer.say(f"telemetry: {self.membership.said}")
        self.announcer.say(start_line(self.header.name, self.destination.places, seed=seed, run=self.membership.run))

    def say_end(self, status: str, ledger: Ledger, left: Left) -> None:
        """Say how the task has ended, and where its data is.

        Of many processes' lines only those are worth reading that say that something is left.
        """
        complete = ledger.delivered == ledger.logged and not str(left)
        if self.destination is None or (complete and not self.membership.leads):
            return
        task_id = self.header.task_id
        folders = [folder for folder in (left.folder, self.pipeline.spool_folder) if folder is not None]
        left_in = next((folder for folder in folders if holds_task(folder, task_id)), None)
        kept = kept_sentence(self.destination.sinks, task_id) if self.destination.afterwards else ""
        self.announcer.say(end_line(status, ledger, left, left_in=left_in, kept=kept))


def prepare(
    request: Request, membership: Membership, *, on_child: Callable[[TaskHeader, bool], None] | None = None
) -> Launch:
    """Make everything that a task needs in this process; nothing is started.

    Args:
        on_child: see Pipeline.
    Raises:
        ConfigurationError: a setting, URL or argument that cannot be used.
    """
    settings = _prepare_process(request)
    header = TaskHeader(
        task_id=membership.task_id,
        writer_id=Pipeline.new_writer_id(),
        project=request.project,
        name=request.name,
        type=request.type,
        created_unix_ns=membership.created_unix_ns,
        rank=membership.ranks.rank,
    )
    asked = request.sinks
    if asked is None and membership.urls and settings.mode != "disabled":
        asked = membership.urls
    output = choose_output(request.output_uri, settings, check=membership.leads)
    destination = choose_destination(asked, settings, task_id=header.task_id)
    models = ModelCollector(request.frameworks)
    arguments = _argument_collector(request, membership)
    script = _script_collector(request, membership, settings)
    reporting = _reporting_collectors(request.frameworks, membership)
    console = _console_collector(request)
    collectors: list[Collector] = [
        # First: it is to see what the others print.
        *([console] if console is not None else []),
        *_collectors(request, settings, models, resources=membership.samples_machine),
        arguments,
        *([script] if script is not None else []),
        *reporting,
        *request.collectors,
    ]
    announcer = Announcer(quiet=settings.quiet, line_is_open=None if console is None else console.line_is_open)
    if destination is None:
        return Launch(
            header=header,
            settings=settings,
            pipeline=DisabledPipeline(),
            models=models,
            arguments=arguments,
            reporting=reporting,
            announcer=announcer,
            membership=membership,
        )
    pipeline = _make_pipeline(header, destination, collectors, settings, membership, on_child)
    return Launch(
        header=header,
        settings=settings,
        pipeline=pipeline,
        models=models,
        arguments=arguments,
        script=script,
        reporting=reporting,
        announcer=announcer,
        membership=membership,
        urls=shareable_urls(destination.urls),
        installed=InstalledCollectors(),
        leftovers=_leftovers(membership, settings, pipeline),
        destination=destination,
        output=output,
    )


def _prepare_process(request: Request) -> Settings:
    """Read the settings, and see to it that threads and files of ours can do no harm in this process."""
    # True asks for it; False is the argument's default and leaves TELEMETRY_STRICT in force.
    settings = load_settings(strict=request.strict or None)
    if settings.mode != "disabled":
        refuse_green_threads()
        # Before a thread of ours opens a file, which has such a number only for a moment.
        hold_standard_descriptors()
    return settings


def _make_pipeline(
    header: TaskHeader,
    destination: Destination,
    collectors: Sequence[Collector],
    settings: Settings,
    membership: Membership,
    on_child: Callable[[TaskHeader, bool], None] | None,
) -> Pipeline:
    pipeline = Pipeline(
        header,
        sinks=[_follower(sink) for sink in destination.sinks] if membership.follows else destination.sinks,
        collectors=collectors,
        settings=settings,
        # What an earlier run of the task left in its spool is sent, and removed, by itself.
        joined=membership.follows or membership.begins_anew or membership.continues,
        on_child=on_child,
    )
    pipeline.iteration_offset.set(membership.iteration_offset)
    return pipeline


def _leftovers(membership: Membership, settings: Settings, pipeline: Pipeline) -> Leftovers | None:
    """Return what sends the frames that earlier runs have left for the server of this one."""
    if not membership.leads_from_start:
        return None
    server = next((sink for sink in pipeline.sinks if sink.spool and isinstance(sink, ForwardsFrames)), None)
    if server is None:
        return None
    return Leftovers(settings.state_dir / "spool", server, lambda: pipeline.spool_folder)


def _follower(sink: Sink) -> Sink:
    """Return the sink as a further process of the task needs it: the zip is its first process's to write."""
    return sink.clone() if isinstance(sink, Cloneable) else sink


def _console_collector(request: Request) -> ConsoleCollector | None:
    streams = choose_streams(request.streams)
    if not any(streams.values()):
        return None
    from telemetry.collectors.console import ConsoleCollector

    return ConsoleCollector(stdout=streams["stdout"], stderr=streams["stderr"], logging=streams["logging"])


def _collectors(request: Request, settings: Settings, models: ModelCollector, *, resources: bool) -> list[Collector]:
    """Return the collectors of the machine and of models."""
    chosen: list[Collector] = []
    interval_s = choose_resource_interval_s(request.resources, settings.resource_interval_s)
    if interval_s is not None and resources:
        from telemetry.collectors.resources import ResourceCollector

        chosen.append(ResourceCollector(interval_s))
    return [*chosen, models]


def _argument_collector(request: Request, membership: Membership) -> ArgumentCollector:
    """Return the collector of the program's arguments; of many processes the leading one records them."""
    if not membership.leads:
        return ArgumentCollector(False, hydra=False, absl=False, mask=mask_argument)
    return ArgumentCollector(
        request.arguments,
        hydra=framework_is_on(request.frameworks, "hydra"),
        absl=framework_is_on(request.frameworks, "tfdefines"),
        mask=mask_argument,
    )


def _script_collector(request: Request, membership: Membership, settings: Settings) -> ScriptCollector | None:
    """Return what looks at the program; None in a process that does not lead, which runs the same one."""
    if not membership.leads_from_start:
        return None
    return ScriptCollector(
        repository=framework_is_on(request.frameworks, "detect_repository"),
        programs=settings.mode != "offline",
        mask=mask_text,
    )


def _reporting_collectors(frameworks: Frameworks, membership: Membership) -> tuple[ReportingCollector, ...]:
    """Return what reports what plotting and logging packages are told; of many processes the leading one has it."""
    chosen: list[ReportingCollector] = []
    if not membership.leads:
        return ()
    if framework_is_on(frameworks, "matplotlib"):
        chosen.append(FigureCollector())
    if framework_is_on(frameworks, "tensorboard"):
        switch = frameworks.get("tensorboard", True) if isinstance(frameworks, Mapping) else True
        hparams = not isinstance(switch, Mapping) or bool(switch.get("report_hparams", True))
        chosen.append(SummaryCollector(hparams=hparams))
    return tuple(chosen)


def framework_is_on(frameworks: Frameworks, name: str) -> bool:
    """Return whether auto_connect_frameworks leaves a framework on: a missing name is, and an empty dict is all off."""
    if isinstance(frameworks, Mapping):
        return bool(frameworks) and bool(frameworks.get(name, True))
    return bool(frameworks)
