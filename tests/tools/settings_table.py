"""The table in docs/settings.md, made from the code: run this file to write it anew.

python tests/tools/settings_table.py
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from telemetry.settings import Settings, default_state_dir

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
BEGIN, END = "<!-- table: python tests/tools/settings_table.py -->\n", "<!-- end of table -->\n"


def settings_fields() -> list[Field[Any]]:
    return [item for item in fields(Settings) if item.name != "origins"]


def table() -> str:
    rows = ["| setting | environment | default | meaning |", "|---|---|---|---|"]
    rows += [
        f"| `{item.name}` | `{item.metadata['env']}` | {_default(item)} | {item.metadata['doc']} |"
        for item in settings_fields()
    ]
    return "\n".join(rows) + "\n"


def _default(item: Field[Any]) -> str:
    if item.default_factory is default_state_dir:
        return "`~/.local/state/telemetry`"
    assert item.default is not MISSING
    value = item.default
    if isinstance(value, int) and not isinstance(value, bool) and value >= 2**20 and value % 2**20 == 0:
        return f"{value:,} ({value // 2**20} MiB)"
    return "none" if value is None else f"{value:,}" if type(value) is int else f"{value}"


def replaced(page: str) -> str:
    head, _, rest = page.partition(BEGIN)
    return head + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text("utf-8")), encoding="utf-8")
