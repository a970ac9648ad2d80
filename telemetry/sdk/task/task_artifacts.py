"""Task, section "Artifacts": upload objects and files beside the reports, and read them back."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telemetry.clock import unix_ns
from telemetry.errors import ConfigurationError, InvalidEvent
from telemetry.events import clean_name
from telemetry.record import Section
from telemetry.sdk.cores.base import TaskBase
from telemetry.values import excerpt

if TYPE_CHECKING:
    from telemetry.sdk.bytes.parcel import Parcel
    from telemetry.sdk.bytes.serialize import StoreOptions
    from telemetry.sdk.handles.artifacts import Artifact
    from telemetry.sdk.handles.registered import RegisteredFrame

__all__ = ["TaskArtifacts"]

log = logging.getLogger(__name__)


class TaskArtifacts(TaskBase):
    """See Task."""

    def upload_artifact(
        self,
        name: str,
        artifact_object: Any,
        metadata: Mapping[str, Any] | None = None,
        delete_after_upload: bool = False,
        auto_pickle: bool | None = None,
        preview: Any = None,
        wait_on_upload: bool = False,
        extension_name: str | None = None,
        serialization_function: Callable[[Any], bytes | bytearray] | None = None,
        retries: int = 0,
        sort_keys: bool = True,
    ) -> bool:
        """Store an object, file or folder with the task; of the same name the later replaces the earlier.

        An object is written to memory or a file before this returns; files and folders are read after it, off this
        thread. The record says "pending" until the bytes are stored. docs/sdk/artifacts.md has the formats.

        Args:
            artifact_object: a dict, DataFrame, array, image, text; a path, wildcard or list of paths; a URL, which is
                registered and not uploaded; anything else is pickled.
            metadata: what else is to be known of it; values that the record can't carry become text.
            delete_after_upload: delete the file, or the files, once they are stored.
            auto_pickle: False refuses what only a pickle could keep.
            preview: what the page shows, instead of the beginning of the text.
            wait_on_upload: return when it is stored; or, if no byte moves for 30 s, with False: it goes on later.
            extension_name: which of the type's formats; with or without its dot.
            serialization_function: takes the object and returns bytes, which `get` gives to deserialization_function.
            retries: without effect; an upload is tried again until it is stored.
            sort_keys: of a dict.
        Returns:
            False if it can't be stored, which is counted as an invalid call; nothing is raised into a running program.
        Raises:
            TelemetryError: it can't be stored, and the task is not one that this process runs.
        """
        from telemetry.sdk.bytes.serialize import StoreOptions

        if not self._core.depot.keeps:
            return True  # telemetry is disabled: it is taken like any other call, and kept nowhere
        try:
            name = _checked_name(name)
            self._refuse_when_ended(name)
            request = StoreOptions(
                name=name,
                scratch=self._scratch,
                extension=extension_name,
                serialization_function=serialization_function,
                auto_pickle=auto_pickle,
                preview=None if preview is None else str(preview),
                sort_keys=sort_keys,
            )
            self._upload(request, artifact_object, metadata, delete=delete_after_upload)
        except (ConfigurationError, InvalidEvent) as error:
            self._refuse(f"upload_artifact: {error}")
            return False
        return self._core.depot.wait(Section.ARTIFACTS, name) if wait_on_upload else True

    def _upload(self, request: StoreOptions, value: Any, metadata: Any, *, delete: bool = False) -> None:
        from telemetry.sdk.bytes.deposit import Deposit
        from telemetry.sdk.bytes.serialize import serialize
        from telemetry.sdk.handles.artifacts import artifact_entry

        parcel = serialize(value, request)
        entry = artifact_entry(parcel, metadata, unix_ns())
        on_stored = (lambda: _delete_originals(request.name, parcel)) if delete else None
        name, record = request.name, self._record
        self._core.depot.put(
            Deposit(
                parcel=parcel,
                section=Section.ARTIFACTS,
                key=name,
                label=f"artifact {name!r}",
                tell=lambda fields: record.change(Section.ARTIFACTS, name, {**entry, **fields}),
                on_stored=on_stored,
            )
        )

    @property
    def _scratch(self) -> Path:
        from telemetry.sdk.bytes.parcel import SCRATCH

        return self._core.settings.state_dir / SCRATCH

    def delete_artifacts(
        self, artifact_names: Iterable[str], raise_on_errors: bool = True, delete_from_storage: bool = True
    ) -> bool:
        """Remove artifacts from the task. Bytes on the server that nobody refers to any more go with them.

        Args:
            raise_on_errors: raise for a name that the task has not; else return False. The others are removed.
            delete_from_storage: without effect: bytes at another storage stay, as other tasks may refer to them.
        """
        names = [artifact_names] if isinstance(artifact_names, str) else list(artifact_names)
        known = self._section(Section.ARTIFACTS)
        missing = [name for name in names if name not in known]
        for name in names:
            self._core.depot.forget(Section.ARTIFACTS, name)
        if found := [name for name in names if name in known]:
            self._record.change_all(Section.ARTIFACTS, dict.fromkeys(found))
        if missing and raise_on_errors:
            raise ConfigurationError(
                f"task {self.id} has no artifact {', '.join(map(repr, missing))}; the others are gone"
            )
        return not missing

    @property
    def artifacts(self) -> Mapping[str, Artifact]:
        """The task's artifacts by name, read-only, as they are recorded now."""
        from telemetry.sdk.handles.artifacts import Artifacts

        return Artifacts(self._core, self._section(Section.ARTIFACTS))

    # ---- frames that are followed ----------------------------------------------------------------

    def register_artifact(
        self, name: str, artifact: Any, metadata: Mapping[str, Any] | None = None, uniqueness_columns: Any = True
    ) -> None:
        """Follow a pandas.DataFrame: it is uploaded now, and again when it has changed, at the latest at the end.

        Args:
            uniqueness_columns: without effect; every row is kept.
        """
        from telemetry.sdk.bytes.serialize import StoreOptions
        from telemetry.sdk.handles.registered import RegisteredFrame

        frame_type = getattr(sys.modules.get("pandas"), "DataFrame", None)
        if frame_type is None or not isinstance(artifact, frame_type):
            self._refuse(f"register_artifact takes a pandas.DataFrame, not {type(artifact).__name__}")
            return
        self.unregister_artifact(name)
        frame = RegisteredFrame(
            name,
            artifact,
            lambda: self._upload(StoreOptions(name=name, scratch=self._scratch), artifact, metadata),
            is_last=lambda: self._core.connected.ending or name not in self._registered,
        )
        self._registered[name] = frame
        self._core.connected.add(frame)

    def unregister_artifact(self, name: str) -> None:
        """Follow a frame no longer; what was uploaded stays."""
        frame = self._registered.pop(name, None)
        if frame is not None:
            frame.sync()
            frame.ended = True

    def get_registered_artifacts(self) -> dict[str, Any]:
        """Return the frames that are followed, by name."""
        return {name: frame.frame for name, frame in self._registered.items()}

    @property
    def _registered(self) -> dict[str, RegisteredFrame]:
        registered: dict[str, RegisteredFrame] = self.__dict__.setdefault("_registered_frames", {})
        return registered

    def _refuse_when_ended(self, name: str) -> None:
        if self._running is not None and not self._running.is_running:
            raise ConfigurationError(
                f"artifact {name!r}: the task has ended. Nothing was uploaded; Task.get_task({self.id!r}) takes it"
            )


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError(f"an artifact needs a name, a str that is not empty; {excerpt(name, 60)} is none")
    return clean_name(name)


def _delete_originals(name: str, parcel: Parcel) -> None:
    from telemetry.sdk.bytes.packing import remove_originals

    kept = remove_originals(parcel)
    if kept:
        log.warning("artifact %r is stored; %s stays, as it was changed meanwhile or can't be deleted", name, kept[0])
