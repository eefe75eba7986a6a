"""DeleteTopics (key 20), versions 1-6.

v4 flexible; v5 error message; v6 topics by name or by id instead of a list of names.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import INT16, INT32, STRING, UUID, Array, F, message, struct


@struct
class DeleteTopicState:
    name: str | None = F(STRING, nullable=6, default=None)
    topic_id: bytes = F(UUID)


@message(api_key=ApiKey.DELETE_TOPICS, kind="request", versions=(1, 6), flexible=4)
class DeleteTopicsRequest:
    topics: list[DeleteTopicState] = F(Array(DeleteTopicState), since=6)
    topic_names: list[str] = F(Array(STRING), until=5)
    timeout_ms: int = F(INT32)


@struct
class DeletableTopicResult:
    name: str | None = F(STRING, nullable=6)
    topic_id: bytes = F(UUID, since=6)
    error_code: int = F(INT16)
    error_message: str | None = F(STRING, since=5, nullable=5, default=None)


@message(api_key=ApiKey.DELETE_TOPICS, kind="response", versions=(1, 6), flexible=4)
class DeleteTopicsResponse:
    throttle_time_ms: int = F(INT32)
    responses: list[DeletableTopicResult] = F(Array(DeletableTopicResult))
