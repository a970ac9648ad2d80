"""What libraries that go by exact types make of a connected dict: the same as of the dict that it stands for.

PyYAML and ruamel.yaml write what they have a representer for, and OmegaConf takes `dict` and no heir of it. Each is
told once it is imported, for connected dicts alone; for all else nothing changes. What they were told stays, as a
connected dict outlives its task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from types import ModuleType
from typing import Any

from telemetry.collectors.post_import import PostImport
from telemetry.sdk.parameters.connected_dict import KINDS, ConnectedDict, plain

__all__ = ["watch_libraries"]


def watch_libraries() -> PostImport:
    """Tell the libraries that are imported, and those that will be until the watch is removed."""
    watch = PostImport(
        {"yaml": _teach_yaml, "ruamel.yaml.representer": _teach_ruamel, "omegaconf._utils": _teach_omegaconf}
    )
    watch.install()
    return watch


def _teach_yaml(module: ModuleType) -> None:
    _teach_representers(module.representer)


def _teach_ruamel(module: ModuleType) -> None:
    _teach_representers(module)


def _teach_representers(module: Any) -> None:
    for kind in _heirs(module.BaseRepresenter):
        # A class that has no table of its own looks into its parent's.
        table = vars(kind).get("yaml_representers")
        if table is not None:
            for connected in set(KINDS.values()):
                table.setdefault(connected, _represent)


def _heirs(kind: type[Any]) -> Iterator[type[Any]]:
    yield kind
    heirs: list[type[Any]] = kind.__subclasses__()
    for heir in heirs:
        yield from _heirs(heir)


def _represent(representer: Any, data: ConnectedDict) -> Any:
    """Write what this dumper, which may have representers of its own, would write for the origin."""
    node = representer.represent_data(plain(data))
    # A second time in one document it is an alias, as the origin would be.
    representer.represented_objects[id(data)] = node
    return node


def _teach_omegaconf(module: ModuleType) -> None:
    original: Callable[[Any], Any] | None = getattr(module, "get_type_of", None)
    if original is None or hasattr(original, "_telemetry_connected"):
        return

    @wraps(original)
    def get_type_of(class_or_object: Any) -> Any:
        kind = original(class_or_object)
        return next((plain_kind for plain_kind, own in KINDS.items() if own is kind), kind)

    get_type_of._telemetry_connected = True  # type: ignore[attr-defined]
    module.get_type_of = get_type_of  # type: ignore[attr-defined]
