"""What the loop costs with nothing behind it, and with a deque behind it."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any


class Adapter:
    """floor_empty, floor_deque."""

    def __init__(self, case: str, folder: Path) -> None:
        self._keep = case == "floor_deque"
        self._rows: deque[tuple[str, str, float, int, int]] = deque()

    def load(self) -> None:
        """Nothing to import."""

    def open(self) -> Any:
        """Return the method that is called."""
        return self._deque if self._keep else self._empty

    def _empty(self, title: str, series: str, value: float, iteration: int) -> None:
        return

    def _deque(self, title: str, series: str, value: float, iteration: int) -> None:
        self._rows.append((title, series, value, iteration, time.time_ns()))

    def close(self) -> None:
        """Nothing to close."""

    def count(self) -> int | None:
        """There is no store."""
        return None
