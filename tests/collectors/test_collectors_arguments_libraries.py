"""The program's arguments as parameters: each library beside argparse, before and after the start of the task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from arguments_support import INIT, parameters_of
from sdk_support import only_session, read_story, run_program

from telemetry.sdk.identity.masking import MASK

# ---- click -------------------------------------------------------------------------------------------


def click_program(where: str) -> str:
    return f"""
        import click
        from telemetry import Task
        {INIT if where == "before" else ""}

        @click.group()
        @click.option("--seed", type=int, default=1)
        def cli(seed):
            pass

        @cli.command()
        @click.option("--lr", type=float, default=0.1, help="the rate")
        @click.option("--pin", hide_input=True)
        @click.option("--size", multiple=True, type=int)
        @click.argument("data")
        def train(lr, pin, size, data):
            {INIT if where == "inside" else "pass"}

        @cli.command()
        @click.option("--split")
        def evaluate(split):
            pass

        cli()
    """


@pytest.mark.parametrize("where", ["before", "inside"])
def test_click(where: str, state_dir: Path) -> None:
    pytest.importorskip("click")
    words = ["--seed", "5", "train", "--lr", "0.5", "--pin", "1234", "--size", "1", "--size", "2", "here"]
    done = run_program(click_program(where), state_dir, *words)
    assert parameters_of(done, state_dir) == {
        "Args/cli/seed": 5,
        "Args/train/lr": 0.5,
        "Args/train/pin": MASK,
        "Args/train/size": (1, 2),
        "Args/train/data": "here",
    }


# ---- absl --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["before", "inside"])
def test_absl(where: str, state_dir: Path) -> None:
    pytest.importorskip("absl")
    source = f"""
        from absl import app, flags
        from telemetry import Task
        flags.DEFINE_float("lr", 0.1, "the rate")
        flags.DEFINE_integer("epochs", None, "how many")
        flags.DEFINE_multi_string("names", ["a"], "names")
        flags.DEFINE_enum("mode", "fast", ["fast", "slow"], "how")
        {INIT if where == "before" else ""}

        def main(argv):
            {INIT if where == "inside" else "pass"}

        app.run(main)
    """
    done = run_program(source, state_dir, "--lr=0.5", "--epochs=7")
    assert parameters_of(done, state_dir) == {
        "TF_DEFINE/lr": 0.5,
        "TF_DEFINE/epochs": 7,
        "TF_DEFINE/names": ["a"],
        "TF_DEFINE/mode": "fast",
    }


# ---- python-fire -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["before", "inside"])
def test_fire_with_a_function(where: str, state_dir: Path) -> None:
    pytest.importorskip("fire")
    source = f"""
        import fire
        from telemetry import Task
        {INIT if where == "before" else ""}

        def train(data, lr=0.1, *more, layers=(1, 2), **rest):
            {INIT if where == "inside" else "pass"}

        fire.Fire(train)
    """
    done = run_program(source, state_dir, "here", "--lr=0.5", "--layers=[3,4]", "--extra=True")
    assert parameters_of(done, state_dir) == {
        "Args/data": "here",
        "Args/lr": 0.5,
        "Args/more": (),
        "Args/layers": [3, 4],
        "Args/extra": True,
    }


@pytest.mark.parametrize("where", ["before", "inside"])
def test_fire_with_a_class(where: str, state_dir: Path) -> None:
    pytest.importorskip("fire")
    source = f"""
        import fire
        from telemetry import Task
        {INIT if where == "before" else ""}

        class Model:
            def __init__(self, seed=1):
                self.seed = seed

            def train(self, lr=0.1):
                {INIT if where == "inside" else "pass"}

            def evaluate(self, split="test"):
                pass

        fire.Fire(Model)
    """
    done = run_program(source, state_dir, "--seed=5", "train", "--lr=0.5")
    expected = {"Args/train/lr": 0.5}
    # Inside the method the call of the class is over.
    assert parameters_of(done, state_dir) == ({"Args/seed": 5, **expected} if where == "before" else expected)


# ---- jsonargparse ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["before", "after"])
def test_jsonargparse(where: str, state_dir: Path) -> None:
    pytest.importorskip("jsonargparse")
    source = f"""
        from dataclasses import dataclass
        from jsonargparse import ArgumentParser
        from telemetry import Task
        {INIT if where == "before" else ""}

        @dataclass
        class Optimizer:
            lr: float = 0.1
            betas: tuple[float, float] = (0.9, 0.999)

        parser = ArgumentParser()
        parser.add_argument("--config", action="config")
        parser.add_argument("--epochs", type=int, default=3)
        parser.add_argument("--opt", type=Optimizer, default=Optimizer())
        parser.add_argument("--api_key", type=str)
        config = parser.parse_args()
        {INIT if where == "after" else ""}
    """
    done = run_program(source, state_dir, "--epochs=7", "--opt.lr=0.5", "--api_key=s3cret")
    parameters = parameters_of(done, state_dir)
    assert parameters.pop("Args/config") is None
    assert parameters == {
        "Args/epochs": 7,
        "Args/opt.lr": 0.5,
        "Args/opt.betas": (0.9, 0.999),
        "Args/api_key": MASK,
    }


# ---- Hydra -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["before", "inside"])
def test_hydra(where: str, state_dir: Path) -> None:
    pytest.importorskip("hydra")
    source = f"""
        import hydra
        from telemetry import Task
        {INIT if where == "before" else ""}

        @hydra.main(version_base=None, config_path="conf", config_name="config")
        def main(cfg):
            {INIT if where == "inside" else "pass"}

        main()
    """
    folder = state_dir.parent / "conf"
    folder.mkdir()
    (folder / "config.yaml").write_text("model:\n  lr: 0.1\n  half: ${model.lr}\ndb:\n  password: s3cret\n")
    done = run_program(source, state_dir, "model.lr=0.5", "+added=[1,2]")

    assert parameters_of(done, state_dir) == {"Hydra/model.lr": "0.5", "Hydra/added": "[1,2]"}
    (kept,) = read_story(only_session(state_dir)).record["configuration"].values()
    assert kept["text"] == ("model:\n  lr: 0.5\n  half: ${model.lr}\ndb:\n  password: '***'\nadded:\n- 1\n- 2\n")
    assert kept["type"] == "yaml"


@pytest.mark.parametrize(
    ("frameworks", "recorded"), [({"hydra": False}, False), (False, False), ({}, False), ({"pytorch": False}, True)]
)
def test_hydra_and_absl_are_switched_off_as_frameworks(frameworks: Mapping[str, bool], recorded: bool) -> None:
    from telemetry.sdk.launch.launch import framework_is_on

    assert framework_is_on(frameworks, "hydra") is recorded
