"""python-fire: with what the functions were called that it found for the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from telemetry.collectors.arguments_source import ARGS, Argument, ArgumentRecorder, ArgumentSource, calling_frames
from telemetry.collectors.hooks import Hooks

__all__ = ["FireSource"]


class FireSource(ArgumentSource):
    """python-fire: the arguments of the function or class that was handed to it; of others "function/argument"."""

    name = "fire"
    module = "fire.core"

    def __init__(self, recorder: ArgumentRecorder) -> None:
        super().__init__(recorder)
        self._root: Any = None

    def watch(self, module: ModuleType, hooks: Hooks) -> None:
        """See ArgumentSource."""

        def fire(original: Callable[..., Any], component: Any, *args: Any, **kwargs: Any) -> Any:
            self._root = component
            try:
                return original(component, *args, **kwargs)
            finally:
                self._root = None

        def make_parse(original: Callable[..., Any], function: Any, *args: Any, **kwargs: Any) -> Any:
            parse = original(function, *args, **kwargs)

            def parse_and_note(words: Any) -> Any:
                result = parse(words)
                self._recorder.guard(lambda: self._note(function, *result[0]))
                return result

            return parse_and_note

        hooks.wrap(module, "_Fire", fire)
        hooks.wrap(module, "_MakeParseFn", make_parse)

    def find(self, module: ModuleType) -> None:
        """Record the calls of python-fire inside which we are, the outermost first."""
        for frame in reversed(list(calling_frames())):
            if frame.f_globals is not vars(module):
                continue
            names = frame.f_locals
            if frame.f_code.co_name == "_Fire":
                self._root = names.get("initial_component")
            elif frame.f_code.co_name == "_CallAndUpdateTrace" and {"fn", "varargs", "kwargs"} <= names.keys():
                self._note(names["fn"], names["varargs"], names["kwargs"])

    def _note(self, function: Any, positional: Any, named: Mapping[str, Any]) -> None:
        root = self._root
        # An object that can be called is handed over as its __call__.
        called = getattr(root, "__call__", None)  # noqa: B004
        is_root = function is root or (inspect.ismethod(called) and function == called)
        prefix = "" if is_root else f"{function.__name__}/"
        bound = inspect.signature(function).bind(*positional, **named)
        bound.apply_defaults()
        values: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            if bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                values.update(value)
            else:
                values[name] = value
        self._recorder.record(ARGS, [Argument(prefix + name, value) for name, value in values.items()])
