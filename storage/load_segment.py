"""Open a sealed segment when it is first used, or used again: look whether it is what belongs here,
and take its end and its index from its index file; without one the records are scanned.

Nothing is cut here that had been durable: what does not fit is damage, and the log goes offline.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from storage.disk import Disk, write_file_atomic
from storage.errors import CorruptRecord
from storage.index import SealedIndex, SegmentIndex, decode_index
from storage.progress import Progress
from storage.recovery import OnRecord, Reads, ScanResult, scan_segment
from storage.replacement import told_end
from storage.segment import INDEX_SUFFIX, Segment, cut, open_again
from storage.wal_format import (
    BLOCK_BYTES_MAX,
    SEGMENT_HEADER_BYTES,
    RecordHeader,
    decode_segment_header,
    round_up,
)

ADVICE = (
    "nothing was cut and nothing of it is served. Keep a copy of the directory, look at it with "
    "'rpk-py debug partition DIR', restore it from a replica or backup, end it before the damage "
    "('rpk-py debug cut'), or delete the topic"
)
Report = Callable[[str, str], None]


async def load_sealed(
    disk: Disk, report: Report, lock_wait_s: float, segment: Segment, segments: Sequence[Segment]
) -> None:
    """Open `segment`, one of `segments` of a log, in order, of which the last was loaded.

    Raises CorruptRecord, LockTimeout, OSError; it is closed then.
    """
    known = segment.header if segment.loaded else None
    try:
        found = await disk.run(open_again, segment.path, known, lock_wait_s)
    except CorruptRecord as error:
        raise CorruptRecord(f"{error}: {ADVICE}") from error
    try:
        _check(segment, found, segments)
        header = found.header
        found.told, found.next_offset = segment.told, segment.next_offset
        if not await load_index(disk, report, found):
            if segment.told is None and header.replaced is None:
                await disk.run(_look_behind, segment, segments)
            if segment.told is None and header.replaced is None:
                raise FileNotFoundError(errno.ENOENT, "it is no longer of this log", segment.path)
            found.told = segment.told
            start = header.block_bytes, header.base_offset, header.header_crc
            index, end_pos = SegmentIndex(), _known_end(found)
            result = await scan_file(disk, Progress(), found, start, index, ignore, end_pos)
            await settle(disk, report, found, result, sealed=True)
        check_own_end(found)
        if found.next_offset != segment.next_offset:
            raise CorruptRecord(
                f"{segment.path.parent}: a segment is missing between {segment.path.name}, which "
                f"ends at offset {found.next_offset}, and {segment.next_offset}"
            )
        check_end(found)
    except BaseException as error:
        found.close()
        if isinstance(error, CorruptRecord):
            raise CorruptRecord(f"{error}: {ADVICE}") from error
        raise
    segment.header, segment.loaded = header, True
    segment.index = found.index
    segment.write_pos = segment.durable_pos = found.write_pos
    segment.allocated_bytes = found.allocated_bytes
    segment.last_header_crc = found.last_header_crc
    segment.direct, segment.dense = found.direct, segment.dense or found.dense
    segment.fd = found.fd


def _check(segment: Segment, found: Segment, segments: Sequence[Segment]) -> None:
    """That a file is of this log and stands where it stood; what it says of the one before it is
    noted there. Raises CorruptRecord."""
    header, last = found.header, segments[-1].header
    if (header.topic_id, header.partition) != (last.topic_id, last.partition):
        raise CorruptRecord(
            f"{segment.path} belongs to topic id {header.topic_id.hex()}, partition "
            f"{header.partition}"
        )
    for before, here in itertools.pairwise(segments):
        if here is segment:
            tell_end(before, found)


def _look_behind(segment: Segment, segments: Sequence[Segment]) -> None:
    """Learn from the next segment where this one ends. Blocks."""
    for here, behind in itertools.pairwise(segments):
        if here is segment:
            fd = os.open(behind.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                header = decode_segment_header(memoryview(os.pread(fd, SEGMENT_HEADER_BYTES, 0)))
            finally:
                os.close(fd)
            if isinstance(header, str):
                raise CorruptRecord(f"{behind.path}: {header}")
            tell_end(here, Segment(behind.path, header, -1, False))


def _known_end(segment: Segment) -> int:
    """Everything before it had been durable when the segment was sealed, or rewritten."""
    if segment.header.replaced is not None:
        return segment.header.replaced.end_pos
    assert segment.told is not None  # else a damaged one would be taken for a torn one, and cut
    return segment.told[1]


def tell_end(before: Segment, segment: Segment) -> None:
    """Note what the header of `segment` says of the one before it. Raises CorruptRecord where that
    cannot be `before`."""
    header = segment.header
    if not before.base_offset <= header.prev_base_offset < segment.base_offset:
        raise CorruptRecord(
            f"{segment.path.parent}: a segment is missing between {before.path.name} and "
            f"{segment.path.name}"
        )
    before.told = header.prev_base_offset, header.prev_end_pos, header.prev_header_crc
    if before.loaded:
        check_end(before)


def check_end(segment: Segment) -> None:
    """That a segment ends as the next one was told, where that is known. Raises CorruptRecord."""
    if segment.told is None or segment.told == (ends := told_end(segment)):
        return
    if segment.told[0] != ends[0]:
        raise CorruptRecord(
            f"{segment.path.parent}: a segment is missing between {segment.path.name} and the next"
        )
    raise CorruptRecord(
        f"what follows does not chain to the end of {segment.path}, which is not where it was when "
        "the next segment was begun"
    )


def check_own_end(segment: Segment) -> None:
    """That a rewritten one, which was whole before it had its name, ends where it says itself.
    Raises CorruptRecord."""
    replaced = segment.header.replaced
    ends = segment.next_offset, segment.write_pos, segment.last_header_crc
    if replaced is None:
        return
    if ends != (replaced.next_offset, replaced.end_pos, replaced.last_header_crc):
        raise CorruptRecord(f"{segment.path} does not end where it ended when it was rewritten")


async def load_index(disk: Disk, report: Report, segment: Segment) -> bool:
    """Take a sealed segment's end and index from its index file; False if that is bad.

    Raises CorruptRecord where the segment is shorter than that.
    """
    path = segment.path.with_suffix(INDEX_SUFFIX)
    try:
        sealed = await disk.run(_read_index, path, segment)
    except FileNotFoundError:
        return False
    if sealed is None:
        report("an index is damaged", f"{path.parent.name}/{path.name}")
        return False
    if segment.allocated_bytes < sealed.end_pos:
        raise CorruptRecord(
            f"{segment.path} has {segment.allocated_bytes} bytes and had {sealed.end_pos} when it "
            f"was sealed"
        )
    segment.index = sealed.index
    segment.write_pos = segment.durable_pos = sealed.end_pos
    segment.next_offset = sealed.next_offset
    segment.last_header_crc = sealed.last_header_crc
    return True


def _read_index(path: Path, segment: Segment) -> SealedIndex | None:
    return decode_index(path.read_bytes(), segment.header)


def ignore(_record: RecordHeader, _body: memoryview) -> None:
    """Scanned for its index alone."""


async def scan_file(
    disk: Disk,
    progress: Progress,
    segment: Segment,
    start: tuple[int, int, int],
    index: SegmentIndex,
    on_record: OnRecord,
    durable_pos: int,
    durable_offset: int = 0,
) -> ScanResult:
    """Find where a segment, which is open, ends; see recovery.scan_segment. Raises CorruptRecord
    where something durable is damaged, OSError."""
    header, size = segment.header, segment.allocated_bytes
    reads = scan_segment(header, size, *start, index, on_record, durable_pos, durable_offset)
    result = await _drive(disk, progress, segment, reads)
    if result.damage is not None:
        raise CorruptRecord(
            f"{segment.path}: {result.bad} at position {result.end_pos} (offset "
            f"{result.next_offset}), but {result.damage}"
        )
    segment.index = index
    segment.write_pos = segment.durable_pos = result.end_pos
    segment.next_offset = result.next_offset
    segment.last_header_crc = result.last_header_crc
    return result


async def settle(
    disk: Disk, report: Report, segment: Segment, result: ScanResult, sealed: bool
) -> None:
    """Cut a scanned segment at its end and make that durable; save the index of a sealed one."""
    end_pos = result.end_pos
    if result.bad is not None:
        report(
            "a torn tail is cut",
            f"{segment.path.parent.name}/{segment.path.name}: {result.bad} at position {end_pos}; "
            f"cut at offset {result.next_offset}",
        )
    if segment.allocated_bytes != end_pos or result.record_count > 0:
        # Synced in any case: a whole record may have landed without having been made durable.
        await disk.run(cut, segment.fd, end_pos)
        segment.allocated_bytes = end_pos
    if sealed:
        last_crc = result.last_header_crc
        data = segment.index.encode(segment.header, end_pos, result.next_offset, last_crc)
        path = segment.path.with_suffix(INDEX_SUFFIX)
        try:
            await disk.run(write_file_atomic, path, data)
        except OSError as error:  # a full disk must not keep anybody from reading
            report("an index cannot be written", f"{path}: {error}")


async def _drive(disk: Disk, progress: Progress, segment: Segment, reads: Reads) -> ScanResult:
    """Feed a scan from the disk."""
    read = 0
    pos, size = next(reads)
    wanted = max(segment.allocated_bytes - pos, 0)
    progress.scan_bytes += wanted
    try:
        while True:
            size = min(size, round_up(max(segment.allocated_bytes - pos, 0), BLOCK_BYTES_MAX))
            chunk = memoryview(b"")
            if size > 0:
                chunk = await disk.read(segment.fd, pos, size)
                read += len(chunk)
                progress.scanned_bytes += len(chunk)
            pos, size = reads.send(chunk)
    except StopIteration as stop:
        result: ScanResult = stop.value
        return result
    finally:
        progress.scan_bytes += read - wanted  # less where it ends early, more where it looks twice
