"""Connection: the order of replies, the budgets that pause it, and how it ends.

`Shard.stop` checks after every test here that all budgets are exactly back at zero.
"""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.api_key import ApiKey
from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.api_versions import ApiVersionsRequest
from kafka_protocol.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreateTopicsRequest,
)
from kafka_protocol.messages.init_producer_id import InitProducerIdRequest
from kafka_protocol.messages.metadata import MetadataRequest
from rpk_py.handlers import HANDLERS
from tests.broker.connection_fakes import NODE, Client, Shard, run, running, ticks, until
from tests.broker.request_builders import batch_of, fetch_request, produce_request

API_VERSIONS = ApiVersionsRequest("test", "1.0")
PIPELINE = ("produce", "metadata", "produce", "api_versions", "produce", "produce", "metadata")


def produce(client: Client, value: bytes = b"value", topic: str = "t", acks: int = -1) -> int:
    request, version = produce_request(topic, batch_of(value), acks=acks)
    return client.send(request, version)


def long_poll(client: Client, topic: str = "t", offset: int = 0) -> int:
    request, version = fetch_request(topic, offset, max_wait_ms=600_000)
    return client.send(request, version)


def create_topic(client: Client, name: str) -> int:
    here = [CreatableReplicaAssignment(0, [NODE])]
    return client.send(CreateTopicsRequest([CreatableTopic(name, -1, -1, here)], 1000), 7)


def metadata(client: Client) -> int:
    return client.send(MetadataRequest(None), 9)


def is_read(client: Client) -> bool:
    """Whether the broker reads what this client sends."""
    return client.transport.reading


def error_of(response: Any) -> int:
    return int(response.responses[0].partition_responses[0].error_code)


def offset_of(response: Any) -> int:
    return int(response.responses[0].partition_responses[0].base_offset)


# -- order ---------------------------------------------------------------------------------------


def test_replies_leave_in_the_order_of_requests_however_late_they_are_known(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.create("u")
            shard.disk.hold = True
            client = shard.client(scratch_bytes=65536)
            frames = []
            for i, kind in enumerate(PIPELINE):
                if kind == "produce":
                    topic = "tu"[i % 4 == 0]
                    frames.append(client.frame(*produce_request(topic, batch_of(b"%d" % i))))
                elif kind == "metadata":
                    frames.append(client.frame(MetadataRequest(None), 9))
                else:
                    frames.append(client.frame(API_VERSIONS, 3))
            client.feed(b"".join(frames))
            logs = [shard.log_of("t"), shard.log_of("u")]
            await until(lambda: [log.log_end_offset for log in logs] == [2, 2])
            await ticks()
            assert client.order == [], "the first reply is not durable"
            while len(client.order) < len(PIPELINE):
                # The newest write first: the order of replies is the requests' all the same.
                await until(lambda: shard.disk.held)
                shard.disk.held.reverse()
                shard.disk.release(1)
                await ticks()
                assert client.order == list(range(1, len(client.order) + 1))
            assert client.order == list(range(1, len(PIPELINE) + 1))

    run(scenario())


def test_produces_are_enqueued_while_earlier_ones_are_not_durable(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            shard.disk.hold = True
            client = shard.client()
            for i in range(20):
                produce(client, b"%d" % i)
            log = shard.log_of("t")
            assert log.log_end_offset == 20
            await until(lambda: shard.disk.held)
            await ticks()
            assert (log.durable_offset, client.order) == (0, [])
            shard.disk.release()
            await until(lambda: len(client.order) == 20)
            assert [offset_of(message) for _, message in client.replies] == list(range(20))

    run(scenario())


def test_a_long_poll_holds_back_every_later_request_of_its_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client, other = shard.client(), shard.client()
            waiting = long_poll(client)
            later = [metadata(client), produce(client, b"mine"), metadata(client)]
            await ticks()
            assert client.order == []
            assert shard.log_of("t").log_end_offset == 0, "the produce has to wait its turn"
            await other.reply(produce(other, b"data"))
            await until(lambda: len(client.order) == 4)
            assert client.order == [waiting, *later]

    run(scenario())


def test_a_long_poll_goes_on_waiting_when_an_earlier_produce_becomes_durable(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.create("quiet")
            shard.disk.hold = True
            client = shard.client()
            first = produce(client)
            long_poll(client, "quiet")
            produce(client, b"must wait")
            await until(lambda: shard.disk.held)
            shard.disk.release()
            await client.reply(first)
            await ticks()
            assert client.order == [first]
            assert shard.log_of("t").log_end_offset == 1
            shard.advance(601)
            await until(lambda: len(client.order) == 3)

    run(scenario())


def test_a_coroutine_holds_back_later_requests_and_then_all_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            shard.controller.gate.clear()
            shard.disk.hold = True
            client = shard.client()
            asked = [produce(client), create_topic(client, "new")]
            asked += [produce(client, topic="new"), metadata(client)]
            await until(lambda: shard.disk.held)
            shard.disk.release()
            await client.reply(asked[0])
            await ticks()
            assert client.order == asked[:1], "an earlier produce does not unblock it"
            shard.controller.gate.set()
            await until(lambda: len(client.order) == 4)
            assert client.order == asked
            assert error_of(client.replies[2][1]) == 0, "the topic exists when its turn comes"

    run(scenario())


@pytest.mark.parametrize("step", [1, 7, 100, None])
def test_whatever_is_buffered_behind_a_blocking_request_is_handled_after_it(
    tmp_path: Path, step: int | None
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client = shard.client(scratch_bytes=512)
            frames = [client.frame(*fetch_request("t", 0, max_wait_ms=600_000))]
            frames += [client.frame(*produce_request("t", batch_of(b"x" * i))) for i in range(40)]
            frames += [client.frame(*fetch_request("t", 40, max_wait_ms=600_000))]
            frames += [client.frame(API_VERSIONS, 3)]
            client.feed(b"".join(frames), step)
            await ticks()
            assert client.order == []
            assert not is_read(client)
            assert len(client.connection._buffer or b"") <= 4096
            shard.advance(601)
            await until(lambda: len(client.order) == 41)
            assert shard.log_of("t").durable_offset == 40
            shard.advance(601)
            await until(lambda: len(client.order) == 43)
            assert client.order == list(range(1, 44))
            assert is_read(client)
            assert client.connection._buffer is None

    run(scenario())


# -- budgets -------------------------------------------------------------------------------------


def test_a_connection_with_too_much_in_flight_is_not_read_until_it_is_durable(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, connection_inflight_bytes_max=5000) as shard:
            await shard.create("t")
            shard.disk.hold = True
            client, other = shard.client(), shard.client()
            for _ in range(50):
                produce(client, bytes(500))
            enqueued = shard.log_of("t").log_end_offset
            assert 3 <= enqueued <= 5, "500 bytes, and about 1 KiB that a request holds beside"
            assert shard.broker.inflight_bytes == client.connection._inflight_bytes > 5000
            assert shard.broker.metrics.reading_paused == 1
            assert not is_read(client)
            assert client.transport.unread, "the rest stays with the kernel"
            await other.reply(metadata(other))
            shard.disk.release()
            await until(lambda: len(client.order) == 50)
            assert client.order == list(range(1, 51))
            assert shard.broker.inflight_bytes == 0
            assert is_read(client)

    run(scenario())


def test_one_frame_larger_than_the_budgets_is_admitted_when_nothing_is_in_flight(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        settings: dict[str, Any] = {
            "connection_inflight_bytes_max": 1024,
            "inflight_bytes_max": 65536,
        }
        async with running(tmp_path, **settings) as shard:
            await shard.create("t")
            client = shard.client()
            for _ in range(3):
                produce(client, bytes(200_000))
            await until(lambda: len(client.order) == 3)
            assert [error_of(message) for _, message in client.replies] == [0, 0, 0]

    run(scenario())


def test_a_client_that_takes_no_replies_is_not_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client, other = shard.client(), shard.client()
            await client.produce("t", batch_of(bytes(600_000)))
            client.transport.taking = False
            request, version = fetch_request("t", 0)
            for _ in range(30):
                client.send(request, version)
                await ticks(3)
            unsent = client.transport.get_write_buffer_size()
            assert unsent < 4 << 20, "a few replies, not thirty"
            assert shard.broker.unsent_bytes == unsent > 0
            assert not is_read(client)
            await other.reply(metadata(other))
            while len(client.order) < 31:
                client.transport.take()
                client.transport.taking = False
                await ticks(3)
            assert shard.broker.unsent_bytes == 0
            client.transport.take()
            await ticks()
            assert is_read(client)

    run(scenario())


def test_a_client_that_vanishes_with_unsent_replies_gives_their_budget_back(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            client = shard.client()
            await client.produce("t", batch_of(bytes(1_040_000)))
            client.transport.taking = False
            for _ in range(4):
                client.send(*fetch_request("t", 0, partition_max_bytes=1 << 21))
                await ticks(3)
            assert shard.broker.unsent_bytes > 0
            client.vanish()
            await ticks()
            assert shard.broker.unsent_bytes == 0

    run(scenario())


# -- acks=0 --------------------------------------------------------------------------------------


def test_acks_0_is_never_answered_and_counts_until_it_is_durable(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            shard.disk.hold = True
            client = shard.client()
            for i in range(5):
                produce(client, b"%d" % i, acks=0)
            assert shard.broker.inflight_bytes > 5 * 60
            last = metadata(client)
            await until(lambda: shard.disk.held)
            shard.disk.release()
            await client.reply(last)
            await until(lambda: shard.log_of("t").durable_offset == 5)
            assert client.order == [last]
            await until(lambda: shard.broker.inflight_bytes == 0)

    run(scenario())


@pytest.mark.parametrize("failure", ["refused", "disk"])
def test_acks_0_closes_on_an_error_after_the_replies_before_it(
    tmp_path: Path, failure: str
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            await shard.create("broken")
            shard.disk.hold = True
            shard.disk.broken = "broken-0" if failure == "disk" else ""
            client = shard.client()
            first = [metadata(client), produce(client)]
            for _ in range(3):
                produce(client, topic="broken" if failure == "disk" else "unknown", acks=0)
            await until(lambda: len(shard.disk.held) == 1 + (failure == "disk"))
            await ticks()
            assert not client.closed, "a reply that came before it is still owed"
            shard.disk.release()
            await until(lambda: client.closed)
            assert client.order == first
            assert shard.events.count("produce with acks=0 failed") == 1

    run(scenario())


# -- the end of a connection ---------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["size", "version", "garbage"])
def test_what_was_asked_before_a_protocol_error_is_answered(tmp_path: Path, bad: str) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            shard.disk.hold = True
            client = shard.client()
            tail = {
                "size": struct.pack(">i", -1),
                "version": struct.pack(">ihhih", 10, ApiKey.PRODUCE, 0, 9, 0),
                "garbage": struct.pack(">ihhih", 12, ApiKey.METADATA, 9, 9, 0) + b"\xff\xff",
            }[bad]
            frames = client.frame(API_VERSIONS, 3) + client.frame(
                *produce_request("t", batch_of(b"v"))
            )
            client.feed(frames + tail + client.frame(API_VERSIONS, 3))
            await until(lambda: shard.disk.held)
            assert not client.closed
            assert not is_read(client)
            shard.disk.release()
            await until(lambda: client.closed)
            assert client.order == [1, 2]
            assert len(shard.log.lines) == 1

    run(scenario())


@pytest.mark.parametrize("moment", ["produce", "long poll", "coroutine", "cold read"])
def test_a_client_that_vanishes_in_a_request_leaves_nothing_behind(
    tmp_path: Path, moment: str
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            await shard.create("t")
            writer = shard.client()
            await writer.reply(produce(writer))
            shard.forget_cache("t")
            client = shard.client()
            await leave_at(shard, client, moment)
            shard.disk.release()
            await until(lambda: shard.broker.inflight_bytes == 0)
            await ticks()
            assert shard.broker.metrics.fetch_waiters == 0
            assert not shard.controller.waiting
            assert not shard.disk.reads_waiting
            assert shard.broker.metrics.connections == 1
            assert shard.events == []
            assert client.transport.sent == b""

    run(scenario())


async def leave_at(shard: Shard, client: Client, moment: str) -> None:
    """Ask for what takes long, and be gone while it does."""
    if moment == "produce":
        shard.disk.hold = True
        produce(client)
        await until(lambda: shard.disk.held)
    elif moment == "long poll":
        long_poll(client, offset=1)
        assert shard.broker.metrics.fetch_waiters == 1
    elif moment == "coroutine":
        shard.controller.gate.clear()
        create_topic(client, "new")
        await until(lambda: shard.controller.waiting)
    else:
        shard.disk.reads_wait = asyncio.Event()
        long_poll(client)
        await until(lambda: shard.disk.reads_waiting)
    assert shard.broker.inflight_bytes > 0
    client.vanish()
    await ticks()


def test_a_client_that_vanishes_before_its_coroutine_starts_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            never = shard.loop.create_future()
            monkeypatch.setitem(HANDLERS, ApiKey.METADATA, lambda _ctx, _request: never)
            client = shard.client()
            metadata(client)
            assert shard.broker.inflight_bytes > 0
            client.transport.lost = True
            client.connection.connection_lost(None)
            assert shard.broker.inflight_bytes == 0

    run(scenario())


def test_the_others_go_on_when_one_that_shared_an_id_request_vanishes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as shard:
            shard.controller.gate.clear()
            clients = [shard.client() for _ in range(3)]
            asked = [client.send(InitProducerIdRequest(None, 1000), 4) for client in clients]
            await until(lambda: shard.controller.waiting)
            clients[0].vanish()
            await ticks()
            shard.controller.gate.set()
            answers = [
                await client.reply(correlation_id)
                for client, correlation_id in zip(clients[1:], asked[1:], strict=True)
            ]
            assert sorted(answer.producer_id for answer in answers) == [1000, 1001]

    run(scenario())


@pytest.mark.parametrize("how", ["at once", "later", "encode"])
def test_a_bug_in_a_handler_closes_its_connection_and_no_other(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_ctx: Any, _request: Any) -> Any:
        if how == "encode":
            return object()
        if how == "later":
            return broken_later()
        raise ValueError("a bug")

    async def broken_later() -> Any:
        raise ValueError("a bug")

    async def scenario() -> None:
        async with running(tmp_path) as shard:
            client, other = shard.client(), shard.client()
            monkeypatch.setitem(HANDLERS, ApiKey.METADATA, broken)
            client.send(API_VERSIONS, 3)
            metadata(client)
            await until(lambda: client.closed)
            await ticks()
            assert shard.broker.inflight_bytes == 0
            assert shard.events == ["request failed"]
            assert client.order == [1], "what was ready before it is sent"
            assert (await other.ask(API_VERSIONS, 3)).error_code == ErrorCode.NONE

    run(scenario())


def test_replies_that_wait_behind_a_produce_count_as_in_flight(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, connection_inflight_bytes_max=16_384) as shard:
            await shard.create("t", *[0] * 50)
            await shard.create("u")
            shard.disk.hold = True
            client = shard.client()
            produce(client, b"v", topic="u")
            for _ in range(200):
                metadata(client)
            await ticks(500)
            assert not is_read(client)
            assert 16_384 < client.connection._inflight_bytes < 40_000
            shard.disk.release()
            await until(lambda: len(client.order) == 201)
            assert client.order == list(range(1, 202))
            assert is_read(client)
            assert shard.broker.inflight_bytes == 0

    run(scenario())
