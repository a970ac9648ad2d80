"""A long scripted session, killed after any of its calls; what the tests and bench/soaks/scripted_kills.py share.

A run that is killed after call k must leave what a run leaves that makes the same calls and then ends by itself: more
than a second passes between the call's return and the kill.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from telemetry.client import Client
from telemetry.export import read_series

# What must pass between a call's return and the kill, in seconds: the promise is one second.
PASSED_S = 1.2

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from telemetry import OutputModel, Task

calls, ending = int(sys.argv[1]), sys.argv[2]
task = Task.init("faults", "scripted", tags=["first"], auto_connect_frameworks=False,
                 auto_resource_monitoring=False, auto_connect_arg_parser=False)
log = task.get_logger()
settings = task.connect({"lr": 0.1, "layers": [1, 2], "nested": {"a": 1}}, name="settings")
Path("weights.bin").write_bytes(b"weights" * 1000)

def weights():
    OutputModel(task=task, name="net", framework="custom").update_weights("weights.bin", upload_uri=True)

script = [
    lambda: task.set_parameters({"Args/epochs": 7, "lr": 0.5}),
    lambda: task.set_parameter("decay", 1e-3),
    lambda: task.set_parameters_as_dict({"my_args/lr": 0.3, "epochs": 10}),
    lambda: settings.update(lr=0.2, layers=[]),
    lambda: settings["nested"].update(b=(1, 2)),
    lambda: task.delete_parameter("Args/epochs"),
    lambda: task.connect_configuration({"value": 13.37, "list": [1, 2]}, name="dictionary"),
    lambda: task.connect_label_enumeration({"cat": 1, "dog": 2}),
    lambda: task.set_user_properties({"name": "backbone", "description": "network type", "value": "great"}),
    lambda: task.add_tags(["second"]),
    lambda: task.set_comment("a comment"),
    lambda: [log.report_scalar("loss", "train", float(step), step) for step in range(5000)],
    lambda: log.report_single_value("accuracy", float("nan")),
    lambda: log.report_text("a line", print_console=False),
    lambda: print("printed"),
    lambda: log.report_histogram("weights", "layer 1", values=[1.0, 2.0, 3.0], iteration=3),
    lambda: log.report_image("samples", "one", iteration=1, image=[[0, 255], [255, 0]]),
    lambda: task.upload_artifact("person", {"name": "Erik", "age": 30}),
    lambda: task.upload_artifact("person", {"name": "Erik", "age": 31}),
    lambda: task.upload_artifact("text", "some text"),
    weights,
    lambda: task.set_progress(42.5),
    lambda: task.set_name("renamed"),
    lambda: task.set_tags(["last"]),
    lambda: log.report_scalar("loss", "train", float("inf"), -1),
]
for call in script[:calls]:
    call()
if ending == "kill":
    time.sleep(PASSED_S)
    os.kill(os.getpid(), signal.SIGKILL)
task.close()
print(len(script), file=sys.stderr)
""".replace("PASSED_S", str(PASSED_S))

CALLS = PROGRAM.split("script = [")[1].split("\n]\n")[0].strip().count(",\n") + 1

_TASK_FIELDS = ("name", "project", "type", "tags", "comment", "progress")
_SECTIONS = (
    *("parameters", "configuration", "properties", "labels"),
    *("artifacts", "input_models", "output_models"),
)
# What two runs of one program cannot have in common.
_OWN = frozenset({"time_unix_ns", "task", "path", "mtime_ns"})


def run_script(folder: Path, calls: int, ending: str, environ: Mapping[str, str]) -> Path:
    """Run the first `calls` calls, then close or be killed; return the session folder."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(calls), ending],
        env={**environ, "TELEMETRY_DIR": str(folder / "state"), "TELEMETRY_QUIET": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == (-9 if ending == "kill" else 0), done.stderr
    (session,) = (folder / "state" / "sessions").iterdir()
    return session


def state_of(client: Client, task_id: str) -> dict[str, Any]:
    """Return what a server knows of a task, without what is a run's own: ids, times, paths, how it ended."""
    record = client.task(task_id)["record"]
    events = client.export_page(task_id, "events")
    return {
        "task": {key: record["task"].get(key) for key in _TASK_FIELDS},
        **{section: _without_own(record.get(section, {}), section) for section in _SECTIONS},
        "points": {
            (series.title, series.series): (series.iterations.tolist(), series.values.tobytes())
            for series in read_series(client, task_id)
            if series.kind == "scalar"
        },
        "values": repr([(name, value) for name, _, value in events["values"]]),
        "plots": [(plot["title"], plot["series"], plot["iteration"], plot["figure"]) for plot in client.plots(task_id)],
        "media": [
            (item["title"], item["series"], item["iteration"], item["uri"], item["state"])
            for item in client.media(task_id)["media"]
        ],
        "console": [(line["stream"], line["text"]) for line in client.console(task_id)["lines"]],
    }


def _without_own(section: Mapping[str, Any], name: str) -> dict[str, Any]:
    by_name = name in ("input_models", "output_models")
    return {
        entry["name"] if by_name else key: (
            {field: value for field, value in entry.items() if field not in _OWN}
            if isinstance(entry, dict) and name not in ("parameters", "properties")
            else entry
        )
        for key, entry in section.items()
    }
