"""Model files that frameworks save and load: they become models of the task, on a thread of ours.

A save becomes an output model named after the file; the same name again is the same model, of which the last snapshot
counts. With an output_uri its bytes are uploaded. A load becomes an input model: the very model that the file is, if
this machine knows it (index.py), else one of the file's path, which the server may still recognise.
"""

from __future__ import annotations

import hashlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

from telemetry.disk import DaemonExecutor
from telemetry.process import lifecycle
from telemetry.process.interrupts import is_interrupt
from telemetry.record import BlobState, Section
from telemetry.sdk.models.book import ModelBook, ModelOwner, local_fields, weights_parcel
from telemetry.sdk.models.index import KnownModel, ModelIndex

__all__ = ["ModelFiles"]

log = logging.getLogger(__name__)

# A loader that reads each sample of a data set with torch.load would fill the record with them.
MAX_LOADED = 100

# Paths that are looked at; of those that come after, nothing is looked at.
_MAX_REMEMBERED = 20_000

# What waits for the thread; a program that loads faster than files can be looked at loads no models.
_MAX_WAITING = 1000

# What the end waits for the thread, in seconds.
SETTLE_TIMEOUT_S = 3.0


class ModelFiles:
    """See the module. Nothing here raises into the program.

    Args:
        keeps: upload what is saved.
    """

    def __init__(self, core: ModelOwner, book: ModelBook, *, keeps: bool) -> None:
        self._core = core
        self._book = book
        self._keeps = keeps
        self._index = ModelIndex(core.settings.state_dir, core.settings.mode)
        self.reset_after_fork()
        lifecycle.watch_forks(self)

    def reset_after_fork(self) -> None:
        """In a forked child: a thread of its own."""
        self._thread = DaemonExecutor("telemetry-models")
        self._loaded: dict[str, None] = {}
        # Appending and taking are one atomic call each; a lock could be held across a fork.
        self._waiting: deque[None] = deque()

    def saved(self, path: str, *, name: str | None, framework: str, iteration: int | None) -> None:
        """Take note of a file or folder that was written."""
        self._later(lambda: self._note_saved(path, name, framework, iteration))

    def loaded(self, path: str, *, framework: str) -> None:
        """Take note of a file or folder that was read."""
        if path in self._loaded or len(self._loaded) >= _MAX_REMEMBERED:
            return
        self._loaded[path] = None
        if len(self._loaded) == MAX_LOADED + 1:
            log.info(
                "more than %d files were loaded as models; further ones are recorded if a task made them", MAX_LOADED
            )
        known_only = len(self._loaded) > MAX_LOADED
        self._later(lambda: self._note_loaded(path, framework, known_only=known_only))

    def settle(self) -> None:
        """Return when what was saved and loaded so far is in the record."""
        if not self._waiting:
            return
        try:
            self._thread.submit(lambda: None).result(SETTLE_TIMEOUT_S)
        except (TimeoutError, RuntimeError) as error:
            if is_interrupt(error):
                raise
            log.debug("models are still being looked at: %r", error)

    def _later(self, work: Callable[[], None]) -> None:
        if len(self._waiting) >= _MAX_WAITING:
            return
        self._waiting.append(None)

        def run() -> None:
            try:
                work()
            except Exception as error:
                log.warning("a model file was not recorded: %s", error)
                log.debug("a model file was not recorded", exc_info=error)
            finally:
                self._waiting.popleft()

        self._thread.submit(run)

    def _note_saved(self, path: str, name: str | None, framework: str, iteration: int | None) -> None:
        name = name or PurePath(path).stem or path
        entry = self._book.named(name) or self._book.new(name=name)
        if "://" in path:
            # A framework that writes into buckets by itself.
            entry.register(path, filename=PurePath(path).name, framework=framework, path=path)
            return
        place = local_fields(path)
        file = Path(place["path"])
        fields: dict[str, Any] = {**place, "framework": framework, "is_package": file.is_dir()}
        if iteration is not None:
            fields["iteration"] = entry.moved(iteration)
        known = KnownModel(entry.id, self._core.header.task_id, name, framework)
        parcel = weights_parcel(self._core, name, file) if self._keeps else None
        if parcel is None:
            # The path is where it is: the page's default.
            entry.register(file.as_uri() if file.exists() else "", filename=file.name, **fields)
        else:
            entry.upload(parcel, target=None, **fields)
        self._index.note(file, known)

    def _note_loaded(self, path: str, framework: str, *, known_only: bool) -> None:
        place = local_fields(path)
        file = Path(place["path"])
        known = self._index.find(file)
        if known is None:
            if known_only or not file.exists():
                return
            known = KnownModel(_id_of_file(place), "", file.stem, framework)
        if known.task == self._core.header.task_id:
            return  # its own checkpoint
        entry = self._book.open(Section.INPUT_MODELS, known.id) or self._book.new(Section.INPUT_MODELS, known.id)
        entry.update(
            {
                **place,
                "name": known.name,
                "framework": known.framework or framework,
                "task": known.task,
                "filename": file.name,
                "uri": "" if known.task else file.as_uri(),
                "state": "" if known.task else BlobState.STORED,
                "is_package": file.is_dir(),
            }
        )


def _id_of_file(place: dict[str, Any]) -> str:
    """Return the id of a model that no task made: the same for the same file, as long as it stays as it is."""
    parts = (socket.gethostname(), place["path"], place.get("size_bytes"), place.get("mtime_ns"))
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()[:32]
