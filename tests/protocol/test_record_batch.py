"""Record batches: golden bytes, foreign builders and readers, patching, and malformed batches."""

from __future__ import annotations

import datetime
import io
import random
import struct
from typing import Any

import crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record import MemoryRecords, MemoryRecordsBuilder
from kio.records import readers as kio_readers
from kio.records import writers as kio_writers
from kio.records.schema import NewRecordBatch
from kio.records.schema import Record as KioRecord
from kio.records.schema import RecordHeader as KioHeader
from kio.static.primitive import TZAwareMicros

from kafka_protocol import record_batch
from kafka_protocol.errors import DecodeError
from kafka_protocol.record_batch import (
    Record,
    build_batch,
    iter_batches,
    iter_records,
    parse_header,
)
from tests.protocol.cases import BATCHES, NONE_BATCH, RECORDS

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


@pytest.mark.parametrize("codec", range(5), ids=CODECS)
def test_batches_of_librdkafka_are_read(codec: int) -> None:
    batch = BATCHES[codec]
    header = parse_header(batch)
    assert header.compression == codec
    assert header.size_bytes == len(batch)
    assert record_batch.verify_crc(batch, 0, len(batch), header.crc)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (4711, 0, 0)
    assert (header.record_count, header.last_offset) == (3, 2)
    assert (header.base_timestamp, header.max_timestamp) == (1700000000123, 1700000000124)
    assert list(iter_records(memoryview(batch), 1_000_000)) == RECORDS


def test_an_uncompressed_batch_is_built_as_librdkafka_builds_it() -> None:
    built = build_batch(
        RECORDS, producer_id=4711, producer_epoch=0, base_sequence=0, leader_epoch=0
    )
    assert built.hex() == NONE_BATCH.hex()


@pytest.mark.parametrize("codec", range(5), ids=CODECS)
def test_what_is_built_is_read_again(codec: int) -> None:
    records = [
        Record(100 + i, 1700000000000 - i, b"k" * i, b"v" * (i * 50), [("h", b"x" * i)])
        for i in range(100)
    ]
    batch = build_batch(records, base_offset=100, compression=codec, leader_epoch=7)
    header = parse_header(batch)
    assert header.partition_leader_epoch == 7
    assert (header.base_offset, header.last_offset, header.record_count) == (100, 199, 100)
    assert (header.base_timestamp, header.max_timestamp) == (1700000000000, 1700000000000)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (-1, -1, -1)
    assert record_batch.verify_crc(batch, 0, header.size_bytes, header.crc)
    assert list(iter_records(memoryview(batch), 1_000_000)) == records


@pytest.mark.parametrize("codec", [0, 1], ids=["none", "gzip"])  # all that it can do by itself
def test_kafka_python_reads_our_batches_and_we_read_its(codec: int) -> None:
    ours = build_batch(RECORDS, compression=codec)
    (theirs,) = list(MemoryRecords(bytes(ours)))
    assert theirs.validate_crc()
    assert [(r.offset, r.timestamp, r.key, r.value, list(r.headers)) for r in theirs] == [
        tuple(r) for r in RECORDS
    ]
    builder = MemoryRecordsBuilder(magic=2, compression_type=codec, batch_size=1 << 20)
    for record in RECORDS:
        builder.append(record.timestamp, record.key, record.value, list(record.headers))
    builder.close()
    batch = bytes(builder.buffer())
    header = parse_header(batch)
    assert header.compression == codec
    assert record_batch.verify_crc(batch, 0, len(batch), header.crc)
    assert list(iter_records(memoryview(batch), 1_000_000)) == RECORDS


def test_kio_reads_our_batches_and_we_read_its() -> None:
    # Whole seconds: kio drops the milliseconds that it reads.
    records = [r._replace(timestamp=r.timestamp // 1000 * 1000) for r in RECORDS]
    ours = build_batch(records, base_offset=0, producer_id=5, producer_epoch=1, base_sequence=9)
    theirs, size = kio_readers.read_batch(bytes(ours), 0)
    assert size == len(ours)
    assert [_from_kio(r) for r in theirs.records] == records
    out = io.BytesIO()
    kio_writers.write_batch(
        out,
        NewRecordBatch(
            producer_id=5,
            producer_epoch=1,
            partition_leader_epoch=-1,
            base_sequence=9,
            records=tuple(_to_kio(r) for r in records),
            attributes=0,
        ),
    )
    batch = out.getvalue()
    header = parse_header(batch)
    assert record_batch.verify_crc(batch, 0, header.size_bytes, header.crc)
    assert list(iter_records(memoryview(batch), 1_000_000)) == records


def _from_kio(record: Any) -> Record:
    timestamp = (record.timestamp - EPOCH) // datetime.timedelta(milliseconds=1)
    headers = [(h.key.decode(), h.value) for h in record.headers]
    return Record(record.offset, timestamp, record.key, record.value, headers)


def _to_kio(record: Record) -> KioRecord:
    timestamp = EPOCH + datetime.timedelta(milliseconds=record.timestamp)
    return KioRecord(
        attributes=0,
        timestamp=TZAwareMicros.parse(timestamp),
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=tuple(KioHeader(key=k.encode(), value=v) for k, v in record.headers),
    )


def test_patching_offset_and_epoch_leaves_the_crc_valid() -> None:
    buf = bytearray(b"\xee" * 10 + NONE_BATCH)
    record_batch.patch(buf, 10, 123_456_789_012, 42)
    header = parse_header(buf, 10)
    assert (header.base_offset, header.partition_leader_epoch) == (123_456_789_012, 42)
    assert header.last_offset == 123_456_789_014
    assert record_batch.verify_crc(buf, 10, len(NONE_BATCH), header.crc)
    assert buf[:10] == b"\xee" * 10
    assert parse_header(NONE_BATCH)[3:] == header[3:]


def test_log_append_time_is_every_records_time_and_the_crc_is_new() -> None:
    buf = bytearray(b"\xee" * 3 + BATCHES[4])
    record_batch.set_log_append_time(buf, 3, len(BATCHES[4]), 1_800_000_000_000)
    header = parse_header(buf, 3)
    assert header.timestamp_type == 1
    assert header.compression == 4
    assert header.max_timestamp == 1_800_000_000_000
    assert header.crc != parse_header(BATCHES[4]).crc
    assert record_batch.verify_crc(buf, 3, header.size_bytes, header.crc)
    times = {r.timestamp for r in iter_records(memoryview(buf)[3:], 100_000)}
    assert times == {1_800_000_000_000}


def test_attribute_bits_are_told_apart() -> None:
    plain = parse_header(build_batch([(b"k", b"v")]))
    assert not plain.is_transactional
    assert not plain.is_control
    assert plain.timestamp_type == 0
    marker = parse_header(build_batch([(b"k", b"v")], transactional=True, control=True))
    assert marker.is_transactional
    assert marker.is_control
    assert marker.attributes == 0x30


def test_every_flipped_bit_under_the_crc_is_noticed() -> None:
    header = parse_header(NONE_BATCH)
    for pos in range(record_batch.CRC_START_POS, len(NONE_BATCH)):
        bad = bytearray(NONE_BATCH)
        bad[pos] ^= 0x10
        assert not record_batch.verify_crc(bad, 0, len(bad), header.crc)


def test_batches_back_to_back_are_iterated_with_their_positions() -> None:
    buf = memoryview(b"xx" + b"".join(BATCHES) + b"yy")
    found = list(iter_batches(buf, 2, len(buf) - 2))
    sizes = [len(batch) for batch in BATCHES]
    assert [pos for pos, _ in found] == [2 + sum(sizes[:i]) for i in range(5)]
    assert [header.size_bytes for _, header in found] == sizes
    assert list(iter_batches(buf, 7, 7)) == []


@pytest.mark.parametrize("cut", [1, 11, 12, 60, 61, 100, len(NONE_BATCH) - 1])
def test_a_cut_batch_is_a_decode_error(cut: int) -> None:
    with pytest.raises(DecodeError):
        list(iter_batches(NONE_BATCH[:cut], 0, cut))
    with pytest.raises(DecodeError):
        list(iter_records(memoryview(NONE_BATCH)[:cut], 1000))
    if cut < record_batch.RECORD_BATCH_OVERHEAD:
        with pytest.raises(DecodeError):
            parse_header(NONE_BATCH[:cut])


@pytest.mark.parametrize(
    ("pos", "value"), [(8, 48), (8, -1), (8, -(2**31)), (8, 2**31 - 1), (16, 1 << 24), (16, 0)]
)
def test_an_impossible_length_or_another_magic_is_a_decode_error(pos: int, value: int) -> None:
    bad = bytearray(NONE_BATCH)
    struct.pack_into(">i", bad, pos, value)
    with pytest.raises(DecodeError):
        list(iter_batches(bad, 0, len(bad)))
    with pytest.raises(DecodeError):
        list(iter_records(memoryview(bad), 1000))


@pytest.mark.parametrize("count", [0, 2, 4, -1, 2**31 - 1])
def test_a_wrong_record_count_is_a_decode_error(count: int) -> None:
    bad = bytearray(NONE_BATCH)
    struct.pack_into(">i", bad, 57, count)
    with pytest.raises(DecodeError):
        list(iter_records(memoryview(bad), 1000))


def test_mutated_records_are_records_or_a_decode_error() -> None:
    rng = random.Random(0)
    for batch in BATCHES:
        for _ in range(400):
            bad = bytearray(batch)
            for _ in range(rng.choice((1, 2, 3))):
                bad[rng.randrange(61, len(bad))] = rng.randrange(256)
            try:
                list(iter_records(memoryview(bad), 100_000))
            except DecodeError:
                pass


_bytes = st.none() | st.binary(max_size=200)
_records = st.lists(
    st.tuples(
        st.integers(-1, 2**62),
        _bytes,
        _bytes,
        st.lists(st.tuples(st.text(max_size=20), _bytes), max_size=3),
    ),
    min_size=1,
    max_size=20,
)


@given(rows=_records, codec=st.integers(0, 4), base_offset=st.integers(0, 2**62))
def test_any_records_survive_a_round_trip(rows: list[Any], codec: int, base_offset: int) -> None:
    records = [Record(base_offset + i, *row) for i, row in enumerate(rows)]
    batch = build_batch(records, base_offset=base_offset, compression=codec)
    assert crc32c.crc32c(batch[21:]) == parse_header(batch).crc
    assert list(iter_records(memoryview(batch), 100_000)) == records


def test_a_batch_without_records_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="at least one"):
        build_batch([])
