"""Where a task's events go: the sinks, and how the start line calls them.

Task.init(sinks=[...])          exactly these
TELEMETRY_MODE=disabled         none
TELEMETRY_MODE=offline          a session folder in the state directory, zipped at the end
TELEMETRY_URL=...               that sink (offline: only if it is on this machine)
nothing                         a session folder in the state directory, kept as it is
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from telemetry.disk import absolute_path
from telemetry.errors import ConfigurationError
from telemetry.protocols import KeepsSessions, Sink
from telemetry.sdk.identity.masking import mask_url
from telemetry.sdk.launch.plugins import open_sink, scheme_of
from telemetry.settings import Settings

__all__ = ["Destination", "choose_destination"]

_SERVER_SCHEMES = ("http", "https")


@dataclass(frozen=True, slots=True)
class Destination:
    """Sinks that are made and not yet open.

    Attributes:
        places: what the start line names, in the order of the sinks.
        page_url: the link to the task's page; "" where no sink is a server.
        urls: of the sinks that were given as one, good in any working directory.
        afterwards: the command that shows what is kept on this machine; "" where a server has it.
    """

    sinks: list[Sink]
    places: list[str]
    page_url: str
    urls: list[str] = field(default_factory=list)
    afterwards: str = ""

    @property
    def server(self) -> str:
        """The URL of the first server; "" where no sink that was given as a URL is one."""
        return next((url for url in self.urls if url.startswith(("http://", "https://"))), "")

    @property
    def keeper(self) -> KeepsSessions | None:
        """The first sink that keeps sessions on this machine."""
        return next((sink for sink in self.sinks if isinstance(sink, KeepsSessions)), None)


def choose_destination(asked: Sequence[str | Sink] | None, settings: Settings, *, task_id: str) -> Destination | None:
    """Return the sinks to use; None when telemetry is disabled.

    Args:
        asked: Task.init's `sinks`; None leaves the choice to the settings.

    Raises:
        ConfigurationError: a URL that names no sink, or an object that is none.
    """
    if asked is None:
        if settings.mode == "disabled":
            return None
        asked = [_default_url(settings)]
    elif isinstance(asked, str) or not asked:
        raise ConfigurationError(f"sinks={asked!r}: give a list of sink URLs or Sink objects with at least one in it")
    sinks: list[Sink] = []
    places: list[str] = []
    page_url = ""
    urls: list[str] = []
    afterwards = ""
    for item in asked:
        if isinstance(item, str):
            sink = open_sink(item, settings)
            urls.append(_absolute(item))
            place = _place(item, settings, task_id)
            afterwards = afterwards or _afterwards(item, place)
            page_url = page_url or (place if scheme_of(item) in _SERVER_SCHEMES else "")
        elif isinstance(item, Sink):
            sink, place = item, item.name
        else:
            raise ConfigurationError(f"sinks: {item!r:.80} is neither a sink's URL nor a Sink")
        sinks.append(sink)
        places.append(place)
    return Destination(sinks, places, page_url, urls, "" if page_url else afterwards)


def _absolute(url: str) -> str:
    target = url.partition(":")[2].removeprefix("//")
    return f"zip:{absolute_path(Path(target).expanduser())}" if scheme_of(url) == "zip" and target else url


def _default_url(settings: Settings) -> str:
    if settings.url and (settings.mode == "online" or scheme_of(settings.url) not in _SERVER_SCHEMES):
        return settings.url
    if settings.mode == "offline":
        return f"zip:{settings.state_dir / 'sessions'}"
    return "zip:"


def _place(url: str, settings: Settings, task_id: str) -> str:
    """Return what a person follows to see the task: a link, a folder or a file."""
    scheme = scheme_of(url)
    if scheme in _SERVER_SCHEMES:
        return f"{mask_url(url).rstrip('/')}/tasks/{task_id}"
    if scheme != "zip":
        return url
    target = _zip_target(url)
    if not target:
        return str(settings.state_dir / "sessions" / task_id)
    path = absolute_path(Path(target).expanduser())
    return str(path if path.suffix == ".zip" else path / f"{task_id}.zip")


def _afterwards(url: str, place: str) -> str:
    if scheme_of(url) != "zip":
        return ""
    return f"telemetry import {shlex.quote(place)}" if _zip_target(url) else "telemetry server"


def _zip_target(url: str) -> str:
    from telemetry.sinks.local_zip import split_target

    return split_target(url)[0]
