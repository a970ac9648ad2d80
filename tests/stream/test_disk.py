"""The disk thread: calls in order, failures to whoever awaits them, and no exit held up."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from concurrent.futures import CancelledError

import pytest

from telemetry.disk import DaemonExecutor


def test_calls_run_in_order_on_one_daemon_thread() -> None:
    executor = DaemonExecutor()
    order: list[int] = []
    threads: set[threading.Thread] = set()

    def call(number: int) -> int:
        order.append(number)
        threads.add(threading.current_thread())
        return number

    futures = [executor.submit(call, number) for number in range(100)]
    assert [future.result(10) for future in futures] == order == list(range(100))
    assert [thread.daemon for thread in threads] == [True]
    executor.shutdown()
    assert not threads.pop().is_alive()


def test_a_failing_call_fails_its_future_and_the_next_goes_on() -> None:
    executor = DaemonExecutor()
    failing = executor.submit(lambda: 1 / 0)
    going_on = executor.submit(lambda: "fine")
    assert isinstance(failing.exception(10), ZeroDivisionError)
    assert going_on.result(10) == "fine"
    executor.shutdown()


def test_no_thread_before_the_first_call() -> None:
    before = threading.active_count()
    executor = DaemonExecutor()
    assert threading.active_count() == before
    executor.shutdown()


def test_shutdown_finishes_what_waits_or_cancels_it() -> None:
    for cancel in (False, True):
        executor = DaemonExecutor()
        begun, go_on = threading.Event(), threading.Event()

        def hold(begun: threading.Event = begun, go_on: threading.Event = go_on) -> None:
            begun.set()
            go_on.wait(10)

        running = executor.submit(hold)
        waiting = executor.submit(lambda: "done")
        assert begun.wait(10)
        executor.shutdown(wait=False, cancel_futures=cancel)
        go_on.set()
        running.result(10)
        if cancel:
            with pytest.raises(CancelledError):
                waiting.result(10)
        else:
            assert waiting.result(10) == "done"


def test_a_call_after_shutdown_is_refused_instead_of_waiting_for_ever() -> None:
    for used in (False, True):
        executor = DaemonExecutor()
        if used:
            executor.submit(int).result(10)
        executor.shutdown()
        with pytest.raises(RuntimeError, match="shut down"):
            executor.submit(int)


def test_it_takes_calls_while_the_interpreter_shuts_down_and_holds_no_exit_up() -> None:
    # Given a program whose disk hangs, and which writes once more from atexit
    program = """
        import atexit, threading
        from telemetry.disk import DaemonExecutor
        executor, hung = DaemonExecutor(), DaemonExecutor()
        executor.submit(int).result()
        atexit.register(lambda: print(executor.submit(lambda: "written at exit").result(10)))
        hung.submit(threading.Event().wait)
    """
    # When it ends
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    # Then the write was made, and the hung one kept nobody
    assert (done.returncode, done.stdout, done.stderr) == (0, "written at exit\n", "")


def test_where_no_thread_can_be_started_calls_run_all_the_same() -> None:
    # given a program that has asked for stacks that there is no room for
    program = """
        import threading
        from telemetry.disk import DaemonExecutor
        threading.stack_size(1 << 46)
        try:
            threading.Thread(target=print).start()
        except RuntimeError:
            print("no thread")
        executor = DaemonExecutor()
        print([executor.submit(pow, 2, n).result(0) for n in range(3)], executor.submit(int, "x").exception(0))
        executor.shutdown()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout == "no thread\n[1, 2, 4] invalid literal for int() with base 10: 'x'\n"
    # and it is said, once
    assert done.returncode == 0
    assert [line.startswith("no thread to be had ") for line in done.stderr.splitlines()] == [True]
