"""QueuedDisk: the Disk of every backend, over an `IoQueue`. One a shard, loop thread only.

An IoQueue is the small part in which the backends differ: storage/uring.py (io_uring through
liburing), storage/ring.py (io_uring by ourselves) and storage/threaded.py (threads). It has an fd
that the event loop watches, so no thread of its own is needed to wait for results.
Every operation that the queue has owns a slot; what finds none waits in order in `_overflow`.

Invariants:  a slot is free again only when its completion has been taken: no queue ever holds more
                 than SLOTS operations, so none can overflow;
             `done` is called from the loop only, after every slot of the batch is free again.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from storage.disk import BlockingPool, allocate, read_whole
from storage.errors import DiskFailed

T = TypeVar("T")
Done = Callable[[int], None]

SLOTS = 256
# While there are writes, reads are cut into pieces, of which one is on its way: a device works in
# order, and a durable write waits for all that it was given before.
READ_PIECE_BYTES = 64 << 10
WRITES_RECENT_S = 0.005  # after the last write was queued, reads go as they come

_SUBMIT_RETRY_S = 0.001
_SUBMIT_RETRIES_MAX = 5000  # 5 s of refusals in a row, then the disk is declared failed


class IoQueue(Protocol):
    """Reads and durable writes on their way, each in a slot from 1 to SLOTS. Never blocks."""

    name: str  # the backend's, as `--io-backend` takes it
    fd: int  # readable while there are completions

    def prepare(self, slot: int, is_write: bool, fd: int, view: memoryview, pos: int) -> None:
        """Queue one operation in a free slot; `submit` starts it.

        The memory of `view` is kept until `completions` has returned the slot, also where the
        caller releases the view. Raises TypeError, ValueError, OverflowError or struct.error for
        an argument that no operation can have; the slot is as free as before then.
        """
        ...

    def submit(self) -> int:
        """Start what is queued; how many were taken, in order. Raises OSError: none, for now."""
        ...

    def completions(self) -> list[tuple[int, int]]:
        """(slot, bytes or -errno) of everything finished; these slots may be used again."""
        ...

    def close(self) -> None:
        """Free everything. Nothing is on its way any more."""
        ...


class QueuedDisk:
    """Disk over the queue that it is given, and which it closes."""

    __slots__ = (
        "_closed",
        "_dones",
        "_failed",
        "_free",
        "_idle",
        "_interrupted",
        "_loop",
        "_overflow",
        "_pool",
        "_prepared",
        "_queue",
        "_reads_held",
        "_reads_open",
        "_reads_started",
        "_retries",
        "_retry_handle",
        "_since_s",
        "_wrote_s",
        "name",
        "read_bytes",
        "reads",
        "submits",
        "write_bytes",
        "writes",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, queue: IoQueue) -> None:
        self.name = queue.name
        self.writes = self.write_bytes = self.reads = self.read_bytes = self.submits = 0
        self._loop = loop
        self._queue = queue
        self._pool = BlockingPool(loop)
        self._dones: list[Done | None] = [None] * (SLOTS + 1)  # by slot; slot 0 stays unused
        self._since_s = [0.0] * (SLOTS + 1)  # by slot: less than 0 for a read
        self._free = list(range(SLOTS, 0, -1))
        self._overflow: deque[tuple[bool, int, memoryview, int, Done]] = deque()
        self._prepared = 0  # operations in the queue that are not taken yet
        self._interrupted = 0  # deliveries cut short by a callback that raised; they go on soon
        self._retries = 0  # submits in a row of which nothing was taken
        self._retry_handle: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None
        self._closed = self._failed = False
        self._wrote_s = -WRITES_RECENT_S
        self._reads_held: deque[tuple[int, memoryview, int, Done]] = deque()
        self._reads_started = self._reads_open = 0
        loop.add_reader(queue.fd, self._reap)

    @property
    def in_flight(self) -> int:
        """Reads and writes accepted whose result has not been delivered."""
        if self._failed or self._closed:
            return self._interrupted
        waiting = len(self._overflow) + len(self._reads_held)
        between = self._reads_open - self._reads_started - len(self._reads_held)  # two pieces
        return SLOTS - len(self._free) + waiting + self._interrupted + max(between, 0)

    def slowest(self) -> tuple[float, str]:
        """The operation that is under way for longest: for how many seconds, and what it is."""
        since_s, what = self._pool.oldest()
        for done, slot_s in zip(self._dones, self._since_s, strict=True):
            if done is not None and abs(slot_s) < since_s:
                since_s, what = abs(slot_s), "write" if slot_s > 0 else "read"
        return max(self._loop.time() - since_s, 0.0), what

    def write(self, fd: int, view: memoryview, pos: int, done: Done) -> None:
        """See Disk.write."""
        size_bytes = len(view)
        assert not (pos | size_bytes) & 511, "unaligned write"
        self.writes += 1
        self.write_bytes += size_bytes
        self._wrote_s = self._loop.time()
        if self._overflow or not self._free:
            self._wait_for_slot(True, fd, view, pos, done)
        else:
            self._prepare(True, fd, view, pos, done)

    def submit(self) -> None:
        """See Disk.submit."""
        if self._prepared and self._retry_handle is None:
            self._enter()

    async def read(self, fd: int, pos: int, size: int) -> memoryview:
        """See Disk.read."""
        self._reads_open += 1
        try:
            view = await read_whole(self._read_some, fd, pos, size)
        finally:
            self._reads_open -= 1
            self._wake_idle()
        self.read_bytes += len(view)
        return view

    async def allocate(self, fd: int, pos: int, size: int) -> None:
        """See Disk.allocate. In the pool: a ring would also hand it to a kernel thread."""
        await self._pool.run(allocate, fd, pos, size)

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        """See Disk.run."""
        return await self._pool.run(fn, *args)

    async def close(self) -> None:
        """See Disk.close."""
        await self._pool.close()
        self.submit()
        while self.in_flight:
            if self._idle is None:
                self._idle = self._loop.create_future()
            await asyncio.shield(self._idle)
        if not self._closed:
            self._closed = True
            self._free = []  # sends any later use down the slow path, which refuses it
            if not self._failed:
                self._loop.remove_reader(self._queue.fd)
                self._queue.close()

    def _read_some(self, fd: int, view: memoryview, pos: int) -> asyncio.Future[int]:
        """One read of at most len(view) bytes: bytes read or -errno."""
        future: asyncio.Future[int] = self._loop.create_future()

        def done(res: int) -> None:
            self._reads_started -= 1
            if not future.done():  # a cancelled reader; the slot kept its memory until now
                future.set_result(res)
            if self._reads_held:
                self._start_reads()

        self.reads += 1
        self._reads_held.append((fd, view, pos, done))
        self._start_reads()
        return future

    def _start_reads(self) -> None:
        """Start all reads; while there are writes a piece of one at a time, in turns."""
        held = self._reads_held
        calm = self._loop.time() - self._wrote_s > WRITES_RECENT_S
        while held and (calm or not self._reads_started):
            fd, view, pos, done = held.popleft()
            if not calm:
                view = view[:READ_PIECE_BYTES]
            if self._overflow or not self._free:
                self._wait_for_slot(False, fd, view, pos, done)
            else:
                self._prepare(False, fd, view, pos, done)
            self._reads_started += 1
        self.submit()  # also where it waits: all slots may be taken by writes that are not started

    def _prepare(self, is_write: bool, fd: int, view: memoryview, pos: int, done: Done) -> None:
        """Put one operation into the queue. The caller has seen a free slot."""
        slot = self._free[-1]
        self._queue.prepare(slot, is_write, fd, view, pos)
        # Only now, so that an argument that the queue refuses costs no slot.
        self._free.pop()
        self._dones[slot] = done
        self._since_s[slot] = self._wrote_s if is_write else -self._loop.time()
        self._prepared += 1

    def _wait_for_slot(
        self, is_write: bool, fd: int, view: memoryview, pos: int, done: Done
    ) -> None:
        """Every slot is taken: wait in order; as completions free slots it goes on."""
        if self._closed:
            raise DiskFailed("the disk is closed: nothing can be read or written any more")
        if self._failed:
            self._loop.call_soon(done, -errno.EIO)
            return
        # A view of our own: the caller may release() its one.
        self._overflow.append((is_write, fd, view[:], pos, done))

    def _enter(self) -> None:
        """Start everything prepared, in one call; never blocks."""
        try:
            taken = self._queue.submit()
        except OSError:
            # EAGAIN (no memory for requests now), EBUSY or EINTR: it may work in a moment. Anything
            # else is not told apart, since the errno of liburing cannot be trusted: it gets as far.
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
        """The queue's fd is readable: take every completion, refill the queue, then call back."""
        dones, free = self._dones, self._free
        finished: list[tuple[Done, int]] = []
        for slot, res in self._queue.completions():
            done = dones[slot]
            if done is not None:
                finished.append((done, res))
                dones[slot] = None
                free.append(slot)
        while self._overflow and free:
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
        self._wake_idle()

    def _wake_idle(self) -> None:
        if self._idle is not None and not self.in_flight:
            self._idle.set_result(None)
            self._idle = None

    def _deliver_rest(self, finished: Iterator[tuple[Done, int]]) -> None:
        self._interrupted -= 1
        self._deliver(finished)

    def _give_up(self) -> None:
        """The kernel takes nothing any more: fail everything, here and from now on.

        What the kernel has already may still be carried out, so the queue stays open, holding its
        memory, and the loop goes on watching it; late completions find no callback.
        """
        self._failed = True
        self._free = []
        dones = [done for done in self._dones if done is not None]
        dones += [waiting[-1] for waiting in self._overflow]
        dones += [held[-1] for held in self._reads_held]
        self._reads_started += len(self._reads_held)
        self._reads_held.clear()
        self._dones = [None] * (SLOTS + 1)
        self._overflow.clear()
        self._prepared = 0
        self._deliver(iter([(done, -errno.EIO) for done in dones]))
