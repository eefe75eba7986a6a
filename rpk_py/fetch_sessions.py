"""Incremental fetch sessions (KIP-227): what a client fetches, remembered between its requests.

Which process: a shard; every change is synchronous on its loop. A client names its partitions
once; then it names only what it changes, and is told only of what changed.

A session does no work for a partition where nothing happens. Its partitions are either `due`, to
be looked at by the next fetch, or wait at their Partition for it to wake them. So a fetch costs
what is due, and a session that nobody uses any more is woken once by each partition. `due` is in
the order in which partitions are served: who was given records goes behind all others.

Bounded: sessions by number and by bytes. One that was not used for IDLE_S makes room for a new
one, else one that is older than that and smaller; where there is none the client gets no session.
Source: FetchSession, FetchManager and FetchSessionCacheShard of Apache Kafka 4.1.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Generator
from typing import Final, NamedTuple, Protocol, TypeAlias

from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.fetch import (
    FetchableTopicResponse,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    PartitionData,
)
from rpk_py.partition import Partition
from rpk_py.turns import SLICE_ITEMS

NO_SESSION: Final = 0
FULL: Final = 0  # the epoch of a request that wants a session, and a full answer
NONE: Final = -1  # of one that wants none
IDLE_S: Final = 120.0
PARTITION_BYTES: Final = 800  # what a session's partition takes, about, beside its topic's name
_EPOCH_MAX: Final = 2**31 - 1

Key: TypeAlias = tuple[str | bytes, int]


class Poll(Protocol):
    """A fetch of a session that waits for data."""

    def wake(self) -> None:
        """More is due."""

    def finish_now(self) -> None:
        """The session goes on without it, or is gone: answer."""


class SessionPartition:
    """One partition of a session: a FetchWaiter.

    asked           what the client last said of it
    high_watermark  and log_start_offset: what the client was last told; -1: nothing that holds
    waits_at        the Partition that will wake it, or None
    """

    __slots__ = (
        "asked",
        "high_watermark",
        "log_start_offset",
        "session",
        "topic",
        "topic_id",
        "waits_at",
    )

    def __init__(self, session: FetchSession, topic: FetchTopic, asked: FetchPartition) -> None:
        self.session = session
        self.topic = topic.topic
        self.topic_id = topic.topic_id
        self.asked = asked
        self.high_watermark = -1
        self.log_start_offset = -1
        self.waits_at: Partition | None = None

    def wake(self) -> None:
        """FetchWaiter: something happened to the partition."""
        self.stop_waiting()
        session = self.session
        session.due[self] = None
        if session.poll is not None:
            session.poll.wake()

    def wait_at(self, partition: Partition) -> None:
        """Be woken by `partition`, once."""
        self.waits_at = partition
        partition.add_fetch_waiter(self)

    def stop_waiting(self) -> None:
        """Undo wait_at."""
        if self.waits_at is not None:
            self.waits_at.remove_fetch_waiter(self)
            self.waits_at = None

    def told(self, answer: PartitionData) -> bool:
        """Remember an answer as what the client knows; whether it says anything new.

        Source: CachedPartition.maybeUpdateResponseData. Preferred replicas and diverging epochs
        do not exist here.
        """
        high_watermark, log_start = answer.high_watermark, answer.log_start_offset
        known = self.high_watermark == high_watermark and self.log_start_offset == log_start
        # After an error the partition is told of once more, when the error is gone.
        self.high_watermark = -1 if answer.error_code else high_watermark
        self.log_start_offset = log_start
        return not known or bool(answer.records) or answer.error_code != 0

    def is_idle(self, partition: Partition) -> bool:
        """There is nothing to read or to say, until `partition` wakes it."""
        return (
            self.asked.fetch_offset >= partition.high_watermark == self.high_watermark
            and self.log_start_offset == partition.log_start_offset
            and not partition.check_leader_epoch(self.asked.current_leader_epoch)
        )


class Looked(NamedTuple):
    """What one look at a due partition found; `partition` is None where it is not here."""

    entry: SessionPartition
    partition: Partition | None
    answer: PartitionData


class FetchSession:
    """One client's session. `epoch` is that of its next request; `poll` waits for data now.

    Sessions are of topics by name or by id (`by_id`), as their first request was.
    """

    __slots__ = (
        "_partitions",
        "by_id",
        "closed",
        "counted",
        "created_s",
        "due",
        "epoch",
        "evictable",
        "poll",
        "session_id",
        "size_bytes",
        "used_s",
    )

    def __init__(self, session_id: int, by_id: bool, now_s: float) -> None:
        self.session_id = session_id
        self.by_id = by_id
        self.epoch = 1
        self.created_s = self.used_s = now_s
        self.size_bytes = 0
        self.counted = (0, 0)  # partitions and bytes, in the shard's sums
        self.closed = False
        self.evictable: tuple[int, int] | None = None  # its entry in the order of eviction
        self.poll: Poll | None = None
        self.due: dict[SessionPartition, None] = {}
        self._partitions: dict[Key, SessionPartition] = {}

    def __len__(self) -> int:
        return len(self._partitions)

    def update(self, request: FetchRequest) -> Generator[None, None, None]:
        """Take over what a request says of its partitions; yields every few of them."""
        count = 0
        for topic in request.topics:
            for asked in topic.partitions:
                self.due[self._update(topic, asked)] = None
                count += 1
                if not count % SLICE_ITEMS:
                    yield
        for forgotten in request.forgotten_topics_data:
            name = forgotten.topic_id if self.by_id else forgotten.topic
            for index in forgotten.partitions:
                self._forget((name, index))
                count += 1
                if not count % SLICE_ITEMS:
                    yield

    def _update(self, topic: FetchTopic, asked: FetchPartition) -> SessionPartition:
        key = (topic.topic_id if self.by_id else topic.topic, asked.partition)
        entry = self._partitions.get(key)
        if entry is None:
            entry = self._partitions[key] = SessionPartition(self, topic, asked)
            self.size_bytes += _size_bytes(topic.topic)
        else:
            entry.asked = asked
        return entry

    def _forget(self, key: Key) -> None:
        entry = self._partitions.pop(key, None)
        if entry is not None:
            entry.stop_waiting()
            self.due.pop(entry, None)
            self.size_bytes -= _size_bytes(entry.topic)

    def start(self, request: FetchRequest, response: FetchResponse) -> Generator[None, None, None]:
        """Begin with a full request and its answer."""
        looked: list[Looked] = []
        for topic, answers in zip(request.topics, response.responses, strict=True):
            for asked, answer in zip(topic.partitions, answers.partitions, strict=True):
                entry = self._update(topic, asked)
                self.due[entry] = None
                looked.append(Looked(entry, None, answer))
                if not len(looked) % SLICE_ITEMS:
                    yield
        yield from self.tell(looked)

    def tell(self, looked: list[Looked]) -> Generator[None, None, list[FetchableTopicResponse]]:
        """Make the answer of what was looked at: partitions with something new.

        They are served again in the order of `due`; what is idle waits for its Partition.
        """
        news: dict[str | bytes, FetchableTopicResponse] = {}
        for number, (entry, partition, answer) in enumerate(looked, 1):
            if entry.told(answer):
                name = entry.topic_id if self.by_id else entry.topic
                topic = news.get(name)
                if topic is None:
                    topic = news[name] = FetchableTopicResponse(entry.topic, entry.topic_id, [])
                topic.partitions.append(answer)
            if answer.records:
                self.due.pop(entry, None)
                self.due[entry] = None
            elif partition is not None and not answer.error_code and entry.is_idle(partition):
                self.due.pop(entry, None)
                self._wait(entry, partition)
            if not number % SLICE_ITEMS:
                yield
        return list(news.values())

    def park(self, poll: Poll, looked: list[Looked]) -> None:
        """Have `poll` woken by any partition, those that are due included."""
        self.poll = poll
        for entry, partition, _answer in looked:
            if partition is not None:
                self._wait(entry, partition)

    def unpark(self, poll: Poll) -> None:
        """`poll` no longer waits."""
        if self.poll is poll:
            self.poll = None

    def _wait(self, entry: SessionPartition, partition: Partition) -> None:
        if not self.closed and entry.waits_at is not partition:
            entry.stop_waiting()
            entry.wait_at(partition)

    def close(self) -> None:
        """Wait for nothing any more; who polls is answered."""
        self.closed = True
        for entry in self._partitions.values():
            entry.stop_waiting()
        if self.poll is not None:
            self.poll.finish_now()


class FetchSessions:
    """The sessions of one shard."""

    def __init__(
        self,
        slots_max: int,
        bytes_max: int,
        clock_s: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.evictions = 0
        self.partitions = 0  # of all sessions
        self._slots_max = slots_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._clock_s = clock_s
        self._rng = rng
        self._sessions: OrderedDict[int, FetchSession] = OrderedDict()  # unused for longest first
        self._evictable: list[tuple[int, int]] = []  # (partitions, id) of those older than IDLE_S

    def __len__(self) -> int:
        return len(self._sessions)

    def go_on(self, session_id: int, epoch: int, by_id: bool) -> FetchSession | ErrorCode:
        """The session of a request that is not full, which is its next one; or what is wrong.

        A fetch of that session that still waits is answered now, with an error.
        """
        session = self._sessions.get(session_id)
        if session is None:
            return ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        if session.epoch != epoch:
            return ErrorCode.INVALID_FETCH_SESSION_EPOCH
        if session.by_id != by_id:
            return ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR
        session.epoch = next_epoch(epoch)
        if session.poll is not None:
            session.poll.finish_now()
        return session

    def update(
        self, session: FetchSession, request: FetchRequest
    ) -> Generator[None, None, FetchSession | ErrorCode | None]:
        """Take a request over into its session. None: no partition is left, so neither is the
        session. An error where it would take too much memory: the client begins anew."""
        if request.topics or request.forgotten_topics_data:
            yield from session.update(request)
        if session.closed:  # meanwhile
            return ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        if not len(session):
            self.close(session.session_id)
            return None
        self._touch(session)
        while self._bytes > self._bytes_max and self._evict_idle():
            pass
        if self._bytes > self._bytes_max:
            self.close(session.session_id)
            return ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        return session

    def create(
        self, request: FetchRequest, response: FetchResponse, by_id: bool
    ) -> Generator[None, None, int]:
        """Begin a session with a full request and its answer; its id, or NO_SESSION where there
        is no room for it."""
        count = sum(len(topic.partitions) for topic in request.topics)
        wanted = sum(len(topic.partitions) * _size_bytes(topic.topic) for topic in request.topics)
        if not self._make_room(count, wanted):
            return NO_SESSION
        session_id = 0
        while not session_id or session_id in self._sessions:
            session_id = self._rng.getrandbits(31)
        session = FetchSession(session_id, by_id, self._clock_s())
        self._sessions[session_id] = session
        yield from session.start(request, response)
        if session.closed:  # meanwhile
            return NO_SESSION
        self._touch(session)
        return session_id

    def close(self, session_id: int) -> None:
        """Forget a session; an unknown one is fine."""
        session = self._sessions.pop(session_id, None)
        if session is None:
            return
        self._count(session, 0, 0)
        self._rank(session, None)
        session.close()

    def clear(self) -> None:
        """Forget all of them."""
        for session_id in list(self._sessions):
            self.close(session_id)

    def _touch(self, session: FetchSession) -> None:
        """It is used now, and its partitions may be others."""
        self._count(session, len(session), session.size_bytes)
        session.used_s = now_s = self._clock_s()
        self._sessions.move_to_end(session.session_id)
        if now_s - session.created_s > IDLE_S:
            self._rank(session, (len(session), session.session_id))

    def _count(self, session: FetchSession, partitions: int, size_bytes: int) -> None:
        """Have it count for so much."""
        self.partitions += partitions - session.counted[0]
        self._bytes += size_bytes - session.counted[1]
        session.counted = partitions, size_bytes

    def _rank(self, session: FetchSession, key: tuple[int, int] | None) -> None:
        """Put it in its place in the order of eviction."""
        old = session.evictable
        if key == old:
            return
        session.evictable = key
        if old is not None:
            del self._evictable[bisect_left(self._evictable, old)]
        if key is not None:
            insort(self._evictable, key)

    def _make_room(self, count: int, size_bytes: int) -> bool:
        """Room for a session of so many partitions and bytes. Source: tryEvict."""
        if size_bytes > self._bytes_max or not self._slots_max:
            return False
        while self._bytes + size_bytes > self._bytes_max:
            if not self._evict_idle():
                return False
        if len(self._sessions) < self._slots_max or self._evict_idle():
            return True
        if self._evictable and self._evictable[0] < (count, 0):
            self.evictions += 1
            self.close(self._evictable[0][1])
            return True
        return False

    def _evict_idle(self) -> bool:
        """Close the session that was not used for longest, if that is long."""
        oldest = next(iter(self._sessions.values()), None)
        if oldest is None or self._clock_s() - oldest.used_s <= IDLE_S:
            return False
        self.evictions += 1
        self.close(oldest.session_id)
        return True


def next_epoch(epoch: int) -> int:
    """The epoch after `epoch`, which is not negative."""
    return 1 if epoch == _EPOCH_MAX else epoch + 1


def _size_bytes(topic: str) -> int:
    return PARTITION_BYTES + 4 * len(topic)
