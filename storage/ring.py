"""RingQueue: io_uring without a binding, by system calls and shared memory. One a shard.

What a plain `pip install` gets, where nothing can be compiled. The submission queue entries and
the two rings are memory that the kernel shares with us: entries are packed into it, heads and
tails are words of a memoryview, and io_uring_enter is called through ctypes.

Memory order, since neither ctypes nor memoryview has a barrier:
    submission  the kernel looks at this queue only inside our own io_uring_enter (no SQPOLL),
                on our own thread, where program order holds; so does it write the head.
    completion  another core may append while we look, so the loads of the entries must come after
                the load of the tail. x86 keeps loads in order. Elsewhere a lock is released and
                taken in between: a load cannot sink below a release, none can rise above the next
                acquire, and these two cannot be swapped.
                Our store of the head needs no order: the kernel may reuse an entry only for an
                operation that we submit later, and CQ_ENTRIES leaves room for a late look at it.
Aligned words are loaded and stored whole: a memoryview of format "I" copies four bytes at once.

Invariants:  `_held[slot]` pins the memory until the completion is taken: the kernel has a bare
                 address;
             the words of `_head` and `_tail` are counters that wrap at 2**32, never indexes.
Source: io_uring(7), io_uring_setup(2), io_uring_enter(2); struct layouts of linux/io_uring.h.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
import threading

from storage.queued_disk import SLOTS

# The same numbers on every architecture that Python runs on, but for Alpha.
_SYS_SETUP = 425
_SYS_ENTER = 426

_SETUP_SUBMIT_ALL = 1 << 7  # one bad entry does not hold back those behind it (Linux 5.18)
_SETUP_COOP_TASKRUN = 1 << 8  # no interrupt to say "complete": the loop makes system calls anyway
SETUP_FLAGS = (_SETUP_SUBMIT_ALL | _SETUP_COOP_TASKRUN, 0)  # the newest that a kernel takes
_FEAT_SINGLE_MMAP = 1 << 0
# No completion is dropped, an entry may be reused after the submit, and (Linux 5.6) OP_READ and
# OP_WRITE are there.
_FEATURES_NEEDED = 1 << 1 | 1 << 2 | 1 << 3

_OFFSET_SQ_RING = 0
_OFFSET_CQ_RING = 0x8000000
_OFFSET_SQES = 0x10000000
_OP_READ = 22
_OP_WRITE = 23
RWF_DSYNC = 2

# struct io_uring_params: eight of its own words, two reserved, then the offsets of the queues:
# (head, tail, ring_mask, ring_entries, flags, dropped, array, reserved, 8 bytes) for submission,
# (head, tail, ring_mask, ring_entries, overflow, cqes, flags, reserved, 8 bytes) for completion.
_PARAMS = struct.Struct("@10I8IQ8IQ")
# struct io_uring_sqe: opcode, fd, position, address, length, rw_flags, user_data; the rest is zero.
_SQE_BYTES = 64
_pack_sqe = struct.Struct("@BxxxiQQIIQ").pack_into
_CQE_WORDS = 4  # user_data (two words, and slots are small), res, flags
_WRAP = 0xFFFFFFFF

_libc = ctypes.CDLL(None, use_errno=True)
_setup = _libc["syscall"]
_setup.argtypes = (ctypes.c_long, ctypes.c_uint, ctypes.c_void_p)
_setup.restype = ctypes.c_long
_enter = _libc["syscall"]  # by item, each look-up is a function of its own
_enter.argtypes = (ctypes.c_long, *(ctypes.c_uint,) * 4, ctypes.c_void_p, ctypes.c_size_t)
_enter.restype = ctypes.c_long

_pin = ctypes.c_char.from_buffer
_address_of = ctypes.addressof


class _PyBuffer(ctypes.Structure):
    _fields_ = (("buf", ctypes.c_void_p), ("rest", ctypes.c_byte * 128))


class RingQueue:
    """IoQueue over a ring of its own. Raises OSError where the kernel gives none."""

    name = "ring"

    __slots__ = (
        "_cq_base",
        "_cq_head",
        "_cq_mask",
        "_cq_tail",
        "_cqes",
        "_fence",
        "_head",
        "_held",
        "_maps",
        "_sq_head",
        "_sq_mask",
        "_sq_tail",
        "_sq_words",
        "_sqes",
        "_tail",
        "_words",
        "fd",
    )

    def __init__(self) -> None:
        self.fd, params = _set_up()
        try:
            self._map(params)
            self.submit()  # nothing yet: a filter that allows only the setup is found out here
        except OSError:
            os.close(self.fd)
            raise
        self._held: list[object] = [None] * (SLOTS + 1)
        is_x86 = platform.machine() in ("x86_64", "i686")
        self._fence = None if is_x86 else threading.Lock()
        if self._fence is not None:
            self._fence.acquire()

    def _map(self, params: tuple[int, ...]) -> None:
        """Map the rings and the entries, and find the words in them."""
        sq_entries, cq_entries, features = params[0], params[1], params[5]
        sq_head, sq_tail, _, _, _, _, sq_array = params[10:17]
        cq_head, cq_tail, _, _, _, cqes = params[19:25]
        sq_bytes = sq_array + 4 * sq_entries
        cq_bytes = cqes + 4 * _CQE_WORDS * cq_entries
        if features & _FEAT_SINGLE_MMAP:
            sq_map = cq_map = self._map_at(_OFFSET_SQ_RING, max(sq_bytes, cq_bytes))
            self._maps = [sq_map]
        else:
            sq_map = self._map_at(_OFFSET_SQ_RING, sq_bytes)
            cq_map = self._map_at(_OFFSET_CQ_RING, cq_bytes)
            self._maps = [sq_map, cq_map]
        self._sqes = self._map_at(_OFFSET_SQES, _SQE_BYTES * sq_entries)
        self._maps.append(self._sqes)
        self._sq_words = memoryview(sq_map).cast("I")
        self._words = memoryview(cq_map).cast("I")
        self._cqes = memoryview(cq_map).cast("i")
        self._sq_head, self._sq_tail, self._sq_mask = sq_head // 4, sq_tail // 4, sq_entries - 1
        self._cq_head, self._cq_tail, self._cq_mask = cq_head // 4, cq_tail // 4, cq_entries - 1
        self._cq_base = cqes // 4
        for index in range(sq_entries):  # entry by entry, in order, for ever
            self._sq_words[sq_array // 4 + index] = index
        self._tail = self._sq_words[self._sq_tail]
        self._head = self._words[self._cq_head]

    def _map_at(self, offset: int, size: int) -> mmap.mmap:
        return mmap.mmap(self.fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=offset)

    def prepare(self, slot: int, is_write: bool, fd: int, view: memoryview, pos: int) -> None:
        """See IoQueue.prepare."""
        if view.readonly:
            held: object = view[:]
            address = _address_of_readonly(view)
        else:
            held = _pin(view)
            address = _address_of(held)
        opcode, flags = (_OP_WRITE, RWF_DSYNC) if is_write else (_OP_READ, 0)
        _pack_sqe(
            self._sqes,
            (self._tail & self._sq_mask) * _SQE_BYTES,
            opcode,
            fd,
            pos,
            address,
            view.nbytes,
            flags,
            slot,
        )
        self._tail = self._tail + 1 & _WRAP
        self._held[slot] = held

    def submit(self) -> int:
        """See IoQueue.submit."""
        words = self._sq_words
        words[self._sq_tail] = self._tail
        count = self._tail - words[self._sq_head] & _WRAP
        taken: int = _enter(_SYS_ENTER, self.fd, count, 0, 0, None, 0)
        if taken < 0:
            raise _os_error()
        return taken

    def completions(self) -> list[tuple[int, int]]:
        """See IoQueue.completions."""
        head, tail = self._head, self._words[self._cq_tail]
        if self._fence is not None:
            self._fence.release()
            self._fence.acquire()
        cqes, base, mask, held = self._cqes, self._cq_base, self._cq_mask, self._held
        finished: list[tuple[int, int]] = []
        while head != tail:
            at = base + (head & mask) * _CQE_WORDS
            slot = cqes[at]
            finished.append((slot, cqes[at + 2]))
            held[slot] = None
            head = head + 1 & _WRAP
        self._words[self._cq_head] = self._head = head
        return finished

    def close(self) -> None:
        """See IoQueue.close."""
        for view in (self._sq_words, self._words, self._cqes):
            view.release()
        for mapping in self._maps:
            mapping.close()
        os.close(self.fd)


def _set_up() -> tuple[int, tuple[int, ...]]:
    """A ring's fd and parameters, with the newest flags that this kernel takes."""
    for flags in SETUP_FLAGS:
        params = ctypes.create_string_buffer(_PARAMS.size)
        struct.pack_into("@I", params, 8, flags)
        fd: int = _setup(_SYS_SETUP, SLOTS, params)
        if fd >= 0:
            values = _PARAMS.unpack(params)
            if values[5] & _FEATURES_NEEDED == _FEATURES_NEEDED:
                return fd, values
            os.close(fd)
            raise OSError(errno.ENOSYS, "this io_uring is too old")
        error = _os_error()
        if error.errno != errno.EINVAL:
            break
    raise error


def _address_of_readonly(view: memoryview) -> int:
    """The address of memory that ctypes will not pin since it must not be written."""
    buffer = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
    address: int = buffer.buf
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    return address


def _os_error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
