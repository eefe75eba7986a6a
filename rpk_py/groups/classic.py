"""One classic consumer group: join, sync, heartbeat, leave, and the clock that ends their waits.

What:       the state machine. Empty -> PreparingRebalance (members join) -> CompletingRebalance
            (the leader assigns) -> Stable; and Dead once it is deleted or leaves this coordinator.
Where:      the coordinator of the group. Sans-io: no clock, no await, no log line. Calls take
            `now_ms` and return Effects: replies to those who wait, records to write, events.
            After every call the owner looks at `wake_ms` and calls `tick` at that time.
Invariants: - generations only grow;
            - every token is answered once;
            - nobody is told an assignment before it is persisted (`persisted`);
            - `wake_ms` is never later than the earliest deadline. It may be earlier: a heartbeat
              moves its deadline without touching it, which is what makes heartbeats cheap.
Source:     GroupMetadataManager (classicGroup*) and ClassicGroup of Apache Kafka 4.1, KIP-62,
            KIP-134 (initial delay), KIP-345 (static members), KIP-394 (member ids), KIP-814 (skip).
Deviations: a client that asks again while its first request still waits leaves no request behind
            unanswered: the first gets REBALANCE_IN_PROGRESS. A static member's rejoin whose record
            becomes durable after the next rebalance began is answered by that rebalance. A static
            member that returns is described with the client and host of its return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kafka_protocol.errors import ErrorCode
from kafka_protocol.lazy_dataclass import dataclass
from rpk_py.groups.classic_core import GroupCore
from rpk_py.groups.classic_members import Member
from rpk_py.groups.classic_rebalance import (
    ACTIVE,
    COMPLETING,
    DEAD,
    EMPTY,
    PREPARING,
    STABLE,
    Rebalance,
)
from rpk_py.groups.classic_values import (
    UNKNOWN_MEMBER_ID,
    Effects,
    GroupRecord,
    GroupSettings,
    JoinReply,
    JoinRequest,
    Leaver,
    LeaveReply,
    Protocol,
    SyncReply,
    SyncRequest,
    Token,
    join_refusal,
    write_error,
)
from rpk_py.groups.timeline import EventKind


@dataclass(slots=True)
class _Before:
    """A static member as it was before a rejoin whose record may fail."""

    member_id: str
    protocols: tuple[Protocol, ...]
    rebalance_timeout_ms: int
    session_timeout_ms: int


class ClassicGroup:
    """One group. `new_member_id` gives the unique part of a member id; times are epoch ms."""

    __slots__ = ("_new_member_id", "_rebalance", "core")

    def __init__(
        self,
        group_id: str,
        settings: GroupSettings,
        new_member_id: Callable[[], str],
        now_ms: int,
    ) -> None:
        self.core = GroupCore(group_id, settings, now_ms)
        self._rebalance = Rebalance(self.core)
        self._new_member_id = new_member_id

    @property
    def wake_ms(self) -> int | None:
        """When to call `tick`; None: not before another call."""
        return self.core.wake_ms

    # --- requests --------------------------------------------------------------------------------

    def join(self, token: Token, request: JoinRequest, now_ms: int) -> Effects:
        """Take a member in, or let it wait for the next generation. `join_refusal` comes first."""
        assert not join_refusal(self.core.group_id, request.session_timeout_ms, self.core.settings)
        self.core.now_ms = now_ms
        member_id = request.member_id
        if self.core.state is DEAD:
            self.core.refuse_join(token, member_id, ErrorCode.COORDINATOR_NOT_AVAILABLE)
        elif not self._has_room_for(member_id):
            refused = self.core.members.remove(member_id)
            if refused is not None:
                self.core.release(refused, ErrorCode.GROUP_MAX_SIZE_REACHED)
            self._rebalance.pending_sync.discard(member_id)
            self.core.refuse_join(token, UNKNOWN_MEMBER_ID, ErrorCode.GROUP_MAX_SIZE_REACHED)
            self.core.tell(EventKind.REFUSED, reason="the group is full", member=member_id)
        elif not self._speaks(request):
            self.core.refuse_join(token, member_id, ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
        elif member_id == UNKNOWN_MEMBER_ID:
            self._join_new(token, request)
        else:
            self._join_existing(token, request)
        if not self.core.is_recorded and self.core.state is not DEAD:
            self.core.write(self.core.record({}), self.core.empty_recorded)
        return self.core.take()

    def sync(self, token: Token, request: SyncRequest, now_ms: int) -> Effects:
        """Hand out the assignment, or wait for the leader's; the leader's arrives here."""
        self.core.now_ms = now_ms
        error = self._sync_error(request)
        if error:
            self.core.reply(token, SyncReply(error))
            return self.core.take()
        member = self.core.members[request.member_id]
        self._rebalance.pending_sync.discard(member.member_id)
        if not self._rebalance.pending_sync:
            self._rebalance.sync_deadline_ms = None
        if self.core.state is STABLE:
            assignment = member.assignment
            reply = SyncReply(
                ErrorCode.NONE, self.core.protocol_type, self.core.protocol_name, assignment
            )
            self.core.reply(token, reply)
            return self.core.take()
        self.core.answer_sync(member, SyncReply(ErrorCode.REBALANCE_IN_PROGRESS))
        member.sync_token = token
        if self.core.members.leader == member.member_id:
            assignments = {
                each.member_id: request.assignments.get(each.member_id, b"")
                for each in self.core.members.all()
            }
            generation = self.core.generation
            self.core.write(
                self.core.record(assignments),
                lambda failed: self._rebalance.assigned(assignments, generation, failed),
            )
        return self.core.take()

    def heartbeat(
        self, member_id: str, instance_id: str | None, generation: int, now_ms: int
    ) -> ErrorCode:
        """Note that a member lives. The only answers are these codes, and there are no effects."""
        if self.core.state is DEAD:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        error = self.core.members.error_of(member_id, instance_id)
        if error:
            return error
        if generation != self.core.generation:
            return ErrorCode.ILLEGAL_GENERATION
        self.core.expect_heartbeat(self.core.members[member_id], now_ms)
        return ErrorCode.REBALANCE_IN_PROGRESS if self.core.state is PREPARING else ErrorCode.NONE

    def leave(self, token: Token, leavers: Iterable[Leaver], now_ms: int) -> Effects:
        """Take members out. If that empties the group, the reply waits for the record of it."""
        self.core.now_ms = now_ms
        if self.core.state is DEAD:
            self.core.reply(token, LeaveReply(ErrorCode.COORDINATOR_NOT_AVAILABLE))
            return self.core.take()
        results = tuple((leaver, self._leave_one(leaver)) for leaver in leavers)
        writes_before = self.core.writes_begun
        if any(error is ErrorCode.NONE for _, error in results):
            if self.core.state in ACTIVE:
                self._rebalance.prepare("members left")
            elif self.core.state is PREPARING:
                self._rebalance.complete_join_if_all_are_in()
        if self.core.writes_begun > writes_before:
            self.core.writes[self.core.writes_begun] = lambda failed: self.core.reply(
                token, LeaveReply(failed, results)
            )
        else:
            self.core.reply(token, LeaveReply(ErrorCode.NONE, results))
        return self.core.take()

    def check_commit(
        self, member_id: str, instance_id: str | None, generation: int, now_ms: int
    ) -> ErrorCode:
        """Whether offsets may be committed now; a member's commit counts as a heartbeat."""
        if self.core.state is DEAD:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        if generation < 0 and self.core.state is EMPTY:
            return ErrorCode.NONE  # an admin, or a consumer that uses no group management
        if generation < 0 and not member_id and instance_id is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        error = self.core.members.error_of(member_id, instance_id)
        if error:
            return error
        if generation != self.core.generation:
            return ErrorCode.ILLEGAL_GENERATION
        if self.core.state is COMPLETING:
            return ErrorCode.REBALANCE_IN_PROGRESS
        self.core.expect_heartbeat(self.core.members[member_id], now_ms)
        return ErrorCode.NONE

    # --- the clock, the log, the end -------------------------------------------------------------

    def tick(self, now_ms: int) -> Effects:
        """Do what is due at `now_ms`; calling it early does nothing but set `wake_ms` anew."""
        self.core.now_ms = now_ms
        for member_id, deadline_ms in list(self.core.members.pending.items()):
            if deadline_ms <= now_ms and self.core.members.pending.pop(member_id, None) is not None:
                self.core.tell(EventKind.NEVER_JOINED, member=member_id)
                if self.core.state is PREPARING and self.core.members.all_joined:
                    self._rebalance.complete_join()
        for member in self.core.members.all():
            deadline = member.session_deadline_ms
            if deadline is not None and deadline <= now_ms:
                self._session_expired(member)
        if (
            self._rebalance.join_deadline_ms is not None
            and self._rebalance.join_deadline_ms <= now_ms
        ):
            self._rebalance.join_deadline_ms = None
            self._rebalance.join_phase_expired()
        if (
            self._rebalance.sync_deadline_ms is not None
            and self._rebalance.sync_deadline_ms <= now_ms
        ):
            self._rebalance.sync_deadline_ms = None
            self._rebalance.sync_phase_expired()
        self.core.wake_ms = min(self._deadlines(), default=None)
        return self.core.take()

    def persisted(self, write_id: int, error: ErrorCode, now_ms: int) -> Effects:
        """Go on after a Write has ended: durable if `error` is NONE. In order, each write once."""
        self.core.now_ms = now_ms
        self.core.writes.pop(write_id)(write_error(error))
        return self.core.take()

    def start_loaded(self, now_ms: int) -> Effects:
        """A group that was rebuilt from its record: sessions start anew from here."""
        self.core.now_ms = now_ms
        self.core.is_recorded = True
        self._rebalance.owners = self.core.owned(self.core.members.all())
        for member in self.core.members.all():
            self.core.expect_heartbeat(member, now_ms)
        self.core.tell(EventKind.LOADED, reason=f"{len(self.core.members)} members")
        if len(self.core.members) > self.core.settings.members_max:
            self._rebalance.prepare("more members than group.max.size")
        return self.core.take()

    def delete(self, now_ms: int) -> tuple[ErrorCode, Effects]:
        """End an empty group by a tombstone; one with members refuses."""
        self.core.now_ms = now_ms
        if self.core.state is DEAD:
            return ErrorCode.GROUP_ID_NOT_FOUND, Effects()
        if self.core.state is not EMPTY:
            return ErrorCode.NON_EMPTY_GROUP, Effects()
        self.core.write(None, lambda failed: None)
        return ErrorCode.NONE, self.unload(now_ms)

    def unload(self, now_ms: int) -> Effects:
        """This coordinator has the group no longer: all that wait are sent to look for the new."""
        self.core.now_ms = now_ms
        for member in self.core.members.all():
            self.core.release(member, ErrorCode.NOT_COORDINATOR)
        self.core.go_to(DEAD)
        self._rebalance.join_deadline_ms = self._rebalance.sync_deadline_ms = self.core.wake_ms = (
            None
        )
        return self.core.take()

    # --- joining ---------------------------------------------------------------------------------

    def _has_room_for(self, member_id: str) -> bool:
        """While joining, those count that wait: so the last ones of a shrunk group are refused."""
        if self.core.state is EMPTY:
            return True
        member = self.core.members.get(member_id)
        if self.core.state is PREPARING:
            waits = member is not None and member.join_token is not None
            return waits or self.core.members.awaiting_join_count < self.core.settings.members_max
        return member is not None or len(self.core.members) < self.core.settings.members_max

    def _speaks(self, request: JoinRequest) -> bool:
        if self.core.state is EMPTY:
            return bool(request.protocol_type) and bool(request.protocols)
        names = [protocol.name for protocol in request.protocols]
        return request.protocol_type == self.core.protocol_type and self.core.members.speak_one_of(
            names
        )

    def _join_new(self, token: Token, request: JoinRequest) -> None:
        unique = self._new_member_id()
        if request.instance_id is not None:
            member_id = f"{request.instance_id}-{unique}"
            old_id = self.core.members.static.get(request.instance_id)
            if old_id is None:
                self._add(token, request, member_id)
            else:
                self._replace_static(token, request, old_id, member_id)
            return
        member_id = f"{request.client_id}-{unique}"
        if not request.requires_known_member_id:
            self._add(token, request, member_id)
            return
        deadline_ms = self.core.now_ms + request.session_timeout_ms
        self.core.members.pending[member_id] = deadline_ms
        self.core.wake_by(deadline_ms)
        self.core.tell(EventKind.MEMBER_ID_GIVEN, member=member_id, client_id=request.client_id)
        self.core.refuse_join(token, member_id, ErrorCode.MEMBER_ID_REQUIRED)

    def _join_existing(self, token: Token, request: JoinRequest) -> None:
        member_id = request.member_id
        if member_id in self.core.members.pending and request.instance_id is None:
            self._add(token, request, member_id)
            return
        error = self.core.members.error_of(member_id, request.instance_id)
        if not error and self.core.state is EMPTY:
            error = ErrorCode.UNKNOWN_MEMBER_ID
        if error:
            self.core.refuse_join(token, member_id, error)
            return
        member = self.core.members[member_id]
        leads = self.core.members.leader == member_id
        unchanged = member.protocols == request.protocols
        if unchanged and (
            self.core.state is COMPLETING or (self.core.state is STABLE and not leads)
        ):
            # It did not hear the answer to its last join: the same again.
            self.core.reply(token, self.core.join_reply(member, tell_members=leads))
            return
        self._update(token, request, member)
        self.core.tell(EventKind.REJOINED, who=member, reason=request.reason)
        self._rebalance.prepare_or_complete(
            "the leader rejoined" if leads else "a subscription changed"
        )

    def _add(self, token: Token, request: JoinRequest, member_id: str) -> None:
        member = Member(
            member_id=member_id,
            instance_id=request.instance_id,
            client_id=request.client_id,
            client_host=request.client_host,
            rebalance_timeout_ms=request.rebalance_timeout_ms,
            session_timeout_ms=request.session_timeout_ms,
            protocols=request.protocols,
            join_token=token,
            is_new=True,
            heard_ms=self.core.now_ms,
        )
        if self.core.state is PREPARING and self._rebalance.initial_delay is not None:
            self._rebalance.initial_delay.member_added = True
        if not len(self.core.members):
            self.core.protocol_type = request.protocol_type
        self.core.members.add(member)
        # It cannot send heartbeats before it has its answer, and a muted socket hides that it has
        # gone. Without a bound, retries would fill the group with the dead.
        member.session_deadline_ms = (
            self.core.now_ms + self.core.settings.new_member_join_timeout_ms
        )
        self.core.wake_by(member.session_deadline_ms)
        self.core.tell(EventKind.JOINED, who=member, reason=request.reason)
        self._rebalance.prepare_or_complete("a member joined")

    def _update(self, token: Token, request: JoinRequest, member: Member) -> None:
        self.core.members.update(
            member, request.protocols, request.rebalance_timeout_ms, request.session_timeout_ms
        )
        before = self.core.members.set_join_token(member, token)
        if before is not None:
            self.core.refuse_join(before, member.member_id, ErrorCode.REBALANCE_IN_PROGRESS)

    def _replace_static(
        self, token: Token, request: JoinRequest, old_id: str, member_id: str
    ) -> None:
        """A static member restarted: it takes over the place and the assignment of its old id."""
        assert self.core.state not in (EMPTY, DEAD)
        old = self.core.members[old_id]
        leader_before = self.core.members.leader
        before = _Before(old_id, old.protocols, old.rebalance_timeout_ms, old.session_timeout_ms)
        self.core.release(old, ErrorCode.FENCED_INSTANCE_ID)
        self._rebalance.pending_sync.discard(old_id)
        member = self.core.members.replace(old_id, member_id)
        member.client_id, member.client_host = request.client_id, request.client_host
        member.is_new = False
        self.core.expect_heartbeat(member, self.core.now_ms)
        self._update(token, request, member)
        self.core.tell(EventKind.REPLACED, who=member, reason=request.reason)
        if self.core.state is COMPLETING:
            # The leader may be assigning to the old id right now.
            self._rebalance.prepare("a static member restarted while the leader was assigning")
        elif self.core.state is PREPARING:
            self._rebalance.complete_join_if_all_are_in()
        elif self.core.members.select_protocol() != self.core.protocol_name:
            self._rebalance.prepare("a static member restarted with another protocol")
        else:
            assignments = {each.member_id: each.assignment for each in self.core.members.all()}
            skips = request.supports_skipping_assignment
            self.core.write(
                self.core.record(assignments),
                lambda failed: self._replaced(
                    before, member, token, None if skips else leader_before, failed
                ),
            )

    def _replaced(
        self,
        before: _Before,
        member: Member,
        token: Token,
        leader: str | None,
        failed: ErrorCode,
    ) -> None:
        """The record of a static rejoin has ended; `leader` is what versions before 9 are told.

        Before version 9 a leader cannot be told to skip the assignment. It is told its old id as
        the leader's, so that it takes itself for a follower.
        """
        if self.core.state is not STABLE or member.join_token is not token:
            return
        if not failed:
            leads = self.core.members.leader == member.member_id
            tells = leader is None and leads
            reply = self.core.join_reply(member, tell_members=tells, leader=leader, skip=tells)
            self.core.answer_join(member, reply)
            self.core.expect_heartbeat(member, self.core.now_ms)
            return
        shown = self.core.members.leader if leader is None else leader
        self.core.answer_join(
            member,
            JoinReply(
                failed,
                UNKNOWN_MEMBER_ID,
                self.core.generation,
                self.core.protocol_type,
                self.core.protocol_name,
                shown or "",
            ),
        )
        self.core.members.update(
            member, before.protocols, before.rebalance_timeout_ms, before.session_timeout_ms
        )
        self.core.members.replace(member.member_id, before.member_id)
        self.core.expect_heartbeat(member, self.core.now_ms)

    # --- leaving ---------------------------------------------------------------------------------

    def _leave_one(self, leaver: Leaver) -> ErrorCode:
        member_id = leaver.member_id
        if not member_id:
            held = self.core.members.static.get(leaver.instance_id or "")
            if held is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            member_id = held
        elif member_id in self.core.members.pending:
            self.core.members.remove(member_id)
            self.core.tell(EventKind.LEFT, member=member_id, reason=leaver.reason)
            return ErrorCode.NONE
        else:
            error = self.core.members.error_of(member_id, leaver.instance_id)
            if error:
                return error
        self._drop(self.core.members[member_id], EventKind.LEFT, leaver.reason)
        return ErrorCode.NONE

    def _session_expired(self, member: Member) -> None:
        member.session_deadline_ms = None
        if member.satisfies_heartbeat:
            return
        if self.core.members.get(member.member_id) is not member:
            return  # a rebalance that ended in this same tick took it out
        self._drop(
            member, EventKind.MISSED_HEARTBEAT, duration_ms=self.core.now_ms - member.heard_ms
        )
        if self.core.state in ACTIVE:
            self._rebalance.prepare("a member missed its heartbeat")
        elif self.core.state is PREPARING and self.core.members.all_joined:
            self._rebalance.complete_join()

    def _drop(
        self, member: Member, kind: EventKind, reason: str = "", duration_ms: int = -1
    ) -> None:
        """Take a member out; whoever still waits under its id learns that the id is void."""
        self.core.release(member, ErrorCode.UNKNOWN_MEMBER_ID)
        self.core.members.remove(member.member_id)
        self._rebalance.pending_sync.discard(member.member_id)
        self.core.tell(kind, who=member, reason=reason, duration_ms=duration_ms)

    # --- small parts -----------------------------------------------------------------------------

    def _sync_error(self, request: SyncRequest) -> ErrorCode:
        if self.core.state is DEAD:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        error = self.core.members.error_of(request.member_id, request.instance_id)
        if error:
            return error
        if request.generation != self.core.generation:
            return ErrorCode.ILLEGAL_GENERATION
        if request.protocol_type not in (None, self.core.protocol_type):
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        if request.protocol_name not in (None, self.core.protocol_name):
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        return ErrorCode.REBALANCE_IN_PROGRESS if self.core.state is PREPARING else ErrorCode.NONE

    def _deadlines(self) -> Iterable[int]:
        yield from self.core.members.pending.values()
        for member in self.core.members.all():
            if member.session_deadline_ms is not None:
                yield member.session_deadline_ms
        if self._rebalance.join_deadline_ms is not None:
            yield self._rebalance.join_deadline_ms
        if self._rebalance.sync_deadline_ms is not None:
            yield self._rebalance.sync_deadline_ms


def load_group(
    group_id: str,
    record: GroupRecord,
    settings: GroupSettings,
    new_member_id: Callable[[], str],
    now_ms: int,
) -> ClassicGroup:
    """A group as its last record says: Stable if it has members. Then call `start_loaded`.

    Only the chosen protocol of a member is in the record, so until they rejoin that is the only
    one they speak (GroupMetadataManager.replay).
    """
    group = ClassicGroup(group_id, settings, new_member_id, now_ms)
    core = group.core
    core.is_recorded = True
    core.generation = record.generation
    core.protocol_type = record.protocol_type or None
    core.protocol_name = record.protocol_name
    core.state = STABLE if record.members else EMPTY
    since_ms = record.state_timestamp_ms
    core.state_since_ms = None if since_ms == -1 else since_ms
    for each in record.members:
        rebalance_ms = each.rebalance_timeout_ms
        member = Member(
            member_id=each.member_id,
            instance_id=each.instance_id,
            client_id=each.client_id,
            client_host=each.client_host,
            rebalance_timeout_ms=each.session_timeout_ms if rebalance_ms == -1 else rebalance_ms,
            session_timeout_ms=each.session_timeout_ms,
            protocols=(Protocol(record.protocol_name or "", each.subscription),),
            assignment=each.assignment,
            heard_ms=now_ms,
        )
        core.members.add(member)
    if record.leader is not None and record.leader in core.members:
        core.members.leader = record.leader
    core.subscribed_topics = core.topics()
    return group
