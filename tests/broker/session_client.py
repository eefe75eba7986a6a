"""A client with an incremental fetch session (KIP-227)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kafka_protocol.messages.fetch import FetchPartition, FetchRequest, FetchTopic, ForgottenTopic
from rpk_py.fetch_sessions import FetchSessions
from tests.broker.connection_fakes import Client, Shard
from tests.broker.request_builders import partitions_of

WAITS_MS = 500_000
BY_NAME, BY_ID = 12, 13


@dataclass
class Consumer:
    """A client with a session of one topic. `known` is what it was told of each partition: high
    watermark and log start offset."""

    shard: Shard
    client: Client
    version: int = BY_NAME
    topic: str = "t"
    session_id: int = 0
    epoch: int = 0
    known: dict[int, tuple[int, int]] = field(default_factory=dict)

    def request(
        self,
        offsets: dict[int, int] | None = None,
        forget: tuple[int, ...] = (),
        **fields: Any,
    ) -> FetchRequest:
        """A request of the session, with these offsets of partitions."""
        name, topic_id = self.topic, bytes(16)
        if self.version >= BY_ID:
            name, topic_id = "", self.shard.state.topics[self.topic].topic_id
        asked = [
            FetchPartition(index, fetch_offset=offset, partition_max_bytes=1 << 20)
            for index, offset in (offsets or {}).items()
        ]
        settings = {
            "max_wait_ms": 0,
            "min_bytes": 1,
            "max_bytes": 1 << 30,
            "session_id": self.session_id,
            "session_epoch": self.epoch,
            **fields,
        }
        return FetchRequest(
            **settings,
            topics=[FetchTopic(name, topic_id, asked)] if asked else [],
            forgotten_topics_data=[ForgottenTopic(name, topic_id, list(forget))] if forget else [],
        )

    async def ask(self, *args: Any, **fields: Any) -> Any:
        """Send a request; the answer."""
        return await self.client.ask(self.request(*args, **fields), self.version)

    async def fetch(self, *args: Any, **fields: Any) -> dict[int, Any]:
        """The next fetch of the session: the answer by partition."""
        response = await self.ask(*args, **fields)
        assert response.error_code == 0
        return self.took(response)

    def took(self, response: Any) -> dict[int, Any]:
        """An answer came: the session goes on."""
        assert response.session_id != 0
        assert response.session_id == self.session_id or self.epoch == 0
        self.session_id = response.session_id
        self.epoch += 1
        answers = {p.partition_index: p for p in partitions_of(response)}
        assert len(answers) == len(partitions_of(response))
        self.known |= {i: (p.high_watermark, p.log_start_offset) for i, p in answers.items()}
        return answers

    def wait(self, *args: Any, **fields: Any) -> int:
        """Send a long poll; its correlation id."""
        request = self.request(*args, max_wait_ms=WAITS_MS, **fields)
        return self.client.send(request, self.version)


async def started(
    shard: Shard, offsets: dict[int, int], version: int = BY_NAME, topic: str = "t"
) -> Consumer:
    """A consumer whose session has these partitions."""
    consumer = Consumer(shard, shard.client(), version, topic)
    answers = await consumer.fetch(offsets)
    assert list(answers) == list(offsets)
    return consumer


def sessions_of(shard: Shard) -> FetchSessions:
    """Those of a shard."""
    return shard.broker.fetch_sessions
