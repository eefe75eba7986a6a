"""DescribeConfigs (key 32), versions 1-4: the configs of topics and brokers.

v1  sources and synonyms
v3  documentation and config types
v4  flexible

Behaviour:  a topic's configs may be asked of any node, which answers from its own replica of the
            metadata, with the broker-wide values that hold there. A broker's are asked of that
            broker itself: the resource is its node id; an empty name means what was set for all
            brokers while they ran, and nothing else. Null or empty keys mean all configs; keys
            that do not exist are left out. Synonyms and documentation come if they are asked for.
Deviations: a resource type that is not known, or that there are no configs of here (loggers 8,
            client metrics 16, groups 32), fails for itself with INVALID_REQUEST; in Kafka a type
            that it does not know fails the request. A topic config that no broker config stands
            behind names itself as its default's synonym.
Source:     ConfigHelper of Apache Kafka.
"""

from __future__ import annotations

import re
from typing import Final

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)
from rpk_py import broker_configs, topic_configs
from rpk_py.config_types import TYPE_CODES, DescribedConfig
from rpk_py.context import Broker, RequestContext
from rpk_py.metadata.config_plan import BROKER, TOPIC, unknown_type
from rpk_py.metadata.requests import Refused
from rpk_py.metadata.topic_plan import check_name

_NODE_ID: Final = re.compile(r"[+-]?[0-9]{1,10}")


def handle(ctx: RequestContext, request: DescribeConfigsRequest) -> DescribeConfigsResponse:
    """Describe each resource from the shard's own state, at once."""
    return DescribeConfigsResponse(
        results=[_describe(ctx.broker, request, resource) for resource in request.resources]
    )


def _describe(
    broker: Broker, request: DescribeConfigsRequest, resource: DescribeConfigsResource
) -> DescribeConfigsResult:
    kind, name = resource.resource_type, resource.resource_name
    try:
        found = _find(broker, kind, name)
    except Refused as refused:
        return DescribeConfigsResult(refused.code, str(refused), kind, name)
    keys = set(resource.configuration_keys or ())
    configs = [
        _result(config, request.include_synonyms, request.include_documentation)
        for config in found
        if not keys or config.entry.name in keys
    ]
    return DescribeConfigsResult(ErrorCode.NONE, "", kind, name, configs)


def _find(broker: Broker, kind: int, name: str) -> list[DescribedConfig]:
    """All configs of a resource. Raises Refused."""
    state = broker.metadata.state
    if kind == TOPIC:
        check_name(name)
        topic = state.topics.get(name)
        if topic is None:
            text = "This server does not host this topic-partition."
            raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, text)
        return topic_configs.describe(
            topic.configs, broker.static_config, state.broker_configs, broker.node_id
        )
    if kind != BROKER:
        raise Refused(ErrorCode.INVALID_REQUEST, unknown_type(kind))
    if name == broker_configs.ALL_NODES:
        return broker_configs.describe_all_nodes(state.broker_configs)
    if not _NODE_ID.fullmatch(name):
        text = f"Broker id must be an integer, but it is: {name}"
        raise Refused(ErrorCode.INVALID_REQUEST, text)
    if int(name) != broker.node_id:
        text = f"Unexpected broker id, expected {broker.node_id} or empty string, but received "
        raise Refused(ErrorCode.INVALID_REQUEST, text + name)
    return broker_configs.describe_node(broker.static_config, state.broker_configs, broker.node_id)


def _result(
    config: DescribedConfig, with_synonyms: bool, with_documentation: bool
) -> DescribeConfigsResourceResult:
    entry = config.entry
    return DescribeConfigsResourceResult(
        entry.name,
        entry.value,
        entry.read_only,
        entry.source,
        entry.is_sensitive,
        [DescribeConfigsSynonym(*synonym) for synonym in config.synonyms] if with_synonyms else [],
        TYPE_CODES[config.kind],
        config.documentation if with_documentation else None,
    )
