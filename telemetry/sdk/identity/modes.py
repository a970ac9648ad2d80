"""Whether this process is offline, and the settings with that in them.

`Task.set_offline` speaks for the process and is stronger than the environment, as an argument is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from telemetry.settings import Settings

__all__ = ["is_offline", "load_settings", "set_offline"]


class _OfflineChoice:
    """What the program has said; None leaves it to the settings."""

    offline: bool | None = None


def load_settings(**arguments: Any) -> Settings:
    """Return the settings in force in this process; see Settings.load.

    Raises:
        ConfigurationError: a setting that cannot be used.
    """
    from telemetry.settings import Settings

    settings = Settings.load(**arguments)
    if (
        _OfflineChoice.offline is None
        or settings.mode == "disabled"
        or (settings.mode == "offline") == _OfflineChoice.offline
    ):
        return settings
    return Settings.load(**{**arguments, "mode": "offline" if _OfflineChoice.offline else "online"})


def set_offline(offline: bool | None) -> None:
    """Say whether tasks that begin from now on are offline; None leaves it to the settings again."""
    _OfflineChoice.offline = offline


def is_offline() -> bool:
    """Return True if a task that begins now is offline."""
    return load_settings().mode == "offline"
