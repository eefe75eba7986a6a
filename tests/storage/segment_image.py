"""A segment in memory, record by record, with every field under the test's control; and its scan.

For tests of the format and of recovery's verdicts at every position: no file, no log, no disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crc32c import crc32c

from kafka_protocol.record_batch import iter_batches, parse_header, patch
from storage.index import SegmentIndex
from storage.recovery import ScanResult, scan_segment
from storage.wal_format import (
    RecordHeader,
    SegmentHeader,
    encode_record_header,
    encode_segment_header,
    record_bytes,
)
from tests.storage.builder import NOW_MS, SECTOR, TOPIC_ID


@dataclass(frozen=True, slots=True)
class Placed:
    """Where one record of a SegmentImage lies; `body_end_pos` is where its padding starts."""

    pos: int
    body_pos: int
    body_end_pos: int
    end_pos: int
    base_offset: int
    next_offset: int
    durable_pos: int
    header_crc: int


class SegmentImage:
    """A segment's bytes in memory. `durable_pos` of a record is by default its own position: as
    if every write had been durable before the next one was submitted."""

    def __init__(self, *, block_bytes: int = SECTOR, base_offset: int = 0, **fields: Any) -> None:
        facts: dict[str, Any] = {
            "block_bytes": block_bytes,
            "incarnation": 0x1122334455667788,
            "topic_id": TOPIC_ID,
            "partition": 0,
            "base_offset": base_offset,
            "prev_base_offset": -1,
            "prev_end_pos": 0,
            "prev_header_crc": 0,
            "created_ms": NOW_MS,
        }
        header = SegmentHeader(**(facts | fields))
        self.data = bytearray(block_bytes)
        crc = encode_segment_header(memoryview(self.data), header)
        self.header = header._replace(header_crc=crc)
        self.records: list[Placed] = []

    def add(
        self, *batches: bytearray, durable_pos: int | None = None, leader_epoch: int = 1
    ) -> Placed:
        """One more record of these batches; base offsets and epochs are patched in."""
        pos, block = len(self.data), self.header.block_bytes
        last = self.records[-1] if self.records else None
        base_offset = next_offset = last.next_offset if last else self.header.base_offset
        max_timestamp, body = -1, bytearray()
        for batch in batches:
            batch_header = parse_header(batch)
            patch(batch, 0, next_offset, leader_epoch)
            next_offset += batch_header.last_offset_delta + 1
            max_timestamp = max(max_timestamp, batch_header.max_timestamp)
            body += batch
        durable_pos = pos if durable_pos is None else durable_pos
        buffer = bytearray(record_bytes(len(body), block))
        buffer[block : block + len(body)] = body
        crc = encode_record_header(
            memoryview(buffer),
            len(body),
            crc32c(body),
            self.header,
            pos,
            last.header_crc if last else self.header.header_crc,
            durable_pos,
            base_offset,
            next_offset - 1,
            max_timestamp,
            leader_epoch,
            len(batches),
        )
        self.data += buffer
        body_end = pos + block + len(body)
        end = pos + len(buffer)
        placed = Placed(pos, pos + block, body_end, end, base_offset, next_offset, durable_pos, crc)
        self.records.append(placed)
        return placed

    def scan(self, data: bytes | bytearray | None = None, durable_pos: int = 0) -> Scanned:
        """Scan `data` (default: the image itself) as this segment, from its first record."""
        return scan_bytes(self.header, self.data if data is None else data, durable_pos)


@dataclass(slots=True)
class Scanned:
    """A scan's result, what it saw, and the index it built."""

    result: ScanResult
    seen: list[RecordHeader]
    index: SegmentIndex

    @property
    def verdict(self) -> str:
        """clean, torn or damaged"""
        if self.result.damage is not None:
            return "damaged"
        return "clean" if self.result.bad is None else "torn"


def scan_bytes(header: SegmentHeader, data: bytes | bytearray, durable_pos: int = 0) -> Scanned:
    """Drive a scan of a whole file from memory."""
    seen: list[RecordHeader] = []
    index = SegmentIndex()

    def on_record(record: RecordHeader, body: memoryview) -> None:
        assert len(body) == record.body_length
        first = next(batch for _, batch in iter_batches(body, 0, len(body)))
        assert first.base_offset == record.base_offset
        seen.append(record)

    reads = scan_segment(
        header,
        len(data),
        header.block_bytes,
        header.base_offset,
        header.header_crc,
        index,
        on_record,
        durable_pos,
    )
    view = memoryview(bytes(data))
    try:
        pos, size = next(reads)
        while True:
            assert pos % header.block_bytes == 0
            assert size % header.block_bytes == 0
            pos, size = reads.send(view[pos : pos + size])
    except StopIteration as stop:
        return Scanned(stop.value, seen, index)
