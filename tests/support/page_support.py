"""The samples of the Task page run three ways: against a server, offline and imported, and read from the session.

A test takes `way`, runs the page's sample in it, and reads the task back with `way.read(task)`:

    def test_something(way: Way) -> None:
        task = way.init(project_name="examples", task_name="parameters")
        task.set_parameters({"Args/epochs": 7})
        read = way.read(task)              # closes the task
        assert read.get_parameters() == {"Args/epochs": "7"}
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telemetry.sdk.cores.stored import open_stored
from telemetry.sdk.identity.modes import load_settings
from telemetry.sdk.task.task import Task

WAYS = ("server", "imported", "offline")


@dataclass
class Way:
    """One of the three ways.

    Attributes:
        name: "server", "imported" or "offline".
        url: of a server; "" offline.
    """

    name: str
    url: str
    folder: Path

    def init(self, **arguments: Any) -> Task:
        """Call Task.init with the page's arguments; streams and resources stay off unless asked for."""
        quiet = {"auto_resource_monitoring": False, "auto_connect_streams": False}
        return Task.init(**{**quiet, **arguments})

    def read(self, task: Task) -> Task:
        """End a task and return it as another program reads it."""
        task.close()
        if self.name == "offline":
            assert task.get_offline_mode_folder() is not None
            return Task(open_stored(task.id, load_settings(), what="the test"))
        if self.name == "imported":
            folder = task.get_offline_mode_folder()
            assert folder is not None
            self.go_online()
            assert Task.import_offline_session(folder) == task.id
        return Task(open_stored(task.id, load_settings(), what="the test"))

    def go_online(self) -> None:
        """From now on speak to the server."""
        Task.set_offline(False)
        os.environ["TELEMETRY_URL"] = self.url
