"""A client with as little of its own as can be, so that what is measured is the broker's.

A connection that asks one thing at a time, and an idempotent producer with one record a request
and one request in flight, which after any failure connects at once and sends the same batch again.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any

from kafka_protocol.errors import ErrorCode
from kafka_protocol.frame import decode_response, encode_request
from kafka_protocol.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from kafka_protocol.messages.delete_topics import DeleteTopicsRequest
from kafka_protocol.messages.init_producer_id import InitProducerIdRequest
from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from kafka_protocol.record_batch import build_batch
from kafka_protocol.schema import info_of

PRODUCE_VERSION = 9
METADATA_VERSION = 12
FETCH_VERSION = 12
CREATE_TOPICS_VERSION = 7
DELETE_TOPICS_VERSION = 5
ANSWER_S_MAX = 60.0
RETRY_S = 0.001
CLIENT_ID = "bench"


class Refused(Exception):
    """The broker answered an error that trying again does not help."""


class Connection:
    """One TCP connection to HOST:PORT, one request in flight. Errors are those of the socket."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=ANSWER_S_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Close it."""
        self.socket.close()

    def ask(self, request: Any, version: int) -> Any:
        """Send a request and return its answer."""
        frame = encode_request(request, version, 1, CLIENT_ID)
        answer = self.ask_frame(frame)
        return decode_response(info_of(type(request)).api_key, version, memoryview(answer))[1]

    def ask_frame(self, frame: bytes) -> bytes:
        """The same for a request that is encoded already; the answer without its size."""
        self.socket.sendall(frame)
        return self.receive_frame()

    def receive_frame(self) -> bytes:
        """The next answer without its size."""
        return self._receive(int.from_bytes(self._receive(4), "big"))

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            received = self.socket.recv(size - len(data))
            if not received:
                raise ConnectionError("closed by the broker")
            data += received
        return data


def produce_frame(topic: str, partition: int, batch: bytes | bytearray) -> bytes:
    """A whole produce request (acks=all) of one batch."""
    data = PartitionProduceData(partition, memoryview(batch))
    request = ProduceRequest(None, -1, 30_000, [TopicProduceData(topic, b"", [data])])
    return encode_request(request, PRODUCE_VERSION, 1, CLIENT_ID)


def error_pos(topic: str) -> int:
    """Where a produce answer (v9) of one partition has its error code."""
    return 4 + 1 + 1 + (1 + len(topic)) + 1 + 4


def create_topic(
    connection: Connection, name: str, partitions: int, configs: Mapping[str, str] = {}
) -> None:
    """Create a topic with `configs` of its own. Raises Refused."""
    entries = [CreatableTopicConfig(key, value) for key, value in configs.items()]
    request = CreateTopicsRequest([CreatableTopic(name, partitions, 1, [], entries)])
    result = connection.ask(request, CREATE_TOPICS_VERSION).topics[0]
    if result.error_code:
        raise Refused(f"create {name}: {ErrorCode(result.error_code).name} {result.error_message}")


def delete_topic(connection: Connection, name: str) -> None:
    """Delete a topic. Raises Refused."""
    request = DeleteTopicsRequest(topic_names=[name], timeout_ms=60_000)
    result = connection.ask(request, DELETE_TOPICS_VERSION).responses[0]
    if result.error_code:
        raise Refused(f"delete {name}: {ErrorCode(result.error_code).name} {result.error_message}")


def leaders(connection: Connection, topic: str) -> list[str]:
    """HOST:PORT of the leader of each partition, by partition index."""
    wanted = [MetadataRequestTopic(bytes(16), topic)]
    while True:
        answer = connection.ask(MetadataRequest(wanted), METADATA_VERSION)
        nodes = {node.node_id: f"{node.host}:{node.port}" for node in answer.brokers}
        partitions = sorted(answer.topics[0].partitions, key=lambda one: one.partition_index)
        if partitions and all(one.leader_id in nodes for one in partitions):
            return [nodes[one.leader_id] for one in partitions]
        time.sleep(RETRY_S)  # a topic that was made just now


class SequentialProducer:
    """One partition, one record a request, one request in flight, idempotent, acks=all."""

    def __init__(self, address: str, topic: str, partition: int) -> None:
        self._address = address  # of the partition's leader, which keeps its port
        self._topic = topic
        self._partition = partition
        self._connection: Connection | None = Connection(address)
        answer = self._connection.ask(InitProducerIdRequest(None, 60_000), 4)
        if answer.error_code:
            raise Refused(f"InitProducerId: {ErrorCode(answer.error_code).name}")
        self._producer_id = answer.producer_id
        self._sequence = 0

    def produce(self, value: bytes) -> int:
        """Write one record, however often that takes; returns its offset. Raises Refused."""
        batch = build_batch(
            [(None, value)],
            timestamp_ms=time.time_ns() // 1_000_000,
            producer_id=self._producer_id,
            producer_epoch=0,
            base_sequence=self._sequence,
        )
        frame = produce_frame(self._topic, self._partition, batch)
        while True:
            try:
                offset = self._try(frame)
            except OSError:
                self.close()
                offset = None
            if offset is not None:
                self._sequence += 1
                return offset
            time.sleep(RETRY_S)

    def _try(self, frame: bytes) -> int | None:
        if self._connection is None:
            self._connection = Connection(self._address)
        api_key = info_of(ProduceRequest).api_key
        data = memoryview(self._connection.ask_frame(frame))
        answer = decode_response(api_key, PRODUCE_VERSION, data)[1]
        result = answer.responses[0].partition_responses[0]
        if not result.error_code:
            return int(result.base_offset)
        error = ErrorCode(result.error_code)
        if not error.retriable:
            raise Refused(f"partition {self._partition}: {error.name} {result.error_message}")
        return None

    def close(self) -> None:
        """Close the connection; the next record opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
