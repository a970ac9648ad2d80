"""jsonargparse: what its parsers and those of LightningCLI make of command line and files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from telemetry.collectors.arguments_source import (
    ARGS,
    Argument,
    ArgumentRecorder,
    ArgumentSource,
    program_variables,
    text_of,
)
from telemetry.collectors.hooks import Hooks

__all__ = ["JsonargparseSource"]


class JsonargparseSource(ArgumentSource):
    """jsonargparse, and so LightningCLI: dotted names, as on the command line."""

    name = "jsonargparse"
    module = "jsonargparse"

    def __init__(self, recorder: ArgumentRecorder) -> None:
        super().__init__(recorder)
        self._inside = threading.local()

    def watch(self, module: ModuleType, hooks: Hooks) -> None:
        """See ArgumentSource."""
        for name in ("parse_args", "parse_object", "parse_path", "parse_string"):
            hooks.wrap(module.ArgumentParser, name, self._parse)

    def _parse(self, original: Callable[..., Any], parser: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self._inside, "busy", False):
            return original(parser, *args, **kwargs)
        self._inside.busy = True
        try:
            result = original(parser, *args, **kwargs)
        finally:
            self._inside.busy = False
        self._recorder.guard(lambda: self._note(result, parser))
        return result

    def find(self, module: ModuleType) -> None:
        """Record the jsonargparse Namespaces among the callers' variables."""
        for namespace in reversed(list(program_variables(lambda value: isinstance(value, module.Namespace)))):
            self._note(namespace, None)

    def _note(self, namespace: Any, parser: Any) -> None:
        helps = {action.dest: text_of(action.help) for action in getattr(parser, "_actions", ())}
        self._recorder.record(
            ARGS,
            [
                Argument(name, value, help=helps.get(name, ""))
                for name, value in vars(namespace.as_flat()).items()
                if not name.startswith("__")
            ],
        )
