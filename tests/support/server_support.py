"""What the server's and the store's tests share: frames to send, and a client that hides nothing."""

from __future__ import annotations

import http.client
import json
import socket
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from telemetry.events import Batch, FrameEvent, ScalarColumns, SeriesKey
from telemetry.server.app import BackgroundServer
from telemetry.server.config import Limits, ServerConfig
from telemetry.server.store import FrameContent, prepare
from telemetry.wire import CONTENT_TYPE, Frame, encode

TASK = "0123456789abcdef" * 2
WRITER = b"writer number 01"
OTHER_WRITER = b"writer number 02"
START_NS = 1_700_000_000_000_000_000
MS = 1_000_000

# (iteration, time in Unix ns, value)
Row = tuple[int, int, float]
LOSS = SeriesKey("scalar", "loss", "train")


def rows_of(values: Sequence[float], *, first: int = 0, step: int = 1) -> list[Row]:
    """Return points with consecutive iterations, a millisecond apart."""
    return [(first + step * n, START_NS + (first + step * n) * MS, value) for n, value in enumerate(values)]


def batch_of(
    points: Mapping[SeriesKey, Sequence[Row]] | None = None,
    events: Sequence[FrameEvent] = (),
    *,
    task_id: str = TASK,
    rank: int | None = None,
) -> Batch:
    columns = ScalarColumns(list(points or {}))
    for index, rows in enumerate((points or {}).values()):
        columns.series_index.extend([index] * len(rows))
        columns.iterations.extend(array("q", [row[0] for row in rows]))
        columns.times_unix_ns.extend(array("q", [row[1] for row in rows]))
        columns.values.extend(array("d", [row[2] for row in rows]))
    return Batch(task_id, columns, list(events), len(columns) + len(events), rank)


def frame_of(
    points: Mapping[SeriesKey, Sequence[Row]] | None = None,
    events: Sequence[FrameEvent] = (),
    *,
    task_id: str = TASK,
    writer: bytes = WRITER,
    sequence: int = 0,
) -> Frame:
    return encode(batch_of(points, events, task_id=task_id), writer_id=writer, sequence=sequence)


def content_of(
    points: Mapping[SeriesKey, Sequence[Row]] | None = None,
    events: Sequence[FrameEvent] = (),
    *,
    task_id: str = TASK,
    writer: bytes = WRITER,
    sequence: int = 0,
    rank: int | None = None,
) -> FrameContent:
    """Return a frame as the store takes it."""
    batch = batch_of(points, events, task_id=task_id, rank=rank)
    return prepare(encode(batch, writer_id=writer, sequence=sequence), batch)


def soon_after_the_start() -> int:
    """The server's clock: the frames of the tests are fresh."""
    return START_NS + 1000 * MS


def config_of(
    directory: Path,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    clock: Callable[[], int] = soon_after_the_start,
) -> ServerConfig:
    return ServerConfig(directory, port=0, token=token, limits=limits or Limits(), clock=clock)


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def results(self) -> list[str]:
        return [item["result"] for item in self.json["frames"]]


@dataclass
class Http:
    """One request a connection; nothing is retried, followed or decoded."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 80), timeout=30)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            response = connection.getresponse()
            lowered = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, lowered, response.read())
        finally:
            connection.close()

    def api(self, path: str, **query: Any) -> Answer:
        text = "&".join(f"{name.rstrip('_')}={quote(str(value), safe='')}" for name, value in query.items())
        return self.request("GET", f"/api/v1{path}?{text}" if text else f"/api/v1{path}")

    def get(self, path: str, **query: Any) -> Any:
        answer = self.api(path, **query)
        assert answer.status == 200, answer
        return answer.json

    def post(self, *frames: Frame | bytes, headers: Mapping[str, str] | None = None) -> Answer:
        body = b"".join(frame.data if isinstance(frame, Frame) else frame for frame in frames)
        return self.request("POST", "/api/v1/frames", body, {"Content-Type": CONTENT_TYPE, **(headers or {})})

    def send(self, *frames: Frame) -> None:
        """Post frames that must all be new."""
        answer = self.post(*frames)
        assert (answer.status, set(answer.results)) == (200, {"stored"}), answer


def started(
    directory: Path,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    clock: Callable[[], int] = soon_after_the_start,
) -> BackgroundServer:
    return BackgroundServer(config_of(directory, token=token, limits=limits, clock=clock))


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


@contextmanager
def server_at(directory: Path, port: int) -> Iterator[str]:
    """A server by the clock of the wall, whose address stays the same when it is started again."""
    with BackgroundServer(ServerConfig(directory, port=port, token=None)) as server:
        yield server.url
