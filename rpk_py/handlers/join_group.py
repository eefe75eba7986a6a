"""JoinGroup (key 11), versions 0-9: become a member of a classic group, or begin a rebalance.

v1  rebalance timeout of its own      v4  a new member is given an id and asks again (KIP-394)
v2  throttle_time_ms                  v5  static members      v6  flexible
v7  protocol type in the answer       v8  a reason            v9  the leader may skip assigning

Behaviour:  the reply waits until all members are in, at most the rebalance timeout. Up to v3 a new
            member is taken in at once; v0's rebalance timeout is its session timeout.
Deviations: a request has at most 8 MiB (Kafka: 100 MiB). A consumer group (KIP-848) with members
            takes no classic ones: INCONSISTENT_GROUP_PROTOCOL. See rpk_py/groups/classic.py.
Source:     GroupCoordinatorService.joinGroup of Apache Kafka 4.1.
"""

from __future__ import annotations

from typing import Final

from kafka_protocol.messages.join_group import (
    JoinGroupRequest,
    JoinGroupResponse,
    JoinGroupResponseMember,
)
from rpk_py.context import RequestContext
from rpk_py.groups.classic_values import JoinReply, JoinRequest, Protocol
from rpk_py.pending import Pending, reply_of

_REBALANCE_TIMEOUT_SINCE: Final = 1
_MEMBER_ID_REQUIRED_SINCE: Final = 4
_NULL_PROTOCOL_SINCE: Final = 7
_SKIP_SINCE: Final = 9


def handle(ctx: RequestContext, request: JoinGroupRequest) -> JoinGroupResponse | Pending:
    """Join; the reply comes with the generation."""
    version = ctx.api_version
    has_timeout = version >= _REBALANCE_TIMEOUT_SINCE and request.rebalance_timeout_ms != -1
    joins = JoinRequest(
        member_id=request.member_id,
        protocol_type=request.protocol_type,
        protocols=tuple(Protocol(each.name, bytes(each.metadata)) for each in request.protocols),
        session_timeout_ms=request.session_timeout_ms,
        rebalance_timeout_ms=(
            request.rebalance_timeout_ms if has_timeout else request.session_timeout_ms
        ),
        instance_id=request.group_instance_id,
        client_id=ctx.client_id or "",
        client_host=ctx.client_host,
        reason=request.reason or "",
        requires_known_member_id=version >= _MEMBER_ID_REQUIRED_SINCE,
        supports_skipping_assignment=version >= _SKIP_SINCE,
    )
    nothing = None if version >= _NULL_PROTOCOL_SINCE else ""

    def response(reply: JoinReply) -> JoinGroupResponse:
        return JoinGroupResponse(
            error_code=reply.error,
            generation_id=reply.generation,
            protocol_type=reply.protocol_type,
            protocol_name=nothing if reply.protocol_name is None else reply.protocol_name,
            leader=reply.leader,
            skip_assignment=reply.skip_assignment,
            member_id=reply.member_id,
            members=[
                JoinGroupResponseMember(each.member_id, each.instance_id, each.metadata)
                for each in reply.members
            ],
        )

    groups = ctx.broker.groups
    result: JoinGroupResponse | Pending = reply_of(
        lambda answer: groups.join(request.group_id, joins, lambda reply: answer(response(reply)))
    )
    return result
