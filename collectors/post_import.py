"""Call a function once a module has been imported, now or later, without importing it.

A finder at the front of `sys.meta_path` asks the finders behind it and puts itself in the loader's place for the
time of the import: when the module's code runs, `__loader__` and `__spec__.loader` are the real ones again.

The list is replaced, never changed in place: another thread may be in the middle of it, and would leave out the finder
that moves up, for which a module that is there is not found.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeAlias

from telemetry.process.interrupts import is_interrupt

__all__ = ["PostImport"]

_log = logging.getLogger(__name__)

Imported: TypeAlias = Callable[[ModuleType], None]


class PostImport(MetaPathFinder):
    """Watches for modules by name from `install()` to `remove()`.

    Args:
        callbacks: by full module name; called on the importing thread after the module's code has run. What a callback
            raises is logged and goes no further.
    """

    def __init__(self, callbacks: dict[str, Imported]) -> None:
        self._callbacks = callbacks
        # Modules whose spec is being asked for on this thread: for these this finder is not there.
        self._asking = threading.local()

    def install(self) -> None:
        """Call at once for what is imported already, and watch from now on."""
        sys.meta_path = [self, *sys.meta_path]
        for name in self._callbacks:
            module = sys.modules.get(name)
            spec = getattr(module, "__spec__", None)
            # A module that another thread is in the middle of importing has not got its functions yet.
            if module is not None and not getattr(spec, "_initializing", False):
                self.imported(module, name)

    def remove(self) -> None:
        """Stop watching. An import that is under way may still be told of."""
        while self in (finders := sys.meta_path):
            place = finders.index(self)
            sys.meta_path = finders[:place] + finders[place + 1 :]

    def imported(self, module: ModuleType, name: str) -> None:
        """Tell the callback of a module; it never raises into the import."""
        try:
            self._callbacks[name](module)
        except Exception as error:
            if is_interrupt(error):
                raise
            _log.debug("after the import of %s", name, exc_info=True)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The import system's question; None for all modules but the watched ones."""
        if fullname not in self._callbacks or getattr(self._asking, "name", None) == fullname:
            return None
        self._asking.name = fullname
        try:
            spec = _ask_others(self, fullname, path, target)
        finally:
            self._asking.name = None
        # Namespace packages have no loader, and pre-3.4 loaders no exec_module.
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _LentLoader(spec.loader, self)
        return spec


def _ask_others(
    own: PostImport, fullname: str, path: Sequence[str] | None, target: ModuleType | None
) -> ModuleSpec | None:
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        if finder is own or find_spec is None:
            continue
        spec: ModuleSpec | None = find_spec(fullname, path, target)
        if spec is not None:
            return spec
    return None


class _LentLoader(Loader):
    """Stands in for a module's loader until its code runs."""

    def __init__(self, loader: Any, watcher: PostImport) -> None:
        self._loader = loader
        self._watcher = watcher

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        name = module.__name__ if spec is None else spec.name
        if spec is not None:
            spec.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._watcher.imported(sys.modules.get(name, module), name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
