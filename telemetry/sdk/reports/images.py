"""Images as PNG files in memory, from numpy arrays, tensors, nested lists and PIL images; PIL is not needed.

Compression is deflate at its fastest: 10 ms a megapixel of a drawing to 200 ms of noise, on the caller's thread.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from telemetry.errors import InvalidEvent
from telemetry.process.interrupts import is_interrupt
from telemetry.sdk.reports.figures import plain

__all__ = ["png_of", "write_png"]

_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# PNG's own limit is 2^31 - 1; more than this in either direction is a mistake.
_MAX_SIDE = 65_535


def png_of(image: Any) -> bytes:
    """Return an image as a PNG file.

    Args:
        image: uint8, bool, or any integers (clipped to 0..255), or floats (0..1, or 0..255 if one is over 1; NaN is
            black), of shape [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], or with the channels first as tensors have
            them; or a PIL image.
    Raises:
        InvalidEvent: it is no image.
    """
    if hasattr(image, "save") and hasattr(image, "mode"):
        return _png_of_pil(image)
    detach = getattr(image, "detach", None)
    channels_first = detach is not None
    if detach is not None:
        image = detach().cpu()
        image = image.numpy() if str(image.dtype) != "torch.bfloat16" else image.float().numpy()
    if hasattr(image, "__array__"):
        height, width, channels, data = _bytes_of_array(image, channels_first)
    else:
        height, width, channels, data = _bytes_of_lists(image)
    return write_png(width, height, channels, data)


def write_png(width: int, height: int, channels: int, data: bytes) -> bytes:
    """Return a PNG file of rows of 8-bit pixels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.

    Raises:
        InvalidEvent: no image has such a size.
    """
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE) or channels not in _COLOR_TYPES:
        raise InvalidEvent(f"an image of {width} x {height} pixels and {channels} channels can't be kept")
    stride = width * channels
    packer = zlib.compressobj(1)
    # Each row begins with its filter, 0: none.
    pixels = b"".join(packer.compress(b"\0" + data[at : at + stride]) for at in range(0, height * stride, stride))
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    body = pixels + packer.flush()
    return _SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(data, zlib.crc32(kind)).to_bytes(4, "big")


def _png_of_pil(image: Any) -> bytes:
    file = io.BytesIO()
    keeps = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")
    (image if image.mode in keeps else image.convert("RGB")).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _bytes_of_array(image: Any, channels_first: bool) -> tuple[int, int, int, bytes]:
    import numpy as np  # whoever has an array has numpy

    array = np.asarray(image)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    if array.ndim != 3 or not array.size:
        raise InvalidEvent(f"an image has 2 or 3 dimensions (height, width, channels), not the shape {np.shape(image)}")
    first, last = array.shape[0] in _COLOR_TYPES, array.shape[2] in _COLOR_TYPES
    if first and (channels_first or not last):
        array = array.transpose(1, 2, 0)
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind == "f":
        array = np.nan_to_num(array.astype(np.float64), nan=0.0)
        array = np.rint(np.clip(array * (255.0 if array.max() <= 1.0 else 1.0), 0, 255)).astype(np.uint8)
    elif array.dtype.kind in "iu":
        array = array if array.dtype == np.uint8 else np.clip(array, 0, 255).astype(np.uint8)
    else:
        raise InvalidEvent(f"an image is of integers, floats or bools, not of {array.dtype}")
    height, width, channels = array.shape
    return height, width, channels, np.ascontiguousarray(array).tobytes()


def _bytes_of_lists(image: Any) -> tuple[int, int, int, bytes]:
    rows = plain(image)
    try:
        channels = len(rows[0][0]) if isinstance(rows[0][0], list) else 1
        flat = [value for row in rows for pixel in row for value in (pixel if isinstance(pixel, list) else [pixel])]
        scale = 255 if any(isinstance(value, float) for value in flat) and max(flat) <= 1.0 else 1
        data = bytes([min(255, max(0, round(value * scale))) for value in flat])
        if len(data) != len(rows) * len(rows[0]) * channels:
            raise InvalidEvent("the rows of an image must have one length, and its pixels one number of channels")
        return len(rows), len(rows[0]), channels, data
    except (TypeError, IndexError, KeyError) as error:
        if is_interrupt(error):
            raise
        raise InvalidEvent(f"an image is an array, a tensor, a PIL image or rows of pixels: {error}") from error
