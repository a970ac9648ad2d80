"""How queries name a metric: by the MD5 of its title and of its series, as `last_metrics.<md5>.<md5>.value`."""

from __future__ import annotations

import hashlib

__all__ = ["keys_of_path", "md5_columns", "md5_key", "md5_of"]


def md5_of(text: str) -> str:
    """Return the hexadecimal MD5 of a title or series; it names and protects nothing."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def md5_key(title_md5: str, series_md5: str) -> bytes:
    """Return what the store finds a metric by: both, 16 bytes each. There are many metrics, and each is indexed."""
    return bytes.fromhex(title_md5 + series_md5)


def md5_columns(title: str, series: str) -> dict[str, bytes]:
    """Return the column of `metrics` that follows from the names."""
    return {"md5": md5_key(md5_of(title), md5_of(series))}


def keys_of_path(path: str) -> list[bytes]:
    """Return the keys of all metrics that "title/series" may mean: either name may hold slashes."""
    slashes = (at for at, letter in enumerate(path) if letter == "/")
    return [md5_key(md5_of(path[:at]), md5_of(path[at + 1 :])) for at in slashes]
