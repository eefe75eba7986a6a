"""DescribeLogDirs: sizes of the partitions that are led here, and of the volume."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.describe_log_dirs import (
    DescribableLogDirTopic,
    DescribeLogDirsRequest,
)
from tests.broker.connection_fakes import NODE, OTHER_NODE, Client, run, running, until
from tests.broker.request_builders import batch_of

VERSIONS = range(1, 6)


async def ask(
    client: Client, version: int, *asked: tuple[str, list[int]], everything: bool = False
) -> Any:
    topics = [DescribableLogDirTopic(name, partitions) for name, partitions in asked]
    response = await client.ask(DescribeLogDirsRequest(None if everything else topics), version)
    assert (response.error_code, response.throttle_time_ms) == (0, 0)
    (result,) = response.results
    return result


def sizes(result: Any) -> dict[tuple[str, int], int]:
    for topic in result.topics:
        for p in topic.partitions:
            assert (p.offset_lag, p.is_future_key) == (0, False)
    return {
        (t.name, p.partition_index): p.partition_size for t in result.topics for p in t.partitions
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_the_directory_names_every_partition_led_here(tmp_path: Path, version: int) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("a", NODE, OTHER_NODE, NODE)
            await shard.create("b")
            await shard.fill("a", 3, batch=batch_of(b"x" * 10_000))
            client = shard.client()
            result = await ask(client, version, everything=True)
            assert (result.error_code, result.log_dir) == (0, str(tmp_path))
            block_bytes = shard.context.block_bytes
            used = block_bytes + 3 * (block_bytes + -(-10_100 // block_bytes) * block_bytes)
            assert sizes(result) == {("a", 0): used, ("a", 2): 0, ("b", 0): 0}
            assert result.is_cordoned is False
            volume = os.statvfs(tmp_path)
            if version < 4:
                assert (result.total_bytes, result.usable_bytes) == (-1, -1)
            else:
                assert result.total_bytes == volume.f_blocks * volume.f_frsize
                assert 0 < result.usable_bytes < result.total_bytes

    run(scenario())


@pytest.mark.parametrize("version", VERSIONS)
def test_only_what_was_asked_for_and_is_here_is_described(tmp_path: Path, version: int) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("a", NODE, OTHER_NODE, NODE)
            await shard.create("b")
            client = shard.client()
            asked = ("a", [2, 1, 7, 2]), ("unknown", [0]), ("a", [2]), ("b", [])
            assert sizes(await ask(client, version, *asked)) == {("a", 2): 0}
            assert sizes(await ask(client, version)) == {}

    run(scenario())


def test_the_size_falls_when_segments_go(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t", segment_bytes="16384")
            await shard.fill("t", 10)
            client = shard.client()
            before = sizes(await ask(client, 5, everything=True))["t", 0]
            files = sum(path.stat().st_size for path in (tmp_path / "t-0").glob("*.wal"))
            assert before <= files
            await shard.log_of("t").delete_records(10)
            await until(lambda: not shard.log_of("t")._tasks)
            after = sizes(await ask(client, 5, everything=True))["t", 0]
            assert 0 < after < before // 2

    run(scenario())


def test_a_partition_that_could_not_be_opened_is_left_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("a")
            await shard.create("b")
            await shard.fill("a", 1)
        (tmp_path / "a-0" / f"{0:020d}.wal").write_bytes(b"rot")
        async with running(tmp_path, state=shard.state) as shard:
            assert shard.partition("a").offline
            assert sizes(await ask(shard.client(), 5, everything=True)) == {("b", 0): 0}

    run(scenario())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_directory_that_cannot_be_looked_at_is_a_storage_error(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("a")

            def fails(_path: object) -> None:
                raise OSError(5, "as the test asked")

            with monkeypatch.context() as patched:
                patched.setattr(os, "statvfs", fails)
                result = await ask(shard.client(), version, everything=True)
            assert result.error_code == ErrorCode.KAFKA_STORAGE_ERROR
            assert (result.log_dir, result.topics) == (str(tmp_path), [])
            assert shard.events == ["cannot look at the data directory"]

    run(scenario())
