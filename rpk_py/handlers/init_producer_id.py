"""InitProducerId (key 22), versions 0-5: an id for an idempotent producer.

v2  flexible
v3  (producer id, epoch) that the producer has, for KIP-360
v4  PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH (transactions only)
v5  no change on the wire (transactions, KIP-890)

Behaviour:  without a transactional id every request gets a new id and epoch 0, at any shard,
            whatever id and epoch it brings. Of those either both are -1 or none is, else
            INVALID_REQUEST. Ids come from blocks of the controller; while it cannot give one the
            answer is COORDINATOR_LOAD_IN_PROGRESS, which all clients retry.
Deviations: transactions do not exist yet. A transactional id is answered with INVALID_REQUEST: it
            is final for Java and franz-go, and Java's text for it names the cause ("sent to an
            incompatible broker"). NOT_COORDINATOR and its kin would be retried for ever, an
            authorization error would be untrue. Clients that read ApiVersions do not get this far:
            FindCoordinator is not in it, and they say that transactions are not supported.
"""

from __future__ import annotations

from collections.abc import Awaitable

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.init_producer_id import (
    InitProducerIdRequest,
    InitProducerIdResponse,
)
from rpk_py.context import RequestContext
from rpk_py.producer_ids import ProducerIds


def handle(
    ctx: RequestContext, request: InitProducerIdRequest
) -> InitProducerIdResponse | Awaitable[InitProducerIdResponse]:
    """Answer at once from the shard's block of ids, later when that is used up."""
    if request.transactional_id is not None:
        ctx.broker.warn_of(
            ctx.peer,
            "a client asked for transactions, which this version does not have",
            client_id=ctx.client_id,
            transactional_id=request.transactional_id,
        )
        return _failed(ErrorCode.INVALID_REQUEST)
    if (request.producer_id == -1) != (request.producer_epoch == -1):
        return _failed(ErrorCode.INVALID_REQUEST)
    producer_id = ctx.broker.producer_ids.next_id()
    if producer_id is None:
        return _allocate(ctx.broker.producer_ids)
    return InitProducerIdResponse(producer_id=producer_id, producer_epoch=0)


async def _allocate(producer_ids: ProducerIds) -> InitProducerIdResponse:
    while (producer_id := producer_ids.next_id()) is None:
        try:
            await producer_ids.reserve()
        except TimeoutError:
            return _failed(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
    return InitProducerIdResponse(producer_id=producer_id, producer_epoch=0)


def _failed(error: ErrorCode) -> InitProducerIdResponse:
    return InitProducerIdResponse(error_code=error, producer_id=-1, producer_epoch=-1)
