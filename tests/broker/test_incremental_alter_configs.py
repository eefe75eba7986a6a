"""rpk_py.handlers.incremental_alter_configs: request and answer pass whole, in every version.

What is refused, and with which error, is tested in test_config_plan.py.
"""

from __future__ import annotations

import pytest

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from rpk_py.handlers import incremental_alter_configs
from rpk_py.metadata.requests import ConfigResource
from tests.broker.fakes import FakeBroker, ask

VERSIONS = range(2)
TOPIC, BROKER = 2, 4
SET, DELETE, APPEND = 0, 1, 2


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("validate_only", [True, False])
def test_each_resource_is_changed_and_answered_for_itself(
    version: int, validate_only: bool
) -> None:
    broker = FakeBroker()
    topic = broker.add_topic("orders", 1)
    topic.configs["retention.ms"] = "5"
    request = IncrementalAlterConfigsRequest(
        [
            AlterConfigsResource(
                TOPIC,
                "orders",
                [
                    AlterableConfig("retention.ms", DELETE, None),
                    AlterableConfig("cleanup.policy", APPEND, "compact"),
                ],
            ),
            AlterConfigsResource(BROKER, "0", [AlterableConfig("log.dirs", SET, "/x")]),
        ],
        validate_only,
    )
    response = ask(incremental_alter_configs.handle, broker, version, request)
    assert [
        (r.resource_type, r.resource_name, r.error_code, r.error_message)
        for r in response.responses
    ] == [
        (TOPIC, "orders", 0, None),
        (
            BROKER,
            "0",
            ErrorCode.INVALID_REQUEST,
            "Cannot update these configs dynamically: log.dirs",
        ),
    ]
    assert topic.configs == (
        {"retention.ms": "5"} if validate_only else {"cleanup.policy": "delete,compact"}
    )
    resources = [
        ConfigResource(
            TOPIC, "orders", [("retention.ms", DELETE, None), ("cleanup.policy", APPEND, "compact")]
        ),
        ConfigResource(BROKER, "0", [("log.dirs", SET, "/x")]),
    ]
    assert broker.metadata.requests == [(resources, True, validate_only)]
