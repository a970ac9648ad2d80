"""What do other SDKs cost for the same scalars, in the same run on the same machine?

Each peer runs in its own virtual environment (peers/environments.py), in an empty folder that is its home and
working folder, from a copy of peers/ outside any repository (clearml analyses the repository that a script
lies in, for minutes), and where Linux allows it in a network namespace with nothing but loopback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import Benchmark, Column, Metrics, Scale, child_main
from peers.environments import CASES, PEERS, default_folder, ensure
from servers import folder_bytes, server

_HERE = Path(__file__).resolve().parent
_BUDGET_S = 10.0  # clearml's first call alone may take 5
_TIMEOUT_S = 240.0


def measure(case: str, scale: Scale) -> Metrics:
    """Log 100,000 scalars, or as many as the budget allows, with the SDK of `case`; then count them elsewhere."""
    python = _python(case)
    with tempfile.TemporaryDirectory(prefix="peer-") as root, _server(case, Path(root)) as url:
        folder, code = Path(root) / "home", Path(root) / "code"
        folder.mkdir()
        shutil.copytree(_HERE / "peers", code, ignore=shutil.ignore_patterns("__pycache__"))
        environment = {**_environment(folder), **({"BENCH_SERVER_URL": url} if url else {})}
        # Our own server listens outside the peer's network namespace.
        isolated = url is None and _can_isolate()
        child = _Child(python, code, folder, environment, isolated)
        before = folder_bytes(Path(root) / "server") if url else 0
        metrics = child.run(
            "log", case, "--scalars", str(scale.pick(100_000, 5_000)), "--budget", str(scale.pick(int(_BUDGET_S), 1))
        )
        counted = child.run("count", case)["count"]
        if url:
            metrics["bytes_per_scalar"] = (folder_bytes(Path(root) / "server") - before) / metrics["scalars"]
    metrics["read_back"] = counted
    metrics["lost"] = None if counted is None else metrics["scalars"] - counted
    metrics["isolated"] = int(isolated)
    return metrics


@dataclasses.dataclass
class _Child:
    """Starts peers/child.py in the peer's environment."""

    python: Path
    code: Path
    folder: Path
    environment: dict[str, str]
    isolated: bool

    def run(self, *arguments: str) -> Metrics:
        """Return the line of JSON that the child prints; raises with its last words if it fails."""
        command = [str(self.python), str(self.code / "child.py"), *arguments, "--folder", str(self.folder)]
        environment = dict(self.environment)
        if self.isolated:
            command = ["unshare", "--user", "--map-root-user", "--net", *command]
            environment["BENCH_NEW_NETWORK"] = "1"
        log = self.folder.parent / "stderr"
        with log.open("w") as stderr:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        if done.returncode != 0:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise SystemExit(f"{arguments[0]} ended with {done.returncode}: {''.join(last)[:300]}")
        metrics: Metrics = json.loads(done.stdout)
        return metrics


def _python(case: str) -> Path:
    peer = CASES[case].peer
    if peer is None:
        return Path(sys.executable)
    folder = Path(os.environ.get("BENCH_PEERS") or default_folder())
    environment = ensure(folder, [peer], install=False)[peer]
    if environment.problem:
        raise SystemExit(f"{peer} {environment.problem}: run python bench/peers/environments.py --dir {folder} {peer}")
    return environment.python


def _environment(folder: Path) -> dict[str, str]:
    temporary = folder / "tmp"
    temporary.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return {**kept, "HOME": str(folder), "TMPDIR": str(temporary), "BENCH_FOLDER": str(_HERE)}


@contextlib.contextmanager
def _server(case: str, root: Path) -> Iterator[str | None]:
    if case != "telemetry_http":
        yield None
        return
    with server(root / "server") as running:
        yield running.url


@functools.cache
def _can_isolate() -> bool:
    """Return whether a network namespace of one's own can be had here (Linux, user namespaces allowed)."""
    try:
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--net", "true"], capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


def chosen(which: str, folder: Path) -> Benchmark:
    """Return the benchmark of the "core" peers or of "all", their environments made; a missing one is named.

    A peer that cannot be installed stays in the list: its case then fails with pip's last words.
    """
    cases = tuple(name for name, case in CASES.items() if case.core or which == "all")
    peers = dict.fromkeys(peer for name in cases if (peer := CASES[name].peer) is not None)
    problems = {name: made.problem for name, made in ensure(folder, peers).items() if made.problem}
    for name, problem in problems.items():
        print(f"peers: {name} could not be installed: {problem}", file=sys.stderr)
    return dataclasses.replace(BENCHMARK, cases=cases)


BENCHMARK = Benchmark(
    name="against_peers",
    question="What do other SDKs cost for the same scalars?",
    topology=(
        "100,000 scalars in 10 series, one call a scalar, no pause, each SDK into its own local store as "
        f"it comes (wandb, clearml, trackio offline), stopped after {_BUDGET_S:g} s of logging: the column "
        "n says how many it got to; "
        + ", ".join(requirement for peer in PEERS.values() for requirement in peer.requirements)
    ),
    unfair=(
        "automatic features (resources, console, frameworks) are off everywhere; one call a scalar is not "
        "the form that wandb, trackio and mlflow like best (they take a map of 10 at once); offline modes "
        "spare the peers a server, telemetry_http has one; read back means counted by another process, "
        "not compared digit by digit; CPU has the children that ended in it"
    ),
    cases=tuple(CASES),
    measure=measure,
    columns=(
        Column("scalars", "n", ",.0f"),
        Column("mean_us", "mean us", ",.2f"),
        Column("rate", "to closed /s", ",.0f"),
        Column("cpu_us", "CPU us/scalar", ",.1f"),
        Column("bytes_per_scalar", "bytes/scalar", ",.1f"),
        Column("import_s", "import s", ".2f"),
        Column("init_s", "init s", ".3f"),
        Column("close_s", "close s", ".2f"),
        Column("lost", "lost", ",.0f"),
    ),
    timeout_s=300.0,
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
