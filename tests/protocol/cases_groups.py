"""Golden frames of membership in classic groups, both directions, by kio."""

from __future__ import annotations

from kafka_protocol.messages import (
    find_coordinator,
    heartbeat,
    join_group,
    leave_group,
    sync_group,
)
from tests.protocol.cases import Case

CASES = [
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        find_coordinator.FindCoordinatorRequest(key="billing"),
        "000a00000000002a0003636c69000762696c6c696e67",
    ),
    Case(
        "kio 0.6.5",
        3,
        42,
        "cli",
        find_coordinator.FindCoordinatorRequest(key="billing", key_type=1),
        "000a00030000002a0003636c69000862696c6c696e670100",
    ),
    Case(
        "kio 0.6.5",
        6,
        42,
        "cli",
        find_coordinator.FindCoordinatorRequest(coordinator_keys=["billing", "täglich"]),
        "000a00060000002a0003636c690000030862696c6c696e670974c3a4676c69636800",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        join_group.JoinGroupRequest(
            group_id="billing",
            session_timeout_ms=10000,
            protocol_type="consumer",
            protocols=[
                join_group.JoinGroupRequestProtocol(
                    name="range", metadata=b"\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"
                )
            ],
        ),
        "000b00000000002a0003636c69000762696c6c696e670000271000000008636f6e73756d65720000"
        "0001000572616e67650000000a000000000000ffffffff",
    ),
    Case(
        "kio 0.6.5",
        9,
        42,
        "cli",
        join_group.JoinGroupRequest(
            group_id="billing",
            session_timeout_ms=10000,
            rebalance_timeout_ms=300000,
            member_id="rdkafka-4a1c",
            group_instance_id="i-1",
            protocol_type="consumer",
            protocols=[
                join_group.JoinGroupRequestProtocol(name="range", metadata=b"\x01\x02"),
                join_group.JoinGroupRequestProtocol(name="roundrobin"),
            ],
            reason="rebalance failed",
        ),
        "000b00090000002a0003636c69000862696c6c696e6700002710000493e00d72646b61666b612d34"
        "61316304692d3109636f6e73756d6572030672616e6765030102000b726f756e64726f62696e0100"
        "11726562616c616e6365206661696c656400",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        sync_group.SyncGroupRequest(group_id="billing", generation_id=3, member_id="rdkafka-4a1c"),
        "000e00000000002a0003636c69000762696c6c696e6700000003000c72646b61666b612d3461316300000000",
    ),
    Case(
        "kio 0.6.5",
        5,
        42,
        "cli",
        sync_group.SyncGroupRequest(
            group_id="billing",
            generation_id=3,
            member_id="rdkafka-4a1c",
            group_instance_id="i-1",
            protocol_type="consumer",
            protocol_name="range",
            assignments=[
                sync_group.SyncGroupRequestAssignment(
                    member_id="rdkafka-4a1c", assignment=b"\x01\x02"
                ),
                sync_group.SyncGroupRequestAssignment(member_id="other"),
            ],
        ),
        "000e00050000002a0003636c69000862696c6c696e67000000030d72646b61666b612d3461316304"
        "692d3109636f6e73756d65720672616e6765030d72646b61666b612d3461316303010200066f7468"
        "6572010000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        heartbeat.HeartbeatRequest(group_id="billing", generation_id=3, member_id="rdkafka-4a1c"),
        "000c00000000002a0003636c69000762696c6c696e6700000003000c72646b61666b612d34613163",
    ),
    Case(
        "kio 0.6.5",
        4,
        42,
        "cli",
        heartbeat.HeartbeatRequest(
            group_id="billing", generation_id=3, member_id="rdkafka-4a1c", group_instance_id="i-1"
        ),
        "000c00040000002a0003636c69000862696c6c696e67000000030d72646b61666b612d3461316304692d3100",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        leave_group.LeaveGroupRequest(group_id="billing", member_id="rdkafka-4a1c"),
        "000d00000000002a0003636c69000762696c6c696e67000c72646b61666b612d34613163",
    ),
    Case(
        "kio 0.6.5",
        5,
        42,
        "cli",
        leave_group.LeaveGroupRequest(
            group_id="billing",
            members=[
                leave_group.MemberIdentity(member_id="rdkafka-4a1c", reason="closed"),
                leave_group.MemberIdentity(group_instance_id="i-1"),
            ],
        ),
        "000d00050000002a0003636c69000862696c6c696e67030d72646b61666b612d346131630007636c"
        "6f736564000104692d31000000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        find_coordinator.FindCoordinatorResponse(node_id=1, host="broker", port=9092),
        "0000002a000000000001000662726f6b657200002384",
    ),
    Case(
        "kio 0.6.5",
        3,
        42,
        None,
        find_coordinator.FindCoordinatorResponse(
            error_code=15, error_message="none", node_id=-1, port=-1
        ),
        "0000002a0000000000000f056e6f6e65ffffffff01ffffffff00",
    ),
    Case(
        "kio 0.6.5",
        6,
        42,
        None,
        find_coordinator.FindCoordinatorResponse(
            coordinators=[
                find_coordinator.Coordinator(key="billing", node_id=1, host="broker", port=9092),
                find_coordinator.Coordinator(
                    key="täglich", node_id=-1, port=-1, error_code=15, error_message=None
                ),
            ]
        ),
        "0000002a0000000000030862696c6c696e67000000010762726f6b657200002384000001000974c3"
        "a4676c696368ffffffff01ffffffff000f000000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        join_group.JoinGroupResponse(
            generation_id=3,
            protocol_name="range",
            leader="rdkafka-4a1c",
            member_id="rdkafka-4a1c",
            members=[
                join_group.JoinGroupResponseMember(member_id="rdkafka-4a1c", metadata=b"\x01\x02")
            ],
        ),
        "0000002a000000000003000572616e6765000c72646b61666b612d34613163000c72646b61666b61"
        "2d3461316300000001000c72646b61666b612d34613163000000020102",
    ),
    Case(
        "kio 0.6.5",
        4,
        42,
        None,
        join_group.JoinGroupResponse(error_code=79, member_id="rdkafka-4a1c"),
        "0000002a00000000004fffffffff00000000000c72646b61666b612d3461316300000000",
    ),
    Case(
        "kio 0.6.5",
        9,
        42,
        None,
        join_group.JoinGroupResponse(
            throttle_time_ms=7,
            generation_id=3,
            protocol_type="consumer",
            protocol_name="range",
            leader="rdkafka-4a1c",
            skip_assignment=True,
            member_id="rdkafka-4a1c",
            members=[
                join_group.JoinGroupResponseMember(
                    member_id="rdkafka-4a1c", group_instance_id="i-1", metadata=b"\x01\x02"
                )
            ],
        ),
        "0000002a000000000700000000000309636f6e73756d65720672616e67650d72646b61666b612d34"
        "613163010d72646b61666b612d34613163020d72646b61666b612d3461316304692d310301020000",
    ),
    Case(
        "kio 0.6.5",
        9,
        42,
        None,
        join_group.JoinGroupResponse(error_code=25, protocol_name=None),
        "0000002a00000000000019ffffffff00000100010100",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        sync_group.SyncGroupResponse(assignment=b"\x01\x02"),
        "0000002a0000000000020102",
    ),
    Case(
        "kio 0.6.5",
        5,
        42,
        None,
        sync_group.SyncGroupResponse(
            throttle_time_ms=7,
            protocol_type="consumer",
            protocol_name="range",
            assignment=b"\x01\x02",
        ),
        "0000002a0000000007000009636f6e73756d65720672616e676503010200",
    ),
    Case("kio 0.6.5", 0, 42, None, heartbeat.HeartbeatResponse(error_code=27), "0000002a001b"),
    Case(
        "kio 0.6.5",
        4,
        42,
        None,
        heartbeat.HeartbeatResponse(throttle_time_ms=7, error_code=25),
        "0000002a0000000007001900",
    ),
    Case("kio 0.6.5", 0, 42, None, leave_group.LeaveGroupResponse(error_code=25), "0000002a0019"),
    Case(
        "kio 0.6.5",
        5,
        42,
        None,
        leave_group.LeaveGroupResponse(
            members=[
                leave_group.MemberResponse(member_id="rdkafka-4a1c", group_instance_id=None),
                leave_group.MemberResponse(group_instance_id="i-1", error_code=25),
            ]
        ),
        "0000002a00000000000000030d72646b61666b612d34613163000000000104692d3100190000",
    ),
]
