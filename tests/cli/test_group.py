"""`rpk-py group` as a real process against a real broker of two shards and real members."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.cli.rpk_process import Ended, rpk
from tests.clients.broker import RunningBroker, shared_broker, wait_until
from tests.clients.topics import create_topic, new_topic_name

PARTITIONS = 3
RECORDS = 30  # of each partition


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    with shared_broker(tmp_path_factory.mktemp("broker"), shards=2) as running:
        yield running


@pytest.fixture(scope="module")
def topic(broker: RunningBroker) -> str:
    name = create_topic(broker, partitions=PARTITIONS)
    producer = Producer({"bootstrap.servers": broker.address})
    for number in range(PARTITIONS * RECORDS):
        producer.produce(name, b"%d" % number, partition=number % PARTITIONS)
    assert producer.flush(20) == 0
    return name


def group(broker: RunningBroker, *arguments: object) -> Ended:
    return rpk("group", *arguments, brokers=broker.address)


def committed_group(broker: RunningBroker, topic: str, offset: int) -> str:
    """A group without members that is at this offset in every partition."""
    name = new_topic_name("group")
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": name})
    wanted = [TopicPartition(topic, index, offset) for index in range(PARTITIONS)]
    assert all(each.error is None for each in consumer.commit(offsets=wanted, asynchronous=False))
    consumer.close()
    return name


class Member:
    """A consumer in a thread of its own, which lives until the end of a `with` block."""

    def __init__(self, broker: RunningBroker, name: str, topic: str, protocol: str) -> None:
        settings = {
            "bootstrap.servers": broker.address,
            "group.id": name,
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "client.id": "the-member",
        }
        self._consumer = Consumer(settings)
        self._consumer.subscribe([topic])
        self._stop = threading.Event()
        self._assigned = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._consumer.poll(0.05)
            if len(self._consumer.assignment()) == PARTITIONS:
                self._assigned.set()
        self._consumer.close()

    def __enter__(self) -> Member:
        self._thread.start()
        assert self._assigned.wait(30), "it has not all partitions"
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(30)


@pytest.mark.parametrize(("protocol", "assignor"), [("classic", "range"), ("consumer", "uniform")])
def test_a_group_is_shown_with_its_member_and_its_lag(
    broker: RunningBroker, topic: str, protocol: str, assignor: str
) -> None:
    name = new_topic_name("group")
    with Member(broker, name, topic, protocol):
        (facts,) = wait_until(
            lambda: (
                (told := group(broker, "describe", name, "--format", "json").json)
                and told[0]["state"] == "Stable"
                and told
            ),
            "the group is stable",
        )
        assert (facts["group"], facts["type"], facts["members"]) == (name, protocol, 1)
        assert (facts["assignor"], facts["total_lag"]) == (assignor, PARTITIONS * RECORDS)
        for index, each in enumerate(facts["partitions"]):
            assert (each["topic"], each["partition"]) == (topic, index)
            assert (each["current_offset"], each["lag"]) == (None, RECORDS)
            assert (each["client_id"], each["host"]) == ("the-member", "/127.0.0.1")
        text = group(broker, "describe", name)
        assert "TOTAL-LAG    90" in text.out
        assert [topic, "90"] in group(broker, "describe", "-t", name).rows
        refused = group(broker, "seek", name, "--to", "start", "--topics", topic)
        assert (refused.code, refused.out) == (1, "")
        assert "with 1 members: stop them first" in refused.err
        kept = group(broker, "delete", name)
        assert kept.code == 1
        assert "NON_EMPTY_GROUP" in kept.out


def test_the_history_says_what_happened_and_where_to_look(
    broker: RunningBroker, topic: str
) -> None:
    name = new_topic_name("group with / and %")
    admin = ("--admin", f"127.0.0.1:{broker.admin_port}")
    with Member(broker, name, topic, "classic"):
        pass
    (history,) = group(broker, "describe", name, "--history", *admin, "--format", "json").json
    assert (history["group"], history["type"], history["dropped"]) == (name, "classic", 0)
    kinds = [event["kind"] for event in history["events"]]
    assert kinds[0] == "member-id-given"
    assert kinds.index("joined") < kinds.index("stable") < kinds.index("left")
    assert kinds[-1] == "empty"
    (stable,) = (event for event in history["events"] if event["kind"] == "stable")
    assert stable["moved_count"] == PARTITIONS
    assert {move["before"] for move in stable["moves"]} == {None}
    text = group(broker, "describe", name, "--history", *admin).out
    assert f"{PARTITIONS} partitions moved: {topic}-0 nobody -> the-member" in text
    assert "look next: the-member" in text
    unknown = group(broker, "describe", "nobody", "--history", *admin)
    assert (unknown.code, unknown.out) == (1, "")
    assert "there is no such group" in unknown.err
    elsewhere = group(broker, "describe", name, "--history", "--admin", "127.0.0.1:1")
    assert elsewhere.code == 3
    assert "RPK_ADMIN" in elsewhere.err


def test_all_groups_of_all_brokers_are_listed(broker: RunningBroker, topic: str) -> None:
    names = {committed_group(broker, topic, 1) for _ in range(6)}
    listed = group(broker, "list", "--format", "json").json
    assert names <= {each["group"] for each in listed}
    assert {each["broker"] for each in listed} == {0, 1}
    empty = group(broker, "list", "--states", "empty", "--format", "json").json
    assert names <= {each["group"] for each in empty}
    assert group(broker, "list", "-s", "Dead").rows == []


def test_seek_goes_to_the_start_the_end_a_time_and_another_group(
    broker: RunningBroker, topic: str
) -> None:
    name = committed_group(broker, topic, 7)

    def offsets(*arguments: object) -> list[int]:
        rows = group(broker, "seek", name, *arguments, "--format", "json").json
        assert [each["error"] for each in rows] == [None] * PARTITIONS
        return [each["current_offset"] for each in rows]

    assert offsets("--to", "end") == [RECORDS] * PARTITIONS
    assert offsets("--to", "start") == [0] * PARTITIONS
    assert offsets("--to", "-1h") == [0] * PARTITIONS
    assert offsets("--to", "2100-01-01") == [RECORDS] * PARTITIONS
    assert offsets("--to-group", committed_group(broker, topic, 12)) == [12] * PARTITIONS
    (facts,) = group(broker, "describe", name, "--format", "json").json
    assert [each["current_offset"] for each in facts["partitions"]] == [12] * PARTITIONS


def test_seek_takes_a_file_and_only_known_topics_without_leave(
    broker: RunningBroker, topic: str, tmp_path: Path
) -> None:
    name = committed_group(broker, topic, 7)
    file = tmp_path / "offsets.txt"
    file.write_text(f"{topic} 0 3\n\n{topic} 2 5\n")
    text = group(broker, "seek", name, "--to-file", file)
    assert text.rows == [
        [topic, "0", "7", "3"],
        [topic, "2", "7", "5"],
    ]
    other = create_topic(broker, partitions=1)
    file.write_text(f"{other} 0 0\n")
    assert group(broker, "seek", name, "--to-file", file).code == 1
    assert group(broker, "seek", name, "--to-file", file, "--allow-new-topics").code == 0
    file.write_text("nonsense\n")
    wrong = group(broker, "seek", name, "--to-file", file)
    assert wrong.code == 2
    assert "offsets.txt:1" in wrong.err


def test_what_was_committed_is_forgotten_and_then_the_group(
    broker: RunningBroker, topic: str
) -> None:
    name = committed_group(broker, topic, 7)
    assert group(broker, "offset-delete", name, "-t", f"{topic}:0,2").code == 0
    (facts,) = group(broker, "describe", name, "--format", "json").json
    assert [each["partition"] for each in facts["partitions"]] == [1]
    assert group(broker, "delete", "-r", name).rows == [[name, "OK"]]
    gone = group(broker, "describe", name)
    assert (gone.code, gone.out) == (1, "")
    assert "there is no such group" in gone.err
    again = group(broker, "delete", name)
    assert again.code == 1
    assert "GROUP_ID_NOT_FOUND" in again.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("seek", "g"),
        ("seek", "g", "--to", "start", "--to-group", "h"),
        ("seek", "g", "--to", "yesterday"),
        ("describe", "g", "-s", "-c"),
        ("describe", "-r", "("),
        ("offset-delete", "g", "-t", "t:x"),
        ("delete",),
    ],
)
def test_wrong_usage_is_exit_code_2(broker: RunningBroker, arguments: tuple[str, ...]) -> None:
    assert group(broker, *arguments).code == 2


def test_no_broker_is_exit_code_3() -> None:
    assert rpk("group", "list", brokers="127.0.0.1:1").code == 3
