"""One scrape tells what real clients did at two shards, to the record; and which shard is away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_protocol.record_batch import build_batch
from tests.clients import via_confluent, via_kafka_python
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.records import plain
from tests.clients.topics import create_topic, new_topic_name
from tests.clients.wire_client import WireClient, fetch_request, produce_request, stored_batches

TIMEOUT_S = 0.5
PARTITIONS = 4


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """Two shards that all tests of this file share."""
    directory = tmp_path_factory.mktemp("metrics")
    settings = {"metrics_timeout_s": TIMEOUT_S}
    running = RunningBroker(directory / "data", directory / "broker.log", settings, shards=2)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()


class Scrape:
    """One answer of /metrics, read by Prometheus' own parser."""

    def __init__(self, broker: RunningBroker) -> None:
        status, text = broker.http_get("/metrics")
        assert status == 200
        self._values: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._values.setdefault(sample.name, []).append((sample.labels, sample.value))

    def __call__(self, name: str, **labels: object) -> float:
        """The sum of the values that have these labels; 0 if there are none."""
        wanted = {key: str(value) for key, value in labels.items()}
        return sum(
            value for found, value in self._values.get(name, ()) if wanted.items() <= found.items()
        )

    def count(self, name: str, **labels: object) -> int:
        """How many values have these labels."""
        wanted = {key: str(value) for key, value in labels.items()}
        return sum(wanted.items() <= found.items() for found, _ in self._values.get(name, ()))

    def labels_of(self, name: str, key: str) -> set[str]:
        """All values of one label."""
        return {labels[key] for labels, _ in self._values.get(name, ())}


def leader_of(broker: RunningBroker, topic: str, partition: int) -> int:
    """The shard that leads a partition; node ids are shard indexes here."""
    with WireClient(broker, 0) as client:
        wanted = [MetadataRequestTopic(name=topic)]
        [described] = client.ask(MetadataRequest(wanted), 12).topics
    return next(p.leader_id for p in described.partitions if p.partition_index == partition)


def test_every_partition_counts_exactly_what_clients_wrote_and_read(broker: RunningBroker) -> None:
    topic = create_topic(broker, partitions=PARTITIONS)
    before = Scrape(broker)
    for partition in range(PARTITIONS):
        via_confluent.produce(broker, topic, plain(100 + partition), partition)
        via_kafka_python.produce(broker, topic, plain(10), partition)
    written = Scrape(broker)
    for partition in range(PARTITIONS):
        where = {
            "topic": topic,
            "partition": partition,
            "shard": leader_of(broker, topic, partition),
        }
        batches = stored_batches(broker, topic, partition, where["shard"])  # type: ignore[arg-type]
        size = sum(len(batch.data) for batch in batches)
        records = 110 + partition
        assert written("rpk_partition_records_in_total", **where) == records
        assert written("rpk_partition_bytes_in_total", **where) == size
        assert written("rpk_partition_records_out_total", **where) == 0
        assert written("rpk_partition_log_start_offset", **where) == 0
        assert written("rpk_partition_log_end_offset", **where) == records
        assert written("rpk_partition_high_watermark", **where) == records
        assert written("rpk_partition_size_bytes", **where) >= size
        assert written("rpk_partition_leader_epoch", **where) >= 0
        assert 1 <= written("rpk_partition_write_seconds_count", **where) <= len(batches)
        assert 0 < written("rpk_partition_write_seconds_sum", **where) < 60
        read = Scrape(broker)  # stored_batches has read all of it, once
        assert read("rpk_partition_records_out_total", **where) == records
        assert read("rpk_partition_bytes_out_total", **where) == size
    for name in ("records", "bytes"):
        grown = written(f"rpk_produced_{name}_total") - before(f"rpk_produced_{name}_total")
        assert grown == written(f"rpk_partition_{name}_in_total", topic=topic)
    assert written.labels_of("rpk_partition_records_in_total", "shard") == {"0", "1"}


def test_requests_are_counted_and_timed_by_api(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    shard = leader_of(broker, topic, 0)
    before = Scrape(broker)
    with WireClient(broker, shard) as client:
        for _ in range(7):
            client.ask(produce_request(topic, 0, build_batch([(None, b"a")]), acks=-1), 9)
        client.ask(fetch_request(topic, 0, 0), 12)
    after = Scrape(broker)
    for api, count in (("Produce", 7), ("Fetch", 1)):
        for name in ("rpk_requests_total", "rpk_request_seconds_count"):
            assert after(name, api=api, shard=shard) - before(name, api=api, shard=shard) == count
    for name in ("rpk_group_commits_total", "rpk_write_seconds_count"):
        assert after(name, shard=shard) - before(name, shard=shard) == 7
    for name in ("rpk_group_commit_batches_sum", "rpk_produced_batches_total"):
        assert after(name, shard=shard) - before(name, shard=shard) == 7
    grown = after("rpk_group_commit_bytes_sum", shard=shard)
    assert grown == after("rpk_write_bytes_total", shard=shard)


def test_the_wait_of_a_long_poll_is_not_its_service_time(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    shard = leader_of(broker, topic, 0)
    before = Scrape(broker)
    with WireClient(broker, shard) as client:
        client.ask(fetch_request(topic, 0, 0, max_wait_ms=400), 12)
    after = Scrape(broker)

    def grown(name: str, **labels: object) -> float:
        return after(name, shard=shard, **labels) - before(name, shard=shard, **labels)

    assert grown("rpk_fetch_wait_seconds_count") == 1
    assert grown("rpk_fetch_wait_seconds_sum") >= 0.39
    assert grown("rpk_request_seconds_count", api="Fetch") == 1
    assert grown("rpk_request_seconds_sum", api="Fetch") < 0.3


def test_errors_are_counted_by_api_and_code(broker: RunningBroker) -> None:
    name = new_topic_name()
    before = Scrape(broker)
    with WireClient(broker, 0) as client:
        client.ask(produce_request(name, 0, build_batch([(None, b"a")]), acks=-1), 9)
        client.ask(fetch_request(name, 0, 0, max_wait_ms=200), 12)
        topics = [MetadataRequestTopic(name=name), MetadataRequestTopic(name="not/valid")]
        client.ask(MetadataRequest(topics, allow_auto_topic_creation=False), 12)
    after = Scrape(broker)
    for api, error in (
        ("Produce", "UNKNOWN_TOPIC_OR_PARTITION"),
        ("Fetch", "UNKNOWN_TOPIC_OR_PARTITION"),
        ("Metadata", "UNKNOWN_TOPIC_OR_PARTITION"),
        ("Metadata", "INVALID_TOPIC_EXCEPTION"),
    ):
        labels = {"api": api, "error": error, "shard": 0}
        grown = after("rpk_errors_total", **labels) - before("rpk_errors_total", **labels)
        assert grown == 1, (api, error)


def test_processes_and_the_controller_are_in_the_scrape(broker: RunningBroker) -> None:
    before = Scrape(broker)
    create_topic(broker)
    after = Scrape(broker)
    commits = "rpk_metadata_commit_seconds_count"
    assert after(commits) - before(commits) == 1
    requests = {"op": "create_topics", "shard": 0}
    grown = after("rpk_control_requests_total", **requests)
    assert grown - before("rpk_control_requests_total", **requests) == 1
    for shard in ("", "0", "1"):
        assert after("rpk_process_resident_bytes", shard=shard) > 1 << 20
        assert after("rpk_process_open_fds", shard=shard) > 5
        assert after.count("rpk_process_cpu_seconds_total", shard=shard) == 2  # by mode
    for index, pid in enumerate(broker.shard_pids):
        assert after("rpk_process_open_fds", shard=index) == len(os.listdir(f"/proc/{pid}/fd"))
        assert after("rpk_loop_lag_seconds_count", shard=index) > 0
    assert after("rpk_process_cpu_seconds_total", process="supervisor") > 0
    assert after("rpk_up") == 1


def test_a_stopped_shard_is_named_and_the_other_one_still_told_of(broker: RunningBroker) -> None:
    topic = create_topic(broker, partitions=2)
    other = leader_of(broker, topic, 0)
    stopped = 1 - other
    pid = broker.shard_pids[stopped]
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(2):  # the second one does not ask again
            started_s = time.monotonic()
            scrape = Scrape(broker)
            assert TIMEOUT_S <= time.monotonic() - started_s < TIMEOUT_S + 5
            assert scrape("rpk_shard_up", shard=stopped) == 0
            assert scrape("rpk_shard_up", shard=other) == 1
            assert scrape.labels_of("rpk_partition_records_in_total", "shard") == {str(other)}
            assert scrape("rpk_process_resident_bytes", shard=stopped) > 1 << 20
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: Scrape(broker)("rpk_shard_up") == 2, "both shards answer")


def test_partitions_without_traffic_are_listed_too(broker: RunningBroker) -> None:
    topic = create_topic(broker, partitions=450)  # more than a slice of each shard
    scrape = Scrape(broker)
    for name in ("records_in_total", "high_watermark", "size_bytes"):
        assert scrape.count(f"rpk_partition_{name}", topic=topic) == 450
    assert scrape("rpk_partition_records_in_total", topic=topic) == 0


# It starts the shards anew, so it is the last one of this broker.
def test_a_shard_that_is_started_again_counts_from_0(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    shard = leader_of(broker, topic, 0)
    via_confluent.produce(broker, topic, plain(5))
    assert Scrape(broker)("rpk_produced_records_total", shard=shard) >= 5
    broker.kill_shard(shard)
    again = Scrape(broker)
    assert again("rpk_shard_restarts_total", shard=shard) == 1
    assert again("rpk_shard_restarts_total", shard=1 - shard) == 0
    assert again("rpk_produced_records_total", shard=shard) == 0
    where = {"topic": topic, "partition": 0, "shard": shard}
    assert again("rpk_partition_log_end_offset", **where) == 5
