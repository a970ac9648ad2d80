"""Which blobs a task's record names, which of them the task holds, and which nobody needs any more.

Two things must come together before a blob is given out: the task's record names it, and the task holds it, which it
does once its sender has sent the bytes (or may count on those that another task sent). A sender that only knows a
sha256 so gets nothing of other people's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
from sqlalchemy import Connection, delete, exists, func, select
from sqlalchemy.dialects.sqlite import insert as upsert

from telemetry.events import RecordChange
from telemetry.record import BlobState, Section
from telemetry.server.store import schema
from telemetry.server.store.content import FrameContent
from telemetry.server.store.gate import ProjectLimits, project_condition
from telemetry.server.store.reports import blobs_of_reports
from telemetry.storage.blobs import blob_uri, is_sha256, sha256_of_uri

__all__ = [
    "BlobRef",
    "LostBlobs",
    "find_ref",
    "held_blobs",
    "hold",
    "holders_within",
    "is_deleted",
    "is_held",
    "over_limit",
    "read_refs",
    "release",
    "unheld",
    "with_states",
]

# Sections of the record whose values may have a uri "blob:<sha256>" of the task's own bytes.
_SECTIONS = (Section.ARTIFACTS, Section.OUTPUT_MODELS)
# Those in which a reader wants to know whether the bytes are there.
_STATE_SECTIONS = (*_SECTIONS, Section.INPUT_MODELS)
_MAX_PARAMETERS = 500

_held = schema.task_blobs.c
_records = schema.records.c


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A blob as something of the task names it: for downloads, and for a person who misses it."""

    sha256: str
    size_bytes: int = 0
    filename: str = ""
    content_type: str = ""
    label: str = ""


def _refs_of_records(connection: Connection, task: int) -> Iterator[BlobRef]:
    query = select(_records.section, _records.key, _records.value).where(
        _records.task == task, _records.section.in_(_SECTIONS), _records.value.is_not(None)
    )
    for section, key, value in connection.execute(query):
        ref = _ref_of(section, key, msgpack.unpackb(value))
        if ref is not None:
            yield ref


def _ref_of(section: str, key: str, value: Any) -> BlobRef | None:
    sha256 = _sha256_of(value)
    if sha256 is None:
        return None
    word = "artifact" if section == Section.ARTIFACTS else "model"
    name = value.get("name") if section != Section.ARTIFACTS else key
    return BlobRef(
        sha256,
        _integer(value.get("size_bytes")),
        _text(value.get("filename")),
        _text(value.get("content_type")),
        f"{word} {_text(name) or key!r}",
    )


def _refs_of_reports(connection: Connection, task: int) -> Iterator[BlobRef]:
    for sha256, filename, content_type, size_bytes in blobs_of_reports(connection, task):
        yield BlobRef(sha256, size_bytes, filename, content_type, f"plot or medium {filename!r}")


def read_refs(connection: Connection, task: int) -> dict[str, BlobRef]:
    """Return the blobs that a task names, by sha256."""
    refs: dict[str, BlobRef] = {}
    for ref in (*_refs_of_records(connection, task), *_refs_of_reports(connection, task)):
        refs.setdefault(ref.sha256, ref)
    return refs


def find_ref(connection: Connection, task: int, sha256: str) -> BlobRef | None:
    """Return how a task names a blob; None if it does not. A page of images asks for many of them."""
    ref = next((ref for ref in _refs_of_records(connection, task) if ref.sha256 == sha256), None)
    if ref is not None:
        return ref
    media, plots = schema.media.c, schema.plots.c
    row = connection.execute(
        select(media.filename, media.content_type, media.size_bytes)
        .where(media.task == task, media.uri == blob_uri(sha256))
        .limit(1)
    ).one_or_none()
    if row is not None:
        return BlobRef(sha256, row.size_bytes or 0, row.filename, row.content_type)
    if connection.execute(select(plots.id).where(plots.task == task, plots.blob == sha256).limit(1)).first():
        return BlobRef(sha256, 0, "figure.json", "application/json")
    return None


# ---- who holds what ------------------------------------------------------------------------------


def is_held(connection: Connection, task: int, sha256: str) -> bool:
    """Say whether a task holds a blob."""
    return bool(connection.execute(select(exists().where(_held.task == task, _held.sha256 == sha256))).scalar())


def held_blobs(connection: Connection, task: int) -> set[str]:
    """Return the sha256 of each blob that a task holds."""
    return set(connection.execute(select(_held.sha256).where(_held.task == task)).scalars())


def hold(connection: Connection, task: int, sha256: str, size_bytes: int, now_unix_ns: int) -> None:
    """Note that a task holds a blob."""
    row = {"task": task, "sha256": sha256, "size_bytes": size_bytes, "time": now_unix_ns}
    connection.execute(upsert(schema.task_blobs).on_conflict_do_nothing(), row)


def release(connection: Connection, task: int, sha256s: Iterable[str] | None = None) -> set[str]:
    """Note that a task holds these blobs no more, or none any more; return those that then nobody holds."""
    held = held_blobs(connection, task)
    gone = held if sha256s is None else held & set(sha256s)
    for some in _slices(sorted(gone)):
        connection.execute(delete(schema.task_blobs).where(_held.task == task, _held.sha256.in_(some)))
    return unheld(connection, gone)


def unheld(connection: Connection, sha256s: Iterable[str]) -> set[str]:
    """Return those of some blobs that no task holds."""
    left = set(sha256s)
    for some in _slices(sorted(left)):
        left -= set(connection.execute(select(_held.sha256).where(_held.sha256.in_(some)).distinct()).scalars())
    return left


def holders_within(connection: Connection, sha256: str, projects: tuple[str, ...] | None) -> bool:
    """Say whether a task of these projects (None: of any) holds a blob."""
    query = select(_held.task).join(schema.tasks, schema.tasks.c.id == _held.task).where(_held.sha256 == sha256)
    if projects is not None:
        query = query.where(project_condition(projects))
    return connection.execute(query.limit(1)).scalar() is not None


def over_limit(connection: Connection, project: str, size_bytes: int, limits: ProjectLimits) -> str | None:
    """Return why a project may not hold so many bytes more; None if it may."""
    for name, limit in limits.over(project):
        if limit.max_blob_bytes is None:
            continue
        query = (
            select(func.coalesce(func.sum(_held.size_bytes), 0))
            .join(schema.tasks, schema.tasks.c.id == _held.task)
            .where(project_condition((name,)))
        )
        used = int(connection.execute(query).scalar_one())
        if used + size_bytes > limit.max_blob_bytes:
            return (
                f"the project {name!r:.100} is full: its artifacts and models have {used:,} bytes, {size_bytes:,} more "
                f"would pass its limit of {limit.max_blob_bytes:,}; the server's operator can raise it"
            )
    return None


def is_deleted(connection: Connection, task_id: str) -> bool:
    """Say whether a task was deleted: nothing of it is taken any more."""
    columns = schema.deleted_tasks.c
    return bool(connection.execute(select(exists().where(columns.task_id == task_id))).scalar())


class LostBlobs:
    """Follows, through one transaction of the writer, which blobs lose the entry that named them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._suspects: dict[int, set[str]] = {}
        self._dropped: set[str] = set()

    def drop(self, task: int) -> None:
        """Let go of all that a task holds, whose row is given up."""
        self._dropped |= release(self._connection, task)

    def note(self, task: int, changes: Sequence[RecordChange]) -> None:
        """Look at what some changes are about to replace; before they are written."""
        keys: dict[str, list[str]] = {}
        for change in changes:
            if change.section in _SECTIONS:
                keys.setdefault(change.section, []).append(change.key)
        for section, names in keys.items():
            for some in _slices(names):
                query = select(_records.value).where(
                    _records.task == task,
                    _records.section == section,
                    _records.key.in_(some),
                    _records.value.is_not(None),
                )
                for value in self._connection.execute(query).scalars():
                    sha256 = _sha256_of(msgpack.unpackb(value))
                    if sha256 is not None:
                        self._suspects.setdefault(task, set()).add(sha256)

    def note_reports(self, task: int, content: FrameContent) -> None:
        """Look at what a frame's plots and media are about to replace; before they are written."""
        for table, column, events in (
            (schema.plots, schema.plots.c.blob, content.plots),
            (schema.media, schema.media.c.uri, content.media),
        ):
            columns = table.c
            for event in events:
                query = select(column).where(
                    columns.task == task,
                    columns.title == event.title,
                    columns.series == event.series,
                    columns.iteration == event.iteration,
                )
                found = self._connection.execute(query).scalar()
                sha256 = found and (sha256_of_uri(found) or (found if is_sha256(found) else None))
                if sha256:
                    self._suspects.setdefault(task, set()).add(sha256)

    def finish(self) -> set[str]:
        """Release what is named no more; return the blobs that nobody holds now. After all was written."""
        lost = set(self._dropped)
        for task, suspects in self._suspects.items():
            gone = suspects - set(read_refs(self._connection, task))
            if gone:
                lost |= release(self._connection, task, gone)
        # A task that comes later in the transaction may hold what an earlier one let go.
        return unheld(self._connection, lost)


def with_states(connection: Connection, task: int, record: dict[str, dict[str, Any]]) -> None:
    """Put "state" into each entry of a record whose uri is a blob: "stored" if the bytes are here.

    A model that came from another task has its bytes there.
    """
    found = (entry for section in _STATE_SECTIONS for entry in record.get(section, {}).values())
    entries = [entry for entry in found if _sha256_of(entry) is not None]
    if not entries:
        return
    held = held_blobs(connection, task)
    for entry in entries:
        sha256 = str(_sha256_of(entry))
        stored = sha256 in held or _is_held_by(connection, entry.get("task"), sha256)
        if stored or entry.get("state") != BlobState.FAILED:
            entry["state"] = BlobState.STORED if stored else BlobState.PENDING


def _is_held_by(connection: Connection, task_id: Any, sha256: str) -> bool:
    if not isinstance(task_id, str):
        return False
    query = (
        select(_held.task)
        .join(schema.tasks, schema.tasks.c.id == _held.task)
        .where(schema.tasks.c.task_id == task_id, _held.sha256 == sha256)
    )
    return connection.execute(query).first() is not None


def _sha256_of(value: Any) -> str | None:
    uri = value.get("uri") if isinstance(value, dict) else None
    return sha256_of_uri(uri) if isinstance(uri, str) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _integer(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def _slices(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), _MAX_PARAMETERS):
        yield items[start : start + _MAX_PARAMETERS]
