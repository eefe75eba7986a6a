"""Golden responses, written by kio."""

from __future__ import annotations

from kafka_protocol.messages import (
    api_versions,
    create_topics,
    delete_topics,
    describe_cluster,
    fetch,
    init_producer_id,
    list_offsets,
    metadata,
    offset_for_leader_epoch,
    produce,
)
from tests.protocol.cases import TOPIC_ID, ZSTD_BATCH, Case

RESPONSES = [
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        api_versions.ApiVersionsResponse(
            error_code=0, api_keys=[api_versions.ApiVersion(api_key=18, max_version=4)]
        ),
        "0000002a000000000001001200000004",
    ),
    Case(
        "kio 0.6.5",
        4,
        42,
        None,
        api_versions.ApiVersionsResponse(
            error_code=0,
            api_keys=[api_versions.ApiVersion(api_key=18, max_version=4)],
            supported_features=[
                api_versions.SupportedFeatureKey(
                    name="metadata.version", min_version=1, max_version=25
                )
            ],
            finalized_features_epoch=3,
            finalized_features=[
                api_versions.FinalizedFeatureKey(
                    name="metadata.version", max_version_level=25, min_version_level=1
                )
            ],
        ),
        "0000002a000002001200000004000000000003001702116d657461646174612e76657273696f6e00"
        "0100190001080000000000000003021702116d657461646174612e76657273696f6e0019000100",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        metadata.MetadataResponse(
            brokers=[metadata.MetadataResponseBroker(node_id=1, host="broker-1", port=9092)],
            topics=[
                metadata.MetadataResponseTopic(
                    error_code=0,
                    name="orders",
                    partitions=[
                        metadata.MetadataResponsePartition(
                            error_code=0,
                            partition_index=2,
                            leader_id=1,
                            replica_nodes=[1],
                            isr_nodes=[1],
                        )
                    ],
                ),
                metadata.MetadataResponseTopic(error_code=3, name="nope"),
            ],
        ),
        "0000002a0000000100000001000862726f6b65722d310000238400000002000000066f7264657273"
        "000000010000000000020000000100000001000000010000000100000001000300046e6f70650000"
        "0000",
    ),
    Case(
        "kio 0.6.5",
        8,
        42,
        None,
        metadata.MetadataResponse(
            brokers=[
                metadata.MetadataResponseBroker(node_id=1, host="broker-1", port=9092, rack="r1")
            ],
            cluster_id="cluster",
            controller_id=1,
            topics=[
                metadata.MetadataResponseTopic(
                    error_code=0,
                    name="orders",
                    partitions=[
                        metadata.MetadataResponsePartition(
                            error_code=0,
                            partition_index=2,
                            leader_id=1,
                            leader_epoch=9,
                            replica_nodes=[1],
                            isr_nodes=[1],
                        )
                    ],
                ),
                metadata.MetadataResponseTopic(error_code=3, name="nope"),
            ],
        ),
        "0000002a000000000000000100000001000862726f6b65722d3100002384000272310007636c7573"
        "7465720000000100000002000000066f726465727300000000010000000000020000000100000009"
        "000000010000000100000001000000010000000080000000000300046e6f70650000000000800000"
        "0080000000",
    ),
    Case(
        "kio 0.6.5",
        13,
        42,
        None,
        metadata.MetadataResponse(
            brokers=[
                metadata.MetadataResponseBroker(node_id=1, host="broker-1", port=9092, rack="r1")
            ],
            cluster_id="cluster",
            controller_id=1,
            topics=[
                metadata.MetadataResponseTopic(
                    error_code=0,
                    name="orders",
                    topic_id=TOPIC_ID,
                    partitions=[
                        metadata.MetadataResponsePartition(
                            error_code=0,
                            partition_index=2,
                            leader_id=1,
                            leader_epoch=9,
                            replica_nodes=[1],
                            isr_nodes=[1],
                        )
                    ],
                ),
                metadata.MetadataResponseTopic(error_code=3, name="nope"),
            ],
            error_code=0,
        ),
        "0000002a000000000002000000010962726f6b65722d31000023840372310008636c757374657200"
        "000001030000076f72646572730102030405060708090a0b0c0d0e0f100002000000000002000000"
        "010000000902000000010200000001010080000000000003056e6f70650000000000000000000000"
        "000000000000018000000000000000",
    ),
    Case(
        "kio 0.6.5",
        3,
        42,
        None,
        produce.ProduceResponse(
            responses=[
                produce.TopicProduceResponse(
                    name="orders",
                    partition_responses=[
                        produce.PartitionProduceResponse(index=3, error_code=0, base_offset=12345),
                        produce.PartitionProduceResponse(index=4, error_code=87, base_offset=-1),
                    ],
                )
            ],
            throttle_time_ms=5,
        ),
        "0000002a0000000100066f7264657273000000020000000300000000000000003039ffffffffffff"
        "ffff000000040057ffffffffffffffffffffffffffffffff00000005",
    ),
    Case(
        "kio 0.6.5",
        8,
        42,
        None,
        produce.ProduceResponse(
            responses=[
                produce.TopicProduceResponse(
                    name="orders",
                    partition_responses=[
                        produce.PartitionProduceResponse(
                            index=3, error_code=0, base_offset=12345, log_start_offset=7
                        ),
                        produce.PartitionProduceResponse(
                            index=4,
                            error_code=87,
                            base_offset=-1,
                            record_errors=[
                                produce.BatchIndexAndErrorMessage(
                                    batch_index_error_message="no key"
                                )
                            ],
                            error_message="bad",
                        ),
                    ],
                )
            ],
            throttle_time_ms=5,
        ),
        "0000002a0000000100066f7264657273000000020000000300000000000000003039ffffffffffff"
        "ffff000000000000000700000000ffff000000040057ffffffffffffffffffffffffffffffffffff"
        "ffffffffffff000000010000000000066e6f206b6579000362616400000005",
    ),
    Case(
        "kio 0.6.5",
        13,
        42,
        None,
        produce.ProduceResponse(
            responses=[
                produce.TopicProduceResponse(
                    topic_id=TOPIC_ID,
                    partition_responses=[
                        produce.PartitionProduceResponse(
                            index=3,
                            error_code=6,
                            base_offset=-1,
                            current_leader=produce.LeaderIdAndEpoch(leader_id=2, leader_epoch=9),
                        )
                    ],
                )
            ],
            node_endpoints=[produce.NodeEndpoint(node_id=2, host="b2", port=9093)],
        ),
        "0000002a00020102030405060708090a0b0c0d0e0f1002000000030006ffffffffffffffffffffff"
        "ffffffffffffffffffffffffff0100010009000000020000000900000000000001000e0200000002"
        "036232000023850000",
    ),
    Case(
        "kio 0.6.5",
        4,
        42,
        None,
        fetch.FetchResponse(
            responses=[
                fetch.FetchableTopicResponse(
                    topic="orders",
                    partitions=[
                        fetch.PartitionData(
                            partition_index=3,
                            error_code=0,
                            high_watermark=15,
                            last_stable_offset=15,
                            aborted_transactions=[
                                fetch.AbortedTransaction(producer_id=4711, first_offset=12)
                            ],
                            records=ZSTD_BATCH,
                        ),
                        fetch.PartitionData(
                            partition_index=4,
                            error_code=1,
                            high_watermark=9,
                            last_stable_offset=9,
                            records=bytes.fromhex(""),
                        ),
                    ],
                )
            ]
        ),
        "0000002a000000000000000100066f726465727300000002000000030000000000000000000f0000"
        "00000000000f000000010000000000001267000000000000000c0000007600000000000000000000"
        "006a0000000002771e9d510004000000020000018bcfe5687b0000018bcfe5687c00000000000012"
        "670000000000000000000328b52ffd00588501008402ba02000000066b6579980276616c75652d31"
        "0402610262026e010c0002020000000c000504010100010004a24a18000000040001000000000000"
        "00090000000000000009ffffffff00000000",
    ),
    Case(
        "kio 0.6.5",
        11,
        42,
        None,
        fetch.FetchResponse(
            error_code=0,
            responses=[
                fetch.FetchableTopicResponse(
                    topic="orders",
                    partitions=[
                        fetch.PartitionData(
                            partition_index=3,
                            error_code=0,
                            high_watermark=15,
                            last_stable_offset=15,
                            log_start_offset=2,
                            aborted_transactions=[
                                fetch.AbortedTransaction(producer_id=4711, first_offset=12)
                            ],
                            records=ZSTD_BATCH,
                        ),
                        fetch.PartitionData(
                            partition_index=4,
                            error_code=1,
                            high_watermark=9,
                            last_stable_offset=9,
                            log_start_offset=2,
                            records=bytes.fromhex(""),
                        ),
                    ],
                )
            ],
        ),
        "0000002a000000000000000000000000000100066f72646572730000000200000003000000000000"
        "0000000f000000000000000f0000000000000002000000010000000000001267000000000000000c"
        "ffffffff0000007600000000000000000000006a0000000002771e9d510004000000020000018bcf"
        "e5687b0000018bcfe5687c00000000000012670000000000000000000328b52ffd00588501008402"
        "ba02000000066b6579980276616c75652d310402610262026e010c0002020000000c000504010100"
        "010004a24a18000000040001000000000000000900000000000000090000000000000002ffffffff"
        "ffffffff00000000",
    ),
    Case(
        "kio 0.6.5",
        18,
        42,
        None,
        fetch.FetchResponse(
            error_code=0,
            responses=[
                fetch.FetchableTopicResponse(
                    topic_id=TOPIC_ID,
                    partitions=[
                        fetch.PartitionData(
                            partition_index=3,
                            error_code=0,
                            high_watermark=15,
                            last_stable_offset=15,
                            log_start_offset=2,
                            records=ZSTD_BATCH,
                        ),
                        fetch.PartitionData(
                            partition_index=4,
                            error_code=6,
                            high_watermark=-1,
                            diverging_epoch=fetch.EpochEndOffset(epoch=3, end_offset=4),
                            current_leader=fetch.LeaderIdAndEpoch(leader_id=2, leader_epoch=9),
                        ),
                    ],
                )
            ],
            node_endpoints=[fetch.NodeEndpoint(node_id=2, host="b2", port=9093, rack="r")],
        ),
        "0000002a0000000000000000000000020102030405060708090a0b0c0d0e0f100300000003000000"
        "0000000000000f000000000000000f000000000000000200ffffffff770000000000000000000000"
        "6a0000000002771e9d510004000000020000018bcfe5687b0000018bcfe5687c0000000000001267"
        "0000000000000000000328b52ffd00588501008402ba02000000066b6579980276616c75652d3104"
        "02610262026e010c0002020000000c000504010100010004a24a1800000000040006ffffffffffff"
        "ffffffffffffffffffffffffffffffffffff00ffffffff0002000d00000003000000000000000400"
        "01090000000200000009000001000f020000000203623200002385027200",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        None,
        list_offsets.ListOffsetsResponse(
            topics=[
                list_offsets.ListOffsetsTopicResponse(
                    name="orders",
                    partitions=[
                        list_offsets.ListOffsetsPartitionResponse(
                            partition_index=3, error_code=0, timestamp=1700000000123, offset=12345
                        )
                    ],
                )
            ]
        ),
        "0000002a0000000100066f7264657273000000010000000300000000018bcfe5687b0000000000003039",
    ),
    Case(
        "kio 0.6.5",
        11,
        42,
        None,
        list_offsets.ListOffsetsResponse(
            topics=[
                list_offsets.ListOffsetsTopicResponse(
                    name="orders",
                    partitions=[
                        list_offsets.ListOffsetsPartitionResponse(
                            partition_index=3,
                            error_code=0,
                            timestamp=1700000000123,
                            offset=12345,
                            leader_epoch=7,
                        )
                    ],
                )
            ]
        ),
        "0000002a000000000002076f7264657273020000000300000000018bcfe5687b0000000000003039"
        "00000007000000",
    ),
    Case(
        "kio 0.6.5",
        2,
        42,
        None,
        offset_for_leader_epoch.OffsetForLeaderEpochResponse(
            topics=[
                offset_for_leader_epoch.OffsetForLeaderTopicResult(
                    topic="orders",
                    partitions=[
                        offset_for_leader_epoch.EpochEndOffset(
                            error_code=0, partition=3, leader_epoch=7, end_offset=12345
                        )
                    ],
                )
            ]
        ),
        "0000002a000000000000000100066f726465727300000001000000000003000000070000000000003039",
    ),
    Case(
        "kio 0.6.5",
        4,
        42,
        None,
        offset_for_leader_epoch.OffsetForLeaderEpochResponse(
            topics=[
                offset_for_leader_epoch.OffsetForLeaderTopicResult(
                    topic="orders",
                    partitions=[
                        offset_for_leader_epoch.EpochEndOffset(
                            error_code=0, partition=3, leader_epoch=7, end_offset=12345
                        )
                    ],
                )
            ]
        ),
        "0000002a000000000002076f726465727302000000000003000000070000000000003039000000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        init_producer_id.InitProducerIdResponse(error_code=0, producer_id=4711, producer_epoch=2),
        "0000002a00000000000000000000000012670002",
    ),
    Case(
        "kio 0.6.5",
        5,
        42,
        None,
        init_producer_id.InitProducerIdResponse(error_code=0, producer_id=4711, producer_epoch=2),
        "0000002a000000000000000000000000001267000200",
    ),
    Case(
        "kio 0.6.5",
        2,
        42,
        None,
        create_topics.CreateTopicsResponse(
            topics=[
                create_topics.CreatableTopicResult(name="orders", error_code=0),
                create_topics.CreatableTopicResult(
                    name="dup", error_code=36, error_message="exists"
                ),
            ]
        ),
        "0000002a000000000000000200066f72646572730000ffff000364757000240006657869737473",
    ),
    Case(
        "kio 0.6.5",
        7,
        42,
        None,
        create_topics.CreateTopicsResponse(
            topics=[
                create_topics.CreatableTopicResult(
                    name="orders",
                    topic_id=TOPIC_ID,
                    error_code=0,
                    num_partitions=3,
                    replication_factor=1,
                    configs=[
                        create_topics.CreatableTopicConfigs(
                            name="retention.ms", value="1000", config_source=1
                        )
                    ],
                ),
                create_topics.CreatableTopicResult(
                    name="dup", error_code=36, error_message="exists", configs=None
                ),
            ]
        ),
        "0000002a000000000003076f72646572730102030405060708090a0b0c0d0e0f1000000000000003"
        "0001020d726574656e74696f6e2e6d73053130303000010000000464757000000000000000000000"
        "000000000000002407657869737473ffffffffffff000000",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        None,
        delete_topics.DeleteTopicsResponse(
            responses=[delete_topics.DeletableTopicResult(name="orders", error_code=0)]
        ),
        "0000002a000000000000000100066f72646572730000",
    ),
    Case(
        "kio 0.6.5",
        6,
        42,
        None,
        delete_topics.DeleteTopicsResponse(
            responses=[
                delete_topics.DeletableTopicResult(name="orders", topic_id=TOPIC_ID, error_code=0)
            ]
        ),
        "0000002a000000000002076f72646572730102030405060708090a0b0c0d0e0f100000000000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        describe_cluster.DescribeClusterResponse(
            error_code=0,
            cluster_id="cluster",
            controller_id=1,
            brokers=[
                describe_cluster.DescribeClusterBroker(
                    broker_id=1, host="broker-1", port=9092, rack="r1"
                )
            ],
        ),
        "0000002a000000000000000008636c75737465720000000102000000010962726f6b65722d310000"
        "2384037231008000000000",
    ),
    Case(
        "kio 0.6.5",
        2,
        42,
        None,
        describe_cluster.DescribeClusterResponse(
            error_code=0,
            cluster_id="cluster",
            controller_id=1,
            brokers=[
                describe_cluster.DescribeClusterBroker(
                    broker_id=1, host="broker-1", port=9092, rack="r1"
                )
            ],
        ),
        "0000002a00000000000000000108636c75737465720000000102000000010962726f6b65722d3100"
        "00238403723100008000000000",
    ),
]
