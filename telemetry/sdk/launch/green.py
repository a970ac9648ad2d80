"""gevent and eventlet: a program whose threads are none cannot be watched from a thread."""

from __future__ import annotations

import sys
from typing import Any

from telemetry.errors import ConfigurationError

__all__ = ["refuse_green_threads"]

_MESSAGE = (
    "{package} has replaced Python's threads, and telemetry sends from a thread of its own, which could never run. "
    "No task was started. Patch everything else: {call}; or switch telemetry off with "
    "TELEMETRY_MODE=disabled"
)


def refuse_green_threads() -> None:
    """Refuse to start where a greenlet would stand in for each thread: its event loop would keep all others waiting.

    Raises:
        ConfigurationError: gevent or eventlet has patched the modules that our threads need.
    """
    # Nobody has patched anything with a package that is not imported.
    gevent: Any = sys.modules.get("gevent.monkey")
    # queue: gevent's waits for greenlets alone, and never hears of an item that a thread puts in.
    if gevent is not None and any(gevent.is_module_patched(name) for name in ("_thread", "threading", "queue")):
        raise ConfigurationError(
            _MESSAGE.format(package="gevent", call="gevent.monkey.patch_all(thread=False, queue=False)")
        )
    eventlet: Any = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        raise ConfigurationError(_MESSAGE.format(package="eventlet", call="eventlet.monkey_patch(thread=False)"))
