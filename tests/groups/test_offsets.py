"""Committed offsets: what is committed, what expires, what is dropped (OffsetMetadataManager)."""

from __future__ import annotations

import pytest

from kafka_protocol.errors import ErrorCode as E
from rpk_py.groups.classic_core import GroupCore
from rpk_py.groups.classic_values import GroupSettings, GroupState
from rpk_py.groups.offsets import (
    CommittedOffset,
    OffsetRecord,
    Offsets,
    OffsetToCommit,
    missing_group_error,
)

RETENTION_MS = 1_000
SETTINGS = GroupSettings(lambda _: None, lambda _: None)


def _group(
    state: GroupState = GroupState.EMPTY,
    protocol_type: str | None = "consumer",
    topics: frozenset[str] | None = frozenset(),
) -> GroupCore:
    group = GroupCore("g", SETTINGS, 0)
    group.state, group.protocol_type, group.subscribed_topics = state, protocol_type, topics
    return group


def _committed(*topics: str, commit_ms: int = 0, expire_ms: int = -1) -> Offsets:
    offsets = Offsets()
    for topic in topics:
        value = CommittedOffset(5, 1, "m", commit_ms, expire_ms)
        offsets.replay(OffsetRecord(topic, 0, value))
    return offsets


def test_commit_is_seen_when_it_is_durable() -> None:
    offsets = Offsets()
    errors, records = offsets.plan_commit([OffsetToCommit("t", 0, 7, 3, "m")], 10)
    assert errors == [E.NONE]
    assert offsets.fetch("t", 0) is None
    offsets.written(records, E.NONE)
    assert offsets.fetch("t", 0) == CommittedOffset(7, 3, "m", 10)


def test_commit_that_failed_leaves_the_offset_before_it() -> None:
    offsets = _committed("t")
    _, records = offsets.plan_commit([OffsetToCommit("t", 0, 7)], 10)
    offsets.written(records, E.NOT_LEADER_OR_FOLLOWER)
    assert offsets.fetch("t", 0) == CommittedOffset(5, 1, "m", 0)


def test_metadata_is_bounded_for_each_partition() -> None:
    commits = [OffsetToCommit("t", 0, 7, -1, "x" * 4097), OffsetToCommit("t", 1, 7, -1, "x" * 4096)]
    errors, records = Offsets().plan_commit(commits, 10)
    assert errors == [E.OFFSET_METADATA_TOO_LARGE, E.NONE]
    assert [record.partition_index for record in records] == [1]


@pytest.mark.parametrize(
    ("generation", "version", "error"),
    [
        (-1, 9, E.NONE),
        (-1, 2, E.NONE),
        (3, 8, E.ILLEGAL_GENERATION),
        (3, 9, E.GROUP_ID_NOT_FOUND),
    ],
)
def test_commit_to_a_missing_group(generation: int, version: int, error: E) -> None:
    assert missing_group_error(generation, version) is error


@pytest.mark.parametrize(
    ("group", "commit_ms", "expire_ms", "now_ms", "expired"),
    [
        # ClassicGroup.offsetExpirationCondition, OffsetExpirationConditionImpl (KIP-211)
        (_group(), 0, -1, 999, False),
        (_group(), 0, -1, 1_000, True),
        (_group(), -5_000, -1, 999, False),  # since it became empty, not since the commit
        (_group(), 0, 5_000, 4_999, False),  # a retention of the commit's own
        (_group(), 0, 5_000, 5_000, True),
        (_group(protocol_type=None), 500, -1, 1_499, False),  # simple: since the commit
        (_group(protocol_type=None), 500, -1, 1_500, True),
        (_group(GroupState.STABLE, topics=frozenset({"t"})), 0, -1, 9_999, False),
        (_group(GroupState.STABLE, topics=frozenset({"u"})), 0, -1, 1_000, True),
        (_group(GroupState.STABLE, topics=None), 0, -1, 9_999, False),
        (_group(GroupState.PREPARING_REBALANCE), 0, -1, 9_999, False),
        (_group(GroupState.STABLE, "connect", None), 0, -1, 9_999, False),
    ],
)
def test_expiry(
    group: GroupCore, commit_ms: int, expire_ms: int, now_ms: int, expired: bool
) -> None:
    offsets = _committed("t", commit_ms=commit_ms, expire_ms=expire_ms)
    records = offsets.plan_expired(group, now_ms, RETENTION_MS)
    assert bool(records) is expired
    if expired:
        offsets.written(records, E.NONE)
        assert offsets.is_empty


def test_nothing_expires_under_a_commit_that_is_on_its_way() -> None:
    offsets = _committed("t")
    _, records = offsets.plan_commit([OffsetToCommit("t", 0, 7)], 10)
    assert offsets.plan_expired(_group(), 9_999, RETENTION_MS) == ()
    offsets.written(records, E.NONE)
    assert offsets.fetch("t", 0) == CommittedOffset(7, -1, "", 10)


def test_offsets_of_deleted_topics_go_even_if_they_are_just_being_committed() -> None:
    offsets = _committed("t", "u")
    _, commit = offsets.plan_commit([OffsetToCommit("t", 3, 7)], 10)
    dropped = offsets.plan_topics_deleted({"t"})
    offsets.written(commit, E.NONE)
    offsets.written(dropped, E.NONE)
    assert [(topic, index) for topic, index, _ in offsets.all()] == [("u", 0)]


@pytest.mark.parametrize(
    ("group", "error", "partition_error"),
    [
        # ClassicGroup.validateOffsetDelete and OffsetMetadataManager.deleteOffsets
        (_group(), E.NONE, E.NONE),
        (_group(GroupState.STABLE, topics=frozenset({"t"})), E.NONE, E.GROUP_SUBSCRIBED_TO_TOPIC),
        (_group(GroupState.STABLE, topics=frozenset({"u"})), E.NONE, E.NONE),
        (_group(GroupState.STABLE, topics=None), E.NONE, E.GROUP_SUBSCRIBED_TO_TOPIC),
        (_group(GroupState.STABLE, "connect", None), E.NON_EMPTY_GROUP, None),
        (_group(GroupState.DEAD), E.GROUP_ID_NOT_FOUND, None),
    ],
)
def test_offset_delete(group: GroupCore, error: E, partition_error: E | None) -> None:
    offsets = _committed("t")
    got, errors, records = offsets.plan_delete(group, [("t", 0), ("t", 9)])
    assert got is error
    assert errors == ([] if partition_error is None else [partition_error] * 2)
    assert len(records) == (partition_error is E.NONE)  # a tombstone only where there is an offset
