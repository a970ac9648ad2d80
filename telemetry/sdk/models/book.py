"""Entries of models in a task's record: made, changed and found again, by whoever holds them.

Sections "output_models" (what the task made) and "input_models" (what it used), by model id.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from telemetry.clock import unix_ns
from telemetry.disk import absolute_path
from telemetry.events import TaskHeader, clean_name, clean_text
from telemetry.process import lifecycle
from telemetry.process.interrupts import is_interrupt
from telemetry.record import BlobState, Section
from telemetry.sdk.bytes.deposit import Deposit
from telemetry.sdk.bytes.depot import Depot
from telemetry.sdk.bytes.packing import pack_path, pack_paths, remove_originals
from telemetry.sdk.bytes.parcel import SCRATCH, Parcel
from telemetry.sdk.identity.references import Referred
from telemetry.sdk.reading.view import View, section_of
from telemetry.sdk.record.record import Record
from telemetry.settings import Settings
from telemetry.storage.target import Target

__all__ = [
    "ModelBook",
    "ModelEntry",
    "ModelOwner",
    "blank_fields",
    "local_fields",
    "new_model_id",
    "weights_parcel",
]

Fields = dict[str, Any]


def new_model_id() -> str:
    """Return a model id: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def blank_fields(task_id: str) -> Fields:
    """Return the entry of a model of which nothing is known but the task that made it; "" where that is nobody."""
    return {
        "name": "",
        "framework": "",
        "uri": "",
        "state": "",
        "sha256": "",
        "size_bytes": 0,
        "filename": "",
        "iteration": None,
        "comment": "",
        "tags": [],
        "labels": {},
        "config_text": "",
        "path": "",
        "host": "",
        "task": task_id,
        "is_package": False,
        "time_unix_ns": unix_ns(),
    }


class ModelOwner(Protocol):
    """The core of a task, as far as the entries of its models ask it."""

    header: TaskHeader
    settings: Settings
    record: Record
    view: View
    depot: Depot

    def moved(self, iteration: int) -> int:
        """Return an iteration with the task's offset added, as those of scalars are moved on."""


class ModelEntry(Referred):
    """One model's entry in the record of a task. Safe from any thread.

    Attributes:
        id: the model's.
        section: Section.OUTPUT_MODELS or Section.INPUT_MODELS.
    """

    def __init__(self, core: ModelOwner, section: str, model_id: str, fields: Mapping[str, Any]) -> None:
        self.core = core
        self.section = section
        self.id = model_id
        self._fields: Fields = dict(fields)
        self.reset_after_fork()
        lifecycle.watch_forks(self)

    def _reference(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return ModelEntry, (self.core, self.section, self.id, self.fields())

    def reset_after_fork(self) -> None:
        """In a forked child: another thread of the parent's may have held the lock."""
        self._lock = threading.RLock()

    def fields(self) -> Fields:
        """Return a copy of the entry as this process knows it."""
        with self._lock:
            return dict(self._fields)

    def moved(self, iteration: int) -> int:
        """See ModelOwner."""
        return self.core.moved(iteration)

    def update(self, fields: Mapping[str, Any]) -> None:
        """Give some fields new values, and write the entry."""
        with self._lock:
            self._fields.update(fields)
            self.core.record.change(self.section, self.id, dict(self._fields))

    def register(self, uri: str, **fields: Any) -> None:
        """Say where the weights are; nothing is uploaded."""
        self.core.depot.forget(self.section, self.id)
        cleared = {"sha256": "", "size_bytes": 0, "error": None, "state": BlobState.STORED}
        self.update({**cleared, "time_unix_ns": unix_ns(), **fields, "uri": uri})

    def upload(
        self,
        parcel: Parcel,
        *,
        target: Target | bool | None,
        delete_after_upload: bool = False,
        **fields: Any,
    ) -> None:
        """Upload weights; until they are stored the entry goes on naming the ones before."""
        self.update({**fields, "time_unix_ns": unix_ns(), "filename": parcel.filename, "error": None})

        def tell(found: Mapping[str, Any]) -> None:
            if found.get("state") == BlobState.PENDING and not found.get("uri"):
                found = {"state": BlobState.PENDING}
            elif found.get("state") == BlobState.FAILED:
                found = {key: value for key, value in found.items() if key != "uri"}
            self.update(found)

        self.core.depot.put(
            Deposit(
                parcel=parcel,
                section=self.section,
                key=self.id,
                label=f"model {self._fields['name']!r}",
                tell=tell,
                on_stored=(lambda: remove_originals(parcel)) if delete_after_upload else None,
                target=target,
            )
        )

    def wait(self) -> bool:
        """Wait until the weights are stored; see Depot.wait."""
        return self.core.depot.wait(self.section, self.id)


class ModelBook:
    """The models of one task that this process has made or opened. Safe from any thread."""

    def __init__(self, core: ModelOwner) -> None:
        self._core = core
        self._open: dict[tuple[str, str], ModelEntry] = {}

    def new(self, section: str = Section.OUTPUT_MODELS, model_id: str | None = None, **fields: Any) -> ModelEntry:
        """Return a new entry; nothing is written yet. Of an id that is open, that entry."""
        model_id = model_id or new_model_id()
        owner = self._core.header.task_id if section == Section.OUTPUT_MODELS else ""
        entry = ModelEntry(self._core, section, model_id, {**blank_fields(owner), **fields})
        return self._open.setdefault((section, model_id), entry)

    def open(self, section: str, model_id: str) -> ModelEntry | None:
        """Return the entry of a model of this task; None if it has none of this id."""
        entry = self._open.get((section, model_id))
        if entry is None:
            found = section_of(self._core.view, section).get(model_id)
            if not isinstance(found, Mapping):
                return None
            entry = self._open.setdefault(
                (section, model_id), ModelEntry(self._core, section, model_id, {**blank_fields(""), **found})
            )
        return entry

    def named(self, name: str, *, ask: bool = True) -> ModelEntry | None:
        """Return the output model of a name, the youngest of several; None if there is none.

        Args:
            ask: read what other processes have recorded, too, which may wait for a network.
        """
        own = self._core.record.own.section(Section.OUTPUT_MODELS)
        known = {**section_of(self._core.view, Section.OUTPUT_MODELS), **own} if ask else own
        found = [
            (fields.get("time_unix_ns") or 0, model_id)
            for model_id, fields in known.items()
            if isinstance(fields, Mapping) and fields.get("name") == name
        ]
        return self.open(Section.OUTPUT_MODELS, max(found)[1]) if found else None

    def forget(self, section: str, model_id: str) -> None:
        """Remove an entry from the record."""
        self._core.depot.forget(section, model_id)
        self._open.pop((section, model_id), None)
        self._core.record.change(section, model_id, None)


# ---- files -----------------------------------------------------------------------------------------


def weights_parcel(core: ModelOwner, name: str, source: Any, *, filename: str | None = None) -> Parcel | None:
    """Return the parcel of a file, or of a folder, wildcard or list of paths as a zip; None if nothing is there.

    Raises:
        ConfigurationError: a Path of the list does not exist.
    """
    scratch = core.settings.state_dir / SCRATCH
    if isinstance(source, (list, tuple)):
        parcel = pack_paths(name, [Path(os.fspath(item)) for item in source], scratch)
    else:
        parcel = pack_path(name, os.fspath(source), scratch)
    return parcel if parcel is None or not filename else replace(parcel, filename=clean_name(filename))


def local_fields(path: str | os.PathLike[str]) -> Fields:
    """Return what an entry says of a file of this machine: path, host, size_bytes, mtime_ns as far as it has them."""
    absolute = Path(os.path.normpath(absolute_path(Path(os.fsdecode(path)))))  # links are kept: as the program names it
    fields: Fields = {"path": clean_text(str(absolute)), "host": socket.gethostname()}
    try:
        status = absolute.stat()
    except (OSError, ValueError) as error:
        if is_interrupt(error):
            raise
        return fields
    if absolute.is_file():
        fields |= {"size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    return fields
