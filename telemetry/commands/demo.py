"""`telemetry demo`: a server, a real small model that trains, and a link to watch it move.

The model is a multilayer perceptron in plain numpy that learns to tell the arms of a spiral apart: small
enough for a laptop, hard enough that its curves look like a training run's. The server is a process
of its own, as it would be in earnest, on a directory of its own.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.random import Generator, default_rng

from telemetry.disk import make_private_folder
from telemetry.errors import ConfigurationError, TelemetryError
from telemetry.process.terminal import ProgressLine
from telemetry.sdk.task.task import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DemoResult", "Network", "ServerProcess", "make_spirals", "run", "train"]

DEFAULT_PORT = 8008

ARMS = 4
BATCH = 256
VALIDATE_EVERY = 50
LOG_EVERY = 250
CHECKPOINTS = 4
PEAK_LEARNING_RATE = 1.5e-3
WARM_UP_STEPS = 100

log = logging.getLogger("demo")


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the training ended with: the values last reported, bit by bit."""

    task_id: str
    page: str
    steps: int
    train_accuracy: float
    validation_accuracy: float


def make_spirals(count: int, rng: Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return points on noisy spiral arms.

    Returns:
        points: float64[count, 2], within about [-1.2, 1.2]; labels: int64[count], the arm.
    """
    labels = rng.integers(0, ARMS, count)
    radius = np.sqrt(rng.uniform(0.01, 1.0, count))
    angle = 2 * math.pi * labels / ARMS + 9.0 * radius + rng.normal(0.0, 0.36, count)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return points, labels


class Network:
    """A multilayer perceptron with ReLU and a softmax, trained by Adam.

    Args:
        widths: of the layers, input and output included.
    """

    def __init__(self, widths: list[int], rng: Generator) -> None:
        self.parameters: list[NDArray[np.float64]] = []
        for fan_in, fan_out in pairwise(widths):
            # He et al. 2015: keeps the variance of a ReLU layer's output.
            self.parameters.append(rng.normal(0.0, math.sqrt(2.0 / fan_in), (fan_in, fan_out)))
            self.parameters.append(np.zeros(fan_out))
        self._first_moment = [np.zeros_like(parameter) for parameter in self.parameters]
        self._second_moment = [np.zeros_like(parameter) for parameter in self.parameters]
        self._steps = 0

    def evaluate(self, points: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, float]:
        """Return (loss, accuracy): mean cross-entropy in nats, and the share of right answers."""
        probabilities = self._forward(points)[-1]
        return _loss_and_accuracy(probabilities, labels)

    def gradients(
        self, points: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> tuple[float, list[NDArray[np.float64]]]:
        """Return (loss, its gradient by each of `parameters`), by back-propagation."""
        activations = self._forward(points)
        probabilities = activations[-1]
        loss, _ = _loss_and_accuracy(probabilities, labels)
        delta = probabilities.copy()
        delta[np.arange(len(labels)), labels] -= 1.0
        delta /= len(labels)
        gradients: list[NDArray[np.float64]] = []
        for layer in range(len(self.parameters) // 2 - 1, -1, -1):
            gradients += [delta.sum(axis=0), activations[layer].T @ delta]
            if layer:
                delta = (delta @ self.parameters[2 * layer].T) * (activations[layer] > 0.0)
        gradients.reverse()
        return loss, gradients

    def train_step(
        self, points: NDArray[np.float64], labels: NDArray[np.int64], learning_rate: float
    ) -> tuple[float, float]:
        """Take one step of Adam; return (loss, norm of the gradient) of the batch before it."""
        loss, gradients = self.gradients(points, labels)
        self._adam(gradients, learning_rate)
        return loss, math.sqrt(sum(float(np.vdot(gradient, gradient)) for gradient in gradients))

    def save(self, path: Path) -> None:
        """Write the parameters to a .npz file."""
        np.savez(path, *self.parameters)

    def _forward(self, points: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        activations = [points]
        last = len(self.parameters) // 2 - 1
        for layer in range(last + 1):
            output = activations[-1] @ self.parameters[2 * layer] + self.parameters[2 * layer + 1]
            if layer < last:
                output = np.maximum(output, 0.0)
            else:
                output = np.exp(output - output.max(axis=1, keepdims=True))
                output /= output.sum(axis=1, keepdims=True)
            activations.append(output)
        return activations

    def _adam(self, gradients: list[NDArray[np.float64]], learning_rate: float) -> None:
        # Kingma and Ba 2015, with the paper's constants.
        self._steps += 1
        first_bias, second_bias = 1.0 - 0.9**self._steps, 1.0 - 0.999**self._steps
        for parameter, gradient, first, second in zip(
            self.parameters, gradients, self._first_moment, self._second_moment, strict=True
        ):
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient * gradient - second)
            parameter -= learning_rate * (first / first_bias) / (np.sqrt(second / second_bias) + 1e-8)


def _loss_and_accuracy(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, float]:
    right = probabilities[np.arange(len(labels)), labels]
    loss = float(-np.log(np.maximum(right, 1e-12)).mean())
    return loss, float((probabilities.argmax(axis=1) == labels).mean())


def _learning_rate(step: int, steps: int) -> float:
    """Return the rate at a step: a linear warm-up, then half a cosine down to nothing."""
    warm_up = min(WARM_UP_STEPS, max(1, steps // 10))
    if step < warm_up:
        return PEAK_LEARNING_RATE * (step + 1) / warm_up
    return PEAK_LEARNING_RATE * 0.5 * (1.0 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def train(task: Task, *, steps: int, seconds: float, checkpoints: Path) -> DemoResult:
    """Train the network under `task`; the last reported accuracies are the ones returned.

    Args:
        seconds: how long the training shall take at least; 0 goes as fast as the machine does.
        checkpoints: a folder for the .npz files.
    """
    rng = default_rng(7)
    train_points, train_labels = make_spirals(2000, rng)
    validation = make_spirals(1500, rng)
    network = Network([2, 64, 64, ARMS], rng)
    logger = task.get_logger()
    bar = ProgressLine(steps, sys.stderr)
    started_s = time.monotonic()
    accuracy = validation_accuracy = math.nan
    log.info("training on %d points, %d for validation", len(train_labels), len(validation[1]))
    for step in range(steps):
        rate = _learning_rate(step, steps)
        picked = rng.integers(0, len(train_labels), BATCH)
        loss, norm = network.train_step(train_points[picked], train_labels[picked], rate)
        logger.report_scalar("loss", "train", loss, step)
        logger.report_scalar("learning rate", "adam", rate, step)
        logger.report_scalar("gradient", "norm", norm, step)
        last = step == steps - 1
        if step % VALIDATE_EVERY == 0 or last:
            _, accuracy = network.evaluate(train_points, train_labels)
            validation_loss, validation_accuracy = network.evaluate(*validation)
            logger.report_scalar("accuracy", "train", accuracy, step)
            logger.report_scalar("loss", "validation", validation_loss, step)
            logger.report_scalar("accuracy", "validation", validation_accuracy, step)
        if step % LOG_EVERY == 0:
            log.info("step %d: loss %.4f, validation accuracy %.4f", step, loss, validation_accuracy)
        if last or (step + 1) % max(1, steps // CHECKPOINTS) == 0:
            path = checkpoints / f"spirals-{step + 1:05d}.npz"
            network.save(path)
            task.report_model(path, framework="numpy", iteration=step)
        task.set_progress(100.0 * (step + 1) / steps)
        bar.show(step + 1, f"step {step + 1}/{steps}  loss {loss:.4f}  accuracy {validation_accuracy:.4f}")
        # The pace is a person's: the charts are to be seen moving, on a fast machine as well.
        time.sleep(max(0.0, started_s + seconds * (step + 1) / steps - time.monotonic()))
    bar.close()
    logger.report_single_value("final validation accuracy", validation_accuracy)
    return DemoResult(task.id, task.page, steps, accuracy, validation_accuracy)


class ServerProcess:
    """A telemetry server in a process of its own, for as long as the `with` block lasts.

    Attributes:
        url: its address, known once the block is entered.

    Raises:
        TelemetryError: on entering, when it does not start; the message holds what it said.
    """

    def __init__(self, directory: Path, *, port: int) -> None:
        self._directory = directory
        self._command = [sys.executable, "-m", "telemetry.cli", "server", "--until-eof", "--no-watch"]
        self._command += ["--port", str(port), "--directory", str(directory)]
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        make_private_folder(self._directory)
        log_path = self._directory / "server.log"
        with open(log_path, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as server_log:
            self._process = subprocess.Popen(
                self._command,
                # Ours to hold: should this process be killed, the server sees the end and stops.
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=server_log,
                text=True,
                # Ctrl-C is for us: the server must outlive it to take the last events.
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name != "TELEMETRY_SERVER_TOKEN"},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.url = next((word for word in line.split() if word.startswith("http")), "")
        if not self.url:
            self._stop()
            said = log_path.read_text(errors="replace").strip()[-2000:] or "it said nothing"
            raise TelemetryError(f"the demo's server did not start: {said}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def wait(self) -> int:
        """Wait until the server ends by itself; return its exit code."""
        assert self._process is not None
        return self._process.wait()

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def run(*, directory: Path, port: int | None, steps: int, seconds: float, once: bool) -> int:
    """Serve, train, and serve on until Ctrl-C; return the exit code.

    Args:
        directory: the demo's own: the server's store, its log, and the checkpoints.
        port: None takes 8008, or a free one where that is taken.
        steps: training steps. seconds: train for at least this long.
        once: end with the training.
    Raises:
        TelemetryError: the server does not start.
    """
    if steps < 1:
        raise ConfigurationError(f"--steps {steps}: at least 1 is needed")
    # On a terminal the progress bar stands on the line: a message takes its place, and the bar is drawn again below.
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    logging.basicConfig(level=logging.INFO, format=f"{clear}%(message)s")
    checkpoints = directory / "checkpoints"
    with ServerProcess(directory, port=_free_port() if port is None else port) as server:
        checkpoints.mkdir(mode=0o700, exist_ok=True)
        try:
            with Task.init("demo", "spirals", tags=["demo"], sinks=[server.url]) as task:
                print(f"\nWatch it train: {task.page}\n", flush=True)
                result = train(task, steps=steps, seconds=seconds, checkpoints=checkpoints)
        except KeyboardInterrupt:
            return 130
        # repr: every digit, so that it can be compared with the last point of the chart.
        print(f"\nfinal accuracy: train {result.train_accuracy!r}, validation {result.validation_accuracy!r}")
        print(f"the run: {result.page}", flush=True)
        if once:
            return 0
        print(f"Still serving {server.url} from {directory}; Ctrl-C ends it.", flush=True)
        try:
            return server.wait()
        except KeyboardInterrupt:
            print()
            return 0


def _free_port() -> int:
    """Return the usual port, or 0 (any free one) where something else listens on it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the server does: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", DEFAULT_PORT))
        except OSError:
            return 0
    return DEFAULT_PORT
