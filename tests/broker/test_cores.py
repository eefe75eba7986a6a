"""Cores: how many may be used, and that two brokers never pin to the same one."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from rpk_py.config import Config
from rpk_py.cores import claim, usable_count

DIR = Path("/data")
V2 = "0::/system.slice/rpk.service"
V1 = "9:name=systemd:/\n4:cpu,cpuacct:/docker/f00\n3:memory:/docker/f00"


@pytest.mark.parametrize(
    ("affinity", "files", "cores"),
    [
        (8, {}, 8),
        (8, {"/proc/self/cgroup": V2}, 8),
        (8, {"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        (8, {"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        (8, {"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (2, {"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "400000 100000\n"}, 2),
        (8, {"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/unified/cpu.max": "300000 100000"}, 3),
    ],
)
def test_the_least_of_affinity_and_quota_counts(
    affinity: int, files: dict[str, str], cores: int
) -> None:
    assert usable_count(affinity, lambda path: files.get(str(path))) == cores


def test_the_quota_of_every_control_group_above_counts() -> None:
    root = PurePosixPath("/sys/fs/cgroup/system.slice")
    files = {
        PurePosixPath("/proc/self/cgroup"): V2,
        root / "rpk.service" / "cpu.max": "700000 100000",
        root / "cpu.max": "300000 100000",
    }
    assert usable_count(8, files.get) == 3


@pytest.mark.parametrize("group", ["", "docker/f00"])
@pytest.mark.parametrize(("quota", "cores"), [("-1\n", 8), ("200000\n", 2), ("10000\n", 1)])
def test_version_1_counts_by_its_quota_and_period(group: str, quota: str, cores: int) -> None:
    # In a container the group's directory is the root of what is mounted.
    directory = PurePosixPath("/sys/fs/cgroup/cpu,cpuacct") / group
    files = {
        PurePosixPath("/proc/self/cgroup"): V1,
        directory / "cpu.cfs_quota_us": quota,
        directory / "cpu.cfs_period_us": "100000\n",
    }
    assert usable_count(8, files.get) == cores


def test_without_injected_readings_it_is_this_machine() -> None:
    assert 1 <= usable_count() <= len(os.sched_getaffinity(0))


def test_two_brokers_never_get_the_same_core(tmp_path: Path) -> None:
    messages: list[str] = []
    config = Config(data_dir=DIR, smp=2)
    first, first_fds = claim(config, messages.append, [0, 1, 2], tmp_path)
    second, second_fds = claim(config, messages.append, [0, 1, 2], tmp_path)
    assert first == [0, 1]
    assert second == [2, None]
    [message] = messages
    assert message == (
        "1 of 2 shards run without a core of their own: there are 3 usable cores, 2 of them"
        " claimed by other brokers (lower --smp, or say --overprovisioned)"
    )
    for fd in first_fds:
        os.close(fd)
    third, third_fds = claim(config, messages.append, [0, 1, 2], tmp_path)
    assert third == [0, 1]
    for fd in second_fds + third_fds:
        os.close(fd)


def test_an_overprovisioned_broker_claims_nothing(tmp_path: Path) -> None:
    config = Config(data_dir=DIR, smp=2, overprovisioned=True)
    assert claim(config, print, [0, 1], tmp_path) == ([None, None], [])
    assert not list(tmp_path.iterdir())
