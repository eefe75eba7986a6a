"""Golden frames of committed offsets, both directions, by kio."""

from __future__ import annotations

from kafka_protocol.messages import offset_commit, offset_delete, offset_fetch
from tests.protocol.cases import TOPIC_ID, Case

CASES = [
    Case(
        "kio 0.6.5",
        2,
        42,
        "cli",
        offset_commit.OffsetCommitRequest(
            group_id="billing",
            generation_id_or_member_epoch=3,
            member_id="rdkafka-4a1c",
            retention_time_ms=3600000,
            topics=[
                offset_commit.OffsetCommitRequestTopic(
                    name="orders",
                    partitions=[
                        offset_commit.OffsetCommitRequestPartition(
                            partition_index=3, committed_offset=12345, committed_metadata="here"
                        ),
                        offset_commit.OffsetCommitRequestPartition(
                            partition_index=4, committed_offset=7, committed_metadata=None
                        ),
                    ],
                )
            ],
        ),
        "000800020000002a0003636c69000762696c6c696e6700000003000c72646b61666b612d34613163"
        "000000000036ee800000000100066f72646572730000000200000003000000000000303900046865"
        "7265000000040000000000000007ffff",
    ),
    Case(
        "kio 0.6.5",
        9,
        42,
        "cli",
        offset_commit.OffsetCommitRequest(
            group_id="billing",
            generation_id_or_member_epoch=3,
            member_id="rdkafka-4a1c",
            group_instance_id="i-1",
            topics=[
                offset_commit.OffsetCommitRequestTopic(
                    name="orders",
                    partitions=[
                        offset_commit.OffsetCommitRequestPartition(
                            partition_index=3,
                            committed_offset=12345,
                            committed_leader_epoch=2,
                            committed_metadata=None,
                        )
                    ],
                )
            ],
        ),
        "000800090000002a0003636c69000862696c6c696e67000000030d72646b61666b612d3461316304"
        "692d3102076f7264657273020000000300000000000030390000000200000000",
    ),
    Case(
        "kio 0.6.5",
        10,
        42,
        "cli",
        offset_commit.OffsetCommitRequest(
            group_id="billing",
            topics=[
                offset_commit.OffsetCommitRequestTopic(
                    topic_id=TOPIC_ID,
                    partitions=[
                        offset_commit.OffsetCommitRequestPartition(
                            partition_index=3, committed_offset=12345
                        )
                    ],
                )
            ],
        ),
        "0008000a0000002a0003636c69000862696c6c696e67ffffffff0100020102030405060708090a0b"
        "0c0d0e0f1002000000030000000000003039ffffffff01000000",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        "cli",
        offset_fetch.OffsetFetchRequest(
            group_id="billing",
            topics=[offset_fetch.OffsetFetchRequestTopic(name="orders", partition_indexes=[3, 4])],
        ),
        "000900010000002a0003636c69000762696c6c696e670000000100066f7264657273000000020000"
        "000300000004",
    ),
    Case(
        "kio 0.6.5",
        7,
        42,
        "cli",
        offset_fetch.OffsetFetchRequest(group_id="billing", topics=None, require_stable=True),
        "000900070000002a0003636c69000862696c6c696e67000100",
    ),
    Case(
        "kio 0.6.5",
        9,
        42,
        "cli",
        offset_fetch.OffsetFetchRequest(
            groups=[
                offset_fetch.OffsetFetchRequestGroup(
                    group_id="billing",
                    member_id="rdkafka-4a1c",
                    member_epoch=5,
                    topics=[
                        offset_fetch.OffsetFetchRequestTopic(name="orders", partition_indexes=[3])
                    ],
                ),
                offset_fetch.OffsetFetchRequestGroup(group_id="other", topics=None),
            ]
        ),
        "000900090000002a0003636c6900030862696c6c696e670d72646b61666b612d3461316300000005"
        "02076f726465727302000000030000066f7468657200ffffffff00000000",
    ),
    Case(
        "kio 0.6.5",
        10,
        42,
        "cli",
        offset_fetch.OffsetFetchRequest(
            groups=[
                offset_fetch.OffsetFetchRequestGroup(
                    group_id="billing",
                    topics=[
                        offset_fetch.OffsetFetchRequestTopic(
                            topic_id=TOPIC_ID, partition_indexes=[3]
                        )
                    ],
                )
            ],
            require_stable=True,
        ),
        "0009000a0000002a0003636c6900020862696c6c696e6700ffffffff020102030405060708090a0b"
        "0c0d0e0f10020000000300000100",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        offset_delete.OffsetDeleteRequest(
            group_id="billing",
            topics=[
                offset_delete.OffsetDeleteRequestTopic(
                    name="orders",
                    partitions=[
                        offset_delete.OffsetDeleteRequestPartition(partition_index=3),
                        offset_delete.OffsetDeleteRequestPartition(partition_index=4),
                    ],
                )
            ],
        ),
        "002f00000000002a0003636c69000762696c6c696e670000000100066f7264657273000000020000"
        "000300000004",
    ),
    Case(
        "kio 0.6.5",
        2,
        42,
        None,
        offset_commit.OffsetCommitResponse(
            topics=[
                offset_commit.OffsetCommitResponseTopic(
                    name="orders",
                    partitions=[
                        offset_commit.OffsetCommitResponsePartition(partition_index=3),
                        offset_commit.OffsetCommitResponsePartition(
                            partition_index=4, error_code=12
                        ),
                    ],
                )
            ]
        ),
        "0000002a0000000100066f72646572730000000200000003000000000004000c",
    ),
    Case(
        "kio 0.6.5",
        9,
        42,
        None,
        offset_commit.OffsetCommitResponse(
            throttle_time_ms=7,
            topics=[
                offset_commit.OffsetCommitResponseTopic(
                    name="orders",
                    partitions=[
                        offset_commit.OffsetCommitResponsePartition(
                            partition_index=3, error_code=113
                        )
                    ],
                )
            ],
        ),
        "0000002a000000000702076f726465727302000000030071000000",
    ),
    Case(
        "kio 0.6.5",
        10,
        42,
        None,
        offset_commit.OffsetCommitResponse(
            topics=[
                offset_commit.OffsetCommitResponseTopic(
                    topic_id=TOPIC_ID,
                    partitions=[
                        offset_commit.OffsetCommitResponsePartition(
                            partition_index=3, error_code=100
                        )
                    ],
                )
            ]
        ),
        "0000002a0000000000020102030405060708090a0b0c0d0e0f1002000000030064000000",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        None,
        offset_fetch.OffsetFetchResponse(
            topics=[
                offset_fetch.OffsetFetchResponseTopic(
                    name="orders",
                    partitions=[
                        offset_fetch.OffsetFetchResponsePartition(
                            partition_index=3, committed_offset=12345, metadata="here"
                        ),
                        offset_fetch.OffsetFetchResponsePartition(
                            partition_index=4, committed_offset=-1
                        ),
                    ],
                )
            ]
        ),
        "0000002a0000000100066f7264657273000000020000000300000000000030390004686572650000"
        "00000004ffffffffffffffff00000000",
    ),
    Case(
        "kio 0.6.5",
        7,
        42,
        None,
        offset_fetch.OffsetFetchResponse(
            topics=[
                offset_fetch.OffsetFetchResponseTopic(
                    name="orders",
                    partitions=[
                        offset_fetch.OffsetFetchResponsePartition(
                            partition_index=3,
                            committed_offset=12345,
                            committed_leader_epoch=2,
                            metadata=None,
                            error_code=88,
                        )
                    ],
                )
            ],
            error_code=16,
        ),
        "0000002a000000000002076f726465727302000000030000000000003039000000020000580000001000",
    ),
    Case(
        "kio 0.6.5",
        9,
        42,
        None,
        offset_fetch.OffsetFetchResponse(
            groups=[
                offset_fetch.OffsetFetchResponseGroup(
                    group_id="billing",
                    topics=[
                        offset_fetch.OffsetFetchResponseTopic(
                            name="orders",
                            partitions=[
                                offset_fetch.OffsetFetchResponsePartition(
                                    partition_index=3, committed_offset=12345
                                )
                            ],
                        )
                    ],
                ),
                offset_fetch.OffsetFetchResponseGroup(group_id="other", error_code=113),
            ]
        ),
        "0000002a0000000000030862696c6c696e6702076f726465727302000000030000000000003039ff"
        "ffffff0100000000000000066f746865720100710000",
    ),
    Case(
        "kio 0.6.5",
        10,
        42,
        None,
        offset_fetch.OffsetFetchResponse(
            groups=[
                offset_fetch.OffsetFetchResponseGroup(
                    group_id="billing",
                    topics=[
                        offset_fetch.OffsetFetchResponseTopic(
                            topic_id=TOPIC_ID,
                            partitions=[
                                offset_fetch.OffsetFetchResponsePartition(
                                    partition_index=3,
                                    committed_offset=12345,
                                    committed_leader_epoch=2,
                                )
                            ],
                        )
                    ],
                )
            ]
        ),
        "0000002a0000000000020862696c6c696e67020102030405060708090a0b0c0d0e0f100200000003"
        "000000000000303900000002010000000000000000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        offset_delete.OffsetDeleteResponse(
            topics=[
                offset_delete.OffsetDeleteResponseTopic(
                    name="orders",
                    partitions=[
                        offset_delete.OffsetDeleteResponsePartition(partition_index=3),
                        offset_delete.OffsetDeleteResponsePartition(
                            partition_index=4, error_code=86
                        ),
                    ],
                )
            ]
        ),
        "0000002a0000000000000000000100066f726465727300000002000000030000000000040056",
    ),
]
