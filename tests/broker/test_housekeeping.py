"""Housekeeping: when it walks, what a walk deletes, and what clients see of it. A fake clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.record_batch import parse_header
from rpk_py.housekeeping import FIRST_CHECK_S, Housekeeping
from storage.errors import DiskFailed
from tests.broker.connection_fakes import Shard, run, running, ticks, until
from tests.broker.request_builders import (
    BATCH_TIMESTAMP_MS,
    KEYED,
    batch_of,
    fetch_request,
    values_of,
)

HOUR_MS = 3_600_000


@asynccontextmanager
async def kept(directory: Path, **settings: Any) -> AsyncIterator[tuple[Shard, Housekeeping]]:
    """A shard and its housekeeping, which stands still; records are three hours old."""
    async with running(directory, **settings) as shard:
        housekeeping = Housekeeping(shard.broker, lambda: BATCH_TIMESTAMP_MS + 3 * HOUR_MS)
        try:
            yield shard, housekeeping
        finally:
            await housekeeping.close()


def test_expired_records_are_gone_for_every_request(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with kept(tmp_path) as (shard, housekeeping):
            await shard.create("t", retention_ms=str(2 * HOUR_MS))
            await shard.create("kept", retention_ms=str(4 * HOUR_MS))
            for topic in ("t", "kept"):
                await shard.fill(topic, 3)
            await housekeeping.walk()
            client = shard.client()
            below = await client.fetch("t", 2)
            assert (below.error_code, below.log_start_offset) == (ErrorCode.OFFSET_OUT_OF_RANGE, 3)
            at_end = await client.fetch("t", 3)
            assert (at_end.error_code, values_of(at_end)) == (0, [])
            assert len(values_of(await client.fetch("kept", 0))) == 3
            produced = await client.produce("t", batch_of(b"new"), version=5)
            assert (produced.base_offset, produced.log_start_offset) == (3, 3)
            metrics = shard.broker.metrics
            assert {k: v for k, v in metrics.deleted_segments.items() if v} == {"retention.ms": 1}
            assert metrics.deleted_bytes["retention.ms"] > 0
            assert metrics.retention_checks == 1

    run(scenario())


def test_a_fetch_that_waits_in_what_goes_is_answered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with kept(tmp_path) as (shard, housekeeping):
            await shard.create("t", retention_ms=str(HOUR_MS))
            await shard.fill("t", 1)
            client = shard.client()
            request, version = fetch_request("t", 0, max_wait_ms=500_000, min_bytes=1 << 20)
            waiting = client.send(request, version)
            await ticks()
            assert client.order == []
            await housekeeping.walk()
            answer = (await client.reply(waiting)).responses[0].partitions[0]
            assert (answer.error_code, answer.log_start_offset) == (
                ErrorCode.OFFSET_OUT_OF_RANGE,
                1,
            )

    run(scenario())


def test_configs_that_change_count_at_the_next_walk(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with kept(tmp_path) as (shard, housekeeping):
            await shard.create("t")
            await shard.create("own", retention_ms=str(4 * HOUR_MS))
            await shard.create("compacted", cleanup_policy="compact")
            for topic in ("t", "own", "compacted"):
                await shard.fill(topic, 1, batch=KEYED)
            await housekeeping.walk()
            starts = {p.topic: p.log_start_offset for p in shard.table}
            assert starts == {"t": 0, "own": 0, "compacted": 0}
            shard.broker.config = replace(shard.config, log_retention_minutes=60)
            await shard.table.configure(shard.broker.config, shard.state)
            await housekeeping.walk()
            starts = {p.topic: p.log_start_offset for p in shard.table}
            assert starts == {"t": 1, "own": 0, "compacted": 0}

    run(scenario())


def test_groups_offsets_do_not_expire(tmp_path: Path) -> None:
    """Its policy is compact, as in Kafka; group_log.py bounds it."""

    async def scenario() -> None:
        async with kept(tmp_path, log_retention_ms=1) as (shard, housekeeping):
            shard.broker.groups.create_offsets_topic()
            await until(lambda: len(shard.table))
            partition = next(iter(shard.table))
            assert partition.topic == "__consumer_offsets"
            batch = memoryview(batch_of(b"committed"))
            partition.append(batch, parse_header(batch), BATCH_TIMESTAMP_MS)
            await until(lambda: partition.high_watermark == 1)
            await housekeeping.walk()
            assert partition.log_start_offset == 0
            assert shard.broker.metrics.retention_checks == 1

    run(scenario())


@pytest.mark.parametrize("error", [DiskFailed("as a disk would"), RuntimeError("as a bug would")])
def test_a_partition_that_fails_does_not_end_the_walk(tmp_path: Path, error: Exception) -> None:
    async def scenario() -> None:
        async with kept(tmp_path, log_retention_ms=1) as (shard, housekeeping):
            for topic in ("a", "b", "c"):
                await shard.create(topic)
                await shard.fill(topic, 1)

            async def fails(_now_ms: int) -> Any:
                raise error

            log: Any = shard.log_of("b")
            log.enforce_retention = fails
            await housekeeping.walk()
            starts = {p.topic: p.log_start_offset for p in shard.table}
            assert starts == {"a": 1, "b": 0, "c": 1}
            assert shard.events == ["retention was not enforced"]

    run(scenario())


def test_a_walk_over_many_partitions_gives_way(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with kept(tmp_path) as (shard, housekeeping):
            await shard.create("many", *([1] * 100))
            shard.broker.turns.slice_s = 0.0  # each partition takes longer than that
            turns = 0
            walking = asyncio.create_task(housekeeping.walk())
            while not walking.done():
                turns += 1
                await asyncio.sleep(0)
            assert turns >= 100

    run(scenario())


def test_a_walk_begins_half_a_minute_after_the_start_and_then_at_every_interval(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with kept(tmp_path, log_retention_check_interval_ms=60_000) as (shard, housekeeping):
            checks = 0

            async def nothing_before(seconds: float) -> None:
                shard.advance(seconds)
                await ticks()
                assert shard.broker.metrics.retention_checks == checks

            async def next_check(seconds: float) -> None:
                nonlocal checks
                shard.advance(seconds)
                checks += 1
                await until(lambda: shard.broker.metrics.retention_checks == checks)

            housekeeping.start()
            await ticks()
            await nothing_before(FIRST_CHECK_S - 1)
            await next_check(1.1)
            await nothing_before(59)
            await next_check(1.1)
            # An interval that is shorter now, and over already, ends the wait.
            await nothing_before(30)
            config = replace(shard.config, log_retention_check_interval_ms=20_000)
            shard.broker.config = config
            housekeeping.configure()
            await next_check(0)
            await nothing_before(19)
            shard.broker.config = replace(config, log_retention_check_interval_ms=100_000)
            housekeeping.configure()
            await nothing_before(2)
            await next_check(80)

    run(scenario())


def test_it_ends_in_the_middle_of_a_walk(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with kept(tmp_path, log_retention_ms=1) as (shard, housekeeping):
            await shard.create("t")
            await shard.fill("t", 2)
            gate, run_at_once = asyncio.Event(), shard.disk.run

            async def run_later(*args: Any) -> Any:
                await gate.wait()
                return await run_at_once(*args)

            disk: Any = shard.disk
            disk.run = run_later
            housekeeping.start()
            await ticks()
            shard.advance(FIRST_CHECK_S + 1)
            log = shard.log_of("t")
            await until(lambda: log._tasks)
            await housekeeping.close()
            gate.set()
            await until(lambda: not log._tasks)
            assert shard.partition("t").log_start_offset in (0, 2)

    run(scenario())
