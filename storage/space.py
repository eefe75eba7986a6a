"""How much room the disk has, what that means, and the reserve that a full disk leaves.

Three levels, with some distance between the way down and the way up so that none flaps:
LOW (the soft limit): what has had its time goes at once and nothing is kept for reuse; FULL (the
hard limit): producers are refused, and everything else goes on with what is left, the reserve
included. What decides is pure; the other functions block: run them through `Disk.run`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

from storage.disk import allocate

# What the system says where a file may not grow: nothing was written then.
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
RESERVE_SUFFIX: Final = ".reserve"  # in the data directory, one a shard
# Of the file system at most, so that a small one is of use, too.
FULL_SHARE_MAX: Final = 0.05
RESERVE_SHARE_MAX: Final = 0.01
LOW_TO_FULL: Final = 2  # the soft limit is at least so many times the hard one
WAY_UP: Final = 1.25  # times a limit must be free before it counts no more
_ZEROS_BYTES: Final = 1 << 20


class Level(IntEnum):
    """How full the disk is."""

    OK = 0
    LOW = 1
    FULL = 2


class Usage(NamedTuple):
    """Of the file system: bytes that this process may still use, and bytes that there are."""

    free_bytes: int
    total_bytes: int


class Limits(NamedTuple):
    """Free bytes below which the disk is FULL, and below which it is LOW: the larger of a number
    and a share of the file system."""

    full_bytes: int
    low_bytes: int
    low_percent: float

    def full(self, total_bytes: int) -> int:
        """The hard limit on a file system of that size."""
        return min(self.full_bytes, int(total_bytes * FULL_SHARE_MAX))

    def low(self, total_bytes: int) -> int:
        """The soft limit."""
        share = int(total_bytes * self.low_percent / 100)
        return max(self.low_bytes, share, self.full(total_bytes) * LOW_TO_FULL)


def judge(before: Level, usage: Usage, limits: Limits) -> Level:
    """The level now."""
    free_bytes, total_bytes = usage
    full, low = limits.full(total_bytes), limits.low(total_bytes)
    if free_bytes <= full * (WAY_UP if before is Level.FULL else 1):
        return Level.FULL
    return Level.LOW if free_bytes <= low * (WAY_UP if before > Level.OK else 1) else Level.OK


def bytes_until_ok(usage: Usage, limits: Limits) -> int:
    """How much must go before the disk is OK again."""
    return max(int(limits.low(usage.total_bytes) * WAY_UP) + 1 - usage.free_bytes, 0)


def read_usage(directory: Path) -> Usage:
    """What the file system says; without inodes there is no room for files. Blocks. Raises
    OSError."""
    found = os.statvfs(directory)
    total_bytes = found.f_blocks * found.f_frsize
    if found.f_files and not found.f_favail:
        return Usage(0, total_bytes)
    return Usage(found.f_bavail * found.f_frsize, total_bytes)


class Reserve:
    """A file that only takes space, to be given back when there is none. One a shard, of which
    each has its part of `size_bytes`."""

    def __init__(self, path: Path, size_bytes: int, shards: int) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self._shards = shards
        self.held_bytes = 0

    def total_bytes(self, usage: Usage) -> int:
        """What all shards together are to hold on this file system."""
        return min(self._size_bytes, int(usage.total_bytes * RESERVE_SHARE_MAX))

    def without(self, usage: Usage) -> Usage:
        """What is free beside the reserve, whether that is held or was given back: so producers
        cannot have it."""
        return usage if self.held_bytes else self._less(usage)

    def _less(self, usage: Usage) -> Usage:
        free_bytes = max(usage.free_bytes - self.total_bytes(usage), 0)
        return usage._replace(free_bytes=free_bytes)

    def claim(self, usage: Usage) -> None:
        """Take the space, unless it is held. Blocks. Raises OSError, and holds nothing then."""
        size = self.total_bytes(usage) // self._shards
        if self.held_bytes or not size:
            return
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            allocate(fd, 0, size)
            if os.fstat(fd).st_blocks * 512 < size:  # a file system that cannot reserve
                for pos in range(0, size, _ZEROS_BYTES):
                    os.pwrite(fd, bytes(min(_ZEROS_BYTES, size - pos)), pos)
                os.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
            raise
        finally:
            os.close(fd)
        self.held_bytes = size

    def release(self) -> None:
        """Give it back. Blocks. Raises OSError."""
        self._path.unlink(missing_ok=True)
        self.held_bytes = 0


def release_all(directory: Path) -> None:
    """Give back what shards of an earlier life have reserved. Blocks. Raises OSError."""
    for path in directory.glob(f"*{RESERVE_SUFFIX}"):
        path.unlink(missing_ok=True)
