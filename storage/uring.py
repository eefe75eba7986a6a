"""UringDisk: the Disk over io_uring. One a shard, loop thread only; the only importer of liburing.

The ring's own fd is pollable, so the event loop watches it and no eventfd or thread is needed.
Every operation in flight owns a slot; the slot's number is its user_data. There are as many slots
as submission entries, and half as many as completion entries, so neither queue can overflow;
what finds no slot waits in order in `_overflow`.

Invariants:  a slot's iovec (and through it the memory) is kept until its completion is reaped:
                 the binding holds no reference, and the kernel writes to a bare address;
             slots are numbered from 1: the binding takes 0 for "no entry";
             `done` is called from the loop only, after every slot of the batch is free again.
Not used, because they mislead: `trap_error` on a completion (raises whatever errno is left over
from another call; so does a failed submit, which is why its errno is not shown), indexing
a completion (walks off the end where the queue wraps), waiting calls (block the loop).
Source: io_uring(7), io_uring_setup(2); docs/adr/0002-liburing-pin-and-uring-extra.md.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from liburing import (
    io_uring,
    io_uring_cq_advance,
    io_uring_cq_ready,
    io_uring_cqe,
    io_uring_peek_batch_cqe,
    io_uring_prep_readv2,
    io_uring_prep_writev2,
    io_uring_put_sqe,
    io_uring_queue_exit,
    io_uring_queue_init,
    io_uring_sqe,
    io_uring_submit,
    iovec,
)

from storage.disk import BlockingPool, allocate, read_whole
from storage.errors import DiskFailed, DiskUnavailable

T = TypeVar("T")
Done = Callable[[int], None]

RING_ENTRIES = 256

# The binding's constants cannot be imported.
_SETUP_SUBMIT_ALL = 1 << 7  # one bad entry does not hold back those behind it (Linux 5.18)
_SETUP_COOP_TASKRUN = 1 << 8  # no interrupt to say "complete": the loop makes system calls anyway
_SETUP_FLAGS = (_SETUP_SUBMIT_ALL | _SETUP_COOP_TASKRUN, 0)
_RWF_DSYNC = 2

_SUBMIT_RETRY_S = 0.001
_SUBMIT_RETRIES_MAX = 5000  # 5 s of refusals in a row, then the disk is declared failed


def _new_ring() -> Any:
    """A ring of RING_ENTRIES, with the newest flags that this kernel takes."""
    for flags in _SETUP_FLAGS:
        ring = io_uring()
        try:
            io_uring_queue_init(RING_ENTRIES, ring, flags)
        except OSError:
            continue
        return ring
    raise DiskUnavailable("the kernel refused to set up an io_uring")


class UringDisk:
    """Disk over one io_uring. Raises DiskUnavailable if the kernel refuses to set one up."""

    __slots__ = (
        "_closed",
        "_cqe",
        "_dones",
        "_failed",
        "_free",
        "_idle",
        "_interrupted",
        "_iovecs",
        "_loop",
        "_overflow",
        "_pool",
        "_prepared",
        "_retries",
        "_retry_handle",
        "_ring",
        "_sqes",
        "name",
        "read_bytes",
        "reads",
        "submits",
        "write_bytes",
        "writes",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.name = "liburing"
        self.writes = self.write_bytes = self.reads = self.read_bytes = self.submits = 0
        self._loop = loop
        self._pool = BlockingPool(loop)
        self._ring = _new_ring()
        self._cqe = io_uring_cqe()
        # By slot; slot 0 stays unused. The entries are our own, copied into the ring when queued.
        self._sqes: list[Any] = [io_uring_sqe() for _ in range(RING_ENTRIES + 1)]
        self._iovecs: list[Any] = [None] * (RING_ENTRIES + 1)
        self._dones: list[Done | None] = [None] * (RING_ENTRIES + 1)
        self._free = list(range(RING_ENTRIES, 0, -1))
        for slot in self._free:
            self._sqes[slot].user_data = slot
        self._overflow: deque[tuple[bool, int, Any, int, Done]] = deque()
        self._prepared = 0  # entries in the ring that the kernel has not taken yet
        self._interrupted = 0  # deliveries cut short by a callback that raised; they go on soon
        self._retries = 0  # submits in a row of which the kernel took nothing
        self._retry_handle: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None
        self._closed = self._failed = False
        loop.add_reader(self._ring.ring_fd, self._reap)

    @property
    def in_flight(self) -> int:
        """Reads and writes accepted whose result has not been delivered."""
        if self._failed or self._closed:
            return self._interrupted
        return RING_ENTRIES - len(self._free) + len(self._overflow) + self._interrupted

    def write(self, fd: int, view: memoryview, pos: int, done: Done) -> None:
        """See Disk.write. 0.6 us."""
        # A view of our own: the caller may release() its one while the kernel reads the memory.
        buffers = iovec(view[:])
        size_bytes = len(view)
        assert not (pos | size_bytes) & 511, "unaligned write"
        self.writes += 1
        self.write_bytes += size_bytes
        if self._overflow or not self._free:
            self._wait_for_slot(True, fd, buffers, pos, done)
        else:
            self._prepare(True, fd, buffers, pos, done)

    def submit(self) -> None:
        """See Disk.submit."""
        if self._prepared and self._retry_handle is None:
            self._enter()

    async def read(self, fd: int, pos: int, size: int) -> memoryview:
        """See Disk.read."""
        view = await read_whole(self._read_some, fd, pos, size)
        self.read_bytes += len(view)
        return view

    async def allocate(self, fd: int, pos: int, size: int) -> None:
        """See Disk.allocate. In the pool: the ring would also hand it to a kernel thread."""
        await self._pool.run(allocate, fd, pos, size)

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        """See Disk.run."""
        return await self._pool.run(fn, *args)

    async def close(self) -> None:
        """See Disk.close. Memory of operations in flight stays pinned until they are done."""
        await self._pool.close()
        self.submit()
        while self.in_flight:
            if self._idle is None:
                self._idle = self._loop.create_future()
            await asyncio.shield(self._idle)
        if not self._closed:
            self._closed = True
            self._free = []  # sends any later use down the slow path, which refuses it
            self._loop.remove_reader(self._ring.ring_fd)
            if not self._failed:
                io_uring_queue_exit(self._ring)

    def _read_some(self, fd: int, view: memoryview, pos: int) -> asyncio.Future[int]:
        """One read of at most len(view) bytes; the result is as in a completion."""
        future: asyncio.Future[int] = self._loop.create_future()

        def done(res: int) -> None:
            if not future.done():  # a cancelled reader; the slot kept its memory until now
                future.set_result(res)

        self.reads += 1
        buffers = iovec(view)
        if self._overflow or not self._free:
            self._wait_for_slot(False, fd, buffers, pos, done)
        else:
            self._prepare(False, fd, buffers, pos, done)
            self.submit()
        return future

    def _prepare(self, is_write: bool, fd: int, buffers: Any, pos: int, done: Done) -> None:
        """Put one operation into the ring. The caller has seen a free slot."""
        slot = self._free[-1]
        sqe = self._sqes[slot]
        if is_write:
            io_uring_prep_writev2(sqe, fd, buffers, 1, pos, _RWF_DSYNC)
        else:
            io_uring_prep_readv2(sqe, fd, buffers, pos, 0)
        io_uring_put_sqe(self._ring, sqe)
        # Only now, so that an argument that the binding refuses (TypeError) costs no slot.
        self._free.pop()
        self._iovecs[slot] = buffers
        self._dones[slot] = done
        self._prepared += 1

    def _wait_for_slot(self, is_write: bool, fd: int, buffers: Any, pos: int, done: Done) -> None:
        """Every slot is taken: queue in order, as completions free slots it goes on."""
        if self._closed:
            raise DiskFailed("the disk is closed: nothing can be read or written any more")
        if self._failed:
            self._loop.call_soon(done, -errno.EIO)
            return
        self._overflow.append((is_write, fd, buffers, pos, done))

    def _enter(self) -> None:
        """One io_uring_enter for everything prepared; never blocks."""
        try:
            taken = io_uring_submit(self._ring)
        except OSError:
            # EAGAIN (the kernel is out of memory for requests) or EINTR; which one is not known.
            taken = 0
        self.submits += 1
        self._prepared -= taken
        if not self._prepared:
            self._retries = 0
            return
        self._retries = 0 if taken else self._retries + 1
        if self._retries > _SUBMIT_RETRIES_MAX:
            self._give_up()
        elif self._retry_handle is None:
            self._retry_handle = self._loop.call_later(_SUBMIT_RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retry_handle = None
        if self._prepared:
            self._enter()

    def _reap(self) -> None:
        """The ring's fd is readable: take every completion, refill the ring, then call back."""
        ring, cqe, dones, iovecs = self._ring, self._cqe, self._dones, self._iovecs
        finished: list[tuple[Done, int]] = []
        for _ in range(io_uring_cq_ready(ring)):
            io_uring_peek_batch_cqe(ring, cqe, 1)
            slot = cqe.user_data
            done = dones[slot]
            if done is not None:
                finished.append((done, cqe.res))
                dones[slot] = iovecs[slot] = None
                self._free.append(slot)
            io_uring_cq_advance(ring, 1)
        while self._overflow and self._free:
            self._prepare(*self._overflow.popleft())
        if self._prepared and self._retry_handle is None:
            self._enter()
        self._deliver(iter(finished))

    def _deliver(self, finished: Iterator[tuple[Done, int]]) -> None:
        """Call back; where one raises, the loop reports it and the others still get theirs."""
        try:
            for done, res in finished:
                done(res)
        except BaseException:
            self._interrupted += 1
            self._loop.call_soon(self._deliver_rest, finished)
            raise
        if self._idle is not None and not self.in_flight:
            self._idle.set_result(None)
            self._idle = None

    def _deliver_rest(self, finished: Iterator[tuple[Done, int]]) -> None:
        self._interrupted -= 1
        self._deliver(finished)

    def _give_up(self) -> None:
        """The kernel takes nothing any more: fail everything, here and from now on.

        What the kernel has already may still be carried out, so its memory stays pinned and the
        ring stays open; late completions find no callback.
        """
        self._failed = True
        self._free = []
        dones = [done for done in self._dones if done is not None]
        dones += [waiting[-1] for waiting in self._overflow]
        self._dones = [None] * (RING_ENTRIES + 1)
        self._overflow.clear()
        self._prepared = 0
        self._deliver(iter([(done, -errno.EIO) for done in dones]))


def try_ring() -> None:
    """Set up a ring and free it. In a child process: a bad build of the binding dies here."""
    io_uring_queue_exit(_new_ring())
