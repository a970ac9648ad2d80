"""tensorboardX: an event file; each add_scalar is one record of it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any


class Adapter:
    """SummaryWriter with its defaults."""

    def __init__(self, case: str, folder: Path) -> None:
        self._logs = folder / "runs"

    def load(self) -> None:
        """Import."""
        from tensorboardX import SummaryWriter

        self._writer_class = SummaryWriter

    def open(self) -> Any:
        """Begin an event file."""
        self._writer = self._writer_class(str(self._logs))
        add = self._writer.add_scalar
        tags = {(title, f"series {k}"): f"{title}/series_{k}" for title in ("train", "validation") for k in range(5)}
        return lambda title, series, value, iteration: add(tags[title, series], value, iteration)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()

    def count(self) -> int | None:
        """Walk the TFRecord framing (length, its checksum, data, its checksum); the first record is the version."""
        records = 0
        for path in self._logs.glob("events*"):
            data, offset = path.read_bytes(), 0
            while offset + 12 <= len(data):
                (length,) = struct.unpack_from("<Q", data, offset)
                offset += 12 + length + 4
                records += offset <= len(data)
            records -= 1
        return records
