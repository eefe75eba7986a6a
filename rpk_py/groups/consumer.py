"""A group of the consumer protocol (KIP-848): one heartbeat does it all, and nobody waits.

What:       the state machine. Joins, leaves and changed subscriptions or topics raise the group's
            epoch; then a target assignment is made, and each member goes to it by itself, at its
            own heartbeats (rpk_py/groups/consumer_members.py).
Where:      the coordinator of the group. Sans-io: no clock, no await, no log line. Calls take
            `now_ms` and return the records to write, in one batch. State changes at once: the
            owner answers when the records are durable, and has no group left if they fail.
Invariants: - epochs only grow;
            - a partition is held by one member at a time, until that says it has given it up, has
              left, or is removed because it was silent for too long;
            - `wake_ms` is never later than the earliest deadline.
Source:     GroupMetadataManager (consumerGroup*), ConsumerGroup and TargetAssignmentBuilder of
            Apache Kafka 4.1; KIP-848.
Deviations: regular expressions are matched when topics change, not in the background, and what
            they matched is not recorded. Members of the classic protocol do not take part. The
            hash of the topics' metadata is not Kafka's. Racks are not looked at. A member may
            join again under its id at any epoch: it says that it has nothing. Kafka fences it until
            its session is over. A static member comes back to a full group as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b

from kafka_protocol import group_records
from kafka_protocol.errors import ErrorCode
from rpk_py.groups.assignors import ASSIGNORS, DEFAULT_ASSIGNOR, Owned, Subscriber
from rpk_py.groups.classic_values import Leaver
from rpk_py.groups.consumer_history import ConsumerHistory
from rpk_py.groups.consumer_members import (
    ConsumerMember,
    MemberState,
    from_record,
    is_subset,
    partitions_in,
    reconcile,
    to_record,
    to_reply,
)
from rpk_py.groups.consumer_values import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    LEAVE_STATIC_EPOCH,
    ConsumerSettings,
    HeartbeatReply,
    HeartbeatRequest,
    Records,
    Refused,
    check_request,
)
from rpk_py.groups.subscriptions import Patterns
from rpk_py.groups.timeline import EventKind, Timeline
from rpk_py.metadata.state import ClusterState, TopicState

CONSUMER_COMMIT_SINCE = 9  # OffsetCommit versions before it know no member epochs


class ConsumerGroup:
    """One group. `new_member_id` gives a member id; times are epoch ms."""

    def __init__(
        self,
        group_id: str,
        settings: ConsumerSettings,
        new_member_id: Callable[[], str],
        now_ms: int,
    ) -> None:
        self.group_id = group_id
        self.settings = settings
        self.epoch = 0
        self.assignment_epoch = 0
        self.members: dict[str, ConsumerMember] = {}
        self.target: dict[str, Owned] = {}
        self._history = ConsumerHistory()
        self.wake_ms: int | None = None
        self.protocol_type = "consumer"
        self.empty_since_ms: int | None = now_ms
        self.is_dead = False
        self._new_member_id = new_member_id
        self._now_ms = now_ms
        self._static: dict[str, str] = {}
        self._holders: dict[tuple[bytes, int], str] = {}
        self._patterns = Patterns()
        self._metadata_hash = 0
        self._seen_revision = -1

    # --- what it is ------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        return not self.members

    @property
    def timeline(self) -> Timeline:
        return self._history.timeline

    @property
    def is_stable(self) -> bool:
        return self.state_name == "Stable"

    @property
    def state_name(self) -> str:
        """The state under the name that clients see."""
        if self.is_dead:
            return "Dead"
        if not self.members:
            return "Empty"
        if self.epoch > self.assignment_epoch:
            return "Assigning"
        if all(m.has_reached(self.assignment_epoch) for m in self.members.values()):
            return "Stable"
        return "Reconciling"

    @property
    def subscribed_topics(self) -> frozenset[str]:
        """Names, of patterns those that matched at the last look."""
        return frozenset().union(*(self._topics_of(m) for m in self.members.values()))

    @property
    def assignor(self) -> str:
        """What most members ask for."""
        wanted = Counter(m.server_assignor for m in self.members.values() if m.server_assignor)
        return wanted.most_common(1)[0][0] if wanted else DEFAULT_ASSIGNOR

    # --- requests --------------------------------------------------------------------------------

    def heartbeat(
        self, request: HeartbeatRequest, state: ClusterState, now_ms: int
    ) -> tuple[HeartbeatReply, Records]:
        """One ConsumerGroupHeartbeat. Errors are replies, and have no records."""
        self._now_ms = now_ms
        try:
            check_request(request)
            if request.member_epoch in (LEAVE_EPOCH, LEAVE_STATIC_EPOCH):
                return self._leave_by_itself(request)
            return self._live(request, state)
        except Refused as refused:
            return HeartbeatReply(refused.error, str(refused)), []

    def check_commit(
        self,
        member_id: str,
        instance_id: str | None,
        member_epoch: int,
        api_version: int,
        now_ms: int,
    ) -> ErrorCode:
        """Whether offsets may be committed now (ConsumerGroup.validateOffsetCommit)."""
        if member_epoch < 0 and not self.members:
            return ErrorCode.NONE
        member = self.members.get(member_id)
        if member is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        if api_version < CONSUMER_COMMIT_SINCE:
            return ErrorCode.UNSUPPORTED_VERSION
        stale = member_epoch != member.member_epoch
        return ErrorCode.STALE_MEMBER_EPOCH if stale else ErrorCode.NONE

    def check_fetch(self, member_id: str | None, member_epoch: int) -> ErrorCode:
        """Whether offsets may be told (ConsumerGroup.validateOffsetFetch)."""
        if member_id is None and member_epoch < 0:
            return ErrorCode.NONE
        member = self.members.get(member_id or "")
        if member is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        stale = member_epoch != member.member_epoch
        return ErrorCode.STALE_MEMBER_EPOCH if stale else ErrorCode.NONE

    def leave(self, leavers: Sequence[Leaver], now_ms: int) -> tuple[list[ErrorCode], Records]:
        """LeaveGroup, by which an administrator removes members; they leave by heartbeats.

        Source: GroupMetadataManager.classicGroupLeaveToConsumerGroup.
        """
        self._now_ms = now_ms
        errors: list[ErrorCode] = []
        records: Records = []
        for leaver in leavers:
            member_id = leaver.member_id
            if leaver.instance_id is not None:
                member_id = self._static.get(leaver.instance_id, "")
            member = self.members.get(member_id)
            if member is None:
                errors.append(ErrorCode.UNKNOWN_MEMBER_ID)
            elif leaver.member_id not in ("", member_id):
                errors.append(ErrorCode.FENCED_INSTANCE_ID)
            else:
                errors.append(ErrorCode.NONE)
                records += self._remove(member, EventKind.LEFT, leaver.reason)
        return errors, records + (self._raise_epoch("members left") if records else [])

    # --- the clock, the log, the end -------------------------------------------------------------

    def tick(self, state: ClusterState, now_ms: int) -> Records:
        """Remove who is due at `now_ms`; too early it does nothing but set `wake_ms` anew."""
        self._now_ms = now_ms
        records: Records = []
        for member in list(self.members.values()):
            silent = member.session_deadline_ms
            slow = member.revoke_deadline_ms
            if silent is not None and silent <= now_ms:
                records += self._remove(
                    member, EventKind.MISSED_HEARTBEAT, duration_ms=now_ms - member.heard_ms
                )
            elif slow is not None and slow <= now_ms:
                reason = "did not give up its partitions in time"
                records += self._remove(member, EventKind.MISSED_REBALANCE, reason)
        if records:
            records += self._raise_epoch("members were removed")
        deadlines = [
            each
            for member in self.members.values()
            for each in (member.session_deadline_ms, member.revoke_deadline_ms)
            if each is not None
        ]
        self.wake_ms = min(deadlines, default=None)
        return records

    def replay(self, key: group_records.Key, value: group_records.Value) -> None:
        """Take over one record of the log; the last of each key, in any order."""
        if isinstance(value, group_records.ConsumerGroupMetadataValue):
            self.epoch, self._metadata_hash = value.epoch, value.metadata_hash
        elif isinstance(value, group_records.ConsumerGroupTargetAssignmentMetadataValue):
            self.assignment_epoch = value.assignment_epoch
        elif isinstance(value, group_records.ConsumerGroupMemberMetadataValue):
            assert isinstance(key, group_records.ConsumerGroupMemberMetadataKey)
            self._replayed(key.member_id).take_metadata(value)
        elif isinstance(value, group_records.ConsumerGroupTargetAssignmentMemberValue):
            assert isinstance(key, group_records.ConsumerGroupTargetAssignmentMemberKey)
            self.target[key.member_id] = from_record(value.topic_partitions)
        elif isinstance(value, group_records.ConsumerGroupCurrentMemberAssignmentValue):
            assert isinstance(key, group_records.ConsumerGroupCurrentMemberAssignmentKey)
            self._replayed(key.member_id).take_assignment(value)

    def _replayed(self, member_id: str) -> ConsumerMember:
        return self.members.setdefault(member_id, ConsumerMember(member_id))

    def start_loaded(self, now_ms: int) -> None:
        """All records were replayed: sessions start anew from here."""
        self._now_ms = now_ms
        for member in self.members.values():
            if member.instance_id is not None:
                self._static[member.instance_id] = member.member_id
            self._holders.update(dict.fromkeys(member.held(), member.member_id))
            self._expect_heartbeat(member)
            self._expect_revocation(member)
        self._tell(EventKind.LOADED, reason=f"{len(self.members)} members")

    def tombstones(self) -> Records:
        """What deletes an empty group."""
        assert not self.members
        self.is_dead = True
        return [
            (group_records.ConsumerGroupTargetAssignmentMetadataKey(self.group_id), None),
            (group_records.ConsumerGroupMetadataKey(self.group_id), None),
        ]

    # --- living ----------------------------------------------------------------------------------

    def _live(
        self, request: HeartbeatRequest, state: ClusterState
    ) -> tuple[HeartbeatReply, Records]:
        joins = request.member_epoch == JOIN_EPOCH
        member = None if joins else self._known_member(request)
        pattern = request.subscribed_regex
        if pattern and (problem := self._patterns.problem(pattern)) is not None:
            text = f"SubscribedTopicRegex `{pattern}` is not a valid regular expression: {problem}."
            raise Refused(ErrorCode.INVALID_REGULAR_EXPRESSION, text)
        records: Records = []
        if member is None:
            member, records = self._join(request)
        before, subscription = member.assigned, member.subscription
        if self._update(member, request):
            key = group_records.ConsumerGroupMemberMetadataKey(self.group_id, member.member_id)
            records.append((key, member.metadata_record()))
        resubscribes = self.epoch == 0 or subscription != member.subscription
        records += self._follow_topics(state, resubscribes)
        records += self._assign(state)
        target = self.target.get(member.member_id, {})
        if self._reconcile(member, target, request):
            records.append(self._assignment_of(member))
            self._expect_revocation(member)  # anew, where it is asked for more
        self._expect_heartbeat(member)
        self._note_progress()
        full = joins or (
            request.rebalance_timeout_ms != -1
            and (request.subscribed_topics is not None or request.subscribed_regex is not None)
            and request.owned is not None
        )
        tells = full or before != member.assigned
        return (
            HeartbeatReply(
                ErrorCode.NONE,
                None,
                member.member_id,
                member.member_epoch,
                self.settings.heartbeat_interval_ms,
                to_reply(member.assigned) if tells else None,
            ),
            records,
        )

    def _join(self, request: HeartbeatRequest) -> tuple[ConsumerMember, Records]:
        """The member of a join, made where it is new."""
        member_id = request.member_id or self._new_member_id()
        if request.instance_id is not None:
            held = self._static.get(request.instance_id)
            if held is not None:
                return self._take_over(request.instance_id, held, member_id)
        member = self.members.get(member_id)
        if member is not None:
            if request.instance_id not in (None, member.instance_id):
                self._static.pop(member.instance_id or "", None)
                self._static[request.instance_id] = member_id
                member.instance_id = request.instance_id
                key = group_records.ConsumerGroupMemberMetadataKey(self.group_id, member_id)
                return member, [(key, member.metadata_record())]
            return member, []
        if len(self.members) >= self.settings.members_max:
            raise Refused(
                ErrorCode.GROUP_MAX_SIZE_REACHED,
                f"The consumer group has reached its maximum capacity of "
                f"{self.settings.members_max} members.",
            )
        member = self.members[member_id] = ConsumerMember(member_id, request.instance_id)
        if request.instance_id is not None:
            self._static[request.instance_id] = member_id
        member.client_id, member.client_host = request.client_id, request.client_host
        self._tell(EventKind.JOINED, member)
        return member, []

    def _take_over(
        self, instance_id: str, old_id: str, member_id: str
    ) -> tuple[ConsumerMember, Records]:
        """A static member is back under a new id: it gets what was its own before."""
        old = self.members[old_id]
        if old.member_epoch != LEAVE_STATIC_EPOCH:
            raise Refused(
                ErrorCode.UNRELEASED_INSTANCE_ID,
                f"Static member {member_id} with instance id {instance_id} cannot join the group "
                f"because the instance id is owned by {old_id} member.",
            )
        records: Records = []
        if old_id != member_id:
            if (other := self.members.get(member_id)) is not None:  # it was another one so far
                records += self._remove(other, EventKind.LEFT, f"is {instance_id} now")
                records += self._raise_epoch("members left")
            records += self._forget(old)
        target = self.target.pop(old_id, {})
        del self.members[old_id]
        old.member_id, old.member_epoch, old.previous_epoch = member_id, 0, 0
        self.members[member_id] = old
        self.target[member_id] = target
        self._static[instance_id] = member_id
        self._holders.update(dict.fromkeys(old.held(), member_id))
        self._tell(EventKind.REPLACED, old)
        metadata = group_records.ConsumerGroupMemberMetadataKey(self.group_id, member_id)
        records.append((metadata, old.metadata_record()))
        records.append(self._target_of(member_id))
        records.append(self._assignment_of(old))
        return old, records

    def _known_member(self, request: HeartbeatRequest) -> ConsumerMember:
        """The member of a heartbeat, checked for its epoch."""
        member = self._find(request)
        epoch = request.member_epoch
        if epoch > member.member_epoch:
            raise Refused(
                ErrorCode.FENCED_MEMBER_EPOCH,
                f"The consumer group member has a greater member epoch ({epoch}) than the one "
                f"known by the group coordinator ({member.member_epoch}). The member must abandon "
                "all its partitions and rejoin.",
            )
        if epoch < member.member_epoch and (
            epoch != member.previous_epoch or not is_subset(request.owned, member.assigned)
        ):
            # The previous epoch is fine while its answer may have been lost.
            raise Refused(
                ErrorCode.FENCED_MEMBER_EPOCH,
                f"The consumer group member has a smaller member epoch ({epoch}) than the one "
                f"known by the group coordinator ({member.member_epoch}). The member must abandon "
                "all its partitions and rejoin.",
            )
        return member

    def _find(self, request: HeartbeatRequest) -> ConsumerMember:
        if request.instance_id is not None:
            held = self._static.get(request.instance_id)
            if held is None:
                text = f"Instance id {request.instance_id} is unknown."
                raise Refused(ErrorCode.UNKNOWN_MEMBER_ID, text)
            if held != request.member_id:
                raise Refused(
                    ErrorCode.FENCED_INSTANCE_ID,
                    f"Static member {request.member_id} with instance id {request.instance_id} was "
                    f"fenced by member {held}.",
                )
        member = self.members.get(request.member_id)
        if member is None:
            text = f"Member {request.member_id} is not a member of group {self.group_id}."
            raise Refused(ErrorCode.UNKNOWN_MEMBER_ID, text)
        return member

    def _update(self, member: ConsumerMember, request: HeartbeatRequest) -> bool:
        """Take over what a request says of its member; whether that is news."""
        before = member.metadata_record()
        member.client_id, member.client_host = request.client_id, request.client_host
        if request.rack_id is not None:
            member.rack_id = request.rack_id
        if request.rebalance_timeout_ms != -1:
            member.rebalance_timeout_ms = request.rebalance_timeout_ms
        if request.server_assignor is not None:
            member.server_assignor = request.server_assignor
        if request.subscribed_topics is not None:
            member.subscribed_topics = tuple(sorted(set(request.subscribed_topics)))
        if request.subscribed_regex is not None:
            member.subscribed_regex = request.subscribed_regex or None
        return before != member.metadata_record()

    # --- epochs and targets ----------------------------------------------------------------------

    def _follow_topics(self, state: ClusterState, resubscribes: bool) -> Records:
        """Raise the epoch if what members subscribe to is another thing than before."""
        is_raised = self.epoch > self.assignment_epoch and not resubscribes
        if self._seen_revision == state.revision and not (is_raised or resubscribes):
            return []
        self._seen_revision = state.revision
        self._patterns.match({m.subscribed_regex for m in self.members.values()}, state)
        digest = blake2b(digest_size=8)
        for topic in self._known(state):
            self._history.name(topic.topic_id, topic.name)
            digest.update(topic.topic_id + len(topic.partitions).to_bytes(4, "big"))
        number = int.from_bytes(digest.digest(), "big", signed=True)
        if number == self._metadata_hash and not resubscribes:
            return []
        self._metadata_hash = number
        if is_raised:  # members have gone: their topics go with the epoch that they raised
            return [self._metadata()]
        return self._raise_epoch("subscriptions changed" if resubscribes else "topics changed")

    def _raise_epoch(self, reason: str) -> Records:
        self.epoch += 1
        self._history.begin(self._now_ms, self.epoch, reason)
        return [self._metadata()]

    def _metadata(self) -> tuple[group_records.Key, group_records.Value]:
        return (
            group_records.ConsumerGroupMetadataKey(self.group_id),
            group_records.ConsumerGroupMetadataValue(self.epoch, self._metadata_hash),
        )

    def _assign(self, state: ClusterState) -> Records:
        """Make the target of the group's epoch, if that has grown."""
        if self.epoch <= self.assignment_epoch:
            return []
        counts = {t.topic_id: len(t.partitions) for t in self._known(state)}
        topics = state.topics
        subscribers = {
            member.member_id: Subscriber(
                frozenset(topics[n].topic_id for n in self._topics_of(member) if n in topics),
                self.target.get(member.member_id, {}),
                member.instance_id,
            )
            for member in self.members.values()
        }
        target = ASSIGNORS[self.assignor](subscribers, counts)
        changed = [m for m in target if self.target.get(m) != target[m]]
        self.target = target
        records: Records = [self._target_of(member_id) for member_id in changed]
        self.assignment_epoch = self.epoch
        self._tell(EventKind.GENERATION, reason=f"assigned by {self.assignor}")
        key = group_records.ConsumerGroupTargetAssignmentMetadataKey(self.group_id)
        value = group_records.ConsumerGroupTargetAssignmentMetadataValue(self.assignment_epoch)
        return [*records, (key, value)]

    def _reconcile(self, member: ConsumerMember, target: Owned, request: HeartbeatRequest) -> bool:
        held = set(member.held())
        # A member that joins has nothing, whatever it had before.
        owned = () if request.member_epoch == JOIN_EPOCH else request.owned
        holders = self._holders

        def is_free(topic: bytes, index: int) -> bool:
            return holders.get((topic, index), member.member_id) == member.member_id

        if not reconcile(member, target, self.assignment_epoch, owned, is_free):
            return False
        holds = set(member.held())
        for partition in held - holds:
            del holders[partition]
        holders.update(dict.fromkeys(holds, member.member_id))
        return True

    def _note_progress(self) -> None:
        """Tell it when everybody is where the target wants it."""
        if self._history.rebalancing and self.state_name in ("Stable", "Empty"):
            self._history.end(self._now_ms, self.epoch, self.members.values())

    # --- leaving ---------------------------------------------------------------------------------

    def _leave_by_itself(self, request: HeartbeatRequest) -> tuple[HeartbeatReply, Records]:
        member = self._find(request)
        reply = HeartbeatReply(ErrorCode.NONE, None, member.member_id, request.member_epoch)
        if request.member_epoch == LEAVE_STATIC_EPOCH:
            # Its place is kept until its session is over; it has nothing left to give up.
            member.member_epoch = LEAVE_STATIC_EPOCH
            for partition in partitions_in(member.revoking):
                self._holders.pop(partition, None)
            member.revoking, member.state = {}, MemberState.STABLE
            member.revoke_deadline_ms = None
            self._tell(EventKind.LEFT, member, "for a while")
            return reply, [self._assignment_of(member)]
        records = self._remove(member, EventKind.LEFT)
        return reply, records + self._raise_epoch("a member left")

    def _remove(
        self, member: ConsumerMember, kind: EventKind, reason: str = "", duration_ms: int = -1
    ) -> Records:
        records = self._forget(member)
        del self.members[member.member_id]
        self.target.pop(member.member_id, None)
        if member.instance_id is not None:
            self._static.pop(member.instance_id, None)
        for partition in member.held():
            self._holders.pop(partition, None)
        if not self.members:
            self.empty_since_ms = self._now_ms
        self._tell(kind, member, reason, duration_ms)
        return records

    def _forget(self, member: ConsumerMember) -> Records:
        """The tombstones of a member."""
        group_id, member_id = self.group_id, member.member_id
        return [
            (group_records.ConsumerGroupCurrentMemberAssignmentKey(group_id, member_id), None),
            (group_records.ConsumerGroupTargetAssignmentMemberKey(group_id, member_id), None),
            (group_records.ConsumerGroupMemberMetadataKey(group_id, member_id), None),
        ]

    # --- small parts -----------------------------------------------------------------------------

    def _topics_of(self, member: ConsumerMember) -> frozenset[str]:
        names = frozenset(member.subscribed_topics)
        if member.subscribed_regex is None:
            return names
        return names | self._patterns.matched(member.subscribed_regex)

    def _known(self, state: ClusterState) -> list[TopicState]:
        """Topics that members subscribe to and that exist, in order of their names."""
        return [state.topics[n] for n in sorted(self.subscribed_topics) if n in state.topics]

    def _target_of(self, member_id: str) -> tuple[group_records.Key, group_records.Value]:
        return (
            group_records.ConsumerGroupTargetAssignmentMemberKey(self.group_id, member_id),
            group_records.ConsumerGroupTargetAssignmentMemberValue(
                to_record(self.target[member_id])
            ),
        )

    def _assignment_of(
        self, member: ConsumerMember
    ) -> tuple[group_records.Key, group_records.Value]:
        key = group_records.ConsumerGroupCurrentMemberAssignmentKey(self.group_id, member.member_id)
        return key, member.assignment_record()

    def _expect_heartbeat(self, member: ConsumerMember) -> None:
        member.heard_ms = self._now_ms
        member.session_deadline_ms = self._now_ms + self.settings.session_timeout_ms
        self._wake_by(member.session_deadline_ms)

    def _expect_revocation(self, member: ConsumerMember) -> None:
        """A member that has to give up partitions has its rebalance timeout for it."""
        if member.state is not MemberState.UNREVOKED_PARTITIONS:
            member.revoke_deadline_ms = None
        else:
            member.revoke_deadline_ms = self._now_ms + max(member.rebalance_timeout_ms, 0)
            self._wake_by(member.revoke_deadline_ms)

    def _wake_by(self, deadline_ms: int) -> None:
        if self.wake_ms is None or deadline_ms < self.wake_ms:
            self.wake_ms = deadline_ms

    def _tell(
        self,
        kind: EventKind,
        member: ConsumerMember | None = None,
        reason: str = "",
        duration_ms: int = -1,
    ) -> None:
        self._history.tell(self._now_ms, kind, self.epoch, member, reason, duration_ms)
