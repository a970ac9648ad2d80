"""The peers' virtual environments: one for each, made once and kept in a cache folder.

    python bench/peers/environments.py [--dir DIR] [PEER ...]      make them now, and say what failed

A peer that cannot be installed is not an error of the run: it is reported by name with pip's last words.
Versions are pinned, so that two runs on two days compare the same peers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CASES", "PEERS", "Case", "Environment", "default_folder", "ensure"]

# A cold install of the largest (mlflow, trackio) downloads some 300 MB.
_PIP_TIMEOUT_S = 900


@dataclass(frozen=True)
class Peer:
    """A package to install. `core`: part of `--peers`; the others come with `--peers all`."""

    requirements: tuple[str, ...]
    core: bool


PEERS = {
    "tensorboardX": Peer(("tensorboardX==2.6.5",), core=True),
    "trackio": Peer(("trackio==0.43.0",), core=True),
    "wandb": Peer(("wandb==0.31.0",), core=True),
    "clearml": Peer(("clearml==2.1.12",), core=True),
    "mlflow": Peer(("mlflow==3.17.2",), core=False),
    "aim": Peer(("aim==3.29.1",), core=False),
    "neptune-scale": Peer(("neptune-scale==0.30.0",), core=False),
    "swanlab": Peer(("swanlab==0.10.3",), core=False),
}


@dataclass(frozen=True)
class Case:
    """A row of the table: the adapter `adapters/<adapter>.py`, in the environment of `peer`.

    peer is None for what runs in the interpreter that runs the benchmarks: the floors and ourselves.
    """

    adapter: str
    peer: str | None
    core: bool = True


CASES = {
    "floor_empty": Case("floors", None),
    "floor_deque": Case("floors", None),
    "telemetry_zip": Case("ours", None),
    "telemetry_http": Case("ours", None),
    "tensorboardx": Case("tensorboardx", "tensorboardX"),
    "trackio": Case("trackio", "trackio"),
    "wandb": Case("wandb", "wandb"),
    "clearml": Case("clearml", "clearml"),
    "clearml_thread": Case("clearml", "clearml"),
    "mlflow_sqlite": Case("mlflow", "mlflow", core=False),
    "aim": Case("aim", "aim", core=False),
    "neptune": Case("neptune", "neptune-scale", core=False),
    "swanlab": Case("swanlab", "swanlab", core=False),
}


@dataclass(frozen=True)
class Environment:
    """`python`: the environment's interpreter. `problem`: None, or why there is no such environment."""

    peer: str
    python: Path
    problem: str | None


def default_folder() -> Path:
    """Return the folder in the user's cache where the environments are kept between runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Path(cache) / "telemetry-bench" / f"peers-{version}"


def ensure(folder: Path, peers: Iterable[str], *, install: bool = True) -> dict[str, Environment]:
    """Return the environment of each peer, made now if it is not there.

    Args:
        install: False only looks at what is there.
    """
    return {name: _ensure_one(folder / name, name, install=install) for name in peers}


def _ensure_one(folder: Path, name: str, *, install: bool) -> Environment:
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    marker = folder / "installed.json"
    wanted = list(PEERS[name].requirements)
    if marker.exists() and json.loads(marker.read_text())["requirements"] == wanted:
        return Environment(name, python, None)
    if not install:
        return Environment(name, python, "not installed")
    print(f"peers: making {folder} ({', '.join(wanted)})", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted],
    ):
        problem = _run(command)
        if problem is not None:
            return Environment(name, python, problem)
    marker.write_text(json.dumps({"requirements": wanted}))
    return Environment(name, python, None)


def _run(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"{command[1:4]} took longer than {_PIP_TIMEOUT_S} s"
    if done.returncode == 0:
        return None
    lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
    return lines[-1][:300]


def main() -> int:
    """Make the environments named on the command line (all by default) and list them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)} (default: all)")
    parser.add_argument("--dir", type=Path, default=default_folder(), help="default: %(default)s")
    arguments = parser.parse_args()
    unknown = set(arguments.peers) - set(PEERS)
    if unknown:
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}")
    environments = ensure(arguments.dir, arguments.peers or PEERS)
    for environment in environments.values():
        print(f"{environment.peer}: {environment.problem or environment.python}")
    return 1 if any(environment.problem for environment in environments.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
