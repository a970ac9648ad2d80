"""What a SummaryWriter is given is reported as well: the right title, series and step, for every kind of call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports_support import pixels_of

from telemetry.errors import ConfigurationError
from telemetry.sdk.task.task import Task
from telemetry.storage.blobs import BLOBS

# tensorboardX is watched from the moment that it is imported, also where that was before the task.
tensorboard_x: Any = pytest.importorskip("tensorboardX")

QUIET: dict[str, Any] = {"auto_connect_streams": False, "auto_resource_monitoring": False}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TELEMETRY_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TELEMETRY_QUIET", "1")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    task = Task.current_task()
    if task is not None:
        task.close()


def writer() -> Any:
    return tensorboard_x.SummaryWriter("runs")


def test_scalars_have_the_step_that_was_given(home: Path) -> None:
    task = Task.init("examples", "tb", **QUIET)
    with writer() as made:
        made.add_scalar("train/loss", 0.5, 7)
        made.add_scalar("plain", np.float32(0.25), global_step=8)
        made.add_scalar("a/b/c", 1.0, 9)
        made.add_scalars("group", {"a": 1.0, "b": 2.0}, 10)
        made.add_scalar("no step", 3.0)
    task.close()
    found = {
        (title, series): (column["x"], column["y"])
        for title, group in task.get_all_reported_scalars().items()
        for series, column in group.items()
    }
    assert found == {
        ("train", "loss"): ([7], [0.5]),
        ("plain", "plain"): ([8], [0.25]),
        ("a", "b/c"): ([9], [1.0]),
        ("group", "a"): ([10], [1.0]),
        ("group", "b"): ([10], [2.0]),
        ("no step", "no step"): ([0], [3.0]),
    }
    # and the writer's own files are there
    assert any(home.joinpath("runs").rglob("*tfevents*"))


def test_without_a_step_each_tag_counts_on(home: Path) -> None:
    task = Task.init("examples", "tb", **QUIET)
    with writer() as made:
        for value in (1.0, 2.0, 3.0):
            made.add_scalar("loss", value)
        made.add_scalar("loss", 4.0, 10)
        made.add_scalar("loss", 5.0)
        made.add_scalar("other", np.array([6.0], np.float32), 4)
        made.add_scalar("other", 7.0)
        for value in (1.0, 2.0):
            made.add_scalars("group", {"a": value, "b": -value})
        made.add_text("note", "first")
        made.add_text("note", "second")
    task.close()
    found = task.get_all_reported_scalars()
    assert found["loss"]["loss"] == {"name": "loss", "x": [0, 1, 2, 10, 11], "y": [1.0, 2.0, 3.0, 4.0, 5.0]}
    assert (found["other"]["other"]["x"], found["other"]["other"]["y"]) == ([4, 5], [6.0, 7.0])
    assert (found["group"]["a"]["x"], found["group"]["b"]["y"]) == ([0, 1], [-1.0, -2.0])
    assert task.ledger().dropped == {}


def test_images_texts_and_histograms(home: Path) -> None:
    task = Task.init("examples", "tb", **QUIET)
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    with writer() as made:
        made.add_image("images/chw", image.transpose(2, 0, 1), 3)
        made.add_image("images/hwc", image, 3, dataformats="HWC")
        made.add_image("images/hw", image[:, :, 0], 3, dataformats="HW")
        made.add_images("batch", np.stack([image.transpose(2, 0, 1)] * 2), 4)
        made.add_text("notes", "some **words**", 5)
        made.add_histogram("weights/layer", np.arange(640.0), 6)
    task.close()
    for series in ("chw", "hwc", "hw"):
        (sample,) = task.get_debug_samples("images", series)
        (path,) = (home / "state").rglob(f"{BLOBS}/{sample['url'].removeprefix('blob:')}")
        png = path.read_bytes()
        expected = image[:, :, 0] if series == "hw" else image
        assert (sample["iter"], pixels_of(png)[3]) == (3, expected.tobytes())
    assert [len(task.get_debug_samples("batch", f"batch {number}")) for number in range(3)] == [1, 1, 0]
    (text,) = task.get_debug_samples("notes", "notes")
    assert (text["iter"], text["filename"]) == (5, "5.txt")
    (plot,) = task.get_reported_plots()
    assert (plot["metric"], plot["variant"], plot["iter"]) == ("weights", "layer", 6)
    (bars,) = json.loads(plot["plot_str"])["data"]
    assert bars["y"] == [10] * 64
    assert task.ledger().dropped == {}


def test_figures(home: Path) -> None:
    plt: Any = pytest.importorskip("matplotlib.pyplot")
    task = Task.init("examples", "tb", auto_connect_frameworks={"matplotlib": False}, **QUIET)
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    with writer() as made:
        made.add_figure("figures/line", figure, 11)
    task.close()
    assert [(plot["metric"], plot["variant"], plot["iter"]) for plot in task.get_reported_plots()] == [
        ("figures", "line", 11)
    ]


@pytest.mark.parametrize(("switch", "reported"), [(True, True), ({"report_hparams": False}, False)])
def test_hyper_parameters_are_parameters(home: Path, switch: Any, reported: bool) -> None:
    task = Task.init("examples", "tb", auto_connect_frameworks={"tensorboard": switch}, **QUIET)
    with writer() as made:
        made.add_hparams({"lr": 0.1, "optimizer": "adam"}, {"hparam/accuracy": 0.9})
        made.add_scalar("a", 1.0, 1)
    task.close()
    expected = {"hparams/lr": 0.1, "hparams/optimizer": "adam"} if reported else {}
    assert task.get_parameters(cast=True) == expected
    assert "a" in task.get_last_scalar_metrics()


@pytest.mark.parametrize("frameworks", [False, {}, {"tensorboard": False}, {"tensorboard": {}}])
def test_it_can_be_switched_off(home: Path, frameworks: Any) -> None:
    task = Task.init("examples", "tb", auto_connect_frameworks=frameworks, **QUIET)
    with writer() as made:
        made.add_scalar("a", 1.0, 1)
    task.close()
    assert task.get_last_scalar_metrics() == {}


def test_a_call_that_cannot_be_reported_is_counted_and_harms_nobody(home: Path) -> None:
    task = Task.init("examples", "tb", **QUIET)
    with writer() as made:
        made.add_image("bad", np.zeros((2, 4, 3), np.uint8), 1, dataformats="HWC")
        with pytest.raises(Exception):  # noqa: B017 - the writer's own error, whatever it is, goes through
            made.add_image("bad", "no image", 1)
        # a step that the writer's file can hold and we can't
        made.add_scalar("late", 1.0, 0.5)
    task.close()
    assert task.ledger().dropped == {"invalid": 1}


def test_a_switch_of_a_wrong_type_is_refused(home: Path) -> None:
    with pytest.raises(ConfigurationError, match="tensorboard"):
        Task.init("examples", "tb", auto_connect_frameworks={"tensorboard": 5}, **QUIET)  # type: ignore[dict-item]
