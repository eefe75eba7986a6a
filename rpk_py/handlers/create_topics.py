"""CreateTopics (key 19), versions 2-7.

v2  throttle_time_ms               v4  -1 partitions or replicas: the broker's default (KIP-464)
v5  flexible; partitions, replication factor and configs in the answer
v6  THROTTLING_QUOTA_EXCEEDED      v7  topic id in the answer

Behaviour:  the controller checks and creates, and answers when every live shard serves the new
            partitions, so that the client's next produce works, or when the request's timeout is
            over (REQUEST_TIMED_OUT; the creation goes on). With validate_only nothing is created.
            A name that stands twice in a request is answered once, with INVALID_REQUEST.
            A refused topic has null configs and -1 partitions and replicas.
Deviations: -1 means the default in v2 and v3 too, as in Kafka's own broker. There are no
            quotas, so v6's error is never sent.
"""

from __future__ import annotations

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from rpk_py.context import RequestContext
from rpk_py.metadata.requests import TopicResult, TopicSpec


async def handle(ctx: RequestContext, request: CreateTopicsRequest) -> CreateTopicsResponse:
    """Let the controller create, and give its answers."""
    response = CreateTopicsResponse()
    results = await ctx.broker.metadata.create_topics(
        [_spec(topic) for topic in request.topics], request.timeout_ms, request.validate_only
    )
    for result in results:
        response.topics.append(_result(result))
        await ctx.broker.turns.pause()
    return response


def _spec(topic: CreatableTopic) -> TopicSpec:
    return TopicSpec(
        topic.name,
        topic.num_partitions,
        topic.replication_factor,
        [(item.partition_index, item.broker_ids) for item in topic.assignments],
        [(config.name, config.value) for config in topic.configs],
    )


def _result(result: TopicResult) -> CreatableTopicResult:
    answer = CreatableTopicResult(
        result.name,
        result.topic_id,
        result.error_code,
        result.error_message,
        num_partitions=result.num_partitions,
        replication_factor=result.replication_factor,
        configs=None,
    )
    if result.error_code == ErrorCode.NONE:
        answer.configs = [
            CreatableTopicConfigs(
                entry.name, entry.value, entry.read_only, entry.source, entry.is_sensitive
            )
            for entry in result.configs
        ]
    return answer
