"""Connection: how many requests and items it takes, and large frames that arrive in turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from rpk_py.frame_limits import READ_BYTES_MAX
from tests.broker.connection_fakes import run, running, until
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
