"""The Task page, "Configuration": its samples, read back three ways, and the traps of the real system."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Any

import pytest
from page_support import Way

from telemetry.errors import ConfigurationError


class Person:
    def __init__(self, name: str, age: int) -> None:
        self.name = name
        self.age = age


# ---- Manual Hyperparameter Logging -----------------------------------------------------------------


def test_setting_parameters(way: Way) -> None:
    task = way.init(project_name="examples", task_name="parameters")

    # override parameters with provided dictionary
    task.set_parameters({"Args/epochs": 7, "lr": 0.5})

    # setting a single parameter
    task.set_parameter(name="decay", value=0.001)

    expected = {"Args/epochs": "7", "General/lr": "0.5", "General/decay": "0.001"}
    assert task.get_parameters() == expected
    assert way.read(task).get_parameters() == expected


def test_set_parameters_replaces_all_parameters_but_no_user_property(way: Way) -> None:
    task = way.init(project_name="examples", task_name="parameters")
    task.set_user_properties(backbone="great")
    task.set_parameter("Args/old", 1)

    task.set_parameters({"lr": 0.5}, [("b", 2)], momentum=0.9)

    read = way.read(task)
    assert read.get_parameters() == {
        "General/lr": "0.5",
        "General/b": "2",
        "General/momentum": "0.9",
        "properties/backbone": "great",
    }


def test_adding_parameters(way: Way) -> None:
    task = way.init(project_name="examples", task_name="parameters")
    task.set_parameter("kept", 1)

    # add parameters
    task.set_parameters_as_dict({"my_args/lr": 0.3, "epochs": 10})
    task.set_parameters_as_dict({"A": {"b": 1, "c": {"d": [1], "empty": {}}}})
    task.update_parameters({"kept2": None}, x=True)

    read = way.read(task)
    assert read.get_parameters() == {
        "General/kept": "1",
        "my_args/lr": "0.3",
        "General/epochs": "10",
        "A/b": "1",
        "A/c/d": "[1]",
        "A/c/empty": "{}",
        "General/kept2": "",
        "General/x": "True",
    }
    assert read.get_parameters_as_dict(cast=True) == {
        "General": {"kept": 1, "epochs": 10, "kept2": None, "x": True},
        "my_args": {"lr": 0.3},
        "A": {"b": 1, "c": {"d": [1], "empty": {}}},
    }


# ---- Accessing Parameters --------------------------------------------------------------------------


def test_accessing_parameters(way: Way, capsys: pytest.CaptureFixture[str]) -> None:
    task = way.init(project_name="examples", task_name="parameters")
    task.set_parameters({"Args/batch_size": 64, "lr": 0.5})
    task = way.read(task)

    # will print a flattened dictionary of the 'section/parameter': 'value' pairs
    print(task.get_parameters())
    param = task.get_parameter(name="Args/batch_size")

    assert capsys.readouterr().out == "{'Args/batch_size': '64', 'General/lr': '0.5'}\n"
    assert param == "64"
    assert task.get_parameter("Args/batch_size", cast=True) == 64
    # a name without a section is found in General
    assert task.get_parameter("lr", cast=True) == 0.5
    assert task.get_parameter("batch_size") is None
    # names and sections are case-sensitive
    assert task.get_parameter("args/batch_size", default="none") == "none"
    assert task.get_parameter("Args/Batch_size", default=0) == 0


VALUES = {
    "none": (None, ""),
    "yes": (True, "True"),
    "no": (False, "False"),
    "int": (7, "7"),
    "big": (2**70, str(2**70)),
    "float": (1e-7, "1e-07"),
    "nan": (math.nan, "nan"),
    "inf": (-math.inf, "-inf"),
    "text": ("False", "False"),
    "empty": ("", ""),
    "list": ([1, 2, 3], "[1, 2, 3]"),
    "words": (["a", "b"], '["a", "b"]'),
    "tuple": ((1, 2), "[1, 2]"),
    "dict": ({"a": {"b": (1, None)}}, '{"a": {"b": [1, null]}}'),
    "no list": ([], "[]"),
    "no dict": ({}, "{}"),
    "keys": ({1: "one"}, '{"1": "one"}'),
    "path": (Path("a/b"), "a/b"),
    "bytes": (b"\xff", "b'\\xff'"),
}


def test_every_type_comes_back_as_it_was_and_as_text(way: Way) -> None:
    task = way.init(project_name="examples", task_name="types")
    task.set_parameters({name: value for name, (value, _) in VALUES.items()})

    read = way.read(task)
    typed = read.get_parameters(cast=True)
    for name, (value, text) in VALUES.items():
        assert read.get_parameter(name) == text
        assert repr(typed[f"General/{name}"]) == repr(value)


def test_a_parameter_has_a_description_and_a_type(way: Way) -> None:
    task = way.init(project_name="examples", task_name="parameters")
    task.set_parameter("Args/lr", "0.1", description="learning rate", value_type=float)
    task.set_parameter("Args/lr", "0.2", value_type="float")

    read = way.read(task)
    assert read._section("parameters")["Args/lr"] == {"value": "0.2", "type": "float", "description": "learning rate"}
    assert read.get_parameter("Args/lr", cast=True) == 0.2


def test_deleting_a_parameter(way: Way) -> None:
    task = way.init(project_name="examples", task_name="parameters")
    task.set_parameters({"Args/a": 1, "b": 2, "c": 3})

    assert task.delete_parameter("Args/a")
    assert task.delete_parameter("b", force=True)
    assert not task.delete_parameter("Args/nothing")

    assert way.read(task).get_parameters() == {"General/c": "3"}


def test_copying_all_parameters_of_a_task(way: Way) -> None:
    task = way.init(project_name="examples", task_name="parameters")
    task.set_parameters({"Args/a": (1, 2), "b": {"c": 1}})
    task.set_user_properties(backbone="great")

    task.set_parameters(task.get_parameters(cast=True))

    assert task.get_parameters(cast=True) == {"Args/a": (1, 2), "General/b": {"c": 1}, "properties/backbone": "great"}
    assert way.read(task).get_user_properties(value_only=True) == {"backbone": "great"}


@pytest.mark.parametrize("given", [5, "lr", [1], None])
def test_what_is_no_dict_is_refused_and_nothing_changed(way: Way, given: Any) -> None:
    task = way.init(project_name="examples", task_name="parameters")
    task.set_parameter("a", 1)
    for call in (task.set_parameters, task.update_parameters, task.set_parameters_as_dict):
        with pytest.raises(ConfigurationError, match="Nothing was changed"):
            call(given)
    assert task.get_parameters() == {"General/a": "1"}


# ---- Tracking Python Objects -----------------------------------------------------------------------


def test_tracking_python_objects(way: Way) -> None:
    me = Person("Erik", 5)

    params_dictionary = {"epochs": 3, "lr": 0.4}

    task = way.init(project_name="examples", task_name="python objects")

    task.connect(me)
    task.connect(params_dictionary)

    assert task.get_parameters(cast=True) == {
        "General/name": "Erik",
        "General/age": 5,
        "General/epochs": 3,
        "General/lr": 0.4,
    }

    # as they evolve in your code
    me.age = 6
    params_dictionary["lr"] = 0.2
    params_dictionary["momentum"] = 0.9

    assert way.read(task).get_parameters(cast=True) == {
        "General/name": "Erik",
        "General/age": 6,
        "General/epochs": 3,
        "General/lr": 0.2,
        "General/momentum": 0.9,
    }


def test_a_nested_dict_keeps_types_names_and_empty_parts(way: Way) -> None:
    task = way.init(project_name="examples", task_name="nested")
    given: dict[str, Any] = {
        "nest": {"b": {"c": 1, "d": [1, 2]}, "empty": {}},
        "list": [],
        "pair": (1, 2),
        "none": None,
        "no": False,
    }

    params = task.connect(given, name="Model")

    assert params == given
    assert way.read(task).get_parameters(cast=True) == {
        "Model/nest/b/c": 1,
        "Model/nest/b/d": [1, 2],
        "Model/nest/empty": {},
        "Model/list": [],
        "Model/pair": (1, 2),
        "Model/none": None,
        "Model/no": False,
    }


# ---- Configuration Objects -------------------------------------------------------------------------


def test_configuration_objects(way: Way) -> None:
    folder = Path("path/to/configuration")
    folder.mkdir(parents=True)
    text = "# a comment\r\nlr: 0.1\nlayers: [1, 2]\n"
    (folder / "file.yaml").write_bytes(text.encode())
    task = way.init(project_name="examples", task_name="configuration")

    # connect a configuration dictionary
    model_config_dict: dict[str, Any] = {
        "value": 13.37, "dict": {"sub_value": "string"}, "list_of_ints": [1, 2, 3, 4],
    }  # fmt: skip
    model_config_dict = task.connect_configuration(name="dictionary", configuration=model_config_dict)

    # connect a configuration file
    config_file_yaml = task.connect_configuration(name="yaml file", configuration="path/to/configuration/file.yaml")

    assert config_file_yaml == "path/to/configuration/file.yaml"
    model_config_dict["dict"]["sub_value"] = "changed"
    model_config_dict["pair"] = (1, 2)

    read = way.read(task)
    kept = read._section("configuration")
    assert kept["dictionary"]["type"] == "dictionary"
    assert kept["yaml file"]["type"] == "yaml"
    assert read.get_configuration_object("yaml file") == text
    assert read.get_configuration_object_as_dict("dictionary") == {
        "value": 13.37,
        "dict": {"sub_value": "changed"},
        "list_of_ints": [1, 2, 3, 4],
        "pair": (1, 2),
    }
    assert set(read.get_configuration_objects()) == {"dictionary", "yaml file"}
    assert read.get_configuration_object("nothing") is None
    assert read.get_configuration_object_as_dict("nothing") is None
    # of its inner structure the parameters know nothing
    assert read.get_parameters() == {}


def test_a_configuration_may_be_a_list_and_a_path_object(way: Way, tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"a": [1, null]}')
    task = way.init(project_name="examples", task_name="configuration")

    assert task.connect_configuration(file) == file
    stages = task.connect_configuration([{"name": "a"}], "stages", description="what runs")
    stages.append({"name": "b"})

    read = way.read(task)
    assert read.get_configuration_object_as_dict("General") == {"a": [1, None]}
    assert read.get_configuration_object_as_dict("stages") == [{"name": "a"}, {"name": "b"}]
    assert read._section("configuration")["stages"]["description"] == "what runs"


def test_a_file_that_cannot_be_read_is_a_value_error_that_names_it(way: Way, tmp_path: Path) -> None:
    task = way.init(project_name="examples", task_name="configuration")
    (tmp_path / "binary.bin").write_bytes(b"\xff\x00")

    for path in ("missing/file.yaml", str(tmp_path), "binary.bin"):
        with pytest.raises(ValueError, match="Nothing was changed") as caught:
            task.connect_configuration(path, name="file")
        assert path in str(caught.value)
    assert way.read(task).get_configuration_objects() == {}


def test_setting_a_configuration_object(way: Way) -> None:
    task = way.init(project_name="examples", task_name="configuration")
    task.set_configuration_object("text", "lr: 0.1", config_type="yaml", description="of the model")
    task.set_configuration_object("dict", config_dict={"a": (1, 2)})
    task.set_configuration_object("toml", "[model]\nlr = 0.1", config_type="toml")
    task.set_configuration_object("words", "just some words")

    read = way.read(task)
    assert read.get_configuration_object("text") == "lr: 0.1"
    assert read.get_configuration_object_as_dict("text") == {"lr": 0.1}
    assert read.get_configuration_object_as_dict("dict") == {"a": (1, 2)}
    assert read.get_configuration_object_as_dict("toml") == {"model": {"lr": 0.1}}
    with pytest.raises(ConfigurationError, match="is no dict and no list"):
        read.get_configuration_object_as_dict("words")


def test_label_enumeration(way: Way) -> None:
    task = way.init(project_name="examples", task_name="labels")
    task.connect_label_enumeration({"old": 7})

    assert task.connect_label_enumeration({"background": 0, "person": 1}) == {"background": 0, "person": 1}
    with pytest.raises(ConfigurationError, match="no such pair"):
        task.connect_label_enumeration({"person": "one"})  # type: ignore[dict-item]

    assert way.read(task).get_labels_enumeration() == {"background": 0, "person": 1}


# ---- User Properties -------------------------------------------------------------------------------


def test_user_properties(way: Way) -> None:
    task = way.init(project_name="examples", task_name="properties")

    assert task.set_user_properties(
      {"name": "backbone", "description": "network type", "value": "great"}
    )  # fmt: skip

    read = way.read(task)
    assert read.get_user_properties(value_only=True) == {"backbone": "great"}
    assert read.get_user_properties() == {
        "backbone": {
            "section": "properties",
            "name": "backbone",
            "value": "great",
            "description": "network type",
            "type": "str",
        }
    }
    assert read.get_parameters() == {"properties/backbone": "great"}


def test_user_properties_in_every_form(way: Way) -> None:
    task = way.init(project_name="examples", task_name="properties")
    task.set_user_properties(
        {"name": "a", "value": 1},
        [{"name": "b", "value": 2.5, "description": "two"}, ("c", None)],
        {"d": "text", "e": {"value": "7", "type": "int"}},
        f=True,
        g={"value": [1], "description": "seven"},
    )
    task.set_user_properties(b={"value": 3}, g={"description": "changed"})

    assert task.delete_user_properties("f", ["nothing"])
    assert task.delete_user_properties({"name": "d"}, [("properties", "c")])
    assert not task.delete_user_properties("f")

    read = way.read(task)
    assert read.get_user_properties(value_only=True) == {"a": 1, "b": 3, "e": 7, "g": [1]}
    descriptions = {name: item["description"] for name, item in read.get_user_properties().items()}
    assert descriptions == {"a": "", "b": "two", "e": "", "g": "changed"}


@pytest.mark.parametrize("given", [5, "backbone", [5], {"name": 5, "value": 1}])
def test_what_is_no_property_is_refused(way: Way, given: Any) -> None:
    task = way.init(project_name="examples", task_name="properties")
    with pytest.raises(ConfigurationError, match="Nothing was changed"):
        task.set_user_properties({"a": 1}, given)
    assert task.get_user_properties() == {}


def test_user_properties_can_be_changed_after_the_task_has_ended(server_way: Way) -> None:
    task = server_way.init(project_name="examples", task_name="properties")
    task.set_user_properties(backbone="great")
    read = server_way.read(task)

    assert read.set_user_properties(backbone="greater", added=1)
    assert read.get_user_properties(value_only=True) == {"backbone": "greater", "added": 1}
    assert read.delete_user_properties("added")
    read.reload()
    assert read.get_user_properties(value_only=True) == {"backbone": "greater"}


# ---- Argument Parsers --------------------------------------------------------------------------------


def parse() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--Example_1", type=int, default=1)
    parser.add_argument("--Example_2", default=None)
    parser.add_argument("--Example_3", nargs="+", type=float, default=[0.5])
    parser.parse_args(["--Example_1", "2"])


@pytest.mark.parametrize(
    ("auto_connect_arg_parser", "expected"),
    [
        (True, {"Args/Example_1": 2, "Args/Example_2": None, "Args/Example_3": [0.5]}),
        (False, {}),
        ({"Example_1": False}, {"Args/Example_2": None, "Args/Example_3": [0.5]}),
        ({"Example_2": True, "*": False}, {"Args/Example_2": None}),
        ({}, {}),
    ],
)
def test_argument_parsers(way: Way, auto_connect_arg_parser: Any, expected: dict[str, Any]) -> None:
    task = way.init(project_name="examples", task_name="parsers", auto_connect_arg_parser=auto_connect_arg_parser)
    parse()
    assert task.get_parameters(cast=True) == expected
    assert way.read(task).get_parameters(cast=True) == expected


def test_connecting_a_parser(way: Way) -> None:
    task = way.init(project_name="examples", task_name="parsers", auto_connect_arg_parser=False)
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1, help="the rate")

    assert task.connect(parser) is parser
    assert task.get_parameters() == {"Args/lr": "0.1"}
    parser.parse_args(["--lr", "0.5"])

    read = way.read(task)
    assert read.get_parameter("Args/lr", cast=True) == 0.5
    assert read._section("parameters")["Args/lr"]["description"] == "the rate"
    with pytest.raises(ConfigurationError, match="the program that runs the task"):
        read.connect(parser)


# ---- our own page ------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "sdk" / "configuration.md"


def test_the_samples_of_our_page_run_as_they_stand(way: Way) -> None:
    file = Path("path/to/configuration/file.yaml")
    file.parent.mkdir(parents=True)
    file.write_text("lr: 0.1\n")
    task = way.init(project_name="examples", task_name="docs")
    samples = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)

    names: dict[str, Any] = {"task": task}
    for sample in samples:
        exec(compile(sample, str(PAGE), "exec"), names)

    assert len(samples) == 4
    read = way.read(task)
    assert read.get_parameters(cast=True) == {
        "Args/epochs": 7,
        "General/lr": 0.5,
        "General/decay": 0.001,
        "General/name": "Erik",
        "General/age": 6,
        "Training/epochs": 3,
        "Training/lr": 0.2,
        "properties/backbone": "great",
        "properties/layers": 5,
        "properties/dropout": 0.1,
        "properties/head": "mlp",
        "properties/stage": "final",
    }
    assert read.get_configuration_object("yaml file") == "lr: 0.1\n"
