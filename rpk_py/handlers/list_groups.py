"""ListGroups (key 16), versions 0-5: the groups that this node coordinates.

v1  throttle_time_ms      v3  flexible      v4  states      v5  types (KIP-848)

Behaviour:  a client asks every node. Filters are told in any case of letters; a state or type that
            does not exist matches nothing. While groups are being loaded the answer is
            COORDINATOR_LOAD_IN_PROGRESS.
Deviations: none known.
Source:     GroupCoordinatorService.listGroups of Apache Kafka 4.1.
"""

from __future__ import annotations

from collections.abc import Generator

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.list_groups import ListedGroup, ListGroupsRequest, ListGroupsResponse
from rpk_py.context import RequestContext
from rpk_py.turns import SLICE_ITEMS, Large


def handle(ctx: RequestContext, request: ListGroupsRequest) -> ListGroupsResponse | Large:
    """Answer from the groups of this shard."""
    groups = ctx.broker.groups
    if groups.loading:
        return ListGroupsResponse(error_code=ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
    return ctx.broker.turns.reply(
        _answer(ctx, request), sum(len(log.groups) for log in groups.logs)
    )


def _answer(
    ctx: RequestContext, request: ListGroupsRequest
) -> Generator[None, None, ListGroupsResponse]:
    states = {state.lower() for state in request.states_filter}
    types = {each.lower() for each in request.types_filter}
    response = ListGroupsResponse(error_code=ErrorCode.NONE)
    for number, group in enumerate(ctx.broker.groups.groups(), 1):
        if not number % SLICE_ITEMS:
            yield
        if states and group.state_name.lower() not in states:
            continue
        if types and group.type_name not in types:
            continue
        response.groups.append(
            ListedGroup(group.group_id, group.protocol_type, group.state_name, group.type_name)
        )
    return response
