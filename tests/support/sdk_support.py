"""What the SDK's tests share: running programs, and reading what they left on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from telemetry.events import Batch, ConsoleLine, ModelSaved, RecordChange, SingleValue
from telemetry.journal import read_segments, read_session
from telemetry.wire import Frame, decode


@dataclass
class Story:
    """What a stream of frames tells about one task."""

    record: dict[str, dict[str, Any]] = field(default_factory=dict)
    scalars: dict[tuple[str, str], list[tuple[int, float]]] = field(default_factory=dict)
    console: list[ConsoleLine] = field(default_factory=list)
    models: list[ModelSaved] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)

    @property
    def task(self) -> dict[str, Any]:
        return self.record.get("task", {})


def tell(batches: Iterable[Batch]) -> Story:
    """Fold batches of one writer: its times grow, so the last change of a field wins."""
    story = Story()
    for batch in batches:
        columns = batch.columns
        for index, iteration, value in zip(columns.series_index, columns.iterations, columns.values, strict=True):
            key = columns.series[index]
            if key.kind == "scalar":
                story.scalars.setdefault((key.title, key.series), []).append((iteration, value))
        for event in batch.events:
            if isinstance(event, RecordChange):
                story.record.setdefault(event.section, {})[event.key] = event.value
            elif isinstance(event, ConsoleLine):
                story.console.append(event)
            elif isinstance(event, ModelSaved):
                story.models.append(event)
            elif isinstance(event, SingleValue):
                story.values[event.name] = event.value
    return story


def read_story(session_folder: Path) -> Story:
    """Read a session folder as an importer does; damage is a failure of the test."""
    read_session(session_folder)
    return tell(_batches(session_folder))


def _batches(session_folder: Path) -> Iterator[Batch]:
    for item in read_segments(session_folder):
        assert isinstance(item, Frame), str(item)
        yield decode(item)


def only_session(state_dir: Path) -> Path:
    """Return the one session folder in a state directory."""
    (folder,) = (state_dir / "sessions").iterdir()
    return folder


def environment(state_dir: Path, **variables: str) -> dict[str, str]:
    """Return the environment for a program: ours without any telemetry setting but these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TELEMETRY_")}
    return {**kept, "TELEMETRY_DIR": str(state_dir), "PYTHONUNBUFFERED": "1", **variables}


def run_program(
    source: str, state_dir: Path, *arguments: str, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Write a program into the state directory's parent and run it to its end."""
    path = state_dir.parent / "program.py"
    path.write_text(textwrap.dedent(source))
    return subprocess.run(
        [sys.executable, str(path), *arguments],
        env=environment(state_dir, **(variables or {})),
        cwd=state_dir.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
