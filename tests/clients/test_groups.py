"""Consumer groups of every client on a broker of two shards: consume, commit, share, come back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
)
from tests.clients.broker import RunningBroker, wait_until
from tests.clients.group_members import HEARTBEAT_MS, KINDS, SESSION_MS, join, pump, share
from tests.clients.topics import create_topic, new_topic_name
from tests.clients.via_kcat import require_kcat
from tests.clients.wire_client import WireClient

SHARDS = 2
PARTITIONS = 4
# A member hears of a rebalance at its next heartbeat; KIP-848 lets the broker set the interval.
QUICK = {"group_consumer_heartbeat_interval_ms": HEARTBEAT_MS}
STATIC_KINDS = ("kafka-python", "aiokafka", "confluent range", "confluent consumer")
FENCED = (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID)
KILL_REPLACED_S_MAX = SESSION_MS / 1000 + 6


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """One broker of two shards for all of the file; nothing may go wrong in it."""
    path = tmp_path_factory.mktemp("broker")
    running = RunningBroker(path / "data", path / "broker.log", settings=QUICK, shards=SHARDS)
    try:
        yield running.start()
        running.stop()
    finally:
        running.close()
    assert running.log_events("error", "critical", "raw") == []


def new_group() -> str:
    return new_topic_name("group")


def fill(broker: RunningBroker, topic: str, first: int, count: int) -> None:
    """Records `first`.. in turn over the partitions; the value is the number."""
    producer = Producer({"bootstrap.servers": ",".join(broker.addresses), "linger.ms": 5})
    for number in range(first, first + count):
        producer.produce(topic, str(number).encode(), partition=number % PARTITIONS)
    assert producer.flush(20) == 0


def numbers(member: object) -> list[int]:
    return sorted(int(got.value) for got in member.got)  # type: ignore[attr-defined]


def ends(count: int) -> dict[int, int]:
    """Partition -> its end after records 0..count-1."""
    return {index: len(range(index, count, PARTITIONS)) for index in range(PARTITIONS)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_reads_everything_and_goes_on_where_it_committed(
    broker: RunningBroker, kind: str
) -> None:
    topic, group = create_topic(broker, partitions=PARTITIONS), new_group()
    fill(broker, topic, 0, 200)
    member = join(broker, kind, group, topic)
    assert member.committed(0) is None
    pump([member], lambda: len(member.got) >= 200, "all records are read")
    assert numbers(member) == list(range(200))
    member.commit(ends(200), "a note, grüße")
    assert [member.committed(index) for index in range(PARTITIONS)] == [
        (offset, "a note, grüße") for offset in ends(200).values()
    ]
    fill(broker, topic, 200, 40)
    pump([member], lambda: len(member.got) >= 240, "the new ones are read")
    member.commit(ends(240), "without waiting", wait=False)
    wait_until(lambda: member.committed(3) == (60, "without waiting"), "the commit is there")
    member.close()
    fill(broker, topic, 240, 8)
    other = join(broker, kind, group, topic)
    pump([other], lambda: len(other.got) >= 8, "it goes on")
    assert numbers(other) == list(range(240, 248))
    other.close()


@pytest.mark.parametrize("kind", KINDS)
def test_members_share_the_partitions_and_the_last_one_gets_all(
    broker: RunningBroker, kind: str
) -> None:
    topic, group = create_topic(broker, partitions=PARTITIONS), new_group()
    first = join(broker, kind, group, topic)
    pump([first], lambda: share([first], PARTITIONS), "the first has all")
    second = join(broker, kind, group, topic)
    both = [first, second]
    pump(both, lambda: share(both, PARTITIONS), "they share")
    fill(broker, topic, 0, 40)
    pump(both, lambda: len(first.got) + len(second.got) >= 40, "all is read")
    assert sorted(numbers(first) + numbers(second)) == list(range(40))
    first.close()
    pump([second], lambda: share([second], PARTITIONS), "the second has all")
    second.close()


@pytest.mark.parametrize("kind", STATIC_KINDS)
def test_a_static_member_comes_back_without_a_rebalance(broker: RunningBroker, kind: str) -> None:
    topic, group = create_topic(broker, partitions=PARTITIONS), new_group()
    first, second = (join(broker, kind, group, topic, f"static-{n}") for n in (1, 2))
    pump([first, second], lambda: share([first, second], PARTITIONS), "they share")
    # An eager client forgets what it owned while the last rebalance is under way.
    kept, given, had = set(first.owned), len(first.given), set(second.owned)
    second.close()
    again = join(broker, kind, group, topic, "static-2")
    pump([first, again], lambda: again.owned, "it is back")
    assert again.owned == had
    fill(broker, topic, 0, 40)
    pump([first, again], lambda: len(first.got) + len(again.got) >= 40, "all is read")
    assert (first.owned, len(first.given)) == (kept, given), "the other one noticed it"
    again.close()
    first.close()


def test_a_second_member_under_the_same_instance_id_fences_the_first(
    broker: RunningBroker,
) -> None:
    topic, group = create_topic(broker, partitions=PARTITIONS), new_group()
    first = join(broker, "confluent range", group, topic, "the-one")
    pump([first], lambda: share([first], PARTITIONS), "the first has all")
    second = join(broker, "confluent range", group, topic, "the-one")
    pump([second], lambda: share([second], PARTITIONS), "the second has all")

    def fenced() -> bool:
        try:
            first.poll()
        except KafkaException as error:
            first.errors.append(error.args[0])
        return any(error.code() in FENCED for error in first.errors)

    wait_until(fenced, "the first is fenced")
    second.close()
    first.close()


def test_a_member_that_does_not_poll_costs_one_rebalance_and_one_when_it_is_back(
    broker: RunningBroker,
) -> None:
    topic, group = create_topic(broker, partitions=PARTITIONS), new_group()
    slow = join(broker, "confluent range", group, topic, max_poll_interval_ms=SESSION_MS)
    other = join(broker, "confluent range", group, topic)
    pump([slow, other], lambda: share([slow, other], PARTITIONS), "they share")
    given = len(other.given)
    pump([other], lambda: share([other], PARTITIONS), "the other has all", 2 * SESSION_MS / 1000)
    assert len(other.given) == given + 1
    pump([slow, other], lambda: share([slow, other], PARTITIONS), "they share again")
    fill(broker, topic, 0, 40)
    pump([slow, other], lambda: len(slow.got) + len(other.got) >= 40, "all is read")
    assert len(other.given) == given + 2
    slow.close()
    other.close()


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_commit_the_reset_policy_decides_and_seek_overrules_it(
    broker: RunningBroker, kind: str
) -> None:
    topic = create_topic(broker, partitions=PARTITIONS)
    fill(broker, topic, 0, 40)
    member = join(broker, kind, new_group(), topic, auto_offset_reset="latest")
    pump([member], lambda: member.owned, "it has its partitions")
    written = 40
    while not member.got:  # where the end was is known when something after it is read
        fill(broker, topic, written, PARTITIONS)
        written += PARTITIONS
        member.poll()
    assert min(numbers(member)) >= 40
    member.got.clear()
    member.seek(1, 3)
    pump([member], lambda: any(got.partition == 1 for got in member.got), "it reads again")
    assert min(got.offset for got in member.got if got.partition == 1) == 3
    member.close()


def test_a_group_changes_its_protocol_while_it_is_empty(broker: RunningBroker) -> None:
    topic, group = create_topic(broker, partitions=PARTITIONS), new_group()
    done = 0
    for kind in ("confluent range", "confluent consumer", "kafka-python", "confluent consumer"):
        fill(broker, topic, done, 40)
        member = join(broker, kind, group, topic)
        pump([member], lambda member=member: len(member.got) >= 40, f"{kind} goes on")
        assert numbers(member) == list(range(done, done + 40))
        done += 40
        member.commit(ends(done))
        member.close()


def test_offsets_of_a_deleted_topic_are_gone(broker: RunningBroker) -> None:
    kept, topic = (create_topic(broker, partitions=PARTITIONS) for _ in range(2))
    group = new_group()
    for name in (kept, topic):
        fill(broker, name, 0, 40)
        member = join(broker, "confluent range", group, name)
        pump([member], lambda member=member: len(member.got) >= 40, "all is read")
        member.commit(ends(40))
        member.close()
    admin = AdminClient({"bootstrap.servers": ",".join(broker.addresses)})

    def committed() -> dict[str, int]:
        found = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
        offsets = found[group].result(timeout=20).topic_partitions
        return {one.topic: one.offset for one in offsets}

    assert committed() == {kept: 10, topic: 10}
    admin.delete_topics([topic])[topic].result(timeout=20)
    wait_until(lambda: committed() == {kept: 10}, "the offsets are gone")
    create_topic(broker, topic, partitions=PARTITIONS)
    again = join(broker, "confluent range", group, topic)
    assert again.committed(0) is None
    again.close()


def test_an_unknown_group_or_partition_has_offset_minus_one_and_no_error(
    broker: RunningBroker,
) -> None:
    topic, group = create_topic(broker, partitions=PARTITIONS), new_group()
    admin = AdminClient({"bootstrap.servers": ",".join(broker.addresses)})
    admin.alter_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 1, 7)])]
    )[group].result(timeout=20)
    topics = [OffsetFetchRequestTopic(topic, bytes(16), [0, 1, 99])]
    found = {}
    for name in (group, new_group()):
        for shard in range(SHARDS):
            with WireClient(broker, shard) as wire:
                wanted = [OffsetFetchRequestGroup(name, None, -1, topics)]
                answer = wire.ask(OffsetFetchRequest(groups=wanted), 8).groups[0]
            if answer.error_code == ErrorCode.NOT_COORDINATOR:
                continue
            assert answer.error_code == 0
            found[name] = [
                (one.partition_index, one.committed_offset, one.metadata, one.error_code)
                for one in answer.topics[0].partitions
            ]
    none = [(0, -1, "", 0), (1, -1, "", 0), (99, -1, "", 0)]
    assert list(found.values()) == [[none[0], (1, 7, "", 0), none[2]], none]


def test_kcat_reads_as_a_group_and_its_partitions_move_when_it_is_killed(
    broker: RunningBroker,
) -> None:
    require_kcat()
    topic, group = create_topic(broker, partitions=PARTITIONS), new_group()
    fill(broker, topic, 0, 40)
    options = ["-X", f"session.timeout.ms={SESSION_MS}", "-X", "heartbeat.interval.ms=500"]
    options += ["-X", "auto.offset.reset=earliest", "-X", "enable.auto.commit=true"]
    command = ["kcat", "-b", ",".join(broker.addresses), *options, "-G", group, topic]
    done = subprocess.run(
        [*command, "-c", "40"], capture_output=True, timeout=30, check=True, text=True
    )
    assert sorted(map(int, done.stdout.split())) == list(range(40))
    fill(broker, topic, 40, 40)
    kcat = subprocess.Popen([*command, "-u"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert kcat.stdout is not None
        first = {int(kcat.stdout.readline()) for _ in range(40)}
        assert first == set(range(40, 80)), "it went on where it had committed"
        member = join(broker, "confluent range", group, topic)
        pump([member], lambda: member.owned, "they share")
        assert len(member.owned) < PARTITIONS
        killed_s = time.monotonic()
        os.kill(kcat.pid, signal.SIGKILL)
        wanted = "its partitions have moved"
        pump([member], lambda: share([member], PARTITIONS), wanted, KILL_REPLACED_S_MAX)
        assert time.monotonic() - killed_s > SESSION_MS / 1000 - 2, "it cannot have expired yet"
        member.close()
    finally:
        kcat.kill()
        kcat.wait()
