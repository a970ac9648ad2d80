"""The far sides: our server in a process of its own, one that never answers, and a closed port.

Loopback only. `python bench/servers.py mute` is the process that never answers.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = [
    "Reader",
    "ServerProcess",
    "black_hole",
    "closed_port",
    "folder_bytes",
    "get_json",
    "mute_server",
    "post_frames",
    "server",
    "stored_points",
    "until_idle",
    "until_points",
]

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 60.0
_REQUEST_TIMEOUT_S = 60.0
_POLL_S = 0.01
# A server that used less than this share of a core for so long has nothing left to do; what it looks after by the
# clock comes round within that.
_IDLE_SHARE, _IDLE_FOR_S, _IDLE_POLL_S = 0.03, 6.0, 0.5
_IDLE_TIMEOUT_S = 300.0

# What the installed command `telemetry` runs, in the interpreter that runs us.
_MAIN = "import sys; from telemetry.cli import main; sys.exit(main())"


class ServerProcess:
    """A `telemetry server` on a free port and a directory of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process = process
        self.url = url

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def cpu_s(self) -> float:
        """Return the CPU seconds, user and system, that the process has used so far."""
        import psutil

        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def rss_mb(self) -> float:
        """Return the process's resident memory now, in MiB (2**20 bytes)."""
        import psutil

        return float(psutil.Process(self._process.pid).memory_info().rss) / 2**20

    def peak_rss_mb(self) -> float:
        """Return its greatest resident memory, in MiB, as the kernel keeps it; that of now, where it does not."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        return self.rss_mb()

    def descriptors(self) -> int:
        """Return how many descriptors the process has open; 0 where the system does not tell."""
        import psutil

        return int(getattr(psutil.Process(self._process.pid), "num_fds", int)())

    def kill(self) -> None:
        """Kill it as the kernel would: no goodbye to anybody."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Ask it to finish (SIGTERM) and wait; what it has open is on disk afterwards."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(_STOP_TIMEOUT_S)


@contextlib.contextmanager
def server(directory: Path, *, descriptors: int | None = None, core: int | None = None) -> Iterator[ServerProcess]:
    """Run our server on `directory` for the length of the block.

    Args:
        descriptors: how many it may open at most; None for what this process hands down.
        core: the only one that it may use; None for what this process may use.
    Raises:
        RuntimeError: it did not print its address within 30 s; the message has the end of its output.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # It ends with its standard input, so that it does not outlive a measurement that was killed. It does not look at
    # the sessions of this machine: whoever runs one benchmark by itself has some, and they would be imported.
    arguments = ["server", "--port", "0", "--directory", str(directory), "--until-eof", "--no-watch"]
    before = (_limited(descriptors) if descriptors else "") + ("" if core is None else _pinned(core))
    process = subprocess.Popen(
        [sys.executable, "-c", before + _MAIN, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield ServerProcess(process, _printed_url(process))
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _limited(descriptors: int) -> str:
    return f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors})); "


def _pinned(core: int) -> str:
    # Before the first thread: each has what it was started with.
    return f"import os; os.sched_setaffinity(0, {{{core}}}); "


def _printed_url(process: subprocess.Popen[str]) -> str:
    """Return the address in the server's output, and go on reading that so that it never blocks on us."""
    assert process.stdout is not None
    timer = threading.Timer(_START_TIMEOUT_S, process.kill)
    timer.start()
    seen: list[str] = []
    try:
        for line in process.stdout:
            seen.append(line)
            match = re.search(r"http://[\w.\[\]:]+", line)
            if match:
                threading.Thread(target=_drain, args=(process.stdout,), daemon=True).start()
                return match.group().rstrip("/.")
    finally:
        timer.cancel()
    raise RuntimeError(f"the server printed no address: {''.join(seen)[-500:] or 'no output'}")


def _drain(lines: Any) -> None:
    for _line in lines:
        continue


@contextlib.contextmanager
def mute_server() -> Iterator[str]:
    """Yield the URL of a process that takes every connection and every byte and never says anything."""
    process = subprocess.Popen([sys.executable, __file__, "mute"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """Yield the URL of a socket that listens and is never accepted: the kernel shakes hands, nobody reads."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """Yield a URL that refuses connections: the port is bound, so that nobody else takes it, and not open."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def get_json(url: str, path: str) -> Any:
    """GET {url}/api/v1{path}; raises on an error status."""
    with urllib.request.urlopen(f"{url}/api/v1{path}", timeout=_REQUEST_TIMEOUT_S) as response:
        return json.load(response)


def post_frames(url: str, body: bytes) -> Any:
    """POST frames as the http sink does; return the answer."""
    request = urllib.request.Request(
        f"{url}/api/v1/frames", data=body, headers={"Content-Type": "application/vnd.telemetry.frames"}
    )
    with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as response:
        return json.load(response)


class Reader:
    """A kept connection that reads from the server, as one client does, and says how long an answer took."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_REQUEST_TIMEOUT_S)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def get(self, path: str) -> tuple[float, bytes]:
        """Return (milliseconds until the body was read, body).

        Raises:
            RuntimeError: the status is not 200.
        """
        begin = time.perf_counter()
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        body = response.read()
        took_ms = (time.perf_counter() - begin) * 1e3
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {body[:300]!r}")
        return took_ms, body


def until_points(url: str, task_id: str, points: int, *, timeout_s: float) -> int:
    """Ask the server until it has committed `points` points of the task; return how many it has at last."""
    deadline = time.perf_counter() + timeout_s
    while True:
        counts = get_json(url, f"/tasks/{task_id}")["counts"]
        if counts["points"] >= points or time.perf_counter() > deadline:
            return int(counts["points"])
        time.sleep(_POLL_S)


def until_idle(running: ServerProcess) -> float:
    """Wait until the server has nothing left to do (sealing, merging, writing back); return how long that took, in s.

    Raises:
        RuntimeError: it is still busy after 300 s.
    """
    begin = time.perf_counter()
    seen = [(begin, running.cpu_s())]
    while True:
        time.sleep(_IDLE_POLL_S)
        now = time.perf_counter()
        seen.append((now, running.cpu_s()))
        past = [cpu_s for at, cpu_s in seen if at <= now - _IDLE_FOR_S]
        if past and seen[-1][1] - past[-1] <= _IDLE_SHARE * _IDLE_FOR_S:
            return max(0.0, now - begin - _IDLE_FOR_S)
        if now - begin > _IDLE_TIMEOUT_S:
            raise RuntimeError(f"the server was still busy after {_IDLE_TIMEOUT_S:g} s")


def stored_points(url: str, task_ids: Iterable[str]) -> int:
    """Return how many points the server has of these tasks together."""
    return sum(int(get_json(url, f"/tasks/{task_id}")["counts"]["points"]) for task_id in task_ids)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files under `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _be_mute() -> None:
    """Accept and read for ever."""
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    while True:
        connection, _address = listening.accept()
        threading.Thread(target=_swallow, args=(connection,), daemon=True).start()


def _swallow(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        continue


if __name__ == "__main__" and sys.argv[1:] == ["mute"]:
    _be_mute()
