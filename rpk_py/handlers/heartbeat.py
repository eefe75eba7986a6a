"""Heartbeat (key 12), versions 0-4: a member of a classic group lives.

v1  throttle_time_ms      v3  static members      v4  flexible

Behaviour:  REBALANCE_IN_PROGRESS tells the member to join again; a coordinator that still loads
            answers without an error, as clients have no retry for this request.
Deviations: none known.
Source:     GroupCoordinatorService.heartbeat of Apache Kafka 4.1.
"""

from __future__ import annotations

from kafka_protocol.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from rpk_py.context import RequestContext


def handle(ctx: RequestContext, request: HeartbeatRequest) -> HeartbeatResponse:
    """Note that the member lives."""
    error = ctx.broker.groups.heartbeat(
        request.group_id, request.member_id, request.group_instance_id, request.generation_id
    )
    return HeartbeatResponse(error_code=error)
