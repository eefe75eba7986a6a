"""Connection: whatever several clients do at once, every reply comes, once and in order.

Random requests in random pieces, small budgets, a disk that answers late, clients that take
nothing or vanish. A failing seed fails again: nothing here depends on the clock or a thread.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol.messages.api_versions import ApiVersionsRequest
from kafka_protocol.messages.create_topics import (
    CreatableReplicaAssignment,
    CreatableTopic,
    CreateTopicsRequest,
)
from kafka_protocol.messages.metadata import MetadataRequest
from tests.broker.connection_fakes import NODE, Client, Shard, run, running, ticks, until
from tests.broker.request_builders import batch_of, fetch_request, produce_request, values_of

SEEDS = range(25)
STEPS = 80
SETTINGS: dict[str, Any] = {
    "inflight_bytes_max": 65536,
    "connection_inflight_bytes_max": 8192,
    "reply_bytes_max": 1 << 20,
    "fetch_max_bytes": 32768,
    "partial_frame_bytes_max": 1 << 20,
}


@dataclass
class Peer:
    """A client and the replies that it is owed, in order."""

    client: Client
    owed: list[int] = field(default_factory=list)
    produced: set[bytes] = field(default_factory=set)
    is_here: bool = True


class Chaos:
    """One seed's run."""

    def __init__(self, shard: Shard, seed: int) -> None:
        self.shard = shard
        self.rng = random.Random(seed)
        self.created = 0
        self.peers = [self.peer() for _ in range(4)]

    def peer(self) -> Peer:
        rng = self.rng
        scratch, most = rng.choice((64, 700, 8192)), rng.choice((97, 4096, 1 << 30))
        return Peer(self.shard.client(scratch_bytes=scratch, read_bytes_max=most))

    def request(self, peer: Peer) -> tuple[Any, int, bool]:
        """(request, version, whether it is answered)."""
        rng = self.rng
        kind = rng.choice(("produce",) * 5 + ("fetch", "poll", "metadata", "versions", "create"))
        topic = rng.choice("tu")
        if kind == "produce":
            value = rng.randbytes(8) + bytes(rng.choice((0, 100, 3000, 30_000)))
            peer.produced.add(value[:8])
            acks = rng.choice((-1, -1, 1, 0))
            return *produce_request(topic, batch_of(value), acks=acks), acks != 0
        if kind in ("fetch", "poll"):
            wait_ms = 600_000 if kind == "poll" else 0
            end = self.shard.log_of(topic).log_end_offset
            return *fetch_request(topic, rng.choice((0, end)), max_wait_ms=wait_ms), True
        if kind == "metadata":
            return MetadataRequest(None), 9, True
        if kind == "versions":
            return ApiVersionsRequest("test", "1.0"), 3, True
        self.created += 1
        here = [CreatableReplicaAssignment(0, [NODE])]
        topics = [CreatableTopic(f"c{self.created}", -1, -1, here)]
        return CreateTopicsRequest(topics, 1000), 7, True

    def step(self) -> None:
        rng, shard = self.rng, self.shard
        peer = rng.choice([peer for peer in self.peers if peer.is_here])
        what = rng.random()
        if what < 0.6:
            frames = b""
            for _ in range(rng.choice((1, 1, 2, 6))):
                request, version, is_answered = self.request(peer)
                frames += peer.client.frame(request, version)
                if is_answered:
                    peer.owed.append(peer.client.last_id)
            peer.client.feed(frames, rng.choice((None, 200, 5000)))
        elif what < 0.7:
            shard.disk.hold = not shard.disk.hold
            if not shard.disk.hold:
                shard.disk.release()
        elif what < 0.8:
            shard.disk.release(1)
        elif what < 0.85:
            peer.client.transport.taking = False
        elif what < 0.9:
            peer.client.transport.take()
        elif what < 0.94:
            shard.advance(700)
        elif what < 0.97 and len([p for p in self.peers if p.is_here]) > 2:
            peer.is_here = False
            peer.client.vanish()
        else:
            self.peers.append(self.peer())

    def settled(self) -> bool:
        """Let everything go on; whether everybody has everything."""
        self.shard.advance(700)
        for peer in self.peers:
            if peer.is_here:
                peer.client.transport.take()
        return all(len(p.client.order) == len(p.owed) for p in self.peers if p.is_here)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_reply_comes_once_and_in_order(tmp_path: Path, seed: int) -> None:
    async def scenario() -> None:
        async with running(tmp_path, "held", **SETTINGS) as shard:
            await shard.create("t")
            await shard.create("u")
            chaos = Chaos(shard, seed)
            for _ in range(STEPS):
                chaos.step()
                await ticks(chaos.rng.randrange(4))
                # One request above the limit, and replies that wait behind a produce.
                assert shard.broker.inflight_bytes <= SETTINGS["inflight_bytes_max"] + 64_000
            shard.disk.release()
            await until(chaos.settled)
            for peer in chaos.peers:
                assert peer.client.order == peer.owed[: len(peer.client.order)]
                assert not (peer.is_here and peer.client.closed)
            await until(lambda: shard.broker.inflight_bytes == 0)
            assert shard.events == []
            await check_every_value_is_there(shard, chaos)

    run(scenario())


async def check_every_value_is_there(shard: Shard, chaos: Chaos) -> None:
    """What clients that stayed produced is in the log, each once."""
    reader = shard.client()
    stored: list[bytes] = []
    for topic in "tu":
        offset = 0
        while offset < shard.log_of(topic).log_end_offset:
            rows = values_of(await reader.fetch(topic, offset))
            stored += [value[:8] for _, value in rows if value is not None]
            offset = rows[-1][0] + 1
    assert len(stored) == len(set(stored))
    for peer in chaos.peers:
        if peer.is_here:
            assert peer.produced <= set(stored)
