"""Topics as clients see them: created, deleted, created again, and made by their first use."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from kafka_protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from kafka_protocol.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponseTopic,
)
from kafka_protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from kafka_protocol.record_batch import build_batch
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.records import numbered, plain
from tests.clients.topics import create_topic, new_topic_name
from tests.clients.via_confluent import consume, make_producer, produce, produce_with
from tests.clients.wire_client import WireClient


def describe(broker: RunningBroker, name: str, create: bool = False) -> MetadataResponseTopic:
    """What Metadata says about a topic."""
    with WireClient(broker) as client:
        topics = [MetadataRequestTopic(name=name)]
        answer = client.ask(MetadataRequest(topics, allow_auto_topic_creation=create), 12)
    [topic] = answer.topics
    assert isinstance(topic, MetadataResponseTopic)
    return topic


def delete(broker: RunningBroker, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.delete_topics([name])[name].result(timeout=20)


def test_a_topic_created_again_has_a_new_id_and_no_old_data(broker: RunningBroker) -> None:
    name = create_topic(broker, partitions=2)
    produce(broker, name, plain(50, "old"))
    old_id = describe(broker, name).topic_id
    delete(broker, name)
    assert describe(broker, name).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    create_topic(broker, name)
    again = describe(broker, name)
    assert again.topic_id not in (old_id, bytes(16))
    assert len(again.partitions) == 1
    assert consume(broker, name) == []
    produce(broker, name, plain(3, "new"))
    assert consume(broker, name) == numbered(plain(3, "new"))


def test_what_names_a_topic_by_its_old_id_does_not_reach_the_new_one(
    broker: RunningBroker,
) -> None:
    name = create_topic(broker)
    old_id = describe(broker, name).topic_id
    delete(broker, name)
    create_topic(broker, name)
    batch = memoryview(build_batch([(None, b"stray")]))
    with WireClient(broker) as client:
        data = [TopicProduceData(topic_id=old_id, partition_data=[PartitionProduceData(0, batch)])]
        answer = client.ask(ProduceRequest(None, -1, 30_000, data), 13)
    refused = answer.responses[0].partition_responses[0]
    assert refused.error_code == ErrorCode.UNKNOWN_TOPIC_ID
    assert consume(broker, name) == []


def test_a_producer_goes_on_after_its_topic_was_deleted_and_created_again(
    broker: RunningBroker,
) -> None:
    name = create_topic(broker)
    producer = make_producer(broker, topic_metadata_refresh_interval_ms=100)
    assert produce_with(producer, name, plain(5)) == list(range(5))
    delete(broker, name)
    try:
        create_topic(broker, name)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise  # else the producer looked for it first, which creates it
    assert produce_with(producer, name, plain(5)) == list(range(5))
    assert consume(broker, name) == numbered(plain(5))


def test_deleted_data_leaves_the_disk(broker: RunningBroker) -> None:
    name = create_topic(broker, partitions=3)
    for partition in range(3):
        produce(broker, name, plain(20), partition)
    assert len(list(broker.data_dir.glob(f"{name}-*/*.wal"))) == 3
    delete(broker, name)
    wait_until(lambda: not list(broker.data_dir.glob(f"{name}-*")), "the partitions are gone")


def test_a_topic_is_deleted_by_its_id(broker: RunningBroker) -> None:
    name = create_topic(broker)
    topic_id = describe(broker, name).topic_id
    with WireClient(broker) as client:
        request = DeleteTopicsRequest([DeleteTopicState(None, topic_id)], timeout_ms=20_000)
        [result] = client.ask(request, 6).responses
        assert (result.error_code, result.name) == (0, name)
        [result] = client.ask(request, 6).responses
        assert result.error_code == ErrorCode.UNKNOWN_TOPIC_ID
    assert describe(broker, name).error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


def test_creating_a_topic_is_refused_with_the_reason(broker: RunningBroker) -> None:
    name = create_topic(broker)
    with pytest.raises(KafkaException) as failure:
        create_topic(broker, name)
    assert failure.value.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
    with pytest.raises(KafkaException) as failure:
        create_topic(broker, "no blanks allowed")
    assert failure.value.args[0].code() == KafkaError.TOPIC_EXCEPTION
    with pytest.raises(KafkaException, match=r"no\.such\.config") as failure:
        create_topic(broker, configs={"no.such.config": "1"})
    assert failure.value.args[0].code() == KafkaError.INVALID_CONFIG


def test_a_new_topic_serves_at_once(broker: RunningBroker) -> None:
    with WireClient(broker) as client:
        for _ in range(20):
            name = new_topic_name()
            configs = [CreatableTopicConfig("max.message.bytes", "1000")]
            topic = CreatableTopic(name, -1, -1, configs=configs)
            [created] = client.ask(CreateTopicsRequest([topic], 20_000), 7).topics
            assert (created.error_code, created.num_partitions) == (0, 1)
            assert created.configs is not None
            values = {config.name: config.value for config in created.configs}
            assert values["max.message.bytes"] == "1000"
            batch = memoryview(build_batch([(None, b"first")]))
            data = [
                TopicProduceData(
                    topic_id=created.topic_id, partition_data=[PartitionProduceData(0, batch)]
                )
            ]
            answer = client.ask(ProduceRequest(None, -1, 30_000, data), 13)
            assert answer.responses[0].partition_responses[0].error_code == 0


def test_a_topic_is_created_by_asking_for_it(broker: RunningBroker) -> None:
    name = new_topic_name("automatic")
    first = describe(broker, name, create=True)
    assert first.error_code in (
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.LEADER_NOT_AVAILABLE,
    )
    wait_until(lambda: describe(broker, name, create=True).error_code == 0, "the topic exists")
    assert len(describe(broker, name).partitions) == 1


def test_a_topic_is_not_created_where_the_client_or_the_name_forbids_it(
    broker: RunningBroker,
) -> None:
    for name, create in ((new_topic_name("forbidden"), False), ("not a name", True)):
        error = describe(broker, name, create).error_code
        assert error in (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.INVALID_TOPIC_EXCEPTION)
        assert describe(broker, name).error_code == error
