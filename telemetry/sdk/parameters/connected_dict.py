"""ConnectedDict: a dict that tells of each change, also of the dicts inside it.

It stands beside the dict that was connected, the origin: what is written into one is written into the other, so
that it does not matter which of the two the program goes on with. It is a dict of the origin's own kind, with all its
methods (an OrderedDict's, a defaultdict's). Copies and pickles are of the origin's type. Libraries that go by exact
types are told what it is: see connected_types.py.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, Self, SupportsIndex, runtime_checkable

from telemetry.values import check_depth

__all__ = ["KINDS", "ConnectedDict", "Follower", "can_be_connected", "connected_dict", "plain"]


@runtime_checkable
class Follower(Protocol):
    """Who is told of changes."""

    def write(self, names: list[str]) -> None:
        """Write the values of these outermost names; must not wait."""


class ConnectedDict(dict[Any, Any]):
    """See the module. Made by Task.connect and Task.connect_configuration.

    Args:
        origin: the program's dict. As `dict` it also takes what makes one.
    """

    def __init__(self, origin: Any = (), /, **further: Any) -> None:
        super().__init__()
        self._origin: dict[Any, Any] = origin if isinstance(origin, dict) and not further else dict(origin, **further)
        self._follower: Follower | None = None
        # The outermost key under which this dict lies; None for the outermost dict itself.
        self._outermost: str | None = None
        self._follow()

    def connect(self, follower: Follower | None, outermost: str | None = None) -> None:
        """Tell this one of changes from now on."""
        self._follower, self._outermost = follower, outermost
        for key, value in self.items():
            if isinstance(value, ConnectedDict):
                value.connect(follower, _word(key) if outermost is None else outermost)

    def follow_origin(self) -> None:
        """Take over what the program has changed in the origin behind our back.

        Raises:
            ConfigurationError: it is nested too deep by now, or holds itself.
        """
        check_depth(self._origin)
        self._follow()
        self.connect(self._follower, self._outermost)

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

    def pop(self, key: Any, *default: Any, **named: Any) -> Any:
        """As dict.pop, or OrderedDict.pop."""
        value = super().pop(key, *default, **named)
        self._origin.pop(key, None)
        self._tell([key])
        return value

    def popitem(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """As dict.popitem, or OrderedDict.popitem."""
        key, value = super().popitem(*args, **kwargs)
        self._origin.pop(key, None)
        self._tell([key])
        return key, value

    def clear(self) -> None:
        """As dict.clear."""
        keys = list(self)
        super().clear()
        self._origin.clear()
        self._tell(keys)

    # ---- copies ------------------------------------------------------------------------------------

    @classmethod
    def fromkeys(cls, keys: Iterable[Any], value: Any = None, /) -> Any:
        """As dict.fromkeys; nobody follows it."""
        return cls(dict.fromkeys(keys, value))

    def copy(self) -> Any:
        """Return a dict of the origin's type with the same values, dicts inside included."""
        return plain(self)

    def __copy__(self) -> Any:
        return plain(self)

    def __or__(self, other: Any) -> Any:
        return plain(self) | other if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return other | plain(self) if isinstance(other, dict) else NotImplemented

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # As the origin in a worker process, a checkpoint or a deep copy: none of these is the task's to follow.
        return dict, (plain(self),)

    # ---- inside ------------------------------------------------------------------------------------

    def _made_plain(self, values: dict[Any, Any]) -> dict[Any, Any]:
        """Return these values as a dict of the origin's type."""
        return values

    def _put(self, key: Any, value: Any) -> None:
        if isinstance(value, ConnectedDict):
            value = plain(value)
        own = value
        if type(value) is dict:
            # Before anything is written: one that is refused leaves both as they were.
            check_depth(value, path=_word(key))
            own = ConnectedDict(value)
            own.connect(self._follower, _word(key) if self._outermost is None else self._outermost)
        super().__setitem__(key, own)
        self._origin[key] = value

    def _tell(self, keys: Iterable[Any]) -> None:
        if self._follower is not None:
            names = [_word(key) for key in keys]
            self._follower.write(names if self._outermost is None else [self._outermost])

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
        order = list(self._origin)
        if list(self) != order:
            values = dict(self)
            super().clear()
            for key in order:
                super().__setitem__(key, values[key])


class ConnectedOrderedDict(ConnectedDict, OrderedDict[Any, Any]):
    """The same beside an OrderedDict."""

    def move_to_end(self, key: Any, last: bool = True) -> None:
        """As OrderedDict.move_to_end; parameters have no order, so nothing is written."""
        OrderedDict.move_to_end(self, key, last)
        OrderedDict.move_to_end(self._origin, key, last)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return repr(plain(self))

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return plain(self).__reduce_ex__(protocol)

    def _made_plain(self, values: dict[Any, Any]) -> dict[Any, Any]:
        return OrderedDict(values)


class ConnectedDefaultDict(ConnectedDict, defaultdict[Any, Any]):
    """The same beside a defaultdict."""

    def __init__(self, origin: Any = (), /, **further: Any) -> None:
        super().__init__(origin, **further)
        self.default_factory = getattr(self._origin, "default_factory", None)

    def __missing__(self, key: Any) -> Any:
        if self.default_factory is None:
            raise KeyError(key)
        self[key] = self.default_factory()
        return self[key]

    def __repr__(self) -> str:
        return repr(plain(self))

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return plain(self).__reduce_ex__(protocol)

    def _made_plain(self, values: dict[Any, Any]) -> dict[Any, Any]:
        return defaultdict(self.default_factory, values)


# By the origin's type.
KINDS: dict[type, type[ConnectedDict]] = {
    dict: ConnectedDict,
    OrderedDict: ConnectedOrderedDict,
    defaultdict: ConnectedDefaultDict,
    **{kind: kind for kind in (ConnectedDict, ConnectedOrderedDict, ConnectedDefaultDict)},
}


def can_be_connected(thing: Any) -> bool:
    """Return True for a dict that loses nothing by becoming a ConnectedDict; one of a class of its own has methods."""
    return type(thing) in KINDS


def connected_dict(origin: dict[Any, Any]) -> ConnectedDict:
    """Return the connected dict beside a dict that can be connected.

    Raises:
        ConfigurationError: it is nested too deep, or holds itself.
    """
    check_depth(origin)
    return KINDS[type(origin)](origin)


def plain(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a dict without connected ones in it, of the origin's type; other values are the same objects."""
    values = {key: plain(item) if isinstance(item, ConnectedDict) else item for key, item in value.items()}
    return value._made_plain(values) if isinstance(value, ConnectedDict) else values


def _word(key: Any) -> str:
    return key if isinstance(key, str) else str(key)
