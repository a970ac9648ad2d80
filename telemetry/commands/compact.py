"""`telemetry compact`: make the database of a stopped server anew, without the free space in it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from telemetry.disk import absolute_path
from telemetry.process.terminal import ProgressLine, size_text

__all__ = ["add_compact"]

DESCRIPTION = """\
Make the database of a stopped server anew, without the free space in it. Needed once, for a database that version 0.1
made: what is deleted from any other goes back to the disk by itself, while the server runs. It needs room for a second
database beside the first, and says so if there is none. Cut at any moment, the database is as it was, or done."""


def add_compact(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], *, import_extra: Callable[[str, str], ModuleType]
) -> None:
    """Add the sub-command. `import_extra` names the pip command for a dependency that is missing."""
    command = commands.add_parser(
        "compact", help="give back the free space in the database of a stopped server", description=DESCRIPTION
    )
    command.add_argument(
        "--directory", "--data", type=Path, help="the server's directory (default: TELEMETRY_DIR/server)"
    )

    def run(arguments: argparse.Namespace) -> int:
        from telemetry.settings import Settings

        compact = import_extra("telemetry.server.store.compact", "server").compact
        directory = absolute_path(arguments.directory or Settings.load().state_dir / "server")
        line: ProgressLine | None = None

        def show(done_bytes: int, total_bytes: int) -> None:
            nonlocal line
            line = line or ProgressLine(total_bytes, sys.stderr)
            line.show(done_bytes, f"{size_text(done_bytes)} of {size_text(total_bytes)}")

        try:
            before_bytes, after_bytes = compact(directory, show)
        finally:
            if line is not None:
                line.close()
        print(f"the database in {directory} has {size_text(after_bytes)}, {size_text(before_bytes)} before")
        return 0

    command.set_defaults(run=run)
