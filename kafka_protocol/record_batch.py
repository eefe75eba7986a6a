"""Record batches, format 2: the 61-byte header, its checksum, patching, and the records inside.

A batch goes from the socket to the disk and to consumers as it came: a broker reads its header,
verifies its CRC and rewrites two fields that precede the CRC's range (base_offset at byte 0,
partition_leader_epoch at byte 12). Records are only unpacked to look up a timestamp, by the command
line and in tests.

    byte  0 base_offset i64           byte 23 last_offset_delta i32
          8 batch_length i32               27 base_timestamp i64
         12 partition_leader_epoch i32     35 max_timestamp i64
         16 magic i8 = 2                   43 producer_id i64
         17 crc u32, over bytes 21..end    51 producer_epoch i16
         21 attributes i16                 53 base_sequence i32
                                           57 record_count i32
    attributes: bits 0-2 codec, 3 log append time, 4 transactional, 5 control, 6 delete horizon (the
    base timestamp is one, KIP-534)

Invariants: offsets and counts are Kafka's; *_pos and *_bytes are bytes; nothing here waits.
Source: KIP-98, KIP-534.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from struct import error as struct_error
from typing import NamedTuple, TypeAlias

from kafka_protocol.checksum import crc32c
from kafka_protocol.compression import compress, decompress
from kafka_protocol.errors import DecodeError
from kafka_protocol.wire import Buffer, read_varlong, write_varlong

HEADER = Struct(">qiibIhiqqqhii")
RECORD_BATCH_OVERHEAD = 61
LENGTH_OVERHEAD = 12  # base_offset and batch_length are not counted in batch_length
CRC_START_POS = 21
MAGIC = 2
NO_TIMESTAMP = -1
NO_PRODUCER_ID = -1

_BASE_OFFSET = Struct(">q")
_LEADER_EPOCH = Struct(">i")
_CRC = Struct(">I")
_ATTRIBUTES = Struct(">h")
_CODEC_MASK = 0x07
_LOG_APPEND_TIME = 0x08
_TRANSACTIONAL = 0x10
_CONTROL = 0x20
DELETE_HORIZON = 0x40

assert HEADER.size == RECORD_BATCH_OVERHEAD

RecordHeaders: TypeAlias = Sequence[tuple[str, bytes | None]]


class BatchHeader(NamedTuple):
    """The fields of a batch header, in the order of the wire."""

    base_offset: int
    batch_length: int
    partition_leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def size_bytes(self) -> int:
        """The whole batch, header included."""
        return LENGTH_OVERHEAD + self.batch_length

    @property
    def last_offset(self) -> int:
        """The offset of the last record, inclusive."""
        return self.base_offset + self.last_offset_delta

    @property
    def compression(self) -> int:
        """The codec id, see compression.py."""
        return self.attributes & _CODEC_MASK

    @property
    def timestamp_type(self) -> int:
        """0 create time, 1 log append time."""
        return (self.attributes & _LOG_APPEND_TIME) >> 3

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & _TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & _CONTROL)

    @property
    def delete_horizon_ms(self) -> int | None:
        """From when on compaction drops its tombstones; None: no compaction has seen them yet."""
        return self.base_timestamp if self.attributes & DELETE_HORIZON else None


class Record(NamedTuple):
    """One record; offset and timestamp_ms are absolute."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: RecordHeaders


def parse_header(buf: Buffer, pos: int = 0) -> BatchHeader:
    """Read the header at pos; DecodeError if fewer than 61 bytes are there. Judges no field."""
    try:
        return BatchHeader._make(HEADER.unpack_from(buf, pos))
    except struct_error as error:
        raise DecodeError("a record batch is shorter than its header", pos) from error


def verify_crc(buf: Buffer, pos: int, size_bytes: int, crc: int) -> bool:
    """Whether the CRC-32C of the batch at pos, size_bytes long, is crc."""
    view = buf if type(buf) is memoryview else memoryview(buf)
    return bool(crc32c(view[pos + CRC_START_POS : pos + size_bytes]) == crc)


def patch(buf: bytearray | memoryview, pos: int, base_offset: int, leader_epoch: int) -> None:
    """Set the two fields that are the broker's; the CRC does not cover them."""
    _BASE_OFFSET.pack_into(buf, pos, base_offset)
    _LEADER_EPOCH.pack_into(buf, pos + 12, leader_epoch)


def set_log_append_time(
    buf: bytearray | memoryview, pos: int, size_bytes: int, timestamp_ms: int
) -> None:
    """Mark the batch with the broker's time: attribute bit 3, max_timestamp and a new CRC."""
    (attributes,) = _ATTRIBUTES.unpack_from(buf, pos + 21)
    _ATTRIBUTES.pack_into(buf, pos + 21, attributes | _LOG_APPEND_TIME)
    _BASE_OFFSET.pack_into(buf, pos + 35, timestamp_ms)
    crc = crc32c(memoryview(buf)[pos + CRC_START_POS : pos + size_bytes])
    _CRC.pack_into(buf, pos + 17, crc)


def iter_batches(buf: Buffer, pos: int, end: int) -> Iterator[tuple[int, BatchHeader]]:
    """Yield (pos, header) of the batches that lie back to back in buf[pos:end].

    Raises DecodeError at the first one that is cut, has another magic or an impossible length. CRCs
    are not verified.
    """
    while pos < end:
        if end - pos < RECORD_BATCH_OVERHEAD:
            raise DecodeError(f"{end - pos} bytes are no record batch", pos)
        header = parse_header(buf, pos)
        if header.magic != MAGIC:
            raise DecodeError(f"record batch of magic {header.magic}", pos)
        size_bytes = header.size_bytes
        if size_bytes < RECORD_BATCH_OVERHEAD or size_bytes > end - pos:
            raise DecodeError(f"record batch of {size_bytes} bytes where {end - pos} are", pos)
        yield pos, header
        pos += size_bytes


def iter_records(batch: Buffer, size_max: int) -> Iterator[Record]:
    """Yield the records of one whole batch, decompressed to at most size_max bytes.

    Raises DecodeError where the records are not what the header says. The CRC is not verified.
    """
    header = parse_header(batch)
    if header.magic != MAGIC or not RECORD_BATCH_OVERHEAD <= header.size_bytes <= len(batch):
        raise DecodeError(f"not a whole record batch: {header}", 0)
    body = memoryview(batch)[RECORD_BATCH_OVERHEAD : header.size_bytes]
    data = memoryview(decompress(header.compression, body, size_max))
    pos = 0
    for _ in range(header.record_count):
        try:
            record, pos = _read_record(data, pos, header)
        except (IndexError, UnicodeDecodeError) as error:
            raise DecodeError("a record is cut or malformed", pos) from error
        yield record
    if pos != len(data):
        raise DecodeError(f"{len(data) - pos} bytes after the last record", pos)


def _read_record(data: memoryview, pos: int, header: BatchHeader) -> tuple[Record, int]:
    size_bytes, pos = read_varlong(data, pos)
    end = pos + size_bytes
    if size_bytes < 0 or end > len(data):
        raise DecodeError(f"record of {size_bytes} bytes", pos)
    pos += 1  # attributes: none are defined
    timestamp_delta, pos = read_varlong(data, pos)
    offset_delta, pos = read_varlong(data, pos)
    key, pos = _read_bytes(data, pos, end)
    value, pos = _read_bytes(data, pos, end)
    header_count, pos = read_varlong(data, pos)
    if not 0 <= header_count <= end - pos:
        raise DecodeError(f"record with {header_count} headers", pos)
    headers = []
    for _ in range(header_count):
        name, pos = _read_bytes(data, pos, end)
        if name is None:
            raise DecodeError("record header without a name", pos)
        header_value, pos = _read_bytes(data, pos, end)
        headers.append((name.decode(), header_value))
    if pos != end:
        raise DecodeError(f"record ends at {pos}, not at {end}", pos)
    timestamp = (
        header.max_timestamp if header.timestamp_type else header.base_timestamp + timestamp_delta
    )
    return Record(header.base_offset + offset_delta, timestamp, key, value, headers), end


def _read_bytes(data: memoryview, pos: int, end: int) -> tuple[bytes | None, int]:
    size_bytes, pos = read_varlong(data, pos)
    if size_bytes == -1:
        return None, pos
    if not 0 <= size_bytes <= end - pos:
        raise DecodeError(f"{size_bytes} bytes inside a record", pos)
    return bytes(data[pos : pos + size_bytes]), pos + size_bytes


def _write_bytes(out: bytearray, value: bytes | None) -> None:
    if value is None:
        write_varlong(out, -1)
        return
    write_varlong(out, len(value))
    out += value


def build_batch(
    records: Iterable[Record | tuple[bytes | None, bytes | None]],
    *,
    base_offset: int = 0,
    compression: int = 0,
    timestamp_ms: int = NO_TIMESTAMP,
    leader_epoch: int = -1,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    transactional: bool = False,
    control: bool = False,
) -> bytearray:
    """Build one batch with a valid CRC.

    Shapes:  records  at least one; a (key, value) pair takes timestamp_ms and the next offset, a
                      Record keeps its own timestamp and headers and its offset, which must rise
    Raises:  ValueError if there is no record
    """
    rows = [
        r if isinstance(r, Record) else Record(base_offset + i, timestamp_ms, r[0], r[1], ())
        for i, r in enumerate(records)
    ]
    if not rows:
        raise ValueError("a record batch has at least one record")
    base_timestamp = rows[0].timestamp
    body = bytearray()
    for row in rows:
        record = bytearray(1)
        write_varlong(record, row.timestamp - base_timestamp)
        write_varlong(record, row.offset - base_offset)
        _write_bytes(record, row.key)
        _write_bytes(record, row.value)
        write_varlong(record, len(row.headers))
        for name, header_value in row.headers:
            _write_bytes(record, name.encode())
            _write_bytes(record, header_value)
        write_varlong(body, len(record))
        body += record
    return frame_batch(
        body,
        len(rows),
        base_offset=base_offset,
        last_offset_delta=rows[-1].offset - base_offset,
        base_timestamp=base_timestamp,
        max_timestamp=max(row.timestamp for row in rows),
        compression=compression,
        leader_epoch=leader_epoch,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
        attributes=_TRANSACTIONAL * transactional | _CONTROL * control,
    )


def frame_batch(
    body: Buffer,
    record_count: int,
    *,
    last_offset_delta: int,
    base_timestamp: int,
    max_timestamp: int,
    base_offset: int = 0,
    compression: int = 0,
    leader_epoch: int = -1,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    attributes: int = 0,
) -> bytearray:
    """Put the header with a valid CRC before encoded records, which are compressed here."""
    data = compress(compression, body)
    out = bytearray(
        HEADER.pack(
            base_offset,
            RECORD_BATCH_OVERHEAD - LENGTH_OVERHEAD + len(data),
            leader_epoch,
            MAGIC,
            0,
            attributes | compression,
            last_offset_delta,
            base_timestamp,
            max_timestamp,
            producer_id,
            producer_epoch,
            base_sequence,
            record_count,
        )
    )
    out += data
    _CRC.pack_into(out, 17, crc32c(memoryview(out)[CRC_START_POS:]))
    return out
