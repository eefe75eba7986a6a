"""The topic configurations that exist: names, types, defaults, and which have an effect.

Which process: the controller validates with it; shards read effective values.
Invariants: every name that CreateTopics accepts stands in TOPIC_CONFIGS; a value that is stored
passed `validate` once.  Configs with has_effect=False are accepted, stored and listed, so that
existing tools work, and a log warning says so when one is set.
Deviations: a partition has one replica, so min.insync.replicas above 1 is one of those: Kafka
refuses acks=all with NOT_ENOUGH_REPLICAS then, here it is answered once that one replica is
durable.
Source: names, types and defaults of Apache Kafka 4.x; write.caching, flush.bytes of Redpanda.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from rpk_py.broker_configs import BY_SETTING, InForce, synonyms_of
from rpk_py.config import Config
from rpk_py.config_types import (
    INT_MAX,
    LONG_MAX,
    SOURCE_DEFAULT,
    SOURCE_TOPIC,
    ConfigEntry,
    DescribedConfig,
    Synonym,
    described,
    list_parts,
    value_problem,
)
from rpk_py.config_types import normalize as normalize_text


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """One topic configuration.

    kind     boolean | int | long | double | string | list; Kafka's type names
    low, high, choices, also    see value_problem
    default  text of the default; None for `setting` configs
    setting  field of Config that holds the broker-wide value
    coarser  fields that hold it where that one is unset, in order, and milliseconds of their unit
    """

    name: str
    kind: str
    default: str | None
    documentation: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    also: int | None = None
    setting: str | None = None
    coarser: tuple[tuple[str, int], ...] = ()
    has_effect: bool = False


def _long(name: str, default: int, documentation: str, low: int = 0) -> TopicConfig:
    return TopicConfig(name, "long", str(default), documentation, low, LONG_MAX)


def _int(
    name: str, default: int, documentation: str, low: int = 0, high: int = INT_MAX
) -> TopicConfig:
    return TopicConfig(name, "int", str(default), documentation, low, high)


def _bool(name: str, default: bool, documentation: str) -> TopicConfig:
    return TopicConfig(name, "boolean", "true" if default else "false", documentation)


def _list(
    name: str, default: str, documentation: str, choices: tuple[str, ...] = ()
) -> TopicConfig:
    return TopicConfig(name, "list", default, documentation, choices=choices)


def _of_broker(
    name: str,
    kind: str,
    setting: str,
    documentation: str,
    low: int | None = None,
    coarser: tuple[tuple[str, int], ...] = (),
) -> TopicConfig:
    """A config whose default is the broker's, and that has an effect."""
    high = {"int": INT_MAX, "long": LONG_MAX}.get(kind)
    return TopicConfig(
        *(name, kind, None, documentation, low, high),
        setting=setting,
        coarser=coarser,
        has_effect=True,
    )


_MINUTE_MS = 60_000
_HOUR_MS = 3_600_000


_ALL = (
    TopicConfig(
        "cleanup.policy",
        "list",
        None,
        "what happens to old records: deleted, or compacted to the newest of each key",
        choices=("compact", "delete"),
        setting="log_cleanup_policy",
        has_effect=True,
    ),
    TopicConfig(
        "compression.gzip.level",
        "int",
        "-1",
        "level where the broker compresses with gzip; -1: gzip's own default",
        1,
        9,
        also=-1,
    ),
    _int("compression.lz4.level", 9, "level where the broker compresses with lz4", 1, 17),
    TopicConfig(
        "compression.type",
        "string",
        "producer",
        "how records are stored; producer: as they came",
        choices=("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"),
    ),
    _int("compression.zstd.level", 3, "level where the broker compresses with zstd", -131_072, 22),
    _of_broker(
        "delete.retention.ms",
        "long",
        "log_cleaner_delete_retention_ms",
        "how long compaction keeps the mark of a deleted key",
        0,
    ),
    _long("file.delete.delay.ms", 60_000, "how long a file outlives its removal from the log"),
    _of_broker(
        "flush.bytes",
        "long",
        "flush_bytes",
        "with write.caching: most of a partition that waits for the disk",
        1,
    ),
    _long("flush.messages", LONG_MAX, "records after which Kafka forces a flush; see flush.ms", 1),
    _of_broker(
        "flush.ms",
        "long",
        "flush_ms",
        "with write.caching: longest that a record waits for the disk",
        0,
    ),
    _list(
        "follower.replication.throttled.replicas",
        "",
        "partition:node pairs, or *, that replicate slowly on the follower's side",
    ),
    _int("index.interval.bytes", 4096, "bytes of the log between two entries of its index"),
    _list(
        "leader.replication.throttled.replicas",
        "",
        "partition:node pairs, or *, that replicate slowly on the leader's side",
    ),
    _long("local.retention.bytes", -2, "bytes kept here with tiered storage; -2: as retention", -2),
    _long("local.retention.ms", -2, "time kept here with tiered storage; -2: as retention", -2),
    _of_broker(
        "max.compaction.lag.ms",
        "long",
        "log_cleaner_max_compaction_lag_ms",
        "longest that a record stays uncompacted",
        1,
    ),
    _of_broker(
        "max.message.bytes", "int", "max_message_bytes", "largest record batch that is accepted", 0
    ),
    _long("message.timestamp.after.max.ms", 3_600_000, "how far in the future a timestamp may lie"),
    _long("message.timestamp.before.max.ms", LONG_MAX, "how far in the past a timestamp may lie"),
    TopicConfig(
        "message.timestamp.type",
        "string",
        "CreateTime",
        "whether records keep their producer's time or get the broker's",
        choices=("CreateTime", "LogAppendTime"),
        has_effect=True,
    ),
    TopicConfig(
        "min.cleanable.dirty.ratio",
        "double",
        None,
        "share of the log that must be uncompacted before compaction starts",
        0.0,
        1.0,
        setting="log_cleaner_min_cleanable_ratio",
        has_effect=True,
    ),
    _of_broker(
        "min.compaction.lag.ms",
        "long",
        "log_cleaner_min_compaction_lag_ms",
        "shortest time that a record stays uncompacted",
        0,
    ),
    _int("min.insync.replicas", 1, "replicas that must have a record before acks=all answers", 1),
    _bool("preallocate", False, "whether a new segment takes its whole size at once"),
    _bool("remote.log.copy.disable", False, "whether tiered storage gets no more segments"),
    _bool(
        "remote.log.delete.on.disable", False, "whether turning tiering off deletes what is there"
    ),
    _bool("remote.storage.enable", False, "whether old segments move to tiered storage"),
    _of_broker(
        "retention.bytes",
        "long",
        "log_retention_bytes",
        "size of a partition beyond which old segments go; -1: any",
        -(2**63),
    ),
    _of_broker(
        "retention.ms",
        "long",
        "log_retention_ms",
        "age beyond which old segments go; -1: any",
        -1,
        (("log_retention_minutes", _MINUTE_MS), ("log_retention_hours", _HOUR_MS)),
    ),
    _of_broker(
        "segment.bytes",
        "int",
        "segment_bytes",
        "size at which the log goes on in a new file",
        16_384,
    ),
    _int("segment.index.bytes", 10_485_760, "largest index of a segment", 4),
    _of_broker(
        "segment.jitter.ms",
        "long",
        "log_roll_jitter_ms",
        "random part of segment.ms, so that segments do not roll at once",
        0,
        (("log_roll_jitter_hours", _HOUR_MS),),
    ),
    _of_broker(
        "segment.ms",
        "long",
        "log_roll_ms",
        "age at which the log goes on in a new file",
        1,
        (("log_roll_hours", _HOUR_MS),),
    ),
    _bool(
        "unclean.leader.election.enable",
        False,
        "whether a replica that lacks acknowledged records may become leader",
    ),
    _of_broker(
        "write.caching",
        "boolean",
        "write_caching",
        "acknowledge records before they are on disk: a power cut loses them",
    ),
)

TOPIC_CONFIGS: Mapping[str, TopicConfig] = {config.name: config for config in _ALL}


def validate(name: str, value: str | None) -> str | None:
    """Check one config that a client sets; None means it is fine, else what is wrong with it."""
    config = TOPIC_CONFIGS.get(name)
    if config is None:
        return f"Unknown topic config name: {name}"
    if value is None:
        return f"Null value not supported for topic configs: {name}"
    problem = value_problem(
        config.kind, value, config.low, config.high, config.choices, config.also
    )
    return None if problem is None else f"Invalid value {value} for configuration {name}: {problem}"


def normalize(name: str, value: str) -> str:
    """The text that is stored for a valid value."""
    return normalize_text(TOPIC_CONFIGS[name].kind, value)


def effective_value(name: str, configs: Mapping[str, str], broker: Config) -> str:
    """The value in force for a topic: its own, else the broker's, else the default, as text."""
    own = configs.get(name)
    if own is not None:
        return own
    config = TOPIC_CONFIGS[name]
    if config.setting is None:
        assert config.default is not None
        return config.default
    value = BY_SETTING[config.setting].value(broker, None)
    for setting, unit_ms in config.coarser:
        if value is None and (text := BY_SETTING[setting].value(broker, None)) is not None:
            value = str(max(int(text) * unit_ms, -1))
    assert value is not None
    return value


def describe(
    configs: Mapping[str, str], values: InForce, names: Collection[str] = ()
) -> list[DescribedConfig]:
    """Topic configs with their values in force at a node and where those come from, by name.

    configs  what was set on the topic
    names    of those to tell; none: all
    """
    return [
        described(
            name,
            config.kind,
            config.documentation,
            _synonyms(config, configs, values),
            value=effective_value(name, configs, values.config) if config.coarser else None,
        )
        for name, config in TOPIC_CONFIGS.items()
        if not names or name in names
    ]


def _synonyms(config: TopicConfig, configs: Mapping[str, str], values: InForce) -> list[Synonym]:
    own = configs.get(config.name)
    synonyms = [] if own is None else [Synonym(config.name, own, SOURCE_TOPIC)]
    if config.setting is None:
        synonyms.append(Synonym(config.name, config.default, SOURCE_DEFAULT))
    else:
        for setting in (config.setting, *(setting for setting, _ in config.coarser)):
            synonyms += synonyms_of(BY_SETTING[setting], values)
    return synonyms


def effective(configs: Mapping[str, str], values: InForce) -> list[ConfigEntry]:
    """What CreateTopics answers: `describe`, without what only DescribeConfigs tells."""
    return [config.entry for config in describe(configs, values)]


class LogSettings(NamedTuple):
    """The configs of one topic that this version acts on, parsed."""

    segment_bytes: int
    max_message_bytes: int
    log_append_time: bool
    write_caching: bool
    flush_ms: int
    flush_bytes: int
    segment_ms: int
    segment_jitter_ms: int
    deletes: bool
    retention_ms: int
    retention_bytes: int
    compacts: bool
    dirty_ratio_min: float
    compaction_lag_ms_min: int
    compaction_lag_ms_max: int
    delete_retention_ms: int


def log_settings(configs: Mapping[str, str], broker: Config) -> LogSettings:
    """Parse what a partition needs; values were validated when they were stored."""

    def value(name: str) -> str:
        return effective_value(name, configs, broker)

    policies = list_parts(value("cleanup.policy"))
    segment_ms, compaction_lag_ms_max = (
        int(value("segment.ms")),
        int(value("max.compaction.lag.ms")),
    )
    if "compact" in policies:  # what is in the newest segment is not compacted
        segment_ms = min(segment_ms, compaction_lag_ms_max)
    return LogSettings(
        segment_bytes=int(value("segment.bytes")),
        max_message_bytes=int(value("max.message.bytes")),
        log_append_time=value("message.timestamp.type") == "LogAppendTime",
        write_caching=value("write.caching") == "true",
        flush_ms=int(value("flush.ms")),
        flush_bytes=int(value("flush.bytes")),
        segment_ms=segment_ms,
        segment_jitter_ms=int(value("segment.jitter.ms")),
        deletes="delete" in policies,
        retention_ms=int(value("retention.ms")),
        retention_bytes=int(value("retention.bytes")),
        compacts="compact" in policies,
        dirty_ratio_min=float(value("min.cleanable.dirty.ratio")),
        compaction_lag_ms_min=int(value("min.compaction.lag.ms")),
        compaction_lag_ms_max=compaction_lag_ms_max,
        delete_retention_ms=int(value("delete.retention.ms")),
    )


def deletes(configs: Mapping[str, str], broker: Config) -> bool:
    """Whether a topic's cleanup.policy contains delete."""
    return "delete" in list_parts(effective_value("cleanup.policy", configs, broker))
