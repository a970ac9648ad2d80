"""Task, sections "Accessing Tasks" and "Querying / Searching Tasks": finding tasks of other programs on the server."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Self

from telemetry.errors import ConfigurationError, InvalidQuery, ServerError
from telemetry.sdk.cores.base import TaskBase
from telemetry.sdk.cores.current import current
from telemetry.sdk.identity.modes import load_settings
from telemetry.values import value_of

if TYPE_CHECKING:
    from telemetry.client import Client
    from telemetry.client.types import QueriedTask
    from telemetry.settings import Settings

__all__ = ["TaskQueries"]

log = logging.getLogger(__name__)

# As many as the server tells at once.
_PAGE_SIZE = 5000

# Fields that are times; the server tells them in Unix milliseconds.
_TIMES = frozenset({"created", "started", "completed", "last_update", "last_change", "status_changed"})


class TaskQueries(TaskBase):
    """See Task."""

    @classmethod
    def get_task(
        cls,
        task_id: str | None = None,
        project_name: str | None = None,
        task_name: str | None = None,
        tags: Sequence[str | None] | None = None,
        allow_archived: bool = True,
        task_filter: Mapping[str, Any] | None = None,
    ) -> Self | None:
        """Return a task by its id, or the last modified one with this project and name; None if there is none.

        An id is read from the server, or offline from this machine's sessions; the rest needs a server.

        Args:
            project_name, task_name: exact, both.
            tags, task_filter: further conditions, as in `get_tasks`.
            allow_archived: False: never an archived task. True: one only where no other matches.
        Raises:
            ValueError: no task has this id, a filter cannot be read, or nothing to look for was given.
            TypeError: tags are given here and in task_filter.
            ServerUnreachable: the server does not answer.
        """
        from telemetry.sdk.cores.stored import open_stored
        from telemetry.sdk.reading.servers import server_client

        settings = load_settings()
        if task_id:
            task = current.task
            if isinstance(task, cls) and task.id == task_id and not task.ended:
                return task
            return cls(open_stored(task_id, settings, what="Task.get_task"))
        asked = (project_name, task_name, tags, task_filter)
        if all(value is None for value in asked):
            raise ConfigurationError("Task.get_task needs a task_id, or a project_name and task_name to look for")
        if settings.mode == "disabled":
            return None
        _settle_own()
        client = server_client(settings, "Task.get_task")
        body = _query([project_name] if project_name else None, tags, task_filter)
        body["exact_name"] = task_name
        for archived in (False, True) if allow_archived else (False,):
            answer = _ask(client, {**body, "allow_archived": archived, "page": 0, "page_size": 1})
            if answer["tasks"]:
                if answer["total"] > 1:
                    log.info("%d tasks match; this is the first of them: %s", answer["total"], answer["tasks"][0]["id"])
                return cls._found(answer["tasks"][:1], settings, client)[0]
        return None

    @classmethod
    def get_tasks(
        cls,
        task_ids: Sequence[str] | None = None,
        project_name: str | Sequence[str] | None = None,
        task_name: str | None = None,
        tags: Sequence[str | None] | None = None,
        allow_archived: bool = True,
        task_filter: Mapping[str, Any] | None = None,
    ) -> list[Self]:
        """Return all tasks that match everything given, the last updated first; docs/sdk/queries.md has the filters.

        What is then read of one, such as a parameter, is read of up to 500 of them in the same request.

        Args:
            task_ids: these tasks, in this order, whatever else is given; ids that are not there are left out.
            project_name: exact names.
            task_name: a regular expression, found anywhere in the name; case matters.
            tags: tags and operators: ["a", "b"] is a or b, ["__$and", "a", "b"] both, "-a" not a.
            allow_archived: False leaves archived tasks out.
            task_filter: not changed. With "page" or "page_size" in it only that page is returned.
        Raises:
            ValueError: a filter that cannot be read; says which. Also where no server is set.
            TypeError: tags are given here and in task_filter.
            ServerUnreachable: the server does not answer.
        """
        from telemetry.sdk.reading.servers import server_client

        settings = load_settings()
        if settings.mode == "disabled":
            return []
        _settle_own()
        client = server_client(settings, "Task.get_tasks")
        if task_ids:
            if isinstance(task_ids, str):
                task_ids = [task_ids]
            found = {info["id"]: info for info in _by_ids(client, list(dict.fromkeys(task_ids)))}
            ordered = [found[one] for one in dict.fromkeys(task_ids) if one in found]
            return cls._found(ordered, settings, client)
        body = _query(_projects(project_name), tags, task_filter)
        body |= {"name": task_name, "allow_archived": allow_archived}
        return cls._found(list(_all_pages(client, body)), settings, client)

    @classmethod
    def query_tasks(
        cls,
        project_name: str | Sequence[str] | None = None,
        task_name: str | None = None,
        tags: Sequence[str | None] | None = None,
        additional_return_fields: Sequence[str] | None = None,
        task_filter: Mapping[str, Any] | None = None,
        allow_archived: bool = True,
    ) -> list[str] | list[dict[str, Any]]:
        """Return the ids of all tasks that match, as `get_tasks`; no task is read for it.

        Args:
            additional_return_fields: then dicts are returned, with "id" and these: "name", "status", "tags",
                "last_update" and other times (datetime, UTC), "hyperparams.Args.lr" (typed), "hyperparams.Args",
                "hyperparams", "last_metrics", "last_metrics.<md5>.<md5>.max_value", "script.branch", …; None where a
                task has none.
        Raises:
            As get_tasks.
        """
        from telemetry.sdk.reading.servers import server_client

        settings = load_settings()
        if settings.mode == "disabled":
            return []
        _settle_own()
        client = server_client(settings, "Task.query_tasks")
        fields = [additional_return_fields] if isinstance(additional_return_fields, str) else additional_return_fields
        body = _query(_projects(project_name), tags, task_filter)
        body |= {"name": task_name, "allow_archived": allow_archived, "fields": list(fields or ())}
        found = list(_all_pages(client, body))
        if not fields:
            return [info["id"] for info in found]
        return [
            {"id": info["id"], **{name: _returned(name, info["fields"][name]) for name in dict.fromkeys(fields)}}
            for info in found
        ]

    @classmethod
    def _found(cls, found: Sequence[QueriedTask], settings: Settings, client: Client) -> list[Self]:
        from telemetry.sdk.cores.stored import found_stored
        from telemetry.sdk.reading.view import Siblings

        siblings = Siblings([info["id"] for info in found])
        return [
            cls(found_stored(info["id"], info["project"], info["name"], info["type"], settings, client.url, siblings))
            for info in found
        ]


def _settle_own() -> None:
    """Bring what this process's own task has said so far to the server: it is among the tasks that are looked for."""
    from telemetry.sdk.cores.running import SETTLE_TIMEOUT_S

    task = current.task
    if task is not None and not task.ended:
        task._core.flush(SETTLE_TIMEOUT_S)


def _query(
    projects: list[str] | None, tags: Sequence[str | None] | None, task_filter: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the arguments that all queries share; what the caller gave is left as it is."""
    if task_filter is not None and not isinstance(task_filter, Mapping):
        raise InvalidQuery(f"task_filter must be a dict, not {type(task_filter).__name__}")
    if tags is not None and task_filter is not None and task_filter.get("tags") is not None:
        raise TypeError("tags are given twice: as the argument tags, and in task_filter. Leave one of them out")
    if isinstance(tags, str):
        tags = [tags]
    plain = {key: _plain(value, key) for key, value in (task_filter or {}).items()}
    return {"projects": projects, "tags": tags, "task_filter": plain}


def _plain(value: Any, name: str) -> Any:
    """Return a filter's value as JSON carries it: dates as text, any sequence as a list."""
    if isinstance(value, datetime):
        return value.isoformat() if value.tzinfo else value.astimezone().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, name) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, name) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InvalidQuery(f"task_filter: {name} is a {type(value).__name__}, which no filter can be")


def _projects(project_name: str | Sequence[str] | None) -> list[str] | None:
    if not project_name:
        return None
    return [project_name] if isinstance(project_name, str) else list(project_name)


def _by_ids(client: Client, task_ids: list[str]) -> Iterator[QueriedTask]:
    for start in range(0, len(task_ids), _PAGE_SIZE):
        some = task_ids[start : start + _PAGE_SIZE]
        yield from _ask(client, {"ids": some, "page_size": _PAGE_SIZE})["tasks"]


def _all_pages(client: Client, body: dict[str, Any]) -> Iterator[QueriedTask]:
    """Yield each task of all pages once, or of the one page that the filter asks for."""
    task_filter = body["task_filter"]
    if task_filter.get("page") is not None or task_filter.get("page_size") is not None:
        yield from _ask(client, body)["tasks"]
        return
    seen: set[str] = set()
    page = total = 0
    while page == 0 or page * _PAGE_SIZE < total:
        answer = _ask(client, {**body, "page": page, "page_size": _PAGE_SIZE})
        page, total = page + 1, answer["total"]
        for info in answer["tasks"]:
            # One that moved to a later page meanwhile is there twice.
            if info["id"] not in seen:
                seen.add(info["id"])
                yield info


def _ask(client: Client, body: dict[str, Any]) -> Any:
    try:
        return client.query_tasks(**body, brief=True)
    except ServerError as error:
        if error.status == 400:
            raise InvalidQuery(error.reason or str(error)) from error
        raise


def _returned(name: str, value: Any) -> Any:
    """Return a field as Python has it: times as datetimes, parameters with their types."""
    if value is None:
        return None
    if name in _TIMES:
        return datetime.fromtimestamp(value / 1000, UTC)
    if name == "hyperparams":
        sections: dict[str, dict[str, Any]] = {}
        for key, kept in value.items():
            section, _, parameter = key.partition("/")
            sections.setdefault(section, {})[parameter] = value_of(kept)
        return sections
    if name.startswith("hyperparams.") and name.count(".") == 1:
        return {key.partition("/")[2]: value_of(kept) for key, kept in value.items()}
    if name in ("properties", "user_properties"):
        return {key: value_of(kept) for key, kept in value.items()}
    return value_of(value) if name.startswith(("hyperparams.", "user_properties.", "properties.")) else value
