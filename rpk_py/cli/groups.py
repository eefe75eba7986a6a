"""Consumer groups as the command line asks for them: coordinators found, answers in one form.

Which process: the operator's. Works with any version of the group APIs, so with Apache Kafka too.
A group's coordinator may be loading or may move: such answers are asked for again, for as long as
the client's timeout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kafka_protocol.errors import DecodeError, ErrorCode
from kafka_protocol.group_records import decode_assignment
from kafka_protocol.messages.consumer_group_describe import ConsumerGroupDescribeRequest
from kafka_protocol.messages.describe_groups import DescribeGroupsRequest
from kafka_protocol.messages.find_coordinator import FindCoordinatorRequest
from kafka_protocol.messages.list_groups import ListGroupsRequest
from kafka_protocol.messages.offset_fetch import OffsetFetchRequest, OffsetFetchRequestGroup
from rpk_py.cli.client import Client, NotServed, TopicPartition, refused
from rpk_py.cli.client import Deadline as Pauses

COORDINATOR_MOVES = frozenset(
    {
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR,
    }
)
BY_NAME = 9  # the last version of OffsetFetch and OffsetCommit that names topics


@dataclass(slots=True)
class GroupMember:
    """One member; its partitions as far as they can be read."""

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    partitions: list[TopicPartition] = field(default_factory=list)


@dataclass(slots=True)
class GroupInfo:
    """One group. `assignor` is the classic protocol's, or the server's; epoch -1: not told."""

    group: str
    coordinator: int
    kind: str
    state: str
    assignor: str = ""
    epoch: int = -1
    members: list[GroupMember] = field(default_factory=list)


async def find(client: Client, group: str) -> int:
    """The node that coordinates a group. Raises Refused."""
    pauses = Pauses(client.timeout_s)
    while True:
        answer = await client.ask(FindCoordinatorRequest(group, 0, [group]))
        found = answer.coordinators[0] if answer.coordinators else answer
        if found.error_code == ErrorCode.NONE:
            client.nodes.setdefault(found.node_id, (found.host, found.port))
            return int(found.node_id)
        if found.error_code not in COORDINATOR_MOVES or not await pauses.pause():
            raise refused(f"coordinator of group {group}", found.error_code, found.error_message)


async def ask(
    client: Client,
    group: str,
    request: Any,
    codes_of: Callable[[Any], Iterable[int]],
    version_max: int | None = None,
) -> tuple[int, Any]:
    """Ask a group's coordinator: (its node, the answer); again where it is not that any more."""
    pauses = Pauses(client.timeout_s)
    while True:
        node_id = await find(client, group)
        answer = await client.ask(request, node_id=node_id, version_max=version_max)
        moved = [code for code in codes_of(answer) if code in COORDINATOR_MOVES]
        if not moved:
            return node_id, answer
        if not await pauses.pause():
            raise refused(f"group {group}", moved[0])


async def describe(client: Client, group: str) -> GroupInfo | None:
    """A group of either protocol; None if there is none."""
    found = await _describe_consumer(client, group)
    return found if found is not None else await _describe_classic(client, group)


async def _describe_consumer(client: Client, group: str) -> GroupInfo | None:
    request = ConsumerGroupDescribeRequest([group])
    try:
        node_id, answer = await ask(
            client, group, request, lambda a: (each.error_code for each in a.groups)
        )
    except NotServed:
        return None
    (told,) = answer.groups
    if told.error_code in (ErrorCode.GROUP_ID_NOT_FOUND, ErrorCode.UNSUPPORTED_VERSION):
        return None
    if told.error_code:
        raise refused(f"group {group}", told.error_code, told.error_message)
    members = [
        GroupMember(
            each.member_id,
            each.instance_id,
            each.client_id,
            each.client_host,
            [
                (topic.topic_name, index)
                for topic in each.assignment.topic_partitions
                for index in topic.partitions
            ],
        )
        for each in told.members
    ]
    return GroupInfo(
        group,
        node_id,
        "consumer",
        told.group_state,
        told.assignor_name,
        told.group_epoch,
        members,
    )


async def _describe_classic(client: Client, group: str) -> GroupInfo | None:
    node_id, answer = await ask(
        client,
        group,
        DescribeGroupsRequest([group]),
        lambda a: (each.error_code for each in a.groups),
    )
    (told,) = answer.groups
    if told.error_code == ErrorCode.GROUP_ID_NOT_FOUND or told.group_state == "Dead":
        return None
    if told.error_code:
        raise refused(f"group {group}", told.error_code, told.error_message)
    members = [
        GroupMember(
            each.member_id,
            each.group_instance_id,
            each.client_id,
            each.client_host,
            _assigned(bytes(each.member_assignment)),
        )
        for each in told.members
    ]
    return GroupInfo(
        group, node_id, "classic", told.group_state, told.protocol_data, members=members
    )


def _assigned(assignment: bytes) -> list[TopicPartition]:
    """What a classic consumer has; nothing where another kind of client wrote it."""
    if not assignment:
        return []
    try:
        topics = decode_assignment(assignment).assigned_partitions
    except DecodeError:
        return []
    return [(each.topic, index) for each in topics for index in each.partitions]


async def committed(client: Client, group: str) -> dict[TopicPartition, tuple[int, str]]:
    """(offset, metadata) of every partition that a group has committed."""
    request = OffsetFetchRequest(
        group, None, [OffsetFetchRequestGroup(group, None, -1, None)], False
    )

    def codes(answer: Any) -> list[int]:
        return [(answer.groups[0] if answer.groups else answer).error_code]

    _, answer = await ask(client, group, request, codes, BY_NAME)
    told = answer.groups[0] if answer.groups else answer
    if told.error_code:
        raise refused(f"offsets of group {group}", told.error_code)
    return {
        (topic.name, each.partition_index): (each.committed_offset, each.metadata or "")
        for topic in told.topics
        for each in topic.partitions
        if each.committed_offset >= 0
    }


async def listed(client: Client, states: Sequence[str]) -> list[tuple[int, Any]]:
    """(node, group) of all groups of all nodes, by name; a coordinator that loads is waited for."""
    await client.metadata([])
    found: list[tuple[int, Any]] = []
    for node_id in sorted(client.nodes):
        pauses = Pauses(client.timeout_s)
        while True:
            answer = await client.ask(ListGroupsRequest(list(states)), node_id=node_id)
            if answer.error_code == ErrorCode.NONE:
                break
            if answer.error_code not in COORDINATOR_MOVES or not await pauses.pause():
                raise refused(f"groups of node {node_id}", answer.error_code)
        found += [(node_id, each) for each in answer.groups]
    return sorted(found, key=lambda pair: pair[1].group_id)
