"""The one server that this process asks, and what it says to a program that needs one and has none."""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING

from telemetry.errors import ConfigurationError
from telemetry.process import lifecycle
from telemetry.sdk.identity.masking import mask_url
from telemetry.settings import Settings

if TYPE_CHECKING:
    from telemetry.client import Client

__all__ = ["client_of", "server_client", "server_url"]


class _Clients:
    """A client for each server and token; connections do not outlive a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[tuple[str, str, str, int], Client] = {}
        lifecycle.watch_forks(self)

    def reset_after_fork(self) -> None:
        """In a forked child: the clients' threads and sockets are the parent's."""
        self._lock = threading.Lock()
        self._clients = {}

    def get(self, url: str, settings: Settings) -> Client:
        """Return the client for a server, made at the first call."""
        from telemetry.client import Client  # with orjson, which a program that only reports never needs

        key = (url, settings.token or "", str(settings.token_file or ""), os.getpid())
        with self._lock:
            client = self._clients.get(key)
            if client is None:
                client = Client(
                    url,
                    token=settings.token or "",
                    token_file=settings.token_file,
                    timeout_s=settings.request_timeout_s,
                    trust_env=settings.trust_env,
                )
                if not self._clients:
                    atexit.register(self.close)
                self._clients[key] = client
            return client

    def close(self) -> None:
        """Close the connections; a client that is used again opens new ones."""
        with self._lock:
            clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            client.close()


_clients = _Clients()


def client_of(url: str, settings: Settings) -> Client:
    """Return this process's client for a server, with the token of the settings."""
    return _clients.get(url, settings)


def server_url(settings: Settings) -> str | None:
    """Return the server's address; None where the settings name none, or say that nothing may be asked."""
    url = settings.url or ""
    return url if settings.mode == "online" and url.startswith(("http://", "https://")) else None


def server_client(settings: Settings, what: str) -> Client:
    """Return a client for the server of the settings; one for the whole process.

    Args:
        what: what needs it, for the error: "Task.get_task".
    Raises:
        ConfigurationError: no server is set, or offline mode is on.
    """
    url = server_url(settings)
    if url is None:
        why, remedy = (
            (
                f"TELEMETRY_URL is {mask_url(settings.url or 'not set')}",
                "Set it to the server's address, such as http://127.0.0.1:8008",
            )
            if settings.mode == "online"
            else (
                f"telemetry is in {settings.mode} mode",
                "Leave it: Task.set_offline(False), and neither TELEMETRY_OFFLINE_MODE nor TELEMETRY_MODE set",
            )
        )
        raise ConfigurationError(f"{what} needs a server, and {why}. Nothing was done. {remedy}")
    return client_of(url, settings)
