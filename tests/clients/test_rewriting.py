"""Sealed segments are rewritten under real clients, who read what they read before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kafka_protocol.record_batch import build_batch
from storage.wal_format import SegmentHeader, decode_segment_header
from tests.clients import via_confluent, via_kafka_python
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.topics import create_topic
from tests.clients.wire_client import WireClient, produce_request

RECORDS = 40


@pytest.fixture
def eager_broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker that looks for segments to rewrite all the time."""
    settings = {"log_cleaner_backoff_ms": 20}
    running = RunningBroker(tmp_path / "data", tmp_path / "broker.log", settings)
    try:
        yield running.start()
    finally:
        running.close()


def rewritten(directory: Path) -> list[bool]:
    """Of each segment of a partition, whether it was rewritten."""
    found = []
    for path in sorted(directory.glob("*.wal")):
        header = decode_segment_header(memoryview(path.read_bytes()[:512]))
        assert isinstance(header, SegmentHeader)
        found.append(header.replaced is not None)
    return found


def test_lone_records_are_rewritten_densely_and_read_as_before(
    eager_broker: RunningBroker,
) -> None:
    broker = eager_broker
    topic = create_topic(broker, configs={"segment.bytes": "131072"})
    directory = broker.data_dir / f"{topic}-0"
    with WireClient(broker) as client:
        for i in range(RECORDS):
            batch = build_batch([(b"key", b"%d" % i)], timestamp_ms=1000 + i)
            client.ask(produce_request(topic, 0, batch, -1), 9)

    def done() -> bool:
        found = rewritten(directory)
        return len(found) > 2 and all(found[:-1])

    wait_until(done, "all sealed segments were rewritten")
    size = sum(path.stat().st_size for path in sorted(directory.glob("*.wal"))[:-1])
    assert size < 3 * 8192 * len(rewritten(directory))
    for _ in range(2):
        for client_of in (via_confluent, via_kafka_python):
            read = client_of.consume(broker, topic)  # type: ignore[attr-defined]
            assert [(at, rec.value) for at, rec in read] == [(i, b"%d" % i) for i in range(RECORDS)]
        broker.kill()
        broker.start()
    assert all(rewritten(directory)[:-1])
    assert broker.log_events("warning", "error", "critical", "raw") == []
