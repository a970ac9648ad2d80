"""Logger, the part that reports images and other media: files, bytes and URLs under a title, series and iteration."""

from __future__ import annotations

import logging
import mimetypes
import os
import re
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from telemetry.clock import unix_ns
from telemetry.disk import absolute_path
from telemetry.errors import EventsDropped, InvalidEvent, ServerError
from telemetry.events import Media, clean_name, to_iteration
from telemetry.ledger import DropReason
from telemetry.process.interrupts import is_interrupt
from telemetry.record import BlobState
from telemetry.values import excerpt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from telemetry.protocols import Emit, TaskEmit
    from telemetry.sdk.bytes.deposit import Deposit
    from telemetry.storage.target import Target

__all__ = ["MediaReports", "ReportPlace", "Uploader", "place_of", "reported"]

log = logging.getLogger(__name__)

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


class Uploader(Protocol):
    """What media need of uploads.Uploads."""

    def submit(self, deposit: Deposit) -> object: ...

    def wait(self, timeout_s: float | None = None) -> bool: ...


@dataclass(frozen=True, slots=True)
class ReportPlace:
    """Where a plot or a medium belongs, and when it was reported (Unix ns)."""

    title: str
    series: str
    iteration: int
    time_unix_ns: int


def place_of(title: Any, series: Any, iteration: Any) -> ReportPlace:
    """Return a checked place; an iteration that is not given is 0.

    Raises:
        InvalidEvent: a name is no text, or the iteration no whole number.
    """
    number = 0 if iteration is None else to_iteration(iteration)
    return ReportPlace(clean_name(title), clean_name(series), number, unix_ns())


@contextmanager
def reported(emit: Emit, what: str, title: Any, series: Any) -> Iterator[None]:
    """Count whatever goes wrong inside as a dropped event with its reason, and go on; in strict mode that raises."""
    try:
        yield
    except (EventsDropped, ServerError):
        raise  # strict mode; or a task of another program, whose reports are sent at once
    except Exception as error:
        if is_interrupt(error):
            raise
        why = str(error) if isinstance(error, InvalidEvent) else f"{type(error).__name__}: {error}"
        emit.refuse(DropReason.INVALID, f"{what} {excerpt(title, 60)}/{excerpt(series, 60)}: {why:.300}")


class MediaReports:
    """Reports of images and media; see Logger."""

    _emit: TaskEmit
    _uploads: Uploader | None
    _target: Target | None = None

    def report_image(
        self,
        title: str,
        series: str,
        iteration: int | None = None,
        local_path: str | os.PathLike[str] | None = None,
        image: Any = None,
        matrix: Any = None,
        max_image_history: int | None = None,
        delete_after_upload: bool = False,
        url: str | None = None,
    ) -> None:
        """Report an image: exactly one of `local_path`, `image` (or `matrix`, the same) and `url`.

        The pixels are made a PNG file during the call: 10 ms a megapixel of a drawing to 200 ms of noise. The file is
        written and sent off the caller's thread.

        Args:
            iteration: default 0.
            local_path: of an image file, which is copied.
            image: a numpy array [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], uint8 or floats from 0 to 1; a torch tensor,
                also with the channels first; rows of pixels; or a PIL image.
            max_image_history: accepted; every iteration's image is kept.
            delete_after_upload: delete the file once its bytes are safe.
            url: of an image elsewhere; only the address is kept.
        """
        with reported(self._emit, "report_image", title, series):
            given = [item for item in (image, matrix) if item is not None]
            if given and isinstance(given[0], (str, os.PathLike)):
                text = os.fspath(given.pop())
                local_path, url = (local_path, text) if _URL.match(text) else (text, url)
            _exactly_one("local_path, image (or matrix) and url", local_path, url, *given)
            place = place_of(title, series, iteration)
            if not given:
                self._report_file(place, local_path, url, delete_after_upload)
                return
            from telemetry.sdk.reports.images import png_of

            self._upload(place, png_of(given[0]), f"{place.iteration}.png", "image/png")

    def report_media(
        self,
        title: str,
        series: str,
        iteration: int | None = None,
        local_path: str | os.PathLike[str] | None = None,
        stream: Any = None,
        file_extension: str | None = None,
        max_history: int | None = None,
        delete_after_upload: bool = False,
        url: str | None = None,
    ) -> None:
        """Report a sound, film, text, image or any other file: exactly one of `local_path`, `stream` and `url`.

        Args:
            iteration: default 0.
            stream: BytesIO, StringIO or another open file, which is read to its end during the call; or bytes.
            file_extension: of a stream, such as ".wav"; default ".txt" for text and ".bin" for bytes.
            max_history: accepted; every iteration's file is kept.
            delete_after_upload: delete the file once its bytes are safe.
            url: of a file elsewhere; only the address is kept.
        """
        with reported(self._emit, "report_media", title, series):
            _exactly_one("local_path, stream and url", local_path, stream, url)
            place = place_of(title, series, iteration)
            if stream is None:
                self._report_file(place, local_path, url, delete_after_upload)
                return
            data, extension = _read(stream)
            if file_extension:
                extension = f".{str(file_extension).lstrip('.')}"
            self._upload(place, data, f"{place.iteration}{extension}", _content_type(f"a{extension}"))

    # ---- inside ----------------------------------------------------------------------------------

    def _report_file(
        self, place: ReportPlace, local_path: str | os.PathLike[str] | None, url: str | None, remove: bool
    ) -> None:
        if url is not None:
            name = unquote(Path(urlsplit(str(url)).path).name)
            self._emit_media(place, str(url), name, _content_type(name), None)
            return
        assert local_path is not None
        path = Path(local_path)
        if not path.is_file():
            raise InvalidEvent(f"there is no file {os.fspath(local_path)!r:.200}")
        self._upload(place, absolute_path(path), path.name, _content_type(path.name), remove)

    def _upload(
        self, place: ReportPlace, source: Path | bytes, filename: str, content_type: str, remove_source: bool = False
    ) -> None:
        uploads = self._uploads
        if uploads is None:
            raise InvalidEvent("only the program that runs a task can report its media; give an url")

        # Not needed by a program that reports scalars alone.
        from telemetry.sdk.bytes.deposit import Deposit
        from telemetry.sdk.bytes.parcel import Parcel

        label = f"{place.title!r:.60}/{place.series!r:.60}"

        def tell(fields: Mapping[str, Any]) -> None:
            if fields["state"] == BlobState.FAILED:
                self._emit.refuse(DropReason.INVALID, f"the file of {label}: {fields['error']:.300}")
                return
            # A storage has given it an address of its own: a moment later, so that it is the one that counts.
            later_ns = int(fields["state"] == BlobState.STORED)
            told = replace(place, time_unix_ns=place.time_unix_ns + later_ns)
            self._emit_media(told, fields["uri"], filename, content_type, fields["size_bytes"])

        folder = "/".join(re.sub(r"[^\w .+=@-]", "_", part) or "_" for part in (place.title, place.series))
        uploads.submit(
            Deposit(
                parcel=Parcel(filename=filename, source=source, removes_source=remove_source),
                section="media",
                key=f"{place.title}/{place.series}/{place.iteration}",
                label=f"media {label}",
                tell=tell,
                target=self._target,
                folder=f"media/{folder}/{place.iteration}",
            )
        )

    def _emit_media(
        self, place: ReportPlace, uri: str, filename: str, content_type: str, size_bytes: int | None
    ) -> None:
        self._emit(
            Media(
                place.time_unix_ns,
                place.title,
                place.series,
                place.iteration,
                uri,
                clean_name(filename),
                content_type,
                size_bytes,
            )
        )


def _exactly_one(names: str, *values: Any) -> None:
    count = sum(value is not None for value in values)
    if count != 1:
        raise InvalidEvent(f"exactly one of {names} must be given, not {count}")


def _content_type(filename: str) -> str:
    return mimetypes.guess_type(filename)[0] or ""


def _read(stream: Any) -> tuple[bytes, str]:
    """Return what is in a stream, and the extension that fits."""
    if isinstance(stream, (bytes, bytearray, memoryview)):
        return bytes(stream), ".bin"
    whole = getattr(stream, "getvalue", None)
    data = stream.read() if whole is None else whole()
    if isinstance(data, str):
        return data.encode("utf-8", "backslashreplace"), ".txt"
    if not isinstance(data, bytes):
        raise InvalidEvent(f"a stream gives bytes or text, not {type(data).__name__}")
    return data, ".bin"
