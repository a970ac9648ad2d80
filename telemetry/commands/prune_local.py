"""Pruning on the server's own machine: what reaches a running server, and the store of one that is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from telemetry.client import Client
from telemetry.errors import ConfigurationError, ServerError
from telemetry.server.store import Retention, Store
from telemetry.server.store.database import DATABASE_NAME
from telemetry.server.upkeep.address import LocalServer, find_server
from telemetry.server.upkeep.prune_api import plan_of, prune_tasks

__all__ = ["StoppedServer", "running_server"]


def running_server(directory: Path) -> LocalServer | None:
    """Return the server that runs on a directory; None if none does, whatever a killed one has left there."""
    address = find_server(directory)
    if address is None:
        return None
    with Client(address.url, token=address.key, trust_env=False) as client:
        try:
            client.prune(dry_run=True, only=[])
        except ServerError:
            return None
    return address


class StoppedServer:
    """The store of a server that does not run, for as long as this is open.

    Raises:
        ConfigurationError: a server uses the directory after all, or there is no store in it.
    """

    def __init__(self, directory: Path, asked: dict[str, Any]) -> None:
        if not (directory / DATABASE_NAME).is_file():
            raise ConfigurationError(
                f"there is no server's data in {directory}: no {DATABASE_NAME}. Say --url or --directory"
            )
        asked = dict(asked)
        project = asked.pop("project")
        self._project = project and project.strip("/")
        self._retention = Retention(**asked)
        self._directory = directory
        self._store = Store(directory)

    def prune(self, *, dry_run: bool, only: list[str] | None) -> dict[str, Any]:
        """As the client's call does; rows and space of what goes are gone when it returns."""
        plan = self._store.plan_retention(self._project, self._retention)
        if only is not None:
            plan.remove = [task for task in plan.remove if task.id in set(only)]
        if not dry_run:
            plan.remove = prune_tasks(self._store, self._directory, plan.remove, "asked for")
            for step in (self._store.remove_deleted, self._store.give_back):
                while step():
                    continue
        return plan_of(plan)

    def close(self) -> None:
        """Let a server in."""
        self._store.close()
