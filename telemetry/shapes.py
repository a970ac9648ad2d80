"""Typed views of values that somebody else wrote: a record keeps what was sent, and whoever reads it trusts no shape.

Each function returns a value of the type that its name says, whatever it is given, and raises nothing. What has
another type counts as not being there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from telemetry.events import INT64_MAX, INT64_MIN

__all__ = ["mapping", "text", "texts", "whole"]


def text(value: Any, default: str = "") -> str:
    """Return a text as it is; anything else is `default`."""
    return value if isinstance(value, str) else default


def texts(value: Any) -> list[str]:
    """Return the texts of a list, each once and in their order; what is no list has none."""
    return list(dict.fromkeys(item for item in value if isinstance(item, str))) if isinstance(value, list) else []


def whole(value: Any, default: int = 0, *, low: int = INT64_MIN) -> int:
    """Return an int64 of at least `low` as it is; anything else, a bool too, is `default`."""
    return value if type(value) is int and low <= value <= INT64_MAX else default


def mapping(value: Any) -> dict[str, Any]:
    """Return a copy of a map; anything else is an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}
