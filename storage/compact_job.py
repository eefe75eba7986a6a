"""The work of compaction: which records of sealed segments go, and segments without them.

Two kinds of jobs, done in the background one after the other (background.py), both blocking:

- `plan_compaction` reads the segments once, record by record. Of each record it tells the key table
  (key_table.py) its key; what comes out is a file with a bit for each record, whether it goes, and
  a second one for tombstones that must get a delete horizon.
- `write_compacted` writes the replacement of some adjacent segments by that file. A batch all of
  which is kept is copied as it is, one of which nothing is kept is left out, and only the others
  are looked into again.

What goes, and what stays, as in Kafka's Cleaner:
- a record goes if there is a newer one of its key, or if it has no key;
- a tombstone, a record without a value, that is the newest of its key goes, too, once the delete
  horizon of its batch has passed; the first compaction that finds it there sets that (KIP-534);
- control batches stay, and so does what cannot be read: nothing is known of it;
- the last batch of each producer stays, without records if need be, as it says the producer's
  sequence; and so does the last one of a segment, so that its offsets are not lost.
Records keep their offsets and their order; batches keep their base offset and their last one.

`is_aborted` is where transactions come in: data that was aborted goes, and supersedes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kafka_protocol.errors import DecodeError
from kafka_protocol.record_batch import BatchHeader, iter_batches
from kafka_protocol.record_filter import emptied, inflated, iter_keys, with_horizon, without
from storage.background import Pace
from storage.errors import StorageError
from storage.key_table import RECORDS_MAX, Bits, KeyTable
from storage.replacement import ReplacementWriter, Source, Written, read_source
from storage.segment import TEMPORARY_SUFFIX, file_name
from storage.wal_format import RecordHeader, SegmentHeader

INFLATED_BYTES_MAX = 64 << 20  # a batch that inflates to more is kept as it is
LISTED_RECORDS_MAX = 100_000  # of a batch: more of them are walked twice instead
PLAN_SUFFIX = ".plan" + TEMPORARY_SUFFIX
SPILL_SUFFIX = ".keys" + TEMPORARY_SUFFIX


@dataclass(frozen=True, slots=True)
class PlanJob:
    """Look at all of `sources`, which are adjacent, from the log's start.

    last_batches  base offsets of the batches that are the last of their producers
    now_ms        the time by which delete horizons have passed or not
    buffer_bytes  for the key table
    """

    sources: tuple[Source, ...]
    last_batches: frozenset[int]
    now_ms: int
    buffer_bytes: int


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """What a segment holds and what of it goes.

    first_number  of its first record
    changes       records that go or get a horizon, and batches without records that go: without
                  any the segment may stay as it is
    left_bytes    about how many bytes of batches are left
    """

    first_number: int
    records: int
    dropped: int
    changes: int
    left_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The outcome of a PlanJob. `path`: the file of bits; `unreadable`: base offsets of batches
    that cannot be looked into, whose records have no numbers."""

    path: Path
    records: int
    sources: tuple[SourcePlan, ...]
    unreadable: frozenset[int]
    spilled_bytes: int


@dataclass(frozen=True, slots=True)
class CompactJob:
    """Write one segment in the place of `sources`.

    numbers            of the first record and behind the last one of them
    delete_horizon_ms  what tombstones get that have none
    """

    sources: tuple[Source, ...]
    header: SegmentHeader
    plan_path: Path
    plan_records: int
    numbers: tuple[int, int]
    unreadable: frozenset[int]
    last_batches: frozenset[int]
    delete_horizon_ms: int


def is_aborted(_header: BatchHeader) -> bool:
    """Whether a batch belongs to a transaction that was aborted; there are none yet."""
    return False


def plan_compaction(job: PlanJob, pace: Pace) -> Plan:
    """Find out what goes. The file of the plan is the caller's to remove.

    Raises: CorruptRecord, OSError, Stopped, StorageError
    """
    first = job.sources[0]
    spill = first.path.parent / file_name(first.header.base_offset, SPILL_SUFFIX)
    fd = os.open(spill, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.unlink(spill)  # it goes with its descriptor
        return _Planner(job, pace, KeyTable(job.buffer_bytes, fd)).plan()
    finally:
        os.close(fd)


class _Planner:
    """Reads segments and numbers their records."""

    def __init__(self, job: PlanJob, pace: Pace, table: KeyTable) -> None:
        self._job = job
        self._pace = pace
        self._table = table
        self._goes = Bits()
        self._wants_horizon = Bits()
        self._number = 0
        self._unreadable: set[int] = set()
        self._removable = 0  # batches without records of the segment that is read
        self._last_removable = False
        self._body_bytes = 0

    def plan(self) -> Plan:
        first_numbers, empties, sizes = [], [], []
        for source in self._job.sources:
            first_numbers.append(self._number)
            self._removable, self._last_removable, self._body_bytes = 0, False, 0
            read_source(source, self._on_record, self._pace)
            empties.append(self._removable - self._last_removable)  # the last one stays
            sizes.append(self._body_bytes)
        self._table.mark_superseded(self._goes)
        first_numbers.append(self._number)
        sources = []
        for i in range(len(self._job.sources)):
            start, end = first_numbers[i], first_numbers[i + 1]
            dropped = self._goes.slice(start, end - start).bit_count()
            wanted = self._wants_horizon.slice(start, end - start)
            wanted &= ~self._goes.slice(start, end - start)
            changes = dropped + wanted.bit_count() + empties[i]
            left_bytes = sizes[i] * (end - start - dropped) // max(end - start, 1)
            sources.append(SourcePlan(start, end - start, dropped, changes, left_bytes))
        unreadable = frozenset(self._unreadable)
        return Plan(
            self._save(), self._number, tuple(sources), unreadable, self._table.spilled_bytes
        )

    def _save(self) -> Path:
        first = self._job.sources[0]
        path = first.path.parent / file_name(first.header.base_offset, PLAN_SUFFIX)
        size = (self._number + 7) >> 3
        with path.open("wb") as file:  # not synced: a start removes it
            for bits in (self._goes, self._wants_horizon):
                file.write(bits.data[:size].ljust(size, b"\0"))
        return path

    def _on_record(self, _record: RecordHeader, body: memoryview) -> None:
        self._body_bytes += len(body)
        for pos, header in _batches(body):
            self._last_removable = False
            if header.is_control:
                continue
            if not header.record_count:
                self._last_removable = header.base_offset not in self._job.last_batches
                self._removable += self._last_removable
                continue
            self._note(header, body[pos : pos + header.size_bytes])

    def _note(self, header: BatchHeader, batch: memoryview) -> None:
        if self._number + header.record_count > RECORDS_MAX:
            raise StorageError(f"more than {RECORDS_MAX} records cannot be compacted together")
        gone = is_aborted(header)
        horizon = header.delete_horizon_ms
        expired = horizon is not None and horizon <= self._job.now_ms
        note, goes, number = self._table.note, self._goes, self._number
        try:
            for key, has_value in _keys_of(header, batch):
                if gone or key is None:
                    goes.set(number)
                else:
                    note(key, number)
                    if not has_value:
                        if expired:
                            goes.set(number)
                        elif horizon is None:
                            self._wants_horizon.set(number)
                number += 1
        except DecodeError:  # before its first record
            self._unreadable.add(header.base_offset)
        self._number = number


def _keys_of(header: BatchHeader, batch: memoryview) -> Iterator[tuple[bytes | None, bool]]:
    """The records' keys, of a batch whose records are all there; else DecodeError before the
    first."""
    data, count = inflated(batch, header, INFLATED_BYTES_MAX), header.record_count
    if not 0 < count <= len(data):
        raise DecodeError(f"{count} records in {len(data)} bytes")
    if count <= LISTED_RECORDS_MAX:
        return iter(list(iter_keys(data, count)))
    for _ in iter_keys(data, count):
        pass
    return iter_keys(data, count)


def _batches(body: memoryview) -> Iterator[tuple[int, BatchHeader]]:
    try:
        yield from iter_batches(body, 0, len(body))
    except DecodeError as error:
        raise StorageError(f"a record holds no record batches: {error}") from error


def write_compacted(job: CompactJob, pace: Pace) -> Written:
    """Write what is left of the sources.

    Raises: CorruptRecord, OSError, Stopped, StorageError
    """
    with ReplacementWriter(job.sources[0].path.parent, job.header, pace) as writer:
        filtering = _Filter(job, writer)
        for source in job.sources:
            read_source(source, filtering.on_record, pace)
        filtering.finish()
        return writer.finish(job.sources)


@dataclass(slots=True)
class _Run:
    """Batches that are kept and lie side by side: they are copied together."""

    start: int = 0
    end: int = 0
    last_offset: int = -1
    max_timestamp: int = -1
    count: int = 0


class _Filter:
    """Gives a writer what is left of records."""

    def __init__(self, job: CompactJob, writer: ReplacementWriter) -> None:
        self._job = job
        self._writer = writer
        first, end = job.numbers
        self._number = first
        self._base = first & ~7  # of the bits that are in memory
        size, count = (job.plan_records + 7) >> 3, ((end + 7) >> 3) - (first >> 3)
        with job.plan_path.open("rb") as file:
            file.seek(first >> 3)
            self._goes = Bits(file.read(count))
            file.seek(size + (first >> 3))
            self._wants_horizon = Bits(file.read(count))
        self._run = _Run()
        self._last_gone: BatchHeader | None = None  # the last batch, where it was left out

    def on_record(self, record: RecordHeader, body: memoryview) -> None:
        """The batches of one record."""
        for pos, header in _batches(body):
            end = pos + header.size_bytes
            left = self._filter(header, body[pos:end])
            if left is None:
                self._last_gone = header
                continue
            self._last_gone = None
            if isinstance(left, memoryview):
                self._keep(record, body, header, pos)
            else:
                self._flush(record, body)
                self._add(memoryview(left), record.leader_epoch)
        self._flush(record, body)

    def finish(self) -> None:
        """The last batch stays, so that the segment ends where it ended."""
        if self._last_gone is not None:
            header = self._last_gone
            self._add(memoryview(emptied(header)), header.partition_leader_epoch)

    def _filter(self, header: BatchHeader, batch: memoryview) -> memoryview | bytearray | None:
        """What is left of a batch: itself, another one, or nothing."""
        if header.is_control:
            return batch
        base_offset, is_last = header.base_offset, header.base_offset in self._job.last_batches
        if not header.record_count:
            return batch if is_last else None
        if base_offset in self._job.unreadable:
            return batch
        count = header.record_count
        at, self._number = self._number - self._base, self._number + count
        goes = self._goes.slice(at, count)
        if goes == (1 << count) - 1:
            return emptied(header) if is_last else None
        wants_horizon = self._wants_horizon.slice(at, count) & ~goes
        if not goes and not wants_horizon:
            return batch
        try:
            data = inflated(batch, header, INFLATED_BYTES_MAX)
            if wants_horizon:
                return with_horizon(header, data, goes, self._job.delete_horizon_ms)
            return without(header, data, goes)
        except DecodeError:  # its timestamps are nonsense
            return batch

    def _keep(self, record: RecordHeader, body: memoryview, header: BatchHeader, pos: int) -> None:
        run = self._run
        if run.count and run.end != pos:
            self._flush(record, body)
        if not run.count:
            run.start, run.max_timestamp = pos, -1
        run.end = pos + header.size_bytes
        run.last_offset = header.last_offset
        run.count += 1
        if header.record_count:
            run.max_timestamp = max(run.max_timestamp, header.max_timestamp)

    def _flush(self, record: RecordHeader, body: memoryview) -> None:
        run = self._run
        if run.count:
            data, epoch = body[run.start : run.end], record.leader_epoch
            self._writer.add(data, run.last_offset, run.max_timestamp, epoch, run.count)
            run.count = 0

    def _add(self, batch: memoryview, leader_epoch: int) -> None:
        ((_pos, header),) = iter_batches(batch, 0, len(batch))
        timestamp = header.max_timestamp if header.record_count else -1
        self._writer.add(batch, header.last_offset, timestamp, leader_epoch, 1)
