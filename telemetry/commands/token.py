"""`telemetry token`: make, list and revoke the tokens of a server's directory, also while the server runs.

The new token is the only thing on standard output, so that it goes into a file without being seen:
`telemetry token create --scope ingest > token.txt`.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

__all__ = ["add_token", "add_token_file_option", "lifetime_s"]

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
# A hundred years: beyond it is a typing error, and the sum with now may not fit a file's dates.
_MAX_LIFETIME_S = 36_500 * 86_400


def add_token(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `token create`, `token list` and `token revoke`."""
    command = commands.add_parser(
        "token",
        help="make, list and revoke a server's tokens",
        description="Make, list and revoke the tokens of the server in a directory of this machine. A running server "
        "notices within two seconds. Once a token was made, every request to that server needs one.",
    )
    actions = command.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a token and print it, once")
    create.add_argument(
        "--scope",
        action="append",
        required=True,
        choices=("ingest", "read", "admin"),
        help="ingest: send events; read: pages and read API; admin: everything; may be given again",
    )
    create.add_argument(
        "--project", action="append", metavar="P", help="only this project and what is below it; may be given again"
    )
    create.add_argument("--name", default="", help="what it is for, as the list shows it")
    create.add_argument(
        "--expires", metavar="TIME", type=lifetime_s, help="a number with s, m, h, d or w, like 90d (default: never)"
    )
    create.set_defaults(run=_create)
    listing = actions.add_parser("list", help="list all tokens; the secrets are kept nowhere")
    listing.set_defaults(run=_list)
    revoke = actions.add_parser("revoke", help="end a token")
    revoke.add_argument("id", help="the 12 digits after tlm_, as the list shows them; never the whole token")
    revoke.set_defaults(run=_revoke)
    for action in (create, listing, revoke):
        action.add_argument("--directory", type=Path, help="the server's directory (default: TELEMETRY_DIR/server)")


def add_token_file_option(command: argparse.ArgumentParser) -> None:
    """Add --token-file. There is no --token: a command line can be read by everyone on the machine."""
    command.add_argument(
        "--token-file",
        metavar="PATH",
        type=Path,
        help="file with the server's token (default: TELEMETRY_TOKEN_FILE or TELEMETRY_TOKEN)",
    )


def lifetime_s(text: str) -> int:
    """Return seconds for a text like 90d."""
    match = re.fullmatch(r"([0-9]{1,10})([smhdw])", text.strip().lower())
    lifetime_s = int(match[1]) * _UNITS_S[match[2]] if match else 0
    if not 0 < lifetime_s <= _MAX_LIFETIME_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 12h or 90d")
    return lifetime_s


def _directory(arguments: argparse.Namespace) -> Path:
    from telemetry.disk import absolute_path
    from telemetry.settings import Settings

    directory: Path = arguments.directory or Settings.load().state_dir / "server"
    return absolute_path(directory)


def _create(arguments: argparse.Namespace) -> int:
    from telemetry.server.tokens import Scope, TokenFile

    file = TokenFile(_directory(arguments))
    token, text = file.create(
        [Scope(scope) for scope in arguments.scope],
        projects=arguments.project,
        name=arguments.name,
        lifetime_s=arguments.expires,
    )
    print(text, flush=True)
    print(
        f"token {token.id} of {file.path.parent}; it is shown this once. Programs take it from "
        "TELEMETRY_TOKEN_FILE, a browser as the password.",
        file=sys.stderr,
    )
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from telemetry.server.tokens import TokenFile

    now_unix_s = time.time()
    rows = [("ID", "STATE", "SCOPES", "PROJECTS", "CREATED", "EXPIRES", "NAME")]
    for token in TokenFile(_directory(arguments)).tokens():
        rows.append(
            (
                token.id,
                token.state(now_unix_s),
                ",".join(sorted(token.scopes)),
                "all" if token.projects is None else ",".join(token.projects),
                _day(token.created_unix_s),
                "never" if token.expires_unix_s is None else _day(token.expires_unix_s),
                token.name,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    from telemetry.errors import ConfigurationError
    from telemetry.server.tokens import TOKEN_PATTERN, TokenFile

    if TOKEN_PATTERN.fullmatch(arguments.id):
        raise ConfigurationError(
            "that is a whole token, and now in this shell's history; give the 12 digits after tlm_ alone"
        )
    token = TokenFile(_directory(arguments)).revoke(arguments.id)
    print(f"token {token.id} is revoked; a running server refuses it within two seconds", file=sys.stderr)
    return 0


def _day(unix_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s))
