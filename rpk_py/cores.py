"""Cores: how many this broker may use, and which ones it may pin its shards to.

Which process: supervisor.  The cores are claimed so that two brokers never share one; it holds
the claims (flock on a file per core) for its whole life, so they end with it, however it ends.
A shard pins itself to the core that was chosen for it.
Source: cgroups(7) and the kernel's cgroup-v2 and sched-bwc documents for the quotas.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from rpk_py.config import Config

_LOCK_DIR = Path("/run/lock")
_CGROUPS = PurePosixPath("/sys/fs/cgroup")


def usable_count(
    affinity: int | None = None, read: Callable[[PurePosixPath], str | None] | None = None
) -> int:
    """Cores that this process may keep busy: what smp=auto means.

    The least of the cores it may run on and the CPU time that its control group and those above
    it may use, in whole cores, at least 1.

    Shapes:  affinity  number of cores it may run on; None asks the kernel
             read      path -> text of a file, None where there is none; None reads files
    """
    read = read or _read
    cores = len(_usable_cores()) if affinity is None else affinity
    return max(1, min([cores, *(int(quota) for quota in _quotas(read))]))


def _quotas(read: Callable[[PurePosixPath], str | None]) -> Iterator[float]:
    """The limits of CPU time that hold for this process, in cores."""
    for line in (read(PurePosixPath("/proc/self/cgroup")) or "").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        relative = PurePosixPath(group.lstrip("/"))
        if hierarchy == "0":  # version 2, alone or beside version 1
            for root in (_CGROUPS, _CGROUPS / "unified"):
                for directory in _upward(root, relative):
                    yield from _quota(*(read(directory / "cpu.max") or "").split())
        elif "cpu" in controllers.split(","):
            for directory in _upward(_CGROUPS / controllers, relative):
                quota, period = (
                    (read(directory / name) or "").strip()
                    for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                )
                yield from _quota(quota, period)


def _upward(root: PurePosixPath, relative: PurePosixPath) -> Iterator[PurePosixPath]:
    """A control group's directory and those above it.  In a container the group's path may be
    the host's and not exist; the root, which does, is the container's own group then."""
    yield root / relative
    for parent in relative.parents:
        yield root / parent


def _quota(quota: str = "", period: str = "") -> Iterator[float]:
    """Microseconds of CPU time per microseconds; "max" and -1 mean no limit."""
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        yield int(quota) / int(period)


def _read(path: PurePosixPath) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None


def claim(
    config: Config,
    on_message: Callable[[str], None],
    usable: Iterable[int] | None = None,
    lock_dir: Path | None = None,
) -> tuple[list[int | None], list[int]]:
    """A core for every shard.

    Shapes:  usable    cores this process may run on; None asks the kernel
             lock_dir  None: /run/lock where it can be written, else the temporary directory
    Returns: (core of each shard, None meaning not pinned; file descriptors to keep open)
    """
    if config.overprovisioned:
        return [None] * config.smp, []
    cores: list[int | None] = []
    fds: list[int] = []
    directory = lock_dir or _usable_lock_dir()
    refusal = _why_not_pinned() if usable is None else None
    if refusal is not None:
        on_message(
            f"shards are not pinned to cores because {refusal}: the kernel may move them, which"
            " costs some of each core's cache; --overprovisioned says that this is meant"
        )
        return [None] * config.smp, []
    candidates = sorted(_usable_cores() if usable is None else usable)
    taken = 0
    for core in candidates:
        if len(cores) == config.smp:
            break
        fd = _claim_core(directory / f"rpk-py-core-{core}.lock")
        if fd is None:
            taken += 1
        else:
            cores.append(core)
            fds.append(fd)
    missing = config.smp - len(cores)
    if missing:
        claimed = f", {taken} of them claimed by other brokers" if taken else ""
        on_message(
            f"{missing} of {config.smp} shards run without a core of their own: there are"
            f" {len(candidates)} usable cores{claimed} (lower --smp, or say --overprovisioned)"
        )
    return cores + [None] * missing, fds


def _usable_cores() -> set[int]:
    """Cores that the kernel lets this process run on; all of them where it does not tell."""
    try:
        return os.sched_getaffinity(0)
    except (AttributeError, OSError):
        return set(range(os.cpu_count() or 1))


def _why_not_pinned() -> str | None:
    """Try what a shard will do; as the middle of a sentence, or None if it may."""
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(0))
    except AttributeError:
        return "this Python has no sched_setaffinity"
    except OSError as error:
        return f"sched_setaffinity is refused here ({error.strerror})"
    return None


def _usable_lock_dir() -> Path:
    writable = os.access(_LOCK_DIR, os.W_OK | os.X_OK)
    return _LOCK_DIR if writable else Path(tempfile.gettempdir())


def _claim_core(path: Path) -> int | None:
    """The descriptor that holds the claim, or None if another broker has it."""
    try:
        # Without O_CREAT first: the kernel refuses O_CREAT on another user's file in a sticky
        # directory (fs.protected_regular), and reading is enough to lock.
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd
