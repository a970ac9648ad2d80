"""`output_uri`: whether models are uploaded, and where to."""

from __future__ import annotations

from typing import NamedTuple

from telemetry.errors import ConfigurationError
from telemetry.settings import Settings
from telemetry.storage import Target

__all__ = ["Output", "choose_output", "choose_target"]


class Output(NamedTuple):
    """What becomes of a task's models.

    Attributes:
        keeps_models: upload what frameworks and the program save.
        target: where to; None for the server, or offline the session.
    """

    keeps_models: bool = False
    target: Target | None = None


def choose_output(output_uri: str | bool | None, settings: Settings) -> Output:
    """Return what Task.init(output_uri=...) asks for.

    Raises:
        ConfigurationError: an address that can't be used.
    """
    if output_uri is None or output_uri is False or output_uri == "":
        return Output()
    target = choose_target(output_uri, settings)
    return Output(True, None if isinstance(target, bool) else target)


def choose_target(uri: str | bool, settings: Settings) -> Target | bool:
    """Return the storage at an address, or True for the server.

    Raises:
        ConfigurationError: an address that can't be used.
    """
    if uri is True or (settings.url and uri == settings.url):
        return True
    raise ConfigurationError(
        f"output_uri={uri!r:.100} is not supported yet: True uploads to the server. Nothing was started"
    )
