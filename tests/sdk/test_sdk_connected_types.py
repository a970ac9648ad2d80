"""Connected objects stay what they were: for libraries that go by exact types, for copies and pickles, and inside."""

from __future__ import annotations

import argparse
import copy
import io
import json
import logging
import pickle
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import ml_collections
import msgpack
import omegaconf
import orjson
import pydantic
import pytest
import ruamel.yaml
import yaml
from sdk_support import run_program

from telemetry import OutputModel, Task
from telemetry.errors import ConfigurationError, TelemetryError
from telemetry.sdk.parameters.connected import Connected
from telemetry.testing import MemorySink
from telemetry.values import entry, value_of


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """A task of this process; nothing of it leaves the memory."""
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TELEMETRY_QUIET", "1")
    task = Task.init(
        project_name="p",
        task_name="types",
        sinks=[MemorySink()],
        auto_connect_arg_parser=False,
        auto_connect_streams=False,
        auto_resource_monitoring=False,
    )
    yield task
    task.close()


def recorded(task: Task) -> dict[str, Any]:
    return {name: value_of(kept) for name, kept in task._record.own.section("parameters").items()}


# ---- what others make of a connected dict --------------------------------------------------------------


class OldDumper(yaml.SafeDumper):
    """Made before anything was connected, with a table of representers of its own."""


OldDumper.add_representer(set, lambda dumper, value: dumper.represent_list(sorted(value)))
OldDumper.add_representer(OrderedDict, lambda dumper, value: dumper.represent_dict(value.items()))


def by_ruamel(kind: str) -> Callable[[Any], str]:
    def dumped(value: Any) -> str:
        text = io.StringIO()
        ruamel.yaml.YAML(typ=kind, pure=True).dump(value, text)
        return text.getvalue()

    return dumped


WRITERS: dict[str, Callable[[Any], Any]] = {
    "yaml.dump": yaml.dump,
    "yaml.safe_dump": yaml.safe_dump,
    "yaml.dump, twice the same": lambda value: yaml.dump([value, value]),
    "yaml, libyaml": lambda value: yaml.dump(value, Dumper=yaml.CSafeDumper),
    "yaml, a dumper of the program's": lambda value: yaml.dump(value, Dumper=OldDumper),
    "ruamel, round trip": by_ruamel("rt"),
    "ruamel, safe": by_ruamel("safe"),
    "OmegaConf.create": lambda value: omegaconf.OmegaConf.to_yaml(omegaconf.OmegaConf.create(value)),
    "OmegaConf.merge": lambda value: omegaconf.OmegaConf.to_yaml(omegaconf.OmegaConf.merge({"k": value}, {"z": 0})),
    "json": json.dumps,
    "orjson": orjson.dumps,
    "msgpack": msgpack.packb,
    "repr": repr,
    "deepcopy": lambda value: (type(copy.deepcopy(value)), copy.deepcopy(value)),
    "copy.copy": lambda value: (type(copy.copy(value)), copy.copy(value)),
    "copy": lambda value: (type(value.copy()), value.copy()),
    "|": lambda value: (type(value | {}), value | {"z": 1}),
    "pickle": lambda value: [
        (type(pickle.loads(pickle.dumps(value, protocol))), pickle.loads(pickle.dumps(value, protocol)))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ],
}
DICTS: list[dict[str, Any]] = [
    {"lr": 0.1, "nest": {"sizes": [1, 2], "deep": {}}},
    OrderedDict(z=1, a=2),
    defaultdict(list, a=[1]),
]


@pytest.mark.parametrize("given", DICTS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_connected_dict_is_written_as_the_dict_that_was_connected(
    task: Task, writer: str, given: dict[str, Any]
) -> None:
    write = WRITERS[writer]
    connected = task.connect(copy.deepcopy(given))
    try:
        expected = write(given)
    except (yaml.YAMLError, ruamel.yaml.error.YAMLError, omegaconf.errors.OmegaConfBaseException) as error:
        # what a library refuses, as defaultdicts, it still refuses
        with pytest.raises(type(error)):
            write(connected)
        return
    assert write(connected) == expected
    if isinstance(expected, str) and "dump" in writer:
        assert yaml.unsafe_load(write(connected)) in (given, [given, given])


def test_a_library_that_is_imported_after_the_dict_was_connected_knows_it(state_dir: Path) -> None:
    done = run_program(
        """
        import sys
        from telemetry import Task
        before = list(sys.meta_path)
        task = Task.init("p", "n", auto_resource_monitoring=False, auto_connect_streams=False)
        config = task.connect({"lr": 0.1, "nest": {"a": [1]}})
        assert not {"yaml", "omegaconf", "ruamel"} & set(sys.modules)
        import yaml, omegaconf, ruamel.yaml
        assert yaml.safe_load(yaml.dump(config)) == config
        assert omegaconf.OmegaConf.create(config).nest.a == [1]
        ruamel.yaml.YAML(typ="safe", pure=True).dump(config, sys.stdout)
        task.close()
        assert sys.meta_path == before
        # it outlives its task
        assert omegaconf.OmegaConf.create(config).lr == 0.1
        assert yaml.safe_load(yaml.safe_dump(config)) == config
        """,
        state_dir,
    )
    assert (done.returncode, done.stdout) == (0, "lr: 0.1\nnest:\n  a: [1]\n"), done.stderr


def test_an_ordered_dict_keeps_its_methods_and_its_order(task: Task) -> None:
    own = OrderedDict(a=1, b=2, c=3, d=4)
    params = task.connect(own)
    assert isinstance(params, OrderedDict)

    params.move_to_end("a")
    params.move_to_end("d", last=False)
    assert list(params) == list(own) == ["d", "b", "c", "a"]
    assert list(reversed(params)) == ["a", "c", "b", "d"]
    assert params.popitem(last=False) == ("d", 4)
    assert params.pop("b") == 2
    own.move_to_end("c")
    task.flush()
    assert params == own == OrderedDict(a=1, c=3)
    assert recorded(task) == {"General/a": 1, "General/c": 3}


def test_a_defaultdict_keeps_its_factory(task: Task) -> None:
    own: defaultdict[str, dict[str, int]] = defaultdict(dict)
    params = task.connect(own)
    assert isinstance(params, defaultdict)
    assert params.default_factory is dict

    params["new"]["x"] = 1
    assert recorded(task) == {"General/new/x": 1}
    assert own == {"new": {"x": 1}}
    params.default_factory = None
    with pytest.raises(KeyError):
        params["other"]


def test_its_class_makes_dicts_as_dict_does(task: Task) -> None:
    """`type(config)(...)`, as code does that walks through nested dicts."""
    kind: Any = type(task.connect({"a": {"b": 1}}))
    assert kind() == {}
    assert kind([("a", 1)], b=2) == {"a": 1, "b": 2}
    assert kind(a=1) == {"a": 1}
    assert kind.fromkeys("ab", 0) == {"a": 0, "b": 0}


# ---- the task itself, in copies and pickles --------------------------------------------------------------


class Trainer:
    """What a program copies and saves: it holds the task and the logger."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.logger = task.get_logger()
        self.lr = 0.1


def test_what_holds_a_task_and_a_logger_can_be_copied_and_pickled(task: Task) -> None:
    trainer = Trainer(task)
    for copied in (copy.deepcopy(trainer), copy.copy(trainer), pickle.loads(pickle.dumps(trainer))):
        assert copied is not trainer
        assert copied.task is task
        assert copied.logger is task.get_logger()
    task.close()
    assert pickle.loads(pickle.dumps(trainer)).task is task


def test_artifacts_and_models_can_be_copied_and_pickled(task: Task) -> None:
    assert task.upload_artifact("data", {"a": 1})
    model = OutputModel(task=task, name="net")
    ways: list[Callable[[Any], Any]] = [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))]
    for again in ways:
        assert again(task.artifacts)["data"].type == "dict"
        assert again(task.artifacts["data"]).name == "data"
        assert again(model).id == model.id


PICKLED = """
    import pickle, sys
    from telemetry import Task
    task = Task.init("p", "n", auto_resource_monitoring=False, auto_connect_streams=False, reuse_last_task_id=False)
    task.set_parameter("lr", 0.5)
    with open("kept.pkl", "wb") as file:
        pickle.dump({"task": task, "logger": task.get_logger()}, file)
"""
LOADED = """
    import pickle
    from telemetry import Task
    own = Task.init("p", "other", auto_resource_monitoring=False, auto_connect_streams=False) if {own} else None
    with open("kept.pkl", "rb") as file:
        kept = pickle.load(file)
    assert kept["task"].name == "n", kept
    assert kept["task"] is not own
    assert kept["task"].get_parameter("lr", cast=True) == 0.5
    if own is not None:
        assert kept["logger"] is own.get_logger()
"""


@pytest.mark.parametrize("own", [False, True])
def test_a_pickled_task_is_found_by_its_id_in_another_process(state_dir: Path, own: bool) -> None:
    """And a logger that comes from another run reports into the task that is this run's."""
    assert run_program(PICKLED, state_dir).returncode == 0
    done = run_program(LOADED.format(own=own), state_dir)
    assert done.returncode == 0, done.stderr


def test_a_worker_that_is_sent_the_logger_reports_into_its_parents_task(state_dir: Path) -> None:
    done = run_program(
        """
        import multiprocessing
        from telemetry import Task

        def work(logger, number):
            logger.report_scalar("loss", "train", float(number), iteration=number)

        if __name__ == "__main__":
            task = Task.init("p", "n", auto_resource_monitoring=False, auto_connect_streams=False)
            context = multiprocessing.get_context("spawn")
            workers = [context.Process(target=work, args=(task.get_logger(), number)) for number in range(2)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            task.close()
            assert [worker.exitcode for worker in workers] == [0, 0]
            task = Task.get_task(task_id=task.id)
            values = task.get_reported_scalars()["loss"]
            assert sorted(y for series in values.values() for y in series["y"]) == [0.0, 1.0], values
        """,
        state_dir,
    )
    assert done.returncode == 0, done.stderr


# ---- what lies inside of connected objects ---------------------------------------------------------------


@attrs.define
class Attrs:
    lr: float = 0.1


@attrs.define(frozen=True)
class Frozen:
    lr: float = 0.1


class Model(pydantic.BaseModel):
    lr: float = 0.1
    inner: Attrs = pydantic.Field(default_factory=Attrs)
    model_config = pydantic.ConfigDict(extra="allow", arbitrary_types_allowed=True)


class Plain:
    def __init__(self) -> None:
        self.lr = 0.1
        self.more = SimpleNamespace(deep=(1, 2))
        self._hidden = 1


class Slots:
    __slots__ = ("lr",)

    def __init__(self) -> None:
        self.lr = 0.1


@dataclass
class Partly:
    lr: float = 0.1
    lock: Any = field(default_factory=threading.Lock)


INSIDE: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "attrs": (Attrs, {"lr": 0.1}),
    "pydantic": (lambda: Model.model_validate({"extra": 3}), {"lr": 0.1, "inner/lr": 0.1, "extra": 3}),
    "ConfigDict": (lambda: ml_collections.ConfigDict({"lr": 0.1, "a": {"b": 1}}), {"lr": 0.1, "a/b": 1}),
    "Namespace": (lambda: argparse.Namespace(lr=0.1), {"lr": 0.1}),
    "SimpleNamespace": (lambda: SimpleNamespace(lr=0.1, a={"b": 1}), {"lr": 0.1, "a/b": 1}),
    "dataclass": (Partly, {"lr": 0.1}),
    "object": (Plain, {"lr": 0.1, "more/deep": (1, 2)}),
    "slots": (Slots, {"lr": 0.1}),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_settings_inside_a_connected_object_are_names(task: Task, kind: str) -> None:
    make, expected = INSIDE[kind]
    outer = Plain()
    outer.opt = make()  # type: ignore[attr-defined]
    task.connect(outer, name="Object")
    task.connect(make(), name="Itself")
    if kind != "dataclass":
        task.connect({"opt": make()}, name="Dict")
    kept = recorded(task)
    for name, value in expected.items():
        assert kept.pop(f"Object/opt/{name}") == value
        assert kept.pop(f"Itself/{name}") == value
        if kind != "dataclass":
            assert kept.pop(f"Dict/opt/{name}") == value
    assert kept == {"Object/lr": 0.1, "Object/more/deep": (1, 2)}


def test_they_are_followed_and_take_values_that_were_set_elsewhere(
    task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    task._core.connected.overrides = {
        "parameters": {f"General/{name}/lr": entry(0.5) for name in ("attrs", "model", "plain", "frozen")}
    }
    outer = SimpleNamespace(attrs=Attrs(), model=Model(), plain=Plain(), frozen=Frozen())
    task.connect(outer)
    assert (outer.attrs.lr, outer.model.lr, outer.plain.lr, outer.frozen.lr) == (0.5, 0.5, 0.5, 0.1)
    assert "General/frozen/lr" in caplog.text and "is kept" in caplog.text

    outer.attrs.lr = 0.6
    outer.plain.more.deep = (3,)
    task.flush()
    kept = recorded(task)
    assert (kept["General/attrs/lr"], kept["General/plain/more/deep"]) == (0.6, (3,))


def test_a_class_inside_a_connected_class_is_recorded(task: Task) -> None:
    class Config:
        lr = 0.1

        class optimizer:  # noqa: N801 - as such programs write it
            momentum = 0.9

        def method(self) -> None: ...

    task.connect(Config)
    assert recorded(task) == {"General/lr": 0.1, "General/optimizer/momentum": 0.9}


class Working:
    """No settings alone: it knows who it works for."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.lr = 0.1


def test_what_is_not_recorded_is_named(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    outer = Plain()
    outer.worker = Working(outer)  # type: ignore[attr-defined]
    outer.nest = {"items": [object()], "lr": 1, "worker": Working(outer)}  # type: ignore[attr-defined]
    outer.lock = threading.Lock()  # type: ignore[attr-defined]
    outer.log = logging.getLogger("x")  # type: ignore[attr-defined]
    task.connect(outer)
    assert recorded(task) == {"General/lr": 0.1, "General/more/deep": (1, 2), "General/nest/lr": 1}
    (message,) = [item.getMessage() for item in caplog.records]
    assert "worker (Working), nest/items (list), nest/worker (Working)" in message
    assert "lock" not in message and "log" not in message


# ---- what holds itself, or is deeper than a record -------------------------------------------------------


def deep(levels: int, make: Callable[[Any], Any] = lambda inner: {"k": inner}) -> Any:
    value = make({"end": 1})
    for _ in range(levels - 1):
        value = make(value)
    return value


def cyclic() -> dict[str, Any]:
    own: dict[str, Any] = {"a": {"b": {}}}
    own["a"]["b"]["self"] = own["a"]
    own["again"] = own
    return own


TOO_DEEP: dict[str, tuple[Callable[[], Any], str]] = {
    "cyclic": (cyclic, "(again|a/b/self)' holds itself"),
    "500 deep": (lambda: deep(500), "k/k/k/.*' lies more than 60 deep"),
    "50,000 deep": (lambda: deep(50_000), "lies more than 60 deep"),
}


@pytest.mark.parametrize("kind", TOO_DEEP)
def test_a_dict_that_no_record_can_hold_is_refused_with_its_place(task: Task, kind: str) -> None:
    make, message = TOO_DEEP[kind]
    params: dict[str, Any] = task.connect({"lr": 0.1})
    for call in (
        task.connect,
        task.connect_configuration,
        lambda value: task.set_configuration_object("c", config_dict=value),
        lambda value: params.__setitem__("v", value),
        lambda value: params.update(v=value),
    ):
        with pytest.raises(ConfigurationError, match=message):
            call(make())
    assert params == {"lr": 0.1}
    assert recorded(task) == {"General/lr": 0.1}
    assert task.get_configuration_objects() == {}


def test_a_list_in_a_configuration_that_holds_itself_is_refused(task: Task) -> None:
    own: list[Any] = [1]
    own.append({"x": own})
    with pytest.raises(ConfigurationError, match="the list at '1/x' holds itself"):
        task.connect_configuration(own)
    with pytest.raises(ConfigurationError, match="at 'v/1/x' holds itself"):
        task.connect_configuration({"v": own})


def knot() -> Any:
    """Two ways to go in a circle: 2 ** n paths of length n."""
    own = SimpleNamespace()
    own.one = own.two = own
    own.lr = 0.1
    return own


def looped() -> list[Any]:
    own: list[Any] = []
    own.append(own)
    return own


STRANGE: list[Callable[[], Any]] = [cyclic, lambda: deep(500), lambda: deep(50_000), knot, looped]
STRANGE.append(lambda: deep(50_000, lambda inner: [inner]))


@pytest.mark.parametrize("number", range(len(STRANGE)))
def test_no_call_fails_of_its_recursion(task: Task, number: int) -> None:
    make = STRANGE[number]
    logger = task.get_logger()
    calls: list[Callable[[Any], object]] = [
        lambda value: task.connect(value, name="A"),
        lambda value: task.connect({"v": SimpleNamespace(v=value)}, name="B"),
        lambda value: task.connect(SimpleNamespace(v=value), name="C"),
        lambda value: task.set_parameters({"D/v": value}),
        lambda value: task.update_parameters(value),
        lambda value: task.set_parameters_as_dict({"E": value}),
        lambda value: task.set_parameter("F", value),
        lambda value: task.set_user_properties(value),
        lambda value: task.set_user_properties(x=value),
        lambda value: task.delete_user_properties(value),
        lambda value: task.connect_label_enumeration(value),
        lambda value: task.upload_artifact("a", value),
        lambda value: task.upload_artifact("b", {"v": value}, extension_name="yaml"),
        lambda value: task.upload_artifact("c", {"a": 1}, metadata={"v": value}),
        lambda value: task.add_tags(value),
        lambda value: OutputModel(task=task, config_dict={"v": value}),
        lambda value: logger.report_table("t", "s", 0, table_plot=[["a"], [value]]),
        lambda value: logger.report_plotly("t", "s", {"data": [{"x": value}], "layout": {}}, 0),
        lambda value: logger.report_single_value("n", value),
        lambda value: logger.report_scalar("t", "s", value, value),
        lambda value: logger.report_text(value, print_console=False),
    ]
    for call in calls:
        try:
            call(make())
        except TelemetryError:
            pass  # refused with a sentence, which is as good
    assert task.flush()
    assert task.get_parameters_as_dict(cast=True)


# ---- nobody waits for the look ---------------------------------------------------------------------------


def test_a_write_does_not_wait_for_the_look_and_is_written_by_it(task: Task) -> None:
    """The look holds its lock for as long as it takes: here until the program has written."""
    looking, written = threading.Event(), threading.Event()
    params: dict[str, Any] = task.connect({"lr": 0.1, "nest": {"a": 1}})
    config: dict[str, Any] = task.connect_configuration({"a": 1}, "c")

    class Slow:
        def sync(self, names: Any = None) -> None:
            looking.set()
            assert written.wait(30)

    connected: Connected = task._core.connected
    connected._sources.append(Slow())
    thread = threading.Thread(target=connected.settle)
    thread.start()
    assert looking.wait(30)

    for number in range(100):
        params["lr"] = number
        params["nest"]["a"] = number
        config["a"] = number
    written.set()
    thread.join()
    connected._sources.pop()

    assert recorded(task) == {"General/lr": 99, "General/nest/a": 99}
    kept = task._record.own.section("configuration")["c"]
    assert kept["value"] == {"a": 99}
