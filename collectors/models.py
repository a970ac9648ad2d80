"""A saved model file becomes a ModelSaved event, whichever framework saves it; what is loaded is told to who listens.

One line of `SAVE_FUNCTIONS` or `LOAD_FUNCTIONS` is one function to watch. It is replaced when its module is imported
(or at start, if it already is), never imported by us, and put back by stop(). The program's call goes to the original
first; the event follows only if that returned. The file itself is not opened.

Code that took a function by name before start (`from torch import save`) calls the original and is not seen.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import MethodType, ModuleType
from typing import Any, Protocol, TypeAlias

from telemetry.collectors.post_import import PostImport

from telemetry.clock import unix_ns
from telemetry.errors import ConfigurationError, EventsDropped
from telemetry.events import ModelSaved, clean_text
from telemetry.ledger import DropReason
from telemetry.process.interrupts import is_interrupt
from telemetry.protocols import Emit

__all__ = ["LOAD_FUNCTIONS", "SAVE_FUNCTIONS", "LoadFunction", "ModelCollector", "ModelListener", "SaveFunction"]

_log = logging.getLogger(__name__)

# bool, a wildcard for the path, or several of which one must match.
# A dict is for frameworks with switches of their own, such as {"report_hparams": False}; an empty one is off.
Switch: TypeAlias = bool | str | list[str] | Mapping[str, bool]
Frameworks: TypeAlias = bool | Mapping[str, Switch]


@dataclass(frozen=True, slots=True)
class SaveFunction:
    """One function that saves a model.

    Attributes:
        framework: what the event says.
        module: the function is replaced when this module has been imported.
        attribute: where it lies in the module: "save" or "Class.save".
        position: of the path among the positional arguments; a method's own object is number 0.
        keyword: the path's name as a keyword argument.
        switches: the names under which it can be switched off; all must be on.
    """

    framework: str
    module: str
    attribute: str
    position: int
    keyword: str
    switches: tuple[str, ...]


class LoadFunction(SaveFunction):
    """One function that loads a model; the same fields."""

    __slots__ = ()


class ModelListener(Protocol):
    """Is told of model files beside the events. Its methods return at once and never raise; any thread."""

    def saved(self, path: str, *, name: str | None, framework: str, iteration: int | None) -> None:
        """A file or folder was written."""

    def loaded(self, path: str, *, framework: str) -> None:
        """A file or folder was read."""


SAVE_FUNCTIONS = (
    SaveFunction("pytorch", "torch", "save", 1, "f", ("pytorch",)),
    SaveFunction("joblib", "joblib", "dump", 1, "filename", ("joblib", "scikit")),
    SaveFunction("xgboost", "xgboost.core", "Booster.save_model", 1, "fname", ("xgboost",)),
    SaveFunction("xgboost", "xgboost.sklearn", "XGBModel.save_model", 1, "fname", ("xgboost",)),
    SaveFunction("lightgbm", "lightgbm.basic", "Booster.save_model", 1, "filename", ("lightgbm",)),
    SaveFunction("catboost", "catboost.core", "CatBoost.save_model", 1, "fname", ("catboost",)),
    SaveFunction("keras", "keras.src.models.model", "Model.save", 1, "filepath", ("keras", "tensorflow")),
    SaveFunction("keras", "keras.src.models.model", "Model.save_weights", 1, "filepath", ("keras", "tensorflow")),
    SaveFunction("safetensors", "safetensors.torch", "save_file", 1, "filename", ("safetensors", "pytorch")),
    SaveFunction("safetensors", "safetensors.numpy", "save_file", 1, "filename", ("safetensors",)),
    SaveFunction("safetensors", "safetensors.flax", "save_file", 1, "filename", ("safetensors",)),
)

LOAD_FUNCTIONS: tuple[SaveFunction, ...] = (
    LoadFunction("pytorch", "torch", "load", 0, "f", ("pytorch",)),
    LoadFunction("joblib", "joblib", "load", 0, "filename", ("joblib", "scikit")),
    LoadFunction("xgboost", "xgboost.core", "Booster.load_model", 1, "fname", ("xgboost",)),
    LoadFunction("xgboost", "xgboost.sklearn", "XGBModel.load_model", 1, "fname", ("xgboost",)),
    LoadFunction("lightgbm", "lightgbm.basic", "Booster.__init__", 3, "model_file", ("lightgbm",)),
    LoadFunction("catboost", "catboost.core", "CatBoost.load_model", 1, "fname", ("catboost",)),
    LoadFunction("keras", "keras.saving", "load_model", 0, "filepath", ("keras", "tensorflow")),
    LoadFunction("keras", "keras.models", "load_model", 0, "filepath", ("keras", "tensorflow")),
    LoadFunction("keras", "keras.src.models.model", "Model.load_weights", 1, "filepath", ("keras", "tensorflow")),
    LoadFunction("safetensors", "safetensors.torch", "load_file", 0, "filename", ("safetensors", "pytorch")),
    LoadFunction("safetensors", "safetensors.numpy", "load_file", 0, "filename", ("safetensors",)),
    LoadFunction("safetensors", "safetensors.flax", "load_file", 0, "filename", ("safetensors",)),
)


class ModelCollector:
    """Emits a ModelSaved for each model file that a known framework writes, or that `saved` is told of.

    Args:
        frameworks: True for all, False for none, or by framework name: a bool, a wildcard that the path must
            match, or a list of wildcards of which one must. A name that is missing is on; an empty dict is
            all off.
        clock: Unix time in ns.
        functions: what to watch; those that load only if somebody listens.

    Raises:
        ConfigurationError: `frameworks` holds something else.
    """

    name = "models"

    def __init__(
        self,
        frameworks: Frameworks = True,
        *,
        clock: Callable[[], int] = unix_ns,
        functions: tuple[SaveFunction, ...] = SAVE_FUNCTIONS + LOAD_FUNCTIONS,
    ) -> None:
        self._switches = _checked(frameworks)
        self._functions = functions if self._switches is not None else ()
        self._clock = clock
        self._emit: Emit | None = None
        self._listener: ModelListener | None = None
        self._post_import: PostImport | None = None
        self._replaced: list[tuple[Any, str, _Watched]] = []
        # A function of one framework may call another's (XGBModel and Booster): the outermost call counts.
        self._inside = threading.local()

    def listen(self, listener: ModelListener) -> None:
        """Tell somebody of each file that is saved or loaded; before `start`."""
        self._listener = listener

    def start(self, emit: Emit) -> None:
        """Watch the frameworks that are imported, and those that will be."""
        self._emit = emit
        by_module: dict[str, list[SaveFunction]] = {}
        for function in self._functions:
            if isinstance(function, LoadFunction) and self._listener is None:
                continue
            if self._allows(function.switches, path=None):
                by_module.setdefault(function.module, []).append(function)
        if by_module:
            self._post_import = PostImport(
                {name: functools.partial(self._watch, functions) for name, functions in by_module.items()}
            )
            self._post_import.install()

    def stop(self) -> None:
        """Put the frameworks' functions back. A reference that somebody kept goes on as a plain pass-through."""
        self._emit = None
        if self._post_import is not None:
            self._post_import.remove()
        for owner, attribute, watched in reversed(self._replaced):
            # Somebody may have replaced ours by now: theirs stays.
            if vars(owner).get(attribute) is watched:
                setattr(owner, attribute, watched.__wrapped__)
        self._replaced.clear()

    def reset_after_fork(self) -> None:
        """In a forked child: nothing to do but to forget which calls the parent's thread was in."""
        self._inside = threading.local()

    def saved(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        framework: str = "custom",
        iteration: int | None = None,
    ) -> None:
        """Report a model file or folder that was written by other means. Never raises; any thread.

        Args:
            name: the file's name if not given.
            iteration: None if not known.
        """
        emit = self._emit
        if emit is None:
            return
        try:
            text = os.fsdecode(path)
            self._send(emit, text, _size_bytes(text), name=name, framework=framework, iteration=iteration)
        except EventsDropped:
            pass  # strict mode; counted already, and it is for report calls to raise
        except Exception as error:
            if is_interrupt(error):
                raise
            _refuse(emit, f"a saved model was not noted ({path!r:.200}): {error!r}")

    def _send(
        self, emit: Emit, path: str, size_bytes: int | None, *, name: str | None, framework: str, iteration: int | None
    ) -> None:
        given, name = name, name or PurePath(path).name or path
        if self._listener is not None:
            self._listener.saved(path, name=given, framework=framework, iteration=iteration)
        emit(ModelSaved(self._clock(), clean_text(name), clean_text(path), framework, iteration, size_bytes))

    def _allows(self, switches: tuple[str, ...], path: str | None) -> bool:
        """Whether all of a function's switches are on and, if there is a path already, it matches them."""
        chosen = self._switches or {}
        for switch in (chosen.get(name, True) for name in switches):
            if not switch:
                return False
            if path is None or switch is True or isinstance(switch, Mapping):
                continue
            patterns = [switch] if isinstance(switch, str) else switch
            if not any(fnmatch.fnmatch(path, pattern) for pattern in patterns):
                return False
        return True

    def _watch(self, functions: list[SaveFunction], module: ModuleType) -> None:
        for function in functions:
            owner: Any = module
            *classes, attribute = function.attribute.split(".")
            try:
                for part in classes:
                    owner = getattr(owner, part)
                original = vars(owner)[attribute]
            except (AttributeError, KeyError):
                # Another version of the framework: not what the table describes.
                _log.debug("%s has no %s to watch", function.module, function.attribute)
                continue
            watched = _Watched(self, function, original)
            setattr(owner, attribute, watched)
            self._replaced.append((owner, attribute, watched))

    def _call(self, function: SaveFunction, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The program's call, and then the event. What the original raises goes through untouched."""
        if self._emit is None or getattr(self._inside, "busy", False):
            return original(*args, **kwargs)
        self._inside.busy = True
        try:
            result = original(*args, **kwargs)
        finally:
            self._inside.busy = False
        target = args[function.position] if len(args) > function.position else kwargs.get(function.keyword)
        self._note(function, target)
        return result

    def _note(self, function: SaveFunction, target: Any) -> None:
        """Report what a function wrote to or read from `target`, unless it has no path or is switched off."""
        emit = self._emit
        if emit is None:
            return
        try:
            path = _path_of(target)
            if path is None or not self._allows(function.switches, path):
                return
            if isinstance(function, LoadFunction):
                if self._listener is not None:
                    self._listener.loaded(path, framework=function.framework)
                return
            # A file that the program has open may have more in its buffer.
            size_bytes = _size_bytes(path) if isinstance(target, (str, bytes, os.PathLike)) else None
            self._send(emit, path, size_bytes, name=None, framework=function.framework, iteration=None)
        except EventsDropped:
            pass  # strict mode; counted already
        except Exception as error:
            if is_interrupt(error):
                raise
            _refuse(emit, f"a model of {function.framework} was not noted: {error!r}")


def _refuse(emit: Emit, message: str) -> None:
    try:
        emit.refuse(DropReason.INVALID, message)
    except EventsDropped:
        pass  # strict mode; counted already


class _Watched:
    """Stands in for a function, or for a method when it lies in a class.

    An object and not a closure, so that it can be pickled like the function it stands for: by name. A worker
    process that gets `joblib.dump` as an argument finds its own.
    """

    __wrapped__: Callable[..., Any]

    def __init__(self, collector: ModelCollector, function: SaveFunction, original: Callable[..., Any]) -> None:
        functools.update_wrapper(self, original)
        self._collector = collector
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._collector._call(self._function, self.__wrapped__, args, kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> tuple[Any, ...]:
        return _resolve, (self._function.module, self._function.attribute)


def _resolve(module: str, attribute: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _checked(frameworks: Any) -> dict[str, Any] | None:
    """The switches by name; None if everything is off."""
    if isinstance(frameworks, bool):
        return {} if frameworks else None
    if not isinstance(frameworks, Mapping):
        raise ConfigurationError(f"auto_connect_frameworks must be a bool or a dict, not {type(frameworks).__name__}")
    for name, switch in frameworks.items():
        patterns = switch if isinstance(switch, list) else []
        if not isinstance(name, str) or not isinstance(switch, (bool, str, list, Mapping)):
            raise ConfigurationError(
                f"auto_connect_frameworks[{name!r}] must be a bool, a wildcard, a list of wildcards or a dict, "
                f"not {switch!r:.80}"
            )
        if not all(isinstance(pattern, str) for pattern in patterns):
            raise ConfigurationError(
                f"auto_connect_frameworks[{name!r}] must hold wildcards (str) only, not {switch!r:.80}"
            )
    return dict(frameworks) or None


def _path_of(target: Any) -> str | None:
    """The path of a save function's argument: a path, or an open file that has one; else None."""
    if not isinstance(target, (str, bytes, os.PathLike)):
        # An open file. Those without a path (a buffer, a descriptor) have none or a number.
        target = getattr(target, "name", None)
    return os.fsdecode(target) if isinstance(target, (str, bytes, os.PathLike)) and target else None


def _size_bytes(path: str) -> int | None:
    """None for what is no file of this machine: a folder, a bucket's URL, a file still being written elsewhere."""
    try:
        file = Path(path)
        return file.stat().st_size if file.is_file() else None
    except (OSError, ValueError) as error:
        if is_interrupt(error):
            raise
        return None
