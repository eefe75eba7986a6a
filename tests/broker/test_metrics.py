"""Counters of a shard, their snapshot, and the text that is made of them."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from kafka_protocol.api import SUPPORTED
from kafka_protocol.api_key import ApiKey
from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.create_topics import CreatableTopicResult, CreateTopicsResponse
from kafka_protocol.messages.describe_cluster import DescribeClusterResponse
from kafka_protocol.messages.metadata import (
    MetadataResponse,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from rpk_py.exposition import process_rows, render
from rpk_py.metric_table import METRICS, PARTITION_COLUMNS, SHARD_VALUES
from rpk_py.metrics import (
    LAG_WINDOW_S,
    SLICE_PARTITIONS,
    Histogram,
    LoopLag,
    ShardMetrics,
    snapshot_parts,
)
from rpk_py.partition import Partition
from rpk_py.process_stats import read_process
from rpk_py.response_errors import error_codes
from tests.broker import metrics_page
from tests.broker.connection_fakes import running


def text_of(broker: dict[str, Any], shards: dict[int, Any]) -> str:
    """What a scrape answers; the snapshots travel as JSON, as on the control channel."""

    async def collect() -> bytes:
        parts = {node_id: json.loads(json.dumps(list(shots))) for node_id, shots in shards.items()}
        return b"".join([piece async for piece in render(broker, parts)])

    return asyncio.run(collect()).decode()


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def partition(topic: str, index: int) -> Partition:
    return Partition(topic, bytes(16), index, 3, 1000, False)


def test_the_page_is_what_the_code_says() -> None:
    written = metrics_page.PAGE.read_text(encoding="utf-8")
    assert written == metrics_page.document(), f"stale, run: {metrics_page.COMMAND}"


@pytest.mark.parametrize("name", METRICS)
def test_a_name_follows_prometheus(name: str) -> None:
    metric = METRICS[name]
    assert name.startswith(("rpk_", "kafka_consumergroup_"))  # or the exporter's
    assert (metric.kind == "counter") == name.endswith("_total")
    assert (metric.kind == "histogram") == bool(metric.bounds)
    assert list(metric.bounds) == sorted(set(metric.bounds))
    assert metric.help.endswith(".")
    assert not name.endswith(("_count", "_sum", "_bucket", "_ms"))


def test_the_exposition_is_read_by_prometheus_with_every_value() -> None:
    one, two = ShardMetrics(), ShardMetrics()
    one.requests[ApiKey.PRODUCE] += 2
    one.observe_request(ApiKey.PRODUCE, 0.003)
    one.observe_request(ApiKey.PRODUCE, 99.0)
    one.requests[ApiKey.LIST_OFFSETS] += 1
    one.count_error(ApiKey.FETCH, ErrorCode.NOT_LEADER_OR_FOLLOWER)
    one.observe_write(0.003, 5, 8192)
    two.watch("cache_hits", lambda: 7)
    shots = {0: snapshot_parts(one, []), 129: snapshot_parts(two, [])}
    text = text_of({"rpk_up": [[1]], "rpk_shard_up": [["0", 1], ["129", 1]]}, shots)
    for line in (
        "rpk_up 1.0",
        'rpk_shard_up{shard="129"} 1.0',
        'rpk_requests_total{api="Produce",shard="0"} 2.0',
        'rpk_requests_total{api="ListOffsets",shard="0"} 1.0',
        'rpk_request_seconds_bucket{api="Produce",le="0.0025",shard="0"} 0.0',
        'rpk_request_seconds_bucket{api="Produce",le="0.005",shard="0"} 1.0',
        'rpk_request_seconds_bucket{api="Produce",le="+Inf",shard="0"} 2.0',
        'rpk_request_seconds_sum{api="Produce",shard="0"} 99.003',
        'rpk_errors_total{api="Fetch",error="NOT_LEADER_OR_FOLLOWER",shard="0"} 1.0',
        'rpk_group_commit_batches_bucket{le="4",shard="0"} 0.0',
        'rpk_group_commit_batches_bucket{le="8",shard="0"} 1.0',
        'rpk_group_commit_bytes_bucket{le="8192",shard="0"} 1.0',
        'rpk_group_commit_bytes_bucket{le="4096",shard="0"} 0.0',
        'rpk_write_seconds_count{shard="0"} 1.0',
        'rpk_cache_hits_total{shard="129"} 7.0',
        "# HELP rpk_write_bytes_total " + METRICS["rpk_write_bytes_total"].help,
    ):
        assert line in text.splitlines()
    read = families(text)
    assert {name.removesuffix("_total") for name in METRICS} == read.keys()
    assert all(read[name.removesuffix("_total")].type == METRICS[name].kind for name in METRICS)


def test_every_plain_value_of_a_shard_is_in_its_snapshot() -> None:
    rows = ShardMetrics().snapshot()
    assert set(SHARD_VALUES.values()) <= rows.keys()
    assert rows.keys() <= METRICS.keys()


def test_partitions_come_in_slices_and_lose_nobody() -> None:
    count = 2 * SLICE_PARTITIONS + 1
    partitions = [partition("t", index) for index in range(count)]
    for each in partitions:
        each.bytes_in, each.records_in, each.bytes_out, each.records_out = 10, 1, 20, 2
        each.high_watermark = each.index
    partitions[-1].fail("gone", ErrorCode.KAFKA_STORAGE_ERROR)
    first, *slices = snapshot_parts(ShardMetrics(), partitions)
    assert [len(part["partitions"][0]) for part in slices] == [SLICE_PARTITIONS] * 2 + [1]
    assert all(len(part["partitions"]) == 2 + len(PARTITION_COLUMNS) for part in slices)
    read = families(text_of({}, {1: [first, *slices]}))
    expected = {"bytes_in": 10, "records_in": 1, "bytes_out": 20, "records_out": 2}
    expected |= {"log_start_offset": -1, "log_end_offset": -1, "size_bytes": 0, "leader_epoch": 3}
    for name, value in expected.items():
        samples = read[f"rpk_partition_{name}"].samples
        assert {int(s.labels["partition"]) for s in samples} == set(range(count))
        assert {s.value for s in samples} == {value}
    marks = read["rpk_partition_high_watermark"].samples
    assert all(s.value == int(s.labels["partition"]) for s in marks)
    assert len(read["rpk_partition_write_seconds"].samples) == 2 * count
    [offline] = read["rpk_partition_offline"].samples
    assert offline.labels == {"topic": "t", "partition": str(count - 1), "shard": "1"}


def test_a_long_snapshot_and_its_text_let_the_loop_run_on() -> None:
    async def scenario() -> None:
        partitions = [partition(f"topic-{n // 100}", n % 100) for n in range(2000)]
        parts = list(snapshot_parts(ShardMetrics(), partitions))
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counter = asyncio.ensure_future(count_turns())
        pieces = [piece async for piece in render({}, {0: parts})]
        counter.cancel()
        assert len(pieces) > 10
        assert turns > len(pieces)

    asyncio.run(scenario())


def test_a_bucket_holds_its_upper_bound() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0, 1, 1.5, 2, 4, 5):
        histogram.observe(value)
    assert histogram.snapshot() == [[2, 2, 1, 1], 13.5]


def test_the_largest_lag_is_forgotten_after_two_windows() -> None:
    lag = LoopLag()
    lag.observe(-0.001, 100.0)  # the clock's grain is no lag
    assert lag.max_s == 0
    lag.observe(0.5, 100.1)
    lag.observe(0.001, 100.2 + LAG_WINDOW_S)
    assert lag.max_s == 0.5
    lag.observe(0.002, 100.3 + 2 * LAG_WINDOW_S)
    assert lag.max_s == 0.002
    assert sum(lag.histogram.buckets) == 4
    assert math.isclose(lag.histogram.sum, 0.503)


def test_error_codes_are_found_wherever_a_response_has_them() -> None:
    assert error_codes(DescribeClusterResponse(error_code=ErrorCode.INVALID_REQUEST)) == [42]
    created = CreateTopicsResponse()
    created.topics = [CreatableTopicResult(), CreatableTopicResult(error_code=36)]
    assert error_codes(created) == [36]
    broken = MetadataResponsePartition(error_code=5)
    fine = MetadataResponsePartition()
    topics = [MetadataResponseTopic(3), MetadataResponseTopic(0, partitions=[fine, broken])]
    assert error_codes(MetadataResponse(topics=topics)) == [3, 5]
    assert error_codes(MetadataResponse()) == []


@pytest.mark.parametrize("api_key", SUPPORTED, ids=lambda key: ApiKey(key).name)
def test_every_response_can_be_searched_for_errors(api_key: int) -> None:
    assert error_codes(SUPPORTED[api_key].response()) == []


def test_a_process_is_measured_as_it_says_of_itself() -> None:
    stats = read_process(os.getpid())
    assert stats is not None
    assert 1 << 20 < stats.proportional_bytes <= stats.resident_bytes
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(10)]
    more = read_process(os.getpid())
    for fd in held:
        os.close(fd)
    assert more is not None
    assert more.open_fds == stats.open_fds + 10
    times = os.times()
    assert abs(stats.user_s - times.user) < 1
    assert time.time() - 86_400 * 365 < stats.started_s <= time.time()


def test_a_process_that_is_gone_has_no_rows() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    assert read_process(pid) is None
    rows: dict[str, list[list[Any]]] = {}
    assert len(list(process_rows({"": os.getpid(), "5": pid}, rows))) == 2
    assert [row[:2] for row in rows["rpk_process_open_fds"]] == [["supervisor", ""]]
    assert rows["rpk_resident_memory_bytes"][0][0] > 1 << 20


def test_a_shard_counts_what_its_connections_do(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 3)
            metrics = shard.broker.metrics
            assert metrics.requests[ApiKey.PRODUCE] == 3
            assert sum(metrics.request_seconds[ApiKey.PRODUCE].buckets) == 3
            assert 0 < metrics.request_seconds[ApiKey.PRODUCE].sum < 10
            led, log = shard.partition("t"), shard.log_of("t")
            assert (led.bytes_in, led.records_in) == (
                metrics.produced_bytes,
                metrics.produced_records,
            )
            assert (log.writes, log.write_seconds > 0) == (3, True)

    asyncio.run(scenario())
