"""docs/sinks.md: its code runs as it stands there, and its claims are the code's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from telemetry.protocols import Sink
from telemetry.sdk.plugins import BUILT_IN_SINKS
from telemetry.settings import Settings
from telemetry.testing import run_pipeline

PAGE = Path(__file__).parent.parent / "docs" / "sinks.md"
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
