"""The bytes of a `.wal` file: one segment header block, then block-aligned WAL records.

Pure functions over buffers, used by the shard that writes a segment, by recovery and by
`rpk-py debug wal`. Every integer is big-endian; every position is a multiple of the block size A.

    segment header   one block; SEGMENT_HEADER below, then zeros; of a rewritten segment (version 2)
                     also what it replaces, REPLACED below
    record header    one block; bytes 0..7 are the body's length, RECORD_HEADER, then zeros
    record body      Kafka record batches (v2) back to back, zero-padded to A

A record proves where it belongs: it names its topic id, partition, own position and the
incarnation of the file (so that stale bytes of a recycled file never pass), and carries the CRC
of the header before it (a chain that starts at the segment header). `durable_pos` is what its
writer knew to be durable when it submitted the record: a later record whose `durable_pos` lies
beyond a bad one proves that the bad one had been durable, and so perhaps acknowledged.

A rewritten segment stands for one or more segments that were sealed. It is whole and durable before
it gets its name, so its header, written last, can state where it ends. The chain of its records
starts at the CRC of the header's first part, which does not cover that statement. Its records
follow each other without a gap in offsets, though batches of them may be gone: the offsets of what
is gone belong to the batch behind it.

Source: docs/ARCHITECTURE.md "On disk"; the golden bytes are in tests/storage/test_wal_format.py.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kafka_protocol.checksum import crc32c

SEGMENT_MAGIC = b"RPKS"
RECORD_MAGIC = b"RPKR"
FORMAT_VERSION = 1
REWRITTEN_VERSION = 2  # of a segment header that says what it replaces

_SEGMENT = struct.Struct(">4sHHIIQ16siqqQIq")
_REPLACED = struct.Struct(">qQIqQII")
_RECORD = struct.Struct(">Q4sHHIIQ16siQIQqqqiI")
_SEGMENT_CRC_POS = 12
_RECORD_CRC_POS = 16
RECORD_MAGIC_POS = 8
SEGMENT_HEADER_BYTES = _SEGMENT.size
REWRITTEN_HEADER_BYTES = _SEGMENT.size + _REPLACED.size
_REPLACED_CRC_POS = REWRITTEN_HEADER_BYTES - 4
RECORD_HEADER_BYTES = _RECORD.size
_CRC = struct.Struct(">I")

BLOCK_BYTES_MIN = 512
BLOCK_BYTES_MAX = 65536
BODY_BYTES_MAX = 1 << 31  # a length beyond this is noise: batch lengths are int32


class Replaced(NamedTuple):
    """What the header of a rewritten segment states.

    next_offset        it stands for all offsets from its base to this one, exclusive
    end_pos, last_header_crc   where its own records end
    last_...           of the last segment that it replaces: its base offset, its end and the CRC of
                       its last header, which the segment behind it names as its predecessor's
    """

    next_offset: int
    end_pos: int
    last_header_crc: int
    last_base_offset: int
    last_end_pos: int
    last_crc: int


class SegmentHeader(NamedTuple):
    """The facts in a segment's first block.

    `prev_base_offset` (-1 for a partition's first segment), `prev_end_pos` and `prev_header_crc`
    say where the segment before this one ended: a roll waits until all of it is durable, so
    anything missing there is damage and never a torn tail. `replaced`: of a rewritten segment.
    """

    block_bytes: int
    incarnation: int
    topic_id: bytes
    partition: int
    base_offset: int
    prev_base_offset: int
    prev_end_pos: int
    prev_header_crc: int
    created_ms: int
    header_crc: int = 0
    replaced: Replaced | None = None


class RecordHeader(NamedTuple):
    """The header of one WAL record; `last_offset` is inclusive."""

    body_length: int
    header_crc: int
    body_crc: int
    incarnation: int
    topic_id: bytes
    partition: int
    pos: int
    prev_header_crc: int
    durable_pos: int
    base_offset: int
    last_offset: int
    max_timestamp: int
    leader_epoch: int
    batch_count: int


def round_up(size: int, block_bytes: int) -> int:
    """The smallest multiple of `block_bytes` (a power of two) that is >= `size`."""
    return (size + block_bytes - 1) & -block_bytes


def record_bytes(body_length: int, block_bytes: int) -> int:
    """Bytes on disk of a record with that body: its header block and its padded body."""
    return block_bytes + round_up(body_length, block_bytes)


def encode_segment_header(buf: memoryview, header: SegmentHeader) -> int:
    """Write `header` at the start of `buf` (one zeroed block). Returns the CRC that its first
    record chains to; what it replaces does not change that."""
    replaced = header.replaced
    version = FORMAT_VERSION if replaced is None else REWRITTEN_VERSION
    fields = (
        SEGMENT_MAGIC, version, 0, header.block_bytes, 0, header.incarnation,
        header.topic_id, header.partition, header.base_offset, header.prev_base_offset,
        header.prev_end_pos, header.prev_header_crc, header.created_ms,
    )  # fmt: skip
    _SEGMENT.pack_into(buf, 0, *fields)
    crc = crc32c(buf[:SEGMENT_HEADER_BYTES])
    _CRC.pack_into(buf, _SEGMENT_CRC_POS, crc)
    if replaced is not None:
        _REPLACED.pack_into(buf, SEGMENT_HEADER_BYTES, *replaced, 0)
        _CRC.pack_into(buf, _REPLACED_CRC_POS, crc32c(buf[:_REPLACED_CRC_POS]))
    return crc


def decode_segment_header(buf: memoryview) -> SegmentHeader | str:
    """The header in `buf` (at least SEGMENT_HEADER_BYTES), or what is wrong with it."""
    if len(buf) < SEGMENT_HEADER_BYTES:
        return f"the file ends after {len(buf)} bytes, inside its header"
    (
        magic, version, _flags, block_bytes, crc, incarnation, topic_id, partition,
        base_offset, prev_base_offset, prev_end_pos, prev_header_crc, created_ms,
    ) = _SEGMENT.unpack_from(buf)  # fmt: skip
    if magic != SEGMENT_MAGIC:
        return f"the magic is {magic!r}, not {SEGMENT_MAGIC!r}: not a segment"
    if version not in (FORMAT_VERSION, REWRITTEN_VERSION):
        return f"format version {version}; this rpk-py reads up to {REWRITTEN_VERSION}"
    if crc != _crc_without(buf, SEGMENT_HEADER_BYTES, _SEGMENT_CRC_POS):
        return "the CRC of the segment header does not match"
    power_of_two = block_bytes & (block_bytes - 1) == 0
    if not (power_of_two and BLOCK_BYTES_MIN <= block_bytes <= BLOCK_BYTES_MAX):
        return f"the block size is {block_bytes}"
    replaced = _decode_replaced(buf) if version == REWRITTEN_VERSION else None
    if isinstance(replaced, str):
        return replaced
    return SegmentHeader(
        block_bytes, incarnation, topic_id, partition, base_offset, prev_base_offset,
        prev_end_pos, prev_header_crc, created_ms, crc, replaced,
    )  # fmt: skip


def _decode_replaced(buf: memoryview) -> Replaced | str:
    if len(buf) < REWRITTEN_HEADER_BYTES:
        return f"the file ends after {len(buf)} bytes, inside its header"
    *fields, crc = _REPLACED.unpack_from(buf, SEGMENT_HEADER_BYTES)
    if crc != crc32c(buf[:_REPLACED_CRC_POS]):
        return "the CRC of the segment header does not match in what it replaces"
    return Replaced(*fields)


def encode_record_header(
    buf: memoryview,
    body_length: int,
    body_crc: int,
    segment: SegmentHeader,
    pos: int,
    prev_header_crc: int,
    durable_pos: int,
    base_offset: int,
    last_offset: int,
    max_timestamp: int,
    leader_epoch: int,
    batch_count: int,
) -> int:
    """Write a record header at the start of `buf` (one zeroed block). Returns its CRC."""
    _RECORD.pack_into(
        buf, 0, body_length, RECORD_MAGIC, FORMAT_VERSION, 0, 0, body_crc, segment.incarnation,
        segment.topic_id, segment.partition, pos, prev_header_crc, durable_pos, base_offset,
        last_offset, max_timestamp, leader_epoch, batch_count,
    )  # fmt: skip
    crc = crc32c(buf[:RECORD_HEADER_BYTES])
    _CRC.pack_into(buf, _RECORD_CRC_POS, crc)
    return crc


def decode_record_header(buf: memoryview, segment: SegmentHeader, pos: int) -> RecordHeader | None:
    """The record header at the start of `buf`, which was read from file position `pos`.

    None unless the header's CRC holds and it names this segment's incarnation, topic,
    partition and `pos`: then the bytes are no record of this segment at this place.
    """
    if len(buf) < RECORD_HEADER_BYTES or buf[8:12] != RECORD_MAGIC:
        return None
    (
        body_length, _magic, version, _flags, crc, body_crc, incarnation, topic_id, partition,
        own_pos, prev_header_crc, durable_pos, base_offset, last_offset, max_timestamp,
        leader_epoch, batch_count,
    ) = _RECORD.unpack_from(buf)  # fmt: skip
    if version != FORMAT_VERSION or incarnation != segment.incarnation or own_pos != pos:
        return None
    if topic_id != segment.topic_id or partition != segment.partition:
        return None
    if crc != _crc_without(buf, RECORD_HEADER_BYTES, _RECORD_CRC_POS):
        return None
    if not 0 < body_length <= BODY_BYTES_MAX or base_offset > last_offset:
        return None
    return RecordHeader(
        body_length, crc, body_crc, incarnation, topic_id, partition, own_pos, prev_header_crc,
        durable_pos, base_offset, last_offset, max_timestamp, leader_epoch, batch_count,
    )  # fmt: skip


def body_crc_holds(header: RecordHeader, body: memoryview) -> bool:
    """Whether `body` (exactly the record's body, without padding) is what was written."""
    return len(body) == header.body_length and crc32c(body) == header.body_crc


def _crc_without(buf: memoryview, size: int, crc_pos: int) -> int:
    """CRC-32C of buf[:size] with the four bytes of the CRC field itself taken as zero."""
    crc: int = crc32c(buf[:crc_pos])
    crc = crc32c(b"\0\0\0\0", crc)
    return int(crc32c(buf[crc_pos + 4 : size], crc))
