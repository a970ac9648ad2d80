"""Forks and workers: a child is a new writer, sends nothing of its parent's, and never hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from telemetry.journal import SegmentDamage, read_segments
from telemetry.wire import Frame, decode

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

TASK = "e" * 32

PRELUDE = f"""
    import multiprocessing, os, sys, threading, time, warnings
    from pathlib import Path
    from telemetry.collectors.scalars import ScalarReports
    from telemetry.events import ConsoleLine
    from telemetry.pipeline import Pipeline
    from telemetry.settings import Settings
    from telemetry.sinks.local_zip import LocalZipSink
    from telemetry.testing import MemorySink, make_header

    # 3.12 and later warn of a fork with threads; that is what is tested here
    warnings.simplefilter("ignore", DeprecationWarning)
    sink = LocalZipSink(Path(sys.argv[1]), None)
    pipeline = Pipeline(make_header({TASK!r}), [sink], settings=Settings(block_timeout_s=60))
    scalars = ScalarReports(pipeline.emit)

    def report(name, count=100):
        for step in range(count):
            scalars.report_scalar("loss", name, 1.0, step)
"""


def run(tmp_path: Path, program: str, *, timeout_s: float = 60.0) -> str:
    """Run a program that must end by itself: the time-out is the watchdog for a deadlock."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PRELUDE) + textwrap.dedent(program))
    command = [sys.executable, str(path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def steps_by_writer(tmp_path: Path) -> dict[bytes, dict[str, list[int]]]:
    """Writer -> series -> steps, in the order of the writer's frames."""
    found: dict[bytes, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for item in read_segments(tmp_path / TASK):
        assert not isinstance(item, SegmentDamage), str(item)
        assert isinstance(item, Frame)
        columns = decode(item).columns
        for index, step in zip(columns.series_index, columns.iterations, strict=True):
            found[item.writer_id][columns.series[index].series].append(step)
    return found


def series(tmp_path: Path) -> list[dict[str, list[int]]]:
    return sorted((dict(steps) for steps in steps_by_writer(tmp_path).values()), key=lambda one: sorted(one))


ALL = list(range(100))


@pytest.mark.parametrize("end", ["sys.exit(0)", "pipeline.close(); os._exit(0)", "pipeline.flush(); os._exit(0)"])
def test_a_forked_child_is_a_writer_of_its_own(tmp_path: Path, end: str) -> None:
    # Given a parent with events in its queue, which forks a child that reports, by whichever way it ends
    run(
        tmp_path,
        f"""
        pipeline.start()
        report("before")
        child = os.fork()
        if child == 0:
            report("child")
            {end}
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        report("after")
        ledger = pipeline.close()
        assert (ledger.logged, ledger.delivered) == (200, 200), ledger
        """,
    )
    # Then each has its own events, once
    assert series(tmp_path) == [{"before": ALL, "after": ALL}, {"child": ALL}]


def test_an_emitter_and_dicts_go_on_in_a_child(tmp_path: Path) -> None:
    # Given an emitter that the parent has made, and dicts of a size that it has reported
    run(
        tmp_path,
        """
        pipeline.start()
        emit = scalars.scalar("loss", "emitted")
        def report_all(first):
            for step in range(first, 50):
                emit(1.0, step)
                scalars.report_scalars({"loss/a": 1.0, "loss/b": 2.0}, step)
        report_all(0)
        child = os.fork()
        if child == 0:
            report_all(25)
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        ledger = pipeline.close()
        assert (ledger.logged, ledger.delivered) == (150, 150), ledger
        """,
    )
    # Then parent and child have each their own points
    steps = sorted(series(tmp_path), key=lambda one: one["a"])
    assert steps == [{key: list(range(first, 50)) for key in ["emitted", "a", "b"]} for first in (0, 25)]


def test_a_child_that_reports_nothing_starts_nothing(tmp_path: Path) -> None:
    out = run(
        tmp_path,
        """
        pipeline.start()
        report("parent")
        child = os.fork()
        if child == 0:
            print(threading.active_count(), flush=True)
            sys.exit(0)
        os.waitpid(child, 0)
        pipeline.close()
        """,
    )
    assert out == "1\n"
    assert series(tmp_path) == [{"parent": ALL}]


def test_grandchildren_and_siblings_are_writers_too(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        pipeline.start()
        report("parent")
        children = []
        for index in range(3):
            child = os.fork()
            if child == 0:
                report(f"child {index}")
                if index == 0:
                    grandchild = os.fork()
                    if grandchild == 0:
                        report("grandchild")
                        sys.exit(0)
                    os.waitpid(grandchild, 0)
                sys.exit(0)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
        pipeline.close()
        """,
    )
    expected = [{"child 0": ALL}, {"child 1": ALL}, {"child 2": ALL}, {"grandchild": ALL}, {"parent": ALL}]
    assert series(tmp_path) == expected


def test_a_fork_after_close_reports_nothing_and_says_so(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        pipeline.start()
        report("parent")
        pipeline.close()
        child = os.fork()
        if child == 0:
            report("late")
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """,
    )
    assert series(tmp_path) == [{"parent": ALL}]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pool_workers_lose_nothing(tmp_path: Path, method: str) -> None:
    # Given workers, which under fork inherit the pipeline and otherwise make their own
    run(
        tmp_path,
        f"""
        def work(number):
            if {method!r} != "fork" and pipeline._thread is None:
                pipeline.start()
                from multiprocessing.util import Finalize
                Finalize(None, pipeline.close, exitpriority=100)
            report(f"job {{number}}")
            return os.getpid()

        if __name__ == "__main__":
            pipeline.start()
            report("parent")
            with multiprocessing.get_context({method!r}).Pool(2) as pool:
                pids = pool.map(work, range(6), chunksize=1)
                pool.close()
                pool.join()
            assert os.getpid() not in pids
            pipeline.close()
        """,
    )
    # Then every job is there once, and the parent's events are with the parent alone
    writers = steps_by_writer(tmp_path)
    jobs = {name: steps for one in writers.values() for name, steps in one.items()}
    assert jobs == {"parent": ALL, **{f"job {number}": ALL for number in range(6)}}
    assert sum("parent" in one for one in writers.values()) == 1
    assert 2 <= len(writers) <= 3
    assert [set(one) for one in writers.values() if "parent" in one] == [{"parent"}]


def test_fifty_forks_while_three_threads_report(tmp_path: Path) -> None:
    """No deadlock: every lock of ours is new in the child, whoever held it at the moment of the fork."""
    run(
        tmp_path,
        """
        pipeline.start()
        stop = threading.Event()

        def busy(name):
            step = 0
            while not stop.is_set():
                scalars.report_scalar("loss", name, 1.0, step)
                if step % 10 == 0:
                    pipeline.emit(ConsoleLine(1, "stdout", name))
                if step % 1000 == 0:
                    pipeline.ledger()
                step += 1

        threads = [threading.Thread(target=busy, args=(f"thread {index}",)) for index in range(3)]
        for thread in threads:
            thread.start()
        for number in range(50):
            child = os.fork()
            if child == 0:
                report(f"child {number}", 20)
                pipeline.emit(ConsoleLine(1, "stdout", "child"))
                pipeline.close()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        stop.set()
        for thread in threads:
            thread.join()
        pipeline.close()
        """,
        timeout_s=100.0,
    )
    # Then each child has its own records and nobody else's
    writers = list(steps_by_writer(tmp_path).values())
    children = [one for one in writers if any(name.startswith("child") for name in one)]
    assert len(children) == 50
    assert sorted(name for one in children for name in one) == sorted(f"child {number}" for number in range(50))
    assert all(steps == list(range(20)) for one in children for steps in one.values())
    [parent] = [one for one in writers if one not in children]
    assert all(before < after for steps in parent.values() for before, after in pairwise(steps))


def test_a_sink_that_cannot_be_cloned_gets_nothing_from_children(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        memory = MemorySink()
        both = Pipeline(make_header(), [memory, sink], settings=Settings())
        own = Pipeline(make_header(), [MemorySink()], settings=Settings())
        both.start()
        own.start()
        child = os.fork()
        if child == 0:
            both.emit(ConsoleLine(1, "stdout", "child"))
            own.emit(ConsoleLine(1, "stdout", "child"))
            assert both.close().delivered == 1
            ledger = own.close()
            assert ledger.logged == 1 and ledger.balanced, ledger
            assert memory.frames == []
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        both.close()
        own.close()
        assert memory.frames == []
        """,
    )


def test_a_subprocess_shares_nothing(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        import subprocess
        pipeline.start()
        report("parent")
        out = subprocess.run([sys.executable, "-c", "print('independent')"], capture_output=True, text=True)
        assert out.stdout == "independent\\n"
        pipeline.close()
        """,
    )
    assert series(tmp_path) == [{"parent": ALL}]


def test_a_fork_waits_for_an_import_of_ours_and_not_for_ever(tmp_path: Path) -> None:
    """A child that was forked while uvloop was being imported had half of it, and hung at its first event."""
    module = """
        import builtins
        builtins.importing.set()
        builtins.go_on.wait()
        done = True
    """
    (tmp_path / "slow_module.py").write_text(textwrap.dedent(module))
    out = run(
        tmp_path,
        """
        import builtins
        from telemetry.process import lazy
        builtins.importing, builtins.go_on = threading.Event(), threading.Event()
        forking = threading.Event()
        statuses = []

        def fork():
            forking.set()
            child = os.fork()
            if child == 0:
                import slow_module
                os._exit(0 if slow_module.done else 1)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

        # Given an import on a thread of ours, in the middle
        importer = threading.Thread(target=lazy.import_module, args=("slow_module",))
        importer.start()
        builtins.importing.wait()
        # When another thread forks
        forker = threading.Thread(target=fork)
        forker.start()
        forking.wait()
        builtins.go_on.set()
        forker.join()
        importer.join()
        print(statuses)
        """,
    )
    # Then the child has the whole module
    assert out == "[0]\n"
