"""The seam between storage and the machine: the `Disk` protocol and blocking file helpers.

A shard owns one Disk, made by storage/backend.py (a `QueuedDisk`) or by a test or
simulator. Everything that a log writes or reads goes through it, always whole aligned blocks.

Invariants:  a write is durable when its `done` is called with its full length (RWF_DSYNC);
             `done` is called from the loop, never inside `write()` or `submit()`;
             a Disk never retries a failed or short write: it says so, and the log fails.
Sources: io_uring(7), pwritev2(2) on RWF_DSYNC, statx(2) on STATX_DIOALIGN, flock(2);
         Rebello et al., USENIX ATC 2020, on why a failed sync must not be retried.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import functools
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from storage.buffers import aligned_buffer
from storage.errors import LockTimeout

T = TypeVar("T")

O_DIRECT = getattr(os, "O_DIRECT", 0)  # not every libc's headers tell it; 0: buffered I/O
ALIGNMENT_MIN = 512
ALIGNMENT_MAX = 65536
READ_ALIGNMENT = 4096  # of read buffers: no known device asks for more of memory
# Metadata calls are rare but at a start and a stop, when each partition syncs: the more of them at
# once, the more share one commit of the file system's journal.
POOL_THREADS = 8

_LOCK_POLL_S = 0.005
_READ_STALLS_MAX = 3  # one is normal where the file grows between the read and the look at its size
FSYNCS_MAX = 16  # one after the other
_STATX_DIOALIGN = 0x2000
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_libc = ctypes.CDLL(None, use_errno=True)


class Disk(Protocol):
    """Durable aligned writes and reads for one shard. Loop thread only."""

    name: str  # "liburing", "ring" or "threads"
    writes: int  # queued ever, likewise the other counters
    write_bytes: int
    reads: int
    read_bytes: int
    submits: int  # system calls that handed work to the kernel (or to the threads)

    @property
    def in_flight(self) -> int:
        """Reads and writes accepted whose result has not been delivered."""
        ...

    def write(self, fd: int, view: memoryview, pos: int, done: Callable[[int], None]) -> None:
        """Queue one durable write of the whole `view` at `pos`; `submit()` starts it.

        A read that starts in between may take it along earlier. Nothing fails here.

        Shapes:  view  bytes whose address and length are aligned, unchanged until done
                 fd    stays open until done
                 pos   aligned byte position in the file
        done(res) is called later from the loop: bytes written, or -errno. A short write is
        res < len(view) and is as final as an error. The disk keeps the memory alive until then.
        Order: writes start in the order queued and may complete in any.
        """
        ...

    def submit(self) -> None:
        """Hand everything queued to the kernel in one system call; called once a tick."""
        ...

    async def read(self, fd: int, pos: int, size: int) -> memoryview:
        """`size` bytes at `pos` (both aligned) as an aligned read-only view.

        Shorter only where the file ends. Raises OSError.
        """
        ...

    async def allocate(self, fd: int, pos: int, size: int) -> None:
        """Reserve `size` bytes of disk at `pos`, extending the file over them. Raises OSError."""
        ...

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        """Call the blocking `fn(*args)` (open, rename, fsync, unlink...) in a small thread pool."""
        ...

    async def close(self) -> None:
        """Wait for all that is in flight, then free everything. The disk cannot be used again."""
        ...


class BlockingPool:
    """The threads, started as they are needed, in which a backend runs blocking metadata calls."""

    __slots__ = ("_executor", "_loop", "_running")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running: dict[object, tuple[float, Callable[..., object]]] = {}  # since when, what
        self._executor: ThreadPoolExecutor | None = None

    async def run(self, fn: Callable[..., T], *args: object) -> T:
        """Result of `fn(*args)`, called in a thread."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="disk-meta")
        call = object()
        self._running[call] = self._loop.time(), fn
        try:
            return await self._loop.run_in_executor(self._executor, fn, *args)
        finally:
            del self._running[call]

    def oldest(self) -> tuple[float, str]:
        """The call that is under way for longest: since when, in the loop's time, and its name;
        (inf, "") where there is none."""
        since_s, fn = min(
            self._running.values(), key=lambda call: call[0], default=(math.inf, None)
        )
        while isinstance(fn, functools.partial):
            fn = fn.func
        return since_s, getattr(fn, "__name__", "").strip("_")

    async def close(self) -> None:
        """Wait for the calls that are running and stop the threads."""
        executor, self._executor = self._executor, None
        if executor is not None:
            # From a thread of its own: shutdown() joins, and the loop must not stand still.
            await self._loop.run_in_executor(None, executor.shutdown)


ReadSome = Callable[[int, memoryview, int], Awaitable[int]]
"""(fd, view, pos) -> bytes read, 0 at the end of the file, or -errno."""


async def read_whole(read_some: ReadSome, fd: int, pos: int, size: int) -> memoryview:
    """Read `size` bytes at `pos` by as many calls as it takes; short only at the file's end.

    The kernel may return less in the middle of a file (a signal, a split request), and Direct
    I/O must go on from an aligned position, so the last partial block is read again.
    """
    _memory, view = aligned_buffer(size, READ_ALIGNMENT)
    filled = stalled = 0
    while filled < size:
        start = filled & -READ_ALIGNMENT
        res = await read_some(fd, view[start:], pos + start)
        if res < 0:
            raise OSError(-res, f"{os.strerror(-res)}, reading {size} bytes at {pos}", fd_path(fd))
        stalled = 0 if start + res > filled else stalled + 1
        filled = max(filled, start + res)
        if filled < size and pos + filled >= os.fstat(fd).st_size:
            break
        if stalled == _READ_STALLS_MAX:
            what = f"reading at {pos + filled} makes no progress before the end of the file"
            raise OSError(errno.EIO, what, fd_path(fd))
    return view[:filled].toreadonly()


def allocate(fd: int, pos: int, size: int) -> None:
    """Reserve disk space; only extend the file where the file system cannot reserve.

    Not os.posix_fallocate: where fallocate is missing libc writes a byte into every block instead,
    which Direct I/O refuses and which would overwrite a concurrent append.
    """
    while _libc.fallocate(fd, 0, ctypes.c_int64(pos), ctypes.c_int64(size)) != 0:
        code = ctypes.get_errno()
        if code == errno.EINTR:
            continue
        if code not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(code, f"{os.strerror(code)}, allocating {size} bytes", fd_path(fd))
        if os.fstat(fd).st_size < pos + size:
            os.ftruncate(fd, pos + size)
        return


def open_segment(
    path: str | os.PathLike[str], *, create: bool = False, direct: bool = True
) -> tuple[int, bool]:
    """Open for reading and writing: (fd, whether I/O on it is direct).

    Where O_DIRECT is unknown or refused (EINVAL: older tmpfs, some overlays) the file is opened
    buffered with O_DSYNC instead, which keeps durability; the caller reports it. `create` makes
    the file if it is missing. Raises OSError.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    if direct and O_DIRECT:
        try:
            return os.open(path, flags | O_DIRECT, 0o644), True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    return os.open(path, flags | os.O_DSYNC, 0o644), False


def alignment(target: str | os.PathLike[str] | int) -> int:
    """The block size for positions and lengths of Direct I/O on a file (path or fd), in bytes.

    The largest of what the file system says about Direct I/O (statx DIOALIGN), the device's
    physical block (a smaller write makes the drive rewrite bytes acknowledged earlier) and
    st_blksize; a power of two in 512..65536, nearly always 4096.
    """
    status = os.stat(target)
    largest = max(_dio_offset_align(target), _physical_block(status.st_dev), status.st_blksize)
    bounded = min(max(largest, ALIGNMENT_MIN), ALIGNMENT_MAX)
    return 1 << (bounded - 1).bit_length()


def _dio_offset_align(target: str | os.PathLike[str] | int) -> int:
    """stx_dio_offset_align, or 0 where the kernel, libc or file system does not tell it."""
    if not hasattr(_libc, "statx"):
        return 0
    buffer = ctypes.create_string_buffer(256)  # struct statx
    if isinstance(target, int):
        args = (target, b"", _AT_EMPTY_PATH)
    else:
        args = (_AT_FDCWD, os.fsencode(target), 0)
    if _libc.statx(*args, _STATX_DIOALIGN, buffer) != 0:
        return 0
    # stx_dio_offset_align is at byte 156, and 0 where Direct I/O is refused or the file system
    # does not know the mask.
    return int.from_bytes(buffer.raw[156:160], sys.byteorder)


def _physical_block(device: int) -> int:
    """The physical block of the device below, or 0 where sysfs does not show one."""
    name = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    for relative in ("queue", "../queue"):  # a partition's queue is its disk's
        try:
            return int(Path(name, relative, "physical_block_size").read_text())
        except (OSError, ValueError):
            continue
    return 0


def lock_exclusive(fd: int, timeout_s: float, on_wait: Callable[[str], None] | None = None) -> None:
    """Take flock(LOCK_EX), waiting at most `timeout_s`; `on_wait(message)` is called once if busy.

    Blocking: call it through `Disk.run` or in a tool. The lock belongs to the open file, so it
    lives as long as any copy of the fd and any write in flight. Raises LockTimeout.
    """
    deadline_s = time.monotonic() + timeout_s
    told = False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        if not told and on_wait is not None:
            on_wait(
                f"{fd_path(fd)} is locked by {lock_owner(fd)}; waiting up to {timeout_s:g} s for "
                "its last writes to finish"
            )
        told = True
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise LockTimeout(
                f"{fd_path(fd)} is still locked by {lock_owner(fd)} after {timeout_s:g} s: only "
                "one broker may write it. Stop that process or use another data directory."
            )
        time.sleep(min(_LOCK_POLL_S, left_s))


def lock_owner(fd: int) -> str:
    """Who holds the flock on this file, as words for a message: "process 123 (rpk-py)"."""
    status = os.fstat(fd)
    # /proc/locks: "1: FLOCK  ADVISORY  WRITE 123 fe:00:5678 0 EOF"; waiters have "->".
    inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if len(words) > 5 and words[1] == "FLOCK" and words[5] == inode and int(words[4]) > 0:
                name = Path(f"/proc/{words[4]}/comm").read_text().strip()
                return f"process {words[4]} ({name})"
    except (OSError, ValueError):
        pass
    return "another process"


def data_end(fd: int, pos: int, size: int) -> int:
    """Where the data of a file of `size` bytes end, from `pos` on: behind it are only holes, or
    space that was allocated and never written, which read as zeros. Raises OSError.

    Source: lseek(2). A file system that does not know answers that all is data.
    """
    end = pos
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return end
        end = os.lseek(fd, start, os.SEEK_HOLE)
    return size


def sync_names(directory: str | os.PathLike[str]) -> None:
    """Make what is in a directory, and the directory itself, findable after a power cut.

    A process that was killed between a rename and the sync of its directory leaves a name that a
    power cut takes away again, with all that is acknowledged under it by then. Raises OSError.
    """
    fsync_dir(directory)
    fsync_dir(Path(directory).parent)


def fsync_all(fds: Sequence[int], direct: bool) -> None:
    """Make these files of one file system durable; many with Direct I/O, of which what was written
    is at the device already, in one go. Raises OSError."""
    if direct and len(fds) > FSYNCS_MAX:
        sync_file_system(fds[0])
        return
    for fd in fds:
        os.fsync(fd)


def sync_file_system(fd: int) -> None:
    """Make all of the file system durable that a file is on.

    syncfs(2) writes what is dirty and commits the metadata of all files. It is followed by an
    fsync(2), which has the device's cache written: XFS leaves that out of a syncfs that finds
    nothing to commit, though direct writes may have left data there. Raises OSError.
    """
    if not hasattr(_libc, "syncfs"):
        os.sync()
    elif _libc.syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{os.strerror(code)}, syncing the file system of {fd_path(fd)}")
    os.fsync(fd)


def fd_path(fd: int) -> str:
    """The path behind an fd, for messages."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"file descriptor {fd}"


def fsync_dir(path: str | os.PathLike[str]) -> None:
    """Make creations, renames and removals in a directory durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file_atomic(path: str | os.PathLike[str], data: bytes | bytearray | memoryview) -> None:
    """Replace a small file: after a crash it holds all the old or all the new bytes, never a mix.

    One writer a path at a time: the temporary file's name is `<path>.tmp`. Raises OSError, and
    leaves no temporary file then, which on a full disk would make it fuller.
    """
    target = Path(path)
    temporary = target.with_name(target.name + ".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        try:
            rest = memoryview(data).cast("B")
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, target)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    fsync_dir(target.parent)
