"""Say anew what the fast part leaves out, from what a run of all tests has measured:

.venv/bin/pytest --junitxml=build/durations.xml -o junit_duration_report=total
.venv/bin/python tests/tools/slow_tests.py build/durations.xml > tests/slow.txt
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

# Seconds, of all tests on two busy cores: what is left then takes less than a minute on idle ones.
MOST_OF_A_CASE = 0.15  # on average
MOST_OF_A_FUNCTION = 3.0  # for all its cases together

HEAD = "# The fast part leaves these out: they take long. Written by tests/tools/slow_tests.py.\n"


def slow(report: Path) -> list[str]:
    """Return functions, `test_queue::test_order`, and files of which every second function is slow, `test_watch`."""
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        file = next(part for part in case.attrib["classname"].split(".") if part.startswith("test_"))
        times[file][case.attrib["name"].partition("[")[0]].append(float(case.attrib["time"]))
    found = []
    for file, functions in times.items():
        names = [
            name
            for name, cases in functions.items()
            if sum(cases) / len(cases) > MOST_OF_A_CASE or sum(cases) > MOST_OF_A_FUNCTION
        ]
        found += [file] if 2 * len(names) >= len(functions) else [f"{file}::{name}" for name in names]
    return sorted(found)


if __name__ == "__main__":
    sys.stdout.write(HEAD + "".join(f"{name}\n" for name in slow(Path(sys.argv[1]))))
