"""What a consumer group (KIP-848) refuses: a row an error, with its text and its source.

GMM is GroupMetadataManager of Apache Kafka 4.1, CG is ConsumerGroup.
"""

from __future__ import annotations

from typing import Any

import pytest

from kafka_protocol.errors import ErrorCode as E
from rpk_py.groups.classic_values import Leaver
from rpk_py.groups.consumer_values import ConsumerSettings
from tests.groups.consumer_bench import NOTHING, Bench

JOIN: dict[str, Any] = {
    "rebalance_timeout_ms": 60_000,
    "subscribed_topics": ("t",),
    "owned": NOTHING,
}
CHECKED = "GMM.throwIfConsumerGroupHeartbeatRequestIsInvalid"
EPOCH = "GMM.throwIfConsumerGroupMemberEpochIsInvalid"
STATIC = "GMM.getOrMaybeSubscribeStaticConsumerGroupMember"
LEAVES = "GMM.consumerGroupLeave"
FENCED = "The member must abandon all its partitions and rejoin."


def known_by(epoch: str, sent: int, is_at: int) -> str:
    return (
        f"The consumer group member has a {epoch} member epoch ({sent}) than the one known by the "
        f"group coordinator ({is_at}). {FENCED}"
    )


# (what, member id, epoch, the rest of the request, error, text, source). In the group: "d", a
# dynamic member at epoch 2 after 1, and "s", a static one with instance id "i" at epoch 2.
REFUSED: list[tuple[str, str, int, dict[str, Any], E, str, str]] = [
    ("no member id", "", 0, JOIN, E.INVALID_REQUEST, "MemberId can't be empty.", CHECKED),
    (
        "no member id in version 0",
        "",
        3,
        {"api_version": 0},
        E.INVALID_REQUEST,
        "MemberId can't be empty.",
        CHECKED,
    ),
    (
        "no member id that leaves in version 0",
        "",
        -1,
        {"api_version": 0},
        E.INVALID_REQUEST,
        "MemberId can't be empty.",
        CHECKED,
    ),
    (
        "an empty instance id",
        "n",
        0,
        JOIN | {"instance_id": ""},
        E.INVALID_REQUEST,
        "InstanceId can't be empty.",
        CHECKED,
    ),
    (
        "an empty rack",
        "n",
        0,
        JOIN | {"rack_id": ""},
        E.INVALID_REQUEST,
        "RackId can't be empty.",
        CHECKED,
    ),
    (
        "no rebalance timeout",
        "n",
        0,
        JOIN | {"rebalance_timeout_ms": -1},
        E.INVALID_REQUEST,
        "RebalanceTimeoutMs must be provided in first request.",
        CHECKED,
    ),
    (
        "joins and does not say what it has",
        "n",
        0,
        JOIN | {"owned": None},
        E.INVALID_REQUEST,
        "TopicPartitions must be empty when (re-)joining.",
        CHECKED,
    ),
    (
        "joins with partitions",
        "n",
        0,
        JOIN | {"owned": ((b"t" * 16, (0,)),)},
        E.INVALID_REQUEST,
        "TopicPartitions must be empty when (re-)joining.",
        CHECKED,
    ),
    (
        "subscribes to nothing at all",
        "n",
        0,
        JOIN | {"subscribed_topics": None},
        E.INVALID_REQUEST,
        "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
        CHECKED,
    ),
    (
        "leaves for a while, but is not static",
        "d",
        -2,
        {},
        E.INVALID_REQUEST,
        "InstanceId can't be null.",
        CHECKED,
    ),
    ("a strange epoch", "d", -3, {}, E.INVALID_REQUEST, "MemberEpoch is invalid.", CHECKED),
    (
        "an assignor that is not there",
        "n",
        0,
        JOIN | {"server_assignor": "sticky"},
        E.UNSUPPORTED_ASSIGNOR,
        "ServerAssignor sticky is not supported. Supported assignors: uniform, range.",
        CHECKED,
    ),
    (
        "an epoch that is not yet",
        "d",
        7,
        {},
        E.FENCED_MEMBER_EPOCH,
        known_by("greater", 7, 2),
        EPOCH,
    ),
    (
        "the previous epoch, without what it has",
        "d",
        1,
        {},
        E.FENCED_MEMBER_EPOCH,
        known_by("smaller", 1, 2),
        EPOCH,
    ),
    (
        "the previous epoch, with what it does not have",
        "d",
        1,
        {"owned": ((b"x" * 16, (0,)),)},
        E.FENCED_MEMBER_EPOCH,
        known_by("smaller", 1, 2),
        EPOCH,
    ),
    (
        "nobody",
        "n",
        1,
        {},
        E.UNKNOWN_MEMBER_ID,
        "Member n is not a member of group g.",
        "CG.getOrMaybeCreateMember",
    ),
    (
        "nobody leaves",
        "n",
        -1,
        {},
        E.UNKNOWN_MEMBER_ID,
        "Member n is not a member of group g.",
        LEAVES,
    ),
    (
        "an instance that nobody knows",
        "d",
        2,
        {"instance_id": "x"},
        E.UNKNOWN_MEMBER_ID,
        "Instance id x is unknown.",
        "GMM.throwIfStaticMemberIsUnknown",
    ),
    (
        "an instance that nobody knows leaves",
        "d",
        -1,
        {"instance_id": "x"},
        E.UNKNOWN_MEMBER_ID,
        "Instance id x is unknown.",
        LEAVES,
    ),
    (
        "the instance of another",
        "d",
        2,
        {"instance_id": "i"},
        E.FENCED_INSTANCE_ID,
        "Static member d with instance id i was fenced by member s.",
        "GMM.throwIfInstanceIdIsFenced",
    ),
    (
        "the instance of another leaves",
        "d",
        -2,
        {"instance_id": "i"},
        E.FENCED_INSTANCE_ID,
        "Static member d with instance id i was fenced by member s.",
        LEAVES,
    ),
    (
        "an instance id that is in use",
        "n",
        0,
        JOIN | {"instance_id": "i"},
        E.UNRELEASED_INSTANCE_ID,
        "Static member n with instance id i cannot join the group because the instance id is "
        "owned by s member.",
        "GMM.throwIfInstanceIdIsUnreleased",
    ),
]


@pytest.fixture
def bench() -> Bench:
    bench = Bench(t=2)
    bench.join("d", "t")
    bench.join("s", "t", instance_id="i")
    bench.settle("d", "s")
    assert [m.member_epoch for m in bench.group.members.values()] == [2, 2]
    return bench


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row[0])
def test_refused(bench: Bench, row: tuple[str, str, int, dict[str, Any], E, str, str]) -> None:
    _, member_id, epoch, changes, error, text, _ = row
    log, epoch_before = dict(bench.log), bench.group.epoch
    members = {m: bench.group.members[m].assignment_record() for m in bench.group.members}
    reply = bench.send(member_id, epoch, **changes)
    assert (reply.error, reply.error_message) == (error, text)
    assert reply.assignment is None
    assert bench.log == log, "nothing is written"
    assert bench.group.epoch == epoch_before
    assert {m: bench.group.members[m].assignment_record() for m in bench.group.members} == members


@pytest.mark.parametrize("pattern", ["(", "a**", "[z-a]", "a" * 1001])
def test_a_pattern_that_is_none(bench: Bench, pattern: str) -> None:
    """GMM.throwIfRegularExpressionIsInvalid."""
    changes = JOIN | {"subscribed_topics": None, "subscribed_regex": pattern}
    reply = bench.send("n", 0, **changes)
    assert reply.error is E.INVALID_REGULAR_EXPRESSION
    text = f"SubscribedTopicRegex `{pattern}` is not a valid regular expression: "
    assert (reply.error_message or "").startswith(text)
    assert "n" not in bench.group.members


def test_who_is_refused_leaves_no_pattern_behind(bench: Bench) -> None:
    """A client cannot fill the memory with patterns of members that there are not."""
    for index in range(5):
        pattern = f"a{index}"
        assert bench.send("n", 1, subscribed_regex=pattern).error is E.UNKNOWN_MEMBER_ID
        changes = JOIN | {"subscribed_regex": pattern, "instance_id": "i"}
        assert bench.send("n", 0, **changes).error is E.UNRELEASED_INSTANCE_ID
    assert not bench.group._patterns._compiled
    reply = bench.send("n", 1, subscribed_regex="(")
    assert reply.error is E.UNKNOWN_MEMBER_ID, "GMM: the member comes first"


def test_a_full_group_takes_no_more() -> None:
    """GMM.throwIfConsumerGroupIsFull: who is in it already may go on."""
    bench = Bench(ConsumerSettings(members_max=1), t=2)
    bench.join("a", "t")
    reply = bench.join("b", "t")
    assert reply.error is E.GROUP_MAX_SIZE_REACHED
    text = "The consumer group has reached its maximum capacity of 1 members."
    assert reply.error_message == text
    assert bench.send("a", 1).error is E.NONE
    assert bench.send("a", -1).error is E.NONE
    assert bench.join("b", "t").error is E.NONE


# (member id, instance id, error)
LEAVERS: list[tuple[str, str | None, E]] = [
    ("", "i", E.NONE),
    ("s", "i", E.NONE),
    ("d", None, E.NONE),
    ("s", None, E.NONE),
    ("d", "i", E.FENCED_INSTANCE_ID),
    ("", "x", E.UNKNOWN_MEMBER_ID),
    ("d", "x", E.UNKNOWN_MEMBER_ID),
    ("n", None, E.UNKNOWN_MEMBER_ID),
    ("", None, E.UNKNOWN_MEMBER_ID),
]


@pytest.mark.parametrize(("member_id", "instance_id", "error"), LEAVERS)
def test_an_administrator_removes_members(
    bench: Bench, member_id: str, instance_id: str | None, error: E
) -> None:
    """GMM.classicGroupLeaveToConsumerGroup, which 4.1 no longer keeps to classic members."""
    assert bench.leave(Leaver(member_id, instance_id)) == [error]
    assert len(bench.group.members) == (2 if error else 1)
    assert bench.group.epoch == (2 if error else 3)


def test_several_leave_with_one_epoch(bench: Bench) -> None:
    errors = bench.leave(Leaver("n"), Leaver("", "i"), Leaver("d"))
    assert errors == [E.UNKNOWN_MEMBER_ID, E.NONE, E.NONE]
    assert bench.group.epoch == 3
    assert bench.group.state_name == "Empty"


# (member id, epoch, version of OffsetCommit, error): CG.validateOffsetCommit
COMMITS: list[tuple[str, int, int, E]] = [
    ("d", 2, 9, E.NONE),
    ("d", 2, 10, E.NONE),
    ("d", 1, 9, E.STALE_MEMBER_EPOCH),
    ("d", 3, 9, E.STALE_MEMBER_EPOCH),
    ("d", -1, 9, E.STALE_MEMBER_EPOCH),
    ("d", 2, 8, E.UNSUPPORTED_VERSION),
    ("n", 2, 9, E.UNKNOWN_MEMBER_ID),
    ("n", 2, 8, E.UNKNOWN_MEMBER_ID),
    ("", -1, 9, E.UNKNOWN_MEMBER_ID),
]


@pytest.mark.parametrize(("member_id", "epoch", "version", "error"), COMMITS)
def test_commits(bench: Bench, member_id: str, epoch: int, version: int, error: E) -> None:
    got = bench.group.check_commit(member_id, None, epoch, version, bench.now_ms)
    assert got is error


def test_anybody_commits_to_an_empty_group_without_an_epoch() -> None:
    """CG.validateOffsetCommit: an administrator, or a consumer that assigns by itself."""
    bench = Bench(t=2)
    assert bench.group.check_commit("", None, -1, 8, bench.now_ms) is E.NONE
    assert bench.group.check_commit("", None, 0, 9, bench.now_ms) is E.UNKNOWN_MEMBER_ID


# (member id, epoch, error): CG.validateOffsetFetch
FETCHES: list[tuple[str | None, int, E]] = [
    (None, -1, E.NONE),
    ("d", 2, E.NONE),
    ("d", 1, E.STALE_MEMBER_EPOCH),
    ("d", -1, E.STALE_MEMBER_EPOCH),
    ("n", 2, E.UNKNOWN_MEMBER_ID),
    ("", -1, E.UNKNOWN_MEMBER_ID),
    (None, 2, E.UNKNOWN_MEMBER_ID),
]


@pytest.mark.parametrize(("member_id", "epoch", "error"), FETCHES)
def test_fetches(bench: Bench, member_id: str | None, epoch: int, error: E) -> None:
    assert bench.group.check_fetch(member_id, epoch) is error
