"""IncrementalAlterConfigs (key 44), versions 0-1: changes of single configs (KIP-339).

v1 flexible. Operations: 0 set, 1 delete, 2 append, 3 subtract; the last two are for lists.
Resource types as in describe_configs.py.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import BOOL, INT8, INT16, INT32, STRING, Array, F, message, struct


@struct
class AlterableConfig:
    name: str = F(STRING)
    config_operation: int = F(INT8)
    value: str | None = F(STRING, nullable=0)


@struct
class AlterConfigsResource:
    resource_type: int = F(INT8)
    resource_name: str = F(STRING)
    configs: list[AlterableConfig] = F(Array(AlterableConfig))


@message(api_key=ApiKey.INCREMENTAL_ALTER_CONFIGS, kind="request", versions=(0, 1), flexible=1)
class IncrementalAlterConfigsRequest:
    resources: list[AlterConfigsResource] = F(Array(AlterConfigsResource))
    validate_only: bool = F(BOOL)


@struct
class AlterConfigsResourceResponse:
    error_code: int = F(INT16)
    error_message: str | None = F(STRING, nullable=0)
    resource_type: int = F(INT8)
    resource_name: str = F(STRING)


@message(api_key=ApiKey.INCREMENTAL_ALTER_CONFIGS, kind="response", versions=(0, 1), flexible=1)
class IncrementalAlterConfigsResponse:
    throttle_time_ms: int = F(INT32)
    responses: list[AlterConfigsResourceResponse] = F(Array(AlterConfigsResourceResponse))
