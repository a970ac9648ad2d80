"""A DataFrame that is uploaded again when it has changed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from telemetry.process.interrupts import is_interrupt

__all__ = ["RegisteredFrame"]

# Looking at a frame costs a hash of it: at most a fiftieth of the time goes into that.
_REST = 50.0


class RegisteredFrame:
    """See connected.ConnectedSource.

    Args:
        upload: takes the frame as it is now.
        is_last: says that nobody will look again.
    """

    def __init__(
        self, name: str, frame: Any, upload: Callable[[], object], *, is_last: Callable[[], bool] = lambda: False
    ) -> None:
        self.name = name
        self.frame = frame
        self.ended = False
        self._upload = upload
        self._is_last = is_last
        self._digest = ""
        self._next_look_s = 0.0

    def sync(self, names: Iterable[str] | None = None) -> None:
        """Upload the frame if it has changed since; a large one is not looked at each time, but for the last."""
        began_s = time.monotonic()
        if self.ended or (began_s < self._next_look_s and not self._is_last()):
            return
        digest = _digest_of(self.frame)
        if digest != self._digest:
            self._upload()
            # Only now: an upload that failed is tried again.
            self._digest = digest
        self._next_look_s = time.monotonic() + _REST * (time.monotonic() - began_s)


def _digest_of(frame: Any) -> str:
    """Return what changes when a cell, a label or a dtype does."""
    import pandas as pd

    digest = hashlib.sha256(repr((list(frame.columns), list(map(str, frame.dtypes)), frame.index.names)).encode())
    try:
        digest.update(pd.util.hash_pandas_object(frame, index=True).to_numpy().tobytes())
    except TypeError as error:  # cells that have no hash, such as lists
        if is_interrupt(error):
            raise
        digest.update(frame.to_csv().encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
