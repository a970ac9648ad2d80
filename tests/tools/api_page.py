"""Write docs/api.md, the public names, from `__all__` of the public modules:

.venv/bin/python tests/tools/api_page.py
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
from pathlib import Path
from typing import Any

import telemetry

PAGE = Path(__file__).parents[2] / "docs" / "api.md"

# What is not named here is internal, whatever it is called.
PUBLIC = (
    "telemetry",
    "telemetry.errors",
    "telemetry.events",
    "telemetry.settings",
    "telemetry.protocols",
    "telemetry.ledger",
    "telemetry.wire",
    "telemetry.pipeline",
    "telemetry.client",
    "telemetry.export",
    "telemetry.disk",
    "telemetry.testing",
    "telemetry.testing.contract",
    "telemetry.collectors.arguments",
    "telemetry.collectors.console",
    "telemetry.collectors.matplotlib",
    "telemetry.collectors.models",
    "telemetry.collectors.resources",
    "telemetry.collectors.scalars",
    "telemetry.collectors.script",
    "telemetry.collectors.tensorboard",
    "telemetry.sinks.http",
    "telemetry.sinks.local_zip",
    "telemetry.sinks.stdout",
)

HEAD = """# API

<!-- Written by tests/tools/api_page.py from __all__ of the public modules; a test compares. -->

What is public, and what may change. Public are the names on this page, imported from the module under which they stand;
the calls of `Task`, `Logger` and the models as [the SDK's pages](sdk/README.md) have them; the [settings](settings.md);
the commands and their exit codes; [frames](wire.md), session folders and zips; and the routes that [a page](server.md)
names. Everything else may change in any version: a module that is not here, a name that begins with an underscore.

Until 1.0 a public name may change in a minor version (0.1 to 0.2), and the [changelog](../CHANGELOG.md) says so, with
what to write instead; patches (0.1.0 to 0.1.1) only mend. From 1.0 on that takes a major version, and a
`DeprecationWarning` in a minor one before it. What has been written stays readable: frames, sessions, zips and stores
of one version are read by all later ones.
"""


def page() -> str:
    """Return the text of docs/api.md as it should be now."""
    return "\n".join([HEAD, *(section(name) for name in PUBLIC)])


def section(name: str) -> str:
    module = importlib.import_module(name)
    in_facade = [] if name == "telemetry" else sorted({*module.__all__} & {*telemetry.__all__})
    lines = [f"## {name}", "", first_line(module), ""]
    if in_facade:
        lines += [f"From `telemetry` as well: {', '.join(f'`{attribute}`' for attribute in in_facade)}.", ""]
    lines += [entry(attribute, getattr(module, attribute)) for attribute in sorted({*module.__all__} - {*in_facade})]
    return "\n".join(lines).rstrip() + "\n"


def entry(name: str, value: Any) -> str:
    """Return a line for one name: how it is called, what it is for, and what it has."""
    if name == "__version__":
        return "- `__version__`: of the installed package"
    if inspect.isclass(value):
        members = f" Has {', '.join(f'`{member}`' for member in found)}." if (found := members_of(value)) else ""
        return f"- `class {name}`: {first_line(value)}{members}"
    if inspect.isfunction(value):
        return f"- `{name}({', '.join(parameters_of(value))})`: {first_line(value)}"
    shown = f" = {value!r}" if isinstance(value, (int, float, str)) else ""
    return f"- `{name}{shown}`"


def members_of(cls: type) -> list[str]:
    """Return the public members that are ours, in the order of the alphabet; of an enum its values."""
    if issubclass(cls, enum.Enum):
        return list(cls.__members__)
    ours = [base for base in cls.__mro__ if base.__module__.startswith("telemetry")]
    names = {name for base in ours for name in vars(base) if not name.startswith("_")}
    if dataclasses.is_dataclass(cls):
        names |= {field.name for field in dataclasses.fields(cls) if not field.name.startswith("_")}
    return sorted(names)


def parameters_of(function: Any) -> list[str]:
    found: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not any(name.startswith("*") for name in found):
            found.append("*")
        stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "")
        found.append(stars + parameter.name)
    return found


def first_line(thing: Any) -> str:
    """Return the first paragraph of its own docstring, in one line."""
    text = inspect.cleandoc(thing.__doc__ or "")
    if not text or text.startswith(f"{getattr(thing, '__name__', '')}("):
        return "(no words of its own)"  # a dataclass writes its signature there
    return " ".join(text.partition("\n\n")[0].split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
