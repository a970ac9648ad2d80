"""Tasks that nobody has run yet: what they begin with, and what a clone takes over. Pure but for reading files.

A draft is a task whose record says `created`. It is written in one frame, so that it is there whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from telemetry.collectors.script import ScriptCollector, find_repository, imported_packages
from telemetry.disk import absolute_path
from telemetry.errors import ConfigurationError
from telemetry.events import clean_text
from telemetry.fold import RecordDict
from telemetry.process.interrupts import is_interrupt
from telemetry.record import RUN_SECTIONS, Section, TaskKey, TaskStatus
from telemetry.sdk.identity.masking import mask_text
from telemetry.sdk.parameters.parameters import parameter_entry

__all__ = ["CLONED_SECTIONS", "Code", "clone_sections", "draft_sections", "new_fields", "packages_text"]

Sections: TypeAlias = dict[str, dict[str, Any]]

# What a task is to run with; what it brought forth stays with it.
CLONED_SECTIONS = (*sorted(RUN_SECTIONS), Section.PROPERTIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What a task that is made without being run is to run.

    Attributes:
        script: of the repository, relative to its root; without `repo` a file on this machine.
        packages: "name" or "name==version" lines, True for those of this environment, None for what the script imports.
        add_task_init_call: the script has no Task.init of its own: whoever runs it is to call it first.
    """

    repo: str | None = None
    branch: str | None = None
    commit: str | None = None
    script: str | None = None
    working_directory: str | None = None
    packages: bool | Sequence[str] | None = None
    requirements_file: str | Path | None = None
    docker: str | None = None
    docker_args: str | None = None
    docker_bash_setup_script: str | Sequence[str] | None = None
    argparse_args: Iterable[tuple[str, Any]] | None = None
    add_task_init_call: bool = True
    force_single_script_file: bool = False
    binary: str | None = None
    module: str | None = None
    detect_repository: bool = True


def draft_sections(code: Code) -> Sections:
    """Return the sections `script`, `container` and `parameters` of a draft.

    Raises:
        ConfigurationError: a file that is not there, or arguments that are no pairs.
    """
    script = _script(code)
    setup = code.docker_bash_setup_script
    container = {
        "image": code.docker,
        "arguments": code.docker_args,
        "setup_script": "\n".join(setup) if isinstance(setup, (list, tuple)) else setup,
    }
    return {
        Section.SCRIPT: {key: clean_text(str(value)) for key, value in script.items() if value},
        Section.CONTAINER: {key: clean_text(str(value)) for key, value in container.items() if value},
        Section.PARAMETERS: _arguments(code.argparse_args),
    }


def clone_sections(record: RecordDict) -> Sections:
    """Return what a clone takes over from the record of its source."""
    sections: Sections = {name: dict(record.get(name, {})) for name in CLONED_SECTIONS}
    task = record.get(Section.TASK, {})
    sections[Section.TASK] = {key: task[key] for key in (TaskKey.TYPE, TaskKey.TAGS, TaskKey.COMMENT) if key in task}
    return sections


def new_fields(*, name: str, project: str, kind: str, parent: str | None = None) -> dict[str, Any]:
    """Return the fields of section "task" of a draft."""
    fields = {
        TaskKey.NAME: name,
        TaskKey.PROJECT: project,
        TaskKey.TYPE: kind,
        TaskKey.STATUS: TaskStatus.CREATED.value,
    }
    return fields if parent is None else {**fields, "parent": parent}


def packages_text(packages: bool | str | Path | Sequence[str]) -> str:
    """Return packages as the record keeps them, a line each.

    Args:
        packages: a requirements file, a list of lines, or True for everything that is installed here.
    Raises:
        ConfigurationError: the file can't be read, or it is something else.
    """
    if packages is True:
        from importlib.metadata import distributions

        installed = {dist.metadata["Name"]: dist.version for dist in distributions() if dist.metadata["Name"]}
        return "\n".join(f"{name} == {installed[name]}" for name in sorted(installed, key=str.lower))
    if packages is False:
        return ""
    if isinstance(packages, (str, Path)):
        try:
            return clean_text(Path(packages).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            if is_interrupt(error):
                raise
            raise ConfigurationError(f"the requirements file {packages} can't be read: {error}") from error
    if not all(isinstance(line, str) for line in packages):
        raise ConfigurationError("packages: give a list of str such as 'numpy==2.1', a requirements file, or True")
    return "\n".join(clean_text(line) for line in packages)


def _script(code: Code) -> dict[str, Any]:
    given = {
        "repository": code.repo,
        "branch": code.branch,
        "commit": code.commit,
        "working_dir": code.working_directory,
        "binary": code.binary,
        "module": code.module,
        "add_task_init_call": "1" if code.add_task_init_call else "",
    }
    found = {"entry_point": code.script} if code.repo or not code.script else _local_script(code)
    if code.requirements_file is not None:
        given["requirements"] = packages_text(Path(code.requirements_file))
    elif code.packages is not None:
        given["requirements"] = packages_text(code.packages)
    return {**found, **{key: value for key, value in given.items() if value is not None}}


def _local_script(code: Code) -> dict[str, Any]:
    """Return what a script on this machine says of itself and of the repository around it."""
    path = absolute_path(Path(str(code.script)).expanduser())
    if not path.is_file():
        raise ConfigurationError(
            f"script={code.script!r} is no file here, and no repo is given to find it in. No task was made"
        )
    look = code.detect_repository and not code.force_single_script_file
    found = ScriptCollector(repository=look, mask=mask_text, main=path).find()
    if code.packages is None and code.requirements_file is None:
        root = find_repository(path.parent) if look else None
        found["requirements"] = "\n".join(imported_packages(path, root or path.parent))
    # The interpreter of this very process, which says nothing about the one that will run the task.
    return {key: value for key, value in found.items() if key not in ("binary", "python")}


def _arguments(pairs: Iterable[tuple[str, Any]] | None) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for pair in pairs or ():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ConfigurationError(
                f'argparse_args: give pairs such as ("lr", 0.01), not {pair!r:.80}. No task was made'
            )
        # Recorded under the variable that argparse makes of an option.
        name = pair[0].lstrip("-").replace("-", "_") if pair[0].startswith("-") else pair[0]
        entries[f"Args/{name}"] = dict(parameter_entry(pair[1], None))
    return entries
