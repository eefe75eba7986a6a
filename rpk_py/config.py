"""The broker's configuration: one frozen object, every limit with its unit and its reason.

Which process: built and validated once in the supervisor, then inherited by every shard.
Invariants: an instance that exists is valid; nothing changes it; a name that ends in `_max` is
a bound at which the broker pauses or answers an error, never grows.
Sources: defaults are Apache Kafka's where Kafka has the setting (the comment names it).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

SHARDS_PER_HOST_MAX = 128  # node id = host_id * 128 + shard, so 127 is the last shard index

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS = ("auto", "console", "json")
IO_BACKENDS = ("auto", "liburing", "threads")
IoBackend: TypeAlias = Literal["auto", "liburing", "threads"]


class ConfigError(Exception):
    """A setting is wrong; the message names it, its value and what would be right."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"{name}={value!s} is not valid: {expected}")
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting of a broker; see `parse_setting` for how text becomes a value.

    Raises: ConfigError  on construction, naming the first setting that is out of range
    """

    # Where the data is and which part of a cluster this host is.
    data_dir: Path
    host_id: int = 0  # node id = host_id * 128 + shard; fixed for a data directory

    # Addresses.  Port 0 takes a free port, which the banner and broker.json then name.
    kafka_host: str = "127.0.0.1"
    kafka_port: int = 9092  # shard i listens on kafka_port + i
    advertise_host: str | None = None  # None: answer with the address the client connected to
    advertise_port: int | None = None  # None: the port that the shard listens on
    admin_host: str = "127.0.0.1"
    admin_port: int = 9644

    # Processes and cores.
    smp: int = 1  # shards, each a process pinned to a core
    overprovisioned: bool = False  # True: do not pin (tests, shared machines)
    io_backend: IoBackend = "auto"  # auto | liburing | threads; a forced one never falls back

    # Logs.
    log_level: str = "info"
    log_format: str = "auto"  # auto: console on a terminal, json elsewhere

    # Topics.
    auto_create_topics: bool = True  # auto.create.topics.enable
    default_partitions: int = 1  # num.partitions
    partitions_per_topic_max: int = 10_000  # also per CreateTopics request, as in Kafka
    partitions_max: int = 20_000  # per broker: each costs an open file and about 10 KB
    max_message_bytes: int = 1_048_588  # message.max.bytes, of one record batch

    # Network.
    frame_bytes_max: int = 100 * MIB  # socket.request.max.bytes; a larger frame closes
    connections_max: int = 10_000  # per shard; one file descriptor each
    listen_backlog: int = 1024  # connections the kernel holds until the shard accepts them
    # Request bytes held by handlers before the shard stops reading from its sockets.  A single
    # frame is always admitted when nothing else is in flight, however large.
    inflight_bytes_max: int = 256 * MIB
    connection_inflight_bytes_max: int = 16 * MIB  # the same for one connection
    partial_frame_bytes_max: int = 1 * GIB  # of a shard: frames that are still arriving
    connections_max_idle_s: float = 600.0  # connections.max.idle.ms: silent longer is closed
    reply_bytes_max: int = 128 * MIB  # replies of a shard not yet taken by the kernel
    fetch_max_bytes: int = 55 * MIB  # fetch.max.bytes of the broker: most bytes in one reply

    # Storage.
    cache_bytes: int = 64 * MIB  # per shard: record buffers kept for tail reads
    segment_bytes: int = 1 * GIB  # segment.bytes of a topic that does not set it
    recycle_bytes: int = 1 * GIB  # retired segments kept per shard, to be overwritten
    checkpoint_bytes: int = 64 * MIB  # log bytes that a recovery scans at most after a crash
    write_caching: bool = False  # True: acknowledge from memory; loses data at a power cut
    flush_ms: int = 100  # with write caching: oldest unsynced batch, at most
    flush_bytes: int = 256 * KIB  # with write caching: unsynced bytes of a partition, at most
    producer_id_expiration_ms: int = 86_400_000  # producer.id.expiration.ms, one day
    lock_wait_s: float = 30.0  # how long writes of a killed process may pin a file's lock

    # Supervisor.
    shutdown_timeout_s: float = 30.0  # a graceful stop longer than this is ended by SIGKILL
    restart_backoff_s: float = 0.1  # first delay before a dead shard is forked again, doubles
    restart_backoff_s_max: float = 5.0
    control_requests_max: int = 1000  # metadata requests of one shard waiting for an answer
    control_queue_max: int = 1024  # deltas waiting for one slow shard; beyond: one snapshot
    control_frame_bytes_max: int = 256 * MIB  # one message between supervisor and shard
    admin_connections_max: int = 64
    admin_header_bytes_max: int = 16 * KIB
    admin_idle_s: float = 30.0  # an admin connection without a complete request is closed
    metrics_timeout_s: float = 2.0  # how long a scrape waits for a slow shard

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(name, value, f"must be between {low} and {high}")
        for name, choices in _CHOICES:
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(name, value, f"must be one of {', '.join(choices)}")
        self._check_relations()

    def _check_relations(self) -> None:
        if self.kafka_port and self.kafka_port + self.smp - 1 > 65535:
            raise ConfigError(
                "kafka_port", self.kafka_port, f"{self.smp} shards need ports up to 65535"
            )
        if self.max_message_bytes > self.frame_bytes_max:
            raise ConfigError(
                "max_message_bytes",
                self.max_message_bytes,
                f"must not exceed frame_bytes_max ({self.frame_bytes_max})",
            )
        if self.restart_backoff_s > self.restart_backoff_s_max:
            raise ConfigError(
                "restart_backoff_s",
                self.restart_backoff_s,
                f"must not exceed restart_backoff_s_max ({self.restart_backoff_s_max})",
            )

    def node_id(self, shard_index: int) -> int:
        """The Kafka node id of a shard of this host."""
        assert 0 <= shard_index < self.smp
        return self.host_id * SHARDS_PER_HOST_MAX + shard_index

    @property
    def node_ids(self) -> list[int]:
        """The Kafka node ids of all shards of this host, ascending."""
        return [self.node_id(index) for index in range(self.smp)]


_INT32_MAX = 2**31 - 1
_BYTES_MAX = 2**40  # nobody means more than a terabyte; catches a wrong unit

_RANGES: tuple[tuple[str, float, float], ...] = (
    ("host_id", 0, 1_000_000),
    ("kafka_port", 0, 65535),
    ("advertise_port", 1, 65535),
    ("admin_port", 0, 65535),
    ("smp", 1, SHARDS_PER_HOST_MAX),
    ("default_partitions", 1, 10_000),
    ("partitions_per_topic_max", 1, 1_000_000),
    ("partitions_max", 1, 1_000_000),
    ("max_message_bytes", 1, _INT32_MAX),
    ("frame_bytes_max", 1024, _INT32_MAX),
    ("connections_max", 1, 1_000_000),
    ("listen_backlog", 1, 65535),
    ("inflight_bytes_max", 64 * KIB, _BYTES_MAX),
    ("connection_inflight_bytes_max", 1024, _BYTES_MAX),
    ("partial_frame_bytes_max", 64 * KIB, _BYTES_MAX),
    ("connections_max_idle_s", 0.01, 1e9),
    ("reply_bytes_max", 64 * KIB, _BYTES_MAX),
    ("fetch_max_bytes", 1024, _INT32_MAX),
    ("cache_bytes", 0, _BYTES_MAX),
    ("segment_bytes", 16 * KIB, _BYTES_MAX),
    ("recycle_bytes", 0, _BYTES_MAX),
    ("checkpoint_bytes", 4 * KIB, _BYTES_MAX),
    ("flush_ms", 1, _INT32_MAX),
    ("flush_bytes", 1, _BYTES_MAX),
    ("producer_id_expiration_ms", 1, 2**53),
    ("lock_wait_s", 0.0, 3600.0),
    ("shutdown_timeout_s", 0.0, 3600.0),
    ("restart_backoff_s", 0.001, 3600.0),
    ("restart_backoff_s_max", 0.001, 3600.0),
    ("control_requests_max", 1, 1_000_000),
    ("control_queue_max", 1, 1_000_000),
    ("control_frame_bytes_max", 64 * KIB, _INT32_MAX),
    ("admin_connections_max", 1, 10_000),
    ("admin_header_bytes_max", 256, MIB),
    ("admin_idle_s", 0.01, 3600.0),
    ("metrics_timeout_s", 0.01, 60.0),
)

_CHOICES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("log_level", LOG_LEVELS),
    ("log_format", LOG_FORMATS),
    ("io_backend", IO_BACKENDS),
)

_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def setting_names() -> list[str]:
    """All names that `parse_setting` knows, in the order of the class."""
    return [field.name for field in dataclasses.fields(Config)]


def parse_setting(name: str, text: str) -> Any:
    """Turn the text of one setting into the value that `Config` takes.

    Raises: ConfigError  for a name that does not exist, or text of the wrong type
    """
    kinds = {field.name: str(field.type) for field in dataclasses.fields(Config)}
    kind = kinds.get(name)
    if kind is None:
        raise ConfigError(name, text, f"no such setting; there are {', '.join(kinds)}")
    if kind == "bool":
        if text.lower() not in _BOOLS:
            raise ConfigError(name, text, "must be true or false")
        return _BOOLS[text.lower()]
    if kind == "Path":
        return Path(text)
    if kind.endswith(" | None") and text == "":
        return None
    if kind.startswith("str") or kind == "IoBackend":
        return text
    number = float if kind == "float" else int
    try:
        return number(text)
    except ValueError:
        raise ConfigError(name, text, "must be a number") from None


def parse_address(name: str, text: str, default_port: int | None = None) -> tuple[str, int | None]:
    """Split HOST:PORT, [IPV6]:PORT or, with a default port, HOST alone.

    Raises: ConfigError  naming `name` when the host is empty or the port is not 0..65535
    """
    expected = "must be HOST:PORT, like 127.0.0.1:9092 or [::1]:9092"
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigError(name, text, expected)
        port_text = rest[1:] if rest else None
    else:
        host, colon, after = text.rpartition(":")
        port_text = after if colon else None
        host = host if colon else text
        if ":" in host:
            raise ConfigError(name, text, "an IPv6 address is written in brackets: [::1]:9092")
    if not host or (port_text is None and host.isdigit()):  # a port alone, its host forgotten
        raise ConfigError(name, text, expected)
    if port_text is None:
        return host, default_port
    if not (port_text.isascii() and port_text.isdigit() and int(port_text) <= 65535):
        raise ConfigError(name, text, expected)
    return host, int(port_text)
