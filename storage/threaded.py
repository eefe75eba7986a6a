"""ThreadQueue: pwritev2 and preadv in a few threads, where io_uring cannot be used. One a shard.

As durable as a ring (O_DIRECT and RWF_DSYNC all the same), but a write costs two thread switches.
Loop thread only, save `_work`, which runs in the workers and touches nothing but the two queues,
both safe between threads, and the eventfd that tells the loop of results.

Invariants:  a job holds its memory until its completion has been taken;
             operations may overtake each other: every one names its position, order adds nothing.
Source: pwritev2(2), eventfd(2).
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from queue import SimpleQueue
from typing import NamedTuple

WORKERS = 4  # operations that can wait for the device at once; a disk gains little from more

_RWF_DSYNC = getattr(os, "RWF_DSYNC", 0)  # not every libc's headers tell it; 0: fdatasync


class _Job(NamedTuple):
    slot: int
    is_write: bool
    fd: int
    view: memoryview
    pos: int


class ThreadQueue:
    """IoQueue over threads of its own; they start with the first operation."""

    name = "threads"

    __slots__ = ("_jobs", "_queued", "_results", "_workers", "fd")

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._queued: list[_Job] = []  # not submitted
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._results: deque[tuple[_Job, int]] = deque()
        self._workers: list[threading.Thread] = []

    def prepare(self, slot: int, is_write: bool, fd: int, view: memoryview, pos: int) -> None:
        """See IoQueue.prepare."""
        # A view of our own: the caller may release() its one while a thread uses the memory.
        self._queued.append(_Job(slot, is_write, fd, view[:], pos))

    def submit(self) -> int:
        """See IoQueue.submit."""
        self._start_workers()
        count = len(self._queued)
        for job in self._queued:
            self._jobs.put(job)
        self._queued.clear()
        return count

    def completions(self) -> list[tuple[int, int]]:
        """See IoQueue.completions."""
        try:
            os.eventfd_read(self.fd)  # before the look, so that no result goes unnoticed
        except BlockingIOError:
            pass
        results = self._results
        return [(job.slot, res) for job, res in (results.popleft() for _ in range(len(results)))]

    def close(self) -> None:
        """See IoQueue.close."""
        for _ in self._workers:
            self._jobs.put(None)
        for worker in self._workers:
            worker.join()  # idle, so at once
        os.close(self.fd)

    def _start_workers(self) -> None:
        """All that are missing. Raises OSError if the machine lets there be none at all."""
        while len(self._workers) < WORKERS:
            # Daemons: a loop that stops without close() must not keep the process from ending.
            name = f"disk-{len(self._workers)}"
            worker = threading.Thread(target=self._work, name=name, daemon=True)
            try:
                worker.start()
            except RuntimeError as error:  # no process or memory left: fewer do, and later more
                if not self._workers:
                    raise OSError(errno.EAGAIN, str(error)) from None
                return
            self._workers.append(worker)

    def _work(self) -> None:
        """A worker thread: one job after the other."""
        while (job := self._jobs.get()) is not None:
            try:
                if not job.is_write:
                    res = os.preadv(job.fd, (job.view,), job.pos)
                elif _RWF_DSYNC:
                    res = os.pwritev(job.fd, (job.view,), job.pos, _RWF_DSYNC)
                else:
                    res = os.pwritev(job.fd, (job.view,), job.pos)
                    os.fdatasync(job.fd)
            except OSError as error:
                res = -(error.errno or errno.EIO)
            except (OverflowError, TypeError, ValueError):
                res = -errno.EINVAL  # the caller's bug; a dead worker would be a hang
            self._results.append((job, res))
            del job  # the memory must not wait for this thread's next job
            os.eventfd_write(self.fd, 1)
