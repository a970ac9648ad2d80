"""Values as the API's JSON carries them."""

from __future__ import annotations

import base64
import math
from typing import Any, TypeAlias

__all__ = ["Json", "json_number", "json_value", "unix_ms"]

# An object of an answer.
Json: TypeAlias = dict[str, Any]


def json_number(value: float | None) -> float | str:
    """Return a float as JSON can carry it; None stands for NaN, as in the store's own columns."""
    if value is None or math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def json_value(value: Any) -> Any:
    """Return a value of the record with its bytes and its numbers that are not finite as JSON can carry them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else json_number(value)
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [json_value(item) for item in value]
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    return value


def unix_ms(time_unix_ns: int | None) -> int | None:
    """Return a time as the API tells it."""
    return None if time_unix_ns is None else time_unix_ns // 1_000_000
