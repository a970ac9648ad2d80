"""CONTRIBUTING.md and what it leans on: its recipe runs, its commands exist, its lists are those of now."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    ROOT / "docs" / "architecture.md",
    ROOT / "docs" / "api.md",
    *sorted((ROOT / "docs" / "decisions").glob("*.md")),
]


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


def load(name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Import a file under a name that it would have after an installation."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_to_a_file(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).is_file(), link


def test_the_sink_of_the_recipe_passes_the_test_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given the two files of the recipe, as they stand there
    sink, test = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "lines.py").write_text(sink, encoding="utf-8")
    (tmp_path / "test_sink_lines.py").write_text(test, encoding="utf-8")
    # when
    load("telemetry.sinks.lines", tmp_path / "lines.py", monkeypatch)
    tests = load("test_sink_lines", tmp_path / "test_sink_lines.py", monkeypatch)
    # then
    (run,) = [getattr(tests, name) for name in dir(tests) if name.startswith("test_")]
    run(tmp_path)


def test_each_part_of_the_check_that_is_named_is_there() -> None:
    parts = functions_of(ROOT / "noxfile.py") | {"all"}
    check = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in re.findall(r"\.venv/bin/nox -s ([a-z ]+)", GUIDE + check):
        assert set(command.split()) <= parts, command


def test_each_test_that_is_named_is_there() -> None:
    for file, function in re.findall(r"pytest tests/(test_\w+\.py)(?:::(\w+))?", GUIDE):
        if file != "test_sink_lines.py":  # which the recipe makes
            assert not function or function in functions_of(TESTS / file)


def test_what_the_fast_part_leaves_out_is_there() -> None:
    """Of a test that was renamed the list says nothing: rename it there, or run tests/tools/slow_tests.py."""
    files = {path.stem: path for path in TESTS.rglob("test_*.py")}
    for name in (TESTS / "slow.txt").read_text(encoding="utf-8").splitlines()[1:]:
        file, _, function = name.partition("::")
        assert file in files, name
        text = files[file].read_text(encoding="utf-8")
        # A machine of hypothesis is a class with a test that is not written down.
        assert not function or function in functions_of(files[file]) or "TestCase" in text, name


def test_the_page_of_the_api_is_that_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = load("api_page", TESTS / "tools" / "api_page.py", monkeypatch)
    page = writer.page()  # type: ignore[attr-defined]
    now = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert page == now, "a public name changed: run tests/tools/api_page.py, and look at the diff of docs/api.md"


def test_the_changelog_has_the_version_that_is_built() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## (\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d$", changes, re.MULTILINE)
    assert released[0] == PROJECT["version"]


def test_each_example_has_a_line_in_the_readme() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    for example in sorted((ROOT / "examples").glob("*.py")):
        assert any(line.startswith(f"- [{example.name}](examples/{example.name}): ") for line in lines), example.name


def test_the_workflow_runs_the_check_under_each_supported_python() -> None:
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]["check"]
    supported = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if "Python :: 3." in name]
    assert job["strategy"]["matrix"]["python"] == supported
    assert job["steps"][-1]["run"] == ".ci/run"


def test_each_decision_has_its_number_its_date_and_its_line_in_the_architecture() -> None:
    listed = re.findall(
        r"^- \[(.+)\]\(decisions/(.+)\)$", (ROOT / "docs/architecture.md").read_text("utf-8"), re.MULTILINE
    )
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [file for _, file in listed] == [page.name for page in pages]
    for number, (page, (title, _)) in enumerate(zip(pages, listed, strict=True), 1):
        assert page.name.startswith(f"{number:04}-")
        head, date, *_ = page.read_text(encoding="utf-8").split("\n\n")
        assert head == f"# {number}. {title}"
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", date)
