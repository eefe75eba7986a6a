// Golden bytes for test_group_records.py, by Apache Kafka's own classes. To make them again with the
// jars of a Kafka 4.1:
//
//     java -cp '/opt/kafka/libs/*' tests/protocol/GroupRecords.java > tests/protocol/group_records.txt
//
// A line is a name, a version or "-", and bytes in hex ("-" for a tombstone, which has none).

import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.OptionalInt;
import java.util.OptionalLong;
import org.apache.kafka.clients.consumer.internals.ConsumerProtocol;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.message.ConsumerProtocolAssignment;
import org.apache.kafka.common.message.ConsumerProtocolSubscription;
import org.apache.kafka.common.protocol.ApiMessage;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.MessageUtil;
import org.apache.kafka.coordinator.common.runtime.CoordinatorRecord;
import org.apache.kafka.coordinator.group.GroupCoordinatorRecordHelpers;
import org.apache.kafka.coordinator.group.GroupCoordinatorRecordSerde;
import org.apache.kafka.coordinator.group.OffsetAndMetadata;
import org.apache.kafka.coordinator.group.generated.*;

public class GroupRecords {
    static final Uuid TOPIC = new Uuid(0x0102030405060708L, 0x090a0b0c0d0e0f10L);
    static final long NOW = 1700000000123L;

    static void line(String name, Object version, byte[] bytes) {
        System.out.println(name + " " + version + " "
            + (bytes == null ? "-" : HexFormat.of().formatHex(bytes)));
    }

    static void key(String name, int type, Message message) {
        line(name, "-", MessageUtil.toVersionPrefixedBytes((short) type, message));
    }

    static void value(String name, int version, Message message) {
        line(name, version, MessageUtil.toVersionPrefixedBytes((short) version, message));
    }

    // As Kafka's coordinator writes it: the version is Kafka's choice.
    static void written(String name, CoordinatorRecord record) {
        GroupCoordinatorRecordSerde serde = new GroupCoordinatorRecordSerde();
        line(name + "_key", "-", serde.serializeKey(record));
        line(name + "_value", "-", serde.serializeValue(record));
    }

    public static void main(String[] args) {
        keys();
        classicValues();
        consumerValues();
        writtenByTheCoordinator();
        consumerProtocol();
    }

    static void keys() {
        key("legacy_offset_commit_key", 0, new LegacyOffsetCommitKey()
            .setGroup("billing").setTopic("orders").setPartition(3));
        key("offset_commit_key", 1, new OffsetCommitKey()
            .setGroup("täglich").setTopic("orders").setPartition(3));
        key("group_metadata_key", 2, new GroupMetadataKey().setGroup("billing"));
        key("consumer_group_metadata_key", 3, new ConsumerGroupMetadataKey().setGroupId("billing"));
        key("consumer_group_partition_metadata_key", 4,
            new ConsumerGroupPartitionMetadataKey().setGroupId("billing"));
        key("consumer_group_member_metadata_key", 5,
            new ConsumerGroupMemberMetadataKey().setGroupId("billing").setMemberId("m-1"));
        key("consumer_group_target_assignment_metadata_key", 6,
            new ConsumerGroupTargetAssignmentMetadataKey().setGroupId("billing"));
        key("consumer_group_target_assignment_member_key", 7,
            new ConsumerGroupTargetAssignmentMemberKey().setGroupId("billing").setMemberId("m-1"));
        key("consumer_group_current_member_assignment_key", 8,
            new ConsumerGroupCurrentMemberAssignmentKey().setGroupId("billing").setMemberId("m-1"));
        key("consumer_group_regular_expression_key", 16,
            new ConsumerGroupRegularExpressionKey()
                .setGroupId("billing").setRegularExpression("ord.*"));
        key("unknown_key", 10, new ShareGroupMemberMetadataKey()
            .setGroupId("billing").setMemberId("m-1"));
    }

    static void classicValues() {
        value("legacy_offset_commit_value", 0, new LegacyOffsetCommitValue()
            .setOffset(12345).setMetadata("here").setCommitTimestamp(NOW));
        for (int version = 0; version <= 4; version++) {
            value("offset_commit_value", version, new OffsetCommitValue()
                .setOffset(12345).setLeaderEpoch(7).setMetadata("here").setCommitTimestamp(NOW)
                .setExpireTimestamp(NOW + 1000).setTopicId(TOPIC));
            value("group_metadata_value", version, new GroupMetadataValue()
                .setProtocolType("consumer").setGeneration(5).setProtocol("range").setLeader("m-1")
                .setCurrentStateTimestamp(NOW).setMembers(List.of(
                    member("m-1", "i-1", new byte[] {1, 2}), member("m-2", null, new byte[0]))));
            value("group_metadata_value_empty", version, new GroupMetadataValue()
                .setProtocolType("").setGeneration(6).setProtocol(null).setLeader(null));
        }
    }

    static GroupMetadataValue.MemberMetadata member(String id, String instance, byte[] bytes) {
        return new GroupMetadataValue.MemberMetadata()
            .setMemberId(id).setGroupInstanceId(instance).setClientId("cli").setClientHost("/::1")
            .setRebalanceTimeout(300000).setSessionTimeout(45000)
            .setSubscription(bytes).setAssignment(bytes);
    }

    static void consumerValues() {
        value("consumer_group_metadata_value", 0, new ConsumerGroupMetadataValue()
            .setEpoch(5).setMetadataHash(0x0102030405060708L));
        value("consumer_group_partition_metadata_value", 0,
            new ConsumerGroupPartitionMetadataValue().setTopics(List.of(
                new ConsumerGroupPartitionMetadataValue.TopicMetadata()
                    .setTopicId(TOPIC).setTopicName("orders").setNumPartitions(2)
                    .setPartitionMetadata(List.of(
                        new ConsumerGroupPartitionMetadataValue.PartitionMetadata()
                            .setPartition(1).setRacks(List.of("r-1", "r-2")))))));
        value("consumer_group_member_metadata_value", 0, memberMetadata());
        value("consumer_group_member_metadata_value_null", 0, new ConsumerGroupMemberMetadataValue()
            .setInstanceId(null).setRackId(null).setClientId("cli").setClientHost("/::1")
            .setSubscribedTopicRegex(null).setServerAssignor(null));
        value("consumer_group_member_metadata_value_classic", 0, memberMetadata()
            .setClassicMemberMetadata(new ConsumerGroupMemberMetadataValue.ClassicMemberMetadata()
                .setSessionTimeoutMs(45000).setSupportedProtocols(List.of(
                    new ConsumerGroupMemberMetadataValue.ClassicProtocol()
                        .setName("range").setMetadata(new byte[] {1, 2})))));
        value("consumer_group_target_assignment_metadata_value", 0,
            new ConsumerGroupTargetAssignmentMetadataValue().setAssignmentEpoch(5));
        value("consumer_group_target_assignment_member_value", 0,
            new ConsumerGroupTargetAssignmentMemberValue().setTopicPartitions(List.of(
                new ConsumerGroupTargetAssignmentMemberValue.TopicPartition()
                    .setTopicId(TOPIC).setPartitions(List.of(0, 2)))));
        value("consumer_group_current_member_assignment_value", 0,
            new ConsumerGroupCurrentMemberAssignmentValue()
                .setMemberEpoch(5).setPreviousMemberEpoch(4).setState((byte) 1)
                .setAssignedPartitions(List.of(partitions(0, 2)))
                .setPartitionsPendingRevocation(List.of(partitions(1))));
        value("consumer_group_regular_expression_value", 0,
            new ConsumerGroupRegularExpressionValue()
                .setTopics(List.of("order", "orders")).setVersion(99).setTimestamp(NOW));
    }

    static ConsumerGroupMemberMetadataValue memberMetadata() {
        return new ConsumerGroupMemberMetadataValue()
            .setInstanceId("i-1").setRackId("r-1").setClientId("cli").setClientHost("/::1")
            .setSubscribedTopicNames(List.of("clicks", "orders")).setSubscribedTopicRegex("ord.*")
            .setRebalanceTimeoutMs(300000).setServerAssignor("uniform");
    }

    static ConsumerGroupCurrentMemberAssignmentValue.TopicPartitions partitions(Integer... indexes) {
        return new ConsumerGroupCurrentMemberAssignmentValue.TopicPartitions()
            .setTopicId(TOPIC).setPartitions(Arrays.asList(indexes));
    }

    static void writtenByTheCoordinator() {
        written("written_offset", GroupCoordinatorRecordHelpers.newOffsetCommitRecord(
            "billing", "orders", 3, new OffsetAndMetadata(
                12345, OptionalInt.of(7), "", NOW, OptionalLong.empty(), TOPIC)));
        written("written_offset_without_id", GroupCoordinatorRecordHelpers.newOffsetCommitRecord(
            "billing", "orders", 3, new OffsetAndMetadata(
                12345, OptionalInt.empty(), "", NOW, OptionalLong.empty(), Uuid.ZERO_UUID)));
        written("written_offset_expiring", GroupCoordinatorRecordHelpers.newOffsetCommitRecord(
            "billing", "orders", 3, new OffsetAndMetadata(
                12345, OptionalInt.of(7), "", NOW, OptionalLong.of(NOW + 1000), TOPIC)));
        written("deleted_offset", GroupCoordinatorRecordHelpers.newOffsetCommitTombstoneRecord(
            "billing", "orders", 3));
        written("written_epoch", GroupCoordinatorRecordHelpers.newConsumerGroupEpochRecord(
            "billing", 5, 0));
        written("deleted_group", GroupCoordinatorRecordHelpers.newGroupMetadataTombstoneRecord(
            "billing"));
    }

    static void consumerProtocol() {
        ConsumerProtocolSubscription subscription = new ConsumerProtocolSubscription()
            .setTopics(List.of("orders", "clicks")).setUserData(ByteBuffer.wrap(new byte[] {1, 2}))
            .setGenerationId(5).setRackId("r-1");
        subscription.ownedPartitions().add(new ConsumerProtocolSubscription.TopicPartition()
            .setTopic("orders").setPartitions(List.of(0, 2)));
        ConsumerProtocolAssignment assignment = new ConsumerProtocolAssignment().setUserData(null);
        assignment.assignedPartitions().add(new ConsumerProtocolAssignment.TopicPartition()
            .setTopic("orders").setPartitions(List.of(0, 2)));
        for (int version = 0; version <= 3; version++) {
            value("subscription", version, subscription);
            value("assignment", version, assignment);
        }
        value("subscription_empty", 3, new ConsumerProtocolSubscription());
        // Version 9 does not exist, and Kafka reads it as version 3: the same topics, more bytes.
        byte[] later = MessageUtil.toVersionPrefixedBytes((short) 3, subscription);
        later = Arrays.copyOf(later, later.length + 3);
        later[1] = 9;
        if (!ConsumerProtocol.deserializeSubscription(ByteBuffer.wrap(later)).topics()
                .equals(List.of("orders", "clicks"))) {
            throw new IllegalStateException("Kafka reads a later version in another way");
        }
        line("subscription_later", "-", later);
    }
}
