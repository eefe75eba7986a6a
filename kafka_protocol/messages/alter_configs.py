"""AlterConfigs (key 33), versions 0-2: all the configs of a resource at once, others are removed.

v1 the same; v2 flexible. Resource types as in describe_configs.py. Clients of today send
IncrementalAlterConfigs.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import BOOL, INT8, INT16, INT32, STRING, Array, F, message, struct


@struct
class AlterableConfig:
    name: str = F(STRING)
    value: str | None = F(STRING, nullable=0)


@struct
class AlterConfigsResource:
    resource_type: int = F(INT8)
    resource_name: str = F(STRING)
    configs: list[AlterableConfig] = F(Array(AlterableConfig))


@message(api_key=ApiKey.ALTER_CONFIGS, kind="request", versions=(0, 2), flexible=2)
class AlterConfigsRequest:
    resources: list[AlterConfigsResource] = F(Array(AlterConfigsResource))
    validate_only: bool = F(BOOL)


@struct
class AlterConfigsResourceResponse:
    error_code: int = F(INT16)
    error_message: str | None = F(STRING, nullable=0)
    resource_type: int = F(INT8)
    resource_name: str = F(STRING)


@message(api_key=ApiKey.ALTER_CONFIGS, kind="response", versions=(0, 2), flexible=2)
class AlterConfigsResponse:
    throttle_time_ms: int = F(INT32)
    responses: list[AlterConfigsResourceResponse] = F(Array(AlterConfigsResourceResponse))
