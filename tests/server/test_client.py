"""The two clients have the same calls, written once."""

from __future__ import annotations

import inspect
import socket

import pytest

from telemetry.client import AsyncClient, Client
from telemetry.errors import ServerUnreachable


def calls_of(client: type) -> dict[str, inspect.Signature]:
    names = [name for name in dir(client) if not name.startswith("_")]
    return {
        name: inspect.signature(getattr(client, name)) for name in names if inspect.isfunction(getattr(client, name))
    }


def test_each_call_of_one_client_is_there_on_the_other_with_the_same_arguments() -> None:
    blocking = calls_of(Client)
    assert {name: str(signature) for name, signature in calls_of(AsyncClient).items()} == {
        name: str(signature) for name, signature in blocking.items()
    }
    assert "tasks" in blocking
    assert Client.tasks.__doc__ == AsyncClient.tasks.__doc__


def test_the_blocking_client_raises_what_the_other_one_raises() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with Client(f"http://127.0.0.1:{taken.getsockname()[1]}") as client:
            with pytest.raises(ServerUnreachable, match="Is it running"):
                client.server()
            # And it can be used again after it was closed
            client.close()
            with pytest.raises(ServerUnreachable):
                client.tasks(status="completed")
