"""Stores whose points lie in each place where points may lie: a test of reading runs on each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from telemetry.server.store import FrameContent, Store, Written
from telemetry.server.store import sealing as sealing_module

__all__ = ["PLACES", "store_with_points"]

# In memory; read from the log again after a start; in blocks and chunks of each write; in those that were merged.
PLACES = ("memory", "log", "sealed", "merged")


class _Moving(Store):
    """A store that moves its points on after each write."""

    def __init__(self, directory: Path, place: str, **options: Any) -> None:
        self._open: Callable[[], None] = lambda: super(_Moving, self).__init__(directory, **options)
        self._place = place
        self._open()

    def write(self, contents: Sequence[FrameContent]) -> Written:
        written = super().write(contents)
        if self._place == "log":
            self.close()
            self._open()
        elif self._place in ("sealed", "merged"):
            self.point_store.seal_all()
        return written


def store_with_points(place: str, directory: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[Store]:
    """Yield a store whose points go to one of PLACES after each write."""
    if place == "merged":
        monkeypatch.setattr(sealing_module, "FAN_IN", 2)
    opened = _Moving(directory, place, **options)
    yield opened
    opened.close()
