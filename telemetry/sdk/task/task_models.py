"""Task, section "Models": what it makes, what it uses, and the weights of either."""

from __future__ import annotations

import os
from collections import UserDict, UserList
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, overload

from telemetry.errors import ConfigurationError, ServerError
from telemetry.events import clean_text
from telemetry.record import Section
from telemetry.sdk.cores.base import ConnectsItself
from telemetry.sdk.task.task_parameters import TaskParameters
from telemetry.shapes import text, whole

if TYPE_CHECKING:
    from telemetry.sdk.handles.models import InputModel, Model

__all__ = ["ModelList", "TaskModels", "TaskModelsView"]

_Thing = TypeVar("_Thing")


class ModelList(UserList["Model"]):
    """Models in the order of their last weights, so that [-1] is the last snapshot; ["name"] is the last of a name."""

    @overload
    def __getitem__(self, index: SupportsIndex | str) -> Model: ...
    @overload
    def __getitem__(self, index: slice) -> ModelList: ...
    def __getitem__(self, index: SupportsIndex | str | slice) -> Model | ModelList:
        if not isinstance(index, str):
            return ModelList(self.data[index]) if isinstance(index, slice) else self.data[index]
        for model in reversed(self.data):
            if model.name == index:
                return model
        raise KeyError(index)

    def __contains__(self, item: object) -> bool:
        return any(item in (model, model.name) for model in self.data)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the last model of a name."""
        try:
            return self[name]
        except KeyError:
            return default

    def keys(self) -> list[str]:
        """Return the names, each once."""
        return list(dict.fromkeys(model.name for model in self.data))

    def values(self) -> list[Model]:
        """Return the last model of each name."""
        return [self[name] for name in self.keys()]

    def items(self) -> list[tuple[str, Model]]:
        """Return each name with its last model."""
        return [(name, self[name]) for name in self.keys()]


class TaskModelsView(UserDict[str, ModelList]):
    """{"input": models that the task uses, "output": models that it made}; attributes, too."""

    @property
    def input(self) -> ModelList:
        """Models that the task uses."""
        return self["input"]

    @property
    def output(self) -> ModelList:
        """Models that the task made."""
        return self["output"]


class TaskModels(TaskParameters):
    """See Task."""

    @property
    def models(self) -> TaskModelsView:
        """The task's models as they are recorded now, saved and loaded ones of frameworks among them."""
        if self._running is not None:
            self._running.model_files.settle()
        outputs, inputs = self._section(Section.OUTPUT_MODELS), self._section(Section.INPUT_MODELS)
        return TaskModelsView(
            {
                "input": self._model_list(self._linked(inputs)),
                "output": self._model_list({key: (key, entry) for key, entry in outputs.items()}),
            }
        )

    def get_models(self) -> TaskModelsView:
        """Return the same as `models`."""
        return self.models

    @property
    def input_models_id(self) -> dict[str, str]:
        """The id of each input model, by name."""
        return {name: model.id for name, model in self.models["input"].items()}

    @property
    def output_models_id(self) -> dict[str, str]:
        """The id of each output model, by name."""
        return {name: model.id for name, model in self.models["output"].items()}

    def update_output_model(
        self,
        model_path: str | os.PathLike[str],
        name: str | None = None,
        comment: str | None = None,
        tags: Sequence[str] | None = None,
        model_name: str | None = None,
        iteration: int | None = None,
        auto_delete_file: bool = False,
    ) -> str:
        """Record a model file that no framework was seen to save; with an output_uri it is uploaded.

        Args:
            name: the model's name; the same name again is the same model with new weights. Default: the file's name
                without its extension.
            model_name: a name that is stronger than `name`.
            auto_delete_file: delete the file once it is stored; never otherwise.
        Returns:
            Where the weights are, as far as that is known; see OutputModel.update_weights.
        """
        from telemetry.sdk.handles.models import OutputModel

        try:
            chosen = clean_text(model_name or name or os.path.splitext(os.path.basename(os.fspath(model_path)))[0])  # noqa: PTH119, PTH122
            entry = self._core.book.named(chosen, ask=self._running is None)
            model = OutputModel(
                task=self,
                name=chosen,
                comment=comment,
                tags=tags,
                model_id=None if entry is None else entry.id,
            )
            return model.update_weights(model_path, iteration=iteration, auto_delete_file=auto_delete_file)
        except ConfigurationError as error:
            self._refuse(f"update_output_model: {error}")
            return ""

    def set_input_model(
        self,
        model_id: str | None = None,
        model_name: str | None = None,
        update_task_design: bool = True,
        update_task_labels: bool = True,
        name: str | None = None,
    ) -> None:
        """Record a model as an input of the task, by its id, or the youngest of a name.

        Args:
            update_task_design: take the model's design as the configuration object "design", if it has one.
            update_task_labels: take the model's label enumeration, if it has one.
            name: the name under which the task lists it.
        Raises:
            ConfigurationError: neither is given, or there is no such model.
        """
        from telemetry.sdk.handles.models import InputModel

        if model_id is None and model_name is None:
            raise ConfigurationError("set_input_model needs a model_id or a model_name. Nothing was changed")
        model = InputModel(model_id=model_id, name=None if model_id else model_name)
        model.connect(self, name)
        if update_task_labels and model.labels:
            self._record.change_all(Section.LABELS, model.labels)
        if update_task_design and model.config_text:
            entry = {"text": model.config_text, "type": "json" if model.config_dict else "", "description": ""}
            self._record.change(Section.CONFIGURATION, "design", entry)

    def remove_input_models(self, models_to_remove: Iterable[str | Model | InputModel]) -> None:
        """Remove input models, given by id or as objects; those that the task has not are passed over."""
        from telemetry.sdk.handles.models import InputModel, Model

        items = [models_to_remove] if isinstance(models_to_remove, (str, Model, InputModel)) else list(models_to_remove)
        for item in items:
            model_id = item if isinstance(item, str) else item.id
            for key, (known_id, _) in self._linked(self._section(Section.INPUT_MODELS)).items():
                if model_id in (key, known_id):
                    self._core.book.forget(Section.INPUT_MODELS, key)

    def connect(self, mutable: _Thing, name: str | None = None, ignore_remote_overrides: bool = False) -> _Thing:
        """See TaskParameters.connect; an InputModel becomes an input of the task, an OutputModel is its own."""
        if isinstance(mutable, ConnectsItself):
            mutable.connect(self, name, ignore_remote_overrides)
            return mutable
        return super().connect(mutable, name, ignore_remote_overrides)

    # ---- inside ------------------------------------------------------------------------------------

    def _model_list(self, entries: Mapping[str, tuple[str, Any]]) -> ModelList:
        from telemetry.sdk.handles.models import Model

        found = [(model_id, entry) for model_id, entry in entries.values() if isinstance(entry, Mapping)]
        found.sort(key=lambda item: whole(item[1].get("time_unix_ns")))
        return ModelList([Model.of_task(self._core, model_id, entry) for model_id, entry in found])

    def _linked(self, entries: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
        """Return (model id, entry) by key; the server is asked which task made a file that this one only read."""
        linked = {key: (key, entry) for key, entry in entries.items() if isinstance(entry, Mapping)}
        if all(text(entry.get("task")) for _, entry in linked.values()):
            return linked
        try:
            known = self._view.known_models()
        except ServerError:
            return linked
        for model in known:
            if model["kind"] == "input" and model["key"] in linked and model["task"]:
                entry = {**linked[model["key"]][1], "task": model["task"], "uri": ""}
                linked[model["key"]] = (str(model["id"]), entry)
        return linked
