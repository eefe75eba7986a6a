"""Connection: its limits on requests and items, large frames that arrive in turns, and the budget
that a shard's connections share."""

from __future__ import annotations

from pathlib import Path

import pytest

from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from rpk_py.frame_limits import READ_BYTES_MAX
from tests.broker.connection_fakes import run, running, ticks, until
from tests.broker.request_builders import batch_of, produce_request
from tests.broker.test_connection_order import is_read, metadata, produce


def test_a_connection_with_too_many_requests_unanswered_is_not_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, connection_requests_max=3) as shard:
            await shard.create("t")
            shard.disk.hold = True
            client, other = shard.client(), shard.client()
            for _ in range(50):
                produce(client)
            assert shard.log_of("t").log_end_offset == 3
            assert not is_read(client)
            await other.reply(metadata(other))
            shard.disk.release()
            await until(lambda: len(client.order) == 50)
            assert client.order == list(range(1, 51))
            assert is_read(client)

    run(scenario())


@pytest.mark.parametrize("topics", [1000, 2500], ids=["at once", "beside the loop"])
def test_a_request_with_too_many_items_closes_its_connection_and_is_counted(
    tmp_path: Path, topics: int
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, request_items_max=1000) as shard:
            client, wide = shard.client(), shard.client()
            names = [MetadataRequestTopic(name="no-such") for _ in range(topics)]
            refused = client.send(MetadataRequest(names + names[:1]), 9)
            await wide.reply(wide.send(MetadataRequest(names[:1000]), 9))
            await until(lambda: client.closed)
            assert refused not in client.order
            assert shard.broker.metrics.requests_too_large == 1
            assert shard.broker.metrics.decode_errors == 0

    run(scenario())


def test_two_large_frames_arrive_in_turns_and_a_small_one_between_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, frame_bytes_max=64 << 20) as shard:
            await shard.create("t")
            request, version = produce_request("t", batch_of(bytes(12 << 20)))
            large = [shard.client(), shard.client()]
            sent = [client.send(request, version) for client in large]
            assert not any(is_read(client) for client in large), "each has had its read"
            for client in large:
                assert 0 < len(client.connection.get_buffer(-1)) <= READ_BYTES_MAX
            other = shard.client()
            await other.reply(metadata(other))
            assert not any(client.order for client in large)
            for client, number in zip(large, sent, strict=True):
                answer = await client.reply(number)
                partition = answer.responses[0].partition_responses[0]
                assert partition.error_code == 10, "MESSAGE_TOO_LARGE: it arrived whole"

    run(scenario())


def test_connections_that_share_the_budget_all_get_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, inflight_bytes_max=65536) as shard:
            await shard.create("t")
            shard.disk.hold = True
            clients = [shard.client() for _ in range(20)]
            for client in clients:
                for _ in range(5):
                    produce(client, bytes(10_000))
            assert 65536 < shard.broker.inflight_bytes < 80_000
            assert shard.log_of("t").log_end_offset == 6
            paused = [client for client in clients if not is_read(client)]
            assert len(paused) == 19
            assert len(shard.broker.paused) == 19, "each is known once"
            shard.disk.release()
            await until(lambda: all(len(client.order) == 5 for client in clients))
            assert all(is_read(client) for client in clients)
            assert not shard.broker.paused

    run(scenario())


def test_who_has_nothing_in_flight_is_answered_while_producers_wait(tmp_path: Path) -> None:
    """Beyond the shard's budget: small requests that produce nothing, also in parts."""

    async def scenario() -> None:
        async with running(tmp_path, inflight_bytes_max=65536) as shard:
            await shard.create("t")
            shard.disk.hold = True
            producers = [shard.client() for _ in range(3)]
            for client in producers:
                produce(client, bytes(70_000))
            assert shard.log_of("t").log_end_offset == 1
            other, late = shard.client(), shard.client()
            for _ in range(3):
                await other.reply(metadata(other))
            assert is_read(other)
            request, version = produce_request("t", batch_of(b"small"))
            frame = late.frame(request, version)
            for part in (frame[:5], frame[5:]):
                late.feed(part)
            assert shard.log_of("t").log_end_offset == 1, "a small produce request waits, too"
            frame = other.frame(MetadataRequest(None), 9)
            for part in (frame[:3], frame[3:5], frame[5:9], frame[9:]):
                other.feed(part)
            await until(lambda: len(other.order) == 4)
            metadata(producers[0])
            await ticks()
            assert producers[0].order == [], "it has something in flight: its answers keep order"
            assert shard.broker.inflight_bytes < 80_000
            shard.disk.release()
            await until(lambda: all(client.order for client in (*producers, late)))

    run(scenario())


def test_busy_connections_take_turns_at_the_shared_budget(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, inflight_bytes_max=65536) as shard:
            await shard.create("t")
            shard.disk.hold = True
            clients = [shard.client(scratch_bytes=1 << 20) for _ in range(4)]
            request, version = produce_request("t", batch_of(bytes(70_000)))  # fills the budget
            for client in clients:
                client.feed(b"".join(client.frame(request, version) for _ in range(5)))
            for served in range(1, 13):
                await until(lambda: shard.disk.held)
                shard.disk.release(1)
                await ticks()
                counts = [len(client.order) for client in clients]
                assert sum(counts) == served
                assert max(counts) - min(counts) <= 2
            shard.disk.release()
            await until(lambda: all(len(client.order) == 5 for client in clients))

    run(scenario())


def test_a_closed_connection_among_the_paused_ones_is_harmless(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, inflight_bytes_max=65536) as shard:
            await shard.create("t")
            shard.disk.hold = True
            clients = [shard.client() for _ in range(4)]
            for client in clients:
                produce(client, bytes(70_000))
            assert len(shard.broker.paused) == 3
            clients[1].vanish()
            await ticks()
            assert len(shard.broker.paused) == 2
            # And one that closes after its turn was fixed.
            clients[2].connection.closing = True
            shard.disk.release()
            await until(lambda: clients[3].order)
            assert shard.log_of("t").log_end_offset == 2
            assert not shard.broker.paused

    run(scenario())
