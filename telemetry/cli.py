"""The command `telemetry`: a server, a demo, what is left to send, and the settings in force.

Exit codes: 0 done; 1 not all of it could be done; 2 a wrong command line; 78 a setting or extra that is
missing or cannot be used (EX_CONFIG of sysexits.h); 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from telemetry.commands.backup import add_backup
from telemetry.commands.compact import add_compact
from telemetry.commands.export import add_export
from telemetry.commands.prune import add_prune
from telemetry.commands.token import add_token, add_token_file_option
from telemetry.disk import absolute_path
from telemetry.errors import ConfigurationError, TelemetryError
from telemetry.process.descriptors import hold_standard_descriptors

__all__ = ["main"]

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CONFIG = 78
EXIT_INTERRUPTED = 130

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8008

_DESCRIPTION = """\
Event streaming for Python training code: scalars, console, resources and models, from the training loop to
a chart in the browser."""

_EPILOG = """\
first steps:
  telemetry demo                      see it: a server, a small model that trains, and a link
  telemetry server                    a server for your own runs, on http://127.0.0.1:8008
  TELEMETRY_URL=http://127.0.0.1:8008 python train.py

Without a server a run lies in a session folder, whose name it prints; "telemetry sync" sends such folders
to a server later. Every setting is an environment variable: "telemetry settings" lists them.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code. `argv` without the program's name; None means sys.argv."""
    hold_standard_descriptors()
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        if sys.stdout is not None:  # closed before the start (>&-): there is nobody to print for
            sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, a pager) has seen enough. Python would flush at exit and complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except ConfigurationError as error:
        return _complain(error, EXIT_CONFIG)
    except TelemetryError as error:
        return _complain(error, EXIT_FAILED)
    return code


def _complain(error: Exception, code: int) -> int:
    print(f"telemetry: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="telemetry",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_server(commands)
    _add_demo(commands)
    _add_sync(commands)
    add_token(commands)
    add_export(commands, default_url=f"http://{DEFAULT_HOST}:{DEFAULT_PORT}", import_extra=_import_extra)
    add_backup(commands, import_extra=_import_extra)
    add_compact(commands, import_extra=_import_extra)
    add_prune(commands, import_extra=_import_extra)
    _add_salvage(commands)
    command = commands.add_parser(
        "settings",
        help="print every setting, its value and where it comes from",
        description="Print every setting as its environment variable, with the value in force, what it means and where "
        "the value comes from: the environment, a file or the default. Tokens are not shown.",
    )
    command.set_defaults(run=_settings)
    what = "print the versions that matter in a bug report"
    command = commands.add_parser("version", help=what, description=f"{what.capitalize()}.")
    command.set_defaults(run=_version)
    return parser


def _add_server(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "server",
        help="serve the pages and take events, until Ctrl-C",
        description="Serve the pages and take events, until Ctrl-C. An empty directory is enough.",
    )
    command.add_argument("--host", default=DEFAULT_HOST, help="address to listen on (default: %(default)s)")
    command.add_argument("--port", type=int, default=DEFAULT_PORT, help="default: %(default)s; 0 takes a free one")
    command.add_argument("--directory", type=Path, help="where the data lie (default: TELEMETRY_DIR/server)")
    command.add_argument(
        "--max-project-points", metavar="N", type=int, help="points that each top-level project may hold (default: any)"
    )
    command.add_argument(
        "--max-project-bytes", metavar="N", type=int, help="bytes of frames that each top-level project may hold"
    )
    command.add_argument(
        "--until-eof", action="store_true", help="also end when the standard input does: for a parent process"
    )
    command.add_argument(
        "--watch",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="also show the sessions in this folder as they grow, and session zips; may be given again",
    )
    command.add_argument(
        "--no-watch", action="store_true", help="do not show the runs that this machine keeps in TELEMETRY_DIR"
    )
    command.set_defaults(run=_server)


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "demo",
        help="start a server and train a small model, to see it all work",
        description="Start a server on a directory of its own, train a small model in plain numpy, and go on "
        "serving until Ctrl-C.",
    )
    command.add_argument("--once", action="store_true", help="end with the training")
    command.add_argument(
        "--port", type=int, help=f"default: {DEFAULT_PORT}, or a free one where that is taken; 0 takes a free one"
    )
    command.add_argument("--directory", type=Path, help="where the data lie (default: TELEMETRY_DIR/demo)")
    command.add_argument("--steps", type=int, default=3000, help="training steps (default: %(default)s)")
    command.add_argument(
        "--seconds", type=float, default=25.0, help="train for at least this long (default: %(default)g)"
    )
    command.set_defaults(run=_demo)


def _add_sync(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "sync",
        help="send what runs have left on this machine to the server",
        description="Send session folders and zips to the server. Sending twice changes nothing; the source is "
        "left as it is. Exit code 1 if something could not be sent.",
    )
    command.add_argument("paths", metavar="DIR", nargs="*", type=Path, help="default: TELEMETRY_DIR")
    _add_sync_options(command)
    command = commands.add_parser(
        "import",
        help="send session folders and zips from elsewhere to the server",
        description="Send session folders and zips, wherever they come from, to the server. Each becomes the task that "
        "its run was; importing again changes nothing, and the source is left as it is. Exit code 1 if something "
        "could not be sent.",
    )
    command.add_argument(
        "paths", metavar="PATH", nargs="+", type=Path, help="a session folder or zip, or a folder of them"
    )
    command.add_argument(
        "--previous-task", metavar="ID", help="send them as the continuation of this task, which is on the server"
    )
    command.add_argument(
        "--iteration-offset", metavar="N", type=int, default=0, help="added to every iteration (default: %(default)s)"
    )
    _add_sync_options(command)


def _add_sync_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--url", help=f"the server (default: TELEMETRY_URL, else http://{DEFAULT_HOST}:{DEFAULT_PORT})"
    )
    command.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        help="seconds to keep trying a server that does not answer (default: %(default)g)",
    )
    add_token_file_option(command)
    command.set_defaults(run=_sync)


def _add_salvage(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "salvage",
        help="save what is sound in a damaged session folder, segment or zip",
        description="Copy every sound frame into new session folders, which `telemetry import` takes, and say what "
        "was skipped and where. The source is only read.",
    )
    command.add_argument(
        "source", metavar="PATH", type=Path, help="a session folder, a segment, a zip or a piece of one"
    )
    command.add_argument("--out", type=Path, default=Path("salvaged"), help="folder to write to (default: %(default)s)")
    command.set_defaults(run=_salvage)


# ---- the commands: everything is imported inside, so that `telemetry --help` is instant ------------


def _server(arguments: argparse.Namespace) -> int:
    from telemetry.settings import Settings

    app = _import_extra("telemetry.server.app", "server")
    config = _import_extra("telemetry.server.config", "server")
    state_dir = absolute_path(Settings.load().state_dir)
    directory = absolute_path(arguments.directory or state_dir / "server")
    own = () if arguments.no_watch else (state_dir / "sessions", state_dir / "spool")
    watch = (*own, *(absolute_path(path.expanduser()) for path in arguments.watch))
    places = [f"{state_dir}/{{sessions,spool}}"] if own else []
    places += [str(path) for path in watch[len(own) :]]

    def on_ready(url: str) -> None:
        # One line, at once: a parent process waits for it to learn the port.
        watching = f"watching {', '.join(places)}" if places else "watching nothing"
        print(f"telemetry server: {url}  data in {directory}  {watching}  Ctrl-C ends it", flush=True)

    if arguments.until_eof:
        _end_with_standard_input()
    limits = config.read_project_limits(directory / config.CONFIG_FILE)
    app.run_server(
        config.ServerConfig.from_environment(
            directory,
            host=arguments.host,
            port=arguments.port,
            watch=watch,
            project_limits=limits.with_default(arguments.max_project_points, arguments.max_project_bytes),
        ),
        on_ready=on_ready,
    )
    return EXIT_OK


def _end_with_standard_input() -> None:
    """Send this process a SIGTERM when its standard input ends: the parent is gone, or wants it so."""
    import os
    import signal
    import threading

    def wait() -> None:
        try:
            while os.read(0, 4096):
                continue
        except OSError:
            pass  # closed before the start (<&-): that is as much of an end
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="telemetry-eof", daemon=True).start()


def _demo(arguments: argparse.Namespace) -> int:
    import os

    from telemetry.settings import Settings

    # Read when numpy is imported. For matrices this small a second thread only gets in the way: on two busy cores
    # the training was seen to take ten times as long.
    for library in ("OPENBLAS", "MKL", "OMP"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    demo = _import_extra("telemetry.commands.demo", "server")
    directory = arguments.directory or Settings.load().state_dir / "demo"
    code: int = demo.run(
        directory=absolute_path(directory),
        port=arguments.port,
        steps=arguments.steps,
        seconds=arguments.seconds,
        once=arguments.once,
    )
    return code


def _salvage(arguments: argparse.Namespace) -> int:
    from telemetry.sessions.salvage import salvage

    found = salvage(arguments.source, arguments.out)
    for damage in found.damage:
        print(f"skipped: {damage}")
    where = "place" if len(found.damage) == 1 else "places"
    print(f"saved: {found.frames:,} frames with {found.events:,} events; {len(found.damage):,} {where} skipped")
    for folder in found.folders:
        print(f"telemetry import {folder}")
    return EXIT_OK


def _sync(arguments: argparse.Namespace) -> int:
    from telemetry.commands.sync import resolve_address, run
    from telemetry.settings import Settings

    settings = Settings.load(url=arguments.url, token_file=arguments.token_file)
    url = settings.url or f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
    # A state directory that was never made holds nothing; a path that was named must be there.
    paths = arguments.paths or [path for path in [settings.state_dir] if path.is_dir()]
    previous, offset = getattr(arguments, "previous_task", None), getattr(arguments, "iteration_offset", 0)
    new_address = resolve_address(url, settings, previous, offset) if previous or offset else None
    return run(paths, url=url, settings=settings, timeout_s=arguments.timeout, new_address=new_address)


def _import_extra(module: str, extra: str) -> ModuleType:
    """Import a module whose dependencies come with an extra.

    Raises:
        ConfigurationError: one of them is missing; the message is the command that installs it.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "telemetry":
            raise
        raise ConfigurationError(
            f"this command needs {error.name}, which is not installed: pip install 'telemetry-tasks[{extra}]'"
        ) from error


def _settings(arguments: argparse.Namespace) -> int:
    from dataclasses import fields

    from telemetry.settings import Settings

    settings = Settings.load()
    for item in fields(settings):
        if "env" not in item.metadata:
            continue
        value = getattr(settings, item.name)
        shown = "***" if item.name == "token" and value else "-" if value is None else str(value)
        origin = settings.origins.get(item.name, "default")
        print(f"{item.metadata['env']}={shown}")
        print(f"    {item.metadata['doc']} ({item.name}, from {origin})")
    return EXIT_OK


def _version(arguments: argparse.Namespace) -> int:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    print(f"telemetry-tasks {version('telemetry-tasks')}")
    print(f"python {platform.python_version()} on {platform.platform()}")
    for name in ("aiohttp", "msgpack", "orjson", "uvloop", "psutil", "numpy", "sqlalchemy", "plotly"):
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            print(f"{name} -")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
