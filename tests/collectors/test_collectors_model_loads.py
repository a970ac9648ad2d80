"""Loaded models: told to who listens, by the same switches as saved ones; the frameworks here are made up."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from telemetry.collectors.models import LOAD_FUNCTIONS, LoadFunction, ModelCollector, SaveFunction

from telemetry.events import Event

FAKE = (
    SaveFunction("fake", "loadframe.core", "save", 1, "f", ("fake",)),
    LoadFunction("fake", "loadframe.core", "load", 0, "f", ("fake",)),
    LoadFunction("fake", "loadframe.core", "Booster.__init__", 2, "model_file", ("fake", "boost")),
    LoadFunction("fake", "loadframe.core", "Booster.load_model", 1, "fname", ("fake", "boost")),
)

CORE = """
    def save(obj, f):
        with open(f, "w") as file:
            file.write(str(obj))

    def load(f):
        if hasattr(f, "read"):
            return f.read()
        with open(f) as file:
            return file.read()

    class Booster:
        def __init__(self, params=None, model_file=None):
            self.text = load(model_file) if model_file else ""

        def load_model(self, fname):
            self.text = load(fname)
            return self
"""


class Listener:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def saved(self, path: str, *, name: str | None, framework: str, iteration: int | None) -> None:
        self.told.append(("saved", path))

    def loaded(self, path: str, *, framework: str) -> None:
        assert framework == "fake"
        self.told.append(("loaded", path))


class Emit:
    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.mark = 1 << 30
        self.events: list[Event] = []

    def __call__(self, event: Event) -> bool:
        self.events.append(event)
        return True

    def crossed(self) -> None:
        raise AssertionError("models are no scalars")

    def refuse(self, reason: str, message: str) -> None:
        raise AssertionError(message)


@pytest.fixture
def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    package = tmp_path / "site" / "loadframe"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "core.py").write_text(textwrap.dedent(CORE))
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.chdir(tmp_path)
    Path("model.bin").write_text("weights")
    yield importlib.import_module("loadframe.core")
    for name in [name for name in sys.modules if name.partition(".")[0] == "loadframe"]:
        del sys.modules[name]


def started(listener: Listener | None, frameworks: Any = True) -> tuple[ModelCollector, Emit]:
    collector, emit = ModelCollector(frameworks, functions=FAKE), Emit()
    if listener is not None:
        collector.listen(listener)
    collector.start(emit)
    return collector, emit


def test_functions_methods_and_classes_that_load_are_told(core: Any) -> None:
    listener = Listener()
    collector, emit = started(listener)
    assert core.load("model.bin") == "weights"
    assert core.load(f=Path("model.bin")) == "weights"
    assert core.Booster(model_file="model.bin").text == "weights"
    assert core.Booster({}, "model.bin").load_model(fname="model.bin").text == "weights"
    assert core.Booster().text == ""
    core.save("new", "saved.bin")
    collector.stop()
    core.load("model.bin")
    # A method that loads by calling a function that loads counts once.
    assert listener.told == [("loaded", "model.bin")] * 5 + [("saved", "saved.bin")]
    assert len(emit.events) == 1  # loads make no event


def test_an_open_file_has_its_path_and_a_load_that_fails_is_none(core: Any) -> None:
    listener = Listener()
    collector, _ = started(listener)
    with open("model.bin") as file:  # noqa: PTH123 - as the program would
        core.load(file)
    with pytest.raises(FileNotFoundError):
        core.load("gone.bin")
    collector.stop()
    assert listener.told == [("loaded", "model.bin")]


def test_without_a_listener_loads_are_not_watched(core: Any) -> None:
    original = core.load
    collector, _ = started(None)
    assert core.load is original
    collector.stop()


@pytest.mark.parametrize(
    ("frameworks", "told"),
    [
        ({"fake": "*.bin"}, ["model.bin"]),
        ({"fake": ["*.pt", "*.bin"]}, ["model.bin"]),
        ({"fake": "*.pt"}, []),
        ({"fake": False}, []),
        ({}, []),
        ({"boost": False}, ["model.bin"]),
    ],
)
def test_switches_and_wildcards_count_for_loads(core: Any, frameworks: Any, told: list[str]) -> None:
    listener = Listener()
    collector, _ = started(listener, frameworks)
    core.load("model.bin")
    collector.stop()
    assert [path for _, path in listener.told] == told


def test_functions_are_put_back(core: Any) -> None:
    before = {name: vars(core.Booster)[name] for name in ("__init__", "load_model")}
    collector, _ = started(Listener())
    assert vars(core.Booster)["__init__"] is not before["__init__"]
    collector.stop()
    assert {name: vars(core.Booster)[name] for name in before} == before


def test_the_table_names_each_place_once() -> None:
    places = [(function.module, function.attribute) for function in LOAD_FUNCTIONS]
    assert len(set(places)) == len(places)
    assert all(isinstance(function, LoadFunction) and function.switches for function in LOAD_FUNCTIONS)
    assert os.sep not in "".join(module for module, _ in places)
