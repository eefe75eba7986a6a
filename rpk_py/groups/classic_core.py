"""What every part of a classic group's state machine stands on: its state, and its way outside.

What:       the fields of a group, the effects of the call under way, replies to waiting members,
            writes, the history and the one wake-up time. No rule of the protocol is in here.
Where:      the coordinator of the group. Sans-io.
Invariants: a token that is answered is forgotten in the same step, so none is answered twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from kafka_protocol.errors import ErrorCode
from rpk_py.groups.classic_members import Member, Members
from rpk_py.groups.classic_values import (
    CONSUMER_PROTOCOL_TYPE,
    UNKNOWN_MEMBER_ID,
    Effects,
    GroupRecord,
    GroupSettings,
    GroupState,
    JoinReply,
    Reply,
    SyncReply,
    Token,
    Write,
)
from rpk_py.groups.timeline import (
    Event,
    EventKind,
    Move,
    Timeline,
    TopicPartition,
    bounded_text,
    owners_of,
)

Done: TypeAlias = Callable[[ErrorCode], None]
"""What goes on when a write has ended; NONE says that it is durable."""


class GroupCore:
    """One group's fields. `now_ms` is that of the call under way."""

    __slots__ = (
        "effects",
        "generation",
        "group_id",
        "is_recorded",
        "members",
        "now_ms",
        "previous_state",
        "protocol_name",
        "protocol_type",
        "settings",
        "state",
        "state_since_ms",
        "subscribed_topics",
        "timeline",
        "wake_ms",
        "writes",
        "writes_begun",
    )

    def __init__(self, group_id: str, settings: GroupSettings, now_ms: int) -> None:
        self.group_id = group_id
        self.settings = settings
        self.now_ms = now_ms
        self.state = GroupState.EMPTY
        self.previous_state = GroupState.DEAD
        self.state_since_ms: int | None = now_ms  # None: an old record does not say
        self.generation = 0
        self.protocol_type: str | None = None
        self.protocol_name: str | None = None
        self.subscribed_topics: frozenset[str] | None = None  # None: not known
        self.members = Members()
        self.timeline = Timeline()
        self.wake_ms: int | None = None
        self.effects = Effects()
        self.writes: dict[int, Done] = {}
        self.writes_begun = 0
        self.is_recorded = False

    def go_to(self, state: GroupState) -> None:
        self.previous_state, self.state = self.state, state
        self.state_since_ms = self.now_ms

    @property
    def is_dead(self) -> bool:
        return self.state is GroupState.DEAD

    @property
    def is_empty(self) -> bool:
        return self.state is GroupState.EMPTY

    @property
    def is_stable(self) -> bool:
        return self.state is GroupState.STABLE

    @property
    def empty_since_ms(self) -> int | None:
        return self.state_since_ms

    def topics(self) -> frozenset[str] | None:
        """What the members subscribe to, if they are consumers whose bytes can be read."""
        if self.protocol_type != CONSUMER_PROTOCOL_TYPE:
            return None
        topics: set[str] = set()
        for member in self.members.all():
            if self.protocol_name is None:
                return None
            read = self.settings.topics_of(member.metadata(self.protocol_name))
            if read is None:
                return None
            topics |= read
        return frozenset(topics)

    def owned(self, members: Iterable[Member]) -> dict[TopicPartition, str]:
        if self.protocol_type != CONSUMER_PROTOCOL_TYPE:
            return {}
        read = ((each.name, self.settings.partitions_of(each.assignment)) for each in members)
        return owners_of((name, owned or ()) for name, owned in read)

    def join_reply(
        self,
        member: Member,
        *,
        tell_members: bool,
        leader: str | None = None,
        skip: bool = False,
    ) -> JoinReply:
        assert self.protocol_name is not None
        return JoinReply(
            ErrorCode.NONE,
            member.member_id,
            self.generation,
            self.protocol_type,
            self.protocol_name,
            (self.members.leader or "") if leader is None else leader,
            skip,
            self.members.joined(self.protocol_name) if tell_members else (),
        )

    def record(self, assignments: Mapping[str, bytes]) -> GroupRecord:
        name = self.protocol_name
        is_first = name is None and self.generation == 0
        members = [] if name is None else self.members.all()
        return GroupRecord(
            protocol_type="" if is_first else self.protocol_type or "",
            generation=self.generation,
            protocol_name=name,
            leader=None if is_first else self.members.leader,
            state_timestamp_ms=-1 if self.state_since_ms is None else self.state_since_ms,
            members=tuple(
                each.record(name or "", assignments.get(each.member_id, b"")) for each in members
            ),
        )

    def write(self, record: GroupRecord | None, done: Done) -> None:
        self.is_recorded = True
        self.writes_begun += 1
        self.writes[self.writes_begun] = done
        self.effects.writes.append(Write(self.writes_begun, record))

    def empty_recorded(self, failed: ErrorCode) -> None:
        """An empty group's record carries nothing that anybody waits for."""

    def expect_heartbeat(self, member: Member, now_ms: int) -> None:
        member.heard_ms = now_ms
        member.session_deadline_ms = now_ms + member.session_timeout_ms
        self.wake_by(member.session_deadline_ms)

    def wake_by(self, deadline_ms: int) -> None:
        if self.wake_ms is None or deadline_ms < self.wake_ms:
            self.wake_ms = deadline_ms

    def release(self, member: Member, error: ErrorCode) -> None:
        """Answer what waits for this member with an error."""
        keeps_id = error is not ErrorCode.UNKNOWN_MEMBER_ID
        shown = member.member_id if keeps_id else UNKNOWN_MEMBER_ID
        self.answer_join(member, JoinReply(error, shown))
        self.answer_sync(member, SyncReply(error))

    def reply(self, token: Token, reply: Reply) -> None:
        self.effects.replies.append((token, reply))

    def refuse_join(self, token: Token, member_id: str, error: ErrorCode) -> None:
        self.reply(token, JoinReply(error, member_id))

    def answer_join(self, member: Member, reply: JoinReply) -> None:
        """If it still is a member; `set_join_token` keeps the count."""
        if member.join_token is not None:
            token = self.members.set_join_token(member, None)
            self.reply(token, reply)

    def answer_sync(self, member: Member, reply: SyncReply) -> None:
        if member.sync_token is not None:
            token, member.sync_token = member.sync_token, None
            self.reply(token, reply)

    def tell(
        self,
        kind: EventKind,
        *,
        who: Member | None = None,
        member: str = "",
        client_id: str = "",
        reason: str = "",
        duration_ms: int = -1,
        moved_count: int = 0,
        moves: tuple[Move, ...] = (),
    ) -> None:
        """One line of the history, which goes out with the effects as well."""
        event = Event(
            at_ms=self.now_ms,
            kind=kind,
            generation=self.generation,
            member=member if who is None else who.name,
            client_id=client_id if who is None else who.client_id,
            client_host="" if who is None else who.client_host,
            reason=bounded_text(reason),
            duration_ms=duration_ms,
            moved_count=moved_count,
            moves=moves,
        )
        self.timeline.add(event)
        self.effects.events.append(event)

    def take(self) -> Effects:
        effects, self.effects = self.effects, Effects()
        return effects
