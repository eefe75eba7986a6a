"""Nothing is acknowledged while the disk takes no writes: not a batch, and not its retry either.

The broker's file system is frozen (FIFREEZE: writes wait, nothing fails), so what is answered
then was answered early.
"""

from __future__ import annotations

import platform
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.messages.init_producer_id import InitProducerIdRequest
from kafka_protocol.messages.metadata import MetadataRequest
from kafka_protocol.record_batch import build_batch
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.topics import create_topic
from tests.clients.wire_client import WireClient, fetch_request, produce_request
from tests.crash.cut_disk import CutDisk

pytestmark = pytest.mark.skipif(
    tuple(map(int, platform.release().split(".")[:2])) < (6, 12),
    reason="before Linux 6.12 already the submission of a write waits for a frozen file system",
)


@pytest.fixture
def broker(cut_disk: CutDisk, tmp_path: Path, io_backend: str) -> Iterator[RunningBroker]:
    """A broker whose data lies on the disk that freezes."""
    settings = {"io_backend": io_backend}
    running = RunningBroker(cut_disk.path / "data", tmp_path / "broker.log", settings)
    try:
        yield running.start()
    finally:
        cut_disk.thaw()
        running.close()


def fetched_bytes(client: WireClient, topic: str) -> int:
    answer = client.ask(fetch_request(topic, 0, 1), 12)
    assert answer.responses[0].partitions[0].high_watermark == 1
    return len(answer.responses[0].partitions[0].records or b"")


@pytest.mark.parametrize("io_backend", ["auto", "ring", "threads"], indirect=True)
def test_a_batch_and_its_retry_are_acknowledged_only_when_durable(
    broker: RunningBroker, cut_disk: CutDisk
) -> None:
    topic = create_topic(broker)
    first, retry, other = WireClient(broker), WireClient(broker), WireClient(broker)
    with first, retry, other:
        producer_id = other.ask(InitProducerIdRequest(None, 60_000), 4).producer_id

        def request(sequence: int) -> Any:
            batch = build_batch(
                [(None, b"value")],
                producer_id=producer_id,
                producer_epoch=0,
                base_sequence=sequence,
            )
            return produce_request(topic, 0, batch, -1)

        other.ask(request(0), 9)  # the segment exists now
        cut_disk.freeze()
        first.send(request(1), 9)
        wait_until(lambda: broker.metrics()["rpk_produced_batches_total"] == 2, "the batch")
        retry.send(request(1), 9)
        wait_until(lambda: broker.metrics()["rpk_duplicate_batches_total"] == 1, "its retry")
        assert other.ask(MetadataRequest(None), 12).topics  # the shard serves meanwhile
        assert fetched_bytes(other, topic) == 0  # and shows nobody what may yet be lost
        answered, _, _ = select.select([first.socket, retry.socket], [], [], 0)
        assert not answered, "acknowledged before it was durable"
        cut_disk.thaw()
        for client in (first, retry):
            answer = client.receive()[1].responses[0].partition_responses[0]
            assert (answer.error_code, answer.base_offset) == (0, 1)
