"""Ranks: all processes of a job come to one task id by themselves, and each keeps series of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sdk_support import environment, run_program
from server_support import LOSS, START_NS, TASK, Http, rows_of, started

from telemetry.errors import FrameError
from telemetry.events import Batch, RecordChange, ScalarColumns
from telemetry.fold import RecordDict, RecordFold
from telemetry.journal import read_segments
from telemetry.sdk.identity.identity import (
    Attempt,
    Lineage,
    Ranks,
    attempt_of,
    find_lineage,
    find_ranks,
    is_requeueable,
    job_of,
    launcher_of_this_process,
    task_id_of,
)
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig
from telemetry.wire import Frame, decode, encode

S = 1_000_000_000

# ---- where a process stands --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "ranks"),
    [
        ({}, Ranks()),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "GROUP_RANK": "1"}, Ranks(3, 8, 1, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "NODE_RANK": "2"}, Ranks(3, 8, 1, 2)),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, Ranks(world_size=1)),
        ({"RANK": "5"}, Ranks(5)),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_NODEID": "1"}, Ranks(2, 4, 0, 1)),
        (
            {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}
            | {"SLURM_STEP_NUM_TASKS": "1"},
            Ranks(world_size=1),
        ),
        # An interactive shell: a job, and no process of it; or the step that the shell runs in.
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, Ranks()),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Ranks()),
        (
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
            Ranks(1, 2, 1),
        ),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"}, Ranks(1, 2, 0)),
        # torchrun inside a Slurm step speaks for its own workers.
        (
            {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
            Ranks(9, 16, 1),
        ),
        ({"RANK": "x", "WORLD_SIZE": "2"}, Ranks()),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, Ranks()),
        ({"RANK": "2", "WORLD_SIZE": "2"}, Ranks()),
        ({"RANK": "٣", "WORLD_SIZE": "8"}, Ranks()),
        ({"RANK": "9" * 20, "WORLD_SIZE": "8"}, Ranks()),
    ],
)
def test_ranks_are_read_as_each_launcher_tells_them(environ: dict[str, str], ranks: Ranks) -> None:
    assert find_ranks(environ) == ranks


def job(environ: Mapping[str, str], *, command: str = "train.py", launcher: str = "L") -> str | None:
    return job_of(environ, find_ranks(environ), command=[command], launcher=lambda: launcher)


SLURM = {"SLURM_JOB_ID": "70", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}
RANK = {"RANK": "1", "WORLD_SIZE": "4"}


def test_each_way_of_launching_names_its_job() -> None:
    assert job({}) is None
    assert job({"TELEMETRY_RUN_ID": "nightly", **SLURM}) == "run:nightly"
    assert job(SLURM) == "slurm::70:0"
    assert job({**SLURM, "SLURM_CLUSTER_NAME": "alps", "SLURM_ARRAY_JOB_ID": "69", "SLURM_ARRAY_TASK_ID": "2"}) == (
        "slurm:alps:69_2:0"
    )
    assert job({"SLURM_JOB_ID": "70"}) is None, "an interactive shell"
    assert job({**RANK, "TORCHELASTIC_RUN_ID": "abc"}) == "elastic:abc"
    rendezvous = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
    assert job({**RANK, "TORCHELASTIC_RUN_ID": "none", **rendezvous}) == "rendezvous:node0:29500"
    assert job({**RANK, "OMPI_MCA_ess_base_jobid": "55"}) == "mpi:55"
    assert job(RANK) == "launcher:L"


def test_on_one_machine_the_launcher_tells_two_launches_apart_that_share_an_address() -> None:
    here = {**RANK, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert job(here, launcher="first") != job(here, launcher="second")
    by_name = {**RANK, "MASTER_ADDR": "node0", "MASTER_PORT": "29500", "LOCAL_WORLD_SIZE": "4"}
    assert job(by_name, launcher="first") != job(by_name, launcher="second")


def test_two_programs_of_one_batch_script_are_two_tasks_and_a_requeue_is_the_same() -> None:
    script = {"SLURM_JOB_ID": "70", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    assert job(script, command="a.py") != job(script, command="b.py")
    assert job(script) == job({**script, "SLURM_RESTART_COUNT": "3"})


NAMES = st.text(max_size=30)


@given(
    world=st.integers(2, 300),
    job_id=st.integers(1, 10**9).map(str),
    names=st.tuples(NAMES, NAMES),
    restarts=st.lists(st.integers(0, 50), min_size=1, max_size=4),
    data=st.data(),
)
def test_every_rank_of_every_attempt_comes_to_one_id(
    world: int, job_id: str, names: tuple[str, str], restarts: list[int], data: st.DataObject
) -> None:
    ranks = data.draw(st.lists(st.integers(0, world - 1), min_size=1, max_size=5))
    ids = set()
    for rank in ranks:
        for restart in restarts:
            environ = {
                "SLURM_JOB_ID": job_id,
                "SLURM_STEP_ID": "0",
                "SLURM_PROCID": str(rank),
                "SLURM_NTASKS": str(world),
                "SLURM_RESTART_COUNT": str(restart),
            }
            found = job_of(environ, find_ranks(environ), command=[str(rank)], launcher=lambda: "never asked")
            assert found is not None
            ids.add(task_id_of(found, *names))
    (task_id,) = ids
    assert len(task_id) == 32 and set(task_id) <= set("0123456789abcdef")


@given(st.tuples(NAMES, NAMES, NAMES, st.integers(0, 3)), st.tuples(NAMES, NAMES, NAMES, st.integers(0, 3)))
def test_another_job_project_name_or_turn_is_another_id(one: Any, other: Any) -> None:
    ids = [task_id_of(*words[:3], turn=words[3]) for words in (one, other)]
    assert (ids[0] == ids[1]) == (one == other)


@pytest.mark.parametrize(
    ("environ", "attempt"),
    [
        ({}, Attempt(1)),
        ({**SLURM, "SLURM_RESTART_COUNT": "2"}, Attempt(3)),
        ({"TORCHELASTIC_RESTART_COUNT": "1"}, Attempt(2)),
        ({**SLURM, "SLURM_RESTART_COUNT": "2", "TORCHELASTIC_RESTART_COUNT": "1"}, Attempt(3, 1)),
        ({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}, Attempt(1)),
    ],
)
def test_attempts_count_from_one(environ: dict[str, str], attempt: Attempt) -> None:
    assert attempt_of(environ) == attempt


def test_who_is_started_again_after_sigterm() -> None:
    assert is_requeueable(SLURM)
    assert not is_requeueable({"SLURM_JOB_ID": "7"})
    assert is_requeueable({"TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_MAX_RESTARTS": "3"})
    assert not is_requeueable({"TORCHELASTIC_RESTART_COUNT": "3", "TORCHELASTIC_MAX_RESTARTS": "3"})
    assert not is_requeueable({})


def test_the_launcher_has_a_name_of_its_own() -> None:
    assert launcher_of_this_process() == launcher_of_this_process()
    assert str(os.getppid()) in launcher_of_this_process()


@given(
    st.builds(
        Lineage,
        st.text("0123456789abcdef", min_size=32, max_size=32),
        NAMES,
        NAMES,
        NAMES,
        st.integers(0, 2**63 - 1),
        st.integers(0, 2**31),
        st.lists(NAMES, max_size=3).map(tuple),
    )
)
def test_what_a_child_is_left_comes_through_the_environment(lineage: Lineage) -> None:
    text = lineage.encode()
    assert text.isascii() and "\n" not in text
    assert Lineage.decode(text) == lineage
    assert find_lineage({"TELEMETRY_TASK": text}) == lineage
    assert find_lineage({"TELEMETRY_TASK": text}, handed_down="") is None


@given(st.text(max_size=200))
def test_a_foreign_value_is_as_none(text: str) -> None:
    assert Lineage.decode(text) is None


# ---- on the wire and in the store ------------------------------------------------------------------


@given(st.one_of(st.none(), st.integers(0, 2**31 - 1)))
def test_a_frame_carries_its_rank(rank: int | None) -> None:
    batch = Batch(TASK, ScalarColumns(), (), 0, rank)
    assert decode(encode(batch, writer_id=bytes(16), sequence=0)).rank == rank


@pytest.mark.parametrize("rank", [-1, 2**31, 1.5, True, "3"])
def test_a_rank_that_is_none_is_refused(rank: Any) -> None:
    with pytest.raises(ValueError, match="rank"):
        encode(Batch(TASK, ScalarColumns(), (), 0, rank), writer_id=bytes(16), sequence=0)


def frame_of_rank(rank: int | None, values: list[float], *, first: int = 0, sequence: int = 0) -> Frame:
    columns = ScalarColumns([LOSS])
    for iteration, moment, value in rows_of(values, first=first):
        columns.series_index.append(0)
        columns.iterations.append(iteration)
        columns.times_unix_ns.append(moment)
        columns.values.append(value)
    writer = b"writer of no rnk" if rank is None else b"writer %9d" % rank
    return encode(Batch(TASK, columns, (), len(values), rank), writer_id=writer, sequence=sequence)


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Http]:
    with started(tmp_path) as server:
        yield Http(server.url)


def test_the_same_series_of_two_ranks_are_two_series(http: Http) -> None:
    # given the ranks out of order
    for rank in (2, 0, 1):
        http.send(frame_of_rank(rank, [float(rank)] * 3))
    # then
    found = http.get(f"/tasks/{TASK}/series")["series"]
    assert [(one["rank"], one["last"], one["count"]) for one in found] == [(0, 0.0, 3), (1, 1.0, 3), (2, 2.0, 3)]
    # and in the table of tasks the lowest stands for all, once
    (task,) = http.get("/tasks", sort="-last:loss/train")["tasks"]
    assert [item["value"] for item in task["last_scalars"]] == [0.0]
    assert http.get("/tasks", sort="last:loss/train")["total"] == 1


def test_a_band_is_the_mean_between_the_lowest_and_the_highest(http: Http) -> None:
    for rank, values in enumerate([[1.0, 2.0, float("nan")], [3.0, 4.0, 9.0], [5.0, 12.0, 7.0]]):
        http.send(frame_of_rank(rank, values))
    any_rank = http.get(f"/tasks/{TASK}/series")["series"][1]["id"]
    (band,) = http.get(f"/tasks/{TASK}/bands", series=any_rank)["series"]
    assert band == {
        "id": any_rank, "ranks": 3, "count": 8, "exact": True, "x": [0, 1, 2],
        "mean": [3.0, 6.0, 8.0], "low": [1.0, 2.0, 7.0], "high": [5.0, 12.0, 9.0],
    }  # fmt: skip
    (by_time,) = http.get(f"/tasks/{TASK}/bands", series=any_rank, x="time", to=START_NS // 10**6)["series"]
    assert (by_time["mean"], by_time["low"], by_time["high"]) == ([3.0], [1.0], [5.0])
    assert http.api(f"/tasks/{TASK}/bands", series=99).status == 404
    assert http.api(f"/tasks/{TASK}/bands").status == 400


def test_a_long_band_loses_no_spike_and_is_the_same_each_time(http: Http) -> None:
    # given 3 ranks of 30,000 points with one spike
    for rank in range(3):
        values = [float(rank)] * 30_000
        if rank == 1:
            values[17_123] = -50.0
        http.send(frame_of_rank(rank, values))
    series = http.get(f"/tasks/{TASK}/series")["series"][0]["id"]
    # when
    answers = [http.api(f"/tasks/{TASK}/bands", series=series, max_samples=200).body for _ in range(2)]
    (band,) = http.get(f"/tasks/{TASK}/bands", series=series, max_samples=200)["series"]
    # then
    assert answers[0] == answers[1]
    assert (band["exact"], len(band["x"]), band["count"]) == (False, 200, 90_000)
    assert min(band["low"]) == -50.0
    assert set(band["high"]) == {2.0}
    assert band["x"] == sorted(band["x"])
    assert all(abs(mean - 1.0) < 0.2 for mean in band["mean"])


# ---- as programs ------------------------------------------------------------------------------------

RANK_PROGRAM = """
import os, sys
from telemetry import Task
task = Task.init("jobs", "ddp", auto_connect_streams=False, auto_resource_monitoring={"interval_s": 0.2})
logger = task.get_logger()
for step in range(100):
    logger.report_scalar("loss", "train", float(os.environ["RANK"]), step)
if task._running.launched.membership.samples_machine:
    import threading
    pause, before = threading.Event(), task.ledger().logged
    while task.ledger().logged <= before:  # until the machine was sampled
        pause.wait(0.05)
task.close(timeout=60)
"""


def test_64_processes_with_only_rank_variables_are_one_task(tmp_path: Path) -> None:
    # given a server, and 64 ranks on 8 nodes that know nothing but their ranks
    program = tmp_path / "train.py"
    program.write_text(RANK_PROGRAM)
    with BackgroundServer(ServerConfig(tmp_path / "store", port=0)) as server:
        processes = []
        for rank in range(64):
            variables = {
                "RANK": str(rank),
                "WORLD_SIZE": "64",
                "LOCAL_RANK": str(rank % 8),
                "GROUP_RANK": str(rank // 8),
                "TELEMETRY_URL": server.url,
                "TELEMETRY_CLOSE_TIMEOUT": "60",
            }
            # Each node has a disk of its own.
            env = environment(tmp_path / f"node{rank // 8}", **variables)
            processes.append(subprocess.Popen([sys.executable, program], env=env, stderr=subprocess.PIPE, text=True))
        errors = [process.communicate(timeout=110)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * 64, errors
        # then
        http = Http(server.url)
        (task,) = http.get("/tasks")["tasks"]
        assert (task["writers"], task["status"], task["points"]) == (64, "completed", 6400)
        record = http.get(f"/tasks/{task['id']}")["record"]
        assert sorted(entry["rank"] for entry in record["writers"].values()) == list(range(64))
        assert all("ended_unix_ns" in entry for entry in record["writers"].values())
        loss = http.get(f"/tasks/{task['id']}/series", kind="scalar")["series"]
        assert [(one["rank"], one["count"], one["last"]) for one in loss] == [(n, 100, float(n)) for n in range(64)]
        machines = http.get(f"/tasks/{task['id']}/series", kind="resource")["series"]
        assert {one["rank"] for one in machines} == {8 * node for node in range(8)}
        # and of 64 processes one has said where, and how it ended
        lines = "".join(errors).splitlines()
        assert [line.partition(" -> ")[0] for line in lines if " -> " in line] == ['telemetry: task "ddp"']


def test_wrappers_around_each_rank_make_no_difference(tmp_path: Path) -> None:
    source = "from telemetry.sdk.identity.identity import launcher_of_this_process as name; print(name())"
    found: list[str] = []
    for wrapper in ([], ["timeout", "30"], ["nice", "timeout", "30"], ["bash", "-c", '"$@"; true', "bash"]):
        env = environment(tmp_path / "state", RANK=str(len(found)), WORLD_SIZE="4")
        command = [*wrapper, sys.executable, "-c", source]
        found.append(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert len(set(found)) == 1
    assert f":{os.getpid()}:" in found[0]


ATTEMPT_PROGRAM = """
import os, signal, sys
from telemetry import Task
task = Task.init("jobs", "long", auto_connect_streams=False, auto_resource_monitoring=False)
attempt = int(os.environ["SLURM_RESTART_COUNT"])
# From a checkpoint that is two steps old.
for step in range(max(0, 8 * attempt - 2), 8 * attempt + 8):
    task.get_logger().report_scalar("loss", "train", float(attempt), step)
task.flush()
print(task.id, flush=True)
if attempt < 3:
    signal.pause()
"""


def test_a_requeued_job_is_one_task_with_many_attempts_and_preempted_between(tmp_path: Path) -> None:
    program = tmp_path / "train.py"
    program.write_text(ATTEMPT_PROGRAM)
    ids, statuses, started_at = set(), [], set()
    with BackgroundServer(ServerConfig(tmp_path / "store", port=0)) as server:
        http = Http(server.url)
        for attempt in range(4):
            variables = {**SLURM, "SLURM_NTASKS": "1", "SLURM_RESTART_COUNT": str(attempt)}
            env = environment(tmp_path / "state", TELEMETRY_URL=server.url, **variables)
            process = subprocess.Popen([sys.executable, program], env=env, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            ids.add(process.stdout.readline().strip())
            if attempt < 3:
                # when the scheduler takes the machine away
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            assert process.returncode == (0 if attempt == 3 else -signal.SIGTERM)
            (task,) = http.get("/tasks")["tasks"]
            statuses.append((task["status"], task["ended_unix_ms"] is not None))
            started_at.add(task["started_unix_ms"])
        # then
        assert statuses == [("preempted", True)] * 3 + [("completed", True)]
        assert ids == {task["id"]}
        assert len(started_at) == 1, "the task runs since its first attempt"
        record = http.get(f"/tasks/{task['id']}")["record"]
        assert record["task"]["attempt"] == 4
        assert sorted(entry.get("attempt", 1) for entry in record["writers"].values()) == [1, 2, 3, 4]
        # and the chart goes from each attempt to the next, while all that was reported is kept
        assert task["points"] == 8 + 3 * 10
        (series,) = http.get(f"/tasks/{task['id']}/series?kind=scalar")["series"]
        points = f"/tasks/{task['id']}/points?series={series['id']}"
        (shown,) = http.get(points)["series"]
        assert shown["x"] == list(range(32))
        assert shown["y"] == [0.0] * 6 + [1.0] * 8 + [2.0] * 8 + [3.0] * 10
        assert http.get(f"{points}&attempts=all")["series"][0]["count"] == 38


def test_a_second_task_of_one_name_in_one_rank_is_another_one(tmp_path: Path) -> None:
    source = (
        "from telemetry import Task\n"
        "for _ in range(2):\n"
        "    task = Task.init('jobs', 'twice', auto_connect_streams=False, auto_resource_monitoring=False)\n"
        "    print(task.id); task.close()\n"
    )
    outputs = []
    for rank in range(2):
        env = environment(tmp_path / "state", RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
        done = subprocess.run([sys.executable, "-c", source], env=env, capture_output=True, text=True, check=True)
        outputs.append(done.stdout.split())
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0])) == 2


def test_a_frame_with_a_bad_rank_is_refused_whole() -> None:
    good = encode(Batch(TASK, ScalarColumns(), (), 0, 5), writer_id=bytes(16), sequence=0, level=0)
    assert b"\xa4rank\x05" in good.data
    import zlib

    payload = good.data[52:].replace(b"\xa4rank\x05", b"\xa4rank\xff")
    checksum = zlib.crc32(payload, zlib.crc32(good.data[:48]))
    with pytest.raises(FrameError, match="rank"):
        decode(Frame(bytes(16), 0, 0, good.data[:48] + checksum.to_bytes(4, "little") + payload))


def folded(*sessions: Path) -> RecordDict:
    fold = RecordFold()
    for session in sessions:
        for item in read_segments(session):
            assert isinstance(item, Frame)
            for event in decode(item).events:
                if isinstance(event, RecordChange):
                    fold.apply(event, item.writer_id, item.sequence)
    return fold.record()


def test_a_rank_that_is_alone_tells_how_its_task_ends(tmp_path: Path) -> None:
    """As a program does that was started by hand where the variables of some other job are left."""
    for source, status in (("", "completed"), ("raise ValueError('bad')", "failed")):
        state_dir = tmp_path / status / "state"
        state_dir.parent.mkdir()
        # When rank 1 of nobody knows how many runs to its end, and there is no rank 0
        run_program(
            f"from telemetry import Task\nTask.init('tests', 'alone', auto_resource_monitoring=False)\n{source}",
            state_dir,
            variables={"RANK": "1"},
        )

        # Then its end is the task's
        (folder,) = (state_dir / "sessions").iterdir()
        task = folded(folder)["task"]
        assert (task["status"], task["ended_unix_ns"] > 0) == (status, True)


def test_the_end_of_rank_0_counts_before_that_of_the_others(tmp_path: Path) -> None:
    # Given rank 0, which completes, and then rank 1, which fails
    for rank, source in (("0", ""), ("1", "raise ValueError('bad')")):
        run_program(
            f"from telemetry import Task\nTask.init('tests', 'pair', auto_resource_monitoring=False)\n{source}",
            tmp_path / "state",
            variables={"RANK": rank, "WORLD_SIZE": "2", "TELEMETRY_RUN_ID": "pair"},
        )

    # Then the task is what rank 0 said, in whatever order the two are read
    sessions = sorted((tmp_path / "state" / "sessions").iterdir())
    assert {folded(*order)["task"]["status"] for order in (sessions, sessions[::-1])} == {"completed"}
