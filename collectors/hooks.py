"""Functions of other packages, replaced for the time of a task and put back afterwards."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

__all__ = ["Hooks"]

_log = logging.getLogger(__name__)


class Hooks:
    """Replaces functions and methods by wrappers, and puts them back.

    Somebody may have kept a reference to a wrapper: it must go on as a plain pass-through by itself.
    """

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any, Any]] = []

    def wrap(self, owner: Any, attribute: str, wrapper: Callable[..., Any]) -> None:
        """Let calls of a module's function, or a class's method, go through `wrapper(original, *args, **kwargs)`.

        An attribute that is not there (another version of the package) is left alone.
        """
        original = vars(owner).get(attribute)
        if not callable(original):
            _log.debug("%r has no %s to watch", owner, attribute)
            return
        if getattr(original, "_telemetry_hooks", None) is self:
            return

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            return wrapper(original, *args, **kwargs)

        call._telemetry_hooks = self  # type: ignore[attr-defined]
        setattr(owner, attribute, call)
        self._replaced.append((owner, attribute, original, call))

    def restore(self) -> None:
        """Put the originals back, unless somebody else has replaced ours by now: theirs stays."""
        for owner, attribute, original, call in reversed(self._replaced):
            if vars(owner).get(attribute) is call:
                setattr(owner, attribute, original)
        self._replaced.clear()
