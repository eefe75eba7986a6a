"""kcat (Debian's 1.7.1 on librdkafka 2.0.2) against a real broker."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.clients import via_confluent, via_kcat
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.records import CODECS, FIRST_MS, MIB, STEP_MS, Rec, numbered, plain
from tests.clients.topics import create_topic, new_topic_name
from tests.clients.wire_client import stored_batches

BIG = {"max.message.bytes": str(2 * MIB)}


@pytest.fixture(autouse=True)
def _kcat() -> None:
    via_kcat.require_kcat()


def without_time(read: list[tuple[int, Rec]]) -> list[tuple[int, Rec]]:
    return [(offset, record._replace(timestamp_ms=FIRST_MS)) for offset, record in read]


def timeless(count: int) -> list[Rec]:
    return [record._replace(timestamp_ms=FIRST_MS) for record in plain(count)]


def test_it_lists_the_broker_and_its_topics(broker: RunningBroker) -> None:
    topic = create_topic(broker, partitions=3)
    text = via_kcat.run(broker, "-L").decode()
    assert re.search(rf"broker 0 at {broker.address} \(controller\)", text)
    assert f'topic "{topic}" with 3 partitions' in text
    assert "partition 2, leader 0, replicas: 0, isrs: 0" in text


@pytest.mark.parametrize("acks", ["0", "1", "all"])
def test_it_reads_what_it_wrote(broker: RunningBroker, acks: str) -> None:
    topic = create_topic(broker)
    via_kcat.produce(broker, topic, timeless(100), "-X", f"acks={acks}")
    if acks == "0":  # the broker may still be reading what was sent
        wait_until(lambda: len(via_kcat.consume(broker, topic)) == 100, "the records are there")
    assert without_time(via_kcat.consume(broker, topic)) == numbered(timeless(100))


def test_its_idempotent_producer_works(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    via_kcat.produce(broker, topic, timeless(100), "-X", "enable.idempotence=true")
    assert without_time(via_kcat.consume(broker, topic)) == numbered(timeless(100))
    assert all(batch.header.producer_id >= 0 for batch in stored_batches(broker, topic))


@pytest.mark.parametrize("codec", CODECS)
def test_every_compression_is_stored_as_it_came(broker: RunningBroker, codec: str) -> None:
    topic = create_topic(broker)
    # So many equal bytes that a batch which did not shrink is not compressed.
    records = [record._replace(value=b"x" * 500) for record in timeless(50)]
    via_kcat.produce(broker, topic, records, "-X", f"compression.codec={codec}")
    assert without_time(via_kcat.consume(broker, topic)) == numbered(records)
    codecs = {CODECS[batch.header.compression] for batch in stored_batches(broker, topic)}
    assert codecs == {codec}


@pytest.mark.parametrize("codec", CODECS)
def test_it_reads_every_compression_of_a_newer_client(broker: RunningBroker, codec: str) -> None:
    topic = create_topic(broker)
    via_confluent.produce(broker, topic, plain(100), compression_codec=codec)
    assert via_kcat.consume(broker, topic) == numbered(plain(100))


def test_null_and_empty_keys_and_values_stay_what_they_are(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    lines = b"key\t\n\tvalue\nno key at all\n"
    produce = ("-P", "-t", topic, "-p", "0", "-K", via_kcat.KEY_DELIMITER)
    via_kcat.run(broker, *produce, stdin=lines)
    via_kcat.run(broker, *produce, "-Z", stdin=lines)
    pairs = [(record.key, record.value) for _, record in via_kcat.consume(broker, topic)]
    assert pairs == [
        (b"key", b""),
        (b"", b"value"),
        (None, b"no key at all"),
        (b"key", None),
        (None, b"value"),
        (None, b"no key at all"),
    ]


def test_headers_arrive_in_order(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    headers = ("-H", "a=1", "-H", "b=two", "-H", "a=3")
    via_kcat.produce(broker, topic, timeless(1), *headers)
    [(_, record)] = via_kcat.consume(broker, topic)
    assert record.headers == (("a", b"1"), ("b", b"two"), ("a", b"3"))


def test_a_file_of_one_mib_is_one_record(broker: RunningBroker, tmp_path: Path) -> None:
    topic = create_topic(broker, configs=BIG)
    value = bytes(range(256)) * (MIB // 256)
    file = tmp_path / "value"
    file.write_bytes(value)
    size = ("-X", f"message.max.bytes={2 * MIB}")
    via_kcat.run(broker, "-P", "-t", topic, "-p", "0", *size, str(file))
    [(offset, record)] = via_kcat.consume(broker, topic)
    assert (offset, record.value) == (0, value)


def test_a_record_above_the_limit_is_refused(broker: RunningBroker, tmp_path: Path) -> None:
    topic = create_topic(broker)
    file = tmp_path / "value"
    file.write_bytes(bytes(MIB))
    size = ("-X", f"message.max.bytes={2 * MIB}")
    with pytest.raises(AssertionError, match="Message size too large"):
        via_kcat.run(broker, "-P", "-t", topic, "-p", "0", *size, str(file))
    assert stored_batches(broker, topic) == []


def test_it_consumes_from_where_it_is_told(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    via_confluent.produce(broker, topic, plain(30), batch_num_messages=7)
    everything = numbered(plain(30))
    assert via_kcat.consume(broker, topic, "beginning") == everything
    assert via_kcat.consume(broker, topic, "17") == everything[17:]
    assert via_kcat.consume(broker, topic, "-4") == everything[-4:]
    assert via_kcat.consume(broker, topic, "end") == []
    between = f"s@{FIRST_MS + 20 * STEP_MS - 1}"
    assert via_kcat.consume(broker, topic, between) == everything[20:]
    until = ("-o", f"e@{FIRST_MS + 10 * STEP_MS}")
    assert via_kcat.consume(broker, topic, "beginning", 0, *until) == everything[:10]


def test_it_queries_offsets_by_timestamp(broker: RunningBroker) -> None:
    topic = create_topic(broker)
    via_confluent.produce(broker, topic, plain(30))
    expected = {
        FIRST_MS + 12 * STEP_MS: 12,
        FIRST_MS + 12 * STEP_MS + 1: 13,
        -2: 0,
        -1: 30,
        FIRST_MS + 30 * STEP_MS: -1,  # no record is that new
    }
    for timestamp_ms, offset in expected.items():
        text = via_kcat.run(broker, "-Q", "-t", f"{topic}:0:{timestamp_ms}").decode()
        assert text.strip() == f"{topic} [0] offset {offset}", timestamp_ms


def test_a_topic_is_created_by_its_first_record(broker: RunningBroker) -> None:
    topic = new_topic_name("automatic")
    via_kcat.produce(broker, topic, timeless(3))
    assert without_time(via_kcat.consume(broker, topic)) == numbered(timeless(3))
