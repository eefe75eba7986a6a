"""The broker's configuration: one frozen object, every setting with its default and its meaning.

Which process: built and validated once in the supervisor, then inherited by every shard.
Invariants: an instance that exists is valid; nothing changes it; a name that ends in `_max` is
a bound at which the broker pauses or answers an error, never grows.  A name says its unit: `_ms`,
`_s` or `_bytes`.  What stands here is all there is to a setting: `--print-config`, `--help`,
docs/CONFIGURATION.md, validation and the other sources (settings_sources.py) read SETTINGS.
Sources: defaults are Apache Kafka's where Kafka has the setting.
"""

# ruff: noqa: RUF009 - a default made by setting() belongs to the class, as is meant

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from kafka_protocol.wire import ITEMS_MAX
from rpk_py.config_types import DECIMAL, INTEGER
from rpk_py.setting import ConfigError, describe, setting

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

SHARDS_PER_HOST_MAX = 128  # node id = host_id * 128 + shard, so 127 is the last shard index

IO_BACKENDS = ("auto", "liburing", "ring", "threads")
IoBackend: TypeAlias = Literal["auto", "liburing", "ring", "threads"]

_PORT_MAX = 65535
_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1
_BYTES_MAX = 2**40  # nobody means more than a terabyte; catches a wrong unit
_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting of a broker.

    Raises: ConfigError  on construction, naming the first setting that is out of range
    """

    data_dir: Path = setting(
        Path("data"),
        "directory of topics and metadata, made where missing; relative to where the broker starts",
        section="Data and identity",
    )
    host_id: int = setting(
        0,
        "number of this host in a cluster; node id = host_id * 128 + shard; fixed for a data "
        "directory",
        low=0,
        high=1_000_000,
    )
    rack: str | None = setting(
        None, "failure domain that clients are told (broker.rack); unset: the host's name"
    )
    kafka_host: str = setting(
        "127.0.0.1",
        "address to listen on for Kafka clients; 0.0.0.0 or :: for all of this machine's",
        section="Addresses",
    )
    kafka_port: int = setting(
        9092,
        "port of shard 0; shard i listens on kafka_port + i; 0: a free port for each",
        low=0,
        high=_PORT_MAX,
    )
    advertise_host: str | None = setting(
        None, "host that clients are told to connect to; unset: the address they connected to"
    )
    advertise_port: int | None = setting(
        None,
        "port that clients are told for shard 0, plus i for shard i; unset: the one it listens on",
        low=1,
        high=_PORT_MAX,
    )
    admin_host: str = setting("127.0.0.1", "address to listen on for HTTP: readiness and metrics")
    admin_port: int = setting(9644, "port for HTTP; 0: a free one", low=0, high=_PORT_MAX)
    smp: int = setting(
        1,
        "shards: each a process, a core, a port and a Kafka node; auto: one a usable core",
        low=1,
        high=SHARDS_PER_HOST_MAX,
        section="Processes and cores",
    )
    overprovisioned: bool = setting(
        False, "do not pin shards to cores of their own: tests and shared machines"
    )
    io_backend: IoBackend = setting(
        "auto",
        "how to write to disk; one that is named is used or refused, never replaced by another",
        choices=IO_BACKENDS,
    )
    log_level: str = setting(
        "info",
        "least severe events that are logged, on standard error",
        choices=("debug", "info", "warning", "error", "critical"),
        section="Logging",
    )
    log_format: str = setting(
        "auto",
        "form of a log line; auto: console on a terminal, json elsewhere",
        choices=("auto", "console", "json"),
    )
    auto_create_topics: bool = setting(
        True, "create a topic when a client first uses its name", section="Topics"
    )
    default_partitions: int = setting(
        1, "partitions of a topic whose creator does not say", low=1, high=10_000
    )
    partitions_per_topic_max: int = setting(
        10_000,
        "partitions of one topic, and of all topics of one request to create some",
        low=1,
        high=1_000_000,
    )
    partitions_max: int = setting(
        20_000,
        "partitions of this broker; each costs an open file and about 10 KB of memory",
        low=1,
        high=1_000_000,
    )
    max_message_bytes: int = setting(
        1_048_588,
        "largest record batch that is accepted; a topic's max.message.bytes wins",
        low=1,
        high=_INT32_MAX,
    )
    frame_bytes_max: int = setting(
        100 * MIB,
        "largest request; a larger one closes its connection",
        low=1024,
        high=_INT32_MAX,
        section="Network",
    )
    connections_max: int = setting(
        10_000, "client connections of one shard; each costs an open file", low=1, high=1_000_000
    )
    connections_per_address_max: int = setting(
        _INT32_MAX, "the same of one client address, at one shard", low=1, high=_INT32_MAX
    )
    listen_backlog: int = setting(
        1024,
        "connections of one shard that the kernel holds until they are accepted",
        low=1,
        high=65535,
    )
    inflight_bytes_max: int = setting(
        256 * MIB,
        "requests of one shard being worked on; beyond it, its sockets are not read, but one "
        "request is always let in, and of each connection a small one that produces nothing",
        low=64 * KIB,
        high=_BYTES_MAX,
    )
    connection_inflight_bytes_max: int = setting(
        16 * MIB, "the same for one connection", low=1024, high=_BYTES_MAX
    )
    connection_requests_max: int = setting(
        1000,
        "requests of one connection being worked on, which only Produce can be several of; beyond"
        " it, the connection is not read",
        low=1,
        high=10**6,
    )
    request_items_max: int = setting(
        ITEMS_MAX,
        "topics, partitions and other array items of one request, all its arrays together; the"
        " connection of a larger one is closed",
        low=1000,
        high=10**7,
    )
    partial_frame_bytes_max: int = setting(
        256 * MIB,
        "requests of one shard that have arrived in part; beyond it, the connection that holds the"
        " most of them is closed",
        low=64 * KIB,
        high=_BYTES_MAX,
    )
    large_requests_max: int = setting(
        4,
        "requests and replies about thousands of topics or partitions that one shard works on at a"
        " time; others wait",
        low=1,
        high=1000,
    )
    connections_max_idle_s: float = setting(
        600.0, "a connection that is silent for longer is closed", low=0.01, high=10**9
    )
    reply_bytes_max: int = setting(
        128 * MIB,
        "replies of one shard that clients have not taken yet; beyond it, the connection that"
        " leaves the most is closed",
        low=64 * KIB,
        high=_BYTES_MAX,
    )
    fetch_max_bytes: int = setting(
        55 * MIB, "most record bytes in one reply to a fetch", low=1024, high=_INT32_MAX
    )
    fetch_sessions_max: int = setting(
        1000,
        "incremental fetch sessions of one shard; further clients name all their partitions in"
        " each fetch",
        low=0,
        high=_INT32_MAX,
    )
    fetch_session_bytes_max: int = setting(
        64 * MIB,
        "memory for incremental fetch sessions of one shard, each partition of one about 1 KiB",
        low=0,
        high=_BYTES_MAX,
    )
    cache_bytes: int = setting(
        64 * MIB,
        "newest records that one shard keeps in memory for its consumers",
        low=0,
        high=_BYTES_MAX,
        section="Storage",
    )
    segment_bytes: int = setting(
        1 * GIB,
        "size at which a log goes on in a new file; a topic's segment.bytes wins",
        low=16 * KIB,
        high=_INT32_MAX,
    )
    recycle_bytes: int = setting(
        1 * GIB,
        "retired log files that one shard keeps, to be overwritten by new ones",
        low=0,
        high=_BYTES_MAX,
    )
    storage_min_free_bytes: int = setting(
        256 * MIB,
        "the hard limit: with less free on the disk producers are refused until there is more; at"
        " most 5% of the file system",
        low=0,
        high=_INT64_MAX,
    )
    storage_space_alert_free_threshold_bytes: int = setting(
        0,
        "the soft limit: with less free there is a warning, what has had its time is deleted at"
        " once, and no file is kept to be used again",
        low=0,
        high=_INT64_MAX,
    )
    storage_space_alert_free_threshold_percent: float = setting(
        5.0,
        "the same as a share of the file system; the larger one counts, and twice the hard limit",
        low=0.0,
        high=50.0,
    )
    storage_space_trim: bool = setting(
        False,
        "below the soft limit, delete the oldest closed segments before their time, of topics whose"
        " retention ends: cleanup.policy delete, and retention.ms or retention.bytes not -1",
    )
    storage_reserve_bytes: int = setting(
        16 * MIB,
        "disk space that all shards together take ahead, and give back when the disk is full, so"
        " that metadata, groups, log starts and deletions go on; at most 1% of the file system",
        low=0,
        high=_BYTES_MAX,
    )
    checkpoint_bytes: int = setting(
        64 * MIB,
        "most of a partition's log that is read again after a crash",
        low=4 * KIB,
        high=_BYTES_MAX,
    )
    write_caching: bool = setting(
        False,
        "acknowledge records before they are on disk: a power cut loses them; a topic's "
        "write.caching wins",
    )
    flush_ms: int = setting(
        100,
        "with write caching: longest that a record waits for the disk; a topic's flush.ms wins",
        low=1,
        high=_INT32_MAX,
    )
    flush_bytes: int = setting(
        256 * KIB,
        "with write caching: most of a partition that waits for the disk; a topic's "
        "flush.bytes wins",
        low=1,
        high=_BYTES_MAX,
    )
    producer_id_expiration_ms: int = setting(
        86_400_000,
        "an idempotent producer that is silent for longer is forgotten",
        low=1,
        high=_INT32_MAX,
    )
    lock_wait_s: float = setting(
        30.0,
        "how long a start waits for writes of a killed broker that are still under way",
        low=0.0,
        high=3600.0,
    )
    log_cleanup_policy: str = setting(
        "delete",
        "what happens to old records: deleted after a time or beyond a size, or compacted to the"
        " newest of each key; a topic's cleanup.policy wins",
        choices=("delete", "compact", "delete,compact", "compact,delete"),
        section="Retention",
    )
    log_retention_ms: int | None = setting(
        None,
        "age beyond which old segments go, -1: any; unset: log_retention_minutes; a topic's"
        " retention.ms wins",
        low=-1,
        high=_INT64_MAX,
    )
    log_retention_minutes: int | None = setting(
        None, "the same in minutes; unset: log_retention_hours", low=-1, high=_INT32_MAX
    )
    log_retention_hours: int = setting(168, "the same in hours", low=-1, high=_INT32_MAX)
    log_retention_bytes: int = setting(
        -1,
        "size of a partition beyond which old segments go, -1: any; a topic's retention.bytes wins",
        low=-1,
        high=_INT64_MAX,
    )
    log_retention_check_interval_ms: int = setting(
        300_000, "how often a shard looks for what has had its time", low=1, high=_INT64_MAX
    )
    log_roll_ms: int | None = setting(
        None,
        "age at which a log goes on in a new file, since only whole files are deleted; unset:"
        " log_roll_hours; a topic's segment.ms wins",
        low=1,
        high=_INT64_MAX,
    )
    log_roll_hours: int = setting(168, "the same in hours", low=1, high=_INT32_MAX)
    log_roll_jitter_ms: int | None = setting(
        None,
        "random part of that age, so that partitions do not roll at once; unset:"
        " log_roll_jitter_hours; a topic's segment.jitter.ms wins",
        low=0,
        high=_INT64_MAX,
    )
    log_roll_jitter_hours: int = setting(0, "the same in hours", low=0, high=_INT32_MAX)
    segment_rewrite: bool = setting(
        True,
        "write log files that are full again without padding, where that saves much",
        section="Rewriting and compaction",
    )
    log_cleaner_enable: bool = setting(True, "compact topics whose cleanup.policy contains compact")
    log_cleaner_backoff_ms: int = setting(
        15_000,
        "how often a shard looks for log files to rewrite or to compact",
        low=1,
        high=_INT32_MAX,
    )
    log_cleaner_io_max_bytes_per_second: float = setting(
        sys.float_info.max,
        "most that rewriting and compaction read and write together",
        low=64.0 * KIB,
        high=sys.float_info.max,
    )
    log_cleaner_dedupe_buffer_bytes: int = setting(
        128 * MIB,
        "memory for the keys of a log that is compacted; what does not fit goes through a file",
        low=1 * MIB,
        high=_BYTES_MAX,
    )
    log_cleaner_min_cleanable_ratio: float = setting(
        0.5,
        "share of a log that must be uncompacted before compaction starts; a topic's"
        " min.cleanable.dirty.ratio wins",
        low=0.0,
        high=1.0,
    )
    log_cleaner_min_compaction_lag_ms: int = setting(
        0,
        "shortest time that a record stays uncompacted; a topic's min.compaction.lag.ms wins",
        low=0,
        high=_INT64_MAX,
    )
    log_cleaner_max_compaction_lag_ms: int = setting(
        _INT64_MAX,
        "longest that a record stays uncompacted; a topic's max.compaction.lag.ms wins",
        low=1,
        high=_INT64_MAX,
    )
    log_cleaner_delete_retention_ms: int = setting(
        86_400_000,
        "how long compaction keeps the mark of a deleted key; a topic's delete.retention.ms wins",
        low=0,
        high=_INT64_MAX,
    )
    offsets_topic_num_partitions: int = setting(
        16,
        "partitions of __consumer_offsets, over which groups are spread; fixed once it exists",
        low=1,
        high=1000,
        section="Consumer groups",
    )
    offsets_topic_bytes: int = setting(
        16 * MIB,
        "log of one partition of __consumer_offsets that is kept; beyond it, and beyond twice what"
        " is in force, what is in force is written anew and the rest given up",
        low=64 * KIB,
        high=_BYTES_MAX,
    )
    offsets_retention_minutes: int = setting(
        7 * 24 * 60,
        "committed offsets are kept so long after their group became empty",
        low=1,
        high=_INT32_MAX,
    )
    offsets_retention_check_interval_ms: int = setting(
        600_000, "how often expired offsets are looked for", low=1, high=_INT32_MAX
    )
    offset_metadata_max_bytes: int = setting(
        4096, "text that a client may commit with an offset", low=0, high=32767
    )
    group_initial_rebalance_delay_ms: int = setting(
        0,
        "how long a new group of the classic protocol waits for more members before it assigns",
        low=0,
        high=_INT32_MAX,
    )
    group_min_session_timeout_ms: int = setting(
        6_000, "shortest session timeout that a classic member may ask for", low=1, high=_INT32_MAX
    )
    group_max_session_timeout_ms: int = setting(
        1_800_000, "longest such session timeout", low=1, high=_INT32_MAX
    )
    group_max_size: int = setting(
        _INT32_MAX, "members of one classic group", low=1, high=_INT32_MAX
    )
    group_consumer_session_timeout_ms: int = setting(
        45_000,
        "a member of the consumer protocol (KIP-848) that is silent for longer is removed",
        low=1,
        high=_INT32_MAX,
    )
    group_consumer_heartbeat_interval_ms: int = setting(
        5_000, "how often such a member is told to send a heartbeat", low=1, high=_INT32_MAX
    )
    group_consumer_max_size: int = setting(
        _INT32_MAX, "members of one group of the consumer protocol", low=1, high=_INT32_MAX
    )
    shutdown_timeout_s: float = setting(
        30.0,
        "a graceful stop that takes longer is ended by SIGKILL",
        low=0.0,
        high=3600.0,
        section="Supervision",
    )
    restart_backoff_s: float = setting(
        0.1,
        "delay before a shard that died again is started: none the first time, then this, doubling",
        low=0.001,
        high=3600.0,
    )
    restart_backoff_s_max: float = setting(
        5.0,
        "longest such delay; who has served for longer starts at once, and who has not served for"
        " that long is not named by Metadata",
        low=0.001,
        high=3600.0,
    )
    shard_silent_s_max: float = setting(
        10.0,
        "a shard that metadata changes wait for, and that gives no sign of life for so long, is"
        " killed and started again",
        low=0.1,
        high=3600.0,
    )
    control_requests_max: int = setting(
        1000, "metadata requests of one shard that wait for the controller", low=1, high=1_000_000
    )
    control_queue_max: int = setting(
        1024,
        "metadata changes that wait for a slow shard; beyond it, or beyond control_frame_bytes_max"
        " of bytes, it gets the whole state anew",
        low=1,
        high=1_000_000,
    )
    control_frame_bytes_max: int = setting(
        256 * MIB,
        "largest message between the supervisor and a shard, and so of all the metadata: clients"
        " may add to it while it is below 3/4 of this",
        low=1 * MIB,
        high=_INT32_MAX,
    )
    admin_connections_max: int = setting(64, "HTTP connections at a time", low=1, high=10_000)
    admin_header_bytes_max: int = setting(
        16 * KIB, "largest head of an HTTP request", low=256, high=MIB
    )
    admin_idle_s: float = setting(
        30.0,
        "an HTTP connection that takes longer over a request, or over its reply, is closed",
        low=0.01,
        high=3600.0,
    )
    metrics_timeout_s: float = setting(
        2.0, "how long a request for metrics waits for a slow shard", low=0.01, high=60.0
    )

    def __post_init__(self) -> None:
        for about in SETTINGS.values():
            value = getattr(self, about.name)
            if not about.is_valid(value):
                raise ConfigError(about.name, value, about.expected)
        self._check_relations()

    def _check_relations(self) -> None:
        for name in ("log_retention_ms", "log_retention_minutes", "log_retention_hours"):
            if getattr(self, name) == 0:
                raise ConfigError(name, 0, "must be -1 (unlimited) or at least 1")
        for name in ("kafka_port", "advertise_port"):
            if (port := getattr(self, name)) and port + self.smp - 1 > _PORT_MAX:
                expected = f"the last shard's port would be {port + self.smp - 1}, with"
                raise ConfigError(name, port, expected, ("smp", self.smp))
        shard_ports = range(self.kafka_port, self.kafka_port + self.smp) if self.kafka_port else ()
        if self.admin_port in shard_ports and _overlap(self.kafka_host, self.admin_host):
            shard = f"shard {self.admin_port - self.kafka_port} listens there, by"
            raise ConfigError("admin_port", self.admin_port, shard, ("kafka_port", self.kafka_port))
        for name, bound in (
            ("max_message_bytes", "frame_bytes_max"),
            ("restart_backoff_s", "restart_backoff_s_max"),
            ("default_partitions", "partitions_per_topic_max"),
            ("group_min_session_timeout_ms", "group_max_session_timeout_ms"),
        ):
            value, most = getattr(self, name), getattr(self, bound)
            if value > most:
                raise ConfigError(name, value, "must not exceed", (bound, most))

    def node_id(self, shard_index: int) -> int:
        """The Kafka node id of a shard of this host."""
        assert 0 <= shard_index < self.smp
        return self.host_id * SHARDS_PER_HOST_MAX + shard_index

    @property
    def node_ids(self) -> list[int]:
        """The Kafka node ids of all shards of this host, ascending."""
        return [self.node_id(index) for index in range(self.smp)]


def _overlap(host: str, other: str) -> bool:
    """Whether one port on both hosts is the same, as far as that can be told without resolving."""
    for wildcard, address in ((host, other), (other, host)):
        if wildcard == "::" or (wildcard == "0.0.0.0" and (":" not in address or address == "::")):
            return True
    return host == other


SETTINGS = {field.name: describe(field) for field in dataclasses.fields(Config)}


def parse_setting(name: str, text: str) -> Any:
    """Turn the text of one setting into the value that `Config` takes, not yet checked further.

    Raises: ConfigError  for a name that does not exist, or text of the wrong type
    """
    about = SETTINGS.get(name)
    if about is None:
        raise ConfigError(name, text, "there is no such setting")
    if about.optional and text == "":
        return None
    if about.kind == "Path" and text == "":
        raise ConfigError(name, text, about.expected)  # or it would be the working directory
    try:
        return _PARSERS[about.kind](text)
    except (KeyError, ValueError):
        raise ConfigError(name, text, f"must be {about.type_words}") from None


def _matched(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(text)
    return text


_PARSERS: dict[str, Callable[[str], Any]] = {
    "int": lambda text: int(_matched(INTEGER, text)),
    "float": lambda text: float(_matched(DECIMAL, text)),
    "bool": lambda text: _BOOLS[text.lower()],
    "str": str,
    "Path": Path,
}
