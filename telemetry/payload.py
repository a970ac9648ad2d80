"""Reading a frame's payload without trusting it: msgpack that comes from a stranger.

Objects are larger than their msgpack: an empty array is one byte on the wire and 80 in memory, and the header
of an array may claim what the payload does not hold. So a payload is first walked without building anything,
which finds out whether it is whole, how deep it is, and where its parts lie; arrays of many things are then
built piece by piece, and whoever takes the pieces checks each before the next is made.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgpack

from telemetry.errors import FrameError
from telemetry.events import SeriesKey

__all__ = ["MAX_KEYS", "Parts", "SeriesTables", "array_items", "build", "payload_parts"]

# A later version may add keys; an older reader steps over them.
MAX_KEYS = 64
MAX_KEY_BYTES = 64

# Built at once: becomes 20 MB at the worst, which is gone before the next is built.
PIECE_BYTES = 256 * 1024

# What one piece that is larger may hold: a record value of a million numbers is no value any more.
MAX_PIECE_OBJECTS = 262_144

# Series of which the name is kept with what was made of it.
MAX_KNOWN_SERIES = 100_000

# Key -> (first byte, one after the last).
Parts: TypeAlias = dict[str, tuple[int, int]]


class SeriesTables:
    """Series tables that were decoded, by their bytes: a writer sends the same one with nearly every frame.

    The least recently used go first. Safe from any thread.

    Args:
        max_bytes: about what they may take in memory together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._tables: dict[bytes, list[SeriesKey]] = {}
        # Those of all tables once: the tables of a writer differ less than their bytes do.
        self.known: dict[tuple[Any, ...], SeriesKey] = {}
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def get(self, packed: bytes) -> list[SeriesKey] | None:
        """Return the table of these bytes, shared by all who ask for it: nobody may change it."""
        with self._lock:
            table = self._tables.pop(packed, None)
            if table is not None:
                self._tables[packed] = table
            return table

    def add(self, packed: bytes, table: list[SeriesKey]) -> None:
        """Keep a table that was sound."""
        weight_bytes = _table_bytes(packed, table)
        with self._lock:
            # One that would drive out many others is decoded again.
            if packed in self._tables or weight_bytes > self._max_bytes // 4:
                return
            self._tables[packed] = table
            self._kept_bytes += weight_bytes
            if len(self.known) > MAX_KNOWN_SERIES:
                self.known = {}
            self.known.update(((key.kind, key.title, key.series, key.unit), key) for key in table)
            while self._kept_bytes > self._max_bytes:
                oldest = next(iter(self._tables))
                self._kept_bytes -= _table_bytes(oldest, self._tables.pop(oldest))


def _table_bytes(packed: bytes, table: list[SeriesKey]) -> int:
    # The key, and texts of up to 4 bytes a character; a series is five objects.
    return 100 + 5 * len(packed) + 300 * len(table)


def payload_parts(payload: bytes | memoryview) -> Parts:
    """Return where the value of each key of the payload's map lies.

    Raises:
        FrameError: it is not exactly one whole msgpack map with few, short keys, or is nested too deep.
    """
    walker = msgpack.Unpacker(max_buffer_size=max(1, len(payload)))
    walker.feed(payload)
    parts: Parts = {}
    try:
        keys = walker.read_map_header()
        if keys > MAX_KEYS:
            raise FrameError(f"the payload has {keys} keys, at most {MAX_KEYS} are allowed")
        for _ in range(keys):
            start = walker.tell()
            walker.skip()
            if walker.tell() - start > MAX_KEY_BYTES:
                raise FrameError("a key of the payload is too long")
            key = msgpack.unpackb(payload[start : walker.tell()])
            if not isinstance(key, str) or key in parts:
                raise FrameError(f"the payload's key {key!r:.40} is no text, or there twice")
            start = walker.tell()
            walker.skip()
            parts[key] = (start, walker.tell())
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        if isinstance(error, FrameError):
            raise
        # An array that claims more than there is ends here too: "no more data to unpack".
        raise FrameError(f"the payload is no sound msgpack: {error!r:.200}") from error
    if walker.tell() != len(payload):
        raise FrameError(f"{len(payload) - walker.tell()} bytes follow the payload's map")
    return parts


def build(payload: bytes | memoryview, span: tuple[int, int]) -> Any:
    """Return the object in a part of the payload that `payload_parts` has walked.

    Raises:
        FrameError: it is large and holds too many objects.
    """
    start, end = span
    if end - start > PIECE_BYTES:
        _check_objects(payload[start:end])
    return msgpack.unpackb(payload[start:end], strict_map_key=True)


def array_items(payload: bytes | memoryview, span: tuple[int, int], what: str, most: int) -> Iterator[Any]:
    """Yield the items of an array, built a piece at a time.

    Raises:
        FrameError: it is no array, has more than `most` items, or an item holds too many objects.
    """
    start, end = span
    walker = msgpack.Unpacker(max_buffer_size=max(1, end - start))
    walker.feed(payload[start:end])
    try:
        count = walker.read_array_header()
    except (ValueError, msgpack.UnpackException) as error:
        raise FrameError(f"the {what} entry is not an array") from error
    if count > most:
        raise FrameError(f"a frame of {count} {what} is over the limit of {most}")
    if end - start <= PIECE_BYTES:
        yield from msgpack.unpackb(payload[start:end], strict_map_key=True)
        return
    begin = end_of_last = walker.tell()
    for _ in range(count):
        walker.skip()
        after = walker.tell()
        if after - begin > PIECE_BYTES:
            yield from _built(payload, start + begin, start + end_of_last)
            begin = end_of_last
        end_of_last = after
    yield from _built(payload, start + begin, start + end_of_last)


def _built(payload: bytes | memoryview, start: int, end: int) -> Iterator[Any]:
    """Yield the objects that lie one after the other in a piece of the payload; one alone may be larger."""
    if end - start > PIECE_BYTES:
        yield build(payload, (start, end))
        return
    unpacker = msgpack.Unpacker(strict_map_key=True, max_buffer_size=max(1, end - start))
    unpacker.feed(payload[start:end])
    yield from unpacker


def _check_objects(piece: bytes | memoryview) -> None:
    """Count the objects of a large piece in Python, up to the limit; a long text is one object."""
    walker = _Walk(memoryview(piece))
    left = 1
    for _ in range(MAX_PIECE_OBJECTS):
        left += walker.step() - 1
        if not left:
            return
    raise FrameError(f"a value holds more than {MAX_PIECE_OBJECTS} objects")


class _Walk:
    """Steps over msgpack objects one by one; the piece is known to be whole."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def step(self) -> int:
        """Step over one object, of a container only its header; return how many objects it holds."""
        code = self._data[self._at]
        self._at += 1
        if code <= 0x7F or code >= 0xE0 or code in (0xC0, 0xC2, 0xC3):
            return 0
        if code <= 0x8F:
            return 2 * (code & 0x0F)
        if code <= 0x9F:
            return code & 0x0F
        if code <= 0xBF:
            self._at += code & 0x1F
            return 0
        if code in _FIXED:
            self._at += _FIXED[code]
            return 0
        width, extra = _SIZED[code]
        size = int.from_bytes(self._data[self._at : self._at + width], "big")
        self._at += width
        if code >= 0xDC:
            return size if code <= 0xDD else 2 * size
        self._at += size + extra
        return 0


# Bytes after the code: floats, integers, extensions of a fixed size.
_FIXED = dict(zip(range(0xCA, 0xD9), (4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 3, 5, 9, 17), strict=True))

# Width of the length, and bytes besides it: binaries, extensions, texts, arrays, maps.
_SIZED = {
    **dict(zip((0xC4, 0xC5, 0xC6), ((1, 0), (2, 0), (4, 0)), strict=True)),
    **dict(zip((0xC7, 0xC8, 0xC9), ((1, 1), (2, 1), (4, 1)), strict=True)),
    **dict(zip((0xD9, 0xDA, 0xDB), ((1, 0), (2, 0), (4, 0)), strict=True)),
    **dict(zip((0xDC, 0xDD, 0xDE, 0xDF), ((2, 0), (4, 0), (2, 0), (4, 0)), strict=True)),
}
