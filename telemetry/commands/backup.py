"""`telemetry backup`: a copy of a server's data in a folder that a server can be started on; and the check of one.

A server that runs makes it itself, over the connection that writes (telemetry/server/store/backup.py says why); of one
that is stopped it is made here.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from telemetry.disk import absolute_path
from telemetry.errors import ConfigurationError, TelemetryError
from telemetry.process.terminal import ProgressLine, size_text

if TYPE_CHECKING:
    import http.client

    from telemetry.server.upkeep.address import LocalServer

__all__ = ["add_backup"]

DESCRIPTION = """\
Copy all that a server has into the folder DIR: the database as it is at the end of the copying, the files that it
names (artifacts, models, media), tokens.json and server.toml. The server may run, and takes events meanwhile.

DIR must be empty, or have an earlier backup of the same server: then only files that it lacks are copied, and until
the new backup is whole the earlier one stays. On the same file system files are hard links. Put DIR on another disk
for what a lost disk would take.

To restore, start a server on it: telemetry server --directory DIR. From then on it is that server's data, and no
backup any more; copy it first (cp -a DIR NEW) to keep it. Programs that run send what came after the backup again, as
far as they still have it, and say what is lost.

Not in it: files that are still arriving, and the token in TELEMETRY_SERVER_TOKEN."""

EPILOG = """\
examples:
  telemetry backup /mnt/backup/telemetry                     every night, from cron
  telemetry backup /mnt/backup/telemetry --verify            is it sound? (structure, and every file's size)
  telemetry backup /mnt/backup/telemetry --verify --sha256   the same, and every byte read

Exit code 0: the backup is whole, or sound. 1: it could not be made, or is not sound. 78: DIR or the server's directory
cannot be used."""


def add_backup(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], *, import_extra: Callable[[str, str], ModuleType]
) -> None:
    """Add the sub-command. `import_extra` names the pip command for a dependency that is missing."""
    command = commands.add_parser(
        "backup",
        help="copy a server's data, while it runs, into a folder to restore from",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("folder", metavar="DIR", type=Path, help="where the backup is, or is to be")
    command.add_argument(
        "--directory", "--data", type=Path, help="the server's directory (default: TELEMETRY_DIR/server)"
    )
    command.add_argument("--verify", action="store_true", help="make none; check the one in DIR")
    command.add_argument("--sha256", action="store_true", help="with --verify: read and compare every byte, too")

    def run(arguments: argparse.Namespace) -> int:
        from telemetry.settings import Settings

        if arguments.sha256 and not arguments.verify:
            command.error("--sha256 goes with --verify")
        store = import_extra("telemetry.server.store", "server")
        folder = absolute_path(arguments.folder.expanduser())
        if arguments.verify:
            return _verify(store, folder, digests=arguments.sha256)
        directory = absolute_path(arguments.directory or Settings.load().state_dir / "server")
        return _back_up(store, directory, folder)

    command.set_defaults(run=run)


class _Bars:
    """A bar for the database, and one for the files."""

    def __init__(self) -> None:
        self._what = ""
        self._line: ProgressLine | None = None

    def show(self, what: str, done_bytes: int, total_bytes: int) -> None:
        if what != self._what and total_bytes:
            self.close()
            self._what, self._line = what, ProgressLine(total_bytes, sys.stderr)
        if self._line is not None:
            self._line.show(done_bytes, f"{size_text(done_bytes)} of {size_text(total_bytes)}  {what}")

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line = None


def _back_up(store: ModuleType, directory: Path, folder: Path) -> int:
    from telemetry.server.store.database import DATABASE_NAME
    from telemetry.server.upkeep.address import find_server

    if not (directory / DATABASE_NAME).is_file():
        raise ConfigurationError(
            f"there is no server's data in {directory}: no {DATABASE_NAME}. --directory or TELEMETRY_DIR names another"
        )
    server = find_server(directory)
    begin_s = time.monotonic()
    progress = _Bars()
    made: dict[str, Any] | None = None
    try:
        if server is not None:
            made = _ask(server, directory, folder, progress)
        if made is None:
            print(f"backing up {directory}, whose server does not run, to {folder}", file=sys.stderr)
            from dataclasses import asdict

            made = asdict(store.back_up_stopped(directory, folder, progress.show))
    finally:
        progress.close()
    _print_made(made, folder, time.monotonic() - begin_s)
    return 1 if made["missing"] else 0


def _ask(server: LocalServer, directory: Path, folder: Path, progress: _Bars) -> dict[str, Any] | None:
    """Have a running server make the backup; None if it does not run any more.

    Raises:
        ConfigurationError: the folder cannot take it. TelemetryError: it could not be made.
    """
    import http.client

    address = urlsplit(server.url)
    assert address.hostname is not None
    # Long: where the first step waits for a slow commit. There is no proxy on the way to this machine.
    with closing(http.client.HTTPConnection(address.hostname, address.port, timeout=120)) as connection:
        try:
            connection.request(
                "POST",
                "/api/v1/backup",
                json.dumps({"folder": str(folder)}),
                {"Content-Type": "application/json", "Authorization": f"Bearer {server.key}"},
            )
            response = connection.getresponse()
        except ConnectionRefusedError:
            # It was killed, and could not say that it ended.
            return None
        except (OSError, http.client.HTTPException) as error:
            raise TelemetryError(
                f"the server of {directory} does not answer at {server.url}: {error}. Nothing was changed"
            ) from error
        if response.status in (401, 403, 404):
            # Another one has its port by now.
            return None
        if response.status != 200:
            raise TelemetryError(
                f"{server.url} answered {response.status}: {response.read(500).decode(errors='replace')}"
            )
        print(f"backing up {directory}, whose server runs and goes on, to {folder}", file=sys.stderr)
        return _follow(_lines(response, server), progress)


def _lines(response: http.client.HTTPResponse, server: LocalServer) -> Iterator[dict[str, Any]]:
    import http.client

    try:
        while line := response.readline():
            yield json.loads(line)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise TelemetryError(f"{server.url} went away while it made the backup: {error}. It is not whole") from error
    raise TelemetryError(f"{server.url} went away while it made the backup. It is not whole")


def _follow(lines: Iterator[dict[str, Any]], progress: _Bars) -> dict[str, Any]:
    while True:
        line = next(lines)
        if "made" in line:
            made: dict[str, Any] = line["made"]
            return made
        if "error" in line:
            raise (ConfigurationError if line.get("wrong_folder") else TelemetryError)(line["error"])
        progress.show(line["what"], line["done_bytes"], line["total_bytes"])


def _print_made(made: dict[str, Any], folder: Path, took_s: float) -> None:
    backup = made["backup"]
    taken = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(backup["unix_s"]))
    print(
        f"{folder} is a whole backup of {taken}, made in {took_s:.1f} s:\n"
        f"  database  {size_text(backup['database_bytes'])}, {backup['tasks']:,} tasks, {backup['running_tasks']:,} of "
        f"them running\n"
        f"  files     {backup['blobs']:,}, {size_text(backup['blob_bytes'])}; {made['new_blobs']:,} of them new, "
        f"{size_text(made['new_blob_bytes'])}\n"
        f"to restore it: telemetry server --directory {folder}"
    )
    for sha256 in made["missing"]:
        print(f"missing: blob {sha256}: the server itself has lost it", file=sys.stderr)


def _verify(store: ModuleType, folder: Path, *, digests: bool) -> int:
    progress = _Bars()
    try:
        faults = store.check_backup(folder, digests=digests, on_progress=progress.show)
    finally:
        progress.close()
    for fault in faults:
        print(f"failed: {folder}: {fault}", file=sys.stderr)
    if not faults:
        print(f"{folder} is a sound backup" + (", every byte of it" if digests else ""))
    return 1 if faults else 0
