"""What holds for every test: no setting from outside, a home of its own, and a ledger that adds up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from pages_browser import browser, open_page, trouble, url

from telemetry import settings as settings_module
from telemetry.pipeline import Pipeline
from telemetry.sdk.identity import modes
from telemetry.sdk.launch.seeds import choose_seed
from telemetry.testing import MemorySink

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

# Fixtures of the browser tests.
__all__ = ["browser", "open_page", "trouble", "url"]

# No deadline: the machine may be busy. The seed is the test's name, so a failure comes again.
settings.register_profile("tests", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("tests")


# What the fast part leaves out; tests/tools/slow_tests.py writes it.
SLOW = frozenset((Path(__file__).parent / "slow.txt").read_text(encoding="utf-8").splitlines())
FAST = "not slow"  # in the -m of the fast part
# Of the memory and the patience of a shared machine: a worker grows to more than a gigabyte.
MOST_PROCESSES = 8


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Say how many processes run the tests: one for each core; for files that were named, this one alone."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist takes that
    # To start processes and to collect in each takes longer than most files do.
    if not all(Path(argument).is_dir() for argument in config.args):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_PROCESSES)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out of the fast part what would only be imported: a third of its time."""
    return True if FAST in config.option.markexpr and collection_path.stem in SLOW else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark as slow what slow.txt names, by its file or by its function."""
    file, function = item.path.stem, item.name.partition("[")[0]
    if not SLOW.isdisjoint({file, f"{file}::{function}"}):
        item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _share_of_the_machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A test marked `alone` runs while no other process of this run has one going; all others run beside each other."""
    if fcntl is None or "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    alone = request.node.get_closest_marker("alone") is not None
    folder = tmp_path_factory.getbasetemp().parent
    # Whoever wants to be alone holds the door, so that the others cannot follow each other in for ever.
    with (folder / "door.lock").open("w") as door, (folder / "room.lock").open("w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(door, fcntl.LOCK_UN)
        yield


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No TELEMETRY_* from outside, and a home and state folder that nobody else uses."""
    kept = dict(os.environ)
    for name in kept:
        if name.startswith("TELEMETRY_"):
            del os.environ[name]
    home = tmp_path_factory.mktemp("home", numbered=True)
    os.environ["HOME"] = str(home)
    for name, folder in (("XDG_STATE_HOME", "state"), ("XDG_CONFIG_HOME", "config"), ("XDG_CACHE_HOME", "cache")):
        os.environ[name] = str(home / folder)
    modes.set_offline(None)
    choose_seed(True)
    # Each test is a program of its own: the working folder of its first read is that of now.
    settings_module._first_folder = None
    yield
    modes.set_offline(None)
    choose_seed(True)
    os.environ.clear()
    os.environ.update(kept)


@pytest.fixture(autouse=True)
def pipelines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Pipeline]]:
    """Every pipeline that the test started. Afterwards, for each sink: accepted = sent + dropped + on disk + pending.

    A MemorySink also tells what it really holds: at least what the ledger says was delivered.
    """
    started: list[Pipeline] = []
    start = Pipeline.start

    def remember(pipeline: Pipeline) -> None:
        started.append(pipeline)
        start(pipeline)

    monkeypatch.setattr(Pipeline, "start", remember)
    yield started
    for pipeline in started:
        if not pipeline.closed:
            pipeline.close(timeout_s=1.0)
        for sink in pipeline.sinks:
            ledger = pipeline.ledger(sink.name)
            assert ledger.balanced, f"the ledger of {sink.name} does not add up: {ledger}"
            counts = (ledger.delivered, ledger.on_disk, ledger.in_memory, *ledger.dropped.values())
            assert min(counts) >= 0, f"a count of {sink.name} is below zero: {ledger}"
            if isinstance(sink, MemorySink):
                kept = {frame.sequence: frame.events for frame in sink.frames}
                assert sum(kept.values()) >= ledger.delivered, f"{sink.name} has {kept}, the ledger says {ledger}"


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """A state folder that does not exist yet, as on a machine where nothing of ours ever ran."""
    return tmp_path / "state"
