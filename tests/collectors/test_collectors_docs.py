"""docs/collectors.md says what the code does: its example runs, its table names every reading."""

from __future__ import annotations

import importlib
import inspect
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from telemetry.collectors.models import LOAD_FUNCTIONS, SAVE_FUNCTIONS

from telemetry.pipeline import Pipeline
from telemetry.protocols import Collector
from telemetry.settings import Settings
from telemetry.testing import MemorySink, make_header
from telemetry.wire import Frame

DOCS = Path(__file__).parents[2] / "docs" / "collectors.md"


@pytest.fixture(scope="module")
def text() -> str:
    return DOCS.read_text(encoding="utf-8")


def rows(text: str, header: str) -> Iterator[list[str]]:
    """The cells of the table that begins with a header."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(header):
            next(lines)
            break
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


class WaitingSink(MemorySink):
    """A MemorySink that a test can wait on."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    async def write(self, frames: Sequence[Frame]) -> None:
        await super().write(frames)
        if self.scalars("resource"):
            self.written.set()


def test_the_example_runs_in_a_pipeline(text: str, tmp_path: Path) -> None:
    # given the collector that the page shows, and two checkpoints
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names: dict[str, Any] = {}
    exec(compile(code, str(DOCS), "exec"), names)
    collector = names["FolderCollector"](tmp_path)
    assert isinstance(collector, Collector)
    for name in ("a.pt", "b.pt", "notes.txt"):
        (tmp_path / name).touch()

    # when it runs until something has come
    sink = WaitingSink()
    pipeline = Pipeline(make_header(), [sink], collectors=[collector], settings=Settings(state_dir=tmp_path / "state"))
    pipeline.start()
    assert sink.written.wait(30)
    ledger = pipeline.close()

    # then its readings are a series of the task
    series = sink.scalars("resource")["Checkpoints", "files"]
    assert {value for _, value in series} == {2.0}
    assert ledger.balanced
    assert len(code.strip().splitlines()) <= 30


def test_each_reading_is_in_the_table_with_its_unit(text: str) -> None:
    # given the readings as the code makes them
    made: set[tuple[str, str, str]] = set()
    for module in ("machine", "gpus"):
        source = inspect.getsource(importlib.import_module(f"telemetry.collectors.{module}"))
        for title, series, unit in re.findall(r'Reading\("([^"]+)", (?:f?"([^"]+)"|name), .*?"([^"]+)"\)', source):
            made.add((title, series.replace("{name}", "gpu N") or "gpu N", unit))
        for title, series in re.findall(r'self\._rate\("([^"]+)", "([^"]+)"', source):
            made.add((title, series, "By/s"))

    # then the table has exactly these
    documented = {(title, series, unit) for title, series, unit, _ in rows(text, "| title | series |")}
    assert made == documented
    assert len(made) > 20


def test_each_watched_framework_is_in_the_table(text: str) -> None:
    documented = {cells[0]: " ".join(cells[1:]) for cells in rows(text, "| framework |")}

    assert set(documented) == {function.framework for function in SAVE_FUNCTIONS}
    for function in SAVE_FUNCTIONS + LOAD_FUNCTIONS:
        # A class that loads as it is made is documented as its call.
        name = function.attribute.removesuffix(".__init__").rpartition(".")[2]
        assert name in documented[function.framework]
        assert all(f"`{switch}`" in documented[function.framework] for switch in function.switches)
