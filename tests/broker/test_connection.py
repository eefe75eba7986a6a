"""Connection: frames out of any bytes, and the refusals of what is no Kafka.

Order, limits and ends of connections: test_connection_order.py.
"""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest

from kafka_protocol.api_key import ApiKey
from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.api_versions import ApiVersionsRequest
from kafka_protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest
from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from rpk_py.frame_limits import BUFFER_BYTES_MIN
from tests.broker.connection_fakes import Client, run, running, ticks, until
from tests.broker.request_builders import (
    PRODUCE_VERSION,
    batch_of,
    fetch_request,
    produce_request,
    records_of,
)

MIB = 1 << 20
TLS_HELLO = bytes.fromhex("160301020001000001fc0303") + bytes(500)
HTTP = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9092\r\n\r\n"
IMPOSSIBLE = "a frame of an impossible size: not a Kafka client, or not a plaintext one"
NOT_SERVED = "the client asked for an API or version that is not served"


def api_versions() -> ApiVersionsRequest:
    return ApiVersionsRequest("test", "1.0")


def raw_frame(
    api_key: int, version: int, correlation_id: int, body: bytes = b"", client_id: bytes = b"old"
) -> bytes:
    """A request by hand, header v1."""
    header = struct.pack(">hhih", api_key, version, correlation_id, len(client_id)) + client_id
    return struct.pack(">i", len(header) + len(body)) + header + body


async def answered(client: Client, count: int) -> None:
    """Wait for so many replies, in the order of the requests."""
    await until(lambda: len(client.order) == count)
    assert client.order == sorted(client.order)


# -- frames --------------------------------------------------------------------------------------


def test_a_request_that_arrives_byte_by_byte_is_answered_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client = shard.client()
            request, version = produce_request("t", batch_of(b"one", b"two"))
            client.feed(client.frame(api_versions(), 3) + client.frame(request, version), step=1)
            await answered(client, 2)
            produced = client.replies[1][1].responses[0].partition_responses[0]
            assert (produced.error_code, produced.base_offset) == (0, 0)
            found = await client.fetch("t", 0)
            assert records_of(found)[61:] == batch_of(b"one", b"two")[61:]

    run(scenario())


def test_frames_that_arrive_in_one_read_are_all_answered_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            client = shard.client(scratch_bytes=65536)
            client.feed(b"".join(client.frame(api_versions(), i % 5) for i in range(50)))
            await ticks(1)
            assert client.order == [1], "one request a tick, so that others have their turn"
            await until(lambda: len(client.order) == 50)
            assert client.order == list(range(1, 51))
            assert client.transport.reading

    run(scenario())


def test_every_split_of_two_frames_gives_the_same_two_answers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            request, version = produce_request("t", batch_of(b"value"))
            size = None
            for split in range(1, 200):
                client = shard.client()
                data = client.frame(request, version) + client.frame(api_versions(), 3)
                size = len(data)
                if split >= size:
                    break
                client.feed(data[:split])
                client.feed(data[split:])
                await answered(client, 2)
                assert client.connection._buffer is None, "an idle connection holds no memory"
                client.vanish()
            assert size is not None
            assert shard.partition("t").high_watermark == size - 1

    run(scenario())


@pytest.mark.parametrize("read_bytes_max", [1000, 4096, 1 << 30])
def test_a_frame_larger_than_the_scratch_buffer_is_put_together(
    tmp_path: Path, read_bytes_max: int
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client = shard.client(scratch_bytes=4096, read_bytes_max=read_bytes_max)
            batch = batch_of(bytes(range(256)) * 3000)
            request, version = produce_request("t", batch)
            frames = [client.frame(api_versions(), 3), client.frame(request, version)]
            frames.append(client.frame(api_versions(), 3))
            client.feed(b"".join(frames))
            await answered(client, 3)
            assert client.connection._buffer is None
            # One buffer of the frame's size, not one that grows.
            assert client.transport.buffer_bytes_max <= len(frames[1])
            found = await client.fetch("t", 0)
            assert records_of(found)[61:] == batch[61:]

    run(scenario())


def test_a_partial_frame_holds_a_buffer_and_a_whole_one_gives_it_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            client = shard.client()
            data = client.frame(api_versions(), 3)
            client.feed(data[:3])
            assert len(client.connection._buffer or b"") == BUFFER_BYTES_MIN
            client.feed(data[3:])
            assert client.connection._buffer is None
            await answered(client, 1)
            client.feed(data[:10])
            client.vanish()
            await ticks()
            assert client.connection._buffer is None

    run(scenario())


# -- what is no Kafka ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "tail"),
    [
        (-1, b""),
        (-(2**31), b""),
        (0, b""),
        (7, b"1234567"),
        (2**31 - 1, b"x" * 100),
        (100 * MIB + 1, b""),
    ],
)
def test_an_impossible_size_closes_with_one_line_and_no_memory(
    tmp_path: Path, size: int, tail: bytes
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            client = shard.client()
            tracemalloc.start()
            client.feed(struct.pack(">i", size) + tail, step=1)
            _, peak_bytes = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak_bytes < 100_000
            assert client.closed
            assert client.transport.sent == b""
            ((event, facts),) = shard.log.lines
            assert event == IMPOSSIBLE
            assert facts["size_bytes"] == size
            assert facts["peer"] == "192.0.2.99:40000"
            assert shard.broker.metrics.decode_errors == 1

    run(scenario())


def test_an_impossible_size_takes_no_memory_while_it_waits_its_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client = shard.client()
            request, version = fetch_request("t", 0, max_wait_ms=60_000)
            client.feed(client.frame(request, version) + struct.pack(">i", 2**31 - 1))
            assert len(client.connection._buffer or b"") <= BUFFER_BYTES_MIN
            assert not client.closed
            shard.advance(61)
            await until(lambda: client.closed)
            assert client.order == [1]
            assert shard.events == [IMPOSSIBLE]

    run(scenario())


@pytest.mark.parametrize("step", [1, None])
@pytest.mark.parametrize("data", [TLS_HELLO, HTTP, b"\xff" * 64], ids=["tls", "http", "noise"])
def test_another_protocol_is_closed_with_one_line(
    tmp_path: Path, data: bytes, step: int | None
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            client = shard.client()
            for pos in range(0, len(data), step or len(data)):
                if not client.closed:
                    client.feed(data[pos : pos + (step or len(data))])
            assert client.closed
            assert shard.events == [IMPOSSIBLE]
            begins_with = shard.log.lines[0][1]["begins_with"]
            assert begins_with
            assert data.hex().startswith(begins_with)

    run(scenario())


def test_a_stream_that_ends_inside_a_frame_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            data = Client(shard, 4096, 1).frame(api_versions(), 3)
            for end in range(len(data)):
                client = shard.client()
                client.feed(data[:end])
                assert client.connection.eof_received() is False, "the transport then closes"
                client.vanish()
                await ticks(2)
            assert shard.events == []
            assert shard.broker.metrics.connections == 0

    run(scenario())


@pytest.mark.parametrize("end", [-1, -5, 8])
def test_a_frame_that_is_not_what_it_says_closes_and_names_the_place(
    tmp_path: Path, end: int
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            client = shard.client()
            body = client.frame(MetadataRequest([MetadataRequestTopic(name="topic")]), 9)[4:]
            bad = body[:end] if end < 0 else body + bytes(end)
            client.feed(struct.pack(">i", len(bad)) + bad)
            assert client.closed
            ((event, facts),) = shard.log.lines
            assert event == "the client broke the protocol"
            assert facts["reason"]
            assert shard.broker.metrics.decode_errors == 1

    run(scenario())


def test_noise_of_a_possible_size_closes_or_is_refused_and_never_raises(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            for seed in range(300):
                client = shard.client()
                body = bytes((seed * 7 + i * i * 13) % 256 for i in range(8 + seed))
                client.feed(struct.pack(">i", len(body)) + body)
                assert client.closed, body.hex()
                client.vanish()
            assert "request failed" not in shard.events
            assert len(shard.events) + shard.broker.log_limit.suppressed == 300

    run(scenario())


def test_bytes_after_the_close_are_not_looked_at(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client = shard.client()
            request, version = produce_request("t", batch_of(b"late"))
            client.feed(struct.pack(">i", -1) + client.frame(request, version))
            await ticks()
            assert shard.events == [IMPOSSIBLE]
            assert shard.log_of("t").log_end_offset == 0

    run(scenario())


# -- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [5, 127, 32767, -1])
def test_an_unknown_version_of_api_versions_is_answered_as_version_0(
    tmp_path: Path, version: int
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            client = shard.client()
            client.feed(raw_frame(ApiKey.API_VERSIONS, version, 41, b"\xfe not to be parsed"))
            client.expect(41, ApiKey.API_VERSIONS, 0)
            answer = await client.reply(41)
            assert answer.error_code == ErrorCode.UNSUPPORTED_VERSION
            own = [(k.api_key, k.min_version, k.max_version) for k in answer.api_keys]
            assert (ApiKey.API_VERSIONS, 0, 4) in own
            assert not client.closed
            assert shard.events == []
            assert (await client.ask(api_versions(), 4)).error_code == 0

    run(scenario())


@pytest.mark.parametrize(
    ("api_key", "version"),
    [(ApiKey.PRODUCE, 2), (ApiKey.FETCH, 3), (ApiKey.METADATA, 99), (71, 0), (-1, 0), (999, 3)],
)
def test_what_is_not_served_closes_and_names_the_client_and_the_fix(
    tmp_path: Path, api_key: int, version: int
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            client = shard.client()
            client.feed(raw_frame(api_key, version, 5, bytes(20), b"kafka-go-0.1"))
            assert client.closed
            ((event, facts),) = shard.log.lines
            assert event == NOT_SERVED
            assert (facts["api_key"], facts["api_version"]) == (api_key, version)
            assert facts["client_id"] == "kafka-go-0.1"
            assert facts["peer"] == "192.0.2.99:40000"
            assert "newer" in facts["fix"]
            await ticks()
            assert client.transport.sent == b""

    run(scenario())


def test_a_client_without_an_id_is_served(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            client = shard.client()
            client.feed(client.frame(api_versions(), 3, client_id=None))
            await answered(client, 1)

    run(scenario())


def test_what_handlers_keep_does_not_lie_in_the_receive_buffer(tmp_path: Path) -> None:
    # The transport overwrites the scratch buffer after every read: a coroutine starts later.
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            client = shard.client()
            request = CreateTopicsRequest([CreatableTopic("later", 2, 1)], 1000)
            answer = await client.ask(request, 7)
            assert (answer.topics[0].name, answer.topics[0].error_code) == ("later", 0)
            topic = shard.controller.state.topics["later"]
            fetch, version = fetch_request(topic.topic_id, 0, max_wait_ms=60_000)
            waiting = client.send(fetch, version)
            producer = shard.client()
            index = next(p.index for p in topic.partitions if p.leader == 1)
            assert index == 0
            await producer.produce("later", batch_of(b"v"), version=PRODUCE_VERSION)
            found = await client.reply(waiting)
            assert found.responses[0].topic_id == topic.topic_id
            assert found.responses[0].partitions[0].records

    run(scenario())


# -- memory of partial frames --------------------------------------------------------------------


def test_an_announced_frame_takes_memory_only_as_it_arrives(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            clients = [shard.client() for _ in range(10)]
            for client in clients:
                client.feed(struct.pack(">i", 100_000_000) + bytes(10))
            assert shard.broker.partial_bytes <= len(clients) * BUFFER_BYTES_MIN
            clients[0].feed(bytes(50_000))
            assert 50_000 < shard.broker.partial_bytes < 400_000
            for client in clients:
                client.transport.close()
            await ticks()
            assert shard.broker.partial_bytes == 0

    run(scenario())


def test_partial_frames_have_a_limit_together(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, partial_frame_bytes_max=65536) as shard:
            clients = [shard.client() for _ in range(20)]
            for client in clients:
                client.feed(struct.pack(">i", 1_000_000) + bytes(10))
            assert sum(client.transport.closing for client in clients) == 4
            assert shard.broker.partial_bytes == 16 * BUFFER_BYTES_MIN
            assert all("partial frames" in line for line, _ in shard.log.lines)
            assert shard.broker.metrics.connections_dropped["partial_frames"] == 4

    run(scenario())


def test_a_large_request_other_than_produce_is_refused_before_it_is_buffered(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            small, large = shard.client(), shard.client()
            large.feed(struct.pack(">ihh", 50_000_000, ApiKey.PRODUCE, 9))
            small.feed(struct.pack(">ihh", 50_000_000, ApiKey.METADATA, 9))
            await ticks()
            assert small.transport.closing
            assert not large.transport.closing
            assert shard.log.lines[-1][1]["size_bytes_max"] < 50_000_000

    run(scenario())
