"""Control groups, read from trees on disk that are laid out as the kernel's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from telemetry.collectors.cgroups import CpuUse, MemoryUse, find_limits

V1_NONE = "9223372036854771712\n"
MIB = 1024 * 1024


class Tree:
    """A root folder with /proc/self and the groups that a test puts there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mounts = ["23 1 0:2 / / rw - ext4 /dev/sda rw"]

    def process(self, *memberships: str) -> None:
        self.write("proc/self/cgroup", "".join(f"{line}\n" for line in memberships))
        self.write("proc/self/mountinfo", "".join(f"{line}\n" for line in self.mounts))

    def mount_v2(self, point: str = "/sys/fs/cgroup", top: str = "/") -> None:
        self.mounts.append(f"30 23 0:26 {top} {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate")

    def mount_v1(self, controllers: str, top: str = "/", point: str | None = None) -> None:
        point = point or f"/sys/fs/cgroup/{controllers}"
        self.mounts.append(f"31 23 0:27 {top} {point} rw shared:5 - cgroup cgroup rw,{controllers}")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def group(self, path: str, **files: str) -> None:
        for name, text in files.items():
            controller, _, rest = name.partition("_")
            self.write(f"sys/fs/cgroup/{path}/{controller}.{rest}", text)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_v2_limits_and_use_of_a_container(tree: Tree) -> None:
    # given a container of 1 GiB and 2 CPUs in its own namespace
    tree.mount_v2()
    tree.process("0::/")
    tree.group(
        ".",
        memory_max=f"{1024 * MIB}\n",
        memory_current=f"{300 * MIB}\n",
        memory_stat=f"anon 1\ninactive_file {50 * MIB}\n",
        cpu_max="200000 100000\n",
        cpu_stat="usage_usec 1500000\nuser_usec 1\nnr_periods 40\nnr_throttled 10\nthrottled_usec 7\n",
    )

    limits = find_limits(root=tree.root)

    assert limits is not None
    assert limits.memory() == MemoryUse(1024 * MIB, 300 * MIB, 250 * MIB)
    assert limits.cpu() == CpuUse(2.0, 1.5, 40, 10)


def test_v2_the_tightest_group_above_counts_with_its_own_use(tree: Tree) -> None:
    # given a Slurm step without limits, in a job with a memory limit, below a slice with a quota
    tree.mount_v2()
    tree.process("0::/system.slice/job_7/step_0")
    tree.group("system.slice/job_7/step_0", memory_max="max\n", memory_current="5\n", cpu_max="max 100000\n")
    tree.group("system.slice/job_7", memory_max="1000\n", memory_current="700\n", cpu_max="400000 100000\n")
    tree.group("system.slice", memory_max="2000\n", memory_current="900\n", cpu_max="50000 100000\n")
    tree.group("system.slice", cpu_stat="usage_usec 9000000\n")

    limits = find_limits(root=tree.root)

    assert limits is not None
    assert limits.memory() == MemoryUse(1000, 700, None)
    assert limits.cpu() == CpuUse(0.5, 9.0, None, None)


def test_v2_without_limits_has_nothing_to_say(tree: Tree) -> None:
    tree.mount_v2()
    tree.process("0::/user.slice/session")
    tree.group("user.slice/session", memory_max="max\n", memory_current="5\n", cpu_max="max 100000\n")

    limits = find_limits(root=tree.root)

    assert limits is not None
    assert limits.memory() is None
    assert limits.cpu() is None


def test_v2_limits_that_change_are_seen(tree: Tree) -> None:
    tree.mount_v2()
    tree.process("0::/")
    tree.group(".", memory_max="max\n")
    limits = find_limits(root=tree.root)
    assert limits is not None
    assert limits.memory() is None

    tree.group(".", memory_max="4096\n")

    assert limits.memory() == MemoryUse(4096, None, None)


def test_v1_limits_and_use_of_a_container(tree: Tree) -> None:
    # given Docker without a cgroup namespace: the host's path, mounted as the root of the hierarchy
    for controllers in ("memory", "cpu,cpuacct"):
        tree.mount_v1(controllers, top="/docker/abc")
    tree.process("4:memory:/docker/abc", "3:cpu,cpuacct:/docker/abc", "0::/")
    tree.group(
        "memory",
        memory_limit_in_bytes=f"{512 * MIB}\n",
        memory_usage_in_bytes=f"{100 * MIB}\n",
        memory_stat=f"cache 1\nhierarchical_memory_limit {512 * MIB}\ntotal_inactive_file {30 * MIB}\n",
    )
    tree.group(
        "cpu,cpuacct",
        cpu_cfs_quota_us="150000\n",
        cpu_cfs_period_us="100000\n",
        cpu_stat="nr_periods 8\nnr_throttled 2\nthrottled_time 5\n",
        cpuacct_usage="2500000000\n",
    )

    limits = find_limits(root=tree.root)

    assert limits is not None
    assert limits.memory() == MemoryUse(512 * MIB, 100 * MIB, 70 * MIB)
    assert limits.cpu() == CpuUse(1.5, 2.5, 8, 2)


def test_v1_limit_of_a_group_that_cannot_be_seen_is_known_from_the_hierarchy(tree: Tree) -> None:
    tree.mount_v1("memory")
    tree.process("4:memory:/")
    tree.group("memory", memory_limit_in_bytes=V1_NONE, memory_stat="hierarchical_memory_limit 8192\n")

    limits = find_limits(root=tree.root)

    assert limits is not None
    assert limits.memory() == MemoryUse(8192, None, None)


def test_v1_without_limits_has_nothing_to_say(tree: Tree) -> None:
    tree.mount_v1("memory")
    tree.mount_v1("cpu")
    tree.process("4:memory:/", "5:cpu:/")
    tree.group("memory", memory_limit_in_bytes=V1_NONE, memory_stat=f"hierarchical_memory_limit {V1_NONE}")
    tree.group("cpu", cpu_cfs_quota_us="-1\n", cpu_cfs_period_us="100000\n")

    limits = find_limits(root=tree.root)

    assert limits is not None
    assert limits.memory() is None
    assert limits.cpu() is None


def test_a_mixed_machine_uses_the_version_that_has_the_controller(tree: Tree) -> None:
    # given version 2 beside version 1, which has the controllers, as systemd's hybrid mode mounts them
    tree.mount_v2("/sys/fs/cgroup/unified")
    tree.mount_v1("memory")
    tree.process("4:memory:/job", "0::/job")
    tree.group("memory/job", memory_limit_in_bytes="1000\n", memory_usage_in_bytes="10\n")
    tree.group("unified/job", memory_max="5\n", cpu_max="1 2\n")

    limits = find_limits(root=tree.root)

    assert limits is not None
    assert limits.memory() == MemoryUse(1000, 10, None)
    assert limits.cpu() == CpuUse(0.5, None, None, None)


@pytest.mark.parametrize("path", ["/../../elsewhere", "/not/mounted/here"])
def test_a_path_that_cannot_be_seen_falls_back_to_what_is_mounted(tree: Tree, path: str) -> None:
    tree.mount_v2()
    tree.process(f"0::{path}")
    tree.group(".", memory_max="77\n")

    limits = find_limits(root=tree.root)

    assert limits is not None
    assert limits.memory() == MemoryUse(77, None, None)


def test_a_mount_point_with_a_blank_is_found(tree: Tree) -> None:
    tree.mount_v2("/sys/fs/cgroup/with\\040blank")
    tree.process("0::/")
    tree.group("with blank", memory_max="77\n")

    limits = find_limits(root=tree.root)

    assert limits is not None
    assert limits.memory() == MemoryUse(77, None, None)


def test_no_proc_means_no_limits(tmp_path: Path) -> None:
    assert find_limits(root=tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux")
def test_the_groups_of_this_very_process_can_be_read() -> None:
    limits = find_limits()

    assert limits is not None
    memory, cpu = limits.memory(), limits.cpu()
    assert memory is None or memory.limit_bytes > 0
    assert cpu is None or cpu.limit_cores > 0
