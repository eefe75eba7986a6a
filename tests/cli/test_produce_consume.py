"""`topic produce` and `topic consume` against a real broker, with a foreign client opposite."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kafka.partitioner.default import murmur2 as kafka_python_murmur2

from rpk_py.cli.producer import murmur2
from tests.cli.commands import TIMEOUT_S, command, consumed, consumed_records, produced, run, start
from tests.clients.broker import ROOT, RunningBroker, wait_until

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def create(broker: RunningBroker, topic: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(TIMEOUT_S)


def foreign_records(
    broker: RunningBroker, topic: str, count: int, partition: int = 0
) -> list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]] | None]]:
    """(key, value, headers) as librdkafka reads them."""
    consumer = Consumer(
        {"bootstrap.servers": broker.address, "group.id": "none", "enable.auto.commit": False}
    )
    try:
        consumer.assign([TopicPartition(topic, partition, 0)])
        messages = consumer.consume(count, TIMEOUT_S)
        return [(m.key(), m.value(), m.headers()) for m in messages]
    finally:
        consumer.close()


@pytest.mark.parametrize("codec", CODECS)
def test_a_foreign_client_reads_what_was_produced(broker: RunningBroker, codec: str) -> None:
    topic = f"written-{codec}"
    stdin = b"k1=\x00\xff bin\nk2=\n=v\n" + b"".join(b"%d=%s\n" % (i, b"x" * i) for i in range(300))
    produced(
        *(broker.address, topic, stdin, "-z", codec),
        *("-f", r"%k=%v\n", "-H", "one:1", "-H", "empty:", "-H", "one:again:x"),
    )
    headers = [("one", b"1"), ("empty", b""), ("one", b"again:x")]
    expected = [(b"k1", b"\x00\xff bin", headers), (b"k2", b"", headers), (b"", b"v", headers)]
    expected += [(b"%d" % i, b"x" * i, headers) for i in range(300)]
    assert foreign_records(broker, topic, len(expected)) == expected


def test_null_and_empty_are_told_apart_when_written(broker: RunningBroker) -> None:
    produced(broker.address, "nulls", b"\nv\n")
    produced(broker.address, "nulls", b"\nv\n", "-Z", "-k", "")
    assert foreign_records(broker, "nulls", 4) == [
        (None, b"", None),
        (None, b"v", None),
        (b"", None, None),
        (b"", b"v", None),
    ]


@pytest.mark.parametrize("codec", CODECS)
def test_what_a_foreign_client_wrote_is_printed(broker: RunningBroker, codec: str) -> None:
    topic = f"read-{codec}"
    create(broker, topic, 1)
    producer = Producer(
        {"bootstrap.servers": broker.address, "compression.type": codec, "linger.ms": 50}
    )
    headers = [("h", b"\xff"), ("null", None), ("empty", b"")]
    producer.produce(topic, key=None, value=None, headers=headers, timestamp=1_700_000_000_123)
    producer.produce(topic, key=b"", value=b"", timestamp=1_700_000_000_124)
    producer.produce(topic, key="schlüssel", value=b"\x80", timestamp=1_700_000_000_125)
    producer.flush(TIMEOUT_S)
    common = {"topic": topic, "partition": 0}
    assert consumed_records(broker.address, topic) == [
        {
            **common,
            "key": None,
            "value": None,
            "headers": [
                {"key": "h", "value": "/w==", "value_encoding": "base64"},
                {"key": "null", "value": None},
                {"key": "empty", "value": ""},
            ],
            "timestamp": 1_700_000_000_123,
            "offset": 0,
        },
        {**common, "key": "", "value": "", "headers": [], "timestamp": 1_700_000_000_124}
        | {"offset": 1},
        {
            **common,
            "key": "schlüssel",
            "value": base64.b64encode(b"\x80").decode(),
            "value_encoding": "base64",
            "headers": [],
            "timestamp": 1_700_000_000_125,
            "offset": 2,
        },
    ]
    shown = consumed(broker.address, topic, "-f", r"%o|%k|%V|%h{%k:%v{hex},}|%d{strftime[%F]}\n")
    assert shown.decode() == (
        "0||0|h:ff,null:,empty:,|2023-11-14\n1||0||2023-11-14\n2|schlüssel|1||2023-11-14\n"
    )


def test_keys_are_hashed_as_kafka_does() -> None:
    keys = [b"", b"a", b"\xff\xfe", *(b"key-%d" % i * (i % 9 + 1) for i in range(500))]
    assert [murmur2(key) for key in keys] == [
        kafka_python_murmur2(key) & 0xFFFF_FFFF for key in keys
    ]


def test_a_key_lands_where_librdkafka_puts_it(broker: RunningBroker) -> None:
    create(broker, "keyed", 7)
    keys = [b"key-%d" % i for i in range(60)]
    stdin = b"".join(key + b"\n" for key in keys)
    shown = produced(broker.address, "keyed", stdin, "-f", r"%k\n", "-o", r"%k %p\n")
    ours = dict(line.split() for line in shown.splitlines())
    theirs: dict[bytes, bytes] = {}
    producer = Producer({"bootstrap.servers": broker.address, "partitioner": "murmur2_random"})
    for key in keys:
        producer.produce(
            "keyed",
            key=key,
            on_delivery=lambda _, m: theirs.update({m.key(): b"%d" % m.partition()}),
        )
    producer.flush(TIMEOUT_S)
    assert ours == theirs
    assert len(set(ours.values())) == 7


def test_every_partition_of_every_topic_is_read_once(broker: RunningBroker) -> None:
    for topic in ("many-a", "many-b"):
        create(broker, topic, 5)
        lines = b"".join(b"%s %d\n" % (topic.encode(), i) for i in range(2000))
        produced(broker.address, topic, lines, "-f", r"%k %v\n", "-o", "")
        produced(broker.address, topic, b"a\nb\nc\n", "-p", "3")
    result = run("consume", broker.address, "many-a", "many-b", "-o", ":end", "-f", r"%t %v\n")
    seen = sorted(result.stdout.splitlines())
    expected = [b"%s %d" % (t, i) for t in (b"many-a", b"many-b") for i in range(2000)]
    expected += [b"%s %s" % (t, v) for t in (b"many-a", b"many-b") for v in (b"a", b"b", b"c")]
    assert seen == sorted(expected)


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ("start", "0123456789"),
        ("+7", "789"),
        ("-2", "89"),
        ("4", "456789"),
        ("4:", "456789"),
        ("4:6", "45"),
        ("8:end", "89"),
        (":3", "012"),
        (":end", "0123456789"),
        ("99", ""),
        ("@1700000003000", "3456789"),
        ("@1700000003", "3456789"),
        ("@1700000003:2s", "34"),
        ("@2023-11-14T22:13:28Z:end", "89"),
        ("@:1700000002000", "01"),
        ("@-1h", ""),
    ],
)
def test_ranges_start_and_end_where_they_say(
    broker: RunningBroker, offset: str, expected: str
) -> None:
    if not consumed_topic_exists(broker, "ranges"):
        create(broker, "ranges", 1)
        producer = Producer({"bootstrap.servers": broker.address, "linger.ms": 100})
        for i in range(10):
            producer.produce("ranges", value=str(i), timestamp=(1_700_000_000 + i) * 1000)
        producer.flush(TIMEOUT_S)
    if expected:
        result = run(
            "consume", broker.address, "ranges", "-o", offset, "-n", str(len(expected)), "-f", "%v"
        )
        assert (result.returncode, result.stdout.decode()) == (0, expected)
    else:
        process = start("consume", broker.address, "ranges", "-o", offset, "-n", "1", "-f", "%v")
        produce_until(broker, "ranges-other", process)


def consumed_topic_exists(broker: RunningBroker, topic: str) -> bool:
    return topic in AdminClient({"bootstrap.servers": broker.address}).list_topics().topics


def produce_until(broker: RunningBroker, topic: str, process: subprocess.Popen[bytes]) -> None:
    """Nothing is read for as long as another topic takes to be written and read; then Ctrl-C."""
    produced(broker.address, topic, b"x\n")
    assert consumed(broker.address, topic, "-n", "1", "-f", "%v") == b"x"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=TIMEOUT_S)[0] == b""


def test_the_end_of_a_pipe_ends_consume_without_a_word(broker: RunningBroker) -> None:
    produced(broker.address, "piped", b"0123456789\n" * 50_000, "-o", "")
    process = start("consume", broker.address, "piped", "-f", r"%v\n")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(11) == b"0123456789\n"
    process.stdout.close()
    assert process.wait(TIMEOUT_S) == 0
    assert process.stderr.read() == b""


def test_produce_of_nothing_is_done(broker: RunningBroker) -> None:
    assert produced(broker.address, "nothing", b"") == b""


@pytest.mark.parametrize("acks", ["-1", "0", "1"])
def test_records_arrive_with_any_acks(broker: RunningBroker, acks: str) -> None:
    topic = f"acks{acks}"
    create(broker, topic, 1)
    lines = [b"%d" % i for i in range(5000)]
    produced(
        broker.address, topic, b"\n".join(lines), "--acks", acks, "--max-message-bytes", "4096"
    )
    wait_until(
        lambda: consumed(broker.address, topic, "-f", r"%v\n").splitlines() == lines,
        "all records are there",
    )


def test_a_record_too_large_fails_and_is_named(broker: RunningBroker) -> None:
    create(broker, "large", 1)
    stdin = b"small\n" + b"x" * 2_000_000 + b"\nsmall\n"
    result = run("produce", broker.address, "large", "-z", "none", stdin=stdin)
    assert result.returncode == 1
    text = result.stderr.decode()
    assert "records were not acknowledged: topic large partition 0: MESSAGE_TOO_LARGE" in text
    assert "--max-message-bytes" in text


@pytest.mark.parametrize(
    ("arguments", "stdin", "exit_code", "text"),
    [
        (("no-topic",), b"x\n", 1, "topic no-topic: UNKNOWN_TOPIC_OR_PARTITION"),
        (("../x",), b"x\n", 1, "INVALID_TOPIC_EXCEPTION"),
        (("wrong", "-p", "9"), b"x\n", 1, "topic wrong has no partition 9"),
        (("wrong", "-f", r"%k %v\n"), b"a b\nc", 1, "the input ends inside a record: b'c'"),
        (("wrong", "-f", r"%p %v\n"), b"7 b\n", 1, "topic wrong has no partition 7"),
        (("wrong", "-f", "%k%v"), b"", 2, "text must stand between two verbs"),
        (("wrong", "-f", r"%h\n"), b"", 2, "%h is not read from the input"),
        (("wrong", "-H", "novalue"), b"", 2, "is not KEY:VALUE"),
        (("wrong", "--delivery-timeout", "5"), b"", 2, "no duration"),
    ],
)
def test_what_cannot_be_produced_is_refused(
    broker: RunningBroker, arguments: tuple[str, ...], stdin: bytes, exit_code: int, text: str
) -> None:
    if not consumed_topic_exists(broker, "wrong"):
        create(broker, "wrong", 1)
    result = run("produce", broker.address, *arguments, stdin=stdin)
    assert result.returncode == exit_code
    assert text in result.stderr.decode()


def test_ctrl_c_sends_what_was_read(broker: RunningBroker) -> None:
    create(broker, "interrupted", 1)
    process = start("produce", broker.address, "interrupted", "-o", r"%o\n")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"one\ntwo\nhalf")
    process.stdin.flush()
    assert process.stdout.readline() == b"0\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_S) == 130  # before its input ends, which would complete a record
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert b"2 records were produced; 4 bytes of a record" in stderr
    assert consumed(broker.address, "interrupted", "-f", "%v,") == b"one,two,"


@pytest.mark.parametrize("kill", [False, True])
def test_a_broker_that_restarts_costs_no_record_and_doubles_none(
    own_broker: RunningBroker, kill: bool
) -> None:
    own_broker.start()
    create(own_broker, "steady", 3)
    producer = start(
        *("produce", own_broker.address, "steady", "-f", r"%k %v\n", "-o", ""),
        *("--max-message-bytes", "2000"),
    )
    consumer = start("consume", own_broker.address, "steady", "-f", r"%v\n", "-n", "6000")
    assert producer.stdin is not None
    assert consumer.stdout is not None
    expected = []
    seen = b""
    for start_at in range(0, 6000, 2000):
        values = [b"%d" % i for i in range(start_at, start_at + 2000)]
        producer.stdin.write(b"".join(b"k%s %s\n" % (value, value) for value in values))
        producer.stdin.flush()
        expected += values
        seen += consumer.stdout.readline()  # so both have been connected
        if start_at < 4000:
            if kill:
                own_broker.kill()
                own_broker.start()
            else:
                own_broker.restart()
    _, stderr = producer.communicate(timeout=TIMEOUT_S)
    assert producer.returncode == 0, stderr
    seen += consumer.stdout.read()
    assert sorted(seen.split()) == sorted(expected)
    assert sorted(consumed(own_broker.address, "steady", "-f", r"%v\n").split()) == sorted(expected)


def test_without_a_broker_both_say_so(own_broker: RunningBroker) -> None:
    for name in ("produce", "consume"):
        result = run(name, own_broker.address, "t", stdin=b"x\n")
        assert result.returncode == 3
        assert result.stderr.decode().startswith(
            f"rpk-py: no broker answers: {own_broker.address}: connection refused"
        )
        assert result.stderr.count(b"\n") == 1


def test_the_next_broker_of_the_list_is_tried(broker: RunningBroker) -> None:
    brokers = f"127.0.0.1:1,{broker.address}"
    assert produced(brokers, "second", b"x\n", "-o", "%p@%o") == b"0@0"


def test_json_is_indented_by_default_and_a_line_when_asked_for(broker: RunningBroker) -> None:
    produced(broker.address, "shown", b"v\n", "-k", "k")
    indented = consumed(broker.address, "shown")
    assert indented.count(b"\n") > 5
    line = consumed(broker.address, "shown", "-f", "json")
    assert line.count(b"\n") == 1
    assert json.loads(indented) == json.loads(line)
    sized = json.loads(consumed(broker.address, "shown", "--meta-only"))
    assert "value" not in sized
    assert sized["value_size"] == 1


def test_input_is_not_read_faster_than_it_is_sent(own_broker: RunningBroker) -> None:
    own_broker.start()
    create(own_broker, "slow", 1)
    own_broker.stop()
    own_broker.start()
    process = subprocess.Popen(
        command("produce", "slow", "-o", "", "--brokers", own_broker.address),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    process.stdin.write(b"x\n")
    process.stdin.flush()
    wait_until(lambda: consumed(own_broker.address, "slow", "-f", "%v") == b"x", "one is there")
    own_broker.kill()
    line = b"y" * 999 + b"\n"
    written = 0
    deadline = time.monotonic() + 3
    os.set_blocking(process.stdin.fileno(), False)
    while time.monotonic() < deadline:
        try:
            written += os.write(process.stdin.fileno(), line * 60)
        except BlockingIOError:
            continue
    assert written < 64 << 20
    own_broker.start()
    os.set_blocking(process.stdin.fileno(), True)
    process.stdin.close()
    assert process.wait(TIMEOUT_S) == 0
