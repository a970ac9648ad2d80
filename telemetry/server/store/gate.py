"""The gate: which frames may be written at all, decided inside the transaction that would write them.

Only there it is known which project a task belongs to and how much the project holds: frames arrive in any
order, and the frame that names the project may be in the same group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack
from sqlalchemy import ColumnElement, Connection, func, or_, select

from telemetry.events import INT64_MIN, RecordChange
from telemetry.record import Section, TaskKey
from telemetry.server.store import schema
from telemetry.server.store.content import FrameContent

__all__ = ["Gate", "ProjectLimit", "ProjectLimits", "Usage", "project_condition"]


@dataclass(frozen=True, slots=True)
class ProjectLimit:
    """How much a project and all below it may hold; None: no limit.

    Attributes:
        max_points: of scalars and resource readings.
        max_bytes: of the frames that were taken, as they came.
        max_blob_bytes: of artifacts, models and media; of bytes that two tasks have, each counts its own.
    """

    max_points: int | None = None
    max_bytes: int | None = None
    max_blob_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ProjectLimits:
    """Limits by project.

    Attributes:
        default: of each top-level project that is not in `named`.
        named: "vision/cars" is bound by its own entry and by that of "vision".
    """

    default: ProjectLimit = field(default_factory=ProjectLimit)
    named: Mapping[str, ProjectLimit] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.named) or self.default != ProjectLimit()

    def with_default(self, max_points: int | None, max_bytes: int | None) -> ProjectLimits:
        """Return these limits with another default; None keeps that part of it."""
        points = self.default.max_points if max_points is None else max_points
        frame_bytes = self.default.max_bytes if max_bytes is None else max_bytes
        return ProjectLimits(replace(self.default, max_points=points, max_bytes=frame_bytes), self.named)

    def over(self, project: str) -> Iterator[tuple[str, ProjectLimit]]:
        """Yield each limit that binds a project, with the project that it is a limit of."""
        parts = project.split("/")
        for length in range(1, len(parts) + 1):
            name = "/".join(parts[:length])
            if name in self.named:
                yield name, self.named[name]
            elif length == 1:
                yield name, self.default


@dataclass(slots=True)
class Usage:
    """What a project and all below it hold."""

    points: int
    frame_bytes: int


class Gate:
    """Decides on the frames of one transaction.

    Args:
        usage: by project, kept by the caller for as long as what was written stays written.
    """

    def __init__(self, connection: Connection, limits: ProjectLimits, usage: dict[str, Usage]) -> None:
        self._connection = connection
        self._limits = limits
        self._usage = usage
        self._projects: dict[int, str] = {}
        self._renamed = False

    def refusal(self, content: FrameContent, task: int | None) -> str | None:
        """Return why a frame may not be written; None lets it in, and counts it.

        A sender that is limited to projects may also be the first to speak of a task. Its task belongs to the
        sender's first project until a frame says otherwise: a record change older than any real one is added,
        so that no other sender can take the task over in the meantime.

        Args:
            task: its row's id; None if the store does not know it yet.
        """
        if content.projects is None and not self._limits:
            return None
        named = _named_projects(content)
        known = "" if task is None else self._known_project(task)
        if content.projects is not None:
            refused = [item for item in [*([known] if known else []), *named] if not _reaches(content.projects, item)]
            if refused:
                return f"the token does not reach the project {refused[0]!r:.100}"
        project = known or (named[0] if named else "") or (content.projects or ("",))[0]
        reason = self._over_limit(content, {project, *named})
        if reason is not None:
            return reason
        if content.projects is not None and not known and not named:
            content.records.append(RecordChange(INT64_MIN, Section.TASK, TaskKey.PROJECT, content.projects[0]))
        if named or not known:
            self._renamed = True
            self._projects.pop(task or 0, None)
        return None

    def count_anew(self) -> None:
        """Hear that a task has let go of what it held."""
        self._renamed = True

    def finish(self) -> None:
        """Forget what may have changed its project; the next transaction counts anew."""
        if self._renamed:
            self._usage.clear()

    def _over_limit(self, content: FrameContent, projects: set[str]) -> str | None:
        points = 0 if content.points is None else len(content.points)
        bound = {name: limit for project in sorted(projects) for name, limit in self._limits.over(project)}
        if not self._limits:
            return None
        for name, limit in bound.items():
            usage = self._usage_of(name)
            for what, used, more, most in (
                ("points", usage.points, points, limit.max_points),
                ("bytes of frames", usage.frame_bytes, content.frame_bytes, limit.max_bytes),
            ):
                if most is not None and used + more > most:
                    return (
                        f"the project {name!r:.100} is full: it holds {used:,} {what}, {more:,} more would pass its "
                        f"limit of {most:,}; the server's operator can raise it"
                    )
        for name in bound:
            self._usage[name].points += points
            self._usage[name].frame_bytes += content.frame_bytes
        return None

    def _known_project(self, task: int) -> str:
        """Return a task's project as this transaction sees it: `tasks` itself is only folded at the end."""
        project = self._projects.get(task)
        if project is None:
            columns = schema.records.c
            value = self._connection.execute(
                select(columns.value).where(
                    columns.task == task, columns.section == Section.TASK, columns.key == TaskKey.PROJECT
                )
            ).scalar()
            unpacked = None if value is None else msgpack.unpackb(value)
            project = self._projects[task] = unpacked if isinstance(unpacked, str) else ""
        return project

    def _usage_of(self, name: str) -> Usage:
        usage = self._usage.get(name)
        if usage is None:
            tasks, weights = schema.tasks, schema.task_bytes
            points, frame_bytes = self._connection.execute(
                select(
                    func.coalesce(func.sum(tasks.c.points + tasks.c.resource_points), 0),
                    func.coalesce(func.sum(weights.c.frame_bytes), 0),
                )
                .select_from(tasks.outerjoin(weights, weights.c.task == tasks.c.id))
                .where(project_condition((name,)))
            ).one()
            usage = self._usage[name] = Usage(int(points), int(frame_bytes))
        return usage


def project_condition(projects: tuple[str, ...]) -> ColumnElement[bool]:
    """Return the SQL condition that a task is of one of these projects or below one of them."""
    column = schema.tasks.c.project
    # "0" follows "/": a range of the index, which LIKE would not use.
    return or_(*((column == item) | ((column >= f"{item}/") & (column < f"{item}0")) for item in projects))


def _reaches(projects: tuple[str, ...], project: str) -> bool:
    return any(project == item or project.startswith(f"{item}/") for item in projects)


def _named_projects(content: FrameContent) -> list[Any]:
    """Return every project that a frame puts its task into; a removal, or no text, is the project ""."""
    return [
        event.value if isinstance(event.value, str) else ""
        for event in content.records
        if event.section == Section.TASK and event.key == TaskKey.PROJECT
    ]
