"""Drawing matplotlib figures: what is on the screen as a PNG, on the thread that asks for it."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from typing import Any

from telemetry.errors import InvalidEvent

__all__ = ["Drawn", "draw", "is_drawing"]

_state = threading.local()


@dataclass(frozen=True, slots=True)
class Drawn:
    """A PNG file and its size in pixels."""

    png: bytes
    width: int
    height: int


def draw(figure: Any) -> Drawn:
    """Return a matplotlib figure, or pyplot's current one, as it looks.

    Raises:
        InvalidEvent: it is neither.
    """
    if hasattr(figure, "gcf"):
        figure = figure.gcf()
    elif not hasattr(figure, "savefig") and hasattr(figure, "get_figure"):
        figure = figure.get_figure()
    if not hasattr(figure, "savefig"):
        raise InvalidEvent(f"a matplotlib Figure or pyplot is needed, not {type(figure).__name__}")
    file = io.BytesIO()
    _state.drawing = True
    try:
        figure.savefig(file, format="png", dpi=figure.get_dpi())
    finally:
        _state.drawing = False
    png = file.getvalue()
    return Drawn(png, int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big"))


def is_drawing() -> bool:
    """Say whether this thread is drawing for us: what it saves then is none of the program's own."""
    return getattr(_state, "drawing", False)
