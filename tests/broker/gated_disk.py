"""A real disk whose answers a test holds back or falsifies.

Fault model: every write reaches the real file; its answer is given at once, or held
back until the test releases it (`hold`), or replaced by an error for files of chosen names
(`broken`). Reads likewise can be held back or fail. Metadata calls are real.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import TypeVar

from storage.disk import Disk, fd_path

T = TypeVar("T")


class GatedDisk:
    """A real disk whose answers the test holds back or falsifies; see the fault model."""

    def __init__(self, inner: Disk) -> None:
        self.inner = inner
        self.name = inner.name
        self.hold = False
        self.held: list[tuple[Callable[[int], None], int]] = []
        self.broken = ""  # files whose path has this in it cannot be written any more
        self.unreadable = ""
        self.reads_wait: asyncio.Event | None = None
        self.reads_waiting = 0
        self.writes = self.write_bytes = self.reads = self.read_bytes = self.submits = 0

    @property
    def in_flight(self) -> int:
        return self.inner.in_flight + len(self.held)

    def write(self, fd: int, view: memoryview, pos: int, done: Callable[[int], None]) -> None:
        self.writes += 1
        is_broken = bool(self.broken) and self.broken in fd_path(fd)

        def answer(res: int) -> None:
            if is_broken:
                res = -errno.EIO
            if self.hold:
                self.held.append((done, res))
            else:
                done(res)

        self.inner.write(fd, view, pos, answer)

    def release(self, count: int | None = None) -> None:
        """Give the oldest `count` answers that were held back (all, and hold no more)."""
        if count is None:
            self.hold = False
            count = len(self.held)
        given, self.held = self.held[:count], self.held[count:]
        for done, res in given:
            done(res)

    def submit(self) -> None:
        self.inner.submit()

    async def read(self, fd: int, pos: int, size: int) -> memoryview:
        self.reads += 1
        if self.unreadable and self.unreadable in fd_path(fd):
            raise OSError(errno.EIO, "as the test asked")
        if self.reads_wait is not None:
            self.reads_waiting += 1
            try:
                await self.reads_wait.wait()
            finally:
                self.reads_waiting -= 1
        return await self.inner.read(fd, pos, size)

    async def allocate(self, fd: int, pos: int, size: int) -> None:
        await self.inner.allocate(fd, pos, size)

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        return await self.inner.run(fn, *args)

    async def close(self) -> None:
        self.release()
        await self.inner.close()
