"""Task, sections "Task Creation from Existing Code or Container" and "Cloning": tasks that nobody has run yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from telemetry.errors import ConfigurationError
from telemetry.record import Section, TaskKey
from telemetry.sdk.cores.base import TaskBase
from telemetry.sdk.cores.current import current
from telemetry.sdk.identity.modes import load_settings
from telemetry.sdk.launch import options
from telemetry.shapes import text
from telemetry.values import excerpt

__all__ = ["TaskCreate"]


class TaskCreate(TaskBase):
    """See Task."""

    @classmethod
    def create(
        cls,
        project_name: str | None = None,
        task_name: str | None = None,
        task_type: str | None = None,
        repo: str | None = None,
        branch: str | None = None,
        commit: str | None = None,
        script: str | None = None,
        working_directory: str | None = None,
        packages: bool | Sequence[str] | None = None,
        requirements_file: str | Path | None = None,
        docker: str | None = None,
        docker_args: str | None = None,
        docker_bash_setup_script: str | Sequence[str] | None = None,
        argparse_args: Iterable[tuple[str, Any]] | None = None,
        base_task_id: str | None = None,
        add_task_init_call: bool = True,
        force_single_script_file: bool = False,
        binary: str | None = None,
        module: str | None = None,
        detect_repository: bool = True,
    ) -> Self:
        """Make a task without running its code; return it as a draft. Waits for the server.

        Args:
            project_name: default: the current task's.
            task_name: default: the script's name.
            repo, branch, commit, script, working_directory: where its code is. Without `repo`, `script` is a file on
                this machine, and its repository is found around it.
            packages: lines such as "numpy==2.1"; True for all that is installed here. Default: what `script` imports.
            requirements_file: a file with such lines, instead.
            docker, docker_args, docker_bash_setup_script: the container to run it in.
            argparse_args: pairs of the argument's variable and its value, kept with its type in section Args.
            base_task_id: begin with what this task runs with; what is given here has precedence.
            add_task_init_call: the script has no Task.init of its own.
            force_single_script_file: keep the script's text alone, whatever repository it lies in.
            binary, module: the interpreter; `-m module` instead of a script.
            detect_repository: look for the repository of a script on this machine.
        Raises:
            ConfigurationError: an argument that can't be used, no project, no server, offline mode. Nothing was made.
            ServerError: the server can't be reached, or refuses it.
        """
        from telemetry.sdk.cores.stored import begin_stored, open_stored
        from telemetry.sdk.reading.view import record_of
        from telemetry.sdk.task import drafts

        settings = load_settings()
        if settings.mode == "offline":
            raise ConfigurationError(
                "Task.create makes a task on a server, and telemetry is offline. Nothing was made. Use Task.init"
            )
        if project_name is None:
            running = _current_task()
            if running is None:
                raise ConfigurationError(
                    "Task.create: project_name is needed where no task is current. Nothing was made"
                )
            project_name = running.project
        code = drafts.Code(
            repo=repo,
            branch=branch,
            commit=commit,
            script=script,
            working_directory=working_directory,
            packages=packages,
            requirements_file=requirements_file,
            docker=docker,
            docker_args=docker_args,
            docker_bash_setup_script=docker_bash_setup_script,
            argparse_args=argparse_args,
            add_task_init_call=add_task_init_call,
            force_single_script_file=force_single_script_file,
            binary=binary,
            module=module,
            detect_repository=detect_repository,
        )
        fields = drafts.new_fields(
            name=options.choose_name(task_name or (Path(script).stem if script else module)),
            project=options.choose_project(project_name),
            kind=options.choose_type(task_type),
        )
        sections = drafts.draft_sections(code)
        if base_task_id is not None:
            base = open_stored(base_task_id, settings, what="Task.create")
            cloned = drafts.clone_sections(record_of(base.view))
            sections = {name: {**cloned.get(name, {}), **sections.get(name, {})} for name in {*cloned, *sections}}
        sections[Section.TASK] = {**sections.get(Section.TASK, {}), **fields}
        return cls(begin_stored(sections, settings, what="Task.create"))

    @classmethod
    def clone(
        cls,
        source_task: TaskBase | str | None = None,
        name: str | None = None,
        comment: str | None = None,
        parent: str | None = None,
        project: str | None = None,
    ) -> Self:
        """Make a draft that runs what another task runs, with the same settings; return it. Waits for the server.

        It takes over parameters, configuration, user properties, labels, input models, script, container, type, tags
        and comment. What the source brought forth (reports, artifacts, output models) stays with it.

        Args:
            source_task: a task or its id; default: the current task.
            name: default: "Clone Of <the source's name>".
            comment: instead of the source's.
            parent: the id of the task to name as parent; default: the source's parent, else the source.
            project: where to put it, by name (a project's id is its name); default: the source's project.
        Raises:
            ConfigurationError: there is no such task, no server, or offline mode. Nothing was made.
            ServerError: the server can't be reached, or refuses it.
        """
        from telemetry.sdk.cores.stored import begin_stored
        from telemetry.sdk.reading.view import record_of
        from telemetry.sdk.task import drafts

        settings = load_settings()
        source = _source(source_task if source_task is not None else _current_task())
        record = record_of(source._view)
        sections = drafts.clone_sections(record)
        sections[Section.TASK] |= drafts.new_fields(
            name=options.choose_name(name or f"Clone Of {source.name}"),
            project=options.choose_project(project or source.project),
            kind=text(record.get(Section.TASK, {}).get(TaskKey.TYPE)) or source.task_type,
            parent=parent or text(record.get(Section.TASK, {}).get(TaskKey.PARENT)) or source.id,
        )
        if comment is not None:
            sections[Section.TASK][TaskKey.COMMENT] = str(comment)
        return cls(begin_stored(sections, settings, what="Task.clone"))

    # ---- what a draft is to run ----------------------------------------------------------------------

    def set_repo(self, repo: str | None = None, branch: str | None = None, commit: str | None = None) -> None:
        """Set where the task's code is; None leaves what is there, "" removes it."""
        self._change(Section.SCRIPT, {"repository": repo, "branch": branch, "commit": commit})

    def set_script(
        self,
        repository: str | None = None,
        branch: str | None = None,
        commit: str | None = None,
        diff: str | None = None,
        working_dir: str | None = None,
        entry_point: str | None = None,
    ) -> None:
        """Set what the task runs; None leaves what is there, "" removes it."""
        self._change(
            Section.SCRIPT,
            {
                "repository": repository,
                "branch": branch,
                "commit": commit,
                "diff": diff,
                "working_dir": working_dir,
                "entry_point": entry_point,
            },
        )

    def get_script(self) -> dict[str, str]:
        """Return what the task runs: repository, branch, commit, diff, working_dir, entry_point, requirements, ..."""
        return {key: value for key, value in self._section(Section.SCRIPT).items() if isinstance(value, str)}

    def set_packages(self, packages: str | Path | Sequence[str]) -> None:
        """Set the packages that the task needs: a requirements file, or lines such as "numpy==2.1".

        Raises:
            ConfigurationError: the file can't be read; nothing was changed.
        """
        from telemetry.sdk.task import drafts

        self._change(Section.SCRIPT, {"requirements": drafts.packages_text(packages)})

    def set_base_docker(
        self,
        docker_image: str | None = None,
        docker_arguments: str | Sequence[str] | None = None,
        docker_setup_bash_script: str | Sequence[str] | None = None,
    ) -> None:
        """Set the container to run the task in; None leaves what is there, "" removes it."""
        arguments, setup = docker_arguments, docker_setup_bash_script
        self._change(
            Section.CONTAINER,
            {
                "image": docker_image,
                "arguments": " ".join(arguments) if isinstance(arguments, (list, tuple)) else arguments,
                "setup_script": "\n".join(setup) if isinstance(setup, (list, tuple)) else setup,
            },
        )

    def get_base_docker(self) -> str:
        """Return the container's image with its arguments; "" without one."""
        container = self._section(Section.CONTAINER)
        return " ".join(part for key in ("image", "arguments") if (part := text(container.get(key))))

    def _change(self, section: str, values: dict[str, Any]) -> None:
        """Change some fields of a section: None leaves one, "" removes it."""
        given = {key: str(value) or None for key, value in values.items() if value is not None}
        if given:
            self._record.change_all(section, given)


def _current_task() -> TaskBase | None:
    task = current.task
    return None if task is None or not task._core.is_running else task


def _source(task: TaskBase | str | None) -> TaskBase:
    from telemetry.sdk.cores.stored import open_stored

    if isinstance(task, TaskBase):
        return task
    if not isinstance(task, str):
        raise ConfigurationError(
            f"Task.clone: source_task is {excerpt(task, 60)}; give a task or its id. Nothing was made"
        )
    return TaskBase(open_stored(task, load_settings(), what="Task.clone"))
