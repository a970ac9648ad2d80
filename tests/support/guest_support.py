"""Runs a program with us and without us, and tells what can be seen of it from outside and inside."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guest_programs import Program
from sdk_support import environment

from telemetry.events import RecordChange
from telemetry.fold import RecordDict, RecordFold
from telemetry.journal import read_segments
from telemetry.wire import Frame, decode

__all__ = ["Seen", "record_of", "run_guest"]

# Beside the program, as a module of its own: so that the program reads the same with us and without.
GUEST = r"""
import json, os, signal, sys, threading, time
WITH_US = os.environ["GUEST"] == "with"

def _task():
    from telemetry import Task
    return Task.current_task()

def begin():
    # libuv keeps a pipe of its own for the life of the process, whoever uses it.
    import uvloop
    uvloop.new_event_loop().close()
    if WITH_US:
        from telemetry import Task
        Task.init("tests", "guest", auto_resource_monitoring=False, auto_connect_arg_parser=False)

def report(value=1.0):
    if WITH_US:
        _task().get_logger().report_scalar("t", f"s{os.getpid()}", value, 0)

def flush():
    if WITH_US:
        _task().flush()

def end():
    if WITH_US:
        _task().close()

def expect_points(count):
    if WITH_US:
        flush()
        points = sum(len(one["x"]) for title in _task().get_reported_scalars().values() for one in title.values())
        assert points == count, points

def _of_signals():
    found = {}
    for number in sorted(signal.valid_signals()):
        handler = signal.getsignal(number)
        found[str(int(number))] = getattr(handler, "__qualname__", repr(handler))
    with open("/proc/self/status") as status:
        masks = [line.split() for line in status if line.startswith("Sig") and not line.startswith("SigQ")]
    # But for the C library's own signals, 32 and 33, which the first thread brings.
    return [found, [[name, f"{int(mask, 16) & ~(3 << 31):x}"] for name, mask in masks]]

def kind_of(number):
    try:
        return os.readlink("/proc/self/fd/" + number).split("[")[0]
    except OSError:
        return "the listing itself"

def settle(is_so):
    deadline = time.monotonic() + 5
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)

def look(place):
    seen = {
        "place": place,
        "signals": _of_signals(),
        "hooks": [repr(hook) for hook in (sys.excepthook, sys.exit, threading.excepthook, sys.unraisablehook)],
        # What the children of a task need to join it.
        "environment": sorted(set(os.environ) - {"GUEST", "TELEMETRY_TASK"}),
    }
    if place == "after the end":
        settle(lambda: not any(thread.name.startswith("telemetry") for thread in threading.enumerate()))
        seen["threads"] = sorted(thread.name for thread in threading.enumerate())
        seen["descriptors"] = sorted(kind_of(number) for number in os.listdir("/proc/self/fd"))
    with open(os.environ["GUEST_LOOKS"], "a") as file:
        file.write(json.dumps(seen) + "\n")
"""

_OURS = re.compile(r"^telemetry: .*\n?", re.MULTILINE)
# Python 3.12 warns of any fork in a process with threads, whose ever they are.
_FORK_WARNING = re.compile(r"^.*DeprecationWarning: This process .* is multi-threaded, .*\n(  .*\n)?", re.MULTILINE)
# Where things lie, and how long pytest took.
_ADDRESS = re.compile(r"0x[0-9a-f]+|\bin \d+\.\d+s")


@dataclass(frozen=True)
class Seen:
    """What can be seen of a program that has ended. Lines of ours are taken out of `stderr`, addresses out of both."""

    status: int
    stdout: str
    stderr: str
    looks: list[dict[str, Any]]
    said: list[str]
    took_s: float


def run_guest(program: Program, folder: Path, *, with_us: bool, state_dir: Path, limit_s: float = 60) -> Seen:
    """Run the program to its end.

    Raises:
        TimeoutExpired: it hangs.
    """
    path, looks = folder / "program.py", folder / "looks.jsonl"
    path.write_text(program.source)
    (folder / "guest.py").write_text(GUEST)
    looks.write_text("")
    variables = {"GUEST": "with" if with_us else "without", "GUEST_LOOKS": str(looks), "PYTHONPATH": str(folder)}
    began_s = time.monotonic()
    with subprocess.Popen(
        [sys.executable, *program.options, str(path), *program.arguments],
        env=environment(state_dir, **{**variables, **program.variables}),
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            first = ""
            if program.send is not None:
                assert process.stdout is not None
                first = process.stdout.readline()
                began_s = time.monotonic()
                process.send_signal(program.send)
            stdout, stderr = process.communicate(program.stdin, timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return Seen(
        status=process.returncode,
        stdout=_ADDRESS.sub("0x", first + stdout),
        stderr=_ADDRESS.sub("0x", _FORK_WARNING.sub("", _OURS.sub("", stderr))),
        looks=[json.loads(line) for line in looks.read_text().splitlines()],
        said=_OURS.findall(stderr),
        took_s=time.monotonic() - began_s,
    )


def record_of(state_dir: Path) -> RecordDict:
    """Return the record of the one task in a state folder, folded from the frames on disk."""
    fold = RecordFold()
    for session in (state_dir / "sessions").iterdir():
        for item in read_segments(session):
            assert isinstance(item, Frame), str(item)
            for event in decode(item).events:
                if isinstance(event, RecordChange):
                    fold.apply(event, item.writer_id, item.sequence)
    return fold.record()
