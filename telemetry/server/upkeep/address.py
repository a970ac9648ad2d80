"""How a command on the server's own machine reaches it: by `server.json` in its directory.

A server writes its address and a key there, which nobody else knows and which ends with the process. Whoever may read
the file may read and write the whole store by its files, so the key opens everything that tokens open, and beside that
what names paths of this machine, which no token opens.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import hdrs, web

__all__ = ["LOCAL_KEY", "LocalServer", "announce", "find_server", "is_local", "new_key", "withdraw"]

log = logging.getLogger("telemetry.server")

ADDRESS_FILE = "server.json"


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A server of this machine: where it listens, and the key that its own directory gives."""

    url: str
    key: str = field(repr=False)


LOCAL_KEY = web.AppKey("local_key", str)


def new_key() -> str:
    """Return a key for one life of a server."""
    return secrets.token_urlsafe(32)


def announce(directory: Path, server: LocalServer) -> None:
    """Write where a server listens into its directory; where that cannot be, commands do not find it."""
    path = directory / ADDRESS_FILE
    part = path.with_name(f".{ADDRESS_FILE}.{os.getpid()}")
    try:
        with open(part, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            json.dump({"url": server.url, "key": server.key}, file)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        log.warning("%s cannot be written: %s; telemetry backup will not find this server", path, error)


def withdraw(directory: Path) -> None:
    """Take it back: the server ends."""
    try:
        (directory / ADDRESS_FILE).unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s cannot be removed: %s", directory / ADDRESS_FILE, error)


def find_server(directory: Path) -> LocalServer | None:
    """Return the server that says that it runs on a directory; None where none does. A killed one says so still."""
    try:
        document = json.loads((directory / ADDRESS_FILE).read_text("utf-8"))
        return LocalServer(str(document["url"]), str(document["key"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_local(request: web.Request) -> bool:
    """Say whether a request has the key."""
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    key = request.app[LOCAL_KEY]
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("utf-8", "replace"), key.encode())
