"""One group as its coordinator holds it: a protocol's state machine, committed offsets, a timer.

What:       turns what the state machines ask for (replies, records, a time to be woken) into
            answers, appends to the group's log and one timer. A group is of the classic protocol or
            of the consumer protocol (KIP-848) and changes while it is empty.
Where:      the coordinator of the group, on the shard's loop.
Invariants: records are queued before replies leave, so that a request which an answered client
            sends next finds them before its own.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from kafka_protocol import group_records
from kafka_protocol.errors import ErrorCode
from rpk_py.groups.classic import ClassicGroup, load_group
from rpk_py.groups.classic_values import Effects
from rpk_py.groups.classic_view import CLASSIC_TYPE
from rpk_py.groups.consumer import ConsumerGroup
from rpk_py.groups.consumer_values import Records
from rpk_py.groups.offsets import OffsetRecord, Offsets, Owner
from rpk_py.groups.records import (
    KeyValue,
    decode_group,
    decode_offset,
    encode_group,
    encode_offset,
    encode_records,
)
from rpk_py.groups.settings import CoordinatorSettings
from rpk_py.groups.timeline import Event, EventKind, Timeline, TopicPartition
from rpk_py.metadata.state import ClusterState

if TYPE_CHECKING:
    from rpk_py.groups.group_log import GroupLog

CONSUMER_TYPE = "consumer"
Answer: TypeAlias = Callable[[Any], None]
Done: TypeAlias = Callable[[ErrorCode], None]


class GroupFactory:
    """What the groups of one shard share: settings, clock, loop, metadata, counters."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        state: ClusterState,
        loop: asyncio.AbstractEventLoop,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self.settings = settings
        self.state = state
        self.loop = loop
        self.spawn = spawn
        self.rebalances = 0
        self._now_ms = 0

    def make(self, group_id: str, log: GroupLog) -> Group:
        """A group that is not there yet, of the classic protocol and without members."""
        return Group(group_id, log, self)

    def now_ms(self) -> int:
        """Milliseconds since the epoch; never less than before, though the clock may be set."""
        self._now_ms = max(self._now_ms, time.time_ns() // 1_000_000)
        return self._now_ms

    def classic(self, group_id: str) -> ClassicGroup:
        """An empty group of the classic protocol."""
        return ClassicGroup(group_id, self.settings.classic, new_member_id, self.now_ms())

    def consumer(self, group_id: str) -> ConsumerGroup:
        """An empty group of the consumer protocol."""
        return ConsumerGroup(group_id, self.settings.consumer, new_member_id, self.now_ms())

    def note(self, events: list[Event]) -> None:
        """Count what metrics tell."""
        self.rebalances += sum(event.kind is EventKind.GENERATION for event in events)


def new_member_id() -> str:
    """The unique part of a member id."""
    return str(uuid.uuid4())


class Group:
    """Exactly one of `classic` and `consumer` is there."""

    __slots__ = (
        "_factory",
        "_in_flight",
        "_recorded",
        "_timer",
        "_timer_ms",
        "classic",
        "consumer",
        "group_id",
        "log",
        "offsets",
    )

    def __init__(self, group_id: str, log: GroupLog, factory: GroupFactory) -> None:
        self.group_id = group_id
        self.log = log
        self.classic: ClassicGroup | None = factory.classic(group_id)
        self.consumer: ConsumerGroup | None = None
        self.offsets = Offsets(factory.settings.metadata_max)
        self._factory = factory
        self._recorded: dict[bytes, bytes] = {}  # the durable records of the group itself
        self._in_flight: dict[bytes, int] = {}  # records on their way, by key
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0

    # --- what it is ------------------------------------------------------------------------------

    @property
    def type_name(self) -> str:
        return CLASSIC_TYPE if self.classic is not None else CONSUMER_TYPE

    @property
    def state_name(self) -> str:
        """The state under the name that clients see."""
        if self.classic is not None:
            return self.classic.core.state.value
        return self.the_consumer.state_name

    @property
    def protocol_type(self) -> str:
        return self.owner.protocol_type or ""

    @property
    def timeline(self) -> Timeline:
        return self.classic.core.timeline if self.classic else self.the_consumer.timeline

    @property
    def owner(self) -> Owner:
        """The group as its offsets see it."""
        return self.classic.core if self.classic is not None else self.the_consumer

    @property
    def the_consumer(self) -> ConsumerGroup:
        assert self.consumer is not None
        return self.consumer

    @property
    def is_empty(self) -> bool:
        """No member is in it, or on its way into it."""
        if self.classic is not None:
            return self.classic.core.is_empty and not self.classic.core.members.pending
        return self.the_consumer.is_empty

    @property
    def is_fresh(self) -> bool:
        """Nothing was ever written of it."""
        return (
            self.is_empty and self.offsets.is_empty and not self._recorded and not self._in_flight
        )

    @property
    def member_count(self) -> int:
        """Members that are in it."""
        members = self.classic.core.members if self.classic else self.the_consumer.members
        return len(members)

    # --- effects ---------------------------------------------------------------------------------

    def run(self, effects: Effects) -> None:
        """Do what a classic group's state machine asks for."""
        classic = self.classic
        assert classic is not None
        for write in effects.writes:
            record = encode_group(self.group_id, write.record)
            limit = self.log.partition.max_message_bytes
            self.write([record], partial(self._persisted, classic, write.write_id), limit)
        self._schedule()
        self._factory.note(effects.events)
        for token, reply in effects.replies:
            assert callable(token)
            token(reply)

    def _persisted(self, classic: ClassicGroup, write_id: int, error: ErrorCode) -> None:
        effects = classic.persisted(write_id, error, self._factory.now_ms())
        if self.classic is classic:
            self.run(effects)

    def run_consumer(self, records: Records, answer: Callable[[], None] | None, done: Done) -> None:
        """Write what a consumer group's state machine asks for; `answer` when it is durable.

        Without records the answer waits for those on their way: it may tell what they say.
        """
        self._schedule()
        if not records and not self._in_flight:
            if answer is not None:
                answer()
            return

        def written(error: ErrorCode) -> None:
            if error:
                done(error)
            elif answer is not None:
                answer()

        if records or answer is not None:
            self.write(encode_records(records), written)

    def write(self, records: list[KeyValue], done: Done, bytes_max: int = 2**31) -> None:
        """Append records of the group itself and note them once they are durable."""
        for key, _ in records:
            self._in_flight[key] = self._in_flight.get(key, 0) + 1

        def written(error: ErrorCode) -> None:
            self._note(records, error)
            done(error)

        self.log.append(records, written, bytes_max)

    def _note(self, records: list[KeyValue], error: ErrorCode) -> None:
        for key, value in records:
            self._in_flight[key] -= 1
            if not self._in_flight[key]:
                del self._in_flight[key]
            if error:
                continue
            if value is None:
                self._recorded.pop(key, None)
            else:
                self._recorded[key] = value

    def write_offsets(self, records: tuple[OffsetRecord, ...], done: Done) -> None:
        """Append offsets that were planned; they are in force once they are durable."""
        encoded = [encode_offset(self.group_id, record) for record in records]

        def written(error: ErrorCode) -> None:
            self.offsets.written(records, error)
            done(error)

        if all(record.value is None for record in records):
            self.log.append_all(encoded, written)
        else:
            self.log.append(encoded, written, self.log.partition.max_message_bytes)

    def keys(self) -> list[bytes | TopicPartition]:
        """What its records in force stand for: keys of its own, and partitions it committed."""
        return [*self._recorded, *((topic, index) for topic, index, _ in self.offsets.all())]

    def in_force(self, keys: Iterable[bytes | TopicPartition]) -> Iterator[KeyValue]:
        """The records in force of these, but for what is gone or has another on its way."""
        for key in keys:
            if isinstance(key, bytes):
                value = self._recorded.get(key)
                if value is not None and key not in self._in_flight:
                    yield key, value
                continue
            committed = self.offsets.settled_at(*key)
            if committed is not None:
                yield encode_offset(self.group_id, OffsetRecord(*key, committed))

    # --- the clock -------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Have the state machine woken when it wants to be."""
        wake_ms = self.classic.wake_ms if self.classic else self.the_consumer.wake_ms
        if wake_ms is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None or wake_ms < self._timer_ms:
            if self._timer is not None:
                self._timer.cancel()
            delay_s = max(0, wake_ms - self._factory.now_ms()) / 1000
            self._timer_ms = wake_ms
            self._timer = self._factory.loop.call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now_ms = max(self._factory.now_ms(), self._timer_ms)  # two clocks: a timer may be early
        if self.classic is not None:
            self.run(self.classic.tick(now_ms))
        else:
            records = self.the_consumer.tick(self._factory.state, now_ms)
            self.run_consumer(records, None, _nothing)

    # --- the other protocol ----------------------------------------------------------------------

    def become_consumer(self) -> Records:
        """An empty classic group changes its protocol; the records that say so, to be written
        with those of its first member."""
        assert self.classic is not None
        assert self.classic.core.is_empty
        self.classic.unload(self._factory.now_ms())
        self.classic = None
        self.consumer = self._factory.consumer(self.group_id)
        key = group_records.GroupMetadataKey(self.group_id)
        encoded = group_records.encode_key(key)
        there = encoded in self._recorded or encoded in self._in_flight
        return [(key, None)] if there else []

    def become_classic(self) -> None:
        """An empty consumer group changes its protocol."""
        records = self.the_consumer.tombstones()
        self.run_consumer(records, None, _nothing)
        self.consumer = None
        self.classic = self._factory.classic(self.group_id)

    # --- loading and the end ---------------------------------------------------------------------

    def replay(
        self,
        key: group_records.Key,
        value: group_records.Value,
        key_bytes: bytes,
        value_bytes: bytes,
    ) -> None:
        """Take over a record of the log, while the group is being rebuilt."""
        if isinstance(key, group_records.OffsetCommitKey | group_records.LegacyOffsetCommitKey):
            assert isinstance(
                value, group_records.OffsetCommitValue | group_records.LegacyOffsetCommitValue
            )
            self.offsets.replay(OffsetRecord(key.topic, key.partition, decode_offset(value)))
            return
        self._recorded[key_bytes] = value_bytes
        if isinstance(value, group_records.GroupMetadataValue):
            factory = self._factory
            self.consumer = None
            self.classic = load_group(
                self.group_id,
                decode_group(value),
                factory.settings.classic,
                new_member_id,
                factory.now_ms(),
            )
            return
        if self.consumer is None:
            self.classic = None
            self.consumer = self._factory.consumer(self.group_id)
        self.consumer.replay(key, value)

    def start_loaded(self) -> None:
        """All records were replayed: sessions start, offsets of topics that are gone go."""
        now_ms = self._factory.now_ms()
        if self.classic is not None:
            if self._recorded:
                self.run(self.classic.start_loaded(now_ms))
        else:
            self.the_consumer.start_loaded(now_ms)
            self._schedule()
        self.drop_gone()

    def drop_gone(self) -> None:
        """Give up offsets of topics that do not exist any more."""
        topics = self._factory.state.topics

        def id_of(name: str) -> bytes | None:
            topic = topics.get(name)
            return None if topic is None else topic.topic_id

        records = self.offsets.plan_gone(id_of)
        if records:
            self.write_offsets(records, _nothing)

    def expire(self, now_ms: int) -> bool:
        """Give up what has expired; whether nothing is left of the group, so that it may go."""
        retention_ms = self._factory.settings.offsets_retention_ms
        records = self.offsets.plan_expired(self.owner, now_ms, retention_ms)
        if records:
            self.write_offsets(records, _nothing)
        return self.is_empty and self.offsets.is_empty and not self._in_flight

    def unload(self) -> None:
        """This shard has it no longer: whoever waits is sent to look for the coordinator."""
        if self.classic is not None:
            self.run(self.classic.unload(self._factory.now_ms()))
        self.stop()

    def stop(self) -> None:
        """No timer any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _nothing(error: ErrorCode) -> None:
    """Nobody waits; a failure has unloaded the group."""
