"""DaemonExecutor: the one thread that file calls run on. And folders that nobody else may look into.

concurrent.futures' own pool refuses work as soon as the interpreter begins to shut down, which is just when
a journal must still be written; and it is joined at exit without a time limit, so that one hung file system
would hang the job. A daemon thread has neither fault.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from telemetry.process.threads import start_daemon

__all__ = ["DaemonExecutor", "absolute_path", "make_private_folder"]

T = TypeVar("T")

_Call = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class DaemonExecutor(Executor):
    """Runs calls one after another on one daemon thread, which starts with the first call.

    Where no thread can be started (Python 3.12 starts none once the program has ended, and there may be too many), a
    call runs on the thread that submits it: the loop waits for the disk, and nothing is lost.
    """

    def __init__(self, name: str = "telemetry-disk") -> None:
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._ended = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        alone = False
        with self._lock:
            if self._ended:
                # Nobody would ever take the call, and whoever awaits it would wait for ever.
                raise RuntimeError("the disk thread has been shut down")
            self._calls.put((future, fn, args, kwargs))
            if self._thread is None:
                self._thread = start_daemon(self._run, self._name)
                alone = self._thread is None
        if alone:
            self._run_waiting()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread after the calls that wait. With `wait`, return when they are done."""
        if cancel_futures:
            while not self._calls.empty():
                call = self._calls.get()
                if call is not None:
                    call[0].cancel()
        with self._lock:
            self._ended = True
            self._calls.put(None)
        if wait and self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            _answer(*call)
            # Do not keep the last call's arguments alive while waiting for the next.
            del call

    def _run_waiting(self) -> None:
        """Where there is no thread to be had, the caller does what waits: slower, but done."""
        while not self._calls.empty() and (call := self._calls.get()) is not None:
            _answer(*call)


def _answer(future: Future[Any], function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001  it belongs to whoever awaits the future
        future.set_exception(error)
    else:
        future.set_result(result)


def make_private_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, 0700 each; one that is there stays as it is.

    Path.mkdir(parents=True) gives its mode to the last folder only, and whoever may write into one above it can
    put another in its place.

    Raises:
        OSError: it cannot be made, or is there and no folder.
    """
    try:
        path.mkdir(mode=0o700)
    except FileNotFoundError:
        make_private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        if not path.is_dir():
            raise


def absolute_path(path: Path) -> Path:
    """Return `path` as an absolute one; unchanged where the program's working folder has been deleted under it."""
    try:
        return path.absolute()
    except FileNotFoundError:
        return path
