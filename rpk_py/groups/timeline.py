"""What happened to a group, in order and bounded: the answer to "why did it rebalance?".

What:       a ring of events: who joined or left and why, which heartbeat was missed, what a
            rebalance waited for, how long it took and which partitions moved.
Where:      the coordinator of the group. Sans-io: no clock, no await, no log line.
Invariants: - at most `events_max` events, oldest dropped first, and `dropped_count` says how many;
            - times are those of the calls that caused them and never decrease.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final, TypeAlias

from kafka_protocol.lazy_dataclass import dataclass

EVENTS_MAX: Final = 128
MOVES_MAX: Final = 16  # moves that are told one by one; the rest is a number
TEXT_CHARACTERS_MAX: Final = 200  # of a reason, which a client may choose

TopicPartition: TypeAlias = tuple[str, int]


class EventKind(Enum):
    """What happened. The values are what people and the admin port see."""

    JOINED = "joined"
    MEMBER_ID_GIVEN = "member-id-given"
    REJOINED = "rejoined"
    REPLACED = "replaced"  # a static member came back under a new member id
    LEFT = "left"
    MISSED_HEARTBEAT = "missed-heartbeat"
    MISSED_REBALANCE = "missed-rebalance"  # did not rejoin within the rebalance timeout
    MISSED_SYNC = "missed-sync"  # joined, and never asked for its assignment
    NEVER_JOINED = "never-joined"  # was given a member id and did not come back with it
    REFUSED = "refused"
    REBALANCE_STARTED = "rebalance-started"
    REBALANCE_WAITS = "rebalance-waits"
    GENERATION = "generation"  # everybody is in; the leader assigns
    STABLE = "stable"
    EMPTY = "empty"
    LOADED = "loaded"


@dataclass(frozen=True, slots=True)
class Move:
    """One partition that changed hands. None: nobody had it, or nobody has it now."""

    topic: str
    partition_index: int
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the history.

    Shapes:  at_ms        of the caller's clock
             generation   of the group after the event
             member       instance id of a static member, else its member id; "" for the group
             duration_ms  of a rebalance at STABLE, of the silence at MISSED_HEARTBEAT, else -1
             moves        the first MOVES_MAX of `moved_count`
    """

    at_ms: int
    kind: EventKind
    generation: int
    member: str = ""
    client_id: str = ""
    client_host: str = ""
    reason: str = ""
    duration_ms: int = -1
    moved_count: int = 0
    moves: tuple[Move, ...] = ()


class Timeline:
    """The last events of one group, oldest first."""

    __slots__ = ("_events", "dropped_count")

    def __init__(self, events_max: int = EVENTS_MAX) -> None:
        assert events_max > 0
        self._events: deque[Event] = deque(maxlen=events_max)
        self.dropped_count = 0

    def __len__(self) -> int:
        return len(self._events)

    def add(self, event: Event) -> None:
        """Append one event; the oldest goes when there is no room."""
        assert not self._events or event.at_ms >= self._events[-1].at_ms, "time went back"
        if len(self._events) == self._events.maxlen:
            self.dropped_count += 1
        self._events.append(event)

    def events(self) -> tuple[Event, ...]:
        return tuple(self._events)


def bounded_text(text: str) -> str:
    """What a client wrote, cut to what a history or an answer may hold of it."""
    return text if len(text) <= TEXT_CHARACTERS_MAX else text[: TEXT_CHARACTERS_MAX - 1] + "…"


def owners_of(
    assignments: Iterable[tuple[str, Iterable[TopicPartition]]],
) -> dict[TopicPartition, str]:
    """Who has which partition; where members overlap, the last one is told."""
    return {partition: member for member, owned in assignments for partition in owned}


def moves_between(
    before: Mapping[TopicPartition, str], after: Mapping[TopicPartition, str]
) -> tuple[int, tuple[Move, ...]]:
    """How many partitions changed hands, and the first of them in order of topic and index."""
    changed = sorted(
        partition
        for partition in before.keys() | after.keys()
        if before.get(partition) != after.get(partition)
    )
    moves = tuple(
        Move(topic, index, before.get((topic, index)), after.get((topic, index)))
        for topic, index in changed[:MOVES_MAX]
    )
    return len(changed), moves
