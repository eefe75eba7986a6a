"""The sparse index: look-ups against a plain list, and its file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.index import INDEX_INTERVAL_BYTES, SegmentIndex, decode_index
from storage.wal_format import SegmentHeader
from tests.storage.builder import BLOCK
from tests.storage.segment_image import SegmentImage

HEADER = SegmentImage(base_offset=100).header

records = st.lists(
    st.tuples(st.integers(1, 50), st.integers(2, 40), st.integers(-1, 1000)), max_size=60
)


def built(steps: list[tuple[int, int, int]]) -> tuple[SegmentIndex, list[tuple[int, int, int]]]:
    """An index and the (base offset, position, max timestamp) of the records it was given."""
    index, noted, offset, pos = SegmentIndex(), [], 100, BLOCK
    for offsets, blocks, timestamp in steps:
        index.append(offset, pos, timestamp)
        noted.append((offset, pos, timestamp))
        offset += offsets
        pos += blocks * BLOCK
    return index, noted


@given(records, st.integers(0, 4000))
def test_an_offset_leads_to_a_record_at_or_before_it_within_an_interval(
    steps: list[tuple[int, int, int]], offset: int
) -> None:
    index, noted = built(steps)
    pos = index.pos_for_offset(offset)
    holders = [record for record in noted if record[0] <= offset]
    if not holders:
        assert pos is None
        return
    assert pos is not None
    assert pos <= holders[-1][1] < pos + INDEX_INTERVAL_BYTES
    assert pos in [record[1] for record in noted]


@given(records, st.integers(-1, 1001))
def test_a_timestamp_leads_to_the_first_stretch_that_holds_one_as_large(
    steps: list[tuple[int, int, int]], timestamp: int
) -> None:
    index, noted = built(steps)
    i = index.entry_for_timestamp(timestamp)
    first = next((record for record in noted if record[2] >= timestamp), None)
    if first is None:
        assert i is None
        return
    assert i is not None
    assert index.positions[i] <= first[1]
    assert i + 1 == len(index.positions) or index.positions[i + 1] > first[1]
    assert index.max_timestamp == max(record[2] for record in noted)


@given(records)
def test_an_index_file_gives_back_the_index(steps: list[tuple[int, int, int]]) -> None:
    index, _ = built(steps)
    sealed = decode_index(index.encode(HEADER, 99 * BLOCK, 4711, 0xABCDEF01), HEADER)
    assert sealed is not None
    assert (sealed.end_pos, sealed.next_offset, sealed.last_header_crc) == (
        99 * BLOCK,
        4711,
        0xABCDEF01,
    )
    for column in ("base_offsets", "positions", "max_timestamps"):
        assert getattr(sealed.index, column) == getattr(index, column)


@given(records, st.integers(0, 40 * BLOCK))
def test_a_checkpoint_carries_the_entries_before_its_position(
    steps: list[tuple[int, int, int]], end_pos: int
) -> None:
    index, _ = built(steps)
    part = SegmentIndex.from_entries(index.encode_entries(end_pos))
    assert list(part.positions) == [pos for pos in index.positions if pos < end_pos]


def test_an_index_file_with_any_byte_changed_or_missing_is_refused() -> None:
    data = built([(1, 20, 5)] * 3)[0].encode(HEADER, BLOCK, 103, 1)
    for pos in range(len(data)):
        assert decode_index(data[:pos] + bytes([data[pos] ^ 4]) + data[pos + 1 :], HEADER) is None
        assert decode_index(data[:pos], HEADER) is None
    assert decode_index(data + b"\0", HEADER) is None


@pytest.mark.parametrize("change", [{"incarnation": 1}, {"base_offset": 101}])
def test_an_index_file_of_another_segment_is_refused(change: dict[str, int]) -> None:
    other: SegmentHeader = HEADER._replace(**change)  # type: ignore[arg-type]
    data = SegmentIndex().encode(HEADER, BLOCK, 100, 1)
    assert decode_index(data, HEADER) is not None
    assert decode_index(data, other) is None


def test_an_empty_index_knows_nothing() -> None:
    index = SegmentIndex()
    assert index.pos_for_offset(0) is None
    assert index.entry_for_timestamp(0) is None
    assert index.max_timestamp == -1
