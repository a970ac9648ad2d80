"""Models: what a task has made (OutputModel) or uses (InputModel), and what is read of either (Model).

output_model = OutputModel(task=task, framework="PyTorch")
output_model.update_weights("model.pt")

last = Task.get_task(task_id="...").models["output"][-1]
path = last.get_local_copy()
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from telemetry.disk import absolute_path
from telemetry.errors import ConfigurationError
from telemetry.events import clean_text
from telemetry.record import BlobState, Section
from telemetry.sdk.bytes.depot import READ_TIMEOUT_S
from telemetry.sdk.cores.base import ConnectsItself, TaskBase
from telemetry.sdk.cores.core import TaskCore
from telemetry.sdk.cores.current import current
from telemetry.sdk.handles.artifacts import plain_metadata
from telemetry.sdk.handles.model_find import find_model, find_models
from telemetry.sdk.handles.model_reading import ReadableModel
from telemetry.sdk.identity.modes import load_settings
from telemetry.sdk.launch.options import choose_tags
from telemetry.sdk.launch.outputs import choose_target
from telemetry.sdk.models.book import (
    ModelEntry,
    blank_fields,
    local_fields,
    new_model_id,
    weights_parcel,
)
from telemetry.sdk.models.index import KnownModel, ModelIndex
from telemetry.settings import Settings
from telemetry.shapes import text

__all__ = ["InputModel", "Model", "OutputModel"]

log = logging.getLogger(__name__)


class Model(ReadableModel):
    """A model as the record has it, for reading. `Model(model_id)` finds one by its id.

    Raises:
        ConfigurationError: no such model is known on the server, or to this machine.
    """

    def __init__(self, model_id: str) -> None:
        found = find_model(model_id, load_settings())
        self._init(found.core, found.id, found.fields)

    def _init(self, core: TaskCore | None, model_id: str, fields: Mapping[str, Any]) -> None:
        self._core = core
        self.id = model_id
        self._known = fields

    @classmethod
    def of_task(cls, core: TaskCore, model_id: str, fields: Mapping[str, Any]) -> Model:
        """Return a model that a task's record names."""
        model = cls.__new__(cls)
        model._init(core, model_id, fields)
        return model

    @classmethod
    def query_models(
        cls,
        project_name: str | None = None,
        model_name: str | None = None,
        tags: Sequence[str] | None = None,
        only_published: bool = False,
        include_archived: bool = False,
        max_results: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[Model]:
        """Return models on the server, the youngest first.

        Args:
            model_name: part of the name, whatever its case.
            tags: each must be among the model's.
            include_archived: those of archived tasks, too.
            metadata: values that the model's must equal.
        Raises:
            ConfigurationError: there is no server.
        """
        found = find_models(
            load_settings(), project=project_name, name=model_name, tags=tags, archived=include_archived
        )
        models = [cls.of_task(item.core, item.id, item.fields) for item in found]
        wanted = dict(metadata or {})
        models = [
            model
            for model in models
            if (model.published or not only_published)
            and all(model.get_metadata(key) == value for key, value in wanted.items())
        ]
        return models[:max_results]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.id}>"

    def _fields(self) -> Mapping[str, Any]:
        return self._known

    def _settings(self) -> Settings:
        return load_settings() if self._core is None else self._core.settings

    def _core_of_bytes(self, fields: Mapping[str, Any]) -> TaskCore | None:
        owner = text(fields.get("task"))
        if self._core is not None and (owner in ("", self._core.header.task_id)):
            return self._core
        found = find_model(self.id, self._settings(), task=owner)
        # Whoever used it need not know where its bytes have come to lie since.
        self._known = {**fields, **found.fields}
        return found.core


class InputModel(ReadableModel, ConnectsItself):
    """A model that exists, to be used by a task: connect it with `task.connect(input_model)`.

    Args:
        model_id: of a model on the server, or one known to this machine.
        name, project, tags: without an id: the youngest model on the server of this name, in this project, with these
            tags.
        only_published: only published ones.
    Raises:
        ConfigurationError: there is no such model.
    """

    def __init__(
        self,
        model_id: str | None = None,
        name: str | None = None,
        project: str | None = None,
        tags: Sequence[str] | None = None,
        only_published: bool = False,
    ) -> None:
        settings = load_settings()
        if model_id is not None or settings.mode == "disabled":
            found = find_model(model_id or "", settings)
        else:
            if not (name or project or tags):
                raise ConfigurationError("InputModel needs a model_id, or a name, project or tags to look for")
            several = find_models(settings, project=project, name=name, tags=tags, archived=False)
            exact = [item for item in several if name is None or item.fields.get("name") == name]
            fitting = [item for item in exact if not only_published or item.fields.get("published")]
            if not fitting:
                raise ConfigurationError(f"no model with name={name!r}, project={project!r}, tags={tags!r} is known")
            found = fitting[0]
        self.id = found.id
        self._core: TaskCore | None = found.core
        self._known: dict[str, Any] = dict(found.fields)

    @classmethod
    def import_model(
        cls,
        weights_url: str,
        config_text: str | None = None,
        config_dict: Mapping[str, Any] | None = None,
        label_enumeration: Mapping[str, int] | None = None,
        name: str | None = None,
        project: str | None = None,
        tags: Sequence[str] | None = None,
        comment: str | None = None,
        is_package: bool = False,
        create_as_published: bool = False,
        framework: str | None = None,
    ) -> InputModel:
        """Return a model of weights that no task has made: a URL or a path. It is recorded once it is connected.

        The same weights and name are the same model each time. `project` is without effect: models live with tasks.
        """
        from uuid import NAMESPACE_URL, uuid5

        here = "://" not in weights_url
        uri = _uri_of_file(weights_url) if here else weights_url
        filename = uri.partition("?")[0].rstrip("/").rpartition("/")[2]
        model = cls.__new__(cls)
        model._core = None
        model._known = {
            **blank_fields(""),
            **(local_fields(weights_url) if here else {}),
            "name": clean_text(name or Path(filename).stem or "model"),
            "framework": framework or "",
            "uri": clean_text(uri),
            "state": BlobState.STORED,
            "filename": clean_text(filename),
            "comment": comment or "",
            "tags": choose_tags(tags),
            "labels": _labels(label_enumeration),
            "config_text": _config(config_text, config_dict),
            "is_package": is_package,
            "published": create_as_published,
        }
        model.id = uuid5(NAMESPACE_URL, f"{uri}\n{model._known['name']}").hex
        return model

    load_model = import_model

    def connect(self, task: TaskBase, name: str | None = None, ignore_remote_overrides: bool = False) -> None:
        """Record it as an input model of a task.

        Args:
            name: the name under which the task lists it; default: the model's own.
        """
        fields = {**self._known, **({"name": name} if name else {})}
        if self._core is not None and self._core is task._core:
            fields["task"] = fields.get("task") or task.id
        entry = task._core.book.open(Section.INPUT_MODELS, self.id) or task._core.book.new(
            Section.INPUT_MODELS, self.id
        )
        entry.update(fields)
        if self._core is None:
            self._core = task._core

    def __repr__(self) -> str:
        return f"<InputModel {self.name!r} {self.id}>"

    def _fields(self) -> Mapping[str, Any]:
        return self._known

    def _core_of_bytes(self, fields: Mapping[str, Any]) -> TaskCore | None:
        return self._core


class OutputModel(ReadableModel, ConnectsItself):
    """A model that a task makes; it is in the task's record from here on.

    Args:
        task: default: the current task.
        config_text, config_dict: the design, as text or as a dict.
        label_enumeration: name -> number.
        name: default: the task's.
        base_model_id: the model that it began as, noted.
        model_id: go on with a model of this task, by its id.
    Raises:
        ConfigurationError: there is no task; or no model of this id in it.
    """

    def __init__(
        self,
        task: TaskBase | None = None,
        config_text: str | None = None,
        config_dict: Mapping[str, Any] | None = None,
        label_enumeration: Mapping[str, int] | None = None,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        comment: str | None = None,
        framework: str | None = None,
        base_model_id: str | None = None,
        model_id: str | None = None,
    ) -> None:
        owner = task if task is not None else current.task
        if owner is None:
            raise ConfigurationError("OutputModel needs a task: call Task.init first, or give OutputModel(task=...)")
        self._task = owner
        entry = owner._core.book.open(Section.OUTPUT_MODELS, model_id) if model_id else None
        if model_id and entry is None:
            raise ConfigurationError(f"task {owner.id} has no output model {model_id}. Nothing was changed")
        given = {
            "name": clean_text(name) if name else None,
            "framework": clean_text(str(framework)) if framework else None,
            "tags": choose_tags(tags) if tags is not None else None,
            "comment": clean_text(comment) if comment is not None else None,
            "labels": _labels(label_enumeration) if label_enumeration is not None else None,
            "base_model": base_model_id,
            "config_text": _config(config_text, config_dict) if config_text or config_dict else None,
        }
        fields = {key: value for key, value in given.items() if value is not None}
        if entry is None:
            entry = owner._core.book.new(Section.OUTPUT_MODELS, new_model_id(), **{"name": owner.name, **fields})
            entry.update({})
        elif fields:
            entry.update(fields)
        self._entry: ModelEntry = entry
        self.id = entry.id

    def __repr__(self) -> str:
        return f"<OutputModel {self.name!r} {self.id}>"

    # ---- weights -----------------------------------------------------------------------------------

    def update_weights(
        self,
        weights_filename: str | os.PathLike[str] | None = None,
        upload_uri: str | bool | None = None,
        target_filename: str | None = None,
        auto_delete_file: bool = False,
        register_uri: str | None = None,
        iteration: int | None = None,
        update_comment: bool = True,
        is_package: bool = False,
        async_enable: bool = True,
    ) -> str:
        """Give the model new weights: a file or folder of this machine, or an address where they already are.

        Uploaded where the task has an output_uri or `upload_uri` names a place; else the path is recorded.

        Args:
            upload_uri: True for the server, or an address as for output_uri.
            target_filename: the file's name at the storage.
            auto_delete_file: delete the file once it is stored; never otherwise.
            register_uri: an address, instead of a file.
            update_comment: without effect; the comment stays as it is.
            is_package: the file is a zip of files, which get_local_copy unpacks.
            async_enable: False: return when they are stored.
        Returns:
            Where the weights are, as far as that is known: "" while an upload to the server is being read.
        Raises:
            ConfigurationError: not exactly one of weights_filename and register_uri; an upload_uri that can't be used.
        """
        if (weights_filename is None) == (register_uri is None):
            raise ConfigurationError(
                "update_weights needs either weights_filename or register_uri. Nothing was changed"
            )
        further: dict[str, Any] = {} if iteration is None else {"iteration": self._entry.moved(int(iteration))}
        if register_uri is not None:
            filename = register_uri.partition("?")[0].rstrip("/").rpartition("/")[2]
            self._entry.register(clean_text(register_uri), filename=filename, is_package=is_package, path="", **further)
            return self.url
        assert weights_filename is not None
        further["is_package"] = is_package or Path(weights_filename).is_dir()
        return self._put(weights_filename, upload_uri, target_filename, auto_delete_file, not async_enable, further)

    def update_weights_package(
        self,
        weights_filenames: Sequence[str | os.PathLike[str]] | None = None,
        weights_path: str | os.PathLike[str] | None = None,
        upload_uri: str | bool | None = None,
        target_filename: str | None = None,
        auto_delete_file: bool = False,
        iteration: int | None = None,
        async_enable: bool = True,
    ) -> str:
        """Give the model several files as its weights, or a folder; they are stored as one zip.

        Without an output_uri and upload_uri a folder is recorded by its path; several files are stored all the same,
        as there is no path to record.
        """
        if (weights_filenames is None) == (weights_path is None):
            raise ConfigurationError(
                "update_weights_package needs either weights_filenames or weights_path. Nothing was changed"
            )
        further: dict[str, Any] = {"is_package": True} | (
            {} if iteration is None else {"iteration": self._entry.moved(int(iteration))}
        )
        source: Any = weights_path if weights_filenames is None else [Path(item) for item in weights_filenames]
        if weights_filenames is not None and upload_uri is None and not self._task._keeps_models:
            upload_uri = True
        return self._put(source, upload_uri, target_filename, auto_delete_file, not async_enable, further)

    def _put(
        self,
        source: Any,
        upload_uri: str | bool | None,
        filename: str | None,
        delete: bool,
        wait: bool,
        further: dict[str, Any],
    ) -> str:
        core = self._task._core
        place = local_fields(source) if not isinstance(source, list) else {"path": "", "host": ""}
        uploads = bool(upload_uri) or (upload_uri is None and self._task._keeps_models)
        exists = isinstance(source, list) or Path(source).exists() or "*" in os.fspath(source)
        parcel = weights_parcel(core, self.name, source, filename=filename) if exists else None
        if parcel is None:
            raise ConfigurationError(f"there are no weights at {source}. Nothing was changed")
        if not uploads:
            file = Path(place["path"])
            self._entry.register(file.as_uri(), filename=file.name, **place, **further)
        else:
            target = choose_target(upload_uri, core.settings) if upload_uri is not None else None
            self._entry.upload(parcel, target=target, delete_after_upload=delete, **place, **further)
        if place["path"]:
            known = KnownModel(self.id, self._task.id, self.name, self.framework)
            ModelIndex(core.settings.state_dir, core.settings.mode).note(Path(place["path"]), known)
        if wait and uploads:
            self._entry.wait()
        return self.url

    # ---- what else is known of it ------------------------------------------------------------------

    def update_design(self, config_text: str | None = None, config_dict: Mapping[str, Any] | None = None) -> bool:
        """Set the design or configuration, as text or as a dict, which is kept as JSON."""
        self._entry.update({"config_text": _config(config_text, config_dict)})
        return True

    def update_labels(self, labels: Mapping[str, int]) -> None:
        """Set the label enumeration, name -> number."""
        self._entry.update({"labels": _labels(labels)})

    def set_metadata(self, key: str, value: Any, v_type: str | None = None) -> bool:
        """Set a value of the metadata; one that the record can't carry becomes text. `v_type` is without effect."""
        self._entry.update({"metadata": {**self.get_all_metadata(), **plain_metadata({key: value})}})
        return True

    def publish(self) -> None:
        """Say that the model is final. It can still be changed."""
        self._entry.update({"published": True})

    def connect(self, task: TaskBase, name: str | None = None, ignore_remote_overrides: bool = False) -> None:
        """Do nothing for the task that makes it; an output model belongs to one task.

        Raises:
            ConfigurationError: another task.
        """
        if task.id != self._task.id:
            raise ConfigurationError(
                f"this output model belongs to task {self._task.id}; others use it as InputModel(model_id={self.id!r})"
            )
        if name:
            self._entry.update({"name": clean_text(name)})

    @property
    def name(self) -> str:
        """The model's name; can be set."""
        return super().name

    @name.setter
    def name(self, name: str) -> None:
        self._entry.update({"name": clean_text(name)})

    @property
    def comment(self) -> str:
        """Free text; can be set."""
        return super().comment

    @comment.setter
    def comment(self, comment: str) -> None:
        self._entry.update({"comment": clean_text(comment)})

    @property
    def tags(self) -> list[str]:
        """The model's tags; can be set, instead of those it has."""
        return super().tags

    @tags.setter
    def tags(self, tags: Iterable[str]) -> None:
        self._entry.update({"tags": choose_tags(tags)})

    @property
    def framework(self) -> str:
        """The framework; can be set."""
        return super().framework

    @framework.setter
    def framework(self, framework: str) -> None:
        self._entry.update({"framework": clean_text(str(framework))})

    def _fields(self) -> Mapping[str, Any]:
        return self._entry.fields()

    def _core_of_bytes(self, fields: Mapping[str, Any]) -> TaskCore | None:
        core = self._task._core
        upload = core.depot.upload(Section.OUTPUT_MODELS, self.id)
        if upload is not None and not fields.get("uri"):
            upload.wait_kept(READ_TIMEOUT_S)
        return core


def _labels(labels: Mapping[str, int] | None) -> dict[str, int]:
    chosen = {clean_text(str(name)): number for name, number in (labels or {}).items()}
    for name, number in chosen.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise ConfigurationError(
                f"label {name!r} must have a whole number, not {number!r:.80}. Nothing was changed"
            )
    return chosen


def _config(text: str | None, config: Mapping[str, Any] | None) -> str:
    if text is not None and config is not None:
        raise ConfigurationError("give config_text or config_dict, not both. Nothing was changed")
    if config is not None:
        return clean_text(json.dumps(plain_metadata(config), indent=4))
    return clean_text(text or "")


def _uri_of_file(path: str) -> str:
    absolute = Path(os.path.normpath(absolute_path(Path(path))))
    # A relative path stays one where the working folder was deleted; only an absolute one can be a file: uri.
    return absolute.as_uri() if absolute.is_absolute() else str(absolute)
