"""ReadableModel: what can be read of any model, and how its weights get to this machine."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from telemetry.errors import BlobError, TelemetryError
from telemetry.sdk.cores.core import TaskCore
from telemetry.sdk.handles.copies import local_copy, unpacked
from telemetry.sdk.identity.modes import load_settings
from telemetry.sdk.models.index import KnownModel, ModelIndex
from telemetry.settings import Settings
from telemetry.shapes import mapping, text, texts, whole

__all__ = ["ReadableModel"]

log = logging.getLogger(__name__)


class ReadableModel:
    """What can be read of a model, whichever it is."""

    id: str

    def _fields(self) -> Mapping[str, Any]:
        raise NotImplementedError

    def _core_of_bytes(self, fields: Mapping[str, Any]) -> TaskCore | None:
        """Return the core of the task from which the model's bytes are read; None where they need none."""
        raise NotImplementedError

    def _settings(self) -> Settings:
        return load_settings()

    @property
    def name(self) -> str:
        """The model's name."""
        return text(self._fields().get("name"))

    @property
    def framework(self) -> str:
        """The framework, such as "PyTorch"; "" if nobody said."""
        return text(self._fields().get("framework"))

    @property
    def comment(self) -> str:
        """Free text."""
        return text(self._fields().get("comment"))

    @property
    def tags(self) -> list[str]:
        """The model's tags, in their order."""
        return texts(self._fields().get("tags"))

    @property
    def labels(self) -> dict[str, int]:
        """The label enumeration, name -> number."""
        return {name: number for name, number in mapping(self._fields().get("labels")).items() if type(number) is int}

    @property
    def config_text(self) -> str:
        """The design or configuration, as text."""
        return text(self._fields().get("config_text"))

    @property
    def config_dict(self) -> dict[str, Any]:
        """The design or configuration as a dict, of JSON or YAML text; {} if it is neither."""
        return _parsed(self.config_text)

    @property
    def url(self) -> str:
        """Where the weights are: "blob:<sha256>" (on the server or in the session), a storage's address or file://."""
        return text(self._fields().get("uri"))

    @property
    def task(self) -> str:
        """The id of the task that made it; "" where no task did."""
        return text(self._fields().get("task"))

    original_task = task

    @property
    def iteration(self) -> int | None:
        """The iteration of the weights; None if nobody said."""
        value = self._fields().get("iteration")
        return value if type(value) is int else None

    @property
    def size(self) -> int:
        """Bytes of the stored file; 0 if not known."""
        return whole(self._fields().get("size_bytes"), low=0)

    @property
    def hash(self) -> str:
        """The sha256 of the stored file; "" if not known."""
        return text(self._fields().get("sha256"))

    @property
    def published(self) -> bool:
        """True once somebody has said that it is final."""
        return self._fields().get("published") is True

    def get_metadata(self, key: str) -> Any:
        """Return a value of the model's metadata; None if there is none."""
        return self.get_all_metadata().get(key)

    def get_all_metadata(self) -> dict[str, Any]:
        """Return the model's metadata."""
        return mapping(self._fields().get("metadata"))

    # ---- weights -----------------------------------------------------------------------------------

    def get_local_copy(
        self, extract_archive: bool | None = None, raise_on_error: bool = False, force_download: bool = False
    ) -> str | None:
        """Return the path of the weights on this machine: the file itself where it is here, else a copy of it.

        Args:
            extract_archive: unpack a zip and return the folder; None: if the model is a package of files.
            raise_on_error: raise where they can't be had, rather than warn and return None.
            force_download: copy them anew.
        Raises:
            BlobError: they can't be had, or arrived damaged; only with `raise_on_error`.
        """
        try:
            return str(self._copy(extract_archive, force_download))
        except TelemetryError as error:
            if raise_on_error:
                raise
            log.warning("%s", error)
            return None

    def get_weights(
        self, raise_on_error: bool = False, force_download: bool = False, extract_archive: bool = False
    ) -> str | None:
        """Return the path of the weights file on this machine; of a package the zip, unless `extract_archive`."""
        return self.get_local_copy(extract_archive, raise_on_error, force_download)

    def get_weights_package(
        self,
        return_path: bool = False,
        raise_on_error: bool = False,
        force_download: bool = False,
        extract_archive: bool = True,
    ) -> str | list[Path] | None:
        """Return the files of a package on this machine, or its folder if `return_path`."""
        path = self.get_local_copy(extract_archive, raise_on_error, force_download)
        if path is None or return_path:
            return path
        folder = Path(path)
        return sorted(item for item in folder.rglob("*") if item.is_file()) if folder.is_dir() else [folder]

    def _copy(self, extract: bool | None, force: bool) -> Path:
        fields = self._fields()
        label = f"model {fields.get('name') or ''!s} ({self.id})"
        here = _file_here(fields)
        if here is not None:
            return here
        core, settings = self._core_of_bytes(fields), self._settings()
        fields = self._fields()
        if not fields.get("uri"):
            where = fields.get("path") or fields.get("uri") or "nowhere"
            raise BlobError(
                f"the weights of {label} were recorded as {where} on {fields.get('host') or 'some machine'} and not "
                "uploaded, and they are not here. Task.init(output_uri=True) uploads them"
            )
        path = local_copy(core, fields, settings=settings, label=label, force=force)
        is_package = fields.get("is_package") is True
        if is_package if extract is None else extract and path.suffix == ".zip":
            path = unpacked(path, force=force)
        known = KnownModel(self.id, self.task, self.name, self.framework)
        # Whoever loads the copy loads this model.
        ModelIndex(settings.state_dir, settings.mode).note(path, known)
        return path


def _file_here(fields: Mapping[str, Any]) -> Path | None:
    """Return the weights' own file where it is on this machine and nothing was uploaded; None anywhere else."""
    uri = text(fields.get("uri"))
    if uri and not uri.startswith("file://"):
        return None
    if fields.get("host") not in ("", None, socket.gethostname()):
        return None
    try:
        path = Path(unquote(urlsplit(uri).path) if uri else text(fields.get("path")))
        return path if path.is_absolute() and path.exists() else None
    except (OSError, ValueError):
        return None  # a name that no file can have


def _parsed(written: str) -> dict[str, Any]:
    if not written.strip():
        return {}
    try:
        value = json.loads(written)
    except (ValueError, RecursionError):
        import yaml

        try:
            value = yaml.safe_load(written)
        except (yaml.YAMLError, ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}
