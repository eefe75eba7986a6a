"""Golden requests: recorded from librdkafka, kcat and kafka-python, or written by kio."""

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
from tests.protocol.cases import NONE_BATCH, TOPIC_ID, ZSTD_BATCH, Case

REQUESTS = [
    Case(
        "librdkafka 2.16.0",
        3,
        1,
        "rd",
        api_versions.ApiVersionsRequest(
            client_software_name="confluent-kafka-python",
            client_software_version="2.16.1-rdkafka-2.16.0",
        ),
        "0012000300000001000272640017636f6e666c75656e742d6b61666b612d707974686f6e16322e31"
        "362e312d72646b61666b612d322e31362e3000",
    ),
    Case(
        "librdkafka 2.16.0",
        4,
        2,
        "rd",
        init_producer_id.InitProducerIdRequest(transaction_timeout_ms=-1),
        "0016000400000002000272640000ffffffffffffffffffffffffffff00",
    ),
    Case(
        "librdkafka 2.16.0",
        10,
        3,
        "rd",
        produce.ProduceRequest(
            acks=-1,
            timeout_ms=30000,
            topic_data=[
                produce.TopicProduceData(
                    name="t0",
                    partition_data=[produce.PartitionProduceData(records=memoryview(NONE_BATCH))],
                )
            ],
        ),
        "0000000a00000003000272640000ffff00007530020374300200000000eb01000000000000000000"
        "0000de0000000002d34692460000000000020000018bcfe5687b0000018bcfe5687c000000000000"
        "126700000000000000000003ba02000000066b6579980276616c75652d3176616c75652d3176616c"
        "75652d3176616c75652d3176616c75652d3176616c75652d3176616c75652d3176616c75652d3176"
        "616c75652d3176616c75652d3176616c75652d3176616c75652d3176616c75652d3176616c75652d"
        "3176616c75652d3176616c75652d3176616c75652d3176616c75652d3176616c75652d3176616c75"
        "652d310402610262026e010c0002020000000c000504010100000000",
    ),
    Case(
        "librdkafka 2.16.0",
        13,
        2,
        "rdc",
        metadata.MetadataRequest(
            topics=[
                metadata.MetadataRequestTopic(name="t0"),
                metadata.MetadataRequestTopic(name="t1"),
                metadata.MetadataRequestTopic(name="t2"),
                metadata.MetadataRequestTopic(name="t3"),
                metadata.MetadataRequestTopic(name="t4"),
            ],
            allow_auto_topic_creation=False,
        ),
        "0003000d000000020003726463000600000000000000000000000000000000037430000000000000"
        "00000000000000000000000374310000000000000000000000000000000000037432000000000000"
        "0000000000000000000000037433000000000000000000000000000000000003743400000000",
    ),
    Case(
        "librdkafka 2.16.0",
        16,
        2,
        "rdc",
        fetch.FetchRequest(
            max_wait_ms=500,
            min_bytes=1,
            max_bytes=52428800,
            isolation_level=1,
            topics=[
                fetch.FetchTopic(
                    topic_id=bytes.fromhex("000102030405060708090a0b0c0d0e00"),
                    partitions=[
                        fetch.FetchPartition(current_leader_epoch=0, partition_max_bytes=1048576)
                    ],
                ),
                fetch.FetchTopic(
                    topic_id=bytes.fromhex("000102030405060708090a0b0c0d0e01"),
                    partitions=[
                        fetch.FetchPartition(current_leader_epoch=0, partition_max_bytes=1048576)
                    ],
                ),
                fetch.FetchTopic(
                    topic_id=bytes.fromhex("000102030405060708090a0b0c0d0e02"),
                    partitions=[
                        fetch.FetchPartition(current_leader_epoch=0, partition_max_bytes=1048576)
                    ],
                ),
                fetch.FetchTopic(
                    topic_id=bytes.fromhex("000102030405060708090a0b0c0d0e03"),
                    partitions=[
                        fetch.FetchPartition(current_leader_epoch=0, partition_max_bytes=1048576)
                    ],
                ),
                fetch.FetchTopic(
                    topic_id=bytes.fromhex("000102030405060708090a0b0c0d0e04"),
                    partitions=[
                        fetch.FetchPartition(current_leader_epoch=0, partition_max_bytes=1048576)
                    ],
                ),
            ],
        ),
        "0001001000000002000372646300000001f400000001032000000100000000ffffffff0600010203"
        "0405060708090a0b0c0d0e000200000000000000000000000000000000ffffffffffffffffffffff"
        "ff001000000000000102030405060708090a0b0c0d0e010200000000000000000000000000000000"
        "ffffffffffffffffffffffff001000000000000102030405060708090a0b0c0d0e02020000000000"
        "0000000000000000000000ffffffffffffffffffffffff001000000000000102030405060708090a"
        "0b0c0d0e030200000000000000000000000000000000ffffffffffffffffffffffff001000000000"
        "000102030405060708090a0b0c0d0e040200000000000000000000000000000000ffffffffffffff"
        "ffffffffff001000000000010100",
    ),
    Case(
        "kafka-python 3.0.12",
        4,
        1,
        "kp",
        api_versions.ApiVersionsRequest(
            client_software_name="kafka-python", client_software_version="3.0.12"
        ),
        "001200040000000100026b70000d6b61666b612d707974686f6e07332e302e313200",
    ),
    Case(
        "kafka-python 3.0.12",
        13,
        2,
        "kp",
        metadata.MetadataRequest(),
        "0003000d0000000200026b700001010000",
    ),
    Case(
        "kafka-python 3.0.12",
        4,
        2,
        "kp",
        init_producer_id.InitProducerIdRequest(),
        "001600040000000200026b70000000000000ffffffffffffffffffff00",
    ),
    Case(
        "kafka-python 3.0.12",
        9,
        3,
        "kp",
        produce.ProduceRequest(
            acks=-1,
            timeout_ms=30000,
            topic_data=[
                produce.TopicProduceData(
                    name="t1",
                    partition_data=[
                        produce.PartitionProduceData(
                            records=memoryview(
                                bytes.fromhex(
                                    "0000000000000000000000540000000002b682491e00010000"
                                    "00000000018bcfe568000000018bcfe5680000000000000012"
                                    "67000000000000000000011f8b0800105f036b02ff2b626060"
                                    "60ca4ec948cdc9c92789600000d473673d3a000000"
                                )
                            )
                        )
                    ],
                )
            ],
        ),
        "000000090000000300026b700000ffff000075300203743102000000006100000000000000000000"
        "00540000000002b682491e0001000000000000018bcfe568000000018bcfe5680000000000000012"
        "67000000000000000000011f8b0800105f036b02ff2b62606060ca4ec948cdc9c92789600000d473"
        "673d3a000000000000",
    ),
    Case(
        "kafka-python 3.0.12",
        11,
        2,
        "kp",
        list_offsets.ListOffsetsRequest(
            replica_id=-1,
            topics=[
                list_offsets.ListOffsetsTopic(
                    name="t0", partitions=[list_offsets.ListOffsetsPartition(timestamp=-2)]
                ),
                list_offsets.ListOffsetsTopic(
                    name="t1", partitions=[list_offsets.ListOffsetsPartition(timestamp=-2)]
                ),
            ],
        ),
        "0002000b0000000200026b7000ffffffff00030374300200000000fffffffffffffffffffffffe00"
        "000374310200000000fffffffffffffffffffffffe00000000000000",
    ),
    Case(
        "kafka-python 3.0.12",
        12,
        3,
        "kp",
        fetch.FetchRequest(
            max_wait_ms=500,
            min_bytes=1,
            max_bytes=52428800,
            session_epoch=0,
            topics=[
                fetch.FetchTopic(
                    topic="t1",
                    partitions=[
                        fetch.FetchPartition(current_leader_epoch=0, partition_max_bytes=1048576)
                    ],
                ),
                fetch.FetchTopic(
                    topic="t0",
                    partitions=[
                        fetch.FetchPartition(current_leader_epoch=0, partition_max_bytes=1048576)
                    ],
                ),
            ],
        ),
        "0001000c0000000300026b7000ffffffff000001f400000001032000000000000000000000000303"
        "74310200000000000000000000000000000000ffffffffffffffffffffffff001000000000037430"
        "0200000000000000000000000000000000ffffffffffffffffffffffff001000000000010100",
    ),
    Case(
        "kcat 1.7.1, librdkafka 2.0.2",
        3,
        1,
        "rdkafka",
        api_versions.ApiVersionsRequest(
            client_software_name="librdkafka", client_software_version="2.0.2"
        ),
        "0012000300000001000772646b61666b61000b6c696272646b61666b6106322e302e3200",
    ),
    Case(
        "kcat 1.7.1, librdkafka 2.0.2",
        4,
        2,
        "rdkafka",
        metadata.MetadataRequest(topics=[metadata.MetadataRequestTopic(name="t0")]),
        "0003000400000002000772646b61666b61000000010002743001",
    ),
    Case(
        "kcat 1.7.1, librdkafka 2.0.2",
        7,
        3,
        "rdkafka",
        produce.ProduceRequest(
            acks=-1,
            timeout_ms=30000,
            topic_data=[
                produce.TopicProduceData(
                    name="t0",
                    partition_data=[
                        produce.PartitionProduceData(
                            records=memoryview(
                                bytes.fromhex(
                                    "000000000000000000000047000000000284f155e700000000"
                                    "0001000001a2052b96b2000001a2052b96b2ffffffffffffff"
                                    "ffffffffffffff0000000214000000046b3104763100140000"
                                    "02046b3204763200"
                                )
                            )
                        )
                    ],
                )
            ],
        ),
        "0000000700000003000772646b61666b61ffffffff00007530000000010002743000000001000000"
        "0000000053000000000000000000000047000000000284f155e7000000000001000001a2052b96b2"
        "000001a2052b96b2ffffffffffffffffffffffffffff0000000214000000046b3104763100140000"
        "02046b3204763200",
    ),
    Case(
        "kcat 1.7.1, librdkafka 2.0.2",
        2,
        3,
        "rdkafka",
        list_offsets.ListOffsetsRequest(
            replica_id=-1,
            isolation_level=1,
            topics=[
                list_offsets.ListOffsetsTopic(
                    name="t0",
                    partitions=[list_offsets.ListOffsetsPartition(timestamp=1700000000000)],
                )
            ],
        ),
        "0002000200000003000772646b61666b61ffffffff01000000010002743000000001000000000000"
        "018bcfe56800",
    ),
    Case(
        "kcat 1.7.1, librdkafka 2.0.2",
        11,
        5,
        "rdkafka",
        fetch.FetchRequest(
            max_wait_ms=500,
            min_bytes=1,
            max_bytes=52428800,
            isolation_level=1,
            topics=[
                fetch.FetchTopic(
                    topic="t2", partitions=[fetch.FetchPartition(partition_max_bytes=1048576)]
                )
            ],
        ),
        "0001000b00000005000772646b61666b61ffffffff000001f400000001032000000100000000ffff"
        "ffff00000001000274320000000100000000ffffffff0000000000000000ffffffffffffffff0010"
        "0000000000000000",
    ),
    Case(
        "kio 0.6.5", 0, 42, "cli", api_versions.ApiVersionsRequest(), "001200000000002a0003636c69"
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        metadata.MetadataRequest(topics=[metadata.MetadataRequestTopic(name="orders")]),
        "000300000000002a0003636c690000000100066f7264657273",
    ),
    Case(
        "kio 0.6.5",
        10,
        42,
        "cli",
        metadata.MetadataRequest(
            topics=[metadata.MetadataRequestTopic(topic_id=TOPIC_ID, name="orders")],
            include_topic_authorized_operations=True,
        ),
        "0003000a0000002a0003636c6900020102030405060708090a0b0c0d0e0f10076f72646572730001000100",
    ),
    Case(
        "kio 0.6.5",
        2,
        42,
        "cli",
        offset_for_leader_epoch.OffsetForLeaderEpochRequest(
            topics=[
                offset_for_leader_epoch.OffsetForLeaderTopic(
                    topic="orders",
                    partitions=[
                        offset_for_leader_epoch.OffsetForLeaderPartition(
                            partition=3, current_leader_epoch=7, leader_epoch=6
                        )
                    ],
                )
            ]
        ),
        "001700020000002a0003636c690000000100066f726465727300000001000000030000000700000006",
    ),
    Case(
        "kio 0.6.5",
        4,
        42,
        "cli",
        offset_for_leader_epoch.OffsetForLeaderEpochRequest(
            replica_id=-1,
            topics=[
                offset_for_leader_epoch.OffsetForLeaderTopic(
                    topic="orders",
                    partitions=[
                        offset_for_leader_epoch.OffsetForLeaderPartition(
                            partition=3, current_leader_epoch=7, leader_epoch=6
                        )
                    ],
                )
            ],
        ),
        "001700040000002a0003636c6900ffffffff02076f726465727302000000030000000700000006000000",
    ),
    Case(
        "kio 0.6.5",
        2,
        42,
        "cli",
        create_topics.CreateTopicsRequest(
            topics=[
                create_topics.CreatableTopic(
                    name="orders",
                    num_partitions=-1,
                    replication_factor=-1,
                    assignments=[create_topics.CreatableReplicaAssignment(broker_ids=[1, 2])],
                    configs=[
                        create_topics.CreatableTopicConfig(name="retention.ms", value="1000"),
                        create_topics.CreatableTopicConfig(name="x"),
                    ],
                )
            ],
            timeout_ms=30000,
            validate_only=True,
        ),
        "001300020000002a0003636c690000000100066f7264657273ffffffffffff000000010000000000"
        "000002000000010000000200000002000c726574656e74696f6e2e6d73000431303030000178ffff"
        "0000753001",
    ),
    Case(
        "kio 0.6.5",
        7,
        42,
        "cli",
        create_topics.CreateTopicsRequest(
            topics=[
                create_topics.CreatableTopic(
                    name="orders",
                    num_partitions=-1,
                    replication_factor=-1,
                    assignments=[create_topics.CreatableReplicaAssignment(broker_ids=[1, 2])],
                    configs=[
                        create_topics.CreatableTopicConfig(name="retention.ms", value="1000"),
                        create_topics.CreatableTopicConfig(name="x"),
                    ],
                )
            ],
            timeout_ms=30000,
            validate_only=True,
        ),
        "001300070000002a0003636c690002076f7264657273ffffffffffff020000000003000000010000"
        "000200030d726574656e74696f6e2e6d730531303030000278000000000075300100",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        "cli",
        delete_topics.DeleteTopicsRequest(topic_names=["orders", "p"], timeout_ms=30000),
        "001400010000002a0003636c690000000200066f726465727300017000007530",
    ),
    Case(
        "kio 0.6.5",
        6,
        42,
        "cli",
        delete_topics.DeleteTopicsRequest(
            topics=[
                delete_topics.DeleteTopicState(name="orders"),
                delete_topics.DeleteTopicState(topic_id=TOPIC_ID),
            ],
            timeout_ms=30000,
        ),
        "001400060000002a0003636c690003076f7264657273000000000000000000000000000000000000"
        "0102030405060708090a0b0c0d0e0f10000000753000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        describe_cluster.DescribeClusterRequest(include_cluster_authorized_operations=True),
        "003c00000000002a0003636c69000100",
    ),
    Case(
        "kio 0.6.5",
        2,
        42,
        "cli",
        describe_cluster.DescribeClusterRequest(
            include_cluster_authorized_operations=True, include_fenced_brokers=True
        ),
        "003c00020000002a0003636c690001010100",
    ),
    Case(
        "kio 0.6.5",
        4,
        42,
        "cli",
        fetch.FetchRequest(
            max_wait_ms=500,
            min_bytes=1,
            max_bytes=1048576,
            topics=[
                fetch.FetchTopic(
                    topic="orders",
                    partitions=[
                        fetch.FetchPartition(
                            partition=3, fetch_offset=12345, partition_max_bytes=65536
                        )
                    ],
                )
            ],
        ),
        "000100040000002a0003636c69ffffffff000001f40000000100100000000000000100066f726465"
        "72730000000100000003000000000000303900010000",
    ),
    Case(
        "kio 0.6.5",
        18,
        42,
        "cli",
        fetch.FetchRequest(
            cluster_id="c",
            replica_state=fetch.ReplicaState(replica_id=5, replica_epoch=6),
            max_wait_ms=500,
            min_bytes=1,
            max_bytes=1048576,
            topics=[
                fetch.FetchTopic(
                    topic_id=TOPIC_ID,
                    partitions=[
                        fetch.FetchPartition(
                            partition=3,
                            current_leader_epoch=4,
                            fetch_offset=12345,
                            last_fetched_epoch=5,
                            log_start_offset=6,
                            partition_max_bytes=65536,
                            replica_directory_id=TOPIC_ID,
                            high_watermark=77,
                        )
                    ],
                )
            ],
            forgotten_topics_data=[fetch.ForgottenTopic(topic_id=TOPIC_ID, partitions=[1, 2])],
            rack_id="r",
        ),
        "000100120000002a0003636c6900000001f400000001001000000000000000ffffffff0201020304"
        "05060708090a0b0c0d0e0f1002000000030000000400000000000030390000000500000000000000"
        "06000100000200100102030405060708090a0b0c0d0e0f100108000000000000004d000201020304"
        "05060708090a0b0c0d0e0f100300000001000000020002720200020263010d000000050000000000"
        "00000600",
    ),
    Case(
        "kio 0.6.5",
        3,
        42,
        "cli",
        produce.ProduceRequest(
            transactional_id="txn",
            acks=1,
            timeout_ms=1000,
            topic_data=[
                produce.TopicProduceData(
                    name="orders",
                    partition_data=[
                        produce.PartitionProduceData(
                            index=3,
                            records=ZSTD_BATCH,
                        ),
                        produce.PartitionProduceData(index=4),
                    ],
                )
            ],
        ),
        "000000030000002a0003636c69000374786e0001000003e80000000100066f726465727300000002"
        "000000030000007600000000000000000000006a0000000002771e9d510004000000020000018bcf"
        "e5687b0000018bcfe5687c00000000000012670000000000000000000328b52ffd00588501008402"
        "ba02000000066b6579980276616c75652d310402610262026e010c0002020000000c000504010100"
        "010004a24a1800000004ffffffff",
    ),
    Case(
        "kio 0.6.5",
        13,
        42,
        "cli",
        produce.ProduceRequest(
            transactional_id="txn",
            acks=1,
            timeout_ms=1000,
            topic_data=[
                produce.TopicProduceData(
                    topic_id=TOPIC_ID,
                    partition_data=[
                        produce.PartitionProduceData(
                            index=3,
                            records=ZSTD_BATCH,
                        ),
                        produce.PartitionProduceData(index=4),
                    ],
                )
            ],
        ),
        "0000000d0000002a0003636c69000474786e0001000003e8020102030405060708090a0b0c0d0e0f"
        "1003000000037700000000000000000000006a0000000002771e9d510004000000020000018bcfe5"
        "687b0000018bcfe5687c00000000000012670000000000000000000328b52ffd00588501008402ba"
        "02000000066b6579980276616c75652d310402610262026e010c0002020000000c00050401010001"
        "0004a24a18000000000400000000",
    ),
]
