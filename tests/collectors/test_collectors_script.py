"""What program a task runs, found in real repositories and without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sdk_support import only_session, read_story, run_program
from telemetry.collectors.script import MAX_TEXT_BYTES, ScriptCollector, find_repository, imported_packages

from telemetry.sdk.identity.masking import mask_text

SCRIPT = "import json\nimport numpy as np\nfrom helpers import tools\nprint(np, json, tools)\n"


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=trunk"]
    return subprocess.run(
        ["git", *settings, *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a commit, a remote and a script below its root."""
    root = tmp_path / "work"
    (root / "src" / "helpers").mkdir(parents=True)
    (root / "src" / "train.py").write_text(SCRIPT)
    (root / "src" / "helpers" / "__init__.py").write_text("")
    (root / "src" / "helpers" / "tools.py").write_text("import yaml\n")
    git(root, "init", "-q")
    git(root, "remote", "add", "origin", "https://me:hunter2@example.org/work.git")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root


@pytest.mark.parametrize("programs", [True, False])
def test_branch_commit_and_remote_are_what_git_says(
    repository: Path, programs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository / "src")
    found = ScriptCollector(programs=programs, mask=mask_text, main=repository / "src" / "train.py").find()
    assert found["commit"] == git(repository, "rev-parse", "HEAD")
    assert found["branch"] == "trunk"
    assert found["entry_point"] == "src/train.py"
    assert found["working_dir"] == "src"
    assert ("diff" in found) is programs
    assert found.get("diff", "") == ""
    assert ("diff_note" in found) is not programs


def test_no_password_of_a_remote_is_kept(repository: Path) -> None:
    found = ScriptCollector(mask=mask_text, main=repository / "src" / "train.py").find()
    assert found["repository"] == "https://me:***@example.org/work.git"


def test_uncommitted_changes_are_kept_without_secrets(repository: Path) -> None:
    script = repository / "src" / "train.py"
    script.write_text(SCRIPT + 'api_key = "0123456789"\nrate = 0.5\n')
    found = ScriptCollector(mask=mask_text, main=script).find()
    assert "+rate = 0.5" in found["diff"]
    assert '+api_key = "***"' in found["diff"] and "0123456789" not in found["diff"]


def test_packed_references_and_a_detached_head_are_read_without_git(repository: Path) -> None:
    collector = ScriptCollector(programs=False, main=repository / "src" / "train.py")
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "pack-refs", "--all")
    assert collector.find()["commit"] == commit
    git(repository, "checkout", "-q", "--detach")
    found = collector.find()
    assert found["commit"] == commit and "branch" not in found


def test_a_worktree_is_a_repository_too(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    found = ScriptCollector(programs=False, main=tmp_path / "side" / "src" / "train.py").find()
    assert (found["branch"], found["commit"]) == ("side", git(repository, "rev-parse", "HEAD"))
    assert find_repository(tmp_path / "side" / "src") == tmp_path / "side"


def test_without_a_repository_the_scripts_text_is_kept(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT + 'password = "hunter2"\n')
    found = ScriptCollector(mask=mask_text, main=script).find()
    assert found["diff"].startswith(SCRIPT) and "hunter2" not in found["diff"]
    assert "repository" not in found


def test_a_huge_text_is_cut_and_says_so(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("# " + "x" * (MAX_TEXT_BYTES + 100))
    diff = ScriptCollector(main=script).find()["diff"]
    assert len(diff) < MAX_TEXT_BYTES + 100 and "more bytes are left out" in diff


def test_packages_are_those_that_the_programs_own_files_import(repository: Path) -> None:
    named = [line.partition(" == ")[0] for line in imported_packages(repository / "src" / "train.py", repository)]
    # numpy by the script, PyYAML by a file of its own; nothing else that happens to be installed.
    assert [name.lower() for name in named] == ["numpy", "pyyaml"]


@pytest.mark.parametrize("text", ["def broken(:\n", "\x00", ""])
def test_a_script_that_is_no_python_is_no_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.py").write_text(text)
    assert ScriptCollector(main=tmp_path / "train.py").find()["requirements"] == ""


def test_a_program_records_its_script_and_can_be_told_not_to_look_for_a_repository(state_dir: Path) -> None:
    source = """
        import sys
        from telemetry import Task
        task = Task.init("tests", "script", auto_connect_frameworks=eval(sys.argv[1]))
        task.close()
        print(sorted(task._section("script")))
    """
    done = run_program(source, state_dir, "True")
    assert done.returncode == 0, done.stderr
    story = read_story(only_session(state_dir))
    assert story.record["script"]["entry_point"] == "program.py"
    assert "from telemetry import Task" in story.record["script"]["diff"]
    assert story.record["script"]["binary"] == sys.executable
    # what the stream tells, the task itself reads back
    assert str(sorted(story.record["script"])) in done.stdout
    assert run_program(source, state_dir.parent / "other", "{'detect_repository': False}").returncode == 0
