"""What handlers are given: the shard's parts, and the facts of one request.

Built by shard.py alone; handlers reach everything through it, so a test can hand them others.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from kafka_protocol.api_key import ApiKey
from rpk_py.config import Config
from rpk_py.fetch_sessions import FetchSessions
from rpk_py.groups.classic_values import GroupSettings
from rpk_py.groups.consumer_values import ConsumerSettings
from rpk_py.groups.coordinator import GroupCoordinator
from rpk_py.groups.lag import Watermarks
from rpk_py.groups.records import partitions_of, topics_of
from rpk_py.groups.settings import CoordinatorSettings
from rpk_py.log_limit import DEBUG_TIMES, LogLimit
from rpk_py.metadata.replica import MetadataReplica
from rpk_py.metrics import ShardMetrics
from rpk_py.partition_table import PartitionTable
from rpk_py.producer_ids import ProducerIds
from rpk_py.turns import Turns

# Handlers count the errors of these where they arise.
COUNT_THEIR_ERRORS: Final = frozenset({ApiKey.PRODUCE, ApiKey.FETCH})


def _group_settings(config: Config) -> CoordinatorSettings:
    return CoordinatorSettings(
        classic=GroupSettings(
            topics_of=topics_of,
            partitions_of=partitions_of,
            session_timeout_ms_min=config.group_min_session_timeout_ms,
            session_timeout_ms_max=config.group_max_session_timeout_ms,
            initial_rebalance_delay_ms=config.group_initial_rebalance_delay_ms,
            members_max=config.group_max_size,
        ),
        consumer=ConsumerSettings(
            session_timeout_ms=config.group_consumer_session_timeout_ms,
            heartbeat_interval_ms=config.group_consumer_heartbeat_interval_ms,
            members_max=config.group_consumer_max_size,
        ),
        offsets_partitions=config.offsets_topic_num_partitions,
        offsets_bytes=config.offsets_topic_bytes,
        offsets_retention_ms=config.offsets_retention_minutes * 60_000,
        expiry_interval_s=config.offsets_retention_check_interval_ms / 1000,
        metadata_max=config.offset_metadata_max_bytes,
    )


def _told(suppressed: int) -> dict[str, int]:
    return {"suppressed": suppressed} if suppressed else {}


@dataclass(slots=True)
class Broker:
    """One shard, as its handlers see it.

    `inflight_bytes` are request bytes whose reply is not ready, `unsent_bytes` reply bytes that
    the kernel has not taken from connections that it stopped. `paused` are the connections that
    wait for `inflight_bytes` to fall, in order. `config` is what is in force: another object once
    a broker config was changed; `static_config` is what the broker was started with.
    `skips_errors_of`: APIs whose responses need not be searched for error codes, because handlers
    count them where they arise.
    """

    node_id: int
    config: Config
    metadata: MetadataReplica
    partitions: PartitionTable
    producer_ids: ProducerIds
    metrics: ShardMetrics
    loop: asyncio.AbstractEventLoop
    log: Any
    inflight_bytes: int = 0
    unsent_bytes: int = 0
    partial_bytes: int = 0
    stopping: bool = False
    paused: OrderedDict[Any, None] = field(default_factory=OrderedDict)
    clock_s: Callable[[], float] = time.perf_counter  # for durations
    log_limit: LogLimit = field(default_factory=LogLimit)
    skips_errors_of: frozenset[int] = COUNT_THEIR_ERRORS
    static_config: Config = field(init=False)
    turns: Turns = field(init=False)
    fetch_sessions: FetchSessions = field(init=False)
    groups: GroupCoordinator = field(init=False)
    watermarks: Watermarks = field(default_factory=Watermarks)

    def __post_init__(self) -> None:
        self.static_config = self.config
        self.turns = Turns(self.clock_s, self.config.large_requests_max)
        self.fetch_sessions = FetchSessions(
            self.config.fetch_sessions_max,
            self.config.fetch_session_bytes_max,
            lambda: self.clock_s(),
            random.SystemRandom(),
        )
        self.groups = GroupCoordinator(
            self.node_id,
            _group_settings(self.config),
            self.metadata,
            self.partitions,
            self.turns,
            self.loop,
            self.log,
        )

    def resume_paused(self) -> None:
        """Let connections go on that wait for `inflight_bytes`, in turns: one that fills it again
        goes behind the others."""
        for _ in range(len(self.paused)):
            if not self.paused or self.inflight_bytes > self.config.inflight_bytes_max:
                return
            connection, _ = self.paused.popitem(last=False)
            connection.resume()

    def look_for_errors(self, debugs: bool) -> None:
        """Whether every response is searched for error codes, to be logged: only when debugging."""
        self.skips_errors_of = frozenset() if debugs else COUNT_THEIR_ERRORS

    def warn_of(self, peer: str, event: str, **facts: Any) -> None:
        """Log what is wrong with a client, unless there are too many such lines.

        peer   its address and port
        event  one of a fixed set of names; what differs is in the facts
        """
        suppressed = self.log_limit.admit(event, peer.rpartition(":")[0], self.clock_s())
        if suppressed is not None:
            self.log.warning(event, peer=peer, **facts, **_told(suppressed))

    def debug_of(self, peer: str, event: str, **facts: Any) -> None:
        """The same, more of it, for who debugs; ask `log.debugs` before facts are collected."""
        address = peer.rpartition(":")[0]
        suppressed = self.log_limit.admit(event, address, self.clock_s(), DEBUG_TIMES)
        if suppressed is not None:
            self.log.debug(event, peer=peer, **facts, **_told(suppressed))

    def clock_ms(self) -> int:
        """Milliseconds since the epoch, for timestamps."""
        return time.time_ns() // 1_000_000


@dataclass(slots=True, frozen=True)
class RequestContext:
    """Facts of a request that are not in its body.

    `local_host` and `local_port` are the address that this client connected to, which is the one
    it can certainly reach.
    """

    broker: Broker
    api_version: int
    client_id: str | None
    local_host: str
    local_port: int
    peer: str

    @property
    def client_host(self) -> str:
        """The client's address as Kafka writes it of group members: /127.0.0.1."""
        return "/" + self.peer.rpartition(":")[0].strip("[]")
