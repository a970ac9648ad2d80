"""`telemetry prune`: remove the tasks that have been kept for long enough, after a table and a question."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from telemetry.commands.token import add_token_file_option, lifetime_s
from telemetry.disk import absolute_path
from telemetry.errors import ConfigurationError
from telemetry.process.terminal import size_text
from telemetry.record import TaskKey

__all__ = ["add_prune", "size_bytes"]

DESCRIPTION = """\
Remove the tasks that have been kept for long enough, with their points, console, files and records: the one that ended
first goes first. What is to go is shown by project, and asked for, before anything is removed.

Never: tasks that run or did within the last day, drafts, and what waits in a queue. Only if asked: tasks that are
published, or have the tag "keep". Sizes are those of the frames as they came and of the files; a file that two tasks
have counts in each. The disk has its space back seconds later.

On a server that runs: the one at --url or TELEMETRY_URL, with an admin token; without either the one of the directory
on this machine, also if that is stopped. What was removed is listed in pruned.jsonl of the server's directory.

To have the server do it by itself, write [retention] into its server.toml (docs/operations.md)."""

EPILOG = """\
examples:
  telemetry prune --dry-run                                  sizes by project; nothing is removed
  telemetry prune --older-than 90d
  telemetry prune --project vision --keep-bytes 20GB --yes   for cron

Exit code 0: done, or nothing to do. 1: you said no, or the server did."""

_UNITS = {"": 1, **{f"{unit}B": 1000 ** (power + 1) for power, unit in enumerate("KMGT")}}
_UNITS |= {"B": 1, **{f"{unit}IB": 1024 ** (power + 1) for power, unit in enumerate("KMGT")}}
# Of the tasks that are to go, before "and N more".
_LISTED = 20


def size_bytes(text: str) -> int:
    """Return bytes for a text like 20GB or 1.5GiB."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([a-z]*)", text.strip().lower())
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 20GB or 500MiB")
    return int(float(match[1]) * unit)


def add_prune(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], *, import_extra: Callable[[str, str], ModuleType]
) -> None:
    """Add the sub-command. `import_extra` names the pip command for a dependency that is missing."""
    command = commands.add_parser(
        "prune",
        help="remove old tasks by age and by the size of their project",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--older-than", metavar="TIME", type=lifetime_s, help="since their end: a number with s, m, h, d or w, like 90d"
    )
    command.add_argument(
        "--keep-bytes", metavar="SIZE", type=size_bytes, help="of the project, like 20GB; what ended first goes first"
    )
    command.add_argument(
        "--project", metavar="P", help="it and all below it (default: each top-level project by itself)"
    )
    command.add_argument("--published", action="store_true", help="also tasks that are published")
    command.add_argument("--kept", action="store_true", help='also tasks with the tag "keep"')
    command.add_argument("--dry-run", action="store_true", help="remove nothing; show the table")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument("--url", help="the server (default: TELEMETRY_URL, else the one of the directory)")
    command.add_argument(
        "--directory", "--data", type=Path, help="a server's directory on this machine (default: TELEMETRY_DIR/server)"
    )
    add_token_file_option(command)

    def run(arguments: argparse.Namespace) -> int:
        if arguments.older_than is None and arguments.keep_bytes is None and not arguments.dry_run:
            command.error("say what is to be removed: --older-than, --keep-bytes or both (--dry-run shows sizes)")
        if arguments.url and arguments.directory:
            command.error("--url and --directory are two servers; say one")
        return _prune(arguments, import_extra)

    command.set_defaults(run=run)


class _Prunes(Protocol):
    """A server, or the store of one that is stopped."""

    def prune(self, *, dry_run: bool, only: list[str] | None) -> dict[str, Any]: ...

    def close(self) -> None: ...


def _prune(arguments: argparse.Namespace, import_extra: Callable[[str, str], ModuleType]) -> int:
    server = _open(arguments, import_extra)
    try:
        plan = server.prune(dry_run=True, only=None)
        _print_plan(plan)
        going = plan["tasks"]
        if arguments.dry_run or not going:
            return 0
        if not arguments.yes and not _agreed(len(going)):
            print("nothing was removed")
            return 1
        # Of these only: nobody has seen what came in between.
        removed = server.prune(dry_run=False, only=[task["id"] for task in going])["tasks"]
        size = size_text(sum(task["size_bytes"] for task in removed))
        print(f"removed: {_count(len(removed))}, {size}")
        return 0
    finally:
        server.close()


def _open(arguments: argparse.Namespace, import_extra: Callable[[str, str], ModuleType]) -> _Prunes:
    from telemetry.settings import Settings

    settings = Settings.load(url=arguments.url, token_file=arguments.token_file)
    asked = {
        "project": arguments.project,
        "older_than_s": arguments.older_than,
        "keep_bytes": arguments.keep_bytes,
        TaskKey.PUBLISHED: arguments.published,
        "kept": arguments.kept,
    }
    if settings.url and not arguments.directory:
        return _Remote(
            settings.url,
            asked,
            token=settings.token or "",
            token_file=settings.token_file,
            trust_env=settings.trust_env,
        )
    directory = absolute_path(arguments.directory or settings.state_dir / "server")
    local = import_extra("telemetry.commands.prune_local", "server")
    address = local.running_server(directory)
    if address is not None:
        return _Remote(address.url, asked, token=address.key, trust_env=False)
    stopped: _Prunes = local.StoppedServer(directory, asked)
    return stopped


class _Remote:
    """A server that runs."""

    def __init__(self, url: str, asked: dict[str, Any], **credentials: Any) -> None:
        from telemetry.client import Client

        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"{url!r} is not a server's address; give one with --url http://HOST:8008")
        self._client = Client(url, **credentials)
        self._asked = asked

    def prune(self, *, dry_run: bool, only: list[str] | None) -> dict[str, Any]:
        """Ask the server."""
        return self._client.prune(**self._asked, dry_run=dry_run, only=only)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


def _print_plan(plan: dict[str, Any]) -> None:
    rows = [("PROJECT", "TASKS", "SIZE", "TO GO", "SIZE", "STAY ALL THE SAME")]
    for item in plan["projects"]:
        spared = ", ".join(f"{count} {why}" for why, count in sorted(item["spared"].items()))
        rows.append(
            (
                item["project"] or "(none)",
                f"{item['tasks']:,}",
                size_text(item["size_bytes"]),
                f"{item['removed_tasks']:,}",
                size_text(item["removed_bytes"]),
                spared,
            )
        )
    _print_table(rows)
    if not plan["tasks"]:
        print("nothing is to go")
        return
    print()
    going = [("ENDED", "SIZE", "WHY", "ID", "NAME")]
    for task in plan["tasks"][:_LISTED]:
        ended = time.strftime("%Y-%m-%d", time.localtime(task["ended_unix_ms"] / 1000))
        going.append((ended, size_text(task["size_bytes"]), task["reason"], task["id"], task["name"]))
    _print_table(going)
    if len(plan["tasks"]) > _LISTED:
        print(f"and {len(plan['tasks']) - _LISTED:,} more")


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _agreed(count: int) -> bool:
    try:
        answer = input(f"\nremove {_count(count)} for good? [y/N] ")
    except EOFError:
        print("nobody to ask; --yes removes without a question", file=sys.stderr)
        return False
    return answer.strip().lower() in ("y", "yes")


def _count(number: int) -> str:
    return f"{number:,} task{'' if number == 1 else 's'}"
