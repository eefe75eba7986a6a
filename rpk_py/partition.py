"""Partition: leadership, offsets and waiters over one log.

Home shard only; every state change is synchronous, nothing awaits between a check and its act.
`high_watermark` is a field of its own: with one replica it follows what the log may show (the
durable offset; with write.caching the appended one), with more it will follow the ISR. Consumers
never see beyond it.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from kafka_protocol.errors import ErrorCode
from kafka_protocol.record_batch import BatchHeader
from rpk_py.metadata.state import INTERNAL_TOPICS
from rpk_py.producers import Producers
from storage.errors import StorageError
from storage.log import Log


class ProduceWaiter(Protocol):
    """Who waits for a batch to become visible: a produce request's pending reply."""

    def settle(self, token: object, error: ErrorCode) -> None:
        """The batch that was enqueued with `token` is acknowledged, or lost with its log."""


class FetchWaiter(Protocol):
    """Who waits for data: a long-polling fetch."""

    def wake(self) -> None:
        """The high watermark moved, or the partition failed or went away."""


class Partition:
    """One partition that this shard leads. `log` is None while it is offline from the start."""

    __slots__ = (
        "_disk_full",
        "_fetch_waiters",
        "_no_room",
        "_produce_waiters",
        "bytes_in",
        "bytes_out",
        "compacted",
        "error_message",
        "high_watermark",
        "index",
        "internal",
        "leader_epoch",
        "log",
        "log_append_time",
        "max_message_bytes",
        "produce_refused",
        "producers",
        "records_in",
        "records_out",
        "topic",
        "topic_id",
    )

    def __init__(
        self,
        topic: str,
        topic_id: bytes,
        index: int,
        leader_epoch: int,
        max_message_bytes: int,
        log_append_time: bool,
    ) -> None:
        self.topic = topic
        self.topic_id = topic_id
        self.index = index
        self.internal = topic in INTERNAL_TOPICS  # clients do not write to it
        self.leader_epoch = leader_epoch
        self.max_message_bytes = max_message_bytes
        self.log_append_time = log_append_time
        self.compacted = False  # every record needs a key
        self.producers = Producers()
        self.log: Log | None = None
        self.error_message: str | None = None
        self.produce_refused: str | None = None  # why, with KAFKA_STORAGE_ERROR
        self._no_room: str | None = None  # for what was appended here
        self._disk_full: str | None = None
        self.high_watermark = 0
        self.bytes_in = self.records_in = 0  # appended since this shard leads it
        self.bytes_out = self.records_out = 0  # sent to consumers
        # Made with the first one: an empty deque takes 700 bytes.
        self._produce_waiters: deque[tuple[int, ProduceWaiter, object]] | None = None
        self._fetch_waiters: dict[FetchWaiter, None] = {}  # in order of arrival

    @property
    def name(self) -> str:
        """Topic and index, for the log."""
        return f"{self.topic}-{self.index}"

    def open(self, log: Log) -> None:
        """Serve from `log`, which recovery found whole."""
        self.log = log
        self.high_watermark = log.durable_offset
        log.attach(self)
        if log.stalled is not None:
            self.on_log_stalled(log.stalled, log.durable_offset)
        log.start_epoch(self.leader_epoch)

    def lead(self, leader_epoch: int) -> None:
        """Take over leadership in a new epoch."""
        assert leader_epoch >= self.leader_epoch
        self.leader_epoch = leader_epoch
        if self.log is not None:
            self.log.start_epoch(leader_epoch)
        self.wake_fetches()

    @property
    def offline(self) -> bool:
        """Whether the partition cannot be served (KAFKA_STORAGE_ERROR)."""
        return self.error_message is not None

    @property
    def log_start_offset(self) -> int:
        """The first offset that exists; -1 while offline from the start."""
        return self.log.log_start_offset if self.log is not None else -1

    @property
    def last_stable_offset(self) -> int:
        """Everything before it is decided; the high watermark until transactions exist."""
        return self.high_watermark

    def check_leader_epoch(self, current_leader_epoch: int) -> ErrorCode:
        """NONE, or why a request that names this epoch (-1: none) is refused (KIP-320)."""
        if self.error_message is not None:
            return ErrorCode.KAFKA_STORAGE_ERROR
        if current_leader_epoch in (-1, self.leader_epoch):
            return ErrorCode.NONE
        if current_leader_epoch < self.leader_epoch:
            return ErrorCode.FENCED_LEADER_EPOCH
        return ErrorCode.UNKNOWN_LEADER_EPOCH

    # -- produce ---------------------------------------------------------------------------

    def append(self, batch: memoryview, header: BatchHeader, now_ms: int) -> int:
        """Append a validated batch; returns its base offset. The bytes are copied.

        The caller has checked its producer's sequence; raises StorageError if the log failed.
        """
        log = self.log
        assert log is not None
        base_offset = log.append(batch, header, self.leader_epoch)
        self.bytes_in += len(batch)
        self.records_in += header.record_count
        if header.producer_id >= 0:
            self.producers.update(
                header.producer_id,
                header.producer_epoch,
                header.base_sequence,
                header.last_offset_delta,
                base_offset,
                now_ms,
            )
        return base_offset

    def when_visible(self, end_offset: int, waiter: ProduceWaiter, token: object) -> bool:
        """True if everything before `end_offset` is acknowledged already; else `waiter` is told
        later, in the order of calls."""
        if end_offset <= self.high_watermark:
            return True
        if self._produce_waiters is None:
            self._produce_waiters = deque()
        self._produce_waiters.append((end_offset, waiter, token))
        return False

    def on_durable(self, _durable_offset: int) -> None:
        """LogOwner: move the high watermark and tell who waits for it."""
        self.advance()

    def advance(self) -> None:
        """Take the high watermark to what the log may show."""
        assert self.log is not None
        visible = self.log.visible_offset
        if visible <= self.high_watermark:  # lower: write.caching waits for the disk again
            return
        self.high_watermark = visible
        waiters = self._produce_waiters
        while waiters and waiters[0][0] <= visible:
            _end_offset, waiter, token = waiters.popleft()
            waiter.settle(token, ErrorCode.NONE)
        if self._fetch_waiters:
            self.wake_fetches()

    def on_log_failed(self, error: StorageError) -> None:
        """LogOwner: the partition goes offline; whoever waits is told so."""
        self.fail(str(error), ErrorCode.KAFKA_STORAGE_ERROR)

    def fail(self, message: str, error: ErrorCode) -> None:
        """Refuse everything from now on; `error` goes to those who wait for a batch."""
        if self.error_message is None:
            self.error_message = self.produce_refused = message
        self._settle_from(0, error)
        self.wake_fetches()

    def refuse_produce(self, message: str | None) -> None:
        """Have producers told that the disk is full, or (None) no more. Readers, and what the
        broker itself appends to internal topics, go on."""
        self._disk_full = message
        self._decide_produce()

    def on_log_stalled(self, error: StorageError, from_offset: int) -> None:
        """LogOwner: what was appended waits for room. Producers are told at once: they send again,
        and an idempotent one then gets the answer to what waits here."""
        self._no_room = str(error)
        self._decide_produce()
        if not self.internal:  # groups cannot take back what they have appended: they wait
            self._settle_from(from_offset, ErrorCode.KAFKA_STORAGE_ERROR)

    def on_log_resumed(self) -> None:
        """LogOwner: there is room again."""
        self._no_room = None
        self._decide_produce()

    def _decide_produce(self) -> None:
        self.produce_refused = self.error_message or self._no_room or self._disk_full

    def _settle_from(self, offset: int, error: ErrorCode) -> None:
        """Tell `error` to who waits for a batch that ends behind `offset`."""
        waiters = self._produce_waiters or ()
        kept = [waiting for waiting in waiters if waiting[0] <= offset]
        self._produce_waiters = deque(kept) if kept else None
        for end_offset, waiter, token in waiters:
            if end_offset > offset:
                waiter.settle(token, error)

    # -- fetch -----------------------------------------------------------------------------

    def add_fetch_waiter(self, waiter: FetchWaiter) -> None:
        """Wake `waiter` when the high watermark moves, until it is removed."""
        self._fetch_waiters[waiter] = None

    def remove_fetch_waiter(self, waiter: FetchWaiter) -> None:
        """Undo add_fetch_waiter; twice is fine."""
        self._fetch_waiters.pop(waiter, None)

    def wake_fetches(self) -> None:
        """Something that fetches tell, or are refused for, has changed."""
        for waiter in list(self._fetch_waiters):
            waiter.wake()
