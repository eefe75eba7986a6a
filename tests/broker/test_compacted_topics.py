"""Compacted topics on a shard: records without a key are refused, and the cleaner compacts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from struct import pack_into
from typing import Any

import pytest

from kafka_protocol import compression
from kafka_protocol.errors import ErrorCode
from kafka_protocol.record_batch import build_batch, iter_batches, iter_records, parse_header
from rpk_py import record_keys
from rpk_py.cleaner import Cleaner
from rpk_py.metadata.state import TopicConfigsChanged
from tests.broker.connection_fakes import Shard, run, running, ticks, until
from tests.broker.request_builders import produce_request, resummed

VERSIONS = range(3, 14)
CODECS = range(5)
Pairs = Sequence[tuple[bytes | None, bytes | None]]


def batch_of_pairs(pairs: Pairs, **fields: Any) -> bytes:
    return bytes(build_batch(pairs, **fields))


def keyed(count: int, **fields: Any) -> bytes:
    return batch_of_pairs([(b"key %d" % i, b"value") for i in range(count)], **fields)


async def values(shard: Shard, topic: str) -> list[bytes | None]:
    log = shard.log_of(topic)
    found: list[bytes | None] = []
    offset = log.log_start_offset
    while offset < log.durable_offset:
        slices, offset = await log.read(offset, log.durable_offset, 1 << 20)
        for part in slices:
            for pos, header in iter_batches(part, 0, len(part)):
                batch = part[pos : pos + header.size_bytes]
                found += [record.value for record in iter_records(batch, 1 << 24)]
    return found


# --- records without a key ------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_a_record_without_a_key_is_refused_and_named(
    tmp_path: Path, version: int, policy: str
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t", cleanup_policy=policy)
            name = topic.topic_id if version >= 13 else "t"
            client = shard.client()
            bad = batch_of_pairs([(b"k", b"0"), (None, b"1"), (b"", b"2"), (None, None)])
            answer = await client.produce(name, bad, version=version)
            assert answer.error_code == ErrorCode.INVALID_RECORD
            assert answer.base_offset == -1
            if version >= 8:
                assert [error.batch_index for error in answer.record_errors] == [1, 3]
                assert answer.error_message is not None
                assert "2 of its records without a key" in answer.error_message
                assert "t-0" in answer.error_message
            good = await client.produce(name, keyed(2), version=version)
            assert (good.error_code, good.base_offset) == (0, 0)
            assert await values(shard, "t") == [b"value"] * 2

    run(scenario())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [3, 5000])
def test_batches_of_any_codec_and_size_are_looked_into(
    tmp_path: Path, codec: int, count: int
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", cleanup_policy="compact")
            client = shard.client()
            pairs: list[tuple[bytes | None, bytes]] = [(b"k", b"v")] * count
            good = batch_of_pairs(pairs, compression=codec)
            assert (await client.produce("t", good)).error_code == 0
            pairs[-1] = (None, b"v")
            bad = batch_of_pairs(pairs, compression=codec)
            answer = await client.produce("t", bad)
            assert answer.error_code == ErrorCode.INVALID_RECORD
            assert [error.batch_index for error in answer.record_errors] == [count - 1]
            assert (await client.produce("t", good)).base_offset == count

    run(scenario())


def test_what_inflates_to_much_is_looked_into_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_keys, "INFLATED_BYTES_MAX", 4 << 20)
    in_thread: list[Any] = []

    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", cleanup_policy="compact")
            turns = shard.broker.turns
            real = turns.in_thread

            async def noted(work: Any, *args: Any) -> Any:
                in_thread.append(work)
                return await real(work, *args)

            turns.in_thread = noted  # type: ignore[method-assign]
            client = shard.client()
            small = batch_of_pairs([(b"k", b"v")], compression=compression.ZSTD)
            assert (await client.produce("t", small)).error_code == 0
            assert not in_thread
            bomb = batch_of_pairs([(b"k", bytes(3 << 20))], compression=compression.ZSTD)
            assert len(bomb) < 4096
            assert (await client.produce("t", bomb)).error_code == 0
            assert in_thread[0] is record_keys.check_keys
            assert await client.produce("t", keyed(1), keyed(2)) is not None

    run(scenario())


def test_records_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", cleanup_policy="compact")
            client = shard.client()
            for codec in CODECS:
                batch = bytearray(keyed(3, compression=codec))
                batch[70:] = b"\xff" * (len(batch) - 70)
                answer = await client.produce("t", resummed(batch))
                assert answer.error_code == ErrorCode.INVALID_RECORD, codec
                assert answer.record_errors == []
                assert answer.error_message is not None
                assert "cannot be read" in answer.error_message
            assert shard.log_of("t").log_end_offset == 0

    run(scenario())


def test_other_topics_are_not_looked_into(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.create("compacted", cleanup_policy="compact")
            batch = batch_of_pairs([(None, b"v")] * 2000, compression=compression.GZIP)
            assert (await shard.client().produce("t", batch)).error_code == 0
            answer = await shard.client().produce("compacted", batch)
            assert answer.error_code == ErrorCode.INVALID_RECORD
            assert len(answer.record_errors) == record_keys.TOLD_MAX

    run(scenario())


def test_a_policy_that_changes_counts_from_then_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            topic = await shard.create("t")
            client, keyless = shard.client(), batch_of_pairs([(None, b"v")])
            assert (await client.produce("t", keyless)).error_code == 0
            change = TopicConfigsChanged(topic.topic_id, {"cleanup.policy": "compact"})
            await shard.controller.commit(change)
            assert (await client.produce("t", keyless)).error_code == ErrorCode.INVALID_RECORD
            await shard.controller.commit(TopicConfigsChanged(topic.topic_id, {}))
            assert (await client.produce("t", keyless)).error_code == 0

    run(scenario())


def test_requests_of_a_connection_keep_their_order(tmp_path: Path) -> None:
    """One that is looked into beside the loop, and those that come behind it."""

    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", cleanup_policy="compact")
            client = shard.client()
            answers = []
            for i in range(6):
                count = 2000 if i % 2 == 0 else 1
                batch = batch_of_pairs([(b"k", b"%d" % i)] * count)
                request, version = produce_request("t", batch)
                answers.append(asyncio.ensure_future(client.ask(request, version)))
            bases = [
                (await answer).responses[0].partition_responses[0].base_offset for answer in answers
            ]
            assert bases == [0, 2000, 2001, 4001, 4002, 6002]

    run(scenario())


def test_clients_may_not_set_a_delete_horizon(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", cleanup_policy="compact")
            batch = bytearray(keyed(1))
            pack_into(">h", batch, 21, 0x40)
            assert parse_header(batch).delete_horizon_ms is not None
            answer = await shard.client().produce("t", resummed(batch))
            assert answer.error_code == ErrorCode.INVALID_RECORD

    run(scenario())


# --- the cleaner ----------------------------------------------------------------------------------


async def fill(shard: Shard, topic: str, rounds: int = 30, **fields: Any) -> None:
    """Five keys, again and again, in several segments."""
    client = shard.client()
    for i in range(rounds):
        pairs = [(b"k%d" % (i % 5), b"%d" % i + bytes(4000))]
        assert (await client.produce(topic, batch_of_pairs(pairs, **fields))).error_code == 0
    await ticks(20)
    log = shard.log_of(topic)
    await until(lambda: len(log.rewriter.sealed()) == len(log.rewriter.segments) - 1)


def test_a_round_compacts_what_is_dirty_enough_and_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, segment_bytes=65536, segment_rewrite=False) as shard:
            await shard.create("compacted", cleanup_policy="compact")
            await shard.create("kept")
            await shard.create("lazy", cleanup_policy="compact", min_cleanable_dirty_ratio="1.0")
            await shard.create("young", cleanup_policy="compact", min_compaction_lag_ms="10000000")
            topics = "compacted", "kept", "lazy", "young"
            for topic in topics:
                await fill(shard, topic, timestamp_ms=shard.broker.clock_ms())
            ends = {topic: shard.log_of(topic).log_end_offset for topic in topics}
            await Cleaner(shard.broker).round()
            left = {topic: len(await values(shard, topic)) for topic in topics}
            assert left["compacted"] < 20
            assert {left[topic] for topic in topics[1:]} == {30}
            assert ends == {topic: shard.log_of(topic).log_end_offset for topic in topics}
            assert shard.broker.metrics.compactions == 1
            assert shard.broker.metrics.compaction_dropped_records == 30 - left["compacted"]
            await Cleaner(shard.broker).round()
            assert shard.broker.metrics.compactions == 1

    run(scenario())


def test_a_record_that_waits_too_long_is_compacted_whatever_the_share(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, segment_bytes=65536) as shard:
            await shard.create(
                "t", cleanup_policy="compact", min_cleanable_dirty_ratio="1.0",
                max_compaction_lag_ms="1",
            )  # fmt: skip
            await fill(shard, "t")
            await Cleaner(shard.broker).round()
            assert shard.broker.metrics.compactions == 0
            context = shard.log_of("t").rewriter.context
            began_ms = context.now_ms()
            context.now_ms = lambda: began_ms + 2
            await Cleaner(shard.broker).round()
            assert shard.broker.metrics.compactions == 1
            assert len(await values(shard, "t")) < 30

    run(scenario())


def test_without_the_cleaner_only_padding_goes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, segment_bytes=1 << 18, log_cleaner_enable=False) as shard:
            await shard.create("t", cleanup_policy="compact")
            client = shard.client()
            for _ in range(100):
                await client.produce("t", keyed(1))
            log = shard.log_of("t")
            await until(lambda: len(log.rewriter.sealed()) == len(log.rewriter.segments) - 1)
            size = log.size_bytes
            await Cleaner(shard.broker).round()
            assert shard.broker.metrics.rewritten_segments > 1
            assert log.size_bytes == size - shard.broker.metrics.rewriting_saved_bytes < size / 2
            assert len(await values(shard, "t")) == 100
            assert shard.broker.metrics.compactions == 0

    run(scenario())


def test_internal_topics_are_not_compacted(tmp_path: Path) -> None:
    """They bound themselves; both at once would give up what the other has just written."""

    async def scenario() -> None:
        async with running(tmp_path, segment_bytes=65536) as shard:
            await shard.create("__consumer_offsets", cleanup_policy="compact")
            partition = shard.partition("__consumer_offsets")
            assert partition.compacted
            assert Cleaner(shard.broker)._compaction_config(partition) is None

    run(scenario())


def test_idempotent_producers_go_on_after_compaction_and_a_restart(tmp_path: Path) -> None:
    def batch(sequence: int) -> bytes:
        fields = {"producer_id": 7, "producer_epoch": 0, "base_sequence": sequence}
        return batch_of_pairs([(b"k", b"%d" % sequence + bytes(9000))], **fields)

    async def first_life() -> None:
        async with running(tmp_path, segment_bytes=65536) as shard:
            await shard.create("t", cleanup_policy="compact", min_cleanable_dirty_ratio="0.0")
            client = shard.client()
            for sequence in range(20):
                assert (await client.produce("t", batch(sequence))).error_code == 0
            await fill(shard, "t")
            await Cleaner(shard.broker).round()
            assert shard.broker.metrics.compactions == 1
            again = await client.produce("t", batch(19))
            assert (again.error_code, again.base_offset) == (0, 19), "a duplicate is still known"

    run(first_life())
