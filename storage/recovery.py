"""Scan a segment: where its last whole record ends, and what the bytes behind it mean.

Sans-io: `scan_segment` is a generator that yields `(pos, size)` reads and is sent the bytes
(shorter only at the end of the file), so that a shard drives it from its disk, a tool from
`pread`, and a test from memory.

Where the whole records end at P there are three cases. A later valid header of this file whose
`durable_pos` lies beyond P proves that more had been durable, and so does a checkpoint, the next
segment or the log start beyond P: it may have been acknowledged, so the log is damaged, nothing
may be cut and the partition goes offline. Otherwise a bad record at P is a torn tail: nobody was
told that it is durable, and it is cut.

    bad record | later header,   | checkpoint, next segment | verdict
    at P       | durable_pos > P | or log start beyond P    |
    no         | no              | no                       | clean
    yes        | no              | no                       | torn
    any        | yes             | any                      | damaged
    any        | any             | yes                      | damaged
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from storage.index import SegmentIndex
from storage.wal_format import (
    RECORD_MAGIC,
    RECORD_MAGIC_POS,
    RecordHeader,
    SegmentHeader,
    body_crc_holds,
    decode_record_header,
    record_bytes,
    round_up,
)

SCAN_BYTES = 1 << 20

Reads = Generator[tuple[int, int], memoryview, "ScanResult"]
OnRecord = Callable[[RecordHeader, memoryview], None]


@dataclass(slots=True)
class ScanResult:
    """Where the whole records end, and why there.

    `end_pos` is the position after the last whole record, `next_offset` the offset after it,
    `last_header_crc` the CRC of its header. `bad` says in words what stands at `end_pos` where
    that is not the end of the file or zeros; `damage` is None unless the bad record had been
    durable: then it says how that is known. `later`: behind `end_pos` stand valid headers of this
    file, which must not come back to life.
    """

    end_pos: int
    next_offset: int
    last_header_crc: int
    record_count: int = 0
    bad: str | None = None
    damage: str | None = None
    later: bool = False


def scan_segment(
    header: SegmentHeader,
    file_bytes: int,
    start_pos: int,
    start_offset: int,
    start_crc: int,
    index: SegmentIndex,
    on_record: OnRecord,
    durable_pos: int = 0,
    durable_offset: int = 0,
) -> Reads:
    """Scan whole records from `start_pos`, whose record begins with `start_offset` and chains to
    `start_crc`. `on_record(header, body)` sees each, and `index` gets its entry; `body` is valid
    only during the call.

    `durable_pos` is a position that is known to have been durable (a checkpoint's, or the end of
    a segment that has a successor), `durable_offset` such an offset (the log start, which moves
    over durable records only, or where the journal goes on): where the records end before it,
    that is damage. Returns a ScanResult.
    """
    result = ScanResult(start_pos, start_offset, start_crc)
    block_bytes = header.block_bytes
    chunk, chunk_pos = memoryview(b""), start_pos
    while True:
        pos = result.end_pos
        available = len(chunk) - (pos - chunk_pos)
        if available < block_bytes:
            chunk, chunk_pos = (yield pos, SCAN_BYTES), pos
        view = chunk[pos - chunk_pos :]
        record = decode_record_header(view, header, pos)
        if record is None or record.prev_header_crc != result.last_header_crc:
            result.bad = _describe_bad_header(view, record)
            break
        if record.base_offset != result.next_offset:
            result.bad = f"a record of offset {record.base_offset}, not {result.next_offset}"
            break
        total = record_bytes(record.body_length, block_bytes)
        if len(view) < total and pos + total <= round_up(file_bytes, block_bytes):
            chunk, chunk_pos = (yield pos, max(total, SCAN_BYTES)), pos
            view = chunk
        body = view[block_bytes : block_bytes + record.body_length]
        if not body_crc_holds(record, body):
            result.bad = "a record whose body is cut or whose CRC does not match"
            break
        on_record(record, body)
        index.append(record.base_offset, pos, record.max_timestamp)
        result.end_pos = pos + total
        result.next_offset = record.last_offset + 1
        result.last_header_crc = record.header_crc
        result.record_count += 1
    if result.end_pos < durable_pos:
        result.damage = f"everything before position {durable_pos} is known to have been durable"
    elif result.next_offset < durable_offset:
        result.damage = (
            f"the log starts at offset {durable_offset}, or goes on there in the journal: "
            f"everything before is known to have been durable"
        )
    else:
        result.damage = yield from _find_proof(header, file_bytes, result)
    if result.damage is not None and result.bad is None:
        result.bad = "no record"
    return result


def _describe_bad_header(view: memoryview, record: RecordHeader | None) -> str | None:
    """What stands where a record was expected; None for the end of the file or zeros."""
    if record is not None:
        return "a record that does not chain to the one before it"
    head = view[:64]
    if not any(head):
        return None
    return "no valid record header (a torn write, or what a recycled file held before)"


def _find_proof(
    header: SegmentHeader, file_bytes: int, result: ScanResult
) -> Generator[tuple[int, int], memoryview, str | None]:
    """Look behind a bad record for a valid header that knew it to be durable."""
    block_bytes, bad_pos = header.block_bytes, result.end_pos
    pos = bad_pos + block_bytes
    while pos < file_bytes:
        chunk = yield pos, SCAN_BYTES
        if not chunk:
            return None
        data = bytes(chunk)
        at = data.find(RECORD_MAGIC)
        while at >= 0:
            start = at - RECORD_MAGIC_POS
            if start >= 0 and start % block_bytes == 0:
                later = decode_record_header(chunk[start:], header, pos + start)
                result.later = result.later or later is not None
                if later is not None and later.durable_pos > bad_pos:
                    return (
                        f"the record at position {pos + start} says that everything before "
                        f"{later.durable_pos} was durable when it was written"
                    )
            at = data.find(RECORD_MAGIC, at + 1)
        pos += max(len(chunk) & -block_bytes, block_bytes)
    return None
