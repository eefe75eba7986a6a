"""The file of a rewritten segment: read what it replaces, write it, put it in the place of that.

Everything here blocks, and none of it needs a shard: a thread or another process reads the sealed
segments and writes the new one under a temporary name, record by record and past the page cache,
so that neither memory nor the produce path notices. It is whole and synced before `put_in_place`
renames it over the first of the segments that it replaces. That rename is the change: before it
the old segments count, after it the new one, which says in its header for which offsets it stands,
so that recovery knows the others of them as leftovers (open_log.py).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from kafka_protocol.checksum import crc32c
from storage.background import Pace
from storage.buffers import aligned_buffer
from storage.disk import O_DIRECT, READ_ALIGNMENT, fsync_dir, lock_exclusive, open_segment
from storage.errors import CorruptRecord, DiskFailed
from storage.index import SegmentIndex
from storage.recovery import OnRecord, ScanResult, scan_segment
from storage.segment import (
    INDEX_SUFFIX,
    SEGMENT_SUFFIX,
    TEMPORARY_SUFFIX,
    Segment,
    file_name,
)
from storage.wal_format import (
    BLOCK_BYTES_MAX,
    RecordHeader,
    Replaced,
    SegmentHeader,
    decode_segment_header,
    encode_record_header,
    encode_segment_header,
    record_bytes,
    round_up,
)

# Of file systems without hard links: there a replaced file goes with its last reader.
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
DENSE_BYTES = 1 << 20  # one record's usual bound, as of the appender's
REWRITTEN_SUFFIX = ".rewritten" + TEMPORARY_SUFFIX
REPLACED_SUFFIX = ".replaced" + TEMPORARY_SUFFIX


@dataclass(frozen=True, slots=True)
class Source:
    """A sealed segment, which nobody changes while it is read."""

    path: Path
    header: SegmentHeader
    end_pos: int
    next_offset: int
    last_header_crc: int

    @classmethod
    def of(cls, segment: Segment) -> Source:
        """What another thread or process needs to read it."""
        end = segment.write_pos, segment.next_offset, segment.last_header_crc
        return cls(segment.path, segment.header, *end)


@dataclass(frozen=True, slots=True)
class Written:
    """A whole and synced file under its temporary name: its header and its index's entries."""

    path: Path
    header: SegmentHeader
    index: bytes
    batches: int


@dataclass(frozen=True, slots=True)
class DenseJob:
    """Write what adjacent segments hold into one, in as few records as may be.

    header  of the new segment, without `replaced`
    """

    sources: tuple[Source, ...]
    header: SegmentHeader


def write_dense(job: DenseJob, pace: Pace) -> Written:
    """Copy every record's batches, as they are, into records of about DENSE_BYTES.

    Raises: CorruptRecord  the source is damaged
            OSError, Stopped
    """
    with ReplacementWriter(job.sources[0].path.parent, job.header, pace) as writer:

        def on_record(record: RecordHeader, body: memoryview) -> None:
            writer.add(
                body,
                record.last_offset,
                record.max_timestamp,
                record.leader_epoch,
                record.batch_count,
            )

        for source in job.sources:
            read_source(source, on_record, pace)
        return writer.finish(job.sources)


def read_source(source: Source, on_record: OnRecord, pace: Pace) -> None:
    """Give every record of a sealed segment, verified, to `on_record`.

    Raises: CorruptRecord  it is not what it was when it was sealed
            OSError, Stopped
    """
    header, flags = source.header, os.O_RDONLY | os.O_CLOEXEC
    try:
        fd = os.open(source.path, flags | O_DIRECT)
    except OSError:  # where there is no Direct I/O, or the file is gone
        fd = os.open(source.path, flags)
    try:
        start = header.block_bytes, header.base_offset, header.header_crc
        reads = scan_segment(
            header, source.end_pos, *start, SegmentIndex(), on_record, source.end_pos
        )
        _memory, buffer = aligned_buffer(0, READ_ALIGNMENT)
        try:
            pos, size = next(reads)
            while True:
                size = min(size, round_up(max(source.end_pos - pos, 0), BLOCK_BYTES_MAX))
                if len(buffer) < size:
                    _memory, buffer = aligned_buffer(size, READ_ALIGNMENT)
                got = _read(fd, buffer[:size], pos) if size else 0
                pace(got)
                pos, size = reads.send(buffer[:got])
        except StopIteration as stop:
            result: ScanResult = stop.value
    finally:
        os.close(fd)
    if result.damage is not None:
        raise CorruptRecord(f"{source.path}: {result.bad} at position {result.end_pos}")
    ends = result.end_pos, result.next_offset, result.last_header_crc
    if ends != (source.end_pos, source.next_offset, source.last_header_crc):
        raise CorruptRecord(f"{source.path} does not end where it ended when it was sealed")


def _read(fd: int, view: memoryview, pos: int) -> int:
    filled = 0
    while filled < len(view):
        got = os.preadv(fd, [view[filled:]], pos + filled)
        filled += got
        if got == 0 or got % READ_ALIGNMENT:  # the end of the file
            break
    return filled


class ReplacementWriter:
    """Writes a rewritten segment under its temporary name; what is not finished is removed."""

    def __init__(self, directory: Path, header: SegmentHeader, pace: Pace) -> None:
        assert header.replaced is None
        self._path = directory / file_name(header.base_offset, REWRITTEN_SUFFIX)
        self._pace = pace
        block_bytes = header.block_bytes
        _memory, self._first_block = aligned_buffer(block_bytes, block_bytes)
        unknown = Replaced(0, 0, 0, 0, 0, 0)
        crc = encode_segment_header(self._first_block, header._replace(replaced=unknown))
        self._header = header._replace(header_crc=crc)
        self._index = SegmentIndex()
        self._pos = block_bytes
        self._prev_crc = crc
        self._batches = 0
        _memory, self._view = aligned_buffer(block_bytes + DENSE_BYTES, block_bytes)
        self._size = 0  # of the record that is being filled, likewise the following
        self._base_offset = self._next_offset = header.base_offset
        self._max_timestamp = -1
        self._leader_epoch = -1
        self._batch_count = 0
        self._path.unlink(missing_ok=True)  # what an attempt before left
        self._fd, _direct = open_segment(self._path, create=True)

    def __enter__(self) -> ReplacementWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)
        if kind is not None:
            self._path.unlink(missing_ok=True)

    def add(
        self,
        batches: memoryview,
        last_offset: int,
        max_timestamp: int,
        leader_epoch: int,
        batch_count: int,
    ) -> None:
        """Append whole batches of one leader epoch, up to `last_offset`. A record holds batches of
        one epoch, since its header names one."""
        assert last_offset >= self._next_offset
        size = len(batches)
        if self._size and (self._size + size > DENSE_BYTES or leader_epoch != self._leader_epoch):
            self._write_record()
        block_bytes = self._header.block_bytes
        if len(self._view) < record_bytes(size, block_bytes):
            _memory, self._view = aligned_buffer(record_bytes(size, block_bytes), block_bytes)
        start = block_bytes + self._size
        self._view[start : start + size] = batches
        self._size += size
        self._next_offset = last_offset + 1
        self._max_timestamp = max(self._max_timestamp, max_timestamp)
        self._leader_epoch = leader_epoch
        self._batch_count += batch_count

    def finish(self, sources: Sequence[Source]) -> Written:
        """Write the header and make the file durable. `sources`: what it stands for, in order."""
        if self._size:
            self._write_record()
        last = sources[-1]
        assert self._next_offset == last.next_offset
        replaced = Replaced(last.next_offset, self._pos, self._prev_crc, *told_end(last))
        header = self._header._replace(replaced=replaced)
        self._first_block[:] = bytes(header.block_bytes)
        encode_segment_header(self._first_block, header)
        self._write(self._first_block, 0)
        written_ns = os.stat(last.path).st_mtime_ns  # retention goes by it, without timestamps
        os.utime(self._fd, ns=(written_ns, written_ns))
        os.fsync(self._fd)
        return Written(self._path, header, self._index.encode_entries(), self._batches)

    def _write_record(self) -> None:
        header, size = self._header, self._size
        block_bytes, total = header.block_bytes, record_bytes(size, header.block_bytes)
        view, body_end = self._view, block_bytes + size
        view[:block_bytes] = bytes(block_bytes)
        view[body_end:total] = bytes(total - body_end)
        pos = self._pos
        self._prev_crc = encode_record_header(
            view,
            size,
            crc32c(view[block_bytes:body_end]),
            header,
            pos,
            self._prev_crc,
            pos,
            self._base_offset,
            self._next_offset - 1,
            self._max_timestamp,
            self._leader_epoch,
            self._batch_count,
        )
        self._write(view[:total], pos)
        self._index.append(self._base_offset, pos, self._max_timestamp)
        self._pos += total
        self._batches += self._batch_count
        self._base_offset = self._next_offset
        self._size = self._batch_count = 0
        self._max_timestamp = -1

    def _write(self, view: memoryview, pos: int) -> None:
        size = os.pwritev(self._fd, [view], pos)
        if size != len(view):
            raise OSError(f"short write: {size} of {len(view)} bytes reached {self._path}")
        self._pace(size)


def told_end(segment: Source | Segment) -> tuple[int, int, int]:
    """What the segment behind this one was told of it: base offset, end position, the CRC of its
    last header. A rewritten one answers for the last of those that it replaced."""
    replaced = segment.header.replaced
    if replaced is not None:
        return replaced.last_base_offset, replaced.last_end_pos, replaced.last_crc
    end_pos = segment.write_pos if isinstance(segment, Segment) else segment.end_pos
    return segment.header.base_offset, end_pos, segment.last_header_crc


def open_replacement(written: Written, lock_wait_s: float) -> Segment:
    """Open and lock what was written, and look whether it is what it should be.

    It is locked before it has its name: whoever else finds it waits. Raises CorruptRecord,
    LockTimeout, OSError.
    """
    header, path = written.header, written.path
    replaced = header.replaced
    assert replaced is not None
    fd, direct = open_segment(path)
    try:
        lock_exclusive(fd, lock_wait_s)
        _memory, block = aligned_buffer(BLOCK_BYTES_MAX, BLOCK_BYTES_MAX)
        size = os.preadv(fd, [block], 0)
        found = decode_segment_header(block[:size])
        if found != header or os.fstat(fd).st_size != replaced.end_pos:
            raise CorruptRecord(f"{path} is not what was written: {found}")
    except BaseException:
        os.close(fd)
        raise
    name = file_name(header.base_offset, SEGMENT_SUFFIX)
    segment = Segment(path.with_name(name), header, fd, direct)
    segment.index = SegmentIndex.from_entries(written.index)
    segment.write_pos = segment.durable_pos = segment.allocated_bytes = replaced.end_pos
    segment.next_offset = replaced.next_offset
    segment.last_header_crc = replaced.last_header_crc
    segment.sealed = segment.dense = True
    return segment


def put_in_place(directory: Path, temporary: Path, base_offsets: Iterable[int]) -> None:
    """Replace the segments of these base offsets by what is whole and durable in `temporary`.

    The files of the old ones stay, under names that the next start removes: they may be read still,
    and `replaced_path` says where they are. On return the change is durable, and so is that the
    old names are gone: before, the log start must not move into them.
    Raises: OSError     no segment has changed; an index may be gone, which a start would rebuild
            DiskFailed  which of them is there after a crash is unknown; each is whole
    """
    first, *others = base_offsets
    for base_offset in (first, *others):
        kept = replaced_path(directory, base_offset)
        kept.unlink(missing_ok=True)
        try:
            os.link(directory / file_name(base_offset, SEGMENT_SUFFIX), kept)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
    (directory / file_name(first, INDEX_SUFFIX)).unlink(missing_ok=True)  # it is of the old one
    os.rename(temporary, directory / file_name(first, SEGMENT_SUFFIX))
    try:
        fsync_dir(directory)
        for base_offset in others:
            (directory / file_name(base_offset, SEGMENT_SUFFIX)).unlink()
            (directory / file_name(base_offset, INDEX_SUFFIX)).unlink(missing_ok=True)
        if others:
            fsync_dir(directory)
    except OSError as error:
        raise DiskFailed(f"cannot replace segments in {directory}: {error}") from error


def replaced_path(directory: Path, base_offset: int) -> Path:
    """Where the file of a replaced segment is until nobody reads it, if it can have two names."""
    return directory / file_name(base_offset, REPLACED_SUFFIX)
