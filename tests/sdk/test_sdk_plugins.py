"""Sinks and collectors that other packages bring: real entry points, of packages made on the spot."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from telemetry.errors import ConfigurationError
from telemetry.sdk.launch.plugins import InstalledCollectors, open_sink
from telemetry.settings import Settings
from telemetry.testing import ListEmit

MODULE = """
from telemetry.errors import ConfigurationError
from telemetry.events import ConsoleLine
from telemetry.testing import MemorySink

def open_sink(url, settings):
    return MemorySink(url)

def open_badly(url, settings):
    raise RuntimeError("no such bucket")

def open_choosily(url, settings):
    raise ConfigurationError("the bucket's name is missing: bucket:NAME")

def open_nothing(url, settings):
    return object()

class Beacon:
    name = "beacon"
    def start(self, emit):
        self.emit = emit
        emit(ConsoleLine(1, "report", "started"))
    def stop(self):
        self.emit(ConsoleLine(2, "report", "stopped"))

class Stubborn(Beacon):
    name = "stubborn"
    def start(self, emit):
        raise OSError("no such device")

class Clinging(Beacon):
    name = "clinging"
    def stop(self):
        raise OSError("will not go")
"""

SETTINGS = Settings()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plug_in_of_a_third_party.py").write_text(MODULE)
    info = tmp_path / "plug_in-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-in\nVersion: 1.0\n")
    target = "plug_in_of_a_third_party"
    (info / "entry_points.txt").write_text(
        "[telemetry.sinks]\n"
        f"memory = {target}:open_sink\n"
        f"bad = {target}:open_badly\n"
        f"choosy = {target}:open_choosily\n"
        f"nothing = {target}:open_nothing\n"
        "gone = no_such_module:open_sink\n"
        "[telemetry.collectors]\n"
        "aaa_gone = no_such_module:Collector\n"
        f"aab_nothing = {target}:open_sink\n"
        f"aac_object = builtins:object\n"
        f"beacon = {target}:Beacon\n"
        f"stubborn = {target}:Stubborn\n"
        f"clinging = {target}:Clinging\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("install")
def test_a_sink_of_a_third_party_is_found_by_its_scheme() -> None:
    assert open_sink("memory:here", SETTINGS).name == "memory:here"
    assert open_sink("MEMORY:here", SETTINGS).name == "MEMORY:here"


@pytest.mark.usefixtures("install")
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("bad:x", r"third_party:open_badly cannot open 'bad:x': RuntimeError: no such bucket"),
        ("choosy:", r"the bucket's name is missing"),
        ("nothing:x", r"returned object, which is no Sink"),
        ("gone:x", r"no_such_module:open_sink cannot open 'gone:x': ModuleNotFoundError"),
        ("unknown:x", r"unknown: is not one of .*memory:"),
    ],
)
def test_a_broken_sink_that_was_asked_for_is_named(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        open_sink(url, SETTINGS)


@pytest.mark.usefixtures("install")
def test_collectors_are_started_and_broken_ones_named_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    emit = ListEmit()
    installed = InstalledCollectors()

    installed.start(emit)
    assert installed.wait(30)
    installed.stop()

    assert sorted(getattr(event, "text", "") for event in emit.events) == ["started", "started", "stopped"]
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    for name in ("aaa_gone", "aab_nothing", "aac_object", "stubborn", "clinging"):
        assert any(name in line for line in said), name
    assert len(said) == 5


@pytest.mark.usefixtures("install")
def test_a_collector_that_is_found_after_the_end_is_not_started() -> None:
    emit = ListEmit()
    installed = InstalledCollectors()

    installed.stop()
    installed.start(emit)

    assert installed.wait(30)
    assert emit.events == []
