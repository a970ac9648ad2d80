"""docs/wire.md and docs/read_frames.py: the reader shares no code with the package and reads the same."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import golden_frames
import pytest
from telemetry.sinks.local_zip import LocalZipSink

from telemetry import wire
from telemetry.events import ConsoleLine, Scalar
from telemetry.testing import run_pipeline

DOCS = Path(__file__).parents[2] / "docs"
READER = DOCS / "read_frames.py"


def read(*paths: Path, damaged: bool = False) -> list[dict[str, Any]]:
    """Run the reader as its reader would, with nothing but the standard library to import."""
    command = [sys.executable, "-I", "-S", str(READER), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (int(damaged), "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", golden_frames.BATCHES)
def test_reader_prints_what_the_golden_file_says(name: str) -> None:
    lines = read(golden_frames.GOLDEN / f"{name}.frame")
    expected = json.loads((golden_frames.GOLDEN / f"{name}.json").read_text("utf-8"))
    # The long one is held by its ends.
    assert [lines[0], lines[-1]] == expected if name == "deflated" else lines == expected


def test_reader_reads_a_session_folder_and_its_zip_alike(tmp_path: Path) -> None:
    # Given a run whose session folder and zip are both there
    folder, zipped = LocalZipSink(tmp_path, None, name="folder"), LocalZipSink(tmp_path / "z", tmp_path / "z" / "a.zip")
    with run_pipeline([folder, zipped]) as pipeline:
        for step in range(3000):
            pipeline.emit(Scalar("loss", "träin", 1 / (step + 1), step, step))
        pipeline.emit(ConsoleLine(1, "stdout", "done ✓"))
    # When the reader reads them
    assert folder.session_folder is not None
    from_folder, from_zip = read(folder.session_folder), read(tmp_path / "z" / "a.zip")
    # Then both give every point in order
    points = [(line["iteration"], line["value"]) for line in from_zip if line["type"] == "scalar"]
    assert points == [(step, 1 / (step + 1)) for step in range(3000)]
    assert [line["text"] for line in from_zip if line["type"] == "console"] == ["done ✓"]
    assert from_folder == from_zip


def test_reader_goes_on_behind_damage_and_says_where(tmp_path: Path) -> None:
    first, second = (golden_frames.make(name).data for name in ("scalars", "events"))
    broken = bytearray(first + second)
    broken[60] ^= 1
    path = tmp_path / "cut.frames"
    path.write_bytes(broken + second[:-3])
    lines = read(path, damaged=True)
    assert [(line["offset"], line["bytes"]) for line in lines if line["type"] == "damage"] == [
        (0, len(first)),
        (len(first) + len(second), len(second) - 3),
    ]
    assert sum(line["type"] == "console" for line in lines) == 2


def test_reader_without_arguments_says_how_to_use_it() -> None:
    done = subprocess.run([sys.executable, str(READER)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "python read_frames.py" in done.stderr


def test_reader_imports_the_standard_library_only() -> None:
    tree = ast.parse(READER.read_text("utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= set(sys.stdlib_module_names)


def test_specification_names_what_the_code_has() -> None:
    text = (DOCS / "wire.md").read_text("utf-8")
    assert wire.MAGIC.hex(" ").upper() in text
    assert f"Header: {wire.HEADER_BYTES} bytes" in text
    assert f"{wire.MAX_PAYLOAD_BYTES // 2**20} MiB" in text
    assert all(f"| `{code}` |" in text for code in wire._EVENT_TYPES)
    assert "(read_frames.py)" in text


def test_session_zip_is_a_zip_that_anybody_can_open(tmp_path: Path) -> None:
    with run_pipeline([LocalZipSink(tmp_path, tmp_path / "run.zip")]) as pipeline:
        pipeline.emit(Scalar("loss", "train", 1.0, 1, 1))
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        assert archive.testzip() is None
        assert {"session.json", "manifest.json"} < set(archive.namelist())
