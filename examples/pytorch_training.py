"""PyTorch: a small convolutional network on scikit-learn's digits, checkpoints by torch.save.

pip install "telemetry-tasks[examples]"
python examples/pytorch_training.py [EPOCHS]
"""

import sys
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from telemetry import Task


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    task = Task.init(project_name="examples", task_name="pytorch digits", tags=["pytorch"])
    logger = task.get_logger()
    torch.manual_seed(0)

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0
    dataset = TensorDataset(images, torch.tensor(digits.target))
    train, test = random_split(dataset, [0.8, 0.2])
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    criterion = nn.CrossEntropyLoss()

    step = 0
    accuracy = 0.0
    for epoch in range(epochs):
        model.train()
        for batch, labels in DataLoader(train, batch_size=64, shuffle=True):
            optimizer.zero_grad()
            loss = criterion(model(batch), labels)
            loss.backward()
            optimizer.step()
            # The tensor is read at once and not kept alive; no .item() is needed.
            logger.report_scalar("loss", "train", loss, step)
            step += 1

        model.eval()
        with torch.no_grad():
            test_images, test_labels = (torch.stack(list(column)) for column in zip(*test, strict=True))
            logits = model(test_images)
        accuracy = (logits.argmax(1) == test_labels).float().mean().item()
        logger.report_scalar("loss", "test", criterion(logits, test_labels), step - 1)
        logger.report_scalar("accuracy", "test", accuracy, step - 1)
        task.set_progress(100 * (epoch + 1) / epochs)
        print(f"epoch {epoch}: test accuracy {accuracy:.4f}")

    with tempfile.TemporaryDirectory() as folder:
        # Saving it is enough: the model collector sees torch.save and records the file.
        torch.save(model.state_dict(), Path(folder) / "digits.pt")
    logger.report_single_value("test accuracy", accuracy)
    task.close()


if __name__ == "__main__":
    main()
