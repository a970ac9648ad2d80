"""Sessions that are imported again and again, while importer and server are killed: the tests' part and the bench's."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from fault_support import ServerProcess, until
from proxy import Fault, FaultyProxy, at_random
from telemetry.sinks.local_zip import LocalZipSink

from telemetry.client import Client
from telemetry.events import ConsoleLine, ModelSaved, RecordChange, SingleValue
from telemetry.export import JsonLinesFile, export_tasks, find_tasks
from telemetry.export.parquet import ParquetFolder
from telemetry.pipeline import Pipeline
from telemetry.settings import Settings
from telemetry.testing import make_header


def export_digests(url: str, folder: Path) -> dict[str, str]:
    """Export all tasks of a server in every format; return the checksum of each file by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    with Client(url) as client:
        for writer in (JsonLinesFile(folder), ParquetFolder(folder)):
            for path in export_tasks(client, find_tasks(client, None), writer).files:
                found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def make_sessions(folder: Path, count: int, points: int = 3000) -> list[Path]:
    """Return folders with the sessions of a task each: of two writers that speak at the same times.

    Half of them hold a session folder, half a folder and a zip.

    Args:
        points: of each writer.
    """
    found = []
    for number in range(count):
        task_id = f"{number:032x}"
        parent = folder / str(number)
        for writer in range(2):
            zips = writer == 1 and number % 2 == 1
            sink = LocalZipSink(parent, parent / "session.zip" if zips else None)
            header = make_header(task_id, name=f"run {number}")
            pipeline = Pipeline(header, [sink], settings=Settings(state_dir=folder / "state", frame_scalars=100))
            pipeline.start()
            emit = pipeline.emit
            for step in range(points):
                emit.rows += ("loss", "train", step * 0.1 + writer, step, 1_700_000_000_000_000_000 + step)
                if len(emit.rows) > emit.mark:
                    emit.crossed()
                if step % 500 == 0:
                    emit(ConsoleLine(step, "stdout", f"step {step}"))
                    emit(RecordChange(step, "parameters", "rate", [writer, step]))
                    emit(SingleValue(step, "best", float(writer)))
                    emit(ModelSaved(step, "model", f"/models/{writer}", "torch", step, 10))
            emit(RecordChange(10**18, "task", "status", "failed" if number % 3 else "completed"))
            pipeline.close()
        found.append(parent)
    return found


def kill_while_importing(
    sessions: list[Path], server: ServerProcess, victim: str, folder: Path, *, request: int = 1
) -> None:
    """Begin an import on a slow network, and kill one side when this request of it is under way."""
    slow = at_random(0, share=1.0, faults=[Fault.DELAY])
    with FaultyProxy(server.url, slow, delay_s=0.05) as proxy:
        importer = begin_import(sessions, proxy.url, folder)
        until(lambda: proxy.seen.total() >= request, f"request {request}")
        assert importer.poll() is None
        if victim == "server":
            server.kill()
        importer.kill()
        importer.wait()
    if victim == "server":
        server.start()


def begin_import(sessions: list[Path], url: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "telemetry.cli", "import", *map(str, sessions), "--url", url],
        env={**os.environ, "TELEMETRY_DIR": str(folder / "importer")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
