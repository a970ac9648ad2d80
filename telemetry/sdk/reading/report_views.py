"""Reading back what a task reported: points, single values, console lines, plots and media, from a server or a session.

A view's `reports()` is ServerReports or SessionReports; both say the same of the same events.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from telemetry.errors import JournalError, ServerError
from telemetry.events import ConsoleLine, Media, Plot, SingleValue
from telemetry.process.interrupts import is_interrupt
from telemetry.record import BlobState
from telemetry.sdk.reading.series import Curve, SeriesPoints
from telemetry.sessions.sources import blobs_at, open_blob
from telemetry.storage.blobs import sha256_of_uri

if TYPE_CHECKING:
    from telemetry.client import Client
    from telemetry.client.types import PlotInfo, SeriesSummary
    from telemetry.events import Batch
    from telemetry.fold import RecordFold
    from telemetry.wire import Frame

__all__ = ["FoundMedia", "FoundPlot", "Reports", "ServerReports", "SessionReports"]

# A series of more points is thinned by the server, where only a sample of it is asked for.
BIG_SERIES = 200_000
# One request for console lines: the server's limit.
CONSOLE_PAGE = 10_000
_POINTS_AT_ONCE = 100
_NS_PER_MS = 1_000_000

_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_Event = TypeVar("_Event", Plot, Media, SingleValue)


@dataclass(frozen=True, slots=True)
class FoundPlot:
    """A plot as it was read. `figure`: plotly's JSON; "" where its bytes are not there (yet)."""

    title: str
    series: str
    iteration: int
    unix_ms: int
    figure: str


@dataclass(frozen=True, slots=True)
class FoundMedia:
    """An image, sound, text or film as it was read. `state`: "stored", or "pending" while its bytes are not there."""

    title: str
    series: str
    iteration: int
    unix_ms: int
    uri: str
    filename: str
    content_type: str
    size_bytes: int | None
    state: str


class Reports(Protocol):
    """What a task reported, wherever it is read. Every method may block, on a network or a disk."""

    def summary(self) -> list[tuple[str, str, int | None, dict[str, float]]]:
        """Return (title, series, rank, {last, min, max}) of each scalar series."""

    def curves(self, x_axis: str, max_samples: int | None) -> list[Curve]:
        """Return each scalar series along an axis, thinned to `max_samples` points; None for all of them."""

    def single_values(self) -> dict[str, float]:
        """Return the task's single values by name."""

    def console(self, lines: int) -> list[str]:
        """Return the last lines of the console, the oldest first."""

    def plots(self, last: int | None) -> list[FoundPlot]:
        """Return plots by title, series and iteration; of each title and series only the `last` iterations."""

    def media(self, last: int | None) -> list[FoundMedia]:
        """Return media in the same way."""

    def last_iteration(self) -> int:
        """Return the highest iteration of a scalar; 0 where none was reported."""


# ---- a session -----------------------------------------------------------------------------------


class TaskInFiles(Protocol):
    """What is asked of view.SessionView."""

    def fold(self) -> RecordFold: ...

    def places(self) -> list[Path]: ...

    def batches(self) -> Iterator[tuple[Frame, Batch]]: ...


class SessionReports:
    """See Reports. Reads the frames of a session folder or zip; nothing but the files is needed."""

    def __init__(self, view: TaskInFiles) -> None:
        self._view = view

    def summary(self) -> list[tuple[str, str, int | None, dict[str, float]]]:
        return [(points.title, points.series, points.rank, points.summary()) for points in self._series()]

    def curves(self, x_axis: str, max_samples: int | None) -> list[Curve]:
        return [points.curve(x_axis, max_samples) for points in self._series()]

    def last_iteration(self) -> int:
        return max((max(points.iterations) for points in self._series()), default=0)

    def single_values(self) -> dict[str, float]:
        latest = _latest(self._events(SingleValue), lambda event: event.name)
        return {name: event.value for name, event in sorted(latest.items())}

    def console(self, lines: int) -> list[str]:
        reset = self._view.fold().reset_unix_ns
        found = [
            (event.time_unix_ns, frame.writer_id, frame.sequence, event.text)
            for frame, batch in self._view.batches()
            for event in batch.events
            if isinstance(event, ConsoleLine) and _counts(event.time_unix_ns, reset)
        ]
        # Stable: lines of one frame and instant stay as they were written.
        found.sort(key=lambda line: line[:3])
        return [text for *_, text in found[len(found) - min(lines, len(found)) :]]

    def plots(self, last: int | None) -> list[FoundPlot]:
        latest = _latest(self._events(Plot), lambda event: (event.title, event.series, event.iteration))
        return [
            FoundPlot(*key, event.time_unix_ns // _NS_PER_MS, event.figure or self._text_of_blob(event.blob))
            for key, event in _newest(latest, last)
        ]

    def media(self, last: int | None) -> list[FoundMedia]:
        # An address of something elsewhere, which has no sha256, is not looked for.
        there = {None, *(blob.sha256 for place in self._view.places() for blob in blobs_at(place))}
        latest = _latest(self._events(Media), lambda event: (event.title, event.series, event.iteration))
        return [
            FoundMedia(
                *key,
                event.time_unix_ns // _NS_PER_MS,
                event.uri,
                event.filename,
                event.content_type,
                event.size_bytes,
                BlobState.STORED if sha256_of_uri(event.uri) in there else BlobState.PENDING,
            )
            for key, event in _newest(latest, last)
        ]

    def _series(self) -> list[SeriesPoints]:
        found: dict[tuple[str, str, int | None], SeriesPoints] = {}
        for _, batch in self._view.batches():
            columns = batch.columns
            homes = []
            for key in columns.series:
                name = (key.title, key.series, batch.rank)
                if key.kind == "scalar" and name not in found:
                    found[name] = SeriesPoints(*name)
                homes.append(found[name] if key.kind == "scalar" else None)
            rows = zip(columns.series_index, columns.iterations, columns.times_unix_ns, columns.values, strict=True)
            for index, iteration, time_unix_ns, value in rows:
                home = homes[index]
                if home is not None:
                    home.iterations.append(iteration)
                    home.times_unix_ns.append(time_unix_ns)
                    home.values.append(value)
        reset = self._view.fold().reset_unix_ns
        return [points for series in found.values() if len(points := series.since(reset) if reset else series)]

    def _events(self, kind: type[_Event]) -> Iterator[tuple[tuple[int, bytes, int], _Event]]:
        reset = self._view.fold().reset_unix_ns
        for frame, batch in self._view.batches():
            for event in batch.events:
                if isinstance(event, kind) and _counts(event.time_unix_ns, reset):
                    yield (event.time_unix_ns, frame.writer_id, frame.sequence), event

    def _text_of_blob(self, sha256: str) -> str:
        for place in self._view.places():
            try:
                with open_blob(place, sha256) as file:
                    return file.read().decode("utf-8", "replace")
            except (OSError, JournalError) as error:
                if is_interrupt(error):
                    raise
                continue  # a part that is being written, is gone by now, or refused: it is not to be had from it
        return ""


def _counts(time_unix_ns: int, reset: int) -> bool:
    return time_unix_ns >= reset or time_unix_ns <= 0


def _latest(events: Iterable[tuple[tuple[int, bytes, int], Any]], key: Any) -> dict[Any, Any]:
    """Return, by key, the event with the greatest (time, writer, sequence); of equals the last."""
    found: dict[Any, tuple[tuple[int, bytes, int], Any]] = {}
    for order, event in events:
        known = found.get(key(event))
        if known is None or order >= known[0]:
            found[key(event)] = (order, event)
    return {name: event for name, (_, event) in found.items()}


def _newest(found: dict[tuple[str, str, int], Any], last: int | None) -> list[tuple[tuple[str, str, int], Any]]:
    """Return the items in order of title, series and iteration, of each series the `last` ones."""
    ordered = sorted(found.items())
    if last is None:
        return ordered
    kept: list[tuple[tuple[str, str, int], Any]] = []
    for number, item in enumerate(ordered):
        behind = ordered[number + last] if number + last < len(ordered) else None
        if behind is None or behind[0][:2] != item[0][:2]:
            kept.append(item)
    return kept


# ---- a server ------------------------------------------------------------------------------------


class TaskOnServer(Protocol):
    """What is asked of view.ServerView."""

    task_id: str

    @property
    def client(self) -> Client: ...

    def fold(self) -> RecordFold: ...


class ServerReports:
    """See Reports. Asks a server."""

    def __init__(self, view: TaskOnServer) -> None:
        self._view = view
        self._task = view.task_id

    @property
    def _client(self) -> Client:
        return self._view.client

    def summary(self) -> list[tuple[str, str, int | None, dict[str, float]]]:
        if self._reset:
            return [(points.title, points.series, points.rank, points.summary()) for points in self._read_points()]
        return [
            (
                info["title"],
                info["series"],
                info["rank"],
                {"last": self._last(info), "min": _extreme(info["min"]), "max": _extreme(info["max"])},
            )
            for info in self._client.series(self._task, kind="scalar")
        ]

    def curves(self, x_axis: str, max_samples: int | None) -> list[Curve]:
        big: set[int] = set()
        series = self._client.series(self._task, kind="scalar")
        if max_samples is not None and not self._reset and x_axis != "iso_time":
            big = {info["id"] for info in series if info["count"] > max(BIG_SERIES, max_samples)}
        wanted = [info for info in series if info["id"] not in big]
        found = [points.curve(x_axis, max_samples) for points in self._read_points(wanted if big else None)]
        for start in range(0, len(big), _POINTS_AT_ONCE):
            some = [info for info in series if info["id"] in big][start : start + _POINTS_AT_ONCE]
            found += self._thinned(some, x_axis, max_samples or 0)
        return found

    def last_iteration(self) -> int:
        if self._reset:
            return max((max(points.iterations) for points in self._read_points()), default=0)
        series = self._client.series(self._task, kind="scalar")
        return max((info["highest_iteration"] for info in series), default=0)

    def single_values(self) -> dict[str, float]:
        page = self._client.export_page(self._task, "events")
        return {name: value for name, time_unix_ns, value in page["values"] if _counts(time_unix_ns, self._reset)}

    def console(self, lines: int) -> list[str]:
        found: list[str] = []
        before: int | None = None
        while len(found) < lines:
            limit = min(CONSOLE_PAGE, lines - len(found))
            page = self._client.console(self._task, tail=True, limit=limit, before=before)
            kept = [line for line in page["lines"] if _counts(line["unix_ms"], self._reset // _NS_PER_MS)]
            found = [line["text"] for line in kept] + found
            if not page["more"] or len(kept) < len(page["lines"]):
                break
            before = page["lines"][0]["id"]
        return found

    def plots(self, last: int | None) -> list[FoundPlot]:
        return [
            FoundPlot(plot["title"], plot["series"], plot["iteration"], plot["unix_ms"], self._figure(plot))
            for plot in self._client.plots(self._task, last=last)
            if _counts(plot["unix_ms"], self._reset // _NS_PER_MS)
        ]

    def media(self, last: int | None) -> list[FoundMedia]:
        found = self._client.media(self._task, last=last)["media"]
        return [FoundMedia(**item) for item in found if _counts(item["unix_ms"], self._reset // _NS_PER_MS)]

    @property
    def _reset(self) -> int:
        return self._view.fold().reset_unix_ns

    def _last(self, info: SeriesSummary) -> float:
        """Return the value at the highest iteration; the server keeps the latest by time, which nearly always is it."""
        if info["last_iteration"] == info["highest_iteration"]:
            return _number(info["last"])
        return self._read_points([info])[0].summary()["last"]

    def _read_points(self, wanted: list[SeriesSummary] | None = None) -> list[SeriesPoints]:
        """Return the points of scalar series, every bit; of those `wanted`, or of all."""
        found: dict[tuple[str, str, int | None], SeriesPoints] = {}
        if wanted is None:
            self._read_pages(None, found, None)
        else:
            names = {(info["title"], info["series"], info["rank"]) for info in wanted}
            for info in wanted:
                # A page holds many small series: what one brought along is not asked for again.
                if (info["title"], info["series"], info["rank"]) not in found:
                    self._read_pages(f"{info['id']},0", found, names)
        reset = self._reset
        return [points for series in found.values() if len(points := series.since(reset) if reset else series)]

    def _read_pages(
        self,
        after: str | None,
        found: dict[tuple[str, str, int | None], SeriesPoints],
        names: set[tuple[str, str, int | None]] | None,
    ) -> None:
        """Read pages from `after` on, up to the first series that is not among `names`."""
        while True:
            page = self._client.export_page(self._task, "points", after)
            for kind, title, series, _, rank, iterations, times_unix_ns, values in page["runs"]:
                if kind != "scalar":
                    continue
                if names is not None and (title, series, rank) not in names:
                    return
                points = found.setdefault((title, series, rank), SeriesPoints(title, series, rank))
                _extend(points.iterations, iterations)
                _extend(points.times_unix_ns, times_unix_ns)
                _extend(points.values, values)
            if page["next"] is None:
                return
            after = f"{page['next'][0]},{page['next'][1]}"

    def _thinned(self, series: list[SeriesSummary], x_axis: str, max_samples: int) -> list[Curve]:
        x = "iteration" if x_axis == "iter" else "time"
        ids = [info["id"] for info in series]
        answer = self._client.points(self._task, ids, x=x, max_samples=max(2, max_samples))
        names = {info["id"]: info for info in series}
        return [
            Curve(
                names[part["id"]]["title"],
                names[part["id"]]["series"],
                names[part["id"]]["rank"],
                list(part["x"])[:max_samples],
                [_number(value) for value in part["y"]][:max_samples],
            )
            for part in answer["series"]
        ]

    def _figure(self, plot: PlotInfo) -> str:
        import orjson

        if plot["omitted"]:
            found = self._client.plots(
                self._task, title=plot["title"], series=plot["series"], iteration=plot["iteration"]
            )
            plot = found[0] if found else plot
        if plot["figure"] is not None:
            return orjson.dumps(plot["figure"]).decode()
        if not plot["blob"]:
            return ""
        pieces: list[bytes] = []
        try:
            self._client.download_blob(self._task, plot["blob"], pieces.append)
        except ServerError:
            return ""  # its bytes have not arrived yet
        return b"".join(pieces).decode("utf-8", "replace")


def _extend(column: array[Any], data: bytes) -> None:
    part: array[Any] = array(column.typecode)
    part.frombytes(data)
    if sys.byteorder == "big":
        part.byteswap()
    column.extend(part)


def _number(value: float | str | None) -> float:
    return _NUMBERS[value] if isinstance(value, str) else math.nan if value is None else float(value)


def _extreme(value: float | None) -> float:
    return math.nan if value is None else value
