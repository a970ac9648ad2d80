"""What Task.init sets to work: the choice of the run that this process is part of, and the run's core.

Class Task imports this when the first task begins, and not before: the pipeline, the collectors and asyncio stand
behind it, which a program that only has `from telemetry import Task` at its head has no use for. From then on
everything is there that scalars, the task's end and the program's need, so that none of them imports anything.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace

from telemetry.errors import TelemetryError
from telemetry.sdk.cores.current import current
from telemetry.sdk.cores.running import RunningTask
from telemetry.sdk.identity.membership import Membership, found_membership, join, lineage_of_this_process
from telemetry.sdk.identity.modes import load_settings
from telemetry.sdk.identity.reuse import choose_run, continued_id
from telemetry.sdk.launch import options
from telemetry.sdk.launch.launch import Request, prepare
from telemetry.sdk.record.record import WriterRecord

__all__ = ["Request", "begin", "begin_as_child", "continued_id"]

log = logging.getLogger(__name__)


def begin(
    request: Request,
    *,
    asked: tuple[str | None, str | None, str | None],
    reuse: bool | str,
    continues: bool | str | int,
) -> RunningTask:
    """Return the core of a new run, or of this process's part of the run of its ancestor; `current.lock` is held.

    Args:
        asked: project, name and type as Task.init was given them.
        reuse, continues: see Task.init.
    Raises:
        ConfigurationError: an argument or setting that cannot be used. Nothing was started.
    """
    lineage = lineage_of_this_process()
    if lineage is not None and lineage.matches(*asked):
        request = replace(request, project=lineage.project, name=lineage.name, type=lineage.type)
        return _core(request, join(lineage, os.environ))
    membership = choose_run(
        found_membership(request.project, request.name, os.environ, current.turns),
        request.sinks,
        load_settings(),
        key=(request.project, request.name, request.type),
        reuse=reuse,
        continues=continues,
    )
    return _core(request, membership)


def begin_as_child() -> RunningTask | None:
    """Return the core of this process's part of an ancestor's task, for reporting alone; `current.lock` is held.

    No output is captured, no signal handled. None where there is no ancestor's task, or it cannot be joined.
    """
    lineage = lineage_of_this_process()
    if lineage is None or lineage.pid == os.getpid():
        return None
    request = Request(
        project=lineage.project,
        name=lineage.name,
        type=lineage.type,
        streams=False,
        resources=False,
        frameworks=False,
        arguments=False,
    )
    try:
        return _core(request, join(lineage, os.environ), hooks=False)
    except TelemetryError as error:
        log.warning("this process cannot join its parent's task %s: %s", lineage.task_id, error)
        return None


def _core(request: Request, membership: Membership, *, hooks: bool = True) -> RunningTask:
    part = WriterRecord(membership)
    launched = prepare(request, membership, on_child=part.tell_of_fork)
    if membership.leads_from_start:
        options.warn_of_unknown_frameworks(request.frameworks)
    core = RunningTask(launched, tags=request.tags, part=part, hooks=hooks)
    core.begin()
    return core
