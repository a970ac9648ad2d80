"""Parcel: what an object or several files have become, before anybody says where it goes; and its scratch file."""

from __future__ import annotations

import io
import logging
import mimetypes
import os
import re
import reprlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

from telemetry.disk import make_private_folder
from telemetry.events import clean_text
from telemetry.process.interrupts import is_interrupt

__all__ = [
    "MAX_PREVIEW_CHARS",
    "SCRATCH",
    "PackedFile",
    "Parcel",
    "Scratch",
    "Source",
    "content_type_of",
    "file_preview",
    "file_stem",
    "new_scratch_path",
    "shortened",
    "text_of_object",
]

log = logging.getLogger(__name__)

# A page shows it beside the artifact; whoever wants the whole text downloads it.
MAX_PREVIEW_CHARS = 65_536

# The folder in the state directory in which objects are written and folders packed.
SCRATCH = "scratch"

# What stays in memory until it is uploaded; anything larger is written to a file at once.
MAX_MEMORY_BYTES = 1024 * 1024

# A file name may have 255 bytes, in UTF-8 four of them a character, and an extension follows.
_MAX_STEM_CHARS = 60

# Bytes, a file as it is, or what makes the file later, off the caller's thread.
Source: TypeAlias = "bytes | Path | Callable[[], Path]"

# A file, and its size in bytes and its time of change in nanoseconds.
PackedFile: TypeAlias = "tuple[Path, tuple[int, int]]"

_CONTENT_TYPES = {
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".csv.gz": "text/csv",
    ".parquet": "application/parquet",
    ".feather": "application/feather",
    ".pickle": "application/pickle",
    ".pkl": "application/pickle",
    ".npz": "application/numpy",
    ".npy": "application/numpy",
    ".zip": "application/zip",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".log": "text/plain",
}
_TEXT_TYPES = ("text/", "application/json", "application/yaml", "application/xml", "application/toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """An object, or files of the user's, as one file.

    Attributes:
        kind: the record's "type" of an artifact: dict, pandas, numpy, image, archive, custom, string or pickle.
        source: None where nothing is uploaded, as `uri` says where it is.
        removes_source: the file of `source` is deleted once its bytes are kept: it is a scratch file of ours.
        form: what the file does not tell by itself and `get` needs: dtypes of a CSV. Plain values.
        originals: the user's files and folders of which the artifact is made.
        packed: which files those were, each with its size and time when it was read: filled while `source` is.
    """

    kind: str = "custom"
    filename: str
    content_type: str = ""
    source: Source | None
    removes_source: bool = False
    uri: str = ""
    preview: str = ""
    form: dict[str, Any] | None = None
    originals: Sequence[Path] = field(default_factory=list)
    packed: list[PackedFile] = field(default_factory=list)


class Scratch(io.BufferedIOBase):
    """A file to write an object into: in memory while it is small, in `folder` from then on.

    The object is written while the caller waits, so that no later change of it can show, and no second
    copy of something large has to be held.
    """

    def __init__(self, folder: Path, *, max_memory_bytes: int = MAX_MEMORY_BYTES) -> None:
        self._folder = folder
        self._max_memory_bytes = max_memory_bytes
        self._file: IO[bytes] = io.BytesIO()
        self._path: Path | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        written = self._file.write(data)
        if self._path is None and self._file.tell() > self._max_memory_bytes:
            self._move_to_disk()
        return written

    def read(self, size: int | None = -1, /) -> bytes:
        return self._file.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        # IOBase flushes once more when it is thrown away.
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        """Do nothing: a writer closes what it has written; take() and discard() end it."""

    def take(self) -> tuple[Source, bool]:
        """Return what was written: bytes, or the path of a scratch file and True."""
        # Or the interpreter would close it when it throws it away, where whatever a signal handler raises is lost.
        super().close()
        if self._path is None:
            assert isinstance(self._file, io.BytesIO)
            return self._file.getvalue(), False
        self._file.close()
        return self._path, True

    def discard(self) -> None:
        """Delete what was written."""
        super().close()
        self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _move_to_disk(self) -> None:
        assert isinstance(self._file, io.BytesIO)
        memory, position = self._file, self._file.tell()
        path = new_scratch_path(self._folder)
        self._file = path.open("w+b")
        self._path = path
        self._file.write(memory.getbuffer())
        self._file.seek(position)


def new_scratch_path(folder: Path, suffix: str = "") -> Path:
    """Return a new, empty file of this user's alone."""
    make_private_folder(folder)
    handle, path = tempfile.mkstemp(prefix="artifact-", suffix=suffix, dir=folder)
    os.close(handle)
    return Path(path)


# ---- names and previews ----------------------------------------------------------------------------


def file_stem(name: str) -> str:
    """Return an artifact's or model's name as the beginning of a file name: letters, digits, "._- " and the like."""
    stem = re.sub(r"[^\w.\- +=@()\[\]]", "_", name).strip(" .")
    return stem[:_MAX_STEM_CHARS] or "artifact"


def content_type_of(filename: str) -> str:
    """Return the content type that a file's name tells; application/octet-stream for no telling name."""
    lowered = filename.lower()
    for extension, known in _CONTENT_TYPES.items():
        if lowered.endswith(extension):
            return known
    guessed, encoding = mimetypes.guess_type(lowered)
    return guessed if guessed and not encoding else "application/octet-stream"


def shortened(text: str) -> str:
    """Return a text as a preview: its beginning, of 65,536 characters at most."""
    if len(text) > MAX_PREVIEW_CHARS:
        text = text[: MAX_PREVIEW_CHARS - 1] + "…"
    return clean_text(text)


def file_preview(path: Path, content_type: str) -> str:
    """Return the beginning of a text file; "" for any other, and for one that can't be read."""
    if not content_type.startswith(_TEXT_TYPES) or path.name.lower().endswith(".gz"):
        return ""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PREVIEW_CHARS + 1)
        # A character may be cut in two at the end.
        text = data.decode("utf-8", "ignore" if len(data) > MAX_PREVIEW_CHARS else "strict")
    except (OSError, UnicodeDecodeError) as error:
        if is_interrupt(error):
            raise
        return ""
    return shortened(text)


class _Shower(reprlib.Repr):
    def repr_instance(self, x: Any, level: int) -> str:
        # reprlib's own keeps whatever a `__repr__` raises, also what a signal handler has raised inside it.
        return _middle_out(repr(x), self.maxother)


def _middle_out(text: str, max_chars: int) -> str:
    half = max_chars // 2
    return text if len(text) <= max_chars else f"{text[:half]}...{text[-half:]}"


def text_of_object(value: Any) -> str:
    """Return what repr() shows of an object, without building the text of a huge list first."""
    shower = _Shower()
    shower.maxlist = shower.maxtuple = shower.maxdict = shower.maxset = shower.maxfrozenset = shower.maxdeque = 200
    shower.maxarray = 200
    shower.maxstring = shower.maxlong = 1000
    shower.maxother = MAX_PREVIEW_CHARS
    try:
        return shortened(shower.repr(value))
    except Exception as error:
        if is_interrupt(error):
            raise
        return f"<{type(value).__name__}>"
