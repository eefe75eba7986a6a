"""GroupCoordinator: the consumer groups of one shard, as its handlers see them.

What:       finds the group of a request, checks that this shard is its coordinator, hands the
            request to the group's state machine, and follows the metadata: partitions of
            __consumer_offsets that this shard leads are loaded, offsets of deleted topics go.
Where:      every shard, one instance. All methods are synchronous on the shard's loop; what waits
            for the disk or for other members is answered by a callback, once.
Source:     GroupCoordinatorService of Apache Kafka 4.1; KIP-848.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from kafka_protocol.errors import ErrorCode
from rpk_py.groups.classic_values import (
    JoinReply,
    JoinRequest,
    Leaver,
    LeaveReply,
    SyncReply,
    SyncRequest,
    join_refusal,
)
from rpk_py.groups.consumer_values import (
    HeartbeatReply,
    HeartbeatRequest,
    Refused,
    check_request,
)
from rpk_py.groups.explain import look_next
from rpk_py.groups.group import Group, GroupFactory
from rpk_py.groups.group_log import GroupLog
from rpk_py.groups.offsets import CommitRequest, missing_group_error
from rpk_py.groups.settings import CoordinatorSettings
from rpk_py.groups.timeline import Event, TopicPartition, bounded_text
from rpk_py.log_limit import LogLimit
from rpk_py.metadata.replica import MetadataReplica
from rpk_py.metadata.requests import TopicResult, TopicSpec
from rpk_py.metadata.state import Delta, TopicDeleted
from rpk_py.partition_table import PartitionTable
from rpk_py.tasks import Tasks
from rpk_py.turns import Turns

OFFSETS_TOPIC: Final = "__consumer_offsets"
_COMMIT_ERRORS: Final[dict[ErrorCode, ErrorCode]] = {
    ErrorCode.KAFKA_STORAGE_ERROR: ErrorCode.NOT_COORDINATOR,
    ErrorCode.NOT_LEADER_OR_FOLLOWER: ErrorCode.NOT_COORDINATOR,
    ErrorCode.MESSAGE_TOO_LARGE: ErrorCode.INVALID_COMMIT_OFFSET_SIZE,
}
_SEGMENTS_OF_A_LOG: Final = 4  # so that giving up the old half of a log frees files


class GroupCoordinator:
    """The groups whose partition of __consumer_offsets this shard leads."""

    def __init__(
        self,
        node_id: int,
        settings: CoordinatorSettings,
        replica: MetadataReplica,
        partitions: PartitionTable,
        turns: Turns,
        loop: asyncio.AbstractEventLoop,
        log: Any,
    ) -> None:
        self._node_id = node_id
        self._settings = settings
        self._replica = replica
        self._partitions = partitions
        self._turns = turns
        self._loop = loop
        self._log = log
        self._logs: dict[int, GroupLog] = {}
        self._tasks = Tasks(lambda error: log.error("a group task failed", reason=repr(error)))
        self._factory = GroupFactory(settings, replica.state, loop, self._tasks.spawn)
        self._log_limit = LogLimit()
        self._creating: asyncio.Task[None] | None = None
        self.commits = 0  # partitions whose offset was committed
        self.load_seconds = 0.0

    def start(self) -> None:
        """Look for expired offsets from time to time."""
        self._tasks.spawn(self._expire())

    async def close(self) -> None:
        """Hand what is queued to the logs; they are closed after this."""
        await self._tasks.cancel()
        for log in self._logs.values():
            log.flush()
            for group in log.groups.values():
                group.stop()

    # --- where groups are ------------------------------------------------------------------------

    def partition_of(self, group_id: str) -> int | None:
        """The partition of __consumer_offsets that a group is in; None: there is no such topic."""
        topic = self._replica.state.topics.get(OFFSETS_TOPIC)
        return None if topic is None else java_hash(group_id) % len(topic.partitions)

    def create_offsets_topic(self) -> None:
        """Create __consumer_offsets, unless that is under way or done."""
        if self._creating is None and OFFSETS_TOPIC not in self._replica.state.topics:
            self._creating = self._tasks.spawn(self._create_offsets_topic())

    async def _create_offsets_topic(self) -> None:
        segment_bytes = max(self._settings.offsets_bytes // _SEGMENTS_OF_A_LOG, 64 * 1024)
        spec = TopicSpec(
            OFFSETS_TOPIC,
            self._settings.offsets_partitions,
            configs=[
                ("cleanup.policy", "compact"),
                ("compression.type", "producer"),
                ("segment.bytes", str(segment_bytes)),
                ("write.caching", "false"),  # a commit that was answered survives a power cut
            ],
        )
        try:
            (result,) = await self._replica.create_topics([spec], 10_000, False)
            if result.error_code not in (ErrorCode.NONE, ErrorCode.TOPIC_ALREADY_EXISTS):
                self._say_not_created(result)
        finally:
            self._creating = None

    def _say_not_created(self, result: TopicResult) -> None:
        """Clients cause it as often as they look for a coordinator, so not every time."""
        suppressed = self._log_limit.admit("offsets topic", "", self._loop.time())
        if suppressed is not None:
            self._log.warning(
                "the topic of committed offsets cannot be created",
                error=ErrorCode(result.error_code).name,
                reason=result.error_message,
                suppressed=suppressed,
            )

    async def offsets_topic_exists(self, timeout_s: float) -> None:
        """Have it created, and wait until it is, at most so long."""
        self.create_offsets_topic()
        if self._creating is not None:
            await asyncio.wait([self._creating], timeout=timeout_s)

    def log_of(self, group_id: str) -> GroupLog | ErrorCode:
        """The log of a group, if it is here and can be used."""
        index = self.partition_of(group_id)
        if index is None:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        log = self._logs.get(index)
        if log is None:
            return ErrorCode.NOT_COORDINATOR
        if log.error:
            return log.error
        return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS if log.loading else log

    def find(self, group_id: str) -> Group | ErrorCode:
        """The group; GROUP_ID_NOT_FOUND if it would be here and is not."""
        log = self.log_of(group_id)
        if not isinstance(log, GroupLog):
            return log
        return log.groups.get(group_id) or ErrorCode.GROUP_ID_NOT_FOUND

    def groups(self) -> Iterator[Group]:
        """All groups of this shard."""
        for log in list(self._logs.values()):
            yield from list(log.groups.values())

    def history(self, group_id: str) -> dict[str, Any] | None:
        """What happened to a group, as JSON has it; None: it is not here."""
        group = self.find(group_id)
        if isinstance(group, ErrorCode):
            return None
        events = group.timeline.events()
        return {
            "group": group_id,
            "type": group.type_name,
            "state": group.state_name,
            "node_id": self._node_id,
            "dropped": group.timeline.dropped_count,
            "events": [_event_facts(event) for event in events],
            "look_next": look_next(events),
        }

    @property
    def logs(self) -> Sequence[GroupLog]:
        """The partitions of __consumer_offsets that this shard leads."""
        return list(self._logs.values())

    @property
    def loading(self) -> bool:
        """Whether groups of this shard are still being read from the disk."""
        return any(log.loading for log in self._logs.values())

    @property
    def member_count(self) -> int:
        """Members of all groups of this shard."""
        return sum(group.member_count for group in self.groups())

    @property
    def rebalances(self) -> int:
        """Generations of classic groups, and targets of others, that began here."""
        return self._factory.rebalances

    # --- the classic protocol --------------------------------------------------------------------

    def join(
        self, group_id: str, request: JoinRequest, answer: Callable[[JoinReply], None]
    ) -> None:
        """JoinGroup."""
        error = join_refusal(group_id, request.session_timeout_ms, self._settings.classic)
        group = error or self._find_to_join(group_id, request.member_id == "")
        if isinstance(group, ErrorCode):
            if group is ErrorCode.GROUP_ID_NOT_FOUND:
                group = ErrorCode.UNKNOWN_MEMBER_ID
            answer(JoinReply(group, request.member_id))
            return
        if group.classic is None:
            if not group.is_empty:
                answer(JoinReply(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, request.member_id))
                return
            group.become_classic()
        assert group.classic is not None
        group.run(group.classic.join(answer, request, self._factory.now_ms()))

    def sync(
        self, group_id: str, request: SyncRequest, answer: Callable[[SyncReply], None]
    ) -> None:
        """SyncGroup."""
        group = self._find_member(group_id)
        if isinstance(group, ErrorCode):
            answer(SyncReply(group))
        elif group.classic is None:
            answer(SyncReply(ErrorCode.UNKNOWN_MEMBER_ID))
        else:
            group.run(group.classic.sync(answer, request, self._factory.now_ms()))

    def heartbeat(
        self, group_id: str, member_id: str, instance_id: str | None, generation: int
    ) -> ErrorCode:
        """Heartbeat."""
        group = self._find_member(group_id)
        if isinstance(group, ErrorCode):
            # Clients take no answer here for "try again", so a coordinator that loads says fine.
            loads = group is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
            return ErrorCode.NONE if loads else group
        if group.classic is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        now_ms = self._factory.now_ms()
        return group.classic.heartbeat(member_id, instance_id, generation, now_ms)

    def leave(
        self, group_id: str, leavers: Sequence[Leaver], answer: Callable[[LeaveReply], None]
    ) -> None:
        """LeaveGroup, of either protocol: an administrator removes static members by it."""
        group = self._find_member(group_id)
        now_ms = self._factory.now_ms()
        if group is ErrorCode.UNKNOWN_MEMBER_ID:
            answer(LeaveReply(ErrorCode.NONE, tuple((leaver, group) for leaver in leavers)))
        elif isinstance(group, ErrorCode):
            answer(LeaveReply(group))
        elif group.classic is not None:
            group.run(group.classic.leave(answer, leavers, now_ms))
        else:
            errors, records = group.the_consumer.leave(leavers, now_ms)
            results = tuple(zip(leavers, errors, strict=True))
            group.run_consumer(
                records,
                lambda: answer(LeaveReply(ErrorCode.NONE, results)),
                lambda failed: answer(LeaveReply(_told(failed))),
            )

    def _find_to_join(self, group_id: str, may_create: bool) -> Group | ErrorCode:
        group = self.find(group_id)
        if group is ErrorCode.GROUP_ID_NOT_FOUND and may_create:
            return self._make(group_id)
        return group

    def _find_member(self, group_id: str) -> Group | ErrorCode:
        """The group of a member's request; a group that is not there has no such member."""
        if not group_id:
            return ErrorCode.INVALID_GROUP_ID
        group = self.find(group_id)
        return ErrorCode.UNKNOWN_MEMBER_ID if group is ErrorCode.GROUP_ID_NOT_FOUND else group

    def _make(self, group_id: str) -> Group:
        log = self.log_of(group_id)
        assert isinstance(log, GroupLog)
        group = log.groups[group_id] = self._factory.make(group_id, log)
        return group

    # --- the consumer protocol -------------------------------------------------------------------

    def consumer_heartbeat(
        self, group_id: str, request: HeartbeatRequest, answer: Callable[[HeartbeatReply], None]
    ) -> None:
        """ConsumerGroupHeartbeat."""
        if not group_id:
            answer(HeartbeatReply(ErrorCode.INVALID_REQUEST, "GroupId can't be empty."))
            return
        try:
            check_request(request)
        except Refused as refused:
            answer(HeartbeatReply(refused.error, str(refused)))
            return
        group = self._find_to_join(group_id, request.member_epoch == 0)
        if isinstance(group, ErrorCode):
            message = None
            if group is ErrorCode.GROUP_ID_NOT_FOUND:
                message = bounded_text(f"Group {group_id} not found.")
            answer(HeartbeatReply(group, message))
            return
        records = []
        if group.consumer is None:
            if request.member_epoch != 0 or not group.is_empty:
                text = bounded_text(f"Group {group_id} is not a consumer group.")
                answer(HeartbeatReply(ErrorCode.GROUP_ID_NOT_FOUND, text))
                return
            records = group.become_consumer()
        epoch_before = group.the_consumer.assignment_epoch
        reply, more = group.the_consumer.heartbeat(
            request, self._replica.state, self._factory.now_ms()
        )
        self._factory.rebalances += group.the_consumer.assignment_epoch > epoch_before
        if reply.error and not records and group.is_fresh:
            del group.log.groups[group_id]  # it was made for a member that may not come in
        group.run_consumer(
            records + more,
            lambda: answer(reply),
            lambda failed: answer(HeartbeatReply(_told(failed), None)),
        )

    # --- offsets ---------------------------------------------------------------------------------

    def commit(
        self,
        group_id: str,
        request: CommitRequest,
        answer: Callable[[ErrorCode, list[ErrorCode]], None],
    ) -> None:
        """OffsetCommit: an error of the group, or one a commit, in order."""
        group = self.find(group_id)
        now_ms = self._factory.now_ms()
        if isinstance(group, ErrorCode):
            error = group
            if error is ErrorCode.GROUP_ID_NOT_FOUND:
                error = missing_group_error(request.generation, request.api_version)
            if error:
                answer(error, [])
                return
            group = self._make(group_id)
        if group.classic is not None:
            error = group.classic.check_commit(
                request.member_id, request.instance_id, request.generation, now_ms
            )
        else:
            error = group.the_consumer.check_commit(
                request.member_id,
                request.instance_id,
                request.generation,
                request.api_version,
                now_ms,
            )
        if error:
            answer(error, [])
            return
        errors, records = group.offsets.plan_commit(request.commits, now_ms, request.retention_ms)
        if not records:
            answer(ErrorCode.NONE, errors)
            return
        self.commits += len(records)
        group.write_offsets(records, lambda failed: answer(_told(failed), errors))

    def check_fetch(
        self, group_id: str, member_id: str | None, member_epoch: int
    ) -> Group | ErrorCode | None:
        """OffsetFetch: the group, or None where there is none, which is not an error."""
        group = self.find(group_id)
        if group is ErrorCode.GROUP_ID_NOT_FOUND:
            return None
        if isinstance(group, Group) and group.consumer is not None:
            return group.consumer.check_fetch(member_id, member_epoch) or group
        return group

    def delete(self, group_id: str, answer: Callable[[ErrorCode], None]) -> None:
        """DeleteGroups, one of them: its offsets and its state."""
        group = self.find(group_id) if group_id else ErrorCode.INVALID_GROUP_ID
        if isinstance(group, ErrorCode):
            answer(group)
        elif not group.is_empty:
            answer(ErrorCode.NON_EMPTY_GROUP)
        else:
            self._remove(group, lambda failed: answer(_told(failed)))

    def delete_offsets(
        self,
        group_id: str,
        partitions: Sequence[TopicPartition],
        answer: Callable[[ErrorCode, list[ErrorCode]], None],
    ) -> None:
        """OffsetDelete: an error of the group, or one a partition, in order."""
        group = self.find(group_id) if group_id else ErrorCode.INVALID_GROUP_ID
        if isinstance(group, ErrorCode):
            answer(group, [])
            return
        error, errors, records = group.offsets.plan_delete(group.owner, partitions)
        if error or not records:
            answer(error, errors)
        else:
            group.write_offsets(records, lambda failed: answer(_told(failed), errors))

    def _remove(self, group: Group, done: Callable[[ErrorCode], None]) -> None:
        """End an empty group: it is gone at once, and for good when its tombstones are durable."""
        del group.log.groups[group.group_id]
        offsets = group.offsets.plan_delete_all()
        if offsets:
            group.write_offsets(offsets, lambda failed: None)
        if group.classic is not None:
            _, effects = group.classic.delete(self._factory.now_ms())
            group.run(effects)
        else:
            group.run_consumer(group.the_consumer.tombstones(), None, lambda failed: None)
        group.stop()
        group.log.append((), done)

    # --- following the metadata ------------------------------------------------------------------

    async def on_delta(self, delta: Delta | None) -> None:
        """After the partition table: take over what it opened, give up what it closed."""
        self._follow_partitions()
        if delta is None or any(isinstance(change, TopicDeleted) for change in delta.changes):
            for group in self.groups():
                if not group.log.loading:  # else it does so itself in the end
                    group.drop_gone()
                await self._turns.pause()

    def _follow_partitions(self) -> None:
        topic = self._replica.state.topics.get(OFFSETS_TOPIC)
        count = 0 if topic is None else len(topic.partitions)
        for index in range(max(count, max(self._logs, default=-1) + 1)):
            partition = self._partitions.get(OFFSETS_TOPIC, index)
            log = self._logs.get(index)
            if log is not None and log.partition is partition:
                continue
            if log is not None:
                del self._logs[index]
                log.close(ErrorCode.NOT_COORDINATOR)
            if partition is not None:
                log = self._logs[index] = GroupLog(
                    partition, self._factory, self._turns, self._loop, self._log
                )
                self._tasks.spawn(self._load(log))

    async def _load(self, log: GroupLog) -> None:
        started_s = self._loop.time()
        await log.load()
        seconds = self._loop.time() - started_s
        self.load_seconds += seconds
        if log.groups:
            self._log.info(
                "groups loaded",
                partition=log.name,
                groups=len(log.groups),
                seconds=round(seconds, 3),
            )

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(self._settings.expiry_interval_s)
            for group in self.groups():
                if group.log.groups.get(group.group_id) is not group:
                    continue  # it went while this gave way
                if group.expire(self._factory.now_ms()):
                    self._remove(group, lambda failed: None)
                await self._turns.pause()


def _event_facts(event: Event) -> dict[str, Any]:
    return {
        "at_ms": event.at_ms,
        "kind": event.kind.value,
        "generation": event.generation,
        "member": event.member,
        "client_id": event.client_id,
        "client_host": event.client_host,
        "reason": event.reason,
        "duration_ms": event.duration_ms,
        "moved_count": event.moved_count,
        "moves": [
            {
                "topic": move.topic,
                "partition": move.partition_index,
                "before": move.before,
                "after": move.after,
            }
            for move in event.moves
        ],
    }


def _told(error: ErrorCode) -> ErrorCode:
    """What a client is told when records of its request could not be written."""
    return _COMMIT_ERRORS.get(error, error)


@lru_cache(maxsize=10_000)
def java_hash(text: str) -> int:
    """String.hashCode of Java with the sign bit cleared, as Utils.abs of Kafka does."""
    number = 0
    data = text.encode("utf-16-be", "surrogatepass")
    for i in range(0, len(data), 2):
        number = (31 * number + (data[i] << 8 | data[i + 1])) & 0xFFFFFFFF
    return number & 0x7FFFFFFF
