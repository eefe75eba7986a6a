"""Recovery's verdicts at every position: clean, torn or damaged, by a scan in memory.

The rule under test: everything before the last whole record survives; what a later header, a
checkpoint or the next segment proves to have been durable is damage when it is bad, and never cut;
everything else that is bad was acknowledged to nobody and is a torn tail.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage import recovery
from storage.recovery import ScanResult
from storage.wal_format import RECORD_HEADER_BYTES
from tests.storage.builder import SECTOR, batch_of, batch_of_size
from tests.storage.segment_image import Placed, SegmentImage

# Body sizes around the block's edges, and one that spans several blocks.
BODY_SIZES = (100, SECTOR - 1, SECTOR, SECTOR + 1, 3 * SECTOR, 90, 2 * SECTOR - 1, 700, 80, 1300)


def sequential_segment() -> SegmentImage:
    """Each write was durable before the next one was submitted: only the last is in doubt."""
    image = SegmentImage()
    for size in BODY_SIZES:
        image.add(batch_of_size(size))
    return image


def pipelined_segment(durable_count: int) -> SegmentImage:
    """The records behind the first `durable_count` were in flight together."""
    image = SegmentImage()
    for i, size in enumerate(BODY_SIZES):
        known = image.records[durable_count - 1].end_pos if i >= durable_count > 0 else None
        image.add(batch_of_size(size), durable_pos=SECTOR if durable_count == 0 else known)
    return image


SEQUENTIAL = sequential_segment()
PIPELINED = pipelined_segment(4)


def whole_before(image: SegmentImage, cut_pos: int) -> list[Placed]:
    """The records of which nothing but padding lies behind `cut_pos`."""
    return [placed for placed in image.records if placed.body_end_pos <= cut_pos]


def assert_ends_behind(result: ScanResult, image: SegmentImage, survivors: list[Placed]) -> None:
    assert result.record_count == len(survivors)
    assert result.end_pos == (survivors[-1].end_pos if survivors else SECTOR)
    assert result.next_offset == (survivors[-1].next_offset if survivors else 0)
    last_crc = survivors[-1].header_crc if survivors else image.header.header_crc
    assert result.last_header_crc == last_crc


# --- whole files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [0, SECTOR, 10 * SECTOR, 100])
def test_a_whole_segment_is_clean_with_or_without_preallocated_space(zeros: int) -> None:
    scanned = SEQUENTIAL.scan(SEQUENTIAL.data + bytes(zeros))
    assert scanned.verdict == "clean"
    assert_ends_behind(scanned.result, SEQUENTIAL, SEQUENTIAL.records)
    assert [record.pos for record in scanned.seen] == [p.pos for p in SEQUENTIAL.records]
    assert scanned.index.positions[0] == SECTOR


def test_an_empty_segment_is_clean() -> None:
    image = SegmentImage(base_offset=7)
    scanned = image.scan(image.data + bytes(8 * SECTOR))
    assert scanned.verdict == "clean"
    assert (scanned.result.end_pos, scanned.result.next_offset) == (SECTOR, 7)


def test_a_record_larger_than_a_read_is_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "SCAN_BYTES", 2 * SECTOR)
    scanned = SEQUENTIAL.scan(SEQUENTIAL.data + bytes(20 * SECTOR))
    assert scanned.verdict == "clean"
    assert_ends_behind(scanned.result, SEQUENTIAL, SEQUENTIAL.records)


# --- (a) cut anywhere -----------------------------------------------------------------------------


@pytest.mark.parametrize("image", [SEQUENTIAL, PIPELINED], ids=["sequential", "pipelined"])
def test_a_segment_cut_at_any_byte_recovers_to_its_last_whole_record(image: SegmentImage) -> None:
    for cut_pos in range(SECTOR, len(image.data) + 1):
        scanned = image.scan(image.data[:cut_pos])
        survivors = whole_before(image, cut_pos)
        assert scanned.verdict in ("clean", "torn"), f"cut at {cut_pos}"
        assert_ends_behind(scanned.result, image, survivors)


def test_a_segment_zeroed_from_any_block_on_recovers_to_its_last_whole_record() -> None:
    old, size = SEQUENTIAL.data, len(SEQUENTIAL.data)
    for cut_pos in range(SECTOR, size, SECTOR):
        data = SEQUENTIAL.data[:cut_pos] + bytes(size - cut_pos)
        scanned = SEQUENTIAL.scan(data)
        same = [p for p in SEQUENTIAL.records if data[: p.body_end_pos] == old[: p.body_end_pos]]
        survivors = SEQUENTIAL.records[: len(same)]  # the last byte of a body may be zero
        assert scanned.verdict in ("clean", "torn")
        assert_ends_behind(scanned.result, SEQUENTIAL, survivors)


def test_a_cut_before_what_is_known_to_be_durable_is_damage() -> None:
    for known in (SECTOR, SEQUENTIAL.records[4].end_pos, SEQUENTIAL.records[-1].end_pos):
        for cut_pos in range(SECTOR, len(SEQUENTIAL.data) + 1, 37):
            scanned = SEQUENTIAL.scan(SEQUENTIAL.data[:cut_pos], durable_pos=known)
            end_pos = scanned.result.end_pos
            assert (scanned.verdict == "damaged") == (end_pos < known)
            if end_pos < known:
                assert str(known) in (scanned.result.damage or "")
                assert scanned.result.bad


# --- (b) damage that nobody was told is durable ---------------------------------------------------


def test_a_flipped_byte_anywhere_in_the_last_record_is_a_torn_tail() -> None:
    last = SEQUENTIAL.records[-1]
    for pos in range(last.pos, last.end_pos):
        data = bytearray(SEQUENTIAL.data)
        data[pos] ^= 0x40
        scanned = SEQUENTIAL.scan(data + bytes(4 * SECTOR))
        is_padding = (
            last.pos + RECORD_HEADER_BYTES <= pos < last.body_pos or last.body_end_pos <= pos
        )
        survivors = SEQUENTIAL.records if is_padding else SEQUENTIAL.records[:-1]
        assert scanned.verdict == ("clean" if is_padding else "torn"), f"flip at {pos}"
        assert_ends_behind(scanned.result, SEQUENTIAL, survivors)


@settings(max_examples=150)
@given(st.integers(0, len(BODY_SIZES)), st.data())
def test_bad_records_in_flight_together_are_a_torn_tail_from_the_first_bad_one(
    durable_count: int, data: st.DataObject
) -> None:
    image = pipelined_segment(durable_count)
    tail = image.records[durable_count:]
    bad = data.draw(st.sets(st.sampled_from(tail), min_size=1) if tail else st.just(set()))
    bytes_now = bytearray(image.data)
    for placed in bad:
        where = data.draw(
            st.integers(placed.pos, placed.pos + RECORD_HEADER_BYTES - 1)
            | st.integers(placed.body_pos, placed.body_end_pos - 1)
        )
        bytes_now[where] ^= data.draw(st.integers(1, 255))
    scanned = image.scan(bytes_now)
    survivors = [p for p in image.records if all(p.pos < other.pos for other in bad)]
    assert scanned.verdict == ("torn" if bad else "clean")
    assert_ends_behind(scanned.result, image, survivors)


def test_any_subset_of_the_writes_in_flight_may_be_missing() -> None:
    durable_count = 4
    image = PIPELINED
    tail = image.records[durable_count:]
    for missing in range(1 << len(tail)):
        data = bytearray(image.data)
        for i, placed in enumerate(tail):
            if missing >> i & 1:
                data[placed.pos : placed.end_pos] = bytes(placed.end_pos - placed.pos)
        scanned = image.scan(data)
        first_missing = next((i for i in range(len(tail)) if missing >> i & 1), len(tail))
        assert scanned.result.damage is None
        assert_ends_behind(scanned.result, image, image.records[: durable_count + first_missing])


def test_a_record_of_the_same_place_in_a_former_life_does_not_chain() -> None:
    """After a cut the place was written again; what lies behind is older and must not follow."""
    old = SegmentImage()
    for _ in range(4):
        old.add(batch_of_size(300), durable_pos=SECTOR)
    new = SegmentImage()
    new.add(batch_of(b"x" * 200))
    assert len(new.data) == old.records[1].pos
    data = new.data + old.data[old.records[1].pos :]
    scanned = new.scan(data)
    assert scanned.verdict == "torn"
    assert scanned.result.bad == "a record that does not chain to the one before it"
    assert_ends_behind(scanned.result, new, new.records)


def test_a_whole_record_of_the_wrong_offset_ends_the_log() -> None:
    image = SegmentImage()
    image.add(batch_of(b"a"))
    image.records[0] = replace(image.records[0], next_offset=9)
    image.add(batch_of(b"b"), durable_pos=SECTOR)  # chains, but starts at offset 9 and not 1
    scanned = image.scan()
    assert scanned.result.bad == "a record of offset 9, not 1"
    assert scanned.result.end_pos == image.records[0].end_pos


# --- (c) damage of what was durable ---------------------------------------------------------------


def test_a_flipped_byte_in_any_record_that_a_later_one_proves_durable_is_damage() -> None:
    for placed in SEQUENTIAL.records[:-1]:
        positions = [
            *range(placed.pos, placed.pos + RECORD_HEADER_BYTES),
            *range(placed.body_pos, placed.body_end_pos, 13),
            placed.body_end_pos - 1,
        ]
        for pos in positions:
            data = bytearray(SEQUENTIAL.data)
            data[pos] ^= 0x01
            scanned = SEQUENTIAL.scan(data)
            assert scanned.verdict == "damaged", f"flip at {pos}"
            assert scanned.result.end_pos == placed.pos
            assert "durable" in (scanned.result.damage or "")


def test_durable_records_are_damaged_and_those_in_flight_behind_them_only_torn() -> None:
    durable_end = PIPELINED.records[3].end_pos
    for placed in PIPELINED.records:
        data = bytearray(PIPELINED.data)
        data[placed.body_pos] ^= 0x01
        scanned = PIPELINED.scan(data)
        expected = "damaged" if placed.end_pos <= durable_end else "torn"
        assert scanned.verdict == expected
        assert scanned.result.end_pos == placed.pos


@settings(max_examples=150)
@given(st.integers(SECTOR, len(SEQUENTIAL.data) - 1), st.integers(1, 5 * SECTOR), st.randoms())
@example(SECTOR, SECTOR, random.Random(0))
def test_a_range_of_noise_is_damage_where_a_proof_survives_it(
    start: int, length: int, rng: random.Random
) -> None:
    data = bytearray(SEQUENTIAL.data)
    end = min(start + length, len(data))
    data[start:end] = bytes(byte ^ (rng.getrandbits(8) or 1) for byte in data[start:end])
    scanned = SEQUENTIAL.scan(data)

    def is_hit(placed: Placed) -> bool:
        header = start < placed.pos + RECORD_HEADER_BYTES and placed.pos < end
        return header or (start < placed.body_end_pos and placed.body_pos < end)

    hit = [placed for placed in SEQUENTIAL.records if is_hit(placed)]
    if not hit:
        assert scanned.verdict == "clean"
        return
    first = hit[0]
    proofs = [
        placed
        for placed in SEQUENTIAL.records
        if placed.durable_pos > first.pos
        and not (start < placed.pos + RECORD_HEADER_BYTES and placed.pos < end)
    ]
    assert scanned.verdict == ("damaged" if proofs else "torn")
    assert_ends_behind(
        scanned.result, SEQUENTIAL, [p for p in SEQUENTIAL.records if p.pos < first.pos]
    )


def test_a_proof_far_behind_the_bad_record_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "SCAN_BYTES", 2 * SECTOR)
    image = SegmentImage()
    image.add(batch_of_size(90))
    image.add(batch_of_size(60 * SECTOR), durable_pos=SECTOR)
    image.add(batch_of_size(90))
    data = bytearray(image.data)
    data[SECTOR] ^= 1
    scanned = image.scan(data)
    assert scanned.verdict == "damaged"
    assert f"position {image.records[2].pos}" in (scanned.result.damage or "")


def test_the_magic_inside_a_value_proves_nothing() -> None:
    image = SegmentImage()
    image.add(batch_of_size(90))
    fake = SegmentImage()
    fake.add(batch_of_size(90))
    fake.add(batch_of_size(90))
    # A whole record header of another position, aligned as a real one would be, in a value.
    value = bytes(SECTOR - 70) + bytes(fake.data[fake.records[1].pos :][:SECTOR]) + b"RPKR" * 9
    image.add(batch_of(value), durable_pos=SECTOR)
    data = bytearray(image.data)
    data[SECTOR + 9] ^= 1
    assert image.scan(data).verdict == "torn"


@settings(max_examples=200)
@given(st.binary(max_size=4 * SECTOR), st.integers(0, 3))
def test_any_bytes_behind_a_segment_header_are_scanned_to_a_verdict(
    noise: bytes, records: int
) -> None:
    image = SegmentImage()
    for _ in range(records):
        image.add(batch_of_size(200))
    scanned = image.scan(image.data + noise)
    assert scanned.result.record_count >= records
    assert scanned.result.damage is None
