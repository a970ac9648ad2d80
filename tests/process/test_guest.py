"""We are guests: the same program with us and without us ends alike, says the same, and leaves the same behind."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from guest_programs import PROGRAMS, Program
from guest_support import record_of, run_guest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_program_is_with_us_what_it_is_without_us(program: Program, tmp_path: Path) -> None:
    for module in program.needs:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    state_dir = tmp_path / "state"

    without = run_guest(program, tmp_path, with_us=False, state_dir=state_dir)
    with_us = run_guest(program, tmp_path, with_us=True, state_dir=state_dir)

    assert (with_us.status, with_us.stdout, with_us.stderr) == (without.status, without.stdout, without.stderr)
    assert with_us.looks == without.looks
    if program.status is not None:
        assert record_of(state_dir)["task"]["status"] == program.status
        assert with_us.said[-1].startswith(f"telemetry: {program.status}. "), "the last line tells the same"
