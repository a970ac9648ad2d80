"""The samples of docs/sdk that name files and ids: run as they stand, with real ones in their place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from page_support import Way

from telemetry import OutputModel, Task

DOCS = Path(__file__).parents[2] / "docs" / "sdk"


def samples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


def run(sample: str, page: str, names: dict[str, Any], places: dict[str, str]) -> None:
    for placeholder, real in places.items():
        sample = sample.replace(placeholder, real)
    exec(compile(sample, str(DOCS / page), "exec"), names)


def test_the_samples_of_artifacts(way: Way) -> None:
    table = way.folder / "preprocess_data.csv"
    table.write_text("a,b\n1,2\n")
    folder = way.folder / "folder"
    folder.mkdir()
    (folder / "inside.txt").write_text("x")
    upload, use = samples("artifacts.md")[:2]
    task = way.init(project_name="examples", task_name="artifacts")
    run(
        upload,
        "artifacts.md",
        {"task": task},
        {"/path/to/preprocess_data.csv": str(table), "/path/to/": f"{way.folder}/"},
    )
    names: dict[str, Any] = {"Task": Task}
    read = way.read(task)
    run(use, "artifacts.md", names, {"the_preprocessing_task_id": read.id})
    assert Path(names["local_csv"]).read_text() == "a,b\n1,2\n"
    assert names["person"] == {"name": "Erik", "age": 30}
    assert set(read.artifacts) == {"data", "folder", "link", "person"}


def test_the_samples_of_models(way: Way) -> None:
    Path("model.pt").write_bytes(b"one")
    Path("path/to").mkdir(parents=True)
    Path("path/to/model").write_bytes(b"two")
    write, use = samples("models.md")[:2]
    names: dict[str, Any] = {"Task": Task, "OutputModel": OutputModel}
    run(write, "models.md", names, {})
    read = way.read(names["task"])
    run(use, "models.md", names, {"the_training_task": read.id})
    assert Path(names["local_weights_path"]).read_bytes() == b"two"


def test_the_samples_of_creation(server_way: Way) -> None:
    create, clone = samples("creation.md")
    names: dict[str, Any] = {"Task": Task}
    run(create, "creation.md", names, {})
    run(clone, "creation.md", names, {})
    found = names["clone"]
    assert (found.name, found.project, found.parent) == ("newly created task", "another project", names["task"].id)
    assert found.get_parameters(cast=True) == {"General/epochs": 7, "General/lr": 0.5}
