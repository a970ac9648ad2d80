"""scikit-learn's digits: a small neural network, trained epoch by epoch, its model saved with joblib.

pip install "telemetry-tasks[examples]"
python examples/sklearn_digits.py [EPOCHS]
"""

import sys
import tempfile
from pathlib import Path

import joblib
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from telemetry import Task


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    task = Task.init(project_name="examples", task_name="sklearn digits", tags=["scikit-learn"])
    logger = task.get_logger()

    images, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images / 16.0, digits, test_size=0.25, random_state=0, stratify=digits
    )
    model = MLPClassifier(hidden_layer_sizes=(64,), learning_rate_init=2e-3, random_state=0)
    accuracy = 0.0
    for epoch in range(epochs):
        model.partial_fit(train_x, train_y, classes=range(10))
        accuracy = model.score(test_x, test_y)
        logger.report_scalar("loss", "train", model.loss_, epoch)
        logger.report_scalar("loss", "test", log_loss(test_y, model.predict_proba(test_x)), epoch)
        logger.report_scalar("accuracy", "train", model.score(train_x, train_y), epoch)
        logger.report_scalar("accuracy", "test", accuracy, epoch)
        task.set_progress(100 * (epoch + 1) / epochs)

    with tempfile.TemporaryDirectory() as folder:
        # Saving it is enough: the model collector sees joblib.dump and records the file.
        joblib.dump(model, Path(folder) / "digits.joblib")
    logger.report_single_value("test accuracy", accuracy)
    print(f"test accuracy after {epochs} epochs: {accuracy:.4f}")
    task.close()


if __name__ == "__main__":
    main()
