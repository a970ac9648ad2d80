"""How queries name a metric: by the MD5 of its title and of its series, as `last_metrics.<md5>.<md5>.value`."""

from __future__ import annotations

import hashlib

__all__ = ["md5_columns", "md5_of"]


def md5_of(text: str) -> str:
    """Return the hexadecimal MD5 of a title or series; it names and protects nothing."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def md5_columns(title: str, series: str) -> dict[str, str]:
    """Return the columns of `metrics` that follow from the names."""
    return {"title_md5": md5_of(title), "series_md5": md5_of(series)}
