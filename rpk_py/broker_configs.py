"""The broker configs: every setting of `Config` under the name that Kafka's tools know it by, and
which of them can be changed while the broker runs.

Which process: the controller plans changes with it; a shard gets its Config in force from it and
describes it.  Pure.
Invariants: every field of Config is in exactly one config of BROKER_CONFIGS; a config is dynamic
only where its field is read from the Config in force at each use, in the shard or the controller.
Names: Kafka's where Kafka has the config; else the field's with dots. `write.caching`, `flush.ms`
and `flush.bytes` are Redpanda's names of these topic configs, here for the broker-wide values too.
Deviations: auto.create.topics.enable, num.partitions, fetch.max.bytes, socket.request.max.bytes and
log.retention.check.interval.ms are dynamic, in Kafka they are not. What only the controller reads
can be set for all nodes alone.
Source: DynamicBrokerConfig and the config definitions of Apache Kafka 4.1.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from rpk_py.config import SETTINGS, SHARDS_PER_HOST_MAX, Config
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
from rpk_py.setting import ConfigError

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
    "fetch_sessions_max": "max.incremental.fetch.session.cache.slots",
    "frame_bytes_max": "socket.request.max.bytes",
    "connections_max": "max.connections",
    "connections_per_address_max": "max.connections.per.ip",
    "listen_backlog": "socket.listen.backlog.size",
    "inflight_bytes_max": "queued.max.request.bytes",
    "connections_max_idle_s": "connections.max.idle.ms",
    "segment_bytes": "log.segment.bytes",
    "log_cleaner_dedupe_buffer_bytes": "log.cleaner.dedupe.buffer.size",
}
# Where the setting does not tell Kafka's type.
_KINDS = {"connections.max.idle.ms": "long", "log.cleanup.policy": "list"}
# Higher than the setting's own bound: who set it must still get in, past the clients that there
# are, to set it back, and a restart does not. An admin client takes two connections, or three.
_DYNAMIC_LOW = {"max.connections": 10, "max.connections.per.ip": 10}
_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "boolean": lambda text: text == "true",
    "double": float,
    "string": str,
    "list": str,
}  # by kind; whole numbers else
_NODE_ID = re.compile(r"[+-]?[0-9]{1,10}")
# Read by every shard at each use: may be set for one node, or for all.
_OF_NODES = {
    "auto.create.topics.enable",
    "connection.inflight.bytes.max",
    "fetch.max.bytes",
    "flush.bytes",
    "flush.ms",
    "log.cleaner.backoff.ms",
    "log.cleaner.dedupe.buffer.size",
    "log.cleaner.delete.retention.ms",
    "log.cleaner.io.max.bytes.per.second",
    "log.cleaner.max.compaction.lag.ms",
    "log.cleaner.min.cleanable.ratio",
    "log.cleaner.min.compaction.lag.ms",
    "log.cleanup.policy",
    "log.level",
    "log.retention.bytes",
    "log.retention.check.interval.ms",
    "log.retention.ms",
    "log.roll.jitter.ms",
    "log.roll.ms",
    "log.segment.bytes",
    "max.connections",
    "max.connections.per.ip",
    "message.max.bytes",
    "partial.frame.bytes.max",
    "producer.id.expiration.ms",
    "reply.bytes.max",
    "segment.rewrite",
    "socket.request.max.bytes",
    "storage.min.free.bytes",
    "storage.space.alert.free.threshold.bytes",
    "storage.space.alert.free.threshold.percent",
    "storage.space.trim",
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
    low = _DYNAMIC_LOW.get(name, about.low)
    problem = value_problem(config.kind, text, low, about.high, about.choices)
    return None if problem is None else f"Invalid value {text} for configuration {name}: {problem}"


def parse_node_id(text: str) -> int | None:
    """The node that the name of a broker resource is about; None: it is not a number."""
    return int(text) if _NODE_ID.fullmatch(text) else None


class Ignored(NamedTuple):
    """A dynamic value that does not agree with the others; `scope` is a key of BrokerConfigs."""

    scope: str
    name: str
    text: str


class InForce(NamedTuple):
    """What holds at a node: its Config, and the dynamic values that it is made of.

    static     what the broker was started with
    own, all_nodes  name -> text, of the node and of all nodes
    ignored    what was set too, but does not agree -> why
    """

    config: Config
    static: Config
    node_id: int | None
    own: Mapping[str, str]
    all_nodes: Mapping[str, str]
    ignored: Mapping[Ignored, ConfigError]


def in_force(config: Config, broker_configs: BrokerConfigs, node_id: int | None) -> InForce:
    """What holds at a node (None: at the controller, where only what is set for all nodes counts).

    Values are checked when they are set, but static settings may have changed since, so that some
    no longer agree with them: the broker runs without those.
    """
    all_nodes = _known(broker_configs.get(ALL_NODES, {}))
    own = {} if node_id is None else _known(broker_configs.get(str(node_id), {}))
    try:
        found = _replaced(_replaced(config, all_nodes), own)
        return InForce(found, config, node_id, own, all_nodes, {})
    except ConfigError:
        return _without_what_disagrees(config, all_nodes, own, node_id)


def _without_what_disagrees(
    config: Config, all_nodes: Mapping[str, str], own: Mapping[str, str], node_id: int | None
) -> InForce:
    """Take one value after the other, until none of the rest fits what was taken."""
    found = config
    scopes: dict[str, dict[str, str]] = {ALL_NODES: {}, str(node_id): {}}
    waiting = [Ignored(ALL_NODES, *item) for item in sorted(all_nodes.items())]
    waiting += [Ignored(str(node_id), *item) for item in sorted(own.items())]
    ignored: dict[Ignored, ConfigError] = {}
    taken = True
    while taken:
        taken = False
        for value in waiting:
            if value.name in scopes[value.scope]:
                continue
            if value.scope == ALL_NODES and value.name in scopes[str(node_id)]:
                ignored.pop(value, None)  # the node's own wins anyway
                continue
            try:
                found = _replaced(found, {value.name: value.text})
            except ConfigError as error:
                ignored[value] = error
            else:
                scopes[value.scope][value.name] = value.text
                ignored.pop(value, None)
                taken = True
    return InForce(found, config, node_id, scopes[str(node_id)], scopes[ALL_NODES], ignored)


def effective_config(
    config: Config,
    broker_configs: BrokerConfigs,
    node_id: int | None,
    report: Callable[[str], None] | None = None,
) -> Config:
    """The Config in force; what is ignored is reported, one line each."""
    found = in_force(config, broker_configs, node_id)
    if report is not None:
        for error in found.ignored.values():
            report(problem_of(error))
    return found.config


def problem_of(error: ConfigError) -> str:
    """A ConfigError in the public names of its settings."""
    name = BY_SETTING[error.name].name
    text = f"Invalid value {error.value} for configuration {name}: {error.expected}"
    if error.other is not None:
        text += f" {BY_SETTING[error.other[0]].name}={error.other[1]}"
    return text


def _known(texts: Mapping[str, str]) -> dict[str, str]:
    """Those that this version can take: another one may have known other configs, or bounds."""
    return {
        name: text
        for name, text in texts.items()
        if name in BROKER_CONFIGS and BROKER_CONFIGS[name].dynamic and validate(name, text) is None
    }


def _replaced(config: Config, texts: Mapping[str, str]) -> Config:
    """The Config with some dynamic values, which are valid alone.  Raises ConfigError."""
    values: dict[str, Any] = {}
    for name, text in texts.items():
        known = BROKER_CONFIGS[name]
        values[known.settings[0]] = _PARSERS.get(known.kind, int)(text)
    return dataclasses.replace(config, **values) if values else config


def synonyms_of(config: BrokerConfig, values: InForce) -> list[Synonym]:
    """Where a broker config has a value, the one in force first."""
    synonyms = []
    if config.name in values.own:
        synonyms.append(Synonym(config.name, values.own[config.name], SOURCE_NODE))
    if config.name in values.all_nodes:
        text = values.all_nodes[config.name]
        synonyms.append(Synonym(config.name, text, SOURCE_DYNAMIC_DEFAULT))
    value = config.value(values.static, values.node_id)
    default = config.value(_DEFAULTS, values.node_id)
    if value != default:
        synonyms.append(Synonym(config.name, value, SOURCE_STATIC))
    if default is not None:
        synonyms.append(Synonym(config.name, default, SOURCE_DEFAULT))
    return synonyms


def describe_node(values: InForce, names: Collection[str] = ()) -> list[DescribedConfig]:
    """The broker configs of a node, by name; without names, all of them."""
    return [
        described(
            config.name,
            config.kind,
            config.documentation,
            synonyms_of(config, values),
            read_only=not config.dynamic,
        )
        for config in BROKER_CONFIGS.values()
        if not names or config.name in names
    ]


def describe_all_nodes(
    broker_configs: BrokerConfigs, names: Collection[str] = ()
) -> list[DescribedConfig]:
    """The dynamic broker configs that were set for all nodes, by name; also what a node ignores."""
    values = broker_configs.get(ALL_NODES, {})
    return [
        described(
            name,
            config.kind,
            config.documentation,
            [Synonym(name, values[name], SOURCE_DYNAMIC_DEFAULT)],
        )
        for name, config in BROKER_CONFIGS.items()
        if name in values and (not names or name in names)
    ]
