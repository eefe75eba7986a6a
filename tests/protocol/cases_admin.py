"""Golden frames of partitions, log directories and deleted records, both directions, by kio."""

from __future__ import annotations

from kafka_protocol.messages import (
    create_partitions,
    delete_records,
    describe_log_dirs,
    describe_topic_partitions,
)
from tests.protocol.cases import TOPIC_ID, Case

CASES = [
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        delete_records.DeleteRecordsRequest(
            topics=[
                delete_records.DeleteRecordsTopic(
                    name="orders",
                    partitions=[
                        delete_records.DeleteRecordsPartition(partition_index=3, offset=12345),
                        delete_records.DeleteRecordsPartition(partition_index=4, offset=-1),
                    ],
                )
            ],
            timeout_ms=30000,
        ),
        "001500000000002a0003636c690000000100066f7264657273000000020000000300000000000030"
        "3900000004ffffffffffffffff00007530",
    ),
    Case(
        "kio 0.6.5",
        2,
        42,
        "cli",
        delete_records.DeleteRecordsRequest(
            topics=[
                delete_records.DeleteRecordsTopic(
                    name="orders",
                    partitions=[
                        delete_records.DeleteRecordsPartition(partition_index=3, offset=12345),
                        delete_records.DeleteRecordsPartition(partition_index=4, offset=-1),
                    ],
                )
            ],
            timeout_ms=30000,
        ),
        "001500020000002a0003636c690002076f7264657273030000000300000000000030390000000004"
        "ffffffffffffffff00000000753000",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        "cli",
        describe_log_dirs.DescribeLogDirsRequest(
            topics=[describe_log_dirs.DescribableLogDirTopic(topic="orders", partitions=[3, 4])]
        ),
        "002300010000002a0003636c690000000100066f7264657273000000020000000300000004",
    ),
    Case(
        "kio 0.6.5",
        5,
        42,
        "cli",
        describe_log_dirs.DescribeLogDirsRequest(topics=None),
        "002300050000002a0003636c69000000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        create_partitions.CreatePartitionsRequest(
            topics=[
                create_partitions.CreatePartitionsTopic(
                    name="orders",
                    count=6,
                    assignments=[create_partitions.CreatePartitionsAssignment(broker_ids=[1, 2])],
                ),
                create_partitions.CreatePartitionsTopic(name="clicks", count=3, assignments=None),
            ],
            timeout_ms=30000,
            validate_only=True,
        ),
        "002500000000002a0003636c690000000200066f7264657273000000060000000100000002000000"
        "01000000020006636c69636b7300000003ffffffff0000753001",
    ),
    Case(
        "kio 0.6.5",
        3,
        42,
        "cli",
        create_partitions.CreatePartitionsRequest(
            topics=[
                create_partitions.CreatePartitionsTopic(
                    name="orders",
                    count=6,
                    assignments=[create_partitions.CreatePartitionsAssignment(broker_ids=[1, 2])],
                ),
                create_partitions.CreatePartitionsTopic(name="clicks", count=3, assignments=None),
            ],
            timeout_ms=30000,
            validate_only=True,
        ),
        "002500030000002a0003636c690003076f7264657273000000060203000000010000000200000763"
        "6c69636b73000000030000000075300100",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        describe_topic_partitions.DescribeTopicPartitionsRequest(
            topics=[describe_topic_partitions.TopicRequest(name="orders")],
            response_partition_limit=100,
            cursor=describe_topic_partitions.Cursor(topic_name="orders", partition_index=3),
        ),
        "004b00000000002a0003636c690002076f7264657273000000006401076f7264657273000000030000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        describe_topic_partitions.DescribeTopicPartitionsRequest(),
        "004b00000000002a0003636c690001000007d0ff00",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        delete_records.DeleteRecordsResponse(
            topics=[
                delete_records.DeleteRecordsTopicResult(
                    name="orders",
                    partitions=[
                        delete_records.DeleteRecordsPartitionResult(
                            partition_index=3, low_watermark=12345
                        ),
                        delete_records.DeleteRecordsPartitionResult(
                            partition_index=4, low_watermark=-1, error_code=1
                        ),
                    ],
                )
            ]
        ),
        "0000002a000000000000000100066f72646572730000000200000003000000000000303900000000"
        "0004ffffffffffffffff0001",
    ),
    Case(
        "kio 0.6.5",
        2,
        42,
        None,
        delete_records.DeleteRecordsResponse(
            topics=[
                delete_records.DeleteRecordsTopicResult(
                    name="orders",
                    partitions=[
                        delete_records.DeleteRecordsPartitionResult(
                            partition_index=3, low_watermark=12345
                        ),
                        delete_records.DeleteRecordsPartitionResult(
                            partition_index=4, low_watermark=-1, error_code=1
                        ),
                    ],
                )
            ]
        ),
        "0000002a000000000002076f72646572730300000003000000000000303900000000000004ffffff"
        "ffffffffff0001000000",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        None,
        describe_log_dirs.DescribeLogDirsResponse(
            results=[
                describe_log_dirs.DescribeLogDirsResult(
                    log_dir="/data",
                    topics=[
                        describe_log_dirs.DescribeLogDirsTopic(
                            name="orders",
                            partitions=[
                                describe_log_dirs.DescribeLogDirsPartition(
                                    partition_index=3,
                                    partition_size=4096,
                                    offset_lag=7,
                                    is_future_key=True,
                                )
                            ],
                        )
                    ],
                )
            ]
        ),
        "0000002a0000000000000001000000052f646174610000000100066f726465727300000001000000"
        "030000000000001000000000000000000701",
    ),
    Case(
        "kio 0.6.5",
        5,
        42,
        None,
        describe_log_dirs.DescribeLogDirsResponse(
            error_code=31,
            results=[
                describe_log_dirs.DescribeLogDirsResult(
                    error_code=56,
                    log_dir="/data",
                    topics=[
                        describe_log_dirs.DescribeLogDirsTopic(
                            name="orders",
                            partitions=[
                                describe_log_dirs.DescribeLogDirsPartition(
                                    partition_index=3, partition_size=4096
                                )
                            ],
                        )
                    ],
                    total_bytes=1099511627776,
                    usable_bytes=549755813888,
                    is_cordoned=True,
                )
            ],
        ),
        "0000002a0000000000001f020038062f6461746102076f7264657273020000000300000000000010"
        "00000000000000000000000000000100000000000000008000000000010000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        create_partitions.CreatePartitionsResponse(
            results=[
                create_partitions.CreatePartitionsTopicResult(name="orders"),
                create_partitions.CreatePartitionsTopicResult(
                    name="clicks", error_code=37, error_message="has 3"
                ),
            ]
        ),
        "0000002a000000000000000200066f72646572730000ffff0006636c69636b73002500056861732033",
    ),
    Case(
        "kio 0.6.5",
        3,
        42,
        None,
        create_partitions.CreatePartitionsResponse(
            results=[
                create_partitions.CreatePartitionsTopicResult(name="orders"),
                create_partitions.CreatePartitionsTopicResult(
                    name="clicks", error_code=37, error_message="has 3"
                ),
            ]
        ),
        "0000002a000000000003076f72646572730000000007636c69636b7300250668617320330000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        describe_topic_partitions.DescribeTopicPartitionsResponse(
            topics=[
                describe_topic_partitions.DescribeTopicPartitionsResponseTopic(
                    name="orders",
                    topic_id=TOPIC_ID,
                    is_internal=True,
                    partitions=[
                        describe_topic_partitions.DescribeTopicPartitionsResponsePartition(
                            partition_index=3,
                            leader_id=1,
                            leader_epoch=7,
                            replica_nodes=[1, 2],
                            isr_nodes=[1],
                            offline_replicas=[2],
                        ),
                        describe_topic_partitions.DescribeTopicPartitionsResponsePartition(
                            error_code=5,
                            partition_index=4,
                            leader_id=-1,
                            leader_epoch=8,
                            replica_nodes=[2],
                            isr_nodes=[2],
                            eligible_leader_replicas=[1],
                            last_known_elr=[2],
                            offline_replicas=[2],
                        ),
                    ],
                    topic_authorized_operations=3576,
                ),
                describe_topic_partitions.DescribeTopicPartitionsResponseTopic(
                    error_code=3, name=None
                ),
            ],
            next_cursor=describe_topic_partitions.Cursor(topic_name="orders", partition_index=5),
        ),
        "0000002a0000000000030000076f72646572730102030405060708090a0b0c0d0e0f100103000000"
        "000003000000010000000703000000010000000202000000010000020000000200000500000004ff"
        "ffffff00000008020000000202000000020200000001020000000202000000020000000df8000003"
        "00000000000000000000000000000000000001800000000001076f7264657273000000050000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        describe_topic_partitions.DescribeTopicPartitionsResponse(),
        "0000002a000000000001ff00",
    ),
]
