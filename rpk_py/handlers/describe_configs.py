"""DescribeConfigs (key 32), versions 1-4: the configs of topics and brokers.

v1  sources and synonyms
v3  documentation and config types
v4  flexible

Behaviour:  a topic's configs may be asked of any node, which answers from its own replica of the
            metadata, with the broker-wide values that hold there. A broker's are asked of that
            broker itself: the resource is its node id; an empty name means what was set for all
            brokers while they ran, and nothing else. Null or empty keys mean all configs; keys
            that do not exist are left out. Synonyms and documentation come if they are asked for.
            What a node ignores, because it does not agree with its other values, is not told as
            a value of that node. Beyond CONFIGS_MAX in one reply a resource is INVALID_REQUEST.
Deviations: a resource type that is not known, or that there are no configs of here (loggers 8,
            client metrics 16, groups 32), fails for itself with INVALID_REQUEST; in Kafka a type
            that it does not know fails the request. A resource that stands twice with the same
            keys is answered once, in Kafka twice. A reply has a bound, in Kafka none. A topic
            config that no broker config stands behind names itself as its default's synonym.
Source:     ConfigHelper of Apache Kafka.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator
from functools import partial
from typing import Final, NamedTuple

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
from rpk_py.broker_configs import InForce
from rpk_py.config_types import TYPE_CODES, DescribedConfig
from rpk_py.context import Broker, RequestContext
from rpk_py.metadata.config_plan import BROKER, TOPIC, unknown_type
from rpk_py.metadata.requests import Refused
from rpk_py.metadata.topic_plan import check_name
from rpk_py.turns import Large

# Of one reply, those of 5,000 topics: 0.9 s to encode with synonyms and documentation.
CONFIGS_MAX: Final = 200_000
_TOO_MANY: Final = (
    f"A reply has at most {CONFIGS_MAX} configs: ask for fewer resources, or name keys"
)
_SMALL_RESOURCES: Final = 8  # whose reply is encoded in a millisecond


def handle(
    ctx: RequestContext, request: DescribeConfigsRequest
) -> Awaitable[DescribeConfigsResponse] | Large:
    """Describe each resource from the shard's own state, others served in between."""
    if len(request.resources) <= _SMALL_RESOURCES:
        return _answer(ctx, request)
    return Large(partial(_answer, ctx, request))


async def _answer(ctx: RequestContext, request: DescribeConfigsRequest) -> DescribeConfigsResponse:
    broker = ctx.broker
    configs = broker.metadata.state.broker_configs
    values = broker_configs.in_force(broker.static_config, configs, broker.node_id)
    results: list[DescribeConfigsResult] = []
    room = CONFIGS_MAX
    for resource in _distinct(request.resources):
        await broker.turns.pause()
        try:
            found = _find(broker, values, resource)
            if len(found) > room:
                raise Refused(ErrorCode.INVALID_REQUEST, _TOO_MANY)
        except Refused as refused:
            result = DescribeConfigsResult(refused.code, str(refused), resource.kind, resource.name)
        else:
            room -= len(found)
            result = DescribeConfigsResult(
                ErrorCode.NONE,
                "",
                resource.kind,
                resource.name,
                [
                    _result(config, request.include_synonyms, request.include_documentation)
                    for config in found
                ],
            )
        results.append(result)
    return DescribeConfigsResponse(results=results)


class _Resource(NamedTuple):
    """One resource of a request; without keys, all of its configs are meant."""

    kind: int
    name: str
    keys: frozenset[str]


def _distinct(resources: Iterable[DescribeConfigsResource]) -> Iterator[_Resource]:
    """Each resource with the same keys once, in the order of the request."""
    seen = set()
    for each in resources:
        keys = frozenset(each.configuration_keys or ())
        resource = _Resource(each.resource_type, each.resource_name, keys)
        if resource not in seen:
            seen.add(resource)
            yield resource


def _find(broker: Broker, values: InForce, resource: _Resource) -> list[DescribedConfig]:
    """The configs of a resource that were asked for. Raises Refused."""
    kind, name, keys = resource
    state = broker.metadata.state
    if kind == TOPIC:
        check_name(name)
        topic = state.topics.get(name)
        if topic is None:
            text = "This server does not host this topic-partition."
            raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, text)
        return topic_configs.describe(topic.configs, values, keys)
    if kind != BROKER:
        raise Refused(ErrorCode.INVALID_REQUEST, unknown_type(kind))
    if name == broker_configs.ALL_NODES:
        return broker_configs.describe_all_nodes(state.broker_configs, keys)
    node_id = broker_configs.parse_node_id(name)
    if node_id is None:
        text = f"Broker id must be an integer, but it is: {name}"
        raise Refused(ErrorCode.INVALID_REQUEST, text)
    if node_id != broker.node_id:
        text = f"Unexpected broker id, expected {broker.node_id} or empty string, but received "
        raise Refused(ErrorCode.INVALID_REQUEST, text + name)
    return broker_configs.describe_node(values, keys)


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
