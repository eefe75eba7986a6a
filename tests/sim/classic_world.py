"""A classic group under a seeded simulator: virtual time, members and coordinator that fail.

What:       one real ClassicGroup with its Offsets on one simulated log, and members that join, lag,
            die, rejoin and lie. Writes become durable late and in order; a crash of the
            coordinator loses what is not durable, and with it every reply that was under way.
Checks:     raises Violation at once; what they mean is said at each `raise`. The same seed gives
            the same run.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kafka_protocol.errors import ErrorCode
from rpk_py.groups.classic import ClassicGroup, load_group
from rpk_py.groups.classic_values import (
    Effects,
    GroupRecord,
    GroupSettings,
    GroupState,
    JoinReply,
    JoinRequest,
    Leaver,
    Protocol,
    SyncReply,
    SyncRequest,
    join_refusal,
)
from rpk_py.groups.offsets import OffsetRecord, Offsets, OffsetToCommit, missing_group_error
from rpk_py.groups.timeline import TopicPartition

TOPIC = "orders"
PARTITIONS = 6
SESSION_MS = 6_000
REBALANCE_MS = 9_000
HEARTBEAT_MS = 1_500
ANSWER_MS_MAX = 3 * REBALANCE_MS + 2 * SESSION_MS + 5_000
SETTLE_MS = 120_000


class Violation(AssertionError):
    """An invariant does not hold."""


def topics_of(subscription: bytes) -> frozenset[str] | None:
    return frozenset(subscription.decode().split(",")) if subscription else None


def partitions_of(assignment: bytes) -> frozenset[TopicPartition] | None:
    return frozenset((TOPIC, int(part)) for part in assignment.decode().split(",") if part)


SETTINGS = GroupSettings(topics_of, partitions_of, new_member_join_timeout_ms=20_000)


@dataclass(slots=True)
class Waiting:
    """Who waits for a reply, since when, and in which incarnation."""

    member: SimMember
    incarnation: int
    since_ms: int


class SimMember:
    """One client process. `incarnation` grows whenever it forgets what it waited for."""

    def __init__(self, world: World, name: str, instance_id: str | None) -> None:
        self.world, self.name, self.instance_id = world, name, instance_id
        self.incarnation = 0
        self.start()

    def start(self) -> None:
        """A fresh process: it knows nothing but its instance id."""
        self.incarnation += 1
        self.is_alive = True
        self.member_id = ""
        self.generation = -1
        self.is_synced = False  # it has its assignment, and no request under way
        self.busy_until_ms = 0  # heartbeats go on, but nothing else does: max.poll is exceeded
        self.owned: dict[int, int] = {}  # partition -> next offset
        # All speak both: a loaded group knows the chosen protocol only, and refuses who does not.
        self.names = self.world.rng.choice([("range", "sticky"), ("sticky", "range")])
        self.join()

    def die(self) -> None:
        self.incarnation += 1
        self.is_alive = False

    def be_fenced(self) -> None:
        """Fatal to a client, so its supervisor starts a new one.

        It happens without any rival: an id that a member was given and that was not in a durable
        record when the coordinator died is not the id that the next coordinator knows.
        """
        self.die()
        self.world.at(1_000, lambda: None if self.is_alive else self.start())

    def later(self, delay_ms: int, call: Callable[[], None]) -> None:
        incarnation = self.incarnation

        def run() -> None:
            if self.is_alive and self.incarnation == incarnation:
                call()

        self.world.at(delay_ms, run)

    def join(self) -> None:
        self.incarnation += 1
        self.is_synced = False
        self.owned = {}
        version_4 = self.world.rng.random() < 0.9
        request = JoinRequest(
            member_id=self.member_id,
            protocol_type="consumer",
            protocols=tuple(Protocol(name, TOPIC.encode()) for name in self.names),
            session_timeout_ms=SESSION_MS,
            rebalance_timeout_ms=REBALANCE_MS,
            instance_id=self.instance_id,
            client_id=self.name,
            requires_known_member_id=version_4,
            supports_skipping_assignment=self.world.rng.random() < 0.5,
        )
        self.world.join(self, request)
        self.later(ANSWER_MS_MAX, self.join)  # the client's own request timeout

    def forget_id(self) -> None:
        self.member_id = ""
        self.later(self.world.rng.randrange(50, 500), self.join)

    def on_join(self, reply: JoinReply) -> None:
        if reply.error is ErrorCode.NONE:
            self.incarnation += 1
            self.member_id, self.generation = reply.member_id, reply.generation
            assignments: dict[str, bytes] = {}
            if reply.leader == self.member_id and not reply.skip_assignment and reply.members:
                ids = sorted(member.member_id for member in reply.members)
                for index, member_id in enumerate(ids):
                    share = [str(p) for p in range(PARTITIONS) if p % len(ids) == index]
                    assignments[member_id] = ",".join(share).encode()
            request = SyncRequest(
                self.member_id,
                self.generation,
                self.instance_id,
                reply.protocol_type,
                reply.protocol_name,
                assignments,
            )
            self.later(self.world.rng.randrange(1, 400), lambda: self.world.sync(self, request))
            self.later(HEARTBEAT_MS, self.beat)
        elif reply.error is ErrorCode.MEMBER_ID_REQUIRED:
            self.member_id = reply.member_id
            self.later(self.world.rng.randrange(1, 400), self.join)
        elif reply.error is ErrorCode.FENCED_INSTANCE_ID:
            self.be_fenced()
        elif reply.error is ErrorCode.UNKNOWN_MEMBER_ID:
            self.forget_id()
        else:
            self.later(500, self.join)

    def on_sync(self, reply: SyncReply) -> None:
        if reply.error is ErrorCode.NONE:
            owned = sorted(index for _, index in partitions_of(reply.assignment) or ())
            self.is_synced = True
            self.world.check_owned(self, owned)
            for index in owned:
                committed = self.world.offsets.fetch(TOPIC, index)
                self.owned[index] = 0 if committed is None else committed.committed_offset
        elif reply.error is ErrorCode.UNKNOWN_MEMBER_ID:
            self.forget_id()
        elif reply.error is ErrorCode.FENCED_INSTANCE_ID:
            self.be_fenced()
        else:
            self.later(100, self.join)

    def beat(self) -> None:
        """Heartbeat, work and commit, as often as a poll loop does; sometimes far too late."""
        error = self.world.heartbeat(self)
        rng = self.world.rng
        if self.world.is_chaotic and self.owned and rng.random() < 0.01:
            self.busy_until_ms = self.world.now_ms + rng.randrange(1_000, 8 * REBALANCE_MS)
        if self.world.now_ms < self.busy_until_ms and error is not ErrorCode.UNKNOWN_MEMBER_ID:
            self.later(HEARTBEAT_MS, self.beat)
        elif error is ErrorCode.UNKNOWN_MEMBER_ID:
            self.forget_id()
        else:
            self.work(error)

    def work(self, error: ErrorCode) -> None:
        """What follows the answer to a heartbeat: records, a commit, or a new join."""
        if error is ErrorCode.NONE and self.owned:
            for index in self.owned:
                self.owned[index] += self.world.rng.randrange(0, 20)
            error = self.world.commit(self, self.generation, dict(self.owned))
        if error is ErrorCode.UNKNOWN_MEMBER_ID:
            self.forget_id()
        elif error is ErrorCode.FENCED_INSTANCE_ID:
            self.be_fenced()
        elif error in (ErrorCode.REBALANCE_IN_PROGRESS, ErrorCode.ILLEGAL_GENERATION):
            self.later(self.world.rng.randrange(1, 800), self.join)
        else:
            lags = self.world.is_chaotic and self.world.rng.random() < 0.05
            self.later(2 * SESSION_MS if lags else HEARTBEAT_MS, self.beat)


class World:
    """The coordinator, its log, the clock and the members."""

    def __init__(self, seed: int, members: int = 5) -> None:
        self.rng = random.Random(seed)
        self.now_ms = 1_000_000
        self.is_chaotic = True
        self.stable_seen = self.crashes = self.lies = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._ids = 0
        self.log: list[GroupRecord | tuple[OffsetRecord, ...] | None] = []
        self.in_flight: deque[tuple[object, Callable[[], None]]] = deque()
        self.life = 0
        self.waiting: dict[int, Waiting] = {}
        self._tokens = 0
        self.owners: dict[tuple[int, int], str] = {}
        self.high_offsets: dict[int, int] = {}
        self.generation_seen = 0
        self.group: ClassicGroup | None = None
        self.offsets = Offsets()
        self._woken_at: int | None = None
        self.members = [
            SimMember(self, f"m{index}", f"static-{index}" if index % 3 == 0 else None)
            for index in range(members)
        ]

    # --- time ------------------------------------------------------------------------------------

    def at(self, delay_ms: int, call: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (self.now_ms + delay_ms, self._sequence, call))

    def run(self, duration_ms: int) -> None:
        end_ms = self.now_ms + duration_ms
        while self._queue and self._queue[0][0] <= end_ms:
            self.now_ms, _, call = heapq.heappop(self._queue)
            call()
            self._check_waiting()
        self.now_ms = end_ms

    # --- requests --------------------------------------------------------------------------------

    def _token(self, member: SimMember) -> int:
        self._tokens += 1
        self.waiting[self._tokens] = Waiting(member, member.incarnation, self.now_ms)
        return self._tokens

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self._ids:06}"

    def join(self, member: SimMember, request: JoinRequest) -> None:
        assert not join_refusal("group", request.session_timeout_ms, SETTINGS)
        if self.group is None:
            if request.member_id:
                reply = JoinReply(ErrorCode.UNKNOWN_MEMBER_ID, request.member_id)
                member.later(1, lambda: member.on_join(reply))
                return
            self.group = ClassicGroup("group", SETTINGS, self._new_id, self.now_ms)
        self._apply(self.group.join(self._token(member), request, self.now_ms))

    def sync(self, member: SimMember, request: SyncRequest) -> None:
        if self.group is None:
            reply = SyncReply(ErrorCode.UNKNOWN_MEMBER_ID)
            member.later(1, lambda: member.on_sync(reply))
            return
        self._apply(self.group.sync(self._token(member), request, self.now_ms))

    def heartbeat(self, member: SimMember) -> ErrorCode:
        if self.group is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        error = self.group.heartbeat(
            member.member_id, member.instance_id, member.generation, self.now_ms
        )
        self._arm()
        return error

    def commit(self, member: SimMember, generation: int, offsets: dict[int, int]) -> ErrorCode:
        if self.group is None:
            return missing_group_error(generation, 9)
        error = self.group.check_commit(
            member.member_id, member.instance_id, generation, self.now_ms
        )
        self._arm()
        if error:
            return error
        commits = [OffsetToCommit(TOPIC, index, offset) for index, offset in offsets.items()]
        _, records = self.offsets.plan_commit(commits, self.now_ms)
        if records:
            self._append(records, lambda: self.offsets.written(records, ErrorCode.NONE))
        return ErrorCode.NONE

    def leave(self, member: SimMember) -> None:
        if self.group is not None:
            leaver = Leaver(member.member_id, member.instance_id)
            self._apply(self.group.leave(self._token(member), [leaver], self.now_ms))
        member.die()

    # --- effects ---------------------------------------------------------------------------------

    def _apply(self, effects: Effects) -> None:
        for token, reply in effects.replies:
            assert isinstance(token, int)
            if token not in self.waiting:
                raise Violation(f"answered twice, or never asked: {reply}")
            waiting = self.waiting.pop(token)
            member = waiting.member
            if isinstance(reply, JoinReply):
                self._check_generation(reply)
            if member.incarnation != waiting.incarnation or not member.is_alive:
                continue
            delay_ms = self.rng.randrange(1, 50)
            if isinstance(reply, JoinReply):
                member.later(delay_ms, lambda m=member, r=reply: m.on_join(r))  # type: ignore[misc]
            elif isinstance(reply, SyncReply):
                member.later(delay_ms, lambda m=member, r=reply: m.on_sync(r))  # type: ignore[misc]
        group = self.group
        assert group is not None
        for write in effects.writes:
            done = write.write_id
            self._append(
                write.record,
                lambda d=done: self._apply(group.persisted(d, ErrorCode.NONE, self.now_ms)),  # type: ignore[misc]
            )
        self._arm()

    def _arm(self) -> None:
        assert self.group is not None
        wake_ms = self.group.wake_ms
        if wake_ms is None or (self._woken_at is not None and self._woken_at <= wake_ms):
            return
        self._woken_at = wake_ms
        life = self.life

        def wake() -> None:
            if self.life == life and self._woken_at == wake_ms and self.group is not None:
                self._woken_at = None
                self._apply(self.group.tick(self.now_ms))

        self.at(max(wake_ms - self.now_ms, 0), wake)

    def _append(self, record: object, done: Callable[[], None]) -> None:
        self.in_flight.append((record, done))
        life = self.life
        delay_ms = self.rng.randrange(1, 300)
        self.at(delay_ms, lambda: self._durable(life))

    def _durable(self, life: int) -> None:
        if self.life != life or not self.in_flight:
            return
        record, done = self.in_flight.popleft()
        assert record is None or isinstance(record, (GroupRecord, tuple))
        self.log.append(record)
        if isinstance(record, GroupRecord) and record.generation < self.generation_seen:
            raise Violation(f"generation fell to {record.generation} from {self.generation_seen}")
        if isinstance(record, GroupRecord):
            self.generation_seen = record.generation
        done()
        self._check_offsets()

    def crash(self) -> None:
        """Another coordinator takes over with what is durable; nobody is told."""
        self.life += 1
        self.crashes += 1
        self.in_flight.clear()
        self.waiting.clear()
        self._woken_at = None
        self.group, self.offsets = None, Offsets()
        last: GroupRecord | None = None
        for record in self.log:
            if isinstance(record, tuple):
                for each in record:
                    self.offsets.replay(each)
            else:
                last = record
        if last is not None:
            self.group = load_group("group", last, SETTINGS, self._new_id, self.now_ms)
            self._apply(self.group.start_loaded(self.now_ms))
        for member in self.members:  # their connections are gone: they ask again
            if member.is_alive:
                member.incarnation += 1
                again = member.beat if member.is_synced else member.join
                member.later(self.rng.randrange(100, 1_000), again)

    # --- what has to hold ------------------------------------------------------------------------

    def check_owned(self, member: SimMember, owned: list[int]) -> None:
        name = member.instance_id or member.member_id
        for index in owned:
            holder = self.owners.setdefault((member.generation, index), name)
            if holder != name:
                raise Violation(
                    f"partition {index} of generation {member.generation}: {holder} and {name}"
                )
        self.stable_seen += 1

    def _check_generation(self, reply: JoinReply) -> None:
        if reply.error is ErrorCode.NONE and reply.generation < self.generation_seen:
            raise Violation(f"joined generation {reply.generation} after {self.generation_seen}")

    def _check_waiting(self) -> None:
        for waiting in self.waiting.values():
            if self.now_ms - waiting.since_ms > ANSWER_MS_MAX:
                raise Violation(f"{waiting.member.name} waits since {waiting.since_ms}")

    def _check_offsets(self) -> None:
        for _, index, value in self.offsets.all():
            if value.committed_offset < self.high_offsets.get(index, 0):
                raise Violation(
                    f"partition {index} went back to {value.committed_offset}"
                    f" from {self.high_offsets[index]}"
                )
            self.high_offsets[index] = value.committed_offset

    def check_settled(self) -> None:
        """With no more faults, all members share all partitions within SETTLE_MS."""
        for member in self.members:
            if not member.is_alive:
                member.start()
        self.is_chaotic = False
        self.run(SETTLE_MS)
        group = self.group
        if group is None or group.core.state is not GroupState.STABLE:
            raise Violation(f"not stable: {group and group.core.state}")
        if len(group.core.members) != len(self.members):
            raise Violation(f"{len(group.core.members)} members of {len(self.members)}")
        owned = sorted(index for member in self.members for index in member.owned)
        if owned != list(range(PARTITIONS)):
            raise Violation(f"owned after all: {owned}")

    # --- faults ----------------------------------------------------------------------------------

    def fault(self) -> None:
        """One random misfortune."""
        member = self.rng.choice(self.members)
        kind = self.rng.choice(["die", "restart", "leave", "lie", "lie", "lie", "crash"])
        if kind == "die":
            member.die()
        elif kind == "restart":
            member.die()
            member.start()
        elif kind == "leave" and member.is_alive and member.member_id:
            self.leave(member)
        elif kind == "lie":
            self._lie(member)
        elif kind == "crash":
            self.crash()

    def _lie(self, member: SimMember) -> None:
        """Ask as a generation that is over, or is not yet: to be refused, and to change nothing."""
        group = self.group
        if group is None or not member.member_id:
            return
        self.lies += 1
        stale = max(group.core.generation + self.rng.choice([-2, -1, 1, 7]), 0)
        if stale == group.core.generation:
            return
        self.commit(member, stale, dict.fromkeys(range(PARTITIONS), 0))
        request = SyncRequest(member.member_id, stale, member.instance_id)
        token = self._token(member)
        self.waiting[token].incarnation = -1  # whatever the answer, the member does not act on it
        self._apply(group.sync(token, request, self.now_ms))


def simulate(seed: int, faults: int = 60) -> World:
    """One run: misfortunes at random times, then peace, in which everything has to settle."""
    world = World(seed)
    for _ in range(faults):
        world.run(world.rng.randrange(10, 6_000))
        world.fault()
        if world.rng.random() < 0.5:
            dead = [member for member in world.members if not member.is_alive]
            if dead:
                world.rng.choice(dead).start()
    world.check_settled()
    return world
