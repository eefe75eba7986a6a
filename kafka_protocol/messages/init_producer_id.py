"""InitProducerId (key 22), versions 0-5: an id and an epoch for an idempotent producer.

v2 flexible; v3 the producer's id and epoch, to go on with them (KIP-360); v4 and v5 new error codes
(PRODUCER_FENCED, TRANSACTION_ABORTABLE). v6 is not stable in Kafka and not served.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import INT16, INT32, INT64, STRING, F, message


@message(api_key=ApiKey.INIT_PRODUCER_ID, kind="request", versions=(0, 5), flexible=2)
class InitProducerIdRequest:
    transactional_id: str | None = F(STRING, nullable=0, default=None)
    transaction_timeout_ms: int = F(INT32)
    producer_id: int = F(INT64, since=3, default=-1)
    producer_epoch: int = F(INT16, since=3, default=-1)


@message(api_key=ApiKey.INIT_PRODUCER_ID, kind="response", versions=(0, 5), flexible=2)
class InitProducerIdResponse:
    throttle_time_ms: int = F(INT32)
    error_code: int = F(INT16)
    producer_id: int = F(INT64, default=-1)
    producer_epoch: int = F(INT16)
