"""SyncGroup (key 14), versions 0-5: the leader's assignment in, every member's out.

v1  throttle_time_ms      v3  static members      v4  flexible      v5  protocol type and name

Behaviour:  the reply waits for the leader's assignment, and that for its record to be durable.
            From v5 on a request without protocol type and name is INCONSISTENT_GROUP_PROTOCOL.
Deviations: a request has at most 8 MiB (Kafka: 100 MiB).
Source:     GroupCoordinatorService.syncGroup of Apache Kafka 4.1.
"""

from __future__ import annotations

from typing import Final

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.sync_group import SyncGroupRequest, SyncGroupResponse
from rpk_py.context import RequestContext
from rpk_py.groups.classic_values import SyncReply, SyncRequest
from rpk_py.pending import Pending, reply_of

_PROTOCOL_SINCE: Final = 5


def handle(ctx: RequestContext, request: SyncGroupRequest) -> SyncGroupResponse | Pending:
    """Hand in, or wait for, the assignment."""
    if ctx.api_version >= _PROTOCOL_SINCE and None in (
        request.protocol_type,
        request.protocol_name,
    ):
        return SyncGroupResponse(error_code=ErrorCode.INCONSISTENT_GROUP_PROTOCOL, assignment=b"")
    syncs = SyncRequest(
        member_id=request.member_id,
        generation=request.generation_id,
        instance_id=request.group_instance_id,
        protocol_type=request.protocol_type,
        protocol_name=request.protocol_name,
        assignments={each.member_id: bytes(each.assignment) for each in request.assignments},
    )

    def response(reply: SyncReply) -> SyncGroupResponse:
        return SyncGroupResponse(
            error_code=reply.error,
            protocol_type=reply.protocol_type,
            protocol_name=reply.protocol_name,
            assignment=reply.assignment,
        )

    groups = ctx.broker.groups
    result: SyncGroupResponse | Pending = reply_of(
        lambda answer: groups.sync(request.group_id, syncs, lambda reply: answer(response(reply)))
    )
    return result
