"""rpk_py.handlers.init_producer_id: ids for idempotent producers, and nothing for transactions."""

from __future__ import annotations

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.init_producer_id import InitProducerIdRequest
from rpk_py.handlers import init_producer_id
from tests.broker.fakes import FakeBroker, ask


@pytest.mark.parametrize("version", range(6))
def test_every_request_gets_another_id_with_epoch_zero(version: int) -> None:
    broker = FakeBroker()
    broker.metadata.blocks = [(7_000, 2), (9_000, 2)]
    answers = [
        ask(init_producer_id.handle, broker, version, InitProducerIdRequest(None, 60_000))
        for _ in range(3)
    ]
    assert [answer.producer_id for answer in answers] == [7_000, 7_001, 9_000]
    assert {(answer.error_code, answer.producer_epoch) for answer in answers} == {(0, 0)}


@pytest.mark.parametrize("version", [3, 4, 5])
def test_a_producer_that_brings_its_id_gets_a_new_one(version: int) -> None:
    broker = FakeBroker()
    broker.metadata.blocks = [(7_000, 2)]
    request = InitProducerIdRequest(None, 0, producer_id=12, producer_epoch=3)
    response = ask(init_producer_id.handle, broker, version, request)
    assert (response.error_code, response.producer_id, response.producer_epoch) == (0, 7_000, 0)


@pytest.mark.parametrize("version", [3, 4, 5])
@pytest.mark.parametrize(("producer_id", "producer_epoch"), [(12, -1), (-1, 0)])
def test_half_of_id_and_epoch_is_refused(
    version: int, producer_id: int, producer_epoch: int
) -> None:
    request = InitProducerIdRequest(None, 0, producer_id, producer_epoch)
    response = ask(init_producer_id.handle, FakeBroker(), version, request)
    assert response.error_code == ErrorCode.INVALID_REQUEST
    assert (response.producer_id, response.producer_epoch) == (-1, -1)


@pytest.mark.parametrize("version", range(6))
@pytest.mark.parametrize("transactional_id", ["orders", ""])
def test_transactions_are_refused_for_good_and_the_operator_is_told(
    version: int, transactional_id: str
) -> None:
    broker = FakeBroker()
    broker.metadata.blocks = [(7_000, 2)]
    request = InitProducerIdRequest(transactional_id, 60_000)
    response = ask(init_producer_id.handle, broker, version, request)
    assert response.error_code == ErrorCode.INVALID_REQUEST
    assert not ErrorCode(response.error_code).retriable
    assert (response.producer_id, response.producer_epoch) == (-1, -1)
    assert len(broker.log.warnings) == 1
    assert broker.metadata.blocks == [(7_000, 2)]


def test_a_controller_that_does_not_answer_is_asked_again_by_the_client() -> None:
    broker = FakeBroker()
    response = ask(init_producer_id.handle, broker, 4, InitProducerIdRequest(None, 0))
    assert response.error_code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    assert ErrorCode(response.error_code).retriable
    broker.metadata.blocks = [(7_000, 2)]
    response = ask(init_producer_id.handle, broker, 4, InitProducerIdRequest(None, 0))
    assert (response.error_code, response.producer_id) == (0, 7_000)
