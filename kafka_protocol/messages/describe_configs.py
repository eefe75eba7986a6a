"""DescribeConfigs (key 32), versions 1-4: the configs of topics, brokers and other resources.

v2 the same; v3 documentation and config types; v4 flexible. Resource types: 2 topic, 4 broker.
Config sources: 1 topic, 2 dynamic of the node, 3 dynamic for all nodes, 4 static, 5 default.
Config types: 1 boolean, 2 string, 3 int, 4 short, 5 long, 6 double, 7 list, 8 class, 9 password.
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import BOOL, INT8, INT16, INT32, STRING, Array, F, message, struct


@struct
class DescribeConfigsResource:
    resource_type: int = F(INT8)
    resource_name: str = F(STRING)
    configuration_keys: list[str] | None = F(Array(STRING), nullable=0)  # null: all of them


@message(api_key=ApiKey.DESCRIBE_CONFIGS, kind="request", versions=(1, 4), flexible=4)
class DescribeConfigsRequest:
    resources: list[DescribeConfigsResource] = F(Array(DescribeConfigsResource))
    include_synonyms: bool = F(BOOL)
    include_documentation: bool = F(BOOL, since=3)


@struct
class DescribeConfigsSynonym:
    name: str = F(STRING)
    value: str | None = F(STRING, nullable=0)
    source: int = F(INT8)


@struct
class DescribeConfigsResourceResult:
    name: str = F(STRING)
    value: str | None = F(STRING, nullable=0)
    read_only: bool = F(BOOL)
    config_source: int = F(INT8, default=-1)
    is_sensitive: bool = F(BOOL)
    synonyms: list[DescribeConfigsSynonym] = F(Array(DescribeConfigsSynonym))
    config_type: int = F(INT8, since=3)
    documentation: str | None = F(STRING, since=3, nullable=0)


@struct
class DescribeConfigsResult:
    error_code: int = F(INT16)
    error_message: str | None = F(STRING, nullable=0)
    resource_type: int = F(INT8)
    resource_name: str = F(STRING)
    configs: list[DescribeConfigsResourceResult] = F(Array(DescribeConfigsResourceResult))


@message(api_key=ApiKey.DESCRIBE_CONFIGS, kind="response", versions=(1, 4), flexible=4)
class DescribeConfigsResponse:
    throttle_time_ms: int = F(INT32)
    results: list[DescribeConfigsResult] = F(Array(DescribeConfigsResult))
