"""Where artifacts and models are kept besides the server: folders and object stores, by the address in `output_uri`.

    /mnt/share/folder, file:///mnt/share/folder      a folder
    s3://bucket/folder                               Amazon S3
    s3://host:port/bucket/folder                     another service that speaks S3; the port is required
    gs://bucket/folder                               Google Cloud Storage
    azure://account.blob.core.windows.net/container/folder

The object stores need the extra [storage] (bucket.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from urllib.parse import unquote

from telemetry.errors import ConfigurationError
from telemetry.process.threads import start_daemon
from telemetry.storage.target import FolderTarget, Target

__all__ = [
    "CHECK_TIMEOUT_S",
    "FolderTarget",
    "Target",
    "check_target",
    "is_storage",
    "open_target",
    "read_storage",
]

# At Task.init, which otherwise waits for nothing: a wrong key must not be found at the end of the training.
CHECK_TIMEOUT_S = 5.0

_BUCKETS = ("s3", "gs", "azure")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def open_target(uri: str | os.PathLike[str]) -> Target:
    """Return the place at an address. Nothing is asked yet.

    Raises:
        ConfigurationError: the address is of no kind that is known, or lacks a part.
    """
    text = os.fspath(uri).strip()
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found else "file"
    if scheme == "file":
        return FolderTarget(text)
    if scheme in _BUCKETS:
        from telemetry.storage.bucket import BucketTarget

        return BucketTarget(text)
    further = "; for the server itself give True" if scheme in ("http", "https") else ""
    raise ConfigurationError(
        f"output_uri {text!r:.200} is of no kind that is known: give True for the server, a folder, s3://bucket/folder,"
        f" s3://host:port/bucket, gs://bucket/folder or azure://account.blob.core.windows.net/container{further}"
    )


def is_storage(uri: str) -> bool:
    """Say whether a uri is one that `read_storage` reads: in an object store."""
    found = _SCHEME.match(uri)
    return found is not None and found[1].lower() in _BUCKETS


def read_storage(uri: str, on_piece: Callable[[bytes], object]) -> None:
    """Give the bytes of an object to `on_piece`, piece by piece.

    Raises:
        BlobError: there is nothing, or it cannot be read. ConfigurationError: the extra [storage] is missing.
    """
    folder, _, name = uri.rpartition("/")
    open_target(folder).read(unquote(name), on_piece)


def check_target(target: Target, timeout_s: float = CHECK_TIMEOUT_S) -> None:
    """Check a place within a time: see Target.check. A file system that hangs counts as one that cannot be used.

    Raises:
        ConfigurationError: it cannot be used.
    """
    errors: list[BaseException] = []

    def check() -> None:
        try:
            target.check(timeout_s)
        except BaseException as error:  # noqa: BLE001  it is raised below, in the caller's thread
            errors.append(error)

    thread = start_daemon(check, "telemetry-check")
    if thread is None:
        check()  # at the caller's risk: where it hangs, so does the call
    else:
        thread.join(timeout_s + 0.5)
    if thread is not None and thread.is_alive():
        raise ConfigurationError(f"output_uri {target.uri} did not answer within {timeout_s:g} s. No task was started")
    if errors:
        raise errors[0]
