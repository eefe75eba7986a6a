"""A broker that answers by a script: good replies of our own codec, bent where a test wants it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka_protocol.api import SUPPORTED, ApiKey
from kafka_protocol.frame import decode_request, encode_response
from kafka_protocol.messages.api_versions import ApiVersion, ApiVersionsResponse
from kafka_protocol.messages.fetch import FetchableTopicResponse, FetchResponse, PartitionData
from kafka_protocol.messages.init_producer_id import InitProducerIdResponse
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartitionResponse,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from kafka_protocol.messages.metadata import (
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from kafka_protocol.messages.produce import (
    PartitionProduceResponse,
    ProduceResponse,
    TopicProduceResponse,
)
from kafka_protocol.wire import NO_UUID
from tests.cli.listener import listening

TOPIC = "t"
VERSIONS_MAX = {ApiKey.PRODUCE: 12, ApiKey.FETCH: 12}  # the later ones take topic ids
NOTHING = b""  # no answer, and on with the next request
PORT = -2  # in a reply of Metadata: the port of this broker

# request -> a reply; bytes: the whole body behind the correlation id; None: the broker closes.
Answer = Callable[[Any], Any]


def metadata(
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    name: str = TOPIC,
    error_code: int = 0,
    leader_id: int = 1,
    partitions: int = 1,
) -> MetadataResponse:
    """One broker, number 1, and one topic."""
    parts = [MetadataResponsePartition(0, i, leader_id, 0, [1], [1], []) for i in range(partitions)]
    topic = MetadataResponseTopic(error_code, name, NO_UUID, False, parts)
    return MetadataResponse(0, [MetadataResponseBroker(1, host, port)], None, 1, [topic])


def offsets(offset: int, *, error_code: int = 0, name: str = TOPIC) -> ListOffsetsResponse:
    """The same offset for start and end."""
    part = ListOffsetsPartitionResponse(0, error_code, -1, offset)
    return ListOffsetsResponse(0, [ListOffsetsTopicResponse(name, [part])])


def fetched(
    records: bytes | None, *, error_code: int = 0, name: str = TOPIC, index: int = 0
) -> FetchResponse:
    """One partition's records."""
    data = PartitionData(index, error_code, 100, 100, 0, records=records)
    return FetchResponse(0, 0, 0, [FetchableTopicResponse(name, NO_UUID, [data])])


def stored(*, error_code: int = 0, name: str = TOPIC, index: int = 0) -> ProduceResponse:
    """The answer to Produce for one partition."""
    part = PartitionProduceResponse(index, error_code, 0)
    return ProduceResponse([TopicProduceResponse(name, NO_UUID, [part])], 0)


def _offsets_of(request: Any) -> ListOffsetsResponse:
    return offsets(0 if request.topics[0].partitions[0].timestamp == -2 else 100)


GOOD: dict[ApiKey, Answer] = {
    ApiKey.API_VERSIONS: lambda _: ApiVersionsResponse(
        0,
        [
            ApiVersion(key, spec.min_version, VERSIONS_MAX.get(key, spec.max_version))
            for key, spec in SUPPORTED.items()
        ],
        0,
    ),
    ApiKey.METADATA: lambda _: metadata(),
    ApiKey.LIST_OFFSETS: _offsets_of,
    ApiKey.INIT_PRODUCER_ID: lambda _: InitProducerIdResponse(0, 0, 7, 0),
    ApiKey.FETCH: lambda _: fetched(b""),
    ApiKey.PRODUCE: lambda _: stored(),
}


@contextmanager
def scripted_broker(bent: Mapping[ApiKey, Answer]) -> Iterator[str]:
    """The address of a broker that answers as GOOD does, but for what is bent."""
    answers = {**GOOD, **bent}

    def converse(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            try:
                port = connection.getsockname()[1]
                while size := stream.read(4):
                    frame = stream.read(int.from_bytes(size, "big"))
                    reply = _reply(frame, answers, port)
                    if reply is None:
                        return
                    connection.sendall(reply)
            except OSError:
                return  # the client has gone, or the test is over

    def serve(connections: Iterator[socket.socket]) -> None:
        served = []
        for connection in connections:
            served.append(connection)
            threading.Thread(target=converse, args=(connection,), daemon=True).start()
        for connection in served:
            connection.close()

    with listening(serve) as address:
        yield address


def _reply(frame: bytes, answers: Mapping[ApiKey, Answer], port: int) -> bytes | None:
    header, request = decode_request(memoryview(frame))
    answer = answers[ApiKey(header.api_key)](request)
    if answer is None:
        return None
    if answer is NOTHING:
        return b""
    if isinstance(answer, bytes):
        body = header.correlation_id.to_bytes(4, "big") + answer
        return len(body).to_bytes(4, "big") + body
    for node in getattr(answer, "brokers", ()):
        node.port = port if node.port == PORT else node.port
    parts = encode_response(header.api_key, header.api_version, header.correlation_id, answer)
    return b"".join(parts)
