"""Members of consumer groups at wire level, so that hundreds of them fit into one process.

They do what clients do and nothing else: join, sync or report what they own, send heartbeats at an
interval, join again when told to. The leader of a classic group gives partition n to member n
modulo the members. Every member has a connection of its own, as clients have.
"""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Sequence
from typing import Any

from bench.wire import CLIENT_ID
from kafka_protocol.errors import ErrorCode
from kafka_protocol.frame import decode_response, encode_request
from kafka_protocol.group_records import (
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
    TopicPartition,
    decode_assignment,
    encode_assignment,
    encode_subscription,
)
from kafka_protocol.messages.consumer_group_heartbeat import (
    EPOCH_JOIN,
    ConsumerGroupHeartbeatRequest,
    TopicPartitions,
)
from kafka_protocol.messages.heartbeat import HeartbeatRequest
from kafka_protocol.messages.join_group import (
    JoinGroupRequest,
    JoinGroupRequestProtocol,
    JoinGroupResponse,
)
from kafka_protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment
from kafka_protocol.schema import info_of

SESSION_MS = 45_000  # Kafka's default
REBALANCE_MS = 60_000
PROTOCOL = "bench"
HEARTBEAT_VERSION = 4
JOIN_VERSION = 9
SYNC_VERSION = 5
CONSUMER_HEARTBEAT_VERSION = 1
AGAIN = (ErrorCode.REBALANCE_IN_PROGRESS, ErrorCode.ILLEGAL_GENERATION)
WAIT = (
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_COORDINATOR,
)
WAIT_S = 0.05


class Refused(Exception):
    """The coordinator answered what a well-behaved member does not expect."""


class Link:
    """One connection, one request in flight."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, address: str) -> Link:
        """Connect to HOST:PORT."""
        host, port = address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        connected: socket.socket = writer.get_extra_info("socket")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(reader, writer)

    async def ask(self, request: Any, version: int) -> Any:
        """Send a request and return its answer."""
        self._writer.write(encode_request(request, version, 1, CLIENT_ID))
        size = int.from_bytes(await self._reader.readexactly(4), "big")
        frame = memoryview(await self._reader.readexactly(size))
        return decode_response(info_of(type(request)).api_key, version, frame)[1]

    def close(self) -> None:
        """Close it."""
        self._writer.close()


class ClassicMember:
    """A member of a classic group. Shapes: owned  partitions of the topic that it has now."""

    def __init__(self, link: Link, group: str, topic: str, partitions: int, every_s: float) -> None:
        self.owned: frozenset[int] = frozenset()
        self.generation = -1
        self._link = link
        self._group = group
        self._topic = topic
        self._partitions = partitions
        self._every_s = every_s
        self._member_id = ""

    async def run(self) -> None:
        """Join and stay in the group until cancelled. Raises Refused."""
        while True:
            await self._join()
            while await self._is_still_in():  # noqa: ASYNC110 - an interval, no event
                await asyncio.sleep(self._every_s)

    async def _join(self) -> None:
        metadata = encode_subscription(ConsumerProtocolSubscription([self._topic]))
        while True:
            protocols = [JoinGroupRequestProtocol(PROTOCOL, metadata)]
            request = JoinGroupRequest(
                self._group, SESSION_MS, REBALANCE_MS, self._member_id, None, "consumer", protocols
            )
            answer = await self._link.ask(request, JOIN_VERSION)
            if answer.error_code == ErrorCode.MEMBER_ID_REQUIRED:
                self._member_id = answer.member_id
                continue
            if answer.error_code in WAIT:
                await asyncio.sleep(WAIT_S)
                continue
            _expect(answer.error_code, "JoinGroup")
            self._member_id = answer.member_id
            if await self._sync(answer):
                return

    async def _sync(self, joined: JoinGroupResponse) -> bool:
        """Get the assignment, hand in all of them as leader; False: join again."""
        members = sorted(member.member_id for member in joined.members)
        request = SyncGroupRequest(
            self._group,
            joined.generation_id,
            self._member_id,
            None,
            "consumer",
            PROTOCOL,
            [
                SyncGroupRequestAssignment(member, self._share(index, len(members)))
                for index, member in enumerate(members)
            ],
        )
        answer = await self._link.ask(request, SYNC_VERSION)
        if answer.error_code in AGAIN:
            return False
        _expect(answer.error_code, "SyncGroup")
        given = decode_assignment(answer.assignment).assigned_partitions
        self.owned = frozenset(index for topic in given for index in topic.partitions)
        self.generation = joined.generation_id
        return True

    def _share(self, index: int, count: int) -> bytes:
        mine = list(range(index, self._partitions, count))
        topics = [TopicPartition(self._topic, mine)]
        return encode_assignment(ConsumerProtocolAssignment(topics))

    async def _is_still_in(self) -> bool:
        request = HeartbeatRequest(self._group, self.generation, self._member_id)
        code = (await self._link.ask(request, HEARTBEAT_VERSION)).error_code
        if code in AGAIN:
            self.owned = frozenset()
            return False
        _expect(code, "Heartbeat")
        return True


class ConsumerMember:
    """A member of a KIP-848 group."""

    def __init__(
        self, link: Link, group: str, topic: str, topic_id: bytes, every_s: float | None
    ) -> None:
        self.owned: frozenset[int] = frozenset()
        self.generation = EPOCH_JOIN
        self._link = link
        self._group = group
        self._topic = topic
        self._topic_id = topic_id
        self._every_s = every_s  # None: as the coordinator says
        self._member_id = str(uuid.uuid4())

    async def run(self) -> None:
        """Join and stay in the group until cancelled. Raises Refused."""
        first = ConsumerGroupHeartbeatRequest(
            self._group,
            self._member_id,
            EPOCH_JOIN,
            rebalance_timeout_ms=REBALANCE_MS,
            subscribed_topic_names=[self._topic],
            topic_partitions=[],
        )
        request = first
        while True:
            answer = await self._link.ask(request, CONSUMER_HEARTBEAT_VERSION)
            if answer.error_code in WAIT:
                await asyncio.sleep(WAIT_S)
                continue
            _expect(answer.error_code, f"ConsumerGroupHeartbeat ({answer.error_message})")
            self.generation = answer.member_epoch
            request = ConsumerGroupHeartbeatRequest(self._group, self._member_id, self.generation)
            if answer.assignment is not None:
                given = answer.assignment.topic_partitions
                self.owned = frozenset(index for topic in given for index in topic.partitions)
                owned = [TopicPartitions(self._topic_id, sorted(self.owned))] if self.owned else []
                request.topic_partitions = owned
                continue  # what it owns now is reported at once
            seconds = answer.heartbeat_interval_ms / 1000
            await asyncio.sleep(seconds if self._every_s is None else self._every_s)


def _expect(code: int, what: str) -> None:
    if code:
        raise Refused(f"{what}: {ErrorCode(code).name}")


def is_settled(members: Sequence[ClassicMember | ConsumerMember], partitions: int) -> bool:
    """Whether they share all partitions evenly, in one generation or epoch."""
    if len({member.generation for member in members}) != 1:
        return False
    counts = [len(member.owned) for member in members]
    if sum(counts) != partitions or max(counts) - min(counts) > 1:
        return False
    return len(frozenset().union(*(member.owned for member in members))) == partitions
