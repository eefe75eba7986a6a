"""The topic configurations that exist: names, types, defaults, and which have an effect.

Which process: the controller validates with it; shards read effective values.
Invariants: every name that CreateTopics accepts stands in TOPIC_CONFIGS; a value that is stored
passed `validate` once.  Configs with has_effect=False are accepted, stored and listed, so that
existing tools work, and a log warning says so when one is set.
Deviations: a partition has one replica, so min.insync.replicas above 1 is one of those: Kafka
refuses acks=all with NOT_ENOUGH_REPLICAS then, here it is answered once that one replica is
durable. Digits are ASCII digits, where Java also reads those of other scripts.
Source: names, types and defaults of Apache Kafka 4.x; write.caching, flush.bytes of Redpanda.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rpk_py.config import Config

SOURCE_TOPIC = 1  # set on the topic (ConfigSource.DYNAMIC_TOPIC_CONFIG)
SOURCE_STATIC_BROKER = 4  # from the broker's own settings (STATIC_BROKER_CONFIG)
SOURCE_DEFAULT = 5  # built in (DEFAULT_CONFIG)

_LONG_MAX = 2**63 - 1
_INT_MAX = 2**31 - 1
# Narrower than int() and float(), which also take "1_000" and digits of other scripts.
_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """One topic configuration.

    kind     boolean | int | long | double | string | list; Kafka's type names
    default  text of the default; for `setting` configs it comes from the broker's Config
    setting  field of Config that holds the broker-wide value
    """

    name: str
    kind: str
    default: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    setting: str | None = None
    has_effect: bool = False


class ConfigEntry(NamedTuple):
    """One effective config, as CreateTopics v5+ and DescribeConfigs report it."""

    name: str
    value: str | None
    read_only: bool
    source: int
    is_sensitive: bool


def _long(name: str, default: int, low: int = 0, high: int = _LONG_MAX) -> TopicConfig:
    return TopicConfig(name, "long", str(default), low, high)


def _int(name: str, default: int, low: int = 0, high: int = _INT_MAX) -> TopicConfig:
    return TopicConfig(name, "int", str(default), low, high)


def _bool(name: str, default: bool) -> TopicConfig:
    return TopicConfig(name, "boolean", "true" if default else "false")


_ALL = (
    TopicConfig("cleanup.policy", "list", "delete", choices=("delete", "compact")),
    _int("compression.gzip.level", -1, -1, 9),
    _int("compression.lz4.level", 9, 1, 17),
    TopicConfig(
        "compression.type",
        "string",
        "producer",
        choices=("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"),
    ),
    _int("compression.zstd.level", 3, -131_072, 22),
    _long("delete.retention.ms", 86_400_000),
    _long("file.delete.delay.ms", 60_000),
    TopicConfig("flush.bytes", "long", "", 1, _LONG_MAX, setting="flush_bytes", has_effect=True),
    _long("flush.messages", _LONG_MAX, 1),
    TopicConfig("flush.ms", "long", "", 0, _LONG_MAX, setting="flush_ms", has_effect=True),
    TopicConfig("follower.replication.throttled.replicas", "list", ""),
    _int("index.interval.bytes", 4096),
    TopicConfig("leader.replication.throttled.replicas", "list", ""),
    _long("local.retention.bytes", -2, -2),
    _long("local.retention.ms", -2, -2),
    _long("max.compaction.lag.ms", _LONG_MAX, 1),
    TopicConfig(
        "max.message.bytes", "int", "", 0, _INT_MAX, setting="max_message_bytes", has_effect=True
    ),
    _long("message.timestamp.after.max.ms", 3_600_000),
    _long("message.timestamp.before.max.ms", _LONG_MAX),
    TopicConfig(
        "message.timestamp.type",
        "string",
        "CreateTime",
        choices=("CreateTime", "LogAppendTime"),
        has_effect=True,
    ),
    TopicConfig("min.cleanable.dirty.ratio", "double", "0.5", 0.0, 1.0),
    _long("min.compaction.lag.ms", 0),
    _int("min.insync.replicas", 1, 1),
    _bool("preallocate", False),
    _bool("remote.log.copy.disable", False),
    _bool("remote.log.delete.on.disable", False),
    _bool("remote.storage.enable", False),
    _long("retention.bytes", -1, -(2**63)),
    _long("retention.ms", 604_800_000, -1),
    TopicConfig(
        "segment.bytes", "int", "", 16_384, _INT_MAX, setting="segment_bytes", has_effect=True
    ),
    _int("segment.index.bytes", 10_485_760, 4),
    _long("segment.jitter.ms", 0),
    _long("segment.ms", 604_800_000, 1),
    _bool("unclean.leader.election.enable", False),
    TopicConfig("write.caching", "boolean", "", setting="write_caching", has_effect=True),
)

TOPIC_CONFIGS: Mapping[str, TopicConfig] = {config.name: config for config in _ALL}


def validate(name: str, value: str | None) -> str | None:
    """Check one config that a client sets; None means it is fine, else what is wrong with it."""
    config = TOPIC_CONFIGS.get(name)
    if config is None:
        return f"Unknown topic config name: {name}"
    if value is None:
        return f"Null value not supported for topic configs: {name}"
    problem = _PROBLEMS[config.kind](config, value.strip())
    return None if problem is None else f"Invalid value {value} for configuration {name}: {problem}"


def _boolean_problem(config: TopicConfig, value: str) -> str | None:
    return None if value.lower() in ("true", "false") else "must be true or false"


def _number_problem(config: TopicConfig, value: str) -> str | None:
    form = _DECIMAL if config.kind == "double" else _INTEGER
    if not form.fullmatch(value):
        return f"not a number of type {config.kind}"
    number = float(value) if config.kind == "double" else int(value)
    assert config.low is not None
    assert config.high is not None
    if config.low <= number <= config.high:
        return None
    return f"must be between {config.low} and {config.high}"


def _string_problem(config: TopicConfig, value: str) -> str | None:
    if not config.choices or value in config.choices:
        return None
    return f"must be one of {', '.join(config.choices)}"


def _list_problem(config: TopicConfig, value: str) -> str | None:
    parts = [part.strip() for part in value.split(",")] if value else []
    if config.choices and not parts:
        return f"must be one or more of {', '.join(config.choices)}"
    for part in parts:
        if _string_problem(config, part) is not None:
            return f"must be one or more of {', '.join(config.choices)}"
    return None


_PROBLEMS = {
    "boolean": _boolean_problem,
    "int": _number_problem,
    "long": _number_problem,
    "double": _number_problem,
    "string": _string_problem,
    "list": _list_problem,
}


def normalize(name: str, value: str) -> str:
    """The text that is stored for a valid value: no blanks around it, booleans in lower case,
    integers without a plus or leading zeros."""
    value = value.strip()
    kind = TOPIC_CONFIGS[name].kind
    if kind in ("int", "long"):
        return str(int(value))
    return value.lower() if kind == "boolean" else value


def effective_value(name: str, configs: Mapping[str, str], broker: Config) -> str:
    """The value in force for a topic: its own, else the broker's, else the default, as text."""
    own = configs.get(name)
    return own if own is not None else _default(TOPIC_CONFIGS[name], broker)


def _default(config: TopicConfig, broker: Config) -> str:
    if config.setting is None:
        return config.default
    value = getattr(broker, config.setting)
    return str(value).lower() if isinstance(value, bool) else str(value)


def effective(configs: Mapping[str, str], broker: Config) -> list[ConfigEntry]:
    """Every topic config with its value in force and where that comes from, by name."""
    builtin = {field.name: field.default for field in Config.__dataclass_fields__.values()}
    entries = []
    for name, config in TOPIC_CONFIGS.items():
        if name in configs:
            source = SOURCE_TOPIC
        elif config.setting and getattr(broker, config.setting) != builtin[config.setting]:
            source = SOURCE_STATIC_BROKER
        else:
            source = SOURCE_DEFAULT
        value = effective_value(name, configs, broker)
        entries.append(ConfigEntry(name, value, False, source, False))
    return entries


class LogSettings(NamedTuple):
    """The configs of one topic that this version acts on, parsed."""

    segment_bytes: int
    max_message_bytes: int
    log_append_time: bool
    write_caching: bool
    flush_ms: int
    flush_bytes: int


def log_settings(configs: Mapping[str, str], broker: Config) -> LogSettings:
    """Parse what a partition needs; values were validated when they were stored."""
    return LogSettings(
        segment_bytes=int(effective_value("segment.bytes", configs, broker)),
        max_message_bytes=int(effective_value("max.message.bytes", configs, broker)),
        log_append_time=effective_value("message.timestamp.type", configs, broker)
        == "LogAppendTime",
        write_caching=effective_value("write.caching", configs, broker) == "true",
        flush_ms=int(effective_value("flush.ms", configs, broker)),
        flush_bytes=int(effective_value("flush.bytes", configs, broker)),
    )
