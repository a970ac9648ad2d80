"""Does a large artifact cost memory, and is it taken up where a killed server left it?

    python bench/soaks/large_artifact.py 2048 [--json FILE] [--folder DIR]

A program uploads one file of SIZE_MIB to a server of its own, through a relay that counts the bytes. Half-way the relay
stops, the server is killed (SIGKILL) and started again on the same directory. Printed: how long it took, the bytes that
were sent more than once, the memory that program and server took beyond what they had after a small artifact, and
whether the sha256 of what a download gives is that of the file.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from servers import ServerProcess, server

_MIB = 1024 * 1024

_PROGRAM = """
import json, sys, time
from pathlib import Path
from telemetry import Task

def high_water_kib():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

task = Task.init("bench", "large", auto_connect_streams=False, auto_resource_monitoring=False, reuse_last_task_id=False)
task.upload_artifact("small", {"a": 1}, wait_on_upload=True)
print(json.dumps({"task": task.id}), flush=True)
sys.stdin.readline()
before = high_water_kib()
begin = time.perf_counter()
task.upload_artifact("large", Path(sys.argv[1]))
call_s = time.perf_counter() - begin
upload = task._running.depot.upload("artifacts", "large")
upload.wait_kept()
kept_s = time.perf_counter() - begin
stored = upload.wait()
stored_s = time.perf_counter() - begin
print(json.dumps({"call_ms": call_s * 1e3, "kept_s": kept_s, "stored_s": stored_s, "stored": stored,
    "grown_mib": (high_water_kib() - before) / 1024, "error": upload.error, "sha256": upload.blob.sha256}), flush=True)
task.close()
"""


class Relay:
    """Passes connections on to a port that may change, counts what goes there, and can stop at a count."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.target = 0
        self.sent_bytes = 0
        self.stop_at: int | None = None
        self.stopped = threading.Event()
        self._goes_on = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def go_on(self, target: int) -> None:
        """Pass on again, to another port."""
        self.target, self.stop_at = target, None
        self._goes_on.set()

    def _accept(self) -> None:
        while True:
            here, _ = self._listener.accept()
            try:
                there = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                here.close()
                continue
            threading.Thread(target=self._pass, args=(here, there, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(there, here, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):  # either end was killed: that is what this is about
            while data := source.recv(256 * 1024):
                if counted and self.stop_at is not None and self.sent_bytes >= self.stop_at:
                    self.stopped.set()
                    self._goes_on.wait()
                target.sendall(data)
                if counted:
                    self.sent_bytes += len(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def measure(size_mib: int, folder: Path) -> dict[str, Any]:
    """Return what was seen; sizes in MiB, times in seconds."""
    source = folder / "large.bin"
    digest = hashlib.sha256()
    with source.open("wb") as file:
        for _ in range(size_mib):
            piece = os.urandom(_MIB)
            digest.update(piece)
            file.write(piece)
    relay = Relay()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(server(folder / "server"))
        relay.target = _port_of(first)
        program = stack.enter_context(_program(relay.port, source, folder))
        task_id = _answer(program)["task"]
        servers_before = [_high_water_mib(first)]
        sent_before = relay.sent_bytes
        # Not where a request ends: what has arrived of one is lost.
        relay.stop_at = sent_before + size_mib * _MIB * 11 // 20 + 3 * _MIB
        assert program.stdin is not None
        print(file=program.stdin, flush=True)
        relay.stopped.wait()
        servers_after = [_high_water_mib(first)]
        first.kill()
        begin = time.perf_counter()
        second = stack.enter_context(server(folder / "server"))
        restart_s = time.perf_counter() - begin
        servers_before.append(_high_water_mib(second))
        relay.go_on(_port_of(second))
        seen = _answer(program)
        servers_after.append(_high_water_mib(second))
        program.wait()
        sent_mib = (relay.sent_bytes - sent_before) / _MIB
        downloaded = _download(second.url, task_id, seen["sha256"])
    return {
        "size_mib": size_mib,
        "call_ms": seen["call_ms"],
        "kept_s": seen["kept_s"],
        "stored_s": seen["stored_s"],
        "restart_s": restart_s,
        "program_grown_mib": seen["grown_mib"],
        "server_grown_mib": max(after - before for before, after in zip(servers_before, servers_after, strict=True)),
        "sent_mib": sent_mib,
        "sent_again_mib": sent_mib - size_mib,
        "stored": seen["stored"],
        "right": digest.hexdigest() == seen["sha256"] == downloaded,
    }


@contextlib.contextmanager
def _program(port: int, source: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TELEMETRY_")}
    environment |= {
        "TELEMETRY_URL": f"http://127.0.0.1:{port}",
        "TELEMETRY_DIR": str(folder / "state"),
        "TELEMETRY_QUIET": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(source)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _answer(program: subprocess.Popen[str]) -> dict[str, Any]:
    assert program.stdout is not None
    line = program.stdout.readline()
    if not line:
        raise RuntimeError(f"the program ended with {program.wait()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _download(url: str, task_id: str, sha256: str) -> str:
    from telemetry import Client

    digest = hashlib.sha256()
    with Client(url) as client:
        client.download_blob(task_id, sha256, digest.update)
    return digest.hexdigest()


def _port_of(running: ServerProcess) -> int:
    return int(running.url.rpartition(":")[2])


def _high_water_mib(running: ServerProcess) -> float:
    lines = Path(f"/proc/{running.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size_mib", type=int, nargs="?", default=2048)
    parser.add_argument("--json", type=Path, help="write what was seen to this file as well")
    parser.add_argument("--folder", type=Path, help="where to work; three times the size is needed (default: TMPDIR)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        seen = measure(arguments.size_mib, Path(folder))
    for name, value in seen.items():
        print(f"{name}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(seen, indent=1))
    return 0 if seen["stored"] and seen["right"] else 1


if __name__ == "__main__":
    sys.exit(main())
