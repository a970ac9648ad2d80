"""What the tests of reports share: an Emit that keeps what it is given, and pixels out of a PNG file."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from telemetry.events import Event


class Kept:
    """An Emit that keeps its events and the reasons of what was refused."""

    latest_iteration = 0

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.mark = 1000
        self.events: list[Event] = []
        self.refused: list[str] = []

    def __call__(self, event: Event) -> bool:
        self.events.append(event)
        return True

    def crossed(self) -> None:
        self.rows.clear()

    def refuse(self, reason: str, message: str) -> None:
        self.refused.append(message)


def pixels_of(png: bytes) -> tuple[int, int, int, bytes]:
    """Return width, height, channels and the bytes of an unfiltered 8-bit PNG file; checks every checksum."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(png):
        size, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        data = png[at + 8 : at + 8 + size]
        assert int.from_bytes(png[at + 8 + size : at + 12 + size], "big") == zlib.crc32(kind + data)
        chunks[kind] = data
        at += 12 + size
    width, height, depth, color, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert depth == 8
    assert list(chunks)[-1] == b"IEND"
    channels = {0: 1, 4: 2, 2: 3, 6: 4}[color]
    raw, stride = zlib.decompress(chunks[b"IDAT"]), width * channels + 1
    rows = [raw[start : start + stride] for start in range(0, len(raw), stride)]
    assert len(rows) == height
    assert {row[0] for row in rows} == {0}
    return width, height, channels, b"".join(row[1:] for row in rows)
