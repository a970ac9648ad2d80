"""absl.flags, as tf.app.flags had them: the flags that the program defines."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from telemetry.collectors.arguments_source import Argument, ArgumentSource, text_of
from telemetry.collectors.hooks import Hooks

__all__ = ["AbslSource"]


class AbslSource(ArgumentSource):
    """absl.flags: section TF_DEFINE."""

    name = "absl"
    module = "absl.flags"

    def watch(self, module: ModuleType, hooks: Hooks) -> None:
        """See ArgumentSource."""

        def parse(original: Callable[..., Any], flags: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(flags, *args, **kwargs)
            if flags is module.FLAGS:
                self._recorder.guard(lambda: self._note(flags))
            return result

        hooks.wrap(module.FlagValues, "__call__", parse)

    def find(self, module: ModuleType) -> None:
        """See ArgumentSource."""
        if module.FLAGS.is_parsed():
            self._note(module.FLAGS)

    def _note(self, flags: Any) -> None:
        words = {"string": "str", "bool": "bool", "int": "int", "float": "float"}
        self._recorder.record(
            "TF_DEFINE",
            [
                Argument(flag.name, flag.value, words.get(flag.flag_type()), text_of(flag.help))
                for home, own in flags.flags_by_module_dict().items()
                # absl's own: how to log, how to show help.
                if home.partition(".")[0] != "absl"
                for flag in own
            ],
        )
