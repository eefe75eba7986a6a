"""Memory, CPU time and open files of a process, from /proc (proc(5)).

Which process: supervisor, for itself and its shards, so a shard that is stopped or busy is
measured all the same. Blocking, some milliseconds for a process of a gigabyte: the kernel counts
its pages one by one for the proportional memory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """One process now. Proportional: pages that n processes share count 1/n each (PSS)."""

    resident_bytes: int
    proportional_bytes: int
    open_fds: int
    user_s: float
    system_s: float
    started_s: float  # since the epoch


def read_process(pid: int) -> ProcessStats | None:
    """Look at a process of the same user; None if it is gone, or a zombie without memory."""
    directory = _PROC / str(pid)
    try:
        # The command's name, in parentheses, may hold anything; what follows are numbers.
        stat = (directory / "stat").read_text(errors="replace").rpartition(")")[2].split()
        rollup = (directory / "smaps_rollup").read_text()
        open_fds = _open_fds(directory / "fd")
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return ProcessStats(
        resident_bytes=_kib(rollup, "Rss:") * 1024,
        proportional_bytes=_kib(rollup, "Pss:") * 1024,
        open_fds=open_fds,
        user_s=int(stat[11]) / ticks,
        system_s=int(stat[12]) / ticks,
        started_s=_boot_s() + int(stat[19]) / ticks,
    )


def _open_fds(directory: Path) -> int:
    """Linux 6.2 tells the number as the directory's size; before that they have to be listed."""
    return directory.stat().st_size or len(os.listdir(directory))


def _kib(rollup: str, name: str) -> int:
    return int(rollup.partition(f"\n{name}")[2].split(maxsplit=1)[0])


@cache
def _boot_s() -> int:
    for line in (_PROC / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return 0
