"""Rows: record batches that are not what they say, produced to a partition."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cramjam
from crc32c import crc32c

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from kafka_protocol.record_batch import RECORD_BATCH_OVERHEAD, build_batch
from tests.hostile.table import Row, answer, asks
from tests.hostile.target import FIRST_MS, Target

V = 9
ERROR = "responses.0.partition_responses.0.error_code"
_ANALYZE = "UnifiedLog.analyzeAndValidateRecords of Apache Kafka"
_VALIDATE = "ProduceRequest.validateRecords of Apache Kafka"
_VALIDATOR = "LogValidator of Apache Kafka"
_OPAQUE = "a batch is opaque: docs/ARCHITECTURE.md, `rpk_py/handlers/produce.py`"

# Where the fields of a batch lie, and how they are packed.
FIELDS = {
    "base_offset": (0, ">q"),
    "batch_length": (8, ">i"),
    "partition_leader_epoch": (12, ">i"),
    "magic": (16, ">b"),
    "crc": (17, ">I"),
    "attributes": (21, ">h"),
    "last_offset_delta": (23, ">i"),
    "base_timestamp": (27, ">q"),
    "max_timestamp": (35, ">q"),
    "producer_id": (43, ">q"),
    "producer_epoch": (51, ">h"),
    "base_sequence": (53, ">i"),
    "record_count": (57, ">i"),
}


def batch(**fields: Any) -> bytes:
    """Three records whose header has these values, and a CRC that fits unless it is given."""
    records = [(b"key", b"value %d" % i) for i in range(3)]
    return patched(build_batch(records, timestamp_ms=FIRST_MS), **fields)


def patched(data: bytearray, **fields: Any) -> bytes:
    """Set fields of a batch's header, and a CRC that fits unless it is given."""
    for name, value in fields.items():
        pos, code = FIELDS[name]
        struct.pack_into(code, data, pos, value)
    if "crc" not in fields:
        struct.pack_into(">I", data, 17, crc32c(memoryview(data)[21:]))
    return bytes(data)


def with_body(body: bytes, **fields: Any) -> bytes:
    """A batch of three records, as its header says, with these bytes in their place."""
    data = bytearray(batch()[:RECORD_BATCH_OVERHEAD]) + body
    return patched(data, batch_length=len(data) - 12, **fields)


def produce(records: bytes | None, target: Target, acks: int = -1, **more: Any) -> ProduceRequest:
    """Produce these bytes to the partition that is there for them."""
    view = None if records is None else memoryview(records)
    data = PartitionProduceData(target.dump.here, view)
    topic = TopicProduceData(target.dump.name, target.dump.topic_id, [data])
    return ProduceRequest(None, acks, 10_000, [topic], **more)


def bombs() -> dict[str, bytes]:
    """A gigabyte of zeros in each codec that gets it below a megabyte, and its like."""
    return {
        "gzip": cramjam.gzip.compress(bytes(1 << 27), 9).read(),
        "zstd": cramjam.zstd.compress(bytes(1 << 30), 1).read(),
    }


def _row(
    name: str,
    build: Callable[[], bytes | None],
    error: ErrorCode,
    source: str,
    *,
    version: int = V,
) -> Row:
    return Row(
        name,
        asks(lambda target: produce(build(), target), version),
        answer(ERROR, error),
        source,
    )


_NOISE = random.Random(4).randbytes(300)
_ID = {"producer_id": 1 << 40, "producer_epoch": 0, "base_sequence": 0}

ROWS = [
    # -- shape ---------------------------------------------------------------------------------
    _row("null records", lambda: None, ErrorCode.INVALID_RECORD, _VALIDATE),
    _row("empty records", lambda: b"", ErrorCode.INVALID_RECORD, _VALIDATE),
    _row("records of one byte", lambda: b"\0", ErrorCode.INVALID_RECORD, _VALIDATE),
    _row("a header that is cut", lambda: batch()[:60], ErrorCode.INVALID_RECORD, _VALIDATE),
    _row("a header alone", lambda: batch()[:61], ErrorCode.INVALID_RECORD, _ANALYZE),
    _row("a batch without its last byte", lambda: batch()[:-1], ErrorCode.INVALID_RECORD, _ANALYZE),
    _row("a byte after the batch", lambda: batch() + b"\0", ErrorCode.INVALID_RECORD, _VALIDATE),
    _row("two batches", lambda: batch() * 2, ErrorCode.INVALID_RECORD, _VALIDATE),
    *(
        _row(f"a batch of length {n:,}", lambda n=n: batch(batch_length=n), error, _ANALYZE)
        for n, error in (
            (-1, ErrorCode.CORRUPT_MESSAGE),
            (-(2**31), ErrorCode.CORRUPT_MESSAGE),
            (0, ErrorCode.CORRUPT_MESSAGE),
            (48, ErrorCode.CORRUPT_MESSAGE),
            (49, ErrorCode.INVALID_RECORD),  # more follows it: two batches
            (1_000, ErrorCode.INVALID_RECORD),
            (2**31 - 1, ErrorCode.INVALID_RECORD),
        )
    ),
    *(
        _row(f"magic {n}", lambda n=n: batch(magic=n), ErrorCode.INVALID_RECORD, _VALIDATE)
        for n in (0, 1)
    ),
    *(
        _row(f"magic {n}", lambda n=n: batch(magic=n), ErrorCode.CORRUPT_MESSAGE, _VALIDATE)
        for n in (3, -1, 127)
    ),
    _row("a message set of format 1", lambda: message_set(1), ErrorCode.INVALID_RECORD, _VALIDATE),
    _row("a message set of format 0", lambda: message_set(0), ErrorCode.INVALID_RECORD, _VALIDATE),
    # -- header --------------------------------------------------------------------------------
    _row("a wrong CRC", lambda: batch(crc=1), ErrorCode.CORRUPT_MESSAGE, _ANALYZE),
    _row("a base offset of 1", lambda: batch(base_offset=1), ErrorCode.INVALID_RECORD, _ANALYZE),
    _row("a base offset of -1", lambda: batch(base_offset=-1), ErrorCode.INVALID_RECORD, _ANALYZE),
    _row("a leader epoch", lambda: batch(partition_leader_epoch=7), ErrorCode.NONE, _ANALYZE),
    *(
        _row(
            f"{n:,} records, as it says",
            lambda n=n: batch(record_count=n),
            ErrorCode.INVALID_RECORD,
            _VALIDATOR,
        )
        for n in (-1, 0, 2, 4, -(2**31), 2**31 - 1)
    ),
    *(
        _row(
            f"a last offset delta of {n:,}",
            lambda n=n: batch(last_offset_delta=n),
            ErrorCode.INVALID_RECORD,
            _VALIDATOR,
        )
        for n in (-1, 0, 3, -(2**31), 2**31 - 1)
    ),
    _row(
        "more records in the header than inside",
        lambda: batch(record_count=1_000, last_offset_delta=999),
        ErrorCode.NONE,
        _OPAQUE,
    ),
    # -- attributes ----------------------------------------------------------------------------
    *(
        _row(f"codec {n}", lambda n=n: batch(attributes=n), ErrorCode.INVALID_RECORD, _VALIDATOR)
        for n in (5, 6, 7)
    ),
    _row(
        "zstd in Produce version 6",
        lambda: with_body(bytes(cramjam.zstd.compress(batch()[61:])), attributes=4),
        ErrorCode.UNSUPPORTED_COMPRESSION_TYPE,
        _VALIDATE,
        version=6,
    ),
    _row(
        "log append time from a client",
        lambda: batch(attributes=8),
        ErrorCode.INVALID_TIMESTAMP,
        _VALIDATOR,
    ),
    _row("a control batch", lambda: batch(attributes=0x20), ErrorCode.INVALID_RECORD, _VALIDATOR),
    _row(
        "a transactional batch",
        lambda: batch(attributes=0x10, **_ID),
        ErrorCode.INVALID_TXN_STATE,
        "KIP-890",
    ),
    _row(
        "a transactional control batch",
        lambda: batch(attributes=0x30, **_ID),
        ErrorCode.INVALID_RECORD,
        _VALIDATOR,
    ),
    *(
        _row(f"attributes {n:#x}", lambda n=n: batch(attributes=n), ErrorCode.NONE, _VALIDATOR)
        for n in (0x80, 0x4000, -0x8000)
    ),
    _row(
        "attributes 0x40, a delete horizon",
        lambda: batch(attributes=0x40),
        ErrorCode.INVALID_RECORD,
        "KIP-534: the cleaner's; Kafka takes it from clients",
    ),
    # -- timestamps ----------------------------------------------------------------------------
    *(
        _row(
            f"a {name} of {n:,}", lambda name=name, n=n: batch(**{name: n}), ErrorCode.NONE, _OPAQUE
        )
        for name in ("base_timestamp", "max_timestamp")
        for n in (-1, -(2**63), 2**63 - 1)
    ),
    # -- producers -----------------------------------------------------------------------------
    *(
        _row(f"a producer with {name}", lambda more=more: batch(**{**_ID, **more}), error, source)
        for name, more, error, source in (
            ("id 2^63-1", {"producer_id": 2**63 - 1}, ErrorCode.NONE, "KIP-360"),
            ("epoch -1", {"producer_epoch": -1}, ErrorCode.INVALID_PRODUCER_EPOCH, _VALIDATOR),
            (
                "epoch -32768",
                {"producer_epoch": -32768},
                ErrorCode.INVALID_PRODUCER_EPOCH,
                _VALIDATOR,
            ),
            ("sequence -1", {"base_sequence": -1}, ErrorCode.INVALID_RECORD, _VALIDATOR),
            ("sequence -2^31", {"base_sequence": -(2**31)}, ErrorCode.INVALID_RECORD, _VALIDATOR),
            ("id -1 and a sequence", {"producer_id": -1}, ErrorCode.NONE, _VALIDATOR),
            ("id -2", {"producer_id": -2}, ErrorCode.NONE, _VALIDATOR),
            ("id -2^63", {"producer_id": -(2**63)}, ErrorCode.NONE, _VALIDATOR),
        )
    ),
    _row(
        "a sequence at the end of its range",
        lambda: batch(**{**_ID, "producer_id": 5 << 40, "base_sequence": 2**31 - 1}),
        ErrorCode.NONE,
        "DefaultRecordBatch.incrementSequence of Apache Kafka: it goes on with 0",
    ),
    # -- inside --------------------------------------------------------------------------------
    _row(
        "noise instead of records",
        lambda: with_body(_NOISE),
        ErrorCode.NONE,
        _OPAQUE,
    ),
    _row(
        "no bytes instead of records",
        lambda: with_body(b""),
        ErrorCode.NONE,
        _OPAQUE,
    ),
    *(
        _row(
            f"noise instead of {codec}",
            lambda n=n: with_body(_NOISE, attributes=n),
            ErrorCode.NONE,
            _OPAQUE,
        )
        for n, codec in enumerate(("gzip", "snappy", "lz4", "zstd"), 1)
    ),
    # -- size ----------------------------------------------------------------------------------
    _row(
        "a batch over max.message.bytes",
        lambda: bytes(build_batch([(None, bytes(1_048_588))])),
        ErrorCode.MESSAGE_TOO_LARGE,
        _ANALYZE,
    ),
    Row(
        "a batch over the topic's max.message.bytes",
        asks(lambda target: produce_small(target, 1_000), V),
        answer(ERROR, ErrorCode.MESSAGE_TOO_LARGE),
        _ANALYZE,
    ),
    Row(
        "a large batch with a wrong CRC",
        asks(lambda target: produce_small(target, 1_000, crc=1), V),
        answer(ERROR, ErrorCode.MESSAGE_TOO_LARGE),
        f"{_ANALYZE}: the size comes first",
    ),
]


def produce_small(target: Target, value_bytes: int, **fields: Any) -> ProduceRequest:
    """Produce to the topic that takes 1,000 bytes."""
    data = patched(build_batch([(None, bytes(value_bytes))], timestamp_ms=FIRST_MS), **fields)
    request = produce(data, target)
    request.topic_data[0].name = target.small.name
    request.topic_data[0].partition_data[0].index = target.small.here
    return request


def message_set(magic: int) -> bytes:
    """One record in the format before record batches, with its CRC-32."""
    times = struct.pack(">q", FIRST_MS) if magic else b""
    body = (
        struct.pack(">bb", magic, 0)
        + times
        + struct.pack(">i", -1)
        + struct.pack(">i5s", 5, b"value")
    )
    message = struct.pack(">I", zlib.crc32(body)) + body
    return struct.pack(">qi", 0, len(message)) + message
