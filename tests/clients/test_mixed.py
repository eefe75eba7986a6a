"""Clients together: what one wrote the others read, byte for byte, in one log and one order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.clients import via_aiokafka, via_confluent, via_kafka_python, via_kcat
from tests.clients.broker import RunningBroker
from tests.clients.records import CODECS, FIRST_MS, Rec, numbered, plain, sample
from tests.clients.topics import create_topic

Write = Callable[[RunningBroker, str, list[Rec], str], object]
Read = Callable[[RunningBroker, str], list[tuple[int, Rec]]]


def write_confluent(broker: RunningBroker, topic: str, records: list[Rec], codec: str) -> None:
    via_confluent.produce(broker, topic, records, compression_codec=codec)


def write_kafka_python(broker: RunningBroker, topic: str, records: list[Rec], codec: str) -> None:
    compression_type = None if codec == "none" else codec
    via_kafka_python.produce(broker, topic, records, compression_type=compression_type)


def write_aiokafka(broker: RunningBroker, topic: str, records: list[Rec], codec: str) -> None:
    compression_type = None if codec == "none" else codec
    via_aiokafka.produce(broker, topic, records, compression_type=compression_type)


def write_kcat(broker: RunningBroker, topic: str, records: list[Rec], codec: str) -> None:
    via_kcat.require_kcat()
    via_kcat.produce(broker, topic, records, "-X", f"compression.codec={codec}")


def read_kcat(broker: RunningBroker, topic: str) -> list[tuple[int, Rec]]:
    via_kcat.require_kcat()
    return via_kcat.consume(broker, topic)


WRITERS: dict[str, Write] = {
    "confluent": write_confluent,
    "kafka-python": write_kafka_python,
    "aiokafka": write_aiokafka,
    "kcat": write_kcat,
}
READERS: dict[str, Read] = {
    "confluent": via_confluent.consume,
    "kafka-python": via_kafka_python.consume,
    "aiokafka": via_aiokafka.consume,
    "kcat": read_kcat,
}


def timeless(read: list[tuple[int, Rec]]) -> list[tuple[int, Rec]]:
    """kcat cannot be told which timestamp to write."""
    return [(offset, record._replace(timestamp_ms=FIRST_MS)) for offset, record in read]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("writer", WRITERS)
def test_what_one_wrote_all_read(broker: RunningBroker, writer: str, codec: str) -> None:
    topic = create_topic(broker)
    WRITERS[writer](broker, topic, plain(100), codec)
    for reader, read in READERS.items():
        assert timeless(read(broker, topic)) == timeless(numbered(plain(100))), reader


def test_nulls_headers_and_binary_pass_between_libraries(broker: RunningBroker) -> None:
    records = sample(40, null_header=False)
    libraries = ("confluent", "kafka-python", "aiokafka")
    for writer in libraries:
        topic = create_topic(broker)
        WRITERS[writer](broker, topic, records, "gzip")
        for reader in libraries:
            assert READERS[reader](broker, topic) == numbered(records), (writer, reader)


def test_null_headers_of_librdkafka_reach_the_others(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    via_confluent.produce(broker, topic, sample(20))
    assert via_kafka_python.consume(broker, topic) == numbered(sample(20))
    assert via_aiokafka.consume(broker, topic) == numbered(sample(20))


def test_writers_in_turn_share_one_order(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    expected: list[Rec] = []
    for turn in range(3):
        for i, (name, write) in enumerate(WRITERS.items()):
            records = plain(10, f"turn {turn} {name}")
            write(broker, topic, records, CODECS[(turn + i) % len(CODECS)])
            expected += records
    for reader, read in READERS.items():
        assert timeless(read(broker, topic)) == timeless(numbered(expected)), reader
