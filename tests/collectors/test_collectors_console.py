"""The console collector: transparent to the program, complete in what it keeps."""

from __future__ import annotations

import contextlib
import io
import logging
import logging.config
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from telemetry.collectors.console import ConsoleCollector

from telemetry.errors import EventsDropped
from telemetry.events import ConsoleLine, Event
from telemetry.protocols import Collector, Emit


class RecordingEmit:
    """An Emit that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.mark = 1 << 30
        self.events: list[Event] = []
        self.refused: list[str] = []

    def __call__(self, event: Event) -> bool:
        self.events.append(event)
        return True

    def crossed(self) -> None:
        raise AssertionError("the console has no scalars")

    def refuse(self, reason: str, message: str) -> None:
        self.refused.append(reason)

    def lines(self, stream: str | None = None) -> list[str]:
        return [
            event.text for event in self.events if isinstance(event, ConsoleLine) and stream in (None, event.stream)
        ]


class Terminal(io.TextIOWrapper):
    """A stream on bytes that calls itself a terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="backslashreplace", newline="")

    def isatty(self) -> bool:
        return True

    def written(self) -> str:
        self.flush()
        raw = self.buffer
        assert isinstance(raw, io.BytesIO)
        return raw.getvalue().decode()


class Tee:
    """What many programs put in the place of sys.stdout: it writes to the terminal and to a file of its own."""

    def __init__(self, terminal: Any) -> None:
        self.terminal = terminal
        self.file = io.StringIO()

    def write(self, text: str) -> int:
        self.file.write(text)
        return int(self.terminal.write(text))

    def flush(self) -> None:
        self.terminal.flush()


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def emit() -> RecordingEmit:
    return RecordingEmit()


@contextlib.contextmanager
def stdout_is(stream: Any) -> Iterator[None]:
    """Within the test's body, because pytest's own capture sets sys.stdout again before it."""
    before = sys.stdout
    sys.stdout = stream
    try:
        yield
    finally:
        sys.stdout = before


@contextlib.contextmanager
def collecting(emit: Emit) -> Iterator[ConsoleCollector]:
    collector = ConsoleCollector()
    collector.start(emit)
    try:
        yield collector
    finally:
        collector.stop()


def test_it_is_a_collector() -> None:
    collector: Collector = ConsoleCollector()
    assert isinstance(collector, Collector)
    emit: Emit = RecordingEmit()
    assert emit.mark


def test_print_reaches_the_terminal_unchanged_and_the_events_line_by_line(
    terminal: Terminal, emit: RecordingEmit
) -> None:
    with stdout_is(terminal), collecting(emit):
        print("one", 2, end="!\n")
        print("two\nthree")
        sys.stderr.write("to stderr\n")

        assert terminal.written() == "one 2!\ntwo\nthree\n"
        assert emit.lines("stdout") == ["one 2!", "two", "three"]
        assert emit.lines("stderr") == ["to stderr"]


def test_what_is_asked_of_stdout_is_answered_by_the_original(terminal: Terminal, emit: RecordingEmit) -> None:
    with stdout_is(terminal), collecting(emit):
        tee = sys.stdout

        assert tee is terminal
        assert isinstance(tee, io.TextIOWrapper)
        assert tee.isatty()
        assert tee.encoding == "utf-8"
        assert tee.errors == "backslashreplace"
        assert tee.buffer is terminal.buffer
        assert tee.write("12345") == 5
        assert not tee.closed
        tee.writelines(["a\n", "b\n"])
        terminal.reconfigure(line_buffering=True)
        assert tee.line_buffering
        with pytest.raises(TypeError, match="write"):
            tee.write(b"bytes")  # type: ignore[arg-type]
        with pytest.raises(io.UnsupportedOperation):
            tee.fileno()
        with pytest.raises(AttributeError):
            tee.no_such_attribute  # type: ignore[attr-defined]  # noqa: B018


def test_an_error_of_the_stream_is_the_programs_and_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch, emit: RecordingEmit
) -> None:
    # given a stdout whose reader has gone
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Broken())
    collector = ConsoleCollector()
    collector.start(emit)

    # when the program prints, then it sees what it would have seen without us
    with pytest.raises(BrokenPipeError):
        print("lost")
    collector.stop()
    assert emit.events == []


def test_an_emit_that_fails_does_not_fail_print(terminal: Terminal) -> None:
    with stdout_is(terminal):

        class Failing(RecordingEmit):
            def __call__(self, event: Event) -> bool:
                raise RuntimeError("a bug of ours")

        emit = Failing()
        collector = ConsoleCollector()
        collector.start(emit)
        print("still printed")
        collector.stop()

        assert terminal.written() == "still printed\n"
        assert "invalid" in emit.refused


def test_strict_mode_does_not_raise_into_print_either(terminal: Terminal) -> None:
    # given strict mode, in which the queue raises at the first drop
    class Strict(RecordingEmit):
        def __call__(self, event: Event) -> bool:
            raise EventsDropped("the queue is full")

        def refuse(self, reason: str, message: str) -> None:
            raise EventsDropped(message)

    emit = Strict()
    with stdout_is(terminal), collecting(emit):
        print("printed")
        logging.getLogger("training").warning("logged")

    assert terminal.written() == "printed\n"


def test_line_times_come_from_the_clock_and_bars_from_the_monotonic_one(
    terminal: Terminal, emit: RecordingEmit
) -> None:
    with stdout_is(terminal):
        # given a clock that the test moves
        now_s = 100.0
        collector = ConsoleCollector(
            stderr=False, logging=False, clock=lambda: int(now_s * 1e9), monotonic=lambda: now_s
        )
        collector.start(emit)

        # when a bar runs for 25 s and the program ends in mid-line
        for _ in range(25):
            now_s += 1.0
            sys.stdout.write(f"\r{now_s:.0f} of 125")
        sys.stdout.write("\nlast words")
        collector.stop()

        assert [
            (event.time_unix_ns // 10**9, event.text) for event in emit.events if isinstance(event, ConsoleLine)
        ] == [
            (102, "101 of 125"),
            (112, "111 of 125"),
            (122, "121 of 125"),
            (125, "125 of 125"),
            (125, "last words"),
        ]


def test_stop_restores_the_stream_and_emits_nothing_afterwards(terminal: Terminal, emit: RecordingEmit) -> None:
    with stdout_is(terminal):
        collector = ConsoleCollector()
        before = (sys.stderr, logging.Logger.callHandlers)
        collector.start(emit)
        tee = sys.stdout
        print("open line", end="")

        collector.stop()

        assert sys.stdout is terminal
        assert "write" not in vars(terminal)
        assert (sys.stderr, logging.Logger.callHandlers) == before
        assert emit.lines() == ["open line"]
        tee.write("through a kept reference\n")
        logging.getLogger("late").warning("late")
        assert emit.lines() == ["open line"]
        assert terminal.written() == "open linethrough a kept reference\n"


def test_stop_leaves_in_place_what_was_wrapped_around_our_stream(terminal: Terminal, emit: RecordingEmit) -> None:
    with stdout_is(terminal):
        # given somebody who wraps sys.stdout after us
        collector = ConsoleCollector(stderr=False, logging=False)
        collector.start(emit)
        outer = Tee(terminal)
        sys.stdout = outer

        collector.stop()

        assert sys.stdout is outer
        print("still works")
        assert terminal.written() == "still works\n"
        assert emit.lines() == []


def test_threads_that_print_at_once_lose_and_mix_nothing(terminal: Terminal, emit: RecordingEmit) -> None:
    with stdout_is(terminal), collecting(emit):
        # given eight threads that write whole lines
        def work(number: int) -> None:
            for step in range(500):
                sys.stdout.write(f"thread {number} step {step}\n")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        # then each line is there, and each thread's in its order
        lines = emit.lines("stdout")
        assert len(lines) == 4000
        for number in range(8):
            mine = [line for line in lines if line.startswith(f"thread {number} ")]
            assert mine == [f"thread {number} step {step}" for step in range(500)]


def test_a_print_in_the_middle_of_a_print_does_not_deadlock(terminal: Terminal) -> None:
    with stdout_is(terminal):
        # given an emit in whose middle a finalizer or signal handler prints
        class Printing(RecordingEmit):
            def __call__(self, event: Event) -> bool:
                if len(self.events) < 3:
                    super().__call__(event)
                    print(f"from within {len(self.events)}")
                    return True
                return super().__call__(event)

        emit = Printing()
        collector = ConsoleCollector(stderr=False, logging=False)
        collector.start(emit)
        print("outer")
        collector.stop()

        assert emit.lines() == ["outer", "from within 1", "from within 2", "from within 3"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_a_signal_handler_that_prints_while_the_program_prints(terminal: Terminal, emit: RecordingEmit) -> None:
    with stdout_is(terminal), collecting(emit) as started:
        # given a handler that prints every millisecond
        printed = 0

        def handler(*_: object) -> None:
            nonlocal printed
            printed += 1
            sys.stdout.write(f"signal {printed}\n")

        previous = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            # when the program prints until the handler has run often enough
            step = 0
            while printed < 50:
                sys.stdout.write(f"step {step}\n")
                step += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)

        started.stop()
        # then each line of both is there once; a handler may itself be interrupted by the next
        lines = emit.lines()
        assert sorted(lines) == sorted([f"signal {n + 1}" for n in range(printed)] + [f"step {n}" for n in range(step)])


def test_bytes_past_the_text_layer_pass_by(terminal: Terminal, emit: RecordingEmit) -> None:
    with stdout_is(terminal), collecting(emit):
        sys.stdout.buffer.write(b"raw\n")
        sys.stdout.flush()

        assert terminal.written() == "raw\n"
        assert emit.lines() == []


def test_text_that_utf8_cannot_carry_is_kept_as_an_escape(terminal: Terminal, emit: RecordingEmit) -> None:
    with stdout_is(terminal), collecting(emit):
        print("lone \ud800 surrogate")

        assert emit.lines() == ["lone \\ud800 surrogate"]


def test_only_what_was_asked_for_is_hooked(terminal: Terminal, emit: RecordingEmit) -> None:
    with stdout_is(terminal):
        before = (sys.stdout, sys.stderr, logging.Logger.callHandlers)

        collector = ConsoleCollector(stdout=False, stderr=False, logging=False)
        collector.start(emit)

        assert (sys.stdout, sys.stderr, logging.Logger.callHandlers) == before
        assert "write" not in vars(terminal)
        collector.stop()


def test_a_missing_stdout_is_no_error(monkeypatch: pytest.MonkeyPatch, emit: RecordingEmit) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    collector = ConsoleCollector(stderr=False)

    collector.start(emit)
    print("to nowhere")
    collector.stop()

    assert sys.stdout is None


# logging


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("training.loop")
    logger.setLevel(logging.INFO)
    yield logger
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def test_a_record_is_stored_once_although_its_handler_prints_it(
    terminal: Terminal, emit: RecordingEmit, logger: logging.Logger
) -> None:
    with stdout_is(terminal):
        # given a program whose handler writes to the stream that we look on at
        collector = ConsoleCollector()
        collector.start(emit)
        logger.addHandler(logging.StreamHandler(sys.stdout))

        logger.info("epoch %d done", 3)
        print("beside it")
        collector.stop()

        # then the terminal has the record, and the events have it once, with its level
        assert terminal.written() == "epoch 3 done\nbeside it\n"
        stored = [(e.stream, e.text, e.level) for e in emit.events if isinstance(e, ConsoleLine)]
        assert stored == [("log", "training.loop: epoch 3 done", logging.INFO), ("stdout", "beside it", None)]


def test_a_record_with_a_traceback_is_stored_in_lines(
    terminal: Terminal, emit: RecordingEmit, logger: logging.Logger
) -> None:
    with stdout_is(terminal), collecting(emit):
        try:
            raise ValueError("bad batch")
        except ValueError:
            logger.exception("step failed")

        lines = emit.lines("log")
        assert lines[0] == "training.loop: step failed"
        assert lines[1] == "Traceback (most recent call last):"
        assert lines[-1] == "ValueError: bad batch"


def test_a_record_that_stays_away_from_the_root_is_left_to_its_handlers(
    terminal: Terminal, emit: RecordingEmit, logger: logging.Logger
) -> None:
    with stdout_is(terminal), collecting(emit):
        # given a library that logs by itself
        logger.propagate = False
        logger.addHandler(logging.StreamHandler(sys.stdout))

        logger.warning("own way")

        # then the line is kept as the output it is
        assert emit.lines("log") == []
        assert emit.lines("stdout") == ["own way"]


def test_our_own_records_are_never_stored(terminal: Terminal, emit: RecordingEmit) -> None:
    with stdout_is(terminal), collecting(emit):
        own = logging.getLogger("telemetry.pipeline")
        handler = logging.StreamHandler(sys.stdout)
        own.addHandler(handler)
        try:
            own.warning("12 frames wait on disk")
            logging.getLogger("telemetry").warning("from the root of ours")
            logging.getLogger("telemetrics").warning("somebody else's")
        finally:
            own.removeHandler(handler)

        assert "12 frames wait on disk\n" in terminal.written()
        assert emit.lines() == ["telemetrics: somebody else's"]


def test_a_record_whose_arguments_do_not_fit_is_the_programs_affair(
    terminal: Terminal, emit: RecordingEmit, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stdout_is(terminal), collecting(emit):
        monkeypatch.setattr(logging, "raiseExceptions", False)
        logger.addHandler(logging.StreamHandler(sys.stdout))

        logger.info("%d items", "three")

        assert emit.refused == ["invalid"]


def test_it_survives_a_configuration_of_logging_and_does_not_disturb_it(
    terminal: Terminal, emit: RecordingEmit, logger: logging.Logger
) -> None:
    with stdout_is(terminal), collecting(emit):
        # given a program that sets up logging after us
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        try:
            root.handlers.clear()
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "root": {"level": "INFO"}})
            assert root.handlers == []
            logging.basicConfig(stream=io.StringIO(), level=logging.INFO)
            assert len(root.handlers) == 1

            # when it logs
            logger.info("after configuration")
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)

        assert emit.lines("log") == ["training.loop: after configuration"]


# process edges


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_prints_although_the_parent_was_in_the_middle_of_a_write(
    terminal: Terminal, emit: RecordingEmit
) -> None:
    with stdout_is(terminal), collecting(emit) as started:
        # given a parent that forks in the middle of a write, with an open line
        capture = started._captures["stdout"]
        print("parent's open line", end="")
        capture._turn["worker"] = "another thread"
        read_end, write_end = os.pipe()

        # when the child prints, without and with the reset
        pid = os.fork()
        if not pid:
            print("in the child")
            without = len(emit.lines())
            started.reset_after_fork()
            print("after the reset")
            os.write(write_end, f"{without} {emit.lines()}".encode())
            os._exit(0)
        os.waitpid(pid, 0)
        capture._turn.clear()
        os.close(write_end)

        # then it neither hangs nor repeats the parent's line
        with os.fdopen(read_end) as answer:
            assert answer.read() == "0 ['after the reset']"
        print(" ended")
        assert emit.lines() == ["parent's open line ended"]


def _run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_printing_while_the_interpreter_ends_is_as_without_us() -> None:
    # given a program that never stops the collector and prints in finalizers, atexit and threads
    program = """
        import atexit, sys, threading
        if {on}:
            from telemetry.collectors.console import ConsoleCollector
            class Emit:
                rows, mark = [], 1 << 30
                def __call__(self, event): return True
                def crossed(self): pass
                def refuse(self, reason, message): pass
            ConsoleCollector().start(Emit())
        class Last:
            def __del__(self): print("finalizer")
        keep = Last()
        sys.keep_until_the_end = Last()
        atexit.register(print, "atexit")
        threading.Thread(target=sys.stdout.write, args=("thread\\n",)).start()
        # One write: print() writes text and line end apart, and the thread's line may come between, with us or without.
        sys.stdout.write("main\\n")
        sys.stdout.flush()
        sys.stderr.write("to stderr")
        sys.exit(3)
    """

    without, with_us = _run(program.replace("{on}", "False")), _run(program.replace("{on}", "True"))

    assert with_us.returncode == without.returncode == 3
    assert sorted(with_us.stdout.split()) == sorted(without.stdout.split())
    assert with_us.stderr == without.stderr


def test_a_closed_pipe_ends_the_program_as_without_us() -> None:
    program = """
        import os, sys
        if {on}:
            from telemetry.collectors.console import ConsoleCollector
            class Emit:
                rows, mark = [], 1 << 30
                def __call__(self, event): return True
                def crossed(self): pass
                def refuse(self, reason, message): pass
            ConsoleCollector().start(Emit())
        read_end, write_end = os.pipe()
        os.dup2(write_end, 1)
        os.close(read_end)
        print("nobody reads", flush=True)
    """

    without, with_us = _run(program.replace("{on}", "False")), _run(program.replace("{on}", "True"))

    assert with_us.returncode == without.returncode != 0
    assert "BrokenPipeError" in with_us.stderr
    assert with_us.stderr.splitlines()[-1] == without.stderr.splitlines()[-1]
