"""ThreadedDisk: the Disk by pwritev2/preadv in a few threads, where io_uring cannot be used.

As durable as the ring (O_DIRECT and RWF_DSYNC all the same), but a write costs two thread switches.
Loop thread only, save `_work`, which runs in the workers and touches nothing of the loop's but
`call_soon_threadsafe` and the two thread-safe queues.

Invariants:  `done` is called from the loop only;
             a job holds its memory until its result has been delivered;
             writes may overtake each other: every one names its position, so order adds nothing.
Source: pwritev2(2).
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

from storage.disk import BlockingPool, allocate, read_whole
from storage.errors import DiskFailed

T = TypeVar("T")
Done = Callable[[int], None]

WORKERS = 4  # writes that can wait for the device at once; a disk gains little from more


class _Job(NamedTuple):
    is_write: bool
    fd: int
    view: memoryview
    pos: int
    done: Done


class ThreadedDisk:
    """Disk over a few threads of its own; they start with the first operation."""

    __slots__ = (
        "_closed",
        "_idle",
        "_in_flight",
        "_jobs",
        "_loop",
        "_pool",
        "_queued",
        "_results",
        "_workers",
        "name",
        "read_bytes",
        "reads",
        "submits",
        "write_bytes",
        "writes",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.name = "threads"
        self.writes = self.write_bytes = self.reads = self.read_bytes = self.submits = 0
        self._loop = loop
        self._pool = BlockingPool(loop)
        self._queued: list[_Job] = []  # written, not submitted
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._results: deque[tuple[_Job, int]] = deque()
        self._workers: list[threading.Thread] = []
        self._in_flight = 0
        self._idle: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Reads and writes accepted whose result has not been delivered."""
        return self._in_flight

    def write(self, fd: int, view: memoryview, pos: int, done: Done) -> None:
        """See Disk.write."""
        if self._closed:
            raise DiskFailed("the disk is closed: nothing can be written any more")
        size_bytes = len(view)
        assert not (pos | size_bytes) & 511, "unaligned write"
        # A view of our own: the caller may release() its one while a thread writes.
        self._queued.append(_Job(True, fd, view[:], pos, done))
        self._in_flight += 1
        self.writes += 1
        self.write_bytes += size_bytes

    def submit(self) -> None:
        """See Disk.submit."""
        if self._queued:
            if not self._workers:
                self._start_workers()
            for job in self._queued:
                self._jobs.put(job)
            self._queued.clear()
            self.submits += 1

    async def read(self, fd: int, pos: int, size: int) -> memoryview:
        """See Disk.read."""
        view = await read_whole(self._read_some, fd, pos, size)
        self.read_bytes += len(view)
        return view

    async def allocate(self, fd: int, pos: int, size: int) -> None:
        """See Disk.allocate."""
        await self._pool.run(allocate, fd, pos, size)

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        """See Disk.run."""
        return await self._pool.run(fn, *args)

    async def close(self) -> None:
        """See Disk.close."""
        await self._pool.close()
        self.submit()
        while self._in_flight:
            if self._idle is None:
                self._idle = self._loop.create_future()
            await asyncio.shield(self._idle)
        if not self._closed:
            self._closed = True
            for _ in self._workers:
                self._jobs.put(None)
            for worker in self._workers:
                worker.join()  # idle, so at once

    def _read_some(self, fd: int, view: memoryview, pos: int) -> asyncio.Future[int]:
        """One read of at most len(view) bytes: bytes read or -errno."""
        if self._closed:
            raise DiskFailed("the disk is closed: nothing can be read any more")
        future: asyncio.Future[int] = self._loop.create_future()

        def done(res: int) -> None:
            if not future.done():  # a cancelled reader; the job kept the memory until now
                future.set_result(res)

        self.reads += 1
        self._in_flight += 1
        self._queued.append(_Job(False, fd, view, pos, done))
        self.submit()
        return future

    def _start_workers(self) -> None:
        # Daemons: a loop that stops without close() must not keep the process from ending.
        self._workers = [
            threading.Thread(target=self._work, name=f"disk-{index}", daemon=True)
            for index in range(WORKERS)
        ]
        for worker in self._workers:
            worker.start()

    def _work(self) -> None:
        """A worker thread: one job after the other."""
        while (job := self._jobs.get()) is not None:
            try:
                if job.is_write:
                    res = os.pwritev(job.fd, (job.view,), job.pos, os.RWF_DSYNC)
                else:
                    res = os.preadv(job.fd, (job.view,), job.pos)
            except OSError as error:
                res = -(error.errno or errno.EIO)
            except (OverflowError, TypeError, ValueError):
                res = -errno.EINVAL  # the caller's bug; a dead worker would be a hang
            self._results.append((job, res))
            del job  # the memory must not wait for this thread's next job
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                return  # the loop was closed without close(): nobody is left to tell

    def _deliver(self) -> None:
        """In the loop, once a result: call back for the oldest one."""
        job, res = self._results.popleft()
        self._in_flight -= 1
        try:
            job.done(res)
        finally:
            if self._idle is not None and not self._in_flight:
                self._idle.set_result(None)
                self._idle = None
