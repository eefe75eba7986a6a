"""DeleteTopics (key 20), versions 1-6.

v1  throttle_time_ms               v4  flexible
v5  error messages                 v6  topics by name or by id

Behaviour:  the controller checks and deletes, and answers when every live shard has done so or the
            request's timeout is over (REQUEST_TIMED_OUT; the deletion goes on). From v6 a topic is
            given by name or by id, never both or neither, and once: INVALID_REQUEST otherwise, for
            this topic alone. Answers stand in the order of the request.
Deviations: Kafka answers in random order, and a topic that is given twice once.
"""

from __future__ import annotations

from typing import Final

from kafka_protocol.messages.delete_topics import (
    DeletableTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
)
from rpk_py.context import RequestContext

_NO_ID: Final = bytes(16)
_TOPIC_STATES_SINCE: Final = 6


async def handle(ctx: RequestContext, request: DeleteTopicsRequest) -> DeleteTopicsResponse:
    """Let the controller delete, and give its answers."""
    topics: list[tuple[str | None, bytes | None]]
    if ctx.api_version >= _TOPIC_STATES_SINCE:
        topics = [
            (topic.name, None if topic.topic_id == _NO_ID else topic.topic_id)
            for topic in request.topics
        ]
    else:
        topics = [(name, None) for name in request.topic_names]
    results = await ctx.broker.metadata.delete_topics(topics, request.timeout_ms)
    return DeleteTopicsResponse(
        responses=[
            DeletableTopicResult(
                result.name, result.topic_id, result.error_code, result.error_message
            )
            for result in results
        ]
    )
