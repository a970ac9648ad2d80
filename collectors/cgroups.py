"""What the container allows and uses: control groups, version 2 and version 1, Linux only.

psutil shows the host. In a container, or a Slurm step, what kills or slows a job are the limits of its control
group or of any group above it: the tightest one counts, and it is that group's use that is compared
with it. Sources: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.

Inside a private cgroup namespace the groups above are invisible; then only what is visible is known. (Version 1's
`hierarchical_memory_limit` tells of them all the same, and is used.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["ControlGroups", "CpuUse", "MemoryUse", "find_limits"]

# "No limit" in version 1 is the largest page-aligned int64; nothing near it is a limit either.
_V1_UNLIMITED_BYTES = 2**60

_OCTAL_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory of the group with the tightest limit, in bytes. `working_set_bytes` leaves out cache that can go."""

    limit_bytes: int
    used_bytes: int | None
    working_set_bytes: int | None


@dataclass(frozen=True, slots=True)
class CpuUse:
    """CPU of the group with the tightest quota; the counters only grow.

    Attributes:
        limit_cores: quota by period.
        used_s: CPU seconds used so far.
        periods: enforcement periods so far in which it ran.
        throttled_periods: of these, the ones in which it was stopped for having used its quota.
    """

    limit_cores: float
    used_s: float | None
    periods: int | None
    throttled_periods: int | None


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    """A process's own group in one mounted hierarchy. `mount` is the highest group that can be seen."""

    version: int
    mount: Path
    group: Path

    def groups(self) -> Iterator[Path]:
        """The own group, then those above it."""
        yield self.group
        for parent in self.group.parents:
            if not parent.is_relative_to(self.mount):
                return
            yield parent


@dataclass(frozen=True, slots=True)
class ControlGroups:
    """The control groups of a process, found once and read often. Safe from any thread."""

    _memory: _Hierarchy | None
    _cpu: _Hierarchy | None
    _cpu_use: _Hierarchy | None

    def memory(self) -> MemoryUse | None:
        """Memory under the tightest limit; None if there is no limit."""
        hierarchy = self._memory
        if hierarchy is None:
            return None
        limit_of = _memory_limit_v2 if hierarchy.version == 2 else _memory_limit_v1
        found = _tightest(hierarchy, limit_of)
        if found is None:
            return None
        limit_bytes, group = found
        v2 = hierarchy.version == 2
        used_bytes = _read_int(group / ("memory.current" if v2 else "memory.usage_in_bytes"))
        inactive_bytes = _read_table(group / "memory.stat").get("inactive_file" if v2 else "total_inactive_file")
        working_set_bytes = None
        if used_bytes is not None and inactive_bytes is not None:
            working_set_bytes = max(0, used_bytes - inactive_bytes)
        return MemoryUse(int(limit_bytes), used_bytes, working_set_bytes)

    def cpu(self) -> CpuUse | None:
        """CPU under the tightest quota; None if there is no quota."""
        hierarchy = self._cpu
        if hierarchy is None:
            return None
        found = _tightest(hierarchy, _cpu_limit_v2 if hierarchy.version == 2 else _cpu_limit_v1)
        if found is None:
            return None
        limit_cores, group = found
        statistics = _read_table(group / "cpu.stat")
        used_s = None
        if hierarchy.version == 2:
            if (usage_us := statistics.get("usage_usec")) is not None:
                used_s = usage_us / 1e6
        elif self._cpu_use is not None:
            # cpuacct may be mounted elsewhere; the group has the same place in it.
            place = group.relative_to(hierarchy.mount)
            if (usage_ns := _read_int(self._cpu_use.mount / place / "cpuacct.usage")) is not None:
                used_s = usage_ns / 1e9
        return CpuUse(limit_cores, used_s, statistics.get("nr_periods"), statistics.get("nr_throttled"))


def find_limits(pid: int | str = "self", *, root: Path = Path("/")) -> ControlGroups | None:
    """Find a process's control groups; None where there are none (not Linux, no /proc).

    Args:
        root: where /proc and the mount points are looked up; tests give a tree of their own.
    """
    try:
        memberships = (root / f"proc/{pid}/cgroup").read_text()
        mounts = (root / f"proc/{pid}/mountinfo").read_text()
    except OSError:
        return None
    paths: dict[str, str] = {}
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    found = {controller: _hierarchy(controller, paths, mounts, root) for controller in ("memory", "cpu", "cpuacct")}
    return ControlGroups(found["memory"], found["cpu"], found["cpuacct"])


def _hierarchy(controller: str, paths: dict[str, str], mounts: str, root: Path) -> _Hierarchy | None:
    """The hierarchy that has a controller: version 1 if it is listed there by name, else version 2."""
    version = 1 if controller in paths else 2
    path = paths.get(controller if version == 1 else "")
    if path is None:
        return None
    for line in mounts.splitlines():
        place, _, source = line.partition(" - ")
        filesystem, _, options = source.split(" ")[:3]
        if version == 2 and filesystem != "cgroup2":
            continue
        if version == 1 and (filesystem != "cgroup" or controller not in options.split(",")):
            continue
        mount_root, mount_point = (_unescape(field) for field in place.split(" ")[3:5])
        mount = root / mount_point.lstrip("/")
        return _Hierarchy(version, mount, _group(mount, mount_root, path))
    return None


def _group(mount: Path, mount_root: str, path: str) -> Path:
    """The folder of a group: its path below what is mounted, as far as that can be seen from here."""
    inside, top = PurePosixPath(path), PurePosixPath(mount_root)
    # A path that begins with /.. lies outside our cgroup namespace.
    if ".." in inside.parts or not inside.is_relative_to(top):
        return mount
    group = mount / inside.relative_to(top)
    while group != mount and not group.is_dir():
        group = group.parent
    return group


def _tightest(hierarchy: _Hierarchy, limit_of: Callable[[Path], float | None]) -> tuple[float, Path] | None:
    """The smallest limit and its group; of equal ones the nearest to the process."""
    found: tuple[float, Path] | None = None
    for group in hierarchy.groups():
        limit = limit_of(group)
        if limit is not None and (found is None or limit < found[0]):
            found = limit, group
    return found


def _memory_limit_v2(group: Path) -> int | None:
    return _read_int(group / "memory.max")


def _memory_limit_v1(group: Path) -> int | None:
    limits = [
        _read_int(group / "memory.limit_in_bytes"),
        _read_table(group / "memory.stat").get("hierarchical_memory_limit"),
    ]
    return min((limit for limit in limits if limit is not None and limit < _V1_UNLIMITED_BYTES), default=None)


def _cpu_limit_v2(group: Path) -> float | None:
    quota_us, _, period_us = (_read(group / "cpu.max") or "max").partition(" ")
    return _cores(quota_us, period_us)


def _cpu_limit_v1(group: Path) -> float | None:
    return _cores(_read(group / "cpu.cfs_quota_us") or "", _read(group / "cpu.cfs_period_us") or "")


def _cores(quota_us: str, period_us: str) -> float | None:
    # "max" in version 2 and -1 in version 1 are not digits.
    if quota_us.isdecimal() and period_us.isdecimal() and int(quota_us) and int(period_us):
        return int(quota_us) / int(period_us)
    return None


def _read(path: Path) -> str | None:
    """A file's text; None where it is missing or may not be read, which is usual: the figure is absent then."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _read_int(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text is not None and text.isdecimal() else None


def _read_table(path: Path) -> dict[str, int]:
    """`name number` lines."""
    table = {}
    for line in (_read(path) or "").splitlines():
        name, _, number = line.partition(" ")
        if number.isdecimal():
            table[name] = int(number)
    return table


def _unescape(field: str) -> str:
    """mountinfo writes blanks and backslashes in octal."""
    return _OCTAL_ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)
