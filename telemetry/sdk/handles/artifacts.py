"""Artifacts: what a task has uploaded beside its reports, as the record tells it; as files, and as objects again."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from telemetry.errors import ConfigurationError, TelemetryError
from telemetry.events import INT64_MAX, INT64_MIN, clean_text
from telemetry.record import BlobState, Section
from telemetry.sdk.bytes.depot import READ_TIMEOUT_S, was_put_here
from telemetry.sdk.bytes.deserialize import deserialize
from telemetry.sdk.bytes.parcel import Parcel
from telemetry.sdk.cores.core import TaskCore
from telemetry.sdk.handles.copies import local_copy, unpacked
from telemetry.sdk.identity.references import Referred
from telemetry.shapes import mapping, text, whole
from telemetry.storage.blobs import sha256_of_uri
from telemetry.values import excerpt

__all__ = ["Artifact", "Artifacts", "artifact_entry", "plain_metadata"]

log = logging.getLogger(__name__)


_MAX_METADATA_DEPTH = 16


class Artifact(Referred):
    """One artifact of a task, from `task.artifacts`. It shows the record as it was read; `state` is looked up anew.

    Attributes:
        name: its name.
        type: dict, pandas, numpy, image, archive, custom, string or pickle.
        mode: "output".
        timestamp: when it was uploaded, with its time zone.
        metadata, preview: as they were given, or made.
    """

    def __init__(self, core: TaskCore, name: str, entry: Mapping[str, Any]) -> None:
        self._core = core
        self._entry = entry
        self._upload = core.depot.upload(Section.ARTIFACTS, name)
        self.name = name
        self.type = text(entry.get("type"))
        self.mode = "output"
        self.timestamp = _moment(entry.get("time_unix_ns"))
        self.preview = text(entry.get("preview"))
        self.metadata = mapping(entry.get("metadata"))

    def _reference(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Artifact, (self._core, self.name, dict(self._entry))

    def __repr__(self) -> str:
        state = self.state
        # Before its bytes were read its size is not known.
        told = f"{self.size} bytes" if self.hash or state == BlobState.STORED else state
        return f"<Artifact {self.name!r} {self.type} {told}>"

    @property
    def url(self) -> str:
        """Where the bytes are: "blob:<sha256>" for the server or session, else an address; "" until they were read."""
        return text(self._known().get("uri"))

    @property
    def hash(self) -> str:
        """The sha256 of the stored file; "" where it is not known."""
        return text(self._known().get("sha256"))

    @property
    def size(self) -> int:
        """Bytes of the stored file; 0 where they are not known."""
        return whole(self._known().get("size_bytes"), low=0)

    @property
    def state(self) -> str:
        """ "pending" until the bytes are stored, then "stored"; "failed" with the reason in `error`."""
        if self._upload is not None:
            return self._upload.state
        state = text(self._entry.get("state"))
        if sha256_of_uri(self.url) is None or state not in (BlobState.PENDING, BlobState.STORED):
            return state
        return BlobState.STORED if self._core.view.has_blob(self.hash) else BlobState.PENDING

    @property
    def error(self) -> str:
        """Why it could not be stored; "" if it was, or may still be."""
        return self._upload.error if self._upload is not None else text(self._entry.get("error"))

    def _known(self) -> Mapping[str, Any]:
        """Return the entry; of an upload of this process with what has become of it since."""
        if self._upload is None or self._upload.blob is None:
            return self._entry
        blob = self._upload.blob
        return {**self._entry, "uri": blob.uri, "sha256": blob.sha256, "size_bytes": blob.size_bytes}

    def get_local_copy(
        self, extract_archive: bool = True, raise_on_error: bool = False, force_download: bool = False
    ) -> str | None:
        """Return the path of a local copy, for reading; it is made at the first call and kept for later ones.

        Args:
            extract_archive: of a zip that was made of a folder or several files, return the folder it is unpacked to.
            raise_on_error: raise where it can't be had, rather than warn and return None.
            force_download: copy it anew.
        Raises:
            BlobError: it can't be had, or arrived damaged; only with `raise_on_error`.
        """
        try:
            return str(self._copy(extract_archive, force_download))
        except TelemetryError as error:
            if raise_on_error:
                raise
            log.warning("%s", error)
            return None

    def get(
        self,
        force_download: bool = False,
        deserialization_function: Callable[[bytes], Any] | None = None,
        block_unsafe_artifacts: bool = False,
        *,
        allow_pickle: bool | None = None,
    ) -> Any:
        """Return the object: a dict, frame, array, image, text, or what was pickled; of files and folders the Path.

        A pickle runs code of whoever made it. One that this process has uploaded is loaded; any other only if
        `allow_pickle` says so.

        Args:
            deserialization_function: takes the bytes and returns the object, the reverse of serialization_function.
            block_unsafe_artifacts: load no pickle, not even one's own.
        Raises:
            BlobError: the bytes can't be had, are damaged, or can't be read as the type.
            ConfigurationError: it is a pickle, and nobody has said that it may be loaded; or a package is missing.
        """
        if deserialization_function is not None:
            return deserialization_function(self._copy(False, force_download).read_bytes())
        is_own = self._upload is not None or was_put_here(self.hash)
        allowed = (is_own if allow_pickle is None else allow_pickle) and not block_unsafe_artifacts
        refusal = (
            f"{self._label} is a pickle, and loading one runs whatever code its maker has put into it. Nothing was "
            f"loaded. If you trust them: artifacts[{self.name!r}].get(allow_pickle=True); the file as it is: "
            ".get_local_copy()"
        )
        path = self._copy(True, force_download)
        form = self._entry.get("form")
        filename = text(self._entry.get("filename"))
        return deserialize(path, self.type, filename, form=form, allow_pickle=allowed, refusal=refusal)

    @property
    def _label(self) -> str:
        return f"artifact {self.name!r} of task {self._core.header.task_id}"

    def _copy(self, extract: bool, force: bool) -> Path:
        if self._upload is not None:
            # It was uploaded a moment ago: its bytes are on their way to the session folder.
            self._upload.wait_kept(READ_TIMEOUT_S)
        path = local_copy(self._core, self._known(), settings=self._core.settings, label=self._label, force=force)
        return unpacked(path, force=force) if extract and self.type == "archive" else path


class Artifacts(Mapping[str, Artifact]):
    """A task's artifacts by name, read-only. A name that is not there is a KeyError that says which are."""

    def __init__(self, core: TaskCore, entries: Mapping[str, Any]) -> None:
        self._core = core
        self._entries = {name: entry for name, entry in entries.items() if isinstance(entry, Mapping)}

    def __getitem__(self, name: str) -> Artifact:
        entry = self._entries.get(name)
        if entry is None:
            there = ", ".join(map(repr, sorted(self._entries))) or "none"
            disabled = "; telemetry is disabled" if self._core.settings.mode == "disabled" else ""
            raise KeyError(f"task {self._core.header.task_id} has no artifact {name!r}. It has: {there:.300}{disabled}")
        return Artifact(self._core, name, entry)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self) -> KeysView[str]:
        """Return the names; printed, they are just that."""
        return self._entries.keys()

    def __repr__(self) -> str:
        return repr(dict(self))


def _moment(time_unix_ns: Any) -> datetime:
    try:
        return datetime.fromtimestamp(whole(time_unix_ns, low=0) / 1e9, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)


def artifact_entry(parcel: Parcel, metadata: Any, time_unix_ns: int) -> dict[str, Any]:
    """Return what the record keeps of an artifact, but for what its upload adds."""
    entry = {
        "type": parcel.kind,
        "sha256": "",
        "size_bytes": 0,
        "filename": clean_text(parcel.filename),
        "content_type": parcel.content_type,
        "preview": parcel.preview,
        "metadata": plain_metadata(metadata),
        "time_unix_ns": time_unix_ns,
        "error": "",
    }
    if parcel.form is not None:
        entry["form"] = parcel.form
    return entry


def plain_metadata(metadata: Any) -> dict[str, Any]:
    """Return metadata as the record can carry it: numbers, bools, texts, lists and dicts; of anything else its text.

    Raises:
        ConfigurationError: it is no dict.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise ConfigurationError(f"metadata must be a dict, not {type(metadata).__name__}")
    return {clean_text(str(key)): _plain(value, _MAX_METADATA_DEPTH) for key, value in metadata.items()}


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and INT64_MIN <= value <= INT64_MAX:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, str):
        return clean_text(str(value))
    if depth and isinstance(value, Mapping):
        return {clean_text(str(key)): _plain(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_plain(item, depth - 1) for item in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return _plain(value.item(), 0)  # a number of numpy's
    try:
        return clean_text(str(value))
    except RecursionError:
        return excerpt(value)
