"""More segments and partitions than a shard may open files: opened when used, closed when idle."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from kafka_protocol.record_batch import build_batch
from tests.clients.broker import RunningBroker
from tests.clients.topics import create_topic
from tests.clients.wire_client import WireClient, produce_request, stored_batches

OPEN_FILES = 64
SEGMENTS = 200
PARTITIONS = 100
FIRST_MS = 1_700_000_000_000
LIMITED = ("sh", "-c", f'ulimit -n {OPEN_FILES} && exec "$0" -m rpk_py "$@"', sys.executable)


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[RunningBroker]:
    broker = RunningBroker(
        tmp_path / "data", tmp_path / "limited.log", {"connections_max": 8}, command=LIMITED
    )
    try:
        yield broker.start()
    finally:
        broker.close()


def test_200_segments_and_100_partitions_are_served_with_64_open_files(
    limited: RunningBroker,
) -> None:
    long = create_topic(limited, configs={"segment.bytes": "16384"})
    wide = create_topic(limited, partitions=PARTITIONS)
    written = [
        build_batch([(None, b"%d" % i + bytes(9_000))], timestamp_ms=FIRST_MS + i)
        for i in range(SEGMENTS)
    ]
    for life in range(3):
        with WireClient(limited) as client:
            for batch in written if life == 0 else []:
                produced(client, long, 0, batch)
            for index in range(PARTITIONS):
                client.send(
                    produce_request(wide, index, build_batch([(None, b"%d" % life)]), -1), 9
                )
            for _ in range(PARTITIONS):
                _, answer = client.receive()
                assert answer.responses[0].partition_responses[0].error_code == 0
            for number in (0, 77, SEGMENTS - 1):
                assert offset_at(client, long, FIRST_MS + number) == number
        assert len(list((limited.data_dir / f"{long}-0").glob("*.wal"))) == SEGMENTS
        whole = [bytes(stored.data[21:]) for stored in stored_batches(limited, long)]
        assert whole == [bytes(batch[21:]) for batch in written], "but for offset and epoch"
        for index in range(PARTITIONS):
            assert len(stored_batches(limited, wide, index)) == life + 1
        assert segments_open(limited) <= OPEN_FILES // 4
        if life == 0:
            limited.kill()
            limited.start()
        elif life == 1:
            limited.restart()
    limited.stop()
    (warning,) = {event["message"] for event in limited.log_events("warning", "error")}
    assert warning == "the limit of open files is low"


def produced(client: WireClient, topic: str, index: int, batch: bytearray) -> None:
    answer = client.ask(produce_request(topic, index, batch, -1), 9)
    assert answer.responses[0].partition_responses[0].error_code == 0


def offset_at(client: WireClient, topic: str, timestamp_ms: int) -> int:
    wanted = ListOffsetsTopic(topic, [ListOffsetsPartition(0, timestamp=timestamp_ms)])
    answer = client.ask(ListOffsetsRequest(-1, topics=[wanted]), 6)
    found = answer.topics[0].partitions[0]
    assert found.error_code == 0
    return int(found.offset)


def segments_open(broker: RunningBroker) -> int:
    """How many the shard has open; all of its files are fewer than the limit in any case."""
    (pid,) = broker.shard_pids
    files = Path(f"/proc/{pid}/fd")
    return sum(os.readlink(file).endswith(".wal") for file in files.iterdir())
