"""A Kafka that rows are sent to: what exists there, and how a connection to it behaves.

Works on any broker that speaks to 127.0.0.1-style plaintext clients: it makes its own topics, with
names that no other run has, and removes them. Everything goes through plain blocking sockets with
a deadline, so a broker that hangs is told from one that closes.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from kafka_protocol.frame import decode_response, encode_request
from kafka_protocol.group_records import ConsumerProtocolSubscription, encode_subscription
from kafka_protocol.messages.consumer_group_heartbeat import ConsumerGroupHeartbeatRequest
from kafka_protocol.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from kafka_protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from kafka_protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from kafka_protocol.messages.find_coordinator import FindCoordinatorRequest
from kafka_protocol.messages.init_producer_id import InitProducerIdRequest
from kafka_protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from kafka_protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment
from kafka_protocol.record_batch import build_batch
from kafka_protocol.schema import info_of

DEADLINE_S = 2.0  # by which everything hostile is answered or closed
SETUP_S = 30.0
FIRST_MS = 1_700_000_000_000
SESSION_MS = 60_000
HELD_RECORDS = 6  # in partition `here` of the topic: two batches


class Closed(Exception):
    """The broker closed the connection."""


class Topic(NamedTuple):
    """A topic of this run. here, elsewhere: a partition that the bootstrap node leads, and one
    that another node does (-1 where there is no other)."""

    name: str
    topic_id: bytes
    here: int
    elsewhere: int
    leader_epoch: int
    elsewhere_leader: int
    elsewhere_epoch: int


class Member(NamedTuple):
    """A member of a group; its generation, or epoch."""

    group: str
    member_id: str
    generation: int


class Socket:
    """A connection: frames in, frames out, until a deadline."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=SETUP_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes, deadline_s: float = DEADLINE_S) -> None:
        """Raises Closed, or TimeoutError when the broker does not take it."""
        self._socket.settimeout(deadline_s)
        try:
            self._socket.sendall(data)
        except ConnectionError as error:
            raise Closed(str(error)) from error

    def end(self) -> None:
        """Say that nothing more is sent."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise Closed(str(error)) from error

    def frame(self, deadline: float) -> memoryview:
        """The next frame without its size. Raises Closed, or TimeoutError at the deadline."""
        size = int.from_bytes(self._exactly(4, deadline), "big", signed=True)
        if size < 4:
            raise ValueError(f"a frame of {size} bytes")
        return memoryview(self._exactly(size, deadline))

    def _exactly(self, size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                received = self._socket.recv_into(view)
            except ConnectionError as error:
                raise Closed(str(error)) from error
            if received == 0:
                raise Closed(f"{len(view)} of {size} bytes missing")
            view = view[received:]
        return data

    def ask(self, request: Any, version: int, timeout_s: float = SETUP_S) -> Any:
        """Send a sound request and return its answer."""
        self.send(encode_request(request, version, 1, "good"), timeout_s)
        frame = self.frame(time.monotonic() + timeout_s)
        return decode_response(info_of(type(request)).api_key, version, frame)[1]


class Target:
    """A broker and what this run made on it. A context manager: leaving removes the topics."""

    def __init__(self, host: str, port: int) -> None:
        self.address = (host, port)
        self._run = f"hostile-{secrets.token_hex(4)}"
        self._good = Socket(self.address)
        self._serial = 0
        self._topics: list[str] = []
        metadata = self._good.ask(MetadataRequest([]), 12)
        self.nodes: int = len(metadata.brokers)
        self.node_ids: list[int] = [node.node_id for node in metadata.brokers]
        self.node_id = next(
            (node.node_id for node in metadata.brokers if node.port == port),
            metadata.brokers[0].node_id,
        )
        self.topic = self.create_topic("held")
        self.compacted = self.create_topic("compacted", {"cleanup.policy": "compact"})
        self.small = self.create_topic("small", {"max.message.bytes": "1000"})
        self.dump = self.create_topic("dump")  # where batches go that are not what they say
        self.dotted = self.create_topic("with.dot")
        self._health = self.create_topic("health")
        while self._good.ask(InitProducerIdRequest(None, 60_000), 4).error_code:
            time.sleep(0.02)  # another Kafka gets its first block of ids now
        for _ in range(2):
            records = [(b"key", b"value %d" % i) for i in range(HELD_RECORDS // 2)]
            self.append(self.topic, bytes(build_batch(records, timestamp_ms=FIRST_MS)))

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None:
            states = [DeleteTopicState(name) for name in self._topics]
            self._good.ask(DeleteTopicsRequest(states, timeout_ms=20_000), 6)
        self._good.close()

    def new_name(self, prefix: str = "new") -> str:
        """A topic name that nobody has used."""
        self._serial += 1
        return f"{self._run}-{prefix}-{self._serial}"

    def create_topic(self, prefix: str = "new", configs: Mapping[str, str] | None = None) -> Topic:
        """A new topic, led by every node, that is ready."""
        name = self.new_name(prefix)
        self._topics.append(name)
        items = [CreatableTopicConfig(*item) for item in (configs or {}).items()]
        wanted = CreatableTopic(name, max(self.nodes, 2), 1, configs=items)
        answer = self._good.ask(CreateTopicsRequest([wanted], 20_000), 7)
        assert answer.topics[0].error_code == 0, answer
        deadline = time.monotonic() + SETUP_S
        while True:
            found = self.look_up(name)
            if found is not None and self._serves(found):
                return found
            assert time.monotonic() < deadline, f"{name} does not get ready"
            time.sleep(0.02)  # another Kafka; rpk-py answers when it is

    def look_up(self, name: str) -> Topic | None:
        """The topic as Metadata has it, once all of its partitions have leaders."""
        wanted = MetadataRequest([MetadataRequestTopic(name=name)], False)
        topic = self._good.ask(wanted, 12).topics[0]
        if topic.error_code or any(each.leader_id < 0 for each in topic.partitions):
            return None
        here = elsewhere = None
        for each in sorted(topic.partitions, key=lambda each: each.partition_index):
            if each.leader_id == self.node_id:
                here = here or each
            else:
                elsewhere = elsewhere or each
        assert here is not None, f"node {self.node_id} leads nothing of {name}"
        return Topic(
            name,
            topic.topic_id,
            here.partition_index,
            elsewhere.partition_index if elsewhere else -1,
            here.leader_epoch,
            elsewhere.leader_id if elsewhere else -1,
            elsewhere.leader_epoch if elsewhere else -1,
        )

    def _serves(self, topic: Topic) -> bool:
        """Whether the node that Metadata names as the leader knows that, too."""
        wanted = ListOffsetsTopic(topic.name, [ListOffsetsPartition(topic.here, timestamp=-1)])
        answer = self._good.ask(ListOffsetsRequest(-1, topics=[wanted]), 7)
        return not answer.topics[0].partitions[0].error_code

    def append(self, topic: Topic, batch: bytes) -> int:
        """Produce a sound batch as a good client does; returns its offset."""
        data = PartitionProduceData(topic.here, memoryview(batch))
        wanted = ProduceRequest(
            None, -1, 10_000, [TopicProduceData(topic.name, partition_data=[data])]
        )
        part = self._good.ask(wanted, 9).responses[0].partition_responses[0]
        assert part.error_code == 0, part
        return int(part.base_offset)

    def new_group(self, size: int = 0) -> str:
        """A group that nobody has used, and that the bootstrap node coordinates; its id has at
        least so many bytes."""
        deadline = time.monotonic() + SETUP_S
        while True:
            name = self.new_name("group").ljust(size, "x")
            answer = self._good.ask(FindCoordinatorRequest(coordinator_keys=[name]), 4)
            found = answer.coordinators[0]
            if not found.error_code and found.node_id == self.node_id:
                return name
            assert time.monotonic() < deadline, f"no group for node {self.node_id}: {found}"

    def join(self, instance_id: str | None = None) -> Member:
        """A member, the only one and stable, of a new classic group that reads the topic."""
        group = self.new_group()
        subscription = encode_subscription(ConsumerProtocolSubscription([self.topic.name]))
        wanted = JoinGroupRequest(
            group,
            SESSION_MS,
            SESSION_MS,
            "",
            instance_id,
            "consumer",
            [JoinGroupRequestProtocol("range", subscription)],
        )
        joined = self._good.ask(wanted, 5)
        if joined.error_code:  # it was given an id
            wanted.member_id = joined.member_id
            joined = self._good.ask(wanted, 5)
        assert joined.error_code == 0, joined
        assigned = [SyncGroupRequestAssignment(joined.member_id, b"")]
        sync = SyncGroupRequest(
            group, joined.generation_id, joined.member_id, instance_id, None, None, assigned
        )
        answer = self._good.ask(sync, 4)
        assert answer.error_code == 0, answer
        return Member(group, joined.member_id, joined.generation_id)

    def join_consumer(self, instance_id: str | None = None) -> Member:
        """The only member of a new group of the consumer protocol."""
        group, member_id = self.new_group(), self.new_name("member")
        wanted = ConsumerGroupHeartbeatRequest(
            group, member_id, 0, instance_id, None, SESSION_MS, [self.topic.name], None, None, []
        )
        joined = self._good.ask(wanted, 1)
        assert joined.error_code == 0, joined
        return Member(group, member_id, joined.member_epoch)

    def try_append(self, topic: Topic, batch: bytes) -> None:
        """Produce a batch that a broker may refuse, or may never say anything of."""
        data = PartitionProduceData(topic.here, memoryview(batch))
        topics = [TopicProduceData(topic.name, partition_data=[data])]
        connection = Socket(self.address)
        try:
            connection.ask(ProduceRequest(None, -1, 10_000, topics), 9)
        except (Closed, TimeoutError):
            pass
        finally:
            connection.close()

    def check_health(self) -> float:
        """A good client on another connection writes a record and reads it back; returns how
        long that took, in seconds. Raises: AssertionError, Closed, TimeoutError"""
        self._serial += 1
        started = time.monotonic()
        batch = build_batch([(None, b"%d" % self._serial)], timestamp_ms=FIRST_MS)
        offset = self.append(self._health, bytes(batch))
        wanted = FetchPartition(self._health.here, fetch_offset=offset, partition_max_bytes=1 << 20)
        topics = [FetchTopic(self._health.name, partitions=[wanted])]
        answer = self._good.ask(FetchRequest(max_wait_ms=5_000, min_bytes=1, topics=topics), 12)
        records = bytes(answer.responses[0].partitions[0].records)
        assert records[17:] == bytes(batch[17:]), "what was read is not what was written"
        return time.monotonic() - started
