"""The three ways as fixtures; see page_support.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_support import WAYS, Way

from telemetry.sdk.cores.current import current
from telemetry.sdk.task.task import Task
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """Each of the three ways, with a state folder, a working folder and a server of its own."""
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TELEMETRY_QUIET", "1")
    monkeypatch.chdir(tmp_path)
    # argparse in a sample must not see pytest's own arguments.
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with BackgroundServer(ServerConfig(tmp_path / "server", port=0)) as server:
        chosen = Way(str(request.param), server.url, tmp_path)
        if chosen.name == "server":
            monkeypatch.setenv("TELEMETRY_URL", server.url)
        else:
            Task.set_offline(True)
        try:
            yield chosen
        finally:
            if isinstance(current.task, Task) and not current.task.ended:
                current.task.close()
            Task.set_offline(False)


@pytest.fixture
def server_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """The server alone, for what has no meaning offline (queries, clones)."""
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TELEMETRY_QUIET", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with BackgroundServer(ServerConfig(tmp_path / "server", port=0)) as server:
        monkeypatch.setenv("TELEMETRY_URL", server.url)
        try:
            yield Way("server", server.url, tmp_path)
        finally:
            if isinstance(current.task, Task) and not current.task.ended:
                current.task.close()
