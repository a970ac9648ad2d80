"""What the tests of the program's arguments share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdk_support import only_session, read_story

from telemetry.values import value_of

# The call of a program that is about its arguments alone.
INIT = 'Task.init("p", "n", auto_resource_monitoring=False, auto_connect_streams=False)'


def parameters_of(done: Any, state_dir: Path) -> dict[str, Any]:
    """What a program that ran has recorded."""
    assert done.returncode == 0, done.stderr
    record = read_story(only_session(state_dir)).record
    return {name: value_of(entry) for name, entry in record.get("parameters", {}).items() if entry is not None}
