"""Exceptions that are not ours: what a signal handler raises in the middle of a call of ours reaches the program."""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from telemetry import Task
from telemetry.errors import InvalidEvent
from telemetry.events import to_float, to_iteration
from telemetry.process.interrupts import is_interrupt
from telemetry.sdk.handles.copies import unpacked
from telemetry.sdk.identity import reuse
from telemetry.sdk.models.index import FOLDER, ModelIndex
from telemetry.sdk.task.drafts import packages_text
from telemetry.settings import read_token_file

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that send signals here")

# Signals for each call; together with the parameters thousands.
SHOTS = 60


class Watchdog(Exception):
    """What pytest-timeout, Celery and home-made watchdogs raise: a class of their own."""


class Slow:
    """Somebody else's object, in whose methods most signals arrive."""

    def _work(self) -> None:
        for number in range(200):
            number.bit_length()

    def __float__(self) -> float:
        self._work()
        return 1.0

    def __index__(self) -> int:
        self._work()
        return 1

    def __str__(self) -> str:
        self._work()
        return "slow"

    __repr__ = __str__

    def __reduce__(self) -> tuple[Any, ...]:
        self._work()
        return Slow, ()

    def __eq__(self, other: object) -> bool:
        self._work()
        return self is other

    def __hash__(self) -> int:
        self._work()
        return 1


class Bare(Slow):
    """No number at all."""

    __float__ = None  # type: ignore[assignment]
    __index__ = None  # type: ignore[assignment]


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TELEMETRY_QUIET", "1")
    task = Task.init("p", "interrupts", auto_connect_streams=False, auto_resource_monitoring=False)
    yield task
    task.close()


@pytest.fixture(autouse=True)
def _no_collector_callbacks() -> Iterator[None]:
    """Nobody hears of an exception that is raised within a callback of the garbage collector; hypothesis has one."""
    kept, gc.callbacks[:] = gc.callbacks[:], []
    yield
    gc.callbacks[:] = kept


@pytest.fixture
def alarm() -> Iterator[Callable[[Any], None]]:
    """Set the handler of SIGALRM; afterwards it is what it was."""
    before = signal.getsignal(signal.SIGALRM)
    yield lambda handler: (signal.signal(signal.SIGALRM, handler), None)[1]
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def calls_of(task: Task, folder: Path) -> dict[str, Callable[[], object]]:
    from tensorboardX import SummaryWriter

    logger = task.get_logger()
    params: dict[str, Any] = task.connect({"a": 1, "nest": {"b": [1, 2]}})
    config: dict[str, Any] = task.connect_configuration({"a": 1}, "c")
    # Without its file: an exception within multiprocessing's queue, which that has, leaves the queue locked for good.
    writer = SummaryWriter(str(folder / "runs"), write_to_disk=False)
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=Slow())
    slow, array = Slow(), np.zeros((3, 3))
    return {
        "report_scalar": lambda: logger.report_scalar("t", "s", slow, slow),  # type: ignore[arg-type]
        "report_scalar, a whole float": lambda: logger.report_scalar("t", "s", np.float32(1), 3.0),  # type: ignore[arg-type]
        "report_scalars": lambda: logger.report_scalars({"a": 1.0, "b": 2.0}, 1),
        "report_scalars, nested": lambda: logger.report_scalars({"t": {"a": 1.0, "b": 2.0}}, 1),
        "report_scalars, others": lambda: logger.report_scalars({"a": slow, "t": {"b": np.float32(1)}}, 3.0),  # type: ignore[arg-type]
        "report_single_value": lambda: logger.report_single_value("n", slow),
        "report_text": lambda: logger.report_text(slow, print_console=False),
        "report_text, printed": lambda: logger.report_text("text"),
        "report_histogram": lambda: logger.report_histogram("t", "s", [np.float32(1), 2.0], 1),
        "report_table": lambda: logger.report_table("t", "s", 1, table_plot=[["a"], [slow]]),
        "report_image": lambda: logger.report_image("t", "s", 1, image=array),
        "connect": lambda: task.connect({"v": slow, "w": Bare()}, name="X"),
        "a connected dict": lambda: params.update(a=slow, nest={"b": Bare()}),
        "connect_configuration": lambda: config.update(v=Bare()),
        "set_parameters": lambda: task.set_parameters({"v": slow, "w": [Bare()], "x": array}),
        "get_parameters": lambda: task.get_parameters(cast=True),
        "set_user_properties": lambda: task.set_user_properties(v=Bare()),
        "upload_artifact": lambda: task.upload_artifact("a", [Bare()]),
        "SummaryWriter": lambda: writer.add_scalar("t", np.float32(1), 1),
        "parse_args": lambda: parser.parse_args([]),
    }


CALLS = [
    "report_scalar",
    "report_scalar, a whole float",
    "report_scalars",
    "report_scalars, nested",
    "report_scalars, others",
    "report_single_value",
    "report_text",
    "report_text, printed",
    "report_histogram",
    "report_table",
    "report_image",
    "connect",
    "a connected dict",
    "connect_configuration",
    "set_parameters",
    "get_parameters",
    "set_user_properties",
    "upload_artifact",
    "SummaryWriter",
    "parse_args",
]


# By a thread: the alarm is the test's.
@pytest.mark.timeout(120, method="thread")
@pytest.mark.parametrize("kind", [Watchdog, TimeoutError, ValueError, RuntimeError])
def test_every_exception_of_a_signal_handler_comes_out(
    task: Task, tmp_path: Path, alarm: Callable[[Any], None], kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    raised = 0
    places: list[traceback.FrameSummary] = []

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal raised
        raised += 1
        places[:] = traceback.extract_stack(frame)
        raise kind("time is over")

    alarm(handler)
    seed = random.Random(kind.__name__)
    calls = calls_of(task, tmp_path)
    assert list(calls) == CALLS
    for name, call in calls.items():
        call()
        began_s = time.perf_counter()
        call()
        took_s = max(time.perf_counter() - began_s, 20e-6)
        for _ in range(SHOTS):
            seen = 0
            before = raised
            try:
                signal.setitimer(signal.ITIMER_REAL, seed.uniform(1e-6, took_s))
                call()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except kind:
                seen = 1
            # Nothing is on its way any more: the timer went off, or was stopped.
            assert raised - before == seen, f"{name} kept what a signal handler raised:\n" + "".join(
                traceback.format_list(places[-6:])
            )
    assert raised > SHOTS * len(CALLS) // 4
    task.flush()
    dropped = task.ledger().dropped
    assert dropped == {}, dropped


@pytest.mark.timeout(120, method="thread")
def test_what_another_thread_sets_comes_out(task: Task, tmp_path: Path) -> None:
    """PyThreadState_SetAsyncExc, as of libraries that stop a function after a while without signals."""
    target = ctypes.c_ulong(threading.get_ident())
    logger, seed = task.get_logger(), random.Random(1)
    value, array = np.float32(1), np.zeros(3)
    shots: list[threading.Timer] = []
    caught = 0
    for _ in range(200):

        def shoot() -> None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(target, ctypes.py_object(Watchdog))

        timer = threading.Timer(seed.uniform(0, 0.002), shoot)
        shots.append(timer)
        try:
            timer.start()
            while True:
                logger.report_scalar("t", "s", value, 3.0)  # type: ignore[arg-type]
                logger.report_text("text", print_console=False)
                task.set_parameter("a", array)
        except Watchdog:
            caught += 1
        timer.join()
    assert caught == len(shots)
    assert task.ledger().dropped == {}


class Handlers:
    """Handlers in each shape in which programs have them."""

    def method(self, number: int, frame: FrameType | None) -> None:
        raise Watchdog

    def __call__(self, *arguments: Any) -> None:
        raise Watchdog


def _plain(number: int, frame: FrameType | None) -> None:
    raise Watchdog


def _walks(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        frame = frame.f_back
    raise Watchdog


def _removes_itself(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    raise Watchdog


def _chained(number: int, frame: FrameType | None) -> None:
    _raises()


def _raises() -> None:
    raise Watchdog


HANDLERS: dict[str, Any] = {
    "function": _plain,
    "it walks up the frames": _walks,
    "it takes itself out": _removes_itself,
    "it calls what raises": _chained,
    "method": Handlers().method,
    "object": Handlers(),
    "partial": functools.partial(lambda what, number, frame: _raises(), "x"),
    "lambda": lambda *_: _raises(),
}


class Raising:
    """In whose `__float__` a signal arrives."""

    def __float__(self) -> float:
        signal.raise_signal(signal.SIGALRM)
        return 1.0


@pytest.mark.parametrize("shape", HANDLERS)
def test_a_handler_is_known_in_every_shape(alarm: Callable[[Any], None], shape: str) -> None:
    alarm(HANDLERS[shape])
    with pytest.raises(Watchdog):
        to_float(Raising())
    alarm(HANDLERS[shape])
    with pytest.raises(Watchdog):
        to_iteration(Raising())


def test_what_an_object_raises_itself_is_its_own_fault(alarm: Callable[[Any], None]) -> None:
    """With a handler installed, and also where it is the same class."""
    alarm(_plain)

    class Bad:
        def __float__(self) -> float:
            raise Watchdog("of its own")

    with pytest.raises(InvalidEvent, match="of its own"):
        to_float(Bad())
    with pytest.raises(InvalidEvent):
        to_float("text")
    with pytest.raises(InvalidEvent, match=r"its shape is \(3,\)"):
        to_float(np.zeros(3))


def test_ctrl_c_and_an_exit_come_out(alarm: Callable[[Any], None]) -> None:
    for kind in (KeyboardInterrupt, SystemExit):

        def handler(number: int, frame: FrameType | None, kind: type[BaseException] = kind) -> None:
            raise kind

        alarm(handler)
        with pytest.raises(kind):
            to_float(Raising())


def test_an_exception_of_another_thread_is_none_of_ours_to_raise() -> None:
    """What a future brings was raised elsewhere, by whoever did the work."""
    future: Future[None] = Future()
    future.set_exception(Watchdog())
    try:
        future.result()
    except Watchdog as error:
        assert not is_interrupt(error)
    assert not is_interrupt(ValueError("never raised"))


def test_an_error_of_a_library_in_cython_is_the_librarys() -> None:
    """Its frames are made up, and seem to stand at their first instruction."""
    pyarrow = pytest.importorskip("pyarrow")
    with pytest.raises(pyarrow.ArrowInvalid) as caught:
        pyarrow.array([1, "a"])
    assert not is_interrupt(caught.value)


def test_a_trace_function_that_raises_comes_out() -> None:
    """As when a debugger is left in the middle of a call."""

    class Quit(Exception):
        pass

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code is Slow._work.__code__:
            raise Quit
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(Quit):
            to_float(Slow())
    finally:
        sys.settrace(before)


# Calls that read a file, and had an `except` for OSError around that: TimeoutError is one.
READERS: dict[str, Callable[[Path], object]] = {
    "what made it another error: token file": read_token_file,
    "what made it another error: requirements": packages_text,
    "what took it for a file that is not there: a run's note": reuse._read,
    "what took it for a file that is not there: a model's note": lambda pipe: ModelIndex(pipe.parent.parent).task_of(
        "x"
    ),
    "what cleans up: an archive that is unpacked": unpacked,
}


@pytest.mark.parametrize("reader", READERS)
def test_the_timeout_of_a_watchdog_is_no_error_of_the_disk(
    alarm: Callable[[Any], None], reader: str, tmp_path: Path
) -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("the watchdog's")

    alarm(handler)
    folder = tmp_path / FOLDER
    folder.mkdir()
    pipe = folder / "id-x.json"
    os.mkfifo(pipe)  # opening it waits for somebody who writes
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(TimeoutError, match="the watchdog's"):
        READERS[reader](pipe)
    assert list(folder.iterdir()) == [pipe]
