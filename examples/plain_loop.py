"""A plain training loop in pure Python: fit a line to noisy points by gradient descent.

    python examples/plain_loop.py

With no server the run lies in a session folder, which the first and last line name; with
TELEMETRY_URL=http://127.0.0.1:8008 it appears there while it runs.
"""

import random

from telemetry import Task

STEPS = 400
SLOPE, INTERCEPT = 2.0, -0.5


def main() -> None:
    task = Task.init(project_name="examples", task_name="plain loop")
    logger = task.get_logger()

    source = random.Random(1)
    points = [(x, SLOPE * x + INTERCEPT + source.gauss(0.0, 0.1)) for x in (i / 50 for i in range(-50, 50))]
    slope = intercept = 0.0
    learning_rate = 0.05
    for step in range(STEPS):
        batch = source.sample(points, 20)
        errors = [slope * x + intercept - y for x, y in batch]
        slope -= learning_rate * 2 * sum(error * x for error, (x, _) in zip(errors, batch, strict=True)) / len(batch)
        intercept -= learning_rate * 2 * sum(errors) / len(batch)

        logger.report_scalar("loss", "train", sum(error**2 for error in errors) / len(batch), step)
        logger.report_scalar("parameters", "slope", slope, step)
        logger.report_scalar("parameters", "intercept", intercept, step)
        task.set_progress(100 * (step + 1) / STEPS)
        if step % 100 == 0:
            print(f"step {step}: y = {slope:.3f} x + {intercept:.3f}")

    logger.report_single_value("slope error", abs(slope - SLOPE))
    print(f"found y = {slope:.3f} x + {intercept:.3f}")
    task.close()


if __name__ == "__main__":
    main()
