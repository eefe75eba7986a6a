"""Four shards are four nodes: every client spreads over them, whichever of them it met first."""

from __future__ import annotations

import itertools
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.current_leader import LeaderIdAndEpoch, NodeEndpoint
from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from kafka_protocol.record_batch import build_batch
from tests.clients import via_aiokafka, via_confluent, via_kafka_python, via_kcat
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.records import numbered, plain
from tests.clients.steady import READERS, WRITERS, read_numbers
from tests.clients.topics import create_topic, new_topic_name
from tests.clients.wire_client import WireClient, fetch_request

SHARDS = 4
PARTITIONS = 64
RECORDS = 20  # in each partition
KCAT_RECORDS = 2_000  # in all of them, by the hash of the key


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """Four shards that all tests of this file share; nothing may have gone wrong in them."""
    directory = tmp_path_factory.mktemp("shards")
    running = RunningBroker(directory / "data", directory / "broker.log", shards=SHARDS)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()
    assert running.log_events("error", "critical", "raw") == []


def metadata(broker: RunningBroker, shard: int, *topics: str) -> Any:
    with WireClient(broker, shard) as client:
        wanted = [MetadataRequestTopic(name=name) for name in topics] or None
        return client.ask(MetadataRequest(wanted, allow_auto_topic_creation=False), 12)


def leaders(broker: RunningBroker, topic: str, shard: int = 0) -> list[int]:
    """The node that leads each partition."""
    [described] = metadata(broker, shard, topic).topics
    by_index = sorted(described.partitions, key=lambda partition: partition.partition_index)
    return [partition.leader_id for partition in by_index]


def ports_reached(broker: RunningBroker, pid: int) -> set[int]:
    """The shards' ports to which a process has connections."""
    held = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held.add(os.readlink(link))
        except FileNotFoundError:
            pass  # closed meanwhile
    ports = set()
    for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, *_, inode = row.split()[:10]
        if state == "01" and f"socket:[{inode}]" in held:
            ports.add(int(remote.rpartition(":")[2], 16))
    return ports & set(broker.ports)


def wait_for_all_ports(broker: RunningBroker, pid: int) -> None:
    every_port = set(broker.ports)
    wait_until(lambda: ports_reached(broker, pid) == every_port, "a connection to every shard")


# -- the data path ---------------------------------------------------------------------------


@pytest.mark.parametrize("bootstrap", range(SHARDS))
@pytest.mark.parametrize("name", WRITERS)
def test_a_client_uses_every_shard_whichever_it_met_first(
    broker: RunningBroker, name: str, bootstrap: int
) -> None:
    topic = create_topic(broker, partitions=PARTITIONS)
    me = os.getpid()
    assert ports_reached(broker, me) == set()
    with WRITERS[name](broker, topic, PARTITIONS, bootstrap, count=RECORDS) as writer:
        writer.wait_for(RECORDS)
        wait_for_all_ports(broker, me)
    wait_until(lambda: ports_reached(broker, me) == set(), "the writer's connections are closed")
    with READERS[name](broker, topic, PARTITIONS, bootstrap) as reader:
        reader.wait_for(RECORDS)
        wait_for_all_ports(broker, me)
    writer.check(read_numbers(broker, topic, PARTITIONS))
    assert reader.seen == writer.seen
    wait_until(lambda: ports_reached(broker, me) == set(), "the reader's connections are closed")


def test_what_each_wrote_to_all_shards_every_other_reads(broker: RunningBroker) -> None:
    for writer_name, make_writer in WRITERS.items():
        topic = create_topic(broker, partitions=PARTITIONS)
        with make_writer(broker, topic, PARTITIONS, count=RECORDS) as writer:
            writer.wait_for(RECORDS)
        for reader_name, make_reader in READERS.items():
            with make_reader(broker, topic, PARTITIONS) as reader:
                reader.wait_for(RECORDS)
            assert reader.seen == writer.seen, (writer_name, reader_name)


@pytest.mark.parametrize("bootstrap", range(SHARDS))
def test_kcat_uses_every_shard_whichever_it_met_first(
    broker: RunningBroker, bootstrap: int
) -> None:
    via_kcat.require_kcat()
    topic = create_topic(broker, partitions=PARTITIONS)
    kcat = ["kcat", "-b", broker.addresses[bootstrap], "-t", topic]
    with subprocess.Popen([*kcat, "-P", "-K", ":"], stdin=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        writer.stdin.write(b"".join(b"%d:%d\n" % (i % 500, i) for i in range(KCAT_RECORDS)))
        writer.stdin.flush()
        wait_for_all_ports(broker, writer.pid)
        writer.stdin.close()
        assert writer.wait(20) == 0
    stored = read_numbers(broker, topic, PARTITIONS)
    numbers = {partition: [n for _, n in records] for partition, records in stored.items()}
    assert sorted(itertools.chain(*numbers.values())) == list(range(KCAT_RECORDS))
    assert all(seen == sorted(seen) for seen in numbers.values())
    read = [*kcat, "-C", "-q", "-u", "-o", "beginning", "-f", r"%p %o %s\n"]
    again: dict[int, list[tuple[int, int]]] = {p: [] for p in range(PARTITIONS)}
    with subprocess.Popen(read, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        try:
            for _ in range(KCAT_RECORDS):
                partition, offset, number = map(int, reader.stdout.readline().split())
                again[partition].append((offset, number))
            wait_for_all_ports(broker, reader.pid)
        finally:
            reader.terminate()
    assert again == stored


# -- what the shards say of each other -------------------------------------------------------


def test_partitions_are_spread_evenly_over_the_shards(broker: RunningBroker) -> None:
    placed = leaders(broker, create_topic(broker, partitions=PARTITIONS))
    assert [placed.count(node) for node in range(SHARDS)] == [PARTITIONS // SHARDS] * SHARDS


def test_every_shard_tells_of_all_nodes_and_of_the_same_leaders(broker: RunningBroker) -> None:
    topic = create_topic(broker, partitions=PARTITIONS)
    answers = [metadata(broker, shard) for shard in range(SHARDS)]
    for shard, answer in enumerate(answers):
        nodes = [(node.node_id, node.host, node.port) for node in answer.brokers]
        assert nodes == [(i, "127.0.0.1", port) for i, port in enumerate(broker.ports)]
        assert answer.controller_id == shard  # any forwards, so the nearest is named
        assert answer.cluster_id == answers[0].cluster_id
        assert answer.topics == answers[0].topics
    assert topic in {described.name for described in answers[0].topics}


@pytest.mark.parametrize("shard", range(SHARDS))
def test_kcat_lists_four_brokers_and_their_partitions(broker: RunningBroker, shard: int) -> None:
    via_kcat.require_kcat()
    topic = create_topic(broker, partitions=SHARDS)
    command = ["kcat", "-b", broker.addresses[shard], "-L", "-t", topic]
    text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    assert re.search(r"^ 4 brokers:$", text, re.MULTILINE)
    for node, address in enumerate(broker.addresses):
        assert f"  broker {node} at {address}" in text
    for partition, leader in enumerate(leaders(broker, topic)):
        line = f"partition {partition}, leader {leader}, replicas: {leader}, isrs: {leader}"
        assert line in text


def test_the_wrong_shard_names_the_right_one(broker: RunningBroker) -> None:
    """What a client with stale metadata is told, so that it need not ask for new (KIP-951)."""
    topic = create_topic(broker, partitions=SHARDS)
    [described] = metadata(broker, 0, topic).topics
    batch = memoryview(build_batch([(None, b"stray")]))
    for partition in described.partitions:
        index, leader = partition.partition_index, partition.leader_id
        data = [
            TopicProduceData(
                topic_id=described.topic_id, partition_data=[PartitionProduceData(index, batch)]
            )
        ]
        known = LeaderIdAndEpoch(leader, partition.leader_epoch)
        endpoint = NodeEndpoint(leader, "127.0.0.1", broker.ports[leader], socket.gethostname())
        for shard in set(range(SHARDS)) - {leader}:
            with WireClient(broker, shard) as client:
                answer = client.ask(ProduceRequest(None, -1, 30_000, data), 13)
                refused = answer.responses[0].partition_responses[0]
                assert refused.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
                assert refused.current_leader == known
                assert answer.node_endpoints == [endpoint]
                wanted = fetch_request(topic, index, 0)
                wanted.topics[0].topic_id = described.topic_id
                answer = client.ask(wanted, 16)
                refused = answer.responses[0].partitions[0]
                assert refused.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
                assert refused.current_leader == known
                assert answer.node_endpoints == [endpoint]
    assert read_numbers(broker, topic, SHARDS) == {p: [] for p in range(SHARDS)}


# -- topics ----------------------------------------------------------------------------------


def test_a_new_topic_serves_at_once_on_every_shard(broker: RunningBroker) -> None:
    """The answer to CreateTopics comes when every shard has applied it."""
    for creating in range(SHARDS):
        topic = create_topic(broker, partitions=SHARDS, shard=creating)
        for shard in range(SHARDS):
            [described] = metadata(broker, shard, topic).topics
            assert (described.error_code, len(described.partitions)) == (0, SHARDS)
        for partition, leader in enumerate(leaders(broker, topic)):
            with WireClient(broker, leader) as client:
                batch = memoryview(build_batch([(None, b"%d" % partition)]))
                data = [
                    TopicProduceData(
                        name=topic, partition_data=[PartitionProduceData(partition, batch)]
                    )
                ]
                answer = client.ask(ProduceRequest(None, -1, 30_000, data), 12)
                assert answer.responses[0].partition_responses[0].error_code == 0


WRITE_ONE: dict[str, Callable[..., object]] = {
    "confluent": via_confluent.produce,
    "kafka-python": via_kafka_python.produce,
    "aiokafka": via_aiokafka.produce,
}


@pytest.mark.parametrize("name", WRITE_ONE)
def test_a_topic_made_by_its_first_record_is_known_to_every_shard(
    broker: RunningBroker, name: str
) -> None:
    topic = new_topic_name("automatic")
    WRITE_ONE[name](broker, topic, plain(3), bootstrap_servers=broker.addresses[-1])
    for shard in range(SHARDS):
        [described] = metadata(broker, shard, topic).topics
        assert described.error_code == 0
    assert via_confluent.consume(broker, topic) == numbered(plain(3))
