"""The bytes of a segment: golden bytes, so that a change of the format is noticed, and decoding."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_protocol.record_batch import iter_batches, iter_records
from storage.wal_format import (
    BLOCK_BYTES_MAX,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    RecordHeader,
    SegmentHeader,
    body_crc_holds,
    decode_record_header,
    decode_segment_header,
    encode_segment_header,
    record_bytes,
    round_up,
)
from tests.storage.builder import NOW_MS, SECTOR, TOPIC_ID, batch_of
from tests.storage.segment_image import SegmentImage

GOLDEN = Path(__file__).with_name("golden_segment.hex")


def small_segment() -> SegmentImage:
    """Blocks of 512 bytes; one record of two batches, then one record of one batch."""
    image = SegmentImage(
        partition=3,
        base_offset=1000,
        prev_base_offset=500,
        prev_end_pos=8192,
        prev_header_crc=0xDEADBEEF,
    )
    image.add(batch_of(b"first", b"second"), batch_of(b"third", timestamp_ms=NOW_MS + 5))
    image.add(batch_of(b"fourth", timestamp_ms=NOW_MS + 9), leader_epoch=2, durable_pos=512)
    return image


def dump(data: bytes | bytearray) -> str:
    """Position and hex of every 32 bytes that are not all zeros."""
    rows = [(pos, data[pos : pos + 32]) for pos in range(0, len(data), 32)]
    lines = [f"{pos:05x} {row.hex(' ', 4)}" for pos, row in rows if any(row)]
    return "\n".join([*lines, f"{len(data):05x} end", ""])


def test_a_small_segment_has_the_golden_bytes() -> None:
    # A difference is a new format: FORMAT_VERSION must rise, and old files must stay readable.
    assert dump(small_segment().data) == GOLDEN.read_text()


def test_the_golden_bytes_decode_to_what_they_were_made_of() -> None:
    data = bytearray()
    for line in GOLDEN.read_text().splitlines():
        pos, _, text = line.partition(" ")
        data += bytes(int(pos, 16) - len(data))
        data += bytes.fromhex(text) if text != "end" else b""
    header = decode_segment_header(memoryview(data))
    assert isinstance(header, SegmentHeader)
    assert header[:9] == (
        SECTOR, 0x1122334455667788, TOPIC_ID, 3, 1000, 500, 8192, 0xDEADBEEF, NOW_MS,
    )  # fmt: skip
    first = decode_record_header(memoryview(data)[512:], header, 512)
    assert first is not None
    assert first.prev_header_crc == header.header_crc
    assert first[6:] == (512, header.header_crc, 512, 1000, 1002, NOW_MS + 5, 1, 2)
    body = memoryview(data)[1024 : 1024 + first.body_length]
    assert body_crc_holds(first, body)
    values = [
        (record.offset, record.value)
        for pos, batch in iter_batches(body, 0, len(body))
        for record in iter_records(body[pos : pos + batch.size_bytes], 1 << 20)
    ]
    assert values == [(1000, b"first"), (1001, b"second"), (1002, b"third")]
    second_pos = 512 + record_bytes(first.body_length, 512)
    second = decode_record_header(memoryview(data)[second_pos:], header, second_pos)
    assert second is not None
    assert second[6:] == (second_pos, first.header_crc, 512, 1003, 1003, NOW_MS + 9, 2, 1)
    assert len(data) == second_pos + record_bytes(second.body_length, 512)


@pytest.mark.parametrize("pos", range(SEGMENT_HEADER_BYTES))
def test_a_flipped_bit_anywhere_in_a_segment_header_is_found(pos: int) -> None:
    data = bytearray(small_segment().data)
    data[pos] ^= 0x10
    assert isinstance(decode_segment_header(memoryview(data)), str)


@pytest.mark.parametrize("pos", range(RECORD_HEADER_BYTES))
def test_a_flipped_bit_anywhere_in_a_record_header_is_found(pos: int) -> None:
    image = small_segment()
    data = bytearray(image.data[512:1024])
    data[pos] ^= 0x10
    assert decode_record_header(memoryview(data), image.header, 512) is None


@pytest.mark.parametrize("length", range(SEGMENT_HEADER_BYTES))
def test_a_segment_header_that_is_cut_says_where(length: int) -> None:
    data = memoryview(bytes(small_segment().data))[:length]
    assert decode_segment_header(data) == f"the file ends after {length} bytes, inside its header"


@pytest.mark.parametrize("block_bytes", [0, 256, 513, 4097, 131072])
def test_an_impossible_block_size_is_refused(block_bytes: int) -> None:
    header = small_segment().header._replace(block_bytes=block_bytes)
    data = bytearray(512)
    encode_segment_header(memoryview(data), header)
    assert decode_segment_header(memoryview(data)) == f"the block size is {block_bytes}"


@pytest.mark.parametrize(
    "change",
    [
        {"incarnation": 7},
        {"topic_id": bytes(16)},
        {"partition": 4},
    ],
)
def test_a_record_of_another_file_is_no_record(change: dict[str, object]) -> None:
    image = small_segment()
    other = image.header._replace(**change)  # type: ignore[arg-type]
    view = memoryview(image.data)[512:]
    assert decode_record_header(view, image.header, 512) is not None
    assert decode_record_header(view, other, 512) is None


def test_a_record_at_another_position_is_no_record() -> None:
    image = small_segment()
    assert decode_record_header(memoryview(image.data)[512:], image.header, 1024) is None


@given(st.integers(0, 1 << 32), st.sampled_from([512, 4096, BLOCK_BYTES_MAX]))
def test_rounding_up_gives_the_next_multiple(size: int, block_bytes: int) -> None:
    rounded = round_up(size, block_bytes)
    assert rounded % block_bytes == 0
    assert 0 <= rounded - size < block_bytes
    assert record_bytes(size, block_bytes) == rounded + block_bytes


@given(st.binary(max_size=600))
def test_any_bytes_decode_or_are_refused_in_words(data: bytes) -> None:
    header = decode_segment_header(memoryview(data))
    assert isinstance(header, (str, SegmentHeader))
    record = decode_record_header(memoryview(data), small_segment().header, 0)
    assert record is None or isinstance(record, RecordHeader)
