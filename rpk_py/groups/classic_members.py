"""The members of one classic group: who is in, who leads, who waits, which protocols all speak.

What:       the table of members with its derived counts. Nothing here knows the group's state.
Where:      the coordinator of the group. Sans-io.
Invariants: - there is a leader exactly if there are members, and it is one of them;
            - `static` maps every instance id to the one member that has it;
            - `awaiting_join_count` is the number of members with a join token;
            - a pending id (given out by MEMBER_ID_REQUIRED) is not a member.
Source:     ClassicGroup and ClassicGroupMember of Apache Kafka 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable

from kafka_protocol.errors import ErrorCode
from kafka_protocol.lazy_dataclass import dataclass
from rpk_py.groups.classic_values import (
    JoinedMember,
    MemberRecord,
    Protocol,
    Token,
)


@dataclass(slots=True)
class Member:
    """One member. Deadlines are None while nothing is expected of it."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    protocols: tuple[Protocol, ...]
    assignment: bytes = b""
    join_token: Token | None = None
    sync_token: Token | None = None
    is_new: bool = False  # its first join is not answered: it cannot send heartbeats yet
    session_deadline_ms: int | None = None
    heard_ms: int = 0

    @property
    def name(self) -> str:
        """What a history calls it: a static member keeps its name over restarts."""
        return self.instance_id or self.member_id

    @property
    def satisfies_heartbeat(self) -> bool:
        """True while it waits for us; a new member may be a client that has long gone."""
        if self.is_new:
            return False
        return self.join_token is not None or self.sync_token is not None

    def metadata(self, protocol_name: str) -> bytes:
        for protocol in self.protocols:
            if protocol.name == protocol_name:
                return protocol.metadata
        raise AssertionError(f"member does not speak {protocol_name!r}")

    def vote(self, candidates: set[str]) -> str:
        return next(protocol.name for protocol in self.protocols if protocol.name in candidates)

    def record(self, protocol_name: str, assignment: bytes) -> MemberRecord:
        return MemberRecord(
            member_id=self.member_id,
            instance_id=self.instance_id,
            client_id=self.client_id,
            client_host=self.client_host,
            rebalance_timeout_ms=self.rebalance_timeout_ms,
            session_timeout_ms=self.session_timeout_ms,
            subscription=self.metadata(protocol_name),
            assignment=assignment,
        )


class Members:
    """The table. Iteration is in order of joining."""

    __slots__ = ("_by_id", "_protocol_counts", "awaiting_join_count", "leader", "pending", "static")

    def __init__(self) -> None:
        self._by_id: dict[str, Member] = {}
        self._protocol_counts: dict[str, int] = {}
        self.awaiting_join_count = 0
        self.leader: str | None = None
        self.pending: dict[str, int] = {}  # member id -> deadline in ms
        self.static: dict[str, str] = {}  # instance id -> member id

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, member_id: str) -> bool:
        return member_id in self._by_id

    def __getitem__(self, member_id: str) -> Member:
        return self._by_id[member_id]

    def all(self) -> list[Member]:
        """A copy, so that members may go while it is walked."""
        return list(self._by_id.values())

    def get(self, member_id: str) -> Member | None:
        return self._by_id.get(member_id)

    @property
    def all_joined(self) -> bool:
        return len(self._by_id) == self.awaiting_join_count and not self.pending

    @property
    def rebalance_timeout_ms(self) -> int:
        return max((member.rebalance_timeout_ms for member in self._by_id.values()), default=0)

    def error_of(self, member_id: str, instance_id: str | None) -> ErrorCode:
        """Whether a request comes from a member (ClassicGroup.validateMember)."""
        if instance_id is not None:
            holder = self.static.get(instance_id)
            if holder is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            if holder != member_id:
                return ErrorCode.FENCED_INSTANCE_ID
        return ErrorCode.NONE if member_id in self._by_id else ErrorCode.UNKNOWN_MEMBER_ID

    def add(self, member: Member) -> None:
        assert member.member_id not in self._by_id
        if member.instance_id is not None:
            assert member.instance_id not in self.static
            self.static[member.instance_id] = member.member_id
        if self.leader is None:
            self.leader = member.member_id
        self._by_id[member.member_id] = member
        self._count_protocols(member, 1)
        self.awaiting_join_count += member.join_token is not None
        self.pending.pop(member.member_id, None)

    def remove(self, member_id: str) -> Member | None:
        """Forget a member or a pending id; the next in order leads if the leader goes."""
        member = self._by_id.pop(member_id, None)
        if member is not None:
            self._count_protocols(member, -1)
            self.awaiting_join_count -= member.join_token is not None
            if member.instance_id is not None:
                del self.static[member.instance_id]
        if self.leader == member_id:
            self.leader = next(iter(self._by_id), None)
        self.pending.pop(member_id, None)
        return member

    def replace(self, old_id: str, new_id: str) -> Member:
        """A static member under a new id, with its assignment; its tokens were taken before."""
        member = self._by_id.pop(old_id)
        assert member.join_token is None
        assert member.sync_token is None
        assert member.instance_id is not None
        member.member_id = new_id
        self._by_id[new_id] = member
        self.static[member.instance_id] = new_id
        if self.leader == old_id:
            self.leader = new_id
        return member

    def update(
        self,
        member: Member,
        protocols: tuple[Protocol, ...],
        rebalance_timeout_ms: int,
        session_timeout_ms: int,
    ) -> None:
        self._count_protocols(member, -1)
        member.protocols = protocols
        self._count_protocols(member, 1)
        member.rebalance_timeout_ms = rebalance_timeout_ms
        member.session_timeout_ms = session_timeout_ms

    def set_join_token(self, member: Member, token: Token | None) -> Token | None:
        """Let it wait (or not) for the answer to a join; returns who waited before."""
        before, member.join_token = member.join_token, token
        self.awaiting_join_count += (token is not None) - (before is not None)
        return before

    def elect_joined_leader(self) -> bool:
        """Keep the leader if it has joined, else take the first that has; False if none has."""
        if self.leader is None:
            return False
        if self._by_id[self.leader].join_token is not None:
            return True
        for member in self._by_id.values():
            if member.join_token is not None:
                self.leader = member.member_id
                return True
        return False

    def speak_one_of(self, names: Iterable[str]) -> bool:
        """Whether all members speak at least one of these protocols."""
        size = len(self._by_id)
        return any(self._protocol_counts.get(name, 0) == size for name in names)

    def select_protocol(self) -> str:
        """The protocol with the most first choices among those that all speak."""
        size = len(self._by_id)
        candidates = {name for name, count in self._protocol_counts.items() if count == size}
        votes: dict[str, int] = {}
        for member in self._by_id.values():
            choice = member.vote(candidates)
            votes[choice] = votes.get(choice, 0) + 1
        return max(votes, key=votes.__getitem__)

    def joined(self, protocol_name: str) -> tuple[JoinedMember, ...]:
        """All members as the leader is told of them."""
        return tuple(
            JoinedMember(member.member_id, member.instance_id, member.metadata(protocol_name))
            for member in self._by_id.values()
        )

    def _count_protocols(self, member: Member, change: int) -> None:
        counts = self._protocol_counts
        for name in {protocol.name for protocol in member.protocols}:
            counts[name] = counts.get(name, 0) + change
            if counts[name] == 0:
                del counts[name]
