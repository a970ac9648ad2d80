"""Sinks by URL and collectors by entry point.

A sink is named by its URL's scheme (group `telemetry.sinks`, a function `open_sink(url, settings)`), a
collector by its entry point's name (group `telemetry.collectors`, called without arguments). What is not
ours may be broken: then it is named in a warning and skipped, unless it was asked for by URL.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from telemetry.errors import ConfigurationError, TelemetryError
from telemetry.network.credentials import with_scheme
from telemetry.process.threads import start_daemon
from telemetry.protocols import Collector, Emit, Sink

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from telemetry.settings import Settings

__all__ = ["BUILT_IN_COLLECTORS", "BUILT_IN_SINKS", "InstalledCollectors", "open_sink", "scheme_of"]

SINKS_GROUP = "telemetry.sinks"
COLLECTORS_GROUP = "telemetry.collectors"

# Our own entry points, known without asking importlib.metadata: importing it and scanning an
# environment of some hundred packages costs more than the 100 ms that Task.init may take.
# A test compares both tables with what pyproject.toml declares.
BUILT_IN_SINKS = {
    "http": "telemetry.sinks.http:open_sink",
    "https": "telemetry.sinks.http:open_sink",
    "zip": "telemetry.sinks.local_zip:open_sink",
    "stdout": "telemetry.sinks.stdout:open_sink",
}
BUILT_IN_COLLECTORS = ("console", "resources", "models", "arguments")

# Importing importlib.metadata takes 40 ms of the GIL: after Task.init and the pipeline's own imports, not beside them.
LOOK_AFTER_S = 0.3

log = logging.getLogger("telemetry")


class OpenSink(Protocol):
    """What an entry point of the group `telemetry.sinks` names."""

    def __call__(self, url: str, settings: Settings) -> Sink: ...


def scheme_of(url: str) -> str:
    """Return a sink URL's scheme: "http" of http://host:8008, "zip" of zip:runs/a.zip.

    Raises:
        ConfigurationError: there is none; the message shows the forms that work.
    """
    meant = with_scheme(url)
    if meant:
        raise ConfigurationError(
            f"{url!r} is no sink URL; did you mean {meant}? (TELEMETRY_URL or Task.init(sinks=[...]))"
        )
    scheme, colon, _ = url.partition(":")
    if not colon or not scheme:
        raise ConfigurationError(
            f"{url!r} is no sink URL. Give one like http://127.0.0.1:8008, zip:runs/my-run.zip or stdout: "
            "(TELEMETRY_URL or Task.init(sinks=[...]))"
        )
    return scheme.lower()


def open_sink(url: str, settings: Settings) -> Sink:
    """Return the sink that a URL names; it is not connected yet.

    Raises:
        ConfigurationError: no such scheme, or the plug-in behind it is broken.
    """
    scheme = scheme_of(url)
    target = BUILT_IN_SINKS.get(scheme)
    if target is not None:
        module, _, attribute = target.partition(":")
        factory = cast(OpenSink, getattr(import_module(module), attribute))
        return factory(url, settings)
    return _open_installed(scheme, url, settings)


def _open_installed(scheme: str, url: str, settings: Settings) -> Sink:
    known: list[str] = []
    for entry_point in _entry_points(SINKS_GROUP):
        if entry_point.name.lower() == scheme:
            break
        known.append(entry_point.name)
    else:
        schemes = ", ".join(f"{name}:" for name in sorted({*BUILT_IN_SINKS, *known}))
        raise ConfigurationError(f"no sink for {url!r}: {scheme}: is not one of {schemes}")
    try:
        sink = cast(OpenSink, entry_point.load())(url, settings)
    except TelemetryError:
        raise  # the plug-in says in our own words what is wrong with the URL
    except Exception as error:
        raise ConfigurationError(
            f"the sink plug-in {entry_point.value} cannot open {url!r}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(sink, Sink):
        raise ConfigurationError(
            f"the sink plug-in {entry_point.value} returned {type(sink).__name__}, which is no Sink"
        )
    return sink


class InstalledCollectors:
    """Starts the collectors that other packages bring, on a thread of their own.

    Finding them may take longer than Task.init may, so they start a moment later than ours.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started: list[Collector] = []
        self._stopped = threading.Event()
        self._done = threading.Event()

    def start(self, emit: Emit) -> None:
        """Look for collectors and start each, in the background."""
        if start_daemon(lambda: self._run(emit), "telemetry-plugins") is None:
            self._done.set()

    def wait(self, timeout_s: float) -> bool:
        """Return True once all of them are started, False if that takes longer."""
        return self._done.wait(timeout_s)

    def stop(self) -> None:
        """Stop those that were started; one that is still loading is not started any more."""
        # Not held for long: a plug-in is imported outside the lock.
        with self._lock:
            self._stopped.set()
            started, self._started = self._started, []
        for collector in reversed(started):
            try:
                collector.stop()
            except Exception as error:  # noqa: BLE001 - somebody else's code, at the end of a run
                log.warning("collector plug-in %s failed to stop: %r", collector.name, error)

    def _run(self, emit: Emit) -> None:
        try:
            if self._stopped.wait(LOOK_AFTER_S):
                return
            for label, collector in _installed_collectors():
                with self._lock:
                    if self._stopped.is_set():
                        return
                    try:
                        collector.start(emit)
                    except Exception as error:  # noqa: BLE001 - somebody else's code must not end the others'
                        log.warning("collector plug-in %s is skipped: start failed: %r", label, error)
                        continue
                    self._started.append(collector)
        finally:
            self._done.set()


def _installed_collectors() -> Iterator[tuple[str, Collector]]:
    for entry_point in _entry_points(COLLECTORS_GROUP):
        if entry_point.name in BUILT_IN_COLLECTORS:
            continue
        label = f"{entry_point.name} ({entry_point.value})"
        try:
            made: Any = entry_point.load()()
        except Exception as error:  # noqa: BLE001 - somebody else's code: named and skipped
            log.warning("collector plug-in %s is skipped: %s: %s", label, type(error).__name__, error)
            continue
        if not isinstance(made, Collector):
            log.warning("collector plug-in %s is skipped: %s is no Collector", label, type(made).__name__)
            continue
        yield label, made


def _entry_points(group: str) -> Iterator[EntryPoint]:
    from importlib.metadata import entry_points

    return iter(entry_points(group=group))
