"""Files and folders of the user's as artifacts: which ones a path means, and how several become one zip."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from telemetry.disk import absolute_path
from telemetry.errors import ConfigurationError
from telemetry.process.interrupts import is_interrupt
from telemetry.sdk.bytes.parcel import (
    MAX_PREVIEW_CHARS,
    PackedFile,
    Parcel,
    content_type_of,
    file_preview,
    file_stem,
    new_scratch_path,
    shortened,
)

__all__ = ["URL_SCHEMES", "is_url", "local_path", "looks_like_path", "pack_path", "pack_paths", "remove_originals"]

# A string with one of these is registered and not uploaded.
URL_SCHEMES = ("http", "https", "s3", "gs", "azure")

# No path is longer on Linux; and nobody wants a stat() of a megabyte of text.
_MAX_PATH_CHARS = 2048
_WILDCARDS = re.compile(r"[*?\[]")
_BLANK = re.compile(r"<[^<>\n]*>")

# "model.pt", "data.csv.gz": one word with an extension at its end.
_FILE_NAME = re.compile(r"[^\s]+\.[A-Za-z]\w{0,9}")


def is_url(text: str) -> bool:
    """Say whether a text is the address of something on a network, or in a bucket."""
    scheme, separator, rest = text.partition("://")
    # "azure://<account name>.blob...": a blank to be filled in may have spaces in it.
    words = _BLANK.sub("_", text).split()
    return bool(separator and rest) and scheme.lower() in URL_SCHEMES and len(words) == 1


def local_path(text: str) -> Path | None:
    """Return what a text would be as a path; None for one that cannot be one. file:// and "~" are understood."""
    if not text.strip() or len(text) > _MAX_PATH_CHARS or "\0" in text or "\n" in text:
        return None
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    try:
        return Path(text).expanduser()
    except RuntimeError:  # "~nobody/file"
        return Path(text)


def looks_like_path(text: str) -> bool:
    """Say whether whoever wrote this text is likely to have meant a file."""
    text = text.strip()
    if local_path(text) is None or len(text) > 512:
        return False
    if text.startswith(("/", "./", "../", "~/", "file://")) or re.match(r"[A-Za-z]:\\", text):
        return True
    return _FILE_NAME.fullmatch(text) is not None


@dataclass(slots=True)
class _File:
    """A file that goes as it is; `packed` is what it was when it was read."""

    path: Path
    packed: list[PackedFile] = field(default_factory=list)

    def __call__(self) -> Path:
        self.packed.append((self.path, _mark(self.path)))
        return self.path


@dataclass(slots=True)
class _Pack:
    """Files that become one zip, off the caller's thread. `base`: what their names in the zip are relative to."""

    base: Path
    roots: Sequence[Path]
    scratch: Path
    packed: list[PackedFile] = field(default_factory=list)

    def __call__(self) -> Path:
        """Write the zip, a few blocks at a time, and return its path.

        Raises:
            OSError: a file can't be read. Nothing is left behind.
        """
        target = new_scratch_path(self.scratch, ".zip")
        try:
            # Level 1: data is often compressed already, and the disk is to be the slow part.
            with zipfile.ZipFile(
                target, "w", zipfile.ZIP_DEFLATED, compresslevel=1, strict_timestamps=False
            ) as archive:
                for file in files_below(self.roots):
                    mark = _mark(file)
                    archive.write(file, file.relative_to(self.base).as_posix())
                    self.packed.append((file, mark))
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return target


def files_below(roots: Iterable[Path]) -> Iterator[Path]:
    """Yield each file of files and folders once, in order. Folders that are links are not entered."""
    seen: set[Path] = set()
    for root in roots:
        found = [root] if not root.is_dir() else _walk(root)
        for file in found:
            if file not in seen and file.is_file():
                seen.add(file)
                yield file


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(parent, name)


def pack_path(name: str, text: str | Path, scratch: Path) -> Parcel | None:
    """Return the parcel of an existing file, folder, or wildcard with matches; None if nothing is there.

    A file goes as it is, with its own name; a folder or what matches a wildcard (in folders below as well) as a zip.
    The user's files are read when the upload comes to them, not now.
    """
    path = text if isinstance(text, Path) else local_path(text)
    if path is None:
        return None
    try:
        if path.is_file():
            content_type = content_type_of(path.name)
            absolute = absolute_path(path)
            file = _File(absolute)
            return Parcel(
                kind="custom",
                filename=path.name,
                content_type=content_type,
                source=file,
                preview=file_preview(absolute, content_type),
                originals=[absolute],
                packed=file.packed,
            )
        if path.is_dir():
            folder = absolute_path(path)
            return _zip_parcel(f"{file_stem(folder.name or name)}.zip", folder, [folder], scratch)
        if _WILDCARDS.search(str(path)):
            base, pattern = _split_wildcard(path)
            found = sorted(item for item in base.rglob(pattern) if item.is_file()) if base.is_dir() else []
            if found:
                return _zip_parcel(f"{file_stem(base.name or name)}.zip", base, found, scratch)
    except (OSError, ValueError, NotImplementedError) as error:
        if is_interrupt(error):
            raise
        return None  # no path after all: a name too long, a pattern that is none
    return None


def pack_paths(name: str, items: Sequence[Any], scratch: Path) -> Parcel | None:
    """Return the parcel of a list of paths, one zip; None for a list of something else.

    A list of texts counts if each of them names something that is there, and looks like a path.

    Raises:
        ConfigurationError: a Path in it does not exist.
    """
    if not items or not all(isinstance(item, (str, Path)) for item in items):
        return None
    if not any(isinstance(item, Path) for item in items) and not all(looks_like_path(item) for item in items):
        return None
    paths = [(item if isinstance(item, Path) else local_path(item) or Path(item)) for item in items]
    missing = [path for path in paths if not path.exists()]
    if missing and not any(isinstance(item, Path) for item in items):
        return None
    if missing:
        raise ConfigurationError(f"{', '.join(map(str, missing[:5]))} does not exist. Nothing was uploaded")
    # Absolute, so that a relative one is found and has a place relative to the others. Without resolving links:
    # the zip has the names that the user sees.
    absolute = [Path(os.path.normpath(absolute_path(path))) for path in paths]
    parents = [path if path.is_dir() else path.parent for path in absolute]
    base = Path(os.path.commonpath(parents))
    return _zip_parcel(f"{file_stem(name)}.zip", base, absolute, scratch)


def _zip_parcel(filename: str, base: Path, roots: Sequence[Path], scratch: Path) -> Parcel:
    pack = _Pack(base, roots, scratch)
    return Parcel(
        kind="archive",
        filename=filename,
        content_type="application/zip",
        source=pack,
        removes_source=True,
        preview=_listing(base, roots),
        originals=list(roots),
        packed=pack.packed,
    )


def _listing(base: Path, roots: Sequence[Path]) -> str:
    lines, length = [], 0
    for file in files_below(roots):
        try:
            lines.append(f"{file.relative_to(base).as_posix()} - {file.stat().st_size:,} bytes")
        except OSError as error:
            if is_interrupt(error):
                raise
            continue
        length += len(lines[-1]) + 1
        if length > MAX_PREVIEW_CHARS:
            break
    return shortened("\n".join(lines))


def _split_wildcard(path: Path) -> tuple[Path, str]:
    """Return the folder before the first wildcard, and the pattern from there on."""
    parts = path.parts
    first = next(index for index, part in enumerate(parts) if _WILDCARDS.search(part))
    return absolute_path(Path(*parts[:first]) if first else Path()), str(Path(*parts[first:]))


def _mark(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def remove_originals(parcel: Parcel) -> list[Path]:
    """Delete the user's files that are in a parcel which was stored; return those that stay.

    One that was written anew since it was packed stays. Folders stay while something is in them.
    """
    kept = []
    for file, mark in parcel.packed:
        try:
            if file.exists() and _mark(file) != mark:
                kept.append(file)
                continue
            file.unlink(missing_ok=True)
        except OSError as error:
            if is_interrupt(error):
                raise
            kept.append(file)
    for root in parcel.originals:
        if root.is_dir():
            _remove_empty(root)
    return kept


def _remove_empty(folder: Path) -> None:
    for parent, _, _ in os.walk(folder, topdown=False):
        try:
            Path(parent).rmdir()
        except OSError as error:
            if is_interrupt(error):
                raise
            # something is still in it, or may not be removed: it stays
