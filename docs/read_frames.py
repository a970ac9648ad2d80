#!/usr/bin/env python3
"""Print what is in frames, segments, session folders and session zips, as JSON lines; nothing but Python is needed.

    python read_frames.py runs/0f3a....zip | grep '"loss"'
    python read_frames.py ~/.local/state/telemetry/sessions/0f3a.../ > points.jsonl

It follows docs/wire.md line by line and shares no code with the package: use it as the model for a reader in another
language. Each line is one point or event; what is damaged shows as a line of type "damage". Exit status 0, or 1 if
anything was damaged.
"""

import io
import json
import struct
import sys
import zipfile
import zlib
from array import array
from pathlib import Path

MAGIC = b"\x89TLF\r\n\x1a\n"
HEADER = struct.Struct("<8sBBHIIIQ16sI")
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
FIELDS = {
    "console": ("time_unix_ns", "stream", "text", "level"),
    "model": ("time_unix_ns", "name", "path", "framework", "iteration", "size_bytes"),
    "value": ("time_unix_ns", "name", "value"),
    "record": ("time_unix_ns", "section", "key", "value"),
    "plot": ("time_unix_ns", "title", "series", "iteration", "figure", "blob"),
    "media": ("time_unix_ns", "title", "series", "iteration", "uri", "filename", "content_type", "size_bytes"),
}


# msgpack's first bytes: numbers by struct format, and what carries its length by the bytes of that length.
NUMBERS = dict(zip(range(0xCA, 0xD4), (">f", ">d", ">B", ">H", ">I", ">Q", ">b", ">h", ">i", ">q"), strict=True))
LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class Damaged(Exception):
    pass


def take(stream, count):
    piece = stream.read(count)
    if len(piece) < count:
        raise Damaged("the payload ends early")
    return piece


def unpack(stream):
    """Return the next msgpack value: nil, bool, int, float, str, bin, array or map."""
    first = take(stream, 1)[0]
    if first <= 0x7F or first >= 0xE0:
        return first if first <= 0x7F else first - 256
    if first in CONSTANTS:
        return CONSTANTS[first]
    if first in NUMBERS:
        return struct.unpack(NUMBERS[first], take(stream, struct.calcsize(NUMBERS[first])))[0]
    if first in LENGTHS:
        size = int.from_bytes(take(stream, LENGTHS[first]), "big")
    else:
        size = first & (0x1F if first >= 0xA0 else 0x0F)
    if first in (0xC4, 0xC5, 0xC6):
        return take(stream, size)
    if 0xA0 <= first <= 0xBF or first in (0xD9, 0xDA, 0xDB):
        return take(stream, size).decode("utf-8")
    if 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
        return [unpack(stream) for _ in range(size)]
    if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
        return {unpack(stream): unpack(stream) for _ in range(size)}
    raise Damaged(f"msgpack type {first:#x} is not used in frames")


def column(typecode, planes):
    """Undo the byte planes: value i is bytes i, n+i, 2n+i, ..."""
    values = array(typecode)
    count = len(planes) // values.itemsize
    raw = bytearray(len(planes))
    for plane in range(values.itemsize):
        raw[plane :: values.itemsize] = planes[plane * count : (plane + 1) * count]
    values.frombytes(raw)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def read_frame(data, offset):
    """Return (the frame's lines, its length in bytes)."""
    if len(data) - offset < HEADER.size:
        raise Damaged("the header is cut")
    magic, version, flags, reserved, size, unpacked, _, sequence, writer, checksum = HEADER.unpack_from(data, offset)
    if magic != MAGIC or version != 1 or flags & ~1 or reserved or max(size, unpacked) > MAX_PAYLOAD_BYTES:
        raise Damaged("not a frame of version 1")
    payload = data[offset + HEADER.size : offset + HEADER.size + size]
    if zlib.crc32(payload, zlib.crc32(data[offset : offset + HEADER.size - 4])) != checksum:
        raise Damaged("the frame is cut or its checksum is wrong")
    if flags & 1:
        payload = zlib.decompressobj().decompress(payload, unpacked + 1)
    if len(payload) != unpacked:
        raise Damaged("the payload has not the length its header says")
    document = unpack(io.BytesIO(payload))
    head = {"task": document["task"], "rank": document.get("rank"), "writer": writer.hex(), "sequence": sequence}
    return list(lines_of(document, head)), HEADER.size + size


def lines_of(document, head):
    rows = [column(code, planes) for code, planes in zip("Iqqd", document["columns"], strict=True)]
    for index, iteration, time_unix_ns, value in zip(*rows, strict=True):
        kind, title, series, unit = document["series"][index]
        point = {"type": kind, "title": title, "series": series, "unit": unit, "iteration": iteration}
        yield {**point, "time_unix_ns": time_unix_ns, "value": value, **head}
    for code, *fields in document["events"]:
        yield {"type": code, **dict(zip(FIELDS[code], fields, strict=True)), **head}


def read_stream(name, data):
    """Yield every line of a stream of frames; after damage it goes on at the next magic number."""
    offset = 0
    while offset < len(data):
        try:
            lines, size = read_frame(data, offset)
        except (Damaged, ValueError, LookupError, TypeError, RecursionError, struct.error, zlib.error) as error:
            following = data.find(MAGIC, offset + 1)
            size = (len(data) if following < 0 else following) - offset
            lines = [{"type": "damage", "file": name, "offset": offset, "bytes": size, "reason": str(error)}]
        yield from lines
        offset += size


def streams(path):
    """Yield (name, bytes) of each stream of frames at `path`."""
    if path.is_dir():
        for segment in sorted(path.glob("segments/*.frames")):
            yield segment.name, segment.read_bytes()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in sorted(name for name in archive.namelist() if name.endswith(".frames")):
                yield member, archive.read(member)
    else:
        yield path.name, path.read_bytes()


def printable(value):
    """What JSON has no word for: infinities and NaN as text, bytes in hexadecimal."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [printable(item) for item in value]
    return {key: printable(item) for key, item in value.items()} if isinstance(value, dict) else value


def main(paths):
    damaged = False
    for path in paths:
        for name, data in streams(Path(path)):
            for line in read_stream(name, data):
                damaged |= line["type"] == "damage"
                print(json.dumps(printable(line), ensure_ascii=False))
    return int(damaged)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
