"""Batch to Frame and back. docs/wire.md is the specification; golden files in tests/ hold it still.

A frame is a 52-byte header and a payload. It stands alone: it names its task, its writer and its series,
so losing one never harms another. The payload is msgpack; the scalar columns inside are raw
little-endian numbers in byte planes (all first bytes, then all second bytes, ...: the "shuffle" of
HDF5 and Blosc), which is what makes plain deflate pack clocks and counters to almost nothing.

Everything here is pure and safe from any thread; zlib lets the GIL go.
"""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from telemetry.errors import FrameError, FrameTruncated, InvalidEvent
from telemetry.events import (
    INT64_MAX,
    INT64_MIN,
    MAX_FIGURE_BYTES,
    MAX_URI_CHARS,
    MAX_VALUE_DEPTH,
    Batch,
    ConsoleLine,
    FrameEvent,
    Media,
    ModelSaved,
    Plot,
    RecordChange,
    ScalarColumns,
    SeriesKey,
    SingleValue,
)
from telemetry.payload import SeriesTables, array_items, build, payload_parts

__all__ = [
    "CONTENT_TYPE",
    "HEADER_BYTES",
    "MAGIC",
    "MAX_EVENTS",
    "MAX_FRAME_BYTES",
    "MAX_PAYLOAD_BYTES",
    "MAX_RANK",
    "MAX_SERIES",
    "MAX_VALUE_OBJECTS",
    "SENT_HEADER",
    "VERSION",
    "Damage",
    "Frame",
    "decode",
    "encode",
    "pack_series",
    "parse_frame",
    "scan",
    "scan_source",
]

# Not ASCII, not UTF-8, and broken by any newline conversion: the reasoning of the PNG signature.
MAGIC = b"\x89TLF\r\n\x1a\n"
VERSION = 1
CONTENT_TYPE = "application/vnd.telemetry.frames"
# The sender's clock in Unix ns as it sends frames over HTTP: it tells an old frame from a clock that is wrong.
SENT_HEADER = "X-Telemetry-Sent"

# magic, version u8, flags u8, reserved u16, payload bytes u32, unpacked bytes u32, events u32,
# sequence u64, writer id, checksum u32 (CRC-32 of the header before it and of the payload)
_HEADER = struct.Struct("<8sBBHIIIQ16sI")
HEADER_BYTES = _HEADER.size
_CHECKED_HEADER_BYTES = HEADER_BYTES - 4

_FLAG_DEFLATE = 0x01
_KNOWN_FLAGS = _FLAG_DEFLATE

# A header with a larger number is damage or an attack. The batcher cuts at 4 MiB of events and by default at 32,768
# scalars, 0.9 MB; 262,144, which is the most that can be set, are 7.5 MB.
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
MAX_FRAME_BYTES = HEADER_BYTES + MAX_PAYLOAD_BYTES

# Each becomes an object of some 200 bytes; the batcher counts 64 bytes and more for the smallest event.
MAX_EVENTS = 131_072
# As many as a frame of the default size has rows, and some.
MAX_SERIES = 65_536
# The lists, maps and numbers of all record values of a frame together.
MAX_VALUE_OBJECTS = 524_288

MAX_RANK = 2**31 - 1

# A scan checks this much in vain, and four times what it was given besides.
MIN_SCAN_CHECKS_BYTES = 64 * 1024 * 1024
# Small enough that a block stays in the processor's cache: 4 MiB take twice as long. A larger frame is read whole.
SCAN_BLOCK_BYTES = 1024 * 1024

SERIES_KINDS = frozenset({"scalar", "resource"})

# Under this deflate saves less than it costs.
_MIN_DEFLATE_BYTES = 128

_EVENT_TYPES: dict[str, type[Any]] = {
    "console": ConsoleLine,
    "model": ModelSaved,
    "value": SingleValue,
    "record": RecordChange,
    "plot": Plot,
    "media": Media,
}
_EVENT_CODES = {cls: code for code, cls in _EVENT_TYPES.items()}


@dataclass(frozen=True, slots=True)
class Frame:
    """A batch encoded once; `data` is the same bytes in the journal, the zip and the HTTP body.

    Attributes:
        writer_id: 16 bytes.
        sequence: 0, 1, 2, ... within a writer.
        events: how many events the ledger counts for it.
        data: header and payload.
    """

    writer_id: bytes
    sequence: int
    events: int
    data: bytes

    def __len__(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that a scan had to skip. `offset` and `length` in bytes within what is scanned.

    Attributes:
        cut: it ends inside a frame that is sound so far; its rest may still be written.
        foreign: there is not even the beginning of a frame: bytes of something else.
        unsearched: the search was given up here, and all the rest is skipped.
    """

    offset: int
    length: int
    reason: str
    cut: bool = False
    foreign: bool = False
    unsearched: bool = False


def pack_series(key: SeriesKey) -> bytes:
    """Return a series as it stands in the table of a frame. `encode` takes many such, joined."""
    packed: bytes = _pack([key.kind, key.title, key.series, key.unit])
    return packed


def encode(
    batch: Batch, *, writer_id: bytes, sequence: int, level: int = 1, packed_series: bytes | None = None
) -> Frame:
    """Encode a batch. What `decode` would refuse is not encoded: one bad event must not cost the frame it travels in.

    Lone surrogates in any text become backslash escapes, because UTF-8 cannot carry them.

    Args:
        level: zlib level. 1 packs a scalar to about 8.5 bytes at 0.23 us; 6 gains 2 % for 1.3 times the time.
        packed_series: what `pack_series` makes of each of the batch's series, where the caller has it already.
    Raises:
        InvalidEvent: an event has a field of a wrong type.
        FrameError: the payload is over MAX_PAYLOAD_BYTES, or holds too many series, events or values.
    """
    _check_count(len(batch.columns.series), "series", MAX_SERIES)
    _check_count(len(batch.events), "events", MAX_EVENTS)
    budget = _Budget()
    if packed_series is None:
        packed_series = b"".join(map(pack_series, batch.columns.series))
    packer = msgpack.Packer()
    parts = {
        "task": _pack(batch.task_id),
        "rank": _pack(_checked_rank(batch.rank)),
        "series": packer.pack_array_header(len(batch.columns.series)) + packed_series,
        "columns": _pack(_pack_columns(batch.columns)),
        "events": _pack([_pack_event(event, budget) for event in batch.events]),
    }
    payload = packer.pack_map_header(len(parts)) + b"".join(_pack(key) + part for key, part in parts.items())
    unpacked_bytes = len(payload)
    if unpacked_bytes > MAX_PAYLOAD_BYTES:
        raise FrameError(f"a frame of {unpacked_bytes} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
    flags = 0
    if level and unpacked_bytes >= _MIN_DEFLATE_BYTES:
        packed = zlib.compress(payload, level)
        if len(packed) < unpacked_bytes:
            payload, flags = packed, _FLAG_DEFLATE
    head = _HEADER.pack(
        MAGIC, VERSION, flags, 0, len(payload), unpacked_bytes, batch.events_logged, sequence, writer_id, 0
    )[:_CHECKED_HEADER_BYTES]
    checksum = zlib.crc32(payload, zlib.crc32(head))
    data = b"".join((head, checksum.to_bytes(4, "little"), payload))
    return Frame(writer_id, sequence, batch.events_logged, data)


def parse_frame(buffer: bytes | memoryview, offset: int = 0) -> Frame:
    """Read the frame at `offset`: header and checksum are checked, the payload is not decoded.

    Raises:
        FrameTruncated: the buffer ends inside the frame.
        FrameError: wrong magic, version, flags, lengths or checksum.
    """
    available = len(buffer) - offset
    if available < HEADER_BYTES:
        if bytes(buffer[offset : offset + len(MAGIC)]) != MAGIC[:available]:
            raise FrameError("not a frame: the magic number is wrong")
        raise FrameTruncated("the frame's header is cut", missing_bytes=HEADER_BYTES - available)
    magic, version, flags, reserved, payload_bytes, unpacked_bytes, events, sequence, writer_id, checksum = (
        _HEADER.unpack_from(buffer, offset)
    )
    if magic != MAGIC:
        raise FrameError("not a frame: the magic number is wrong")
    if version != VERSION:
        raise FrameError(f"frame version {version}; this reader knows version {VERSION}")
    if flags & ~_KNOWN_FLAGS or reserved:
        raise FrameError(f"unknown frame flags {flags:#x}/{reserved:#x}")
    if payload_bytes > MAX_PAYLOAD_BYTES or unpacked_bytes > MAX_PAYLOAD_BYTES:
        raise FrameError(f"a payload of {max(payload_bytes, unpacked_bytes)} bytes is over the limit")
    frame_bytes = HEADER_BYTES + payload_bytes
    if available < frame_bytes:
        raise FrameTruncated(
            f"the frame ends {frame_bytes - available} bytes early", missing_bytes=frame_bytes - available
        )
    data = bytes(buffer[offset : offset + frame_bytes])
    view = memoryview(data)
    if zlib.crc32(view[HEADER_BYTES:], zlib.crc32(view[:_CHECKED_HEADER_BYTES])) != checksum:
        raise FrameError(f"checksum mismatch in frame {sequence} of writer {writer_id.hex()}")
    return Frame(writer_id, sequence, events, data)


def scan(buffer: bytes | memoryview) -> Iterator[tuple[int, Frame | Damage]]:
    """Yield what `scan_source` does, of bytes that are in memory."""
    return scan_source(io.BytesIO(buffer).read, block_bytes=max(1, len(buffer)))


def scan_source(
    read: Callable[[int], bytes], *, offset: int = 0, block_bytes: int = SCAN_BLOCK_BYTES
) -> Iterator[tuple[int, Frame | Damage]]:
    """Yield (offset, Frame) for each sound frame and (offset, Damage) for what lies between: all readers' one rule.

    Never raises on content: after damage the scan goes on at the next magic number. Damage that is longer than any
    frame comes in pieces of at least MAX_FRAME_BYTES, so that no more than a frame and a block are in memory. Bytes
    made to look like a million frames that each reach to the end would be checked a million times; such a search is
    given up. What is appended while it goes on is read as well; a later scan may begin at the end of any item.

    Args:
        read: returns up to so many bytes, the next ones; none at the end. What it raises is raised here.
        offset: where the first of these bytes lies in the source.
    """
    window = _Window(read, offset, block_bytes)
    at = 0
    while True:
        try:
            frame = parse_frame(window.data, at)
        except FrameError as error:
            missing_bytes = error.missing_bytes if isinstance(error, FrameTruncated) else 0
            if missing_bytes and window.read_on(at, missing_bytes):
                at = 0
                continue
            if at == len(window.data):
                return
            damage = window.skip(at, error)
            yield damage.offset, damage
            at = damage.offset + damage.length - window.offset
        else:
            yield window.offset + at, frame
            at += len(frame.data)


class _Window:
    """What a scan has in memory of its source.

    Attributes:
        data, offset: these bytes, and where the first of them lies.
    """

    def __init__(self, read: Callable[[int], bytes], offset: int, block_bytes: int) -> None:
        self._read = read
        self._block_bytes = block_bytes
        self._checks_left = MIN_SCAN_CHECKS_BYTES
        self._ended = False
        self.data = b""
        self.offset = offset

    def read_on(self, used: int, wanted_bytes: int = 0) -> bool:
        """Let go of the first `used` bytes and read some behind the others; False, and no change, at the end."""
        block = b"" if self._ended else self._read(max(wanted_bytes, self._block_bytes))
        self._ended = not block
        if block:
            self.data, self.offset = self.data[used:] + block, self.offset + used
            self._checks_left += 4 * len(block)
        return not self._ended

    def skip(self, at: int, error: FrameError) -> Damage:
        """Return the damage that begins at data[at], up to the next magic number or the end."""
        start, is_cut = self.offset + at, isinstance(error, FrameTruncated)
        foreign = not is_cut and not self.data.startswith(MAGIC, at)
        self._checks_left -= _claimed_bytes(self.data, at)
        if self._checks_left < 0:
            while self.read_on(len(self.data)):
                pass  # only its length is wanted
            reason = f"too many damaged frames, the rest is not searched; the last was: {error}"
            return Damage(start, self.offset + len(self.data) - start, reason, unsearched=True)
        # A length field may be what is broken, so the search starts right behind this magic number.
        search = at + 1
        while (following := self.data.find(MAGIC, search)) < 0:
            # Half of a magic number may stand at the very end.
            search = max(search, len(self.data) - len(MAGIC) + 1)
            if self.offset + search - start >= MAX_FRAME_BYTES:
                return Damage(start, self.offset + search - start, str(error), foreign=foreign)
            if not self.read_on(search):
                return Damage(start, self.offset + len(self.data) - start, str(error), is_cut, foreign)
            search = 0
        return Damage(start, self.offset + following - start, str(error), foreign=foreign)


def _claimed_bytes(data: bytes, offset: int) -> int:
    """Return what checking the frame at `offset` cost, in bytes: nothing where its header was refused already."""
    if len(data) - offset < HEADER_BYTES or not data.startswith(MAGIC, offset):
        return 0
    frame_bytes = HEADER_BYTES + int(_HEADER.unpack_from(data, offset)[4])
    return frame_bytes if frame_bytes <= len(data) - offset else 0


def decode(frame: Frame, tables: SeriesTables | None = None) -> Batch:
    """Decode a frame that `parse_frame` returned.

    Args:
        tables: for who reads many frames of the same writers: series are looked up there first, and the batch's
            list of them is shared with every batch of the same table.
    Raises:
        FrameError: the payload does not unpack to what its header says or the specification allows.
    """
    _, _, flags, _, _, unpacked_bytes, events_logged, _, _, _ = _HEADER.unpack_from(frame.data)
    payload: bytes | memoryview = memoryview(frame.data)[HEADER_BYTES:]
    if flags & _FLAG_DEFLATE:
        payload = _inflate(payload, unpacked_bytes)
    if len(payload) != unpacked_bytes:
        raise FrameError(f"the payload has {len(payload)} bytes, its header says {unpacked_bytes}")
    try:
        parts = payload_parts(payload)
        task_id = build(payload, parts["task"])
        rank = _checked_rank(build(payload, parts["rank"]) if "rank" in parts else None)
        keys = _series_table(payload, parts["series"], tables)
        budget = _Budget()
        items = array_items(payload, parts["events"], "events", MAX_EVENTS)
        events = [_unpack_event(item, budget) for item in items]
        columns = _unpack_columns(keys, list(array_items(payload, parts["columns"], "columns", 4)))
    except FrameError:
        raise
    except InvalidEvent as error:
        raise FrameError(f"the payload of frame {frame.sequence} is malformed: {error}") from error
    except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException) as error:
        raise FrameError(f"the payload of frame {frame.sequence} is malformed: {error!r:.200}") from error
    if not (isinstance(task_id, str) and _TASK_ID.fullmatch(task_id)):
        raise FrameError(f"the task id {task_id!r:.60} is not 32 lower-case hexadecimal digits")
    return Batch(task_id, columns, events, events_logged, rank)


def _series_table(payload: bytes | memoryview, span: tuple[int, int], tables: SeriesTables | None) -> list[SeriesKey]:
    packed = b"" if tables is None else bytes(payload[slice(*span)])
    keys = None if tables is None else tables.get(packed)
    if keys is None:
        known = {} if tables is None else tables.known
        items = array_items(payload, span, "series", MAX_SERIES)
        keys = [known.get(_parts_of(item)) or _unpack_series(item) for item in items]
        if tables is not None:
            tables.add(packed, keys)
    return keys


def _checked_rank(rank: Any) -> int | None:
    if rank is None or (isinstance(rank, int) and not isinstance(rank, bool) and 0 <= rank <= MAX_RANK):
        return rank
    raise InvalidEvent(f"the rank {rank!r:.40} is not a whole number from 0 to {MAX_RANK}")


def _inflate(payload: bytes | memoryview, unpacked_bytes: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        # One byte more than promised is asked for: a bomb shows itself without being unpacked.
        data = inflater.decompress(payload, unpacked_bytes + 1)
    except zlib.error as error:
        raise FrameError(f"the payload does not inflate: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise FrameError(f"the payload does not inflate to the {unpacked_bytes} bytes its header says")
    return data


def _pack(item: Any) -> Any:
    return msgpack.packb(item, unicode_errors="backslashreplace")


def _pack_columns(columns: ScalarColumns) -> list[bytes]:
    return [
        _to_planes(columns.series_index),
        _to_planes(columns.iterations),
        _to_planes(columns.times_unix_ns),
        _to_planes(columns.values),
    ]


def _unpack_columns(keys: list[SeriesKey], columns: list[Any]) -> ScalarColumns:
    packed_index, packed_iterations, packed_times, packed_values = columns
    index = _from_planes("I", packed_index)
    iterations = _from_planes("q", packed_iterations)
    times_unix_ns = _from_planes("q", packed_times)
    values = _from_planes("d", packed_values)
    if not len(index) == len(iterations) == len(times_unix_ns) == len(values):
        raise FrameError("the scalar columns differ in length")
    if index and not _all_below(len(keys), index, packed_index):
        raise FrameError(f"a scalar names series {max(index)} of {len(keys)}")
    return ScalarColumns(keys, index, iterations, times_unix_ns, values)


def _all_below(bound: int, index: array[int], packed: bytes) -> bool:
    """Say whether all of an index are below `bound`. `packed`: the same in byte planes."""
    if bound > len(_ALL_BYTES):
        return max(index) < bound
    # As texts: seven times as fast as making each a number. The upper planes must be zeros.
    count = len(index)
    return packed.count(0, count) == len(packed) - count and not packed[:count].translate(None, _ALL_BYTES[:bound])


def _to_planes(column: array[Any]) -> bytes:
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    raw = column.tobytes()
    width = column.itemsize
    return b"".join([raw[byte::width] for byte in range(width)])


def _from_planes(typecode: str, planes: Any) -> array[Any]:
    column: array[Any] = array(typecode)
    width = column.itemsize
    if not isinstance(planes, bytes) or len(planes) % width:
        raise FrameError("a scalar column is not a whole number of values")
    count = len(planes) // width
    raw = bytearray(len(planes))
    for byte in range(width):
        raw[byte::width] = planes[byte * count : (byte + 1) * count]
    column.frombytes(raw)
    if sys.byteorder == "big":
        column.byteswap()
    return column


class _Budget:
    """How many more objects the record values of one frame may hold."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_VALUE_OBJECTS

    def spend(self, objects: int) -> None:
        self.left -= objects
        if self.left < 0:
            raise FrameError(f"the record values of a frame hold more than {MAX_VALUE_OBJECTS} objects")


def _check_count(count: int, what: str, most: int) -> None:
    if count > most:
        raise FrameError(f"a frame of {count} {what} is over the limit of {most}")


def _pack_event(event: FrameEvent, budget: _Budget) -> list[Any]:
    code = _EVENT_CODES.get(type(event))
    if code is None:
        raise InvalidEvent(f"{type(event).__name__} is no event that travels in a frame")
    _check_event(code, event, budget)
    return [code, *(getattr(event, name) for name in event.__slots__)]


def _unpack_event(item: Any, budget: _Budget) -> FrameEvent:
    code, *fields = _list(item, "event")
    cls = _EVENT_TYPES.get(code) if isinstance(code, str) else None
    if cls is None:
        raise FrameError(f"unknown event type {code!r:.40}")
    event: FrameEvent = cls(*fields)
    _check_event(code, event, budget)
    return event


def _check_event(code: str, event: FrameEvent, budget: _Budget) -> None:
    for name, allowed in _EVENT_CHECKS[code].items():
        value = getattr(event, name)
        # bool is an int to isinstance, and no time or iteration.
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise InvalidEvent(f"field {name} of a {code} event is {type(value).__name__}")
        if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
            raise InvalidEvent(f"field {name} of a {code} event is {value}, which no signed 64-bit integer holds")
    if isinstance(event, RecordChange):
        _check_value(event.value, MAX_VALUE_DEPTH, budget)
    elif isinstance(event, Plot):
        _check_plot(event)
    elif isinstance(event, Media) and len(event.uri) > MAX_URI_CHARS:
        raise InvalidEvent(f"the uri of a media event has {len(event.uri)} characters, at most {MAX_URI_CHARS} travel")


def _check_plot(event: Plot) -> None:
    if bool(event.figure) == bool(event.blob):
        raise InvalidEvent("a plot event has a figure or a blob, and this one has both or neither")
    if event.blob and not _SHA256.fullmatch(event.blob):
        raise InvalidEvent(f"the blob of a plot event is {event.blob!r:.80}, which is no sha256")
    # Most figures are ASCII and far from the limit: only those that may be over it are encoded to be measured.
    if len(event.figure) * 4 > MAX_FIGURE_BYTES:
        size = len(event.figure.encode("utf-8", "backslashreplace"))
        if size > MAX_FIGURE_BYTES:
            raise InvalidEvent(f"the figure of a plot event has {size} bytes, at most {MAX_FIGURE_BYTES} travel")


def _check_value(value: Any, depth: int, budget: _Budget) -> None:
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return
    if not depth:
        raise InvalidEvent(f"a record value is nested more than {MAX_VALUE_DEPTH} deep")
    # msgpack hands its extension types out as tuples.
    if isinstance(value, (list, tuple)) and not isinstance(value, msgpack.ExtType):
        budget.spend(1 + len(value))
        for item in value:
            _check_value(item, depth - 1, budget)
    elif isinstance(value, dict):
        budget.spend(1 + 2 * len(value))
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidEvent(f"a record value has a key of type {type(key).__name__}")
            _check_value(item, depth - 1, budget)
    else:
        raise InvalidEvent(f"a record value is or holds a {type(value).__name__}")


def _list(item: Any, what: str) -> list[Any]:
    if not isinstance(item, list):
        raise FrameError(f"the {what} entry is {type(item).__name__}, not an array")
    return item


def _parts_of(item: Any) -> tuple[Any, ...]:
    """Return what a series that was sound is known by; nothing for what can be none."""
    return tuple(item) if isinstance(item, list) and all(type(part) is str for part in item) else ()


def _unpack_series(item: Any) -> SeriesKey:
    parts = _list(item, "series")
    if len(parts) != 4 or not all(isinstance(part, str) for part in parts):
        raise FrameError("a series entry is not 4 strings")
    if parts[0] not in SERIES_KINDS:
        raise FrameError(f"unknown series kind {parts[0]!r:.40}")
    return SeriesKey(*parts)


_SHA256 = re.compile("[0-9a-f]{64}")
_TASK_ID = re.compile("[0-9a-f]{32}")
_ALL_BYTES = bytes(range(256))

_NONE = type(None)
_PLACE: dict[str, tuple[type, ...]] = {
    "time_unix_ns": (int,),
    "title": (str,),
    "series": (str,),
    "iteration": (int,),
}
_EVENT_CHECKS: dict[str, dict[str, tuple[type, ...]]] = {
    "console": {"time_unix_ns": (int,), "stream": (str,), "text": (str,), "level": (int, _NONE)},
    "model": {
        "time_unix_ns": (int,),
        "name": (str,),
        "path": (str,),
        "framework": (str,),
        "iteration": (int, _NONE),
        "size_bytes": (int, _NONE),
    },
    "value": {"time_unix_ns": (int,), "name": (str,), "value": (float,)},
    "record": {"time_unix_ns": (int,), "section": (str,), "key": (str,)},
    "plot": {**_PLACE, "figure": (str,), "blob": (str,)},
    "media": {**_PLACE, "uri": (str,), "filename": (str,), "content_type": (str,), "size_bytes": (int, _NONE)},
}
