"""What the coordinator of a shard is set to; made from the broker's Config by context.py."""

from __future__ import annotations

from kafka_protocol.lazy_dataclass import dataclass
from rpk_py.groups.classic_values import GroupSettings
from rpk_py.groups.consumer_values import ConsumerSettings


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """Settings of groups, of both protocols, and of the topic that they live in.

    offsets_partitions    of __consumer_offsets, when it is made
    offsets_bytes         of the log of one of them, beyond which it is rewritten
    offsets_retention_ms  how long committed offsets outlive their group's members
    expiry_interval_s     between two looks for what has expired
    metadata_max          characters of text that may be committed with an offset
    """

    classic: GroupSettings
    consumer: ConsumerSettings
    offsets_partitions: int
    offsets_bytes: int
    offsets_retention_ms: int
    expiry_interval_s: float
    metadata_max: int
