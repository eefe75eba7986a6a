"""Keys of a batch, and batches without some of their records, against records read one by one."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kafka_protocol.errors import DecodeError
from kafka_protocol.record_batch import (
    Record,
    build_batch,
    iter_records,
    parse_header,
    set_log_append_time,
    verify_crc,
)
from kafka_protocol.record_filter import emptied, inflated, iter_keys, with_horizon, without

SIZE_MAX = 1 << 24
CODECS = st.integers(0, 4)
RECORDS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.binary(max_size=5), st.binary(min_size=60, max_size=200)),
        st.one_of(st.none(), st.binary(max_size=5), st.binary(min_size=60, max_size=200)),
        st.integers(-(2**40), 2**40),
        st.lists(st.tuples(st.text(max_size=3), st.one_of(st.none(), st.binary(max_size=3)))),
    ),
    min_size=1,
    max_size=12,
)


def batch_of(rows: list[tuple[bytes | None, bytes | None, int, list[object]]], codec: int) -> bytes:
    records = [
        Record(100 + 3 * i, timestamp, key, value, headers)  # type: ignore[arg-type]
        for i, (key, value, timestamp, headers) in enumerate(rows)
    ]
    fields = {"producer_id": 9, "producer_epoch": 2, "base_sequence": 5, "leader_epoch": 4}
    return bytes(build_batch(records, base_offset=100, compression=codec, **fields))  # type: ignore[arg-type]


@given(RECORDS, CODECS)
def test_keys_are_those_of_the_records(rows: list[object], codec: int) -> None:
    batch = batch_of(rows, codec)  # type: ignore[arg-type]
    header = parse_header(batch)
    keys = list(iter_keys(inflated(batch, header, SIZE_MAX), header.record_count))
    assert keys == [(r.key, r.value is not None) for r in iter_records(batch, SIZE_MAX)]


@given(RECORDS, CODECS, st.integers(0, 2**12 - 2), st.booleans(), st.booleans())
@example([(b"k", None, 5, [])], 0, 0, True, False)
def test_what_is_left_is_as_it_was(
    rows: list[object], codec: int, dropped: int, horizon: bool, append_time: bool
) -> None:
    batch = bytearray(batch_of(rows, codec))  # type: ignore[arg-type]
    if append_time:
        set_log_append_time(batch, 0, len(batch), 77)
    before, records = parse_header(batch), list(iter_records(batch, SIZE_MAX))
    dropped &= (1 << len(records)) - 1
    if dropped == (1 << len(records)) - 1:
        dropped >>= 1
    data = inflated(batch, before, SIZE_MAX)
    left = (
        with_horizon(before, data, dropped, 123_456) if horizon else without(before, data, dropped)
    )
    header, kept = parse_header(left), [r for i, r in enumerate(records) if not dropped >> i & 1]
    assert verify_crc(left, 0, len(left), header.crc)
    assert list(iter_records(left, SIZE_MAX)) == kept
    assert header.record_count == len(kept)
    assert header.max_timestamp == max(r.timestamp for r in kept)
    assert header.delete_horizon_ms == (123_456 if horizon else None)
    same = "base_offset", "last_offset_delta", "producer_id", "producer_epoch", "base_sequence"
    for name in (*same, "partition_leader_epoch", "compression", "timestamp_type"):
        assert getattr(header, name) == getattr(before, name), name
    again = without(header, inflated(left, header, SIZE_MAX), 0)
    assert again == left, "filtering once more changes nothing"


def test_an_emptied_batch_keeps_its_offsets_and_sequences() -> None:
    batch = batch_of([(b"k", b"v", 7, []), (b"l", b"v", 9, [])], 4)
    before, left = parse_header(batch), emptied(parse_header(batch))
    header = parse_header(left)
    assert len(left) == 61
    assert verify_crc(left, 0, 61, header.crc)
    assert list(iter_records(left, SIZE_MAX)) == []
    assert (header.record_count, header.compression) == (0, 0)
    assert header.last_offset == before.last_offset
    assert (header.base_offset, header.base_sequence) == (before.base_offset, before.base_sequence)
    assert header.max_timestamp == before.max_timestamp


@given(st.binary(max_size=60), st.integers(0, 5))
def test_any_bytes_are_keys_or_refused(data: bytes, count: int) -> None:
    try:
        keys = list(iter_keys(data, count))
    except DecodeError:
        return
    assert len(keys) == count


def test_timestamps_that_do_not_fit_are_refused() -> None:
    batch = batch_of([(b"k", None, 2**62, [])], 0)
    header = parse_header(batch)._replace(base_timestamp=2**63 - 1, max_timestamp=2**63 - 1)
    data = inflated(batch, parse_header(batch), SIZE_MAX)
    far = bytes([*data[:2], 0x02, *data[3:]])  # a delta of 1
    with pytest.raises(DecodeError, match="does not fit"):
        without(header, far, 0)
