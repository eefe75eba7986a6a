"""ThreadQueue: pwritev2 and preadv in a few threads, where io_uring cannot be used. One a shard.

As durable as a ring (O_DIRECT and RWF_DSYNC all the same), but a write costs two thread switches.
Loop thread only, save `_work`, which runs in the workers and touches nothing but the two queues,
both safe between threads, and the pipe that tells the loop of results.

Invariants:  a job holds its memory until its completion has been taken;
             operations may overtake each other: every one names its position, order adds nothing.
Source: pwritev2(2), pipe(7).
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from queue import SimpleQueue
from typing import NamedTuple

WORKERS = 4  # operations that can wait for the device at once; a disk gains little from more

_PIPE_BYTES = 65536  # what a pipe holds
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

    __slots__ = ("_bell", "_jobs", "_queued", "_results", "_workers", "fd")

    def __init__(self) -> None:
        # Not an eventfd: some sandboxes have none.
        self.fd, self._bell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
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
            os.read(self.fd, _PIPE_BYTES)  # before the look, so that no result goes unnoticed
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
        os.close(self._bell)

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
                if job.is_write:
                    res = _write_durably(job)
                else:
                    res = os.preadv(job.fd, (job.view,), job.pos)
            except OSError as error:
                res = -(error.errno or errno.EIO)
            except (OverflowError, TypeError, ValueError):
                res = -errno.EINVAL  # the caller's bug; a dead worker would be a hang
            self._results.append((job, res))
            del job  # the memory must not wait for this thread's next job
            try:
                os.write(self._bell, b"\0")
            except BlockingIOError:
                pass  # a full pipe rings as well


def _write_durably(job: _Job) -> int:
    """Bytes written, and on stable storage. Raises OSError."""
    if _RWF_DSYNC:
        try:
            return os.pwritev(job.fd, (job.view,), job.pos, _RWF_DSYNC)
        except OSError as error:
            # A kernel or sandbox that does not know the flag has written nothing.
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP):
                raise
    size_bytes = os.pwrite(job.fd, job.view, job.pos)  # os.pwritev always calls pwritev2
    os.fdatasync(job.fd)
    return size_bytes
