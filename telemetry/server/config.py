"""ServerConfig: what the server is told at start, with its limits, each with unit and reason."""

from __future__ import annotations

import os
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from telemetry.clock import unix_ns
from telemetry.errors import ConfigurationError
from telemetry.network.credentials import is_loopback
from telemetry.record import TaskKey
from telemetry.server.store import ProjectLimit, ProjectLimits, Retention, SealingLimits, Store
from telemetry.server.tokens import TokenFile

__all__ = [
    "CONFIG",
    "CONFIG_FILE",
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "STORE",
    "ConnectionLimits",
    "Limits",
    "ServerConfig",
    "read_limits",
    "read_project_limits",
    "read_retention",
]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8008

# Read from the server's directory at start, if it is there.
CONFIG_FILE = "server.toml"

_MIB = 1024 * 1024
# Tables of the configuration file.
_TABLES = ("limits", "blobs", "sealing", "connections", "retention")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections there may be, and how long each may take (sockets/connections.py).

    Attributes:
        max_total: open at once; fewer where the process may not have as many descriptors. Beyond it one that waits is
            ended for the new one, one without a token first, and where none waits the answer is 503.
        max_newcomers: of these, without a token so far (where there are no tokens: without a whole request); at most
            half of all. Beyond it the one that has waited longest is ended.
        max_per_address: from one IPv4 address or IPv6 /64. None: half of all, but any number from this machine.
        header_timeout_s: from a connection's arrival, or a request's first byte, to its last header; also how long one
            without a token may stay idle.
        body_timeout_s: from there to the end of the body; 64 MiB in this is 0.5 MiB/s.
        idle_timeout_s: between two requests. The 600 s of cloud balancers must be shorter: who closes a connection
            while the other side sends a request on it makes that fail.
        read_timeout_s: an answer that nobody reads, or at less than 1 KiB/s, ends its connection after this.
        max_unsent_bytes: of answers in memory whose readers are slow; beyond it the slowest are ended at once.
    """

    max_total: int = 10_000
    max_newcomers: int = 1000
    max_per_address: int | None = None
    header_timeout_s: float = 10.0
    body_timeout_s: float = 120.0
    idle_timeout_s: float = 620.0
    read_timeout_s: float = 30.0
    max_unsent_bytes: int = 256 * _MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, or all together, may ask of the server.

    Attributes:
        max_body_bytes: a request's body; more is answered 413. The largest possible frame fits; senders send
            4 MiB at once.
        max_unpacked_bytes: what the frames of one body may inflate to; more is answered 413.
        max_waiting_bytes: bodies being received, and what those that are decoded or wait for the writer have
            inflated to; more is answered 503.
        max_waiting_requests: the same, in requests.
        max_viewers: open live streams; more are answered 503.
        max_blob_bytes: one artifact, model or medium; more is answered 413. None for any.
        min_free_share: of the disk that must stay free of blobs; beyond it the answer is 507.
        max_store_bytes: the database may grow to this, then ingest is answered 503; None for the disk's end.
        sealing: how many points stay in memory and in the log, and for how long.
        connections: how many, and how slow they may be.
    """

    max_body_bytes: int = 20 * _MIB
    max_unpacked_bytes: int = 64 * _MIB
    max_waiting_bytes: int = 256 * _MIB
    max_waiting_requests: int = 4000
    max_viewers: int = 500
    max_blob_bytes: int | None = None
    min_free_share: float = 0.05
    max_store_bytes: int | None = None
    sealing: SealingLimits = field(default_factory=SealingLimits)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How to run a server.

    Attributes:
        directory: of the store; made if it is not there (0700). One server per directory.
        host: loopback unless there is a token.
        port: 0 takes a free one.
        token: opens everything, beside the tokens of the directory (tokens.py). Without either, everyone on
            this machine may read and write.
        allowed_hosts: further names under which a server without tokens may be addressed (a reverse proxy's).
        project_limits: how much each project may hold.
        watch: folders whose sessions are shown as they grow (watch.py); none needs to be there yet.
        retention: what is kept of projects (None: of each top-level project); what has been kept for long enough is
            removed, now and every hour.
        clock: Unix time in ns: by it a task that falls silent is `stalled` and then `lost`.

    Raises:
        ConfigurationError: a host that others can reach, and no valid token; or an empty token.
    """

    directory: Path
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    project_limits: ProjectLimits = field(default_factory=ProjectLimits)
    watch: tuple[Path, ...] = ()
    retention: tuple[tuple[str | None, Retention], ...] = ()
    clock: Callable[[], int] = field(default=unix_ns, repr=False)

    def __post_init__(self) -> None:
        if self.token is not None and not self.token.strip():
            raise ConfigurationError("the server's token is empty; unset TELEMETRY_SERVER_TOKEN or give it a value")
        if not 0 <= self.port <= 65_535:
            raise ConfigurationError(f"port {self.port} is not between 0 and 65535")
        if self.token is None and not is_loopback(self.host) and not _has_valid_token(self.directory):
            raise ConfigurationError(
                f"refusing to listen on {self.host or 'all addresses'} without a token: anyone who reaches this "
                f"machine could read and write. Type: telemetry token create --scope admin --directory "
                f"{self.directory} (or set TELEMETRY_SERVER_TOKEN), or listen on 127.0.0.1."
            )

    @classmethod
    def from_environment(
        cls,
        directory: Path,
        *,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        limits: Limits | None = None,
        project_limits: ProjectLimits | None = None,
        watch: tuple[Path, ...] = (),
    ) -> ServerConfig:
        """Return a config with the token of TELEMETRY_SERVER_TOKEN, if that is set.

        The limits, of projects too, are those of `server.toml` in the directory, unless they are given.
        """
        return cls(
            directory,
            host,
            port,
            os.environ.get("TELEMETRY_SERVER_TOKEN"),
            (),
            limits or read_limits(directory / CONFIG_FILE),
            read_project_limits(directory / CONFIG_FILE) if project_limits is None else project_limits,
            watch,
            read_retention(directory / CONFIG_FILE),
        )


def read_project_limits(path: Path) -> ProjectLimits:
    """Return the limits in a server's configuration file; none, if there is no such file.

    Raises:
        ConfigurationError: it cannot be read, or says what nobody understands.
    """
    limits = _tables(path)["limits"]
    named = limits.pop("project", {})
    if not isinstance(named, dict):
        raise ConfigurationError(f'{path}: write [limits.project."NAME"]')
    return ProjectLimits(
        _limit(path, "limits", limits),
        {name.strip("/"): _limit(path, f'limits.project."{name}"', entry) for name, entry in named.items()},
    )


def read_retention(path: Path) -> tuple[tuple[str | None, Retention], ...]:
    """Return what is kept of projects by a server's configuration file; nothing is said, nothing is removed.

    Raises:
        ConfigurationError: as read_project_limits does.
    """
    entry = _tables(path)["retention"]
    named = entry.pop("project", {})
    if not isinstance(named, dict):
        raise ConfigurationError(f'{path}: write [retention.project."NAME"]')
    rules: list[tuple[str | None, Retention]] = [
        (name.strip("/"), _retention(path, f'retention.project."{name}"', item)) for name, item in named.items()
    ]
    return tuple(rule for rule in [*rules, (None, _retention(path, "retention", entry))] if rule[1])


def _retention(path: Path, where: str, entry: Any) -> Retention:
    known = {"older_than_days": (int, float), "keep_bytes": (int,), TaskKey.PUBLISHED: (bool,), "kept": (bool,)}
    if not isinstance(entry, dict) or set(entry) - set(known):
        raise ConfigurationError(f"{path}: [{where}] may hold {', '.join(known)}")
    for name, value in entry.items():
        # 0 would be a way of deleting all there is.
        if type(value) not in known[name] or (known[name] != (bool,) and not value > 0):
            wanted = "true or false" if known[name] == (bool,) else "a number above 0"
            raise ConfigurationError(f"{path}: {name} of [{where}] is {value!r:.40}, not {wanted}")
    days = entry.get("older_than_days")
    return Retention(
        None if days is None else days * 86_400.0,
        entry.get("keep_bytes"),
        published=entry.get(TaskKey.PUBLISHED, False),
        kept=entry.get("kept", False),
    )


def read_limits(path: Path) -> Limits:
    """Return the limits of the whole server with what its configuration file says of blobs and connections.

    Raises:
        ConfigurationError: as read_project_limits does.
    """
    tables = _tables(path)
    entry = tables["blobs"]
    if set(entry) - {"max_bytes", "min_free_share"}:
        raise ConfigurationError(f"{path}: [blobs] may hold max_bytes, min_free_share")
    most, share = entry.get("max_bytes"), entry.get("min_free_share", Limits().min_free_share)
    if most is not None and (type(most) is not int or most < 0):
        raise ConfigurationError(f"{path}: max_bytes of [blobs] is {most!r:.40}, not a whole number")
    if type(share) not in (int, float) or not 0 <= share < 1:
        raise ConfigurationError(f"{path}: min_free_share of [blobs] is {share!r:.40}, not from 0 to under 1")
    return Limits(
        max_blob_bytes=most,
        min_free_share=float(share),
        sealing=_numbers(path, "sealing", tables["sealing"], SealingLimits),
        connections=_numbers(path, "connections", tables["connections"], ConnectionLimits),
    )


_Numbers = TypeVar("_Numbers", ConnectionLimits, SealingLimits)


def _numbers(path: Path, table: str, entry: dict[str, Any], kind: type[_Numbers]) -> _Numbers:
    """Return the limits that a table holds; each is above 0, and whole unless it is in seconds."""
    known = {field.name: field.name.endswith("_s") for field in fields(kind)}
    if set(entry) - set(known):
        raise ConfigurationError(f"{path}: [{table}] may hold {', '.join(known)}")
    for name, value in entry.items():
        may_be_fraction = known[name]
        if type(value) not in ((int, float) if may_be_fraction else (int,)) or not value > 0:
            wanted = "a number of seconds" if may_be_fraction else "a whole number"
            raise ConfigurationError(f"{path}: {name} of [{table}] is {value!r:.40}, not {wanted} above 0")
    return kind(**entry)


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    """Return the tables of a configuration file; empty ones, where it has none or is not there."""
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except FileNotFoundError:
        document = {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    tables = {name: document.pop(name, {}) for name in _TABLES}
    if document or not all(isinstance(table, dict) for table in tables.values()):
        said = ", ".join(document) or "a value"
        known = ", ".join(f"[{name}]" for name in _TABLES)
        raise ConfigurationError(f"{path}: only the tables {known} are known, not {said}")
    return tables


def _limit(path: Path, where: str, entry: Any) -> ProjectLimit:
    known = ("max_points", "max_bytes", "max_blob_bytes")
    if not isinstance(entry, dict) or set(entry) - set(known):
        raise ConfigurationError(f"{path}: [{where}] may hold {', '.join(known)}")
    for name, value in entry.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ConfigurationError(f"{path}: {name} of [{where}] is {value!r:.40}, not a whole number")
    return ProjectLimit(entry.get("max_points"), entry.get("max_bytes"), entry.get("max_blob_bytes"))


def _has_valid_token(directory: Path) -> bool:
    return any(token.state(time.time()) == "valid" for token in TokenFile(directory).tokens())


# What handlers find in their application.
CONFIG = web.AppKey("config", ServerConfig)
STORE = web.AppKey("store", Store)
