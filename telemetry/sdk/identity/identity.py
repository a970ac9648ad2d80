"""Which task a process belongs to, and which of its processes it is: read from the environment alone.

Nothing is asked of a network or a file that processes would have to share: all ranks of one job come to
the same task id because they compute it from the same words. Pure functions, with the environment as an
argument; only `launcher_of_this_process` looks at the machine. docs/lifecycle.md tells the rules.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from telemetry.process.interrupts import is_interrupt

__all__ = [
    "TASK_VARIABLE",
    "Attempt",
    "Lineage",
    "Ranks",
    "attempt_of",
    "find_lineage",
    "find_ranks",
    "is_requeueable",
    "job_of",
    "launcher_of_this_process",
    "process_started",
    "task_id_of",
    "this_machine",
]

# What a process leaves to its children. Holds no secret.
TASK_VARIABLE = "TELEMETRY_TASK"

# Slurm's own number of the step that an interactive salloc shell runs in (LaunchParameters=use_interactive_step).
_INTERACTIVE_STEP = "4294967290"

# PROC_PID_INIT_INO of Linux: the numbers of processes outside of any container.
_ROOT_NAMESPACE = "pid:[4026531836]"

_MAX_RANK = 2**31 - 1
_MAX_WRAPPERS = 16
_MAX_VARIABLE_CHARS = 16_384


@dataclass(frozen=True, slots=True)
class Ranks:
    """A process's place in its job; None where the environment does not tell.

    Attributes:
        rank: None in a job of one process.
    """

    rank: int | None = None
    world_size: int | None = None
    local_rank: int | None = None
    node_rank: int | None = None

    @property
    def leads(self) -> bool:
        """True for the process that tells how the task ends."""
        return not self.rank

    @property
    def leads_node(self) -> bool:
        """True for the one process of its machine that samples the machine.

        Where only the rank is known, rank 0: its machine's figures are better than 64 copies.
        """
        return self.leads if self.local_rank is None else self.local_rank == 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """Which start of one job this is.

    Attributes:
        number: 1 for the first.
        restarts: of the workers within this attempt (torchelastic inside a requeued job).
    """

    number: int = 1
    restarts: int = 0


# Each launcher's words for rank, world size, local rank and node. The first whose rank is there speaks.
_LAUNCHERS: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("RANK",), ("WORLD_SIZE",), ("LOCAL_RANK",), ("GROUP_RANK", "NODE_RANK")),
    (
        ("OMPI_COMM_WORLD_RANK",),
        ("OMPI_COMM_WORLD_SIZE",),
        ("OMPI_COMM_WORLD_LOCAL_RANK",),
        ("OMPI_COMM_WORLD_NODE_RANK",),
    ),
    # A step's own size before the job's: `srun -n 1` within a job of 8 is one process.
    (
        ("SLURM_PROCID",),
        ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"),
        ("SLURM_LOCALID",),
        ("SLURM_NODEID",),
    ),
    (("PMI_RANK",), ("PMI_SIZE",), ("MPI_LOCALRANKID", "PMI_LOCAL_RANK"), ()),
)


def find_ranks(environ: Mapping[str, str]) -> Ranks:
    """Return this process's ranks as torchrun, Open MPI, Slurm or PMI tell them, in this order.

    A job of one process has no ranks: its task looks as if nobody had launched it.
    """
    for rank_names, size_names, local_names, node_names in _LAUNCHERS:
        rank = _number(environ, rank_names)
        if rank is None:
            continue
        if rank_names == ("SLURM_PROCID",) and _in_interactive_step(environ):
            continue
        size = _number(environ, size_names)
        if size is not None and rank >= size:
            continue  # leftovers of two launchers
        if size == 1:
            return Ranks(world_size=1)
        return Ranks(rank, size, _number(environ, local_names), _number(environ, node_names))
    return Ranks()


def _in_interactive_step(environ: Mapping[str, str]) -> bool:
    """True in the shell of an interactive job, which has a rank and is no program's first process."""
    return environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID")) == _INTERACTIVE_STEP


def _number(environ: Mapping[str, str], names: Sequence[str]) -> int | None:
    for name in names:
        text = environ.get(name, "").strip()
        if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _MAX_RANK:
            return int(text)
    return None


def job_of(
    environ: Mapping[str, str], ranks: Ranks, *, command: Sequence[str], launcher: Callable[[], str]
) -> str | None:
    """Return a text that all processes of this job have in common, and no other job has; None for a single process.

    In this order: TELEMETRY_RUN_ID; the Slurm job, array task and step, without the attempt; torchelastic's run id;
    the rendezvous address; Open MPI's and PMIx's job; else, with ranks alone, the process that launched them.

    Args:
        command: tells apart several programs that one batch script runs one after another.
        launcher: names the parent process; asked only where nothing else is known.
    """
    run_id = environ.get("TELEMETRY_RUN_ID", "").strip()
    if run_id:
        return f"run:{run_id}"
    job = _slurm_job(environ)
    if job is not None:
        return job if ranks.rank is not None else f"{job}:{json.dumps(list(command))}"
    if ranks.rank is None:
        return None
    elastic = environ.get("TORCHELASTIC_RUN_ID", "")
    if elastic and elastic != "none":
        return f"elastic:{elastic}"
    address, port = environ.get("MASTER_ADDR", ""), environ.get("MASTER_PORT", "")
    # On one machine the next launch has the same address and default port; its launcher tells them apart.
    if address and port and not _on_one_machine(environ, address):
        return f"rendezvous:{address}:{port}"
    for name in ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_ID_JOB", "PMI_JOBID"):
        if environ.get(name):
            return f"mpi:{environ[name]}"
    return f"launcher:{launcher()}"


def _slurm_job(environ: Mapping[str, str]) -> str | None:
    """Return the job's name within its cluster; None outside of Slurm and in an interactive shell of it."""
    job = environ.get("SLURM_JOB_ID", environ.get("SLURM_JOBID", ""))
    if not job or "SLURM_PROCID" not in environ or _in_interactive_step(environ):
        return None
    if environ.get("SLURM_ARRAY_JOB_ID") and environ.get("SLURM_ARRAY_TASK_ID"):
        job = f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", "batch"))
    return f"slurm:{environ.get('SLURM_CLUSTER_NAME', '')}:{job}:{step}"


def _on_one_machine(environ: Mapping[str, str], address: str) -> bool:
    if address in ("localhost", "::1") or address.startswith("127."):
        return True
    local_size, size = _number(environ, ("LOCAL_WORLD_SIZE",)), _number(environ, ("WORLD_SIZE",))
    return local_size is not None and local_size == size


def task_id_of(job: str, project: str, name: str, *, turn: int = 0) -> str:
    """Return the id of a job's task: 32 hexadecimal digits, the same in every process of the job.

    Args:
        turn: how many tasks of this name the process has begun before.
    """
    words = json.dumps(["telemetry task", job, project, name, turn])
    return hashlib.sha256(words.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def attempt_of(environ: Mapping[str, str]) -> Attempt:
    """Return which start of the job this is, as Slurm's requeue and torchelastic's restart count."""
    requeued = _number(environ, ("SLURM_RESTART_COUNT",)) if _slurm_job(environ) is not None else None
    restarted = _number(environ, ("TORCHELASTIC_RESTART_COUNT",)) or 0
    if requeued is None:
        return Attempt(1 + restarted)
    return Attempt(1 + requeued, restarted)


def is_requeueable(environ: Mapping[str, str]) -> bool:
    """Say whether whoever ends this process by SIGTERM is likely to start it again."""
    if _slurm_job(environ) is not None:
        return True
    left = _number(environ, ("TORCHELASTIC_MAX_RESTARTS",)) or 0
    return left > (_number(environ, ("TORCHELASTIC_RESTART_COUNT",)) or 0)


def launcher_of_this_process() -> str:
    """Return a name for the process that launched the ranks, which no other process of any machine ever has.

    It is the nearest ancestor that was not itself started as this rank: what stands in between (timeout, numactl,
    a script for each rank) is passed over. On Linux boot id, process id and start time; elsewhere the parent's id.
    """
    launcher = os.getppid()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        for _ in range(_MAX_WRAPPERS):
            if not _started_as_this_rank(launcher):
                break
            launcher = int(_process_stat(launcher)[1])
        started = _process_stat(launcher)[19]
    except (OSError, IndexError, ValueError) as error:
        if is_interrupt(error):
            raise
        boot, started = "", ""
    return f"{boot}:{launcher}:{started}"


def _process_stat(pid: int) -> list[str]:
    # From the third field on: the command's name before it may itself hold spaces and brackets.
    return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()


def process_started(pid: int) -> str:
    """Return what tells this process from any other that had or will have its number; "" if there is none now."""
    try:
        stat = _process_stat(pid)
        return "" if stat[0] in "ZX" else stat[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    except (OSError, IndexError) as error:
        if is_interrupt(error):
            raise
        return "?"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError as error:
        if is_interrupt(error):
            raise
        return "?"  # another user's
    return "?"


def this_machine() -> str:
    """Return where process numbers mean what they mean here: the host's name, and the container's namespace if any."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - a string, and no path
    except OSError as error:
        if is_interrupt(error):
            raise
        namespace = ""
    host = socket.gethostname()
    return host if namespace in ("", _ROOT_NAMESPACE) else f"{host} {namespace}"


def _started_as_this_rank(pid: int) -> bool:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError as error:
        if is_interrupt(error):
            raise
        return False  # another user's: no wrapper of ours
    mine = [f"{names[0]}={os.environ[names[0]]}" for (names, *_) in _LAUNCHERS if names[0] in os.environ]
    return any(os.fsencode(word) in environ for word in mine)


# ---- parents and children --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a child needs to know to join its parent's task.

    Attributes:
        pid: of the process that began the task.
        urls: where the parent's events go; empty: as the settings say. Never one with a password in it.
        iteration_offset: what the parent adds to the iterations that are reported.
    """

    task_id: str
    project: str
    name: str
    type: str
    created_unix_ns: int
    pid: int
    urls: tuple[str, ...] = ()
    iteration_offset: int = 0

    def encode(self) -> str:
        """Return it as an environment variable can carry it."""
        names = [self.task_id, self.project, self.name, self.type]
        further = [self.iteration_offset] if self.iteration_offset else []
        words = [1, *names, self.created_unix_ns, self.pid, list(self.urls), *further]
        data = json.dumps(words, separators=(",", ":")).encode("utf-8", "backslashreplace")
        return base64.urlsafe_b64encode(data).decode("ascii")

    @classmethod
    def decode(cls, text: str) -> Lineage | None:
        """Return what `encode` wrote; None for anything else: a foreign value is no reason to fail."""
        if not text or len(text) > _MAX_VARIABLE_CHARS:
            return None
        try:
            version, *words = json.loads(base64.urlsafe_b64decode(text.encode("ascii")))
            task_id, project, name, kind, created, pid, urls, *further = words
            (offset,) = further or [0]
        except (ValueError, TypeError, RecursionError) as error:
            if is_interrupt(error):
                raise
            return None
        texts = [task_id, project, name, kind, *urls] if isinstance(urls, list) else [None]
        if version != 1 or not all(isinstance(item, str) for item in texts):
            return None
        if not all(type(item) is int and 0 <= item < 2**63 for item in (created, pid)):
            return None
        if type(offset) is not int:
            return None
        if len(task_id) != 32 or not set(task_id) <= set("0123456789abcdef"):
            return None
        return cls(task_id, project, name, kind, created, pid, tuple(urls), offset)

    def matches(self, project: str | None, name: str | None, kind: str | None) -> bool:
        """Say whether Task.init with these arguments (None: not given) means this task."""
        asked = ((project, self.project), (name, self.name), (kind, self.type))
        return all(value is None or value == own for value, own in asked)


def find_lineage(environ: Mapping[str, str], handed_down: str | None = None) -> Lineage | None:
    """Return the task that an ancestor left to this process.

    Args:
        handed_down: what multiprocessing brought along, which is younger than the environment of a server process
            that forks for it; "" where that ancestor's task has ended.
    """
    return Lineage.decode(environ.get(TASK_VARIABLE, "") if handed_down is None else handed_down)
