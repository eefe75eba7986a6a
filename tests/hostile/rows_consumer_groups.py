"""Rows: heartbeats of the consumer protocol (KIP-848) that are not what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    TopicPartitions,
)
from tests.hostile.rows_data import UNKNOWN_ID
from tests.hostile.rows_groups import ERROR, Who, consumer, outsider, row
from tests.hostile.table import Row, answer
from tests.hostile.target import SESSION_MS, Member, Target

_SERVICE = "GroupCoordinatorService of Apache Kafka"
_MANAGER = "GroupMetadataManager of Apache Kafka"
_CONSUMER = "ConsumerGroup of Apache Kafka"


def beat(target: Target, who: Member, **changes: Any) -> ConsumerGroupHeartbeatRequest:
    """A heartbeat of a member that lives, but for what is changed."""
    request = ConsumerGroupHeartbeatRequest(who.group, who.member_id, who.generation)
    return replace(request, **changes)


def join_consumer(target: Target, who: Member, **changes: Any) -> ConsumerGroupHeartbeatRequest:
    """A join, but for what is changed."""
    request = ConsumerGroupHeartbeatRequest(
        who.group,
        who.member_id,
        0,
        None,
        None,
        SESSION_MS,
        [target.topic.name],
        None,
        None,
        [],
    )
    return replace(request, **changes)


def _beats(
    name: str, build: Callable[..., Any], who: Who, error: ErrorCode, source: str, **changes: Any
) -> Row:
    return row(
        f"ConsumerGroupHeartbeat {name}",
        lambda target: build(target, who(target), **changes),
        1,
        answer(ERROR, error),
        source,
    )


def _new_consumer(target: Target) -> Member:
    return Member(target.new_group(), "new", 0)


_INVALID = ErrorCode.INVALID_REQUEST
ROWS: list[Row] = [
    _beats("without a member id", join_consumer, _new_consumer, _INVALID, _SERVICE, member_id=""),
    _beats("without a group id", join_consumer, _new_consumer, _INVALID, _SERVICE, group_id=""),
    _beats(
        "with an empty instance id",
        join_consumer,
        _new_consumer,
        _INVALID,
        _SERVICE,
        instance_id="",
    ),
    _beats("with an empty rack", join_consumer, _new_consumer, _INVALID, _SERVICE, rack_id=""),
    _beats(
        "that joins without a rebalance timeout",
        join_consumer,
        _new_consumer,
        _INVALID,
        _SERVICE,
        rebalance_timeout_ms=-1,
    ),
    _beats(
        "that joins with partitions",
        join_consumer,
        _new_consumer,
        _INVALID,
        _SERVICE,
        topic_partitions=[TopicPartitions(UNKNOWN_ID, [0])],
    ),
    _beats(
        "that joins without a subscription",
        join_consumer,
        _new_consumer,
        _INVALID,
        _SERVICE,
        subscribed_topic_names=None,
    ),
    _beats("of epoch -3", beat, consumer, _INVALID, _SERVICE, member_epoch=-3),
    _beats(
        "of a static leave without an instance id",
        beat,
        consumer,
        _INVALID,
        _SERVICE,
        member_epoch=-2,
    ),
    _beats(
        "with an assignor that there is not",
        join_consumer,
        _new_consumer,
        ErrorCode.UNSUPPORTED_ASSIGNOR,
        _SERVICE,
        server_assignor="of its own",
    ),
    _beats(
        "with a pattern that is none",
        join_consumer,
        _new_consumer,
        ErrorCode.INVALID_REGULAR_EXPRESSION,
        _MANAGER,
        subscribed_topic_regex="a(",
    ),
    _beats("in a group that is not there", beat, outsider, ErrorCode.GROUP_ID_NOT_FOUND, _MANAGER),
    _beats(
        "by a stranger", beat, consumer, ErrorCode.UNKNOWN_MEMBER_ID, _CONSUMER, member_id="nobody"
    ),
    _beats(
        "by a stranger with an id of 32,767 bytes",
        beat,
        consumer,
        ErrorCode.UNKNOWN_MEMBER_ID,
        _CONSUMER,
        member_id="x" * 32_767,
    ),
    _beats(
        "of an epoch to come",
        beat,
        consumer,
        ErrorCode.FENCED_MEMBER_EPOCH,
        _MANAGER,
        member_epoch=99,
    ),
    _beats(
        "that joins under another's instance id",
        join_consumer,
        lambda target: target.join_consumer("instance")._replace(member_id="another"),
        ErrorCode.UNRELEASED_INSTANCE_ID,
        _MANAGER,
        instance_id="instance",
    ),
    _beats(
        "under another's instance id",
        beat,
        lambda target: target.join_consumer("instance")._replace(member_id="another"),
        ErrorCode.FENCED_INSTANCE_ID,
        _MANAGER,
        instance_id="instance",
    ),
    _beats(
        "under an instance id that nobody has",
        beat,
        consumer,
        ErrorCode.UNKNOWN_MEMBER_ID,
        _MANAGER,
        instance_id="nobody's",
    ),
]
