"""A sound request of every served API, with something in every field, for a target.

The bases of the mutations: their topics exist and hold records, so that what is changed in one
field meets the code behind it and not merely an unknown topic. What would change the target is
only checked (validate_only) or asked of what does not exist. Fields that a version does not have
are left out when it is encoded.
"""

from __future__ import annotations

from typing import Any

from kafka_protocol.messages.alter_configs import AlterableConfig as ReplacedConfig
from kafka_protocol.messages.alter_configs import AlterConfigsRequest
from kafka_protocol.messages.alter_configs import AlterConfigsResource as ReplacedResource
from kafka_protocol.messages.api_versions import ApiVersionsRequest
from kafka_protocol.messages.consumer_group_describe import ConsumerGroupDescribeRequest
from kafka_protocol.messages.consumer_group_heartbeat import (
    ConsumerGroupHeartbeatRequest,
    TopicPartitions,
)
from kafka_protocol.messages.create_partitions import (
    CreatePartitionsAssignment,
    CreatePartitionsRequest,
    CreatePartitionsTopic,
)
from kafka_protocol.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreatableTopicConfig,
    CreateTopicsRequest,
)
from kafka_protocol.messages.delete_groups import DeleteGroupsRequest
from kafka_protocol.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsRequest,
    DeleteRecordsTopic,
)
from kafka_protocol.messages.delete_topics import DeleteTopicsRequest, DeleteTopicState
from kafka_protocol.messages.describe_cluster import DescribeClusterRequest
from kafka_protocol.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
)
from kafka_protocol.messages.describe_groups import DescribeGroupsRequest
from kafka_protocol.messages.describe_log_dirs import (
    DescribableLogDirTopic,
    DescribeLogDirsRequest,
)
from kafka_protocol.messages.describe_topic_partitions import (
    Cursor,
    DescribeTopicPartitionsRequest,
    TopicRequest,
)
from kafka_protocol.messages.fetch import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    ForgottenTopic,
    ReplicaState,
)
from kafka_protocol.messages.find_coordinator import FindCoordinatorRequest
from kafka_protocol.messages.heartbeat import HeartbeatRequest
from kafka_protocol.messages.incremental_alter_configs import (
    AlterableConfig,
    AlterConfigsResource,
    IncrementalAlterConfigsRequest,
)
from kafka_protocol.messages.init_producer_id import InitProducerIdRequest
from kafka_protocol.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from kafka_protocol.messages.leave_group import LeaveGroupRequest, MemberIdentity
from kafka_protocol.messages.list_groups import ListGroupsRequest
from kafka_protocol.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsTopic,
)
from kafka_protocol.messages.metadata import MetadataRequest, MetadataRequestTopic
from kafka_protocol.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitRequestPartition,
    OffsetCommitRequestTopic,
)
from kafka_protocol.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteRequestPartition,
    OffsetDeleteRequestTopic,
)
from kafka_protocol.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestGroup,
    OffsetFetchRequestTopic,
)
from kafka_protocol.messages.offset_for_leader_epoch import (
    OffsetForLeaderEpochRequest,
    OffsetForLeaderPartition,
    OffsetForLeaderTopic,
)
from kafka_protocol.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from kafka_protocol.messages.sync_group import SyncGroupRequest, SyncGroupRequestAssignment
from tests.hostile.rows_batches import batch
from tests.hostile.target import FIRST_MS, Target

_TOPIC = 2  # resource type
_ABSENT = "hostile-absent"
_BY_ID_SINCE = 12  # of Metadata
_GROUP = "hostile-group"
_SESSION_MS = 6_000


def requests(target: Target, version: int) -> list[Any]:
    """One request of each served API; `version` where a field has another meaning in some."""
    return [
        *_of_records(target),
        *_of_topics(target, version),
        *_of_configs(target),
        *_of_groups(target),
    ]


def _of_records(target: Target) -> list[Any]:
    topic, dump = target.topic, target.dump
    data = PartitionProduceData(dump.here, memoryview(batch()))
    wanted = FetchPartition(topic.here, topic.leader_epoch, 0, -1, 0, 1 << 20, bytes(15) + b"\1", 9)
    return [
        ProduceRequest(None, -1, 1_000, [TopicProduceData(dump.name, dump.topic_id, [data])]),
        FetchRequest(
            cluster_id="cluster",
            replica_state=ReplicaState(-1, 5),
            max_wait_ms=20,
            min_bytes=1,
            topics=[FetchTopic(topic.name, topic.topic_id, [wanted])],
            forgotten_topics_data=[ForgottenTopic(_ABSENT, bytes(15) + b"\1", [0])],
            rack_id="rack",
        ),
        ListOffsetsRequest(
            -1,
            topics=[
                ListOffsetsTopic(
                    topic.name,
                    [ListOffsetsPartition(topic.here, topic.leader_epoch, FIRST_MS)],
                )
            ],
            timeout_ms=1_000,
        ),
        DeleteRecordsRequest(
            [DeleteRecordsTopic(topic.name, [DeleteRecordsPartition(topic.here, 0)])], 1_000
        ),
        OffsetForLeaderEpochRequest(
            -2,
            [
                OffsetForLeaderTopic(
                    topic.name, [OffsetForLeaderPartition(topic.here, topic.leader_epoch, 0)]
                )
            ],
        ),
        InitProducerIdRequest(None, 60_000, 7, 1),
        DescribeLogDirsRequest([DescribableLogDirTopic(topic.name, [topic.here])]),
    ]


def _of_topics(target: Target, version: int) -> list[Any]:
    name = target.topic.name
    topics = [MetadataRequestTopic(name=name)]
    if version >= _BY_ID_SINCE:
        topics.append(MetadataRequestTopic(target.topic.topic_id, None))
    assignment = CreatableReplicaAssignment(0, [target.node_id])
    configs = [CreatableTopicConfig("retention.ms", "1000")]
    return [
        MetadataRequest(topics, False, True, True),
        ApiVersionsRequest("software", "1.0"),
        CreateTopicsRequest(
            [
                CreatableTopic(_ABSENT, 1, 1, configs=configs),
                CreatableTopic(_ABSENT + "-2", -1, -1, [assignment]),
            ],
            1_000,
            True,
        ),
        DeleteTopicsRequest([DeleteTopicState(_ABSENT)], [_ABSENT], 1_000),
        CreatePartitionsRequest(
            [CreatePartitionsTopic(name, 3, [CreatePartitionsAssignment([target.node_id])])],
            1_000,
            True,
        ),
        DescribeTopicPartitionsRequest([TopicRequest(name)], 2_000, Cursor(name, 0)),
        DescribeClusterRequest(True),
    ]


def _of_configs(target: Target) -> list[Any]:
    name = target.topic.name
    replaced = [ReplacedConfig("retention.ms", "1000")]
    changed = [AlterableConfig("retention.ms", 0, "1000")]
    return [
        DescribeConfigsRequest(
            [DescribeConfigsResource(_TOPIC, name, ["retention.ms"])], True, True
        ),
        AlterConfigsRequest([ReplacedResource(_TOPIC, name, replaced)], True),
        IncrementalAlterConfigsRequest([AlterConfigsResource(_TOPIC, name, changed)], True),
    ]


def _of_groups(target: Target) -> list[Any]:
    return [*_of_classic_groups(), *_of_offsets(target), *_of_consumer_groups(target)]


def _of_classic_groups() -> list[Any]:
    """As a member that the group does not have, so that none waits for others."""
    member, instance = "nobody", "instance"
    return [
        FindCoordinatorRequest(_GROUP, 0, [_GROUP]),
        JoinGroupRequest(
            _GROUP,
            _SESSION_MS,
            _SESSION_MS,
            member,
            instance,
            "consumer",
            [JoinGroupRequestProtocol("range", b"\0\0\0\0\0\0\0\0\0\0")],
            "why",
        ),
        SyncGroupRequest(
            _GROUP,
            1,
            member,
            instance,
            "consumer",
            "range",
            [SyncGroupRequestAssignment(member, b"\0\0")],
        ),
        HeartbeatRequest(_GROUP, 1, member, instance),
        LeaveGroupRequest(_GROUP, member, [MemberIdentity(member, instance, "why")]),
        ListGroupsRequest(["Stable"], ["classic"]),
        DescribeGroupsRequest([_GROUP], True),
        DeleteGroupsRequest([_ABSENT]),
    ]


def _of_offsets(target: Target) -> list[Any]:
    topic = target.topic
    commit = OffsetCommitRequestPartition(topic.here, 1, topic.leader_epoch, "text")
    wanted = OffsetFetchRequestTopic(topic.name, topic.topic_id, [topic.here])
    deleted = OffsetDeleteRequestPartition(topic.here)
    return [
        OffsetCommitRequest(
            _GROUP,
            -1,
            "",
            None,
            -1,
            [OffsetCommitRequestTopic(topic.name, topic.topic_id, [commit])],
        ),
        OffsetFetchRequest(
            _GROUP, [wanted], [OffsetFetchRequestGroup(_GROUP, None, -1, [wanted])], True
        ),
        OffsetDeleteRequest(_ABSENT, [OffsetDeleteRequestTopic(topic.name, [deleted])]),
    ]


def _of_consumer_groups(target: Target) -> list[Any]:
    owned = TopicPartitions(target.topic.topic_id, [target.topic.here])
    return [
        ConsumerGroupHeartbeatRequest(
            _GROUP,
            "nobody",
            1,
            "instance",
            "rack",
            _SESSION_MS,
            [target.topic.name],
            "a.*",
            "uniform",
            [owned],
        ),
        ConsumerGroupDescribeRequest([_ABSENT], True),
    ]
