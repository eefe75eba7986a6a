"""A client of one connection with no logic of its own: it says exactly what a test wants said.

Encodes and decodes with kafka_protocol; everything else (retries, metadata, order) is the test's.
"""

from __future__ import annotations

import socket
from typing import Any, NamedTuple

from kafka_protocol.frame import decode_response, encode_request
from kafka_protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from kafka_protocol.messages.produce import (
    PartitionProduceData,
    ProduceRequest,
    TopicProduceData,
)
from kafka_protocol.record_batch import BatchHeader, iter_batches
from kafka_protocol.schema import info_of
from tests.clients.broker import RunningBroker

CLIENT_ID = "wire-client"
TIMEOUT_S = 20.0


class ConnectionClosed(Exception):
    """The broker closed the connection."""


class WireClient:
    """One TCP connection to a shard of the broker; a context manager."""

    def __init__(self, broker: RunningBroker, shard: int = 0) -> None:
        address = ("127.0.0.1", broker.ports[shard])
        self.socket = socket.create_connection(address, timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expected: list[tuple[int, int]] = []  # (api key, version) of requests unanswered
        self._correlation_id = 0

    def __enter__(self) -> WireClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def encode(self, request: Any, version: int, answered: bool = True) -> bytes:
        """The frame of a request; its answer is expected after those of earlier ones."""
        self._correlation_id += 1
        if answered:
            self._expected.append((info_of(type(request)).api_key, version))
        return encode_request(request, version, self._correlation_id, CLIENT_ID)

    def send(self, request: Any, version: int, answered: bool = True) -> int:
        """Send a request; returns its correlation id."""
        self.socket.sendall(self.encode(request, version, answered))
        return self._correlation_id

    def receive(self) -> tuple[int, Any]:
        """The next answer: (correlation id, message). Raises ConnectionClosed."""
        api_key, version = self._expected.pop(0)
        return decode_response(api_key, version, self.receive_frame())

    def receive_frame(self) -> memoryview:
        """The next frame's bytes without its size. Raises ConnectionClosed."""
        size = int.from_bytes(self._receive_exactly(4), "big", signed=True)
        return memoryview(self._receive_exactly(size))

    def _receive_exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                received = self.socket.recv_into(view)
            except ConnectionError as error:
                raise ConnectionClosed(str(error)) from error
            if received == 0:
                raise ConnectionClosed(f"{len(view)} of {size} bytes missing")
            view = view[received:]
        return data

    def ask(self, request: Any, version: int) -> Any:
        """Send a request and return its answer."""
        sent = self.send(request, version)
        correlation_id, answer = self.receive()
        assert correlation_id == sent
        return answer

    def is_closed_by_broker(self) -> bool:
        """Wait until the broker closes the connection; False if it sends something instead."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True


class StoredBatch(NamedTuple):
    """A record batch of a partition: its header and all of its bytes."""

    header: BatchHeader
    data: bytes


def produce_request(
    topic: str, partition: int, batch: bytes | bytearray, acks: int
) -> ProduceRequest:
    """A produce request of one batch (version 12 or older: by topic name)."""
    data = PartitionProduceData(partition, memoryview(batch))
    return ProduceRequest(None, acks, 30_000, [TopicProduceData(name=topic, partition_data=[data])])


def fetch_request(topic: str, partition: int, offset: int, max_wait_ms: int = 0) -> FetchRequest:
    """A fetch request of one partition (version 12 or older: by topic name)."""
    wanted = FetchPartition(partition, fetch_offset=offset, partition_max_bytes=64 << 20)
    return FetchRequest(
        max_wait_ms=max_wait_ms,
        min_bytes=1,
        topics=[FetchTopic(topic=topic, partitions=[wanted])],
    )


def stored_batches(
    broker: RunningBroker, topic: str, partition: int = 0, shard: int = 0
) -> list[StoredBatch]:
    """All batches of a partition as they are on the wire, which is as they are on disk.

    shard  the one that leads the partition
    """
    batches: list[StoredBatch] = []
    offset = 0
    with WireClient(broker, shard) as client:
        while True:
            answer = client.ask(fetch_request(topic, partition, offset), 12)
            data = answer.responses[0].partitions[0]
            assert data.error_code == 0
            for pos, header in iter_batches(data.records, 0, len(data.records)):
                whole = bytes(data.records[pos : pos + header.size_bytes])
                batches.append(StoredBatch(header, whole))
                offset = header.last_offset + 1
            if offset >= data.high_watermark:
                return batches
