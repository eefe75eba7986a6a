"""The broker configs: every setting of `Config` under the name that Kafka's tools know it by, and
which of them can be changed while the broker runs.

Which process: the controller plans changes with it; a shard gets its Config in force from it and
describes it.  Pure.
Invariants: every field of Config is in exactly one config of BROKER_CONFIGS; a config is dynamic
only where its field is read from the Config in force at each use, in the shard or the controller.
Names: Kafka's where Kafka has the config; else the field's with dots. `write.caching`, `flush.ms`
and `flush.bytes` are Redpanda's names of these topic configs, here for the broker-wide values too.
Deviations: auto.create.topics.enable, num.partitions, fetch.max.bytes and socket.request.max.bytes
are dynamic, in Kafka they are not. What only the controller reads can be set for all nodes alone.
Source: DynamicBrokerConfig and the config definitions of Apache Kafka 4.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from rpk_py.config import SETTINGS, SHARDS_PER_HOST_MAX, Config, ConfigError
from rpk_py.config_types import (
    INT_MAX,
    SOURCE_DEFAULT,
    SOURCE_DYNAMIC_DEFAULT,
    SOURCE_NODE,
    SOURCE_STATIC,
    DescribedConfig,
    Synonym,
    described,
    value_problem,
)

ALL_NODES: Final = ""  # the key of the dynamic configs that hold for every node

# Node id in decimal, or ALL_NODES -> name -> value: what was set while running.
BrokerConfigs: TypeAlias = Mapping[str, Mapping[str, str]]

_KAFKA_NAMES = {
    "data_dir": "log.dirs",
    "host_id": "node.id",
    "rack": "broker.rack",
    "auto_create_topics": "auto.create.topics.enable",
    "default_partitions": "num.partitions",
    "max_message_bytes": "message.max.bytes",
    "frame_bytes_max": "socket.request.max.bytes",
    "connections_max": "max.connections",
    "listen_backlog": "socket.listen.backlog.size",
    "inflight_bytes_max": "queued.max.request.bytes",
    "connections_max_idle_s": "connections.max.idle.ms",
    "segment_bytes": "log.segment.bytes",
}
# Where the range of the setting does not tell Kafka's type.
_KINDS = {
    "node.id": "int",
    "log.segment.bytes": "int",
    "producer.id.expiration.ms": "int",
    "connections.max.idle.ms": "long",
}
# Read by every shard at each use: may be set for one node, or for all.
_OF_NODES = {
    "auto.create.topics.enable",
    "connection.inflight.bytes.max",
    "fetch.max.bytes",
    "flush.bytes",
    "flush.ms",
    "log.segment.bytes",
    "max.connections",
    "message.max.bytes",
    "partial.frame.bytes.max",
    "producer.id.expiration.ms",
    "reply.bytes.max",
    "socket.request.max.bytes",
    "write.caching",
}
# Read by the controller alone, at each use: there is no value of one node.
_OF_CLUSTER = {"num.partitions", "partitions.max", "partitions.per.topic.max"}


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """One broker config.

    settings  the fields of Config that it tells; one, unless it is an address
    value     the public value of them, as (config, node id) -> text
    dynamic   it can be changed while the broker runs
    per_node  it can be set for one node
    """

    name: str
    kind: str
    settings: tuple[str, ...]
    documentation: str
    value: Callable[[Config, int | None], str | None]
    dynamic: bool = False
    per_node: bool = False


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


def _kind(setting: str, name: str) -> str:
    kinds = {"bool": "boolean", "float": "double", "str": "string", "Path": "string"}
    about = SETTINGS[setting]
    fits_int = about.high is not None and about.high <= INT_MAX
    return _KINDS.get(name) or kinds.get(about.kind) or ("int" if fits_int else "long")


def _config(setting: str) -> BrokerConfig:
    name = _KAFKA_NAMES.get(setting, setting.replace("_", "."))
    value = _SPECIAL_VALUES.get(setting, lambda config, _: _text(getattr(config, setting)))
    return BrokerConfig(
        name,
        _kind(setting, name),
        (setting,),
        SETTINGS[setting].meaning,
        value,
        dynamic=name in _OF_NODES | _OF_CLUSTER,
        per_node=name in _OF_NODES,
    )


def _node_id(config: Config, node_id: int | None) -> str:
    return str(config.host_id * SHARDS_PER_HOST_MAX if node_id is None else node_id)


def _url(host: str, port: int, node_id: int | None) -> str:
    shard = (node_id or 0) % SHARDS_PER_HOST_MAX
    host = f"[{host}]" if ":" in host else host
    return f"PLAINTEXT://{host}:{port + shard if port else 0}"


def _listeners(config: Config, node_id: int | None) -> str:
    return _url(config.kafka_host, config.kafka_port, node_id)


def _advertised(config: Config, node_id: int | None) -> str | None:
    if config.advertise_host is None and config.advertise_port is None:
        return None
    host = config.advertise_host or config.kafka_host
    return _url(host, config.advertise_port or config.kafka_port, node_id)


_SPECIAL_VALUES: dict[str, Callable[[Config, int | None], str | None]] = {
    "host_id": _node_id,
    "connections_max_idle_s": lambda config, _: str(round(config.connections_max_idle_s * 1000)),
}
_ADDRESSES = (
    BrokerConfig(
        "listeners",
        "string",
        ("kafka_host", "kafka_port"),
        f"{SETTINGS['kafka_host'].meaning}; {SETTINGS['kafka_port'].meaning}",
        _listeners,
    ),
    BrokerConfig(
        "advertised.listeners",
        "string",
        ("advertise_host", "advertise_port"),
        f"{SETTINGS['advertise_host'].meaning}; {SETTINGS['advertise_port'].meaning}",
        _advertised,
    ),
)
_IN_ADDRESSES = {setting for address in _ADDRESSES for setting in address.settings}
_ALL = (*_ADDRESSES, *(_config(name) for name in SETTINGS if name not in _IN_ADDRESSES))

BROKER_CONFIGS: Mapping[str, BrokerConfig] = MappingProxyType(
    {config.name: config for config in sorted(_ALL, key=lambda config: config.name)}
)
# Field of Config -> its broker config.
BY_SETTING: Mapping[str, BrokerConfig] = MappingProxyType(
    {setting: config for config in _ALL for setting in config.settings}
)
_DEFAULTS = Config()


def validate(name: str, text: str) -> str | None:
    """What is wrong with the text of one dynamic config, or None; alone, without the others."""
    config = BROKER_CONFIGS[name]
    about = SETTINGS[config.settings[0]]
    problem = value_problem(config.kind, text, about.low, about.high)
    return None if problem is None else f"Invalid value {text} for configuration {name}: {problem}"


def combine(config: Config, broker_configs: BrokerConfigs, node_id: int | None) -> Config:
    """The Config in force at a node (None: at the controller, where only what holds for all nodes
    counts).

    Raises: ConfigError  the dynamic values do not agree with each other, or with the static ones
    """
    values = _dynamic_values(broker_configs, node_id)
    return dataclasses.replace(config, **values) if values else config


def effective_config(
    config: Config,
    broker_configs: BrokerConfigs,
    node_id: int | None,
    report: Callable[[str], None] | None = None,
) -> Config:
    """Like `combine`, for values that were checked when they were set.

    Static settings may have changed since, so that some no longer agree: those are left out and
    reported, one line each, and the broker runs without them.
    """
    try:
        return combine(config, broker_configs, node_id)
    except ConfigError:
        pass  # find out which
    for setting, value in _dynamic_values(broker_configs, node_id).items():
        try:
            config = dataclasses.replace(config, **{setting: value})
        except ConfigError as error:
            if report is not None:
                report(f"a dynamic broker config is ignored: {problem_of(error)}")
    return config


def problem_of(error: ConfigError) -> str:
    """A ConfigError in the public names of its settings."""
    name = BY_SETTING[error.name].name
    text = f"Invalid value {error.value} for configuration {name}: {error.expected}"
    if error.other is not None:
        text += f" {BY_SETTING[error.other[0]].name}={error.other[1]}"
    return text


def _dynamic_values(broker_configs: BrokerConfigs, node_id: int | None) -> dict[str, Any]:
    """Field of Config -> the value that was set for it while running."""
    texts = dict(broker_configs.get(ALL_NODES, {}))
    if node_id is not None:
        texts.update(broker_configs.get(str(node_id), {}))
    values = {}
    for name, text in texts.items():
        config = BROKER_CONFIGS.get(name)  # another version may have known more of them
        if config is not None and config.dynamic and validate(name, text) is None:
            values[config.settings[0]] = text == "true" if config.kind == "boolean" else int(text)
    return values


def synonyms_of(
    config: BrokerConfig, static: Config, broker_configs: BrokerConfigs, node_id: int | None
) -> list[Synonym]:
    """Where a broker config has a value, the one in force first."""
    synonyms = []
    if node_id is not None and config.name in (own := broker_configs.get(str(node_id), {})):
        synonyms.append(Synonym(config.name, own[config.name], SOURCE_NODE))
    if config.name in (everywhere := broker_configs.get(ALL_NODES, {})):
        synonyms.append(Synonym(config.name, everywhere[config.name], SOURCE_DYNAMIC_DEFAULT))
    value, default = config.value(static, node_id), config.value(_DEFAULTS, node_id)
    if value != default:
        synonyms.append(Synonym(config.name, value, SOURCE_STATIC))
    if default is not None:
        synonyms.append(Synonym(config.name, default, SOURCE_DEFAULT))
    return synonyms


def describe_node(
    static: Config, broker_configs: BrokerConfigs, node_id: int
) -> list[DescribedConfig]:
    """Every broker config of a node, by name."""
    return [
        described(
            config.name,
            config.kind,
            config.documentation,
            synonyms_of(config, static, broker_configs, node_id),
            read_only=not config.dynamic,
        )
        for config in BROKER_CONFIGS.values()
    ]


def describe_all_nodes(broker_configs: BrokerConfigs) -> list[DescribedConfig]:
    """The dynamic broker configs that were set for all nodes, by name."""
    values = broker_configs.get(ALL_NODES, {})
    return [
        described(
            name,
            config.kind,
            config.documentation,
            [Synonym(name, values[name], SOURCE_DYNAMIC_DEFAULT)],
        )
        for name, config in BROKER_CONFIGS.items()
        if name in values
    ]
