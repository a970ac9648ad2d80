"""`output_uri`: whether models are uploaded, and where to."""

from __future__ import annotations

from typing import NamedTuple

from telemetry.settings import Settings
from telemetry.storage import check_target, open_target
from telemetry.storage.target import Target

__all__ = ["Output", "choose_output", "choose_target"]

_SERVER_WORDS = frozenset({"true", "1", "yes", "on"})


class Output(NamedTuple):
    """What becomes of a task's models.

    Attributes:
        keeps_models: upload what frameworks and the program save.
        target: where to; None for the server, or offline the session.
    """

    keeps_models: bool = False
    target: Target | None = None


def choose_output(output_uri: str | bool | None, settings: Settings, *, check: bool = True) -> Output:
    """Return what Task.init(output_uri=...) asks for, or the setting default_output_uri where it asks for nothing.

    Offline nothing is contacted: the bytes go into the session, from which an import brings them to the server.

    Args:
        check: write and delete a small object there first, which takes CHECK_TIMEOUT_S at most. Of many processes
            of a task one does it.
    Raises:
        ConfigurationError: an address that can't be used.
    """
    asked = settings.default_output_uri if output_uri is None else output_uri
    if asked is None or asked is False or asked == "" or settings.mode == "disabled":
        return Output()
    target = choose_target(asked, settings)
    if isinstance(target, bool):
        return Output(True)
    if check:
        check_target(target)
    return Output(True, target)


def choose_target(uri: str | bool, settings: Settings) -> Target | bool:
    """Return the storage at an address, or True for the server and the session. Nothing is asked yet.

    Raises:
        ConfigurationError: an address that can't be used.
    """
    if isinstance(uri, bool) or uri.lower() in _SERVER_WORDS or (settings.url and uri.rstrip("/") == settings.url):
        return True
    target = open_target(uri)
    return True if settings.mode == "offline" else target
