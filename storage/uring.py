"""LiburingQueue: io_uring through liburing. One a shard; the only importer of liburing.

Invariants:  a slot's iovec (and through it the memory) is kept until its completion is taken:
                 the binding holds no reference, and the kernel has a bare address;
             slots are numbered from 1: the binding takes a user_data of 0 for "no entry".
Not used, because they mislead: `trap_error` on a completion (raises whatever errno is left over
from another call; so does a failed submit, which is why its errno is not shown), indexing
a completion (walks off the end where the queue wraps), waiting calls (block the loop).
Source: io_uring(7), io_uring_setup(2); docs/adr/0002-liburing-pin-and-uring-extra.md.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

from storage.errors import DiskUnavailable
from storage.queued_disk import SLOTS
from storage.ring import RWF_DSYNC, SETUP_FLAGS

_SCANNER = "dynamic_import"


@contextlib.contextmanager
def _unscanned() -> Iterator[None]:
    """While liburing is imported: let its package be a plain one, from which we name the modules.

    At each import the package lists its names by looking into all its modules, and writes them to
    site-packages, to a cache that it then fails to read: 15 ms of each process, where the modules
    that we use take 5, and writers that do not know of each other.
    """
    before = sys.modules.get(_SCANNER)
    idle: Any = types.ModuleType(_SCANNER)
    idle.importer = lambda **_: None
    sys.modules[_SCANNER] = idle
    try:
        yield
    finally:
        del sys.modules[_SCANNER]
        if before is not None:
            sys.modules[_SCANNER] = before


with _unscanned():
    from liburing.common import iovec
    from liburing.file import io_uring_prep_readv2, io_uring_prep_writev2
    from liburing.helper import io_uring_put_sqe
    from liburing.queue import (
        io_uring,
        io_uring_cq_advance,
        io_uring_cq_ready,
        io_uring_cqe,
        io_uring_peek_batch_cqe,
        io_uring_queue_exit,
        io_uring_queue_init,
        io_uring_sqe,
        io_uring_submit,
    )


class LiburingQueue:
    """IoQueue over one io_uring. Raises DiskUnavailable if the kernel refuses to set one up."""

    name = "liburing"

    __slots__ = ("_cqe", "_iovecs", "_ring", "_sqes", "fd")

    def __init__(self) -> None:
        self._ring = _new_ring()
        self.fd: int = self._ring.ring_fd
        self._cqe = io_uring_cqe()
        # By slot; slot 0 stays unused. The entries are our own, copied into the ring when queued.
        self._sqes: list[Any] = [io_uring_sqe() for _ in range(SLOTS + 1)]
        self._iovecs: list[Any] = [None] * (SLOTS + 1)
        for slot in range(1, SLOTS + 1):
            self._sqes[slot].user_data = slot

    def prepare(self, slot: int, is_write: bool, fd: int, view: memoryview, pos: int) -> None:
        """See IoQueue.prepare."""
        sqe = self._sqes[slot]
        buffers = iovec(view[:])
        if is_write:
            io_uring_prep_writev2(sqe, fd, buffers, 1, pos, RWF_DSYNC)
        else:
            io_uring_prep_readv2(sqe, fd, buffers, pos, 0)
        io_uring_put_sqe(self._ring, sqe)
        self._iovecs[slot] = buffers

    def submit(self) -> int:
        """See IoQueue.submit."""
        taken: int = io_uring_submit(self._ring)
        return taken

    def completions(self) -> list[tuple[int, int]]:
        """See IoQueue.completions."""
        ring, cqe, iovecs = self._ring, self._cqe, self._iovecs
        finished: list[tuple[int, int]] = []
        for _ in range(io_uring_cq_ready(ring)):
            io_uring_peek_batch_cqe(ring, cqe, 1)
            slot = cqe.user_data
            finished.append((slot, cqe.res))
            iovecs[slot] = None
            io_uring_cq_advance(ring, 1)
        return finished

    def close(self) -> None:
        """See IoQueue.close."""
        io_uring_queue_exit(self._ring)


def _new_ring() -> Any:
    """A ring of SLOTS entries, with the newest flags that this kernel takes."""
    for flags in SETUP_FLAGS:
        ring = io_uring()
        try:
            io_uring_queue_init(SLOTS, ring, flags)
        except OSError:
            continue
        return ring
    raise DiskUnavailable("the kernel refused to set up an io_uring for liburing")
