"""Reading query parameters: each function returns a sound value or answers 400 with what is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any

import orjson
from aiohttp import web

__all__ = ["choice", "flag", "integer", "integers", "json_object", "number", "task_id_of", "text", "words"]

_TASK_ID = re.compile(r"[0-9a-f]{32}")
_MAX_TEXT_CHARS = 2000
_INT64_MAX = 2**63 - 1


def task_id_of(value: str) -> str:
    """Return a task id, if `value` can be one."""
    if not _TASK_ID.fullmatch(value):
        raise web.HTTPBadRequest(text=f"{value!r:.60} is not a task id (32 lower-case hexadecimal digits)")
    return value


def text(request: web.Request, name: str) -> str | None:
    """Return a parameter as it is; None where it is absent or empty."""
    value = request.query.get(name)
    if value is not None and len(value) > _MAX_TEXT_CHARS:
        raise web.HTTPBadRequest(text=f"{name} is longer than {_MAX_TEXT_CHARS} characters")
    return value or None


def words(request: web.Request, name: str, *, most: int) -> tuple[str, ...]:
    """Return the words of a parameter that may be given several times and hold several, separated by commas."""
    found = [word for value in request.query.getall(name, []) for word in value.split(",") if word]
    if len(found) > most or any(len(word) > _MAX_TEXT_CHARS for word in found):
        raise web.HTTPBadRequest(text=f"{name} has {len(found)} words; at most {most} are taken")
    return tuple(dict.fromkeys(found))


def choice(request: web.Request, name: str, allowed: Collection[str]) -> str | None:
    """Return a parameter that must be one of `allowed`, or None where it is absent or empty."""
    value = request.query.get(name)
    if not value:
        return None
    if value not in allowed:
        raise web.HTTPBadRequest(text=f"{name} is {value!r:.60}; it must be one of {', '.join(allowed)}")
    return value


def flag(request: web.Request, name: str) -> bool:
    """Return True for 1, False for 0 or where it is absent."""
    return choice(request, name, ("0", "1")) == "1"


def integer(
    request: web.Request, name: str, default: int | None, *, low: int = 0, high: int = _INT64_MAX
) -> int | None:
    """Return an integer within low..high, or `default` where it is absent or empty."""
    value = request.query.get(name)
    if not value:
        return default
    return _integer(name, value, low, high)


def integers(request: web.Request, name: str, *, most: int) -> list[int]:
    """Return a comma-separated list of 1 to `most` different integers, in the order given."""
    parts = [part for part in request.query.get(name, "").split(",") if part]
    if not parts:
        raise web.HTTPBadRequest(text=f"{name} is missing: give one or more ids, separated by commas")
    if len(parts) > most:
        raise web.HTTPBadRequest(text=f"{name} has {len(parts)} ids; at most {most} are answered at once")
    return list(dict.fromkeys(_integer(name, part, 0, _INT64_MAX) for part in parts))


async def json_object(request: web.Request, allowed: Collection[str]) -> dict[str, Any]:
    """Return the body, which must be a JSON object with no keys but the allowed ones."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(
            text=f"the content type is {request.content_type!r:.80}; it must be application/json"
        )
    try:
        value = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise web.HTTPBadRequest(text=f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise web.HTTPBadRequest(text=f"the body must be a JSON object with {', '.join(allowed)}")
    unknown = sorted(set(value) - set(allowed))
    if unknown:
        raise web.HTTPBadRequest(
            text=f"the body has {', '.join(map(repr, unknown)):.200}; it takes {', '.join(allowed)}"
        )
    return value


def number(request: web.Request, name: str, *, above: float = -math.inf) -> float | None:
    """Return a finite number greater than `above`, or None where it is absent or empty."""
    value = request.query.get(name)
    if not value:
        return None
    try:
        parsed = float(value)
    except ValueError:
        parsed = math.nan
    if not math.isfinite(parsed) or parsed <= above:
        raise web.HTTPBadRequest(text=f"{name} is {value!r:.60}; it must be a number greater than {above:g}")
    return parsed


def _integer(name: str, value: str, low: int, high: int) -> int:
    # int() would take "1_000", " 7 " and digits of other scripts, and unbounded lengths.
    if not re.fullmatch(r"-?[0-9]{1,19}", value, re.ASCII) or not low <= int(value) <= high:
        raise web.HTTPBadRequest(text=f"{name} is {value!r:.60}; it must be a whole number from {low} to {high}")
    return int(value)
