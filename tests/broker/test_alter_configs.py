"""rpk_py.handlers.alter_configs: the request reaches the controller whole, so does the answer.

What is refused, and with which error, is tested in test_config_plan.py.
"""

from __future__ import annotations

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.alter_configs import (
    AlterableConfig,
    AlterConfigsRequest,
    AlterConfigsResource,
)
from rpk_py.handlers import alter_configs
from rpk_py.metadata.requests import ConfigResource
from tests.broker.fakes import FakeBroker, ask

VERSIONS = range(3)
TOPIC, BROKER = 2, 4


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_not_given_goes_back_to_its_default(version: int) -> None:
    broker = FakeBroker()
    topic = broker.add_topic("orders", 1)
    topic.configs |= {"retention.ms": "5", "segment.ms": "6"}
    request = AlterConfigsRequest(
        [
            AlterConfigsResource(TOPIC, "orders", [AlterableConfig("segment.ms", "7")]),
            AlterConfigsResource(BROKER, "", [AlterableConfig("flush.ms", "8")]),
        ]
    )
    response = ask(alter_configs.handle, broker, version, request)
    assert [
        (r.resource_type, r.resource_name, r.error_code, r.error_message)
        for r in response.responses
    ] == [(TOPIC, "orders", 0, None), (BROKER, "", 0, None)]
    assert topic.configs == {"segment.ms": "7"}
    assert broker.metadata.state.broker_configs == {"": {"flush.ms": "8"}}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("validate_only", [True, False])
def test_the_controller_gets_everything_that_the_client_sent(
    version: int, validate_only: bool
) -> None:
    broker = FakeBroker()
    request = AlterConfigsRequest(
        [AlterConfigsResource(TOPIC, "orders", [AlterableConfig("retention.ms", None)])],
        validate_only,
    )
    (answer,) = ask(alter_configs.handle, broker, version, request).responses
    assert answer.error_code == ErrorCode.INVALID_REQUEST
    assert answer.error_message == "Null value not supported for : retention.ms"
    assert broker.metadata.requests == [
        ([ConfigResource(TOPIC, "orders", [("retention.ms", 0, None)])], False, validate_only)
    ]


def test_validation_alone_changes_nothing() -> None:
    broker = FakeBroker()
    topic = broker.add_topic("orders", 1)
    resource = AlterConfigsResource(TOPIC, "orders", [AlterableConfig("segment.ms", "7")])
    response = ask(alter_configs.handle, broker, 2, AlterConfigsRequest([resource], True))
    assert [r.error_code for r in response.responses] == [0]
    assert topic.configs == {}
