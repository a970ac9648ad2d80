"""The Task page, "Setting Random Seed"."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from page_support import Way

from telemetry.errors import ConfigurationError
from telemetry.sdk.launch.seeds import DEFAULT_SEED
from telemetry.sdk.task.task import Task


def expected(seed: int) -> tuple[float, float]:
    return random.Random(seed).random(), float(np.random.RandomState(seed).random_sample())


def drawn() -> tuple[float, float]:
    return random.random(), float(np.random.random())


def test_the_default_is_1337_and_the_record_says_so(way: Way) -> None:
    task = way.init(project_name="examples", task_name="seed")
    assert drawn() == expected(DEFAULT_SEED)
    assert Task.get_random_seed() == 1337
    assert way.read(task)._field("random_seed") == 1337


def test_another_seed_is_set_before_init(server_way: Way) -> None:
    Task.set_random_seed(7)
    server_way.init(project_name="examples", task_name="seed")
    assert drawn() == expected(7)


@pytest.mark.parametrize("off", [None, False])
def test_none_leaves_the_generators_alone(server_way: Way, off: bool | None) -> None:
    Task.set_random_seed(off)
    random.seed(3)
    np.random.seed(4)
    server_way.init(project_name="examples", task_name="seed")
    assert drawn() == (expected(3)[0], expected(4)[1])
    assert Task.get_random_seed() is None


def test_a_library_is_seeded_as_it_is_imported_and_only_then(
    server_way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a library that has tensorflow's name and no seed yet
    (tmp_path / "tensorflow.py").write_text(
        "class random:\n    seeds = []\n    def set_seed(seed):\n        random.seeds.append(seed)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    real = sys.modules.pop("tensorflow", None)
    try:
        # when
        task = server_way.init(project_name="examples", task_name="seed")
        assert "tensorflow" not in sys.modules
        assert importlib.import_module("tensorflow").random.seeds == [1337]
        # and after the end what is imported is left alone
        task.close()
        del sys.modules["tensorflow"]
        assert importlib.import_module("tensorflow").random.seeds == []
    finally:
        sys.modules.pop("tensorflow", None)
        if real is not None:
            sys.modules["tensorflow"] = real


def test_the_start_line_says_the_seed(
    server_way: Way, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TELEMETRY_QUIET")
    server_way.init(project_name="examples", task_name="seed").close()
    assert "(random seed 1337)" in capsys.readouterr().err.splitlines()[0]
    Task.set_random_seed(None)
    server_way.init(project_name="examples", task_name="other").close()
    assert "seed" not in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize("seed", ["seven", 1.5j, float("inf")])
def test_what_is_no_seed_is_refused(seed: object) -> None:
    with pytest.raises(ConfigurationError, match="whole number"):
        Task.set_random_seed(seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 2**40])
def test_a_seed_beyond_numpys_32_bits_is_brought_into_them(server_way: Way, seed: int) -> None:
    Task.set_random_seed(seed)
    server_way.init(project_name="examples", task_name="seed")
    assert float(np.random.random()) == float(np.random.RandomState(seed % 2**32).random_sample())
