"""The program's arguments as parameters: before and after the start, chosen ones only, secrets hidden; argparse itself.

The other libraries are in test_collectors_arguments_libraries.py.
"""

from __future__ import annotations

import argparse
import enum
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from arguments_support import INIT, parameters_of
from sdk_support import run_program
from telemetry.collectors.arguments import ArgumentCollector, Selection

from telemetry.errors import ConfigurationError
from telemetry.events import RecordChange
from telemetry.protocols import Collector
from telemetry.sdk.identity.masking import MASK, mask_argument
from telemetry.testing import ListEmit
from telemetry.values import value_of


class Recording(ArgumentCollector):
    """A collector whose parameters can be read."""

    def __init__(self, selection: Any = True, **options: Any) -> None:
        super().__init__(selection, mask=mask_argument, clock=lambda: 42, **options)
        self.emitted = ListEmit()

    def begin(self) -> Recording:
        self.start(self.emitted)
        return self

    @property
    def entries(self) -> dict[str, Any]:
        """The last entry of each parameter."""
        changes = [event for event in self.emitted.events if isinstance(event, RecordChange)]
        return {change.key: change.value for change in changes if change.section == "parameters"}

    @property
    def values(self) -> dict[str, Any]:
        return {name: value_of(entry) for name, entry in self.entries.items()}

    @property
    def words(self) -> dict[str, str]:
        return {name: entry["type"] for name, entry in self.entries.items()}


@pytest.fixture
def collector() -> Iterator[Recording]:
    collector = Recording().begin()
    yield collector
    collector.stop()


# ---- argparse ----------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1
    BLUE = 2


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", help="where it lies")
    parser.add_argument("--lr", type=float, default=0.1, help="rate, by default %(default)s")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--steps", default=3)
    parser.add_argument("--name", default="x", help="100% free text")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--cache", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("-v", "--verbose", action="count", default=0)
    parser.add_argument("--names", nargs="+", default=["a"])
    parser.add_argument("--sizes", nargs="*", type=int, default=[])
    parser.add_argument("--tag", action="append", type=str)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--color", type=Color.__getitem__, default=Color.RED)
    parser.add_argument("--both", type=lambda text: tuple(text.split(",")), default=None)
    parser.add_argument("--not-said", default=argparse.SUPPRESS)
    return parser


def test_every_kind_of_argument_with_its_type_and_help(collector: Recording) -> None:
    assert isinstance(collector, Collector)
    parser = make_parser()

    words = ["here", "--epochs", "7", "--fast", "--no-cache", "-vv", "--sizes", "1", "2", "--tag", "t"]
    parser.parse_args([*words, "--color", "BLUE", "--both", "a,b"])

    assert collector.values == {
        "Args/data": "here",
        "Args/lr": 0.1,
        "Args/epochs": 7,
        "Args/steps": 3,
        "Args/name": "x",
        "Args/fast": True,
        "Args/cache": False,
        "Args/verbose": 2,
        "Args/names": ["a"],
        "Args/sizes": [1, 2],
        "Args/tag": ["t"],
        "Args/out": Path("out"),
        "Args/color": "Color.BLUE",
        "Args/both": ("a", "b"),
    }
    assert collector.words == {
        "Args/data": "str",
        "Args/lr": "float",
        "Args/epochs": "int",
        "Args/steps": "int",
        "Args/name": "str",
        "Args/fast": "bool",
        "Args/cache": "bool",
        "Args/verbose": "int",
        "Args/names": "str",
        "Args/sizes": "int",
        "Args/tag": "str",
        "Args/out": "Path",
        "Args/color": "__getitem__",
        "Args/both": "<lambda>",
    }
    helps = {name: entry["description"] for name, entry in collector.entries.items()}
    assert helps["Args/lr"] == "rate, by default 0.1"
    assert helps["Args/name"] == "100% free text"
    assert helps["Args/epochs"] == ""
    assert {event.time_unix_ns for event in collector.emitted.events if isinstance(event, RecordChange)} == {42}


@pytest.mark.parametrize("call", ["parse_args", "parse_known_args", "parse_intermixed_args"])
def test_every_call_that_parses_is_seen_once_and_returns_what_it_did(collector: Recording, call: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float)

    result = getattr(parser, call)(["--lr", "0.5"])

    namespace = result[0] if isinstance(result, tuple) else result
    assert namespace == argparse.Namespace(lr=0.5)
    assert collector.values == {"Args/lr": 0.5}
    assert len(collector.emitted.events) == 1


def subcommands(dest: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    commands = parser.add_subparsers(dest=dest) if dest else parser.add_subparsers()
    train = commands.add_parser("train", aliases=["t"])
    train.add_argument("--bs", type=int, default=32)
    train.set_defaults(run=print, mode="fit")
    deep = train.add_subparsers(dest="kind")
    deep.add_parser("big").add_argument("--layers", type=int, default=9)
    commands.add_parser("eval").add_argument("--split", default="test")
    return parser


def test_of_sub_commands_only_the_chosen_ones_options(collector: Recording) -> None:
    subcommands("cmd").parse_args(["train", "--bs", "64", "big", "--layers", "2"])

    assert collector.values == {
        "Args/seed": 1,
        "Args/cmd": "train",
        "Args/bs": 64,
        "Args/kind": "big",
        "Args/layers": 2,
        "Args/mode": "fit",
    }


def test_a_sub_command_whose_name_is_kept_nowhere_is_known_by_its_parser(collector: Recording) -> None:
    subcommands(None).parse_args(["t", "--bs", "64"])

    assert collector.values == {
        "Args/seed": 1,
        "Args/command": "train",
        "Args/bs": 64,
        "Args/kind": None,
        "Args/mode": "fit",
    }


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        # the page's four cases
        (False, set()),
        ({"Example_1": False}, {"Example_2", "other_one"}),
        ({"Example_2": True, "*": False}, {"Example_2"}),
        ({}, set()),
        (True, {"Example_1", "Example_2", "other_one"}),
        # as one types it
        ({"--other-one": False}, {"Example_1", "Example_2"}),
    ],
)
def test_chosen_arguments_only(selection: Any, expected: set[str]) -> None:
    collector = Recording(selection).begin()
    parser = argparse.ArgumentParser()
    for name in ("--Example_1", "--Example_2", "--other-one"):
        parser.add_argument(name, default=1)
    parser.parse_args([])
    collector.stop()

    assert set(collector.values) == {f"Args/{name}" for name in expected}


@pytest.mark.parametrize("selection", ["lr", 5, [], {1: True}])
def test_what_selects_nothing_is_refused(selection: Any) -> None:
    with pytest.raises(ConfigurationError, match="auto_connect_arg_parser"):
        Selection(selection)


class Odd:
    """Whose == is no bool, as that of arrays and frames is not."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value is ambiguous")

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return "odd"


@pytest.mark.parametrize("when", ["parsed", "connected", "secret"])
def test_defaults_that_cannot_be_compared_lose_no_argument(collector: Recording, when: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--array", default=np.zeros(3))
    parser.add_argument("--frame", default=pd.DataFrame({"a": [1, 2]}))
    parser.add_argument("--odd", default=Odd())
    if when == "secret":
        parser.add_argument("--api-token", default=np.ones(2))
        assert mask_argument("api_token", np.ones(2)) == MASK
    if when == "connected":
        collector.connect(parser, "Args")
    else:
        parser.parse_args([])
    kept = collector.values
    assert (kept["Args/lr"], kept["Args/array"], kept["Args/odd"]) == (0.1, [0.0, 0.0, 0.0], "odd")


def test_secrets_are_hidden(collector: Recording) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hf-token")
    parser.add_argument("--api_key", default="0123456789")
    parser.add_argument("--password")
    parser.add_argument("--use-auth", action="store_true")
    parser.add_argument("--db")
    parser.add_argument("--urls", nargs="*")
    token = "hf_" + "a" * 30
    parser.parse_args(["--hf-token", "s3cret", "--db", "postgres://me:s3cret@host/x", "--urls", "a", token])

    assert collector.values == {
        "Args/hf_token": MASK,
        "Args/api_key": MASK,
        "Args/password": None,
        "Args/use_auth": False,
        "Args/db": f"postgres://me:{MASK}@host/x",
        "Args/urls": ["a", MASK],
    }
    assert "s3cret" not in repr(collector.emitted.events)


def test_a_parser_that_ran_before_is_found_by_its_namespace() -> None:
    parser = make_parser()
    args = parser.parse_args(["--lr", "0.5"])
    args.epochs = 9

    collector = Recording().begin()
    collector.stop()

    assert (collector.values["Args/lr"], collector.values["Args/epochs"]) == (0.5, 9)
    assert collector.entries["Args/lr"]["description"] == "rate, by default 0.1"


def test_so_it_is_when_the_parser_is_gone() -> None:
    args = make_parser().parse_args(["--lr", "0.5"])

    collector = Recording({"name": False}).begin()
    collector.stop()

    assert collector.values["Args/lr"] == args.lr == 0.5
    assert collector.words["Args/out"] == "Path"
    assert "Args/name" not in collector.values


def test_a_parser_that_fails_fails_as_ever_and_leaves_nothing(
    collector: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = make_parser()
    with pytest.raises(SystemExit):
        parser.parse_args(["--lr", "much"])
    assert collector.values == {}
    assert "invalid float value" in capsys.readouterr().err
    parser.parse_args(["--lr", "1"])
    assert collector.values["Args/lr"] == 1.0


def test_what_cannot_be_noted_is_counted_and_the_program_goes_on(collector: Recording) -> None:
    class Slots:
        __slots__ = ("lr",)
        lr: float

    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float)
    assert parser.parse_args(["--lr", "1"], namespace=Slots()).lr == 1.0
    assert collector.emitted.refused


def test_after_the_end_argparse_is_as_it_was() -> None:
    before = dict(vars(argparse.ArgumentParser))
    collector = Recording().begin()
    kept = argparse.ArgumentParser.parse_args
    assert vars(argparse.ArgumentParser) != before
    collector.stop()
    assert dict(vars(argparse.ArgumentParser)) == before

    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=1.0)
    assert kept(parser, []) == argparse.Namespace(lr=1.0)
    assert collector.values == {}


def test_tools_around_the_program_are_not_its_parsers(collector: Recording) -> None:
    magic = type("MagicArgumentParser", (argparse.ArgumentParser,), {"__module__": "IPython.core.magic_arguments"})()
    magic.add_argument("--n", default=1)
    magic.parse_args([])
    assert collector.values == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_not_the_program(collector: Recording) -> None:
    pid = os.fork()
    if pid == 0:
        make_parser().parse_args([])
        os._exit(len(collector.emitted.events))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_connected_parser_is_recorded_whatever_was_chosen() -> None:
    collector = Recording(False).begin()
    parser = make_parser()
    other = argparse.ArgumentParser()
    other.add_argument("--not-wanted", default=1)

    collector.connect(parser, "Own")
    assert collector.values["Own/lr"] == 0.1
    other.parse_args([])
    parser.parse_args(["--lr", "0.5"])
    assert collector.values["Own/lr"] == 0.5
    assert {name.partition("/")[0] for name in collector.values} == {"Own"}
    collector.stop()


def test_a_parser_that_has_parsed_is_connected_with_what_it_parsed(collector: Recording) -> None:
    parser = make_parser()
    parser.parse_args(["--lr", "0.5"])
    collector.connect(parser, "Own")
    assert collector.values["Own/lr"] == 0.5


def test_click_options_can_be_chosen() -> None:
    selection = Selection({"train/lr": False, "pin": False})
    assert [selection.allows(name) for name in ("train/lr", "eval/lr", "train/pin")] == [False, True, False]


# ---- a whole program ---------------------------------------------------------------------------------

PROGRAM = """
    import argparse
    from telemetry import Task

    def arguments():
        parser = argparse.ArgumentParser()
        parser.add_argument("--epochs", type=int, default=3)
        parser.add_argument("--token")
        return parser.parse_args()

    {body}
"""


@pytest.mark.parametrize(
    "body",
    [f"{INIT}; arguments()", f"args = arguments(); {INIT}"],
    ids=["init first", "arguments first"],
)
def test_a_program_s_arguments_are_its_tasks_parameters(body: str, state_dir: Path) -> None:
    done = run_program(PROGRAM.format(body=body), state_dir, "--epochs", "7", "--token", "s3cret")
    assert parameters_of(done, state_dir) == {"Args/epochs": 7, "Args/token": MASK}


def test_a_program_reads_its_own_arguments_back_and_replaces_them(state_dir: Path) -> None:
    check = 'assert task.get_parameters(cast=True) == {"Args/epochs": 7, "Args/token": None}'
    body = f'task = {INIT}; arguments(); {check}; task.set_parameters({{"lr": 0.5}})'
    done = run_program(PROGRAM.format(body=body), state_dir, "--epochs", "7")
    assert parameters_of(done, state_dir) == {"General/lr": 0.5}


def test_nothing_is_imported_for_it(state_dir: Path) -> None:
    source = f"""
        import sys
        from telemetry import Task
        {INIT}
        found = {{"click", "absl", "fire", "jsonargparse", "hydra", "omegaconf", "yaml"}} & set(sys.modules)
        assert not found, found
    """
    done = run_program(source, state_dir)
    assert done.returncode == 0, done.stderr
