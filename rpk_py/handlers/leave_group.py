"""LeaveGroup (key 13), versions 0-5: members go; an administrator removes others.

v1  throttle_time_ms      v3  several members, by member id or instance id
v4  flexible              v5  reasons

Behaviour:  up to v2 the error is the one member's; from v3 on each has its own.
Deviations: none known.
Source:     GroupCoordinatorService.leaveGroup of Apache Kafka 4.1; KIP-345.
"""

from __future__ import annotations

from typing import Final

from kafka_protocol.messages.leave_group import (
    LeaveGroupRequest,
    LeaveGroupResponse,
    MemberResponse,
)
from rpk_py.context import RequestContext
from rpk_py.groups.classic_values import Leaver, LeaveReply
from rpk_py.pending import Pending, reply_of

_SEVERAL_SINCE: Final = 3


def handle(ctx: RequestContext, request: LeaveGroupRequest) -> LeaveGroupResponse | Pending:
    """Take the members out of the group."""
    several = ctx.api_version >= _SEVERAL_SINCE
    leavers = [Leaver(request.member_id)]
    if several:
        leavers = [
            Leaver(each.member_id, each.group_instance_id, each.reason or "")
            for each in request.members
        ]

    def response(reply: LeaveReply) -> LeaveGroupResponse:
        if not several:
            errors = [error for _, error in reply.members]
            return LeaveGroupResponse(error_code=reply.error or errors[0])
        members = [
            MemberResponse(leaver.member_id, leaver.instance_id, error)
            for leaver, error in reply.members
        ]
        return LeaveGroupResponse(error_code=reply.error, members=members)

    groups = ctx.broker.groups
    result: LeaveGroupResponse | Pending = reply_of(
        lambda answer: groups.leave(
            request.group_id, leavers, lambda reply: answer(response(reply))
        )
    )
    return result
