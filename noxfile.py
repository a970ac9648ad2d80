"""The parts of the check, each by itself, in the environment that nox runs in:

.venv/bin/nox -s fast           the quick tests, in less than a minute on two cores
.venv/bin/nox -s lint types     what .ci/run does after the tests
.venv/bin/nox -s all            all tests, then lint and types
.venv/bin/nox                   fast, lint and types: before a commit
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
BIN = Path(sys.executable).parent
TYPED = ROOT / "build" / "typed"
PAGES = ROOT / ".ci" / "js"
SCRIPTS = "../../telemetry/server/web/static/js/**/*.js"
# A test may reach into a module's imports, and call two things in one lambda.
OF_TESTS = ("--implicit-reexport", "--disable-error-code", "func-returns-value")

nox.options.default_venv_backend = "none"
nox.options.sessions = ["fast", "lint", "types"]


@nox.session
def fast(session: nox.Session) -> None:
    """Run the tests that take little and need no browser; arguments go to pytest."""
    run(session, "pytest", "-m", "not slow and not browser", *session.posargs)


@nox.session(name="all")
def everything(session: nox.Session) -> None:
    """Run all tests; then lint and types."""
    run(session, "pytest", *session.posargs)
    session.notify("lint")
    session.notify("types")


@nox.session
def lint(session: nox.Session) -> None:
    """Check rules and format of Python, and the format of the pages' JavaScript; --fix mends what can be mended."""
    fix = "--fix" in session.posargs
    run(session, "ruff", "check", ".", *(["--fix"] if fix else []))
    run(session, "ruff", "format", ".", *([] if fix else ["--check"]))
    npm(session, "prettier", "--config", ".prettierrc.json", "--write" if fix else "--check", SCRIPTS)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package, strictly, of tests and benches, and of the pages' JavaScript by its JSDoc."""
    # The mapped folders (collectors/, sinks/) are packages only once installed, so types are checked there.
    for old in (TYPED, ROOT / "build" / "lib"):
        shutil.rmtree(old, ignore_errors=True)
    pip = ["-m", "pip", "install", "-q", "--no-deps", "--target", str(TYPED), "."]
    session.run(sys.executable, *pip, external=True, silent=True)
    mypy(session, [], "--strict", str(TYPED / "telemetry"))
    tests = sorted((ROOT / "tests").rglob("*.py"))
    benches = [ROOT / "bench", ROOT / "bench" / "soaks", ROOT / "bench" / "traffic"]
    folders = [*dict.fromkeys(path.parent for path in tests), *benches]
    # Of one name, each in a run of its own. What is in bench/peers/ runs in the environments of other tools.
    conftests = [path for path in tests if path.name == "conftest.py"]
    files = [
        *(path for path in tests if path not in conftests),
        *(path for folder in benches for path in sorted(folder.glob("*.py"))),
    ]
    for some in (files, *([conftest] for conftest in conftests)):
        mypy(session, folders, *OF_TESTS, *map(str, some))
    npm(session, "tsc", "--project", ".")


def run(session: nox.Session, tool: str, *arguments: str, **variables: str) -> None:
    """Run a tool of the environment that nox runs in."""
    session.run(str(BIN / tool), *arguments, env=variables, external=True)


def mypy(session: nox.Session, folders: list[Path], *arguments: str) -> None:
    path = ":".join(map(str, [TYPED, *folders]))
    run(session, "mypy", "--config-file", "pyproject.toml", *arguments, MYPYPATH=path)


def npm(session: nox.Session, tool: str, *arguments: str) -> None:
    """Run a tool for JavaScript, of the versions in the lock file; say so where there is no npm to bring it."""
    if shutil.which("npm") is None:
        session.warn(f"no npm: {tool} did not look at the pages' JavaScript")
        return
    with session.chdir(PAGES):
        installed = PAGES / "node_modules" / ".package-lock.json"
        if not installed.is_file() or installed.stat().st_mtime < (PAGES / "package-lock.json").stat().st_mtime:
            session.run("npm", "ci", "--no-audit", "--no-fund", "--silent", external=True)
        session.run("npm", "exec", "--offline", "--", tool, *arguments, external=True)
