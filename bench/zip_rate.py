"""How fast do scalars become a closed session zip, and is every one of them in it?"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from harness import (
    Benchmark,
    Column,
    DequeLogger,
    Metrics,
    Scale,
    Target,
    Work,
    child_main,
    inline_deque_loop,
    tight_loop,
)
from ours import ledger_of, ledger_sums, open_task
from readback import expected, read_zip_elsewhere


def measure(_case: str, scale: Scale) -> Metrics:
    """Return the rate from the first call to the return of close(), and what another process reads back."""
    work = Work(scale.pick(100_000, 10_000))
    method_s = [tight_loop(DequeLogger().report_scalar, work)]
    inline_s = [inline_deque_loop(work)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "session.zip"
        task = open_task(f"zip:{path}")
        cpu_begin = time.process_time()
        loop_s = tight_loop(task.get_logger().report_scalar, work)
        begin = time.perf_counter()
        task.close()
        close_s = time.perf_counter() - begin
        cpu_s = time.process_time() - cpu_begin
        ledger = ledger_of(task)
        zip_bytes = path.stat().st_size
        found, wanted = read_zip_elsewhere(path), expected(work)
    method_s.append(tight_loop(DequeLogger().report_scalar, work))
    inline_s.append(inline_deque_loop(work))
    rate = work.scalars / (loop_s + close_s)
    return {
        "scalars": work.scalars,
        "rate": rate,
        "loop_s": loop_s,
        "close_s": close_s,
        "cpu_us_per_scalar": cpu_s / work.scalars * 1e6,
        "bytes_per_scalar": zip_bytes / work.scalars,
        "read_back": found["points"],
        "lost": work.scalars - found["points"],
        "checksums_equal": int(found == wanted),
        "deque_rate": work.scalars / (sum(method_s) / 2),
        "inline_rate": work.scalars / (sum(inline_s) / 2),
        "ratio_deque": rate / (work.scalars / (sum(method_s) / 2)),
        "ratio_inline": rate / (work.scalars / (sum(inline_s) / 2)),
        "ledger": ledger,
        "ledger_sums": int(ledger_sums(ledger)),
    }


BENCHMARK = Benchmark(
    name="zip_rate",
    question="How many scalars a second are durable in a closed session zip, and at how many bytes each?",
    topology=(
        "1,000,000 scalars in 10 series, one thread, no pause; the time is from the first call to the "
        "return of close(); another process reads the zip back and compares count and checksum of each "
        "series"
    ),
    unfair=(
        "values are random in [0, 1), so they hardly compress, while iterations and times compress very well; "
        "nothing is computed between calls; the temporary folder may be memory on some machines"
    ),
    cases=("zip",),
    measure=measure,
    columns=(
        Column("rate", "scalars/s", ",.0f"),
        Column("deque_rate", "deque method /s", ",.0f"),
        Column("inline_rate", "inline deque /s", ",.0f"),
        Column("ratio_deque", "of deque", ".2f"),
        Column("ratio_inline", "of inline", ".2f"),
        Column("loop_s", "loop s", ".2f"),
        Column("close_s", "close s", ".2f"),
        Column("cpu_us_per_scalar", "CPU us/scalar", ".2f"),
        Column("bytes_per_scalar", "bytes/scalar", ".2f"),
        Column("lost", "lost", ".0f"),
        Column("checksums_equal", "checksums equal", ".0f"),
    ),
    targets=(
        Target("ratio_deque", ">=", 0.25, "at least a quarter of the rate of the deque loop (append in a method)"),
        Target("ratio_inline", ">=", 0.25, "at least a quarter of the rate of the deque loop (inline append)"),
        Target("bytes_per_scalar", "<=", 12, "at most 12 bytes a scalar"),
        Target("lost", "==", 0, "nothing lost when read back"),
        Target("checksums_equal", "==", 1, "what is read back is what was logged"),
        Target("ledger_sums", "==", 1, "the ledger adds up"),
    ),
)


def main() -> int:
    """Measure one case and print it."""
    return child_main(BENCHMARK)


if __name__ == "__main__":
    sys.exit(main())
