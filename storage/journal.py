"""The shard's journal: one write and one sync for the small records of many partitions.

A sync a partition does not scale: two hundred dirty partitions cost two hundred writes. So when a
tick has more than a few of them with little data each, the committer writes what is new in their
open records into the journal, as one record; when that is durable, so are they. The open records
stay open and go on filling. Each is written to its segment later, once, with all that has come
together: when it is full, when the journal's space is to be used again, at a close. Nobody reads
the journal but the next start, which appends to the logs what their segments do not hold.

Two files take turns. Each is a segment of its own (wal_format.py: topic id zero, a new incarnation
whenever it is begun, numbered records), its records' bodies a list of entries:

    topic id 16s, partition i32, leader epoch i32, base offset i64, next offset i64, bytes u32,
    then the record batches as they are in the segment

Where a partition's record has its largest timestamp, a journal's has the number of the journal
record written before it, in whichever file (-1: none), which had been durable by then. So the
newest record of a file that was left is missed if it is damaged, and not taken for a torn one.

Invariants:  one write of the journal is in flight at a time, so a record stands behind durable ones
             an entry begins where the partition is durable, or continues the entry before it
             a file is begun anew only when segments hold everything that is in it
A failed write is final: its partitions fail, and the journal is used no more. A partition that has
failed keeps the file that it is in, since some of what it acknowledged may be only there.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from struct import Struct
from typing import NamedTuple, Protocol

from kafka_protocol.checksum import crc32c
from storage.buffers import aligned_buffer
from storage.disk import Disk, allocate, fsync_dir, lock_exclusive, open_segment
from storage.errors import CorruptRecord, DiskFailed, StorageError
from storage.index import SegmentIndex
from storage.record_buffer import RecordBuffer
from storage.recovery import scan_segment
from storage.wal_format import (
    SEGMENT_HEADER_BYTES,
    RecordHeader,
    SegmentHeader,
    decode_segment_header,
    encode_record_header,
    encode_segment_header,
    record_bytes,
)

PARTITIONS_MIN = 4  # of a tick: fewer are written directly
SLICE_BYTES_MAX = 16 << 10  # new bytes of one partition: more of them are bulk, which goes directly
FILE_BYTES = 8 << 20
FILE_PARTITIONS_MAX = 2048  # whose open records one file keeps in memory
STORES_A_WRITE = 8  # records that go to segments with each journal write, at least, to free a file
GENERATION_BITS = 32  # of a record's number, below those that count how often a file was begun
SUFFIX = ".journal"
NO_TOPIC = bytes(16)
ADVICE = (
    "restore the file, or go on without what was acknowledged and is only there: 'rpk-py debug "
    "journal DIR' shows it and sets it aside"
)
_ENTRY = Struct(">16siiqqI")


class Entry(NamedTuple):
    """What one journal record holds of one partition; `data` are whole record batches."""

    leader_epoch: int
    base_offset: int
    next_offset: int
    data: memoryview


Entries = dict[tuple[bytes, int], list[Entry]]  # by topic id and partition, in order


class Flushable(Protocol):
    """What is committed: a partition's appender."""

    dirty: bool
    topic_id: bytes
    partition: int
    stored_offset: int  # everything before it is durable in segments
    journal_marks: int  # one bit for each file that it has something in

    def journal_bytes(self) -> int:
        """New bytes that may go through the journal now; 0: none, or it must write directly."""

    def journal_slice(self) -> tuple[RecordBuffer, int]:
        """The open record, whose bytes from there on are now on their way to the journal."""

    def on_journaled(
        self, record: RecordBuffer, end: int, next_offset: int, seconds: float
    ) -> None:
        """`record` up to the byte `end` is durable."""

    def flush(self) -> None:
        """Queue every write to the segment that may start now at the disk."""

    def store(self) -> None:
        """Have everything appended so far written to the segment."""

    def fail(self, error: StorageError) -> None:
        """Stop for good."""


class _File:
    """One of the two. `users`: who has entries in it, and the offset after the last of them.
    `empty`: it was begun, durably, and has no record. Records are numbered; numbers of a file that
    was begun later are higher."""

    header: SegmentHeader

    def __init__(self, path: Path, fd: int, bit: int) -> None:
        self.path = path
        self.fd = fd
        self.bit = bit
        self.empty = False
        self.write_pos = self.next_number = self.last_header_crc = 0
        self.users: dict[Flushable, int] = {}

    def begin(self, block: memoryview, incarnation: int, generation: int) -> None:
        """A new header, into `block`, which is to be written at the file's start."""
        self.next_number = generation << GENERATION_BITS
        facts = len(block), incarnation, NO_TOPIC, 0, self.next_number, -1, 0, 0
        self.header = SegmentHeader(*facts, created_ms=0)
        self.last_header_crc = encode_segment_header(block, self.header)
        self.write_pos = len(block)


class Journal:
    """The write side. One a shard, loop thread only. Made by `open_journal`."""

    def __init__(
        self,
        files: list[_File],
        disk: Disk,
        block_bytes: int,
        clock_s: Callable[[], float],
        observe_write: Callable[[float, int, int], None],
        rng: random.Random,
        report: Callable[[str, str], None],
    ) -> None:
        self._files = files
        self._disk = disk
        self._block_bytes = block_bytes
        self._clock_s = clock_s
        self._observe_write = observe_write
        self._rng = rng
        self.report = report
        self._current = files[0]
        self._generation = max(file.next_number for file in files) >> GENERATION_BITS
        self._last_number = -1
        self._busy = False
        self._failed = False
        self._waiting: list[Flushable] = []  # what got dirty while a write was in flight
        self._leaving: deque[Flushable] = deque()  # who has to leave the other file
        self._leaving_count = 0  # of them when the files changed places
        self.writes = self.write_bytes = 0
        self.resume: Callable[[list[Flushable]], None] = lambda _waiting: None

    @property
    def _other(self) -> _File:
        """The file that is not written now."""
        return self._files[1 - self._files.index(self._current)]

    def take(self, dirty: list[Flushable]) -> list[Flushable]:
        """Write what is new of the dirty appenders, or have it wait for the write in flight.
        Returns those that must write to their segments directly."""
        small: list[Flushable] = []
        rest: list[Flushable] = []
        sizes: list[int] = []
        for appender in dirty:
            size = appender.journal_bytes()
            if 0 < size <= SLICE_BYTES_MAX:
                small.append(appender)
                sizes.append(size)
            else:
                rest.append(appender)
        if len(small) < PARTITIONS_MIN or self._failed:
            return dirty
        if self._busy:
            self._waiting += small
            return rest
        body_bytes = sum(sizes) + _ENTRY.size * len(small)
        if not self._has_room(body_bytes, small):
            return dirty
        self._write(small, sizes, body_bytes)
        return rest

    def _has_room(self, body_bytes: int, appenders: list[Flushable]) -> bool:
        """Whether a record of that size can be written now; goes on to the other file if needed."""
        file, total = self._current, record_bytes(body_bytes, self._block_bytes)
        if self._block_bytes + total > FILE_BYTES or len(appenders) > FILE_PARTITIONS_MAX:
            return False  # in no file
        if file.write_pos + total <= FILE_BYTES and (
            len(file.users) + len(appenders) <= FILE_PARTITIONS_MAX  # as if all were new, no set
            or len(file.users.keys() | appenders) <= FILE_PARTITIONS_MAX
        ):
            return True
        other = self._other
        if not other.empty:  # not all of it is in segments yet: hurry
            self._store(len(self._leaving))
            return False
        self._current = other
        self._leaving.extend(file.users)
        self._leaving_count = len(file.users)
        if not file.users:
            self._begin(file)
        return True

    def _begin(self, file: _File) -> None:
        """Segments hold all of it: begin it anew. It is empty when its new header is durable, which
        is not written together with a record: torn, it would leave that behind the old header."""
        self._generation += 1
        _memory, block = aligned_buffer(self._block_bytes, self._block_bytes)
        file.begin(block, self._rng.getrandbits(64), self._generation)

        def done(res: int) -> None:
            if res == len(block):
                file.empty = True
            else:
                self._fail(file, [], _why(res, len(block)))

        self._disk.write(file.fd, block, 0, done)
        self._disk.submit()

    def _write(self, appenders: list[Flushable], sizes: list[int], body_bytes: int) -> None:
        file, block_bytes = self._current, self._block_bytes
        file.empty = False
        total = record_bytes(body_bytes, block_bytes)
        _memory, view = aligned_buffer(total, block_bytes)
        pos = block_bytes
        slices: list[tuple[Flushable, RecordBuffer, int, int]] = []
        batches = 0
        for appender, size in zip(appenders, sizes, strict=True):
            appender.dirty = False
            record, first = appender.journal_slice()
            _ENTRY.pack_into(
                view, pos, appender.topic_id, appender.partition, record.leader_epoch,
                record.journaled_offset, record.next_offset, size,
            )  # fmt: skip
            pos += _ENTRY.size
            view[pos : pos + size] = record.body[first : first + size]
            pos += size
            batches += len(record.batch_bases) - record.journaled_batches
            record.journaled_end = record.size
            record.journaled_offset = record.next_offset
            record.journaled_batches = len(record.batch_bases)
            file.users[appender] = record.next_offset
            appender.journal_marks |= file.bit
            slices.append((appender, record, record.size, record.next_offset))
        at, number = file.write_pos, file.next_number
        file.last_header_crc = encode_record_header(
            view, body_bytes, crc32c(view[block_bytes:pos]), file.header, at, file.last_header_crc,
            at, number, number, self._last_number, 0, len(slices),
        )  # fmt: skip
        self._last_number = number
        file.next_number += 1
        file.write_pos += total
        self._busy = True
        self.writes += 1
        self.write_bytes += total
        done = partial(self._written, file, slices, total, batches, self._clock_s())
        try:
            self._disk.write(file.fd, view, at, done)
        except Exception as error:  # as a write that fails: nobody may wait for it
            self._busy = False
            self._fail(file, slices, repr(error))

    def _written(
        self,
        file: _File,
        slices: list[tuple[Flushable, RecordBuffer, int, int]],
        total: int,
        batches: int,
        submitted_s: float,
        res: int,
    ) -> None:
        """The completion: `res` bytes are durable, or -errno."""
        self._busy = False
        seconds = self._clock_s() - submitted_s
        if res != total:
            self._fail(file, slices, _why(res, total))
        else:
            self._observe_write(seconds, batches, total)
            for appender, record, end, next_offset in slices:
                try:
                    appender.on_journaled(record, end, next_offset, seconds)
                except Exception as error:  # one partition's trouble must not hold up the others
                    appender.fail(DiskFailed(f"what follows a write failed: {error!r}"))
            # Twice as fast as this file fills, so that the other is free in time.
            share = 2 * self._leaving_count * total // FILE_BYTES
            self._store(max(share, STORES_A_WRITE))
        waiting, self._waiting = self._waiting, []
        self.resume(waiting)

    def _fail(
        self, file: _File, slices: list[tuple[Flushable, RecordBuffer, int, int]], what: str
    ) -> None:
        self._failed = True
        text = f"{what}, writing to the journal {file.path}"
        self.report("the journal failed", f"{text}; every partition is written by itself now")
        for appender, _record, _end, _next_offset in slices:
            appender.fail(DiskFailed(text))

    def _store(self, count: int) -> None:
        """Have the next `count` appenders leave the file that is to be free."""
        leaving, users = self._leaving, self._other.users
        while leaving and count:
            appender = leaving.popleft()
            if appender in users:  # else its record was full meanwhile
                appender.store()
                count -= 1

    def stored(self, appender: Flushable) -> None:
        """Segments hold more of an appender that has marks: it may have left a file."""
        for file in self._files:
            if file.users.get(appender, -1) >= 0 and file.users[appender] <= appender.stored_offset:
                self._leave(file, appender)

    def forget(self, appender: Flushable) -> None:
        """Its partition was deleted: nobody needs what is here of it."""
        for file in self._files:
            if appender in file.users:
                self._leave(file, appender)

    def _leave(self, file: _File, appender: Flushable) -> None:
        del file.users[appender]
        appender.journal_marks &= ~file.bit
        if not file.users and file is not self._current and not self._failed:
            self._begin(file)

    def close(self) -> None:
        """Let go of the files. The partitions are closed and no write is in flight."""
        for file in self._files:
            os.close(file.fd)


def _why(res: int, total: int) -> str:
    return f"short write: {res} of {total} bytes" if res >= 0 else os.strerror(-res)


def open_journal(
    directory: Path,
    disk: Disk,
    block_bytes: int,
    lock_wait_s: float,
    clock_s: Callable[[], float],
    observe_write: Callable[[float, int, int], None],
    rng: random.Random,
    report: Callable[[str, str], None],
) -> Journal:
    """Make or take the two files of `directory`, with their space, and forget what they held.

    Only when segments hold all that `read_journals` has found there. Blocks. Raises OSError,
    LockTimeout.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # In any case: whoever made them may have been killed before it came to this.
    fsync_dir(directory.parent.parent)
    fsync_dir(directory.parent)
    files: list[_File] = []
    _memory, block = aligned_buffer(block_bytes, block_bytes)
    try:
        for i in range(2):
            path = directory / f"{i}{SUFFIX}"
            fd, _direct = open_segment(path, create=not path.exists())
            files.append(file := _File(path, fd, 1 << i))
            lock_exclusive(fd, lock_wait_s, None)
            allocate(fd, 0, FILE_BYTES)
        # Who is killed between the two leaves a new file beside an old one, whose records must not
        # be taken for what follows those of the new one.
        generation = 1 + max(_generation(file, block) for file in files)
        for file in files:
            file.begin(block, rng.getrandbits(64), generation)
            if os.pwrite(file.fd, block, 0) != block_bytes:
                raise OSError(f"short write to {file.path}")
            os.fsync(file.fd)
            file.empty = True
            generation += 1
        fsync_dir(directory)
    except BaseException:
        for file in files:
            os.close(file.fd)
        raise
    return Journal(files, disk, block_bytes, clock_s, observe_write, rng, report)


def _generation(file: _File, block: memoryview) -> int:
    """How often the journal's files had been begun when this one was; -1 where it never was."""
    header = decode_segment_header(block[: os.preadv(file.fd, [block], 0)])
    return -1 if isinstance(header, str) else header.base_offset >> GENERATION_BITS


def read_journals(directories: list[Path], lock_wait_s: float) -> Entries:
    """All entries of these journals, in the order in which they were written. Blocks.

    Waits for writes of killed processes that may still land. Raises CorruptRecord where a record
    that was durable is damaged; LockTimeout, OSError.
    """
    found: Entries = {}
    for directory in directories:
        records: list[_Record] = []
        first_numbers: dict[Path, int] = {}
        for path in sorted(directory.glob(f"*{SUFFIX}")):
            first_numbers[path] = _read_file(path, lock_wait_s, records)
        records.sort(key=lambda one: one.number)
        _check_none_is_missing(records, first_numbers)
        for record in records:
            for key, entry in _entries(record.body):
                found.setdefault(key, []).append(entry)
    return found


class _Record(NamedTuple):
    """`follows`: the number of the record that was written before it, -1 where none was."""

    number: int
    follows: int
    body: memoryview


def _check_none_is_missing(records: list[_Record], first_numbers: dict[Path, int]) -> None:
    """Raises CorruptRecord where a record that had been durable is not among them, although its
    file was not begun anew since."""
    numbers = {record.number for record in records}
    for record in records:
        missing = record.follows
        if missing < 0 or missing in numbers:
            continue
        for path, first_number in first_numbers.items():
            if first_number >> GENERATION_BITS == missing >> GENERATION_BITS:
                raise CorruptRecord(
                    f"{path}: its record {missing - first_number} is damaged, and the other file "
                    f"says that it was durable; {ADVICE}"
                )


def _read_file(path: Path, lock_wait_s: float, records: list[_Record]) -> int:
    """Add the records of one file. Returns the number of its first one, -1 where none was begun."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        lock_exclusive(fd, lock_wait_s, None)
        data = memoryview(os.pread(fd, FILE_BYTES, 0))
    finally:
        os.close(fd)
    if not any(data[:SEGMENT_HEADER_BYTES]):
        return -1  # never begun
    header = decode_segment_header(data)
    if isinstance(header, str) or header.topic_id != NO_TOPIC:
        # Not torn: what a header says lies in one sector, which a device writes whole or not.
        what = header if isinstance(header, str) else "it belongs to a partition"
        raise CorruptRecord(f"{path}: {what}; {ADVICE}")

    def on_record(record: RecordHeader, body: memoryview) -> None:
        records.append(_Record(record.base_offset, record.max_timestamp, body))

    reads = scan_segment(
        header, len(data), header.block_bytes, header.base_offset, header.header_crc,
        SegmentIndex(), on_record,
    )  # fmt: skip
    try:
        pos, size = next(reads)
        while True:
            pos, size = reads.send(data[pos : pos + size])
    except StopIteration as stop:
        if stop.value.damage is not None:
            raise CorruptRecord(
                f"{path}: {stop.value.bad} at position {stop.value.end_pos}, but "
                f"{stop.value.damage}; {ADVICE}"
            ) from None
    return header.base_offset


def _entries(body: memoryview) -> Iterator[tuple[tuple[bytes, int], Entry]]:
    """The entries of a record whose CRC holds."""
    pos = 0
    while pos < len(body):
        topic_id, index, epoch, base_offset, next_offset, size = _ENTRY.unpack_from(body, pos)
        pos += _ENTRY.size
        yield (topic_id, index), Entry(epoch, base_offset, next_offset, body[pos : pos + size])
        pos += size
