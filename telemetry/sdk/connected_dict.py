"""ConnectedDict: a dict that tells of each change, also of the dicts inside it.

It stands beside the dict that was connected, the origin: what is written into one is written into the other, so
that it does not matter which of the two the program goes on with. Copies and pickles are plain dicts.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, Self, SupportsIndex

__all__ = ["ConnectedDict", "can_be_connected", "plain"]


class _Source(Protocol):
    def sync(self, names: Iterable[str] | None = None) -> None: ...


class ConnectedDict(dict[Any, Any]):
    """See the module. Made by Task.connect and Task.connect_configuration.

    Args:
        origin: the program's dict.
    """

    def __init__(self, origin: dict[Any, Any]) -> None:
        super().__init__()
        self._origin = origin
        self._source: _Source | None = None
        # The outermost key under which this dict lies; None for the outermost dict itself.
        self._outermost: str | None = None
        self._follow()
        _teach_yaml()

    def connect(self, source: _Source | None, outermost: str | None = None) -> None:
        """Tell this source of changes from now on."""
        self._source, self._outermost = source, outermost
        for key, value in self.items():
            if isinstance(value, ConnectedDict):
                value.connect(source, _word(key) if outermost is None else outermost)

    def follow_origin(self) -> None:
        """Take over what the program has changed in the origin behind our back."""
        self._follow()
        self.connect(self._source, self._outermost)

    # ---- changes -----------------------------------------------------------------------------------

    def __setitem__(self, key: Any, value: Any) -> None:
        self._put(key, value)
        self._tell([key])

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key)
        self._origin.pop(key, None)
        self._tell([key])

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As dict.update; one change of the record."""
        new = dict(*args, **kwargs)
        for key, value in new.items():
            self._put(key, value)
        self._tell(new)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        """As dict.setdefault."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: Any, *default: Any) -> Any:
        """As dict.pop."""
        value = super().pop(key, *default)
        self._origin.pop(key, None)
        self._tell([key])
        return value

    def popitem(self) -> tuple[Any, Any]:
        """As dict.popitem."""
        key, value = super().popitem()
        self._origin.pop(key, None)
        self._tell([key])
        return key, value

    def clear(self) -> None:
        """As dict.clear."""
        keys = list(self)
        super().clear()
        self._origin.clear()
        self._tell(keys)

    def __missing__(self, key: Any) -> Any:
        """Let a defaultdict make its value."""
        if not hasattr(type(self._origin), "__missing__"):
            raise KeyError(key)
        self[key] = self._origin[key]
        return self[key]

    # ---- copies ------------------------------------------------------------------------------------

    def copy(self) -> dict[Any, Any]:
        """Return a plain dict of the same values, dicts inside included."""
        return plain(self)

    def __copy__(self) -> dict[Any, Any]:
        return plain(self)

    def __or__(self, other: Any) -> Any:
        return plain(self) | other if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return other | plain(self) if isinstance(other, dict) else NotImplemented

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # A plain dict in a worker process, a checkpoint or a deep copy: none of these is the task's to follow.
        return dict, (plain(self),)

    # ---- inside ------------------------------------------------------------------------------------

    def _put(self, key: Any, value: Any) -> None:
        if isinstance(value, ConnectedDict):
            value = plain(value)
        self._origin[key] = value
        if type(value) is dict:
            value = ConnectedDict(value)
            value.connect(self._source, _word(key) if self._outermost is None else self._outermost)
        super().__setitem__(key, value)

    def _tell(self, keys: Iterable[Any]) -> None:
        if self._source is not None:
            names = [_word(key) for key in keys]
            self._source.sync(names if self._outermost is None else [self._outermost])

    def _follow(self) -> None:
        for key in [key for key in list(self) if key not in self._origin]:
            super().__delitem__(key)
        for key, value in list(self._origin.items()):
            mine = self.get(key)
            if isinstance(mine, ConnectedDict) and mine._origin is value:
                mine._follow()
            elif type(value) is dict:
                super().__setitem__(key, ConnectedDict(value))
            elif mine is not value or key not in self:
                super().__setitem__(key, value)


def can_be_connected(thing: Any) -> bool:
    """Return True for a dict that loses nothing by becoming a ConnectedDict; one of a class of its own has methods."""
    return type(thing) in (dict, OrderedDict, defaultdict, ConnectedDict)


def plain(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a dict without connected ones in it; other values are the same objects."""
    return {key: plain(item) if isinstance(item, ConnectedDict) else item for key, item in value.items()}


def _word(key: Any) -> str:
    return key if isinstance(key, str) else str(key)


def _teach_yaml() -> None:
    """Let PyYAML's safe dumper, which goes by exact types, write a connected dict as what it is."""
    yaml = sys.modules.get("yaml")
    for name in ("SafeDumper", "CSafeDumper"):
        dumper = getattr(yaml, name, None)
        if dumper is not None and ConnectedDict not in dumper.yaml_representers:
            dumper.add_representer(ConnectedDict, dumper.represent_dict)
