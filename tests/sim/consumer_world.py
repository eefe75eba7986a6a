"""A consumer group (KIP-848) under a seeded simulator: virtual time, members that fail and lie.

What:       one real ConsumerGroup on a simulated log, and members that join, lag, die, rejoin, lose
            answers and lie, while topics grow, vanish and come back. Writes become durable late and
            in order, answers wait for them; a crash loses what is not durable.
Checks:     raises Violation at once; what they mean is said at each `raise`. The same seed gives
            the same run.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from kafka_protocol import group_records
from kafka_protocol.errors import ErrorCode
from rpk_py.groups.classic_values import Leaver
from rpk_py.groups.consumer import ConsumerGroup
from rpk_py.groups.consumer_values import (
    ConsumerSettings,
    HeartbeatReply,
    HeartbeatRequest,
    Records,
    TopicIdPartitions,
)
from rpk_py.metadata.state import ClusterState, PartitionState, TopicState

SESSION_MS = 6_000
REBALANCE_MS = 5_000
HEARTBEAT_MS = 1_500
REQUEST_MS = 1_200  # after which a client asks again
SETTLE_MS = 60_000
SETTINGS = ConsumerSettings(SESSION_MS, HEARTBEAT_MS)
BOGUS: TopicIdPartitions = ((b"!" * 16, (0,)),)
Held = tuple[bytes, int]


class Violation(AssertionError):
    """An invariant does not hold."""


def rows_of(held: set[Held]) -> TopicIdPartitions:
    topics = sorted({topic for topic, _ in held})
    return tuple((t, tuple(sorted(i for topic, i in held if topic == t))) for t in topics)


class SimMember:
    """One client process; `incarnation` grows whenever it forgets what it waited for.

    owned    what it consumes, and nobody else may
    evicted  it is no member any more, for good reason, and has yet to hear of it
    """

    def __init__(self, world: World, name: str, index: int) -> None:
        self.world, self.name = world, name
        self.instance_id = f"static-{index}" if index % 3 == 0 else None
        self.topics: tuple[str, ...] | None = ("orders",) if index % 2 else ("orders", "returns")
        self.regex = "ret.*" if index % 4 == 1 else None
        self.incarnation = self.starts = 0
        self.owned: set[Held] = set()
        self.start()

    def start(self) -> None:
        self.starts += 1
        self.incarnation += 1
        self.is_alive, self.is_evicted = True, False
        self.member_id = f"{self.name}-{self.starts}"
        self.epoch = 0
        self.owned = set()
        self.target: set[Held] | None = None
        self.told: TopicIdPartitions = ()
        self.heard_ms = self.asked_ms = self.world.now_ms
        self.is_full = True
        self.beat()

    def die(self) -> None:
        self.incarnation += 1
        self.is_alive = False

    def later(self, delay_ms: int, call: Callable[[], None]) -> None:
        incarnation = self.incarnation

        def run() -> None:
            if self.is_alive and self.incarnation == incarnation:
                call()

        self.world.at(delay_ms, run)

    def beat(self) -> None:
        """Ask once; what is not answered in time is asked again, with everything."""
        self.incarnation += 1
        full = self.is_full or self.epoch == 0
        if full:
            self.target = None  # the answer tells it anew
        owned: TopicIdPartitions | None = rows_of(self.owned)
        if not full and owned == self.told:
            owned = None  # what it has on its way it neither has nor has given up
        request = HeartbeatRequest(
            self.member_id,
            self.epoch,
            self.instance_id,
            rebalance_timeout_ms=REBALANCE_MS if full else -1,
            subscribed_topics=self.topics if full else None,
            subscribed_regex=self.regex if full else None,
            server_assignor=self.world.rng.choice([None, None, None, "range"]),
            owned=owned,
            client_id=self.name,
        )
        incarnation = self.incarnation
        chaos = self.world.is_chaotic and self.world.rng.random()

        def answered(reply: HeartbeatReply) -> None:
            if self.is_alive and self.incarnation == incarnation and not 0 < chaos < 0.06:
                self.told = self.told if owned is None else owned
                self.on_reply(reply)

        if not 0.06 < chaos < 0.1:
            self.world.at(self.world.rng.randrange(1, 50), lambda: self._send(request, answered))
        self.later(REQUEST_MS, self._again)

    def _send(self, request: HeartbeatRequest, answered: Callable[[HeartbeatReply], None]) -> None:
        if self.is_alive and self.member_id == request.member_id:
            self.world.heartbeat(self, request, answered)

    def _again(self) -> None:
        self.is_full = True
        self.beat()

    def on_reply(self, reply: HeartbeatReply) -> None:
        self.incarnation += 1
        if reply.error is not ErrorCode.NONE:
            # Fenced, unknown, or its instance id is still in use: it has nothing, and joins again.
            self.owned, self.target, self.epoch = set(), None, 0
            self.later(self.world.rng.randrange(50, 500), self.beat)
            return
        if reply.member_epoch < self.epoch:
            raise Violation(f"{self.name} went back to epoch {reply.member_epoch}")
        self.is_full = False
        self.epoch = reply.member_epoch
        delay_ms = HEARTBEAT_MS
        if reply.assignment is not None:
            self.target = {(t, i) for t, indexes in reply.assignment for i in indexes}
            delay_ms = self._follow()
        lags = self.world.is_chaotic and self.world.rng.random() < 0.03
        self.later(2 * SESSION_MS if lags else delay_ms, self.beat)

    def _follow(self) -> int:
        """Give up at once, or after a while, and take what is new; when to tell of it."""
        assert self.target is not None
        if self.owned - self.target and self.world.rng.random() < 0.5:
            slow = self.world.is_chaotic and self.world.rng.random() < 0.1
            delay_ms = self.world.rng.randrange(2_000, 2 * REBALANCE_MS) if slow else 400
            life = self.starts
            self.world.at(delay_ms, lambda: self._move() if self.starts == life else None)
            return HEARTBEAT_MS
        self._move()
        return 10

    def _move(self) -> None:
        if self.is_alive and self.target is not None:
            self.world.check_free(self, self.target - self.owned)
            self.owned = set(self.target)


class World:
    """The coordinator, the log, the topics and the clock."""

    def __init__(self, seed: int, members: int = 5) -> None:
        self.rng = random.Random(seed)
        self.now_ms = 1_000_000
        self.is_chaotic = True
        self.crashes = self.lies = self.gained = self.epoch_durable = self.epoch_seen = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = self._life = self._ids = 0
        self.state = ClusterState()
        self.log: dict[bytes, tuple[group_records.Key, group_records.Value]] = {}
        self.batches = 0
        self._in_flight: deque[tuple[Records, Callable[[], None]]] = deque()
        self._woken_at: int | None = None
        self.group = ConsumerGroup("g", SETTINGS, self._new_id, self.now_ms)
        self.set_topic("orders", 4)
        self.members: list[SimMember] = []
        for index in range(members):
            self.members.append(SimMember(self, f"m{index}", index))

    def _new_id(self) -> str:
        raise Violation("clients make their ids")

    # --- time ------------------------------------------------------------------------------------

    def at(self, delay_ms: int, call: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._sequence, call))

    def run(self, duration_ms: int) -> None:
        end_ms = self.now_ms + duration_ms
        while self._queue and self._queue[0][0] <= end_ms:
            self.now_ms, _, call = heapq.heappop(self._queue)
            call()
        self.now_ms = end_ms

    # --- the coordinator -------------------------------------------------------------------------

    def heartbeat(
        self,
        member: SimMember,
        request: HeartbeatRequest,
        answered: Callable[[HeartbeatReply], None],
    ) -> None:
        before = self.group.members.get(request.member_id)
        asked = before is not None and bool(before.revoking)
        reply, records = self.group.heartbeat(request, self.state, self.now_ms)
        if reply.error is ErrorCode.NONE:
            member.heard_ms, member.is_evicted = self.now_ms, False
            known = self.group.members.get(request.member_id)
            if known is not None and known.revoking and not asked:
                member.asked_ms = self.now_ms
        elif records:
            raise Violation(f"an error with records: {reply}")
        delay_ms = self.rng.randrange(1, 50)
        self._write(records, lambda: self.at(delay_ms, lambda: answered(reply)))

    def _write(self, records: Records, done: Callable[[], None]) -> None:
        group = self.group
        if not self.epoch_seen <= group.epoch or not group.assignment_epoch <= group.epoch:
            raise Violation(f"epochs {group.epoch}, {group.assignment_epoch} < {self.epoch_seen}")
        self.epoch_seen = group.epoch
        self._in_flight.append((records, done))
        life = self._life
        self.at(self.rng.randrange(1, 200), lambda: self._durable(life))
        wake_ms = group.wake_ms
        if wake_ms is not None and (self._woken_at is None or wake_ms < self._woken_at):
            self._woken_at = wake_ms
            self.at(max(wake_ms - self.now_ms, 0), lambda: self._tick(life, wake_ms))

    def _tick(self, life: int, wake_ms: int) -> None:
        if self._life != life or self._woken_at != wake_ms:
            return
        self._woken_at = None
        before = set(self.group.members)
        records = self.group.tick(self.state, self.now_ms)
        for gone in before - set(self.group.members):
            member = next((m for m in self.members if m.member_id == gone and m.is_alive), None)
            if member is not None:
                self._check_due(member)
                member.is_evicted = True
        self._write(records, lambda: None)

    def _durable(self, life: int) -> None:
        if self._life != life:
            return
        records, done = self._in_flight.popleft()
        self.batches += 1
        for key, value in records:
            encoded = group_records.encode_key(key)
            self.log.pop(encoded, None)
            if value is not None:
                self.log[encoded] = (key, value)
            if isinstance(value, group_records.ConsumerGroupMetadataValue):
                if value.epoch < self.epoch_durable:
                    raise Violation(f"epoch fell to {value.epoch} from {self.epoch_durable}")
                self.epoch_durable = value.epoch
        done()

    def crash(self) -> None:
        """Another coordinator takes over with what is durable; nobody is told."""
        self._life += 1
        self.crashes += 1
        self._in_flight.clear()
        self._woken_at = None
        self.group = self.reloaded()
        self.epoch_seen = self.group.epoch
        for member in self.members:  # all timeouts start anew
            member.heard_ms = member.asked_ms = self.now_ms
        self._write([], lambda: None)

    def reloaded(self) -> ConsumerGroup:
        group = ConsumerGroup("g", SETTINGS, self._new_id, self.now_ms)
        for key, value in self.log.values():
            group.replay(key, value)
        group.start_loaded(self.now_ms)
        return group

    # --- topics ----------------------------------------------------------------------------------

    def set_topic(self, name: str, count: int) -> None:
        """Create a topic, let it grow, or with no partitions delete it."""
        self.state.revision += 1
        topic = self.state.topics.get(name)
        partitions = [PartitionState(index, 0, 0, [0], [0]) for index in range(count)]
        if topic is None:
            self._ids += 1
            self.state.add_topic(TopicState(name, self._ids.to_bytes(16, "big"), partitions))
        elif count == 0:
            del self.state.topics[name], self.state.topics_by_id[topic.topic_id]
        else:
            topic.partitions = partitions

    # --- what has to hold ------------------------------------------------------------------------

    def check_free(self, member: SimMember, gains: set[Held]) -> None:
        if member.is_evicted:
            return
        self.gained += len(gains)
        for other in self.members:
            if other is member or not other.is_alive or other.is_evicted:
                continue
            if both := gains & other.owned:
                raise Violation(f"{sorted(both)} is held by {other.name}, given to {member.name}")

    def _check_due(self, member: SimMember) -> None:
        silent_ms, asked_ms = self.now_ms - member.heard_ms, self.now_ms - member.asked_ms
        if silent_ms < SESSION_MS and asked_ms < REBALANCE_MS:
            raise Violation(f"{member.name} was removed after {silent_ms} and {asked_ms} ms")

    def check_settled(self) -> None:
        """With no more faults, all members share all partitions within SETTLE_MS."""
        for member in self.members:
            if not member.is_alive:
                member.start()
        self.is_chaotic = False
        self.run(SETTLE_MS // 2)
        self.set_topic("orders", len(self.state.topics["orders"].partitions) + 1)
        self.run(SETTLE_MS // 2)
        if self.group.state_name != "Stable":
            raise Violation(f"settled as {self.group.state_name}")
        if set(self.group.members) != {member.member_id for member in self.members}:
            raise Violation(f"settled with {sorted(self.group.members)}")
        owned = sorted(each for member in self.members for each in member.owned)
        wanted = sorted(
            (topic.topic_id, partition.index)
            for topic in self.state.topics.values()
            for partition in topic.partitions
        )
        if owned != wanted:
            raise Violation(f"settled with {owned}")
        if seen(self.reloaded()) != seen(self.group):
            raise Violation("settled, but the log says something else")

    # --- faults ----------------------------------------------------------------------------------

    def fault(self) -> None:
        """One random misfortune."""
        member = self.rng.choice(self.members)
        kinds = [
            "die",
            "restart",
            "leave",
            "pause",
            "remove",
            "lie",
            "lie",
            "lie",
            "crash",
            "topic",
        ]
        kind = self.rng.choice(kinds)
        if kind in ("die", "restart"):
            member.die()
        elif kind in ("leave", "pause") and member.is_alive and member.epoch > 0:
            static = kind == "pause" and member.instance_id is not None
            request = HeartbeatRequest(member.member_id, -2 if static else -1, member.instance_id)
            member.die()
            self.heartbeat(member, request, lambda reply: None)
        elif kind == "remove" and member.instance_id is not None:
            self._remove(member)
        elif kind == "lie":
            self._lie(member)
        elif kind == "crash":
            self.crash()
        elif kind == "topic":
            self._change_topic()
        if kind in ("restart", "pause") and not member.is_alive:
            member.start()

    def _remove(self, member: SimMember) -> None:
        """An administrator does it; who is removed hears of it at its next heartbeat."""
        errors, records = self.group.leave([Leaver("", member.instance_id)], self.now_ms)
        if errors == [ErrorCode.NONE]:
            member.is_evicted = True
        self._write(records, lambda: None)

    def _change_topic(self) -> None:
        orders, returns = self.state.topics["orders"], self.state.topics.get("returns")
        if returns is None:
            self.set_topic("returns", self.rng.randrange(1, 5))
        elif self.rng.random() < 0.5:
            self.set_topic("returns", 0)
        elif len(orders.partitions) < 9:
            self.set_topic("orders", len(orders.partitions) + 1)

    def _lie(self, member: SimMember) -> None:
        """Ask as who it is not, or when it is not: to be refused, and to change nothing."""
        known = self.group.members.get(member.member_id)
        if known is None or known.member_epoch < 1:
            return
        self.lies += 1
        epoch = known.member_epoch
        instance = member.instance_id
        lies = [
            HeartbeatRequest(member.member_id, epoch + self.rng.randrange(1, 5), instance),
            HeartbeatRequest(member.member_id, epoch, "somebody"),
            HeartbeatRequest("nobody", epoch),
        ]
        if epoch > 1:
            stale = self.rng.randrange(1, epoch)
            lies.append(HeartbeatRequest(member.member_id, stale, instance, owned=BOGUS))
            if self.group.check_commit(member.member_id, instance, stale, 9, self.now_ms) is (
                ErrorCode.NONE
            ):
                raise Violation("a commit of an old epoch was accepted")
        if instance is not None:
            joins: dict[str, Any] = {"rebalance_timeout_ms": 1, "subscribed_topics": ()}
            lies.append(HeartbeatRequest("thief", 0, instance, owned=(), **joins))
        lie = self.rng.choice(lies)
        before = seen(self.group)
        reply, records = self.group.heartbeat(lie, self.state, self.now_ms)
        if reply.error is ErrorCode.NONE or records or seen(self.group) != before:
            raise Violation(f"a lie was accepted: {lie}")


def seen(group: ConsumerGroup) -> object:
    """All of a group that a log has to hold."""
    members = {m: (x.metadata_record(), x.assignment_record()) for m, x in group.members.items()}
    return members, dict(group.target), group.epoch, group.assignment_epoch


def simulate(seed: int, faults: int = 50) -> World:
    """One run: misfortunes at random times, then peace, in which everything has to settle."""
    world = World(seed)
    for _ in range(faults):
        world.run(world.rng.randrange(10, 4_000))
        world.fault()
        dead = [member for member in world.members if not member.is_alive]
        if dead and world.rng.random() < 0.5:
            world.rng.choice(dead).start()
    world.check_settled()
    return world
