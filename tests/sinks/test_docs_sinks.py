"""docs/sinks.md: its code runs as it stands there, and its claims are the code's."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from contract_support import read_sessions

from telemetry.protocols import (
    Cloneable,
    HasSessionFolder,
    HasUrl,
    KeepsSessions,
    Sink,
    StoresBlobs,
    Syncable,
    TellsHeld,
    TellsLoss,
)
from telemetry.sdk.launch.plugins import BUILT_IN_SINKS
from telemetry.settings import Settings
from telemetry.testing import MemorySink, run_pipeline
from telemetry.testing.contract import ABILITY_CHECKS, check_sink

PAGE = Path(__file__).parents[2] / "docs" / "sinks.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def names() -> dict[str, Any]:
    """What the page's blocks define, executed one after another as a reader would."""
    scope: dict[str, Any] = {"__name__": "page"}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"docs/sinks.md, block {number + 1}", "exec"), scope)
    return scope


def test_every_block_runs_and_the_sink_keeps_the_contract(names: dict[str, Any], tmp_path: Path) -> None:
    # The second block runs the contract suite; the last one is the entry point
    sink = names["open_sink"](f"sqlite:{tmp_path / 'points.db'}", Settings())
    assert isinstance(sink, Sink)
    with run_pipeline([sink]) as pipeline:
        pipeline.emit.rows += ("loss", "train", 0.5, 1, 1)
        assert pipeline.flush()
    assert list(names["read_back"](tmp_path)) == [("loss", "train", 1, 0.5)]


EXAMPLES = {
    "ForkedSqliteSink": {Cloneable},
    "QuickSqliteSink": {Syncable},
    "SharedSqliteSink": {HasUrl},
    "BlobSqliteSink": {HasUrl, StoresBlobs},
    "WatchedSqliteSink": {HasUrl, TellsHeld},
    "FolderSink": {HasSessionFolder, KeepsSessions, TellsLoss},
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_the_ability_and_keeps_the_contract(name: str, names: dict[str, Any], tmp_path: Path) -> None:
    def make(folder: Path) -> Any:
        return names[name](folder if name == "FolderSink" else folder / "points.db")

    able = {ability for ability in ABILITY_CHECKS if isinstance(make(tmp_path), ability)}
    assert able == EXAMPLES[name]
    read_back = read_sessions if name == "FolderSink" else names["read_back"]
    asyncio.run(check_sink(make, read_back, folder=tmp_path))


def test_frames_are_forwarded_as_the_page_has_it(names: dict[str, Any]) -> None:
    class Forwarding(MemorySink):
        def clone(self) -> Forwarding:
            return self

        async def connect(self) -> None:
            """Nothing to connect."""

        async def send(self, frames: Any) -> dict[tuple[bytes, int], str]:
            await self.write(frames)
            return {}

    sink: Any = Forwarding()
    assert asyncio.run(names["forward"](sink, ["a frame"])) == {}
    assert (sink.frames, sink.closed) == (["a frame"], True)


def test_each_ability_has_a_section_and_a_row_that_names_its_members() -> None:
    page = PAGE.read_text("utf-8")
    headings = re.findall(r"^### (.+)$", page, re.MULTILINE)
    assert {name for heading in headings for name in re.findall(r"`(\w+)`", heading)} == {
        ability.__name__ for ability in ABILITY_CHECKS
    }
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, re.MULTILINE))
    for ability in ABILITY_CHECKS:
        # What it takes over from Sink, as `close`, is every sink's.
        members = {name for name in dir(ability) if not name.startswith("_")} | set(ability.__annotations__)
        assert set(re.findall(r"`(\w+)", rows[ability.__name__])) == members - {"close"}


def test_the_sink_really_has_about_thirty_lines() -> None:
    block = BLOCKS[0]
    body = [line for line in block[block.index("class ") :].splitlines() if line.strip()]
    assert len(body) <= 36


def test_a_sink_that_cannot_write_is_unavailable_and_leaves_no_thread(names: dict[str, Any], tmp_path: Path) -> None:
    sink = names["SqliteSink"](tmp_path / "no such folder" / "points.db")
    with run_pipeline([sink], close_timeout_s=0.5) as pipeline:
        pipeline.emit.rows += ("loss", "train", 0.5, 1, 1)
    assert pipeline.ledger().dropped == {"not_delivered": 1}


def test_every_sink_of_ours_is_in_the_table() -> None:
    page = PAGE.read_text("utf-8")
    assert all(f"`{scheme}:" in page for scheme in BUILT_IN_SINKS)
    for link in re.findall(r"\]\((\.\./[^)]+)\)", page):
        assert (PAGE.parent / link).exists(), link
