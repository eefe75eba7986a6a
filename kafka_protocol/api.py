"""The APIs that are served, and their versions: one table that also answers ApiVersions.

What is not in SUPPORTED is not advertised, and a request for it closes the connection.

Source: the ranges of Apache Kafka 4.3 for the same keys. Produce is advertised from 0 although
0-2 are refused, because librdkafka before 2.11.1 turns compression off otherwise (KAFKA-18659).
"""

from __future__ import annotations

from dataclasses import dataclass

from kafka_protocol.api_key import ApiKey
from kafka_protocol.messages import (
    alter_configs,
    api_versions,
    consumer_group_describe,
    consumer_group_heartbeat,
    create_partitions,
    create_topics,
    delete_groups,
    delete_records,
    delete_topics,
    describe_cluster,
    describe_configs,
    describe_groups,
    describe_log_dirs,
    describe_topic_partitions,
    fetch,
    find_coordinator,
    heartbeat,
    incremental_alter_configs,
    init_producer_id,
    join_group,
    leave_group,
    list_groups,
    list_offsets,
    metadata,
    offset_commit,
    offset_delete,
    offset_fetch,
    offset_for_leader_epoch,
    produce,
    sync_group,
)
from kafka_protocol.schema import info_of

__all__ = ["REQUEST_BYTES_MAX", "SUPPORTED", "ApiKey", "ApiSpec", "request_bytes_max"]

# Bytes of a request frame that carries no records. The largest that makes sense is a Fetch of
# 20,000 partitions (see wire.ITEMS_MAX), each in a topic with a name of 249 bytes: below 6 MB.
REQUEST_BYTES_MAX = 8 << 20


@dataclass(frozen=True, slots=True)
class ApiSpec:
    """A served API; the versions are inclusive.

    request_bytes_max is the largest request frame, its 4-byte size not included; None leaves it to
    the broker's own limit.
    """

    key: ApiKey
    min_version: int
    max_version: int
    advertised_min: int
    first_flexible: int
    request: type
    response: type
    request_bytes_max: int | None = REQUEST_BYTES_MAX


def _spec(
    request: type,
    response: type,
    advertised_min: int | None = None,
    request_bytes_max: int | None = REQUEST_BYTES_MAX,
) -> ApiSpec:
    info = info_of(request)
    first, last = info.versions
    return ApiSpec(
        key=ApiKey(info.api_key),
        min_version=first,
        max_version=last,
        advertised_min=first if advertised_min is None else advertised_min,
        first_flexible=info.flexible,
        request=request,
        response=response,
        request_bytes_max=request_bytes_max,
    )


SUPPORTED: dict[int, ApiSpec] = {
    spec.key: spec
    for spec in (
        _spec(
            produce.ProduceRequest,
            produce.ProduceResponse,
            advertised_min=0,
            request_bytes_max=None,
        ),
        _spec(fetch.FetchRequest, fetch.FetchResponse),
        _spec(list_offsets.ListOffsetsRequest, list_offsets.ListOffsetsResponse),
        _spec(metadata.MetadataRequest, metadata.MetadataResponse),
        _spec(api_versions.ApiVersionsRequest, api_versions.ApiVersionsResponse),
        _spec(create_topics.CreateTopicsRequest, create_topics.CreateTopicsResponse),
        _spec(delete_topics.DeleteTopicsRequest, delete_topics.DeleteTopicsResponse),
        _spec(delete_records.DeleteRecordsRequest, delete_records.DeleteRecordsResponse),
        _spec(describe_log_dirs.DescribeLogDirsRequest, describe_log_dirs.DescribeLogDirsResponse),
        _spec(init_producer_id.InitProducerIdRequest, init_producer_id.InitProducerIdResponse),
        _spec(
            offset_for_leader_epoch.OffsetForLeaderEpochRequest,
            offset_for_leader_epoch.OffsetForLeaderEpochResponse,
        ),
        _spec(describe_configs.DescribeConfigsRequest, describe_configs.DescribeConfigsResponse),
        _spec(alter_configs.AlterConfigsRequest, alter_configs.AlterConfigsResponse),
        _spec(
            incremental_alter_configs.IncrementalAlterConfigsRequest,
            incremental_alter_configs.IncrementalAlterConfigsResponse,
        ),
        _spec(
            create_partitions.CreatePartitionsRequest, create_partitions.CreatePartitionsResponse
        ),
        _spec(
            describe_topic_partitions.DescribeTopicPartitionsRequest,
            describe_topic_partitions.DescribeTopicPartitionsResponse,
        ),
        _spec(describe_cluster.DescribeClusterRequest, describe_cluster.DescribeClusterResponse),
        _spec(offset_commit.OffsetCommitRequest, offset_commit.OffsetCommitResponse),
        _spec(offset_fetch.OffsetFetchRequest, offset_fetch.OffsetFetchResponse),
        _spec(find_coordinator.FindCoordinatorRequest, find_coordinator.FindCoordinatorResponse),
        _spec(join_group.JoinGroupRequest, join_group.JoinGroupResponse),
        _spec(heartbeat.HeartbeatRequest, heartbeat.HeartbeatResponse),
        _spec(leave_group.LeaveGroupRequest, leave_group.LeaveGroupResponse),
        _spec(sync_group.SyncGroupRequest, sync_group.SyncGroupResponse),
        _spec(describe_groups.DescribeGroupsRequest, describe_groups.DescribeGroupsResponse),
        _spec(list_groups.ListGroupsRequest, list_groups.ListGroupsResponse),
        _spec(delete_groups.DeleteGroupsRequest, delete_groups.DeleteGroupsResponse),
        _spec(
            consumer_group_describe.ConsumerGroupDescribeRequest,
            consumer_group_describe.ConsumerGroupDescribeResponse,
        ),
        _spec(offset_delete.OffsetDeleteRequest, offset_delete.OffsetDeleteResponse),
        _spec(
            consumer_group_heartbeat.ConsumerGroupHeartbeatRequest,
            consumer_group_heartbeat.ConsumerGroupHeartbeatResponse,
        ),
    )
}


def request_bytes_max(api_key: int) -> int | None:
    """The largest request frame of this API without its size, None for the broker's own limit.

    For the first bytes of a frame, so that a connection refuses it before it makes room for it.
    An API that is not served gets the small limit, its body is never read.
    """
    spec = SUPPORTED.get(api_key)
    return REQUEST_BYTES_MAX if spec is None else spec.request_bytes_max
