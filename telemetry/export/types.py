"""What an export is made of: a task's series, console lines and events, as the server hands them out."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Console", "Events", "ExportedPlot", "Series", "json_value"]


@dataclass(frozen=True, slots=True)
class Series:
    """All points of one series, by (iteration, time, bits of the value).

    Attributes:
        kind: "scalar" or "resource".
        rank: None where the task has one process.
        iterations: int64[n]; for kind "resource" the Unix time in milliseconds.
        times_unix_ns: int64[n].
        values: float64[n], every bit kept.
    """

    kind: str
    title: str
    series: str
    unit: str
    rank: int | None
    iterations: npt.NDArray[np.int64]
    times_unix_ns: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Events:
    """A task's record, single values, models and media, in an order that arrival does not change.

    Attributes:
        record: [section, key, time in Unix ns, writer id, value].
        values: [name, time in Unix ns, float64].
        models: [time in Unix ns, name, path, framework, iteration or None, bytes or None].
        media: [title, series, iteration, time in Unix ns, writer id, uri, filename, content type, bytes or None].
    """

    record: list[list[Any]]
    values: list[list[Any]]
    models: list[list[Any]]
    media: list[list[Any]]

    @classmethod
    def of_page(cls, page: dict[str, Any]) -> Events:
        return cls(page["record"], page["values"], page["models"], page["media"])


@dataclass(frozen=True, slots=True)
class Console:
    """A task's console lines: [time in Unix ns, writer id, sequence number, stream, level or None, text]."""

    lines: list[list[Any]]

    def __len__(self) -> int:
        return len(self.lines)


@dataclass(frozen=True, slots=True)
class ExportedPlot:
    """One figure of a task: plotly's JSON as it was reported, or "" and the sha256 of a blob that is it."""

    title: str
    series: str
    iteration: int
    time_unix_ns: int
    writer: bytes
    figure: str
    blob: str


def json_value(value: Any) -> Any:
    """Return a value of the record as JSON can carry it: numbers that are not finite as text, bytes as base64."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [json_value(item) for item in value]
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    return value
