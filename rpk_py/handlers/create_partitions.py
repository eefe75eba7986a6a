"""CreatePartitions (key 37), versions 0-3.

v1  the same                       v2  flexible
v3  THROTTLING_QUOTA_EXCEEDED

Behaviour:  the controller checks and adds, and answers when every live shard serves the new
            partitions, or when the request's timeout is over (REQUEST_TIMED_OUT; they are added
            all the same). With validate_only nothing is added. The count is the new total:
            INVALID_PARTITIONS where the topic has as many or more. Assignments are of the new
            partitions only, one replica each. A name that stands twice in a request is answered
            once, with INVALID_REQUEST. Records that have been written stay in their partition,
            so a key may continue in another one.
Deviations: there are no quotas, so v3's error is never sent. Answers stand in the order of the
            request; Kafka puts names that stand twice first.
"""

from __future__ import annotations

from kafka_protocol.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
    CreatePartitionsTopicResult,
)
from rpk_py.context import RequestContext
from rpk_py.metadata.requests import PartitionsSpec


async def handle(ctx: RequestContext, request: CreatePartitionsRequest) -> CreatePartitionsResponse:
    """Let the controller add partitions, and give its answers."""
    results = await ctx.broker.metadata.create_partitions(
        [_spec(topic) for topic in request.topics], request.timeout_ms, request.validate_only
    )
    return CreatePartitionsResponse(
        results=[
            CreatePartitionsTopicResult(result.name, result.error_code, result.error_message)
            for result in results
        ]
    )


def _spec(topic: CreatePartitionsTopic) -> PartitionsSpec:
    assignments = topic.assignments
    return PartitionsSpec(
        topic.name,
        topic.count,
        None if assignments is None else [item.broker_ids for item in assignments],
    )
