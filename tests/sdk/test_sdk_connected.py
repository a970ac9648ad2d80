"""Connected objects: a dict that behaves as a dict, objects that are looked at again, and values set from elsewhere."""

from __future__ import annotations

import copy
import enum
import json
import logging
import os
import pickle
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sdk_support import only_session, read_story, run_program

from telemetry import Task
from telemetry.errors import ConfigurationError
from telemetry.events import RecordChange
from telemetry.fold import RecordFold
from telemetry.sdk.parameters import connected as connected_module
from telemetry.sdk.parameters.connected import Connected, ParameterSource
from telemetry.sdk.parameters.connected_dict import ConnectedDict
from telemetry.sdk.parameters.parameters import flatten
from telemetry.sdk.record.record import Record
from telemetry.testing import MemorySink
from telemetry.values import entry, value_of


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    """A task of this process; nothing of it leaves the memory."""
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TELEMETRY_QUIET", "1")
    task = Task.init(
        project_name="p",
        task_name="connected",
        sinks=[MemorySink()],
        auto_connect_arg_parser=False,
        auto_connect_streams=False,
        auto_resource_monitoring=False,
    )
    yield task
    task.close()


def recorded(task: Task) -> dict[str, Any]:
    """What is in the record already, without another look at what is connected."""
    return {name: value_of(kept) for name, kept in task._record.own.section("parameters").items()}


# ---- dicts -----------------------------------------------------------------------------------------


def test_each_way_to_change_a_dict_is_written_at_once(task: Task) -> None:
    params: dict[str, Any] = task.connect({"a": 1, "b": {"c": 2, "d": {"e": 3}}, "z": 0})

    params["a"] = 10
    params["b"]["c"] = 20
    params["b"]["d"]["e"] = 30
    params["new"] = {"x": {"y": 1}}
    params["new"]["x"]["y"] = 2
    params.update({"u": 1}, v=2)
    params |= {"w": 3}
    assert params.setdefault("s", 4) == 4
    assert params.setdefault("s", 5) == 4
    assert params.pop("z") == 0
    assert params.pop("z", None) is None
    del params["u"]
    params["b"].update(f=5)
    params["b"]["d"].clear()

    assert recorded(task) == {
        "General/a": 10,
        "General/b/c": 20,
        "General/b/d": {},
        "General/b/f": 5,
        "General/new/x/y": 2,
        "General/v": 2,
        "General/w": 3,
        "General/s": 4,
    }
    assert params.popitem() == ("s", 4)
    params.clear()
    assert recorded(task) == {}
    with pytest.raises(KeyError):
        params.pop("z")
    with pytest.raises(KeyError):
        params["z"]


def test_a_value_that_becomes_a_dict_and_back_leaves_nothing_behind(task: Task) -> None:
    params: dict[str, Any] = task.connect({"opt": "adam"})
    params["opt"] = {"name": "adam", "lr": 0.1}
    assert recorded(task) == {"General/opt/name": "adam", "General/opt/lr": 0.1}
    params["opt"] = "sgd"
    assert recorded(task) == {"General/opt": "sgd"}


def test_only_what_changed_is_written(task: Task) -> None:
    params: dict[str, Any] = task.connect({"a": 1, "b": [1], "c": {"d": 1.0, "e": True}})
    before = task.ledger().logged

    params["a"] = 1
    params["c"]["e"] = True
    task.flush()
    assert task.ledger().logged == before

    # equal to Python, but of another type
    params["a"] = True
    params["c"]["d"] = 1
    assert task.ledger().logged == before + 2
    assert recorded(task) == {"General/a": True, "General/b": [1], "General/c/d": 1, "General/c/e": True}


def test_the_dict_and_the_one_that_was_connected_stay_the_same(task: Task) -> None:
    own: dict[str, Any] = {"a": 1, "b": {"c": 2}, "list": [1]}
    params: dict[str, Any] = task.connect(own)

    params["b"]["c"] = 3
    params["new"] = 1
    assert own == {"a": 1, "b": {"c": 3}, "list": [1], "new": 1}
    assert type(own["b"]) is dict

    own["b"]["c"] = 4
    own["b"]["deep"] = {"x": 1}
    del own["a"]
    own["list"].append(2)
    task.flush()
    assert params == own
    assert recorded(task) == {
        "General/b/c": 4,
        "General/b/deep/x": 1,
        "General/list": [1, 2],
        "General/new": 1,
    }
    params["b"]["deep"]["x"] = 2
    assert recorded(task)["General/b/deep/x"] == 2
    assert own["b"]["deep"]["x"] == 2


def test_a_copy_of_a_connected_dict_is_a_plain_one(task: Task) -> None:
    given = {"a": 1, "b": {"c": [1]}}
    params = task.connect(given)
    assert isinstance(params, ConnectedDict)

    for copied in (
        copy.deepcopy(params),
        copy.copy(params),
        params.copy(),
        pickle.loads(pickle.dumps(params)),
        params | {},
        {} | params,
    ):
        assert type(copied) is dict
        assert type(copied["b"]) is dict
        assert copied == given
        copied["b"]["d"] = 1
        copied["b"].pop("d")
    assert json.loads(json.dumps(params)) == given
    assert yaml.safe_load(yaml.safe_dump(params)) == given
    assert params == given
    assert recorded(task) == {"General/a": 1, "General/b/c": [1]}


def test_a_defaultdict_goes_on_making_its_values(task: Task) -> None:
    counts = task.connect(defaultdict(int, a=1))
    counts["b"] += 2
    assert recorded(task) == {"General/a": 1, "General/b": 2}

    ordered = task.connect(OrderedDict(x=1), name="Ordered")
    with pytest.raises(KeyError):
        ordered["nothing"]


class Attributes(dict[str, Any]):
    """What attrdict, munch and the like do."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def test_a_dict_with_methods_of_its_own_comes_back_itself_and_is_looked_at_again(task: Task) -> None:
    own = Attributes(lr=0.1)
    assert task.connect(own) is own
    own["lr"] = 0.2
    task.flush()
    assert recorded(task) == {"General/lr": 0.2}


def test_keys_that_are_no_text_are_names_by_their_text_and_stay_what_they_are(task: Task) -> None:
    params: dict[Any, Any] = task.connect({1: "one", "names": {0: "cat", None: "x"}})
    params[2] = "two"
    params["names"][0] = "dog"
    assert params == {1: "one", 2: "two", "names": {0: "dog", None: "x"}}
    assert recorded(task) == {
        "General/1": "one",
        "General/2": "two",
        "General/names/0": "dog",
        "General/names/None": "x",
    }


def test_a_dict_that_holds_itself_harms_nobody(task: Task) -> None:
    own: dict[str, Any] = {"a": 1}
    own["self"] = SimpleNamespace(inner=own)
    params = task.connect(own)
    params["a"] = 2
    assert recorded(task)["General/a"] == 2


def test_after_the_end_of_the_task_the_dict_is_just_a_dict(task: Task) -> None:
    params: dict[str, Any] = task.connect({"a": 1})
    task.close()
    params["a"] = 2
    assert recorded(task) == {"General/a": 1}
    assert task.ledger().dropped == {}


operations = st.lists(
    st.tuples(
        st.sampled_from(["set", "own", "del", "nest", "inner", "update", "clear", "flush"]),
        st.sampled_from("abc"),
        st.integers(0, 3) | st.booleans() | st.just([]) | st.lists(st.integers(), max_size=2),
    ),
    max_size=25,
)


@given(operations)
def test_whatever_is_done_to_it_the_record_has_what_the_dict_has(steps: list[tuple[str, str, Any]]) -> None:
    # given a dict that is connected, and the program's own
    fold = RecordFold()
    connected = Connected(Record(lambda change: fold.apply(change)), watch=False)
    own: dict[str, Any] = {"a": {"b": 1}}
    params = ConnectedDict(own)
    source = ParameterSource(connected, params, lambda: params, None)
    connected.add(source)
    params.connect(source)

    # when both are changed
    for step, key, value in steps:
        inner = params.get(key)
        if step == "set":
            params[key] = value
        elif step == "own":
            own[key] = value
        elif step == "del":
            params.pop(key, None)
        elif step == "nest":
            params[key] = {"x": value, "deep": {}}
        elif step == "inner" and isinstance(inner, dict):
            inner.setdefault("deep", {})
            inner["more"] = value
        elif step == "update":
            params.update({key: {"u": value}})
        elif step == "clear":
            params.clear()
        elif step == "flush":
            connected.settle()
    connected.settle()

    # then all three are the same
    assert params == own
    kept = {name: value_of(kept) for name, kept in fold.section("parameters").items()}
    assert repr(kept) == repr(dict(sorted((f"General/{name}", value) for name, value in flatten(own).items())))


# ---- objects ---------------------------------------------------------------------------------------


class Base:
    inherited = 1
    _private = 2

    def method(self) -> None: ...


class Settings(Base):
    shared = "class"
    rate: float = 0.1

    def __init__(self) -> None:
        self.lr = 0.1
        self.layers = [1, 2]
        self.nest = {"a": 1}
        self._hidden = 1
        self.lock = threading.Lock()
        self.log = logging.getLogger("x")

    @property
    def computed(self) -> int:
        raise AssertionError("nobody may ask")


def test_of_an_object_its_own_public_settings_are_recorded(task: Task) -> None:
    settings = Settings()
    assert task.connect(settings, name="Opt") is settings
    assert recorded(task) == {"Opt/lr": 0.1, "Opt/layers": [1, 2], "Opt/nest/a": 1}

    settings.lr = 0.2
    settings.layers.append(3)
    settings.nest["b"] = 2
    settings.added = "later"  # type: ignore[attr-defined]
    del settings.nest["a"]
    task.flush()
    assert recorded(task) == {"Opt/lr": 0.2, "Opt/layers": [1, 2, 3], "Opt/nest/b": 2, "Opt/added": "later"}


def test_of_a_class_its_public_settings_are_recorded(task: Task) -> None:
    assert task.connect(Settings) is Settings
    assert recorded(task) == {"General/shared": "class", "General/rate": 0.1, "General/inherited": 1}


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Optimizer:
    lr: float = 0.1


@dataclass
class Config:
    epochs: int = 3
    color: Color = Color.RED
    optimizer: Optimizer = field(default_factory=Optimizer)


@dataclass(slots=True)
class Slotted:
    lr: float = 0.1


def test_dataclasses_namespaces_slots_and_mappings(task: Task) -> None:
    config = Config()
    task.connect(config)
    task.connect(Slotted(), name="Slots")
    task.connect(SimpleNamespace(a=1), name="Space")
    view = MappingProxyType({"a": {"b": 1}})
    assert task.connect(view, name="View") is view
    config.optimizer.lr = 0.5
    task.flush()
    assert recorded(task) == {
        "General/epochs": 3,
        "General/color": "Color.RED",
        "General/optimizer/lr": 0.5,
        "Slots/lr": 0.1,
        "Space/a": 1,
        "View/a/b": 1,
    }


@pytest.mark.parametrize("thing", [5, "text", [1], None, 2.5])
def test_what_has_no_names_is_refused(task: Task, thing: Any) -> None:
    with pytest.raises(ConfigurationError, match="Nothing was changed"):
        task.connect(thing)


def test_a_connected_object_is_looked_at_by_itself(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any call of ours: by the thread that looks."""
    monkeypatch.setattr(connected_module, "LOOK_INTERVAL_S", 0.001)
    seen = threading.Event()
    change_all = task._record.change_sections

    def watching(sections: Any) -> None:
        change_all(sections)
        if threading.current_thread().name == "telemetry-connected":
            seen.set()

    monkeypatch.setattr(task._record, "change_sections", watching)
    settings = Settings()
    task.connect(settings)
    settings.lr = 0.7
    assert seen.wait(30)
    assert recorded(task)["General/lr"] == 0.7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_changes_its_copy_and_not_the_record(task: Task) -> None:
    settings = Settings()
    task.connect(settings)
    pid = os.fork()
    if pid == 0:
        settings.lr = 0.9
        task._core.connected.settle()
        os._exit(0 if recorded(task)["General/lr"] == 0.1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# ---- values that somebody has set for this run -------------------------------------------------------


def test_connect_takes_the_values_that_were_set_elsewhere_as_the_programs_types(
    task: Task, caplog: pytest.LogCaptureFixture
) -> None:
    edited = {
        "General/epochs": entry("10"),
        "General/lr": entry("0.5"),
        "General/fast": entry("False"),
        "General/steps": entry(7.0),
        "General/nest/sizes": entry("[3, 4]"),
        "General/none": entry(5),
        "General/color": entry("Color.BLUE"),
        "General/bad": entry("many"),
        "General/other": entry("not of this dict"),
        "Obj/lr": entry(0.9),
    }
    task._core.connected.overrides = {"parameters": edited}
    before = task.ledger().logged

    params: dict[str, Any] = task.connect(
        {"epochs": 3, "lr": 1.0, "fast": True, "steps": 5, "nest": {"sizes": (1, 2)}, "none": None}
        | {"color": Color.RED, "bad": 4, "only_here": "x"}
    )

    assert params == {
        "epochs": 10,
        "lr": 0.5,
        "fast": False,
        "steps": 7,
        "nest": {"sizes": (3, 4)},
        "none": 5,
        "color": Color.BLUE,
        "bad": 4,
        "only_here": "x",
    }
    assert "General/bad" in caplog.text and "is kept" in caplog.text
    # what was set elsewhere is there already; only what nobody has set is added
    assert recorded(task) == {"General/bad": 4, "General/only_here": "x"}
    assert task.ledger().logged == before + 2

    params["epochs"] = 11
    assert recorded(task)["General/epochs"] == 11

    settings = SimpleNamespace(lr=0.1)
    task.connect(settings, name="Obj")
    assert settings.lr == 0.9


def test_overrides_can_be_ignored(task: Task) -> None:
    task._core.connected.overrides = {
        "parameters": {"General/lr": entry(0.5)},
        "configuration": {"c": {"text": "{}", "type": "dictionary"}},
        "labels": {"a": 5},
    }
    assert task.connect({"lr": 0.1}, ignore_remote_overrides=True) == {"lr": 0.1}
    assert recorded(task) == {"General/lr": 0.1}
    assert task.connect_configuration({"x": 1}, "c", ignore_remote_overrides=True) == {"x": 1}
    assert task.connect_label_enumeration({"a": 1}, ignore_remote_overrides=True) == {"a": 1}


def test_configurations_and_labels_that_were_set_elsewhere(task: Task, tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    file.write_text("lr: 0.1")
    task._core.connected.overrides = {
        "configuration": {
            "dict": {"text": '{"lr": 0.5, "deep": {"x": 1}}', "type": "dictionary"},
            "file": {"text": "lr: 0.9\n", "type": "yaml"},
        },
        "labels": {"cat": 5},
    }

    config: dict[str, Any] = task.connect_configuration({"lr": 0.1}, "dict")
    assert config == {"lr": 0.5, "deep": {"x": 1}}
    assert task._record.own.section("configuration") == {}
    config["deep"]["x"] = 2
    assert task.get_configuration_object_as_dict("dict") == {"lr": 0.5, "deep": {"x": 2}}

    other = task.connect_configuration(str(file), "file")
    assert Path(other).read_text() == "lr: 0.9\n"
    assert Path(other).suffix == ".yaml"
    assert file.read_text() == "lr: 0.1"
    Path(other).unlink()
    assert task.connect_label_enumeration({"cat": 0}) == {"cat": 5}


# ---- configurations ----------------------------------------------------------------------------------


def test_a_large_configuration_is_not_written_at_each_change_but_with_the_next_look(task: Task) -> None:
    config: dict[str, Any] = task.connect_configuration({"rows": list(range(10_000)), "a": 0}, "large")
    before = task.ledger().logged
    for number in range(100):
        config["a"] = number
    assert task.ledger().logged == before
    task.flush()
    assert task.ledger().logged == before + 1
    kept: Any = task.get_configuration_object_as_dict("large")
    assert kept["a"] == 99


def test_a_configuration_that_is_too_large_for_a_record_is_refused(task: Task) -> None:
    with pytest.raises(ConfigurationError, match="upload_artifact"):
        task.set_configuration_object("huge", "x" * (9 * 2**20))
    with pytest.raises(ConfigurationError, match="first argument"):
        task.connect_configuration("name", {"a": 1})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="takes a dict, a list or the path"):
        task.connect_configuration(5)
    with pytest.raises(ConfigurationError, match="either config_text or config_dict"):
        task.set_configuration_object("none")


def test_a_change_that_cannot_be_sent_is_heard_of() -> None:
    """A dict that is connected to another program's task: each change is sent at once, and may fail."""

    def refuse(changes: Any) -> None:
        raise ConfigurationError("the server is away")

    sent: list[RecordChange] = []
    record = Record(send=sent.extend)
    connected = Connected(record, watch=False)
    params = ConnectedDict({"a": 1})
    source = ParameterSource(connected, params, lambda: params, None)
    connected.add(source)
    params.connect(source)
    assert [change.key for change in sent] == ["General/a"]

    record._send = refuse
    with pytest.raises(ConfigurationError, match="away"):
        params["a"] = 2

    record._send = sent.extend
    params["b"] = 3
    connected.settle()
    assert [(change.key, value_of(change.value)) for change in sent[1:]] == [("General/b", 3), ("General/a", 2)]


def test_what_was_set_more_than_a_moment_ago_survives_a_kill(state_dir: Path) -> None:
    """Parameters, connected dicts and objects of a program that is killed."""
    source = """
        import os, signal
        from telemetry import Task

        class Model:
            def __init__(self):
                self.layers = 3

        task = Task.init("p", "n", auto_resource_monitoring=False, auto_connect_streams=False)
        model = task.connect(Model(), name="Model")
        params = task.connect({"lr": 0.1, "nest": {"a": 1}})
        params["nest"]["a"] = 2
        model.layers = 5
        task.set_user_properties(stage="begun")
        assert task.flush()
        params["lr"] = float("nan")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_program(source, state_dir)
    assert done.returncode == -9, done.stderr

    record = read_story(only_session(state_dir)).record
    kept = {name: value_of(kept) for name, kept in record["parameters"].items()}
    kept.pop("General/lr")
    assert kept == {"Model/layers": 5, "General/nest/a": 2}
    assert value_of(record["properties"]["stage"]) == "begun"


def test_a_config_of_omegaconf_is_followed_with_its_interpolations(task: Task) -> None:
    conf = pytest.importorskip("omegaconf").OmegaConf
    config = conf.create({"model": {"lr": 0.1, "half": "${model.lr}", "sizes": [1, 2]}, "data": "???"})
    task._core.connected.overrides = {"parameters": {"General/model/sizes": entry("[3]")}}

    assert task.connect(config) is config
    assert config.model.sizes == [3]
    task.connect_configuration(config, "whole")
    task.connect_configuration(config.model.sizes, "list")
    task.connect_configuration(Config(), "dataclass")
    config.model.lr = 0.5
    task.flush()

    assert recorded(task) == {"General/model/lr": 0.5, "General/model/half": "${model.lr}", "General/data": "???"}
    assert task.get_configuration_object_as_dict("whole") == {
        "model": {"lr": 0.5, "half": "${model.lr}", "sizes": [3]},
        "data": "???",
    }
    assert task.get_configuration_object_as_dict("list") == [3]
    whole = {"epochs": 3, "color": "Color.RED", "optimizer": {"lr": 0.1}}
    assert task.get_configuration_object_as_dict("dataclass") == whole
