"""Hydra: the overrides that were typed, and the configuration that it composed."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from telemetry.collectors.arguments_source import Argument, ArgumentSource, calling_frames
from telemetry.collectors.hooks import Hooks

__all__ = ["HydraSource"]


class HydraSource(ArgumentSource):
    """Hydra: the overrides in section Hydra, and the composed configuration as the configuration object OmegaConf."""

    name = "hydra"
    module = "hydra.core.utils"
    is_parser = False

    def watch(self, module: ModuleType, hooks: Hooks) -> None:
        """See ArgumentSource."""
        run_job = module.run_job

        def run(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            bound = inspect.signature(original).bind(*args, **kwargs).arguments
            self._recorder.guard(lambda: self._note(bound["config"]))
            return original(*args, **kwargs)

        # Others have imported it by name.
        for name, other in list(sys.modules.items()):
            if name.partition(".")[0] == "hydra" and vars(other).get("run_job") is run_job:
                hooks.wrap(other, "run_job", run)

    def find(self, module: ModuleType) -> None:
        """Record the job inside which we are."""
        for frame in calling_frames():
            if frame.f_code.co_name == "run_job" and "config" in frame.f_locals:
                self._note(frame.f_locals["config"])
                return

    def _note(self, config: Any) -> None:
        conf: Any = sys.modules["omegaconf"].OmegaConf
        given = conf.to_container(config.hydra.overrides.task)
        pairs = [str(item).lstrip("+~").partition("=") for item in given]
        self._recorder.record("Hydra", [Argument(name, value, "str") for name, _, value in pairs], choose=False)
        whole = conf.to_container(config, resolve=False)
        whole.pop("hydra", None)
        self._recorder.record_configuration("OmegaConf", conf.to_yaml(conf.create(self._masked(whole))), "yaml")

    def _masked(self, value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: self._masked(item, str(key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._masked(item, name) for item in value]
        return self._recorder.mask(name, value)
