"""Run the benchmarks, print a table and write JSON.

    python bench/run.py --quick                 does everything once, small: is the machinery sound?
    python bench/run.py                         all but the long ones and the peers; about an hour
    python bench/run.py --long                  and runs_a_core
    python bench/run.py --peers                 and tensorboardX, trackio, wandb, clearml
    python bench/run.py --only hot_path --reps 9 --json hot.json

Each measurement runs in a process of its own, with its own empty home, working, state and temporary folder.
The repetitions are the outer loop: everything once, then everything again, so that a machine that slows down
for a minute spoils one repetition of many rows and not all of one. The table has the median of the
repetitions and, in brackets, the smallest and the greatest; ratios are taken inside one process and then
their median is shown. Only loopback is used, except by pip for --peers. docs/benchmarks.md says more.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import Benchmark, Metrics
from peers.environments import default_folder
from report import Failures, Runs, document, machine, print_benchmark, print_shortfalls, verdicts

_HERE = Path(__file__).resolve().parent
_NAMES = (
    "hot_path",
    "zip_rate",
    "http_rate",
    "server_ingest",
    "ingest_path",
    "shapes",
    "train_step",
    "stalled_sink",
    "lifecycle",
    "points_page",
    "queries",
    "breadth",
    "reading_live",
    "exit_times",
    "live_pages",
    "strangers",
)
# Not in a run of everything: several minutes a repetition, and it takes a core for itself.
_LONG = ("runs_a_core",)
_PEERS = "against_peers"
# Of the caller's environment a measurement sees what it needs to start, and none of anybody's settings.
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "VIRTUAL_ENV", "SYSTEMROOT", "LD_LIBRARY_PATH", "SSL_CERT_FILE")


def main() -> int:
    """Run what the command line says; 1 if a measurement failed (a target that is missed is no failure)."""
    arguments = _arguments()
    os.environ["BENCH_PEERS"] = str(arguments.peer_envs)
    benchmarks = _benchmarks(arguments)
    facts: dict[str, Any] = {"quick": arguments.quick, "reps": arguments.reps, "machine": machine()}
    _print_facts(facts)
    runs: dict[str, Runs] = {b.name: {case: [] for case in b.cases} for b in benchmarks}
    failures: dict[str, Failures] = {b.name: {} for b in benchmarks}
    progress = _Progress(arguments.reps * sum(len(b.cases) for b in benchmarks))
    try:
        for rep in range(arguments.reps):
            for benchmark in benchmarks:
                for case in benchmark.cases:
                    progress.begin(f"rep {rep + 1}/{arguments.reps} {benchmark.name} {case}")
                    result = _measure(benchmark, case, arguments)
                    if isinstance(result, str):
                        failures[benchmark.name].setdefault(case, []).append(result)
                        progress.note(f"{benchmark.name} {case}: {result}")
                    else:
                        runs[benchmark.name][case].append(result)
                    # Written after each measurement: an interrupted run keeps what it has.
                    _write_json(arguments.json, document(benchmarks, runs, failures, facts))
    except KeyboardInterrupt:
        progress.note("interrupted; what follows is what was measured until now")
    progress.end()
    facts["machine"]["load_average_at_end"] = os.getloadavg() if hasattr(os, "getloadavg") else None
    for benchmark in benchmarks:
        print_benchmark(benchmark, runs[benchmark.name], failures[benchmark.name], quick=arguments.quick)
    if not arguments.quick:
        print_shortfalls([(b.name, verdict) for b in benchmarks for verdict in verdicts(b, runs[b.name])])
    _write_json(arguments.json, document(benchmarks, runs, failures, facts))
    print(f"\nJSON: {arguments.json}")
    return 1 if any(failures.values()) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="little work, 1 repetition: tries the machinery, measures little"
    )
    known = (*_NAMES, *_LONG, _PEERS)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of: {' '.join(known)}; or NAME:CASE")
    parser.add_argument("--reps", type=int, help="repetitions of everything (default 5; 1 with --quick)")
    parser.add_argument("--long", action="store_true", help=f"also {', '.join(_LONG)}: many minutes a repetition")
    parser.add_argument(
        "--peers",
        nargs="?",
        const="core",
        choices=("core", "all"),
        help="also log the same scalars with other SDKs, each in a virtual environment that pip fills once; "
        "all = also mlflow, aim, neptune-scale and swanlab",
    )
    parser.add_argument("--peer-envs", type=Path, default=default_folder(), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--json", type=Path, default=_HERE / "results" / "latest.json", metavar="FILE", help="default: %(default)s"
    )
    arguments = parser.parse_args()
    if arguments.reps is None:
        arguments.reps = 1 if arguments.quick else 5
    if arguments.reps < 1:
        parser.error("--reps must be at least 1")
    chosen = {name.partition(":")[0] for name in arguments.only or ()}
    unknown = chosen - {*known}
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if _PEERS in chosen and arguments.peers is None:
        arguments.peers = "core"
    arguments.peer_envs = arguments.peer_envs.resolve()
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    return arguments


def _benchmarks(arguments: argparse.Namespace) -> list[Benchmark]:
    """Return the chosen benchmarks, with the chosen cases, in the order of the docs."""
    names = [*_NAMES, *_LONG, *([_PEERS] if arguments.peers else [])]
    chosen: dict[str, set[str]] = {}
    everything = arguments.long or arguments.quick
    for item in arguments.only or [name for name in names if everything or name not in _LONG]:
        name, _, case = item.partition(":")
        chosen.setdefault(name, set()).update({case} if case else set())
    result = []
    for name in names:
        if name not in chosen:
            continue
        module = importlib.import_module(name)
        benchmark: Benchmark = module.BENCHMARK
        if name == _PEERS:
            benchmark = module.chosen(arguments.peers, arguments.peer_envs)
        cases = tuple(case for case in benchmark.cases if not chosen[name] or case in chosen[name])
        if not cases:
            raise SystemExit(f"{name} has no case {', '.join(chosen[name])}; it has {', '.join(benchmark.cases)}")
        result.append(Benchmark(**{**vars(benchmark), "cases": cases}))
    return result


def _measure(benchmark: Benchmark, case: str, arguments: argparse.Namespace) -> Metrics | str:
    """Measure one case in a fresh process and folder; return its metrics, or why there are none."""
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{benchmark.name}-"))
    command = [sys.executable, str(_HERE / f"{benchmark.name}.py"), "--case", case]
    if arguments.quick:
        command.append("--quick")
    try:
        with (folder / "stdout").open("w+") as out, (folder / "stderr").open("w+") as err:
            # A session of its own, so that a time-out ends the servers and peers it has started as well.
            process = subprocess.Popen(
                command,
                cwd=_made(folder / "work"),
                env=_environment(folder),
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            try:
                code = process.wait(benchmark.timeout_s)
            except BaseException as error:
                _end_session(process)
                if isinstance(error, subprocess.TimeoutExpired):
                    return f"took longer than {benchmark.timeout_s:g} s"
                raise
            printed = (folder / "stdout").read_text()
            said = (folder / "stderr").read_text(errors="replace").strip().splitlines()
        if code != 0:
            return f"exit code {code}: {said[-1][:300] if said else 'no message'}"
        metrics: Metrics = json.loads(printed)
        return metrics
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    own = {
        "HOME": "home",
        "TMPDIR": "tmp",
        "XDG_CACHE_HOME": "home/cache",
        "XDG_CONFIG_HOME": "home/config",
        "XDG_STATE_HOME": "home/state",
        "XDG_DATA_HOME": "home/data",
        "XDG_RUNTIME_DIR": "home/run",
    }
    for relative in own.values():
        (folder / relative).mkdir(parents=True)
    peers = {"BENCH_PEERS": os.environ["BENCH_PEERS"]}
    return {**kept, **peers, **{name: str(folder / relative) for name, relative in own.items()}}


def _end_session(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _print_facts(facts: dict[str, Any]) -> None:
    about = facts["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    print(f"# Benchmarks, {about['when']}{' (quick: the figures mean little)' if facts['quick'] else ''}\n")
    print(
        f"Machine: {about['processor']}, {about['usable_cores']} of {about['cores']} cores, {about['memory_gib']} GiB."
    )
    print(f"System: {about['system']}; {about['python']}; load average {about['load_average']}.")
    print(f"Versions: {versions}; commit {about['commit']}. Medians of {facts['reps']}, [least..greatest].", flush=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


class _Progress:
    """One line on stderr: how far, what, and how long it takes; rewritten in place on a terminal."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._begin = total, 0, time.monotonic()
        self._width = 0

    def begin(self, what: str) -> None:
        """Say what is measured now."""
        elapsed = time.monotonic() - self._begin
        left = f", about {elapsed / self._done * (self._total - self._done):,.0f} s left" if self._done else ""
        self._done += 1
        self._write(f"[{self._done:>3}/{self._total}] {what} ({elapsed:,.0f} s{left})")

    def note(self, text: str) -> None:
        """Leave a line that stays."""
        self._write(f"  ! {text}", stays=True)

    def end(self) -> None:
        """Finish the line."""
        self._write(f"[{self._done}/{self._total}] done in {time.monotonic() - self._begin:,.0f} s", stays=True)

    def _write(self, text: str, *, stays: bool = False) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\r" + text.ljust(self._width) + ("\n" if stays else ""))
            self._width = 0 if stays else len(text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
