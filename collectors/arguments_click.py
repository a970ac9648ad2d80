"""click, and what is built on it: the options of the command that is invoked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from telemetry.collectors.arguments_source import ARGS, Argument, ArgumentSource, shown, text_of
from telemetry.collectors.hooks import Hooks

__all__ = ["ClickSource"]


class ClickSource(ArgumentSource):
    """click, and what is built on it (Typer, rich-click): "command/option"."""

    name = "click"
    module = "click.core"

    def watch(self, module: ModuleType, hooks: Hooks) -> None:
        """See ArgumentSource."""
        hooks.wrap(module.Command, "invoke", self._invoke)

    def _invoke(self, original: Callable[..., Any], command: Any, context: Any) -> Any:
        self._recorder.guard(lambda: self._note(context))
        return original(command, context)

    def find(self, module: ModuleType) -> None:
        """Record the command inside which we are, and those around it."""
        context = sys.modules["click"].get_current_context(silent=True) if "click" in sys.modules else None
        while context is not None:
            self._note(context)
            context = context.parent

    def _note(self, context: Any) -> None:
        command = context.command
        name = command.name or context.info_name or "main"
        self._recorder.record(
            ARGS,
            [
                Argument(
                    f"{name}/{option.name}",
                    shown(context.params[option.name]),
                    help=text_of(getattr(option, "help", None)),
                    is_secret=bool(getattr(option, "hide_input", False)),
                )
                for option in command.params
                if option.name in context.params
            ],
        )
