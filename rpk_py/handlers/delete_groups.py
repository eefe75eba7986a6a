"""DeleteGroups (key 42), versions 0-2: groups and all their committed offsets go.

v2  flexible

Behaviour:  a group with members is NON_EMPTY_GROUP, one that does not exist GROUP_ID_NOT_FOUND. The
            answer leaves when what was deleted is durably so. Each group is answered once.
Deviations: none known.
Source:     GroupCoordinatorService.deleteGroups of Apache Kafka 4.1; KIP-229.
"""

from __future__ import annotations

import asyncio

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.delete_groups import (
    DeletableGroupResult,
    DeleteGroupsRequest,
    DeleteGroupsResponse,
)
from rpk_py.context import RequestContext


async def handle(ctx: RequestContext, request: DeleteGroupsRequest) -> DeleteGroupsResponse:
    """Delete every group that may go."""
    response = DeleteGroupsResponse()
    for group_id in dict.fromkeys(request.groups_names):
        done: asyncio.Future[ErrorCode] = ctx.broker.loop.create_future()
        ctx.broker.groups.delete(group_id, done.set_result)
        response.results.append(DeletableGroupResult(group_id, await done))
        await ctx.broker.turns.pause()
    return response
