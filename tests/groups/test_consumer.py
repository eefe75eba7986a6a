"""The consumer group (KIP-848), one transition at a time. Sources name Apache Kafka 4.1.

GMM is GroupMetadataManager, CAB is CurrentAssignmentBuilder, CG is ConsumerGroup. What is refused
is in tests/groups/test_consumer_errors.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from kafka_protocol import group_records
from kafka_protocol.errors import ErrorCode as E
from rpk_py.groups.consumer import ConsumerGroup
from rpk_py.groups.consumer_members import MemberState
from rpk_py.groups.consumer_values import ConsumerSettings, Records
from rpk_py.groups.timeline import EventKind
from tests.groups.consumer_bench import NOTHING, REBALANCE_MS, SESSION_MS, Bench, set_topic


def kinds(records: Records) -> list[str]:
    """Which records, with a - for a tombstone."""
    return [
        ("-" if value is None else "")
        + type(key).__name__.removeprefix("ConsumerGroup").removesuffix("Key")
        for key, value in records
    ]


def seen(group: ConsumerGroup) -> dict[str, Any]:
    """All of a group that a log has to hold."""
    return {
        "epochs": (group.epoch, group.assignment_epoch),
        "members": {
            name: (member.metadata_record(), member.assignment_record())
            for name, member in sorted(group.members.items())
        },
        "target": dict(sorted(group.target.items())),
        "state": group.state_name,
    }


# --- joining and leaving --------------------------------------------------------------------------


def test_the_first_member_gets_everything() -> None:
    """GMM.consumerGroupHeartbeat: a join raises the epoch, makes a target and gets its share."""
    bench = Bench(t=3)
    assert (bench.group.state_name, bench.group.epoch) == ("Empty", 0)
    reply = bench.join("a", "t", client_id="c", client_host="/h")
    assert (reply.error, reply.member_id, reply.member_epoch) == (E.NONE, "a", 1)
    assert reply.heartbeat_interval_ms == 5_000
    assert reply.assignment == bench.owns("t", 0, 1, 2)
    assert bench.group.state_name == "Stable"
    assert seen(bench.reload()) == seen(bench.group)


def test_records_of_a_join_and_of_a_leave() -> None:
    """GroupCoordinatorRecordHelpers, in the order of GMM.consumerGroupHeartbeat."""
    bench = Bench(t=3)
    written = bench.written
    bench.join("a", "t")
    assert kinds(written) == [
        "MemberMetadata",
        "Metadata",
        "TargetAssignmentMember",
        "TargetAssignmentMetadata",
        "CurrentMemberAssignment",
    ]
    written.clear()
    bench.send("a", 1)
    assert written == [], "a heartbeat without news writes nothing"
    bench.send("a", -1)
    tombstones = ["-CurrentMemberAssignment", "-TargetAssignmentMember", "-MemberMetadata"]
    assert kinds(written) == [*tombstones, "Metadata"]


def test_version_0_is_given_a_member_id() -> None:
    """KIP-1082: from version 1 on clients make their ids."""
    bench = Bench(t=1)
    reply = bench.join("", "t", api_version=0)
    assert (reply.error, reply.member_id) == (E.NONE, "made-1")
    assert list(bench.group.members) == ["made-1"]


@pytest.mark.parametrize("topics", [("t",), ("missing",), ()])
def test_a_join_of_a_new_group_raises_its_epoch_whatever_it_subscribes_to(
    topics: tuple[str, ...],
) -> None:
    bench = Bench(t=1)
    reply = bench.join("a", *topics)
    assert reply.member_epoch == bench.group.epoch == 1
    assert reply.assignment == (bench.owns("t", 0) if topics == ("t",) else ())


def test_a_member_that_leaves_leaves_its_share() -> None:
    """GMM.consumerGroupFenceMember: the epoch grows; the others get it at their heartbeats."""
    bench = Bench(t=2)
    bench.join("a", "t")
    bench.join("b", "t")
    bench.settle("a", "b")
    reply = bench.send("b", -1)
    assert (reply.error, reply.member_id, reply.member_epoch) == (E.NONE, "b", -1)
    assert reply.assignment is None
    assert (bench.group.epoch, bench.group.state_name) == (3, "Assigning")
    reply = bench.send("a", 2, owned=bench.owns("t", 0))
    assert (reply.member_epoch, reply.assignment) == (3, bench.owns("t", 0, 1))
    assert bench.group.state_name == "Stable"


def test_a_member_joins_again_with_nothing() -> None:
    """It has given up all it had, or is a process that has just been fenced."""
    bench = Bench(t=2)
    bench.join("a", "t")
    reply = bench.join("a", "t")
    assert (reply.member_epoch, reply.assignment) == (1, bench.owns("t", 0, 1))
    bench.join("b", "t")
    reply = bench.join("a", "t")
    assert (reply.member_epoch, reply.assignment) == (2, bench.owns("t", 0))
    assert bench.send("b", 2).assignment == bench.owns("t", 1)


def test_a_static_member_comes_back_to_a_full_group() -> None:
    bench = Bench(ConsumerSettings(members_max=1), t=1)
    bench.join("a", "t", instance_id="i")
    bench.send("a", -2, instance_id="i")
    assert bench.join("b", "t", instance_id="i").assignment == bench.owns("t", 0)


# --- revocation before assignment -----------------------------------------------------------------


def test_a_partition_is_given_up_before_another_gets_it() -> None:
    """CAB.build and computeNextAssignment, all states."""
    bench = Bench(t=2)
    bench.join("a", "t")
    reply = bench.join("b", "t")
    assert (reply.member_epoch, reply.assignment) == (2, NOTHING)
    b = bench.group.members["b"]
    assert b.state is MemberState.UNRELEASED_PARTITIONS
    assert bench.group.state_name == "Reconciling"
    # "a" is told at its next heartbeat, and stays at its epoch until it has given it up.
    reply = bench.send("a", 1)
    assert (reply.member_epoch, reply.assignment) == (1, bench.owns("t", 0))
    assert bench.group.members["a"].state is MemberState.UNREVOKED_PARTITIONS
    for owned in (None, bench.owns("t", 0, 1), bench.owns("t", 1)):
        reply = bench.send("a", 1, owned=owned)
        assert (reply.member_epoch, reply.assignment) == (1, None)
        assert bench.send("b", 2).assignment is None
    reply = bench.send("a", 1, owned=bench.owns("t", 0))
    assert (reply.member_epoch, reply.assignment) == (2, None)
    assert bench.send("b", 2).assignment == bench.owns("t", 1)
    assert bench.group.state_name == "Stable"
    assert seen(bench.reload()) == seen(bench.group)


def test_more_to_give_up_is_an_epoch_of_its_own() -> None:
    """CAB.build: from UNREVOKED_PARTITIONS it goes to the next epoch; the timeout starts anew."""
    bench = Bench(t=3)
    bench.join("a", "t")
    bench.join("b", "t")
    assert bench.send("a", 1).assignment == bench.owns("t", 0, 1)
    bench.pass_time(20_000)
    bench.join("c", "t")
    reply = bench.send("a", 1, owned=bench.owns("t", 0, 1))
    assert (reply.member_epoch, reply.assignment) == (2, bench.owns("t", 0))
    a = bench.group.members["a"]
    assert (a.state, a.previous_epoch) == (MemberState.UNREVOKED_PARTITIONS, 1)
    assert a.revoke_deadline_ms == bench.now_ms + REBALANCE_MS
    bench.send("b", 2)
    assert bench.group.members["b"].member_epoch == 3
    reply = bench.send("a", 2, owned=bench.owns("t", 0))
    assert (reply.member_epoch, a.state) == (3, MemberState.STABLE)
    bench.settle("a", "b", "c")


def test_what_is_asked_back_comes_back() -> None:
    """A member that was to give up a partition is to have it again, before it gave it up."""
    bench = Bench(t=2)
    bench.join("a", "t")
    bench.join("b", "t")
    bench.send("a", 1)
    bench.send("b", -1)
    reply = bench.send("a", 1, owned=bench.owns("t", 0, 1))
    assert (reply.member_epoch, reply.assignment) == (1, None), "it has not given it up yet"
    reply = bench.send("a", 1, owned=bench.owns("t", 0))
    assert (reply.member_epoch, reply.assignment) == (3, bench.owns("t", 0, 1))


# --- answers that get lost ------------------------------------------------------------------------


def test_a_lost_answer_is_asked_for_with_the_previous_epoch() -> None:
    """GMM.throwIfConsumerGroupMemberEpochIsInvalid; a full request is told the assignment."""
    bench = Bench(t=2)
    bench.join("a", "t")
    bench.join("b", "t")
    bench.send("b", -1)
    lost = bench.send("a", 1, owned=bench.owns("t", 0, 1))
    assert lost.member_epoch == 3
    reply = bench.send("a", 1, owned=bench.owns("t", 0, 1))
    assert (reply.error, reply.member_epoch, reply.assignment) == (E.NONE, 3, None)
    reply = bench.send(
        "a",
        1,
        rebalance_timeout_ms=REBALANCE_MS,
        subscribed_topics=("t",),
        owned=bench.owns("t", 0),
    )
    assert (reply.member_epoch, reply.assignment) == (3, bench.owns("t", 0, 1))
    assert bench.send("a", 1, owned=None).error is E.FENCED_MEMBER_EPOCH


@pytest.mark.parametrize(
    ("left_out", "tells"),
    [
        ((), True),
        (("rebalance_timeout_ms",), False),
        (("subscribed_topics",), False),
        (("owned",), False),
    ],
)
def test_only_a_full_request_is_told_what_has_not_changed(
    left_out: tuple[str, ...], tells: bool
) -> None:
    """GMM.consumerGroupHeartbeat."""
    bench = Bench(t=1)
    bench.join("a", "t")
    full: dict[str, Any] = {
        "rebalance_timeout_ms": REBALANCE_MS,
        "subscribed_topics": ("t",),
        "owned": bench.owns("t", 0),
    }
    reply = bench.send("a", 1, **{k: v for k, v in full.items() if k not in left_out})
    assert (reply.assignment is not None) == tells


# --- timeouts -------------------------------------------------------------------------------------


def test_a_silent_member_is_removed_when_its_session_is_over() -> None:
    """GMM.scheduleConsumerGroupSessionTimeout: from the last heartbeat that was accepted."""
    bench = Bench(t=2)
    bench.join("a", "t")
    bench.pass_time(SESSION_MS - 1)
    assert bench.send("a", 1).error is E.NONE
    bench.pass_time(SESSION_MS - 1)
    assert bench.send("a", 9).error is E.FENCED_MEMBER_EPOCH
    assert "a" in bench.group.members
    assert "-MemberMetadata" in kinds(bench.pass_time(1))
    assert (bench.group.state_name, bench.group.epoch) == ("Empty", 2)
    assert bench.group.empty_since_ms == bench.now_ms
    assert bench.send("a", 1).error is E.UNKNOWN_MEMBER_ID
    assert bench.group.wake_ms is None


def test_who_does_not_give_up_in_time_is_removed() -> None:
    """GMM.scheduleConsumerGroupRebalanceTimeout: heartbeats alone do not help."""
    bench = Bench(t=2)
    bench.join("a", "t")
    bench.join("b", "t")
    bench.send("a", 1)
    for _ in range(3):
        bench.pass_time(REBALANCE_MS // 3 - 1)
        assert bench.send("a", 1, owned=bench.owns("t", 0, 1)).error is E.NONE
        bench.send("b", 2)
    bench.pass_time(3)
    assert list(bench.group.members) == ["b"]
    reply = bench.send("b", 2, owned=NOTHING)
    assert (reply.member_epoch, reply.assignment) == (3, bench.owns("t", 0, 1))


def test_who_gives_up_in_time_stays() -> None:
    bench = Bench(t=2)
    bench.join("a", "t")
    bench.join("b", "t")
    bench.send("a", 1)
    bench.pass_time(30_000)
    bench.send("b", 2)
    bench.send("a", 1, owned=bench.owns("t", 0))
    for _ in range(4):
        bench.pass_time(30_000)
        bench.send("a", 2)
        bench.send("b", 2)
    assert list(bench.group.members) == ["a", "b"]


def test_timeouts_start_anew_with_another_coordinator() -> None:
    """GMM.onLoaded: sessions, and the rebalance timeouts of those who have to give something up."""
    bench = Bench(t=2)
    bench.join("a", "t")
    bench.join("b", "t")
    bench.send("a", 1)
    bench.pass_time(SESSION_MS - 1)
    group = bench.group = bench.reload()
    assert group.wake_ms == bench.now_ms + SESSION_MS
    assert group.members["a"].revoke_deadline_ms == bench.now_ms + REBALANCE_MS
    assert group.members["b"].revoke_deadline_ms is None
    bench.pass_time(SESSION_MS - 1)
    assert bench.send("a", 1).error is E.NONE
    bench.pass_time(1)
    assert list(group.members) == ["a"]


# --- static members -------------------------------------------------------------------------------


def static_pair() -> Bench:
    bench = Bench(t=2)
    bench.join("a", "t", instance_id="i")
    bench.join("b", "t")
    bench.settle("a", "b")
    return bench


def test_a_static_member_that_comes_back_gets_what_it_had() -> None:
    """GMM.consumerGroupStaticMemberGroupLeave, replaceMember: no rebalance."""
    bench = static_pair()
    reply = bench.send("a", -2, instance_id="i")
    assert (reply.error, reply.member_id, reply.member_epoch) == (E.NONE, "a", -2)
    assert bench.group.epoch == 2
    assert bench.group.members["a"].member_epoch == -2
    bench.group = bench.reload()
    assert bench.send("b", 2).assignment is None, "nobody else gets what it had"
    assert bench.send("a", 2, instance_id="i").error is E.FENCED_MEMBER_EPOCH
    reply = bench.join("a2", "t", instance_id="i")
    assert (reply.member_id, reply.member_epoch) == ("a2", 2)
    assert reply.assignment == bench.owns("t", 0)
    assert (bench.group.epoch, bench.group.state_name) == (2, "Stable")
    assert sorted(bench.group.members) == ["a2", "b"]
    assert seen(bench.reload()) == seen(bench.group)
    reply = bench.send("a", 2, instance_id="i")
    assert reply.error is E.FENCED_INSTANCE_ID


def test_a_static_member_may_come_back_under_its_old_id() -> None:
    bench = static_pair()
    bench.send("a", -2, instance_id="i")
    reply = bench.join("a", "t", instance_id="i")
    assert (reply.member_epoch, reply.assignment) == (2, bench.owns("t", 0))
    assert seen(bench.reload()) == seen(bench.group)


def test_a_static_member_that_stays_away_is_removed() -> None:
    """The session goes on from its last heartbeat."""
    bench = static_pair()
    bench.send("a", -2, instance_id="i")
    bench.pass_time(SESSION_MS - 1)
    bench.send("b", 2)
    assert "a" in bench.group.members
    bench.pass_time(1)
    assert list(bench.group.members) == ["b"]
    assert bench.join("a2", "t", instance_id="i").error is E.NONE


def test_a_static_member_that_leaves_for_good() -> None:
    bench = static_pair()
    assert bench.send("a", -1, instance_id="i").error is E.NONE
    assert (bench.group.epoch, list(bench.group.members)) == (3, ["b"])
    assert bench.send("b", 2, owned=bench.owns("t", 1)).assignment == bench.owns("t", 0, 1)


def test_what_a_static_leaver_had_to_give_up_is_free() -> None:
    """GMM.consumerGroupStaticMemberGroupLeave: nothing is pending any more."""
    bench = Bench(t=2)
    bench.join("a", "t", instance_id="i")
    bench.join("b", "t")
    bench.send("a", 1, instance_id="i")
    assert bench.send("b", 2).assignment is None
    bench.send("a", -2, instance_id="i")
    assert bench.send("b", 2).assignment == bench.owns("t", 1)
    reply = bench.join("a2", "t", instance_id="i")
    assert (reply.member_epoch, reply.assignment) == (2, bench.owns("t", 0))


def test_a_static_member_takes_the_id_of_another_member() -> None:
    """It is one process now: the other member is gone, and what it had is assigned anew."""
    bench = static_pair()
    bench.send("a", -2, instance_id="i")
    reply = bench.join("b", "t", instance_id="i")
    assert (reply.error, list(bench.group.members)) == (E.NONE, ["b"])
    assert reply.assignment == bench.owns("t", 0, 1)
    assert seen(bench.reload()) == seen(bench.group)


def test_a_member_that_becomes_static() -> None:
    bench = Bench(t=1)
    bench.join("a", "t")
    bench.join("a", "t", instance_id="i")
    assert bench.group.members["a"].instance_id == "i"
    assert bench.join("b", "t", instance_id="i").error is E.UNRELEASED_INSTANCE_ID
    assert seen(bench.reload()) == seen(bench.group)


# --- topics and subscriptions ---------------------------------------------------------------------


def test_topics_appear_grow_and_vanish() -> None:
    """GMM.consumerGroupHeartbeat: another metadata hash raises the epoch."""
    bench = Bench()
    assert bench.join("a", "t").assignment == NOTHING
    t = bench.ids["t"] = set_topic(bench.state, "t", 1)
    reply = bench.send("a", 1, owned=NOTHING)
    assert (reply.member_epoch, reply.assignment) == (2, bench.owns("t", 0))
    set_topic(bench.state, "t", 3)
    reply = bench.send("a", 2, owned=bench.owns("t", 0))
    assert (reply.member_epoch, reply.assignment) == (3, bench.owns("t", 0, 1, 2))
    set_topic(bench.state, "other", 3)
    assert bench.send("a", 3).member_epoch == 3, "nobody subscribes to it"
    set_topic(bench.state, "t", 0)
    reply = bench.send("a", 3)
    assert (reply.member_epoch, reply.assignment) == (3, NOTHING)
    reply = bench.send("a", 3, owned=NOTHING)
    assert (reply.member_epoch, reply.assignment) == (4, None)
    assert bench.group.state_name == "Stable"
    assert t not in bench.group.members["a"].assigned


def test_a_topic_that_is_created_again_is_another_one() -> None:
    bench = Bench(t=1)
    old = bench.owns("t", 0)
    bench.join("a", "t")
    set_topic(bench.state, "t", 0)
    set_topic(bench.state, "t", 1, b"n" * 16)
    reply = bench.send("a", 1, owned=old)
    assert (reply.member_epoch, reply.assignment) == (1, NOTHING)
    reply = bench.send("a", 1, owned=NOTHING)
    assert (reply.member_epoch, reply.assignment) == (2, ((b"n" * 16, (0,)),))


def test_another_coordinator_sees_what_has_changed_meanwhile() -> None:
    bench = Bench(t=1)
    bench.join("a", "t")
    bench.group = bench.reload()
    bench.state.revision += 1
    assert bench.send("a", 1).member_epoch == 1, "the recorded hash is that of the topics"
    set_topic(bench.state, "t", 2)
    bench.group = bench.reload()
    reply = bench.send("a", 1, owned=bench.owns("t", 0))
    assert (reply.member_epoch, reply.assignment) == (2, bench.owns("t", 0, 1))


def test_a_member_that_leaves_does_not_look_like_a_change_of_topics_later() -> None:
    """GMM.consumerGroupFenceMember: the hash is that of the members who stay."""
    bench = Bench(t=1, u=1)
    bench.join("a", "t")
    bench.join("b", "u")
    bench.settle("a", "b")
    bench.send("b", -1)
    bench.settle("a")
    epoch = bench.group.epoch
    set_topic(bench.state, "other", 1)
    bench.send("a", epoch)
    assert bench.group.epoch == epoch


def test_a_changed_subscription_raises_the_epoch() -> None:
    """GMM.hasMemberSubscriptionChanged; the same again in another order does not."""
    bench = Bench(t=1, u=1)
    bench.join("a", "t", "u")
    assert bench.send("a", 1, subscribed_topics=("u", "t")).member_epoch == 1
    reply = bench.send("a", 1, subscribed_topics=("u",), owned=bench.owns("u", 0))
    assert (reply.member_epoch, reply.assignment) == (2, bench.owns("u", 0))
    assert bench.group.subscribed_topics == {"u"}
    reply = bench.send("a", 2, subscribed_topics=(), owned=bench.owns("u", 0))
    assert reply.assignment == NOTHING
    assert bench.send("a", 2, owned=NOTHING).member_epoch == 3


def test_other_settings_of_a_member_do_not_raise_the_epoch() -> None:
    bench = Bench(t=1)
    bench.join("a", "t")
    changes: dict[str, Any] = {
        "rack_id": "r",
        "rebalance_timeout_ms": 7,
        "server_assignor": "range",
        "client_id": "c",
        "client_host": "/h",
    }
    assert bench.send("a", 1, **changes).member_epoch == 1
    key = group_records.ConsumerGroupMemberMetadataKey("g", "a")
    _, value = bench.log[group_records.encode_key(key)]
    assert isinstance(value, group_records.ConsumerGroupMemberMetadataValue)
    assert (value.rack_id, value.rebalance_timeout_ms) == ("r", 7)
    assert (value.server_assignor, value.client_id) == ("range", "c")
    assert bench.group.assignor == "range"


def test_patterns() -> None:
    """GMM.maybeUpdateRegularExpressions, CG: whole names, no internal topics, names as well."""
    bench = Bench(ab=1, abc=1, x=1, __consumer_offsets=1)
    reply = bench.join("a", subscribed_topics=None, subscribed_regex="ab.?|_.*")
    assert reply.assignment == tuple(sorted(bench.owns("ab", 0) + bench.owns("abc", 0)))
    assert bench.group.subscribed_topics == {"ab", "abc"}
    bench.ids["abd"] = set_topic(bench.state, "abd", 1)
    owned = reply.assignment
    reply = bench.send("a", 1, owned=owned)
    assert reply.assignment == tuple(sorted((*owned, *bench.owns("abd", 0))))
    owned = reply.assignment
    reply = bench.send("a", 2, subscribed_topics=("x",), owned=owned)
    assert reply.assignment == tuple(sorted((*owned, *bench.owns("x", 0))))
    reply = bench.send("a", 3, subscribed_regex="", owned=bench.owns("x", 0))
    assert reply.assignment == bench.owns("x", 0)
    assert bench.group.members["a"].subscribed_regex is None


def test_most_members_choose_the_assignor() -> None:
    """CG.computePreferredServerAssignor."""
    bench = Bench(t=1)
    bench.join("a", "t")
    assert bench.group.assignor == "uniform"
    bench.join("b", "t", server_assignor="range")
    assert bench.group.assignor == "range"
    bench.join("c", "t", server_assignor="uniform")
    bench.join("d", "t", server_assignor="uniform")
    assert bench.group.assignor == "uniform"


# --- the log --------------------------------------------------------------------------------------


def test_every_prefix_of_the_log_is_a_group() -> None:
    """Another coordinator goes on from any batch that is durable."""
    bench = Bench(t=4, u=3)
    steps: list[tuple[str, int, dict[str, Any]]] = [
        ("b", -1, {}),
        ("s", -2, {"instance_id": "i"}),
    ]
    bench.join("a", "t")
    for name, changes in (("b", {}), ("s", {"instance_id": "i"})):
        bench.join(name, "t", "u", **changes)
        assert seen(bench.reload()) == seen(bench.group)
    for name in ("a", "b", "s", "a", "b", "s"):
        member = bench.group.members[name]
        owned = tuple((t, tuple(sorted(p))) for t, p in member.assigned.items())
        bench.send(name, member.member_epoch, owned=owned)
        assert seen(bench.reload()) == seen(bench.group)
    for name, epoch, changes in steps:
        bench.send(name, epoch, **changes)
        assert seen(bench.reload()) == seen(bench.group)
    bench.pass_time(2 * SESSION_MS)
    assert bench.group.is_empty
    assert seen(bench.reload()) == seen(bench.group)
    bench.write(bench.group.tombstones())
    assert not bench.log
    assert bench.group.state_name == "Dead"


def test_the_history_tells_who_joined_and_what_moved() -> None:
    bench = Bench(ConsumerSettings(session_timeout_ms=SESSION_MS), t=2)
    bench.join("a", "t", client_id="c")
    bench.join("b", "t")
    bench.settle("a", "b")
    bench.pass_time(SESSION_MS)
    told = [event.kind for event in bench.group.timeline.events()]
    assert told.count(EventKind.JOINED) == 2
    assert told.count(EventKind.MISSED_HEARTBEAT) == 2
    stable = [event for event in bench.group.timeline.events() if event.kind is EventKind.STABLE]
    assert [event.moved_count for event in stable] == [2, 1]
