"""Members of consumer groups for tests: every client library behind one small face.

A member lives in the test's own process and makes progress when it is polled; `pump` polls
several in turn until something is true. A client that works in the background (heartbeats) goes on
doing that between polls.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import aiokafka
import confluent_kafka
import kafka

from tests.clients.broker import RunningBroker, wait_until
from tests.clients.via_confluent import NO_REBOOTSTRAP

POLL_S = 0.05
SESSION_MS = 6000  # the least that Kafka allows
HEARTBEAT_MS = 500  # how soon a member hears of a rebalance
FETCH_WAIT_MS = 20
COMMIT_S_MAX = 20.0


class Got(NamedTuple):
    """A record that a member was given."""

    partition: int
    offset: int
    value: bytes


class Member(Protocol):
    """One member of a group that subscribes to one topic.

    Shapes:  owned  partitions that its callbacks have given and not taken
             given  what each assignment callback gave
             got    all records so far
    """

    owned: set[int]
    given: list[set[int]]
    got: list[Got]

    def poll(self) -> None:
        """Let it work for POLL_S at most."""

    def commit(self, offsets: dict[int, int], metadata: str = "", wait: bool = True) -> None:
        """Commit partition -> offset; with `wait` it is done on return. Raises the client's."""

    def committed(self, partition: int) -> tuple[int, str] | None:
        """Offset and metadata that the coordinator has; None without."""

    def seek(self, partition: int, offset: int) -> None:
        """Go on at an offset of a partition that it owns."""

    def close(self) -> None:
        """Leave the group (a static member stays) and end."""


class _Callbacks:
    """What the rebalance callbacks of every client come down to."""

    def __init__(self) -> None:
        self.owned: set[int] = set()
        self.given: list[set[int]] = []
        self.got: list[Got] = []

    def assigned(self, partitions: Iterable[Any]) -> None:
        found = {one.partition for one in partitions}
        self.owned |= found
        self.given.append(found)

    def revoked(self, partitions: Iterable[Any]) -> None:
        self.owned -= {one.partition for one in partitions}


class ConfluentMember(_Callbacks):
    """confluent-kafka, classic with an assignor or group.protocol=consumer."""

    def __init__(
        self, servers: str, group: str, topic: str, kind: str, instance: str, **config: Any
    ) -> None:
        super().__init__()
        self._topic = topic
        if kind == "consumer":
            protocol: dict[str, Any] = {"group.protocol": "consumer"}
        else:
            protocol = {
                "partition.assignment.strategy": kind,
                "session.timeout.ms": SESSION_MS,
                "heartbeat.interval.ms": HEARTBEAT_MS,
            }
        self.errors: list[Any] = []
        self._consumer = confluent_kafka.Consumer(
            {
                **protocol,
                **NO_REBOOTSTRAP,
                "bootstrap.servers": servers,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": FETCH_WAIT_MS,
                "error_cb": self.errors.append,
                "log_level": 0,
                **({"group.instance.id": instance} if instance else {}),
                **{key.replace("_", "."): value for key, value in config.items()},
            }
        )
        self._consumer.subscribe(
            [topic],
            on_assign=lambda _, found: self.assigned(found),
            on_revoke=lambda _, found: self.revoked(found),
            on_lost=lambda _, found: self.revoked(found),
        )

    def poll(self) -> None:
        for message in self._consumer.consume(500, timeout=POLL_S):
            if message.error() is None:
                self.got.append(Got(message.partition(), message.offset(), message.value()))
            else:
                self.errors.append(message.error())

    def commit(self, offsets: dict[int, int], metadata: str = "", wait: bool = True) -> None:
        commits = [
            confluent_kafka.TopicPartition(self._topic, partition, offset, metadata)
            for partition, offset in offsets.items()
        ]
        for one in self._consumer.commit(offsets=commits, asynchronous=not wait) or ():
            if one.error is not None:
                raise confluent_kafka.KafkaException(one.error)

    def committed(self, partition: int) -> tuple[int, str] | None:
        wanted = [confluent_kafka.TopicPartition(self._topic, partition)]
        found = self._consumer.committed(wanted, timeout=COMMIT_S_MAX)[0]
        return (found.offset, found.metadata or "") if found.offset >= 0 else None

    def seek(self, partition: int, offset: int) -> None:
        self._consumer.seek(confluent_kafka.TopicPartition(self._topic, partition, offset))

    def close(self) -> None:
        self._consumer.close()


class KafkaPythonMember(_Callbacks):
    """kafka-python, with its default assignors."""

    def __init__(
        self, servers: str, group: str, topic: str, kind: str, instance: str, **config: Any
    ) -> None:
        super().__init__()
        self._topic = topic
        member = self

        class Listener(kafka.ConsumerRebalanceListener):
            def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
                member.assigned(assigned)

            def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
                member.revoked(revoked)

            def on_partitions_lost(self, lost: Iterable[Any]) -> None:
                member.revoked(lost)

        defaults = {
            "auto_offset_reset": "earliest",
            "session_timeout_ms": SESSION_MS,
            "heartbeat_interval_ms": HEARTBEAT_MS,
            "group_instance_id": instance or None,
        }
        self._consumer = kafka.KafkaConsumer(
            bootstrap_servers=servers.split(","),
            group_id=group,
            enable_auto_commit=False,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            **{**defaults, **config},
        )
        self._consumer.subscribe([topic], listener=Listener())
        # Metadata that comes after it was made leader would have it join again.
        self._consumer.topics()
        self._polled_until_s = 0.0
        self._hold_joins()

    def _hold_joins(self) -> None:
        """kafka-python 3.0.12 forgets a join that ends between two polls, and joins again or, where
        only metadata asked for it, never. So here they end during polls."""
        coordinator = self._consumer._coordinator
        join_and_sync = coordinator._do_join_and_sync_async

        async def join_while_polled() -> Any:
            assignment = await join_and_sync()
            while time.monotonic() > self._polled_until_s:
                await coordinator._manager._net.sleep(POLL_S / 50)
            return assignment

        coordinator._do_join_and_sync_async = join_while_polled

    def poll(self) -> None:
        self._polled_until_s = time.monotonic() + POLL_S / 2
        for where, records in self._consumer.poll(timeout_ms=int(POLL_S * 1000)).items():
            self.got += [Got(where.partition, one.offset, one.value) for one in records]

    def commit(self, offsets: dict[int, int], metadata: str = "", wait: bool = True) -> None:
        commits = {
            kafka.TopicPartition(self._topic, partition): kafka.OffsetAndMetadata(
                offset, metadata, -1
            )
            for partition, offset in offsets.items()
        }
        if wait:
            self._consumer.commit(commits)
        else:
            self._consumer.commit_async(commits)

    def committed(self, partition: int) -> tuple[int, str] | None:
        where = kafka.TopicPartition(self._topic, partition)
        found = self._consumer.committed(where, metadata=True)
        return None if found is None else (found.offset, found.metadata)

    def seek(self, partition: int, offset: int) -> None:
        self._consumer.seek(kafka.TopicPartition(self._topic, partition), offset)

    def close(self) -> None:
        self._consumer.close()


class AiokafkaMember(_Callbacks):
    """aiokafka on an event loop in a thread of its own."""

    def __init__(
        self, servers: str, group: str, topic: str, kind: str, instance: str, **config: Any
    ) -> None:
        super().__init__()
        self._topic = topic
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        defaults = {
            "auto_offset_reset": "earliest",
            "session_timeout_ms": SESSION_MS,
            "heartbeat_interval_ms": HEARTBEAT_MS,
            "group_instance_id": instance or None,
        }
        self._consumer = self._do(self._start(servers, group, {**defaults, **config}))

    async def _start(self, servers: str, group: str, config: dict[str, Any]) -> Any:
        member = self

        class Listener(aiokafka.ConsumerRebalanceListener):
            def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
                member.assigned(assigned)

            def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
                member.revoked(revoked)

        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=servers.split(","),
            group_id=group,
            enable_auto_commit=False,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            **config,
        )
        await consumer.start()
        consumer.subscribe([self._topic], listener=Listener())
        return consumer

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(COMMIT_S_MAX)

    def poll(self) -> None:
        many = self._do(self._consumer.getmany(timeout_ms=int(POLL_S * 1000)))
        for where, records in many.items():
            self.got += [Got(where.partition, one.offset, one.value) for one in records]

    def commit(self, offsets: dict[int, int], metadata: str = "", wait: bool = True) -> None:
        commits = {
            aiokafka.TopicPartition(self._topic, partition): (offset, metadata)
            for partition, offset in offsets.items()
        }
        work = asyncio.run_coroutine_threadsafe(self._consumer.commit(commits), self._loop)
        if wait:
            work.result(COMMIT_S_MAX)

    def committed(self, partition: int) -> tuple[int, str] | None:
        where = aiokafka.TopicPartition(self._topic, partition)
        coordinator = self._consumer._coordinator  # committed() leaves the metadata out
        found = self._do(coordinator.fetch_committed_offsets([where])).get(where)
        return None if found is None else (found.offset, found.metadata)

    def seek(self, partition: int, offset: int) -> None:
        self._consumer.seek(aiokafka.TopicPartition(self._topic, partition), offset)

    def close(self) -> None:
        self._do(self._consumer.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)


# Name -> (class, what it is told to be)
KINDS: dict[str, tuple[type[Any], str]] = {
    "kafka-python": (KafkaPythonMember, ""),
    "aiokafka": (AiokafkaMember, ""),
    "confluent range": (ConfluentMember, "range"),
    "confluent roundrobin": (ConfluentMember, "roundrobin"),
    "confluent cooperative": (ConfluentMember, "cooperative-sticky"),
    "confluent consumer": (ConfluentMember, "consumer"),
}


def join(
    broker: RunningBroker, kind: str, group: str, topic: str, instance: str = "", **config: Any
) -> Any:
    """A new member of `kind` (KINDS); it joins when it is polled. `config` in the client's words,
    with underscores for dots."""
    member_class, what = KINDS[kind]
    return member_class(",".join(broker.addresses), group, topic, what, instance, **config)


def pump(
    members: Sequence[Any], condition: Callable[[], object], what: str, timeout_s: float = 60.0
) -> None:
    """Poll the members in turn until something is true.

    Raises: AssertionError  with what did not happen, and how the members stand
    """

    def step() -> bool:
        for member in members:
            member.poll()
        return bool(condition())

    try:
        wait_until(step, what, timeout_s)
    except AssertionError as error:
        stand = [(one.owned, one.given, len(one.got)) for one in members]
        raise AssertionError(f"{error}; members (owned, given, got): {stand}") from None


def share(members: Sequence[Any], partitions: int) -> bool:
    """Whether the members own all partitions, each one of them once, and each member some."""
    owned = sorted(partition for member in members for partition in member.owned)
    return owned == list(range(partitions)) and all(member.owned for member in members)
