"""The classic group, one transition at a time. Sources name the class of Apache Kafka 4.1.

GMM is GroupMetadataManager, CG is ClassicGroup.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode as E
from rpk_py.groups.classic import ClassicGroup, load_group
from rpk_py.groups.classic_values import (
    Effects,
    GroupRecord,
    GroupSettings,
    GroupState,
    JoinReply,
    JoinRequest,
    Leaver,
    LeaveReply,
    Protocol,
    SyncReply,
    SyncRequest,
    join_refusal,
    write_error,
)
from rpk_py.groups.classic_view import described, described_missing, listed
from rpk_py.groups.timeline import EventKind

SESSION_MS, REBALANCE_MS, DELAY_MS = 10_000, 60_000, 3_000


def _partitions(assignment: bytes) -> frozenset[tuple[str, int]]:
    return frozenset(("t", int(part)) for part in assignment.decode().split(",") if part)


SETTINGS = GroupSettings(lambda data: frozenset({data.decode()}), _partitions)


def request(member_id: str = "", **changes: Any) -> JoinRequest:
    values: dict[str, Any] = {
        "protocol_type": "consumer",
        "protocols": (Protocol("range", b"t"),),
        "session_timeout_ms": SESSION_MS,
        "rebalance_timeout_ms": REBALANCE_MS,
        "client_id": "c",
        "requires_known_member_id": False,
    }
    return JoinRequest(member_id, **(values | changes))


class Bench:
    """A group with a clock; writes end at once unless `holds_writes`."""

    def __init__(self, settings: GroupSettings = SETTINGS) -> None:
        ids = count(1)
        self.new_id = lambda: str(next(ids))
        self.now_ms = 1_000
        self.group = ClassicGroup("g", settings, self.new_id, self.now_ms)
        self.replies: dict[object, Any] = {}
        self.records: list[GroupRecord | None] = []
        self.holds_writes = False
        self.held: list[int] = []
        self._tokens = count(1)

    @property
    def state(self) -> GroupState:
        return self.group.core.state

    def take(self, effects: Effects) -> None:
        for token, reply in effects.replies:
            assert token not in self.replies
            self.replies[token] = reply
        for write in effects.writes:
            self.records.append(write.record)
            self.held.append(write.write_id)
        while self.held and not self.holds_writes:
            self.end_write(E.NONE)

    def end_write(self, error: E) -> None:
        self.take(self.group.persisted(self.held.pop(0), error, self.now_ms))

    def join(self, member_id: str = "", **changes: Any) -> int:
        token = next(self._tokens)
        self.take(self.group.join(token, request(member_id, **changes), self.now_ms))
        return token

    def sync(self, member_id: str, generation: int | None = None, **changes: Any) -> int:
        token = next(self._tokens)
        number = self.group.core.generation if generation is None else generation
        self.take(self.group.sync(token, SyncRequest(member_id, number, **changes), self.now_ms))
        return token

    def leave(self, *leavers: Leaver) -> int:
        token = next(self._tokens)
        self.take(self.group.leave(token, leavers, self.now_ms))
        return token

    def beat(self, member_id: str, generation: int | None = None) -> E:
        number = self.group.core.generation if generation is None else generation
        return self.group.heartbeat(member_id, None, number, self.now_ms)

    def error(self, token: int) -> E:
        error = self.replies[token].error
        assert isinstance(error, E)
        return error

    def pass_ms(self, duration_ms: int) -> None:
        """Let time pass, waking the group exactly when it asks for it."""
        end_ms = self.now_ms + duration_ms
        while (wake_ms := self.group.wake_ms) is not None and wake_ms <= end_ms:
            self.now_ms = wake_ms
            self.take(self.group.tick(wake_ms))
        self.now_ms = end_ms

    def to(self, state: GroupState, instance_id: str | None = None) -> tuple[str, str]:
        """Leader and follower, in `state`. The leader may be static."""
        first, second = self.join(instance_id=instance_id), self.join()
        self.pass_ms(DELAY_MS)
        if second not in self.replies:
            self.pass_ms(DELAY_MS)
        leader, follower = self.replies[first].member_id, self.replies[second].member_id
        if state is GroupState.COMPLETING_REBALANCE:
            return leader, follower
        self.sync(leader, assignments={leader: b"0", follower: b"1"})
        self.sync(follower)
        if state is GroupState.PREPARING_REBALANCE:
            self.join(follower, protocols=(Protocol("range", b"other"),))
        assert self.state is state
        return leader, follower


STABLE, PREPARING = GroupState.STABLE, GroupState.PREPARING_REBALANCE
COMPLETING, EMPTY = GroupState.COMPLETING_REBALANCE, GroupState.EMPTY


@pytest.mark.parametrize(
    ("state", "member", "generation", "error"),
    [
        # GMM.classicGroupHeartbeatToClassicGroup
        (STABLE, "leader", 0, E.NONE),
        (COMPLETING, "leader", 0, E.NONE),
        (PREPARING, "leader", 0, E.REBALANCE_IN_PROGRESS),
        (STABLE, "leader", -1, E.ILLEGAL_GENERATION),
        (STABLE, "leader", 1, E.ILLEGAL_GENERATION),
        (PREPARING, "leader", -1, E.ILLEGAL_GENERATION),
        (STABLE, "nobody", 0, E.UNKNOWN_MEMBER_ID),
    ],
)
def test_heartbeat_answers(state: GroupState, member: str, generation: int, error: E) -> None:
    bench = Bench()
    leader, _ = bench.to(state)
    member_id = leader if member == "leader" else member
    assert bench.beat(member_id, bench.group.core.generation + generation) is error


@pytest.mark.parametrize(
    ("state", "changes", "error"),
    [
        # GMM.validateSyncGroup and classicGroupSyncToClassicGroup
        (STABLE, {}, E.NONE),
        (STABLE, {"protocol_type": "consumer", "protocol_name": "range"}, E.NONE),
        (STABLE, {"protocol_type": "connect"}, E.INCONSISTENT_GROUP_PROTOCOL),
        (STABLE, {"protocol_name": "sticky"}, E.INCONSISTENT_GROUP_PROTOCOL),
        (STABLE, {"generation": 99}, E.ILLEGAL_GENERATION),
        (STABLE, {"instance_id": "x"}, E.UNKNOWN_MEMBER_ID),
        (PREPARING, {}, E.REBALANCE_IN_PROGRESS),
        (COMPLETING, {"generation": 0}, E.ILLEGAL_GENERATION),
    ],
)
def test_sync_answers(state: GroupState, changes: dict[str, Any], error: E) -> None:
    bench = Bench()
    _, follower = bench.to(state)
    assert bench.error(bench.sync(follower, **changes)) is error


@pytest.mark.parametrize(
    ("state", "who", "protocols", "rebalances"),
    [
        # GMM.classicGroupJoinExistingMember
        (STABLE, "leader", (Protocol("range", b"t"),), True),
        (STABLE, "follower", (Protocol("range", b"t"),), False),
        (STABLE, "follower", (Protocol("range", b"u"),), True),
        (COMPLETING, "leader", (Protocol("range", b"t"),), False),
        (COMPLETING, "follower", (Protocol("range", b"t"),), False),
        (COMPLETING, "follower", (Protocol("range", b"u"),), True),
    ],
)
def test_rejoin_of_a_member(
    state: GroupState, who: str, protocols: tuple[Protocol, ...], rebalances: bool
) -> None:
    bench = Bench()
    leader, follower = bench.to(state)
    token = bench.join(leader if who == "leader" else follower, protocols=protocols)
    if rebalances:
        assert bench.state is PREPARING
        assert token not in bench.replies
    else:
        assert bench.state is state
        assert len(bench.replies[token].members) == (2 if who == "leader" else 0)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        # CG.supportsProtocols
        ({"protocol_type": ""}, E.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocols": ()}, E.INCONSISTENT_GROUP_PROTOCOL),
        ({"requires_known_member_id": True}, E.MEMBER_ID_REQUIRED),
        ({"member_id": "nobody"}, E.UNKNOWN_MEMBER_ID),
        ({"member_id": "nobody", "instance_id": "x"}, E.UNKNOWN_MEMBER_ID),
    ],
)
def test_join_of_an_empty_group_is_refused(changes: dict[str, Any], error: E) -> None:
    bench = Bench()
    assert bench.error(bench.join(**changes)) is error
    assert bench.state is EMPTY


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"protocol_type": "connect"}, E.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocols": (Protocol("sticky", b"t"),)}, E.INCONSISTENT_GROUP_PROTOCOL),
        ({"member_id": "old-id", "instance_id": "i"}, E.FENCED_INSTANCE_ID),
        ({"member_id": "old-id"}, E.UNKNOWN_MEMBER_ID),
    ],
)
def test_join_of_a_stable_group_is_refused(changes: dict[str, Any], error: E) -> None:
    bench = Bench()
    bench.to(STABLE, instance_id="i")
    assert bench.error(bench.join(**changes)) is error
    assert bench.state is STABLE


@pytest.mark.parametrize(
    ("group_id", "session_ms", "error"),
    [
        # GroupCoordinatorService.joinGroup
        ("", 10_000, E.INVALID_GROUP_ID),
        ("g", 5_999, E.INVALID_SESSION_TIMEOUT),
        ("g", 6_000, E.NONE),
        ("g", 1_800_000, E.NONE),
        ("g", 1_800_001, E.INVALID_SESSION_TIMEOUT),
    ],
)
def test_join_is_refused_before_a_group_is_looked_at(
    group_id: str, session_ms: int, error: E
) -> None:
    assert join_refusal(group_id, session_ms, SETTINGS) is error


def test_initial_delay_is_extended_by_each_newcomer_up_to_the_rebalance_timeout() -> None:
    bench = Bench()
    first = bench.join(rebalance_timeout_ms=7_000)
    for _ in range(3):  # GMM.tryCompleteInitialRebalanceElseSchedule: 3 s, 3 s, then the 1 s left
        bench.join(rebalance_timeout_ms=7_000)
        assert first not in bench.replies
        bench.pass_ms(DELAY_MS)
    assert bench.replies[first].generation == 1
    assert len(bench.replies[first].members) == 4


def test_votes_choose_among_the_protocols_that_all_speak() -> None:
    bench = Bench()
    offers = [("a", "b", "c"), ("c", "b"), ("b", "c"), ("c", "b")]
    tokens = [bench.join(protocols=tuple(Protocol(n, b"t") for n in names)) for names in offers]
    bench.pass_ms(2 * DELAY_MS)
    names = {bench.replies[token].protocol_name for token in tokens}
    assert names in ({"b"}, {"c"})
    assert bench.group.core.members.select_protocol() in ("b", "c")


def test_pending_member_holds_up_a_rebalance_until_its_session_ends() -> None:
    bench = Bench()
    leader, follower = bench.to(STABLE)
    bench.join(requires_known_member_id=True)
    again = bench.join(leader)
    bench.join(follower)
    assert again not in bench.replies
    bench.pass_ms(SESSION_MS)
    assert bench.error(again) is E.NONE


def test_rebalance_timeout_removes_dynamic_members_that_did_not_rejoin() -> None:
    bench = Bench()
    leader, follower = bench.to(STABLE)
    again = bench.join(leader)
    for _ in range(REBALANCE_MS // 5_000):
        bench.beat(follower)
        bench.pass_ms(5_000)
    assert [member.member_id for member in bench.replies[again].members] == [leader]
    kinds = [event.kind for event in bench.group.core.timeline.events()]
    assert EventKind.MISSED_REBALANCE in kinds


def test_missed_heartbeat_starts_a_rebalance_and_says_how_long_it_was_quiet() -> None:
    bench = Bench()
    leader, follower = bench.to(STABLE)
    bench.pass_ms(SESSION_MS - 1)
    bench.beat(leader)
    bench.pass_ms(1)
    assert bench.state is PREPARING
    assert follower not in bench.group.core.members
    events = bench.group.core.timeline.events()
    missed = next(event for event in events if event.kind is EventKind.MISSED_HEARTBEAT)
    assert (missed.member, missed.duration_ms) == (follower, SESSION_MS)


def test_member_that_never_syncs_is_removed_after_the_rebalance_timeout() -> None:
    bench = Bench()
    leader, follower = bench.to(COMPLETING)
    bench.sync(leader, assignments={leader: b"0"})
    for _ in range(REBALANCE_MS // 5_000):
        bench.beat(leader)
        bench.beat(follower)
        bench.pass_ms(5_000)
    assert bench.state is PREPARING
    assert follower not in bench.group.core.members


def test_full_group_refuses_newcomers() -> None:
    bench = Bench(GroupSettings(SETTINGS.topics_of, _partitions, members_max=2))
    bench.to(STABLE)
    assert bench.error(bench.join()) is E.GROUP_MAX_SIZE_REACHED


@pytest.mark.parametrize(("skips", "leader_is_told_itself"), [(True, True), (False, False)])
def test_static_leader_restarts_without_a_rebalance(
    skips: bool, leader_is_told_itself: bool
) -> None:
    """KIP-345; KIP-814 lets the leader know the members, and skip the assignment."""
    bench = Bench()
    leader, _ = bench.to(STABLE, instance_id="i")
    token = bench.join(instance_id="i", supports_skipping_assignment=skips)
    reply: JoinReply = bench.replies[token]
    assert bench.state is STABLE
    assert reply.generation == 1
    assert reply.member_id != leader
    assert reply.skip_assignment is skips
    assert (reply.leader == reply.member_id) is leader_is_told_itself
    assert bench.error(bench.sync(reply.member_id)) is E.NONE
    assert bench.beat(leader) is E.UNKNOWN_MEMBER_ID
    assert bench.group.heartbeat(leader, "i", 1, bench.now_ms) is E.FENCED_INSTANCE_ID


def test_static_rejoin_that_is_not_persisted_is_taken_back() -> None:
    bench = Bench()
    leader, _ = bench.to(STABLE, instance_id="i")
    bench.holds_writes = True
    token = bench.join(instance_id="i")
    assert token not in bench.replies
    bench.end_write(E.NOT_LEADER_OR_FOLLOWER)
    assert bench.error(token) is E.NOT_COORDINATOR
    assert bench.group.heartbeat(leader, "i", 1, bench.now_ms) is E.NONE


def test_static_restart_during_assignment_fences_the_old_and_rebalances() -> None:
    bench = Bench()
    leader, _ = bench.to(COMPLETING, instance_id="i")
    bench.join(instance_id="i")
    assert bench.state is PREPARING
    assert bench.error(bench.sync(leader, instance_id="i")) is E.FENCED_INSTANCE_ID


def test_assignment_is_told_only_when_it_is_durable() -> None:
    bench = Bench()
    leader, follower = bench.to(COMPLETING)
    bench.holds_writes = True
    waiting = bench.sync(follower)
    leading = bench.sync(leader, assignments={follower: b"1"})
    assert not {waiting, leading} & bench.replies.keys()
    bench.end_write(E.NONE)
    assert bench.replies[waiting] == SyncReply(E.NONE, "consumer", "range", b"1")
    assert bench.replies[leading].assignment == b""  # GMM fills in what the leader left out


def test_assignment_that_cannot_be_written_starts_another_rebalance() -> None:
    bench = Bench()
    leader, _ = bench.to(COMPLETING)
    bench.holds_writes = True
    token = bench.sync(leader)
    bench.end_write(E.NOT_ENOUGH_REPLICAS)
    assert bench.error(token) is E.COORDINATOR_NOT_AVAILABLE
    assert bench.state is PREPARING
    assert write_error(E.RECORD_LIST_TOO_LARGE) is E.UNKNOWN_SERVER_ERROR


def test_leave_answers_each_leaver() -> None:
    bench = Bench()
    leader, follower = bench.to(STABLE, instance_id="i")
    token = bench.leave(Leaver("nobody"), Leaver(leader, "j"), Leaver("", "x"), Leaver(follower))
    reply: LeaveReply = bench.replies[token]
    assert [error for _, error in reply.members] == [
        E.UNKNOWN_MEMBER_ID,
        E.UNKNOWN_MEMBER_ID,
        E.UNKNOWN_MEMBER_ID,
        E.NONE,
    ]
    assert bench.state is PREPARING


def test_last_leave_empties_the_group_and_waits_for_its_record() -> None:
    bench = Bench()
    leader, follower = bench.to(STABLE, instance_id="i")
    bench.holds_writes = True
    token = bench.leave(Leaver("", "i"), Leaver(follower))
    assert bench.state is EMPTY
    assert token not in bench.replies
    bench.end_write(E.NONE)
    assert bench.error(token) is E.NONE
    assert bench.records[-1] == GroupRecord("consumer", 2, None, None, bench.now_ms)
    assert bench.beat(leader) is E.UNKNOWN_MEMBER_ID


@pytest.mark.parametrize(
    ("state", "member", "generation", "error"),
    [
        # CG.validateOffsetCommit
        (STABLE, "leader", 1, E.NONE),
        (PREPARING, "leader", 1, E.NONE),
        (COMPLETING, "leader", 1, E.REBALANCE_IN_PROGRESS),
        (STABLE, "leader", 0, E.ILLEGAL_GENERATION),
        (STABLE, "nobody", 1, E.UNKNOWN_MEMBER_ID),
        (STABLE, "", -1, E.UNKNOWN_MEMBER_ID),
    ],
)
def test_commit_of_members(state: GroupState, member: str, generation: int, error: E) -> None:
    bench = Bench()
    leader, _ = bench.to(state)
    member_id = leader if member == "leader" else member
    assert bench.group.check_commit(member_id, None, generation, bench.now_ms) is error


def test_loaded_group_is_stable_with_new_sessions() -> None:
    bench = Bench()
    leader, follower = bench.to(STABLE, instance_id="i")
    record = bench.records[-1]
    assert record is not None
    bench.now_ms += 1_000_000
    bench.group = load_group("g", record, SETTINGS, bench.new_id, bench.now_ms)
    bench.take(bench.group.start_loaded(bench.now_ms))
    assert bench.state is STABLE
    assert bench.group.core.members.leader == leader
    assert bench.replies[bench.sync(follower)].assignment == b"1"
    bench.pass_ms(SESSION_MS)
    assert len(bench.group.core.members) == 0
    assert bench.state is EMPTY
    assert bench.group.core.generation == 2


def test_views_of_a_group() -> None:
    bench = Bench()
    assert listed(bench.group.core).state == "Empty"
    leader, _ = bench.to(STABLE)
    shown = described(bench.group.core)
    assert (shown.state, shown.protocol_type, shown.protocol_name) == (
        "Stable",
        "consumer",
        "range",
    )
    assert {member.assignment for member in shown.members} == {b"0", b"1"}
    bench.join(leader)
    shown = described(bench.group.core)
    assert (shown.state, shown.protocol_name) == ("PreparingRebalance", "")
    assert {member.assignment for member in shown.members} == {b""}
    assert described_missing("x", 5).error is E.NONE
    assert described_missing("x", 5).state == "Dead"
    assert described_missing("x", 6).error is E.GROUP_ID_NOT_FOUND


def test_only_an_empty_group_can_be_deleted() -> None:
    bench = Bench()
    leader, follower = bench.to(STABLE)
    assert bench.group.delete(bench.now_ms)[0] is E.NON_EMPTY_GROUP
    bench.leave(Leaver(leader), Leaver(follower))
    error, effects = bench.group.delete(bench.now_ms)
    assert error is E.NONE
    assert [write.record for write in effects.writes] == [None]
    assert bench.group.delete(bench.now_ms)[0] is E.GROUP_ID_NOT_FOUND
    assert bench.beat(leader) is E.COORDINATOR_NOT_AVAILABLE


def test_history_says_what_moved() -> None:
    bench = Bench()
    leader, follower = bench.to(STABLE)
    bench.join(leader)
    bench.join(follower)
    bench.sync(leader, assignments={leader: b"0,1", follower: b""})
    stable = bench.group.core.timeline.events()[-1]
    assert stable.kind is EventKind.STABLE
    assert stable.moved_count == 1
    move = stable.moves[0]
    assert (move.topic, move.partition_index, move.before, move.after) == ("t", 1, follower, leader)
