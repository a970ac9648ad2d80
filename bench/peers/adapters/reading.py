"""Two formats that peers' stores are made of, read with the standard library only to count what is there."""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["leveldb_records", "protobuf_fields"]

_BLOCK_BYTES = 32 * 1024
_HEADER = struct.Struct("<IHB")  # checksum, length, type
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def leveldb_records(data: bytes, *, skip: int) -> Iterator[bytes]:
    """Yield the records of a LevelDB log: 32 KiB blocks of (checksum, length, type, data); checksums unread.

    Args:
        skip: bytes of the writer's own file header; the blocks are counted from the file's start.
    """
    offset, parts = skip, b""
    while offset + _HEADER.size <= len(data):
        left = _BLOCK_BYTES - offset % _BLOCK_BYTES
        if left < _HEADER.size:
            offset += left
            continue
        _checksum, length, kind = _HEADER.unpack_from(data, offset)
        offset += _HEADER.size
        part = data[offset : offset + length]
        offset += length
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(part) < length:
            return
        parts = part if kind in (_FULL, _FIRST) else parts + part
        if kind in (_FULL, _LAST):
            yield parts


def protobuf_fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (field number, raw bytes) of a message's own fields; varints come as their bytes."""
    offset = 0
    while offset < len(data):
        key, offset = _varint(data, offset)
        number, wire_type = key >> 3, key & 7
        begin = offset
        if wire_type == 0:
            _, offset = _varint(data, offset)
        elif wire_type == 1:
            offset += 8
        elif wire_type == 5:
            offset += 4
        elif wire_type == 2:
            length, begin = _varint(data, offset)
            offset = begin + length
        else:
            raise ValueError(f"protobuf wire type {wire_type} at {begin}")
        yield number, data[begin:offset]


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
