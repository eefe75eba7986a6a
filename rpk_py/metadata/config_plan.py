"""What AlterConfigs and IncrementalAlterConfigs do to the state: checked, but not applied.

Which process: supervisor.  Pure.
Invariants: the answer follows the request's order; a resource succeeds or fails as a whole, and
by itself; no change but a deletion takes a value out of force at a node, and a value that is set
is in force, or was ignored before (a static setting changed): so all can be set right again.
Deviations from Kafka are listed in handlers/incremental_alter_configs.py.
Source: ConfigAdminManager and ConfigurationControlManager of Apache Kafka, and the answers of a
Kafka 4.1 broker: order of checks, codes, sense of messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Final

from kafka_protocol.errors import ErrorCode
from rpk_py import broker_configs, topic_configs
from rpk_py.broker_configs import ALL_NODES, BROKER_CONFIGS
from rpk_py.config import Config
from rpk_py.config_types import list_parts, normalize
from rpk_py.metadata.requests import ConfigResource, ConfigResult, Refused
from rpk_py.metadata.state import (
    BrokerConfigsChanged,
    Change,
    ClusterState,
    TopicConfigsChanged,
)
from rpk_py.metadata.topic_plan import check_name

TOPIC: Final = 2  # resource types
BROKER: Final = 4
# Known to Kafka, and what they are the configs of; there is nothing here that has any.
OTHER_TYPES: Final = {8: "loggers of a broker", 16: "client metrics", 32: "groups"}

SET: Final = 0  # operations
DELETE: Final = 1
APPEND: Final = 2
SUBTRACT: Final = 3
_VERBS = {APPEND: "APPEND", SUBTRACT: "SUBTRACT"}


def plan_alter_configs(
    state: ClusterState, config: Config, resources: Sequence[ConfigResource], incremental: bool
) -> tuple[list[ConfigResult], list[Change]]:
    """Check every resource of a request, and say what would change.

    Shapes:  config       the static one
             incremental  False: all operations are SET, and what is not set is removed
    """
    seen = Counter((resource.kind, resource.name) for resource in resources)
    dynamic = {node: dict(values) for node, values in state.broker_configs.items()}
    known = _nodes(state, dynamic)
    results = []
    changes: list[Change] = []
    for resource in resources:
        try:
            if seen[resource.kind, resource.name] > 1:
                text = "Each resource must appear at most once."
                raise Refused(ErrorCode.INVALID_REQUEST, text)
            _check_form(resource)
            if resource.kind == TOPIC:
                changes += _plan_topic(state, config, resource, incremental)
            elif resource.kind == BROKER:
                changes += _plan_broker(known, config, dynamic, resource, incremental)
            else:
                raise Refused(ErrorCode.INVALID_REQUEST, unknown_type(resource.kind))
        except Refused as refused:
            result = ConfigResult(resource.kind, resource.name, refused.code, str(refused))
        else:
            result = ConfigResult(resource.kind, resource.name)
        results.append(result)
    return results, changes


def unknown_type(kind: int) -> str:
    """What to say of a resource that is neither a topic nor a broker."""
    if kind in OTHER_TYPES:
        return f"Unknown resource type {kind}: there are no configs of {OTHER_TYPES[kind]} here"
    return f"Unknown resource type {kind}"


def _check_form(resource: ConfigResource) -> None:
    """What is wrong with a resource whatever its type."""
    if len({name for name, _, _ in resource.configs}) < len(resource.configs):
        raise Refused(ErrorCode.INVALID_REQUEST, "Error due to duplicate config keys")
    nulls = [name for name, op, value in resource.configs if value is None and op != DELETE]
    if nulls:
        text = f"Null value not supported for : {', '.join(nulls)}"
        raise Refused(ErrorCode.INVALID_REQUEST, text)
    for _, operation, _ in resource.configs:
        if not SET <= operation <= SUBTRACT:
            text = f"Unknown operations type {operation}"
            raise Refused(ErrorCode.INVALID_REQUEST, text)


def _plan_topic(
    state: ClusterState, config: Config, resource: ConfigResource, incremental: bool
) -> list[TopicConfigsChanged]:
    if not resource.name:
        text = "Default topic resources are not allowed."
        raise Refused(ErrorCode.INVALID_REQUEST, text)
    check_name(resource.name)
    topic = state.topics.get(resource.name)
    now = topic.configs if topic is not None else {}
    configs = dict(now) if incremental else {}
    for name, operation, value in resource.configs:
        if operation == DELETE:
            configs.pop(name, None)
            continue
        assert value is not None
        if operation != SET:
            known = topic_configs.TOPIC_CONFIGS.get(name)
            kind, old = (known.kind if known is not None else None), ""
            if kind == "list":
                broker = broker_configs.effective_config(config, state.broker_configs, None)
                old = topic_configs.effective_value(name, configs, broker)
            value = _edited_list(name, kind, operation, old, value)
        problem = topic_configs.validate(name, value)
        if problem is not None:
            raise Refused(ErrorCode.INVALID_CONFIG, problem)
        configs[name] = topic_configs.normalize(name, value)
    if topic is None:
        text = f"The topic '{resource.name}' does not exist."
        raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, text)
    return [] if configs == now else [TopicConfigsChanged(topic.topic_id, configs)]


def _edited_list(name: str, kind: str | None, operation: int, old: str, value: str) -> str:
    """The text of a list after an append, which adds what is not there, or a subtract."""
    if kind != "list":
        text = f"Can't {_VERBS[operation]} to key {name} because its type is not LIST."
        raise Refused(ErrorCode.INVALID_CONFIG, text)
    parts, others = list_parts(old), list_parts(value)
    if operation == APPEND:
        return ",".join(dict.fromkeys([*parts, *others]))
    return ",".join(part for part in parts if part not in others)


def _plan_broker(
    known: Set[int],
    config: Config,
    dynamic: dict[str, dict[str, str]],
    resource: ConfigResource,
    incremental: bool,
) -> list[BrokerConfigsChanged]:
    """Plan one node's dynamic configs, or those of all; `dynamic` follows what is planned."""
    node = _node_key(known, resource.name)
    now = dynamic.get(node, {})
    configs = dict(now) if incremental else {}
    _check_may_change(node, resource)
    for name, operation, value in resource.configs:
        if operation == DELETE:
            configs.pop(name, None)
            continue
        assert value is not None
        kind = BROKER_CONFIGS[name].kind
        if operation != SET:
            value = _edited_list(name, kind, operation, configs.get(name, ""), value)
        problem = broker_configs.validate(name, value)
        if problem is not None:
            raise Refused(ErrorCode.INVALID_REQUEST, problem)
        configs[name] = normalize(kind, value)
    if configs.items() - now.items():  # what is only taken away may always go
        _check_nodes(known, config, dynamic, node, configs)
    dynamic[node] = configs
    return [] if configs == now else [BrokerConfigsChanged(node, configs)]


def _node_key(known: Set[int], name: str) -> str:
    """The key of a broker resource in broker_configs."""
    if name == ALL_NODES:
        return name
    node_id = broker_configs.parse_node_id(name)
    if node_id is None:
        text = f"Node id must be an integer, but it is: {name}"
        raise Refused(ErrorCode.INVALID_REQUEST, text)
    if node_id not in known:
        expected = ", ".join(map(str, sorted(known)))
        text = f"Unexpected broker id, expected one of {expected}, but received {name}"
        raise Refused(ErrorCode.INVALID_REQUEST, text)
    return str(node_id)


def _nodes(state: ClusterState, dynamic: Mapping[str, Mapping[str, str]]) -> set[int]:
    """The nodes that there are, and those that are away but have configs of their own."""
    return {*state.nodes, *(int(node) for node in dynamic if node != ALL_NODES)}


def _check_may_change(node: str, resource: ConfigResource) -> None:
    names = [name for name, operation, _ in resource.configs if operation != DELETE]
    unknown = [name for name in names if name not in BROKER_CONFIGS]
    if unknown:
        text = f"Unknown broker config name: {', '.join(unknown)}"
        raise Refused(ErrorCode.INVALID_CONFIG, text)
    fixed = [name for name in names if not BROKER_CONFIGS[name].dynamic]
    if fixed:
        text = f"Cannot update these configs dynamically: {', '.join(fixed)}"
        raise Refused(ErrorCode.INVALID_REQUEST, text)
    common = [name for name in names if not BROKER_CONFIGS[name].per_node]
    if common and node != ALL_NODES:
        text = (
            "Cannot update these configs of one broker, the resource name must be empty: "
            f"{', '.join(common)}"
        )
        raise Refused(ErrorCode.INVALID_REQUEST, text)


def _check_nodes(
    known: Set[int],
    config: Config,
    dynamic: Mapping[str, Mapping[str, str]],
    changed: str,
    configs: Mapping[str, str],
) -> None:
    """Refuse what a node that the change is about would have to ignore, and did not before."""
    planned = {**dynamic, changed: configs}
    nodes = sorted(known) if changed == ALL_NODES else [int(changed)]
    for node_id in (None, *nodes):
        after = broker_configs.in_force(config, planned, node_id).ignored
        if not after:
            continue
        before = broker_configs.in_force(config, dynamic, node_id).ignored
        for value, error in after.items():
            if value not in before:
                where = "" if node_id is None else f" (node {node_id})"
                text = broker_configs.problem_of(error) + where
                raise Refused(ErrorCode.INVALID_REQUEST, text)
