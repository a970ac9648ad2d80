"""Are those who have a token served while 2,000 connections that say nothing are open?"""

from __future__ import annotations

import http.client
import os
import sys
import tempfile
import time
from array import array
from pathlib import Path
from urllib.parse import urlsplit

from crowds import crowd
from harness import Benchmark, Column, Metrics, Scale, Target, child_main, median
from servers import ServerProcess, server

_TOKEN = "a long token that only this benchmark has"
_TASK_ID = "0123456789abcdef" * 2
_WRITER_ID = bytes(range(16))
_TIME_NS = 1_700_000_000_000_000_000
_TIMEOUT_S = 5.0
_PAUSE_S = 0.02
# case: descriptors that the server may have; None is what this machine gives it
_CASES = {"1024_descriptors": 1024, "as_many_as_allowed": None}


def measure(case: str, scale: Scale) -> Metrics:
    """Time requests of a token holder before the strangers come and while they are there."""
    strangers, seconds = scale.pick(2_000, 200), scale.pick(60, 3)
    os.environ["TELEMETRY_SERVER_TOKEN"] = _TOKEN
    with (
        tempfile.TemporaryDirectory() as folder,
        server(Path(folder) / "server", descriptors=_CASES[case]) as running,
    ):
        holder = _Holder(running)
        metrics: Metrics = {"strangers": strangers}
        holder.ask_for(scale.pick(10, 1))
        metrics |= {f"quiet_{name}": value for name, value in holder.figures().items()}
        with crowd("strangers", running.url, strangers) as outside:
            holder.ask_for(min(10.0, seconds / 2))
            holder.forget()
            before_mb = running.rss_mb()
            holder.ask_for(seconds)
            metrics["growth_mb"] = running.rss_mb() - before_mb
            metrics["memory_mb"] = running.rss_mb()
            metrics["descriptors"] = running.descriptors()
            counted = outside.end()
        metrics |= holder.figures()
    return {**metrics, "cut_per_s": counted["cut"] / seconds}


class _Holder:
    """One who has the token: a page, an answer of the API and a frame in turn, each on a connection of its own."""

    def __init__(self, running: ServerProcess) -> None:
        self._address = urlsplit(running.url)
        self._sequence = 0
        self._seconds: list[float] = []
        self._failed = 0

    def ask_for(self, seconds: float) -> None:
        """Ask for so long."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for method, path, body in (
                ("GET", "/", None),
                ("GET", "/api/v1/tasks", None),
                ("POST", "/api/v1/frames", self._frame()),
            ):
                begin = time.perf_counter()
                try:
                    self._ask(method, path, body)
                except (OSError, http.client.HTTPException):
                    self._failed += 1
                self._seconds.append(time.perf_counter() - begin)
            time.sleep(_PAUSE_S)

    def _ask(self, method: str, path: str, body: bytes | None) -> None:
        connection = http.client.HTTPConnection(
            str(self._address.hostname), int(self._address.port or 80), timeout=_TIMEOUT_S
        )
        headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/vnd.telemetry.frames"}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise RuntimeError(f"{method} {path} was answered {response.status}")
        finally:
            connection.close()

    def _frame(self) -> bytes:
        from telemetry.events import Batch, ScalarColumns, SeriesKey
        from telemetry.wire import encode

        n = self._sequence
        self._sequence += 1
        columns = ScalarColumns(
            [SeriesKey("scalar", "loss", "train")], array("I", [0]), array("q", [n]), array("q", [_TIME_NS + n]),
            array("d", [0.5]),
        )  # fmt: skip
        return encode(Batch(_TASK_ID, columns, [], 1), writer_id=_WRITER_ID, sequence=n).data

    def forget(self) -> None:
        """Begin to measure anew."""
        self._seconds.clear()
        self._failed = 0

    def figures(self) -> Metrics:
        """Return what was measured since the last call."""
        ordered = sorted(self._seconds)
        figures: Metrics = {
            "requests": len(ordered),
            "failed": self._failed,
            "p50_ms": median(ordered) * 1e3,
            "p99_ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3,
            "max_ms": ordered[-1] * 1e3,
        }
        self.forget()
        return figures


BENCHMARK = Benchmark(
    name="strangers",
    question="Are those who have a token served while 2,000 connections that say nothing, or half of it, are open?",
    topology=(
        "our server with a token, in its process, with at most 1,024 descriptors or as many as this machine allows; "
        "a crowd in one other process: a third of its connections sends nothing, a third half a header, a third a "
        "header without a token and half a body; who is cut off comes again after a second. One token holder asks for "
        "a page, a list and sends a frame in turn, each on a new connection"
    ),
    unfair=(
        "over loopback all have one address, so the limits by address are not in it; a crowd that comes again at once, "
        "as fast as it can, is another attack; 60 s are no week"
    ),
    cases=tuple(_CASES),
    measure=measure,
    columns=(
        Column("strangers", "strangers", ",.0f"),
        Column("quiet_p99_ms", "p99 ms before", ".1f"),
        Column("requests", "requests", ",.0f"),
        Column("failed", "failed", ",.0f"),
        Column("p50_ms", "p50 ms", ".1f"),
        Column("p99_ms", "p99", ".1f"),
        Column("max_ms", "max", ".0f"),
        Column("cut_per_s", "cut off a second", ".0f"),
        Column("descriptors", "descriptors", ",.0f"),
        Column("memory_mb", "server MiB", ".0f"),
        Column("growth_mb", "grew in it", ".1f"),
    ),
    targets=(
        Target("failed", "==", 0, "every request of a token holder is answered"),
        Target("p99_ms", "<=", 1000, "p99 of a token holder's requests at most 1 s"),
        Target("growth_mb", "<=", 10, "memory flat: at most 10 MiB more at the end than after the first 10 s"),
    ),
    timeout_s=600.0,
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
