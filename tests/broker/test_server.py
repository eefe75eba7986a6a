"""Server: admission, real sockets below a real Connection, and the graceful stop."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from kafka_protocol.frame import decode_response, encode_request
from kafka_protocol.messages.api_versions import ApiVersionsRequest
from kafka_protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest
from kafka_protocol.messages.metadata import MetadataRequest
from rpk_py import server as server_module
from storage.errors import DiskUnavailable
from tests.broker.connection_fakes import Client, run, running, ticks, until
from tests.broker.request_builders import batch_of, fetch_request, produce_request, values_of

API_VERSIONS = ApiVersionsRequest("test", "1.0")


def listening() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1000)
    return listener


def backlog_of(listener: socket.socket) -> int:
    """The backlog that the kernel has for a listening socket: tcpi_sacked of tcp(7)'s TCP_INFO."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int.from_bytes(info[28:32], "little")


# -- admission -----------------------------------------------------------------------------------


def test_connections_beyond_the_limit_are_closed_at_once_and_others_served(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, connections_max=2) as shard:
            first, second, third = shard.client(), shard.client(), shard.client()
            assert (first.closed, second.closed, third.closed) == (False, False, True)
            await ticks()
            metrics = shard.broker.metrics
            assert (metrics.connections, metrics.connections_rejected["connections_max"]) == (2, 1)
            assert shard.log.lines[0][1] == {
                "peer": "192.0.2.99:40000",
                "client_id": None,
                "software": None,
                "reason": "connections_max",
                "connections": 2,
                "of_address": 2,
            }
            await first.ask(API_VERSIONS, 3)
            second.vanish()
            await ticks()
            fourth = shard.client()
            await fourth.ask(API_VERSIONS, 3)
            assert (metrics.connections, metrics.connections_accepted) == (2, 3)

    run(scenario())


def test_nobody_is_admitted_while_the_broker_stops(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.server.stop()
            assert shard.client().closed
            await ticks()
            assert shard.broker.metrics.connections == 0

    run(scenario())


# -- a real socket -------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["threads", "ring", "liburing"])
def test_produce_and_fetch_over_a_real_socket(tmp_path: Path, backend: str) -> None:
    async def ask(
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        request: object,
        key: int,
        version: int,
    ) -> object:
        reader, writer = streams
        writer.write(encode_request(request, version, 7, "test"))
        size = int.from_bytes(await reader.readexactly(4), "big")
        frame = memoryview(await reader.readexactly(size))
        correlation_id, message = decode_response(key, version, frame)
        assert correlation_id == 7
        return message

    async def scenario() -> None:
        async with running(tmp_path, backend) as shard:
            await shard.create("t")
            listener = listening()
            address = listener.getsockname()
            await shard.server.start(listener)
            streams = await asyncio.open_connection(*address)
            batch = batch_of(bytes(700_000))
            for i in range(3):
                produced = await ask(streams, *with_key(produce_request("t", batch), 0))
                answer = produced.responses[0].partition_responses[0]  # type: ignore[attr-defined]
                assert (answer.error_code, answer.base_offset) == (0, i)
            fetched = await ask(streams, *with_key(fetch_request("t", 0), 1))
            found = fetched.responses[0].partitions[0]  # type: ignore[attr-defined]
            assert values_of(found) == [(0, bytes(700_000))]
            stopping = asyncio.ensure_future(shard.server.stop())
            assert await streams[0].read() == b""
            streams[1].close()
            await stopping
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address)

    def with_key(made: tuple[object, int], key: int) -> tuple[object, int, int]:
        request, version = made
        return request, key, version

    try:
        run(scenario())
    except DiskUnavailable as error:
        pytest.skip(str(error))


def test_the_listener_keeps_the_backlog_of_the_config(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, listen_backlog=333) as shard:
            listener = listening()
            copy = listener.dup()
            await shard.server.start(listener)
            assert backlog_of(copy) == 333
            copy.close()
            await shard.server.stop()

    run(scenario())


# -- the graceful stop ---------------------------------------------------------------------------


def test_a_stop_answers_what_is_in_flight_and_then_closes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            shard.disk.hold = True
            shard.controller.gate.clear()
            producer, poller, admin, idle = (shard.client() for _ in range(4))
            produced = producer.send(*produce_request("t", batch_of(b"v")))
            polled = poller.send(*fetch_request("t", 0, max_wait_ms=600_000))
            behind = poller.send(MetadataRequest(None), 9)
            created = admin.send(CreateTopicsRequest([CreatableTopic("u", 1, 1)], 1000), 7)
            await until(lambda: shard.disk.held and shard.controller.waiting)
            stopping = asyncio.ensure_future(shard.server.stop())
            await until(lambda: polled in poller.order)
            later = producer.send(MetadataRequest(None), 9)
            await ticks()
            assert not stopping.done()
            assert not producer.closed, "its acknowledgement is owed"
            shard.disk.release()
            shard.controller.gate.set()
            await stopping
            assert producer.order == [produced]
            assert admin.order == [created]
            assert poller.order == [polled]
            assert all(client.closed for client in (producer, poller, admin, idle))
            assert later not in producer.order
            assert behind not in poller.order
            assert shard.broker.metrics.connections == 0

    run(scenario())


def test_a_stop_does_not_wait_for_ever_for_a_client_that_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "STOP_S_MAX", 0.05)
    monkeypatch.setattr(server_module, "GOODBYE_S_MAX", 0.05)

    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.fill("t", 1)
            client = shard.client()
            client.transport.taking = False
            client.send(*fetch_request("t", 0))
            await until(lambda: client.transport.get_write_buffer_size())
            await shard.server.stop()
            assert client.closed
            await ticks()
            assert shard.broker.metrics.connections == 0

    run(scenario())


def test_a_stop_while_a_protocol_error_waits_for_earlier_replies(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            shard.disk.hold = True
            client = shard.client()
            asked = bad_after_produce(client)
            await until(lambda: shard.disk.held)
            stopping = asyncio.ensure_future(shard.server.stop())
            await ticks()
            shard.disk.release()
            await stopping
            assert client.order == [asked]

    def bad_after_produce(client: Client) -> int:
        asked = client.send(*produce_request("t", batch_of(b"v")))
        client.feed(b"\xff\xff\xff\xff")
        return asked

    run(scenario())


def test_a_stop_sends_every_reply_though_the_client_goes_on_sending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A close with unread bytes would be a reset, which takes sent replies from the client.
    monkeypatch.setattr(server_module, "GOODBYE_S_MAX", 600.0)  # it ends when the client closes

    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            listener = listening()
            address = listener.getsockname()
            await shard.server.start(listener)
            reader, writer = await asyncio.open_connection(*address)
            request, version = produce_request("t", batch_of(bytes(1000)))
            frame = encode_request(request, version, 7, "test")
            shard.disk.hold = True
            writer.write(frame * 100)
            await until(lambda: shard.disk.held)
            stopping = asyncio.ensure_future(shard.server.stop())
            await ticks()
            writer.write(frame * 100)  # never handled
            await writer.drain()
            appended = shard.log_of("t").log_end_offset
            shard.disk.release()
            replies = await reader.read()
            count, pos = 0, 0
            while pos < len(replies):
                size = int.from_bytes(replies[pos : pos + 4], "big")
                _, response = decode_response(0, version, memoryview(replies)[pos + 4 :][:size])
                answer = response.responses[0].partition_responses[0]
                assert (answer.error_code, answer.base_offset) == (0, count)
                count, pos = count + 1, pos + 4 + size
            assert count == appended == shard.log_of("t").durable_offset > 0
            writer.close()
            await stopping

    run(scenario())


# -- idle connections ----------------------------------------------------------------------------


def test_a_connection_on_which_nothing_moves_is_dropped(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, connections_max_idle_s=0.05) as shard:
            silent, polling, busy = (shard.client() for _ in range(3))
            await shard.create("t")
            polling.send(*fetch_request("t", 0, max_wait_ms=2**31 - 1))
            listener = listening()
            await shard.server.start(listener)
            while not (silent.transport.lost and polling.transport.lost):
                await busy.reply(busy.send(MetadataRequest(None), 9))
            assert not busy.transport.closing
            await until(lambda: shard.broker.metrics.fetch_waiters == 0)
            await shard.server.stop()

    run(scenario())
