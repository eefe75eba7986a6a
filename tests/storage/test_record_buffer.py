"""Slices of one record, spans of a partition, and the shard's budget over all of them."""

from __future__ import annotations

import pytest

from kafka_protocol.record_batch import parse_header, patch
from storage.record_buffer import RecordBuffer, RecordCache, Spans
from tests.storage.builder import BLOCK, Stored, batch_of


def filled(base_offset: int, counts: tuple[int, ...], epoch: int = 1) -> RecordBuffer:
    """A record whose batches hold so many Kafka records each."""
    record = RecordBuffer.allocate(BLOCK, BLOCK, base_offset, epoch)
    offset = base_offset
    for count in counts:
        batch = batch_of(*[b"%d" % offset] * count)
        patch(batch, 0, offset, epoch)
        record.batch_bases.append(offset)
        record.batch_starts.append(record.size)
        record.body[record.size : record.size + len(batch)] = batch
        record.size += len(batch)
        offset += count
    record.next_offset = offset
    return record


def batches_of(record: RecordBuffer) -> list[Stored]:
    ends = [*record.batch_starts[1:], record.size]
    nexts = [*record.batch_bases[1:], record.next_offset]
    return [
        Stored(base, next_offset, bytes(record.body[start:end]))
        for base, next_offset, start, end in zip(
            record.batch_bases, nexts, record.batch_starts, ends, strict=True
        )
    ]


def from_disk(record: RecordBuffer) -> RecordBuffer:
    body = record.body[: record.size].toreadonly()
    return RecordBuffer.from_disk(body, record.base_offset, record.next_offset, 1)


RECORD = filled(10, (1, 3, 1, 5, 2))
BATCHES = batches_of(RECORD)


def test_a_new_buffer_is_zeroed_and_its_header_block_is_not_body() -> None:
    record = RecordBuffer.allocate(3 * BLOCK, BLOCK, 5, 1)
    assert (len(record.view), len(record.body), record.capacity_bytes) == (
        4 * BLOCK,
        3 * BLOCK,
        4 * BLOCK,
    )
    assert bytes(record.view) == bytes(4 * BLOCK)
    record.body[0] = 7
    assert record.view[BLOCK] == 7


@pytest.mark.parametrize("record", [RECORD, from_disk(RECORD)], ids=["written", "read back"])
@pytest.mark.parametrize("at_least_one", [True, False])
def test_slices_are_the_most_whole_batches_that_fit(
    record: RecordBuffer, at_least_one: bool
) -> None:
    sizes = [len(batch.data) for batch in BATCHES]
    edges = {sum(sizes[i:j]) + d for i in range(5) for j in range(i, 6) for d in (-1, 0, 1)}
    limits = [batch.next_offset for batch in BATCHES] + [999]
    for offset in range(10, 22):
        for limit in limits:
            if limit <= offset:
                continue
            for max_bytes in edges:
                taken, end = b"", offset
                for batch in BATCHES:
                    if batch.next_offset <= offset or batch.base_offset >= limit:
                        continue
                    first = at_least_one and not taken
                    if len(taken) + len(batch.data) > max_bytes and not first:
                        break
                    taken, end = taken + batch.data, batch.next_offset
                part, next_offset = record.slice(offset, limit, max_bytes, at_least_one)
                assert (bytes(part), next_offset) == (taken, end)


def test_a_slice_is_a_view_and_no_copy() -> None:
    record = filled(0, (1,))
    part, _ = record.slice(0, 1, BLOCK, True)
    record.body[20] ^= 0xFF
    assert part[20] == record.body[20]


def test_spans_are_read_across_records_and_stop_at_a_hole() -> None:
    spans, records = (
        Spans(),
        [filled(0, (2, 2)), filled(4, (3,)), filled(7, (1, 1)), filled(9, (4,))],
    )
    for i in (2, 0, 3, 1):
        assert spans.add(records[i])
        assert not spans.add(records[i])
    everything = b"".join(bytes(record.body[: record.size]) for record in records)
    found = spans.read(0, 99, 1 << 20, True)
    assert found is not None
    assert (b"".join(found[0]), found[1]) == (everything, 13)
    spans.drop(records[1])
    found = spans.read(1, 99, 1 << 20, True)
    assert found is not None
    assert found[1] == 4
    assert spans.read(4, 99, 1 << 20, True) is None
    assert spans.read(6, 99, 1 << 20, True) is None
    found = spans.read(8, 99, 1 << 20, True)
    assert found is not None
    assert found[1] == 13
    assert spans.read(13, 99, 1, True) is None


def test_a_record_that_is_read_back_does_not_displace_the_one_in_memory() -> None:
    spans, record = Spans(), filled(0, (2, 2))
    spans.add(record)
    again = from_disk(record)
    assert not spans.add(again)
    spans.drop(again)  # not the one that is here
    assert spans.read(0, 4, BLOCK, True) is not None


def test_cleared_spans_hold_nothing() -> None:
    spans, record = Spans(), filled(0, (2,))
    spans.add(record)
    spans.clear()
    assert spans.read(0, 2, BLOCK, True) is None
    spans.drop(record)
    assert spans.add(record)


def test_the_cache_evicts_the_oldest_whole_buffers_of_all_partitions() -> None:
    cache, partitions = RecordCache(6 * BLOCK), [Spans(), Spans()]
    records = [filled(i, (1,)) for i in range(8)]
    for i, record in enumerate(records):
        spans = partitions[i % 2]
        spans.add(record)
        cache.admit(record, spans)
        assert cache.used_bytes <= cache.budget_bytes
    assert cache.evictions == 5
    assert cache.used_bytes == 3 * 2 * BLOCK
    kept = [i for i in range(8) if partitions[i % 2].read(i, 99, BLOCK, True) is not None]
    assert kept == [5, 6, 7]


def test_a_budget_of_nothing_keeps_nothing_and_a_record_beyond_it_leaves_at_once() -> None:
    cache, spans, record = RecordCache(0), Spans(), filled(0, (1,))
    spans.add(record)
    cache.admit(record, spans)
    assert spans.read(0, 1, BLOCK, True) is None
    assert cache.used_bytes == 0


def test_records_that_are_read_back_count_what_they_hold() -> None:
    record = from_disk(RECORD)
    assert record.capacity_bytes == RECORD.size
    assert parse_header(record.body).base_offset == 10
