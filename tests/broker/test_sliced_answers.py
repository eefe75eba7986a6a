"""A request that is answered in slices is answered as one that is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.messages.fetch import FetchTopic
from kafka_protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from rpk_py import connection
from rpk_py.handlers import fetch, produce
from tests.broker.connection_fakes import NODE, Client, run, running
from tests.broker.request_builders import (
    FETCH_VERSION,
    PRODUCE_VERSION,
    asked,
    batch_of,
    request_of,
)

PARTITIONS = 3
COUNTS = [1, 15, 16, 17, 31, 32, 33, 100, 101, 300, 301, 400]
UNLIMITED = 1 << 30


def slice_all(monkeypatch: pytest.MonkeyPatch, sliced: bool) -> None:
    """Have every request of several partitions answered in slices, or none."""
    monkeypatch.setattr(connection, "LARGE_BYTES", 0 if sliced else UNLIMITED)
    monkeypatch.setattr(produce, "_LARGE_PARTITIONS", 0 if sliced else UNLIMITED)
    monkeypatch.setattr(fetch, "LARGE_ITEMS", 0 if sliced else UNLIMITED)


def wide_produce(count: int, sequence: int) -> ProduceRequest:
    """Partitions in turn and each often: sound, broken, of a producer in order, not existing."""
    data = []
    for number in range(count):
        batch = batch_of(b"%d" % number)
        if number % 5 == 1:
            batch = batch[:-1] + b"\xff"
        elif number % 5 == 2:
            batch = batch_of(b"p", producer_id=9, producer_epoch=0, base_sequence=sequence)
            if number % 15 == 2:  # always the same partition
                sequence += 1
        index = number % (PARTITIONS + 2) if number % 5 != 2 else (0 if number % 15 == 2 else 4)
        data.append(PartitionProduceData(index, memoryview(batch)))
    topics = [TopicProduceData("t", bytes(16), data), TopicProduceData("no-such", bytes(16), data)]
    return ProduceRequest(None, -1, 30_000, topics)


async def answers(client: Client, count: int) -> list[Any]:
    """Of two wide Produce requests and a small one, all sent at once, then of a wide Fetch."""
    sequence = len([n for n in range(count) if n % 15 == 2])
    requests = wide_produce(count, 0), wide_produce(count, sequence), wide_produce(1, 0)
    sent = [client.send(request, PRODUCE_VERSION) for request in requests]
    wanted = asked(*((number % (PARTITIONS + 1), number // 7) for number in range(count)))
    found = [await client.reply(number) for number in sent]
    assert client.order == sent
    fetch_all = request_of(FetchTopic("t", bytes(16), wanted))
    return [*found, await client.ask(fetch_all, FETCH_VERSION)]


@pytest.mark.parametrize("count", COUNTS)
def test_sliced_and_unsliced_answers_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    async def scenario(directory: Path) -> list[str]:
        async with running(directory) as shard:
            await shard.create("t", *[NODE] * PARTITIONS)
            found = await answers(shard.client(), count)
            ends = [shard.log_of("t", index).log_end_offset for index in range(PARTITIONS)]
            return [*map(plain, found), str(ends)]

    both = []
    for sliced in (False, True):
        slice_all(monkeypatch, sliced)
        (tmp_path / str(sliced)).mkdir()
        both.append(run(scenario(tmp_path / str(sliced))))
    assert both[0] == both[1]


def plain(answer: Any) -> str:
    """An answer as text, with the bytes of its records and without what is by chance."""
    for topic in answer.responses:
        for partition in getattr(topic, "partitions", ()):
            partition.records = bytes(partition.records)
        topic.topic_id = bytes(16)
    return repr(answer)
