"""The demo, whole: its server, its training, and what the server then knows. And the parts of it."""

from __future__ import annotations

import io
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sdk_support import environment

from telemetry.client import Client
from telemetry.commands.demo import ARMS, Network, ServerProcess, make_spirals
from telemetry.errors import TelemetryError
from telemetry.process.terminal import ProgressLine, size_text

STEPS = 300


def start_demo(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "telemetry.cli", "demo", "--port", "0", "--directory", str(tmp_path / "demo")]
    return subprocess.Popen(
        [*command, *arguments],
        env=environment(tmp_path / "state"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(process: subprocess.Popen[str], start: str) -> list[str]:
    """Read lines of the standard output until one starts with `start`."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith(start):
            return lines
    raise AssertionError(f"the demo ended without {start!r}: {lines}")


def test_the_final_accuracies_are_the_last_points_on_the_server(tmp_path: Path) -> None:
    with start_demo(tmp_path, "--steps", str(STEPS), "--seconds", "0") as demo:
        said = until(demo, "Still serving")
        link = next(line for line in said if line.startswith("Watch it train: ")).split()[-1]
        url, _, task_id = link.partition("/tasks/")
        accuracy = next(line for line in said if line.startswith("final accuracy: "))
        with Client(url) as client:
            task = client.task(task_id)
            series = {(item["title"], item["series"]): item for item in client.series(task_id)}
            models = client.models(task_id)
            console = client.console(task_id)["lines"]
            values = {item["name"]: item["value"] for item in client.values(task_id)}
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=30)

    assert demo.returncode == 0, errors
    train, validation = (float(word) for word in re.findall(r"\d\.\d+", accuracy))
    assert series["accuracy", "train"]["last"] == train
    assert series["accuracy", "validation"]["last"] == validation == values["final validation accuracy"]
    assert series["loss", "train"]["count"] == STEPS
    for key in [("loss", "validation"), ("learning rate", "adam"), ("gradient", "norm")]:
        assert key in series
    assert any(item["kind"] == "resource" for item in series.values())
    assert [model["iteration"] for model in models] == [74, 149, 224, 299]
    assert all(Path(model["path"]).is_file() for model in models)
    assert any("training on" in line["text"] for line in console)
    assert (task["status"], task["progress"], task["project"]) == ("completed", 100.0, "demo")
    assert "100 %  step 300/300" in errors


def test_once_ends_with_the_training(tmp_path: Path) -> None:
    with start_demo(tmp_path, "--steps", "20", "--seconds", "0", "--once") as demo:
        said, errors = demo.communicate(timeout=60)

    assert demo.returncode == 0, errors
    assert "final accuracy: train 0." in said
    assert "Still serving" not in said
    assert "telemetry: completed. " in errors
    assert "delivered." in errors


def test_ctrl_c_while_it_trains_stops_the_task_and_all_of_it(tmp_path: Path) -> None:
    with start_demo(tmp_path, "--seconds", "600") as demo:
        until(demo, "Watch it train: ")
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=30)

    assert demo.returncode == 130, errors
    assert "telemetry: stopped. " in errors
    assert "Traceback" not in errors


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    with ServerProcess(blocked, port=0):
        # One server to a directory.
        with pytest.raises(TelemetryError, match=r"did not start: .*blocked"), ServerProcess(blocked, port=0):
            raise AssertionError("a second server started")


def test_the_network_learns_and_its_gradient_is_the_slope_of_its_loss() -> None:
    rng = np.random.default_rng(1)
    points, labels = make_spirals(400, rng)
    assert points.shape == (400, 2)
    assert set(labels.tolist()) == set(range(ARMS))
    network = Network([2, 8, ARMS], rng)
    first_loss, _ = network.evaluate(points, labels)

    # Along the gradient, a small step changes the loss by the step times the squared norm of the gradient.
    before = [parameter.copy() for parameter in network.parameters]
    gradients = network.gradients(points, labels)[1]
    for parameter, gradient in zip(network.parameters, gradients, strict=True):
        parameter += 1e-6 * gradient
    slope = (network.evaluate(points, labels)[0] - first_loss) / 1e-6
    assert slope == pytest.approx(sum(float(np.vdot(item, item)) for item in gradients), rel=1e-3)

    network.parameters[:] = before
    for _ in range(200):
        loss, norm = network.train_step(points, labels, 1e-2)
    assert loss < 0.8 * first_loss
    assert math.isfinite(norm)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_progress_line_is_redrawn_on_a_terminal_ten_times_a_second_at_most() -> None:
    terminal = Terminal()
    times = iter(step / 1000 for step in range(2001))
    line = ProgressLine(1000, terminal, clock=lambda: next(times))

    for done in range(1, 1001):
        line.show(done, f"step {done}")
    line.close()

    drawn = terminal.getvalue()
    assert drawn.count("\r") <= 12
    assert drawn.endswith("100 %  step 1000\x1b[K\n")
    assert "\n" not in drawn[:-1]


def test_a_progress_line_in_a_pipe_is_a_line_each_tenth() -> None:
    pipe = io.StringIO()
    line = ProgressLine(1000, pipe)

    for done in range(1, 1001):
        line.show(done, f"step {done}")
    line.close()

    assert pipe.getvalue().splitlines() == [f"{10 * n:3d} %  step {100 * n}" for n in range(1, 11)]


def test_sizes_are_readable() -> None:
    assert [size_text(size) for size in (0, 1023, 1536, 5 * 1024**2, 3 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 TiB",
    ]
