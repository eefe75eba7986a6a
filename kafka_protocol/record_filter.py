"""The records of a batch by their keys, and a batch without some of its records.

What compaction does to a batch, and what a producer's batch is looked at for on a compacted topic.
Records are walked by their lengths; what is kept stays byte for byte as it came, offsets and
timestamps relative to the same base, so that only the header is made anew.

A delete horizon (attributes bit 6) is the time from which on tombstones, records without a value,
may go: it is put where the base timestamp was, so the records' timestamps are told relative to it.
Pure; nothing here waits. Source: KIP-98, KIP-534; MemoryRecords.filterTo of Apache Kafka.
"""

from __future__ import annotations

from collections.abc import Iterator

from kafka_protocol.compression import decompress
from kafka_protocol.errors import DecodeError
from kafka_protocol.record_batch import (
    DELETE_HORIZON,
    RECORD_BATCH_OVERHEAD,
    BatchHeader,
    frame_batch,
)
from kafka_protocol.wire import Buffer, read_varlong, write_varlong


def inflated(batch: Buffer, header: BatchHeader, size_max: int) -> bytes:
    """The bytes of a batch's records, decompressed. Raises DecodeError, also above size_max."""
    body = memoryview(batch)[RECORD_BATCH_OVERHEAD : header.size_bytes]
    return bytes(decompress(header.compression, body, size_max))


def iter_keys(data: bytes, count: int) -> Iterator[tuple[bytes | None, bool]]:
    """Yield (key, whether there is a value) of each record.

    Raises DecodeError where these are not `count` records, or one has no whole key.
    """
    pos = 0
    try:
        for _ in range(count):
            size = data[pos]
            if size < 0x80:
                size = (size >> 1) ^ -(size & 1)
                pos += 1
            else:
                size, pos = read_varlong(data, pos)
            end = pos + size
            pos += 1  # attributes: none are defined
            while data[pos] >= 0x80:  # timestamp
                pos += 1
            pos += 1
            while data[pos] >= 0x80:  # offset
                pos += 1
            pos += 1
            key_size = data[pos]
            if key_size < 0x80:
                key_size = (key_size >> 1) ^ -(key_size & 1)
                pos += 1
            else:
                key_size, pos = read_varlong(data, pos)
            key = data[pos : pos + key_size] if key_size >= 0 else None
            pos += max(key_size, 0)
            if key_size < -1 or pos >= end:
                raise DecodeError("a record is cut, or its key", pos)
            has_value = data[pos] != 1  # -1 as a varint
            yield key, has_value
            pos = end
    except IndexError as error:
        raise DecodeError("a record is cut", pos) from error
    if pos != len(data):
        raise DecodeError(f"{len(data) - pos} bytes after the last record", pos)


def without(header: BatchHeader, data: bytes, dropped: int) -> bytearray:
    """The batch without some records, those whose bits are set in `dropped`, the first record's
    lowest; at least one is left. Offsets, timestamps and the producer's fields stay.

    data  the records, inflated, as `iter_keys` found them whole
    Raises: DecodeError  their timestamps are nonsense
    """
    kept: list[bytes] = []
    most = -(1 << 63)
    for start, end, body in _iter_kept(data, header.record_count, dropped):
        kept.append(data[start:end])
        most = max(most, read_varlong(data, body + 1)[0])
    return _framed(header, b"".join(kept), len(kept), header.base_timestamp, _latest(header, most))


def with_horizon(
    header: BatchHeader, data: bytes, dropped: int, delete_horizon_ms: int
) -> bytearray:
    """The same with a delete horizon, which the batch must not have yet."""
    assert header.delete_horizon_ms is None
    kept = bytearray()
    count, most = 0, -(1 << 63)
    shift = 0 if header.timestamp_type else header.base_timestamp - delete_horizon_ms
    for _start, end, body in _iter_kept(data, header.record_count, dropped):
        delta, rest = read_varlong(data, body + 1)
        most = max(most, delta)
        record = bytearray(data[body : body + 1])
        write_varlong(record, _int64(delta + shift))
        record += data[rest:end]
        write_varlong(kept, len(record))
        kept += record
        count += 1
    marked = header._replace(attributes=header.attributes | DELETE_HORIZON)
    return _framed(marked, kept, count, delete_horizon_ms, _latest(header, most))


def emptied(header: BatchHeader) -> bytearray:
    """The batch without any record: it still says which offsets and sequences it had."""
    attributes = header.attributes & ~(0x07 | DELETE_HORIZON)
    plain = header._replace(attributes=attributes)
    return _framed(plain, b"", 0, header.max_timestamp, header.max_timestamp)


def _iter_kept(data: bytes, count: int, dropped: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, position behind its length) of each record that is kept."""
    flags = format(dropped, f"0{count}b")[::-1]
    pos = 0
    for i in range(count):
        start = pos
        size, body = read_varlong(data, pos)
        pos = body + size
        if flags[i] == "0":
            yield start, pos, body


def _latest(header: BatchHeader, delta: int) -> int:
    """The largest timestamp of records of which the latest has this one, relative to the base."""
    return header.max_timestamp if header.timestamp_type else _int64(header.base_timestamp + delta)


def _int64(value: int) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise DecodeError(f"timestamp {value} does not fit 64 bits")
    return value


def _framed(
    header: BatchHeader, records: Buffer, count: int, base_timestamp: int, max_timestamp: int
) -> bytearray:
    return frame_batch(
        records,
        count,
        base_offset=header.base_offset,
        last_offset_delta=header.last_offset_delta,
        base_timestamp=base_timestamp,
        max_timestamp=max_timestamp,
        compression=header.compression,
        leader_epoch=header.partition_leader_epoch,
        producer_id=header.producer_id,
        producer_epoch=header.producer_epoch,
        base_sequence=header.base_sequence,
        attributes=header.attributes & ~0x07,
    )
