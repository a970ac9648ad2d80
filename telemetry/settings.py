"""Every setting, once: its environment variable, default, unit and reason.

Precedence: argument > environment > project file (./telemetry.toml) > user file
($XDG_CONFIG_HOME/telemetry/config.toml) > default. TELEMETRY_CONFIG names a file to read instead of both.
`telemetry settings` prints each value with its origin.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from telemetry.disk import absolute_path
from telemetry.errors import ConfigurationError
from telemetry.process.interrupts import is_interrupt

__all__ = [
    "MODES",
    "Settings",
    "anchored_variables",
    "default_cache_dir",
    "default_state_dir",
    "first_working_folder",
    "read_token_file",
]

MODES = ("online", "offline", "disabled")

# A token of ours has 60 characters; a larger file is not a token, and must not be read into memory.
MAX_TOKEN_BYTES = 4096

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})


def _parse_bool(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("expected 1/true/yes/on or 0/false/no/off")


def _parse_mode(text: str) -> str:
    if text.strip().lower() not in MODES:
        raise ValueError(f"expected one of {', '.join(MODES)}")
    return text.strip().lower()


def _parse_when_full(text: str) -> str:
    word = text.strip().lower()
    if word not in {"block", "drop_newest", "drop_oldest"}:
        raise ValueError("expected block, drop_newest or drop_oldest")
    return word


def _parse_durability(text: str) -> str:
    word = text.strip().lower()
    if word not in {"second", "commit"}:
        raise ValueError("expected second or commit")
    return word


def _parse_positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError("expected a number above 0")
    return number


def _parse_count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("expected a whole number of at least 1")
    return number


def _parse_level(text: str) -> int:
    level = int(text)
    if not 0 <= level <= 9:
        raise ValueError("expected a zlib level from 0 to 9")
    return level


def _parse_folder(text: str) -> Path:
    # A container's environment file is read by no shell that would have expanded the "~".
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        if is_interrupt(error):
            raise
        raise ValueError(str(error)) from error


def _parse_token(text: str) -> str:
    """Return a token without surrounding white space.

    Raises:
        ValueError: it holds a control character, which no header can carry. The text does not show the token.
    """
    token = text.strip()
    if not token.isprintable():
        raise ValueError("a token cannot hold line ends or other control characters")
    return token


def _parse_url(text: str) -> str | None:
    # A scheme means the same in either case, and whoever compares addresses compares text.
    scheme, colon, rest = text.strip().rstrip("/").partition(":")
    return f"{scheme.lower()}{colon}{rest}" if rest.startswith("//") else scheme + colon + rest or None


# The working folder as this process read its settings for the first time.
_first_folder: Path | None = None


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        if is_interrupt(error):
            raise
        return Path()  # deleted: a job whose working folder is gone still runs, and so do we


def first_working_folder() -> Path:
    """Return the folder that relative paths in settings start from, the same in each read of this process.

    Hydra and Ray Tune change the working folder under a program that runs; its spool must not move with it. Where the
    working folder has been deleted there is none to remember, and a relative path stays what it is.
    """
    global _first_folder
    if _first_folder is None:
        found = _working_folder()
        if not found.is_absolute():
            return found
        _first_folder = found
    return _first_folder


def _anchored(value: Any, folder: Path) -> Any:
    """Return a path, or a `zip:` address, as it reads in any working folder; any other value as it is."""
    if isinstance(value, Path):
        return folder / value
    if isinstance(value, str) and value.startswith("zip:") and (target := value[4:].removeprefix("//")):
        path, mark, query = target.partition("?")
        return f"zip:{folder / Path(path).expanduser()}{mark}{query}" if path else value
    return value


def read_token_file(path: Path) -> str:
    """Return the token in a file, without the line end that editors add.

    Raises:
        ConfigurationError: it cannot be read, or holds nothing that can be a token.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOKEN_BYTES + 1)
        if len(data) > MAX_TOKEN_BYTES:
            raise ValueError(f"it is larger than {MAX_TOKEN_BYTES} bytes")
        token = _parse_token(data.decode("utf-8"))
    except UnicodeDecodeError:
        # Not chained: the error holds the bytes, which may be a secret.
        raise ConfigurationError(f"the token file {path} (TELEMETRY_TOKEN_FILE) is not UTF-8") from None
    except (OSError, ValueError) as error:
        if is_interrupt(error):
            raise
        raise ConfigurationError(f"the token file {path} (TELEMETRY_TOKEN_FILE) cannot be used: {error}") from error
    if not token:
        raise ConfigurationError(f"the token file {path} (TELEMETRY_TOKEN_FILE) is empty")
    return token


def default_state_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return where session folders, spools and the server's store lie by default.

    $XDG_STATE_HOME/telemetry, else ~/.local/state/telemetry; without a home, a folder of this user's
    under the temporary directory, so that a job with no home still keeps its data.
    """
    env = os.environ if environ is None else environ
    if env.get("XDG_STATE_HOME"):
        return first_working_folder() / env["XDG_STATE_HOME"] / "telemetry"
    home = env.get("HOME") or env.get("USERPROFILE")
    if home and home != "/" and os.access(home, os.W_OK):
        return first_working_folder() / home / ".local" / "state" / "telemetry"
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return first_working_folder() / tempfile.gettempdir() / f"telemetry-{user}"


def default_cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return where copies of what was downloaded lie: $XDG_CACHE_HOME/telemetry, else ~/.cache/telemetry, else with the
    state."""
    env = os.environ if environ is None else environ
    if env.get("XDG_CACHE_HOME"):
        return first_working_folder() / env["XDG_CACHE_HOME"] / "telemetry"
    home = env.get("HOME") or env.get("USERPROFILE")
    if home and home != "/" and os.access(home, os.W_OK):
        return first_working_folder() / home / ".cache" / "telemetry"
    return default_state_dir(env) / "cache"


def _setting(env: str, parse: Callable[[str], Any], default: Any, doc: str, *, secret: bool = False) -> Any:
    metadata = {"env": env, "parse": parse, "doc": doc}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Immutable; made by `Settings.load()` (reads the environment and files) or directly in tests."""

    url: str | None = _setting(
        "TELEMETRY_URL", _parse_url, None, "where events go: the server's address, or any sink's URL"
    )
    token: str | None = _setting("TELEMETRY_TOKEN", _parse_token, None, "the server's token", secret=True)
    # A file is better than the environment, which child processes inherit; and it can be rotated under a running job.
    token_file: Path | None = _setting(
        "TELEMETRY_TOKEN_FILE", _parse_folder, None, "a file with the token; read again when the server refuses it"
    )
    mode: str = _setting(
        "TELEMETRY_MODE", _parse_mode, "online", "online, offline (session folder and zip) or disabled"
    )
    state_dir: Path = _setting(
        "TELEMETRY_DIR", _parse_folder, default_state_dir, "folder of session folders, spools and the server's store"
    )
    # What a team sets once for all of its programs.
    default_output_uri: str | None = _setting(
        "TELEMETRY_DEFAULT_OUTPUT_URI",
        _parse_url,
        None,
        "where models are uploaded to if Task.init does not say: true for the server, or an address",
    )
    # Half a second: a point is on an open page well within the 2 s that feel live.
    flush_interval_s: float = _setting(
        "TELEMETRY_FLUSH_INTERVAL", _parse_positive, 0.5, "seconds between two batches when little happens"
    )
    # One second is the promise: what is older survives a killed machine.
    fsync_interval_s: float = _setting(
        "TELEMETRY_FSYNC_INTERVAL", _parse_positive, 1.0, "seconds between two fsyncs of the journal"
    )
    # A power cut, not a kill, is what this is about: a killed process loses nothing that was written.
    durability: str = _setting(
        "TELEMETRY_DURABILITY",
        _parse_durability,
        "second",
        "second (an fsync each interval) or commit (each batch is on disk before a flush returns)",
    )
    # Two days of a full-rate loop's events; a scratch disk has as much to spare.
    max_journal_bytes: int = _setting(
        "TELEMETRY_MAX_JOURNAL_BYTES",
        _parse_count,
        2 * 1024**3,
        "what one task's journal may take while its sink is down",
    )
    # About 0.1 s of a loop that does nothing but log, and about 25 MB.
    max_queue_events: int = _setting(
        "TELEMETRY_MAX_QUEUE_EVENTS", _parse_count, 196_608, "the event queue's bound in events"
    )
    max_queue_bytes: int = _setting(
        "TELEMETRY_MAX_QUEUE_BYTES", _parse_count, 64 * 1024 * 1024, "the event queue's bound in bytes"
    )
    when_full: str = _setting("TELEMETRY_WHEN_FULL", _parse_when_full, "block", "block, drop_newest or drop_oldest")
    # A training step may wait this long once; then it is better to lose points than the GPU's time.
    block_timeout_s: float = _setting(
        "TELEMETRY_BLOCK_TIMEOUT", _parse_positive, 1.0, "seconds that `block` waits before it drops"
    )
    # 32,768 rows: each C call of the batcher holds the GIL for about 2 ms.
    frame_scalars: int = _setting("TELEMETRY_FRAME_SCALARS", _parse_count, 32_768, "scalars in one frame at most")
    compression_level: int = _setting("TELEMETRY_COMPRESSION", _parse_level, 1, "zlib level of frames, 0 (off) to 9")
    # The server calls a task lost after five of them: one lost packet must not do it.
    heartbeat_interval_s: float = _setting(
        "TELEMETRY_HEARTBEAT_INTERVAL", _parse_positive, 15.0, "seconds of silence before a sign of life is sent"
    )
    lane_memory_bytes: int = _setting(
        "TELEMETRY_LANE_BYTES", _parse_count, 8 * 1024 * 1024, "encoded frames kept in memory for each sink"
    )
    segment_bytes: int = _setting(
        "TELEMETRY_SEGMENT_BYTES", _parse_count, 64 * 1024 * 1024, "a journal segment's size before the next"
    )
    max_zip_bytes: int | None = _setting(
        "TELEMETRY_MAX_ZIP_BYTES", _parse_count, None, "a zip's size, after which a run that goes on starts the next"
    )
    request_timeout_s: float = _setting(
        "TELEMETRY_REQUEST_TIMEOUT", _parse_positive, 30.0, "seconds that one request to the server may take"
    )
    # Loopback goes direct either way.
    trust_env: bool = _setting(
        "TELEMETRY_TRUST_ENV", _parse_bool, True, "reach servers through the proxy that HTTP_PROXY and its like name"
    )
    close_timeout_s: float = _setting(
        "TELEMETRY_CLOSE_TIMEOUT", _parse_positive, 10.0, "seconds that close and exit may wait for sinks"
    )
    resource_interval_s: float = _setting(
        "TELEMETRY_RESOURCE_INTERVAL", _parse_positive, 1.0, "seconds between two resource samples"
    )
    # The page's day: what somebody ran yesterday evening is not what they try out this morning.
    task_reuse_hours: float = _setting(
        "TELEMETRY_TASK_REUSE_HOURS", _parse_positive, 24.0, "hours in which a run may overwrite the one before it"
    )
    task_no_reuse: bool = _setting(
        "TELEMETRY_TASK_NO_REUSE", _parse_bool, False, "every run is a new task, whatever Task.init says"
    )
    quiet: bool = _setting("TELEMETRY_QUIET", _parse_bool, False, "print no line at start and end")
    strict: bool = _setting(
        "TELEMETRY_STRICT", _parse_bool, False, "raise at the first dropped or invalid event (for tests)"
    )
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(cls, *, environ: Mapping[str, str] | None = None, cwd: Path | None = None, **arguments: Any) -> Settings:
        """Return the settings in force; an argument that is None counts as not given.

        Paths are absolute from here on: those of the environment and of files start from `cwd`, by default the working
        folder of this process's first read, and those of arguments from the working folder of now.

        Raises:
            ConfigurationError: a value that cannot be used, with its origin; an unknown name in a file.
        """
        env = os.environ if environ is None else environ
        folder = first_working_folder() if cwd is None else cwd
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}

        def take(name: str, text: str, where: str, origin: str) -> None:
            # The token and the file with the token are two ways to say one thing: the stronger source says it.
            if name in _TOKEN_FIELDS:
                for other in _TOKEN_FIELDS:
                    values.pop(other, None)
                    origins.pop(other, None)
            values[name] = _parse(name, text, where)
            if origin != "argument":
                values[name] = _anchored(values[name], folder)
            elif isinstance(values[name], Path):
                values[name] = _anchored(values[name], _working_folder())
            origins[name] = origin

        for origin, source in (*_file_values(env, folder), ("environment", _env_values(env))):
            for name, (text, where) in _token_last(source):
                take(name, text, where, where if origin == "environment" else f"{where} in {origin}")
        for name, value in _token_last(arguments):
            if value is not None:
                if name not in _FIELDS:
                    raise ConfigurationError(f"there is no setting {name!r}")
                # Arguments come typed, but by the same rules as text: a negative time-out is wrong in both.
                take(name, str(value), "argument", "argument")
        if values.get("token_file") is not None:
            values["token"] = read_token_file(values["token_file"])
            origins["token"] = f"{values['token_file']}, {origins['token_file']}"
        return cls(**values, origins=origins)


_TOKEN_FIELDS = ("token_file", "token")
_PATH_VARIABLES = ("TELEMETRY_DIR", "TELEMETRY_TOKEN_FILE", "TELEMETRY_CONFIG")
_FIELDS = {item.name: item for item in fields(Settings) if "env" in item.metadata}


def _parse(name: str, text: str, where: str) -> Any:
    try:
        return _FIELDS[name].metadata["parse"](text)
    except ValueError as error:
        if is_interrupt(error):
            raise
        shown = "***" if name == "token" else repr(text)
        raise ConfigurationError(f"{name} = {shown} (from {where}) cannot be used: {error}") from error


def _token_last(source: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the items of a source, the token at the end: from the same source it wins over the file's name."""
    return sorted(source.items(), key=lambda item: item[0] == "token")


def _env_values(env: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    found = {
        name: (env[variable], variable)
        for name, item in _FIELDS.items()
        if env.get(variable := item.metadata["env"], "") != ""
    }
    offline = env.get("TELEMETRY_OFFLINE_MODE", "")
    if "mode" not in found and offline:
        try:
            if _parse_bool(offline):
                found["mode"] = ("offline", "TELEMETRY_OFFLINE_MODE")
        except ValueError as error:
            if is_interrupt(error):
                raise
            raise ConfigurationError(f"TELEMETRY_OFFLINE_MODE={offline!r} cannot be used: {error}") from error
    return found


def _file_values(env: Mapping[str, str], folder: Path) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """Return (path, values) of the files there are, the strongest last."""
    if env.get("TELEMETRY_CONFIG"):
        paths = [folder / env["TELEMETRY_CONFIG"]]
        if not paths[0].is_file():
            raise ConfigurationError(f"TELEMETRY_CONFIG={paths[0]} is not a file")
    else:
        config_home = env.get("XDG_CONFIG_HOME") or (f"{env['HOME']}/.config" if env.get("HOME") else None)
        user = [folder / config_home / "telemetry" / "config.toml"] if config_home else []
        paths = [path for path in (*user, folder / "telemetry.toml") if path.is_file()]
    return [(str(absolute_path(path)), _read_file(path)) for path in paths]


def anchored_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that hold a relative path, with the absolute path that this process reads them as.

    A child process may be started in another working folder, and is to find the same files.
    """
    folder = first_working_folder()
    found = {name: environ[name] for name in _PATH_VARIABLES if environ.get(name)}
    if environ.get("TELEMETRY_URL", "").startswith("zip:"):
        found["TELEMETRY_URL"] = environ["TELEMETRY_URL"]
    absolute = {
        name: str(_anchored(text if name == "TELEMETRY_URL" else Path(text), folder)) for name, text in found.items()
    }
    return {name: text for name, text in absolute.items() if text != found[name] and not found[name].startswith("~")}


def _read_file(path: Path) -> dict[str, tuple[str, str]]:
    import tomllib  # only where there is a file: keeps the import of the package short

    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if is_interrupt(error):
            raise
        raise ConfigurationError(f"the settings file {path} cannot be read: {error}") from error
    unknown = sorted(set(document) - set(_FIELDS))
    if unknown:
        raise ConfigurationError(f"{path}: there is no setting {', '.join(unknown)}; see `telemetry settings`")
    return {name: (str(value), name) for name, value in document.items()}
