"""Work that takes long and that nobody waits for: how fast it may go, and who does it.

A shard's loop hands it to a `Background`: a thread of the disk, or a process of its own, whose
interpreter is not the shard's. The work is a function of a module, which blocks, is given one job,
and tells its `Pace` what it reads and writes. Any process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from threading import Event
from typing import Protocol, TypeVar

from storage.disk import Disk
from storage.errors import Stopped

J = TypeVar("J")
T = TypeVar("T")


class Pace:
    """How fast work may read and write, and whether it goes on.

    bytes_per_s  read and written together; 0: as fast as it can
    """

    def __init__(self, bytes_per_s: float = 0.0) -> None:
        self.stop = Event()
        self._bytes_per_s = bytes_per_s
        self._begun_s = time.monotonic()
        self._bytes = 0

    def __call__(self, size_bytes: int) -> None:
        """Note so many bytes of input or output. Waits. Raises Stopped."""
        self._bytes += size_bytes
        ahead_s = 0.0
        if self._bytes_per_s > 0:
            ahead_s = self._begun_s + self._bytes / self._bytes_per_s - time.monotonic()
        if self.stop.wait(ahead_s) if ahead_s > 0 else self.stop.is_set():
            raise Stopped("work in the background was stopped")


class Background(Protocol):
    """Who does such work, one piece at a time."""

    async def run(self, work: Callable[[J, Pace], T], job: J) -> T:
        """Result of `work(job, pace)`. Raises what that raises, or Stopped.

        Where it is cancelled it returns when the work has ended.
        """
        ...


class InThread:
    """A Background in one of the Disk's threads."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    async def run(self, work: Callable[[J, Pace], T], job: J) -> T:
        """See Background."""
        pace = Pace()
        running = asyncio.ensure_future(self._disk.run(work, job, pace))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            pace.stop.set()
            await asyncio.wait((running,))
            running.exception()  # nobody else asks for it
            raise
