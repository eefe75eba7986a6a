"""Cores: which ones this broker may pin its shards to, claimed so that two brokers never share.

Which process: supervisor; it holds the claims (flock on a file per core) for its whole life, so
they end with it, however it ends.  A shard pins itself to the core that was chosen for it.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from rpk_py.config import Config

_LOCK_DIR = Path("/run/lock")


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
    for core in sorted(os.sched_getaffinity(0) if usable is None else usable):
        if len(cores) == config.smp:
            break
        fd = _claim_core(directory / f"rpk-py-core-{core}.lock")
        if fd is not None:
            cores.append(core)
            fds.append(fd)
    missing = config.smp - len(cores)
    if missing:
        on_message(
            f"{missing} of {config.smp} shards run without a core of their own: other brokers"
            " have claimed the rest (--overprovisioned says this is intended)"
        )
    return cores + [None] * missing, fds


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
