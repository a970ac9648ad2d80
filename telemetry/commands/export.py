"""The sub-command `telemetry export`: its arguments, and what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from telemetry.commands.token import add_token_file_option

__all__ = ["add_export"]

DESCRIPTION = """\
Write all that the server has of some tasks: every point with its bits, console lines, record, models and single
values. The same data give the same bytes, in whatever order they reached the server. Exit code 1 if a task
could not be exported, 2 for a wrong command line."""


def add_export(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    *,
    default_url: str,
    import_extra: Callable[[str, str], ModuleType],
) -> None:
    """Add the sub-command. `import_extra` names the pip command for a dependency that is missing."""
    command = commands.add_parser("export", help="write tasks to JSON lines or Parquet files", description=DESCRIPTION)
    command.add_argument("tasks", metavar="TASK_ID", nargs="*", help="32 hexadecimal digits each")
    command.add_argument("--project", help="all tasks of this project")
    command.add_argument("--all", action="store_true", help="all tasks of the server")
    command.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl", help="default: %(default)s")
    command.add_argument(
        "--out", type=Path, required=True, help="jsonl: a file, or a folder for export.jsonl; parquet: a folder"
    )
    command.add_argument("--url", help=f"the server (default: TELEMETRY_URL, else {default_url})")
    add_token_file_option(command)

    def run(arguments: argparse.Namespace) -> int:
        ways = (bool(arguments.tasks), arguments.project is not None, arguments.all)
        if sum(ways) != 1:
            command.error("say which tasks: one or more TASK_IDs, --project or --all")
        from telemetry.settings import Settings

        settings = Settings.load(url=arguments.url, token_file=arguments.token_file)
        code: int = import_extra("telemetry.export", "export").run(
            arguments.tasks,
            project=arguments.project,
            every=arguments.all,
            form=arguments.format,
            out=arguments.out,
            url=settings.url or default_url,
            settings=settings,
        )
        return code

    command.set_defaults(run=run)
