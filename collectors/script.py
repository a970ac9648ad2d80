"""What program a task runs: its repository, commit and uncommitted changes, its packages, the script itself.

All of it is found on a daemon thread, after Task.init has returned. Git is asked where it is installed and programs may
be started; offline, where none may, branch, commit and remote are read from the repository's own files, and the changes
are left out with a note. Nothing here imports what the program imports: packages are those whose names its own files
import, with the versions that are installed.
"""

from __future__ import annotations

import ast
import configparser
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from telemetry.clock import unix_ns
from telemetry.events import RecordChange, clean_text
from telemetry.process.threads import start_daemon, taking_signals
from telemetry.protocols import Emit
from telemetry.record import Section

__all__ = ["ScriptCollector", "find_repository", "imported_packages"]

_log = logging.getLogger(__name__)


# A diff is read by people; a generated file of megabytes is not, and every task would carry it.
MAX_TEXT_BYTES = 512 * 1024

# A repository on a slow file system must not keep a thread, and a child process, for ever.
GIT_TIMEOUT_S = 10.0

# At the end of a short program; what is not known by then is left out.
STOP_WAIT_S = 0.5

# Of the program's own files; a repository with more is not read to its end.
MAX_FILES = 300


class ScriptCollector:
    """Records section "script" of the task, once.

    Args:
        repository: look for a Git repository around the script; without one the script's own text is kept.
        programs: git may be started.
        mask: hides what looks like a secret in a text.
        main: the program's file; by default that of the main module.
    """

    name = "script"

    def __init__(
        self,
        *,
        repository: bool = True,
        programs: bool = True,
        mask: Callable[[str], str] = str,
        main: Path | None = None,
    ) -> None:
        self._repository = repository
        self._programs = programs
        self._mask = mask
        self._main = main
        self._emit: Emit | None = None
        self._write: Callable[[Mapping[str, Mapping[str, Any]]], None] | None = None
        self._thread: threading.Thread | None = None

    def write_to(self, write: Callable[[Mapping[str, Mapping[str, Any]]], None]) -> None:
        """Write through this instead of the queue, so that the task can read it back."""
        self._write = write

    def start(self, emit: Emit) -> None:
        """Begin to look; returns at once."""
        self._emit = emit
        self._thread = start_daemon(self._run, "telemetry-script")

    def stop(self) -> None:
        """Wait a now_unix_ns for what is still being found."""
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(STOP_WAIT_S)
        self._emit = None

    def reset_after_fork(self) -> None:
        """In a forked child: the parent tells what its program is."""
        self._emit = self._thread = None

    def _run(self) -> None:
        try:
            found = self.find()
        except Exception as error:  # noqa: BLE001 - the top of a thread that reads whatever lies around the script
            _log.warning("what program this is could not be found out: %s: %s", type(error).__name__, error)
            _log.debug("how that came", exc_info=error)
            return
        emit = self._emit
        if emit is None:
            return
        if self._write is not None:
            self._write({Section.SCRIPT: found})
            return
        now_unix_ns = unix_ns()
        for key, value in found.items():
            emit(RecordChange(now_unix_ns, Section.SCRIPT, key, value))

    def find(self) -> dict[str, Any]:
        """Return what is known of the program: key -> text. Blocks, on files and on git."""
        script = self._main or _main_file()
        found: dict[str, Any] = {"binary": sys.executable, "python": sys.version.split()[0]}
        if script is None:
            return found
        folder = _working_folder()
        root = find_repository(script.parent) if self._repository else None
        found |= {
            "entry_point": _relative(script, root or folder),
            "working_dir": "" if folder is None else _relative(folder, root) if root is not None else str(folder),
            "requirements": "\n".join(imported_packages(script, root or script.parent)),
        }
        if root is not None:
            found |= self._of_repository(root)
        if "diff" not in found and (root is None or not found.get("commit")):
            found["diff"] = self._shown(_read_text(script))
        return {key: clean_text(value) for key, value in found.items()}

    def _of_repository(self, root: Path) -> dict[str, str]:
        found = _read_repository(root)
        if "repository" in found:
            found["repository"] = self._mask(found["repository"])
        if not self._programs:
            return {**found, "diff_note": "uncommitted changes are not recorded offline: git is not started"}
        commit = _git(root, "rev-parse", "HEAD")
        if commit is None:
            return {**found, "diff_note": "uncommitted changes are not recorded: git could not be asked"}
        found["commit"] = commit.strip()
        diff = _git(root, "diff", "--no-color", "--no-ext-diff", "HEAD")
        if diff is not None:
            found["diff"] = self._shown(diff)
        return found

    def _shown(self, text: str) -> str:
        masked = "\n".join(self._mask(line) for line in text.splitlines())
        data = masked.encode("utf-8", "backslashreplace")
        if len(data) <= MAX_TEXT_BYTES:
            return masked
        kept = data[:MAX_TEXT_BYTES].decode("utf-8", "ignore")
        return f"{kept}\n[… {len(data) - MAX_TEXT_BYTES:,} more bytes are left out …]"


def find_repository(folder: Path) -> Path | None:
    """Return the root of the Git repository around a folder; None where there is none."""
    for candidate in (folder, *folder.parents):
        if (candidate / ".git").exists():
            return candidate
    return None


def imported_packages(script: Path, root: Path) -> list[str]:
    """Return "name == version" of each installed package that the script or a file of its own imports, by name."""
    from importlib.metadata import packages_distributions, version

    modules = {module.partition(".")[0] for module in _imports(script, root)} - set(sys.stdlib_module_names)
    if not modules:
        return []
    distributions = packages_distributions()
    names = {name for module in modules for name in distributions.get(module, ())}
    return [f"{name} == {version(name)}" for name in sorted(names, key=str.lower)]


def _imports(script: Path, root: Path) -> set[str]:
    """Return the dotted names that a program's own files import, beginning with its script."""
    names: set[str] = set()
    waiting, seen = [script], set[Path]()
    while waiting and len(seen) < MAX_FILES:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in _imports_of(path):
            own = [file for folder in (path.parent, root) for file in _files_of(folder, name)]
            if own:
                waiting += own
            else:
                names.add(name)
    return names


def _imports_of(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return  # not Python, or not there: what it would have imported is not known
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # What is imported from a package may be a module of it.
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield from _sibling_names(node)


def _sibling_names(node: ast.ImportFrom) -> list[str]:
    # "from . import a, b" and "from .a import b": files of the program's own, found beside it.
    return [node.module] if node.module else [alias.name for alias in node.names]


def _files_of(folder: Path, name: str) -> list[Path]:
    base = folder.joinpath(*name.split("."))
    return [path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()]


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        return None  # it was deleted under the program, which runs on all the same


def _main_file() -> Path | None:
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    try:
        return Path(file).absolute() if file else None
    except OSError:
        return None  # a relative name, in a working folder that was deleted


def _relative(path: Path, root: Path | None) -> str:
    if root is None:
        return str(path)
    try:
        return path.absolute().relative_to(root.absolute()).as_posix()
    except ValueError:
        return str(path)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_TEXT_BYTES + 1).decode("utf-8", "replace")
    except OSError:
        return ""


def _read_repository(root: Path) -> dict[str, str]:
    """Return remote, branch and commit as the repository's own files tell them, without starting anything."""
    folder = _git_folder(root)
    found: dict[str, str] = {}
    head = _read_text(folder / "HEAD").strip()
    common = _common_folder(folder)
    if head.startswith("ref: "):
        reference = head.removeprefix("ref: ")
        found["branch"] = reference.removeprefix("refs/heads/")
        found["commit"] = _commit_of(reference, folder, common)
    else:
        found["commit"] = head
    found["repository"] = _remote_of(common)
    return {key: value for key, value in found.items() if value}


def _git_folder(root: Path) -> Path:
    marker = root / ".git"
    if marker.is_dir():
        return marker
    # A worktree or submodule: a file that says where its folder is.
    return (root / _read_text(marker).partition("gitdir: ")[2].strip()).resolve()


def _common_folder(folder: Path) -> Path:
    named = _read_text(folder / "commondir").strip()
    return (folder / named).resolve() if named else folder


def _commit_of(reference: str, folder: Path, common: Path) -> str:
    for place in (folder, common):
        text = _read_text(place / reference).strip()
        if text:
            return text
    for line in _read_text(common / "packed-refs").splitlines():
        commit, _, name = line.partition(" ")
        if name == reference:
            return commit
    return ""


def _remote_of(common: Path) -> str:
    config = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        config.read_string(_read_text(common / "config"))
    except configparser.Error:
        return ""  # git's own format knows more than configparser does: the remote stays unknown
    remotes = {name: config[name].get("url", "") for name in config.sections() if name.startswith('remote "')}
    return remotes.get('remote "origin"') or next(iter(remotes.values()), "")


def _git(root: Path, *arguments: str) -> str | None:
    """Return what git says; None where it is not installed, fails or takes too long."""
    environ = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        with taking_signals():
            done = subprocess.run(
                ["git", "-C", str(root), *arguments],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=GIT_TIMEOUT_S,
                env=environ,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
