"""The Task page, "Scalars": reporting, and retrieving what was reported."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from page_support import Way

from telemetry.sdk.task.task import Task


def test_reporting_and_the_summary(way: Way) -> None:
    task = way.init(project_name="examples", task_name="scalars")
    # get logger object for current task
    logger = task.get_logger()
    for iteration, scalar_value in enumerate([0.1, 0.9, 0.5]):
        # report scalar to task
        logger.report_scalar(
          title='scalar metrics', series='series', value=scalar_value, iteration=iteration
        )  # fmt: skip
    # report single value metric
    logger.report_single_value(name="scalar_name", value=scalar_value)
    expected = {"scalar metrics": {"series": {"last": 0.5, "min": 0.1, "max": 0.9}}}
    # while the task runs, and after it
    assert task.get_last_scalar_metrics() == expected
    read = way.read(task)
    assert read.get_last_scalar_metrics() == expected
    assert read.get_last_iteration() == 2


def test_dicts_and_emitters(way: Way) -> None:
    task = way.init(project_name="examples", task_name="scalars")
    logger = task.get_logger()
    emit = logger.scalar("loss", "train")
    for iteration in range(3):
        emit(1.0 + iteration, iteration)
        logger.report_scalars({"loss/test": 0.5, "lr": 1e-3}, iteration=iteration)
        logger.report_scalars({"val": {"accuracy": 0.25 * iteration, "map": {"50": 0.75}}}, iteration)

    values = way.read(task).get_all_reported_scalars()

    assert {(title, name): found["y"] for title, series in values.items() for name, found in series.items()} == {
        ("loss", "train"): [1.0, 2.0, 3.0],
        ("loss", "test"): [0.5] * 3,
        ("lr", "lr"): [1e-3] * 3,
        ("val", "accuracy"): [0.0, 0.25, 0.5],
        ("val", "map/50"): [0.75] * 3,
    }


def test_sample_values(way: Way) -> None:
    task = way.init(project_name="examples", task_name="scalars")
    for iteration, value in enumerate([10, 11, 12]):
        task.get_logger().report_scalar("title", "series", value, iteration)
    task = way.read(task)

    values = task.get_reported_scalars(max_samples=0, x_axis='iter')  # fmt: skip

    assert values == {"title": {"series": {"name": "series", "x": [0, 1, 2], "y": [10, 11, 12]}}}
    assert task.get_all_reported_scalars() == values


def test_single_values(way: Way) -> None:
    task = way.init(project_name="examples", task_name="scalars")
    logger = task.get_logger()
    logger.report_single_value("accuracy", 0.5)
    logger.report_single_value("accuracy", 0.75)
    logger.report_single_value("diverged", math.nan)
    logger.report_single_value("ratio", -math.inf)

    assert task.get_reported_single_value("accuracy") == 0.75
    read = way.read(task)
    found = read.get_reported_single_values()
    assert math.isnan(found.pop("diverged"))
    assert found == {"accuracy": 0.75, "ratio": -math.inf}
    assert read.get_reported_single_value("accuracy") == 0.75
    assert read.get_reported_single_value("nothing") is None
    # they are no scalars of an iteration
    assert read.get_last_scalar_metrics() == {}


def test_nan_and_infinities_are_what_they_were(way: Way) -> None:
    task = way.init(project_name="examples", task_name="scalars")
    values = [1.0, math.nan, math.inf, 2.0, -math.inf, math.nan]
    for iteration, value in enumerate(values):
        task.get_logger().report_scalar("loss", "train", value, iteration)
        task.get_logger().report_scalar("loss", "nothing", math.nan, iteration)

    read = way.read(task)
    for answer in (read.get_reported_scalars(), read.get_all_reported_scalars()):
        assert repr(answer["loss"]["train"]["y"]) == repr(values)
    assert repr(read.get_last_scalar_metrics()["loss"]) == repr(
        {
            "nothing": {"last": math.nan, "min": math.nan, "max": math.nan},
            "train": {"last": math.nan, "min": 1.0, "max": 2.0},
        }
    )


def test_the_last_value_is_that_of_the_highest_iteration(way: Way) -> None:
    task = way.init(project_name="examples", task_name="scalars")
    # given iterations out of order, the highest of them twice
    for iteration, value in [(5, 0.5), (9, 0.9), (9, 0.95), (1, 0.1)]:
        task.get_logger().report_scalar("loss", "train", value, iteration)

    read = way.read(task)
    assert read.get_last_scalar_metrics() == {"loss": {"train": {"last": 0.95, "min": 0.1, "max": 0.95}}}
    assert read.get_all_reported_scalars()["loss"]["train"]["x"] == [1, 5, 9, 9]
    assert read.get_all_reported_scalars()["loss"]["train"]["y"] == [0.1, 0.5, 0.9, 0.95]
    by_time = read.get_all_reported_scalars(x_axis="timestamp")["loss"]["train"]
    assert by_time["y"] == [0.5, 0.9, 0.95, 0.1]
    assert read.get_last_iteration() == 9


def test_the_axes(way: Way) -> None:
    task = way.init(project_name="examples", task_name="scalars")
    for iteration in range(3):
        task.get_logger().report_scalar("loss", "train", iteration, iteration)
    read = way.read(task)

    stamps = read.get_reported_scalars(x_axis="timestamp")["loss"]["train"]["x"]
    texts = read.get_reported_scalars(x_axis="iso_time")["loss"]["train"]["x"]
    assert all(isinstance(stamp, int) and stamp > 1_600_000_000_000 for stamp in stamps)
    assert stamps == sorted(stamps)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text) for text in texts)
    assert [text[-4:-1] for text in texts] == [f"{stamp % 1000:03d}" for stamp in stamps]
    for call in (read.get_reported_scalars, read.get_all_reported_scalars):
        with pytest.raises(ValueError, match="x_axis is 'epoch'"):
            call(x_axis="epoch")


def test_a_sample_never_loses_a_spike(way: Way) -> None:
    task = way.init(project_name="examples", task_name="scalars")
    # given more points than an answer holds, with two spikes and one NaN among them
    spikes = {7_777: 1e9, 3_333: -1e9}
    for iteration in range(12_000):
        task.get_logger().report_scalar("loss", "train", spikes.get(iteration, math.sin(iteration)), iteration)
    read = way.read(task)

    for asked, most in ((0, 5000), (100, 100), (99_999, 5000), (10, 10)):
        sample = read.get_reported_scalars(max_samples=asked)["loss"]["train"]
        points = dict(zip(sample["x"], sample["y"], strict=True))
        assert len(points) <= most
        # every sample is a point that was reported, and the spikes are among them
        assert points.items() >= spikes.items()
        assert all(value == spikes.get(step, math.sin(step)) for step, value in points.items())
        assert {0, 11_999} <= set(points)
    assert len(read.get_reported_scalars()["loss"]["train"]["x"]) > 4000
    assert read.get_all_reported_scalars()["loss"]["train"]["x"] == list(range(12_000))
    with pytest.raises(ValueError, match="max_samples"):
        read.get_reported_scalars(max_samples=-1)


def test_console_output(way: Way) -> None:
    task = way.init(project_name="examples", task_name="console")
    for line in range(5):
        task.get_logger().report_text(f"line {line}", print_console=False)

    assert task.get_reported_console_output() == ["line 4"]
    read = way.read(task)
    assert read.get_reported_console_output(number_of_reports=3) == ["line 2", "line 3", "line 4"]
    assert read.get_reported_console_output(100) == [f"line {line}" for line in range(5)]


def test_plots_are_read_back(way: Way) -> None:
    task = way.init(project_name="examples", task_name="plots")
    for iteration in range(3):
        task.get_logger().report_plotly("curves", "roc", {"data": [{"y": [1, iteration]}], "layout": {}}, iteration)

    for read in (task, way.read(task)):
        plots = read.get_reported_plots()
        assert [(plot["metric"], plot["variant"], plot["iter"]) for plot in plots] == [
            ("curves", "roc", iteration) for iteration in range(3)
        ]
        assert [json.loads(plot["plot_str"])["data"] for plot in plots] == [[{"y": [1, step]}] for step in range(3)]
        assert [plot["iter"] for plot in read.get_reported_plots(max_iterations=1)] == [2]


def test_images_are_read_back_with_their_bytes(way: Way) -> None:
    task = way.init(project_name="examples", task_name="images")
    for iteration in range(3):
        task.get_logger().report_image("samples", "first", iteration, image=[[0, 255], [iteration, 0]])
    task.get_logger().report_image("samples", "first", 3, url="http://host/picture.jpg")

    samples = way.read(task).get_debug_samples("samples", "first", n_last_iterations=3)

    assert [(sample["iter"], sample["filename"], sample["state"]) for sample in samples] == [
        (3, "picture.jpg", "stored"),
        (2, "2.png", "stored"),
        (1, "1.png", "stored"),
    ]
    assert samples[0]["url"] == "http://host/picture.jpg"


def test_a_large_figure_is_read_back(way: Way) -> None:
    task = way.init(project_name="examples", task_name="large")
    values = [index / 7 for index in range(300_000)]
    task.get_logger().report_vector("large", "s", values)
    (plot,) = way.read(task).get_reported_plots()
    assert len(plot["plot_str"]) > 4 * 1024 * 1024
    assert json.loads(plot["plot_str"])["data"][0]["y"] == values


def test_what_was_never_reported_is_empty(way: Way) -> None:
    task: Task = way.read(way.init(project_name="examples", task_name="empty"))
    assert task.get_last_scalar_metrics() == {}
    assert task.get_reported_scalars() == {}
    assert task.get_all_reported_scalars() == {}
    assert task.get_reported_single_values() == {}
    assert task.get_reported_console_output() == []
    assert task.get_reported_plots() == []
    assert task.get_last_iteration() == 0


# ---- our own pages -----------------------------------------------------------------------------------

DOCS = Path(__file__).parents[2] / "docs" / "sdk"


def test_the_samples_of_our_pages_run_as_they_stand(way: Way) -> None:
    task = way.init(project_name="examples", task_name="docs")
    names: dict[str, Any] = {"task": task}
    for page in ("reports.md", "scalars.md"):
        samples = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
        assert samples
        for sample in samples:
            exec(compile(sample, page, "exec"), names)

    read = way.read(task)
    assert read.get_last_scalar_metrics() == {
        "loss": {
            "train": {"last": 1 / 99, "min": 1 / 99, "max": 0.5},
            "test": {"last": 0.7, "min": 0.7, "max": 0.7},
        },
        "lr": {"lr": {"last": 1e-3, "min": 1e-3, "max": 1e-3}},
    }
    assert read.get_reported_single_values() == {"accuracy": 0.97}
    assert [plot["metric"] for plot in read.get_reported_plots()] == ["confusion"]
    assert [sample["filename"] for sample in read.get_debug_samples("samples", "first")] == ["0.png"]
    assert task.ledger().dropped == {}
