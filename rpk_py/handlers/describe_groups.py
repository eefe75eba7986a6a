"""DescribeGroups (key 15), versions 0-6: members and assignments of classic groups.

v1  throttle_time_ms      v3  authorized operations      v4  static members
v5  flexible              v6  error messages (KIP-1043)

Behaviour:  a group that does not exist, or is one of the consumer protocol, is "Dead" without an
            error up to v5 and GROUP_ID_NOT_FOUND from v6 on. Assignments are told of a stable
            group.
Deviations: none known.
Source:     GroupCoordinatorService.describeGroups of Apache Kafka 4.1.
"""

from __future__ import annotations

from collections.abc import Generator

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.describe_groups import (
    DescribedGroup,
    DescribedGroupMember,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
)
from rpk_py.cluster_view import GROUP_OPERATIONS
from rpk_py.context import RequestContext
from rpk_py.groups import classic_view
from rpk_py.groups.group import Group
from rpk_py.turns import Large


def handle(ctx: RequestContext, request: DescribeGroupsRequest) -> DescribeGroupsResponse | Large:
    """Answer from the groups of this shard."""
    count = len(request.groups)
    for group_id in request.groups:
        group = ctx.broker.groups.find(group_id)
        if isinstance(group, Group) and group.classic is not None:
            count += len(group.classic.core.members)
    return ctx.broker.turns.reply(_answer(ctx, request), count)


def _answer(
    ctx: RequestContext, request: DescribeGroupsRequest
) -> Generator[None, None, DescribeGroupsResponse]:
    response = DescribeGroupsResponse()
    for group_id in request.groups:
        told = _describe(ctx, group_id)
        if request.include_authorized_operations and not told.error_code:
            told.authorized_operations = GROUP_OPERATIONS
        response.groups.append(told)
        yield
    return response


def _describe(ctx: RequestContext, group_id: str) -> DescribedGroup:
    group = ctx.broker.groups.find(group_id)
    if isinstance(group, Group) and group.classic is not None:
        view = classic_view.described(group.classic.core)
    elif isinstance(group, Group) or group is ErrorCode.GROUP_ID_NOT_FOUND:
        view = classic_view.described_missing(group_id, ctx.api_version)
    else:
        view = classic_view.DescribedGroup(group, None, group_id, "")
    members = [
        DescribedGroupMember(
            each.member_id,
            each.instance_id,
            each.client_id,
            each.client_host,
            each.metadata,
            each.assignment,
        )
        for each in view.members
    ]
    return DescribedGroup(
        view.error,
        view.error_message,
        view.group_id,
        view.state,
        view.protocol_type,
        view.protocol_name,
        members,
    )
