"""What Task.init accepts: names and their defaults, task types, and a plain refusal of what is not built yet.

Nothing is ignored in silence: a value that asks for a missing feature is a ConfigurationError, raised
before anything is started.
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from telemetry.errors import ConfigurationError
from telemetry.events import MAX_NAME_CHARS, MAX_TAG_CHARS, MAX_TAGS, clean_text
from telemetry.values import excerpt

__all__ = [
    "DEFAULT_PROJECT",
    "FRAMEWORKS",
    "STREAMS",
    "TASK_TYPES",
    "TaskTypes",
    "choose_name",
    "choose_project",
    "choose_resource_interval_s",
    "choose_streams",
    "choose_tags",
    "choose_type",
    "warn_of_unknown_frameworks",
]

log = logging.getLogger(__name__)

DEFAULT_PROJECT = "Untitled"


class TaskTypes(StrEnum):
    """What a task does. The words of the reference SDK, so that a script's word keeps its meaning."""

    training = "training"
    testing = "testing"
    inference = "inference"
    data_processing = "data_processing"
    application = "application"
    monitor = "monitor"
    controller = "controller"
    optimizer = "optimizer"
    service = "service"
    qc = "qc"
    custom = "custom"


TASK_TYPES = tuple(kind.value for kind in TaskTypes)

STREAMS = ("stdout", "stderr", "logging")

# What auto_connect_frameworks may name: what is hooked here, and what ClearML's page and source name besides.
FRAMEWORKS = (
    *("pytorch", "joblib", "scikit", "xgboost", "lightgbm", "catboost", "keras", "tensorflow", "safetensors"),
    *("matplotlib", "tensorboard", "hydra", "tfdefines", "detect_repository"),
    *("fastai", "megengine", "jsonargparse", "gradio", "click", "fire", "dask", "transformers"),
)


def choose_project(project_name: str | None) -> str:
    """Return the project: as given, or "Untitled". "a/b" is project b inside a."""
    return DEFAULT_PROJECT if project_name is None else _checked_name("project_name", project_name)


def choose_name(task_name: str | None) -> str:
    """Return the task's name: as given, or the name of the program's file without its extension."""
    return _program_name() if task_name is None else _checked_name("task_name", task_name)


def choose_type(task_type: str | None) -> str:
    """Return the task's type, "training" by default.

    Raises:
        ConfigurationError: not one of TASK_TYPES.
    """
    if task_type is None:
        return "training"
    # str() of an enum member is not its value; enums of the reference SDK hold the word in .value.
    word = str(getattr(task_type, "value", task_type))
    if word not in TASK_TYPES:
        raise ConfigurationError(f"task_type={word!r} is not one of {', '.join(TASK_TYPES)}")
    return word


def choose_tags(tags: Iterable[str] | None) -> list[str]:
    """Return the tags in the order given, each once.

    Raises:
        ConfigurationError: a tag that is not a str; a lone str, which would fall apart into letters.
    """
    if tags is None:
        return []
    if isinstance(tags, str):
        raise ConfigurationError(f"tags={tags!r}: give a list, tags=[{tags!r}]")
    chosen = list(tags)
    for tag in chosen:
        if not isinstance(tag, str) or not tag:
            raise ConfigurationError(f"a tag must be a non-empty str, not {excerpt(tag)}")
        if len(tag) > MAX_TAG_CHARS:
            raise ConfigurationError(f"a tag has at most {MAX_TAG_CHARS} characters, not {len(tag):,}: {excerpt(tag)}")
    unique = list(dict.fromkeys(clean_text(tag) for tag in chosen))
    if len(unique) > MAX_TAGS:
        raise ConfigurationError(
            f"{len(unique):,} tags are too many, at most {MAX_TAGS} are shown and found; what has more values is a "
            "parameter or property"
        )
    return unique


def warn_of_unknown_frameworks(auto_connect_frameworks: Any) -> None:
    """Warn of a name that is no framework's: {"pytorh": False} would leave pytorch on, in silence.

    It is no error: ClearML takes any name, and later releases of either may know more.
    """
    if not isinstance(auto_connect_frameworks, Mapping):
        return
    for name in auto_connect_frameworks:
        if isinstance(name, str) and name not in FRAMEWORKS:
            close = difflib.get_close_matches(name, FRAMEWORKS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(FRAMEWORKS)}"
            log.warning("auto_connect_frameworks has %.80r, which is no framework; %s", name, hint)


def choose_streams(auto_connect_streams: bool | Mapping[str, bool]) -> dict[str, bool]:
    """Return which of stdout, stderr and logging are captured. A key missing from a dict is off.

    Raises:
        ConfigurationError: a key that is no stream.
    """
    if isinstance(auto_connect_streams, bool):
        return dict.fromkeys(STREAMS, auto_connect_streams)
    unknown = set(auto_connect_streams) - set(STREAMS)
    if unknown:
        raise ConfigurationError(
            f"auto_connect_streams has no {', '.join(map(repr, sorted(unknown)))}; its keys are {', '.join(STREAMS)}"
        )
    return {stream: bool(auto_connect_streams.get(stream, False)) for stream in STREAMS}


def choose_resource_interval_s(auto_resource_monitoring: bool | Mapping[str, Any], default_s: float) -> float | None:
    """Return the seconds between two resource samples; None for no samples.

    Raises:
        ConfigurationError: a key other than "interval_s".
    """
    if isinstance(auto_resource_monitoring, bool):
        return default_s if auto_resource_monitoring else None
    unknown = set(auto_resource_monitoring) - {"interval_s"}
    if unknown:
        raise ConfigurationError(
            f"auto_resource_monitoring has no {', '.join(map(repr, sorted(unknown)))}; its one key is 'interval_s', "
            "the seconds between two samples"
        )
    interval_s: float = auto_resource_monitoring.get("interval_s", default_s)
    return interval_s


def _checked_name(argument: str, value: str) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{argument} must be a str, not {type(value).__name__} ({excerpt(value)})")
    name = clean_text(value).strip()
    if not name:
        raise ConfigurationError(f"{argument} is empty; leave it out to get a default")
    if len(name) > MAX_NAME_CHARS:
        raise ConfigurationError(f"{argument} has {len(name)} characters; at most {MAX_NAME_CHARS} are kept")
    return name


def _program_name() -> str:
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if not file:
        return "notebook" if "ipykernel" in sys.modules else "interactive"
    path = Path(file)
    # `python -m package` runs package/__main__.py: the package is what the user calls it.
    return path.parent.name if path.stem == "__main__" and path.parent.name else path.stem
