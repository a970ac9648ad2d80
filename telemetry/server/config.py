"""ServerConfig: what the server is told at start, with its limits, each with unit and reason."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from telemetry.errors import ConfigurationError
from telemetry.server.store import Store

__all__ = ["CONFIG", "DEFAULT_HOST", "DEFAULT_PORT", "STORE", "Limits", "ServerConfig", "is_loopback"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8008

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, or all together, may ask of the server.

    Attributes:
        max_body_bytes: a request's body; more is answered 413. The largest possible frame just fits.
        max_unpacked_bytes: what the frames of one body may inflate to; more is answered 413.
        max_waiting_bytes: bodies being received, decoded or waiting for the writer; more is answered 503.
        max_waiting_requests: the same, in requests.
        max_viewers: open live streams; more are answered 503.
        max_store_bytes: the database may grow to this, then ingest is answered 503; None for the disk's end.
    """

    max_body_bytes: int = 64 * _MIB + 4096
    max_unpacked_bytes: int = 256 * _MIB
    max_waiting_bytes: int = 256 * _MIB
    max_waiting_requests: int = 1000
    max_viewers: int = 500
    max_store_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How to run a server.

    Attributes:
        directory: of the store; made if it is not there (0700). One server per directory.
        host: loopback unless there is a token.
        port: 0 takes a free one.
        token: who may read and write, as a bearer token or as the password in a browser; None on
            loopback only, where everyone on this machine may.
        allowed_hosts: further names under which a server without a token may be addressed (a reverse proxy's).

    Raises:
        ConfigurationError: a host that others can reach, without a token; or an empty token.
    """

    directory: Path
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.token is not None and not self.token.strip():
            raise ConfigurationError("the server's token is empty; unset TELEMETRY_SERVER_TOKEN or give it a value")
        if not 0 <= self.port <= 65_535:
            raise ConfigurationError(f"port {self.port} is not between 0 and 65535")
        if self.token is None and not is_loopback(self.host):
            raise ConfigurationError(
                f"refusing to listen on {self.host or 'all addresses'} without a token: anyone who reaches this "
                "machine could read and write. Set TELEMETRY_SERVER_TOKEN, or listen on 127.0.0.1."
            )

    @classmethod
    def from_environment(
        cls,
        directory: Path,
        *,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        limits: Limits | None = None,
    ) -> ServerConfig:
        """Return a config with the token of TELEMETRY_SERVER_TOKEN, if that is set."""
        return cls(directory, host, port, os.environ.get("TELEMETRY_SERVER_TOKEN"), (), limits or Limits())


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach `host`. A name other than localhost may resolve to anything."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# What handlers find in their application.
CONFIG = web.AppKey("config", ServerConfig)
STORE = web.AppKey("store", Store)
