"""What a handler needs around it, without disk, socket or controller, and a way to call one.

`ask` sends a request through the real codec in both directions, so that a test of a handler also
shows that its answer can be encoded in that version; what a version does not carry is then gone.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka_protocol.errors import ErrorCode
from kafka_protocol.frame import decode_request, decode_response, encode_request, encode_response
from rpk_py.config import Config
from rpk_py.metadata.config_plan import plan_alter_configs
from rpk_py.metadata.requests import (
    ConfigResource,
    ConfigResult,
    DeleteResult,
    PartitionsResult,
    PartitionsSpec,
    TopicResult,
    TopicSpec,
)
from rpk_py.metadata.state import (
    ClusterState,
    Delta,
    NodeState,
    PartitionState,
    TopicState,
    apply,
)
from rpk_py.metadata.topic_plan import (
    plan_create_partitions,
    plan_create_topics,
    plan_delete_topics,
)
from rpk_py.partition_table import PartitionTable
from rpk_py.producer_ids import ProducerIds
from rpk_py.turns import Large, Turns
from storage.errors import DiskFailed

CLUSTER_ID = "c2hhcmQtb2YtYS1icm9rZX"
LOCAL_HOST = "192.0.2.7"  # the address that the client connected to
NEW_TOPIC_ID = bytes(range(16))


class FakeLog:
    """A log of (offset, timestamp) records with an epoch history."""

    def __init__(self) -> None:
        self.log_end_offset = 0
        self.epochs: list[tuple[int, int]] = [(0, 0)]
        self.records: list[tuple[int, int]] = []
        self.searches: list[tuple[str, int]] = []
        self.broken = False

    def epoch_for_offset(self, offset: int) -> int:
        return max((epoch for epoch, start in self.epochs if start <= offset), default=-1)

    def end_offset_for_epoch(self, leader_epoch: int) -> tuple[int, int]:
        if leader_epoch > self.epochs[-1][0]:
            return -1, -1
        ends = [start for _, start in self.epochs[1:]] + [self.log_end_offset]
        return max(
            (epoch, end)
            for (epoch, _), end in zip(self.epochs, ends, strict=True)
            if epoch <= leader_epoch
        )

    async def offset_for_timestamp(
        self, timestamp: int, limit_offset: int
    ) -> tuple[int, int] | None:
        return await self._search("timestamp", limit_offset, lambda found: found >= timestamp)

    async def max_timestamp_offset(self, limit_offset: int) -> tuple[int, int] | None:
        largest = max((at for offset, at in self.records if offset < limit_offset), default=0)
        return await self._search("max", limit_offset, lambda found: found == largest)

    async def _search(self, kind: str, limit_offset: int, wanted: Any) -> tuple[int, int] | None:
        self.searches.append((kind, limit_offset))
        await asyncio.sleep(0)
        if self.broken:
            raise DiskFailed("read failed")
        for offset, timestamp in self.records:
            if offset < limit_offset and wanted(timestamp):
                return offset, timestamp
        return None


@dataclass
class FakePartition:
    """A led partition; every offset is what the test sets."""

    topic: str
    index: int
    leader_epoch: int = 0
    log_start_offset: int = 0
    high_watermark: int = 0
    last_stable_offset: int = 0
    offline: bool = False
    log: FakeLog = field(default_factory=FakeLog)

    def check_leader_epoch(self, current_leader_epoch: int) -> ErrorCode:
        if self.offline:
            return ErrorCode.KAFKA_STORAGE_ERROR
        if current_leader_epoch == -1 or current_leader_epoch == self.leader_epoch:
            return ErrorCode.NONE
        if current_leader_epoch < self.leader_epoch:
            return ErrorCode.FENCED_LEADER_EPOCH
        return ErrorCode.UNKNOWN_LEADER_EPOCH


class FakePartitions:
    """The partitions that the shard leads."""

    def __init__(self) -> None:
        self.by_name: dict[tuple[str, int], FakePartition] = {}
        self.by_id: dict[tuple[bytes, int], FakePartition] = {}

    def get(self, topic: str, index: int) -> FakePartition | None:
        return self.by_name.get((topic, index))

    def get_by_id(self, topic_id: bytes, index: int) -> FakePartition | None:
        return self.by_id.get((topic_id, index))

    why_missing = PartitionTable.why_missing


class FakeMetadata:
    """A shard's replica of the metadata; its controller answers by the real rules at once."""

    def __init__(self, node_id: int, config: Config) -> None:
        self.node_id = node_id
        self.config = config
        self.state = ClusterState(revision=1, cluster_id=CLUSTER_ID)
        self.auto_created: list[str] = []
        self.requests: list[tuple[Any, ...]] = []
        self.blocks: list[tuple[int, int]] = []

    def auto_create(self, name: str) -> None:
        self.auto_created.append(name)

    async def create_topics(
        self, specs: list[TopicSpec], timeout_ms: int, validate_only: bool
    ) -> list[TopicResult]:
        self.requests.append((specs, timeout_ms, validate_only))
        await asyncio.sleep(0)
        return plan_create_topics(self.state, specs, self.config, lambda: NEW_TOPIC_ID)[0]

    async def create_partitions(
        self, specs: list[PartitionsSpec], timeout_ms: int, validate_only: bool
    ) -> list[PartitionsResult]:
        self.requests.append((specs, timeout_ms, validate_only))
        await asyncio.sleep(0)
        return plan_create_partitions(self.state, specs, self.config)[0]

    async def delete_topics(
        self, topics: list[tuple[str | None, bytes | None]], timeout_ms: int
    ) -> list[DeleteResult]:
        self.requests.append((topics, timeout_ms))
        await asyncio.sleep(0)
        return plan_delete_topics(self.state, topics)[0]

    async def alter_configs(
        self, resources: list[ConfigResource], incremental: bool, validate_only: bool
    ) -> list[ConfigResult]:
        self.requests.append((resources, incremental, validate_only))
        await asyncio.sleep(0)
        results, changes = plan_alter_configs(self.state, self.config, resources, incremental)
        if changes and not validate_only:
            apply(self.state, Delta(self.state.revision + 1, tuple(changes)))
        return results

    async def allocate_producer_ids(self) -> tuple[int, int]:
        await asyncio.sleep(0)
        if not self.blocks:
            raise TimeoutError("no block")
        return self.blocks.pop(0)


class FakeLogger:
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, event: str, **_: object) -> None:
        self.warnings.append(event)


class FakeBroker:
    """Node 1 of two, without topics."""

    def __init__(self, **settings: Any) -> None:
        config = Config(data_dir=Path("/nonexistent"), **settings)
        self.node_id = 1
        self.config = config
        self.static_config = config
        self.metadata = FakeMetadata(self.node_id, config)
        self.partitions = FakePartitions()
        self.producer_ids = ProducerIds(self.metadata)
        self.log = FakeLogger()
        self.turns = Turns(time.perf_counter, 4)
        self.metadata.state.nodes = {
            1: NodeState(1, None, 9093, "host-0"),
            0: NodeState(0, "broker.example", 9092, "host-0"),
        }

    def warn_of(self, peer: str, event: str, **facts: object) -> None:
        self.log.warning(event, **facts)

    def add_topic(self, name: str, *leaders: int, topic_id: bytes | None = None) -> TopicState:
        """A topic with a partition for each leader; those that node 1 leads are here."""
        topic = TopicState(
            name,
            topic_id or topic_id_of(name),
            [
                PartitionState(index, leader, 5, [leader], [leader])
                for index, leader in enumerate(leaders)
            ],
        )
        self.metadata.state.add_topic(topic)
        for index, leader in enumerate(leaders):
            if leader == self.node_id:
                partition = FakePartition(name, index, leader_epoch=5)
                self.partitions.by_name[name, index] = partition
                self.partitions.by_id[topic.topic_id, index] = partition
        return topic


def topic_id_of(name: str) -> bytes:
    return name.encode().ljust(16, b"\1")[:16]


@dataclass
class FakeContext:
    """One request's surroundings."""

    broker: FakeBroker
    api_version: int
    client_id: str | None = "test"
    local_host: str = LOCAL_HOST
    local_port: int = 9093
    peer: str = "192.0.2.99:40000"


def ask(handler: Any, broker: FakeBroker, version: int, request: Any) -> Any:
    """The handler's answer to a request of that version, as a client would decode it."""
    header, decoded = decode_request(memoryview(encode_request(request, version, 77, "test"))[4:])

    async def call() -> Any:
        answer = handler(FakeContext(broker, header.api_version), decoded)
        if isinstance(answer, Large):
            answer = answer.make()
        return await answer if inspect.isawaitable(answer) else answer

    frame = b"".join(encode_response(header.api_key, version, 77, asyncio.run(call())))
    correlation_id, response = decode_response(header.api_key, version, memoryview(frame)[4:])
    assert correlation_id == 77
    return response
