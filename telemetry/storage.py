"""Where artifacts and models are kept besides the server: folders and object stores, by the address in `output_uri`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

__all__ = ["OnProgress", "Target"]

# Called with the bytes that are there so far.
OnProgress = Callable[[int], None]


class Target(Protocol):
    """A place for bytes, outside the server. Every method blocks and may be called from any thread.

    Attributes:
        uri: the address as it was given, without a slash at the end.
    """

    uri: str

    def put(self, key: str, source: Path, on_progress: OnProgress | None = None) -> str:
        """Copy a file to `key`, a path below the address; return its uri.

        Raises:
            BlobError: it could not be stored; nothing is there under that name, or what was there before.
        """

    def check(self, timeout_s: float) -> None:
        """Write and delete a small object.

        Raises:
            ConfigurationError: the place cannot be used; the text says which, why and what to set.
        """
