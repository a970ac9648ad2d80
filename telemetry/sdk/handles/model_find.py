"""Find models by id, name, project and tags: on the server, or in the sessions of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from telemetry.errors import ConfigurationError, ServerError, TelemetryError
from telemetry.record import Section
from telemetry.sdk.cores.core import TaskCore
from telemetry.sdk.cores.current import current
from telemetry.sdk.cores.stored import open_stored
from telemetry.sdk.models.index import ModelIndex
from telemetry.sdk.reading.servers import client_of, server_client, server_url
from telemetry.sdk.reading.view import section_of
from telemetry.settings import Settings

__all__ = ["FoundModel", "find_model", "find_models"]


class FoundModel(NamedTuple):
    """A model and the core of a task whose record has it."""

    core: TaskCore
    id: str
    fields: Mapping[str, Any]


def find_model(model_id: str, settings: Settings, *, task: str = "") -> FoundModel:
    """Return a model by its id; while telemetry is disabled one of which nothing is known, rather than an error.

    Args:
        task: the id of the task that made it, where that is known.
    Raises:
        ConfigurationError: nobody here knows it. ServerUnreachable: the server does not answer.
    """
    own = None if current.task is None else current.task._core
    if own is not None and task in ("", own.header.task_id):
        found = _in(own, model_id)
        if found is not None:
            return found
    task = task or ModelIndex(settings.state_dir).task_of(model_id) or _owner_on_server(model_id, settings)
    if task:
        try:
            found = _in(open_stored(task, settings, what="a model"), model_id)
        except ConfigurationError:
            found = None
        if found is not None:
            return found
    if settings.mode == "disabled":
        return FoundModel(open_stored("", settings, what="a model"), model_id, {})
    where = server_url(settings) or "this machine, and no server is set"
    raise ConfigurationError(f"no model {model_id!r:.60} is known to {where}")


def find_models(
    settings: Settings, *, project: str | None, name: str | None, tags: Sequence[str] | None, archived: bool
) -> list[FoundModel]:
    """Return the server's models that match, the youngest first.

    Raises:
        ConfigurationError: no server is set. ServerError: it does not answer, or refuses.
    """
    if settings.mode == "disabled":
        return []
    client = server_client(settings, "looking for models")
    answer = client.find_models(project=project, name=name, tags=list(tags or ()), archived=archived)
    cores: dict[str, TaskCore] = {}
    found = []
    for model in answer:
        task = str(model["task"])
        if task not in cores:
            cores[task] = open_stored(task, settings, what="a model")
        found.append(FoundModel(cores[task], str(model["id"]), model))
    return found


def _in(core: TaskCore, model_id: str) -> FoundModel | None:
    for section in (Section.OUTPUT_MODELS, Section.INPUT_MODELS):
        try:
            fields = section_of(core.view, section).get(model_id)
        except TelemetryError:
            return None
        if isinstance(fields, Mapping):
            return FoundModel(core, model_id, fields)
    return None


def _owner_on_server(model_id: str, settings: Settings) -> str:
    url = server_url(settings)
    if url is None:
        return ""
    try:
        return str(client_of(url, settings).model(model_id)["task"])
    except ServerError as error:
        if error.status in (400, 404):
            return ""
        raise
