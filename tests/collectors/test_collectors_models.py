"""Saved models: each known function of a framework, now or later imported, and put back afterwards."""

from __future__ import annotations

import importlib
import io
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from telemetry.collectors.models import SAVE_FUNCTIONS, ModelCollector, SaveFunction
from telemetry.collectors.post_import import PostImport

from telemetry.errors import ConfigurationError
from telemetry.events import Event, ModelSaved
from telemetry.protocols import Collector

FAKE = (
    SaveFunction("fake", "fakeframe.core", "save", 1, "f", ("fake",)),
    SaveFunction("fake", "fakeframe.core", "Model.save_model", 1, "path", ("fake", "parent")),
    SaveFunction("fake", "fakeframe.core", "gone_in_this_version", 1, "path", ("fake",)),
)

CORE = """
    import os

    def save(obj, f, *, mode="w"):
        '''The original's text.'''
        if obj == "bad":
            raise ValueError("cannot save this")
        if hasattr(f, "write"):
            f.write(str(obj))
        else:
            with open(f, mode) as file:
                file.write(str(obj))
        return "saved"

    class Model:
        def save_model(self, path):
            save("model", path)
            return self
"""


class RecordingEmit:
    """An Emit that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.mark = 1 << 30
        self.models: list[ModelSaved] = []
        self.refused: list[str] = []

    def __call__(self, event: Event) -> bool:
        assert isinstance(event, ModelSaved)
        self.models.append(event)
        return True

    def crossed(self) -> None:
        raise AssertionError("models are no scalars")

    def refuse(self, reason: str, message: str) -> None:
        self.refused.append(reason)


@pytest.fixture
def emit() -> RecordingEmit:
    return RecordingEmit()


@pytest.fixture
def framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A framework on disk that nobody has imported yet."""
    package = tmp_path / "site" / "fakeframe"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from fakeframe.core import save, Model\n")
    (package / "core.py").write_text(textwrap.dedent(CORE))
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.chdir(tmp_path)
    yield "fakeframe.core"
    for name in [name for name in sys.modules if name.partition(".")[0] == "fakeframe"]:
        del sys.modules[name]


@pytest.fixture
def collector(emit: RecordingEmit) -> Iterator[ModelCollector]:
    collector = ModelCollector(functions=FAKE, clock=lambda: 42)
    collector.start(emit)
    yield collector
    collector.stop()


def test_a_framework_imported_before_start_is_watched(framework: str, emit: RecordingEmit) -> None:
    core = importlib.import_module(framework)
    collector = ModelCollector(functions=FAKE, clock=lambda: 42)
    assert isinstance(collector, Collector)
    collector.start(emit)

    assert core.save("weights", "model.bin") == "saved"

    collector.stop()
    assert emit.models == [ModelSaved(42, "model.bin", "model.bin", "fake", None, len("weights"))]


def test_a_framework_imported_after_start_is_watched(
    framework: str, collector: ModelCollector, emit: RecordingEmit
) -> None:
    package = importlib.import_module("fakeframe")
    core = sys.modules[framework]

    # also under the name that the package took during its own import
    package.save("weights", "model.bin")

    assert [model.path for model in emit.models] == ["model.bin"]
    assert core.save.__doc__ == "The original's text."
    assert core.save.__name__ == "save"


def test_the_import_looks_as_if_nobody_watched(framework: str, collector: ModelCollector) -> None:
    core = importlib.import_module(framework)

    assert core.__spec__ is not None
    assert type(core.__loader__).__name__ == type(core.__spec__.loader).__name__ == "SourceFileLoader"
    assert importlib.util.find_spec(framework) is core.__spec__


def test_a_module_that_cannot_be_imported_fails_as_without_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a watched module with an error in it, and one that does not exist
    (tmp_path / "broken_frame.py").write_text("raise RuntimeError('half installed')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    told: list[str] = []
    watcher = PostImport({name: lambda module: told.append(module.__name__) for name in ("broken_frame", "no_frame")})
    watcher.install()
    try:
        with pytest.raises(RuntimeError, match="half installed"):
            importlib.import_module("broken_frame")
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_frame")
    finally:
        watcher.remove()

    assert told == []
    assert "broken_frame" not in sys.modules
    assert watcher not in sys.meta_path


def test_a_callback_that_fails_does_not_fail_the_import(framework: str) -> None:
    def callback(module: object) -> None:
        raise RuntimeError("a bug of ours")

    watcher = PostImport({framework: callback})
    watcher.install()
    try:
        assert importlib.import_module(framework).save
    finally:
        watcher.remove()


def test_a_failing_save_is_the_programs_affair(framework: str, collector: ModelCollector, emit: RecordingEmit) -> None:
    core = importlib.import_module(framework)

    with pytest.raises(ValueError, match="cannot save this"):
        core.save("bad", "model.bin")
    with pytest.raises(TypeError):
        core.save()
    with pytest.raises(FileNotFoundError):
        core.save("x", "no/such/folder/model.bin")
    assert emit.models == []

    # and the next one is seen again
    core.save("good", "model.bin")
    assert len(emit.models) == 1


def test_a_method_is_watched_and_what_it_calls_is_not_counted_twice(
    framework: str, collector: ModelCollector, emit: RecordingEmit
) -> None:
    core = importlib.import_module(framework)
    model = core.Model()

    assert model.save_model("a.bin") is model
    assert model.save_model(path="b.bin") is model
    core.Model.save_model(model, "c.bin")

    assert [model.path for model in emit.models] == ["a.bin", "b.bin", "c.bin"]


def test_paths_in_all_their_forms(
    framework: str, collector: ModelCollector, emit: RecordingEmit, tmp_path: Path
) -> None:
    core = importlib.import_module(framework)

    core.save("1", tmp_path / "path.bin")
    core.save("1", b"bytes.bin")
    core.save("1", f="keyword.bin")
    with Path("open.bin").open("w") as file:
        core.save("1", file)

    assert [(model.path, model.size_bytes) for model in emit.models] == [
        (str(tmp_path / "path.bin"), 1),
        ("bytes.bin", 1),
        ("keyword.bin", 1),
        ("open.bin", None),
    ]
    assert [model.name for model in emit.models] == ["path.bin", "bytes.bin", "keyword.bin", "open.bin"]


def test_what_has_no_path_is_ignored(framework: str, collector: ModelCollector, emit: RecordingEmit) -> None:
    core = importlib.import_module(framework)

    class Awkward(io.StringIO):
        @property
        def name(self) -> str:
            raise RuntimeError("no name for you")

    core.save("1", io.StringIO())
    with Path("by_descriptor.bin").open("w") as file, io.FileIO(file.fileno(), "w", closefd=False) as raw:
        again = io.TextIOWrapper(raw)
        core.save("1", again)
    assert emit.models == []
    assert emit.refused == []

    # a stream that fails when asked is counted, and the save goes through
    assert core.save("1", Awkward()) == "saved"
    assert emit.refused == ["invalid"]


def test_stop_puts_everything_back(framework: str, emit: RecordingEmit) -> None:
    core = importlib.import_module(framework)
    before = (core.save, core.Model.save_model, sys.meta_path[:])
    collector = ModelCollector(functions=FAKE)
    collector.start(emit)
    kept = core.save

    collector.stop()

    assert (core.save, core.Model.save_model, sys.meta_path[:]) == before
    assert kept("weights", "model.bin") == "saved"
    collector.saved("model.bin")
    assert emit.models == []


def test_stop_leaves_what_somebody_put_over_ours(framework: str, emit: RecordingEmit) -> None:
    core: Any = importlib.import_module(framework)
    collector = ModelCollector(functions=FAKE)
    collector.start(emit)
    ours = core.save

    def theirs(obj: Any, f: Any) -> Any:
        return ours(obj, f)

    core.save = theirs

    collector.stop()

    assert core.save is theirs
    assert core.save("weights", "model.bin") == "saved"
    assert emit.models == []


def test_a_watched_function_is_pickled_by_its_name(framework: str, collector: ModelCollector) -> None:
    core = importlib.import_module(framework)

    assert pickle.loads(pickle.dumps(core.save)) is core.save


@pytest.mark.parametrize(
    ("frameworks", "seen"),
    [
        (True, ["save/best.bin", "save/last.tmp", "method/best.bin"]),
        (False, []),
        ({}, []),
        ({"other": False}, ["save/best.bin", "save/last.tmp", "method/best.bin"]),
        ({"fake": True}, ["save/best.bin", "save/last.tmp", "method/best.bin"]),
        ({"fake": False}, []),
        # the method is left alone then, and the function that it calls is seen
        ({"parent": False}, ["save/best.bin", "save/last.tmp", "method/best.bin"]),
        ({"fake": "*.bin"}, ["save/best.bin", "method/best.bin"]),
        ({"fake": ["*.tmp", "save/b*"]}, ["save/best.bin", "save/last.tmp"]),
        ({"fake": []}, []),
        ({"fake": "*.bin", "parent": "save/*"}, ["save/best.bin"]),
    ],
)
def test_frameworks_choose_what_is_seen(framework: str, emit: RecordingEmit, frameworks: Any, seen: list[str]) -> None:
    # given two saves by a function, and one by a method that belongs to a parent framework too
    core = importlib.import_module(framework)
    for folder in ("save", "method"):
        Path(folder).mkdir()
    collector = ModelCollector(frameworks, functions=FAKE)
    collector.start(emit)

    core.save("1", "save/best.bin")
    core.save("1", "save/last.tmp")
    core.Model().save_model("method/best.bin")
    collector.stop()

    assert [model.path for model in emit.models] == seen


@pytest.mark.parametrize("frameworks", ["all", 1, {"fake": 3}, {"fake": [1]}, {3: True}, ["*.bin"]])
def test_what_is_no_choice_of_frameworks_is_refused(frameworks: Any) -> None:
    with pytest.raises(ConfigurationError, match="frameworks"):
        ModelCollector(frameworks)


def test_a_model_saved_by_other_means_is_reported(
    collector: ModelCollector, emit: RecordingEmit, tmp_path: Path
) -> None:
    (tmp_path / "weights.npz").write_bytes(b"12345")

    collector.saved(tmp_path / "weights.npz", name="best", framework="numpy", iteration=7)
    collector.saved(tmp_path)
    collector.saved("s3://bucket/model.pt")
    collector.saved(3)  # type: ignore[arg-type]

    assert emit.models == [
        ModelSaved(42, "best", str(tmp_path / "weights.npz"), "numpy", 7, 5),
        ModelSaved(42, tmp_path.name, str(tmp_path), "custom", None, None),
        ModelSaved(42, "model.pt", "s3://bucket/model.pt", "custom", None, None),
    ]
    assert emit.refused == ["invalid"]


def test_the_table_names_each_function_once() -> None:
    places = [(function.module, function.attribute) for function in SAVE_FUNCTIONS]

    assert len(places) == len(set(places))
    assert all(function.switches for function in SAVE_FUNCTIONS)


def test_nothing_is_imported_by_watching() -> None:
    program = """
        import sys
        from telemetry.collectors.models import SAVE_FUNCTIONS, ModelCollector
        class Emit:
            rows, mark = [], 1 << 30
            def __call__(self, event): return True
        collector = ModelCollector()
        collector.start(Emit())
        print(sorted({f.module.partition(".")[0] for f in SAVE_FUNCTIONS} & set(sys.modules)))
        collector.stop()
    """

    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=True
    )

    assert answer.stdout.strip() == "[]"


# The real ones


def test_real_joblib_saves_a_real_scikit_learn_model(emit: RecordingEmit, tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = linear_model.LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    original = joblib.dump
    collector = ModelCollector()
    collector.start(emit)
    try:
        joblib.dump(model, tmp_path / "digits.joblib", compress=3)
        # a cached result is no model
        joblib.Memory(tmp_path / "cache", verbose=0).cache(abs)(-1)
    finally:
        collector.stop()

    assert joblib.dump is original
    assert [(m.name, m.framework, m.iteration) for m in emit.models] == [("digits.joblib", "joblib", None)]
    assert emit.models[0].size_bytes == (tmp_path / "digits.joblib").stat().st_size
    assert joblib.load(tmp_path / "digits.joblib").predict([[1.0]])[0] == 1


def test_real_joblib_needs_scikit_switched_on_too(emit: RecordingEmit, tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    collector = ModelCollector({"scikit": False})
    collector.start(emit)
    joblib.dump([1], tmp_path / "list.joblib")
    collector.stop()

    assert emit.models == []


def test_real_torch_saves(emit: RecordingEmit, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    collector = ModelCollector()
    collector.start(emit)
    try:
        torch.save({"weight": torch.zeros(2)}, tmp_path / "model.pt")
        torch.save({"weight": torch.zeros(2)}, io.BytesIO())
    finally:
        collector.stop()

    assert [(m.name, m.framework) for m in emit.models] == [("model.pt", "pytorch")]
