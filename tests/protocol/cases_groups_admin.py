"""Golden frames of consumer groups (KIP-848) and of tools for groups, both directions, by kio."""

from __future__ import annotations

from kafka_protocol.messages import (
    consumer_group_describe,
    consumer_group_heartbeat,
    delete_groups,
    describe_groups,
    list_groups,
)
from tests.protocol.cases import TOPIC_ID, Case

CASES = [
    Case("kio 0.6.5", 0, 42, "cli", list_groups.ListGroupsRequest(), "001000000000002a0003636c69"),
    Case(
        "kio 0.6.5",
        5,
        42,
        "cli",
        list_groups.ListGroupsRequest(states_filter=["Stable", "Empty"], types_filter=["consumer"]),
        "001000050000002a0003636c69000307537461626c6506456d7074790209636f6e73756d657200",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        describe_groups.DescribeGroupsRequest(groups=["billing", "other"]),
        "000f00000000002a0003636c6900000002000762696c6c696e6700056f74686572",
    ),
    Case(
        "kio 0.6.5",
        6,
        42,
        "cli",
        describe_groups.DescribeGroupsRequest(
            groups=["billing"], include_authorized_operations=True
        ),
        "000f00060000002a0003636c6900020862696c6c696e670100",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        delete_groups.DeleteGroupsRequest(groups_names=["billing", "other"]),
        "002a00000000002a0003636c6900000002000762696c6c696e6700056f74686572",
    ),
    Case(
        "kio 0.6.5",
        2,
        42,
        "cli",
        delete_groups.DeleteGroupsRequest(groups_names=["billing"]),
        "002a00020000002a0003636c6900020862696c6c696e6700",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        consumer_group_heartbeat.ConsumerGroupHeartbeatRequest(
            group_id="billing",
            rebalance_timeout_ms=300000,
            subscribed_topic_names=["orders"],
            topic_partitions=[],
        ),
        "004400000000002a0003636c69000862696c6c696e6701000000000000000493e002076f7264657273000100",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        "cli",
        consumer_group_heartbeat.ConsumerGroupHeartbeatRequest(
            group_id="billing",
            member_id="c2FtcGxl",
            member_epoch=5,
            instance_id="i-1",
            rack_id="r-1",
            subscribed_topic_regex="ord.*",
            server_assignor="range",
            topic_partitions=[
                consumer_group_heartbeat.TopicPartitions(topic_id=TOPIC_ID, partitions=[0, 2])
            ],
        ),
        "004400010000002a0003636c69000862696c6c696e6709633246746347786c0000000504692d3104"
        "722d31ffffffff00066f72642e2a0672616e6765020102030405060708090a0b0c0d0e0f10030000"
        "0000000000020000",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        "cli",
        consumer_group_heartbeat.ConsumerGroupHeartbeatRequest(
            group_id="billing", member_id="c2FtcGxl", member_epoch=-1
        ),
        "004400010000002a0003636c69000862696c6c696e6709633246746347786cffffffff0000ffffff"
        "ff0000000000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        consumer_group_describe.ConsumerGroupDescribeRequest(group_ids=["billing", "other"]),
        "004500000000002a0003636c6900030862696c6c696e67066f746865720000",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        "cli",
        consumer_group_describe.ConsumerGroupDescribeRequest(
            group_ids=["billing"], include_authorized_operations=True
        ),
        "004500010000002a0003636c6900020862696c6c696e670100",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        list_groups.ListGroupsResponse(
            groups=[list_groups.ListedGroup(group_id="billing", protocol_type="consumer")]
        ),
        "0000002a000000000001000762696c6c696e670008636f6e73756d6572",
    ),
    Case(
        "kio 0.6.5",
        5,
        42,
        None,
        list_groups.ListGroupsResponse(
            throttle_time_ms=7,
            groups=[
                list_groups.ListedGroup(
                    group_id="billing",
                    protocol_type="consumer",
                    group_state="Stable",
                    group_type="classic",
                ),
                list_groups.ListedGroup(
                    group_id="other", group_state="Empty", group_type="consumer"
                ),
            ],
        ),
        "0000002a00000000070000030862696c6c696e6709636f6e73756d657207537461626c6508636c61"
        "7373696300066f746865720106456d70747909636f6e73756d65720000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        describe_groups.DescribeGroupsResponse(
            groups=[
                describe_groups.DescribedGroup(
                    group_id="billing",
                    group_state="Stable",
                    protocol_type="consumer",
                    protocol_data="range",
                    members=[
                        describe_groups.DescribedGroupMember(
                            member_id="rdkafka-4a1c",
                            client_id="cli",
                            client_host="/127.0.0.1",
                            member_metadata=b"\x01\x02",
                            member_assignment=b"\x03",
                        )
                    ],
                )
            ]
        ),
        "0000002a000000010000000762696c6c696e670006537461626c650008636f6e73756d6572000572"
        "616e676500000001000c72646b61666b612d346131630003636c69000a2f3132372e302e302e3100"
        "00000201020000000103",
    ),
    Case(
        "kio 0.6.5",
        6,
        42,
        None,
        describe_groups.DescribeGroupsResponse(
            groups=[
                describe_groups.DescribedGroup(
                    group_id="billing",
                    group_state="Stable",
                    protocol_type="consumer",
                    protocol_data="range",
                    members=[
                        describe_groups.DescribedGroupMember(
                            member_id="rdkafka-4a1c",
                            group_instance_id="i-1",
                            client_id="cli",
                            client_host="/127.0.0.1",
                            member_metadata=b"\x01\x02",
                            member_assignment=b"\x03",
                        )
                    ],
                    authorized_operations=328,
                ),
                describe_groups.DescribedGroup(
                    error_code=69, error_message="not found", group_id="other", group_state="Dead"
                ),
            ]
        ),
        "0000002a0000000000030000000862696c6c696e6707537461626c6509636f6e73756d6572067261"
        "6e6765020d72646b61666b612d3461316304692d3104636c690b2f3132372e302e302e3103010202"
        "0300000001480000450a6e6f7420666f756e64066f746865720544656164010101800000000000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        delete_groups.DeleteGroupsResponse(
            results=[
                delete_groups.DeletableGroupResult(group_id="billing"),
                delete_groups.DeletableGroupResult(group_id="other", error_code=68),
            ]
        ),
        "0000002a0000000000000002000762696c6c696e67000000056f746865720044",
    ),
    Case(
        "kio 0.6.5",
        2,
        42,
        None,
        delete_groups.DeleteGroupsResponse(
            throttle_time_ms=7,
            results=[delete_groups.DeletableGroupResult(group_id="billing", error_code=69)],
        ),
        "0000002a0000000007020862696c6c696e6700450000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        consumer_group_heartbeat.ConsumerGroupHeartbeatResponse(
            error_code=110, error_message="fenced"
        ),
        "0000002a0000000000006e0766656e636564000000000000000000ff00",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        None,
        consumer_group_heartbeat.ConsumerGroupHeartbeatResponse(
            member_id="c2FtcGxl",
            member_epoch=5,
            heartbeat_interval_ms=5000,
            assignment=consumer_group_heartbeat.Assignment(
                topic_partitions=[
                    consumer_group_heartbeat.TopicPartitions(topic_id=TOPIC_ID, partitions=[0, 2])
                ]
            ),
        ),
        "0000002a000000000000000009633246746347786c00000005000013880102010203040506070809"
        "0a0b0c0d0e0f10030000000000000002000000",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        None,
        consumer_group_heartbeat.ConsumerGroupHeartbeatResponse(
            member_id="c2FtcGxl",
            member_epoch=5,
            heartbeat_interval_ms=5000,
            assignment=consumer_group_heartbeat.Assignment(),
        ),
        "0000002a000000000000000009633246746347786c000000050000138801010000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        consumer_group_describe.ConsumerGroupDescribeResponse(
            groups=[
                consumer_group_describe.DescribedGroup(
                    error_code=69, error_message="not found", group_id="other"
                )
            ]
        ),
        "0000002a00000000000200450a6e6f7420666f756e64066f74686572010000000000000000010180"
        "0000000000",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        None,
        consumer_group_describe.ConsumerGroupDescribeResponse(
            groups=[
                consumer_group_describe.DescribedGroup(
                    group_id="billing",
                    group_state="Reconciling",
                    group_epoch=5,
                    assignment_epoch=4,
                    assignor_name="uniform",
                    members=[
                        consumer_group_describe.Member(
                            member_id="c2FtcGxl",
                            rack_id="r-1",
                            member_epoch=4,
                            client_id="cli",
                            client_host="/127.0.0.1",
                            subscribed_topic_names=["orders"],
                            subscribed_topic_regex="ord.*",
                            assignment=consumer_group_describe.Assignment(
                                topic_partitions=[
                                    consumer_group_describe.TopicPartitions(
                                        topic_id=TOPIC_ID, topic_name="orders", partitions=[0]
                                    )
                                ]
                            ),
                            target_assignment=consumer_group_describe.Assignment(
                                topic_partitions=[
                                    consumer_group_describe.TopicPartitions(
                                        topic_id=TOPIC_ID, topic_name="orders", partitions=[0, 2]
                                    )
                                ]
                            ),
                            member_type=1,
                        )
                    ],
                    authorized_operations=328,
                )
            ]
        ),
        "0000002a0000000000020000000862696c6c696e670c5265636f6e63696c696e6700000005000000"
        "0408756e69666f726d0209633246746347786c0004722d310000000404636c690b2f3132372e302e"
        "302e3102076f7264657273066f72642e2a020102030405060708090a0b0c0d0e0f10076f72646572"
        "7302000000000000020102030405060708090a0b0c0d0e0f10076f72646572730300000000000000"
        "0200000100000001480000",
    ),
]
