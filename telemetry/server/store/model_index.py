"""Models across tasks: found by id, name, tags and address, and linked by the file that one wrote and another read.

An entry of section "input_models" that names no task is of a file that its program did not know. If an output model of
any task was recorded with the same path, host and size, and before, it is that model; so it is told when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
from sqlalchemy import Connection, Select, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from telemetry.events import INT64_MAX, RecordChange
from telemetry.record import Section, TaskKey
from telemetry.server.store import schema
from telemetry.server.store.errors import NotFound
from telemetry.server.store.gate import project_condition
from telemetry.server.store.plain import Json, json_value
from telemetry.shapes import text, texts

__all__ = ["ModelsQuery", "find_models", "index_models", "link_models", "read_model"]

_SECTIONS = (Section.OUTPUT_MODELS, Section.INPUT_MODELS)

# Rows that a search looks at, beyond those that SQL can pass over by itself.
_MAX_LOOKED_AT = 20_000
_MAX_TEXT_CHARS = 4000

_index = schema.task_models.c
_records = schema.records.c
_tasks = schema.tasks.c


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelsQuery:
    """Which models are asked for. `name`: part of it, whatever its case; `within`: the projects that may be seen."""

    project: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    task: str | None = None
    uri: str | None = None
    archived: bool = False
    limit: int = 500
    within: tuple[str, ...] | None = None


def index_models(connection: Connection, task: int, changes: Sequence[RecordChange]) -> None:
    """Bring the index up to date with entries that have just changed in the record. `task`: its row id."""
    keys: dict[str, set[str]] = {}
    for change in changes:
        if change.section in _SECTIONS:
            keys.setdefault(change.section, set()).add(change.key)
    for section, names in keys.items():
        for name in sorted(names):
            row = connection.execute(
                select(_records.time, _records.value).where(
                    _records.task == task, _records.section == section, _records.key == name
                )
            ).first()
            entry = None if row is None or row.value is None else msgpack.unpackb(row.value)
            if row is None or not isinstance(entry, dict):
                connection.execute(
                    delete(schema.task_models).where(
                        _index.task == task, _index.section == section, _index.model_id == name
                    )
                )
                continue
            columns = _columns(entry, row.time)
            connection.execute(
                upsert(schema.task_models)
                .values(task=task, section=section, model_id=name, **columns)
                .on_conflict_do_update(index_elements=["task", "section", "model_id"], set_=columns)
            )


def read_model(connection: Connection, model_id: str, within: tuple[str, ...] | None = None) -> Json:
    """Return a model's entry: of the task that made it, else of the last one that used it.

    Raises:
        NotFound: no task has it, or none of those that may be seen.
    """
    query = _joined(within).where(_index.model_id == model_id)
    found = list(_entries(connection, query.order_by(_index.section.desc(), _index.time.desc()), within))
    if not found:
        raise NotFound(f"no model {model_id[:100]!r}")
    return found[0]


def find_models(connection: Connection, query: ModelsQuery) -> Json:
    """Return the models that match, the youngest first: what tasks made; of one task also what it used."""
    rows = _joined(query.within).order_by(_index.time.desc(), _index.model_id).limit(_MAX_LOOKED_AT)
    if query.task is None:
        rows = rows.where(_index.section == Section.OUTPUT_MODELS)
    else:
        rows = rows.where(_tasks.task_id == query.task)
    if query.project is not None:
        rows = rows.where(_tasks.project == query.project)
    if query.uri is not None:
        rows = rows.where(_index.uri == query.uri)
    if query.name is not None:
        rows = rows.where(_index.name.contains(query.name.casefold(), autoescape=True))
    if not query.archived and query.task is None:
        rows = rows.where(_tasks.archived == 0)
    models: list[Json] = []
    for entry in _entries(connection, rows, query.within):
        if not set(query.tags) <= set(texts(entry.get("tags"))):
            continue
        models.append(entry)
        if len(models) == query.limit:
            break
    return {"models": models}


def link_models(connection: Connection, entries: Mapping[str, Json], within: tuple[str, ...] | None = None) -> None:
    """Put "task" and "model" into each entry of "input_models" whose file some task has written."""
    for entry in entries.values():
        if not isinstance(entry, dict) or text(entry.get("task")):
            continue
        owner = _maker_of(connection, entry, within)
        if owner is not None:
            entry["task"], entry["model"] = owner.task_id, owner.model_id


def _maker_of(connection: Connection, entry: Json, within: tuple[str, ...] | None) -> Any:
    columns = _columns(entry, INT64_MAX)
    if not columns["path"] or not columns["host"] or columns["size"] is None:
        return None
    query = (
        select(_tasks.task_id, _index.model_id)
        .join(schema.tasks, _tasks.id == _index.task)
        .where(
            _index.section == Section.OUTPUT_MODELS,
            _index.path == columns["path"],
            _index.host == columns["host"],
            _index.size == columns["size"],
            _index.time <= columns["time"],
        )
        .order_by(_index.time.desc())
        .limit(1)
    )
    if within is not None:
        query = query.where(project_condition(within))
    return connection.execute(query).first()


def _joined(within: tuple[str, ...] | None) -> Select[Any]:
    query = (
        select(
            _index.task,
            _index.section,
            _index.model_id,
            _tasks.task_id,
            _tasks.name.label("task_name"),
            _tasks.project,
            _records.time,
            _records.value,
        )
        .join(schema.tasks, _tasks.id == _index.task)
        .join(
            schema.records,
            (_records.task == _index.task) & (_records.section == _index.section) & (_records.key == _index.model_id),
        )
        .where(_records.value.is_not(None))
    )
    return query if within is None else query.where(project_condition(within))


def _entries(connection: Connection, query: Select[Any], within: tuple[str, ...] | None) -> Iterator[Json]:
    resets: dict[int, int] = {}
    for row in connection.execute(query):
        if row.task not in resets:
            resets[row.task] = _reset_of(connection, row.task)
        # What is older than a reset of its task does not count.
        if 0 < row.time < resets[row.task]:
            continue
        entry = json_value(msgpack.unpackb(row.value))
        if row.section == Section.INPUT_MODELS:
            link_models(connection, {row.model_id: entry}, within)
        yield {
            **entry,
            "id": text(entry.get("model")) or row.model_id,
            "key": row.model_id,
            "kind": "output" if row.section == Section.OUTPUT_MODELS else "input",
            "task": text(entry.get("task")) or (row.task_id if row.section == Section.OUTPUT_MODELS else ""),
            "of_task": row.task_id,
            "task_name": row.task_name,
            "project": row.project,
        }


def _reset_of(connection: Connection, task: int) -> int:
    query = select(_records.value).where(
        _records.task == task, _records.section == Section.TASK, _records.key == TaskKey.RESET
    )
    value = connection.execute(query).scalar()
    reset_unix_ns = None if value is None else msgpack.unpackb(value)
    return reset_unix_ns if type(reset_unix_ns) is int else 0


def _columns(entry: Json, changed_unix_ns: int) -> Json:
    size, time_unix_ns = entry.get("size_bytes"), entry.get("time_unix_ns")
    return {
        "name": _text(entry.get("name")).casefold(),
        "uri": _text(entry.get("uri")),
        "path": _text(entry.get("path")),
        "host": _text(entry.get("host")),
        "size": size if _is_int64(size) else None,
        "time": time_unix_ns if _is_int64(time_unix_ns) else changed_unix_ns,
    }


def _text(value: Any) -> str:
    return text(value)[:_MAX_TEXT_CHARS]


def _is_int64(value: Any) -> bool:
    return type(value) is int and 0 <= value <= INT64_MAX
