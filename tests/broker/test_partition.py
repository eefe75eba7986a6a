"""Partition: epochs, the high watermark, and who is told what, over a real log."""

from __future__ import annotations

from pathlib import Path

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.record_batch import parse_header
from rpk_py.partition import Partition
from storage.errors import DiskFailed
from tests.broker.connection_fakes import NOW_MS, Shard, run, running, ticks, until
from tests.broker.request_builders import batch_of


class Waiter:
    """A produce request and a long poll in one: notes what it is told."""

    def __init__(self) -> None:
        self.settled: list[tuple[object, ErrorCode]] = []
        self.woken = 0

    def settle(self, token: object, error: ErrorCode) -> None:
        self.settled.append((token, error))

    def wake(self) -> None:
        self.woken += 1


def append(partition: Partition, *values: bytes, **fields: int) -> int:
    batch = batch_of(*values, **fields)
    return partition.append(memoryview(batch), parse_header(batch), NOW_MS)


async def made(shard: Shard, write_caching: str = "false") -> Partition:
    await shard.create("t", write_caching=write_caching)
    return shard.partition("t")


def test_the_high_watermark_follows_what_is_durable(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            partition = await made(shard)
            shard.disk.hold = True
            for i in range(3):
                assert append(partition, b"a", b"b") == 2 * i
                await until(lambda: shard.disk.held)
            log = shard.log_of("t")
            assert (partition.high_watermark, log.log_end_offset) == (0, 6)
            shard.disk.release(1)
            assert partition.high_watermark == partition.last_stable_offset == 2
            await until(lambda: shard.disk.held)
            shard.disk.release(1)
            assert partition.high_watermark == log.durable_offset == 6

    run(scenario())


def test_waiters_are_told_in_order_and_once_when_their_batch_is_durable(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            partition, waiter = await made(shard), Waiter()
            shard.disk.hold = True
            append(partition, b"a")
            await until(lambda: shard.disk.held)
            append(partition, b"b", b"c")
            for end, token in ((1, "first"), (3, "third"), (1, "first again")):
                assert not partition.when_visible(end, waiter, token)
            assert partition.when_visible(0, waiter, "never told")
            shard.disk.release(1)
            assert waiter.settled == [("first", ErrorCode.NONE)]
            await until(lambda: shard.disk.held)
            shard.disk.release()
            told = [("first", 0), ("third", 0), ("first again", 0)]
            assert waiter.settled == told
            assert partition.when_visible(3, waiter, "not told either")

    run(scenario())


def test_fetch_waiters_are_woken_by_every_advance_until_they_leave(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            partition, stays, leaves = await made(shard), Waiter(), Waiter()
            for waiter in (stays, leaves, stays):
                partition.add_fetch_waiter(waiter)
            append(partition, b"a")
            await until(lambda: partition.high_watermark == 1)
            assert (stays.woken, leaves.woken) == (1, 1)
            partition.remove_fetch_waiter(leaves)
            partition.remove_fetch_waiter(leaves)
            append(partition, b"b")
            await until(lambda: partition.high_watermark == 2)
            assert (stays.woken, leaves.woken) == (2, 1)
            partition.remove_fetch_waiter(stays)

    run(scenario())


def test_a_failed_log_tells_everybody_once_and_refuses_from_then_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            partition, waiter = await made(shard), Waiter()
            shard.disk.hold = True
            shard.disk.broken = "t-0"
            append(partition, b"a")
            partition.when_visible(1, waiter, "one")
            partition.add_fetch_waiter(waiter)
            await until(lambda: shard.disk.held)
            append(partition, b"b")
            partition.when_visible(2, waiter, "two")
            shard.disk.release()
            storage_error = ErrorCode.KAFKA_STORAGE_ERROR
            assert waiter.settled == [("one", storage_error), ("two", storage_error)]
            assert waiter.woken == 1
            assert partition.offline
            assert partition.check_leader_epoch(-1) == storage_error
            assert partition.check_leader_epoch(3) == storage_error
            assert partition.high_watermark == 0
            with pytest.raises(DiskFailed):
                append(partition, b"c")
            partition.remove_fetch_waiter(waiter)
            await ticks()
            assert len(waiter.settled) == 2

    run(scenario())


def test_with_write_caching_the_appended_offset_is_visible(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            partition, waiter = await made(shard, write_caching="true"), Waiter()
            shard.disk.hold = True
            append(partition, b"a", b"b")
            assert partition.high_watermark == 0
            partition.advance()
            assert (partition.high_watermark, shard.log_of("t").durable_offset) == (2, 0)
            assert partition.when_visible(2, waiter, "told at once")
            partition.advance()
            assert partition.high_watermark == 2

    run(scenario())


def test_leader_epochs_are_compared_and_start_at_the_log_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            partition = await made(shard)
            epochs = {-1: "NONE", 2: "FENCED_LEADER_EPOCH", 3: "NONE", 4: "UNKNOWN_LEADER_EPOCH"}
            for epoch, error in epochs.items():
                assert partition.check_leader_epoch(epoch).name == error
            append(partition, b"a", b"b")
            partition.lead(5)
            append(partition, b"c")
            log = shard.log_of("t")
            assert log.epochs == [(3, 0), (5, 2)]
            assert [log.end_offset_for_epoch(e) for e in (3, 4, 5, 6)] == [
                (3, 2),
                (3, 2),
                (5, 3),
                (-1, -1),
            ]
            assert partition.check_leader_epoch(3) == ErrorCode.FENCED_LEADER_EPOCH

    run(scenario())


def test_a_partition_without_a_log_is_offline_from_the_start() -> None:
    partition = Partition("t", bytes(16), 0, 1, 1000, False)
    partition.fail("it is damaged", ErrorCode.KAFKA_STORAGE_ERROR)
    partition.fail("later", ErrorCode.KAFKA_STORAGE_ERROR)
    assert partition.offline
    assert partition.error_message == "it is damaged"
    assert (partition.log_start_offset, partition.high_watermark) == (-1, 0)
    assert partition.check_leader_epoch(1) == ErrorCode.KAFKA_STORAGE_ERROR


def test_only_idempotent_batches_are_noted_for_their_producer(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            partition = await made(shard)
            append(partition, b"a")
            assert len(partition.producers) == 0
            append(partition, b"b", producer_id=9, producer_epoch=0, base_sequence=4)
            assert 9 in partition.producers
            assert partition.producers.check(9, 0, 5, 0) == ErrorCode.NONE

    run(scenario())
