"""One `.wal` file: its header, where it ends, its index; and making, opening and sealing it.

The functions here block (they open, lock, sync and rename), so a shard runs them through
`Disk.run`, and offline tools call them directly. A segment that is written is locked
(`flock(LOCK_EX)`) for as long as its descriptor, or a write in flight, keeps it open: a killed
process's writes may land after it was reaped, and recovery waits for the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from storage.buffers import aligned_buffer
from storage.disk import allocate, fsync_dir, lock_exclusive, open_segment
from storage.errors import CorruptRecord, DiskFailed
from storage.index import SegmentIndex
from storage.wal_format import (
    BLOCK_BYTES_MAX,
    SegmentHeader,
    decode_segment_header,
    encode_segment_header,
    round_up,
)

SEGMENT_SUFFIX = ".wal"
INDEX_SUFFIX = ".index"
CHECKPOINT_SUFFIX = ".checkpoint"
TEMPORARY_SUFFIX = ".tmp"
CHECKPOINTS_KEPT = 2
ALLOCATE_BYTES_MIN = 64 * 1024  # an empty partition's disk space
ALLOCATE_BYTES_MAX = 64 << 20


def file_name(offset: int, suffix: str) -> str:
    """`00000000000000000042.wal` and its kin: they sort by offset."""
    return f"{offset:020d}{suffix}"


class Writer(Protocol):
    """Who appends to a segment."""

    @property
    def lets_go(self) -> bool:
        """Nothing is on its way that needs the descriptor."""


class Holder(Protocol):
    """Who keeps count of open segments."""

    def closed(self, segment: Segment) -> None:
        """It is not open any more."""

    def released(self) -> None:
        """A segment may be closed now that could not before."""


class Segment:
    """One segment of a partition.

    Active: `write_pos` is where the next record goes, `durable_pos` where stable storage ends,
    `allocated_bytes` how much of the file has disk space. Sealed: all of these are its end.
    `next_offset` is exclusive; `last_header_crc` is where the chain of headers stands.
    `fd` is -1 while it is closed (segment_files.py); a sealed one has no `index` then, and where
    `loaded` is False, as it was not opened since the start, neither a `header` nor
    `last_header_crc`. It stays open, and the file is not overwritten, while anybody has it pinned.
    `told`: base offset, end position and last header CRC that the header of the next segment has of
    it, if that was looked at.
    `dense`: rewriting it would save little. `replaced`: another segment is in its place; whoever
    reads it still must not share what he reads. `moving`: resolves when it is known
    whether one has taken its place.
    """

    __slots__ = (
        "_max_timestamp",
        "_unpinned",
        "allocated_bytes",
        "base_offset",
        "dense",
        "direct",
        "durable_pos",
        "fd",
        "header",
        "holder",
        "index",
        "keeps",
        "last_header_crc",
        "loaded",
        "moving",
        "next_offset",
        "path",
        "pins",
        "replaced",
        "sealed",
        "told",
        "write_pos",
        "writer",
    )

    def __init__(self, path: Path, header: SegmentHeader, fd: int, direct: bool) -> None:
        self._start(path, header.base_offset)
        self.header = header
        self.loaded = True
        self.fd = fd
        self.direct = direct
        self.index = SegmentIndex()
        self.write_pos = self.durable_pos = header.block_bytes
        self.allocated_bytes = 0
        self.next_offset = header.base_offset
        self.last_header_crc = header.header_crc
        self.dense = header.replaced is not None

    def _start(self, path: Path, base_offset: int) -> None:
        self.path = path
        self.base_offset = base_offset
        self.sealed = self.loaded = False
        self.told: tuple[int, int, int] | None = None
        self.holder: Holder | None = None
        self.writer: Writer | None = None
        self.dense = self.replaced = False
        self.moving: asyncio.Future[None] | None = None
        self.pins = self.keeps = 0
        self._max_timestamp: int | None = None
        self._unpinned: asyncio.Future[None] | None = None

    @classmethod
    def unopened(cls, path: Path, base_offset: int, next_offset: int, size_bytes: int) -> Segment:
        """A sealed segment of which no more is known than names and the file's size."""
        segment = cls.__new__(cls)
        segment._start(path, base_offset)
        segment.sealed = True
        segment.fd = -1
        segment.write_pos = segment.durable_pos = segment.allocated_bytes = size_bytes
        segment.next_offset = next_offset
        return segment

    @property
    def known_max_timestamp(self) -> int | None:
        """The largest timestamp in it, -1 where no record has one; None: it has to be opened."""
        if self.has_index:
            largest = self.index.max_timestamp
            if self.sealed:
                self._max_timestamp = largest
            return largest
        return self._max_timestamp

    @property
    def has_index(self) -> bool:
        """Whether its index is in memory: always while it is open, or not sealed, and still of one
        that was closed when it was sealed."""
        return hasattr(self, "index")

    @property
    def idle(self) -> bool:
        """Whether it may be closed."""
        return not self.pins and (self.writer is None or self.writer.lets_go)

    def close(self) -> None:
        """Close the file, if it is open; the index of a sealed one goes with it."""
        fd, self.fd = self.fd, -1
        if self.sealed and self.has_index:
            self._max_timestamp = self.index.max_timestamp
            del self.index
        if fd >= 0:
            try:
                os.close(fd)
            finally:  # closed it is in any case, see close(2)
                if self.holder is not None:
                    self.holder.closed(self)

    def pin(self) -> None:
        """Keep the file as it is until `unpin`: it is being read or sealed."""
        self.pins += 1

    def unpin(self) -> None:
        """Undo one `pin`."""
        self.pins -= 1
        self._wake()
        if not self.pins and self.holder is not None:
            self.holder.released()

    def keep(self) -> None:
        """The same, but that it may be closed meanwhile: it is read by others through its name."""
        self.keeps += 1

    def let_go(self) -> None:
        """Undo one `keep`."""
        self.keeps -= 1
        self._wake()

    def _wake(self) -> None:
        if not (self.pins or self.keeps) and self._unpinned is not None:
            self._unpinned.set_result(None)
            self._unpinned = None

    async def until_unpinned(self) -> None:
        """Wait until nobody has it pinned, or keeps it."""
        while self.pins or self.keeps:
            if self._unpinned is None:
                self._unpinned = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._unpinned)

    async def close_unpinned(self) -> None:
        """Close it as soon as nobody has it pinned."""
        await self.until_unpinned()
        self.close()

    def next_allocation(self, needed_bytes: int, segment_bytes: int) -> int:
        """How large to make the file so that `needed_bytes` more fit: it doubles, in steps of
        ALLOCATE_BYTES_MIN to ALLOCATE_BYTES_MAX, and stops at `segment_bytes`."""
        end = self.write_pos + needed_bytes
        step = min(max(self.allocated_bytes, ALLOCATE_BYTES_MIN), ALLOCATE_BYTES_MAX)
        return max(end, min(self.allocated_bytes + step, round_up(segment_bytes, BLOCK_BYTES_MAX)))


def create_segment(
    directory: Path,
    header: SegmentHeader,
    allocate_bytes: int,
    recycled: Path | None,
    lock_wait_s: float,
    replace: bool = False,
) -> Segment:
    """Make `<base_offset>.wal` with a durable header, room for `allocate_bytes`, and the lock.

    It is prepared under a temporary name and renamed, so that a segment that exists always has
    its header. `recycled` is a retired segment to overwrite instead of a new file: overwriting
    needs no journal of the file system. `replace`: the file exists and holds no record.
    Raises: OSError     there is no such segment, and what was begun of it is gone
            DiskFailed  there may be one: a directory could not be synced, which is final
            LockTimeout
    """
    path = directory / file_name(header.base_offset, SEGMENT_SUFFIX)
    if path.exists() and not replace:
        raise FileExistsError(f"{path} exists already")
    temporary = path.with_suffix(path.suffix + TEMPORARY_SUFFIX)
    directory.mkdir(exist_ok=True)
    if header.prev_base_offset < 0:  # who made the directory may have been killed before its sync
        _sync_names(directory.parent)
    if recycled is not None:
        os.rename(recycled, temporary)
    else:
        temporary.unlink(missing_ok=True)  # what an attempt before left: somebody may write it
    fd, direct = open_segment(temporary, create=recycled is None)
    try:
        lock_exclusive(fd, lock_wait_s, None)
        allocate_bytes = max(allocate_bytes, os.fstat(fd).st_size)
        allocate(fd, 0, allocate_bytes)
        _memory, block = aligned_buffer(header.block_bytes, header.block_bytes)
        crc = encode_segment_header(block, header)
        if os.pwrite(fd, block, 0) != header.block_bytes:
            raise OSError(f"short write of the header of {temporary}")
        os.fsync(fd)
        os.rename(temporary, path)
        _sync_names(directory)
    except BaseException:
        os.close(fd)
        with contextlib.suppress(OSError):  # its space is wanted, where there was not enough
            temporary.unlink(missing_ok=True)
        raise
    segment = Segment(path, header._replace(header_crc=crc), fd, direct)
    segment.last_header_crc = crc
    segment.allocated_bytes = allocate_bytes
    return segment


def _sync_names(directory: Path) -> None:
    try:
        fsync_dir(directory)
    except OSError as error:
        raise DiskFailed(f"cannot make names durable in {directory}: {error}") from error


def open_existing(
    path: Path,
    lock_wait_s: float,
    on_lock_wait: Callable[[str], None] | None,
    start: memoryview | None = None,
) -> Segment:
    """Open and lock a segment and read its header; where it ends is for recovery to say.

    `start`: an aligned buffer of BLOCK_BYTES_MAX or more for the first bytes of the file.
    Raises CorruptRecord for a bad header, LockTimeout, OSError.
    """
    fd, direct = open_segment(path)
    try:
        lock_exclusive(fd, lock_wait_s, on_lock_wait)
        segment = Segment(path, _read_header(fd, path, start), fd, direct)
        segment.allocated_bytes = os.fstat(fd).st_size
    except BaseException:
        os.close(fd)
        raise
    return segment


def open_again(path: Path, header: SegmentHeader | None, lock_wait_s: float) -> Segment:
    """Open and lock a segment that was closed and has, where that is known, this header.

    Another file is not waited for, which may be another log's by now.
    Raises CorruptRecord for another or a bad header, LockTimeout, OSError.
    """
    fd, direct = open_segment(path)
    try:
        found = _read_header(fd, path)
        if header is not None and found != header:
            raise CorruptRecord(f"{path} is another file than it was")
        lock_exclusive(fd, lock_wait_s, None)
        segment = Segment(path, found, fd, direct)
        segment.allocated_bytes = os.fstat(fd).st_size
    except BaseException:
        os.close(fd)
        raise
    return segment


def _read_header(fd: int, path: Path, start: memoryview | None = None) -> SegmentHeader:
    if start is None:
        _memory, start = aligned_buffer(BLOCK_BYTES_MAX, BLOCK_BYTES_MAX)
    size = os.preadv(fd, [start], 0)
    header = decode_segment_header(start[:size])
    if isinstance(header, str):
        raise CorruptRecord(f"{path}: {header}")
    if path.name != file_name(header.base_offset, SEGMENT_SUFFIX):
        raise CorruptRecord(
            f"{path}: its header says base offset {header.base_offset}: it was renamed"
        )
    return header


def cut(fd: int, end_pos: int) -> None:
    """End a file at `end_pos` and make all of it durable: bytes behind it cannot come back."""
    os.ftruncate(fd, end_pos)
    os.fsync(fd)


def remove_old_checkpoints(directory: Path) -> None:
    """Remove all checkpoints but the newest ones. Raises OSError."""
    names = sorted(name for name in os.listdir(directory) if name.endswith(CHECKPOINT_SUFFIX))
    for name in names[:-CHECKPOINTS_KEPT]:
        (directory / name).unlink(missing_ok=True)
