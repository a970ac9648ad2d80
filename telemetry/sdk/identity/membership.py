"""Whose task a process reports into: one of its own, its job's, or its parent's; and what it leaves to its children."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telemetry.clock import unix_ns
from telemetry.events import TaskHeader
from telemetry.sdk.identity.identity import (
    TASK_VARIABLE,
    Attempt,
    Lineage,
    Ranks,
    attempt_of,
    find_lineage,
    find_ranks,
    job_of,
    launcher_of_this_process,
    task_id_of,
)
from telemetry.sdk.identity.masking import mask_url
from telemetry.settings import anchored_variables

__all__ = [
    "LineageVariable",
    "Membership",
    "found_membership",
    "join",
    "lineage_of_this_process",
    "lineage_to",
    "shareable_urls",
]

# Under this name multiprocessing carries the value into each child, however that is started.
_CONFIG_KEY = "telemetry_task"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A process's place in its task.

    Attributes:
        leads: it tells how the task ends. False for ranks above 0 and for children.
        joined: an ancestor began the task.
        urls: where the ancestor's events go; empty: as the settings say.
        has_job: the task's id follows from that of the job.
        begins_anew: the task is that of an earlier run, of which nothing is to stay.
        continues: the task is that of an earlier run, which goes on.
        keep: the task is known, or feared, to hold what the next run must not overwrite.
        note: the file that tells the next run of this one; None where no other can follow it.
        said: what to tell the user of the choice; "" for nothing.
        iteration_offset: added to the iterations that are reported.
    """

    task_id: str
    created_unix_ns: int
    ranks: Ranks
    attempt: Attempt
    leads: bool
    joined: bool = False
    urls: tuple[str, ...] = ()
    has_job: bool = False
    begins_anew: bool = False
    continues: bool = False
    keep: bool = False
    note: Path | None = None
    said: str = ""
    iteration_offset: int = 0

    @property
    def run(self) -> str:
        """What the run does with its task, for the start line: "overwriting", "continuing" or ""."""
        return "overwriting" if self.begins_anew else "continuing" if self.continues else ""

    @property
    def leads_from_start(self) -> bool:
        """Whether it leads from the start, and was not left the task by the program before an exec."""
        return self.leads and not self.joined

    @property
    def follows(self) -> bool:
        """Whether it is a child's: an ancestor began the task, and tells how it ends."""
        return self.joined and not self.leads

    @property
    def began_elsewhere(self) -> bool:
        """Whether other processes have, or may have, a part in the task's record."""
        return self.joined or not self.leads or self.attempt.number > 1

    @property
    def samples_machine(self) -> bool:
        """Whether this process samples the machine: once a node, and not again for a child."""
        return self.ranks.leads_node and not self.follows


def found_membership(project: str, name: str, environ: Mapping[str, str], turns: dict[str, int]) -> Membership:
    """Begin a task: with an id of its job's where there is a job, so that all its processes begin the same one.

    Args:
        turns: how many tasks of each kind this process has begun; counted up. A second one is a task of its own.
    """
    ranks = find_ranks(environ)
    job = job_of(environ, ranks, command=sys.orig_argv, launcher=launcher_of_this_process)
    task_id = secrets.token_hex(16)
    if job is not None:
        first = task_id_of(job, project, name)
        turn = turns[first] = turns.get(first, -1) + 1
        task_id = task_id_of(job, project, name, turn=turn)
    return Membership(
        task_id=task_id,
        created_unix_ns=unix_ns(),
        ranks=ranks,
        attempt=attempt_of(environ) if job is not None else Attempt(),
        leads=ranks.leads,
        has_job=job is not None,
    )


def join(lineage: Lineage, environ: Mapping[str, str]) -> Membership:
    """Join the task that an ancestor left. After exec the process is its own ancestor, and goes on leading."""
    return Membership(
        task_id=lineage.task_id,
        created_unix_ns=lineage.created_unix_ns,
        ranks=find_ranks(environ),
        attempt=attempt_of(environ),
        leads=lineage.pid == os.getpid(),
        joined=True,
        urls=lineage.urls,
        iteration_offset=lineage.iteration_offset,
    )


def lineage_of_this_process() -> Lineage | None:
    """Return what an ancestor left to this process; None where there is nothing."""
    config = _multiprocessing_config()
    handed_down = None if config is None else config.get(_CONFIG_KEY)
    return find_lineage(os.environ, handed_down if isinstance(handed_down, str) else None)


def shareable_urls(urls: list[str]) -> tuple[str, ...]:
    """Return the sinks' URLs as a child may be told them: nothing if one may hold a secret."""
    if any(mask_url(url) != url or "@" in url or "?" in url for url in urls):
        return ()
    return tuple(urls)


def lineage_to(header: TaskHeader, urls: tuple[str, ...], iteration_offset: int = 0) -> Lineage:
    """Return what this process's children need to know to join its task."""
    names = (header.project, header.name, header.type)
    return Lineage(header.task_id, *names, header.created_unix_ns, os.getpid(), urls, iteration_offset)


class LineageVariable:
    """What a task leaves to this process's children, from its start to its end."""

    def __init__(self, lineage: Lineage) -> None:
        self._value = lineage.encode()
        self._before = os.environ.get(TASK_VARIABLE)
        os.environ[TASK_VARIABLE] = self._value
        # A child that is started in another working folder finds the same folders and files.
        self._anchored = anchored_variables(os.environ)
        self._relative = {name: os.environ[name] for name in self._anchored}
        os.environ.update(self._anchored)
        self._tell_multiprocessing(self._value)

    def renew(self, lineage: Lineage) -> None:
        """Leave something else from now on, if this is still what is left."""
        if os.environ.get(TASK_VARIABLE) == self._value:
            self._value = os.environ[TASK_VARIABLE] = lineage.encode()
            self._tell_multiprocessing(self._value)

    def take_back(self) -> None:
        """Leave the children of tomorrow what was there before. Twice does nothing."""
        for name, text in self._anchored.items():
            # What the program has set meanwhile is its own.
            if os.environ.get(name) == text:
                os.environ[name] = self._relative[name]
        if os.environ.get(TASK_VARIABLE) != self._value:
            return
        if self._before is None:
            del os.environ[TASK_VARIABLE]
        else:
            os.environ[TASK_VARIABLE] = self._before
        self._tell_multiprocessing(self._before or "")

    @staticmethod
    def _tell_multiprocessing(value: str) -> None:
        # A fork server keeps the environment of its own start; what it must not do is hand down a task that has ended.
        config = _multiprocessing_config()
        if config is not None:
            config[_CONFIG_KEY] = value


def _multiprocessing_config() -> dict[str, Any] | None:
    """Return the settings that multiprocessing copies into each child; None while nobody has imported it."""
    module = sys.modules.get("multiprocessing.process")
    if module is None:
        return None
    config = getattr(module.current_process(), "_config", None)
    return config if isinstance(config, dict) else None
